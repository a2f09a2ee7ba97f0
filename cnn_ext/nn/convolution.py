"""``Conv*d``, ``ConvTranspose*d`` and their lazy forms: drop-in subclasses of their ``torch.nn`` twins.

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
from cnn_ext.nn._layer import Layer

__all__ = [
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
]


class _Convolution(Layer, torch.nn.modules.conv._ConvNd):
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
        _set_algorithm(self, algorithm)

    def padding_of(self, input_size: Sequence[int]) -> tuple[int, ...]:
        """Cells of padding for an input of these spatial sizes, in the order of ``F.pad``."""
        return padding_amounts(self.padding, input_size, self.kernel_size, self.stride, self.dilation)

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        padding: Ints | str = self.padding
        if self.padding_mode != "zeros":
            if padding == "same":
                input = functional._pad_same(
                    input, self.kernel_size, self.stride, self.dilation, self.padding_mode
                )
            else:  # it does not depend on the size
                input = F.pad(input, self.padding_of((1,) * self.axes), self.padding_mode)
            padding = 0
        return self._convolve(input, weight, bias, padding)

    def _convolve(
        self, input: Tensor, weight: Tensor, bias: Tensor | None, padding: Ints | str
    ) -> Tensor:
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

    def _say_as_torch(self) -> str | None:
        padding = self._torch_padding()
        if padding is None:
            return f"torch has no padding={self.padding!r} at stride {self.stride}"
        self._reversed_padding_repeated_twice = list(self.padding_of((1,) * self.axes))
        self.padding = padding
        return None

    def _torch_padding(self) -> tuple[int, ...] | str | None:
        """The padding as torch's layer takes it; None if it cannot."""
        if self.padding == "valid":
            return "valid"
        if self.padding == "same":
            return "same" if all(stride == 1 for stride in self.stride) else None
        before_after = self.padding_of((1,) * self.axes)
        before, after = before_after[0::2], before_after[1::2]
        return tuple(reversed(before)) if before == after else None

    def _kind_on_torch(self) -> type[torch.nn.Module]:
        return type(f"Padded{type(self).__name__}", (_Padded, type(self)), {})

    def _kernel_for(self, input: Tensor) -> str | None:
        if self.algorithm != "auto":
            return self.algorithm
        size = input.shape if input.dim() == self.weight.dim() else (1, *input.shape)
        padding = "valid" if self.padding_mode != "zeros" else self.padding
        memory_format = torch.contiguous_format
        for axes, last in ((4, torch.channels_last), (5, torch.channels_last_3d)):
            if input.dim() == axes and not input.is_contiguous():
                memory_format = last if input.is_contiguous(memory_format=last) else memory_format
        return functional.convolution_algorithm(
            size, self.weight.shape, self.stride, padding, self.dilation, self.groups,
            dtype=self.weight.dtype, memory_format=memory_format,
        )  # fmt: skip


class _Padded(_Convolution):
    """Pads as ours does, then convolves as torch does."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
        padded = F.pad(input, self.padding_of(input.shape[-self.axes :]), mode)
        convolve = getattr(F, f"conv{self.axes}d")
        output = convolve(padded, weight, bias, self.stride, 0, self.dilation, self.groups)
        return output.relu() if isinstance(self, ConvReLU2d) else output


def _set_algorithm(module: torch.nn.Module, name: str) -> None:
    """Kept on the instance only where it is not the default, so that it pickles as its twin does."""
    if name not in functional.ALGORITHMS:
        raise ValueError(f"algorithm: expected one of {functional.ALGORITHMS}, got {name!r}")
    if name != "auto":
        module.algorithm = name  # type: ignore[assignment]


class _ConvolutionTranspose(Layer, torch.nn.modules.conv._ConvTransposeNd):
    """The same for transposed convolution."""

    axes: int
    convolve: Callable[..., Tensor]
    algorithm = "auto"

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Ints,
        stride: Ints = 1,
        padding: Ints = 0,
        output_padding: Ints = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Ints = 1,
        padding_mode: str = "zeros",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        algorithm: str = "auto",
    ) -> None:
        for_twin: dict[str, Any] = {
            "kernel_size": kernel_size,
            "stride": stride,
            "padding": padding,
            "output_padding": output_padding,
            "groups": groups,
            "bias": bias,
            "dilation": dilation,
            "padding_mode": padding_mode,
            "device": device,
            "dtype": dtype,
        }
        super().__init__(in_channels, out_channels, **for_twin)
        _set_algorithm(self, algorithm)

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """The transposed convolution; ``output_size`` chooses among the sizes that are possible."""
        output_padding = self._output_padding(
            input,
            output_size,
            self.stride,  # type: ignore[arg-type]
            self.padding,  # type: ignore[arg-type]
            self.kernel_size,  # type: ignore[arg-type]
            self.axes,
            self.dilation,  # type: ignore[arg-type]
        )
        return type(self).convolve(
            input,
            self.weight,
            self.bias,
            self.stride,
            self.padding,
            output_padding,
            self.groups,
            self.dilation,
            algorithm=self.algorithm,
        )

    def _kernel_for(self, input: Tensor) -> str | None:
        return self.algorithm


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
        in_channels, out_channels, kernel_size, stride, dilation, groups, bias: as for the twin.
        padding_mode, device, dtype: as for the twin.
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


class ConvReLU2d(Conv2d):
    """A :class:`Conv2d` followed by a ReLU, in one pass: :func:`cnn_ext.functional.conv_relu2d`.

    Args: as for :class:`Conv2d`. The ``state_dict`` has its keys, and nothing of the ReLU. torch has no
        such layer: :func:`cnn_ext.revert` leaves it alone.

    Example:
        >>> ConvReLU2d(3, 8, 3, padding=1)(torch.randn(1, 3, 5, 5)).min() >= 0
        tensor(True)
    """

    convolve = staticmethod(functional.conv_relu2d)


class Conv3d(_Convolution, torch.nn.Conv3d):
    """:class:`torch.nn.Conv3d`, computed by :func:`cnn_ext.functional.conv3d`; see :class:`Conv2d`.

    Example:
        >>> Conv3d(1, 2, 3, padding=1)(torch.zeros(1, 1, 4, 6, 8)).shape
        torch.Size([1, 2, 4, 6, 8])
    """

    axes = 3
    convolve = staticmethod(functional.conv3d)


class ConvTranspose1d(_ConvolutionTranspose, torch.nn.ConvTranspose1d):
    """:class:`torch.nn.ConvTranspose1d`, computed by :func:`cnn_ext.functional.conv_transpose1d`.

    Example:
        >>> ConvTranspose1d(2, 1, 4, stride=2, padding=1)(torch.zeros(3, 2, 10)).shape
        torch.Size([3, 1, 20])
    """

    axes = 1
    convolve = staticmethod(functional.conv_transpose1d)


class ConvTranspose2d(_ConvolutionTranspose, torch.nn.ConvTranspose2d):
    """:class:`torch.nn.ConvTranspose2d`, computed by :func:`cnn_ext.functional.conv_transpose2d`.

    Args: as for the twin, and ``algorithm``, see :func:`cnn_ext.functional.conv2d`.

    Example:
        It undoes what a strided convolution does to the size, whichever size that was:

        >>> down, up = Conv2d(1, 4, 3, stride=2), ConvTranspose2d(4, 1, 3, stride=2)
        >>> image = torch.zeros(1, 1, 10, 11)
        >>> up(down(image)).shape, up(down(image), output_size=image.shape).shape
        (torch.Size([1, 1, 9, 11]), torch.Size([1, 1, 10, 11]))
    """

    axes = 2
    convolve = staticmethod(functional.conv_transpose2d)


class ConvTranspose3d(_ConvolutionTranspose, torch.nn.ConvTranspose3d):
    """:class:`torch.nn.ConvTranspose3d`, computed by :func:`cnn_ext.functional.conv_transpose3d`.

    Example:
        >>> ConvTranspose3d(2, 1, 2, stride=2)(torch.zeros(1, 2, 3, 4, 5)).shape
        torch.Size([1, 1, 6, 8, 10])
    """

    axes = 3
    convolve = staticmethod(functional.conv_transpose3d)


class LazyConv1d(Layer, torch.nn.LazyConv1d):  # type: ignore[misc]
    """A :class:`Conv1d` that learns its input channels from its first input, as :class:`LazyConv2d`."""

    cls_to_become = Conv1d  # type: ignore[assignment]


class LazyConv2d(Layer, torch.nn.LazyConv2d):  # type: ignore[misc]
    """A :class:`Conv2d` that learns its input channels from its first input.

    Example:
        >>> layer = LazyConv2d(8, 3)
        >>> layer(torch.zeros(1, 5, 6, 6)).shape, layer.in_channels, type(layer) is Conv2d
        (torch.Size([1, 8, 4, 4]), 5, True)
    """

    cls_to_become = Conv2d  # type: ignore[assignment]


class LazyConv3d(Layer, torch.nn.LazyConv3d):  # type: ignore[misc]
    """A :class:`Conv3d` that learns its input channels from its first input, as :class:`LazyConv2d`."""

    cls_to_become = Conv3d  # type: ignore[assignment]


class LazyConvTranspose1d(Layer, torch.nn.LazyConvTranspose1d):  # type: ignore[misc]
    """A :class:`ConvTranspose1d` that learns its input channels, as :class:`LazyConvTranspose2d`."""

    cls_to_become = ConvTranspose1d  # type: ignore[assignment]


class LazyConvTranspose2d(Layer, torch.nn.LazyConvTranspose2d):  # type: ignore[misc]
    """A :class:`ConvTranspose2d` that learns its input channels from its first input.

    Example:
        >>> layer = LazyConvTranspose2d(8, 3)
        >>> layer(torch.zeros(1, 5, 4, 4)).shape, layer.in_channels, type(layer) is ConvTranspose2d
        (torch.Size([1, 8, 6, 6]), 5, True)
    """

    cls_to_become = ConvTranspose2d  # type: ignore[assignment]


class LazyConvTranspose3d(Layer, torch.nn.LazyConvTranspose3d):  # type: ignore[misc]
    """A :class:`ConvTranspose3d` that learns its input channels, as :class:`LazyConvTranspose2d`."""

    cls_to_become = ConvTranspose3d  # type: ignore[assignment]
