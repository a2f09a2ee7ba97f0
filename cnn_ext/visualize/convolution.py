"""Convolution itself: one step of it, who is connected with whom, how layers stack, signed maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Polygon, Rectangle
from torch import Tensor

from cnn_ext.functional import Ints, _per_axis, conv2d, padding_amounts
from cnn_ext.visualize.cells import cells

HERE, DARK = "C1", "#a04000"  # the colours of what is looked at
# Okabe and Ito's colours, which tell apart for everybody, the yellow left out.
PALETTE = ("#0072b2", "#e69f00", "#000000", "#56b4e9", "#d55e00", "#009e73", "#cc79a7")
SHEETS = 12  # maps that are drawn of a layer; the label counts them all


def step(
    image: Tensor,
    filter: Tensor,
    cell: tuple[int, int],
    *,
    stride: Ints = 1,
    padding: Ints | str = 0,
    fmt: str = "{:g}",
) -> Figure:
    """One step of a convolution: the window, the filter, their products, and the cell they sum to.

    Args:
        image: (H, W), small enough to read.
        filter: (R, S).
        cell: (p, q), of the output.
        stride, padding: as for :func:`cnn_ext.functional.conv2d`.
        fmt: of one number.

    Raises:
        IndexError: the output has no such cell.

    Example:
        >>> figure = step(torch.ones(4, 4), torch.ones(3, 3), (0, 1))
        >>> [ax.get_title() for ax in figure.axes]
        ['input', 'filter', 'products, sum 9', 'output']
    """
    image, filter = image.double(), filter.double()
    strides = _per_axis(stride, 2)
    amounts = padding_amounts(padding, image.shape, filter.shape, strides, (1, 1))
    output = conv2d(image[None], filter[None, None], stride=strides, padding=amounts)[0]
    (p, q), (R, S) = cell, filter.shape
    if not (0 <= p < output.shape[0] and 0 <= q < output.shape[1]):
        raise IndexError(f"cell: expected one of the {tuple(output.shape)} output, got {cell}")
    top, left = p * strides[0], q * strides[1]  # within the padded image
    products = F.pad(image, amounts)[top : top + R, left : left + S] * filter
    window = (top - amounts[2], left - amounts[0], R, S, HERE)
    panels: list[tuple[str, Tensor, dict[str, Any]]] = [
        ("input", image, {"padding": amounts, "windows": [window]}),
        ("filter", filter, {"colors": [[_tint(HERE)] * S] * R}),
        (f"products, sum {fmt.format(products.sum().item())}", products, {}),
        ("output", output, {"windows": [(p, q, 1, 1, HERE)]}),
    ]
    columns = image.shape[1] + amounts[0] + amounts[1], S, S, output.shape[1]
    rows = image.shape[0] + amounts[2] + amounts[3], R, output.shape[0]
    size = 0.3 * (sum(columns) + 9), max(0.3 * (max(rows) + 3), 1.5)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(1, 4, width_ratios=[count + 1.2 for count in columns])
    for ax, sign, (title, values, extra) in zip(axes, ("", "×", "=", "→"), panels, strict=True):
        cells(ax, values, fmt=fmt, title=title, **extra)
        ax.text(0, 0.5, sign, ha="right", va="center", fontsize=14, transform=ax.transAxes)
    return figure


def _tint(colour: str) -> tuple[float, ...]:
    """The colour, thinned for a background."""
    return tuple(1 - 0.35 * (1 - part) for part in to_rgb(colour))


def connections(ax: Axes, matrix: Tensor, title: str = "") -> None:
    """A linear layer as a graph: inputs below, outputs above, a line for each weight that is not zero.

    Equal weights have equal colours, if there are at most seven different ones; otherwise all are grey.

    Args:
        ax: where.
        matrix: (outputs, inputs); dense or sparse.
        title: above.

    Example:
        >>> from cnn_ext.matrix import conv_matrix
        >>> ax = Figure().subplots()
        >>> connections(ax, conv_matrix(torch.tensor([[[1.0, 2.0, 3.0]]]), 7))
        >>> len(ax.lines), len({line.get_color() for line in ax.lines})
        (15, 3)
    """
    matrix = matrix.to_dense() if matrix.layout != torch.strided else matrix
    outputs, inputs = matrix.shape
    shift = (inputs - outputs) / 2  # outputs stand in the middle above their inputs
    values = matrix[matrix != 0].unique().tolist()
    for p, i in matrix.nonzero().tolist():
        shared = len(values) <= len(PALETTE)
        colour = PALETTE[values.index(matrix[p, i].item())] if shared else "0.6"
        ax.plot([i, p + shift], [0, 1], color=colour, linewidth=1.6, zorder=1)
    for letter, count, height, start in (("x", inputs, 0, 0.0), ("y", outputs, 1, shift)):
        for i in range(count):
            ax.scatter(i + start, height, s=330, color="white", edgecolor="0.2", zorder=2)
            ax.text(i + start, height, f"${letter}_{{{i}}}$", ha="center", va="center", fontsize=10)
    ax.set_xlim(-0.6, max(inputs, outputs + shift) - 0.4)
    ax.set_ylim(-0.25, 1.25)
    ax.set_title(title, fontsize=10)
    ax.axis("off")


def stacks(sizes: Sequence[Sequence[int]], kernels: Sequence[Sequence[int]] = ()) -> Figure:
    r"""Layers as stacks of maps, each with the window that one cell of the next layer sees.

    Args:
        sizes: (C, H, W) of the image and of every layer behind it. Of more than twelve maps, twelve
            are drawn.
        kernels: (R, S) of the layers between, one fewer than ``sizes``, or none.

    Raises:
        ValueError: another number of kernels.

    Example:
        >>> figure = stacks([(3, 32, 32), (5, 28, 28)], [(5, 5)])
        >>> [text.get_text() for text in figure.axes[0].texts]
        ['3 maps\n32 x 32', '5 maps\n28 x 28', '5 filters\n3 x 5 x 5']
    """
    if kernels and len(kernels) != len(sizes) - 1:
        raise ValueError(
            f"kernels: expected {len(sizes) - 1} between {len(sizes)} sizes, got {kernels}"
        )
    unit = 1 / max(max(H, W) for _, H, W in sizes)
    figure = Figure(figsize=(2.7 * len(sizes), 2.5), layout="constrained")
    ax = figure.subplots()
    for i, size in enumerate(sizes):
        _stack(ax, 2.0 * i, size, unit)
    # The cell that is looked at, in every layer: within the window of the next.
    cells = [(2.0 * i + 0.35 * W * unit, 0.1 * H * unit) for i, (_, H, W) in enumerate(sizes)]
    for i, kernel in enumerate(kernels):
        _sees(ax, cells[i], cells[i + 1], kernel, unit)
        text = f"{sizes[i + 1][0]} filters\n{sizes[i][0]} x {kernel[0]} x {kernel[1]}"
        ax.text(2.0 * i + 1.5, -0.57, text, ha="center", va="top", fontsize=9, color=DARK)
    ax.set_xlim(-0.1, 2.0 * len(sizes) - 0.35)
    ax.set_ylim(-0.85, 1.15)
    ax.set_aspect("equal")
    ax.axis("off")
    return figure


def _stack(ax: Axes, x: float, size: Sequence[int], unit: float) -> None:
    """The maps of one layer, one behind the other, and what they are."""
    C, H, W = size
    for sheet in reversed(range(min(C, SHEETS))):  # the front one last
        corner = x + 0.05 * sheet, -H * unit / 2 + 0.05 * sheet
        ax.add_patch(
            Rectangle(corner, W * unit, H * unit, facecolor="0.93", edgecolor="0.35", linewidth=0.8)
        )
    text = f"{C} map{'s' if C > 1 else ''}\n{H} x {W}"
    ax.text(x + W * unit / 2, -0.57, text, ha="center", va="top", fontsize=9)


def _sees(ax: Axes, cell, next_cell, kernel: Sequence[int], unit: float) -> None:
    """A window around a cell, and what it shrinks to in the next layer."""
    (R, S), (p, q) = kernel, next_cell
    x, y = cell[0] - (S - 1) // 2 * unit, cell[1] - (R - 1) // 2 * unit
    width, height = S * unit, R * unit
    wedge = [(x + width, y), (x + width, y + height), (p, q + unit), (p, q)]
    ax.add_patch(Polygon(wedge, facecolor=HERE, alpha=0.18, edgecolor=HERE, zorder=2.5))
    ax.add_patch(Rectangle((x, y), width, height, facecolor=_tint(HERE), edgecolor=HERE, zorder=3))
    ax.add_patch(Rectangle((p, q), unit, unit, facecolor=DARK, zorder=4))


def signed_map(ax: Axes, values: Tensor, title: str = "", limit: float | None = None) -> None:
    """Draws a map whose sign matters: purple below zero, white at zero, orange above.

    Args:
        ax: where.
        values: (H, W).
        title: above.
        limit: the value of full colour; by default that of the 99th percentile of all sizes.
    """
    values = values.detach().float()
    if limit is None:
        limit = values.abs().flatten().kthvalue(max(1, round(0.99 * values.numel()))).values.item()
    bound = limit or 1.0
    ax.imshow(
        values.numpy(), cmap=colormaps["PuOr_r"], vmin=-bound, vmax=bound, interpolation="nearest"
    )
    ax.set_title(title, fontsize=9)
    ax.axis("off")
