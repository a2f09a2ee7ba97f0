"""unfold (im2col) and fold (col2im), each a ``torch.autograd.Function`` whose gradient is the other.

The schemas, checks, loops and the derivatives for ordinary reverse mode are in ``csrc/ops/unfold/``;
here are the doors for ``torch.func``, ``torch.compile`` and forward-mode AD.
"""

from __future__ import annotations

import torch
from torch.autograd import Function

from cnn_ext.ops._transforms import door

__all__ = ["FoldFunction", "UnfoldFunction"]


class UnfoldFunction(Function):
    """Every patch of an image as a column, differentiable to any order and under ``torch.func``.

    ``UnfoldFunction.apply(input, kernel_size, dilation, padding, stride)``

    Args (all positional): see :func:`cnn_ext.functional.unfold`; two integers each. The input is
    (N, C, H, W), of any dtype.

    Returns:
        (N, C R S, P Q), contiguous.

    Example:
        >>> import torch
        >>> image = torch.arange(9.0).view(1, 1, 3, 3)
        >>> UnfoldFunction.apply(image, (2, 2), (1, 1), (0, 0), (1, 1))[0, :, 0]  # the first patch
        tensor([0., 1., 3., 4.])
    """

    @staticmethod
    def forward(input, kernel_size, dilation, padding, stride):
        """See the class."""
        return torch.ops.cnn_ext.unfold(input, kernel_size, dilation, padding, stride)

    @staticmethod
    def setup_context(ctx, inputs, output):
        """Keeps sizes and no tensor."""
        input, *ctx.window = inputs
        ctx.size = input.shape[2:]
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx, grad):
        """The gradient of the input: each column added into the cells that it was read from."""
        return None if grad is None else fold(grad, ctx.size, *ctx.window), *[None] * 4

    @staticmethod
    def vmap(info, in_dims, input, *window):
        """One call: the mapped axis becomes more batch."""
        mapped = input.movedim(in_dims[0], 0)
        columns = unfold(mapped.flatten(0, 1), *window)
        return columns.unflatten(0, mapped.shape[:2]), 0


class FoldFunction(Function):
    """The adjoint of :class:`UnfoldFunction`: columns added into the cells they were read from.

    ``FoldFunction.apply(input, output_size, kernel_size, dilation, padding, stride)``

    Args (all positional): see :func:`cnn_ext.functional.fold`; two integers each. The input is
    (N, C R S, P Q).

    Returns:
        (N, C, H, W), contiguous.

    Example:
        >>> import torch
        >>> FoldFunction.apply(torch.ones(1, 2, 2), (1, 3), (1, 2), (1, 1), (0, 0), (1, 1))
        tensor([[[[1., 2., 1.]]]])
    """

    @staticmethod
    def forward(input, output_size, kernel_size, dilation, padding, stride):
        """See the class."""
        return torch.ops.cnn_ext.fold(input, output_size, kernel_size, dilation, padding, stride)

    @staticmethod
    def setup_context(ctx, inputs, output):
        """Keeps sizes and no tensor."""
        _, ctx.size, *ctx.window = inputs
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx, grad):
        """The gradient of the input: the patches of the image's."""
        return None if grad is None else unfold(grad, *ctx.window), *[None] * 5

    @staticmethod
    def vmap(info, in_dims, input, *arguments):
        """One call: the mapped axis becomes more batch."""
        mapped = input.movedim(in_dims[0], 0)
        image = fold(mapped.flatten(0, 1), *arguments)
        return image.unflatten(0, mapped.shape[:2]), 0


class _DualUnfold(UnfoldFunction):
    @staticmethod
    def jvp(ctx, tangent, *_):
        return None if tangent is None else unfold(tangent, *ctx.window)


class _DualFold(FoldFunction):
    @staticmethod
    def jvp(ctx, tangent, *_):
        return None if tangent is None else fold(tangent, ctx.size, *ctx.window)


unfold = door(torch.ops.cnn_ext.unfold, UnfoldFunction, _DualUnfold)
fold = door(torch.ops.cnn_ext.fold, FoldFunction, _DualFold)
