"""The twin of :mod:`torch.nn.functional`: the same names, argument order and defaults.

What is here is argument sugar – ints to tuples, padding words to numbers, one image to a batch of
one. Checks and arithmetic are in the operations (:mod:`cnn_ext.ops`).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from types import TracebackType

from torch import Tensor

from cnn_ext import _native as _native  # first: registers torch.ops.cnn_ext
from cnn_ext.ops.convolution import convolution

Ints = int | Sequence[int]

ALGORITHMS = ("auto", "im2col", "implicit_gemm")
_default_algorithm = "auto"


class default_algorithm(AbstractContextManager):  # noqa: N801 - read as a function
    """Sets the algorithm that ``algorithm="auto"`` means, from here on or for a block of code.

    Args:
        name: ``"auto"``, ``"im2col"`` or ``"implicit_gemm"``.

    Raises:
        ValueError: another name.

    Example:
        >>> import torch, cnn_ext
        >>> x, w = torch.randn(1, 1, 4, 4), torch.randn(1, 1, 3, 3)
        >>> with cnn_ext.default_algorithm("im2col"):  # for this block
        ...     y = cnn_ext.functional.conv2d(x, w)
        >>> _ = cnn_ext.default_algorithm("auto")  # for the process
    """

    def __init__(self, name: str) -> None:
        global _default_algorithm
        if name not in ALGORITHMS:
            raise ValueError(f"default_algorithm: name: expected one of {ALGORITHMS}, got {name!r}")
        self._previous, _default_algorithm = _default_algorithm, name

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        global _default_algorithm
        _default_algorithm = self._previous


def conv1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Ints = 1,
    padding: Ints | str = 0,
    dilation: Ints = 1,
    groups: int = 1,
    *,
    algorithm: str = "auto",
) -> Tensor:
    """One-dimensional convolution of (N, C, L) or (C, L); otherwise as :func:`conv2d`.

    Example:
        >>> import torch
        >>> signal = torch.tensor([[0.0, 0, 1, 0, 0]])
        >>> conv1d(signal, torch.tensor([[[1.0, 2, 3]]]))
        tensor([[3., 2., 1.]])
    """
    return _conv(1, input, weight, bias, stride, padding, dilation, groups, algorithm)


def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Ints = 1,
    padding: Ints | str = 0,
    dilation: Ints = 1,
    groups: int = 1,
    *,
    algorithm: str = "auto",
) -> Tensor:
    """Two-dimensional convolution (cross-correlation), as :func:`torch.nn.functional.conv2d`.

    Args:
        input: (N, C, H, W) or (C, H, W); float32 or float64.
        weight: K filters, (K, C / groups, R, S).
        bias: (K,), one for each filter.
        stride: cells from one window to the next, an int or one for each axis.
        padding: zeros around the input. An int; one for each axis; two for each axis in the order of
            :func:`torch.nn.functional.pad`: (left, right, top, bottom); or a word: ``"valid"`` none,
            ``"same"`` output = ceil(input / stride), ``"half"`` floor(d (R - 1) / 2) on both sides,
            ``"full"`` d (R - 1) on both sides, with dilation d.
        dilation: distance of neighbouring filter cells.
        groups: the channels are cut into so many groups, and each filter sees one of them.
        algorithm: ``"im2col"`` writes out the patch matrix and multiplies once; ``"implicit_gemm"``
            packs patches block by block; ``"auto"`` chooses, see :class:`default_algorithm`.

    Returns:
        (N, K, P, Q) or (K, P, Q), in channels_last if input or weight is.

    Raises:
        RuntimeError, ValueError: an argument does not fit the others; the message names it.

    Example:
        The four paddings of a 32 x 32 image under a 5 x 5 filter:

        >>> import torch
        >>> x, w = torch.randn(1, 3, 32, 32), torch.randn(6, 3, 5, 5)
        >>> [conv2d(x, w, padding=p).shape[-1] for p in ("valid", "half", "same", "full")]
        [28, 32, 32, 36]
    """
    return _conv(2, input, weight, bias, stride, padding, dilation, groups, algorithm)


def conv3d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Ints = 1,
    padding: Ints | str = 0,
    dilation: Ints = 1,
    groups: int = 1,
    *,
    algorithm: str = "auto",
) -> Tensor:
    """Three-dimensional convolution of (N, C, D, H, W) or (C, D, H, W); otherwise as :func:`conv2d`.

    Example:
        >>> import torch
        >>> conv3d(torch.ones(1, 4, 4, 4), torch.ones(2, 1, 3, 3, 3)).shape
        torch.Size([2, 2, 2, 2])
    """
    return _conv(3, input, weight, bias, stride, padding, dilation, groups, algorithm)


def _conv(axes, input, weight, bias, stride, padding, dilation, groups, algorithm) -> Tensor:
    if weight.dim() != axes + 2:
        raise RuntimeError(
            f"conv{axes}d: weight: expected {axes + 2} dimensions "
            f"(K, C / groups and {axes} spatial), got shape {list(weight.shape)}"
        )
    if input.dim() not in (axes + 1, axes + 2):
        raise RuntimeError(
            f"conv{axes}d: input: expected {axes + 2} dimensions (N, C and {axes} spatial), "
            f"or {axes + 1} without N, got shape {list(input.shape)}"
        )
    stride, dilation = _per_axis(stride, axes), _per_axis(dilation, axes)
    if isinstance(padding, str):
        padding = padding_amounts(padding, input.shape[-axes:], weight.shape[2:], stride, dilation)
    arguments = (
        stride,
        _per_axis(padding, axes),
        dilation,
        groups,
        _default_algorithm if algorithm == "auto" else algorithm,
    )
    if input.dim() == axes + 1:
        return convolution(input.unsqueeze(0), weight, bias, *arguments).squeeze(0)
    return convolution(input, weight, bias, *arguments)


def _per_axis(value: Ints, axes: int) -> tuple[int, ...]:
    return (value,) * axes if isinstance(value, int) else tuple(value)


def padding_amounts(
    word: str,
    input_size: Sequence[int],
    filter_size: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
) -> tuple[int, ...]:
    """Zeros before and after each axis for a padding word, in the order of ``F.pad``.

    Args:
        word: ``"valid"``, ``"same"``, ``"half"`` or ``"full"``, see :func:`conv2d`.
        input_size, filter_size, stride, dilation: one for each spatial axis.

    Raises:
        ValueError: another word.

    Example:
        >>> padding_amounts("same", (32, 32), (5, 4), (1, 1), (1, 1))  # left, right, top, bottom
        (1, 2, 2, 2)
        >>> padding_amounts("same", (224,), (11,), (4,), (1,))
        (3, 4)
    """
    amounts: list[int] = []
    for size, cells, s, d in reversed(
        list(zip(input_size, filter_size, stride, dilation, strict=True))
    ):
        extent = d * (cells - 1)  # of the filter, beyond one cell
        if word == "valid":
            amounts += (0, 0)
        elif word == "half":
            amounts += (extent // 2, extent // 2)
        elif word == "full":
            amounts += (extent, extent)
        elif word == "same":
            output = -(-size // s)
            total = max((output - 1) * s + extent + 1 - size, 0)
            amounts += (total // 2, total - total // 2)
        else:
            raise ValueError(
                f'padding: expected an int, a tuple of ints or one of "valid", "same", "half", '
                f'"full", got {word!r}'
            )
    return tuple(amounts)
