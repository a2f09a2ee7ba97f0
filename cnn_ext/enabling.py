"""torch's own operators on our kernels: no line of a model changes.

``aten::convolution`` and ``aten::convolution_backward`` have no kernel of torch's that is for the CPU
alone, and ours is registered in that place (``csrc/ops/enable.cpp``). Autograd, autocast, ``vmap`` and
compiled code all end there. The page on ``enable`` shows how.
"""

from __future__ import annotations

import inspect
import threading
from contextlib import ContextDecorator
from types import TracebackType
from typing import NamedTuple

from cnn_ext._native import _C

_lock = threading.Lock()
_by_enable = False
_blocks = 0  # of `with enabled()`, of all threads


def enable() -> None:
    """Has torch's own convolutions run on our CPU kernels, in this process, until :func:`disable`.

    Called again, it changes nothing. A forked process inherits it; a spawned one calls it itself.
    What our kernels do not serve runs on torch's, as before; :func:`cnn_ext.trace` records both.

    Raises:
        RuntimeError: this torch's operators have another schema, or another library has registered
            kernels for them. Nothing is changed then.

    Example:
        >>> import torch, cnn_ext
        >>> layer = torch.nn.Conv2d(16, 16, 3)
        >>> cnn_ext.enable()
        >>> with cnn_ext.trace() as records:
        ...     y = layer(torch.ones(1, 16, 32, 32))
        >>> cnn_ext.disable()
        >>> [record.route for record in records]
        ['winograd']
    """
    with _lock:
        _set(True, _blocks)


def disable() -> None:
    """Takes back :func:`enable`: torch's kernels run again, where no :class:`enabled` block is open.

    Raises:
        RuntimeError: :func:`enable` was not called, or was taken back already.
    """
    with _lock:
        if not _by_enable:
            blocks = f"; {_blocks} enabled() block(s) are open and end by themselves" * (_blocks > 0)
            raise RuntimeError(f"cnn_ext.disable: expected a call of cnn_ext.enable() before{blocks}")
        _set(False, _blocks)


class _Block(ContextDecorator):
    """A block that also decorates functions which run when they are called."""

    def __call__(self, function):
        """Refuses generators and coroutines, whose bodies run after the call."""
        later = (inspect.isgeneratorfunction, inspect.iscoroutinefunction, inspect.isasyncgenfunction)
        if any(runs_later(function) for runs_later in later):
            raise TypeError(
                f"{type(self).__name__}: expected a function that runs when it is called, got the "
                f"generator or coroutine {function.__name__}; open the block inside it"
            )
        return super().__call__(function)


class enabled(_Block):  # noqa: N801 - read as a function
    """Has torch's own convolutions run on our CPU kernels in a block, or in a decorated function.

    It holds for the whole process, as :func:`enable` does. Blocks nest and are counted, those of all
    threads together: torch's kernels are back when the last has ended, unless :func:`enable` was
    called. In a block, :func:`disable` takes back :func:`enable` alone.

    Raises:
        RuntimeError: as :func:`enable`.

    Example:
        >>> import torch, cnn_ext
        >>> with cnn_ext.enabled(), cnn_ext.trace() as records:
        ...     y = torch.nn.functional.conv1d(torch.ones(1, 2, 9), torch.ones(4, 2, 3))
        >>> len(records)
        1
    """

    __module__ = "cnn_ext"  # where it is public

    def __enter__(self) -> None:
        with _lock:
            _set(_by_enable, _blocks + 1)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with _lock:
            _set(_by_enable, _blocks - 1)


enable.__module__ = disable.__module__ = "cnn_ext"


def is_enabled() -> bool:
    """Whether torch's operators run on our kernels now."""
    return _by_enable or _blocks > 0


def _set(by_enable: bool, blocks: int) -> None:
    global _by_enable, _blocks
    if by_enable or blocks:
        _C.register_overrides()
    else:
        _C.release_overrides()
    _by_enable, _blocks = by_enable, blocks


class torch_only(_Block):  # noqa: N801 - read as a function
    """Torch's operators run torch's own kernels in this block and thread, also while enabled.

    Code that compares with torch runs in such a block; it would compare our kernels with themselves
    otherwise. Our own operations, functions and layers run our kernels there too.

    Example:
        >>> import torch, cnn_ext
        >>> with cnn_ext.enabled(), torch_only(), cnn_ext.trace() as records:
        ...     y = torch.nn.functional.conv1d(torch.ones(1, 2, 9), torch.ones(4, 2, 3))
        >>> records
        []
    """

    def __enter__(self) -> None:
        _C.enter_torch_only()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        _C.leave_torch_only()


class Calls(NamedTuple):
    """Calls of one of torch's operators that went one way while it was enabled."""

    operator: str  #: such as ``"convolution_backward"``
    handed_back: str  #: why torch's kernel ran, such as ``"torch: dtype"``; ``""`` where ours did
    calls: int
    multiply_adds: int  #: of the direct sum


def call_counts() -> list[Calls]:
    """Where the calls of torch's operators went, in all threads, since ``cnn_ext`` was imported."""
    counts = [Calls(*facts) for facts in _C.override_counts()]
    return [count for count in counts if count.calls]
