"""The papers' recipes as named presets: optimizer, schedule, augmentation, evaluation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.utils.data import Dataset
from torchvision.transforms import InterpolationMode, v2

from cnn_ext.training.images import MARGIN, Images


@dataclass(frozen=True)
class Recipe:
    """How a network is trained. Steps are counted over the whole run."""

    optimizer: str  # "sgd" or "adamw"
    learning_rate: float
    schedule: str  # "one-cycle", or "steps": divided by ten at each of the milestones
    epochs: int
    batch_size: int
    momentum: float = 0.9
    weight_decay: float = 5e-4
    milestones: tuple[float, ...] = ()  # shares of the run
    color_pca: bool = False  # on colour images
    init: str | None = None  # the network's own if None
    source: str = ""


RECIPES = {
    "adamw": Recipe("adamw", 1e-3, "one-cycle", 30, 64, weight_decay=0.01,
                    source="for a network without a recipe of its own"),
    "lenet5": Recipe("adamw", 4e-3, "one-cycle", 30, 64, weight_decay=0.01,
                     source="of our own: the paper's diagonal Levenberg-Marquardt is not in torch"),
    "alexnet": Recipe("sgd", 0.01, "steps", 90, 128, milestones=(1 / 3, 2 / 3, 5 / 6), color_pca=True,
                      source="Krizhevsky et al. 2012, sections 4.1 and 5"),
    "vgg": Recipe("sgd", 0.01, "steps", 74, 256, milestones=(0.4, 0.7, 0.9), color_pca=True,
                  source="Simonyan and Zisserman 2014, section 3.1"),
    "alexnet-small": Recipe("adamw", 2e-3, "one-cycle", 20, 64, weight_decay=0.01, color_pca=True,
                            init="he", source="of our own, for narrow networks and little data"),
    "vgg-small": Recipe("adamw", 1e-3, "one-cycle", 12, 64, weight_decay=0.01, color_pca=True,
                        init="he", source="of our own, for narrow networks and little data"),
}  # fmt: skip


def augmentation(recipe: Recipe, images: Images, size: int) -> list[v2.Transform]:
    """What happens to a training image, on the fly: uint8 in, uint8 of ``size`` out."""
    if images.digits:  # what leaves a digit the digit it is: no mirror image, no half turn
        shift = v2.RandomAffine(10, (0.08, 0.08), (0.9, 1.1), interpolation=InterpolationMode.BILINEAR)
        return [v2.Resize([size, size], antialias=True), shift]
    enlarged = size + size // MARGIN
    transforms = [v2.Resize([enlarged, enlarged], antialias=True), v2.RandomCrop(size)]
    if images.mirror:
        transforms.append(v2.RandomHorizontalFlip())
    if recipe.color_pca and images.channels == 3:
        transforms.append(fitted_color_pca(images.train))
    return transforms


def fitted_color_pca(train: Dataset) -> v2.Transform:
    """Section 4.1 of the AlexNet paper: the principal components of the training set's colours."""
    from cnn_ext.transforms import ColorPCA, RandomColorPCA

    return RandomColorPCA(ColorPCA.fit(train))  # type: ignore[arg-type]


def evaluation(images: Images, size: int) -> list[v2.Transform]:
    """The middle of a test image: uint8 in, uint8 of ``size`` out."""
    if images.digits:
        return [v2.Resize([size, size], antialias=True)]
    enlarged = size + size // MARGIN
    return [v2.Resize([enlarged, enlarged], antialias=True), v2.CenterCrop(size)]


def ten_crops(size: int) -> list[Callable]:
    """Corners, middle, and their mirror images: (10, C, size, size), section 4.1 of the paper."""
    enlarged = size + size // MARGIN
    return [v2.Resize([enlarged, enlarged], antialias=True), v2.TenCrop(size), torch.stack]


def optimizer(recipe: Recipe, parameters) -> torch.optim.Optimizer:
    """As the recipe has it."""
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(
            parameters,
            lr=recipe.learning_rate,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
        )
    return torch.optim.AdamW(parameters, lr=recipe.learning_rate, weight_decay=recipe.weight_decay)


def schedule(recipe: Recipe, of: torch.optim.Optimizer, steps: int):
    """Advances once a step. A single step is no cycle: it would have the last rate, a 250,000th."""
    if recipe.schedule == "one-cycle" and steps > 1:
        return torch.optim.lr_scheduler.OneCycleLR(of, recipe.learning_rate, total_steps=steps)
    at = [round(share * steps) for share in recipe.milestones]
    return torch.optim.lr_scheduler.MultiStepLR(of, at, gamma=0.1)
