"""``Conv1d``, ``Conv2d``, ``Conv3d``: drop-in subclasses of their ``torch.nn`` twins.

Same constructor, ``state_dict`` keys, initial values and representation; the arithmetic is
:mod:`cnn_ext.functional`'s. An instance differs from its twin in its class alone, unless it was built
with something torch lacks – which is what lets :func:`cnn_ext.convert` swap them in place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cnn_ext import functional
from cnn_ext.functional import Ints, padding_amounts


class _Convolution(torch.nn.modules.conv._ConvNd):
    """What our modules have and their twins do not; listed before the twin among the bases."""

    axes: int
    convolve: Callable[..., Tensor]
    algorithm = "auto"

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Ints,
        stride: Ints = 1,
        padding: Ints | str = 0,
        dilation: Ints = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        algorithm: str = "auto",
    ) -> None:
        each_side = isinstance(padding, Sequence) and len(padding) == 2 * self.axes
        ours = isinstance(padding, str) or each_side  # torch's constructor does not know these
        for_twin: dict[str, Any] = {
            "kernel_size": kernel_size,
            "stride": stride,
            "padding": 0 if ours else padding,
            "dilation": dilation,
            "groups": groups,
            "bias": bias,
            "padding_mode": padding_mode,
            "device": device,
            "dtype": dtype,
        }
        super().__init__(in_channels, out_channels, **for_twin)
        if ours:
            self.padding = padding if isinstance(padding, str) else tuple(padding)  # type: ignore[arg-type]
            self.padding_of((1,) * self.axes)  # raises for an unknown word
        if algorithm not in functional.ALGORITHMS:
            raise ValueError(f"algorithm: expected one of {functional.ALGORITHMS}, got {algorithm!r}")
        if algorithm != "auto":
            self.algorithm = algorithm

    def padding_of(self, input_size: Sequence[int]) -> tuple[int, ...]:
        """Cells of padding for an input of these spatial sizes, in the order of ``F.pad``."""
        if isinstance(self.padding, str):
            return padding_amounts(
                self.padding, input_size, self.kernel_size, self.stride, self.dilation
            )
        if len(self.padding) == 2 * self.axes:
            return self.padding
        return tuple(amount for amount in reversed(self.padding) for _ in range(2))

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        padding: Ints | str = self.padding
        if self.padding_mode != "zeros":
            input = F.pad(input, self.padding_of(input.shape[-self.axes :]), self.padding_mode)
            padding = 0
        return type(self).convolve(
            input,
            weight,
            bias,
            self.stride,
            padding,
            self.dilation,
            self.groups,
            algorithm=self.algorithm,
        )


class Conv1d(_Convolution, torch.nn.Conv1d):
    """:class:`torch.nn.Conv1d`, computed by :func:`cnn_ext.functional.conv1d`; see :class:`Conv2d`.

    Example:
        >>> Conv1d(1, 2, 3, padding="half")(torch.zeros(4, 1, 10)).shape
        torch.Size([4, 2, 10])
    """

    axes = 1
    convolve = staticmethod(functional.conv1d)


class Conv2d(_Convolution, torch.nn.Conv2d):
    """:class:`torch.nn.Conv2d`, computed by :func:`cnn_ext.functional.conv2d`.

    Args:
        in_channels, out_channels, kernel_size, stride, dilation, groups, bias, padding_mode, device,
            dtype: as for the twin.
        padding: as for the twin, and beyond it ``"half"``, ``"full"``, ``"same"`` at any stride, or
            two amounts for each axis (left, right, top, bottom).
        algorithm: see :func:`cnn_ext.functional.conv2d`.

    Shape:
        (N, C, H, W) or (C, H, W) to (N, K, P, Q) or (K, P, Q).

    Example:
        >>> layer = Conv2d(3, 8, 5, padding="half")
        >>> layer(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 8, 32, 32])
        >>> isinstance(layer, torch.nn.Conv2d)
        True
    """

    axes = 2
    convolve = staticmethod(functional.conv2d)


class Conv3d(_Convolution, torch.nn.Conv3d):
    """:class:`torch.nn.Conv3d`, computed by :func:`cnn_ext.functional.conv3d`; see :class:`Conv2d`.

    Example:
        >>> Conv3d(1, 2, 3, padding=1)(torch.zeros(1, 1, 4, 6, 8)).shape
        torch.Size([1, 2, 4, 6, 8])
    """

    axes = 3
    convolve = staticmethod(functional.conv3d)
