"""Linear and functional.linear: torch's dense layer, by kernels of ours where it has many weights."""

import inspect
import warnings

import pytest
import torch
import torch.nn.functional as F

import cnn_ext
from cnn_ext.functional import is_dense, linear

MANY, OUT = 1100, 1000  # weights enough to be ours


@pytest.fixture
def layers():
    """A layer of ours and its twin, of the same weights."""
    ours = cnn_ext.nn.Linear(MANY, OUT)
    theirs = torch.nn.Linear(MANY, OUT)
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


def assert_are_torchs(ours, theirs, input):
    """Outputs and gradients of any order that a user meets."""
    outputs, gradients = [], []
    for layer in (ours, theirs):
        x = input.clone().requires_grad_()
        outputs.append(layer(x))
        wanted = (x, *layer.parameters())
        first = torch.autograd.grad(outputs[-1].tanh().sum(), wanted, create_graph=True)
        second = torch.autograd.grad(first[0].square().sum(), wanted[:2])
        gradients.append([*first, *second])
    torch.testing.assert_close(outputs[0], outputs[1], rtol=1e-4, atol=1e-5)
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4 * b.abs().max().item())


def test_it_is_torchs_layer():
    ours, theirs = cnn_ext.nn.Linear, torch.nn.Linear
    assert issubclass(ours, theirs)
    assert inspect.signature(ours) == inspect.signature(theirs)
    built = []
    for kind in (ours, theirs):
        torch.manual_seed(3)
        built.append(kind(5, 4))
    assert repr(built[0]) == repr(built[1])
    for (name, a), (other, b) in zip(*(m.state_dict().items() for m in built), strict=True):
        assert name == other
        assert torch.equal(a, b)


@pytest.mark.parametrize("shape", [(4, MANY), (MANY,), (2, 3, MANY), (64, MANY)], ids=str)
def test_many_weights_are_ours(layers, shape):
    input = torch.randn(shape)
    assert is_dense(input, layers[0].weight, layers[0].bias)
    assert "LinearNode" in layers[0](input).grad_fn.name()
    assert_are_torchs(*layers, input)


def test_without_bias_in_float64(layers):
    ours, theirs = (layer.double() for layer in layers)
    ours.bias = theirs.bias = None
    input = torch.randn(7, MANY, dtype=torch.double)
    assert is_dense(input, ours.weight)
    torch.testing.assert_close(ours(input), theirs(input), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("input", "weight"),
    [
        (torch.randn(4, 20), torch.randn(30, 20)),  # few weights
        (torch.randn(65, MANY), torch.randn(OUT, MANY)),  # many rows
        (torch.randn(257, 2200), torch.randn(2000, 2200)),  # for so many weights too
        (torch.randn(0, MANY), torch.randn(OUT, MANY)),  # none
        (torch.randn(4, MANY).bfloat16(), torch.randn(OUT, MANY).bfloat16()),
        (torch.randn(4, MANY, dtype=torch.cfloat), torch.randn(OUT, MANY, dtype=torch.cfloat)),
        (torch.randn(4, MANY, device="meta"), torch.randn(OUT, MANY, device="meta")),
    ],
    ids=["few weights", "many rows", "more rows", "no rows", "bfloat16", "complex64", "meta"],
)
def test_the_rest_is_torchs(input, weight):
    assert not is_dense(input, weight)
    ours, theirs = linear(input, weight), F.linear(input, weight)
    assert ours.shape == theirs.shape
    assert ours.dtype == theirs.dtype
    assert ours.is_meta or torch.equal(ours, theirs)


@pytest.mark.parametrize(
    ("input", "bias"),
    [(torch.zeros(4, MANY + 1), None), (torch.zeros(()), None), (torch.zeros(4, MANY).double(), None)],
    ids=["width", "no axis", "dtype"],
)
def test_misuse_is_refused_as_torch_does(layers, input, bias):
    errors = []
    for layer in layers:
        with pytest.raises(RuntimeError) as error:
            layer(input)
        errors.append(str(error.value))
    assert errors[0] == errors[1]


@pytest.mark.parametrize(
    "bias", [torch.zeros(OUT + 1), torch.zeros(OUT).double()], ids=["size", "dtype"]
)
def test_a_bias_that_does_not_fit_is_refused_as_torch_does(layers, bias):
    errors = []
    for function in (linear, F.linear):
        with pytest.raises(RuntimeError) as error:
            function(torch.zeros(4, MANY), layers[0].weight, bias)
        errors.append(str(error.value))
    assert errors[0] == errors[1]


def test_what_torch_alone_serves_is_torchs(layers):
    """A bias for all, sparse weights, weights that compute in their own way."""

    class Halved(torch.Tensor):
        @classmethod
        def __torch_function__(cls, function, types, arguments=(), keywords=None):
            with torch._C.DisableTorchFunctionSubclass():
                return function(*arguments, **(keywords or {})) / 2

    input, weight = torch.randn(4, MANY), layers[0].weight.detach()
    assert torch.equal(linear(input, weight, torch.ones(1)), F.linear(input, weight, torch.ones(1)))
    sparse = weight.to_sparse_csr()
    assert torch.equal(linear(input, sparse), F.linear(input, sparse))
    halved = weight.as_subclass(Halved)
    assert torch.equal(linear(input, halved), F.linear(input, weight) / 2)


def test_autocast_is_torchs(layers):
    input = torch.randn(4, MANY)
    with torch.autocast("cpu", torch.bfloat16):
        ours, theirs = (layer(input) for layer in layers)
    assert ours.dtype == torch.bfloat16
    assert torch.equal(ours, theirs)


def test_under_vmap_and_compile(layers):
    ours, theirs = layers
    input = torch.randn(3, 2, MANY)
    torch.testing.assert_close(torch.vmap(ours)(input), theirs(input), rtol=1e-4, atol=1e-5)
    compiled = torch.compile(ours, fullgraph=True, dynamic=False)
    torch.testing.assert_close(compiled(input), theirs(input), rtol=1e-4, atol=1e-5)


def test_sizes_that_are_left_open_stay_open(layers):
    ours, theirs = layers
    rows = {0: torch.export.Dim("rows", max=1024)}
    program = torch.export.export(ours, (torch.randn(3, MANY),), dynamic_shapes=(rows,)).module()
    dynamic = torch.compile(ours, fullgraph=True, dynamic=True)
    for count in (2, 300):
        input = torch.randn(count, MANY)
        torch.testing.assert_close(program(input), theirs(input), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(dynamic(input), theirs(input), rtol=1e-4, atol=1e-5)


def test_forward_mode(layers):
    input, tangent = torch.randn(2, MANY), torch.randn(2, MANY)
    (_, ours), (_, theirs) = (torch.func.jvp(layer, (input,), (tangent,)) for layer in layers)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_convert_and_revert_know_it_and_its_plain_subclasses():
    class Mine(torch.nn.Linear):
        pass

    model = torch.nn.Sequential(torch.nn.Linear(2, 3), Mine(3, 3), torch.nn.LazyLinear(2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ours = cnn_ext.convert(model)
    assert [type(ours[at]) for at in (0, 2)] == [cnn_ext.nn.Linear, cnn_ext.nn.LazyLinear]
    assert isinstance(ours[1], cnn_ext.nn.Linear)  # a subclass that adds no forward of its own
    ours(torch.zeros(1, 2))
    assert type(ours[2]) is cnn_ext.nn.Linear
    assert [type(m) for m in cnn_ext.revert(ours)] == [torch.nn.Linear, Mine, torch.nn.Linear]


def test_attention_is_left_alone():
    layer = torch.nn.MultiheadAttention(8, 2)
    assert type(cnn_ext.convert(layer).out_proj) is type(layer.out_proj)
