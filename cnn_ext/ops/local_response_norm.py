r"""Local response normalisation as a ``torch.autograd.Function``.

The schemas, checks and kernels are in ``csrc/ops/local_response_norm/``. The gradient is an
operation of its own, one pass over memory; what lies beyond it – the gradient of the gradient, and
forward mode – is computed by composition, from the same formula written in torch's operations.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

from cnn_ext.ops._transforms import door

__all__ = ["LocalResponseNormFunction"]


class LocalResponseNormFunction(Function):
    r"""Local response normalisation: y = x / (k + a sum of x² over a window)^β.

    ``LocalResponseNormFunction.apply(input, size, alpha, beta, k, alpha_scaling, region, channel_dim)``

    Args (all positional): see :func:`cnn_ext.functional.local_response_norm`.

    Source: A. Krizhevsky, I. Sutskever and G. Hinton, "ImageNet classification with deep convolutional
    neural networks" (2012), section 3.3.

    Example:
        >>> import torch
        >>> x = torch.randn(2, 4, 3, dtype=torch.double, requires_grad=True)
        >>> arguments = (x, 3, 0.5, 0.75, 2.0, "sum", "channels", 1)
        >>> torch.autograd.gradcheck(LocalResponseNormFunction.apply, arguments)
        True
    """

    @staticmethod
    def forward(input, size, alpha, beta, k, alpha_scaling, region, channel_dim):
        """See the class."""
        return torch.ops.cnn_ext.local_response_norm(
            input, size, alpha, beta, k, alpha_scaling, region, channel_dim
        )

    @staticmethod
    def setup_context(ctx, inputs, output):
        """Keeps the input alone."""
        input, *ctx.arguments = inputs
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(input)

    @staticmethod
    def backward(ctx, grad):
        """The gradient of the input."""
        (input,) = ctx.saved_tensors
        gradient = None if grad is None else input_gradient(grad, input, *ctx.arguments)
        return gradient, *[None] * 7

    @staticmethod
    def vmap(info, in_dims, input, *arguments):
        """One call: the mapped axis becomes more batch."""
        *constants, channel_dim = arguments
        (folded,), channel_dim, unfold = _fold(info.batch_size, (input,), in_dims, channel_dim)
        return unfold(local_response_norm(folded, *constants, channel_dim)), 0


class LocalResponseNormGradientFunction(Function):
    """The gradient of local response normalisation in its input.

    ``apply(grad_output, input, size, alpha, beta, k, alpha_scaling, region, channel_dim)``
    """

    @staticmethod
    def forward(grad_output, input, size, alpha, beta, k, alpha_scaling, region, channel_dim):
        """See the class."""
        return torch.ops.cnn_ext.local_response_norm_backward(
            grad_output, input, size, alpha, beta, k, alpha_scaling, region, channel_dim
        )

    @staticmethod
    def setup_context(ctx, inputs, output):
        """Keeps both tensors."""
        grad_output, input, *ctx.arguments = inputs
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(grad_output, input)

    @staticmethod
    def backward(ctx, grad):
        """Gradients of grad_output and input: those asked for."""
        grads: list[Tensor | None] = [None] * 9
        if grad is not None:
            parts = _Parts(*ctx.saved_tensors, *ctx.arguments)
            if ctx.needs_input_grad[0]:
                grads[0] = parts.tangent_of_output(grad)
            if ctx.needs_input_grad[1]:
                grads[1] = parts.gradient_of_gradient(grad)
        return tuple(grads)

    @staticmethod
    def vmap(info, in_dims, grad_output, input, *arguments):
        """One call: the mapped axis becomes more batch."""
        *constants, channel_dim = arguments
        (grad_output, input), channel_dim, unfold = _fold(
            info.batch_size, (grad_output, input), in_dims, channel_dim
        )
        return unfold(input_gradient(grad_output, input, *constants, channel_dim)), 0


class _Parts:
    """The derivatives of y and of dx that have no kernel, in torch's operations.

    With s = k + a W(x²), p = s^-β, c = 2 a β, W the sum over a cell's window and Wᵀ over the
    transposed one: y = x p, and dx = g p - c x T with T = Wᵀ(g x p / s).
    """

    def __init__(
        self, grad_output, input, size, alpha, beta, k, alpha_scaling, region, channel_dim
    ) -> None:
        self.size, self.beta = size, beta
        self.axes = window_axes(input, region, channel_dim)
        self.a = alpha / size ** len(self.axes) if alpha_scaling == "mean" else alpha
        self.c = 2 * self.a * beta
        self.g, self.x = grad_output, input
        self.s = k + self.a * self.sum(input * input)
        self.p = self.s.pow(-beta)
        self.q = self.p / self.s

    def sum(self, cells: Tensor, transposed: bool = False) -> Tensor:
        """W, or Wᵀ."""
        return window_sum(cells, self.size, self.axes, transposed)

    def tangent_of_output(self, dx: Tensor) -> Tensor:
        """The change of y: dx p - c x (p / s) W(x dx)."""
        return dx * self.p - self.c * self.x * self.q * self.sum(self.x * dx)

    def tangent_of_gradient(self, t: Tensor) -> Tensor:
        """The change of dx when x changes by t."""
        g, x, beta = self.g, self.x, self.beta
        ds = 2 * self.a * self.sum(x * t)
        total = self.sum(g * x * self.q, transposed=True)
        change = self.sum(g * self.q * (t - (beta + 1) * x * ds / self.s), transposed=True)
        return -beta * g * self.q * ds - self.c * (t * total + x * change)

    def gradient_of_gradient(self, v: Tensor) -> Tensor:
        """The gradient in x of the sum of v dx."""
        g, x, beta = self.g, self.x, self.beta
        total = self.sum(g * x * self.q, transposed=True)
        m = self.sum(v * x)
        through_s = g * self.q * ((beta + 1) * self.c * m * x / self.s - beta * v)
        direct = v * total + m * g * self.q
        return 2 * self.a * x * self.sum(through_s, transposed=True) - self.c * direct


def window_axes(input: Tensor, region: str, channel_dim: int) -> list[int]:
    """The axes along which a window extends."""
    channel = channel_dim % input.dim()
    if region == "channels":
        return [channel]
    return [axis for axis in range(input.dim()) if axis != channel and (axis > 0 or channel == 0)]


def window_sum(cells: Tensor, size: int, axes: list[int], transposed: bool = False) -> Tensor:
    """The sum over ``size`` cells along each axis: size // 2 before and (size - 1) // 2 after.

    ``transposed`` exchanges before and after.
    """
    before, after = size // 2, (size - 1) // 2
    if transposed:
        before, after = after, before
    for axis in axes:
        padding = [0, 0] * (cells.dim() - 1 - axis) + [before, after]
        padded, length = F.pad(cells, padding), cells.shape[axis]
        cells = torch.stack([padded.narrow(axis, i, length) for i in range(size)]).sum(0)
    return cells


class _DualLocalResponseNorm(LocalResponseNormFunction):
    @staticmethod
    def setup_context(ctx, inputs, output):
        LocalResponseNormFunction.setup_context(ctx, inputs, output)
        ctx.save_for_forward(inputs[0])

    @staticmethod
    def jvp(ctx, tangent, *_):
        (input,) = ctx.saved_tensors
        return _Parts(None, input, *ctx.arguments).tangent_of_output(tangent)


class _DualGradient(LocalResponseNormGradientFunction):
    @staticmethod
    def setup_context(ctx, inputs, output):
        LocalResponseNormGradientFunction.setup_context(ctx, inputs, output)
        ctx.save_for_forward(*inputs[:2])

    @staticmethod
    def jvp(ctx, d_grad_output, d_input, *_):
        grad_output, input = ctx.saved_tensors
        result = None
        if d_grad_output is not None:
            result = input_gradient(d_grad_output, input, *ctx.arguments)
        if d_input is not None:
            term = _Parts(grad_output, input, *ctx.arguments).tangent_of_gradient(d_input)
            result = term if result is None else result + term
        return result


local_response_norm = door(
    torch.ops.cnn_ext.local_response_norm, LocalResponseNormFunction, _DualLocalResponseNorm
)
input_gradient = door(
    torch.ops.cnn_ext.local_response_norm_backward, LocalResponseNormGradientFunction, _DualGradient
)

# The dispatcher operations differentiate by the same formulas, so that a program rebuilt from
# torch.export trains.
torch.library.register_autograd(
    "cnn_ext::local_response_norm",
    LocalResponseNormFunction.backward,
    setup_context=LocalResponseNormFunction.setup_context,
)
torch.library.register_autograd(
    "cnn_ext::local_response_norm_backward",
    LocalResponseNormGradientFunction.backward,
    setup_context=LocalResponseNormGradientFunction.setup_context,
)


def _fold(
    size: int, tensors: tuple[Tensor, ...], dims: tuple, channel_dim: int
) -> tuple[list[Tensor], int, Callable[[Tensor], Tensor]]:
    """Tensors with the mapped axis in the batch; the axis of the filters then; the way back."""
    mapped = [
        t.expand(size, *t.shape) if dim is None else t.movedim(dim, 0)
        for t, dim in zip(tensors, dims, strict=False)
    ]
    channel = channel_dim % (mapped[0].dim() - 1)
    if channel == 0:  # no batch yet: the mapped axis becomes it
        return mapped, 1, lambda result: result
    return [t.flatten(0, 1) for t in mapped], channel, lambda result: result.unflatten(0, (size, -1))
