r"""Dense (fully connected) layers as a ``torch.autograd.Function``.

The schemas, checks, shapes and the derivatives for ordinary reverse mode are in
``csrc/ops/linear/``; here are the doors for ``torch.func``, ``torch.compile`` and forward-mode AD.
Two operations suffice. Each is linear in its two tensors, and a dense layer is the gradient of its own
input, with the weight transposed (u: a gradient of the result; complex tensors enter conjugated):

==============================  ==================  ========================
operation                       gradient in first   gradient in second
==============================  ==================  ========================
linear(x, w) = x wᵀ             linear(u, wᵀ)       weight_gradient(u, x)
weight_gradient(g, x) = gᵀ x    linear(x, u)        linear(g, uᵀ)
==============================  ==================  ========================
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.autograd import Function
from torch.utils.flop_counter import register_flop_formula

from cnn_ext.ops import convolution
from cnn_ext.ops._transforms import door, mapped_first

__all__ = ["LinearFunction"]

ONE_TAP = ((1,), (0,), (1,))  # stride, padding and dilation of a dense layer as a convolution


def _keep_for_gradients(ctx, first: Tensor, second: Tensor) -> None:
    """Of two tensors that an operation is linear in, those that the requested gradients need."""
    ctx.set_materialize_grads(False)
    needs_first, needs_second = ctx.needs_input_grad[:2]
    ctx.save_for_backward(first if needs_second else None, second if needs_first else None)


class LinearFunction(Function):
    """A dense layer, input weightᵀ + bias, differentiable to any order and under ``torch.func``.

    ``LinearFunction.apply(input, weight, bias)``

    Args (all positional):
        input: (..., in_features), rows of input; floating point or complex.
        weight: (out_features, in_features), of the same dtype and device.
        bias: (out_features,) or None.

    Returns:
        (..., out_features), contiguous.

    Raises:
        RuntimeError: an argument does not fit the others; the message names it.

    Example:
        >>> import torch
        >>> sizes = ((4, 3), (2, 3), (2,))
        >>> x, w, b = (torch.randn(s, dtype=torch.double, requires_grad=True) for s in sizes)
        >>> torch.autograd.gradcheck(LinearFunction.apply, (x, w, b))
        True
    """

    @staticmethod
    def forward(input, weight, bias):
        """See the class."""
        return torch.ops.cnn_ext.linear(input, weight, bias)

    @staticmethod
    def setup_context(ctx, inputs, output):
        """Keeps only the tensors that the requested gradients need."""
        _keep_for_gradients(ctx, *inputs[:2])

    @staticmethod
    def backward(ctx, grad):
        """Gradients of input, weight and bias: those asked for."""
        grads: list[Tensor | None] = [None] * 3
        if grad is not None:
            input, weight = ctx.saved_tensors
            if ctx.needs_input_grad[0]:
                grads[0] = linear(grad, weight.t().conj(), None)
            if ctx.needs_input_grad[1]:
                grads[1] = weight_gradient(grad, input.conj())
            if ctx.needs_input_grad[2]:
                grads[2] = grad if grad.dim() == 1 else grad.sum([*range(grad.dim() - 1)])
        return tuple(grads)

    @staticmethod
    def vmap(info, in_dims, input, weight, bias):
        """One call: mapped inputs are more rows, mapped weights more features.

        Where both are mapped, it is a convolution of one tap, each group a layer of its own.
        """
        V = info.batch_size
        if in_dims[1] is None and in_dims[2] is None:
            return linear(input.movedim(in_dims[0], 0), weight, bias), 0
        weight = mapped_first(weight, in_dims[1], V)
        K = weight.shape[1]
        if bias is not None:
            bias = mapped_first(bias, in_dims[2], V).flatten()
        if in_dims[0] is None:
            output = linear(input, weight.flatten(0, 1), bias)
            return output.unflatten(-1, (V, K)), output.dim() - 1
        pixels, rows = _side_by_side(input, in_dims[0])
        filters = weight.flatten(0, 1).unsqueeze(2)
        output = convolution.convolution(pixels, filters, bias, *ONE_TAP, V, "implicit_gemm")
        return output.view(*rows, V, K), len(rows)


class LinearWeightGradientFunction(Function):
    """The gradient of a dense layer in its weight, grad_outputᵀ input.

    ``apply(grad_output, input)``: (..., out_features) and (..., in_features) to
    (out_features, in_features).
    """

    @staticmethod
    def forward(grad_output, input):
        """See the class."""
        return torch.ops.cnn_ext.linear_weight_gradient(grad_output, input)

    @staticmethod
    def setup_context(ctx, inputs, output):
        """Keeps only the tensors that the requested gradients need."""
        _keep_for_gradients(ctx, *inputs)

    @staticmethod
    def backward(ctx, grad):
        """Gradients of grad_output and input: those asked for."""
        grads: list[Tensor | None] = [None] * 2
        if grad is not None:
            grad_output, input = ctx.saved_tensors
            if ctx.needs_input_grad[0]:
                grads[0] = linear(input.conj(), grad, None)
            if ctx.needs_input_grad[1]:
                grads[1] = linear(grad_output.conj(), grad.t(), None)
        return tuple(grads)

    @staticmethod
    def vmap(info, in_dims, grad_output, input):
        """One call: what is mapped is more features; where both are, each group a layer of its own."""
        V = info.batch_size
        if in_dims[1] is None:
            grad_output = grad_output.movedim(in_dims[0], -2)
            gradient = weight_gradient(grad_output.flatten(-2), input)
            return gradient.unflatten(0, grad_output.shape[-2:]), 0
        if in_dims[0] is None:
            input = input.movedim(in_dims[1], -2)
            gradient = weight_gradient(grad_output, input.flatten(-2))
            return gradient.unflatten(1, input.shape[-2:]), 1
        (g, _), (x, _) = _side_by_side(grad_output, in_dims[0]), _side_by_side(input, in_dims[1])
        size = (g.shape[1], x.shape[1] // V, 1)
        gradient = convolution.weight_gradient(g, x, size, *ONE_TAP, V, "implicit_gemm")
        return gradient.squeeze(2).unflatten(0, (V, size[0] // V)), 0


def _side_by_side(rows: Tensor, dim: int) -> tuple[Tensor, tuple[int, ...]]:
    """(..., features) mapped V times as pixels (rows, V features, 1), and the sizes of the rows."""
    mapped = rows.movedim(dim, -2)
    *leading, V, features = mapped.shape
    return mapped.reshape(math.prod(leading), V * features, 1), tuple(leading)


class _DualLinear(LinearFunction):
    @staticmethod
    def setup_context(ctx, inputs, output):
        LinearFunction.setup_context(ctx, inputs, output)
        ctx.save_for_forward(*inputs[:2])
        ctx.output_size = output.shape

    @staticmethod
    def jvp(ctx, d_input, d_weight, d_bias):
        input, weight = ctx.saved_tensors[:2]
        result = None
        if d_input is not None:
            result = linear(d_input, weight, d_bias)
        if d_weight is not None:
            term = linear(input, d_weight, d_bias if result is None else None)
            result = term if result is None else result + term
        return d_bias.expand(ctx.output_size).clone() if result is None else result


class _DualWeightGradient(LinearWeightGradientFunction):
    @staticmethod
    def setup_context(ctx, inputs, output):
        LinearWeightGradientFunction.setup_context(ctx, inputs, output)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def jvp(ctx, d_grad_output, d_input):
        grad_output, input = ctx.saved_tensors[:2]
        if d_grad_output is None:
            return weight_gradient(grad_output, d_input)
        tangent = weight_gradient(d_grad_output, input)
        return tangent if d_input is None else tangent + weight_gradient(grad_output, d_input)


linear = door(torch.ops.cnn_ext.linear, LinearFunction, _DualLinear)
weight_gradient = door(
    torch.ops.cnn_ext.linear_weight_gradient, LinearWeightGradientFunction, _DualWeightGradient
)


# What torch.utils.flop_counter.FlopCounterMode counts: each as one product of matrices.


@register_flop_formula(torch.ops.cnn_ext.linear)
def _flops(input, weight, *_, out_shape) -> int:
    return 2 * math.prod(input) * weight[0]


@register_flop_formula(torch.ops.cnn_ext.linear_weight_gradient)
def _weight_gradient_flops(grad_output, input, *_, out_shape) -> int:
    return 2 * math.prod(grad_output) * input[-1]
