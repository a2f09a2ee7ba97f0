"""Which algorithm a convolution takes: the default, and what ``"auto"`` means."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from types import TracebackType

import torch

from cnn_ext._native import _C
from cnn_ext.functional._arguments import Ints, _per_axis, padding_amounts

ALGORITHMS = ("auto", "im2col", "implicit_gemm", "winograd", "direct")
_default_algorithm = "auto"


class default_algorithm(AbstractContextManager):  # noqa: N801 - read as a function
    """Sets the algorithm that ``algorithm="auto"`` means, from here on or for a block of code.

    Args:
        name: ``"auto"``, ``"im2col"``, ``"implicit_gemm"``, ``"winograd"`` or ``"direct"``.
            ``"implicit_gemm"`` is the switch that excludes Winograd.

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


def _algorithm(asked: str) -> str:
    return _default_algorithm if asked == "auto" else asked


def convolution_algorithm(
    input_size: Sequence[int],
    weight_size: Sequence[int],
    stride: Ints = 1,
    padding: Ints | str = 0,
    dilation: Ints = 1,
    groups: int = 1,
    *,
    dtype: torch.dtype = torch.float32,
    memory_format: torch.memory_format = torch.contiguous_format,
    weight_gradient: bool = False,
) -> str:
    """The algorithm that ``algorithm="auto"`` means for a convolution on the CPU.

    A function of the shape, the dtype, the memory format and, in bfloat16 and of groups of 16 channels,
    the processor, never of a timing, so that results do not change from run to run. In this order:

    - ``"direct"`` for depthwise convolution with at most 64 filter cells, where the input rows of a
      window (512 cells of the output at a time) hold at most 65536 cells; likewise for groups of 2, 4,
      8 or, with AVX-512, 16 channels and as many filters, in channels_last, where the convolution
      strides, and where rows of the output have fewer than 16 cells;
    - ``"winograd"`` for float32, filters of 3 x 3 or 5 x 5 cells (where the convolution strides, in
      each phase of the stride, such as 11 x 11 at stride 4) without dilation, at least 16 channels
      (phases counted) and 16 filters to a group, and maps large enough that its tiles save a third of
      the multiplications;
    - ``"direct"`` for filters of 5 to 1024 cells whose windows overlap, reach over no more than half a
      row of the output, and need a band of input rows that fits the cache; in channels_last with 16
      channels or more only at stride 1, and with fewer than 16 filters from 2 cells on; not for small
      maps;
    - ``"implicit_gemm"`` for the rest, and for small maps, which it turns to channels_last: dense ones
      in NCHW, higher than one row, with fewer than 16 cells to a row of the output and 32 of the input,
      16 channels and filters or more and no groups; neither complex nor, in volumes, float64.

    bfloat16, where the processor multiplies it itself, is by ``"implicit_gemm"`` in place of Winograd
    that saves less than two thirds of the multiplications or is asked for a weight gradient, and in
    place of direct convolution, unless that is depthwise, of one channel, of groups with fewer than 16
    channels or, in a weight gradient, of fewer than 32 filters. Forward, narrow groups are ``"direct"``
    in NCHW too, turned to channels_last, and so are those of 32 channels at stride 1.

    The input gradient of a strided convolution follows the rule in each phase of the stride (but for
    small maps, and bfloat16 that is multiplied: by implicit GEMM in all or in none; of windows that
    lie side by side it may be one product, with ``"implicit_gemm"``). The weight
    gradient is ``"direct"``, where it is not Winograd, for fewer than 32 filters, and in channels_last
    for fewer than 16 channels, unless a filter reaches over more than a row of the output.

    Args:
        input_size: (N, C, H, W), or with one or three spatial axes.
        weight_size: (K, C / groups, R, S), with as many.
        stride, padding, dilation, groups: as :func:`conv2d`.
        dtype: of input and weight. float16, and bfloat16 on other processors, are computed in float32.
        memory_format: of the input, which is taken to be dense; only ``torch.channels_last`` and
            ``torch.channels_last_3d`` make a difference.
        weight_gradient: whether that is asked for, or else the forward pass.

    Returns:
        A name that :func:`conv2d` takes as ``algorithm``.

    Raises:
        ValueError: sizes that are not those of a convolution.

    Example:
        >>> convolution_algorithm((16, 64, 56, 56), (64, 64, 3, 3), padding=1)
        'winograd'
        >>> convolution_algorithm((16, 64, 56, 56), (64, 64, 3, 3), padding=1, dtype=torch.float64)
        'direct'
    """
    axes = len(weight_size) - 2
    if len(input_size) != len(weight_size) or not 1 <= axes <= 3:
        raise ValueError(
            "convolution_algorithm: expected sizes like (N, C, H, W) and (K, C / groups, R, S), "
            f"got {tuple(input_size)} and {tuple(weight_size)}"
        )
    stride, dilation = _per_axis(stride, axes), _per_axis(dilation, axes)
    amounts = padding_amounts(padding, input_size[2:], weight_size[2:], stride, dilation)
    channels_last = memory_format in (torch.channels_last, torch.channels_last_3d)
    name = str(dtype).removeprefix("torch.")
    return _C.chosen_algorithm(
        name, channels_last, weight_gradient, tuple(input_size), tuple(weight_size), stride, amounts,
        dilation, groups,
    )  # fmt: skip
