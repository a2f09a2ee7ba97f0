"""The twin of :mod:`torch.nn.functional`: the same names, argument order and defaults.

What is here is argument sugar – ints to tuples, padding words to numbers, one image to a batch of
one. Checks and arithmetic are in the operations (:mod:`cnn_ext.ops`).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from types import TracebackType

import torch
import torch.nn.functional as F
from torch import Tensor

from cnn_ext._native import _C  # first: registers torch.ops.cnn_ext
from cnn_ext.ops import color_pca as pca
from cnn_ext.ops import local_response_norm as lrn
from cnn_ext.ops import max_pool as pool
from cnn_ext.ops._transforms import transformed
from cnn_ext.ops.convolution import convolution, convolution_relu, input_gradient

Ints = int | Sequence[int]

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
        input: (N, C, H, W) or (C, H, W); floating point or complex.
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
            packs patches block by block; ``"winograd"`` (filters of 3 x 3 or 5 x 5 cells, or so many
            in each phase of the stride, without dilation) takes 2.8 to 4 times fewer multiplications
            and rounds some three times as much; ``"direct"`` sums from a band of input rows, where no
            patch is packed. What ``"auto"`` takes, :func:`convolution_algorithm` tells.

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


def conv_relu2d(
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
    """``relu(conv2d(...))`` in one pass: each block of output is rectified while in the cache.

    Args: as for :func:`conv2d`; a real dtype.

    Returns:
        As :func:`conv2d`; NaN and -0 as :func:`torch.relu` has them. The gradient is zero where the
        output is; the input of the ReLU is not kept.

    Example:
        >>> import torch
        >>> x, w = torch.randn(1, 3, 8, 8), torch.randn(4, 3, 3, 3)
        >>> torch.equal(conv_relu2d(x, w, padding=1), conv2d(x, w, padding=1).relu())
        True
    """
    return _conv(2, input, weight, bias, stride, padding, dilation, groups, algorithm, convolution_relu)


def conv_transpose1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Ints = 1,
    padding: Ints = 0,
    output_padding: Ints = 0,
    groups: int = 1,
    dilation: Ints = 1,
    *,
    algorithm: str = "auto",
) -> Tensor:
    """One-dimensional transposed convolution of (N, C, L) or (C, L); see :func:`conv_transpose2d`.

    Example:
        >>> import torch
        >>> conv_transpose1d(torch.tensor([[1.0, 0, 2]]), torch.tensor([[[1.0, 1]]]), stride=2)
        tensor([[1., 1., 0., 0., 2., 2.]])
    """
    return _conv_transpose(
        1, input, weight, bias, stride, padding, output_padding, groups, dilation, algorithm
    )


def conv_transpose2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Ints = 1,
    padding: Ints = 0,
    output_padding: Ints = 0,
    groups: int = 1,
    dilation: Ints = 1,
    *,
    algorithm: str = "auto",
) -> Tensor:
    """Two-dimensional transposed convolution, as :func:`torch.nn.functional.conv_transpose2d`.

    It is the input gradient of the convolution with the same weight, stride and padding, and computed
    as such: multiplication by Cᵀ where the convolution multiplies by C.

    Args:
        input: (N, C, H, W) or (C, H, W).
        weight: (C, K / groups, R, S).
        bias: (K,).
        stride, padding, dilation: of the convolution that this transposes; ints, or one for each axis.
        output_padding: cells added at the end of each axis of the output, fewer than its stride or
            its dilation: several sizes convolve to the same one, and this says which is meant.
        groups: divides C and K.
        algorithm: see :func:`conv2d`.

    Returns:
        (N, K, P, Q) or (K, P, Q) with P = (H - 1) stride - 2 padding + dilation (R - 1)
        + output_padding + 1.

    Example:
        >>> import torch
        >>> conv_transpose2d(torch.randn(1, 20, 28, 28), torch.randn(20, 3, 5, 5)).shape
        torch.Size([1, 3, 32, 32])
    """
    return _conv_transpose(
        2, input, weight, bias, stride, padding, output_padding, groups, dilation, algorithm
    )


def conv_transpose3d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Ints = 1,
    padding: Ints = 0,
    output_padding: Ints = 0,
    groups: int = 1,
    dilation: Ints = 1,
    *,
    algorithm: str = "auto",
) -> Tensor:
    """Three-dimensional transposed convolution; see :func:`conv_transpose2d`.

    Example:
        >>> import torch
        >>> conv_transpose3d(torch.ones(2, 3, 3, 3), torch.ones(2, 1, 2, 2, 2), stride=2).shape
        torch.Size([1, 6, 6, 6])
    """
    return _conv_transpose(
        3, input, weight, bias, stride, padding, output_padding, groups, dilation, algorithm
    )


def _conv(
    axes,
    input,
    weight,
    bias,
    stride,
    padding,
    dilation,
    groups,
    algorithm,
    operation=convolution,
) -> Tensor:
    _check_ranks(f"conv{axes}d", axes, input, weight, "K, C / groups")
    input, weight, bias = _autocast(input, weight, bias)
    stride, dilation = _per_axis(stride, axes), _per_axis(dilation, axes)
    if isinstance(padding, str):
        padding = padding_amounts(padding, input.shape[-axes:], weight.shape[2:], stride, dilation)
    arguments = stride, _per_axis(padding, axes), dilation, groups, _algorithm(algorithm)
    if input.dim() == axes + 1:
        return operation(input.unsqueeze(0), weight, bias, *arguments).squeeze(0)
    return operation(input, weight, bias, *arguments)


def _conv_transpose(
    axes, input, weight, bias, stride, padding, output_padding, groups, dilation, algorithm
) -> Tensor:
    name = f"conv_transpose{axes}d"
    _check_ranks(name, axes, input, weight, "C, K / groups")
    if input.dim() == axes + 1:
        batch = input.unsqueeze(0)
        return _conv_transpose(
            axes, batch, weight, bias, stride, padding, output_padding, groups, dilation, algorithm
        ).squeeze(0)
    input, weight, bias = _autocast(input, weight, bias)
    lists = (_per_axis(value, axes) for value in (stride, padding, output_padding, dilation))
    stride, padding, output_padding, dilation = lists
    for value, label in ((stride, "stride"), (padding, "padding"), (output_padding, "output_padding"),
                         (dilation, "dilation")):  # fmt: skip
        if len(value) != axes:
            raise RuntimeError(f"{name}: {label}: expected one int or {axes}, got {value}")
    if any(more < 0 or more >= max(s, d)
           for more, s, d in zip(output_padding, stride, dilation, strict=True)):  # fmt: skip
        raise RuntimeError(
            f"{name}: output_padding: expected at least 0 and less than the stride {stride} or the "
            f"dilation {dilation} of the same axis, got {output_padding}"
        )
    channels = weight.shape[1] * groups
    if bias is not None and bias.shape != (channels,):
        raise RuntimeError(
            f"{name}: bias: expected shape [{channels}], one value for each output channel, "
            f"got {list(bias.shape)}"
        )
    if bias is not None and bias.dtype != input.dtype:
        raise RuntimeError(f"{name}: bias: expected {input.dtype}, the input's, got {bias.dtype}")
    # Cells added at the end are padding given back; beyond that, no input reaches them.
    after = [max(p - more, 0) for p, more in zip(padding, output_padding, strict=True)]
    beyond = [max(more - p, 0) for p, more in zip(padding, output_padding, strict=True)]
    size = [
        (length - 1) * s - p - a + d * (cells - 1) + 1
        for length, s, p, a, d, cells in zip(
            input.shape[2:], stride, padding, after, dilation, weight.shape[2:], strict=True
        )
    ]
    if any(length < 1 for length in size):
        raise RuntimeError(
            f"{name}: input: expected one that gives an output of at least 1 cell along every axis, "
            f"got shape {list(input.shape)}, which gives {size}"
        )
    both_sides = [amount for pair in zip(padding, after, strict=True) for amount in reversed(pair)]
    arguments = stride, both_sides[::-1], dilation, groups, _algorithm(algorithm)
    output = input_gradient(input, weight, (input.shape[0], channels, *size), *arguments)
    if any(beyond):
        output = F.pad(output, [amount for more in reversed(beyond) for amount in (0, more)])
    if bias is None:
        return output
    bias = bias.view(-1, *[1] * axes)
    # In place is faster by a tensor, but not where a bias may have axes that the output lacks.
    apart = torch.compiler.is_compiling() or transformed()
    return output + bias if apart else output.add_(bias)


def _check_ranks(name: str, axes: int, input: Tensor, weight: Tensor, first_two: str) -> None:
    if weight.dim() != axes + 2:
        raise RuntimeError(
            f"{name}: weight: expected {axes + 2} dimensions "
            f"({first_two} and {axes} spatial), got shape {list(weight.shape)}"
        )
    if input.dim() not in (axes + 1, axes + 2):
        raise RuntimeError(
            f"{name}: input: expected {axes + 2} dimensions (N, C and {axes} spatial), "
            f"or {axes + 1} without N, got shape {list(input.shape)}"
        )


def _autocast(*tensors: Tensor | None) -> list:
    """Tensors in the dtype that autocast is set to, where it is on: as torch's convolutions do."""
    device = tensors[0].device.type  # type: ignore[union-attr]
    if not _autocast_is_on(device):
        return list(tensors)
    dtype = torch.get_autocast_dtype(device)
    return [
        t.to(dtype) if t is not None and t.is_floating_point() and t.dtype != torch.float64 else t
        for t in tensors
    ]


def _autocast_is_on(device: str) -> bool:
    """For a type of device; never for meta, about which torch's own question is an error."""
    return device != "meta" and torch.is_autocast_enabled(device)


def _algorithm(asked: str) -> str:
    return _default_algorithm if asked == "auto" else asked


def _per_axis(value: Ints, axes: int) -> tuple[int, ...]:
    """One for all axes, or a sequence, which may as ever have one entry for all."""
    if isinstance(value, (int, torch.SymInt)):
        return (value,) * axes
    return tuple(value) * axes if len(value) == 1 else tuple(value)


def padding_amounts(
    padding: Ints | str,
    input_size: Sequence[int],
    filter_size: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
) -> tuple[int, ...]:
    """Cells of padding before and after each axis, in the order of ``F.pad``.

    Args:
        padding: whatever :func:`conv2d` takes: an int, ints or a word.
        input_size, filter_size, stride, dilation: one for each spatial axis.

    Raises:
        ValueError: an unknown word, or a wrong number of ints.

    Example:
        >>> padding_amounts("same", (32, 32), (5, 4), (1, 1), (1, 1))  # left, right, top, bottom
        (1, 2, 2, 2)
        >>> padding_amounts("same", (224,), (11,), (4,), (1,))
        (3, 4)
        >>> padding_amounts((1, 2), (32, 32), (5, 5), (1, 1), (1, 1))
        (2, 2, 1, 1)
    """
    axes = len(filter_size)
    if not isinstance(padding, str):
        padding = _per_axis(padding, axes)
        if len(padding) == 2 * axes:
            return padding
        if len(padding) != axes:
            raise ValueError(f"padding: expected an int, {axes} or {2 * axes} ints, got {padding}")
        return tuple(amount for amount in reversed(padding) for _ in range(2))
    amounts: list[int] = []
    for size, cells, s, d in reversed(
        list(zip(input_size, filter_size, stride, dilation, strict=True))
    ):
        extent = d * (cells - 1)  # of the filter, beyond one cell
        if padding == "valid":
            amounts += (0, 0)
        elif padding == "half":
            amounts += (extent // 2, extent // 2)
        elif padding == "full":
            amounts += (extent, extent)
        elif padding == "same":
            output = -(-size // s)
            total = max((output - 1) * s + extent + 1 - size, 0)
            amounts += (total // 2, total - total // 2)
        else:
            raise ValueError(
                f'padding: expected an int, a tuple of ints or one of "valid", "same", "half", '
                f'"full", got {padding!r}'
            )
    return tuple(amounts)


def local_response_norm(
    input: Tensor,
    size: int,
    alpha: float = 1e-4,
    beta: float = 0.75,
    k: float = 1.0,
    *,
    alpha_scaling: str = "mean",
    region: str = "channels",
    channel_dim: int = 1,
) -> Tensor:
    """Local response normalisation, as :func:`torch.nn.functional.local_response_norm`, and beyond.

    y = x / (k + a Σ x²)^β, the sum over ``size`` neighbouring filters at the same place, clipped at the
    first and last filter; or over a window of the same map.

    Args:
        input: (N, C, ...) by default; float32, float64, bfloat16 or float16.
        size: of the window. An even one reaches size / 2 filters before and size / 2 - 1 after, as
            torch's does.
        alpha, beta, k: the constants.
        alpha_scaling: ``"mean"``, a = alpha / cells of the window, borders included (torch, Caffe,
            cuDNN, ONNX); ``"sum"``, a = alpha (the AlexNet paper, TensorFlow).
        region: ``"channels"``, or ``"spatial"``: inside each map, size cells along every spatial axis
            (Caffe's WITHIN_CHANNEL; odd sizes only).
        channel_dim: the axis of the filters. Axis 0 is the batch, unless it is this: an unbatched
            image (C, H, W), which torch normalises over H, is ``channel_dim=0`` here.

    Returns:
        As the input. Where k + a Σ x² is zero, x / 0 as IEEE 754 has it: NaN for x = 0. Under autocast
        computed in float32.

    Source: A. Krizhevsky, I. Sutskever and G. Hinton, "ImageNet classification with deep convolutional
    neural networks" (2012), section 3.3.

    Example:
        One pixel of four maps, the sum of squares over three:

        >>> import torch
        >>> x = torch.tensor([1.0, 2.0, 3.0, 4.0]).view(1, 4, 1, 1)
        >>> y = local_response_norm(x, 3, alpha=1.0, beta=1.0, k=0.0, alpha_scaling="sum")
        >>> y.flatten()  # 1 / 5, 2 / 14, 3 / 29, 4 / 25
        tensor([0.2000, 0.1429, 0.1034, 0.1600])
    """
    if _autocast_is_on(input.device.type) and input.dtype != torch.float64:
        input = input.float()
    return lrn.local_response_norm(input, size, alpha, beta, k, alpha_scaling, region, channel_dim)


def max_pool2d(
    input: Tensor,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Ints = 0,
    dilation: Ints = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Max-pooling, as :func:`torch.nn.functional.max_pool2d`: the greatest cell of every window.

    torch's result and gradient, which goes to the first of equals, and to the last NaN, bit by bit but
    for the sign of a zero. What is kept for it is a byte for every output, where torch keeps the input
    and an index of eight bytes.

    Args:
        input: (N, C, H, W) or (C, H, W). float32 and float64, on a GPU bfloat16 and float16 too, with
            windows of at most 255 cells, run on kernels of ours; the rest is torch's.
        kernel_size: cells of a window; one int or one per axis, as those below.
        stride: from window to window; the window's size if None, so that windows do not overlap.
        padding: cells of -inf on both sides, at most half a window.
        dilation: from cell to cell of a window.
        ceil_mode: a last window may reach beyond the padding, if it starts inside.
        return_indices: also return where in its map each greatest cell is; by torch.

    Returns:
        (N, C, P, Q) or (C, P, Q), in the memory format of the input.

    Raises:
        RuntimeError: sizes out of range, or an input with no room for a window.

    Example:
        >>> import torch
        >>> x = torch.arange(16.0).view(1, 4, 4)
        >>> max_pool2d(x, 2)
        tensor([[[ 5.,  7.],
                 [13., 15.]]])
        >>> max_pool2d(x, 3, stride=1).shape  # overlapping
        torch.Size([1, 2, 2])
    """
    size, border, apart = _per_axis(kernel_size, 2), _per_axis(padding, 2), _per_axis(dilation, 2)
    step = size if stride is None else _per_axis(stride, 2)
    if return_indices:
        return F.max_pool2d_with_indices(input, size, step, border, apart, ceil_mode)
    if not pool.has_kernel(input) or size[0] * size[-1] > pool.MOST_TAPS:
        return F.max_pool2d(input, size, step, border, apart, ceil_mode)
    return pool.max_pool2d(input, size, step, border, apart, ceil_mode)


DENSE_WEIGHTS = 1 << 20  # of a dense layer that is ours, at least
DENSE_MANY = 1 << 22  # beyond which it is with more rows of input


def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """A fully connected (dense) layer, as :func:`torch.nn.functional.linear`: input weightᵀ + bias.

    It is a convolution of maps of one cell. Few inputs with many weights, as AlexNet's and VGG's, wait
    for the memory that the weights are in: kernels of ours read them once, where they lie, for up to 64
    rows of input and 2²⁰ weights or more (256 rows beyond 2²² weights), on the CPU, in float32 and
    float64, outside autocast. All else is torch's matrix product, and so is a compiled or exported
    program that leaves the number of rows open.

    Args:
        input: (..., in_features), rows of input.
        weight: (out_features, in_features).
        bias: (out_features,) or None.

    Returns:
        (..., out_features).

    Raises:
        RuntimeError: sizes, dtypes or devices do not fit one another.

    Example:
        >>> import torch
        >>> x, w, b = torch.ones(2, 3), torch.eye(4, 3), torch.tensor([0.0, 0.0, 0.0, 5.0])
        >>> linear(x, w, b)
        tensor([[1., 1., 1., 5.],
                [1., 1., 1., 5.]])
    """
    if not is_dense(input, weight, bias):
        return F.linear(input, weight, bias)
    rows = input.reshape(-1, weight.shape[1], 1)
    output = convolution(rows, weight.unsqueeze(2), bias, (1,), (0, 0), (1,), 1, "implicit_gemm")
    return output.view(*input.shape[:-1], weight.shape[0])


def is_dense(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> bool:
    """Whether kernels of ours serve a linear layer: see :func:`linear`."""
    tensors = [input, weight] if bias is None else [input, weight, bias]
    if weight.dim() != 2 or not all(map(_is_plain, tensors)) or _autocast_is_on("cpu"):
        return False
    if len({tensor.dtype for tensor in tensors}) > 1 or input.shape[-1:] != weight.shape[1:]:
        return False
    if bias is not None and bias.shape != weight.shape[:1]:
        return False
    rows = 256 if weight.numel() > DENSE_MANY else 64
    few, some = input.numel() <= rows * weight.shape[1], input.numel() > 0
    return weight.numel() >= DENSE_WEIGHTS and _is_known(few) and _is_known(some)


def _is_plain(tensor: Tensor) -> bool:
    """Dense numbers on the CPU: not sparse or nested, nor of a subclass that computes otherwise."""
    plain = type(tensor) in (Tensor, torch.nn.Parameter) and not tensor.is_nested
    of_ours = (torch.float32, torch.float64)
    return plain and tensor.layout is torch.strided and tensor.is_cpu and tensor.dtype in of_ours


def _is_known(condition: bool | torch.SymBool) -> bool:
    """Whether it holds; not where a compiler leaves it open, which asking would close."""
    if not torch.compiler.is_compiling():
        return bool(condition)
    from torch.fx.experimental.symbolic_shapes import statically_known_true

    return statically_known_true(condition)


def color_pca(input: Tensor, eigenvectors: Tensor, eigenvalues: Tensor, alphas: Tensor) -> Tensor:
    """Colour PCA: adds ``eigenvectors @ (alphas * eigenvalues)`` to every pixel.

    What it adds is one colour for a whole image, along the directions in which the colours of a
    training set vary. It draws nothing: ``alphas`` are drawn outside, normally distributed with
    standard deviation 0.1 in the paper (:class:`cnn_ext.transforms.RandomColorPCA` does).

    Args:
        input: (..., C, H, W), any number of leading axes. uint8, whose colours are 0 to 255, or
            floating point, whose colours are 0 to 1.
        eigenvectors: (C, C), one in each column. Floating point, as the next two; the shift is
            computed in float64 whatever their dtype.
        eigenvalues: (C,), of the covariance of colours on [0, 1], whatever the dtype of ``input``.
            Those of colours on 0 to 255 are 65025 times as large.
        alphas: (C,), one shift for all images, or (..., C), one row for each.

    Returns:
        Of the shape, dtype and memory format of ``input``. Floats are not clamped. uint8 gets 255 times
        the shift, rounded to nearest, ties to even, and saturates; where the shift is no number, 0.

    Raises:
        RuntimeError: a shape, dtype or device does not fit; the message names the argument.

    Source: A. Krizhevsky, I. Sutskever and G. Hinton, "ImageNet classification with deep convolutional
    neural networks" (2012), section 4.1.

    Example:
        Two grey levels more along the first axis:

        >>> import torch
        >>> image = torch.full((3, 1, 2), 100, dtype=torch.uint8)
        >>> eigenvalues = torch.tensor([0.2, 0.1, 0.1])
        >>> alphas = torch.tensor([2 / 255 / 0.2, 0.0, 0.0])
        >>> color_pca(image, torch.eye(3), eigenvalues, alphas).tolist()
        [[[102, 102]], [[100, 100]], [[100, 100]]]
    """
    return pca.color_pca(input, eigenvectors, eigenvalues, alphas)


def unfold(
    input: Tensor, kernel_size: Ints, dilation: Ints = 1, padding: Ints = 0, stride: Ints = 1
) -> Tensor:
    """im2col: every patch of an image as a column, as :func:`torch.nn.functional.unfold`.

    Args:
        input: (N, C, H, W) or (C, H, W), of any dtype.
        kernel_size, dilation, padding, stride: ints, or one for each axis.

    Returns:
        (N, C R S, P Q), or without N: column p Q + q is the patch under output cell (p, q).

    Example:
        Convolution is one matrix multiplication:

        >>> import torch
        >>> image, filters = torch.randn(1, 3, 8, 8), torch.randn(5, 3, 3, 3)
        >>> by_hand = (filters.flatten(1) @ unfold(image, 3)).view(1, 5, 6, 6)
        >>> torch.testing.assert_close(by_hand, conv2d(image, filters))
    """
    if input.dim() == 3:
        return unfold(input.unsqueeze(0), kernel_size, dilation, padding, stride).squeeze(0)
    if input.dim() != 4:
        raise RuntimeError(
            f"unfold: input: expected 4 dimensions (N, C, H, W), or 3 without N, "
            f"got shape {list(input.shape)}"
        )
    kernel, dilation, padding, stride = _window("unfold", kernel_size, dilation, padding, stride)
    counts = _counts("unfold", input.shape[2:], kernel, dilation, padding, stride)
    patches = F.pad(input, padding_amounts(padding, (), kernel, (), ()))
    for axis, (cells, d, s) in enumerate(zip(kernel, dilation, stride, strict=True), 2):
        patches = patches.unfold(axis, d * (cells - 1) + 1, s)[..., ::d]  # a view, patch cells last
    return patches.permute(0, 1, 4, 5, 2, 3).reshape(
        input.shape[0], input.shape[1] * kernel[0] * kernel[1], counts[0] * counts[1]
    )


def fold(
    input: Tensor,
    output_size: Ints,
    kernel_size: Ints,
    dilation: Ints = 1,
    padding: Ints = 0,
    stride: Ints = 1,
) -> Tensor:
    """col2im, the adjoint of :func:`unfold`: columns added into the cells they were read from.

    As :func:`torch.nn.functional.fold`.

    Args:
        input: (N, C R S, P Q) or (C R S, P Q).
        output_size: (H, W).
        kernel_size, dilation, padding, stride: those of the :func:`unfold`.

    Returns:
        (N, C, H, W) or (C, H, W).

    Example:
        How many 2 x 2 patches of a 3 x 3 image meet each cell:

        >>> import torch
        >>> fold(torch.ones(1, 4, 4), (3, 3), 2)
        tensor([[[[1., 2., 1.],
                  [2., 4., 2.],
                  [1., 2., 1.]]]])
    """
    if input.dim() == 2:
        columns = input.unsqueeze(0)
        return fold(columns, output_size, kernel_size, dilation, padding, stride).squeeze(0)
    kernel, dilation, padding, stride = _window("fold", kernel_size, dilation, padding, stride)
    size = _per_axis(output_size, 2)
    counts = _counts("fold", size, kernel, dilation, padding, stride)
    taps, cells = kernel[0] * kernel[1], counts[0] * counts[1]
    if input.dim() != 3 or input.shape[1] % taps != 0 or input.shape[2] != cells:
        raise RuntimeError(
            f"fold: input: expected (N, a multiple of {taps}, {cells}), or without N, for "
            f"output_size {size} and kernel_size {kernel}, got shape {list(input.shape)}"
        )
    channels = input.shape[1] // taps
    patches = input.view(-1, channels, *kernel, *counts).permute(0, 1, 4, 5, 2, 3)
    for axis in (3, 2):  # (N, C, P, Q, R, S) to (N, C, P, W, R), then to (N, C, H, W)
        d, length = dilation[axis - 2], size[axis - 2] + 2 * padding[axis - 2]
        extent = d * (kernel[axis - 2] - 1) + 1
        if d > 1:  # zeros between the cells of a dilated patch
            spread = patches.new_zeros(*patches.shape[:-1], extent)
            patches = torch.slice_scatter(spread, patches, -1, 0, extent, d)
        shape = list(patches.shape[:-1])
        shape[axis] = length
        patches = torch.ops.aten.unfold_backward(patches, shape, axis, extent, stride[axis - 2])
    top, left = padding
    return patches[..., top : top + size[0], left : left + size[1]]


def _window(name: str, *arguments: Ints) -> list[tuple[int, ...]]:
    lists = [_per_axis(value, 2) for value in arguments]
    labels = ("kernel_size", "dilation", "padding", "stride")
    for value, label, least in zip(lists, labels, (1, 1, 0, 1), strict=True):
        if len(value) != 2 or min(value) < least:
            raise RuntimeError(f"{name}: {label}: expected one or two ints >= {least}, got {value}")
    return lists


def _counts(name: str, size, kernel, dilation, padding, stride) -> list[int]:
    """Patches along each axis."""
    counts = [
        (length + 2 * p - d * (cells - 1) - 1) // s + 1
        for length, p, d, cells, s in zip(size, padding, dilation, kernel, stride, strict=True)
    ]
    if min(counts) < 1:
        raise RuntimeError(
            f"{name}: kernel_size: expected one that fits the padded image of {tuple(size)} with "
            f"padding {padding}, got {kernel} with dilation {dilation}"
        )
    return counts
