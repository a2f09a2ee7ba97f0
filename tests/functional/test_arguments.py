"""Odd arguments are taken and refused as torch's functions do: every function x argument x value."""

import re

import numpy
import pytest
import torch
import torch.nn.functional as F

import cnn_ext
from cnn_ext import functional


class Index:
    def __index__(self):
        return 2


class Int:
    def __int__(self):
        return 2


VALUES = {
    "True": True,
    "2": 2,
    "0": 0,
    "-1": -1,
    "2.0": 2.0,
    "1.5": 1.5,
    "numpy.int64": numpy.int64(2),
    "numpy.int32": numpy.int32(2),
    "numpy.uint8": numpy.uint8(2),
    "numpy.bool": numpy.bool_(True),
    "numpy.float64": numpy.float64(2.0),
    "numpy.float32": numpy.float32(2.0),
    "array(2)": numpy.array(2),
    "array([2])": numpy.array([2]),
    "array([2, 2])": numpy.array([2, 2]),
    "tensor(2)": torch.tensor(2),
    "tensor(2, int32)": torch.tensor(2, dtype=torch.int32),
    "tensor([2])": torch.tensor([2]),
    "tensor([2, 2])": torch.tensor([2, 2]),
    "tensor(2.0)": torch.tensor(2.0),
    "Index": Index(),
    "Int": Int(),
    "'2'": "2",
    "None": None,
    "()": (),
    "[]": [],
    "(2,)": (2,),
    "(2, 2)": (2, 2),
    "[2, 2]": [2, 2],
    "(2, 2, 2)": (2, 2, 2),
    "Size": torch.Size([2, 2]),
    "range": range(2, 4),
    "[numpy, 2]": [numpy.int64(2), 2],
    "(2, numpy)": (2, numpy.int64(2)),
    "[tensor, 2]": [torch.tensor(2), 2],
    "[2, Index]": [2, Index()],
    "[Index, 2]": [Index(), 2],
    "[2.0, 2]": [2.0, 2],
    "[2, 2.0]": [2, 2.0],
    "[True, 2]": [True, 2],
    "[2, True]": [2, True],
    "[None, 2]": [None, 2],
    "['2', 2]": ["2", 2],
    "[[2, 2]]": [[2, 2]],
    "{2}": {2},
    "object": object(),
    "2j": 2j,
    "torch.int64": torch.int64,
}

# Below 1, so that k + alpha sum is not near 0 for any of the constants.
IMAGE = torch.linspace(0, 0.9, 648).view(4, 9, 9, 2).permute(3, 0, 2, 1).contiguous()
FILTERS, GROUPED = torch.randn(4, 4, 2, 2), torch.randn(4, 2, 2, 2)
DENSE = torch.randn(3, 9)
COLUMNS = {cells: torch.randn(2, 16, cells) for cells in (1, 16, 49, 64, 144)}

ARGUMENTS = {
    "conv2d: input": lambda m, v: m.conv2d(v, FILTERS),
    "conv2d: weight": lambda m, v: m.conv2d(IMAGE, v),
    "conv2d: bias": lambda m, v: m.conv2d(IMAGE, FILTERS, v),
    "conv2d: stride": lambda m, v: m.conv2d(IMAGE, FILTERS, stride=v),
    "conv2d: padding": lambda m, v: m.conv2d(IMAGE, FILTERS, padding=v),
    "conv2d: dilation": lambda m, v: m.conv2d(IMAGE, FILTERS, dilation=v),
    "conv2d: groups": lambda m, v: m.conv2d(IMAGE, GROUPED, groups=v),
    "conv1d: stride": lambda m, v: m.conv1d(IMAGE[:, :, 0], FILTERS[:, :, 0], stride=v),
    "conv3d: dilation": lambda m, v: m.conv3d(IMAGE[None], FILTERS[:, :2, None], dilation=v),
    "conv_transpose2d: input": lambda m, v: m.conv_transpose2d(v, FILTERS),
    "conv_transpose2d: weight": lambda m, v: m.conv_transpose2d(IMAGE, v),
    "conv_transpose2d: bias": lambda m, v: m.conv_transpose2d(IMAGE, FILTERS, v),
    "conv_transpose2d: stride": lambda m, v: m.conv_transpose2d(IMAGE, FILTERS, stride=v),
    "conv_transpose2d: padding": lambda m, v: m.conv_transpose2d(IMAGE, FILTERS, padding=v),
    "conv_transpose2d: output_padding": lambda m, v: m.conv_transpose2d(
        IMAGE, FILTERS, stride=3, output_padding=v
    ),
    "conv_transpose2d: dilation": lambda m, v: m.conv_transpose2d(IMAGE, FILTERS, dilation=v),
    "conv_transpose2d: groups": lambda m, v: m.conv_transpose2d(IMAGE, GROUPED, groups=v),
    "max_pool2d: input": lambda m, v: m.max_pool2d(v, 2),
    "max_pool2d: kernel_size": lambda m, v: m.max_pool2d(IMAGE, v),
    "max_pool2d: stride": lambda m, v: m.max_pool2d(IMAGE, 2, v),
    "max_pool2d: padding": lambda m, v: m.max_pool2d(IMAGE, 4, 2, v),
    "max_pool2d: dilation": lambda m, v: m.max_pool2d(IMAGE, 2, 2, 0, v),
    "max_pool2d: ceil_mode": lambda m, v: m.max_pool2d(IMAGE, 2, 2, 0, 1, v),
    "unfold: input": lambda m, v: m.unfold(v, 2),
    "unfold: kernel_size": lambda m, v: m.unfold(IMAGE, v),
    "unfold: dilation": lambda m, v: m.unfold(IMAGE, 2, v),
    "unfold: padding": lambda m, v: m.unfold(IMAGE, 2, 1, v),
    "unfold: stride": lambda m, v: m.unfold(IMAGE, 2, 1, 0, v),
    "fold: input": lambda m, v: m.fold(v, 9, 2),
    "fold: output_size": lambda m, v: m.fold(COLUMNS[1], v, 2),
    "fold: kernel_size": lambda m, v: m.fold(COLUMNS[64], 9, v),
    "fold: dilation": lambda m, v: m.fold(COLUMNS[49], 9, 2, v),
    "fold: padding": lambda m, v: m.fold(COLUMNS[144], 9, 2, 1, v),
    "fold: stride": lambda m, v: m.fold(COLUMNS[16], 9, 2, 1, 0, v),
    "local_response_norm: input": lambda m, v: m.local_response_norm(v, 3),
    "local_response_norm: size": lambda m, v: m.local_response_norm(IMAGE, v),
    "local_response_norm: alpha": lambda m, v: m.local_response_norm(IMAGE, 3, v),
    "local_response_norm: beta": lambda m, v: m.local_response_norm(IMAGE, 3, 0.1, v),
    "local_response_norm: k": lambda m, v: m.local_response_norm(IMAGE, 3, 0.1, 0.75, v),
    "linear: input": lambda m, v: m.linear(v, DENSE),
    "linear: weight": lambda m, v: m.linear(IMAGE, v),
    "linear: bias": lambda m, v: m.linear(IMAGE, DENSE, v),
}

# Where ours differ from torch's, and why.
DIFFERENCES = {
    # A word is an argument of ours as well, and ValueError is what Python has for one that is unknown.
    ("conv2d: padding", "'2'"),
    # torch fails in the arithmetic on its size.
    ("local_response_norm: size", "Index"),
    # torch's error is of indexing the shape; ours names the argument.
    *(("unfold: input", value) for value in VALUES if "tensor" in value and "[t" not in value),
    # (N, C) is a batch here, and what is no batch is a RuntimeError of the operation.
    *(("local_response_norm: input", value) for value in VALUES
      if "tensor" in value and "[t" not in value),
    # torch's result is complex, or has a shape of its own.
    *((f"local_response_norm: {name}", value) for name in ("alpha", "beta", "k")
      for value in ("2j", "tensor([2, 2])", "numpy.bool")),
}  # fmt: skip


def outcome(call, module, value):
    try:
        return call(module, value)
    except Exception as error:
        return error


@pytest.mark.parametrize("argument", ARGUMENTS)
def test_every_value_is_taken_or_refused_as_torch_does(argument):
    wrong = []
    for label, value in VALUES.items():
        ours, theirs = (outcome(ARGUMENTS[argument], m, value) for m in (functional, F))
        if (argument, label) in DIFFERENCES:
            assert type(ours) is not type(theirs)  # or it does not belong there
        elif isinstance(ours, Exception) or isinstance(theirs, Exception):
            if type(ours) is not type(theirs):
                wrong.append((label, ours, theirs))
        elif not torch.allclose(ours, theirs, 1e-4, 1e-4, equal_nan=True):
            wrong.append((label, "another result"))
    assert wrong == []


@pytest.mark.parametrize("argument", [a for a in ARGUMENTS if not a.startswith("linear: bias")])
@pytest.mark.parametrize("label", ["object", "'2'", "[2.0, 2]", "2j"])
def test_what_is_refused_is_named(argument, label):
    error = outcome(ARGUMENTS[argument], functional, VALUES[label])
    name = argument.partition(": ")[2]
    assert isinstance(error, Exception)
    assert f"{name}: expected" in str(error)
    what = {"object": "object", "'2'": "'2'|str", "[2.0, 2]": r"2\.0|list", "2j": "2j|complex"}[label]
    assert re.search(what, str(error))


@pytest.mark.parametrize("name", ["input", "eigenvectors", "eigenvalues", "alphas"])
@pytest.mark.parametrize("value", [None, [1.0, 2.0], numpy.zeros(3), 2.0], ids=str)
def test_color_pca_takes_tensors_alone(name, value):
    good = {"input": torch.rand(3, 4, 4), "eigenvectors": torch.eye(3),
            "eigenvalues": torch.ones(3), "alphas": torch.ones(3)}  # fmt: skip
    with pytest.raises(
        TypeError, match=f"color_pca: {name}: expected a tensor, got {type(value).__name__}"
    ):
        functional.color_pca(**{**good, name: value})


def test_integers_beyond_64_bits_are_refused():
    with pytest.raises(ValueError, match="conv2d: stride: expected an integer"):
        functional.conv2d(IMAGE, FILTERS, stride=1 << 63)


TWO = [numpy.int64(2), torch.tensor(2)]


@pytest.mark.parametrize("two", TWO, ids=["NumPy", "tensor"])
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("Conv2d", lambda two: (two + two, two, two, two, two, two, two)),
        ("Conv2d", lambda two: (4, 2, (two, 3), (1, two), (two, 0))),
        ("ConvTranspose2d", lambda two: (4, two, two, two, two, 0, two)),
        ("MaxPool2d", lambda two: (two,)),
        ("MaxPool2d", lambda two: (two, None, 1)),
        ("LocalResponseNorm", lambda two: (two, numpy.float64(1e-3), numpy.float32(0.5))),
        ("Linear", lambda two: (9, two)),
    ],
)
def test_modules_take_numpys_integers_where_torchs_do(name, arguments, two):
    torch.manual_seed(0)
    try:
        theirs = getattr(torch.nn, name)(*arguments(two))
    except TypeError:
        with pytest.raises(TypeError):
            getattr(cnn_ext.nn, name)(*arguments(two))
        return
    torch.manual_seed(0)
    ours = getattr(cnn_ext.nn, name)(*arguments(two))
    expected = outcome(lambda layer, input: layer(input), theirs, IMAGE)
    for layer in (ours, cnn_ext.convert(theirs)):
        result = outcome(lambda layer, input: layer(input), layer, IMAGE)
        assert type(result) is type(expected)
        if isinstance(expected, torch.Tensor):
            torch.testing.assert_close(result, expected)


def test_sizes_of_a_compiled_program_stay_symbolic():
    torch._dynamo.reset()

    def program(x):
        return functional.conv2d(x, FILTERS, stride=(x.shape[-1] // 4, 1), padding=[1, x.shape[0]])

    compiled = torch.compile(program, fullgraph=True, dynamic=True, backend="eager")
    for size in (12, 20):
        x = torch.randn(2, 4, size, size)
        torch.testing.assert_close(compiled(x), program(x))


@pytest.mark.parametrize(
    "theirs",
    [
        torch.nn.MaxPool2d(numpy.int64(2)),
        torch.nn.Conv2d(4, 4, numpy.int64(3), numpy.int64(2), numpy.int64(1), groups=numpy.int64(2)),
        torch.nn.LocalResponseNorm(numpy.int64(3), numpy.float64(1e-3)),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_compiled_code_takes_numpys_integers(theirs):
    torch._dynamo.reset()
    layer = cnn_ext.convert(theirs)
    compiled = torch.compile(layer, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(IMAGE), layer(IMAGE))
