"""Pictures of networks: filters, feature maps, loss curves. Needs matplotlib."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

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


def feature_maps(network: torch.nn.Module, image: Tensor) -> dict[str, Tensor]:
    """The last output of every child of a network for one image, (maps, H, W), where it has maps.

    Example:
        >>> from cnn_ext.models import lenet5
        >>> maps = feature_maps(lenet5(), torch.zeros(1, 32, 32))
        >>> {name: tuple(map.shape) for name, map in maps.items() if name[0] in "cs"}
        {'c1': (6, 28, 28), 's2': (6, 14, 14), 'c3': (16, 10, 10), 's4': (16, 5, 5), 'c5': (120, 1, 1)}
    """
    maps: dict[str, Tensor] = {}

    def record(name):
        def hook(_module, _inputs, output):
            if output.dim() == 4:
                maps[name] = output[0].detach().clone()

        return hook

    handles = [module.register_forward_hook(record(name)) for name, module in network.named_children()]
    try:
        with torch.no_grad():
            network(image.unsqueeze(0))
    finally:
        for handle in handles:
            handle.remove()
    return maps


def training(losses: Mapping[str, Sequence[float]], network: torch.nn.Module, image: Tensor) -> Figure:
    """Loss curves of several runs, the filters of C1, and the feature maps of one image.

    Args:
        losses: for each run, the loss of every step.
        network: with the layers ``c1``, ``s2`` and ``c3``.
        image: (1, H, W).
    """
    figure = Figure(figsize=(11, 6), layout="constrained")
    axes = figure.subplot_mosaic(
        [["loss", "loss", "loss", "image"], ["c1", "maps1", "maps3", "maps3"]],
        height_ratios=[1, 1],
    )
    styles: list[dict] = [{"linewidth": 2.5}, {"linewidth": 1, "linestyle": "--", "color": "black"}]
    for (name, values), style in zip(losses.items(), styles * len(losses), strict=False):
        axes["loss"].plot(range(1, len(values) + 1), values, label=name, **style)
    axes["loss"].set(xlabel="step", ylabel="loss", yscale="log", title="The same network, twice")
    axes["loss"].legend()
    axes["loss"].grid(alpha=0.3)
    maps = feature_maps(network, image)
    grid(axes["image"], image, 1, f"input, {image.shape[-2]} x {image.shape[-1]}")
    grid(axes["c1"], network.get_parameter("c1.weight")[:, 0], 3, "C1: six learned 5 x 5 filters")
    grid(axes["maps1"], maps["c1"], 3, "C1: its feature maps")
    grid(axes["maps3"], maps["c3"], 8, "C3: its feature maps")
    return figure
