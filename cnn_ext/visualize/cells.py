"""Small tensors as the grids of numbers they are, for arithmetic that is followed by eye."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.patches import Rectangle
from torch import Tensor

from cnn_ext.functional import Ints, padding_amounts

EDGE, FADED = "0.35", "0.55"
Window = tuple[float, float, float, float, Any]  # row, column, height, width, colour


def cells(
    ax: Axes,
    values: Tensor,
    *,
    padding: Ints = 0,
    windows: Sequence[Window] = (),
    colors: Any = None,
    fmt: str = "{:g}",
    title: str = "",
    fontsize: float = 9,
) -> None:
    """Draws a small tensor as a grid of cells with its numbers written in.

    Cell (row i, column j) is the unit square around the point x = j, y = i, rows downwards. A NaN is an
    empty cell.

    Args:
        ax: where.
        values: (H, W), of any dtype.
        padding: zeros drawn around it, dashed and grey: an int; two (vertical, horizontal); or four
            (left, right, top, bottom), as :func:`cnn_ext.functional.conv2d` takes it.
        windows: outlines (row, column, height, width, colour), in cells of the unpadded tensor;
            negative rows and columns reach into the padding.
        colors: of the cells: a tensor or array (H, W, 3) or (H, W, 4) on [0, 1]; one (H, W), drawn
            from white for the smallest to dark blue for the largest; or H rows of W of matplotlib's
            colours.
        fmt: of one number.
        title: above.
        fontsize: of the numbers, in points.

    Raises:
        ValueError: ``values`` or ``colors`` has another shape.

    Example:
        >>> import torch
        >>> from matplotlib.figure import Figure
        >>> ax = Figure().subplots()
        >>> cells(ax, torch.eye(3), padding=1, windows=[(-1, -1, 3, 3, "C1")])
        >>> len(ax.texts)  # 3 x 3 numbers and 16 zeros around them
        25
    """
    if values.dim() != 2:
        raise ValueError(f"values: expected 2 dimensions (H, W), got shape {list(values.shape)}")
    H, W = values.shape
    left, right, top, bottom = padding_amounts(padding, (H, W), (1, 1), (1, 1), (1, 1))
    faces = _faces(colors, H, W)
    for i in range(-top, H + bottom):
        for j in range(-left, W + right):
            if 0 <= i < H and 0 <= j < W:
                number = values[i, j].item()
                text = "" if number != number else fmt.format(number)
                _cell(ax, i, j, text, faces[i, j], fontsize)
            else:
                _cell(ax, i, j, "0", (1.0, 1.0, 1.0, 0.0), fontsize, padded=True)
    for row, column, height, width, colour in windows:
        corner = column - 0.5, row - 0.5
        ax.add_patch(
            Rectangle(corner, width, height, fill=False, edgecolor=colour, linewidth=2.5, zorder=4)
        )
    margin = 0.6  # so that outlines at the border are drawn whole
    ax.set_xlim(-left - margin, W + right - 1 + margin)
    ax.set_ylim(H + bottom - 1 + margin, -top - margin)
    ax.set_aspect("equal")
    ax.axis("off")
    ax.set_title(title, fontsize=10)


def _faces(colors: Any, H: int, W: int) -> np.ndarray:
    """(H, W, 4): the colour of every cell."""
    if colors is None:
        return np.ones((H, W, 4))
    if isinstance(colors, Tensor | np.ndarray):
        array = np.asarray(colors, dtype=float)
    else:
        array = np.array([[to_rgba(colour) for colour in row] for row in colors])
    shape = array.shape
    if shape == (H, W):
        low, high = array.min(), array.max()
        array = colormaps["Blues"]((array - low) / max(high - low, 1e-12))
    elif shape == (H, W, 3):
        array = np.concatenate([array, np.ones((H, W, 1))], axis=2)
    if array.shape != (H, W, 4):
        raise ValueError(
            f"colors: expected ({H}, {W}), ({H}, {W}, 3) or ({H}, {W}, 4), got {list(shape)}"
        )
    return array


def _cell(
    ax: Axes, i: int, j: int, text: str, face: Any, fontsize: float, *, padded: bool = False
) -> None:
    """One square and its number, dark on light colours and light on dark ones."""
    ax.add_patch(
        Rectangle(
            (j - 0.5, i - 0.5),
            1,
            1,
            facecolor=face,
            edgecolor=FADED if padded else EDGE,
            linestyle="--" if padded else "-",
            linewidth=0.6,
            zorder=1 if padded else 2,
        )
    )
    red, green, blue, alpha = face
    luminance = 0.299 * red + 0.587 * green + 0.114 * blue
    ink = FADED if padded else "white" if luminance * alpha + (1 - alpha) < 0.5 else "black"
    ax.text(j, i, text, ha="center", va="center", fontsize=fontsize, color=ink, zorder=3)
