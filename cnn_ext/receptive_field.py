"""Receptive fields by arithmetic: layer after layer, without evaluating the network at every pixel.

With stride S (in input cells), offset o and size r of a layer's field, a window of F cells at stride s
with p cells of padding before it gives r + (F - 1) S, o + S ((F - 1) / 2 - p) and S s (A. Araujo,
W. Norris and J. Sim, "Computing receptive fields of convolutional neural networks", Distill 2019).
:func:`cnn_ext.matrix.receptive_field` finds the same by experiment, for any architecture.
"""

from __future__ import annotations

import copy
import math
import operator
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from cnn_ext.functional import _per_axis, padding_amounts
from cnn_ext.matrix import ReceptiveField

ELEMENTWISE = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Sigmoid, nn.Tanh, nn.Hardswish,
    nn.Hardsigmoid, nn.Identity, nn.Dropout, nn.Dropout2d, nn.modules.batchnorm._BatchNorm,
    nn.LocalResponseNorm,
)  # fmt: skip
MEETINGS = {torch.add, torch.cat, torch.mul, operator.add, operator.mul, operator.iadd,
            torch.relu, nn.functional.relu, torch.sigmoid, nn.functional.dropout}  # fmt: skip
POOLS = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)
ADAPTIVE = (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d,
            nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d)  # fmt: skip


def follow(model: nn.Module, input_size: Sequence[int]) -> dict[str, ReceptiveField]:
    r"""The receptive field of every layer with feature maps, as far as arithmetic reaches.

    Fields are whole, as if the image went on beyond its border. Where branches meet, the union counts.

    Args:
        model: any module of one input that ``torch.fx`` can trace.
        input_size: (C, \*spatial) of the input; only adaptive pooling asks how large it is.

    Returns:
        By module name, for the modules that the walk understood and all before them: it ends, without
        complaint, where maps end or where a layer is of a kind it does not know.

    Raises:
        ValueError: ``torch.fx`` cannot trace the model.

    Example:
        >>> from cnn_ext.models import vgg16
        >>> fields = follow(vgg16(width=1 / 16), (3, 224, 224))
        >>> fields["features.0"].size, fields["features.30"].size, fields["features.30"].stride
        ((3, 3), (212, 212), (32.0, 32.0))
    """
    model = copy.deepcopy(model).eval()
    try:
        traced = torch.fx.GraphModule(model, _Tracer().trace(model))
    except Exception as reason:  # fx raises what the model's code raises on its proxies
        raise ValueError(f"model: torch.fx cannot follow it: {reason}") from reason
    walk = _Walk(traced, len(input_size) - 1)
    parameter = next(model.parameters(), torch.zeros(()))
    with torch.no_grad():
        walk.run(torch.zeros(2, *input_size, dtype=parameter.dtype, device=parameter.device))
    return walk.fields


class _Tracer(torch.fx.Tracer):
    """Layers are what has no children; what torch says besides."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return next(m.children(), None) is None or super().is_leaf_module(m, module_qualified_name)


class _Walk(torch.fx.Interpreter):
    """Evaluates a network once and carries the field of every feature map along."""

    def __init__(self, traced: torch.fx.GraphModule, axes: int) -> None:
        super().__init__(traced)
        self.axes = axes
        self.fields: dict[str, ReceptiveField] = {}
        self.of_node: dict[torch.fx.Node, ReceptiveField | None] = {}

    def run_node(self, n: torch.fx.Node):
        result = super().run_node(n)
        before = [(self.env[a], self.of_node.get(a)) for a in n.all_input_nodes if a in self.env]
        maps = [(x, f) for x, f in before if isinstance(x, Tensor) and x.dim() == self.axes + 2]
        field = None
        if n.op == "placeholder":
            ones = (1,) * self.axes
            field = ReceptiveField(ones, tuple(map(float, ones)), (0.0,) * self.axes)
        elif isinstance(result, Tensor) and result.dim() == self.axes + 2 and maps:
            fields = [f for _, f in maps]
            if all(fields):
                field = self._after(n, maps[0][0].shape[2:], fields)  # type: ignore[arg-type]
        self.of_node[n] = field
        if n.op == "call_module" and field:
            self.fields[str(n.target)] = field
        return result

    def _after(self, n, size: Sequence[int], fields: list[ReceptiveField]) -> ReceptiveField | None:
        """The field behind one node; None where its kind is not known."""
        if n.op == "call_module":
            module = self.module.get_submodule(n.target)
            if isinstance(module, ELEMENTWISE):
                return fields[0] if getattr(module, "region", "channels") == "channels" else None
            if window := _window(module, size):
                return _through(fields[0], *window)
            return None
        known = n.target in MEETINGS or (n.op == "call_method" and n.target in ("add", "relu", "mul"))
        return _union(fields) if known else None


def _window(module: nn.Module, size: Sequence[int]):
    """Cells of the window along each axis, their distance, the stride, and the padding before."""
    axes = len(size)
    if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        stride, dilation = _per_axis(module.stride, axes), _per_axis(module.dilation, axes)
        amounts = padding_amounts(module.padding, size, module.kernel_size, stride, dilation)
        before = amounts[-2::-2]
        return _per_axis(module.kernel_size, axes), dilation, stride, before
    if isinstance(module, POOLS):
        cells = _per_axis(module.kernel_size, axes)
        dilation = _per_axis(getattr(module, "dilation", 1), axes)
        before = _per_axis(module.padding, axes)
        return cells, dilation, _per_axis(module.stride, axes), before
    if isinstance(module, ADAPTIVE):
        wanted = _per_axis(module.output_size, axes)  # type: ignore[arg-type]
        if all(n % out == 0 for n, out in zip(size, wanted, strict=True)):
            step = tuple(n // out for n, out in zip(size, wanted, strict=True))
            return step, (1,) * axes, step, (0,) * axes
    if isinstance(module, nn.ZeroPad1d | nn.ZeroPad2d | nn.ZeroPad3d):
        return (1,) * axes, (1,) * axes, (1,) * axes, tuple(module.padding[-2::-2])
    return None


def _through(field: ReceptiveField, cells, dilation, stride, before) -> ReceptiveField:
    size, steps, offset = [], [], []
    for r, S, o, F, d, s, p in zip(*field, cells, dilation, stride, before, strict=True):
        reach = d * (F - 1)
        size.append(round(r + reach * S))
        offset.append(o + S * (reach / 2 - p))
        steps.append(S * s)
    return ReceptiveField(tuple(size), tuple(steps), tuple(offset))


def _union(fields: Iterable[ReceptiveField]) -> ReceptiveField:
    """The smallest window around all of them: of branches with one stride, or beside a global one."""
    axes = []
    for along in zip(*(zip(*field, strict=True) for field in fields), strict=True):
        first = min(offset - (size - 1) / 2 for size, _, offset in along)
        last = max(offset + (size - 1) / 2 for size, _, offset in along)
        stride = min(s for _, s, _ in along)
        axes.append((math.ceil(last - first + 1), stride, (first + last) / 2))
    return ReceptiveField(*zip(*axes, strict=True))
