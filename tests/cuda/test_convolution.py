"""Convolution on CUDA: the same samples as on the CPU, against torch in float64."""

import random

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck, gradgradcheck

from cnn_ext import functional
from cnn_ext.ops import ConvolutionFunction
from tests.cuda.parity import (
    EMULATED,
    agreed,
    assert_close,
    high_precision,
    launches,
    needs_gpu,
    tensor_floats,
)
from tests.ops.convolution_samples import ALL, DEPTHWISE, SMALL, Sample, lay_out

ops = torch.ops.cnn_ext

# dtype, TF32 allowed, compute capability emulated, bound of the relative rms error. Sums are float32
# in one chain; TF32 keeps 10 bits of what is multiplied; the others are rounded once, at the end.
PRECISIONS = {
    "float64": (torch.float64, False, 90, 1e-14),
    "float32": (torch.float32, False, 90, 1e-6),
    "tf32": (torch.float32, True, 90, 2**-11),
    "bfloat16": (torch.bfloat16, True, 90, 2**-8),
    "float16": (torch.float16, True, 90, 2**-11),
    "bfloat16 without tensor cores": (torch.bfloat16, True, 75, 2**-8),
}
precisions = pytest.mark.parametrize("precision", PRECISIONS)


def exact_results(sample, input, weight, bias, grad_output):
    """Output and gradients by torch in float64."""
    input, weight = (high_precision(t.detach()).requires_grad_() for t in (input, weight))
    bias = None if bias is None else high_precision(bias)
    output = sample.torch(input, weight, bias)
    gradients = torch.autograd.grad(output, (input, weight), high_precision(grad_output))
    return output.detach(), *gradients


def to_device(sample, device, dtype):
    """Input, weight and bias there, laid out as the sample says."""
    input, weight, bias = sample.tensors(dtype)
    input = lay_out(input.to(device), sample.layout)
    return input, weight.to(device), None if bias is None else bias.to(device)


def assert_all_three_are_torchs(sample, device, precision, algorithm, weight_layout="contiguous"):
    dtype, allowed, capability, bound = PRECISIONS[precision]
    input, weight, bias = to_device(sample, device, dtype)
    weight = lay_out(weight, weight_layout)
    arguments = (*sample.arguments, algorithm)
    before = launches()
    with tensor_floats(allowed):
        output = agreed(lambda: ops.convolution(input, weight, bias, *arguments), capability)
        grad = torch.randn_like(output)
        grad_input = agreed(
            lambda: ops.convolution_input_gradient(grad, weight, input.shape, *arguments), capability
        )
        grad_weight = agreed(
            lambda: ops.convolution_weight_gradient(grad, input, weight.shape, *arguments), capability
        )
    if EMULATED and algorithm != "im2col" and input.numel():
        assert launches() >= before + 6  # it was our kernels that ran
    exact = exact_results(sample, input, weight, bias, grad)
    for value, right in zip((output, grad_input, grad_weight), exact, strict=True):
        assert_close(value, right, bound)


@precisions
@pytest.mark.parametrize("sample", ALL, ids=str)
def test_output_and_both_gradients_are_torchs(sample, device, precision):
    assert_all_three_are_torchs(sample, device, precision, "implicit_gemm")


@precisions
@pytest.mark.parametrize("sample", DEPTHWISE, ids=str)
def test_depthwise_convolution_directly(sample, device, precision):
    assert_all_three_are_torchs(sample, device, precision, "direct")


@pytest.mark.parametrize("sample", [s for s in SMALL if s.N], ids=str)
@pytest.mark.parametrize("algorithm", ["auto", "im2col"])
def test_algorithms_by_name(sample, device, algorithm):
    assert_all_three_are_torchs(sample, device, "float64", algorithm)


@pytest.mark.parametrize("weight_layout", ["channels_last", "sliced", "transposed"])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("precision", ["float32", "tf32", "float16"])
def test_weights_of_any_strides(weight_layout, layout, device, precision):
    sample = Sample("", 2, 4, 24, (8, 8), (3, 3), stride=2, padding=1, layout=layout)
    assert_all_three_are_torchs(sample, device, precision, "auto", weight_layout)


@pytest.mark.parametrize("seed", range(24))
def test_any_geometry_is_torchs(device, seed):
    draw = random.Random(seed)
    axes = draw.randint(1, 3)
    per_axis = lambda low, high: tuple(draw.randint(low, high) for _ in range(axes))  # noqa: E731
    filter, dilation, padding = per_axis(1, 4), per_axis(1, 3), per_axis(0, 3)
    size = tuple(
        max(1, d * (f - 1) + 1 - 2 * p) + draw.randint(0, 9 if axes < 3 else 3)
        for f, d, p in zip(filter, dilation, padding, strict=True)
    )
    groups = draw.choice([1, 2, 3, 17])
    depthwise = draw.random() < 0.3
    channels, filters = (1, 1) if depthwise else (draw.randint(1, 19), draw.randint(1, 35))
    layouts = ["contiguous", "channels_last", "sliced", "transposed"] if axes == 2 else ["contiguous"]
    sample = Sample(
        "any", draw.randint(1, 3), groups * channels, groups * filters, size, filter, per_axis(1, 3),
        padding, dilation, groups, draw.random() < 0.5, draw.choice(layouts),
    )  # fmt: skip
    precision = draw.choice(["float64", "float32", "tf32", "bfloat16", "float16"])
    assert_all_three_are_torchs(sample, device, precision, "auto")


def test_long_sums_are_shared_out_in_a_fixed_order(device):
    """A weight gradient over many pixels: several blocks, whose sums are added in order."""
    sample = Sample("", 2, 3, 5, (60, 61), (3, 3), padding=1)
    for precision in ("float64", "float32", "tf32"):
        assert_all_three_are_torchs(sample, device, precision, "implicit_gemm")


def test_tf32_is_used_where_torch_allows_it_and_nowhere_else(device):
    if not EMULATED and torch.cuda.get_device_capability() < (8, 0):
        pytest.skip("this GPU has no TF32")
    sample = Sample("", 2, 16, 24, (9, 9), (3, 3))
    input, weight, _ = to_device(sample, device, torch.float32)
    exact = F.conv2d(high_precision(input), high_precision(weight))

    def error():
        output = ops.convolution(input, weight, None, *sample.arguments, "auto")
        return (high_precision(output) - exact).norm() / exact.norm()

    with tensor_floats(True):
        assert 1e-5 < error() < 1e-3
    with tensor_floats(False):
        assert error() < 1e-6
    newer = torch.backends.cudnn.conv  # the setting that replaces it
    before = newer.fp32_precision
    try:
        newer.fp32_precision = "ieee"
        assert error() < 1e-6
        newer.fp32_precision = "tf32"
        assert 1e-5 < error() < 1e-3
    finally:
        newer.fp32_precision = before


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128], ids=str)
def test_complex_numbers_are_four_real_products(device, dtype):
    sample = next(s for s in SMALL if s.name == "everything")
    input, weight, bias = to_device(sample, device, dtype)
    with tensor_floats(False):
        output = ops.convolution(input, weight, bias, *sample.arguments, "auto")
    exact = sample.torch(*(high_precision(t) for t in (input, weight, bias)))
    assert_close(output, exact, 1e-6 if dtype == torch.complex64 else 1e-14)


def test_winograd_is_refused_with_what_there_is(device):
    input, weight = torch.zeros(1, 4, 9, 9, device=device), torch.zeros(4, 4, 3, 3, device=device)
    with pytest.raises(RuntimeError, match=r"\"winograd\" has no CUDA kernels; on CUDA there are"):
        ops.convolution(input, weight, None, [1], [0], [1], 1, "winograd")


def test_direct_is_refused_where_it_is_not_depthwise(device):
    input, weight = torch.zeros(1, 4, 9, 9, device=device), torch.zeros(4, 4, 3, 3, device=device)
    with pytest.raises(RuntimeError, match=r"\"direct\" serves depthwise convolution"):
        ops.convolution(input, weight, None, [1], [0], [1], 1, "direct")


def test_no_element_is_left_unwritten(device):
    torch.use_deterministic_algorithms(True)  # fills what at::empty returns with NaN
    try:
        for sample in SMALL:
            input, weight, bias = to_device(sample, device, torch.float64)
            arguments = (*sample.arguments, "auto")
            output = ops.convolution(input, weight, bias, *arguments)
            grad_input = ops.convolution_input_gradient(output, weight, input.shape, *arguments)
            grad_weight = ops.convolution_weight_gradient(output, input, weight.shape, *arguments)
            assert all(t.isfinite().all() for t in (output, grad_input, grad_weight)), sample
    finally:
        torch.use_deterministic_algorithms(False)


# ----------------------------------------------------------------------------- torch's machinery


def leaves(sample, device):
    tensors = to_device(sample, device, torch.float64)
    return tuple(None if t is None else t.detach().requires_grad_() for t in tensors)


@pytest.mark.parametrize("sample", SMALL, ids=str)
def test_gradcheck_and_gradgradcheck(sample, device):
    def function(input, weight, bias):
        return ConvolutionFunction.apply(input, weight, bias, *sample.arguments, "auto")

    # On the CPU a batched gradient's vmap would be one more dispatch key; here it is the same code.
    assert gradcheck(function, leaves(sample, device))
    assert gradgradcheck(function, leaves(sample, device))


@pytest.mark.parametrize("sample", SMALL[:2], ids=str)
def test_opcheck(sample, device):
    input, weight, bias = leaves(sample, device)
    arguments = (*sample.arguments, "auto")
    torch.library.opcheck(ops.convolution, (input, weight, bias, *arguments))
    grad = torch.randn_like(ops.convolution(input, weight, bias, *arguments)).detach()
    torch.library.opcheck(ops.convolution_input_gradient, (grad, weight, list(input.shape), *arguments))
    torch.library.opcheck(
        ops.convolution_weight_gradient, (grad, input, list(weight.shape), *arguments)
    )


def test_compiled_code_gives_the_same(device):
    sample = SMALL[0]
    input, weight, bias = to_device(sample, device, torch.float32)
    call = lambda x: functional.conv2d(x, weight, bias).relu()  # noqa: E731
    backend = "aot_eager" if EMULATED else "inductor"
    compiled = torch.compile(call, fullgraph=True, backend=backend)
    torch.testing.assert_close(compiled(input), call(input))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_is_obeyed(device, dtype):
    input, weight, bias = to_device(SMALL[0], device, torch.float32)
    with torch.autocast(device, dtype=dtype):
        output = functional.conv2d(input, weight, bias)
    assert output.dtype == dtype
    assert_close(output, F.conv2d(*(high_precision(t) for t in (input, weight, bias))), 2**-6)


@needs_gpu
def test_graphs_of_all_three_replay_on_new_numbers(device):
    sample = Sample("", 4, 20, 24, (30, 31), (3, 3), stride=2, padding=1)
    input, weight, bias = to_device(sample, device, torch.float32)
    arguments = (*sample.arguments, "auto")

    def results():
        output = ops.convolution(input, weight, bias, *arguments)
        return (
            output,
            ops.convolution_input_gradient(output, weight, input.shape, *arguments),
            ops.convolution_weight_gradient(output, input, weight.shape, *arguments),
        )

    results()  # what is loaded at the first call is not part of a graph
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = results()
    input.copy_(torch.randn_like(input))
    graph.replay()
    assert all(torch.equal(a, b) for a, b in zip(captured, results(), strict=True))


@needs_gpu
def test_nothing_waits_for_the_device(device):
    input, weight, bias = to_device(SMALL[1], device, torch.float32)
    torch.cuda.set_sync_debug_mode("error")
    try:
        ops.convolution(input, weight, bias, *SMALL[1].arguments, "auto")
    finally:
        torch.cuda.set_sync_debug_mode("default")


@needs_gpu
def test_the_current_stream_is_used(device):
    input, weight, _ = to_device(Sample("", 8, 64, 64, (64, 64), (3, 3)), device, torch.float32)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(10**8)
        doubled = input * 2
        output = ops.convolution(doubled, weight, None, [1], [0], [1], 1, "auto")
    stream.synchronize()
    right = ops.convolution(input * 2, weight, None, [1], [0], [1], 1, "auto")
    assert torch.equal(output, right)


@needs_gpu
def test_tensors_past_two_to_the_thirty_first_elements(device):
    """Through a view of stride 0, which takes no memory; the last image must be read right."""
    image = torch.randn(1, 1, 1, 2**16, device=device)
    images = image.expand(2**15 + 1, 1, 1, 2**16)
    weight = torch.randn(1, 1, 1, 2**16, device=device)
    with tensor_floats(False):
        output = ops.convolution(images, weight, None, [1], [0], [1], 1, "implicit_gemm")
    assert output.shape == (2**15 + 1, 1, 1, 1)
    assert torch.equal(output[-1], output[0])
    larger = torch.randn(2**15 + 8, 2**16, device=device).view(1, 1, -1, 2**16)  # 8 GB
    bottom = larger[:, :, -3:]
    three = torch.randn(1, 1, 3, 3, device=device)
    with tensor_floats(False):
        whole = ops.convolution(larger, three, None, [1], [0], [1], 1, "auto")
        part = ops.convolution(bottom.contiguous(), three, None, [1], [0], [1], 1, "auto")
    assert torch.equal(whole[:, :, -1:], part)


@needs_gpu  # the emulation has not these, which are composed of the kernels here
@pytest.mark.parametrize("op", ["convolution_relu", "convolution_frozen"])
def test_what_frozen_networks_call(op, device):
    sample = Sample("", 2, 6, 9, (8, 7), (3, 3), padding=1, groups=3)
    input, weight, bias = to_device(sample, device, torch.float64)
    filters, relu = ((None,), (True,)) if op == "convolution_frozen" else ((), ())
    output = getattr(ops, op)(input, weight, bias, *filters, *sample.arguments, *relu, "auto")
    exact = sample.torch(*(high_precision(t) for t in (input, weight, bias))).relu()
    assert_close(output, exact, 1e-14)


def reduced(device):
    """Every kernel once (tests/cuda/reduced.py)."""
    chosen = ("alexnet 1", "dilated strided", "grouped", "depthwise strided", "volume")
    samples = [(sample, False) for sample in ALL if sample.name in chosen]
    samples.append((Sample("", 2, 3, 40, (11, 12), (3, 3), padding=1), True))
    bounds = {torch.float64: 1e-14, torch.float32: 1e-6, torch.bfloat16: 2**-8, torch.float16: 2**-11}
    for dtype, bound in bounds.items():
        for sample, allowed in samples:
            input, weight, bias = (t.to(device) for t in sample.tensors(dtype))
            arguments = (*sample.arguments, "auto")
            with tensor_floats(allowed):
                output = ops.convolution(input, weight, bias, *arguments)
                ops.convolution_input_gradient(output, weight, input.shape, *arguments)
                ops.convolution_weight_gradient(output, input, weight.shape, *arguments)
            exact = sample.torch(*(high_precision(t) for t in (input, weight, bias)))
            rough = allowed and dtype == torch.float32
            assert_close(output, exact, 2**-10 if rough else bound)
