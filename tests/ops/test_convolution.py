"""The three operations of convolution: values, gradients of every kind, and every kind of misuse."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import forward_ad, gradcheck, gradgradcheck

from cnn_ext import functional, reference
from cnn_ext.functional import convolution_algorithm
from cnn_ext.ops import ConvolutionFunction
from cnn_ext.ops.convolution import convolution
from tests.every_operation import Counter
from tests.ops.convolution_samples import (
    ALL,
    DENSE,
    DEPTHWISE,
    DIRECT,
    IN_PARTS,
    NARROW,
    SMALL,
    WINOGRAD,
    WINOGRAD_STRIDED,
    Sample,
    lay_out,
)

ops = torch.ops.cnn_ext
ALGORITHMS = ("im2col", "implicit_gemm", "direct")

# Relative rms error. float32 and float64: rounding of a sum of a few thousand terms, as torch's own
# is. bfloat16 and float16: one rounding of the result, at most their unit roundoff.
BOUNDS = {
    torch.float32: 1e-6,
    torch.float64: 1e-14,
    torch.complex64: 1e-6,
    torch.complex128: 1e-14,
    torch.bfloat16: 2**-8,
    torch.float16: 2**-11,
}

# Functions of this operation and torch's twins, for tests/test_tools.py.
_x, _w, _wt, _b = (
    torch.randn(size).double() for size in ((1, 2, 4, 4), (3, 2, 2, 2), (2, 3, 2, 2), (3,))
)
CALLS = {
    "conv1d": (lambda m, x, w, b: m.conv1d(x[:, :, 0], w[:, :, 0], b), (_x, _w, _b)),
    "conv2d": (lambda m, x, w, b: m.conv2d(x, w, b, 2, 1), (_x, _w, _b)),
    "conv_relu2d": (
        lambda m, x, w, b: m.conv_relu2d(x, w, b) if m is functional else m.conv2d(x, w, b).relu(),
        (_x, _w, _b),
    ),
    "conv_transpose2d": (lambda m, x, w, b: m.conv_transpose2d(x, w, b, 2, 1, 1), (_x, _wt, _b)),
}


def dispatched():
    """Each operation with arguments, for tests/ops/test_opcheck.py."""
    sample = SMALL[0]
    input, weight, bias = sample.tensors(requires_grad=True)
    grad = grad_like_output(sample, input, weight, bias).detach().requires_grad_()
    arguments = (*sample.arguments, "auto")
    yield ops.convolution, (input, weight, bias, *arguments)
    yield ops.convolution_relu, (input, weight, bias, *arguments)
    yield ops.convolution_input_gradient, (grad, weight, input.shape, *arguments)
    yield ops.convolution_weight_gradient, (grad, input, weight.shape, *arguments)
    input, weight, bias = Sample("", 2, 16, 17, (9, 9), (3, 3)).tensors(torch.float32)
    filters = ops.winograd_filters(weight, 1)
    yield ops.winograd_filters, (weight, 1)
    yield ops.convolution_frozen, (input, weight, bias, filters, [1], [1], [1], 1, True, "auto")


by_name = pytest.mark.parametrize("sample", ALL, ids=str)
small = pytest.mark.parametrize("sample", SMALL, ids=str)
algorithms = pytest.mark.parametrize("algorithm", ALGORITHMS)
dtypes = pytest.mark.parametrize("dtype", list(BOUNDS), ids=str)


def assert_close(value, exact, bound, floor=0.0):
    """Shapes are equal, and the error is at most `bound` of the exact values or `floor`, all rms."""
    assert value.shape == exact.shape
    exact = high_precision(exact)
    error = (value.to(exact.dtype) - exact).norm()
    assert error <= bound * max(exact.norm(), floor), f"{error / exact.norm():.2e} > {bound}"


def high_precision(tensor):
    return tensor.to(torch.complex128 if tensor.is_complex() else torch.float64)


def exact_results(sample, input, weight, bias, grad_output):
    """Output and gradients by torch in float64."""
    input, weight = (high_precision(t.detach()).requires_grad_() for t in (input, weight))
    bias = None if bias is None else high_precision(bias)
    output = sample.torch(input, weight, bias)
    gradients = torch.autograd.grad(output, (input, weight), high_precision(grad_output))
    return output.detach(), *gradients


def grad_like_output(sample, input, weight, bias):
    output = ops.convolution(input, weight, bias, *sample.arguments, "auto")
    return torch.randn_like(output, memory_format=torch.preserve_format)


def assert_all_three_are_torchs(sample, dtype, algorithm, cancels=False, last=False):
    """Within the bound of the dtype, of the values. ``last``: filters in channels_last too.

    ``cancels``: or of what sums of such terms come to in the mean, the root of the sum of their
    squares; for random searches, which meet a result of one cell in which nearly everything cancels.
    """
    input, weight, bias = sample.tensors(dtype)
    if last and sample.axes == 2:
        weight = lay_out(weight, "channels_last")
    grad = grad_like_output(sample, input, weight, bias)
    arguments = (*sample.arguments, algorithm)
    results = (
        ops.convolution(input, weight, bias, *arguments),
        ops.convolution_input_gradient(grad, weight.conj(), input.shape, *arguments),
        ops.convolution_weight_gradient(grad, input.conj(), weight.shape, *arguments),
    )
    exact = exact_results(sample, input, weight, bias, grad)
    floors = [0.0] * 3
    if cancels:
        tensors = (input, weight, bias, grad)
        squares = (None if t is None else high_precision(t).abs().square() for t in tensors)
        floors = [square.abs().sqrt().norm() for square in exact_results(sample, *squares)]
    for value, right, floor in zip(results, exact, floors, strict=True):
        assert_close(value, right, BOUNDS[dtype], floor)


# ------------------------------------------------------------------------------------- values


@by_name
@dtypes
@algorithms
def test_output_and_both_gradients_are_torchs(sample, dtype, algorithm):
    assert_all_three_are_torchs(sample, dtype, algorithm)


@by_name
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("algorithm", ["implicit_gemm", "direct"])
def test_every_instruction_set_gives_the_same(sample, dtype, algorithm, cpu_capability):
    assert_all_three_are_torchs(sample, dtype, algorithm)


@by_name
@pytest.mark.parametrize("algorithm", ["implicit_gemm", "auto"])
@pytest.mark.parametrize("cpu_capability", ["avx2", "avx512", "avx512_bf16"], indirect=True)
def test_bfloat16_with_and_without_instructions_of_its_own(sample, algorithm, cpu_capability):
    assert_all_three_are_torchs(sample, torch.bfloat16, algorithm)


@pytest.mark.parametrize("sample", IN_PARTS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("threads", [1, 2])
def test_some_images_at_a_time(sample, dtype, threads):
    torch.set_num_threads(threads)
    assert_all_three_are_torchs(sample, dtype, "implicit_gemm")


@pytest.mark.parametrize("sample", DENSE, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("last", [False, True], ids=["NCHW filters", "channels_last filters"])
def test_few_pixels_with_many_filters(sample, dtype, last, cpu_capability):
    assert_all_three_are_torchs(sample, dtype, "auto", last=last)


@pytest.mark.parametrize("sample", DENSE, ids=str)
@pytest.mark.parametrize("cpu_capability", ["avx2", "avx512", "avx512_bf16"], indirect=True)
def test_few_pixels_with_many_filters_in_bfloat16(sample, cpu_capability):
    assert_all_three_are_torchs(sample, torch.bfloat16, "auto")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_few_pixels_with_many_filters_in_any_strides(dtype, cpu_capability):
    """As the tests above, but for filters that lie channel by channel, with a bias and a ReLU."""
    x, w, b = torch.randn(5, 700, 1), torch.randn(700, 300).t().unsqueeze(2), torch.randn(300)
    x, w, b = (t.to(dtype) for t in (x, w, b))
    exact = F.conv1d(x.double(), w.double(), b.double())
    geometry = ([1], [0], [1], 1, "auto")
    assert_close(ops.convolution(x, w, b, *geometry), exact, BOUNDS[dtype])
    assert_close(ops.convolution_relu(x, w, b, *geometry), exact.relu(), BOUNDS[dtype])
    x = torch.cat([x, x])[::2]  # every second row
    exact = F.conv1d(x.double(), w.double(), b.double())
    assert_close(ops.convolution(x, w.contiguous(), b, *geometry), exact, BOUNDS[dtype])


@pytest.mark.parametrize("sample", DIRECT, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_direct_convolution_over_ragged_bands(sample, dtype, cpu_capability):
    assert_all_three_are_torchs(sample, dtype, "direct")


@pytest.mark.parametrize("sample", DEPTHWISE, ids=str)
@dtypes
def test_depthwise_convolution_directly(sample, dtype, cpu_capability):
    assert_all_three_are_torchs(sample, dtype, "direct")


@pytest.mark.parametrize("sample", DEPTHWISE, ids=str)
@pytest.mark.parametrize("cpu_capability", ["avx512_bf16"], indirect=True)
def test_depthwise_convolution_in_bfloat16_where_it_lies(sample, cpu_capability):
    assert_all_three_are_torchs(sample, torch.bfloat16, "auto")


@pytest.mark.parametrize("sample", NARROW, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("algorithm", ["direct", "auto"])
def test_narrow_groups(sample, dtype, algorithm, cpu_capability, monkeypatch):
    if algorithm == "auto":  # which may be Winograd, of 16 and 32 channels
        monkeypatch.setitem(BOUNDS, dtype, WINOGRAD_BOUNDS[dtype])
    assert_all_three_are_torchs(sample, dtype, algorithm)


@pytest.mark.parametrize("sample", NARROW, ids=str)
@pytest.mark.parametrize("cpu_capability", ["avx512", "avx512_bf16"], indirect=True)
def test_narrow_groups_in_bfloat16(sample, cpu_capability):
    assert_all_three_are_torchs(sample, torch.bfloat16, "auto")


@pytest.mark.parametrize("sample", NARROW, ids=str)
@pytest.mark.parametrize("dtype", [torch.float16, torch.complex64], ids=str)
def test_narrow_groups_of_every_dtype(sample, dtype):
    assert_all_three_are_torchs(sample, dtype, "auto")


def test_no_group_sees_its_neighbours(cpu_capability):
    """Groups share a vector: what one of them has must not reach the others, not even a NaN."""
    for sample in NARROW:
        width = sample.C // sample.groups
        input, weight, _ = sample.tensors(torch.float32)
        if sample.layout in ("expanded", "overlapping"):
            continue
        other = slice(width, 2 * width)
        input[:, other] = torch.nan
        weight[other] = torch.nan
        kept = [i for i in range(sample.C) if not width <= i < 2 * width]
        output = ops.convolution(input, weight, None, *sample.arguments, "direct")
        assert output[:, kept].isfinite().all(), sample
        assert output[:, other].isnan().any(), sample
        gradient = torch.randn_like(output)
        gradient[:, other] = torch.nan
        of_input = ops.convolution_input_gradient(
            gradient, weight, input.shape, *sample.arguments, "direct"
        )
        assert of_input[:, kept].isfinite().all(), sample
        of_weight = ops.convolution_weight_gradient(
            gradient, input, weight.shape, *sample.arguments, "direct"
        )
        assert of_weight[kept].isfinite().all(), sample


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize("width", [2, 4, 8, 16])
def test_taps_of_narrow_groups_see_their_own_cells(layout, padding, width, cpu_capability):
    for column, blind in ((0, 2), (-1, 0)):  # of three taps, one that never meets that column
        input = torch.randn(2, 4 * width, 6, 9)
        input[..., column] = torch.nan
        input = lay_out(input, layout)
        output = torch.randn(2, 4 * width, 4 + 2 * padding, 7 + 2 * padding)
        of_weight = ops.convolution_weight_gradient(
            output, input, (4 * width, width, 3, 3), [1], [padding], [1], 4, "direct"
        )
        assert of_weight[..., blind].isfinite().all()
        assert of_weight[..., 1].isfinite().all() == (padding == 0)
        assert of_weight[..., 2 - blind].isnan().all()


# Winograd's sums round some three times as much; `docs/convolution.md` promises this bound.
WINOGRAD_BOUNDS = BOUNDS | {torch.float32: 2e-6, torch.complex64: 2e-6, torch.float64: 4e-15}


@pytest.mark.parametrize("sample", WINOGRAD + WINOGRAD_STRIDED, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_winograd_is_torchs(sample, dtype, cpu_capability, monkeypatch):
    monkeypatch.setitem(BOUNDS, dtype, WINOGRAD_BOUNDS[dtype])
    assert_all_three_are_torchs(sample, dtype, "winograd")


@pytest.mark.parametrize("sample", WINOGRAD[:3] + WINOGRAD_STRIDED[:1], ids=str)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.complex64], ids=str)
def test_winograd_serves_every_dtype(sample, dtype, monkeypatch):
    monkeypatch.setitem(BOUNDS, dtype, WINOGRAD_BOUNDS[dtype])
    assert_all_three_are_torchs(sample, dtype, "winograd")


@pytest.mark.parametrize("threads", [1, 2, 5, 24])
@pytest.mark.parametrize(
    "sample",
    [
        Sample("blocks of each thread", 4, 16, 24, (40, 40), (3, 3), padding=1),
        Sample("less work than threads", 1, 16, 40, (12, 12), (3, 3), padding=1),
        Sample("one block shared", 3, 200, 180, (7, 7), (3, 3), padding=1),
        Sample("blocks shared", 5, 200, 180, (40, 40), (3, 3), padding=1),
        Sample("blocks shared, filters made again", 5, 350, 340, (40, 40), (3, 3), padding=1),
        Sample("images by phases", 9, 24, 20, (199, 195), (11, 11), stride=4),  # some at a time
    ],
    ids=str,
)
def test_winograd_is_torchs_however_threads_share_the_work(sample, threads):
    torch.set_num_threads(threads)
    assert_all_three_are_torchs(sample, torch.float32, "winograd")


@pytest.mark.parametrize(
    ("C", "K", "size", "filter"),
    [(64, 64, 56, 3), (512, 512, 14, 3), (192, 384, 13, 3), (64, 192, 27, 5)],
)
def test_winograd_in_auto_is_accurate_to_a_millionth(C, K, size, filter):
    """Layers of VGG, ResNet and AlexNet: the rms error of `auto` relative to float64."""
    sample = Sample("layer", 2, C, K, (size, size), (filter, filter), padding=filter // 2)
    assert_all_three_are_torchs(sample, torch.float32, "auto")


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_winograd_over_any_size_is_torchs(data):
    draw = lambda low, high: data.draw(st.integers(low, high))  # noqa: E731
    filter, padding = draw(0, 1) * 2 + 3, draw(0, 6)
    least = max(1, filter - 2 * padding)
    groups = draw(1, 3)
    sample = Sample(
        "any",
        draw(1, 6),
        groups * draw(1, 35),
        groups * draw(1, 35),
        (least + draw(0, 30), least + draw(0, 30)),
        (filter, filter),
        padding=padding,
        groups=groups,
        layout=data.draw(st.sampled_from(["contiguous", "channels_last", "sliced", "transposed"])),
    )
    assert_all_three_are_torchs(sample, torch.float64, "winograd", cancels=True)


LAST = {"memory_format": torch.channels_last}


@pytest.mark.parametrize(
    ("input_size", "weight_size", "geometry", "expected"),
    [
        ((4, 64, 224, 224), (64, 64, 3, 3), {"padding": 1}, "winograd"),
        ((16, 64, 27, 27), (192, 64, 5, 5), {"padding": 2}, "winograd"),
        ((1, 512, 7, 7), (512, 512, 3, 3), {"padding": 1}, "winograd"),
        ((16, 96, 27, 27), (256, 48, 5, 5), {"padding": 2, "groups": 2}, "winograd"),
        ((4, 64, 224, 224), (64, 64, 3, 3), {"padding": 1, "dtype": torch.float64}, "direct"),
        ((4, 64, 224, 224), (64, 64, 3, 3), {"padding": 1, "stride": 2}, "direct"),
        ((4, 64, 224, 224), (64, 64, 5, 5), {"padding": 1, "stride": 2}, "winograd"),  # by phases
        ((4, 64, 224, 224), (64, 64, 3, 3), {"padding": 2, "dilation": 2}, "direct"),
        ((4, 64, 224, 224), (64, 64, 3, 5), {"padding": 1}, "direct"),
        ((4, 15, 224, 224), (64, 15, 3, 3), {"padding": 1}, "direct"),
        ((4, 64, 224, 224), (15, 64, 3, 3), {"padding": 1}, "direct"),
        ((1, 64, 4, 4), (64, 64, 3, 3), {}, "implicit_gemm"),  # 4 cells for a tile of 36
        ((1, 64, 6, 6), (64, 64, 4, 4), {}, "implicit_gemm"),  # windows reach over the whole row
        ((4, 64, 28, 28), (64, 64, 3, 3), {"padding": 12, "dilation": 12}, "implicit_gemm"),
        ((4, 3, 224, 224), (768, 3, 16, 16), {"stride": 16}, "implicit_gemm"),  # no overlap
        ((4, 64, 56, 56), (64, 64, 2, 2), {}, "implicit_gemm"),  # few taps
        ((4, 64, 56, 56), (15, 64, 2, 2), LAST, "direct"),  # few filters
        ((4, 64, 56, 56), (16, 64, 2, 2), LAST, "implicit_gemm"),
        ((4, 64, 56, 56), (15, 64, 1, 1), LAST, "implicit_gemm"),
        ((4, 64, 56, 56), (15, 64, 2, 2), {}, "implicit_gemm"),
        ((4, 64, 224, 224), (64, 64, 3, 3), {"stride": 2, **LAST}, "implicit_gemm"),
        ((4, 64, 31, 31), (64, 64, 3, 3), {"padding": 1, "stride": 2}, "direct"),  # 16 cells to a row
        ((4, 64, 29, 29), (64, 64, 3, 3), {"padding": 1, "stride": 2}, "implicit_gemm"),  # turned
        ((4, 15, 29, 29), (64, 15, 3, 3), {"padding": 1, "stride": 2}, "direct"),
        ((4, 64, 29, 29), (64, 32, 3, 3), {"padding": 1, "stride": 2, "groups": 2}, "direct"),
        ((4, 64, 12), (64, 64, 5), {"padding": 2}, "direct"),  # of one row
        ((2, 32, 8, 12, 12), (32, 32, 3, 3, 3), {"padding": 1}, "implicit_gemm"),
        ((2, 32, 8, 12, 12), (32, 32, 3, 3, 3), {"padding": 1, "dtype": torch.float64}, "direct"),
        ((4, 64, 29, 29), (64, 64, 3, 3), {"stride": 2, "dtype": torch.complex64}, "direct"),
        ((4, 3, 224, 224), (64, 3, 3, 3), {"stride": 2, **LAST}, "direct"),
        ((4, 64, 224, 224), (64, 64, 3, 3), {"padding": 1, **LAST}, "winograd"),
        ((4, 3, 224, 224), (64, 3, 7, 7), {"stride": 2, "weight_gradient": True}, "implicit_gemm"),
        ((4, 3, 224, 224), (31, 3, 7, 7), {"stride": 2, "weight_gradient": True}, "direct"),
        ((4, 3, 224, 224), (64, 3, 7, 7), {"stride": 2, "weight_gradient": True, **LAST}, "direct"),
        ((4, 64, 56, 56), (64, 64, 3, 3), {"weight_gradient": True}, "winograd"),
        ((64, 16, 5, 5), (10, 16, 5, 5), {"weight_gradient": True}, "implicit_gemm"),  # covers
        ((16, 3, 224, 224), (96, 3, 11, 11), {"stride": 4}, "winograd"),  # 48 phases, 3 x 3
        ((16, 3, 224, 224), (96, 3, 11, 11), {"stride": 4, "dtype": torch.float64}, "direct"),
        ((16, 3, 224, 224), (64, 3, 7, 7), {"stride": 2, "padding": 3}, "direct"),  # 4 x 4
        ((64, 1, 32, 32), (6, 1, 5, 5), {}, "direct"),
        ((64, 16, 5, 5), (120, 16, 5, 5), {}, "implicit_gemm"),  # the filter covers its input
        ((4, 64, 56, 56), (64, 64, 1, 1), {}, "implicit_gemm"),
        ((4, 64, 56, 56), (64, 64, 1, 1), {"stride": 2}, "implicit_gemm"),
        ((4, 64, 56, 56), (64, 1, 3, 3), {"padding": 1, "groups": 64}, "direct"),
        ((4, 64, 56, 56), (64, 1, 9, 9), {"padding": 4, "groups": 64}, "direct"),
        ((4, 64, 560), (64, 64, 3), {"padding": 1}, "implicit_gemm"),
        ((4, 64, 560), (64, 64, 9), {"padding": 1}, "direct"),
        ((4, 64, 56000), (64, 64, 9), {"padding": 1}, "implicit_gemm"),  # no band holds a row
        ((4, 64, 560), (64, 1, 3), {"padding": 1, "groups": 64}, "direct"),
        ((4, 64, 1, 56, 56), (64, 64, 1, 3, 3), {"padding": (0, 1, 1)}, "winograd"),
        ((4, 64, 2, 56, 56), (64, 64, 1, 3, 3), {"padding": (0, 1, 1)}, "direct"),
    ],
)
def test_auto_is_a_function_of_the_shape(input_size, weight_size, geometry, expected):
    assert convolution_algorithm(input_size, weight_size, **geometry) == expected


NARROW_GROUPS = [  # the last is what AVX2 has in place of "direct", if anything
    ((4, 64, 56, 56), (64, 4, 3, 3), {"padding": 1, "groups": 16, **LAST}, "direct", None),
    ((4, 64, 56, 56), (64, 4, 3, 3), {"padding": 1, "groups": 16}, "direct", None),  # by bands
    ((4, 64, 56, 56), (64, 8, 1, 1), {"groups": 8, **LAST}, "direct", None),
    ((4, 64, 56, 56), (64, 8, 1, 1), {"groups": 8}, "implicit_gemm", None),  # long rows
    ((4, 64, 56, 56), (64, 8, 1, 1), {"groups": 8, "stride": 2}, "direct", None),
    ((4, 64, 15, 15), (64, 8, 1, 1), {"groups": 8}, "direct", None),
    ((4, 64, 56, 56), (64, 16, 3, 3), {"padding": 1, "groups": 4, **LAST}, "direct", "winograd"),
    ((4, 64, 56, 56), (64, 16, 3, 3), {"padding": 1, "groups": 4}, "winograd", None),  # long rows
    ((4, 64, 15, 15), (64, 16, 3, 3), {"padding": 1, "groups": 4}, "direct", "winograd"),
    ((4, 64, 56, 56), (64, 16, 1, 1), {"groups": 4, **LAST}, "direct", "implicit_gemm"),
    ((4, 64, 56, 56), (64, 32, 3, 3), {"padding": 1, "groups": 2, **LAST}, "winograd", None),
    ((4, 64, 56, 56), (64, 32, 1, 1), {"groups": 2, **LAST}, "implicit_gemm", None),
    ((4, 64, 56, 56), (32, 16, 1, 1), {"groups": 4, **LAST}, "implicit_gemm", None),  # 8 filters
]


@pytest.mark.parametrize(("input_size", "weight_size", "geometry", "expected", "avx2"), NARROW_GROUPS)
@pytest.mark.parametrize("cpu_capability", ["avx2", "avx512"], indirect=True)
def test_auto_of_narrow_groups(input_size, weight_size, geometry, expected, avx2, cpu_capability):
    if cpu_capability == "avx2":
        expected = avx2 or expected
    assert convolution_algorithm(input_size, weight_size, **geometry) == expected
    backward = convolution_algorithm(input_size, weight_size, **geometry, weight_gradient=True)
    assert (backward == "direct") == (expected == "direct")


PAIRED = [  # where the processor multiplies bfloat16
    ((4, 64, 28, 28), (64, 64, 3, 3), {"padding": 1}, "winograd"),
    ((16, 64, 27, 27), (192, 64, 5, 5), {"padding": 2}, "implicit_gemm"),  # saves 64 % only
    ((4, 64, 28, 28), (64, 64, 3, 3), {"padding": 1, "weight_gradient": True}, "implicit_gemm"),
    ((4, 3, 224, 224), (64, 3, 3, 3), {"padding": 1}, "implicit_gemm"),
    ((64, 1, 32, 32), (6, 1, 5, 5), {}, "direct"),  # half of each pair would be empty
    ((4, 64, 56, 56), (64, 4, 3, 3), {"padding": 1, "groups": 16}, "direct"),
    ((4, 64, 56, 56), (64, 1, 3, 3), {"padding": 1, "groups": 64}, "direct"),  # depthwise
    ((4, 64, 56, 56), (64, 32, 3, 3), {"padding": 1, "groups": 2, **LAST}, "direct"),
    ((4, 64, 56, 56), (64, 32, 3, 3), {"padding": 1, "stride": 2, "groups": 2}, "implicit_gemm"),
    ((4, 64, 56, 56), (64, 16, 3, 3), {"padding": 1, "groups": 4}, "direct"),  # turned
    ((4, 64, 560), (16, 64, 9), {"weight_gradient": True}, "direct"),  # few filters
    ((4, 64, 560), (64, 64, 9), {"weight_gradient": True}, "implicit_gemm"),
    ((4, 64, 28, 28), (16, 64, 3, 3), {"padding": 1, "weight_gradient": True}, "implicit_gemm"),
]


@pytest.mark.parametrize(("input_size", "weight_size", "geometry", "expected"), PAIRED)
@pytest.mark.parametrize("cpu_capability", ["avx512", "avx512_bf16"], indirect=True)
def test_auto_of_bfloat16(input_size, weight_size, geometry, expected, cpu_capability):
    if cpu_capability == "avx512":
        expected = convolution_algorithm(input_size, weight_size, **geometry)
    ours = convolution_algorithm(input_size, weight_size, **geometry, dtype=torch.bfloat16)
    assert ours == expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_auto_is_the_algorithm_that_the_rule_names(dtype):
    for sample in ALL:
        input, weight, bias = sample.tensors(dtype)
        if sample.N == 0:
            continue
        last = {4: torch.channels_last, 5: torch.channels_last_3d}.get(input.dim())
        known = {"dtype": dtype}
        if sample.layout == "channels_last":
            known["memory_format"] = last
        named = convolution_algorithm(input.shape, weight.shape, *sample.geometry, **known)
        auto = ops.convolution(input, weight, bias, *sample.arguments, "auto")
        assert torch.equal(auto, ops.convolution(input, weight, bias, *sample.arguments, named)), sample
        named = convolution_algorithm(
            input.shape, weight.shape, *sample.geometry, **known, weight_gradient=True
        )
        auto, expected = (
            ops.convolution_weight_gradient(auto, input, weight.shape, *sample.arguments, way)
            for way in ("auto", named)
        )
        assert torch.equal(auto, expected), sample


def test_no_gradient_of_implicit_gemm_leads_to_winograd():
    input, weight = torch.randn(1, 32, 12, 12), torch.randn(32, 32, 3, 3)
    input.requires_grad_()
    output = ConvolutionFunction.apply(input, weight, None, 1, 1, 1, 1, "implicit_gemm")
    grad = torch.randn_like(output)
    (by_autograd,) = torch.autograd.grad(output, input, grad)
    arguments = (grad, weight, input.shape, [1], [1], [1], 1)
    plain = ops.convolution_input_gradient(*arguments, "implicit_gemm")
    assert torch.equal(by_autograd, plain)
    assert not torch.equal(ops.convolution_input_gradient(*arguments, "auto"), plain)


@pytest.mark.parametrize(
    ("weight", "stride", "dilation"),
    [
        ((4, 4, 7, 7), 1, 1),
        ((4, 4, 3, 5), 1, 1),
        ((4, 4, 3, 3), 2, 1),
        ((4, 4, 3, 3), 1, 2),
        ((4, 4, 3, 3), 4, 1),
    ],
)
def test_winograd_says_why_it_refuses(weight, stride, dilation):
    for device in ("cpu", "meta"):
        input = torch.zeros(1, 4, 9, 9, device=device)
        weight_ = torch.zeros(weight, device=device)
        with pytest.raises(RuntimeError, match=r"3 x 3 or 5 x 5 cells, or so many in each phase"):
            ops.convolution(input, weight_, None, [stride], [0], [dilation], 1, "winograd")


def test_direct_says_why_it_refuses():
    input, weight = torch.zeros(1, 1, 40, 40), torch.zeros(1, 1, 33, 33)
    with pytest.raises(RuntimeError, match=r"\"direct\" serves filters of at most 1024 cells"):
        ops.convolution(input, weight, None, [1], [0], [1], 1, "direct")
    signal = torch.zeros(1).expand(1, 1, 2**23)
    with pytest.raises(RuntimeError, match=r"\"direct\" copies whole rows .* use \"auto\""):
        ops.convolution(signal, torch.zeros(1, 1, 2), None, [1], [0], [1], 1, "direct")
    assert (
        ops.convolution(signal, torch.zeros(1, 1, 2), None, [1], [0], [1], 1, "auto").isfinite().all()
    )


@pytest.mark.parametrize("algorithm", ["im2col", "implicit_gemm", "direct"])
@pytest.mark.parametrize("filters", [3, 32])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_what_no_window_sees_may_be_nan(algorithm, filters, layout):
    input, weight = torch.randn(2, 3, 12, 12), torch.randn(filters, 3, 3, 3)
    input[..., 11] = input[..., 11, :] = torch.nan  # windows at stride 4 end in cell 10
    input = lay_out(input, layout)
    arguments = ([4], [0], [1], 1, algorithm)
    output = ops.convolution(input, weight, None, *arguments)
    assert output.isfinite().all()
    assert ops.convolution_weight_gradient(output, input, weight.shape, *arguments).isfinite().all()


@st.composite
def any_sample(draw):
    axes = draw(st.integers(1, 3))
    per_axis = lambda low, high: tuple(draw(st.integers(low, high)) for _ in range(axes))  # noqa: E731
    filter, dilation, padding = per_axis(1, 4), per_axis(1, 3), per_axis(0, 3)
    size = tuple(
        max(1, d * (f - 1) + 1 - 2 * p) + draw(st.integers(0, 9 if axes < 3 else 3))
        for f, d, p in zip(filter, dilation, padding, strict=True)
    )
    groups, depthwise = draw(st.sampled_from([1, 2, 3, 16, 17])), draw(st.booleans())
    return Sample(
        "any",
        draw(st.integers(1, 3)),
        groups * (1 if depthwise else draw(st.integers(1, 19))),
        groups * (1 if depthwise else draw(st.integers(1, 35))),
        size,
        filter,
        per_axis(1, 3),
        padding,
        dilation,
        groups,
        draw(st.booleans()),
        draw(st.sampled_from(["contiguous", "channels_last"])) if axes == 2 else "contiguous",
    )


@settings(max_examples=150, deadline=None)
@given(sample=any_sample(), dtype=st.sampled_from([torch.float32, torch.float64]))
def test_any_geometry_is_torchs(sample, dtype):
    for algorithm in ("implicit_gemm", "direct", "auto"):
        assert_all_three_are_torchs(sample, dtype, algorithm, cancels=True)


@algorithms
def test_output_is_the_loop_of_the_reference(algorithm):
    sample = next(sample for sample in SMALL if sample.name == "everything")
    tensors = sample.tensors()
    exact = reference.conv2d(*tensors, *sample.arguments)
    assert_close(ops.convolution(*tensors, *sample.arguments, algorithm), exact, 1e-15)


@pytest.mark.parametrize(
    "sample",
    [s for s in ALL if s.symmetric and s.name != "empty batch" and s.layout != "overlapping"],
    ids=str,
)
@dtypes
def test_memory_format_is_torchs(sample, dtype):
    input, weight, bias = sample.tensors(dtype)
    if dtype.is_complex and sample.name == "lenet c5":
        return  # one pixel: torch's strides of axes of size one are those of its four real results
    if (
        dtype == torch.bfloat16
        and sample.axes == 3
        and not torch.ops.mkldnn._is_mkldnn_bf16_supported()
    ):
        return  # without its instructions torch has no channels_last_3d in bfloat16; we always have
    ours = ops.convolution(input, weight, bias, *sample.arguments, "auto")
    assert ours.stride() == sample.torch(input, weight, bias).stride()


def test_a_channels_last_weight_makes_the_output_channels_last():
    input, weight, _ = Sample("", 2, 4, 6, (8, 8), (3, 3)).tensors()
    weight = weight.contiguous(memory_format=torch.channels_last)
    output = ops.convolution(input, weight, None, [1], [0], [1], 1, "auto")
    assert output.is_contiguous(memory_format=torch.channels_last)
    assert_close(output, F.conv2d(input, weight), 1e-14)


@pytest.mark.parametrize("weight_layout", ["channels_last", "sliced", "transposed"])
@algorithms
def test_weights_of_any_strides(weight_layout, algorithm):
    input, weight, _ = Sample("", 2, 4, 6, (8, 8), (3, 3)).tensors()
    strided = lay_out(weight, weight_layout)
    output = ops.convolution(input, strided, None, [1], [1], [1], 1, algorithm)
    assert_close(output, F.conv2d(input, weight, padding=1), 1e-14)


@by_name
def test_results_are_the_same_bits_from_run_to_run(sample):
    input, weight, bias = sample.tensors(torch.float32)
    grad = grad_like_output(sample, input, weight, bias)

    def results():
        return (
            ops.convolution(input, weight, bias, *sample.arguments, "auto"),
            ops.convolution_input_gradient(grad, weight, input.shape, *sample.arguments, "auto"),
            ops.convolution_weight_gradient(grad, input, weight.shape, *sample.arguments, "auto"),
        )

    assert all(torch.equal(a, b) for a, b in zip(results(), results(), strict=True))


def test_patches_of_more_images_than_are_taken_at_a_time():
    grad, weight = torch.randn(5, 2, 300, 300), torch.randn(2, 3, 2, 2)
    arguments = [2, 2], [0, 0], [1, 1], 1
    gradient = ops.convolution_input_gradient(grad, weight, (5, 3, 600, 600), *arguments, "auto")
    assert_close(gradient, F.conv_transpose2d(grad.double(), weight.double(), stride=2), 1e-6)


@pytest.mark.parametrize("threads", [1, 2, 3, 5])
def test_any_number_of_threads(threads):
    torch.set_num_threads(threads)
    sample = Sample("", 5, 20, 24, (30, 31), (3, 3), padding=1)
    assert_all_three_are_torchs(sample, torch.float64, "implicit_gemm")


def test_no_element_is_left_unwritten():
    torch.use_deterministic_algorithms(True)  # fills what at::empty returns with NaN
    try:
        for sample in ALL:
            input, weight, bias = sample.tensors()
            output = ops.convolution(input, weight, bias, *sample.arguments, "auto")
            arguments = (*sample.arguments, "auto")
            grad_input = ops.convolution_input_gradient(output, weight, input.shape, *arguments)
            grad_weight = ops.convolution_weight_gradient(output, input, weight.shape, *arguments)
            assert all(t.isfinite().all() for t in (output, grad_input, grad_weight)), sample
    finally:
        torch.use_deterministic_algorithms(False)


def test_tensors_past_two_to_the_thirty_first_elements():
    """Through a view of stride 0, which takes no memory; the last image must be read right."""
    image = torch.randn(1, 1, 1, 2**16)
    images = image.expand(2**15 + 1, 1, 1, 2**16)
    weight = torch.randn(1, 1, 1, 2**16)
    output = ops.convolution(images, weight, None, [1], [0], [1], 1, "implicit_gemm")
    assert output.shape == (2**15 + 1, 1, 1, 1)
    torch.testing.assert_close(output[-1], output[0], rtol=0, atol=0)
    assert_close(output[0], F.conv2d(image.double(), weight.double())[0], 1e-4)


# ---------------------------------------------------------------------------------- gradients


@small
@algorithms
def test_gradcheck(sample, algorithm):
    tensors = sample.tensors(requires_grad=True)

    def function(input, weight, bias):
        return ConvolutionFunction.apply(input, weight, bias, *sample.arguments, algorithm)

    assert gradcheck(function, tensors, check_batched_grad=True)


@small
def test_gradcheck_in_forward_mode(sample):
    tensors = sample.tensors(requires_grad=True)

    def function(input, weight, bias):
        return convolution(input, weight, bias, *sample.arguments, "auto")

    assert gradcheck(function, tensors, check_forward_ad=True, check_batched_forward_grad=True)


@small
def test_gradgradcheck(sample):
    tensors = sample.tensors(requires_grad=True)

    def function(input, weight, bias):
        return ConvolutionFunction.apply(input, weight, bias, *sample.arguments, "auto")

    assert gradgradcheck(function, tensors)


@small
def test_gradgradcheck_of_the_dispatcher_operations(sample):
    tensors = sample.tensors(requires_grad=True)

    def function(input, weight, bias):
        return convolution(input, weight, bias, *sample.arguments, "auto")

    assert gradgradcheck(function, tensors, check_fwd_over_rev=True)


@small
def test_opcheck(sample):
    input, weight, bias = sample.tensors(requires_grad=True)
    grad = grad_like_output(sample, input, weight, bias).detach().requires_grad_()
    arguments = (*sample.arguments, "auto")
    for operation, inputs in (
        (ops.convolution, (input, weight, bias, *arguments)),
        (ops.convolution_input_gradient, (grad, weight, input.shape, *arguments)),
        (ops.convolution_weight_gradient, (grad, input, weight.shape, *arguments)),
    ):
        results = torch.library.opcheck(operation.default, inputs)
        assert set(results.values()) == {"SUCCESS"}


@pytest.mark.parametrize("frozen", ["input", "weight"])
@pytest.mark.parametrize("apply", [convolution, ConvolutionFunction.apply], ids=["op", "Function"])
def test_only_gradients_asked_for_are_computed_and_only_their_tensors_kept(frozen, apply):
    sample = SMALL[0]
    input, weight, bias = sample.tensors(requires_grad=True)
    {"input": input, "weight": weight}[frozen].requires_grad_(False)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        output = apply(input, weight, bias, *sample.arguments, "auto")
    other = {"input": input, "weight": weight}[{"input": "weight", "weight": "input"}[frozen]]
    needed = {"input": input, "weight": weight}[frozen]
    assert [t.data_ptr() for t in kept] == [needed.data_ptr()]
    with Counter() as counter:
        output.sum().backward()
    wanted = {"input": "convolution_weight_gradient", "weight": "convolution_input_gradient"}
    assert counter.calls == [wanted[frozen]]
    assert other.grad is not None
    assert needed.grad is None


# ------------------------------------------------------------------------- torch.func, compile


def loss_of(function):
    def loss(input, weight, bias):
        return function(input, weight, bias).square().sum()

    return loss


def ours(sample):
    return lambda *tensors: convolution(*tensors, *sample.arguments, "auto")


EVERYTHING = next(sample for sample in SMALL if sample.name == "everything")


def test_func_grad_jacobians_and_hessian():
    sample = EVERYTHING
    tensors = sample.tensors()
    ours_loss, torch_loss = loss_of(ours(sample)), loss_of(sample.torch)
    every = (0, 1, 2)
    for transform in (torch.func.grad, torch.func.jacrev, torch.func.jacfwd):
        for a, b in zip(
            transform(ours_loss, every)(*tensors), transform(torch_loss, every)(*tensors), strict=True
        ):
            torch.testing.assert_close(a, b)
    torch.testing.assert_close(
        torch.func.hessian(ours_loss, 1)(*tensors), torch.func.hessian(torch_loss, 1)(*tensors)
    )


@pytest.mark.parametrize(
    "mapped", [(0, None, None), (None, 0, None), (None, None, 0), (0, 0, 0), (1, 2, 1)], ids=str
)
def test_vmap_is_one_call_of_the_operation(mapped):
    sample = EVERYTHING
    tensors = [
        t if dim is None else torch.stack([t, 2 * t, t - 1], dim)
        for t, dim in zip(sample.tensors(), mapped, strict=True)
    ]
    expected = torch.vmap(sample.torch, mapped)(*tensors)
    with Counter() as counter:
        result = torch.vmap(ours(sample), mapped)(*tensors)
    assert counter.calls == ["convolution"]
    torch.testing.assert_close(result, expected)


def test_gradients_per_sample_take_one_call_each():
    sample = EVERYTHING
    input, weight, bias = sample.tensors()
    images = torch.stack([input, -input, 2 * input])
    every = (0, 1, 2)
    with Counter() as counter:
        gradients = torch.vmap(torch.func.grad(loss_of(ours(sample)), every), (0, None, None))(
            images, weight, bias
        )
    assert sorted(counter.calls) == [
        "convolution", "convolution_input_gradient", "convolution_weight_gradient",
    ]  # fmt: skip
    expected = torch.vmap(torch.func.grad(loss_of(sample.torch), every), (0, None, None))(
        images, weight, bias
    )
    for a, b in zip(gradients, expected, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("dynamic", [False, True])
def test_compile_without_graph_breaks(dynamic):
    sample = EVERYTHING
    tensors = sample.tensors(requires_grad=True)
    torch._dynamo.reset()
    compiled = torch.compile(loss_of(ours(sample)), fullgraph=True, dynamic=dynamic)
    expected = loss_of(sample.torch)(*tensors)
    torch.testing.assert_close(compiled(*tensors), expected)
    for a, b in zip(
        torch.autograd.grad(compiled(*tensors), tensors),
        torch.autograd.grad(expected, tensors),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


def test_compile_of_func_grad():
    """Right with torch 2.15; an error, not a zero, where Dynamo loses the backward (2.13 does)."""
    sample = EVERYTHING
    tensors = sample.tensors()
    torch._dynamo.reset()
    compiled = torch.compile(torch.func.grad(loss_of(ours(sample)), 1), fullgraph=True)
    if torch.__version__ < "2.15":
        with pytest.raises(Exception, match="functorch"):
            compiled(*tensors)
    else:
        expected = torch.func.grad(loss_of(sample.torch), 1)(*tensors)
        torch.testing.assert_close(compiled(*tensors), expected)


def test_a_dispatcher_operation_refuses_a_tangent_rather_than_drop_it():
    input, weight, _ = SMALL[0].tensors()
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(input, torch.ones_like(input))
        with pytest.raises(NotImplementedError, match="forward-mode"):
            ops.convolution(dual, weight, None, *SMALL[0].arguments, "auto")


def test_compiled_code_refuses_a_tangent_rather_than_drop_it():
    sample = SMALL[0]
    tensors = sample.tensors()
    torch._dynamo.reset()

    def tangent(*tensors):
        return torch.func.jvp(ours(sample), tensors, tensors)[1]

    with pytest.raises(Exception, match="forward-mode"):
        torch.compile(tangent, fullgraph=True)(*tensors)


def test_a_dispatcher_operation_refuses_torch_func_rather_than_be_wrong():
    input, weight, _ = SMALL[0].tensors()

    def loss(input):
        return ops.convolution(input, weight, None, *SMALL[0].arguments, "auto").sum()

    with pytest.raises(RuntimeError, match="functorch"):
        torch.func.grad(loss)(input)


def test_checkpointing_gives_the_same_gradients():
    sample = SMALL[0]
    tensors = sample.tensors(requires_grad=True)
    loss = loss_of(ours(sample))
    expected = torch.autograd.grad(loss(*tensors), tensors)
    again = torch.utils.checkpoint.checkpoint(loss, *tensors, use_reentrant=False)
    for a, b in zip(torch.autograd.grad(again, tensors), expected, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("sample", ALL, ids=str)
def test_meta_tensors_have_the_real_shape_and_strides(sample):
    input, weight, bias = sample.tensors()
    real = ops.convolution(input, weight, bias, *sample.arguments, "auto")
    meta = [None if t is None else t.to("meta") for t in (input, weight, bias)]
    meta[0] = torch.empty_strided(input.shape, input.stride(), dtype=input.dtype, device="meta")
    fake = ops.convolution(*meta, *sample.arguments, "auto")
    assert (fake.shape, fake.stride(), fake.dtype) == (real.shape, real.stride(), real.dtype)


# ------------------------------------------------------------------------------------ bad input

GOOD = {
    "input": torch.zeros(2, 4, 6, 6),
    "weight": torch.zeros(6, 2, 3, 3),
    "bias": torch.zeros(6),
    "stride": [1],
    "padding": [0],
    "dilation": [1],
    "groups": 2,
    "algorithm": "auto",
}
BAD = [
    ("rank of input", {"input": torch.zeros(4, 6, 6)}, r"input: expected 4 dimensions.*\[4, 6, 6\]"),
    ("rank of weight", {"weight": torch.zeros(6, 2)}, r"weight: expected 3, 4 or 5 dim.*\[6, 2\]"),
    ("channels", {"input": torch.zeros(2, 5, 6, 6)}, r"input: expected 4 channels.*got 5"),
    ("groups", {"groups": 4, "input": torch.zeros(2, 8, 6, 6)}, r"groups: expected a divisor of the 6"),
    ("no groups", {"groups": 0}, r"groups: expected an integer of at least 1, got 0"),
    ("bias shape", {"bias": torch.zeros(5)}, r"bias: expected shape \[6\].*got \[5\]"),
    ("bias dtype", {"bias": torch.zeros(6).double()}, r"bias: expected Float.*got Double"),
    ("weight dtype", {"weight": GOOD["weight"].double()}, r"weight: expected Float.*got Double"),
    (
        "integers",
        {"input": GOOD["input"].long()},
        r"input: expected a floating-point or complex dtype, got Long",
    ),
    ("device", {"weight": GOOD["weight"].to("meta")}, r"weight: expected a tensor on cpu.*meta"),
    ("stride 0", {"stride": [0]}, r"stride: expected integers of at least 1, got \[0\]"),
    ("strides", {"stride": [1, 1, 1]}, r"stride: expected one integer or 2.*\[1, 1, 1\]"),
    ("negative padding", {"padding": [-1]}, r"padding: expected integers of at least 0, got \[-1\]"),
    ("one negative", {"padding": [0, 0, -1, 0]}, r"padding: expected integers of at least 0"),
    ("three paddings", {"padding": [1, 1, 1]}, r"padding: expected one integer, 2.* or 4"),
    ("dilation 0", {"dilation": [0]}, r"dilation: expected integers of at least 1, got \[0\]"),
    (
        "large filter",
        {"weight": torch.zeros(6, 2, 7, 3)},
        r"input: expected a padded size of at least 7.*axis 0.*got 6",
    ),
    ("no filter", {"weight": torch.zeros(6, 2, 0, 3)}, r"weight: expected a filter of at least 1 cell"),
    ("empty image", {"input": torch.zeros(2, 4, 0, 6)}, r"input: expected a padded size of at least 3"),
    ("algorithm", {"algorithm": "fft"}, r'algorithm: expected "auto".*got "fft"'),
]


@pytest.mark.parametrize(("change", "message"), [case[1:] for case in BAD], ids=[c[0] for c in BAD])
def test_a_bad_argument_is_named(change, message):
    with pytest.raises(RuntimeError, match=f"convolution: {message}"):
        ops.convolution(*{**GOOD, **change}.values())


def test_good_arguments_are_good():
    assert ops.convolution(*GOOD.values()).shape == (2, 6, 4, 4)


@pytest.mark.parametrize("name", ["convolution_input_gradient", "convolution_weight_gradient"])
def test_a_gradient_of_the_wrong_shape_is_named(name):
    input, weight = GOOD["input"], GOOD["weight"]
    grad, other = torch.zeros(2, 6, 4, 5), {"i": weight, "w": input}[name.split("_")[1][0]]
    size = {"i": input, "w": weight}[name.split("_")[1][0]].shape
    with pytest.raises(RuntimeError, match=r"grad_output: expected shape \[2, 6, 4, 4\]"):
        getattr(ops, name)(grad, other, size, [1], [0], [1], 2, "auto")


def test_an_unsupported_device_is_named():
    tensor = torch.zeros(1, 1, 3, 3).to_sparse()
    with pytest.raises(NotImplementedError, match="SparseCPU"):
        ops.convolution(tensor, tensor, None, [1], [0], [1], 1, "auto")


# --------------------------------------------------------------------------- unusual numbers


@algorithms
@dtypes
def test_nan_and_infinity_stay_where_torch_has_them(algorithm, dtype):
    if dtype.is_complex:
        return  # torch's product of complex infinities is NaN in places of its own
    input, weight, _ = Sample("", 1, 2, 3, (6, 6), (3, 3)).tensors(dtype)
    input[0, 0, 1, 1], input[0, 1, 4, 4] = float("nan"), float("inf")
    ours = ops.convolution(input, weight, None, [1], [1], [1], 1, algorithm)
    theirs = F.conv2d(input, weight, padding=1)
    assert ours.isnan().any()
    assert ours.isinf().any()
    assert ours.isfinite().any()
    assert torch.equal(ours.isnan(), theirs.isnan())
    assert torch.equal(ours.isinf(), theirs.isinf())


@algorithms
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_an_infinite_weight_over_padding_is_nan_as_in_torchs_float64(algorithm, dtype):
    input, weight, _ = Sample("", 2, 16, 16, (9, 9), (3, 3)).tensors(dtype)
    weight[0, 0, 0, 0], weight[1, 0, 2, 2] = float("inf"), float("nan")
    ours = ops.convolution(input, weight, None, [1], [1], [1], 1, algorithm)
    theirs = F.conv2d(input.double(), weight.double(), padding=1)
    assert theirs.isinf().any()
    assert torch.equal(ours.isnan(), theirs.isnan())
    assert torch.equal(ours.isinf(), theirs.isinf())


@algorithms
def test_denormal_numbers_are_not_flushed(algorithm):
    tiny = torch.finfo(torch.float32).smallest_normal
    input, weight = torch.full((1, 2, 4, 4), tiny), torch.full((1, 2, 3, 3), 2.0**-10)
    output = ops.convolution(input, weight, None, [1], [0], [1], 1, algorithm)
    assert torch.equal(output, torch.full((1, 1, 2, 2), 18 * tiny * 2.0**-10))


def test_float16_sums_do_not_overflow_on_the_way():
    input = torch.tensor([60000.0, 60000.0, -60000.0]).half().view(1, 3, 1, 1)
    output = ops.convolution(input, torch.ones_like(input), None, [1], [0], [1], 1, "auto")
    assert output.item() == 60000


# ------------------------------------------------------------------------ gradients of complex


def test_gradcheck_of_complex_tensors():
    tensors = SMALL[0].tensors(torch.complex128, requires_grad=True)
    for apply in (convolution, ConvolutionFunction.apply):

        def function(*tensors, apply=apply):
            return apply(*tensors, *SMALL[0].arguments, "auto")

        assert gradcheck(function, tensors, check_forward_ad=apply is convolution)
        assert gradgradcheck(function, tensors)
