"""Max-pooling."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function

from cnn_ext.functional._arguments import Ints, integers, tensor
from cnn_ext.ops import max_pool as pool

__all__ = ["max_pool2d"]


def max_pool2d(
    input: Tensor,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Ints = 0,
    dilation: Ints = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Max-pooling, as :func:`torch.nn.functional.max_pool2d`: the greatest cell of every window.

    torch's result and gradient, which goes to the first of equals, and to the last NaN, bit by bit but
    for the sign of a zero. What is kept for it is a byte for every output, where torch keeps the input
    and an index of eight bytes.

    Args:
        input: (N, C, H, W) or (C, H, W). float32 and float64, on a GPU bfloat16 and float16 too, with
            windows of at most 255 cells, run on kernels of ours; the rest is torch's.
        kernel_size: cells of a window; one int or one per axis, as those below.
        stride: from window to window; the window's size if None or empty, so that windows do not
            overlap.
        padding: cells of -inf on both sides, at most half a window.
        dilation: from cell to cell of a window.
        ceil_mode: a last window may reach beyond the padding, if it starts inside.
        return_indices: also return where in its map each greatest cell is; by torch.

    Returns:
        (N, C, P, Q) or (C, P, Q), in the memory format of the input.

    Raises:
        RuntimeError: sizes out of range, or an input with no room for a window.

    Example:
        >>> import torch
        >>> x = torch.arange(16.0).view(1, 4, 4)
        >>> max_pool2d(x, 2)
        tensor([[[ 5.,  7.],
                 [13., 15.]]])
        >>> max_pool2d(x, 3, stride=1).shape  # overlapping
        torch.Size([1, 2, 2])
    """
    if has_torch_function((input,)):
        return handle_torch_function(
            max_pool2d, (input,), input, kernel_size, stride, padding, dilation, ceil_mode,
            return_indices,
        )  # fmt: skip
    tensor("max_pool2d: input", input)
    if not isinstance(ceil_mode, bool):
        raise TypeError(f"max_pool2d: ceil_mode: expected a bool, got {ceil_mode!r}")
    size, border, apart = (
        integers(f"max_pool2d: {label}", value, 2)
        for label, value in (("kernel_size", kernel_size), ("padding", padding), ("dilation", dilation))
    )
    step = () if stride is None else integers("max_pool2d: stride", stride, 2)
    if not step:
        step = size
    if not torch.jit.is_tracing() and 0 in input.shape[-3:]:
        raise RuntimeError(
            "max_pool2d: input: expected at least one channel, of at least one cell, got shape "
            f"{list(input.shape)}"
        )
    if return_indices:
        return F.max_pool2d_with_indices(input, size, step, border, apart, ceil_mode)
    if not pool.has_kernel(input) or len(size) != 2 or size[0] * size[1] > pool.MOST_TAPS:
        return F.max_pool2d(input, size, step, border, apart, ceil_mode)
    return pool.max_pool2d(input, size, step, border, apart, ceil_mode)
