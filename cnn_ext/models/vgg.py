"""VGG: the six networks of the paper, with the batch-normalised versions that came later.

K. Simonyan and A. Zisserman, "Very deep convolutional networks for large-scale image recognition"
(2014, arXiv 1409.1556); table 1, sections 3.1 (initialisation) and 3.2 (dense evaluation). Without
normalisation, the keys are torchvision's.
"""

from __future__ import annotations

from types import ModuleType

import torch
from torch import Tensor, nn

from cnn_ext import nn as ours
from cnn_ext.models.parts import load, paper_norm, scaled

# Table 1, stage by stage: the filters of each layer; (K, 1) is a layer of 1 x 1 filters. Each stage
# ends in pooling.
Stage = tuple[int | tuple[int, int], ...]
TABLE: dict[str, tuple[Stage, ...]] = {
    "A": ((64,), (128,), (256,) * 2, (512,) * 2, (512,) * 2),
    "B": ((64,) * 2, (128,) * 2, (256,) * 2, (512,) * 2, (512,) * 2),
    "C": ((64,) * 2, (128,) * 2, (256, 256, (256, 1)), *[(512, 512, (512, 1))] * 2),
    "D": ((64,) * 2, (128,) * 2, (256,) * 3, (512,) * 3, (512,) * 3),
    "E": ((64,) * 2, (128,) * 2, (256,) * 4, (512,) * 4, (512,) * 4),
}
SCHEMES = ("torchvision", "paper", "glorot", "he")
NORMS = ("none", "batch", "lrn")


class VGG(nn.Module):
    """One column of table 1. The functions of this module name them; :func:`vgg16` has the arguments.

    Args:
        column: ``"A"`` to ``"E"``.
        norm: ``"none"``; ``"batch"``, after every convolution; ``"lrn"``, after the first one's ReLU.
        num_classes, layers, width, image_size, dropout, head, init: see :func:`vgg16`.
    """

    def __init__(
        self,
        column: str = "D",
        norm: str = "none",
        *,
        num_classes: int = 1000,
        layers: ModuleType = ours,
        width: float = 1.0,
        image_size: int = 224,
        dropout: float = 0.5,
        head: str = "dense",
        init: str | None = "torchvision",
    ) -> None:
        super().__init__()
        _check_arguments(column, norm, image_size, head, init)
        self.column = column
        self.features = _features(column, norm, layers, width)
        channels, hidden = scaled(512, width), scaled(4096, width)
        self.avgpool: nn.Module
        if head == "gap":
            self.avgpool = nn.AdaptiveAvgPool2d(1)
            self.classifier = nn.Sequential(layers.Linear(channels, num_classes))
        else:
            cells = image_size // 32
            self.avgpool = nn.AdaptiveAvgPool2d(cells)  # the identity on image_size
            self.classifier = nn.Sequential(
                layers.Linear(channels * cells * cells, hidden),
                nn.ReLU(inplace=True),
                nn.Dropout(dropout),
                layers.Linear(hidden, hidden),
                nn.ReLU(inplace=True),
                nn.Dropout(dropout),
                layers.Linear(hidden, num_classes),
            )
        if init:
            self.reset_parameters(init)

    def reset_parameters(self, scheme: str = "torchvision") -> None:
        """Draws every weight anew, biases zero: the schemes of :func:`vgg16`."""
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                if scheme == "paper":
                    nn.init.normal_(layer.weight, 0, 0.1)
                elif scheme == "glorot":
                    nn.init.xavier_uniform_(layer.weight)
                elif scheme == "he":
                    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                elif isinstance(layer, nn.Conv2d):
                    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
                else:
                    nn.init.normal_(layer.weight, 0, 0.01)
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
            elif isinstance(layer, nn.BatchNorm2d):
                layer.reset_parameters()

    def start_from(self, shallow: VGG) -> VGG:
        """Copies the first four convolutions and the dense layers of a trained net A (section 3.1).

        They go to the same stage, at the same place in it; the layers between stay as they were drawn.

        Returns:
            The network itself.

        Example:
            >>> a, d = vgg11(width=1 / 16), vgg16(width=1 / 16)
            >>> torch.equal(d.start_from(a).features[5].weight, a.features[3].weight)
            True
        """
        if shallow.column != "A":
            raise ValueError(f"shallow: expected a net A (vgg11), got a net {shallow.column}")
        theirs, mine = _convolutions(shallow), _convolutions(self)
        first_four = [(theirs[at], mine[at]) for at in list(theirs)[:4]]
        dense = [
            (a, b)
            for a, b in zip(shallow.classifier, self.classifier, strict=True)
            if isinstance(a, nn.Linear)
        ]
        with torch.no_grad():
            for source, target in first_four + dense:
                target.weight.copy_(source.weight)  # type: ignore[operator,union-attr,arg-type]
                target.bias.copy_(source.bias)  # type: ignore[operator,union-attr,arg-type]
        return self

    def forward(self, input: Tensor) -> Tensor:
        """(N, 3, H, W), at least 32 x 32, to (N, classes) logits."""
        return self.classifier(self.avgpool(self.features(input)).flatten(1))


def _check_arguments(column: str, norm: str, image_size: int, head: str, init: str | None) -> None:
    for name, value, words in (
        ("column", column, tuple(TABLE)),
        ("norm", norm, NORMS),
        ("head", head, ("dense", "gap")),
        ("init", init, (*SCHEMES, None)),
    ):
        if value not in words:
            raise ValueError(f"{name}: expected one of {words}, got {value!r}")
    if image_size < 32:
        raise ValueError(f"image_size: expected at least 32 pixels, got {image_size}")


def _features(column: str, norm: str, layers: ModuleType, width: float) -> nn.Sequential:
    """The convolutions of a column: C R, or C B R, or once C R L, and P after each stage."""
    modules: list[nn.Module] = []
    channels = 3
    for stage in TABLE[column]:
        for entry in stage:
            wide, size = entry if isinstance(entry, tuple) else (entry, 3)
            filters = scaled(wide, width)
            modules.append(layers.Conv2d(channels, filters, size, padding=size // 2))
            if norm == "batch":
                modules.append(nn.BatchNorm2d(filters))
            modules.append(nn.ReLU(inplace=True))
            if norm == "lrn" and len(modules) == 2:
                modules.append(paper_norm(layers))
            channels = filters
        modules.append(layers.MaxPool2d(2, 2))
    return nn.Sequential(*modules)


def _convolutions(model: VGG) -> dict[tuple[int, int], nn.Module]:
    """The convolutions by (stage, place in the stage)."""
    found: dict[tuple[int, int], nn.Module] = {}
    stage = place = 0
    for layer in model.features:
        if isinstance(layer, nn.Conv2d):
            found[stage, place] = layer
            place += 1
        elif isinstance(layer, nn.MaxPool2d):
            stage, place = stage + 1, 0
    return found


def _vgg(
    column: str, norm: str, enum: str | None, weights: object, progress: bool, arguments: dict
) -> VGG:
    """The network, with torchvision's weights if it has any."""
    if weights is not None and enum is None:
        raise ValueError("weights: torchvision has none for this network")
    classes = arguments.pop("num_classes", None)
    if weights is not None:
        arguments["init"] = None  # overwritten anyway

    def build(classes: int) -> VGG:
        return VGG(column, norm, num_classes=classes, **arguments)

    return load(build, enum or "", weights, classes, progress)


def vgg11(*, weights: object = None, progress: bool = True, **arguments) -> VGG:
    """VGG A, eight convolutions, 132,863,336 parameters. Arguments: see :func:`vgg16`."""
    return _vgg("A", "none", "VGG11_Weights", weights, progress, arguments)


def vgg11_lrn(*, weights: object = None, progress: bool = True, **arguments) -> VGG:
    """VGG A-LRN: A with local response normalisation after the first layer's ReLU; see :func:`vgg16`.

    Example:
        >>> vgg11_lrn(width=1 / 16).features[2]
        LocalResponseNorm(5, alpha=0.0001, beta=0.75, k=2.0, alpha_scaling='sum')
    """
    return _vgg("A", "lrn", None, weights, progress, arguments)


def vgg11_bn(*, weights: object = None, progress: bool = True, **arguments) -> VGG:
    """VGG A with batch normalisation. Arguments: see :func:`vgg16`."""
    return _vgg("A", "batch", "VGG11_BN_Weights", weights, progress, arguments)


def vgg13(*, weights: object = None, progress: bool = True, **arguments) -> VGG:
    """VGG B, ten convolutions, 133,047,848 parameters. Arguments: see :func:`vgg16`."""
    return _vgg("B", "none", "VGG13_Weights", weights, progress, arguments)


def vgg13_bn(*, weights: object = None, progress: bool = True, **arguments) -> VGG:
    """VGG B with batch normalisation. Arguments: see :func:`vgg16`."""
    return _vgg("B", "batch", "VGG13_BN_Weights", weights, progress, arguments)


def vgg16_c(*, weights: object = None, progress: bool = True, **arguments) -> VGG:
    """VGG C, three of its convolutions 1 x 1, 133,638,952 parameters. Arguments: see :func:`vgg16`."""
    return _vgg("C", "none", None, weights, progress, arguments)


def vgg16(*, weights: object = None, progress: bool = True, **arguments) -> VGG:
    """VGG D, thirteen convolutions, 138,357,544 parameters.

    Args:
        weights: ``torchvision.models.VGG16_Weights`` or the name of one.
        progress: show the download of the weights.
        num_classes: outputs; 1000 if not given.
        layers: :mod:`cnn_ext.nn`, or ``torch.nn`` for the same network, with the same keys, on torch's.
        width: multiplies all channels and hidden units; rounded to even numbers.
        image_size: of the square images for which the first dense layer is made; others are averaged
            to that many cells, as torchvision does. At least 32.
        dropout: probability of the two dropout layers.
        head: ``"dense"``, the paper's three dense layers, or ``"gap"``, global average pooling and one.
        init: ``"torchvision"``: convolutions N(0, 2 / fan-out), dense N(0, 0.01²). ``"paper"``: N(0,
            variance 0.01), which deeper networks follow with :meth:`VGG.start_from`. ``"glorot"``:
            what the authors found afterwards to make that unnecessary. ``"he"``: N(0, 2 / fan-in), in
            the dense layers too, which narrow networks need. Biases are zero.

    Example:
        >>> model = vgg16(width=1 / 16, num_classes=10, image_size=64)
        >>> model(torch.zeros(2, 3, 64, 64)).shape
        torch.Size([2, 10])
    """
    return _vgg("D", "none", "VGG16_Weights", weights, progress, arguments)


def vgg16_bn(*, weights: object = None, progress: bool = True, **arguments) -> VGG:
    """VGG D with batch normalisation. Arguments: see :func:`vgg16`."""
    return _vgg("D", "batch", "VGG16_BN_Weights", weights, progress, arguments)


def vgg19(*, weights: object = None, progress: bool = True, **arguments) -> VGG:
    """VGG E, sixteen convolutions, 143,667,240 parameters. Arguments: see :func:`vgg16`."""
    return _vgg("E", "none", "VGG19_Weights", weights, progress, arguments)


def vgg19_bn(*, weights: object = None, progress: bool = True, **arguments) -> VGG:
    """VGG E with batch normalisation. Arguments: see :func:`vgg16`."""
    return _vgg("E", "batch", "VGG19_BN_Weights", weights, progress, arguments)
