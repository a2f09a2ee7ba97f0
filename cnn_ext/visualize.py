"""Pictures of networks and colours: filters, maps, what excites a filter, curves. Needs matplotlib."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from mpl_toolkits.mplot3d import Axes3D
from torch import Tensor

from cnn_ext import functional
from cnn_ext.matrix import ReceptiveField, receptive_field
from cnn_ext.receptive_field import follow
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
    """The last output of every layer of a network for one image, (maps, H, W), where it has maps.

    A layer is a module without children. Its output is copied before a layer behind it, an in-place
    ReLU say, writes to it.

    Example:
        >>> from cnn_ext.models import lenet5
        >>> maps = feature_maps(lenet5(), torch.zeros(1, 32, 32))
        >>> {name: tuple(map.shape) for name, map in maps.items() if name[0] in "cs"}
        {'c1': (6, 28, 28), 's2': (6, 14, 14), 'c3': (16, 10, 10), 's4': (16, 5, 5), 'c5': (120, 1, 1)}
    """
    return {name: maps[0] for name, maps in _maps(network, image.unsqueeze(0)).items()}


def _maps(network: torch.nn.Module, images: Tensor, layer: str | None = None) -> dict[str, Tensor]:
    """The outputs (N, maps, H, W) of all layers, or of one; the network is left as it was."""
    maps: dict[str, Tensor] = {}

    def record(name):
        def hook(_module, _inputs, output):
            if isinstance(output, Tensor) and output.dim() == 4:
                maps[name] = output.detach().clone()

        return hook

    handles = [
        module.register_forward_hook(record(name))
        for name, module in network.named_modules()
        if name == layer or (layer is None and name and next(module.children(), None) is None)
    ]
    training = network.training
    try:
        with torch.no_grad():
            network.eval()(images)
    finally:
        network.train(training)
        for handle in handles:
            handle.remove()
    return maps


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


def filters(network: torch.nn.Module, layer: str, columns: int = 8) -> Figure:
    """The filters of a convolution: in colour where they see three channels, else their first channel.

    Args:
        network: any.
        layer: name of a convolution with two spatial axes.
        columns: filters in a row.
    """
    weight = getattr(network.get_submodule(layer), "weight", None)
    if not isinstance(weight, Tensor) or weight.dim() != 4:
        raise ValueError(f"layer: expected a convolution over images, got {layer!r}")
    images = list(weight if weight.shape[1] == 3 else weight[:, :1])
    return _sheet(images, columns, f"{layer}: {len(images)} filters")


def _sheet(images: Sequence[Tensor], columns: int, title: str, titles: Sequence[str] = ()) -> Figure:
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


def fields_of(network: torch.nn.Module, size: Sequence[int]) -> dict[str, ReceptiveField]:
    """Receptive fields: by arithmetic, or by experiment where that cannot follow the network."""
    try:
        return follow(network, size)
    except ValueError:
        return receptive_field(network, size)


def exciting_patches(
    network: torch.nn.Module, layer: str, images: Tensor, filter: int, count: int = 8
) -> list[Tensor]:
    """The patches of the images that excite a filter most, the most exciting first.

    Of each image the strongest unit counts; its patch is its receptive field, cut off at the border.

    Args:
        network: any; evaluated in evaluation mode.
        layer: name of a layer with maps (N, filters, P, Q).
        images: (N, C, H, W), as the network takes them.
        filter: which map of the layer.
        count: patches, at most N.

    Returns:
        Patches (C, h, w), of at most the size of the field.

    Example:
        >>> from cnn_ext.models import lenet5
        >>> patches = exciting_patches(lenet5(), "c1", torch.randn(4, 1, 32, 32), filter=0, count=2)
        >>> [tuple(patch.shape) for patch in patches]
        [(1, 5, 5), (1, 5, 5)]
    """
    field = fields_of(network, images.shape[1:]).get(layer)
    maps = _maps(network, images, layer).get(layer)
    if field is None or maps is None:
        raise ValueError(f"layer: expected one with feature maps, got {layer!r}")
    if not 0 <= filter < maps.shape[1]:
        raise ValueError(f"filter: expected 0 to {maps.shape[1] - 1} of {layer!r}, got {filter}")
    strongest, where = maps[:, filter].flatten(1).max(1)
    patches = []
    for n in strongest.argsort(descending=True)[:count]:
        cell = divmod(int(where[n]), maps.shape[3])
        top, bottom, left, right = _extent(field, cell, images.shape[2:])
        patches.append(images[n, :, top:bottom, left:right])
    return patches


def _extent(field: ReceptiveField, cell: Sequence[int], size: Sequence[int]) -> list[int]:
    """First and one past the last pixel that a unit sees, along both axes, within the image."""
    extent = []
    for p, n, r, stride, offset in zip(cell, size, *field, strict=True):
        centre = offset + (p * stride if p else 0)
        extent += [max(0, round(centre - (r - 1) / 2)), min(n, round(centre + (r - 1) / 2) + 1)]
    return extent


def receptive_fields(network: torch.nn.Module, image: Tensor) -> Figure:
    """The receptive field of the middle unit of every layer that sees more, drawn on the image.

    Args:
        network: any.
        image: (C, H, W), as the network takes it.
    """
    maps, fields = feature_maps(network, image), fields_of(network, image.shape)
    figure = Figure(figsize=(6, 6), layout="constrained")
    ax = figure.subplots()
    show(ax, image)
    drawn: set[tuple[int, ...]] = set()
    colours = ("C0", "C1", "C2", "C3", "C4", "C5", "C6", "C7", "C8", "C9")
    for name, map in maps.items():
        if name not in fields or fields[name].size in drawn:
            continue
        drawn.add(fields[name].size)
        middle = [n // 2 for n in map.shape[1:]]
        top, bottom, left, right = _extent(fields[name], middle, image.shape[1:])
        box = (left - 0.5, top - 0.5), right - left, bottom - top
        colour = colours[len(drawn) % len(colours)]
        label = f"{name}: {fields[name].size[0]} x {fields[name].size[1]}"
        ax.add_patch(Rectangle(*box, fill=False, edgecolor=colour, linewidth=1.5, label=label))
    figure.legend(loc="outside lower center", ncols=3, fontsize=7)
    return figure


def hierarchy(
    network: torch.nn.Module, layers: Sequence[str], images: Tensor, count: int = 6, filters: int = 4
) -> Figure:
    """From edges to parts: for each layer, what excites a few of its filters most.

    Args:
        network: trained, or there is little to see.
        layers: names of layers with maps, from the image upwards.
        images: (N, C, H, W), as the network takes them.
        count: patches for each filter.
        filters: of each layer, those that any image excites most.
    """
    figure = Figure(figsize=(0.7 * count * filters, 0.9 * len(layers) + 0.4), layout="constrained")
    rows = figure.subplots(len(layers), count * filters, squeeze=False)
    for row, layer in zip(rows, layers, strict=True):
        maps = _maps(network, images, layer).get(layer)
        if maps is None:
            raise ValueError(f"layers: expected names of layers with feature maps, got {layer!r}")
        best = maps.amax((0, 2, 3)).argsort(descending=True)[:filters].tolist()
        for ax in row:
            ax.axis("off")
        for i, filter in enumerate(best):
            patches = exciting_patches(network, layer, images, filter, count)
            for ax, patch in zip(row[i * count :], patches, strict=False):
                show(ax, patch)
            row[i * count].set_title(f"{layer} #{filter}", fontsize=7, loc="left")
    return figure


def confusion_matrix(labels: Tensor, guesses: Tensor, classes: Sequence[str]) -> Figure:
    """How often each class (row) was taken for each (column).

    Args:
        labels, guesses: (N,) integers.
        classes: their names.
    """
    count = len(classes)
    table = torch.bincount(labels * count + guesses, minlength=count * count).view(count, count)
    side = max(4, min(14, 0.5 * count + 2))
    figure = Figure(figsize=(side, side), layout="constrained")
    ax = figure.subplots()
    ax.imshow(table.numpy(), cmap="Blues")
    right = table.diag().sum().item() / max(1, len(labels))
    ax.set(xlabel="taken for", ylabel="is", title=f"{right:.1%} of {len(labels)} are right")
    if count <= 20:
        ax.set_xticks(range(count), classes, rotation=90, fontsize=8)
        ax.set_yticks(range(count), classes, fontsize=8)
        for i, j in table.nonzero().tolist():
            dark = table[i, j] > table.max() / 2
            ax.text(j, i, str(int(table[i, j])), ha="center", va="center", fontsize=7,
                    color="white" if dark else "black")  # fmt: skip
    return figure


def mistakes(samples: Sequence[tuple[Tensor, str, str]]) -> Figure:
    """Images with what they are and what they were taken for: (C, H, W), class, guess."""
    titles = [f"{true}\nnot {guess}" for _, true, guess in samples]
    heading = "Taken for something else, the surest first" if samples else "Not one mistake"
    return _sheet([image for image, _, _ in samples], 8, heading, titles)


def curves(runs: Mapping[str, Mapping[str, Sequence[float]]], smooth: int = 20) -> Figure:
    """Loss curves of networks that were trained on several builds: one panel each.

    Args:
        runs: by network and build, the loss of every step.
        smooth: steps of a running mean.
    """
    figure = Figure(figsize=(4.5 * len(runs), 3.4), layout="constrained")
    for ax, (name, builds) in zip(
        figure.subplots(1, len(runs), squeeze=False)[0], runs.items(), strict=True
    ):
        styles: list[dict] = [{"linewidth": 2.5}, {"linewidth": 1, "linestyle": "--", "color": "black"}]
        for (build, losses), style in zip(builds.items(), styles, strict=False):
            means = torch.tensor(losses).unfold(0, min(smooth, len(losses)), 1).mean(1)
            ax.plot(means, label=build, **style)
        ax.set(title=name, xlabel="step", ylabel="loss")
        ax.legend()
        ax.grid(alpha=0.3)
    return figure


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
