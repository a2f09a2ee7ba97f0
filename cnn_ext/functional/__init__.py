"""The twin of :mod:`torch.nn.functional`: the same names, argument order and defaults.

What is here is argument sugar – ints to tuples, padding words to numbers, one image to a batch of
one. Checks and arithmetic are in the operations (:mod:`cnn_ext.ops`).
"""

from cnn_ext import _native as _native  # first: registers torch.ops.cnn_ext
from cnn_ext.functional._arguments import Ints as Ints
from cnn_ext.functional._arguments import _per_axis as _per_axis
from cnn_ext.functional._arguments import padding_amounts
from cnn_ext.functional.algorithm import ALGORITHMS as ALGORITHMS
from cnn_ext.functional.algorithm import (
    Route,
    convolution_algorithm,
    current_algorithm,
    default_algorithm,
)
from cnn_ext.functional.convolution import _conv as _conv
from cnn_ext.functional.convolution import _pad_same as _pad_same


def __getattr__(name: str) -> str:
    """``_default_algorithm``, a variable of version 0.1 that people's checks read."""
    if name == "_default_algorithm":
        return current_algorithm()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "Route",
    "convolution_algorithm",
    "current_algorithm",
    "default_algorithm",
    "padding_amounts",
]

# The operations. `make format` writes what follows, from cnn_ext/operations.py.
from cnn_ext.functional.color_pca import color_pca
from cnn_ext.functional.convolution import (
    conv1d,
    conv2d,
    conv3d,
    conv_relu2d,
    conv_transpose1d,
    conv_transpose2d,
    conv_transpose3d,
)
from cnn_ext.functional.linear import is_dense, linear
from cnn_ext.functional.local_response_norm import local_response_norm
from cnn_ext.functional.max_pool import max_pool2d
from cnn_ext.functional.unfold import fold, unfold

__all__ += [
    "color_pca",
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_relu2d",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
    "fold",
    "is_dense",
    "linear",
    "local_response_norm",
    "max_pool2d",
    "unfold",
]
