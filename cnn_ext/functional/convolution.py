"""Convolution of one to three axes, alone or with a ReLU, and transposed convolution."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function

from cnn_ext.functional import _traced
from cnn_ext.functional._arguments import (
    Ints,
    _autocast,
    integer,
    integers,
    padding_amounts,
    tensor,
)
from cnn_ext.functional.algorithm import _algorithm
from cnn_ext.ops._transforms import transformed
from cnn_ext.ops.convolution import convolution, convolution_relu, input_gradient

__all__ = [
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_relu2d",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
]


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
    if has_torch_function((input, weight, bias)):
        return handle_torch_function(
            conv1d, (input, weight, bias), input, weight, bias, stride, padding, dilation, groups,
            algorithm=algorithm,
        )  # fmt: skip
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
            patch is packed. What ``"auto"`` takes, :func:`convolution_algorithm` tells. Winograd is not
            exact where the others are: on integers and other data whose sums float32 holds without
            rounding. Zeros come out as some 1e-6. ``default_algorithm("implicit_gemm")`` excludes it.

    Integers are ints, NumPy's, or tensors of one; lists of them are tuples or lists, as torch has it.

    Returns:
        (N, K, P, Q) or (K, P, Q), in channels_last if input or weight is. An input without channels
        gives no channels, as in torch.

    Raises:
        RuntimeError, ValueError: an argument does not fit the others; the message names it.
        TypeError: an argument is of a type that torch refuses too.

    Example:
        The four paddings of a 32 x 32 image under a 5 x 5 filter:

        >>> import torch
        >>> x, w = torch.randn(1, 3, 32, 32), torch.randn(6, 3, 5, 5)
        >>> [conv2d(x, w, padding=p).shape[-1] for p in ("valid", "half", "same", "full")]
        [28, 32, 32, 36]
    """
    if has_torch_function((input, weight, bias)):
        return handle_torch_function(
            conv2d, (input, weight, bias), input, weight, bias, stride, padding, dilation, groups,
            algorithm=algorithm,
        )  # fmt: skip
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
    if has_torch_function((input, weight, bias)):
        return handle_torch_function(
            conv3d, (input, weight, bias), input, weight, bias, stride, padding, dilation, groups,
            algorithm=algorithm,
        )  # fmt: skip
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
    if has_torch_function((input, weight, bias)):
        return handle_torch_function(
            conv_relu2d, (input, weight, bias), input, weight, bias, stride, padding, dilation, groups,
            algorithm=algorithm,
        )  # fmt: skip
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
    if has_torch_function((input, weight, bias)):
        return handle_torch_function(
            conv_transpose1d, (input, weight, bias), input, weight, bias, stride, padding,
            output_padding, groups, dilation, algorithm=algorithm,
        )  # fmt: skip
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
    if has_torch_function((input, weight, bias)):
        return handle_torch_function(
            conv_transpose2d, (input, weight, bias), input, weight, bias, stride, padding,
            output_padding, groups, dilation, algorithm=algorithm,
        )  # fmt: skip
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
    if has_torch_function((input, weight, bias)):
        return handle_torch_function(
            conv_transpose3d, (input, weight, bias), input, weight, bias, stride, padding,
            output_padding, groups, dilation, algorithm=algorithm,
        )  # fmt: skip
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
    name = f"conv{axes}d"
    _check(name, axes, input, weight, bias, "K, C / groups")
    stride = integers(f"{name}: stride", stride, axes)
    dilation = integers(f"{name}: dilation", dilation, axes)
    groups, algorithm = integer(f"{name}: groups", groups), _algorithm(algorithm)
    if isinstance(padding, str):
        if torch.jit.is_tracing() and operation in (convolution, convolution_relu):
            relu = operation is convolution_relu
            return _conv_by_word(
                input, weight, bias, stride, padding, dilation, groups, algorithm, relu
            )
        padding = padding_amounts(padding, input.shape[-axes:], weight.shape[2:], stride, dilation)
    else:
        padding = integers(f"{name}: padding", padding, axes)
    input, weight, bias = _autocast(input, weight, bias)
    if not torch.jit.is_tracing():  # which warns of every choice by a size
        if weight.shape[0] < groups:
            raise RuntimeError(
                f"{name}: weight: expected at least {groups} filters, one for each group, got shape "
                f"{list(weight.shape)}"
            )
        if input.shape[-axes - 1] == 0:
            return _conv_of_nothing(axes, input, weight, bias, stride, padding, dilation, groups)
    arguments = stride, padding, dilation, groups, algorithm
    if input.dim() == axes + 1:
        return operation(input.unsqueeze(0), weight, bias, *arguments).squeeze(0)
    return operation(input, weight, bias, *arguments)


def _conv_of_nothing(axes, input, weight, bias, stride, padding, dilation, groups) -> Tensor:
    """Of no channels torch makes no channels, whatever the filters, and gradients of zero."""
    if len(padding) == 2 * axes:
        input, padding = F.pad(input, padding), 0
    convolve = (F.conv1d, F.conv2d, F.conv3d)[axes - 1]
    return convolve(input, weight, bias, stride, padding, dilation, groups)


@_traced.operation(
    "traced_convolution(Tensor input, Tensor weight, Tensor? bias, SymInt[] stride, str padding, "
    "SymInt[] dilation, SymInt groups, str algorithm, bool relu) -> Tensor"
)
def _conv_by_word(input, weight, bias, stride, padding, dilation, groups, algorithm, relu) -> Tensor:
    operation = convolution_relu if relu else convolution
    axes = weight.dim() - 2
    return _conv(axes, input, weight, bias, stride, padding, dilation, groups, algorithm, operation)


def _pad_same(input, kernel_size, stride, dilation, mode) -> Tensor:
    """As ``padding="same"`` pads, with something else than zeros; recorded by tracers as one call."""
    if has_torch_function((input,)):
        return handle_torch_function(_pad_same, (input,), input, kernel_size, stride, dilation, mode)
    if torch.jit.is_tracing():
        return _traced_pad_same(input, kernel_size, stride, dilation, mode)
    size = input.shape[-len(kernel_size) :]
    return F.pad(input, padding_amounts("same", size, kernel_size, stride, dilation), mode)


_traced_pad_same = _traced.operation(
    "traced_pad_same(Tensor input, SymInt[] kernel_size, SymInt[] stride, SymInt[] dilation, "
    "str mode) -> Tensor"
)(_pad_same)


def _conv_transpose(
    axes, input, weight, bias, stride, padding, output_padding, groups, dilation, algorithm
) -> Tensor:
    name = f"conv_transpose{axes}d"
    _check(name, axes, input, weight, bias, "C, K / groups")
    stride, padding, output_padding, dilation = (
        _one_per_axis(f"{name}: {label}", value, axes)
        for label, value in (("stride", stride), ("padding", padding),
                             ("output_padding", output_padding), ("dilation", dilation))
    )  # fmt: skip
    groups, algorithm = integer(f"{name}: groups", groups), _algorithm(algorithm)
    arguments = stride, padding, output_padding, groups, dilation, algorithm
    if torch.jit.is_tracing():
        return _traced_conv_transpose(input, weight, bias, *arguments)
    input, weight, bias = _autocast(input, weight, bias)
    if input.dim() == axes + 1:
        return _conv_transpose_batch(name, input.unsqueeze(0), weight, bias, *arguments).squeeze(0)
    return _conv_transpose_batch(name, input, weight, bias, *arguments)


@_traced.operation(
    "traced_conv_transpose(Tensor input, Tensor weight, Tensor? bias, SymInt[] stride, "
    "SymInt[] padding, SymInt[] output_padding, SymInt groups, SymInt[] dilation, str algorithm) "
    "-> Tensor"
)
def _traced_conv_transpose(input, weight, *arguments):
    return _conv_transpose(weight.dim() - 2, input, weight, *arguments)


def _conv_transpose_batch(
    name, input, weight, bias, stride, padding, output_padding, groups, dilation, algorithm
) -> Tensor:
    axes = weight.dim() - 2
    if any(more < 0 or more >= max(s, d)
           for more, s, d in zip(output_padding, stride, dilation, strict=True)):  # fmt: skip
        raise RuntimeError(
            f"{name}: output_padding: expected at least 0 and less than the stride {stride} or the "
            f"dilation {dilation} of the same axis, got {output_padding}"
        )
    if 0 in weight.shape[:2]:
        raise RuntimeError(
            f"{name}: weight: expected at least 1 channel of input and output, got shape "
            f"{list(weight.shape)}"
        )
    channels = weight.shape[1] * groups
    if bias is not None and bias.shape != (channels,):
        raise RuntimeError(
            f"{name}: bias: expected shape [{channels}], one value for each output channel, "
            f"got {list(bias.shape)}"
        )
    if bias is not None and bias.dtype != input.dtype:
        raise RuntimeError(f"{name}: bias: expected {input.dtype}, the input's, got {bias.dtype}")
    full = [  # the cells that some input reaches
        (length - 1) * s + d * (cells - 1) + 1
        for length, s, d, cells in zip(input.shape[2:], stride, dilation, weight.shape[2:], strict=True)
    ]
    size = [f - 2 * p + more for f, p, more in zip(full, padding, output_padding, strict=True)]
    if any(length < 1 for length in size):
        raise RuntimeError(
            f"{name}: input: expected one that gives an output of at least 1 cell along every axis, "
            f"got shape {list(input.shape)}, which gives {size}"
        )
    # Cells added at the end are padding given back; beyond that, no input reaches them. Where padding
    # takes all that some input reaches, it is taken afterwards: no convolution has an empty input.
    both_sides: list[int] = []
    afterwards: list[int] = []
    for f, p, more in reversed(list(zip(full, padding, output_padding, strict=True))):
        if p > 0 and p >= f:
            both_sides += (0, 0)
            afterwards += (-f, f - 2 * p + more)
        else:
            both_sides += (p, max(p - more, 0))
            afterwards += (0, max(more - p, 0))
    reached = [
        length - sum(afterwards[2 * axis : 2 * axis + 2])
        for axis, length in zip(reversed(range(axes)), size, strict=True)
    ]
    output = input_gradient(
        input, weight, (input.shape[0], channels, *reached), stride, both_sides, dilation, groups,
        algorithm,
    )  # fmt: skip
    if any(afterwards):
        output = F.pad(output, afterwards)
    if bias is None:
        return output
    bias = bias.view(-1, *[1] * axes)
    # In place is faster by a tensor, but not where a bias may have axes that the output lacks, or is
    # of a subclass that the output is not of.
    apart = torch.compiler.is_compiling() or transformed() or not _is_plain(bias)
    return output + bias if apart else output.add_(bias)


def _is_plain(tensor: Tensor) -> bool:
    return type(tensor) in (Tensor, torch.nn.Parameter)


def _one_per_axis(what: str, value: Ints, axes: int) -> tuple[int, ...]:
    values = integers(what, value, axes)
    if len(values) != axes:
        raise RuntimeError(f"{what}: expected one int or {axes}, got {values}")
    return values


def _check(name: str, axes: int, input: Tensor, weight: Tensor, bias: Tensor | None, first_two: str):
    """That tensors are tensors, of as many dimensions as there must be."""
    tensor(f"{name}: input", input)
    tensor(f"{name}: weight", weight)
    if bias is not None:
        tensor(f"{name}: bias", bias)
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
