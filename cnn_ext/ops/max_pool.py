"""Max-pooling over two axes as a ``torch.autograd.Function``.

The schemas, checks, kernels and the derivatives for ordinary reverse mode are in
``csrc/ops/max_pool/``; here are the doors for ``torch.func``, ``torch.compile`` and forward-mode AD.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd import Function

from cnn_ext._native import _C
from cnn_ext.ops._transforms import door, transformed

__all__ = ["MaxPool2dFunction"]

MOST_TAPS = 255  # of a window
NO_TAP = 255  # of a window that lies in the padding alone


class MaxPool2dFunction(Function):
    """Max-pooling: every output is the greatest cell of its window, NaN if one is.

    ``MaxPool2dFunction.apply(input, kernel_size, stride, padding, dilation, ceil_mode)``

    Args (all positional): see :func:`cnn_ext.functional.max_pool2d`; two integers each. A window has at
    most 255 cells.

    Returns:
        The output, and of each window its tap: the number, row by row, of the cell that is the maximum,
        as uint8. They are all that is kept for the gradient, and have none.

    Example:
        >>> import torch
        >>> x = torch.tensor([[[1.0, 7.0], [7.0, 2.0]]])
        >>> output, taps = MaxPool2dFunction.apply(x, (2, 2), (2, 2), (0, 0), (1, 1), False)
        >>> output.item(), taps.item()  # the first of equals
        (7.0, 1)
    """

    @staticmethod
    def forward(input, kernel_size, stride, padding, dilation, ceil_mode):
        """See the class."""
        return torch.ops.cnn_ext.max_pool2d_with_taps(
            input, kernel_size, stride, padding, dilation, ceil_mode
        )

    @staticmethod
    def setup_context(ctx, inputs, output):
        """Keeps the taps alone."""
        input, *geometry = inputs
        taps = output[1]
        ctx.windows = input.shape, *geometry
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(taps)
        ctx.save_for_backward(taps)

    @staticmethod
    def backward(ctx, grad, _):
        """The gradient of the input: each output's goes to the cell that is the maximum."""
        (taps,) = ctx.saved_tensors
        gradient = None if grad is None else input_gradient(grad, taps, *ctx.windows)
        return gradient, *[None] * 5

    @staticmethod
    def vmap(info, in_dims, input, *geometry):
        """One call: the mapped axis becomes more batch."""
        (folded,), unfold = _fold(info.batch_size, (input,), in_dims)
        return tuple(unfold(t) for t in max_pool2d_with_taps(folded, *geometry)), (0, 0)


class MaxPool2dGradientFunction(Function):
    """The gradient of max-pooling in its input.

    ``apply(grad_output, taps, input_size, kernel_size, stride, padding, dilation, ceil_mode)``
    """

    @staticmethod
    def forward(grad_output, taps, input_size, kernel_size, stride, padding, dilation, ceil_mode):
        """See the class."""
        return torch.ops.cnn_ext.max_pool2d_backward(
            grad_output, taps, input_size, kernel_size, stride, padding, dilation, ceil_mode
        )

    @staticmethod
    def setup_context(ctx, inputs, output):
        """Keeps the taps."""
        _, taps, *ctx.windows = inputs
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(taps)

    @staticmethod
    def backward(ctx, grad):
        """The gradient of grad_output."""
        (taps,) = ctx.saved_tensors
        return None if grad is None else winners(grad, taps, *ctx.windows), *[None] * 7

    @staticmethod
    def vmap(info, in_dims, grad_output, taps, input_size, *geometry):
        """One call: the mapped axis becomes more batch."""
        (grad_output, taps), unfold = _fold(info.batch_size, (grad_output, taps), in_dims)
        size = (grad_output.shape[0], *input_size[-3:])
        return unfold(input_gradient(grad_output, taps, size, *geometry)), 0


def winners(
    cells: Tensor, taps: Tensor, input_size, kernel_size, stride, padding, dilation, ceil_mode
) -> Tensor:
    """The cells, of the input's size, that stand where the taps do; zero for a window without one."""
    axes = []
    tap = taps.long()
    for axis, along in enumerate((tap // kernel_size[1], tap % kernel_size[1])):
        start = torch.arange(taps.shape[axis - 2], device=taps.device) * stride[axis] - padding[axis]
        axes.append((start if axis else start.unsqueeze(1)) + along * dilation[axis])
    at = (axes[0] * input_size[-1] + axes[1]).masked_fill(taps == NO_TAP, 0)
    # Not flatten, which the old vmap does not know: hessian(vectorize=True).
    rows, at = (maps.reshape(*maps.shape[:-2], maps.shape[-2] * maps.shape[-1]) for maps in (cells, at))
    found = rows.gather(-1, at).view(taps.shape)
    return found.masked_fill(taps == NO_TAP, 0)


class _DualMaxPool2d(MaxPool2dFunction):
    @staticmethod
    def setup_context(ctx, inputs, output):
        MaxPool2dFunction.setup_context(ctx, inputs, output)
        ctx.save_for_forward(output[1])

    @staticmethod
    def jvp(ctx, tangent, *_):
        (taps,) = ctx.saved_tensors
        return None if tangent is None else winners(tangent, taps, *ctx.windows), None


class _DualGradient(MaxPool2dGradientFunction):
    @staticmethod
    def setup_context(ctx, inputs, output):
        MaxPool2dGradientFunction.setup_context(ctx, inputs, output)
        ctx.save_for_forward(inputs[1])

    @staticmethod
    def jvp(ctx, tangent, *_):
        (taps,) = ctx.saved_tensors
        return None if tangent is None else input_gradient(tangent, taps, *ctx.windows)


max_pool2d_with_taps = door(torch.ops.cnn_ext.max_pool2d_with_taps, MaxPool2dFunction, _DualMaxPool2d)
input_gradient = door(torch.ops.cnn_ext.max_pool2d_backward, MaxPool2dGradientFunction, _DualGradient)


def has_kernel(input: Tensor) -> bool:
    """Whether pooling of ours serves this dtype and device."""
    if input.device.type == "cuda":
        on_gpu = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
        return input.dtype in on_gpu and _C.build_facts()["cuda_version"] is not None
    return input.dtype in (torch.float32, torch.float64) and input.device.type in ("cpu", "meta")


def max_pool2d(input: Tensor, *geometry) -> Tensor:
    """Max-pooling; taps are found where a derivative may ask for them."""
    if torch.is_grad_enabled() if torch.compiler.is_compiling() else transformed():
        return max_pool2d_with_taps(input, *geometry)[0]
    return torch.ops.cnn_ext.max_pool2d(input, *geometry)


@torch.library.register_vmap("cnn_ext::max_pool2d")
def _(info, in_dims, input, *geometry):
    """Where no derivative is asked for."""
    (folded,), unfold = _fold(info.batch_size, (input,), in_dims)
    return unfold(torch.ops.cnn_ext.max_pool2d(folded, *geometry)), 0


def _fold(size: int, tensors: tuple[Tensor, ...], dims: tuple):
    """Tensors with the mapped axis in the batch, and the way back."""
    mapped = [
        t.expand(size, *t.shape) if dim is None else t.movedim(dim, 0)
        for t, dim in zip(tensors, dims, strict=False)
    ]
    if mapped[0].dim() == 4:  # no batch yet: the mapped axis becomes it
        return mapped, lambda result: result
    return [t.flatten(0, 1) for t in mapped], lambda result: result.unflatten(0, (size, -1))
