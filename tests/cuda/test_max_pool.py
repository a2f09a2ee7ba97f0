"""Max-pooling on CUDA: torch's results to the bit; gradients are collected in a fixed order."""

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck, gradgradcheck

from cnn_ext import functional
from cnn_ext.ops import MaxPool2dFunction
from tests.cuda.parity import EMULATED, agreed, assert_close, high_precision, launches, needs_gpu
from tests.ops.convolution_samples import lay_out

ops = torch.ops.cnn_ext

# Size, windows, stride, padding, dilation, ceil_mode.
SAMPLES = [
    ((2, 3, 8, 8), (2, 2), (2, 2), (0, 0), (1, 1), False),
    ((2, 5, 13, 11), (3, 3), (2, 2), (0, 0), (1, 1), False),
    ((1, 4, 9, 10), (3, 2), (1, 3), (1, 1), (2, 1), False),
    ((2, 3, 7, 7), (3, 3), (2, 2), (1, 1), (1, 1), True),
    ((1, 2, 6, 5), (2, 2), (3, 3), (0, 0), (1, 1), True),
    ((3, 1, 4, 4), (4, 4), (5, 7), (2, 2), (1, 1), False),
    ((5, 6, 7), (3, 3), (2, 1), (1, 0), (1, 1), False),
    ((0, 3, 4, 4), (2, 2), (2, 2), (0, 0), (1, 1), False),
]
samples = pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: f"{sample[0]}, {sample[1]}")
BOUNDS = {torch.float64: 1e-15, torch.float32: 1e-6, torch.bfloat16: 2**-8, torch.float16: 2**-11}


@samples
@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "sliced"])
def test_output_and_gradient_are_torchs(sample, dtype, layout, device):
    size, *geometry = sample
    if layout == "channels_last" and len(size) == 3:
        layout = "transposed"
    # Few values, so that many are equal.
    input = lay_out(torch.randint(-4, 4, size).to(device, dtype), layout)
    before = launches()
    output = agreed(lambda: ops.max_pool2d(input, *geometry))
    with_taps, taps = ops.max_pool2d_with_taps(input, *geometry)
    x = high_precision(input).requires_grad_()
    exact = F.max_pool2d(x, *geometry)
    assert torch.equal(output, with_taps)
    assert torch.equal(high_precision(output), exact.detach())
    grad = torch.randn_like(output)
    gradient = agreed(lambda: ops.max_pool2d_backward(grad, taps, size, *geometry))
    if EMULATED and input.numel():
        assert launches() >= before + 5  # it was our kernels that ran
    (exact_gradient,) = torch.autograd.grad(exact, x, high_precision(grad))
    assert_close(gradient, exact_gradient, BOUNDS[dtype])


def test_nan_wins_and_windows_of_padding_alone_owe_nothing(device):
    input = torch.randn(2, 3, 9, 9, device=device, dtype=torch.double)
    input[0, 0, 4, 4] = input[0, 0, 4, 5] = torch.nan
    geometry = (3, 3), (2, 2), (1, 1), (4, 4), False
    output, taps = ops.max_pool2d_with_taps(input, *geometry)
    x = input.detach().cpu().requires_grad_()
    exact = F.max_pool2d(x, *geometry)
    torch.testing.assert_close(output.cpu(), exact.detach(), equal_nan=True)
    gradient = ops.max_pool2d_backward(torch.ones_like(output), taps, input.shape, *geometry)
    torch.testing.assert_close(gradient.cpu(), torch.autograd.grad(exact.sum(), x)[0])


def test_a_window_of_many_cells_has_no_taps(device):
    input = torch.randn(1, 2, 20, 21, device=device)
    output = ops.max_pool2d(input, (17, 16), (1, 1), (0, 0), (1, 1), False)
    assert torch.equal(output.cpu(), F.max_pool2d(input.cpu(), (17, 16), 1))


def test_every_derivative(device):
    input = torch.randn(2, 2, 6, 5, dtype=torch.double, device=device, requires_grad=True)
    arguments = input, (3, 2), (2, 1), (1, 0), (1, 1), False

    def outputs(*arguments):
        return MaxPool2dFunction.apply(*arguments)[0]

    assert gradcheck(outputs, arguments)
    assert gradgradcheck(outputs, arguments)


@needs_gpu
def test_the_door_leads_here(device):
    input = torch.randn(2, 3, 8, 8, device=device, dtype=torch.float16, requires_grad=True)
    output = functional.max_pool2d(input, 2)
    assert "MaxPool" in type(output.grad_fn).__name__
    assert torch.equal(output, F.max_pool2d(input, 2))


@needs_gpu
def test_pooling_in_a_graph(device):
    input = torch.randn(4, 8, 16, 16, device=device)
    functional.max_pool2d(input, 2)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = functional.max_pool2d(input, 2)
    input.copy_(torch.randn_like(input))
    graph.replay()
    assert torch.equal(output, F.max_pool2d(input, 2))


def reduced(device):
    """Every kernel once (tests/cuda/reduced.py)."""
    geometry = (3, 3), (2, 2), (1, 1), (1, 1), False
    for dtype in BOUNDS:
        input = torch.randn(2, 3, 9, 8).to(device, dtype)
        output, taps = ops.max_pool2d_with_taps(input, *geometry)
        ops.max_pool2d_backward(output, taps, input.shape, *geometry)
        assert_close(output, F.max_pool2d(high_precision(input), *geometry), 0)
