"""Copies of models, and looking at models: what every tool that takes one shares."""

from __future__ import annotations

import copy

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks",
         "_forward_hooks_with_kwargs", "_forward_pre_hooks_with_kwargs",
         "_forward_hooks_always_called")  # fmt: skip


def copied(model: torch.nn.Module) -> torch.nn.Module:
    """A deep copy with the modes and hooks of the model, whatever its ``__deepcopy__`` makes of them.

    Tensors that torch cannot copy, such as the weight that a hook computes from others, are copied
    without their history.

    Raises:
        TypeError: the copy is the model itself or shares a module with it.
    """
    memo = {
        id(value): value.detach().clone()
        for module in model.modules()
        for value in tree_leaves(list(vars(module).values()))
        if isinstance(value, Tensor) and not value.is_leaf
    }
    result = copy.deepcopy(model, memo)
    theirs = {id(module): name for name, module in model.named_modules()}
    for module in result.modules():
        if id(module) in theirs:
            raise TypeError(
                f"model: its copy shares {theirs[id(module)] or 'everything'} with it, for a class in "
                "it has a __deepcopy__ that copies nothing; use inplace=True"
            )
    originals = dict(model.named_modules(remove_duplicate=False))
    for name, module in result.named_modules(remove_duplicate=False):  # parents before children
        if (original := originals.get(name)) is None:
            continue
        if module.training != original.training:
            module.train(original.training)  # the method: some modules do more than to set the flag
        for hooks in HOOKS:
            if not getattr(module, hooks, True):
                getattr(module, hooks).update(getattr(original, hooks))
    return result
