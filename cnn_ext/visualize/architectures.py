"""A network as a table and as a picture: what every layer gives, holds and costs."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Polygon
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize

from cnn_ext._inspection import (
    Call,
    counting,
    example,
    looking_at,
    new_parameters,
    own_modules,
    tensors_in,
    watch,
    with_values,
)
from cnn_ext.models.lenet5 import Subsampling, TableConv2d

# Okabe and Ito's colours, which colour-blind readers tell apart.
COLOURS = {
    "input": "#999999",
    "convolution": "#0072B2",
    "pooling": "#56B4E9",
    "dense": "#D55E00",
    "other": "#F0E442",
}
CONVOLUTIONS = (nn.modules.conv._ConvNd, TableConv2d)
POOLS = (
    nn.modules.pooling._MaxPoolNd,
    nn.modules.pooling._AvgPoolNd,
    nn.modules.pooling._AdaptiveAvgPoolNd,
    nn.modules.pooling._AdaptiveMaxPoolNd,
    Subsampling,
)
LOOKUPS = (nn.Embedding, nn.EmbeddingBag)  # which multiply nothing


class Layer(NamedTuple):
    """One row of :func:`layers`."""

    name: str
    kind: str  # the name of its class
    family: str  # "convolution", "pooling", "dense" or "other"
    shape: tuple[int, ...] | None  # of its output, without the batch; None if it gives no tensor
    parameters: int
    multiply_adds: int  # for one example

    @property
    def activations(self) -> int:
        """Numbers in its output, for one example."""
        return 0 if self.shape is None else math.prod(self.shape)


def layers(model: nn.Module, input_size: Sequence[int] | Tensor | tuple[Tensor, ...]) -> list[Layer]:
    r"""What every layer gives and costs, found by a run on tensors that have shapes and no numbers.

    A layer is a module that calls no other: one that is called twice has two rows. A module that calls
    others has a row after theirs if it holds parameters itself, or multiplies matrices. What is not
    called but has parameters has a row at the end. A parameter counts in the first row that has it, so
    that the sum is the model's.

    Multiply-adds are those of convolutions and matrix products, as torch's flop counter has them, and
    one for each cell that a normalisation, a PReLU or the like scales by a weight; biases aside.

    Args:
        model: any; its size does not matter, nothing is computed as long as its code asks for no
            values, and it stays as it is. Of a lazy layer, the row says what it would become.
        input_size: (C, \*spatial) of one example; or the input itself, a tensor or a tuple of them,
            with a batch of one.

    Returns:
        Rows in the order in which the calls end.

    Example:
        >>> from cnn_ext.models import lenet5
        >>> for row in layers(lenet5("1998"), (1, 32, 32))[:3]:
        ...     print(row.name, row.kind, row.shape, row.parameters, row.multiply_adds)
        c1 Conv2d (6, 28, 28) 156 117600
        squash ScaledTanh (6, 28, 28) 0 0
        s2 Subsampling (6, 14, 14) 12 1176
    """
    error: Exception | None = None
    for runnable, mode in _ways(model):
        for given in _inputs(runnable, input_size):
            try:
                return _rows(runnable, given, mode)
            except Exception as refused:  # where its code asks for values, say
                error = refused
    assert error is not None
    raise error


def _ways(model: nn.Module) -> Iterator[tuple[nn.Module, contextlib.AbstractContextManager]]:
    """The model to run and the mode to run it in: first without values, then with them."""
    if not any(map(is_lazy, model.parameters())):  # those come to be as the model runs
        yield model, FakeTensorMode(allow_non_fake_inputs=True)
    yield with_values(model), contextlib.nullcontext()


def _inputs(model: nn.Module, size: Sequence[int] | Tensor | tuple[Tensor, ...]) -> list[Any]:
    """What to try the model with: numbers, and indices if it looks something up."""
    if isinstance(size, Tensor) or any(isinstance(value, Tensor) for value in size):
        return [size]
    zeros = example(model, size)  # type: ignore[arg-type]
    looks_up = any(isinstance(module, LOOKUPS) for module in model.modules())
    return [zeros, zeros.long()] if looks_up else [zeros]


def _rows(model: nn.Module, given: Any, mode: contextlib.AbstractContextManager) -> list[Layer]:
    """The table, by a run on these inputs in a mode."""
    rows: list[Layer] = []
    seen: set[int] = set()  # parameters

    def end(call: Call, output: Any) -> None:
        of_call = counter.get_total_flops() - call.before
        own = of_call - call.inside
        if call.caller:
            call.caller.inside += of_call
        parameters = new_parameters(call.module.parameters(recurse=call.is_layer), seen)
        if call.is_layer or own or parameters:
            outputs = tensors_in(output)
            work = _multiply_adds(call, own, outputs)
            rows.append(_row(call.name, call.module, outputs, parameters, work))

    with looking_at(model), mode, counting() as counter:
        watch(model, end, start=lambda _module: counter.get_total_flops())
        model(*(given if isinstance(given, tuple) else (given,)))
    for name, module in own_modules(model).items():
        if parameters := new_parameters(module.parameters(recurse=False), seen):
            rows.append(_row(name, module, [], parameters, 0))
    return rows


def _row(name: str, module: nn.Module, outputs: Sequence[Tensor], parameters: int, work: int) -> Layer:
    kind = parametrize.type_before_parametrizations(module).__name__
    shape = tuple(outputs[0].shape[1:]) if outputs else None
    return Layer(name, kind, _family(module), shape, parameters, work)


def _multiply_adds(call: Call, operations: int, outputs: Sequence[Tensor]) -> int:
    """Of one call, for one example; ``operations`` are those that torch's flop counter knows."""
    module = call.module
    if isinstance(module, TableConv2d):  # which multiplies by the zeros of its table too
        return module.weight.numel() * outputs[0].shape[2:].numel()
    if operations:
        return operations // 2
    if isinstance(module, nn.RNNBase):  # each weight once for every step
        weights = [p for name, p in module.named_parameters() if name.startswith("weight")]
        return sum(w.numel() for w in weights) * outputs[0].shape[:-1].numel()
    if isinstance(module, nn.Bilinear):
        return module.weight.numel() * outputs[0].shape[:-1].numel()
    scales = isinstance(getattr(module, "weight", None), Tensor) and call.is_layer and outputs
    return outputs[0].numel() if scales and not isinstance(module, LOOKUPS) else 0


def _family(module: nn.Module) -> str:
    families = (("convolution", CONVOLUTIONS), ("pooling", POOLS), ("dense", (nn.Linear,)))
    return next((name for name, kinds in families if isinstance(module, kinds)), "other")


def architecture(model: nn.Module, input_size: Sequence[int], title: str = "") -> Figure:
    r"""A network as a row of blocks, and below each layer what it holds and costs.

    A block is as high and as deep as the maps of the layer and as wide as there are maps, all on a
    square-root scale; its shape is written above. Layers that change neither the shape nor hold a
    parameter – ReLU, dropout, normalisation – are left out. What is not called has bars and no block.

    Args:
        model: any, of maps (C, H, W) or (C, L) and dense layers.
        input_size: (C, \*spatial) of one example.
        title: before the number of layers.

    Returns:
        The blocks; parameters, activations and multiply-adds as bars, with the share of each family.
    """
    rows = [Layer("input", "", "input", tuple(input_size), 0, 0)]
    for row in layers(model, input_size):
        if row.shape != rows[-1].shape or row.parameters:
            rows.append(row)
    figure = Figure(figsize=(10, 7.5), layout="constrained")
    blocks, *bars = figure.subplots(4, 1, sharex=True, height_ratios=[2.2, 1, 1, 1])
    _blocks(blocks, rows)
    families = [family for family in COLOURS if any(row.family == family for row in rows)]
    blocks.legend(
        handles=[Patch(color=COLOURS[family], label=family) for family in families],
        ncols=len(families), loc="lower left", bbox_to_anchor=(0, 1), fontsize=9, frameon=False,
    )  # fmt: skip
    blocks.set_title(title, loc="right", fontsize=11)
    for ax, what in zip(bars, ("parameters", "activations", "multiply_adds"), strict=True):
        _bars(ax, rows[1:], what)
    short = [row.name.rpartition(".")[2] or row.kind for row in rows]
    names = short if len(set(short)) == len(short) else [row.name or row.kind for row in rows]
    bars[-1].set_xticks(range(len(rows)), names, rotation=90, fontsize=8)
    return figure


SLANT = 0.35  # of the depth, to the right and upwards


def _blocks(ax: Axes, rows: Sequence[Layer]) -> None:
    """Boxes: to the right the number of maps, upwards their height, aslant their width."""
    blocks = {x: (*(row.shape[:1] or (1,)), *(row.shape[1:] or (1,)))
              for x, row in enumerate(rows) if row.shape is not None}  # fmt: skip
    most = max(1, *(size[0] for size in blocks.values()))
    longest = max(1, *(max(size[1:]) for size in blocks.values()))
    for x, (maps, *sides) in blocks.items():
        row = rows[x]
        wide = 0.72 * math.sqrt(maps / most)
        high, deep = (math.sqrt(side / longest) for side in (sides[0], sides[-1]))
        left, right = x - wide / 2 - SLANT * deep / 2, x + wide / 2 - SLANT * deep / 2
        dx, dy = SLANT * deep, SLANT * deep / 2
        front = (left, 0), (right, 0), (right, high), (left, high)
        top = (left, high), (right, high), (right + dx, high + dy), (left + dx, high + dy)
        side = (right, 0), (right, high), (right + dx, high + dy), (right + dx, dy)
        for face, alpha in ((front, 1.0), (top, 0.45), (side, 0.7)):
            ax.add_patch(
                Polygon(face, facecolor=COLOURS[row.family], alpha=alpha, edgecolor="black", lw=0.5)
            )
        shape = "×".join(map(str, row.shape or ()))
        ax.text(x, high + dy + 0.04, shape, rotation=90, ha="center", va="bottom", fontsize=8)
    ax.set(xlim=(-0.6, len(rows) - 0.4), ylim=(-0.03, 1.85))
    ax.axis("off")


def _bars(ax: Axes, rows: Sequence[Layer], what: str) -> None:
    values = [getattr(row, what) for row in rows]
    total, most = max(1, sum(values)), max(1, *values)
    ax.bar(range(1, len(rows) + 1), values, color=[COLOURS[row.family] for row in rows])
    for x, value in enumerate(values, 1):
        if value > 0.04 * most:
            ax.text(x, value, short_number(value), ha="center", va="bottom", fontsize=8)
    of_family = dict.fromkeys(COLOURS, 0)
    for row, value in zip(rows, values, strict=True):
        of_family[row.family] += value
    shares = [f"{family} {value / total:.1%}" for family, value in of_family.items() if value]
    name = what.replace("_", "-")
    ax.set_title(f"{short_number(total)} {name}: {', '.join(shares)}", loc="left", fontsize=9)
    ax.set(ylim=(0, 1.25 * most), yticks=[])
    ax.spines[["top", "left", "right"]].set_visible(False)


def short_number(value: float) -> str:
    """A number to three digits, with k, M or G.

    Example:
        >>> [short_number(value) for value in (156, 48_120, 60_965_224, 15_470_264_320)]
        ['156', '48.1k', '61M', '15.5G']
    """
    for scale, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= scale:
            return f"{value / scale:.3g}{letter}"
    return f"{value:.3g}"
