"""``Hardshrink``: a drop-in subclass of its ``torch.nn`` twin."""

from __future__ import annotations

import torch
from torch import Tensor

from cnn_ext import functional
from cnn_ext.nn._layer import Layer

__all__ = ["Hardshrink"]


class Hardshrink(Layer, torch.nn.Hardshrink):
    """:class:`torch.nn.Hardshrink`, computed by :func:`cnn_ext.functional.hardshrink`.

    Example:
        >>> Hardshrink(0.25)
        Hardshrink(0.25)
    """

    def forward(self, input: Tensor) -> Tensor:
        """Of the input's shape."""
        return functional.hardshrink(input, self.lambd)
