"""The twin of torch.nn.functional: argument sugar, padding words, the choice of algorithm."""

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


class Algorithms(torch.utils._python_dispatch.TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.namespace == "cnn_ext":
            self.seen.append(args[-1])
        return function(*args, **(kwargs or {}))


def used_by(**keywords):
    with Algorithms() as algorithms:
        conv2d(torch.zeros(1, 1, 3, 3), torch.zeros(1, 1, 3, 3), **keywords)
    return algorithms.seen


def test_the_algorithm_is_chosen_per_call_per_block_and_per_process():
    assert used_by() == ["auto"]
    assert used_by(algorithm="im2col") == ["im2col"]
    with cnn_ext.default_algorithm("im2col"):
        assert used_by() == ["im2col"]
        assert used_by(algorithm="implicit_gemm") == ["implicit_gemm"]
        with cnn_ext.default_algorithm("implicit_gemm"):
            assert used_by() == ["implicit_gemm"]
        assert used_by() == ["im2col"]
    assert used_by() == ["auto"]
    cnn_ext.default_algorithm("im2col")
    assert used_by() == ["im2col"]


def test_the_block_ends_with_an_error_too():
    with pytest.raises(KeyError), cnn_ext.default_algorithm("im2col"):
        raise KeyError
    assert used_by() == ["auto"]


def test_an_unknown_algorithm_is_refused():
    with pytest.raises(ValueError, match=r"name: expected one of .* got 'fft'"):
        cnn_ext.default_algorithm("fft")
    assert used_by() == ["auto"]
    with pytest.raises(RuntimeError, match=r'algorithm: expected .* got "fft"'):
        used_by(algorithm="fft")


def test_compiled_code_obeys_the_block():
    torch._dynamo.reset()
    graphs = []

    def backend(graph, _inputs):
        graphs.append(graph.print_readable(print_output=False))
        return graph

    compiled = torch.compile(conv2d, backend=backend, fullgraph=True)
    for name in ("auto", "im2col", "auto"):
        with cnn_ext.default_algorithm(name):
            compiled(torch.zeros(1, 1, 3, 3), torch.zeros(1, 1, 3, 3))
    assert ["'auto'" in graph for graph in graphs] == [True, False]  # the third is the first again
    assert ["'im2col'" in graph for graph in graphs] == [False, True]
