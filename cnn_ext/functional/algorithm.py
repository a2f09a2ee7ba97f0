"""Which algorithm a convolution takes: the default, and what ``"auto"`` means.

The default is the process's unless a block around the call says otherwise. Blocks are context
variables, so that each thread, and each task of asyncio, has its own.
"""

from __future__ import annotations

import dis
import functools
import inspect
import sys
import threading
import weakref
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from contextvars import ContextVar
from types import FrameType, TracebackType
from typing import Any

import torch
from torch.utils._contextlib import _wrap_generator

from cnn_ext._native import _C
from cnn_ext.functional._arguments import Ints, _per_axis, padding_amounts

ALGORITHMS = ("auto", "im2col", "implicit_gemm", "winograd", "direct")

_of_process = "auto"
# What plain calls have set, the oldest first. One whose object is gone is for good; another is taken
# back if its object turns out to be a block.
_settings: list[tuple[weakref.ref[default_algorithm], str]] = []
_lock = threading.Lock()

# The blocks around a call, the outermost first, and what the last says.
_blocks: ContextVar[tuple[default_algorithm, ...]] = ContextVar("cnn_ext_blocks", default=())
_of_block: ContextVar[str | None] = ContextVar("cnn_ext_of_block", default=None)
_of_traced_block: str | None = None  # torch.compile reads context variables and cannot set them


class default_algorithm(AbstractContextManager):  # noqa: N801 - read as a function
    """Sets the algorithm that ``algorithm="auto"`` means, for the process or for a block of code.

    Called plainly it sets the process's default. As a context manager or a decorator it holds for the
    current thread and task only, and for tasks that are started in the block. Blocks nest, one object
    may be used again and in itself, and the end of a block, or an error, restores what was before. A
    generator that is decorated has the block around each of its steps.

    While :func:`cnn_ext.enable` has torch's operators run on our kernels, they take what the process or
    the thread has set when they run, which for a gradient is when it is computed.

    A call passes the name on to its operation. So its gradients, to any order, have the algorithm
    that was set when it was called, and compiled code the one set when it is compiled; it is compiled
    again where another is set.

    Args:
        name: ``"auto"``, ``"im2col"``, ``"implicit_gemm"``, ``"winograd"`` or ``"direct"``.
            ``"implicit_gemm"`` is the switch that excludes Winograd.

    Raises:
        ValueError: another name.
        TypeError: a class or an asynchronous generator is decorated.

    Example:
        >>> import torch, cnn_ext
        >>> x, w = torch.randn(1, 1, 4, 4), torch.randn(1, 1, 3, 3)
        >>> with cnn_ext.default_algorithm("im2col"):  # for this block
        ...     y = cnn_ext.functional.conv2d(x, w)
        >>> @cnn_ext.default_algorithm("direct")  # for this function
        ... def model(x):
        ...     return cnn_ext.functional.conv2d(x, w)
        >>> _ = cnn_ext.default_algorithm("auto")  # for the process
    """

    __module__ = "cnn_ext.functional"  # where it is public

    def __init__(self, name: str) -> None:
        global _of_process
        if name not in ALGORITHMS:
            raise ValueError(f"default_algorithm: name: expected one of {ALGORITHMS}, got {name!r}")
        self.name = name
        self._outer: tuple[str | None, ...] = ()  # traced blocks around this, where it is entered
        self._before: str | None = None
        if torch.compiler.is_compiling():
            self._before, _of_process = _of_process, name
        elif not _opens_a_block(sys._getframe(1)):
            _set_for_process(self)

    def __enter__(self) -> default_algorithm:
        if torch.compiler.is_compiling():
            return self._enter_traced()
        _take_back(self)
        _blocks.set((*_blocks.get(), self))
        _set_for_block(self.name)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        global _of_traced_block
        if torch.compiler.is_compiling():
            *outer, _of_traced_block = self._outer
            self._outer = tuple(outer)
            return
        blocks = list(_blocks.get())
        # Not always the last, for generators may leave their blocks in another order; and none where
        # a generator is closed in another thread or task.
        if self in blocks:
            del blocks[len(blocks) - 1 - blocks[::-1].index(self)]
        _blocks.set(tuple(blocks))
        _set_for_block(blocks[-1].name if blocks else None)

    def _enter_traced(self) -> default_algorithm:
        global _of_process, _of_traced_block
        if self._before is not None:
            _of_process, self._before = self._before, None
        self._outer = (*self._outer, _of_traced_block)
        _of_traced_block = self.name
        return self

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, with this block around each of its calls."""
        _take_back(self)
        if inspect.isclass(function) or inspect.isasyncgenfunction(function):
            raise TypeError(
                "default_algorithm: expected a function to decorate, got "
                f"{'a class' if inspect.isclass(function) else 'an asynchronous generator'}, "
                f"{function.__qualname__}: put a with block into it"
            )
        if inspect.isgeneratorfunction(function):
            return _wrap_generator(lambda: self, function)
        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def call_later(*args: Any, **kwargs: Any) -> Any:
                with self:
                    return await function(*args, **kwargs)

            return call_later

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            with self:
                return function(*args, **kwargs)

        return call


def current_algorithm() -> str:
    """What ``algorithm="auto"`` means here and now; ``"auto"`` where nothing else is set."""
    if torch.compiler.is_compiling() and _of_traced_block is not None:
        return _of_traced_block
    of_block = _of_block.get()
    return _of_process if of_block is None else of_block


def _algorithm(asked: str) -> str:
    return current_algorithm() if asked == "auto" else asked


def _set_for_block(name: str | None) -> None:
    _of_block.set(name)
    _C.set_thread_algorithm(name or "")  # for torch's operators (cnn_ext.enable)


def _set_for_process(setting: default_algorithm) -> None:
    global _of_process
    with _lock:
        _settings.append((weakref.ref(setting), setting.name))
        _of_process = setting.name
        _C.set_process_algorithm(_of_process)
        for_good = [i for i, (reference, _) in enumerate(_settings) if reference() is None]
        if for_good:  # what was set before it will not come back
            del _settings[: for_good[-1]]


def _take_back(setting: default_algorithm) -> None:
    """Undoes what a plain call set for the process: it was no plain call, but a block's."""
    global _of_process
    with _lock:
        _settings[:] = [one for one in _settings if one[0]() is not setting]
        _of_process = _settings[-1][1] if _settings else "auto"
        _C.set_process_algorithm(_of_process)


def _opens_a_block(caller: FrameType) -> bool:
    """Whether the caller's next instruction is a ``with`` on what its call returns.

    Such a call sets nothing for the process, not even until the block is entered: other threads run
    in between. Where this cannot tell, what was set is taken back on entry.
    """
    code = caller.f_code.co_code[caller.f_lasti + 2 : caller.f_lasti + 30 : 2]
    following = [name for name in (dis.opname[one] for one in code) if name != "CACHE"][:2]
    return following[:1] == ["BEFORE_WITH"] or following == ["COPY", "LOAD_SPECIAL"]  # 3.11 on; 3.14


class Route(str):
    """Which way a convolution is computed; as a string, the name of its algorithm.

    Attributes:
        row: the row of the rule that chose it, such as ``"small maps"``.
        path: adapters and kernel, such as ``"transposed > implicit_gemm"``.
        precision: of the operands of a product: ``"float64"``, ``"float32"`` or ``"bfloat16"``.
    """

    row: str
    path: str
    precision: str

    def __new__(cls, algorithm: str, row: str, path: str, precision: str) -> Route:
        """The name of an algorithm, with the path behind it."""
        route = super().__new__(cls, algorithm)
        route.row, route.path, route.precision = row, path, precision
        return route

    def __reduce__(self) -> tuple[type, tuple[str, ...]]:
        return Route, (str(self), self.row, self.path, self.precision)


def convolution_algorithm(
    input_size: Sequence[int],
    weight_size: Sequence[int],
    stride: Ints = 1,
    padding: Ints | str = 0,
    dilation: Ints = 1,
    groups: int = 1,
    *,
    dtype: torch.dtype = torch.float32,
    memory_format: torch.memory_format = torch.contiguous_format,
    weight_gradient: bool = False,
    input_gradient: bool = False,
) -> Route:
    """The route of a convolution on the CPU under ``algorithm="auto"``.

    A function of the shape, the dtype, the memory format and the instruction set, never of a timing, so
    that results do not change from run to run. The rule is a table in
    ``csrc/cpu/convolution/route.h``; the page on convolution shows it.

    Args:
        input_size: (N, C, H, W), or with one or three spatial axes.
        weight_size: (K, C / groups, R, S), with as many.
        stride, padding, dilation, groups: as :func:`conv2d`.
        dtype: of input and weight. float16, and bfloat16 without AVX512-BF16, are computed in float32.
        memory_format: of input and weight, which are taken to be dense; only ``torch.channels_last``
            and ``torch.channels_last_3d`` make a difference.
        weight_gradient, input_gradient: which pass is asked for; the forward pass if neither.

    Returns:
        A :class:`Route`: a name that :func:`conv2d` takes as ``algorithm``, with the path behind it.

    Raises:
        ValueError: sizes that are not those of a convolution.

    Example:
        >>> convolution_algorithm((16, 64, 56, 56), (64, 64, 3, 3), padding=1)
        'winograd'
        >>> convolution_algorithm((16, 64, 56, 56), (64, 64, 3, 3), padding=1, dtype=torch.float64)
        'direct'
        >>> convolution_algorithm((4, 64, 7, 7), (64, 64, 1, 1)).path
        'transposed > implicit_gemm'
    """
    axes = len(weight_size) - 2
    if len(input_size) != len(weight_size) or not 1 <= axes <= 3:
        raise ValueError(
            "convolution_algorithm: expected sizes like (N, C, H, W) and (K, C / groups, R, S), "
            f"got {tuple(input_size)} and {tuple(weight_size)}"
        )
    if weight_gradient and input_gradient:
        raise ValueError("convolution_algorithm: expected weight_gradient or input_gradient, got both")
    stride, dilation = _per_axis(stride, axes), _per_axis(dilation, axes)
    amounts = padding_amounts(padding, input_size[2:], weight_size[2:], stride, dilation)
    channels_last = memory_format in (torch.channels_last, torch.channels_last_3d)
    passes = "weight_gradient" if weight_gradient else "input_gradient" if input_gradient else "forward"
    facts = _C.convolution_route(
        passes, str(dtype).removeprefix("torch."), channels_last, tuple(input_size), tuple(weight_size),
        stride, amounts, dilation, groups,
    )  # fmt: skip
    return Route(**facts)
