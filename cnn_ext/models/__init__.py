"""Reference networks, built of :mod:`cnn_ext.nn` or of ``torch.nn`` with the same keys."""

from cnn_ext.models.alexnet import alexnet
from cnn_ext.models.dense import fully_convolutional
from cnn_ext.models.lenet5 import LeNet5Loss, lenet5
from cnn_ext.models.registry import register as _register
from cnn_ext.models.vgg import (
    vgg11,
    vgg11_bn,
    vgg11_lrn,
    vgg13,
    vgg13_bn,
    vgg16,
    vgg16_bn,
    vgg16_c,
    vgg19,
    vgg19_bn,
)

__all__ = [
    "LeNet5Loss",
    "alexnet",
    "fully_convolutional",
    "lenet5",
    "vgg11",
    "vgg11_bn",
    "vgg11_lrn",
    "vgg13",
    "vgg13_bn",
    "vgg16",
    "vgg16_bn",
    "vgg16_c",
    "vgg19",
    "vgg19_bn",
]

_VGGS = (vgg11, vgg11_bn, vgg11_lrn, vgg13, vgg13_bn, vgg16, vgg16_bn, vgg16_c, vgg19, vgg19_bn)
_register((lenet5, alexnet, *_VGGS))
