r"""Colour PCA as a ``torch.autograd.Function``.

The schemas, checks and kernels are in ``csrc/ops/color_pca/``. The operation adds one colour, the
shift, to every pixel; its gradient is the sum over the pixels, an operation of its own. What leads from
there to eigenvectors, eigenvalues and alphas are products of 3 x 3 matrices, in torch's operations.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.autograd import Function

from cnn_ext.ops._transforms import door

__all__ = ["ColorPCAFunction"]


class ColorPCAFunction(Function):
    r"""Colour PCA: P (α ⊙ λ) is added to every pixel.

    ``ColorPCAFunction.apply(input, eigenvectors, eigenvalues, alphas)``

    Args (all positional): see :func:`cnn_ext.functional.color_pca`.

    Source: A. Krizhevsky, I. Sutskever and G. Hinton, "ImageNet classification with deep convolutional
    neural networks" (2012), section 4.1.

    Example:
        >>> import torch
        >>> image = torch.rand(2, 3, 4, 5, dtype=torch.double, requires_grad=True)
        >>> eigenvectors = torch.eye(3, dtype=torch.double, requires_grad=True)
        >>> eigenvalues = torch.tensor([0.2, 0.02, 0.004], dtype=torch.double, requires_grad=True)
        >>> alphas = torch.randn(2, 3, dtype=torch.double, requires_grad=True)
        >>> arguments = (image, eigenvectors, eigenvalues, alphas)
        >>> torch.autograd.gradcheck(ColorPCAFunction.apply, arguments)
        True
    """

    @staticmethod
    def forward(input, eigenvectors, eigenvalues, alphas):
        """See the class."""
        return torch.ops.cnn_ext.color_pca.default(input, eigenvectors, eigenvalues, alphas)

    @staticmethod
    def setup_context(ctx, inputs, output):
        """Keeps the three small tensors, not the images."""
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs[1:])

    @staticmethod
    def backward(ctx, grad):
        """Gradients of all four: those asked for."""
        grads: list[Tensor | None] = [grad, None, None, None]
        if grad is None or not any(ctx.needs_input_grad[1:]):
            return tuple(grads)
        P, eigenvalues, alphas = (t.double() for t in ctx.saved_tensors)
        s = shift_gradient(grad).double()
        if alphas.dim() < s.dim():
            s = _rows(s).sum(0)
        along = s @ P
        if ctx.needs_input_grad[1]:
            grads[1] = _rows(s).mT @ _rows(alphas * eigenvalues)
        if ctx.needs_input_grad[2]:
            grads[2] = _rows(along * alphas).sum(0)
        if ctx.needs_input_grad[3]:
            grads[3] = along * eigenvalues
        dtypes = (grad.dtype, *(t.dtype for t in ctx.saved_tensors))
        return tuple(g if g is None else g.to(dtype) for g, dtype in zip(grads, dtypes, strict=True))

    @staticmethod
    def vmap(info, in_dims, input, eigenvectors, eigenvalues, alphas):
        """One call: the mapped axis becomes more images."""
        if in_dims[0] is None:
            input = input.expand(info.batch_size, *input.shape)
        else:
            input = input.movedim(in_dims[0], 0)
        alphas_dim = in_dims[3]
        if in_dims[1] is not None or in_dims[2] is not None:
            # The operation takes one basis: shifts themselves, then, in the basis of the channels.
            alphas, alphas_dim = torch.vmap(_shift, in_dims[1:])(eigenvectors, eigenvalues, alphas), 0
            eigenvectors = torch.eye(alphas.shape[-1]).to(alphas)
            eigenvalues = torch.ones(alphas.shape[-1]).to(alphas)
        if alphas_dim is not None:
            alphas = alphas.movedim(alphas_dim, 0)
        elif alphas.dim() > 1:
            alphas = alphas.expand(info.batch_size, *alphas.shape)
        if alphas.dim() == 2:  # one row for all images of a sample
            images = input.shape[:-3]
            alphas = alphas.reshape(-1, *[1] * (len(images) - 1), alphas.shape[-1])
            alphas = alphas.expand(*images, -1)
        return color_pca(input, eigenvectors, eigenvalues, alphas), 0


class ColorPCAShiftGradientFunction(Function):
    """The gradient of the shift: the sum over an image's pixels. ``apply(grad_output)``."""

    @staticmethod
    def forward(grad_output):
        """(..., C, H, W) to (..., C)."""
        return torch.ops.cnn_ext.color_pca_shift_gradient.default(grad_output)

    @staticmethod
    def setup_context(ctx, inputs, output):
        """Keeps nothing but a shape."""
        ctx.set_materialize_grads(False)
        ctx.shape, ctx.dtype = inputs[0].shape, inputs[0].dtype

    @staticmethod
    def backward(ctx, grad):
        """To every pixel the same."""
        return None if grad is None else grad.to(ctx.dtype)[..., None, None].expand(ctx.shape)

    @staticmethod
    def vmap(info, in_dims, grad_output):
        """One call: the mapped axis becomes more images."""
        return shift_gradient(grad_output.movedim(in_dims[0], 0)), 0


def _shift(eigenvectors: Tensor, eigenvalues: Tensor, alphas: Tensor) -> Tensor:
    """P (alphas * eigenvalues) of every row of alphas, in double precision."""
    return (alphas.double() * eigenvalues.double()) @ eigenvectors.double().mT


def _rows(tensor: Tensor) -> Tensor:
    """(..., C) as a matrix."""
    return tensor.reshape(math.prod(tensor.shape[:-1]), tensor.shape[-1])


class _DualColorPCA(ColorPCAFunction):
    @staticmethod
    def setup_context(ctx, inputs, output):
        ColorPCAFunction.setup_context(ctx, inputs, output)
        ctx.save_for_forward(*inputs[1:])
        ctx.shape, ctx.dtype = output.shape, output.dtype

    @staticmethod
    def jvp(ctx, d_input, d_eigenvectors, d_eigenvalues, d_alphas):
        P, eigenvalues, alphas = ctx.saved_tensors
        changes = []
        if d_eigenvectors is not None:
            changes.append(_shift(d_eigenvectors, eigenvalues, alphas))
        if d_eigenvalues is not None:
            changes.append(_shift(P, d_eigenvalues, alphas))
        if d_alphas is not None:
            changes.append(_shift(P, eigenvalues, d_alphas))
        if not changes:
            return d_input
        change = torch.stack(changes).sum(0).to(ctx.dtype)[..., None, None].expand(ctx.shape)
        return change if d_input is None else d_input + change


class _DualShiftGradient(ColorPCAShiftGradientFunction):
    @staticmethod
    def jvp(ctx, d_grad_output):
        return shift_gradient(d_grad_output)


color_pca = door(torch.ops.cnn_ext.color_pca.default, ColorPCAFunction, _DualColorPCA)
shift_gradient = door(
    torch.ops.cnn_ext.color_pca_shift_gradient.default,
    ColorPCAShiftGradientFunction,
    _DualShiftGradient,
)
