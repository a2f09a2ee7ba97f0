"""Which layers and which batch norms can be folded into one, and how that is done.

In evaluation a batch norm is a scale and a shift of each channel. It is known by its class where that
leaves torch's ``forward`` alone. Where a class has one of its own, that must be a straight line of
arithmetic, or of a class that is known here, and give the same values as the formula.
"""

from __future__ import annotations

import ast
import copy
from dataclasses import dataclass
from types import FunctionType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from cnn_ext import nn as ours
from cnn_ext.models.pending import Folded, passes
from cnn_ext.models.weave import NotWovenError, _definition
from cnn_ext.nn._layer import Layer

STATISTICS = ("weight", "bias", "running_mean", "running_var")
# Their forwards branch, but in evaluation they are the formula, then dropout, then the activation.
KNOWN = {
    "timm.layers.norm_act.BatchNormAct2d", "timm.layers.norm_act.SyncBatchNormAct",
    "timm.layers.norm_act.FrozenBatchNormAct2d", "torchvision.ops.misc.FrozenBatchNorm2d",
    "detectron2.layers.batch_norm.FrozenBatchNorm2d", "detectron2.layers.batch_norm.NaiveSyncBatchNorm",
    "detectron2.layers.batch_norm.NaiveSyncBatchNorm3d",
    "timm.layers.conv2d_same.Conv2dSame",
}  # fmt: skip
METHODS = {"view", "reshape", "rsqrt", "sqrt", "to", "type_as", "float", "double", "half", "expand",
           "unsqueeze", "pow", "mul", "add", "sub", "div", "neg", "reciprocal", "contiguous", "dim",
           "size", "forward", "expand_as", "view_as"}  # fmt: skip


@dataclass(frozen=True)
class Affine:
    """What a batch norm does to each channel, in float64, and the children it calls afterwards."""

    scale: Tensor
    shift: Tensor
    tail: tuple[str, ...]


# ---------------------------------------------------------------------------------------------
# Batch norms
# ---------------------------------------------------------------------------------------------


def is_norm(module: nn.Module) -> bool:
    """Whether it is a batch norm: torch's, or whatever has its four tensors; not if it is folded."""
    if isinstance(module, _BatchNorm):
        return True
    if isinstance(module, nn.modules.instancenorm._InstanceNorm | Folded):
        return False
    tensors = {**module._parameters, **module._buffers}
    return all(tensors.get(name) is not None for name in STATISTICS)


def is_plain(norm: nn.Module) -> bool:
    """Whether its forward is torch's."""
    return is_called_plainly(norm) and type(norm).forward in (
        _BatchNorm.forward,
        nn.SyncBatchNorm.forward,
    )


def is_called_plainly(module: nn.Module) -> bool:
    """Whether to call it is to call its forward, and hooks."""
    kind = type(module)
    plain = kind.__call__ in (nn.Module.__call__, Layer.__call__)
    return plain and kind._call_impl is nn.Module._call_impl


def affine(norm: Any) -> Affine | str:
    """What the batch norm does in evaluation; or why that cannot be told."""
    if getattr(norm, "running_mean", None) is None or getattr(norm, "running_var", None) is None:
        return "it has no running statistics"
    if norm.training:
        return "it is in training mode"
    scale = (norm.running_var.detach().double() + getattr(norm, "eps", 1e-5)).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight.detach().double()
    shift = -norm.running_mean.detach().double() * scale
    if norm.bias is not None:
        shift = shift + norm.bias.detach().double()
    if is_plain(norm):
        return Affine(scale, shift, ())
    children = dict(norm.named_children())
    names = tuple(name for name in children if not passes(children[name]))
    found = Affine(scale, shift, names)
    if not is_called_plainly(norm) or not (_is_known(norm) or is_straight(norm)):
        return f"{type(norm).__name__} has a forward of its own, with branches or effects"
    if not _computes(norm, found):
        return f"{type(norm).__name__} has a forward of its own, which is not batch norm's"
    return found


def _is_known(module: nn.Module) -> bool:
    return f"{type(module).__module__}.{type(module).__qualname__}" in KNOWN


@torch.no_grad()
def _computes(norm: nn.Module, found: Affine) -> bool:
    """Whether its forward gives what the formula gives, on random maps of two scales."""
    try:
        copied = copy.deepcopy(norm).double().cpu()
        for hooks in (copied._forward_hooks, copied._forward_pre_hooks):
            hooks.clear()
        generator = torch.Generator().manual_seed(0)
        for size in (1.0, 100.0):
            x = size * torch.randn(2, len(found.scale), 3, 4, generator=generator, dtype=torch.double)
            y = x * found.scale.cpu().view(-1, 1, 1) + found.shift.cpu().view(-1, 1, 1)
            for name in found.tail:
                y = getattr(copied, name)(y)
            torch.testing.assert_close(copied(x), y, rtol=1e-5, atol=1e-5)
    except Exception:  # whatever it raises on such an input, it is not what was thought
        return False
    return True


def is_straight(module: nn.Module) -> bool:
    """Whether its forwards are straight lines of arithmetic that keep nothing and read no globals."""
    forwards = [vars(k)["forward"] for k in type(module).__mro__ if "forward" in vars(k)]
    known = (_BatchNorm.forward, nn.SyncBatchNorm.forward, nn.Module.forward)
    return all(f in known or _is_straight_function(f) for f in forwards)


def _is_straight_function(function: Any) -> bool:
    if not isinstance(function, FunctionType):
        return False
    try:
        node = _definition(function)
    except NotWovenError:
        return False
    own = {a.arg for a in ast.walk(node.args) if isinstance(a, ast.arg)}
    own |= {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    plain = (ast.Assign, ast.AnnAssign, ast.Return, ast.Expr)
    if not all(isinstance(s, plain) for s in node.body):
        return False
    for inner in (n for s in node.body for n in ast.walk(s)):
        if isinstance(inner, ast.Attribute | ast.Subscript) and not isinstance(inner.ctx, ast.Load):
            return False
        if isinstance(inner, ast.IfExp | ast.NamedExpr | ast.Lambda | ast.BoolOp | ast.comprehension):
            return False
        name = inner.id if isinstance(inner, ast.Name) else "super"
        known = name in own or name == "super"
        if not known and not isinstance(function.__globals__.get(name), ModuleType):
            return False
        if isinstance(inner, ast.Call) and not _is_arithmetic(inner.func, function.__globals__, own):
            return False
    return True


def _is_arithmetic(called: ast.expr, namespace: dict[str, Any], own: set[str]) -> bool:
    if isinstance(called, ast.Name):
        return called.id == "super"
    if not isinstance(called, ast.Attribute) or called.attr.endswith("_"):
        return False
    root = called.value
    while isinstance(root, ast.Attribute):
        root = root.value
    if isinstance(root, ast.Name) and root.id not in own:  # a function of a module: of torch's alone
        module = namespace.get(root.id)
        torchs = isinstance(module, ModuleType) and module.__name__.split(".")[0] == "torch"
        return torchs and not called.attr.startswith(("set_", "manual_", "rand"))
    child = isinstance(root, ast.Name) and root is called.value and root.id == "self"
    return called.attr in METHODS or child


# ---------------------------------------------------------------------------------------------
# Layers
# ---------------------------------------------------------------------------------------------

PLAIN_FORWARDS = {
    getattr(getattr(home, name), "forward")  # noqa: B009
    for home in (nn, ours)
    for name in ("Conv1d", "Conv2d", "Conv3d", "ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d",
                 "Linear")
}  # fmt: skip
PLAIN_CONV_FORWARDS = {_ConvNd._conv_forward} | {  # which transposed convolutions do not call
    getattr(home, f"Conv{axes}d")._conv_forward for home in (nn, ours) for axes in (1, 2, 3)
}
LINEAR = (nn.Linear, _ConvNd)


def is_layer(module: nn.Module) -> bool:
    """Whether it is a convolution or a linear layer."""
    return isinstance(module, LINEAR)


def is_plain_layer(module: nn.Module) -> bool:
    """Whether its forward is torch's, or ours."""
    return has_plain_forward(type(module))


def has_plain_forward(kind: type[nn.Module]) -> bool:
    """Whether layers of this class have torch's forward, or ours."""
    conv = getattr(kind, "_conv_forward", None)
    return kind.forward in PLAIN_FORWARDS and (conv is None or conv in PLAIN_CONV_FORWARDS)


def cannot_start(layer: Any) -> str | None:
    """Why nothing can be folded into the layer, if so."""
    if isinstance(layer, ours.ConvReLU2d):
        return "it rectifies"
    weight = layer._parameters.get("weight")
    if weight is None or "bias" in vars(layer):
        return "a hook computes its weight or bias"
    if torch.is_complex(weight):
        return "its weight is complex"
    if not weight.is_floating_point():
        return "its weight is not of floating point"
    if not is_called_plainly(layer):
        return f"{type(layer).__name__} has a way of its own to be called"
    if not is_plain_layer(layer) and not (_is_known(layer) and _scales(layer)):
        return f"{type(layer).__name__} has a forward of its own"
    return None


def ranks(layer: nn.Module) -> tuple[int, ...]:
    """Of the inputs whose outputs batch norm takes channel by channel."""
    weight = layer._parameters["weight"]
    return (weight.dim(),) if weight is not None and isinstance(layer, _ConvNd) else (2,)


def channels(layer: Any) -> int:
    """How many channels its output has."""
    return layer.out_channels if isinstance(layer, _ConvNd) else layer.out_features


def cannot_fold(layer: Any, norm: Any, found: Affine) -> str | None:
    """Why this batch norm cannot become part of this layer, if so."""
    if len(found.scale) != channels(layer):
        return f"it has {len(found.scale)} channels, {channels(layer)} come"
    takes = {nn.BatchNorm1d: (2, 3), nn.BatchNorm2d: (4,), nn.BatchNorm3d: (5,)}
    for kind, wanted in takes.items():
        if isinstance(norm, kind) and not set(ranks(layer)) & set(wanted):
            return f"it takes inputs of {' or '.join(map(str, wanted))} dimensions"
    return None


def folded(layer: Any, found: Affine) -> tuple[nn.Parameter, nn.Parameter]:
    """Each filter scaled, and its bias shifted, as batch norm does its output; in float64."""
    scale, shift = (t.to(layer.weight.device) for t in (found.scale, found.shift))
    if layer.bias is not None:
        shift = shift + layer.bias.detach().double() * scale
    weight = layer.weight.detach().double() * _along_filters(layer, scale)
    weight = torch.empty_like(layer.weight).copy_(weight)  # in the layout of the weight
    bias = shift.to(layer.weight.dtype)
    return (nn.Parameter(weight, requires_grad=False), nn.Parameter(bias, requires_grad=False))


def _along_filters(layer: Any, scale: Tensor) -> Tensor:
    """The scale of each output channel, in the shape that multiplies the weight."""
    weight = layer.weight
    if not isinstance(layer, _ConvTransposeNd):
        return scale.view(-1, *[1] * (weight.dim() - 1))
    inputs = (
        weight.shape[0] // layer.groups
    )  # a transposed convolution's weight is (C, K / groups, ...)
    by_group = scale.view(layer.groups, 1, -1).expand(-1, inputs, -1).reshape(weight.shape[:2])
    return by_group.reshape(*weight.shape[:2], *[1] * (weight.dim() - 2))


@torch.no_grad()
def _scales(layer: Any) -> bool:
    """Whether its output scales and shifts with each filter and its bias, on random maps."""
    try:
        generator = torch.Generator().manual_seed(0)
        wide = copy.deepcopy(layer).double().cpu()
        for hooks in (wide._forward_hooks, wide._forward_pre_hooks):
            hooks.clear()
        x = torch.randn(2, layer.in_channels, 9, 10, generator=generator, dtype=torch.double)
        scale, shift = torch.randn(2, layer.out_channels, generator=generator, dtype=torch.double)
        expected = wide(x) * scale.view(-1, 1, 1) + shift.view(-1, 1, 1)
        weight, bias = folded(wide, Affine(scale, shift, ()))
        wide._parameters.update(weight=weight, bias=bias)
        torch.testing.assert_close(wide(x), expected, rtol=1e-6, atol=1e-6)
    except Exception:  # as for batch norms
        return False
    return True
