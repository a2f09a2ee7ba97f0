"""The ``torch.autograd.Function`` of every operation.

Each has a dispatcher operation of the same name under ``torch.ops.cnn_ext``; importing this package
loads them.
"""

from cnn_ext import _native as _native  # first: registers torch.ops.cnn_ext

__all__: list[str] = []

# The operations. `make format` writes what follows, from cnn_ext/operations.py.
from cnn_ext.ops.color_pca import ColorPCAFunction
from cnn_ext.ops.convolution import ConvolutionFunction, ConvolutionReLUFunction
from cnn_ext.ops.linear import LinearFunction
from cnn_ext.ops.local_response_norm import LocalResponseNormFunction
from cnn_ext.ops.max_pool import MaxPool2dFunction
from cnn_ext.ops.unfold import FoldFunction, UnfoldFunction

__all__ += [
    "ColorPCAFunction",
    "ConvolutionFunction",
    "ConvolutionReLUFunction",
    "FoldFunction",
    "LinearFunction",
    "LocalResponseNormFunction",
    "MaxPool2dFunction",
    "UnfoldFunction",
]
