"""The augmentations of AlexNet, VGG and of handwritten digits, composed of torchvision's v2 transforms.

Each preset is one function that returns a ``v2.Compose`` for a PIL image, a tensor or a whole sample,
and whose arguments are the numbers of its paper. In a lecturer's words they are made of translation and
patches (``RandomCrop``, ``RandomAffine``), small rotation (``RandomAffine``), reflection
(``RandomHorizontalFlip``), scaling (``Resize``, ``RandomShortestSize``) and colour intensity
(:class:`~cnn_ext.transforms.RandomColorPCA`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.transforms import InterpolationMode, v2

from cnn_ext.transforms.color_pca import ColorPCA
from cnn_ext.transforms.random_color_pca import RandomColorPCA

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def alexnet_train(
    pca: ColorPCA | None = None,
    size: int = 256,
    patch: int = 224,
    std: float = 0.1,
    mean: Sequence[float] = IMAGENET_MEAN,
    divisor: Sequence[float] = IMAGENET_STD,
) -> v2.Compose:
    """AlexNet's augmentation: resize, a random patch, a random reflection, colour PCA.

    Args:
        pca: of the training set; None: ImageNet's.
        size: of the shorter side; the square in the middle is what patches are taken from.
        patch: side of the random patch.
        std: of colour PCA's α; every image is changed.
        mean, divisor: subtracted, and divided by, in the end. The defaults are those of torchvision's
            pretrained networks. The papers subtract the mean and divide by nothing: ``(1, 1, 1)``.

    Returns:
        A transform to float32, (3, patch, patch).

    Source: Krizhevsky et al. 2012, section 4.1.

    Example:
        >>> alexnet_train()(torch.zeros(3, 300, 400, dtype=torch.uint8)).shape
        torch.Size([3, 224, 224])
    """
    return v2.Compose(
        [
            v2.ToImage(),
            v2.Resize(size, antialias=True),
            v2.CenterCrop(size),
            v2.RandomCrop(patch),
            v2.RandomHorizontalFlip(),
            RandomColorPCA(pca or ColorPCA.imagenet(), std, p=1.0),
            *_normalised(mean, divisor),
        ]
    )


def alexnet_eval(
    size: int = 256,
    patch: int = 224,
    mean: Sequence[float] = IMAGENET_MEAN,
    divisor: Sequence[float] = IMAGENET_STD,
) -> v2.Compose:
    """AlexNet's ten crops: four corners and the middle, and their mirror images.

    Args:
        size, patch, mean, divisor: as for :func:`alexnet_train`.

    Returns:
        A transform to float32, (10, 3, patch, patch). :class:`AveragedPredictions` makes one prediction
        of the ten.

    Source: Krizhevsky et al. 2012, section 4.1.

    Example:
        >>> alexnet_eval()(torch.zeros(3, 300, 400, dtype=torch.uint8)).shape
        torch.Size([10, 3, 224, 224])
    """
    crops = [v2.Resize(size, antialias=True), v2.CenterCrop(size), v2.TenCrop(patch)]
    return v2.Compose([v2.ToImage(), *_normalised(mean, divisor), *crops, _Stack()])


class AveragedPredictions(nn.Module):
    """One prediction for several crops of an image: the mean of the network's softmax outputs.

    Args:
        network: takes (N, C, H, W), returns (N, classes) before the softmax.

    Takes (N, crops, C, H, W), a batch of what :func:`alexnet_eval` gives, or (crops, C, H, W); returns
    probabilities, (N, classes) or (classes,).

    Raises:
        ValueError: another number of dimensions.

    Example:
        >>> network = AveragedPredictions(nn.Sequential(nn.Flatten(), nn.Linear(12, 5)))
        >>> network(torch.zeros(7, 10, 3, 2, 2)).shape
        torch.Size([7, 5])
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, crops: Tensor) -> Tensor:
        """See the class."""
        if crops.dim() not in (4, 5):
            raise ValueError(
                "crops: expected (N, crops, C, H, W) or (crops, C, H, W), "
                f"got shape {tuple(crops.shape)}"
            )
        if crops.dim() == 4:
            return self(crops[None])[0]
        return self.network(crops.flatten(0, 1)).softmax(-1).unflatten(0, crops.shape[:2]).mean(1)


def vgg_train(
    pca: ColorPCA | None = None,
    sizes: tuple[int, int] = (256, 512),
    patch: int = 224,
    std: float = 0.1,
    mean: Sequence[float] = IMAGENET_MEAN,
    divisor: Sequence[float] = IMAGENET_STD,
) -> v2.Compose:
    """VGG's augmentation with scale jitter: a random size, a random patch, reflection, colour PCA.

    Args:
        sizes: least and greatest shorter side, drawn evenly, ends included.
        pca, patch, std, mean, divisor: as for :func:`alexnet_train`.

    Source: Simonyan and Zisserman 2014, section 3.1.

    Example:
        >>> vgg_train()(torch.zeros(3, 300, 400, dtype=torch.uint8)).shape
        torch.Size([3, 224, 224])
    """
    return v2.Compose(
        [
            v2.ToImage(),
            v2.RandomShortestSize(list(range(sizes[0], sizes[1] + 1)), antialias=True),
            v2.RandomCrop(patch),
            v2.RandomHorizontalFlip(),
            RandomColorPCA(pca or ColorPCA.imagenet(), std, p=1.0),
            *_normalised(mean, divisor),
        ]
    )


def digits_train(
    degrees: float = 15.0,
    translate: float = 0.1,
    scale: tuple[float, float] = (0.9, 1.1),
    fill: float = 0.0,
) -> v2.Compose:
    """What leaves a handwritten digit the digit that it is: no mirror image, no half turn.

    Args:
        degrees: of rotation either way; :class:`LabelSafe` lets 15 pass for digits.
        translate: of the image's size, either way along both axes.
        scale: least and greatest.
        fill: of what comes in from outside.

    Returns:
        A transform to float32 on [0, 1], of the image's size.

    Example:
        >>> digits_train()(torch.zeros(1, 28, 28, dtype=torch.uint8)).shape
        torch.Size([1, 28, 28])
    """
    return v2.Compose(
        [
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.RandomAffine(
                degrees, (translate, translate), scale, None, InterpolationMode.BILINEAR, fill
            ),
        ]
    )


def _normalised(mean: Sequence[float], divisor: Sequence[float]) -> list[v2.Transform]:
    return [v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean=list(mean), std=list(divisor))]


class _Stack(v2.Transform):
    """The crops of one image, as one tensor."""

    def forward(self, *inputs: Any) -> Any:
        sample = inputs if len(inputs) > 1 else inputs[0]
        if _are_crops(sample):
            return torch.stack([crop.as_subclass(Tensor) for crop in sample])
        if isinstance(sample, dict):
            return {k: self(v) if _are_crops(v) else v for k, v in sample.items()}
        return type(sample)(self(v) if _are_crops(v) else v for v in sample)


def _are_crops(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) > 0 and all(isinstance(v, Tensor) for v in value)
