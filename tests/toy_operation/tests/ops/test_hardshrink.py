"""Hard shrinkage against torch's: the operations, the Function, functional, the module."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd import gradcheck, gradgradcheck

import cnn_ext
from cnn_ext import functional
from cnn_ext.ops import HardshrinkFunction
from tests.ops.convolution_samples import lay_out

ops = torch.ops.cnn_ext
EDGES = torch.tensor([-2.0, -0.5, -0.0, 0.0, 0.5, 0.75, torch.nan, torch.inf])
CALLS = {"hardshrink": (lambda m, x: m.hardshrink(x, 0.25), (torch.randn(1, 2, 5).double(),))}


def dispatched():
    """Each operation with arguments, for opcheck."""
    input, grad = torch.randn(2, 3, 5, requires_grad=True), torch.randn(2, 3, 5, requires_grad=True)
    yield ops.hardshrink, (input, 0.5)
    yield ops.hardshrink_backward, (grad, input, 0.5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "sliced", "transposed"])
def test_values_and_gradients_are_torchs(layout, dtype, cpu_capability):
    input = lay_out(torch.randn(2, 5, 9, 11).to(dtype), layout).requires_grad_()
    grad = torch.randn_like(input)
    results = []
    for shrink in (functional.hardshrink, F.hardshrink):
        output = shrink(input, 0.5)
        results.append((output.detach(), *torch.autograd.grad(output, input, grad)))
    for ours, theirs in zip(*results, strict=True):
        assert torch.equal(ours, theirs)
        assert ours.stride() == theirs.stride()


def test_edges_are_torchs():
    ours = functional.hardshrink(EDGES)
    torch.testing.assert_close(ours, F.hardshrink(EDGES), rtol=0, atol=0, equal_nan=True)


def test_derivatives_of_every_order_and_mode():
    input = torch.randn(3, 4, dtype=torch.double, requires_grad=True)
    modes = {"check_batched_grad": True, "check_forward_ad": True}
    dual = cnn_ext.ops.hardshrink.hardshrink
    assert gradcheck(lambda x: dual(x, 0.1), input, **modes)
    assert gradgradcheck(lambda x: HardshrinkFunction.apply(x, 0.1), input)


def test_vmap_and_compiled():
    torch._dynamo.reset()
    x = torch.randn(3, 2, 5, requires_grad=True)
    expected = F.hardshrink(x)
    assert torch.equal(torch.vmap(functional.hardshrink, 1, 1)(x), expected)
    compiled = torch.compile(functional.hardshrink, fullgraph=True, backend="aot_eager")(x)
    torch.testing.assert_close(compiled, expected)
    torch.testing.assert_close(
        *(torch.autograd.grad(y.square().sum(), x) for y in (compiled, expected))
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ops.hardshrink(torch.ones(2), -1.0), "hardshrink: lambd: expected a number of at"),
        (lambda: ops.hardshrink(torch.ones(2).int(), 0.5), "hardshrink: input: expected a floating"),
        (
            lambda: ops.hardshrink_backward(torch.ones(3), torch.ones(2), 0.5),
            r"hardshrink_backward: grad_output: expected shape \[2\]",
        ),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(RuntimeError, match=message):
        call()


def test_the_module_is_its_twin():
    theirs = nn.Sequential(nn.Hardshrink(0.25))
    ours = cnn_ext.convert(theirs)
    assert type(ours[0]) is cnn_ext.nn.Hardshrink
    assert type(cnn_ext.revert(ours)[0]) is nn.Hardshrink
    assert torch.equal(ours(EDGES[:6]), theirs(EDGES[:6]))
