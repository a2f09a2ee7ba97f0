"""Convolution as the linear map it is, drawn: its matrix, the patch matrix, which cell reaches which.

Wherever a filter's weight acts it has the colour of its tap, :func:`tap_colors`.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from cnn_ext import functional, matrix
from cnn_ext.functional import Ints, _per_axis
from cnn_ext.visualize.cells import EDGE, FADED, Window, cells

# Paul Tol's "light": to fill cells with black text, distinct to colour-blind readers.
COLORS = (
    "#77AADD", "#EE8866", "#44BB99", "#EEDD88", "#FFAABB", "#BBCC33", "#99DDFF", "#DDDDDD", "#AAAA00",
)  # fmt: skip
FIRST, LAST = "#332288", "#882255"  # outlines on top of those


def tap_colors(kernel_size: Ints) -> list[list[str]]:
    """A colour for each tap of a filter, as :func:`cells` takes them; beyond nine they come again.

    Args:
        kernel_size: (R, S), or one int for both.

    Example:
        >>> tap_colors((1, 2))
        [['#77AADD', '#EE8866']]
    """
    R, S = _per_axis(kernel_size, 2)
    return [[COLORS[(r * S + s) % len(COLORS)] for s in range(S)] for r in range(R)]


def conv_matrix(
    ax: Axes,
    weight: Tensor,
    input_size: Ints,
    stride: Ints = 1,
    padding: Ints | str = 0,
    dilation: Ints = 1,
    groups: int = 1,
    *,
    names: Sequence[str] | None = None,
    windows: Sequence[Window] = (),
    labels: bool = False,
    title: str = "",
    fontsize: float = 9,
) -> None:
    """Draws the matrix C of a convolution: one colour for each tap, nothing where it is zero.

    Heavy lines part the blocks C_kc of filter k and channel c.

    Args:
        ax: where.
        weight: (K, C / groups, R, S).
        input_size, stride, padding, dilation, groups: as for :func:`cnn_ext.matrix.conv_matrix`.
        names: what is written into an entry, one for each weight in its order; ``()`` for nothing;
            the weights' values by default.
        windows: outlines, as for :func:`cells`.
        labels: whether to name the columns x and the rows y by their cells.
        title: above.
        fontsize: of the entries and labels, in points.

    Raises:
        ValueError: ``names`` are not one for each weight.

    Example:
        >>> ax = Figure().subplots()
        >>> conv_matrix(ax, torch.ones(1, 1, 1, 2), (1, 3), names="ab")
        >>> [text.get_text() for text in ax.texts if text.get_text()]  # a b 0, 0 a b
        ['a', 'b', 'a', 'b']
    """
    if names is not None and len(names) not in (0, weight.numel()):
        raise ValueError(f"names: expected {weight.numel()}, one for each weight, got {len(names)}")
    arguments = (input_size, stride, padding, dilation, groups)
    numbers = torch.arange(1, weight.numel() + 1, dtype=torch.float64).view(weight.shape)
    which = matrix.conv_matrix(numbers, *arguments, layout=torch.strided).long() - 1  # -1: no weight
    K, _, R, S = weight.shape
    taps = [color for row in tap_colors((R, S)) for color in row]
    colors = [["white" if w < 0 else taps[w % (R * S)] for w in row] for row in which.tolist()]
    cells(ax, torch.full(which.shape, float("nan")), colors=colors, windows=windows, title=title)
    texts = [f"{w:g}" for w in weight.flatten().tolist()] if names is None else names
    for row, column in (which >= 0).nonzero().tolist() if len(texts) else ():
        _write(ax, column, row, texts[int(which[row, column])], fontsize)
    size = _per_axis(input_size, 2)[-2:]
    rows, columns = len(which) // K, size[0] * size[1]  # of one block
    for row in range(rows, len(which), rows):
        ax.axhline(row - 0.5, color="black", linewidth=2, zorder=3)
    for column in range(columns, which.shape[1], columns):
        ax.axvline(column - 0.5, color="black", linewidth=2, zorder=3)
    if labels:
        output = matrix.output_size(size, (R, S), stride, padding, dilation)
        for column, name in enumerate(_names("x", size, which.shape[1] // columns)):
            _write(ax, column, -1, name, fontsize)
        for row, name in enumerate(_names("y", output, K)):
            _write(ax, -1.2, row, name, fontsize)
        ax.set(xlim=(-1.8, which.shape[1] - 0.4), ylim=(len(which) - 0.4, -1.5))


def _names(letter: str, size: Any, maps: int) -> list[str]:
    """Of all cells of all maps, with the map's number where there are several."""
    axes = [range(n) for n in ((maps, *size) if maps > 1 else size)]
    return [f"${letter}_{{{_index(cell)}}}$" for cell in itertools.product(*axes)]


def _index(numbers: Sequence[int]) -> str:
    """01, or 0,10 where 010 could be read in two ways."""
    return ("," if max(numbers) > 9 else "").join(str(n) for n in numbers)


def _write(ax: Axes, x: float, y: float, text: str, fontsize: float, color: str = "black") -> None:
    ax.text(x, y, text, ha="center", va="center", fontsize=fontsize, color=color, zorder=3)


def patch_product(
    image: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: Ints = 1,
    padding: Ints = 0,
    dilation: Ints = 1,
    fmt: str = "{:g}",
) -> Figure:
    """The filters times the patch matrix: im2col, every number written out.

    Args:
        image: (C, H, W).
        weight: (K, C, R, S).
        bias: (K,): one more column of the filters, on a row of ones.
        stride, padding, dilation: as for :func:`cnn_ext.functional.unfold`.
        fmt: of one number.

    Returns:
        The channels of the image, with the first and the last patch outlined; the filters (K, C R S);
        the patch matrix (C R S, P Q), with those patches' columns outlined; the product.

    Example:
        >>> figure = patch_product(torch.ones(1, 3, 3), torch.ones(1, 1, 2, 2))
        >>> [text.get_text() for text in figure.axes[-1].texts]
        ['4', '4', '4', '4']
    """
    C, K, R, S = image.shape[0], *weight.shape[:1], *weight.shape[2:]
    filters = weight.detach().flatten(1)
    patches = functional.unfold(image, (R, S), dilation, padding, stride)
    colors = [color for _ in range(C) for row in tap_colors((R, S)) for color in row]
    if bias is not None:
        filters = torch.cat([filters, bias.detach().view(-1, 1)], 1)
        patches = torch.cat([patches, torch.ones_like(patches[:1])])
        colors.append("white")
    product = filters @ patches
    rows, columns = patches.shape
    vertical, horizontal = _per_axis(padding, 2)
    width = image.shape[2] + 2 * horizontal
    widths = [count + 0.2 for count in (width, len(colors), columns, columns)]
    tall = max(C * (image.shape[1] + 2 * vertical + 1), rows, 4)
    figure = Figure(figsize=(0.3 * sum(widths) + 1.6, 0.3 * tall + 0.6), layout="constrained")
    grid = figure.add_gridspec(1, 4, width_ratios=widths)
    maps: Any = grid[0].subgridspec(C, 1).subplots(squeeze=False)
    ends = _patch_outlines(image, (R, S), (vertical, horizontal), stride, dilation)
    for c, ax in enumerate(maps[:, 0]):
        title = "image" if C == 1 else f"channel {c}"
        cells(ax, image[c], padding=padding, windows=ends, fmt=fmt, title=title)
    axes = [figure.add_subplot(grid[i]) for i in (1, 2, 3)]
    outlines = [(0, 0, rows, 1, FIRST), (0, columns - 1, rows, 1, LAST)]
    cells(axes[0], filters, colors=[colors] * K, fmt=fmt, title="filters")
    cells(axes[1], patches, colors=[[c] * columns for c in colors], windows=outlines, fmt=fmt,
          title="× patch matrix")  # fmt: skip
    ends = [(0, 0, K, 1, FIRST), (0, columns - 1, K, 1, LAST)]
    cells(axes[2], product, windows=ends, fmt=fmt, title="= output cells")
    return figure


def _patch_outlines(image: Tensor, kernel: Any, padding: Any, stride: Ints, dilation: Ints) -> list:
    """Where the first and the last patch of an image lie."""
    strides, dilations = _per_axis(stride, 2), _per_axis(dilation, 2)
    output: Any = matrix.output_size(tuple(image.shape[1:]), kernel, strides, padding, dilations)
    height, width = (d * (count - 1) + 1 for d, count in zip(dilations, kernel, strict=True))
    row, column = ((n - 1) * s - p for n, s, p in zip(output, strides, padding, strict=True))
    return [(-padding[0], -padding[1], height, width, FIRST), (row, column, height, width, LAST)]


def forward_set(
    cell: Sequence[int],
    input_size: Sequence[int],
    kernel_size: Ints,
    stride: Ints = 1,
    padding: Ints = 0,
    dilation: Ints = 1,
) -> Figure:
    """The forward set of one input cell: the output cells it reaches, each in the colour of its tap.

    Args:
        cell: (row, column) of the input.
        input_size: (H, W).
        kernel_size, stride, padding, dilation: as for :func:`cnn_ext.matrix.forward_set`.

    Returns:
        The input with the cell x filled; the filter, its taps named; the output, where the cells of
        the forward set bear the tap through which x enters them.

    Example:
        >>> figure = forward_set((1, 1), (3, 3), 2)
        >>> [text.get_text() for text in figure.axes[2].texts if text.get_text()]
        ['$w_{11}$', '$w_{10}$', '$w_{01}$', '$w_{00}$']
    """
    R, S = _per_axis(kernel_size, 2)
    size = (int(input_size[0]), int(input_size[1]))
    output: Any = matrix.output_size(size, (R, S), stride, padding, dilation)
    taps = tap_colors((R, S))
    reached = dict(matrix.forward_set(cell, size, (R, S), stride, padding, dilation))
    shapes = [size, (R, S), output]
    tall = max(shape[0] for shape in shapes) + 2 * max(_per_axis(padding, 2))
    widths = [count + 0.2 for count in (size[1] + 2 * _per_axis(padding, 2)[1], S, output[1])]
    figure = Figure(figsize=(0.45 * sum(widths) + 1.5, 0.45 * tall + 0.6), layout="constrained")
    axes: Any = figure.subplots(1, 3, width_ratios=widths)
    chosen = [["white"] * size[1] for _ in range(size[0])]
    chosen[cell[0]][cell[1]] = "#222222"
    arriving = [["white"] * output[1] for _ in range(output[0])]
    for (p, q), (r, s) in reached.items():
        arriving[p][q] = taps[r][s]
    titles = (f"input cell ({cell[0]}, {cell[1]})", "filter", f"reaches {len(reached)}")
    for ax, shape, colors, title in zip(axes, shapes, (chosen, taps, arriving), titles, strict=True):
        zeros = padding if ax is axes[0] else 0
        cells(ax, torch.full(shape, float("nan")), padding=zeros, colors=colors, title=title)
    named = {(r, s): (r, s) for r in range(R) for s in range(S)}
    for ax, pairs in ((axes[1], named), (axes[2], reached)):
        for (row, column), (r, s) in pairs.items():
            _write(ax, column, row, f"$w_{{{_index((r, s))}}}$", 10)
    _write(axes[0], cell[1], cell[0], "$x$", 10, "white")
    return figure


def tap_graph(
    ax: Axes,
    length: int,
    kernel_size: int,
    stride: int = 1,
    padding: int = 0,
    *,
    backward: bool = False,
    title: str = "",
) -> None:
    """Draws a convolution over one axis as a graph: x below, y above, a coloured line for each tap.

    An output cell stands over the middle of its window. Backward, the gradient g is above and the input
    gradient below it, at the same places, so that both directions show the same lines. Lines from zeros
    are dotted: padding, and what the backward pass of a stride has between the cells of g.

    Args:
        ax: where.
        length: of the input.
        kernel_size, stride, padding: of the convolution.
        backward: draws its input gradient, as the convolution of g that it is.
        title: above.

    Raises:
        ValueError: backward, and more padding than F - 1.

    Example:
        >>> ax = Figure().subplots()
        >>> tap_graph(ax, 5, 3, stride=2, backward=True)  # zeros around the two cells of g and between
        >>> [text.get_text() for text in ax.texts[5:]]
        ['0', '0', '$g_{0}$', '0', '$g_{1}$', '0', '0']
    """
    if backward:
        matrix.backward_padding(kernel_size, padding)  # refuses what has none
    (outputs,) = matrix.output_size((length,), (kernel_size,), (stride,), (padding,))  # type: ignore[misc]
    draw = _backward_graph if backward else _forward_graph
    below, above, lines = draw(length, outputs, kernel_size, stride, padding)
    for i, place, f, solid in lines:
        style: dict = {"linewidth": 2.5} if solid else {"linewidth": 1.2, "linestyle": ":"}
        ax.plot([i, place], [0, 1], color=COLORS[f % len(COLORS)], zorder=1, **style)
    for f in range(kernel_size):  # for a legend
        ax.plot([], [], color=COLORS[f % len(COLORS)], linewidth=2.5, label=f"$w_{{{f}}}$")
    for height, row in ((0.0, below), (1.0, above)):
        for place, text in row:
            _node(ax, place, height, text)
    ax.set(xlim=(-kernel_size + 0.4, length + kernel_size - 1.4), ylim=(-0.25, 1.25))
    ax.set_title(title, fontsize=10)
    ax.axis("off")


# Below and above: places and texts of cells. Lines: input cell, place of the output cell, tap, and
# whether neither end is a zero.
_Graph = tuple[list[tuple[float, str]], list[tuple[float, str]], list[tuple[int, float, int, bool]]]


def _forward_graph(length: int, outputs: int, F: int, stride: int, padding: int) -> _Graph:
    inside = range(length)
    below = [
        (float(i), f"$x_{{{i}}}$" if i in inside else "0") for i in range(-padding, length + padding)
    ]
    first = [j * stride - padding for j in range(outputs)]  # cell of each window
    above = [(start + (F - 1) / 2, f"$y_{{{j}}}$") for j, start in enumerate(first)]
    lines = [
        (start + f, start + (F - 1) / 2, f, start + f in inside) for start in first for f in range(F)
    ]
    return below, above, lines


def _backward_graph(length: int, outputs: int, F: int, stride: int, padding: int) -> _Graph:
    g = {j * stride: j for j in range(outputs)}  # its cells, stride - 1 zeros between them
    shift = (F - 1) / 2 - padding
    below = [(float(i), rf"$\delta_{{{i}}}$") for i in range(length)]
    above = [
        (step + shift, f"$g_{{{g[step]}}}$" if step in g else "0")
        for step in range(padding - F + 1, padding + length)
    ]
    lines = [
        (i, i + padding - f + shift, f, i + padding - f in g) for i in range(length) for f in range(F)
    ]
    return below, above, lines


def _node(ax: Axes, x: float, y: float, text: str) -> None:
    """One cell of a graph; dashed and grey where it is a zero."""
    style: dict = {"edgecolor": FADED, "linestyle": "--"} if text == "0" else {"edgecolor": EDGE}
    ax.add_patch(Rectangle((x - 0.38, y - 0.17), 0.76, 0.34, facecolor="white", zorder=2, **style))
    _write(ax, x, y, text, 9, FADED if text == "0" else "black")
