"""Convolution as a matrix, and the arithmetic around it."""

from math import prod

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import cnn_ext
from cnn_ext.functional import conv2d, conv_transpose2d
from cnn_ext.matrix import (
    backward_padding,
    conv_matrix,
    flip_filters,
    forward_set,
    output_size,
    receptive_field,
)
from tests.ops.convolution_samples import SAMPLES, SMALL, TORCH


def cells(sample):
    """How many numbers C has, zeros with them."""
    size, *arguments = sample.size, sample.filter, sample.stride, sample.padding, sample.dilation
    return sample.K * prod(output_size(size, *arguments)) * sample.C * prod(size)


# C is laid out whole here, up to 1 GiB of it: more is a test of the machine's memory.
SIZED = [sample for sample in [*SAMPLES, *SMALL] if sample.N > 0 and cells(sample) <= 2**27]


@pytest.mark.parametrize("sample", SIZED, ids=str)
@pytest.mark.parametrize("layout", [torch.sparse_csr, torch.sparse_coo, torch.strided], ids=str)
def test_c_times_x_is_the_convolution_and_its_transpose_the_gradient(sample, layout):
    input, weight, _ = sample.tensors()
    input = input[:1].clone().requires_grad_()
    arguments = (sample.stride, sample.padding, sample.dilation, sample.groups)
    if not isinstance(sample.padding, int) and len(sample.padding) == 2 * sample.axes:
        output = TORCH[sample.axes](
            F.pad(input, sample.padding), weight, None, sample.stride, 0, sample.dilation
        )
    else:
        output = sample.torch(input, weight)
    C = conv_matrix(weight, input.shape[2:], *arguments, layout=layout)
    assert C.layout == layout
    assert C.shape == (output.numel(), input.numel())
    torch.testing.assert_close(C @ input.detach().flatten(), output.detach().flatten())
    grad = torch.randn_like(output)
    (grad_input,) = torch.autograd.grad(output, input, grad)
    torch.testing.assert_close(C.to_dense().T @ grad.flatten(), grad_input.flatten())


@pytest.mark.parametrize("padding", ["valid", "same", "half", "full", (0, 1, 2, 0)])
def test_paddings_of_every_kind(padding):
    input, weight = torch.randn(1, 2, 6, 5).double(), torch.randn(3, 2, 3, 2).double()
    C = conv_matrix(weight, (2, 6, 5), stride=2, padding=padding)
    expected = conv2d(input, weight, stride=2, padding=padding)
    torch.testing.assert_close(C @ input.flatten(), expected.flatten())


def test_columns_ascend_and_nothing_beyond_the_input_is_stored():
    C = conv_matrix(torch.ones(2, 3, 3, 3), (4, 5), padding=1, dilation=1)
    torch.sparse.check_sparse_tensor_invariants.enable()
    try:
        again = torch.sparse_csr_tensor(C.crow_indices(), C.col_indices(), C.values(), C.shape)
    finally:
        torch.sparse.check_sparse_tensor_invariants.disable()
    assert again._nnz() == (C.to_dense() != 0).sum()


def test_it_is_differentiable_in_the_weight():
    weight = torch.randn(2, 1, 2, 2, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(lambda w: conv_matrix(w, (3, 3), layout=torch.strided), (weight,))


def test_a_layer_of_64_channels_is_built_whole():
    weight, image = torch.randn(64, 64, 3, 3), torch.randn(64, 56, 56)
    C = conv_matrix(weight, (56, 56), padding=1)
    assert C._nnz() == 64 * 64 * (3 * 56 - 2) ** 2
    exact = F.conv2d(image.double(), weight.double(), padding=1).flatten()
    assert ((C @ image.flatten()).double() - exact).norm() < 1e-6 * exact.norm()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.ones(3, 3), (5, 5)), "weight: expected 3, 4 or 5 dimensions"),
        ((torch.ones(1, 1, 3, 3), (5, 5, 5)), "input_size: expected 2 spatial sizes"),
        ((torch.ones(1, 1, 3, 3), (2, 5)), "input_size: expected a padded size of at least 3"),
        ((torch.ones(3, 1, 3, 3), (5, 5), 1, 0, 1, 2), "groups: expected a divisor of the 3"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        conv_matrix(*arguments)
    with pytest.raises(ValueError, match="layout: expected"):
        conv_matrix(torch.ones(1, 1, 1, 1), (1, 1), layout=torch.sparse_bsr)


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("padding", [0, 1, 2])
def test_four_ways_to_the_input_gradient(stride, padding):
    """Autograd, Cᵀ g, inverted and transposed filters, transposed convolution."""
    image = torch.randn(1, 3, 8, 9, dtype=torch.double, requires_grad=True)
    weight = torch.randn(20, 3, 3, 3, dtype=torch.double)
    output = conv2d(image, weight, stride=stride, padding=padding)
    grad = torch.randn_like(output)
    (by_autograd,) = torch.autograd.grad(output, image, grad)

    C = conv_matrix(weight, (8, 9), stride, padding)
    by_matrix = (C.to_dense().T @ grad.flatten()).view_as(image)

    extent = [(n - 1) * stride + 1 for n in grad.shape[2:]]
    spread = grad.new_zeros(1, 20, *extent)
    spread[:, :, ::stride, ::stride] = grad  # zeros between the cells undo the stride
    left = backward_padding(3, padding)
    rest = [n + 2 * padding - 3 - (e - 1) for n, e in zip((8, 9), extent, strict=True)]
    amounts = (left, left + rest[1], left, left + rest[0])
    by_flipped = conv2d(spread, flip_filters(weight), padding=amounts)

    more = [(n + 2 * padding - 3) % stride for n in (8, 9)]
    by_transposed = conv_transpose2d(grad, weight, stride=stride, padding=padding, output_padding=more)
    for way in (by_matrix, by_flipped, by_transposed):
        torch.testing.assert_close(way, by_autograd, rtol=1e-12, atol=1e-12)


def test_the_weight_gradient_is_a_sum_over_the_positions_that_share_a_weight():
    image, weight = torch.randn(1, 1, 5, 5).double(), torch.randn(1, 1, 3, 3).double()
    weight.requires_grad_()
    output = conv2d(image, weight)
    grad = torch.randn_like(output)
    (expected,) = torch.autograd.grad(output, weight, grad)
    for r in range(3):
        for s in range(3):
            total = sum(
                grad[0, 0, p, q] * image[0, 0, p + r, q + s] for p in range(3) for q in range(3)
            )
            torch.testing.assert_close(total, expected[0, 0, r, s])


@pytest.mark.parametrize(
    ("stride", "padding", "dilation"), [(1, 0, 1), (2, 1, 1), (1, 2, 2), (3, "same", 1), (1, "full", 1)]
)
def test_the_derivative_of_a_cell_is_the_sum_over_its_forward_set(stride, padding, dilation):
    image = torch.randn(1, 1, 5, 6, dtype=torch.double, requires_grad=True)
    weight = torch.randn(1, 1, 3, 2, dtype=torch.double)
    output = conv2d(image, weight, None, stride, padding, dilation)
    grad = torch.randn_like(output)
    (expected,) = torch.autograd.grad(output, image, grad)
    for h in range(5):
        for w in range(6):
            pairs = forward_set((h, w), (5, 6), (3, 2), stride, padding, dilation)
            total = sum((grad[0, 0][out] * weight[0, 0][tap] for out, tap in pairs), torch.zeros(()))
            torch.testing.assert_close(total.double(), expected[0, 0, h, w])


def test_a_cell_outside_the_input_has_no_forward_set():
    with pytest.raises(ValueError, match="cell: expected indices within"):
        forward_set((3, 0), (3, 3), 2)


def test_padding_backward_and_forward_add_up_to_f_minus_one():
    assert backward_padding((5, 3), (2, 0)) == (2, 2)
    assert backward_padding(3, (0, 1)) == (2, 1)
    with pytest.raises(ValueError, match="padding: expected at most F - 1"):
        backward_padding(3, 3)


def test_output_size_is_that_of_the_convolution():
    assert output_size((7, 9), (3, 2), (2, 1), (1, 0), (1, 3)) == (4, 6)
    assert output_size(224, 11, 4, "same") == 56
    with pytest.raises(ValueError, match="kernel_size: expected one that fits"):
        output_size(2, 3)


def test_fields_grow_as_the_textbook_says():
    model = nn.Sequential(
        nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(2, 2, 3, padding=1),
        nn.Conv2d(2, 2, 3, dilation=2, padding=2),
    )  # fmt: skip
    fields = receptive_field(model, (1, 40, 40))
    assert [fields[str(i)].size[0] for i in range(5)] == [3, 3, 4, 8, 16]
    assert [fields[str(i)].stride[0] for i in range(5)] == [1, 1, 2, 2, 2]
    assert [fields[str(i)].offset[0] for i in range(5)] == [0, 0, 0.5, 0.5, 0.5]


def test_fields_of_branches_are_their_union():
    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.wide, self.narrow = cnn_ext.nn.Conv2d(1, 1, (1, 7)), nn.Conv2d(1, 1, (3, 1))

        def forward(self, x):
            wide, narrow = self.wide(x), self.narrow(x)
            return wide[..., 1:-1, :] + narrow[..., 3:-3]

    fields = receptive_field(Branches(), (1, 15, 17))
    assert fields["wide"].size == (1, 7)
    assert fields["narrow"].size == (3, 1)
    assert fields[""].size == (3, 7)
    assert fields[""].offset == (1, 3)


def test_a_unit_that_sees_everything_has_no_stride():
    field = receptive_field(nn.AdaptiveAvgPool2d(1), (2, 6, 6))[""]
    assert field.size == (6, 6)
    assert all(stride != stride for stride in field.stride)
