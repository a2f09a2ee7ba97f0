"""im2col and col2im: patches to columns, and back."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function

from cnn_ext.functional import _traced
from cnn_ext.functional._arguments import Ints, padding_amounts, pair, tensor

__all__ = ["fold", "unfold"]


def unfold(
    input: Tensor, kernel_size: Ints, dilation: Ints = 1, padding: Ints = 0, stride: Ints = 1
) -> Tensor:
    """im2col: every patch of an image as a column, as :func:`torch.nn.functional.unfold`.

    Args:
        input: (N, C, H, W) or (C, H, W), of any dtype.
        kernel_size, dilation, padding, stride: ints, or one for each axis.

    Returns:
        (N, C R S, P Q), or without N: column p Q + q is the patch under output cell (p, q).

    Example:
        Convolution is one matrix multiplication:

        >>> import torch
        >>> from cnn_ext.functional import conv2d
        >>> image, filters = torch.randn(1, 3, 8, 8), torch.randn(5, 3, 3, 3)
        >>> by_hand = (filters.flatten(1) @ unfold(image, 3)).view(1, 5, 6, 6)
        >>> torch.testing.assert_close(by_hand, conv2d(image, filters))
    """
    if has_torch_function((input,)):
        return handle_torch_function(unfold, (input,), input, kernel_size, dilation, padding, stride)
    tensor("unfold: input", input)
    window = _window("unfold", kernel_size, dilation, padding, stride)
    if input.dim() not in (3, 4):
        raise RuntimeError(
            f"unfold: input: expected 4 dimensions (N, C, H, W), or 3 without N, "
            f"got shape {list(input.shape)}"
        )
    unfolded = _traced_unfold if torch.jit.is_tracing() else _unfold
    if input.dim() == 3:
        return unfolded(input.unsqueeze(0), *window).squeeze(0)
    return unfolded(input, *window)


def _unfold(input, kernel, dilation, padding, stride) -> Tensor:
    if 0 in input.shape[1:]:
        raise RuntimeError(
            "unfold: input: expected at least one channel, of at least one cell, got (C, H, W) = "
            f"{tuple(input.shape[1:])}"
        )
    counts = _counts("unfold", input.shape[2:], kernel, dilation, padding, stride)
    patches = F.pad(input, padding_amounts(padding, (), kernel, (), ())) if any(padding) else input
    for axis, (cells, d, s) in enumerate(zip(kernel, dilation, stride, strict=True), 2):
        patches = patches.unfold(axis, d * (cells - 1) + 1, s)[..., ::d]  # a view, patch cells last
    # Always a copy, of the strides that torch's result has.
    columns = patches.permute(0, 1, 4, 5, 2, 3).clone(memory_format=torch.contiguous_format)
    return columns.view(input.shape[0], input.shape[1] * kernel[0] * kernel[1], counts[0] * counts[1])


def fold(
    input: Tensor,
    output_size: Ints,
    kernel_size: Ints,
    dilation: Ints = 1,
    padding: Ints = 0,
    stride: Ints = 1,
) -> Tensor:
    """col2im, the adjoint of :func:`unfold`: columns added into the cells they were read from.

    As :func:`torch.nn.functional.fold`.

    Args:
        input: (N, C R S, P Q) or (C R S, P Q).
        output_size: (H, W).
        kernel_size, dilation, padding, stride: those of the :func:`unfold`.

    Returns:
        (N, C, H, W) or (C, H, W).

    Example:
        How many 2 x 2 patches of a 3 x 3 image meet each cell:

        >>> import torch
        >>> fold(torch.ones(1, 4, 4), (3, 3), 2)
        tensor([[[[1., 2., 1.],
                  [2., 4., 2.],
                  [1., 2., 1.]]]])
    """
    if has_torch_function((input,)):
        return handle_torch_function(
            fold, (input,), input, output_size, kernel_size, dilation, padding, stride
        )
    tensor("fold: input", input)
    size = pair("fold: output_size", output_size)
    if len(size) != 2:
        raise RuntimeError(f"fold: output_size: expected one or two ints, got {size}")
    window = _window("fold", kernel_size, dilation, padding, stride)
    folded = _traced_fold if torch.jit.is_tracing() else _fold
    if input.dim() == 2:
        return folded(input.unsqueeze(0), size, *window).squeeze(0)
    return folded(input, size, *window)


def _fold(input, size, kernel, dilation, padding, stride) -> Tensor:
    counts = _counts("fold", size, kernel, dilation, padding, stride)
    taps, cells = kernel[0] * kernel[1], counts[0] * counts[1]
    rows = input.shape[1] if input.dim() == 3 else 0
    if rows == 0 or rows % taps != 0 or input.shape[2] != cells:
        raise RuntimeError(
            f"fold: input: expected (N, a multiple of {taps}, {cells}), or without N, for "
            f"output_size {size} and kernel_size {kernel}, got shape {list(input.shape)}"
        )
    channels = rows // taps
    patches = input.view(input.shape[0], channels, *kernel, *counts).permute(0, 1, 4, 5, 2, 3)
    for axis in (3, 2):  # (N, C, P, Q, R, S) to (N, C, P, W, R), then to (N, C, H, W)
        d, length = dilation[axis - 2], size[axis - 2] + 2 * padding[axis - 2]
        extent = d * (kernel[axis - 2] - 1) + 1
        if d > 1:  # zeros between the cells of a dilated patch
            spread = patches.new_zeros(*patches.shape[:-1], extent)
            patches = torch.slice_scatter(spread, patches, -1, 0, extent, d)
        shape = list(patches.shape[:-1])
        shape[axis] = length
        patches = torch.ops.aten.unfold_backward(patches, shape, axis, extent, stride[axis - 2])
    top, left = padding
    return patches[..., top : top + size[0], left : left + size[1]].contiguous()


_traced_unfold = _traced.operation(
    "traced_unfold(Tensor input, SymInt[] kernel_size, SymInt[] dilation, SymInt[] padding, "
    "SymInt[] stride) -> Tensor"
)(_unfold)
_traced_fold = _traced.operation(
    "traced_fold(Tensor input, SymInt[] output_size, SymInt[] kernel_size, SymInt[] dilation, "
    "SymInt[] padding, SymInt[] stride) -> Tensor"
)(_fold)


def _window(name: str, *arguments: Ints) -> list[tuple[int, ...]]:
    labels = ("kernel_size", "dilation", "padding", "stride")
    lists = [pair(f"{name}: {label}", value) for label, value in zip(labels, arguments, strict=True)]
    for value, label, least in zip(lists, labels, (1, 1, 0, 1), strict=True):
        if len(value) != 2 or min(value) < least:
            raise RuntimeError(f"{name}: {label}: expected one or two ints >= {least}, got {value}")
    return lists


def _counts(name: str, size, kernel, dilation, padding, stride) -> list[int]:
    """Patches along each axis."""
    counts = [
        (length + 2 * p - d * (cells - 1) - 1) // s + 1
        for length, p, d, cells, s in zip(size, padding, dilation, kernel, stride, strict=True)
    ]
    if min(counts) < 1:
        raise RuntimeError(
            f"{name}: kernel_size: expected one that fits the padded image of {tuple(size)} with "
            f"padding {padding}, got {kernel} with dilation {dilation}"
        )
    return counts
