"""A network as a table and as a picture: what every layer gives, holds and costs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Polygon
from torch import Tensor, nn

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


class Layer(NamedTuple):
    """One row of :func:`layers`."""

    name: str
    kind: str  # the name of its class
    family: str  # "convolution", "pooling", "dense" or "other"
    shape: tuple[int, ...]  # of its output, without the batch
    parameters: int
    multiply_adds: int  # of its weights, for one example

    @property
    def activations(self) -> int:
        """Numbers in its output, for one example."""
        return math.prod(self.shape)


def layers(model: nn.Module, input_size: Sequence[int]) -> list[Layer]:
    r"""What every layer gives and costs, found by a run on tensors that have shapes and no numbers.

    A layer is a module without children; one that is called twice has two rows, and its parameters
    count in the first. Multiply-adds are those of the weights, biases aside: a weight of a convolution
    is used once in every cell of a map, a weight of a dense layer once.

    Args:
        model: any; its size does not matter, nothing is computed.
        input_size: (C, \*spatial) of one example.

    Returns:
        Rows in the order of the calls.

    Example:
        >>> from cnn_ext.models import lenet5
        >>> for row in layers(lenet5("1998"), (1, 32, 32))[:3]:
        ...     print(row.name, row.kind, row.shape, row.parameters, row.multiply_adds)
        c1 Conv2d (6, 28, 28) 156 117600
        squash ScaledTanh (6, 28, 28) 0 0
        s2 Subsampling (6, 14, 14) 12 1176
    """
    rows: list[Layer] = []
    seen: set[int] = set()

    def record(name: str) -> Callable:
        def hook(module: nn.Module, inputs: tuple, output: Any) -> None:
            if isinstance(output, Tensor):
                counted = 0 if id(module) in seen else sum(p.numel() for p in module.parameters())
                seen.add(id(module))
                work = _multiply_adds(module, inputs[0], output)
                shape = tuple(output.shape[1:])
                rows.append(Layer(name, type(module).__name__, _family(module), shape, counted, work))

        return hook

    handles = [
        module.register_forward_hook(record(name))
        for name, module in model.named_modules()
        if next(module.children(), None) is None
    ]
    training = {module: module.training for module in model.modules()}
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    shapes = {name: torch.empty_like(tensor, device="meta") for name, tensor in tensors.items()}
    dtype = next((t.dtype for t in tensors.values() if t.is_floating_point()), None)
    try:
        with torch.device("meta"), torch.no_grad():
            example = torch.empty(1, *input_size, dtype=dtype)
            torch.func.functional_call(model.eval(), shapes, (example,))
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in training.items():
            module.training = mode
    return rows


def _multiply_adds(module: nn.Module, input: Tensor, output: Tensor) -> int:
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor):
        return 0
    if isinstance(module, nn.Linear):
        places = output.shape[:-1].numel()
    else:  # the cells of a map; where a convolution is transposed, of one that it reads
        places = (input if getattr(module, "transposed", False) else output).shape[2:].numel()
    return weight.numel() * places


def _family(module: nn.Module) -> str:
    families = (("convolution", CONVOLUTIONS), ("pooling", POOLS), ("dense", (nn.Linear,)))
    return next((name for name, kinds in families if isinstance(module, kinds)), "other")


def architecture(model: nn.Module, input_size: Sequence[int], title: str = "") -> Figure:
    r"""A network as a row of blocks, and below each layer what it holds and costs.

    A block is as high and as deep as the maps of the layer and as wide as there are maps, all on a
    square-root scale; its shape is written above. Layers that change neither the shape nor hold a
    parameter – ReLU, dropout, normalisation – are left out.

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
    short = [row.name.rpartition(".")[2] for row in rows]
    names = short if len(set(short)) == len(short) else [row.name for row in rows]
    bars[-1].set_xticks(range(len(rows)), names, rotation=90, fontsize=8)
    return figure


SLANT = 0.35  # of the depth, to the right and upwards


def _blocks(ax: Axes, rows: Sequence[Layer]) -> None:
    """Boxes: to the right the number of maps, upwards their height, aslant their width."""
    sizes = [(row.shape[0], *(row.shape[1:] or (1,))) for row in rows]
    most = max(size[0] for size in sizes)
    longest = max(max(size[1:]) for size in sizes)
    for x, (row, (maps, *sides)) in enumerate(zip(rows, sizes, strict=True)):
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
        shape = "×".join(map(str, row.shape))
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
