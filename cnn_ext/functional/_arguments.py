"""Argument sugar that the functions share: ints to tuples, padding words to numbers, autocast.

What counts as an integer, a list of them, a number or a tensor is decided here, as torch's own parser
of arguments decides it.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor

Ints = int | Sequence[int]


def _per_axis(value: Ints, axes: int) -> tuple[int, ...]:
    """One for all axes, or a sequence, which may as ever have one entry for all."""
    if isinstance(value, (Integral, torch.SymInt)):
        return (value,) * axes  # type: ignore[return-value]
    return tuple(value) * axes if len(value) == 1 else tuple(value)  # type: ignore[arg-type]


def integers(what: str, value: Any, axes: int) -> tuple[int, ...]:
    """Integers as torch's own operations take them: one for all axes, or a tuple or list of them.

    An integer is an int, NumPy's, or a tensor of one; inside of a list also an object with
    ``__index__``. Whether there are as many as axes, the operation says; one is for all.

    Args:
        what: the function and its argument, for messages.

    Raises:
        TypeError: a bool, a float, another kind of sequence, anything else.
        RuntimeError: a lone object with ``__index__``, on which torch's parser fails so too.
        ValueError: an integer beyond 64 bits.
    """
    if isinstance(value, (tuple, list)):
        found = _each(what, value)
        return found * axes if len(found) == 1 else found
    one = integer(what, value, value, "an integer or a tuple of integers")
    if not isinstance(value, (Integral, Tensor, torch.SymInt)) and not _is_traced_scalar(value):
        raise RuntimeError(f"{what}: expected an integer or a tuple of integers, got {value!r}")
    return (one,) * axes


def pair(what: str, value: Any) -> tuple[int, ...]:
    """Integers as ``unfold`` and ``fold`` take them: one for both axes, or anything to iterate over."""
    if isinstance(value, Iterable) and not _is_traced_scalar(value):
        return _each(what, tuple(value))
    return (integer(what, value),) * 2


def _each(what: str, values: Sequence[Any]) -> tuple[int, ...]:
    # torch looks at the first to tell what a list is of: a bool after it is an integer.
    return tuple(
        int(one) if isinstance(one, bool) and at else integer(what, one, values)
        for at, one in enumerate(values)
    )


def integer(what: str, value: Any, given: Any = None, expected: str = "an integer") -> int:
    """One integer: an int, NumPy's, a tensor of one, an object with ``__index__``; not a bool.

    Args:
        what, expected: for messages.
        given: the list that it is from.
    """
    if isinstance(value, torch.SymInt):
        return value  # type: ignore[return-value]
    if _is_traced_scalar(value):
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        if not -(1 << 63) <= value < 1 << 63:
            raise ValueError(f"{what}: expected {expected} of 64 bits, got {value}")
        return value
    is_one = not isinstance(value, bool)
    if isinstance(value, Tensor):
        is_one = value.numel() == 1 and not value.is_floating_point() and not value.is_complex()
    if is_one:
        try:
            return int(value) if isinstance(value, Tensor) else operator.index(value)
        except TypeError:
            pass
    of = "" if given is None or given is value else f" in {given!r}"
    raise TypeError(f"{what}: expected {expected}, got {value!r} ({type(value).__name__}){of}")


def number(what: str, value: Any) -> float:
    """A real number: an int, a float, a bool, NumPy's, or a tensor of one, without its gradient."""
    if isinstance(value, (int, float, torch.SymInt, torch.SymFloat)):
        return value  # type: ignore[return-value]
    is_one = isinstance(value, Real) or (isinstance(value, Tensor) and value.numel() == 1)
    if is_one or _is_traced_scalar(value):
        return float(value)
    raise TypeError(f"{what}: expected a number, got {value!r} ({type(value).__name__})")


def _is_traced_scalar(value: Any) -> bool:
    """A NumPy scalar as torch.compile sees it: an array of no axes."""
    return torch.compiler.is_compiling() and type(value).__module__ == "numpy"


def tensor(what: str, value: Any, error: type[Exception] = TypeError) -> None:
    """Refuses what is no tensor, with the error that torch raises."""
    if not isinstance(value, Tensor):
        raise error(f"{what}: expected a tensor, got {type(value).__name__}")


def padding_amounts(
    padding: Ints | str,
    input_size: Sequence[int],
    filter_size: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
) -> tuple[int, ...]:
    """Cells of padding before and after each axis, in the order of ``F.pad``.

    Args:
        padding: whatever :func:`conv2d` takes: an int, ints or a word.
        input_size, filter_size, stride, dilation: one for each spatial axis.

    Raises:
        ValueError: an unknown word, or a wrong number of ints.

    Example:
        >>> padding_amounts("same", (32, 32), (5, 4), (1, 1), (1, 1))  # left, right, top, bottom
        (1, 2, 2, 2)
        >>> padding_amounts("same", (224,), (11,), (4,), (1,))
        (3, 4)
        >>> padding_amounts((1, 2), (32, 32), (5, 5), (1, 1), (1, 1))
        (2, 2, 1, 1)
    """
    axes = len(filter_size)
    if not isinstance(padding, str):
        padding = integers("padding", padding, axes)
        if len(padding) == 2 * axes:
            return padding
        if len(padding) != axes:
            raise ValueError(f"padding: expected an int, {axes} or {2 * axes} ints, got {padding}")
        return tuple(amount for amount in reversed(padding) for _ in range(2))
    amounts: list[int] = []
    for size, cells, s, d in reversed(
        list(zip(input_size, filter_size, stride, dilation, strict=True))
    ):
        extent = d * (cells - 1)  # of the filter, beyond one cell
        if padding == "valid":
            amounts += (0, 0)
        elif padding == "half":
            amounts += (extent // 2, extent // 2)
        elif padding == "full":
            amounts += (extent, extent)
        elif padding == "same":
            # At stride 1 it does not depend on the size, which a tracer need not know then.
            total = extent if s == 1 else max((-(-size // s) - 1) * s + extent + 1 - size, 0)
            amounts += (total // 2, total - total // 2)
        else:
            raise ValueError(
                f'padding: expected an int, a tuple of ints or one of "valid", "same", "half", '
                f'"full", got {padding!r}'
            )
    return tuple(amounts)


def _autocast(*tensors: Tensor | None) -> list:
    """Tensors in the dtype that autocast is set to, where it is on: as torch's convolutions do."""
    device = tensors[0].device.type  # type: ignore[union-attr]
    if not _autocast_is_on(device):
        return list(tensors)
    dtype = torch.get_autocast_dtype(device)
    return [
        t.to(dtype) if t is not None and t.is_floating_point() and t.dtype != torch.float64 else t
        for t in tensors
    ]


def _autocast_is_on(device: str) -> bool:
    """For a type of device; never for meta, about which torch's own question is an error."""
    return device != "meta" and torch.is_autocast_enabled(device)
