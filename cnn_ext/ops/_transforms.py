"""Which door an operation is called through: the dispatcher, or a ``torch.autograd.Function``.

The dispatcher operations differentiate in reverse mode by themselves, in C++, at a fifth of the cost
of a Python Function's call. ``torch.func`` and forward-mode AD work through a Function only, and a
Function that has a forward-mode derivative cannot be compiled; so there are three doors.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import TransformType
from torch._functorch.autograd_function import custom_function_call
from torch._subclasses.functional_tensor import FunctorchFunctionalizeAPI
from torch.autograd import Function, forward_ad


def transformed() -> bool:
    """Whether torch.func or forward-mode AD is active around a call that is not being compiled."""
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def door(
    operation: Callable[..., Tensor], function: type[Function], dual: type[Function]
) -> Callable[..., Tensor]:
    """The operation, through whichever door serves the modes that are active around the call.

    Args:
        operation: the dispatcher operation.
        function: its Function, without ``jvp``; taken under ``torch.compile``.
        dual: the same with ``jvp``; taken under ``torch.func`` and forward-mode AD.
    """

    def call(*arguments: Any) -> Tensor:
        if torch.compiler.is_compiling():
            return function.apply(*arguments)
        if transformed():
            return dual.apply(*arguments)
        return operation(*arguments)

    return call


def mapped_first(tensor: Tensor, dim: int | None, size: int) -> Tensor:
    """The mapped axis first; a tensor that is not mapped is seen ``size`` times, without a copy."""
    return tensor.expand(size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)


_no_rule = custom_function_call.functorch_table[TransformType.Functionalize]


def _functionalize(interpreter: Any, function: type[Function], *operands: Any) -> Any:
    """torch.func.functionalize for our Functions, which change no argument: one level further down.

    torch has no rule for any Function and raises; others' are left to it.
    """
    if not function.__module__.startswith("cnn_ext.ops."):
        return _no_rule(interpreter, function, *operands)
    level = FunctorchFunctionalizeAPI(interpreter)
    with level.redispatch_to_next():
        result = custom_function_call(function, *level.unwrap_tensors(operands))
    return level.wrap_tensors(result)


custom_function_call.functorch_table[TransformType.Functionalize] = _functionalize
