"""What training gave: loss curves, confusions, mistakes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from matplotlib.figure import Figure
from torch import Tensor

from cnn_ext.visualize.features import feature_maps
from cnn_ext.visualize.images import grid, sheet


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
    return sheet([image for image, _, _ in samples], 8, heading, titles)


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
