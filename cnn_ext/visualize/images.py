"""Single images and sheets of them, each scaled to its own range."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor


def grid(ax: Axes, images: Tensor, columns: int, title: str) -> None:
    """Draws images side by side, each scaled to its own range.

    Args:
        ax: where.
        images: (count, H, W).
        columns: images in a row.
        title: above.
    """
    count, height, width = images.shape
    rows = -(-count // columns)
    sheet = torch.full((rows * (height + 1) - 1, columns * (width + 1) - 1), float("nan"))
    for i, image in enumerate(images.detach().float()):
        low, high = image.min(), image.max()
        top, left = i // columns * (height + 1), i % columns * (width + 1)
        sheet[top : top + height, left : left + width] = (image - low) / (high - low).clamp(1e-12)
    ax.imshow(sheet.numpy(), cmap="gray", interpolation="nearest")
    ax.set_title(title, fontsize=10)
    ax.axis("off")


def show(ax: Axes, image: Tensor, title: str = "") -> None:
    """Draws one image, scaled to its own range: (3, H, W) in colour, (1, H, W) or (H, W) in grey."""
    image = image.detach().float().cpu()
    low, high = image.min(), image.max()
    image = (image - low) / (high - low).clamp(1e-12)
    if image.dim() == 3 and len(image) == 1:
        image = image[0]
    ax.imshow(
        image.permute(1, 2, 0) if image.dim() == 3 else image, cmap="gray", interpolation="nearest"
    )
    ax.set_title(title, fontsize=8)
    ax.axis("off")


def sheet(images: Sequence[Tensor], columns: int, title: str, titles: Sequence[str] = ()) -> Figure:
    """Images side by side, each with a title of its own if there are any."""
    rows = max(1, -(-len(images) // columns))
    figure = Figure(figsize=(1.2 * columns, 1.3 * rows + 0.4), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    for ax in axes:
        ax.axis("off")
    for i, (ax, image) in enumerate(zip(axes, images, strict=False)):
        show(ax, image, titles[i] if titles else "")
    figure.suptitle(title, fontsize=10)
    return figure
