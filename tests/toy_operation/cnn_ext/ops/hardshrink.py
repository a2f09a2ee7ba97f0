"""Hard shrinkage as a ``torch.autograd.Function``.

The schemas, checks and kernels are in ``csrc/ops/hardshrink/``. The gradient is linear in grad_output
and has no derivative in the input, so that it is its own derivative.
"""

from __future__ import annotations

import torch
from torch.autograd import Function

from cnn_ext.ops._transforms import door

__all__ = ["HardshrinkFunction"]


class HardshrinkFunction(Function):
    """Hard shrinkage: zero where the input is at most ``lambd`` in magnitude, the input elsewhere.

    ``HardshrinkFunction.apply(input, lambd)``

    Example:
        >>> import torch
        >>> HardshrinkFunction.apply(torch.tensor([-2.0, 0.5, 3.0]), 1.0)
        tensor([-2.,  0.,  3.])
    """

    @staticmethod
    def forward(input, lambd):
        """See the class."""
        return torch.ops.cnn_ext.hardshrink(input, lambd)

    @staticmethod
    def setup_context(ctx, inputs, output):
        """Keeps the input."""
        input, ctx.lambd = inputs
        ctx.save_for_backward(input)

    @staticmethod
    def backward(ctx, grad):
        """The gradient of the input."""
        return input_gradient(grad, *ctx.saved_tensors, ctx.lambd), None

    @staticmethod
    def vmap(info, in_dims, input, lambd):
        """One call, for it is element by element."""
        return hardshrink(input.movedim(in_dims[0], 0), lambd), 0


class HardshrinkGradientFunction(Function):
    """The gradient of hard shrinkage: ``apply(grad_output, input, lambd)``."""

    @staticmethod
    def forward(grad_output, input, lambd):
        """See the class."""
        return torch.ops.cnn_ext.hardshrink_backward(grad_output, input, lambd)

    @staticmethod
    def setup_context(ctx, inputs, output):
        """Keeps the input."""
        _, input, ctx.lambd = inputs
        ctx.save_for_backward(input)

    @staticmethod
    def backward(ctx, grad):
        """The gradient of grad_output. That of the input is zero.

        Not None: compiled autograd of torch 2.14 would add it to the input's other gradients.
        """
        (input,) = ctx.saved_tensors
        return input_gradient(grad, input, ctx.lambd), torch.zeros_like(input), None

    @staticmethod
    def vmap(info, in_dims, *arguments):
        """One call; what is not mapped is repeated by strides of 0."""
        *tensors, lambd = arguments
        grad_output, input = (
            t.expand(info.batch_size, *t.shape) if dim is None else t.movedim(dim, 0)
            for t, dim in zip(tensors, in_dims, strict=False)
        )
        return input_gradient(grad_output, input, lambd), 0


class _DualHardshrink(HardshrinkFunction):
    @staticmethod
    def setup_context(ctx, inputs, output):
        HardshrinkFunction.setup_context(ctx, inputs, output)
        ctx.save_for_forward(inputs[0])

    @staticmethod
    def jvp(ctx, tangent, _):
        return input_gradient(tangent, *ctx.saved_tensors, ctx.lambd)


class _DualGradient(HardshrinkGradientFunction):
    @staticmethod
    def setup_context(ctx, inputs, output):
        HardshrinkGradientFunction.setup_context(ctx, inputs, output)
        ctx.save_for_forward(inputs[1])

    @staticmethod
    def jvp(ctx, tangent, *_):
        return input_gradient(tangent, *ctx.saved_tensors, ctx.lambd)


hardshrink = door(torch.ops.cnn_ext.hardshrink, HardshrinkFunction, _DualHardshrink)
input_gradient = door(torch.ops.cnn_ext.hardshrink_backward, HardshrinkGradientFunction, _DualGradient)

# The dispatcher operations differentiate by the same formulas, so that a program rebuilt from
# torch.export trains.
for _name, _function in (
    ("hardshrink", HardshrinkFunction),
    ("hardshrink_backward", HardshrinkGradientFunction),
):
    torch.library.register_autograd(
        f"cnn_ext::{_name}", _function.backward, setup_context=_function.setup_context
    )
