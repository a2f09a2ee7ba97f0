"""``MaxPool2d``: a drop-in subclass of its ``torch.nn`` twin."""

from __future__ import annotations

import torch
from torch import Tensor

from cnn_ext import functional
from cnn_ext.nn._layer import Layer

__all__ = ["MaxPool2d"]


class MaxPool2d(Layer, torch.nn.MaxPool2d):
    """:class:`torch.nn.MaxPool2d`, computed by :func:`cnn_ext.functional.max_pool2d`.

    For the gradient it keeps a byte for every output.

    Example:
        >>> MaxPool2d(3, stride=2)  # overlapping windows, as AlexNet's
        MaxPool2d(kernel_size=3, stride=2, padding=0, dilation=1, ceil_mode=False)
    """

    def forward(self, input: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """(N, C, H, W) or (C, H, W), as the twin's; with indices, if ``return_indices`` says so."""
        return functional.max_pool2d(
            input, self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode,
            self.return_indices,
        )  # fmt: skip

    def _kernel_for(self, input: Tensor) -> str | None:
        return "taps"
