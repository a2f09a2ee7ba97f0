"""Pictures: filters, feature maps, loss curves; what colour PCA does. Needs matplotlib."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from mpl_toolkits.mplot3d import Axes3D
from torch import Tensor

from cnn_ext import functional
from cnn_ext.transforms import ColorPCA


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


def color_pca(
    images: Sequence[Tensor],
    pca: ColorPCA,
    std: float = 0.1,
    scaling: str = "eigenvalue",
    seed: int = 0,
) -> Figure:
    """What colour PCA does to photographs: each direction at ±1 and ±3 σ, random draws, and the cloud.

    Args:
        images: each (3, H, W), uint8.
        pca: the statistics, of RGB.
        std: of α.
        scaling: as for :class:`cnn_ext.transforms.RandomColorPCA`.
        seed: of the random draws.

    Returns:
        For every image and each of the three axes a row – the photograph, then α = -3, -1, 1 and 3 σ
        along the axis, then three random draws – and beside them the colours of all images in the RGB
        cube with the axes of ``pca``, each 2 √λ long either way.
    """
    steps, draws = (-3, -1, 1, 3), 3
    scale = pca.eigenvalues if scaling == "eigenvalue" else pca.eigenvalues.sqrt()
    generator = torch.Generator().manual_seed(seed)
    rows, columns = 3 * len(images), 1 + len(steps) + draws
    figure = Figure(figsize=(1.5 * columns + 5, 1.15 * rows + 0.5), layout="constrained")
    sides: Any = figure.subfigures(1, 2, width_ratios=[1.5 * columns, 5])
    left, right = sides
    cells = left.subplots(rows, columns, squeeze=False)
    titles = ["original", *(f"α = {step:+d} σ" for step in steps), *["random"] * draws]
    for row in range(rows):
        image, axis = images[row // 3], row % 3
        alphas = torch.zeros(columns, 3, dtype=torch.double)
        alphas[1 : 1 + len(steps), axis] = std * torch.tensor(steps, dtype=torch.double)
        alphas[1 + len(steps) :] = std * torch.randn(draws, 3, generator=generator, dtype=torch.double)
        batch = image.expand(columns, *image.shape)
        shifted = functional.color_pca(batch, pca.eigenvectors, scale, alphas)
        for ax, picture, title in zip(cells[row], shifted, titles, strict=True):
            ax.imshow(picture.permute(1, 2, 0).numpy())
            ax.set(xticks=[], yticks=[], title=title if row == 0 else "")
        cells[row][1].set_ylabel(f"axis {axis + 1}")
    _rgb_cloud(right.add_subplot(projection="3d"), images, pca)
    return figure


def _rgb_cloud(ax: Axes3D, images: Sequence[Tensor], pca: ColorPCA, points: int = 3000) -> None:
    pixels = torch.cat([image.flatten(1).T for image in images]).double() / 255
    colors = pixels[torch.linspace(0, len(pixels) - 1, points).long()]
    mean = pixels.mean(0) if pca.mean is None else pca.mean
    ax.scatter(*colors.T.numpy(), c=colors.numpy(), s=3, depthshade=False)
    for k in range(3):
        reach = 2 * pca.eigenvalues[k].sqrt() * pca.eigenvectors[:, k]
        ends = torch.stack([mean - reach, mean + reach])
        ax.plot(
            *ends.T.numpy(),
            color=f"C{k}",
            linewidth=3,
            label=f"axis {k + 1}: λ = {pca.eigenvalues[k]:.4f}",
        )
    ax.set(xlabel="R", ylabel="G", zlabel="B", xlim=(0, 1), ylim=(0, 1), zlim=(0, 1))
    ax.set_title("colours, and 2 √λ along each axis", fontsize=10)
    ax.legend(loc="upper left", fontsize=8)
