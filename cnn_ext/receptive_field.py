"""Receptive fields by arithmetic: layer after layer, without evaluating the network at every pixel.

With stride S (in input cells), offset o and size r of a layer's field, a window of F cells at stride s
with p cells of padding before it gives r + (F - 1) S, o + S ((F - 1) / 2 - p) and S s (A. Araujo,
W. Norris and J. Sim, "Computing receptive fields of convolutional neural networks", Distill 2019).
:func:`cnn_ext.matrix.receptive_field` finds the same by experiment, for any architecture. Where the
arithmetic does not know a layer, it asks an experiment rather than guess.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils._pytree import tree_map

from cnn_ext._inspection import example, looking_at, with_values
from cnn_ext.functional import _per_axis, default_algorithm, padding_amounts
from cnn_ext.matrix import ReceptiveField, receptive_field

# Each cell of the output depends on that cell of all maps alone.
ELEMENTWISE = (
    nn.CELU, nn.ChannelShuffle, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.ELU, nn.GELU,
    nn.Hardshrink, nn.Hardsigmoid, nn.Hardswish, nn.Hardtanh, nn.Identity, nn.LeakyReLU,
    nn.LocalResponseNorm, nn.LogSigmoid, nn.Mish, nn.PReLU, nn.ReLU, nn.ReLU6, nn.SELU, nn.SiLU,
    nn.Sigmoid, nn.Softplus, nn.Softshrink, nn.Softsign, nn.Tanh, nn.Tanhshrink, nn.Threshold,
    nn.modules.batchnorm._BatchNorm,
)  # fmt: skip
MEETINGS = {torch.add, torch.sub, torch.mul, torch.cat, torch.relu, torch.sigmoid, torch.tanh,
            operator.add, operator.sub, operator.mul, operator.iadd, operator.imul,
            nn.functional.relu, nn.functional.relu6, nn.functional.silu, nn.functional.gelu,
            nn.functional.hardswish, nn.functional.dropout}  # fmt: skip
METHODS = {"add", "add_", "contiguous", "mul", "mul_", "relu", "relu_", "sigmoid", "tanh"}
POOLS = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)
ADAPTIVE = (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d,
            nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d)  # fmt: skip
# Not circular padding: there a unit at the border sees both ends.
PADS = (nn.modules.padding._ConstantPadNd, nn.modules.padding._ReflectionPadNd,
        nn.modules.padding._ReplicationPadNd)  # fmt: skip

MOST_PROBED = 1024  # cells along an axis: each costs an evaluation of the layer


def follow(
    model: nn.Module, input_size: Sequence[int], *, experiments: bool = True
) -> dict[str, ReceptiveField]:
    r"""The receptive field of every layer with feature maps.

    By arithmetic they are whole, as if the image went on beyond its border; where branches meet, the
    union counts. A layer that the arithmetic does not list is tried out alone. If it is a window that
    slides over its input, the arithmetic goes on. If not – upsampling, normalisation over space,
    joining along space – the fields from there on are those of
    :func:`cnn_ext.matrix.receptive_field`, which end at the border of the image.

    Args:
        model: any module of one input that ``torch.fx`` can trace; it stays as it is.
        input_size: (C, \*spatial) of the input. Adaptive pooling and experiments ask how large it is.
        experiments: False leaves out what arithmetic alone does not give. The experiment on the whole
            model costs one evaluation for each row and each column of the input.

    Returns:
        By module name, in the order of the calls.

    Raises:
        ValueError: ``torch.fx`` cannot trace the model.

    Example:
        >>> from cnn_ext.models import vgg16
        >>> fields = follow(vgg16(width=1 / 16), (3, 224, 224))
        >>> fields["features.0"].size, fields["features.30"].size, fields["features.30"].stride
        ((3, 3), (212, 212), (32.0, 32.0))
    """
    model = with_values(model)
    with looking_at(model):
        try:
            traced = torch.fx.GraphModule(model, _Tracer().trace(model))
        except Exception as reason:  # fx raises what the model's code raises on its proxies
            raise ValueError(f"model: torch.fx cannot follow it: {reason}") from reason
    # Looking anew, since code that was traced may have left something in its modules. Not Winograd,
    # which spreads a NaN beyond the units that see it.
    with looking_at(model), default_algorithm("implicit_gemm"):
        walk = _Walk(traced, input_size[1:], experiments)
        walk.run(example(model, input_size, batch=2))
    if walk.complete or not experiments:
        return walk.fields
    found = {**receptive_field(model, input_size), **walk.fields}
    called = dict.fromkeys(str(n.target) for n in traced.graph.nodes if n.op == "call_module")
    return {name: found[name] for name in called if name in found}


def fields_of(model: nn.Module, input_size: Sequence[int]) -> dict[str, ReceptiveField]:
    r"""Receptive fields as :func:`follow` has them, or by experiment if it cannot trace the model.

    Args:
        model: any module of one input; it stays as it is.
        input_size: (C, \*spatial) of the input.
    """
    try:
        return follow(model, input_size)
    except ValueError:
        return receptive_field(model, input_size)


class _Tracer(torch.fx.Tracer):
    """Layers are what has no children, parametrizations aside; and what torch says besides."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        children = {name for name, _ in m.named_children()}
        if parametrize.is_parametrized(m):
            children.discard("parametrizations")
        return not children or super().is_leaf_module(m, module_qualified_name)


class _Walk(torch.fx.Interpreter):
    """Evaluates a network once and carries the field of every feature map along."""

    def __init__(self, traced: torch.fx.GraphModule, size: Sequence[int], experiments: bool) -> None:
        super().__init__(traced)
        self.size, self.axes, self.experiments = tuple(size), len(size), experiments
        self.fields: dict[str, ReceptiveField] = {}
        # Of every node that depends on the input; None if it has no field or none that is known.
        self.of_node: dict[torch.fx.Node, ReceptiveField | None] = {}
        self.complete = True  # every map that depends on the input has a field

    def run_node(self, n: torch.fx.Node) -> Any:
        before = [a for a in n.all_input_nodes if a in self.of_node]
        field = self._after(n, before)  # first, for the node may change its inputs
        result = super().run_node(n)
        if n.op == "placeholder" and not self.of_node:
            ones = (1,) * self.axes
            self.of_node[n] = ReceptiveField(ones, (1.0,) * self.axes, (0.0,) * self.axes)
        elif before:
            self.of_node[n] = field if self._is_map(result) else None
            self.complete = self.complete and (field is not None or not self._is_map(result))
            if n.op == "call_module" and self.of_node[n]:
                self.fields[str(n.target)] = field  # type: ignore[assignment]
        return result

    def _is_map(self, value: Any) -> bool:
        return isinstance(value, Tensor) and value.dim() == self.axes + 2

    def _after(self, n: torch.fx.Node, before: list[torch.fx.Node]) -> ReceptiveField | None:
        """The field behind a node; None where it is no window that slides over one input."""
        maps = [self.env[a] for a in before]
        fields = [self.of_node[a] for a in before]
        if not before or not all(map(self._is_map, maps)) or None in fields:
            return None
        sizes = [tuple(x.shape[2:]) for x in maps]
        if n.op == "call_module":
            module = self.module.get_submodule(str(n.target))  # type: ignore[union-attr]
            if window := _window(module, sizes[0]):
                return _through(fields[0], *window)  # type: ignore[arg-type]
        elif _meets(n, self.axes):
            return _union(fields, sizes, self.size)  # type: ignore[arg-type]
        if len(before) == 1 and self.experiments and n.op != "output":
            windows = [self._found(n, before[0], axis) for axis in range(self.axes)]
            if None not in windows:
                cells, strides, padding = zip(*windows, strict=True)  # type: ignore[arg-type]
                return _through(fields[0], cells, (1,) * self.axes, strides, padding)  # type: ignore[arg-type]
        return None

    def _found(self, n: torch.fx.Node, before: torch.fx.Node, axis: int) -> tuple[int, ...] | None:
        """Cells, stride and padding of a node's window, by experiment; None if it is no window."""
        x = self.env[before]
        count = x.shape[axis + 2]
        if count > MOST_PROBED or not (x.is_floating_point() or x.is_complex()):
            return None
        sees = []
        for cell in range(count):
            probe = x.clone()
            probe.select(axis + 2, cell).fill_(math.nan)
            try:
                units = self._spread(n, before, probe, axis)
            except Exception:  # whatever the node's code raises on values that are none
                return None
            if units is None or (count > 1 and len(units) > 1 and units.all()):
                return None
            sees.append(units)
        return _sliding(torch.stack(sees, 1))

    def _spread(
        self, n: torch.fx.Node, before: torch.fx.Node, probe: Tensor, axis: int
    ) -> Tensor | None:
        """The units of a node's output, along an axis, that become NaN; None if it gives no maps."""

        def given(a: torch.fx.Node) -> Any:
            value = probe if a is before else self.env[a]
            return tree_map(lambda v: v.clone() if isinstance(v, Tensor) else v, value)

        args, keywords = torch.fx.node.map_arg((n.args, n.kwargs), given)
        output = getattr(self, n.op)(n.target, args, keywords)
        if not self._is_map(output):
            return None
        return output.isnan().any(dim=[i for i in range(output.dim()) if i != axis + 2])


def _meets(n: torch.fx.Node, axes: int) -> bool:
    """Whether each cell of the node's output depends on that cell of its inputs alone."""
    if n.op == "call_method":
        return n.target in METHODS
    if n.target is torch.cat:
        dim = n.kwargs.get("dim", n.args[1] if len(n.args) > 1 else 0)
        return dim in (1, -1 - axes)
    return n.op == "call_function" and n.target in MEETINGS


def _sliding(sees: Tensor) -> tuple[int, int, int] | None:
    """Cells, stride and padding of the window that sees so, (units, cells); None if no window does."""
    units, cells = sees.shape
    if units == 1:
        return (cells, cells, 0) if sees.all() else None
    counts = sees.sum(1)
    whole = (counts == counts.max()).nonzero().flatten().tolist()
    taps = sees[whole[0]].nonzero().flatten()
    if len(whole) < 2 or not len(taps):
        return None
    stride = (sees[whole[1]].nonzero().flatten()[0] - taps[0]).item() / (whole[1] - whole[0])
    if stride < 1 or stride != int(stride):
        return None
    at = taps - whole[0] * int(stride) + torch.arange(units)[:, None] * int(stride)
    inside = (at >= 0) & (at < cells)
    expected = torch.zeros(units, cells, dtype=torch.bool)
    expected[torch.arange(units)[:, None].expand_as(at)[inside], at[inside]] = True
    if not torch.equal(expected, sees.cpu()):
        return None
    first, last = (int(at[0, i]) for i in (0, -1))
    return last - first + 1, int(stride), -first


# For each axis: cells of the window, their distance, the stride, the padding before.
_Window = tuple[Sequence[int], Sequence[int], Sequence[int], Sequence[int]]


def _window(module: Any, size: Sequence[int]) -> _Window | None:
    """The window of a layer over an input of that size; None if its kind is not listed."""
    axes = len(size)
    ones, zeros = (1,) * axes, (0,) * axes
    if not _computes_as_its_kind(module):
        return None
    if rule := getattr(module, "_receptive_window", None):  # a layer of ours that says it itself
        return rule(size)
    if isinstance(module, ELEMENTWISE):
        of_the_batch = getattr(module, "running_mean", ...) is None  # a norm without statistics
        return None if of_the_batch else (ones, ones, ones, zeros)
    if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d) and module.padding_mode != "circular":
        stride, dilation = _per_axis(module.stride, axes), _per_axis(module.dilation, axes)
        amounts = padding_amounts(module.padding, size, module.kernel_size, stride, dilation)
        return _per_axis(module.kernel_size, axes), dilation, stride, amounts[-2::-2]
    if isinstance(module, POOLS):
        dilation = _per_axis(getattr(module, "dilation", 1), axes)
        cells, stride = _per_axis(module.kernel_size, axes), _per_axis(module.stride, axes)
        return cells, dilation, stride, _per_axis(module.padding, axes)
    if isinstance(module, ADAPTIVE):
        wanted = _per_axis(module.output_size, axes)  # type: ignore[arg-type]
        wanted = tuple(n if out is None else out for n, out in zip(size, wanted, strict=True))
        if all(n % out == 0 for n, out in zip(size, wanted, strict=True)):
            step = tuple(n // out for n, out in zip(size, wanted, strict=True))
            return step, ones, step, zeros
    if isinstance(module, PADS):
        return ones, ones, ones, tuple(module.padding[-2::-2])
    return None


def _computes_as_its_kind(module: nn.Module) -> bool:
    """Whether its code is torch's or ours, and no hook may change what it takes or gives."""
    if module._forward_hooks or module._forward_pre_hooks:
        return False
    for name in ("forward", "_conv_forward"):
        code = getattr(type(module), name, None)
        library = getattr(code, "__module__", "torch").partition(".")[0]
        if library not in ("torch", "cnn_ext") or name in vars(module):
            return False
    return True


def _through(
    field: ReceptiveField,
    cells: Sequence[int],
    dilation: Sequence[int],
    stride: Sequence[int],
    before: Sequence[int],
) -> ReceptiveField:
    size, steps, offset = [], [], []
    for r, S, o, F, d, s, p in zip(*field, cells, dilation, stride, before, strict=True):
        reach = d * (F - 1)
        size.append(round(r + reach * S))
        offset.append(o + S * (reach / 2 - p))
        steps.append(S * s)
    return ReceptiveField(tuple(size), tuple(steps), tuple(offset))


def _union(
    fields: Sequence[ReceptiveField], sizes: Sequence[tuple[int, ...]], image: Sequence[int]
) -> ReceptiveField | None:
    """The smallest window around all of them; None where that is no window that slides.

    Maps of one cell meet larger ones: they must see the whole image, as global pooling does.
    """
    axes = []
    for axis, along in enumerate(zip(*(zip(*field, strict=True) for field in fields), strict=True)):
        ends = [(offset - (size - 1) / 2, offset + (size - 1) / 2) for size, _, offset in along]
        longest = max(size[axis] for size in sizes)
        sliding = [i for i, size in enumerate(sizes) if size[axis] == longest]
        strides = {along[i][1] for i in sliding}
        for i in set(range(len(along))) - set(sliding):
            if ends[i][0] > 0 or ends[i][1] < image[axis] - 1:
                return None
        if longest > 1 and len(strides) > 1:
            return None
        first, last = min(a for a, _ in ends), max(b for _, b in ends)
        axes.append((math.ceil(last - first + 1), min(strides), (first + last) / 2))
    return ReceptiveField(*zip(*axes, strict=True))
