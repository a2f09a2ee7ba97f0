"""Local response normalisation on CUDA: every convention against the same formula in float64."""

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck, gradgradcheck

from cnn_ext import functional
from cnn_ext.ops import LocalResponseNormFunction
from cnn_ext.ops.local_response_norm import window_axes, window_sum
from tests.cuda.parity import EMULATED, agreed, assert_close, high_precision, launches, needs_gpu
from tests.ops.convolution_samples import lay_out

ops = torch.ops.cnn_ext

SHAPES = [
    (2, 1, 3),
    (3, 7, 5, 6),
    (2, 96, 13, 13),
    (1, 5, 3),
    (2, 3, 4, 5, 6),
    (40, 300, 1, 1),  # pixels of many maps
    (3, 1100, 1, 1),  # more than a block holds
    (2, 33, 4, 32),  # accesses of 16 bytes
    (1, 70, 2, 6),  # walks shared out
    (0, 4, 3, 3),
]
shapes = pytest.mark.parametrize("shape", SHAPES, ids=str)
BOUNDS = {torch.float64: 1e-14, torch.float32: 1e-6, torch.bfloat16: 2**-8, torch.float16: 2**-11}
dtypes = pytest.mark.parametrize("dtype", list(BOUNDS), ids=str)
CONVENTIONS = [("mean", "channels"), ("sum", "channels"), ("mean", "spatial"), ("sum", "spatial")]
conventions = pytest.mark.parametrize(("scaling", "region"), CONVENTIONS)


def exact_results(input, grad, size, alpha, beta, k, scaling, region, channel_dim):
    """Output and gradient by torch's operations in float64."""
    x = high_precision(input).requires_grad_()
    axes = window_axes(x, region, channel_dim)
    a = alpha / size ** len(axes) if scaling == "mean" else alpha
    output = x * (k + a * window_sum(x * x, size, axes)).pow(-beta)
    return output.detach(), torch.autograd.grad(output, x, high_precision(grad))[0]


def assert_both_are_exact(input, grad, arguments, bound):
    before = launches()
    output = agreed(lambda: ops.local_response_norm(input, *arguments))
    gradient = agreed(lambda: ops.local_response_norm_backward(grad, input, *arguments))
    if EMULATED and input.numel():
        assert launches() >= before + 4  # it was our kernels that ran
    exact, exact_gradient = exact_results(input, grad, *arguments)
    assert_close(output, exact, bound)
    assert_close(gradient, exact_gradient, 2 * bound)


@shapes
@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 8, 37])
@pytest.mark.parametrize("beta", [0.75, 0.5, 1.0, 0.6])
def test_neighbouring_filters_of_every_size_and_exponent(shape, size, beta, device):
    input, grad = torch.randn(2, *shape, dtype=torch.double, device=device)
    arguments = (size, 0.3, beta, 1.5, "mean", "channels", 1)
    assert_both_are_exact(input, grad, arguments, 1e-14)


@shapes
@dtypes
@pytest.mark.parametrize("size", [3, 4, 5])
def test_every_dtype(shape, dtype, size, device):
    input, grad = torch.randn(2, *shape, device=device).to(dtype)
    arguments = (size, 0.3, 0.75, 2.0, "mean", "channels", 1)
    assert_both_are_exact(input, grad, arguments, BOUNDS[dtype])


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("size", [1, 3, 5])
@pytest.mark.parametrize("scaling", ["mean", "sum"])
@pytest.mark.parametrize("channel_dim", [0, 1])
def test_windows_inside_a_map(axes, size, scaling, channel_dim, device):
    shape = (3, *(6, 5, 7)[:axes]) if channel_dim == 0 else (2, 3, *(6, 5, 7)[:axes])
    input, grad = torch.randn(2, *shape, dtype=torch.double, device=device)
    arguments = (size, 0.3, 0.75, 1.5, scaling, "spatial", channel_dim)
    assert_both_are_exact(input, grad, arguments, 1e-14)


@pytest.mark.parametrize("layout", ["channels_last", "sliced", "transposed", "expanded", "overlapping"])
@conventions
def test_every_layout_keeps_the_values_and_torchs_strides(layout, scaling, region, device):
    plain = torch.randn(3, 6, 5, 7, dtype=torch.double, device=device)
    input = lay_out(plain, layout)
    arguments = (3, 0.3, 0.75, 2.0, scaling, region, 1)
    output = ops.local_response_norm(input, *arguments)
    assert torch.equal(output, ops.local_response_norm(input.contiguous(), *arguments))
    assert output.stride() == torch.empty_like(input).stride()
    grad = lay_out(torch.randn_like(plain), "transposed")
    assert torch.equal(
        ops.local_response_norm_backward(grad, input, *arguments),
        ops.local_response_norm_backward(grad.contiguous(), input.contiguous(), *arguments),
    )


@pytest.mark.parametrize("channel_dim", [0, 1, 2, -1])
def test_filters_on_any_axis(channel_dim, device):
    input, grad = torch.randn(2, 4, 5, 6, dtype=torch.double, device=device)
    arguments = (5, 0.3, 0.75, 2.0, "sum", "channels", channel_dim)
    assert_both_are_exact(input, grad, arguments, 1e-14)


@pytest.mark.parametrize("size", [2, 5])
def test_zeros_infinities_and_nans_are_where_the_formula_has_them(size, device):
    input = torch.randn(1, 9, 4, device=device)
    input[0, 2, 0], input[0, 4, 1], input[0, 6, 2] = float("inf"), float("nan"), 1e30
    input[..., 3] = 0
    arguments = (size, 0.3, 0.75, 0.0, "sum", "channels", 1)
    output = ops.local_response_norm(input, *arguments)
    exact, _ = exact_results(input, input, *arguments)
    assert torch.equal(output.isnan().cpu()[0, :, [0, 1, 3]], exact.isnan()[0, :, [0, 1, 3]])


def test_a_gradient_of_another_layout_or_dtype_is_taken_or_refused(device):
    input = torch.randn(2, 5, 4, 4, device=device)
    with pytest.raises(RuntimeError, match="grad_output: expected Float"):
        ops.local_response_norm_backward(
            input.double(), input, 5, 0.3, 0.75, 2.0, "mean", "channels", 1
        )


@conventions
def test_gradcheck_and_gradgradcheck(scaling, region, device):
    input = torch.randn(2, 4, 3, 3, dtype=torch.double, device=device, requires_grad=True)

    def function(x):
        return LocalResponseNormFunction.apply(x, 3, 0.5, 0.75, 2.0, scaling, region, 1)

    assert gradcheck(function, (input,))
    assert gradgradcheck(function, (input,))


def test_opcheck(device):
    input = torch.randn(2, 4, 3, 3, device=device, requires_grad=True)
    arguments = (3, 0.5, 0.75, 2.0, "mean", "channels", 1)
    torch.library.opcheck(ops.local_response_norm, (input, *arguments))
    grad = torch.randn_like(input)
    torch.library.opcheck(ops.local_response_norm_backward, (grad, input, *arguments))


@needs_gpu
def test_a_graph_replays_on_new_numbers(device):
    input = torch.randn(4, 16, 9, 9, device=device)
    arguments = (5, 0.3, 0.75, 2.0, "mean", "channels", 1)
    results = lambda: (  # noqa: E731
        ops.local_response_norm(input, *arguments),
        ops.local_response_norm_backward(input, input, *arguments),
    )
    results()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = results()
    input.copy_(torch.randn_like(input))
    graph.replay()
    assert all(torch.equal(a, b) for a, b in zip(captured, results(), strict=True))


@needs_gpu
def test_compiled_code_and_autocast(device):
    input = torch.randn(4, 16, 9, 9, device=device, dtype=torch.half)
    compiled = torch.compile(lambda x: functional.local_response_norm(x, 5), fullgraph=True)
    torch.testing.assert_close(compiled(input), functional.local_response_norm(input, 5))
    with torch.autocast(device):
        assert functional.local_response_norm(input, 5).dtype == torch.float32


def reduced(device):
    """Every kernel once (tests/cuda/reduced.py)."""
    for dtype, bound in BOUNDS.items():
        for shape in ((2, 7, 4, 8), (2, 7, 3, 3), (5, 7, 1, 1)):
            for size in (3, 4, 5):
                input = torch.randn(shape).to(device, dtype)
                arguments = (size, 0.3, 0.75, 2.0, "mean", "channels", 1)
                output = ops.local_response_norm(input, *arguments)
                ops.local_response_norm_backward(output, input, *arguments)
                exact = F.local_response_norm(high_precision(input), size, 0.3, 0.75, 2.0)
                assert_close(output, exact, bound)
