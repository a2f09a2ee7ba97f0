"""``torch.nn`` modules computed by cnn_ext: subclasses of their twins, with the same arguments."""

from cnn_ext import functional as functional

__all__: list[str] = []

# The operations. `make format` writes what follows, from cnn_ext/operations.py.
from cnn_ext.nn.convolution import (
    Conv1d,
    Conv2d,
    Conv3d,
    ConvReLU2d,
    ConvTranspose1d,
    ConvTranspose2d,
    ConvTranspose3d,
    LazyConv1d,
    LazyConv2d,
    LazyConv3d,
    LazyConvTranspose1d,
    LazyConvTranspose2d,
    LazyConvTranspose3d,
)
from cnn_ext.nn.linear import LazyLinear, Linear
from cnn_ext.nn.local_response_norm import LocalResponseNorm
from cnn_ext.nn.max_pool import MaxPool2d

__all__ += [
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "ConvReLU2d",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "ConvTranspose3d",
    "LazyConv1d",
    "LazyConv2d",
    "LazyConv3d",
    "LazyConvTranspose1d",
    "LazyConvTranspose2d",
    "LazyConvTranspose3d",
    "LazyLinear",
    "Linear",
    "LocalResponseNorm",
    "MaxPool2d",
]
