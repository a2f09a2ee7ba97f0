"""Fully connected layers: an operation of ours where its kernels are faster than torch's product."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function

from cnn_ext.functional import _traced
from cnn_ext.functional._arguments import _autocast_is_on, tensor
from cnn_ext.ops.linear import linear as _linear

__all__ = ["is_dense", "linear"]

DENSE_WEIGHTS = 1 << 20  # of a dense layer that is ours, at least
DENSE_MANY = 1 << 22  # beyond which it is with more rows of input


def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """A fully connected (dense) layer, as :func:`torch.nn.functional.linear`: input weightᵀ + bias.

    Few inputs with many weights, as AlexNet's and VGG's, wait for the memory that the weights are in:
    kernels of ours read them once, where they lie, for up to 64 rows of input and 2²⁰ weights or more
    (256 rows beyond 2²² weights), on the CPU, in float32 and float64, outside autocast. All else is
    torch's matrix product, and so is a compiled or exported program that leaves the number of rows
    open. ``torch.ops.cnn_ext.linear`` and :class:`cnn_ext.ops.LinearFunction` are ours at every size,
    in every dtype.

    Args:
        input: (..., in_features), rows of input.
        weight: (out_features, in_features).
        bias: (out_features,) or None.

    Returns:
        (..., out_features).

    Raises:
        RuntimeError: sizes, dtypes or devices do not fit one another.

    Example:
        >>> import torch
        >>> x, w, b = torch.ones(2, 3), torch.eye(4, 3), torch.tensor([0.0, 0.0, 0.0, 5.0])
        >>> linear(x, w, b)
        tensor([[1., 1., 1., 5.],
                [1., 1., 1., 5.]])
    """
    if has_torch_function((input, weight, bias)):
        return handle_torch_function(linear, (input, weight, bias), input, weight, bias)
    for name, value in (("input", input), ("weight", weight), ("bias", bias)):
        if value is not None or name != "bias":
            tensor(f"linear: {name}", value)
    if torch.jit.is_tracing():
        return _traced_linear(input, weight, bias)
    if not is_dense(input, weight, bias):
        return F.linear(input, weight, bias)
    return _linear(input, weight, bias)


@_traced.operation("traced_linear(Tensor input, Tensor weight, Tensor? bias) -> Tensor")
def _traced_linear(input, weight, bias):
    return linear(input, weight, bias)


def is_dense(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> bool:
    """Whether kernels of ours serve a linear layer: see :func:`linear`."""
    if (
        weight.dim() != 2 or weight.numel() < DENSE_WEIGHTS
    ):  # asked first: a small layer's call is short
        return False
    tensors = (input, weight) if bias is None else (input, weight, bias)
    if not all(map(_is_plain, tensors)) or _autocast_is_on("cpu"):
        return False
    if len({tensor.dtype for tensor in tensors}) > 1 or input.shape[-1:] != weight.shape[1:]:
        return False
    if bias is not None and bias.shape != weight.shape[:1]:
        return False
    rows = 256 if weight.numel() > DENSE_MANY else 64
    few, some = input.numel() <= rows * weight.shape[1], input.numel() > 0
    return _is_known(few) and _is_known(some)


def _is_plain(tensor: Tensor) -> bool:
    """Dense numbers on the CPU: not sparse or nested, nor of a subclass that computes otherwise."""
    plain = type(tensor) in (Tensor, torch.nn.Parameter) and not tensor.is_nested
    of_ours = (torch.float32, torch.float64)
    return plain and tensor.layout is torch.strided and tensor.is_cpu and tensor.dtype in of_ours


def _is_known(condition: bool | torch.SymBool) -> bool:
    """Whether it holds; not where a compiler leaves it open, which asking would close."""
    if not torch.compiler.is_compiling():
        return bool(condition)
    from torch.fx.experimental.symbolic_shapes import statically_known_true

    return statically_known_true(condition)
