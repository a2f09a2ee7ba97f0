"""The twin of torch.nn.functional: argument sugar and padding words of convolution."""

import inspect

import pytest
import torch
import torch.nn.functional as F

import cnn_ext
from cnn_ext import functional
from cnn_ext.functional import conv2d, padding_amounts

TWINS = [(functional.conv1d, F.conv1d), (conv2d, F.conv2d), (functional.conv3d, F.conv3d)]


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("padding", [1, "valid", "same"])
def test_conv_is_torchs(axes, batched, padding):
    ours, theirs = TWINS[axes - 1]
    input, weight = torch.randn(2, 4, *(7, 6, 5)[:axes]), torch.randn(6, 2, *(3, 2, 3)[:axes])
    input = input if batched else input[0]
    torch.testing.assert_close(
        ours(input, weight, torch.ones(6), 1, padding, 2 if axes < 3 else 1, 2),
        theirs(input, weight, torch.ones(6), 1, padding, 2 if axes < 3 else 1, 2),
    )


def test_layers_work_on_meta_tensors_which_have_no_autocast():
    layers = [cnn_ext.nn.Conv2d(3, 4, 3), cnn_ext.nn.LocalResponseNorm(5)]
    network = torch.nn.Sequential(*layers).to("meta")
    with torch.autocast("cpu"):
        assert network(torch.empty(2, 3, 8, 9, device="meta")).shape == (2, 4, 6, 7)


def test_the_lectures_arithmetic_of_padding():
    input, weight = torch.randn(1, 3, 32, 32), torch.randn(5, 3, 5, 5)
    for word, size in {"valid": 28, "half": 32, "full": 36}.items():
        assert conv2d(input, weight, padding=word).shape == (1, 5, size, size)
    assert conv2d(input, weight, stride=2).shape == (1, 5, 14, 14)
    small, filter = torch.randn(1, 1, 5, 5), torch.randn(1, 1, 3, 3)
    sizes = [conv2d(small, filter, padding=word).shape[-1] for word in ("valid", "half", "full")]
    assert sizes == [3, 5, 7]
    assert [conv2d(small, filter, stride=s).shape[-1] for s in (1, 2)] == [3, 2]


@pytest.mark.parametrize("stride", [1, 2, 3, 4])
@pytest.mark.parametrize("size", [5, 8, 13, 224])
@pytest.mark.parametrize("cells", [1, 2, 3, 5, 11])
def test_same_padding_gives_ceil_of_size_over_stride(stride, size, cells):
    output = functional.conv1d(
        torch.randn(1, 1, size), torch.randn(1, 1, cells), stride=stride, padding="same"
    )
    assert output.shape[-1] == -(-size // stride)


def test_same_padding_is_what_tensorflow_documents():
    """max((ceil(size / stride) - 1) stride + extent - size, 0), the odd cell after."""
    assert padding_amounts("same", (6,), (3,), (2,), (1,)) == (0, 1)
    assert padding_amounts("same", (7,), (3,), (2,), (1,)) == (1, 1)
    assert padding_amounts("same", (4,), (1,), (3,), (1,)) == (0, 0)


def test_asymmetric_padding_is_that_of_pad_without_the_copy():
    input, weight = torch.randn(2, 3, 6, 7), torch.randn(4, 3, 3, 3)
    amounts = (0, 3, 2, 1)
    torch.testing.assert_close(
        conv2d(input, weight, padding=amounts), F.conv2d(F.pad(input, amounts), weight)
    )


def test_half_padding_keeps_the_size_for_odd_filters_of_any_dilation():
    input = torch.randn(1, 1, 20, 20)
    for cells in (1, 3, 5):
        for dilation in (1, 2, 3):
            weight = torch.randn(1, 1, cells, cells)
            assert conv2d(input, weight, padding="half", dilation=dilation).shape == input.shape


def test_an_unknown_padding_word_is_refused():
    with pytest.raises(ValueError, match=r"padding: expected .* got 'vaild'"):
        conv2d(torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 3, 3), padding="vaild")


@pytest.mark.parametrize(
    ("input", "weight", "message"),
    [
        (torch.zeros(4, 4), torch.zeros(1, 1, 3, 3), r"conv2d: input: expected 4 .*\[4, 4\]"),
        (torch.zeros(1, 1, 1, 4, 4), torch.zeros(1, 1, 3, 3), "conv2d: input: expected 4"),
        (torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 3), r"conv2d: weight: expected 4 .*\[1, 1, 3\]"),
    ],
    ids=["two dimensions", "five dimensions", "weight of a signal"],
)
def test_a_wrong_rank_is_named(input, weight, message):
    with pytest.raises(RuntimeError, match=message):
        conv2d(input, weight)


@pytest.mark.parametrize(("ours", "theirs"), TWINS, ids=["conv1d", "conv2d", "conv3d"])
def test_arguments_come_in_torchs_order_with_torchs_defaults(ours, theirs):
    # torch's are builtins, so that the order and defaults are those of its documentation.
    parameters = list(inspect.signature(ours).parameters.values())
    names = ["input", "weight", "bias", "stride", "padding", "dilation", "groups"]
    assert [p.name for p in parameters[:7]] == names
    assert [p.default for p in parameters[2:7]] == [None, 1, 0, 1, 1]
    for name in names:
        assert f"{name}=" in theirs.__doc__ or f"{name}," in theirs.__doc__
    assert all(p.kind is p.KEYWORD_ONLY for p in parameters[7:])


# ------------------------------------------------------------------ shapes at the edge of the empty


def outcome(function, *arguments):
    """The result and the gradients of its sum, or the kind of error."""
    tensors = [a.clone().requires_grad_() if isinstance(a, torch.Tensor) else a for a in arguments]
    try:
        result = function(*tensors)
    except RuntimeError:
        return RuntimeError
    leaves = [t for t in tensors if isinstance(t, torch.Tensor)]
    return result, *torch.autograd.grad(result.sum(), leaves)


def assert_same_outcome(ours, theirs, *arguments):
    a, b = outcome(ours, *arguments), outcome(theirs, *arguments)
    if RuntimeError in (a, b):
        assert a is b
        return
    for one, other in zip(a, b, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("cells", [1, 2, 3])
@pytest.mark.parametrize("length", [1, 2])
def test_transposed_convolution_where_output_padding_alone_makes_the_result_non_empty(
    length, cells, stride
):
    input, weight = torch.randn(2, 2, length).double(), torch.randn(2, 3, cells).double()
    for padding in range(4):
        for more in range(3):
            for dilation in (1, 2):
                arguments = (stride, padding, more, 1, dilation)
                assert_same_outcome(
                    functional.conv_transpose1d, F.conv_transpose1d, input, weight,
                    torch.randn(3).double(), *arguments,
                )  # fmt: skip


def test_a_transposed_result_that_no_input_reaches_is_the_bias():
    input, weight = torch.randn(1, 1, 1, 3), torch.randn(1, 2, 1, 1)
    output = functional.conv_transpose2d(input, weight, torch.tensor([5.0, 7.0]), 3, 1, (2, 0))
    assert output.shape == (1, 2, 1, 5)
    assert output.tolist() == [[[[5.0] * 5], [[7.0] * 5]]]


@pytest.mark.parametrize("name", ["conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d"])
@pytest.mark.parametrize("groups", [1, 2])
def test_without_channels_or_filters_it_does_as_torch(name, groups):
    axes = int(name[-2])
    for channels in (0, 2):
        for filters in (0, 4):
            first, second = (channels, filters) if "transpose" in name else (filters, channels)
            input = torch.randn(2, channels, *(5, 4, 3)[:axes])
            weight = torch.randn(first, second // groups, *(1,) * axes)
            for bias in (None, torch.randn(filters)):
                extras = (1, 0, 0, groups) if "transpose" in name else (1, 0, 1, groups)
                assert_same_outcome(
                    getattr(functional, name), getattr(F, name), input, weight, bias, *extras
                )


def test_torchs_own_test_of_an_empty_channel_passes():
    layer, input = cnn_ext.nn.Conv1d(0, 8, 2, stride=2), torch.randn(2, 0, 15, requires_grad=True)
    layer(input).sum().backward()
    assert layer.bias.grad.tolist() == [0.0] * 8


def test_integers_in_float32_are_exact_without_winograd():
    input = torch.randint(-3, 3, (1, 16, 40, 40)).float()
    weight = torch.randint(-3, 3, (16, 16, 3, 3)).float()
    exact = F.conv2d(input.double(), weight.double())
    assert functional.convolution_algorithm(input.shape, weight.shape) == "winograd"
    assert not torch.equal(conv2d(input, weight).double(), exact)  # the limit that is documented
    with cnn_ext.default_algorithm("implicit_gemm"):
        assert torch.equal(conv2d(input, weight).double(), exact)
