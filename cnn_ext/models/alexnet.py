"""AlexNet, as published in 2012, as Caffe has it, and as torchvision has it.

A. Krizhevsky, I. Sutskever and G. Hinton, "ImageNet classification with deep convolutional neural
networks", NIPS 2012; sections 3.2 to 3.5, 4.2 and 5. A. Krizhevsky, "One weird trick for parallelizing
convolutional neural networks" (2014). What differs between the variants is a table in docs/models.md.
"""

from __future__ import annotations

from collections import OrderedDict
from types import ModuleType

from torch import Tensor, nn

from cnn_ext import nn as ours
from cnn_ext.models.parts import load, paper_norm, scaled

BORDER = (0, 3, 0, 3)  # of conv1: 224 pixels give 55, as the original code's rounding up did


class AlexNet2012(nn.Module):
    """The network of 2012 and Caffe's copy of it. See :func:`alexnet`."""

    def __init__(
        self,
        variant: str = "2012",
        num_classes: int = 1000,
        layers: ModuleType = ours,
        width: float = 1.0,
        image_size: int = 224,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        k1, k2, k3, k4, k5 = (scaled(k, width) for k in (96, 256, 384, 384, 256))
        hidden = scaled(4096, width)
        conv, pool = layers.Conv2d, layers.MaxPool2d
        blocks = [
            [*_bordered(layers, k1), ("relu1", nn.ReLU(inplace=True))],
            [("conv2", conv(k1, k2, 5, padding=2, groups=2)), ("relu2", nn.ReLU(inplace=True))],
        ]
        for i, block in enumerate(blocks, 1):
            norm, pooling = (f"norm{i}", _norm(variant, layers)), (f"pool{i}", pool(3, 2))
            block += [norm, pooling] if variant == "2012" else [pooling, norm]
        rest = [
            ("conv3", conv(k2, k3, 3, padding=1)),
            ("relu3", nn.ReLU(inplace=True)),
            ("conv4", conv(k3, k4, 3, padding=1, groups=2)),
            ("relu4", nn.ReLU(inplace=True)),
            ("conv5", conv(k4, k5, 3, padding=1, groups=2)),
            ("relu5", nn.ReLU(inplace=True)),
            ("pool5", pool(3, 2)),
        ]
        self.features = nn.Sequential(OrderedDict([*blocks[0], *blocks[1], *rest]))
        cells = _last_map(image_size)
        self.classifier = nn.Sequential(
            OrderedDict(
                [
                    ("fc6", layers.Linear(k5 * cells * cells, hidden)),
                    ("relu6", nn.ReLU(inplace=True)),
                    ("drop6", nn.Dropout(dropout)),
                    ("fc7", layers.Linear(hidden, hidden)),
                    ("relu7", nn.ReLU(inplace=True)),
                    ("drop7", nn.Dropout(dropout)),
                    ("fc8", layers.Linear(hidden, num_classes)),
                ]
            )
        )

    def reset_parameters(self, scheme: str = "paper") -> None:
        """Draws every weight and bias anew: ``"paper"`` or ``"he"``, see :func:`alexnet`."""
        ones = ("conv2", "conv4", "conv5", "fc6", "fc7")  # section 5: ReLUs get positive inputs
        for name, layer in [*self.features.named_children(), *self.classifier.named_children()]:
            if not isinstance(layer, nn.Conv2d | nn.Linear):
                continue
            if scheme == "paper":
                nn.init.normal_(layer.weight, 0, 0.01)
                nn.init.constant_(layer.bias, float(name in ones))  # type: ignore[arg-type]
            else:
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, input: Tensor) -> Tensor:
        """(N, 3, image_size, image_size) to (N, classes) logits."""
        return self.classifier(self.features(input).flatten(1))


class OneWeirdTrick(nn.Module):
    """torchvision's AlexNet, key by key. See :func:`alexnet`."""

    def __init__(
        self,
        num_classes: int = 1000,
        layers: ModuleType = ours,
        width: float = 1.0,
        image_size: int = 224,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        k1, k2, k3, k4, k5 = (scaled(k, width) for k in (64, 192, 384, 256, 256))
        hidden, cells = scaled(4096, width), _last_map(image_size)
        conv = layers.Conv2d
        self.features = nn.Sequential(
            conv(3, k1, 11, stride=4, padding=2),
            nn.ReLU(inplace=True),
            layers.MaxPool2d(3, 2),
            conv(k1, k2, 5, padding=2),
            nn.ReLU(inplace=True),
            layers.MaxPool2d(3, 2),
            conv(k2, k3, 3, padding=1),
            nn.ReLU(inplace=True),
            conv(k3, k4, 3, padding=1),
            nn.ReLU(inplace=True),
            conv(k4, k5, 3, padding=1),
            nn.ReLU(inplace=True),
            layers.MaxPool2d(3, 2),
        )
        self.avgpool = nn.AdaptiveAvgPool2d(cells)  # the identity on image_size
        self.classifier = nn.Sequential(
            nn.Dropout(dropout),
            layers.Linear(k5 * cells * cells, hidden),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            layers.Linear(hidden, hidden),
            nn.ReLU(inplace=True),
            layers.Linear(hidden, num_classes),
        )

    def reset_parameters(self, scheme: str = "torchvision") -> None:
        """Draws every weight and bias anew: ``"torchvision"`` or ``"he"``, see :func:`alexnet`."""
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                layer.reset_parameters()  # torchvision leaves torch's own
                if scheme == "he":
                    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, input: Tensor) -> Tensor:
        """(N, 3, H, W) to (N, classes) logits."""
        return self.classifier(self.avgpool(self.features(input)).flatten(1))


SCHEMES = {
    "2012": ("paper", "he"),
    "caffenet": ("paper", "he"),
    "one_weird_trick": ("torchvision", "he"),
}


def alexnet(
    variant: str = "2012",
    *,
    weights: object = None,
    progress: bool = True,
    num_classes: int | None = None,
    layers: ModuleType = ours,
    width: float = 1.0,
    image_size: int = 224,
    dropout: float = 0.5,
    init: str | None = None,
) -> AlexNet2012 | OneWeirdTrick:
    """AlexNet.

    Args:
        variant: ``"2012"``, as published: two halves of groups, local response normalisation after the
            ReLU of conv 1 and 2, overlapping pooling; 60,965,224 parameters. ``"caffenet"``: Caffe's
            copy, which pools before it normalises, with Caffe's constants. ``"one_weird_trick"``:
            torchvision's, without groups and normalisation; 61,100,840 parameters.
        weights: ``torchvision.models.AlexNet_Weights`` or the name of one; of ``"one_weird_trick"``
            only, for nobody else has the others.
        progress: show the download of the weights.
        num_classes: outputs; 1000 if not given.
        layers: :mod:`cnn_ext.nn`, or ``torch.nn`` for the same network, with the same keys, on torch's
            layers: there a ``ZeroPad2d`` pads conv 1, and alpha is n times the paper's.
        width: multiplies all channels and hidden units; rounded to even numbers.
        image_size: of the square images for which the first dense layer is made; at least 63.
        dropout: probability of the two dropout layers.
        init: ``"paper"``, N(0, 0.01) and biases of 1 in conv 2, 4, 5 and the hidden dense layers, the
            default of the published variants. ``"he"``, N(0, 2 / fan-in) and no biases: where the
            paper's does not start learning, as in narrow networks or with small learning rates.
            ``"torchvision"``, torch's own, the default of ``"one_weird_trick"``.

    Raises:
        ValueError: an unknown variant or scheme, weights of another network, a too small image.

    Example:
        >>> import torch
        >>> model = alexnet("2012", width=1 / 8, num_classes=10)
        >>> model(torch.zeros(2, 3, 224, 224)).shape
        torch.Size([2, 10])
        >>> [name for name, _ in model.features.named_children()][:5]
        ['conv1', 'relu1', 'norm1', 'pool1', 'conv2']
    """
    if variant not in SCHEMES:
        raise ValueError(f"variant: expected one of {tuple(SCHEMES)}, got {variant!r}")
    scheme = init or SCHEMES[variant][0]
    if scheme not in SCHEMES[variant]:
        raise ValueError(f"init: expected one of {SCHEMES[variant]} for {variant!r}, got {init!r}")
    if weights is not None and variant != "one_weird_trick":
        raise ValueError(
            f"weights: torchvision's are those of 'one_weird_trick', there are none for {variant!r}"
        )

    def build(classes: int) -> AlexNet2012 | OneWeirdTrick:
        if variant == "one_weird_trick":
            model: AlexNet2012 | OneWeirdTrick
            model = OneWeirdTrick(classes, layers, width, image_size, dropout)
        else:
            model = AlexNet2012(variant, classes, layers, width, image_size, dropout)
        if scheme != "torchvision":  # which is how the layers were made
            model.reset_parameters(scheme)
        return model

    return load(build, "AlexNet_Weights", weights, num_classes, progress)


def _bordered(layers: ModuleType, filters: int) -> list[tuple[str, nn.Module]]:
    """conv1 with its border: an argument of our layer, a layer of its own before torch's."""
    if layers is ours:
        return [("conv1", ours.Conv2d(3, filters, 11, stride=4, padding=BORDER))]
    return [("pad1", nn.ZeroPad2d(BORDER)), ("conv1", layers.Conv2d(3, filters, 11, stride=4))]


def _norm(variant: str, layers: ModuleType) -> nn.Module:
    """The paper's constants, or Caffe's, which ours and torch's say alike."""
    if variant == "2012":
        return paper_norm(layers)
    return layers.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=1.0)


def _last_map(image_size: int) -> int:
    """Cells along a side of pool5's maps: 224 pixels give 55, 27, 13 and 6.

    Example:
        >>> [_last_map(size) for size in (64, 224, 227)]
        [1, 6, 6]
    """
    cells = (image_size + 3 - 11) // 4 + 1
    for _ in range(3):
        cells = (cells - 3) // 2 + 1
    if cells < 1:
        raise ValueError(f"image_size: expected at least 63 pixels, got {image_size}")
    return cells
