"""Argument sugar that the functions share: ints to tuples, padding words to numbers, autocast."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

Ints = int | Sequence[int]


def _per_axis(value: Ints, axes: int) -> tuple[int, ...]:
    """One for all axes, or a sequence, which may as ever have one entry for all."""
    if isinstance(value, (int, torch.SymInt)):
        return (value,) * axes
    return tuple(value) * axes if len(value) == 1 else tuple(value)


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
        padding = _per_axis(padding, axes)
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
            output = -(-size // s)
            total = max((output - 1) * s + extent + 1 - size, 0)
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
