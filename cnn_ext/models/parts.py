"""What the reference networks share: widths, the paper's normalisation, torchvision's weights."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import TypeVar

import torch

from cnn_ext import nn as ours

Network = TypeVar("Network", bound=torch.nn.Module)


def scaled(channels: int, width: float) -> int:
    """The channels of a narrower or wider network, even so that they fall into two groups.

    Example:
        >>> [scaled(96, width) for width in (1, 1 / 8, 1 / 1000)]
        [96, 12, 2]
    """
    if not width > 0:
        raise ValueError(f"width: expected a positive number, got {width}")
    return max(2, 2 * round(channels * width / 2))


def paper_norm(layers: ModuleType) -> torch.nn.Module:
    """AlexNet's normalisation as our layer says it, or as torch's: alpha times n, for it divides by n.

    Example:
        >>> paper_norm(torch.nn)
        LocalResponseNorm(5, alpha=0.0005, beta=0.75, k=2.0)
    """
    if layers is ours:
        return ours.LocalResponseNorm.alexnet()
    return layers.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2.0)


def load(
    build: Callable[[int], Network],
    enum: str,
    weights: object,
    num_classes: int | None,
    progress: bool,
) -> Network:
    """A network, with torchvision's weights if any are asked for.

    Args:
        build: the network with so many classes.
        enum: of ``torchvision.models``, the one that ``weights`` must be of.
        weights: a member, the name of one (``"IMAGENET1K_V1"``, ``"DEFAULT"``), or None.
        num_classes: of the network; the weights' own, or 1000, if None.
        progress: show the download.
    """
    if weights is None:
        return build(1000 if num_classes is None else num_classes)
    try:
        import torchvision.models
    except ModuleNotFoundError as missing:
        raise ModuleNotFoundError(
            "weights: they are torchvision's, which is not installed. Type: pip install torchvision"
        ) from missing
    member = getattr(torchvision.models, enum).verify(weights)
    classes = len(member.meta["categories"])
    if num_classes not in (None, classes):
        raise ValueError(f"num_classes: expected {classes}, which {member} has, got {num_classes}")
    network = build(classes)
    network.load_state_dict(member.get_state_dict(progress=progress, check_hash=True))
    return network
