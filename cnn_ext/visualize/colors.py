"""Colour PCA: the shifts of photographs along each axis, and the cloud of their colours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from matplotlib.figure import Figure
from mpl_toolkits.mplot3d import Axes3D
from torch import Tensor

from cnn_ext import functional
from cnn_ext.transforms import ColorPCA


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
