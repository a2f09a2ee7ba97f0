"""Dense evaluation: a classifier slid over an image of any size, at the cost of one pass.

K. Simonyan and A. Zisserman, "Very deep convolutional networks for large-scale image recognition"
(2014), section 3.2, after P. Sermanet et al., "OverFeat" (2013).
"""

from __future__ import annotations

import copy
from types import ModuleType

import torch
from torch import Tensor, nn

from cnn_ext import nn as ours


class FullyConvolutional(nn.Module):
    """An AlexNet or VGG whose dense layers are convolutions. See :func:`fully_convolutional`."""

    def __init__(self, features: nn.Module, classifier: nn.Module) -> None:
        super().__init__()
        self.features, self.classifier = features, classifier

    def forward(self, input: Tensor) -> Tensor:
        """(N, 3, H, W) to (N, classes, P, Q): the logits of every window."""
        return self.classifier(self.features(input))


def fully_convolutional(model: nn.Module, *, layers: ModuleType = ours) -> FullyConvolutional:
    """A copy of the network whose dense layers are convolutions, for images of any size.

    The first dense layer becomes filters as large as the maps it was made for, the others 1 x 1. On an
    image of that size, the one cell of the result is the network's own output; on a larger one, each
    cell is the output for one window, the step between windows the stride of the last maps (32 pixels).
    The mean over the cells is the paper's score of the image.

    Args:
        model: of :func:`cnn_ext.models.alexnet` or :mod:`cnn_ext.models.vgg`, or torchvision's own,
            with the children ``features`` and ``classifier``.
        layers: whose ``Conv2d`` replaces the dense layers.

    Example:
        >>> from cnn_ext.models import vgg11
        >>> model = vgg11(width=1 / 16, num_classes=10).eval()
        >>> fully_convolutional(model)(torch.zeros(1, 3, 224, 256)).shape
        torch.Size([1, 10, 1, 2])
    """
    features, classifier = getattr(model, "features", None), getattr(model, "classifier", None)
    if not isinstance(features, nn.Module) or not isinstance(classifier, nn.Sequential):
        raise ValueError(
            f"model: expected one with the children features and classifier, got {type(model).__name__}"
        )
    channels = [m.out_channels for m in features.modules() if isinstance(m, nn.Conv2d)][-1]
    classifier = copy.deepcopy(classifier)
    for name, layer in list(classifier.named_children()):
        if isinstance(layer, nn.Linear):
            setattr(classifier, name, _as_convolution(layer, channels, layers))
            channels = layer.out_features
    return FullyConvolutional(copy.deepcopy(features), classifier).train(model.training)


def _as_convolution(layer: nn.Linear, channels: int, layers: ModuleType) -> nn.Conv2d:
    """The dense layer on maps of so many channels, flattened in their order."""
    side = round((layer.in_features // channels) ** 0.5)
    made = {"device": layer.weight.device, "dtype": layer.weight.dtype}
    convolution = layers.Conv2d(channels, layer.out_features, side, bias=layer.bias is not None, **made)
    with torch.no_grad():
        convolution.weight.copy_(layer.weight.view_as(convolution.weight))
        if layer.bias is not None:
            convolution.bias.copy_(layer.bias)
    return convolution
