"""Hard shrinkage."""

from __future__ import annotations

from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function

from cnn_ext.functional._arguments import number, tensor
from cnn_ext.ops import hardshrink as ops

__all__ = ["hardshrink"]


def hardshrink(input: Tensor, lambd: float = 0.5) -> Tensor:
    """Hard shrinkage, as :func:`torch.nn.functional.hardshrink`.

    Args:
        input: of any shape; float32, float64, bfloat16 or float16.
        lambd: at least 0.

    Returns:
        Zero where the input is at most ``lambd`` in magnitude, the input elsewhere.

    Raises:
        RuntimeError: a negative ``lambd``, or another dtype.

    Example:
        >>> import torch
        >>> hardshrink(torch.tensor([-1.0, 0.5, 0.75]))
        tensor([-1.0000,  0.0000,  0.7500])
    """
    if has_torch_function((input,)):
        return handle_torch_function(hardshrink, (input,), input, lambd)
    tensor("hardshrink: input", input)
    return ops.hardshrink(input, number("hardshrink: lambd", lambd))
