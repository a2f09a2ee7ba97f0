r"""Convolution (cross-correlation) as a ``torch.autograd.Function``.

The schemas, checks, shapes and kernels of the three dispatcher operations are in
``csrc/ops/convolution/``. Here they become differentiable in every mode that PyTorch has. Each
is linear in its two tensors, and its derivatives are the other two operations (g: a gradient of the
result; written dx, dw for input and weight gradient; complex tensors enter conjugated):

=============  ==================  ===================
operation      gradient in first   gradient in second
=============  ==================  ===================
conv(x, w)     dx(g, w)            dw(g, x)
dx(g', w)      conv(g, w)          dw(g', g)
dw(g', x)      conv(x, g)          dx(g', g)
=============  ==================  ===================

Convolution with a ReLU is a fourth Function, whose gradients are the same two of g where the output is
positive. What the layers of :func:`cnn_ext.freeze` call is here too; it has no derivative.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.utils.flop_counter import conv_flop_count, register_flop_formula

from cnn_ext.ops._transforms import door, mapped_first

__all__ = ["ConvolutionFunction", "ConvolutionReLUFunction"]


class _Bilinear(Function):
    """What the three operations share.

    ``apply(first, second, extra, stride, padding, dilation, groups, algorithm)``: linear in the
    tensors ``first`` and ``second``; ``extra`` is the bias, or the size of the result.
    """

    @staticmethod
    def setup_context(ctx, inputs, output, *also):
        """Keeps only the tensors that the requested gradients need, and ``also`` these."""
        first, second, extra, *arguments = inputs
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(
            first if ctx.needs_input_grad[1] else None,
            second if ctx.needs_input_grad[0] else None,
            *also,
        )
        ctx.first_size, ctx.second_size = first.shape, second.shape
        ctx.output_size = output.shape
        ctx.extra = None if isinstance(extra, Tensor) else extra
        ctx.arguments = _as_lists(*arguments)


class _Dual:
    """Forward mode for a _Bilinear Function, by the product rule; its subclass lists it first."""

    @staticmethod
    def setup_context(ctx, inputs, output):
        _Bilinear.setup_context(ctx, inputs, output)
        ctx.save_for_forward(*inputs[:2])

    @staticmethod
    def product_rule(operation, ctx, d_first, d_second):
        """f(df, s) + f(f, ds); None where there is no tangent."""
        first, second = ctx.saved_tensors[:2]
        result = None
        if d_first is not None:
            result = operation(d_first, second, ctx.extra, *ctx.arguments)
        if d_second is not None:
            term = operation(first, d_second, ctx.extra, *ctx.arguments)
            result = term if result is None else result + term
        return result


class ConvolutionFunction(_Bilinear):
    r"""Convolution of a batch, differentiable to any order and under ``torch.func``.

    ``ConvolutionFunction.apply(input, weight, bias, stride, padding, dilation, groups, algorithm)``

    All arguments are positional.

    Args:
        input: (N, C, \*spatial), one to three spatial axes.
        weight: (K, C / groups, \*filter), of the same dtype and device.
        bias: (K,) or None.
        stride, padding, dilation: an int, or one for each spatial axis; ``padding`` also two for
            each axis, in the order of :func:`torch.nn.functional.pad` (the last axis first).
        groups: divides C and K.
        algorithm: ``"auto"``, ``"im2col"``, ``"implicit_gemm"``, ``"winograd"`` or ``"direct"``,
            as :func:`cnn_ext.functional.conv2d` has them.

    Returns:
        (N, K, \*output) with output = floor((size + padding before + padding after
        - dilation (filter - 1) - 1) / stride) + 1 along every axis.

    Raises:
        RuntimeError: an argument does not fit the others; the message names it.

    Source: Chellapilla, Puri and Simard, "High performance convolutional neural networks for
    document processing" (2006), section 2, for convolution as a matrix multiplication.

    Example:
        >>> import torch
        >>> x = torch.randn(1, 2, 5, 5, dtype=torch.double, requires_grad=True)
        >>> w = torch.randn(3, 2, 3, 3, dtype=torch.double, requires_grad=True)
        >>> arguments = (x, w, None, 1, 0, 1, 1, "auto")
        >>> torch.autograd.gradcheck(ConvolutionFunction.apply, arguments)
        True
    """

    @staticmethod
    def forward(input, weight, bias, stride, padding, dilation, groups, algorithm):
        """See the class."""
        arguments = _as_lists(stride, padding, dilation, groups, algorithm)
        return torch.ops.cnn_ext.convolution(input, weight, bias, *arguments)

    @staticmethod
    def backward(ctx, grad):
        """Gradients of input, weight and bias: those asked for."""
        return _gradients(ctx, grad)

    @staticmethod
    def vmap(info, in_dims, *arguments):
        """One call: a mapped input becomes more batch, a mapped weight or bias more groups."""
        return _vmap(convolution, info, in_dims, *arguments)


class ConvolutionReLUFunction(ConvolutionFunction):
    r"""Convolution and ReLU in one pass: max(conv(x, w) + b, 0), NaN and -0 as ``torch.relu`` has them.

    ``ConvolutionReLUFunction.apply(input, weight, bias, stride, padding, dilation, groups, algorithm)``

    Args: as for :class:`ConvolutionFunction`, of a real dtype.

    Returns:
        As :class:`ConvolutionFunction`. The gradient is ``torch.relu``'s: zero where the output is.

    Example:
        >>> import torch
        >>> x, w = torch.tensor([[[1.0, -2, 3]]]), torch.ones(1, 1, 1)
        >>> ConvolutionReLUFunction.apply(x, w, None, 1, 0, 1, 1, "auto")
        tensor([[[1., 0., 3.]]])
    """

    @staticmethod
    def forward(input, weight, bias, stride, padding, dilation, groups, algorithm):
        """See the class."""
        arguments = _as_lists(stride, padding, dilation, groups, algorithm)
        return torch.ops.cnn_ext.convolution_relu(input, weight, bias, *arguments)

    @staticmethod
    def setup_context(ctx, inputs, output):
        """Keeps the output too: it says where the ReLU let the sum through."""
        _Bilinear.setup_context(ctx, inputs, output, output)

    @staticmethod
    def backward(ctx, grad):
        """Gradients of input, weight and bias: those asked for."""
        if grad is not None:
            grad = _where_positive(grad, ctx.saved_tensors[2])
        return _gradients(ctx, grad)

    @staticmethod
    def vmap(info, in_dims, *arguments):
        """One call, as :class:`ConvolutionFunction`'s."""
        return _vmap(convolution_relu, info, in_dims, *arguments)


def _gradients(ctx, grad):
    grads: list[Tensor | None] = [None] * 8
    if grad is not None:
        input, weight = ctx.saved_tensors[:2]
        if ctx.needs_input_grad[0]:
            grads[0] = input_gradient(grad, weight.conj(), ctx.first_size, *ctx.arguments)
        if ctx.needs_input_grad[1]:
            grads[1] = weight_gradient(grad, input.conj(), ctx.second_size, *ctx.arguments)
        if ctx.needs_input_grad[2]:
            grads[2] = grad.sum([0, *range(2, grad.dim())])
    return tuple(grads)


def _where_positive(tangent: Tensor, output: Tensor) -> Tensor:
    """The derivative of a ReLU, from its output, detached: it has no second derivative."""
    return torch.ops.aten.threshold_backward(tangent, output.detach(), 0)


def _vmap(operation, info, in_dims, input, weight, bias, *arguments):
    V = info.batch_size
    *geometry, groups, algorithm = _as_lists(*arguments)
    if in_dims[1] is None and in_dims[2] is None:
        folded = input.movedim(in_dims[0], 0).flatten(0, 1)
        output = operation(folded, weight, bias, *geometry, groups, algorithm)
        return output.unflatten(0, (V, -1)), 0
    input = _channels_of_all(input, in_dims[0], V)
    weight = mapped_first(weight, in_dims[1], V).flatten(0, 1)
    if bias is not None:
        bias = mapped_first(bias, in_dims[2], V).flatten()
    output = operation(input, weight, bias, *geometry, groups * V, algorithm)
    return output.unflatten(1, (V, -1)), 1


class InputGradientFunction(_Bilinear):
    """The gradient of a convolution in its input.

    ``apply(grad_output, weight, input_size, stride, padding, dilation, groups, algorithm)``
    """

    @staticmethod
    def forward(grad_output, weight, size, stride, padding, dilation, groups, algorithm):
        """See the class."""
        arguments = _as_lists(stride, padding, dilation, groups, algorithm)
        return torch.ops.cnn_ext.convolution_input_gradient(grad_output, weight, size, *arguments)

    @staticmethod
    def backward(ctx, grad):
        """Gradients of grad_output and weight: those asked for."""
        grads: list[Tensor | None] = [None] * 8
        if grad is not None:
            grad_output, weight = ctx.saved_tensors
            if ctx.needs_input_grad[0]:
                grads[0] = convolution(grad, weight.conj(), None, *ctx.arguments)
            if ctx.needs_input_grad[1]:
                grads[1] = weight_gradient(grad_output.conj(), grad, ctx.second_size, *ctx.arguments)
        return tuple(grads)

    @staticmethod
    def vmap(info, in_dims, grad_output, weight, size, *arguments):
        """One call: a mapped gradient becomes more batch, a mapped weight more groups."""
        V = info.batch_size
        *geometry, groups, algorithm = _as_lists(*arguments)
        if in_dims[1] is None:
            folded = grad_output.movedim(in_dims[0], 0).flatten(0, 1)
            size = (size[0] * V, *size[1:])
            result = input_gradient(folded, weight, size, *geometry, groups, algorithm)
            return result.unflatten(0, (V, -1)), 0
        grad_output = _channels_of_all(grad_output, in_dims[0], V)
        weight = mapped_first(weight, in_dims[1], V).flatten(0, 1)
        size = (size[0], size[1] * V, *size[2:])
        result = input_gradient(grad_output, weight, size, *geometry, groups * V, algorithm)
        return result.unflatten(1, (V, -1)), 1


class WeightGradientFunction(_Bilinear):
    """The gradient of a convolution in its weight.

    ``apply(grad_output, input, weight_size, stride, padding, dilation, groups, algorithm)``
    """

    @staticmethod
    def forward(grad_output, input, size, stride, padding, dilation, groups, algorithm):
        """See the class."""
        arguments = _as_lists(stride, padding, dilation, groups, algorithm)
        return torch.ops.cnn_ext.convolution_weight_gradient(grad_output, input, size, *arguments)

    @staticmethod
    def backward(ctx, grad):
        """Gradients of grad_output and input: those asked for."""
        grads: list[Tensor | None] = [None] * 8
        if grad is not None:
            grad_output, input = ctx.saved_tensors
            if ctx.needs_input_grad[0]:
                grads[0] = convolution(input.conj(), grad, None, *ctx.arguments)
            if ctx.needs_input_grad[1]:
                grads[1] = input_gradient(grad_output.conj(), grad, ctx.second_size, *ctx.arguments)
        return tuple(grads)

    @staticmethod
    def vmap(info, in_dims, grad_output, input, size, *arguments):
        """One call: as many groups of filters as there are mapped samples."""
        V = info.batch_size
        *geometry, groups, algorithm = _as_lists(*arguments)
        grad_output = _channels_of_all(grad_output, in_dims[0], V)
        input = _channels_of_all(input, in_dims[1], V)
        size = (size[0] * V, *size[1:])
        result = weight_gradient(grad_output, input, size, *geometry, groups * V, algorithm)
        return result.unflatten(0, (V, -1)), 0


class _DualConvolution(_Dual, ConvolutionFunction):
    @staticmethod
    def jvp(ctx, d_input, d_weight, d_bias, *_):
        result = _Dual.product_rule(convolution, ctx, d_input, d_weight)
        if d_bias is not None:
            shape = (1, -1) + (1,) * (len(ctx.output_size) - 2)
            term = d_bias.view(shape).expand(ctx.output_size)
            result = term.clone() if result is None else result + term
        return result


class _DualConvolutionReLU(_Dual, ConvolutionReLUFunction):
    @staticmethod
    def setup_context(ctx, inputs, output):
        ConvolutionReLUFunction.setup_context(ctx, inputs, output)
        ctx.save_for_forward(*inputs[:2], output)

    @staticmethod
    def jvp(ctx, *tangents):
        tangent = _DualConvolution.jvp(ctx, *tangents)
        return _where_positive(tangent, ctx.saved_tensors[2])


class _DualInputGradient(_Dual, InputGradientFunction):
    @staticmethod
    def jvp(ctx, d_grad_output, d_weight, *_):
        return _Dual.product_rule(input_gradient, ctx, d_grad_output, d_weight)


class _DualWeightGradient(_Dual, WeightGradientFunction):
    @staticmethod
    def jvp(ctx, d_grad_output, d_input, *_):
        return _Dual.product_rule(weight_gradient, ctx, d_grad_output, d_input)


convolution = door(torch.ops.cnn_ext.convolution, ConvolutionFunction, _DualConvolution)
convolution_relu = door(
    torch.ops.cnn_ext.convolution_relu, ConvolutionReLUFunction, _DualConvolutionReLU
)
input_gradient = door(
    torch.ops.cnn_ext.convolution_input_gradient, InputGradientFunction, _DualInputGradient
)
weight_gradient = door(
    torch.ops.cnn_ext.convolution_weight_gradient, WeightGradientFunction, _DualWeightGradient
)


@torch.library.register_vmap("cnn_ext::convolution_frozen")
def _frozen_vmap(info, in_dims, input, *arguments):
    if any(dim is not None for dim in in_dims[1:4]):  # weight, bias and filters
        raise NotImplementedError("convolution_frozen: vmap over its input alone")
    folded = input.movedim(in_dims[0], 0).flatten(0, 1)
    output = torch.ops.cnn_ext.convolution_frozen(folded, *arguments)
    return output.unflatten(0, (info.batch_size, -1)), 0


# What torch.utils.flop_counter.FlopCounterMode counts: each as one convolution of these sizes.


@register_flop_formula(
    [
        torch.ops.cnn_ext.convolution,
        torch.ops.cnn_ext.convolution_relu,
        torch.ops.cnn_ext.convolution_frozen,
    ]
)
def _flops(input, weight, *_, out_shape) -> int:
    return conv_flop_count(input, weight, out_shape)


@register_flop_formula(torch.ops.cnn_ext.convolution_input_gradient)
def _input_gradient_flops(grad_output, weight, *_, out_shape) -> int:
    return conv_flop_count(out_shape, weight, grad_output)


@register_flop_formula(torch.ops.cnn_ext.convolution_weight_gradient)
def _weight_gradient_flops(grad_output, input, *_, out_shape) -> int:
    # As torch has it: the gradient as a convolution of the input, batch and channels exchanged.
    def exchanged(shape):
        return [shape[1], shape[0], *shape[2:]]

    return conv_flop_count(exchanged(input), exchanged(grad_output), exchanged(out_shape))


def _as_lists(stride, padding, dilation, groups, algorithm) -> tuple[Any, ...]:
    def as_list(value):
        return (value,) if isinstance(value, (int, torch.SymInt)) else tuple(value)

    return as_list(stride), as_list(padding), as_list(dilation), groups, algorithm


def _channels_of_all(tensor: Tensor, dim: int | None, size: int) -> Tensor:
    """(N, C, ...) mapped ``size`` times, as (N, size C, ...)."""
    return mapped_first(tensor, dim, size).transpose(0, 1).flatten(1, 2)
