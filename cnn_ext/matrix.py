"""Convolution as what it is: a linear map, and so a matrix.

For teaching and for checking. :func:`conv_matrix` writes out the sparse matrix C of a convolution, with
C x = conv(x) and Cᵀ g its input gradient; the other functions are the arithmetic around it: the filter
that runs backwards, its padding, the output cells that one input cell reaches, receptive fields.

Source: V. Dumoulin and F. Visin, "A guide to convolution arithmetic for deep learning"
(2016), chapter 4.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from cnn_ext._inspection import example, looking_at, own_modules, with_values
from cnn_ext.functional import Ints, _per_axis, default_algorithm, padding_amounts


def conv_matrix(
    weight: Tensor,
    input_size: Ints,
    stride: Ints = 1,
    padding: Ints | str = 0,
    dilation: Ints = 1,
    groups: int = 1,
    *,
    layout: torch.layout = torch.sparse_csr,
) -> Tensor:
    r"""The matrix C of a convolution: ``C @ x.flatten() == conv(x).flatten()`` for one image x.

    Row (k, p, q) holds the weights of filter k where they lie on the input cells (c, h, w) that output
    cell (p, q) sees; all else is zero. Only entries inside the input are stored, so C has at most
    K P Q (C / groups) R S of them.

    Args:
        weight: (K, C / groups, \*filter), one to three spatial axes.
        input_size: spatial sizes of the image, with or without C before them.
        stride, padding, dilation, groups: as for :func:`cnn_ext.functional.conv2d`.
        layout: ``torch.sparse_csr``, ``torch.sparse_coo`` or ``torch.strided``.

    Returns:
        (K P Q, C H W), of the weight's dtype and device; differentiable in the weight.

    Example:
        A 2 x 2 filter on a 3 x 3 image, whose output is 2 x 2:

        >>> filter = torch.tensor([[1.0, 2], [3, 4]]).view(1, 1, 2, 2)
        >>> conv_matrix(filter, (3, 3), layout=torch.strided)
        tensor([[1., 2., 0., 3., 4., 0., 0., 0., 0.],
                [0., 1., 2., 0., 3., 4., 0., 0., 0.],
                [0., 0., 0., 1., 2., 0., 3., 4., 0.],
                [0., 0., 0., 0., 1., 2., 0., 3., 4.]])
    """
    if not 3 <= weight.dim() <= 5:
        raise ValueError(
            f"weight: expected 3, 4 or 5 dimensions (K, C / groups and 1 to 3 spatial), "
            f"got shape {list(weight.shape)}"
        )
    if layout not in (torch.sparse_csr, torch.sparse_coo, torch.strided):
        raise ValueError(
            f"layout: expected torch.sparse_csr, torch.sparse_coo or torch.strided, got {layout}"
        )
    K, channels, *filter = weight.shape
    axes = len(filter)
    size = _per_axis(input_size, axes)
    if len(size) == axes + 1 and size[0] == channels * groups:
        size = size[1:]
    if len(size) != axes:
        raise ValueError(
            f"input_size: expected {axes} spatial sizes, or {channels * groups} channels and those, "
            f"got {input_size}"
        )
    if K % groups:
        raise ValueError(f"groups: expected a divisor of the {K} filters, got {groups}")
    cells, inside = _input_cells(size, filter, stride, padding, dilation)  # (P, T)
    P, T = cells.shape
    area = torch.Size(size).numel()

    # One filter's rows: its entries in the order of output cell, channel, tap; so columns ascend.
    channel = torch.arange(channels).view(1, channels, 1)
    columns = channel * area + cells.view(P, 1, T)
    stored = inside.view(P, 1, T).expand(P, channels, T)
    columns = columns[stored]
    first_channel = torch.arange(K) // (K // groups) * channels
    all_columns = (first_channel[:, None] * area + columns).flatten().to(weight.device)
    stored = stored.to(weight.device)
    values = torch.cat(
        [filter_.reshape(1, channels, T).expand(P, -1, -1)[stored] for filter_ in weight]
    )
    per_row = (inside.sum(1) * channels).repeat(K)
    starts = torch.cat([per_row.new_zeros(1), per_row.cumsum(0)]).to(weight.device)
    shape = (K * P, channels * groups * area)
    if layout is torch.sparse_csr:
        return torch.sparse_csr_tensor(starts, all_columns, values, shape, check_invariants=False)
    rows = torch.arange(K * P).repeat_interleave(per_row).to(weight.device)
    if layout is torch.strided:
        return values.new_zeros(shape).index_put((rows, all_columns), values)
    return torch.sparse_coo_tensor(torch.stack([rows, all_columns]), values, shape, is_coalesced=True)


def _input_cells(
    size: Sequence[int], filter: Sequence[int], stride: Ints, padding: Ints | str, dilation: Ints
) -> tuple[Tensor, Tensor]:
    """The input cell under each output cell and tap, and whether there is one: (output cells, taps)."""
    axes = len(filter)
    stride, dilation = _per_axis(stride, axes), _per_axis(dilation, axes)
    amounts = padding_amounts(padding, size, filter, stride, dilation)
    cells = torch.zeros(1, 1, dtype=torch.long)
    inside = torch.ones(1, 1, dtype=torch.bool)
    for axis in range(axes):
        before, after = amounts[2 * (axes - 1 - axis) :][:2]
        extent = dilation[axis] * (filter[axis] - 1) + 1
        outputs = (size[axis] + before + after - extent) // stride[axis] + 1
        if outputs < 1:
            raise ValueError(
                f"input_size: expected a padded size of at least {extent} along axis {axis}, "
                f"got {size[axis] + before + after}"
            )
        at = (
            torch.arange(outputs).view(-1, 1) * stride[axis]
            - before
            + torch.arange(filter[axis]) * dilation[axis]
        )  # (outputs, taps) of this axis
        here = (at >= 0) & (at < size[axis])

        def outer(a: Tensor, b: Tensor, combine) -> Tensor:
            both = combine(a[:, None, :, None], b[None, :, None, :])
            return both.reshape(len(a) * len(b), -1)

        cells = outer(cells * size[axis], at, torch.add)
        inside = outer(inside, here, torch.logical_and)
    return cells, inside


def flip_filters(weight: Tensor) -> Tensor:
    r"""The filters of the backward pass: turned by 180°, input and output channels exchanged.

    A convolution at stride 1 has the input gradient ``conv(g, flip_filters(weight))`` with
    :func:`backward_padding`.

    Args:
        weight: (K, C, \*filter).

    Returns:
        (C, K, \*filter), a copy.

    Example:
        >>> flip_filters(torch.arange(4.0).view(1, 1, 2, 2))
        tensor([[[[3., 2.],
                  [1., 0.]]]])
        >>> flip_filters(torch.zeros(20, 3, 5, 5)).shape  # 20 filters on RGB: 3 filters on 20 maps
        torch.Size([3, 20, 5, 5])
    """
    return weight.flip(tuple(range(2, weight.dim()))).transpose(0, 1)


def backward_padding(kernel_size: Ints, padding: Ints) -> int | tuple[int, ...]:
    """The padding of the backward pass at stride 1: forward + backward = F - 1.

    Args:
        kernel_size, padding: ints, or one for each axis.

    Returns:
        An int if both are, otherwise one for each axis.

    Raises:
        ValueError: more padding than F - 1, whose gradient would crop rather than pad.

    Example:
        >>> [backward_padding(5, p) for p in (0, 2, 4)]  # valid, half, full
        [4, 2, 0]
    """
    if isinstance(kernel_size, int) and isinstance(padding, int):
        (result,) = backward_padding((kernel_size,), (padding,))  # type: ignore[misc]
        return result
    axes = len(padding) if isinstance(kernel_size, int) else len(kernel_size)  # type: ignore[arg-type]
    pairs = zip(_per_axis(kernel_size, axes), _per_axis(padding, axes), strict=True)
    result = tuple(cells - 1 - amount for cells, amount in pairs)
    if min(result) < 0:
        raise ValueError(
            f"padding: expected at most F - 1 for kernel_size {kernel_size}, got {padding}"
        )
    return result


def output_size(
    input_size: Ints,
    kernel_size: Ints,
    stride: Ints = 1,
    padding: Ints | str = 0,
    dilation: Ints = 1,
) -> int | tuple[int, ...]:
    """The size of a convolution's output: floor((L + padding - d (F - 1) - 1) / S) + 1 along each axis.

    Args: as for :func:`cnn_ext.functional.conv2d`; an int for one axis, or one for each.

    Returns:
        An int if ``input_size`` is one, otherwise a tuple.

    Example:
        >>> [output_size(32, 5, padding=p) for p in ("valid", "half", "full")]
        [28, 32, 36]
        >>> [output_size(5, 3, stride=s) for s in (1, 2)]
        [3, 2]
        >>> output_size((224, 224), 11, stride=4, padding=(0, 3, 0, 3))  # AlexNet's first layer
        (55, 55)
    """
    sizes = (input_size,) if isinstance(input_size, int) else tuple(input_size)
    kernel, strides, dilations = (_per_axis(v, len(sizes)) for v in (kernel_size, stride, dilation))
    amounts = padding_amounts(padding, sizes, kernel, strides, dilations)
    result = tuple(
        (size + sum(amounts[2 * (len(sizes) - 1 - i) :][:2]) - d * (cells - 1) - 1) // s + 1
        for i, (size, cells, s, d) in enumerate(zip(sizes, kernel, strides, dilations, strict=True))
    )
    if min(result) < 1:
        raise ValueError(
            f"kernel_size: expected one that fits the padded input of {input_size}, got {kernel_size}"
        )
    return result[0] if isinstance(input_size, int) else result


def forward_set(
    cell: Sequence[int],
    input_size: Sequence[int],
    kernel_size: Ints,
    stride: Ints = 1,
    padding: Ints | str = 0,
    dilation: Ints = 1,
) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """The forward set of one input cell: the output cells it reaches, each with the tap it meets there.

    The loss derivative of the cell is the sum, over these pairs, of the output cell's derivative times
    that tap's weight.

    Args:
        cell: indices of the input cell, one for each axis.
        input_size: spatial sizes of the input.
        kernel_size, stride, padding, dilation: of the convolution.

    Returns:
        Pairs (output cell, filter cell), in the order of output cells.

    Example:
        >>> forward_set((1, 1), (3, 3), 2)  # the middle of a 3 x 3 input, under a 2 x 2 filter
        [((0, 0), (1, 1)), ((0, 1), (1, 0)), ((1, 0), (0, 1)), ((1, 1), (0, 0))]
        >>> forward_set((0, 0), (3, 3), 2)  # a corner
        [((0, 0), (0, 0))]
    """
    axes = len(input_size)
    if len(cell) != axes or any(not 0 <= i < n for i, n in zip(cell, input_size, strict=False)):
        raise ValueError(f"cell: expected indices within {tuple(input_size)}, got {tuple(cell)}")
    kernel, stride, dilation = (_per_axis(v, axes) for v in (kernel_size, stride, dilation))
    before = padding_amounts(padding, input_size, kernel, stride, dilation)[-2::-2]
    outputs = output_size(tuple(input_size), kernel, stride, padding, dilation)
    along_axis = []  # for each axis, the pairs of one coordinate
    for i, n, cells, s, d, b in zip(cell, outputs, kernel, stride, dilation, before, strict=True):  # type: ignore[arg-type]
        along_axis.append([(p, r) for p in range(n) for r in range(cells) if p * s - b + r * d == i])
    return [
        (tuple(p for p, _ in pairs), tuple(r for _, r in pairs))
        for pairs in itertools.product(*along_axis)
    ]


class ReceptiveField(NamedTuple):
    """Which input cells a unit of a layer sees, along each axis.

    Unit p sees ``size`` cells around the input coordinate ``offset + p * stride`` (cell centres are
    whole numbers). ``stride`` is NaN along an axis where no input of twice the size has a second unit.
    """

    size: tuple[int, ...]
    stride: tuple[float, ...]
    offset: tuple[float, ...]


def receptive_field(model: torch.nn.Module, input_size: Sequence[int]) -> dict[str, ReceptiveField]:
    r"""The receptive field of every named module with feature maps, found by experiment.

    One row or column of the input at a time is made NaN, and the units that become NaN are those that
    see it. So any architecture is served, and where branches meet, the union is found. Fields that the
    border of the input cuts off everywhere are reported as large as the input lets them be. The cost is
    one evaluation for each row and each column.

    Args:
        model: any module of one input; it is run in evaluation mode and stays as it is.
        input_size: (C, \*spatial) of the input. Larger than the fields, to see them whole.

    Returns:
        By module name, for outputs (N, maps, \*spatial) of as many axes as the input; of a module
        that is called more than once, its last call.

    Example:
        >>> from cnn_ext.models import lenet5
        >>> fields = receptive_field(lenet5(), (1, 32, 32))
        >>> for name in ("c1", "s2", "c3", "s4", "c5"):
        ...     print(name, fields[name].size[0], fields[name].stride[0], fields[name].offset[0])
        c1 5 1.0 2.0
        s2 6 2.0 2.5
        c3 14 2.0 6.5
        s4 16 4.0 7.5
        c5 32 4.0 15.5
    """
    seen = _who_sees_what(model, input_size)
    single = any(map.shape[1] == 1 for maps in seen.values() for map in maps)
    # A layer of one unit shows its stride on a larger input, if the network gets that far.
    wider = _who_sees_what(model, (input_size[0], *(2 * n for n in input_size[1:]))) if single else {}
    fields = {}
    for name, maps in seen.items():
        axes = [list(_field(map)) for map in maps]
        for field, wide in zip(axes, wider.get(name, []), strict=False):
            size, stride, _ = _field(wide)
            if math.isnan(field[1]) and size == field[0]:
                field[1] = stride
        fields[name] = ReceptiveField(*zip(*axes, strict=True))
    return fields


def _who_sees_what(model: torch.nn.Module, input_size: Sequence[int]) -> dict[str, list[Tensor]]:
    """For each module and axis, (input cells, units): which unit of its output sees which cell."""
    model = with_values(model)
    axes = len(input_size) - 1
    seen: dict[str, list[list[Tensor]]] = {}
    run: dict[str, Tensor] = {}  # of one evaluation; of a module that is called twice, the last
    error: Exception | None = None

    def record(name: str):
        def hook(_module, _inputs, output):
            if isinstance(output, Tensor) and output.dim() == axes + 2:
                others = [1, *(i for i in range(2, axes + 2) if i != axis + 2)]
                run[name] = output.isnan().any(dim=others)

        return hook

    # Not an algorithm that spreads a NaN beyond the units that see it.
    with looking_at(model), default_algorithm("implicit_gemm"):
        for name, module in own_modules(model).items():
            if not isinstance(module, torch.jit.ScriptModule):
                module.register_forward_hook(record(name))
        for axis in range(axes):
            for cells in torch.arange(input_size[axis + 1]).split(8):
                probes = example(model, input_size, batch=len(cells))
                for probe, cell in zip(probes, cells, strict=True):
                    probe.select(axis + 1, cell).fill_(float("nan"))
                try:
                    model(probes)
                except Exception as refused:  # by a head of fixed size: the layers before it were seen
                    error = refused
                for name, units in run.items():
                    seen.setdefault(name, [[] for _ in range(axes)])[axis].append(units)
                run.clear()
    if error is not None and not seen:
        raise error
    whole = {name: [torch.cat(m) for m in maps] for name, maps in seen.items() if all(maps)}
    # A module whose output does not depend on the image has no field.
    return {name: maps for name, maps in whole.items() if all(map.any() for map in maps)}


def _field(sees: Tensor) -> tuple[int, float, float]:
    """Size, stride and offset along one axis from which input cell (row) each unit (column) sees."""
    units = sees.any(0).nonzero().flatten()
    first = sees.int().argmax(0)[units].double()
    last = len(sees) - 1 - sees.flip(0).int().argmax(0)[units].double()
    sizes = last - first + 1
    size = sizes.max()
    whole = (sizes == size).nonzero().flatten()  # units that the border does not cut
    centres = (first + last) / 2
    stride = math.nan
    if len(whole) > 1:
        span = units[whole[-1]] - units[whole[0]]
        stride = ((centres[whole[-1]] - centres[whole[0]]) / span).item()
    start = units[whole[0]]
    offset = centres[whole[0]] - (start * stride if start > 0 else 0)
    return int(size), stride, offset.item()
