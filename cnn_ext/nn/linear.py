"""``Linear`` and ``LazyLinear``: drop-in subclasses of their ``torch.nn`` twins."""

from __future__ import annotations

import torch
from torch import Tensor

from cnn_ext import functional
from cnn_ext.nn._layer import Layer

__all__ = ["LazyLinear", "Linear"]


class Linear(Layer, torch.nn.Linear):
    """:class:`torch.nn.Linear`, computed by :func:`cnn_ext.functional.linear`.

    Example:
        >>> Linear(512 * 7 * 7, 4096, device="meta")  # VGG's first dense layer
        Linear(in_features=25088, out_features=4096, bias=True)
    """

    def forward(self, input: Tensor) -> Tensor:
        """(..., in_features) to (..., out_features)."""
        return functional.linear(input, self.weight, self.bias)

    def _kernel_for(self, input: Tensor) -> str | None:
        return "dense" if functional.is_dense(input, self.weight, self.bias) else None


class LazyLinear(Layer, torch.nn.LazyLinear):
    """A :class:`Linear` that learns the size of its input from the first.

    Example:
        >>> layer = LazyLinear(2)
        >>> layer(torch.zeros(3, 5)).shape, layer.in_features, type(layer) is Linear
        (torch.Size([3, 2]), 5, True)
    """

    cls_to_become = Linear  # type: ignore[assignment]
