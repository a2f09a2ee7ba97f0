"""im2col and col2im: patches to columns, and back."""

from __future__ import annotations

from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function

from cnn_ext.functional._arguments import Ints, pair, tensor
from cnn_ext.ops.unfold import fold as _fold
from cnn_ext.ops.unfold import unfold as _unfold

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
    if input.dim() == 3:
        return _unfold(input.unsqueeze(0), *window).squeeze(0)
    return _unfold(input, *window)


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
    window = _window("fold", kernel_size, dilation, padding, stride)
    if input.dim() == 2:
        return _fold(input.unsqueeze(0), size, *window).squeeze(0)
    return _fold(input, size, *window)


def _window(name: str, *arguments: Ints) -> list[tuple[int, ...]]:
    labels = ("kernel_size", "dilation", "padding", "stride")
    return [pair(f"{name}: {label}", value) for label, value in zip(labels, arguments, strict=True)]
