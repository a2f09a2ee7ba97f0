"""What a network sees: its filters, its maps, what excites them, receptive fields, the hierarchy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from cnn_ext._inspection import Call, looking_at, watch
from cnn_ext.matrix import ReceptiveField
from cnn_ext.receptive_field import fields_of
from cnn_ext.visualize.images import sheet, show


def feature_maps(network: torch.nn.Module, image: Tensor) -> dict[str, Tensor]:
    """The last output of every layer of a network for one image, (maps, H, W), where it has maps.

    A layer is a module that calls no other. Its output is copied before a layer behind it, an in-place
    ReLU say, writes to it. The network, which runs in evaluation mode, and the image stay as they are.

    Example:
        >>> from cnn_ext.models import lenet5
        >>> maps = feature_maps(lenet5(), torch.zeros(1, 32, 32))
        >>> {name: tuple(map.shape) for name, map in maps.items() if name[0] in "cs"}
        {'c1': (6, 28, 28), 's2': (6, 14, 14), 'c3': (16, 10, 10), 's4': (16, 5, 5), 'c5': (120, 1, 1)}
    """
    return {name: maps[0] for name, maps in _maps(network, image.unsqueeze(0)).items()}


def _maps(network: torch.nn.Module, images: Tensor, layer: str | None = None) -> dict[str, Tensor]:
    """The outputs (N, maps, H, W) of all layers, or of one module, which may call others."""
    maps: dict[str, Tensor] = {}

    def end(call: Call, output: Any) -> None:
        wanted = call.is_layer if layer is None else call.name == layer
        if wanted and isinstance(output, Tensor) and output.dim() == 4:
            maps[call.name] = output.detach().clone()

    with looking_at(network):
        watch(network, end)
        network(images.detach().clone())
    return maps


def filters(network: torch.nn.Module, layer: str, columns: int = 8) -> Figure:
    """The filters of a convolution: in colour where they see three channels, else their first channel.

    Args:
        network: any.
        layer: name of a convolution with two spatial axes.
        columns: filters in a row.
    """
    with looking_at(network):  # some parametrized weights change when they are read in training
        weight = getattr(network.get_submodule(layer), "weight", None)
    if not isinstance(weight, Tensor) or weight.dim() != 4:
        raise ValueError(f"layer: expected a convolution over images, got {layer!r}")
    images = list(weight if weight.shape[1] == 3 else weight[:, :1])
    return sheet(images, columns, f"{layer}: {len(images)} filters")


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
