"""Colour PCA: the shifts of photographs along each axis, and the cloud of their colours.

Pictures here are drawn as they are, never scaled to their own range: a shift would be undone by that.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from matplotlib.axes import Axes
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


def pictures(images: Mapping[str, Tensor], columns: int = 4, width: float = 8.5) -> Figure:
    """Images side by side under their titles, in their own colours and brightness.

    Args:
        images: by title, each (3, H, W) or (1, H, W); uint8, or floating point on [0, 1], of which
            what lies outside is cut off.
        columns: images in a row.
        width: of the whole, in inches.

    Example:
        >>> figure = pictures({"grey": torch.full((3, 4, 4), 127, dtype=torch.uint8)})
        >>> figure.axes[0].get_title()
        'grey'
    """
    rows = -(-len(images) // columns)
    tallest = max(image.shape[-2] / image.shape[-1] for image in images.values())
    lines = 1 + max(title.count("\n") for title in images)
    height = rows * (width / columns * tallest + 0.22 * lines)
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    for ax, (title, image) in zip(axes, images.items(), strict=False):
        _picture(ax, image)
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_color("0.8")  # a white picture on white paper is a picture too
        ax.set_title(title, fontsize=9)
    for ax in axes[len(images) :]:
        ax.axis("off")
    return figure


class jpeg:  # noqa: N801 - read as a function
    """A figure that a notebook shows, and keeps, as JPEG: for photographs, smaller than PNG.

    Args:
        figure: any.
        quality: 1 to 95.

    Example:
        >>> shown = jpeg(pictures({"grey": torch.full((3, 4, 4), 127, dtype=torch.uint8)}))
        >>> shown._repr_jpeg_()[:3].hex()  # how every JPEG begins
        'ffd8ff'
    """

    def __init__(self, figure: Figure, quality: int = 75) -> None:
        self.figure, self.quality = figure, quality

    def _repr_jpeg_(self) -> bytes:
        """What IPython looks for."""
        file = io.BytesIO()
        pillow = {"quality": self.quality}
        self.figure.savefig(file, format="jpeg", bbox_inches="tight", pil_kwargs=pillow)
        return file.getvalue()


def _picture(ax: Axes, image: Tensor) -> None:
    top = 255 if image.dtype == torch.uint8 else 1
    cells = image.detach().clamp(0, top).movedim(0, -1).numpy()
    ax.imshow(cells if cells.shape[-1] == 3 else cells[..., 0], cmap="gray", vmin=0, vmax=top)


def axis_shifts(
    image: Tensor,
    pca: ColorPCA,
    std: float = 0.1,
    steps: Sequence[float] = (-3, -1, 0, 1, 3),
    scaling: str = "eigenvalue",
) -> Figure:
    """A photograph shifted along each axis of its colours: a row for each axis.

    Args:
        image: (3, H, W), uint8.
        pca: the statistics, of RGB.
        std: σ, of α.
        steps: α in units of σ, one for each column.
        scaling: as for :class:`cnn_ext.transforms.RandomColorPCA`.

    Returns:
        Beside each row its eigenvalue, and what one σ adds to R, G and B in grey levels.
    """
    scale = pca.eigenvalues if scaling == "eigenvalue" else pca.eigenvalues.sqrt()
    height = 3 * 7.2 / len(steps) * image.shape[1] / image.shape[2] + 0.4
    figure = Figure(figsize=(7.2 + 1.3, height), layout="constrained")
    rows = figure.subplots(3, len(steps), squeeze=False)
    for axis, row in enumerate(rows):
        one = 255 * std * scale[axis] * pca.eigenvectors[:, axis]
        levels = ", ".join(f"{level:+.2f}" for level in one.tolist())
        for ax, step in zip(row, steps, strict=True):
            alphas = torch.zeros(3, dtype=torch.double)
            alphas[axis] = step * std
            _picture(ax, functional.color_pca(image, pca.eigenvectors, scale, alphas))
            ax.set(xticks=[], yticks=[])
            if axis == 0:
                ax.set_title(f"α = {step:+g} σ" if step else "α = 0", fontsize=9)
        label = f"axis {axis + 1}\nλ = {pca.eigenvalues[axis]:.4f}\n1 σ in grey levels:\n{levels}"
        row[0].set_ylabel(label, fontsize=8, rotation=0, ha="right", va="center")
    return figure


def color_cloud(images: Sequence[Tensor], pca: ColorPCA) -> Figure:
    """The colours of photographs in the RGB cube with the axes of ``pca``, and along these axes.

    Args:
        images: each (3, H, W), uint8.
        pca: the statistics, of RGB.

    Returns:
        Three panels: the cube, each axis 2 √λ long either way; the colours along axes 1 and 2; along
        axes 2 and 3, at the same scale.
    """
    figure = Figure(figsize=(8.5, 3.1), layout="constrained")
    panels = figure.add_gridspec(1, 3, width_ratios=[1.25, 1, 1])
    cube: Any = figure.add_subplot(panels[0], projection="3d")
    _rgb_cloud(cube, images, pca)
    cube.set_title("RGB, and 2 √λ along each axis", fontsize=9)
    cube.set_box_aspect(None, zoom=0.82)
    for ticks in (cube.xaxis, cube.yaxis, cube.zaxis):
        ticks.set_ticks([0, 1])
        ticks.labelpad = -8
    colors, mean = _some_colors(images, pca)
    along = (colors - mean) @ pca.eigenvectors
    for place, (i, j) in enumerate(((0, 1), (1, 2))):
        ax = figure.add_subplot(panels[1 + place])
        ax.scatter(along[:, i], along[:, j], c=colors.numpy(), s=3)
        ax.set(xlabel=f"along axis {i + 1}", ylabel=f"along axis {j + 1}", aspect="equal")
        ax.set(xlim=(-1, 1), ylim=(-1, 1), facecolor="0.93", xticks=[-1, 0, 1], yticks=[-1, 0, 1])
    return figure


def _some_colors(images: Sequence[Tensor], pca: ColorPCA, points: int = 3000) -> tuple[Tensor, Tensor]:
    """Colours on [0, 1], (points, 3), evenly picked of all pixels; and the mean."""
    pixels = torch.cat([image.flatten(1).T for image in images]).double() / 255
    colors = pixels[torch.linspace(0, len(pixels) - 1, points).long()]
    return colors, pixels.mean(0) if pca.mean is None else pca.mean


def _rgb_cloud(ax: Axes3D, images: Sequence[Tensor], pca: ColorPCA) -> None:
    colors, mean = _some_colors(images, pca)
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
