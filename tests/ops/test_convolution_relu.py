"""Convolution with a ReLU in one pass: the bits of the two operations, and every kind of gradient."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import forward_ad, gradcheck, gradgradcheck

import cnn_ext
from cnn_ext.functional import conv2d, conv_relu2d
from cnn_ext.ops import ConvolutionReLUFunction
from cnn_ext.ops.convolution import convolution_relu
from tests.ops.convolution_samples import (
    ALL,
    DENSE,
    DEPTHWISE,
    NARROW,
    SAMPLES,
    SMALL,
    WINOGRAD,
    Sample,
)
from tests.ops.test_convolution import EVERYTHING, Counter, loss_of

ops = torch.ops.cnn_ext
TURNED = [replace(sample, layout="channels_last") for sample in SAMPLES if sample.axes == 2]
small = pytest.mark.parametrize("sample", SMALL, ids=str)
doors = pytest.mark.parametrize(
    "apply", [convolution_relu, ConvolutionReLUFunction.apply], ids=["op", "Function"]
)
dtypes = pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str
)


def assert_same_bits(a, b):
    """Signs of zeros and places of NaN included."""
    assert (a.shape, a.dtype) == (b.shape, b.dtype)
    assert torch.equal(a.isnan(), b.isnan())
    assert torch.equal(a.signbit() | a.isnan(), b.signbit() | b.isnan())
    assert torch.equal(a.nan_to_num(), b.nan_to_num())


def assert_one_pass_is_two(sample, dtype, algorithm):
    tensors = sample.tensors(dtype)
    arguments = (*sample.arguments, algorithm)
    rectified = ops.convolution_relu(*tensors, *arguments)
    plain = ops.convolution(*tensors, *arguments)
    assert rectified.stride() == plain.stride()
    assert_same_bits(rectified, plain.relu_())
    if dtype.itemsize >= 4 and rectified.numel() > 9:
        assert (rectified == 0).any()
        assert (rectified > 0).any()


# ------------------------------------------------------------------------------------- values


@pytest.mark.parametrize("sample", ALL, ids=str)
@dtypes
@pytest.mark.parametrize("algorithm", ["auto", "im2col", "implicit_gemm", "direct"])
def test_one_pass_gives_the_bits_of_two(sample, dtype, algorithm):
    assert_one_pass_is_two(sample, dtype, algorithm)


@pytest.mark.parametrize("sample", [*SAMPLES, *TURNED, *DENSE], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_in_every_instruction_set(sample, dtype, cpu_capability):
    for algorithm in ("auto", "implicit_gemm", "direct"):
        assert_one_pass_is_two(sample, dtype, algorithm)


@pytest.mark.parametrize("sample", DEPTHWISE + NARROW, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_convolution_of_narrow_groups_rectifies(sample, dtype):
    assert_one_pass_is_two(sample, dtype, "auto")


@pytest.mark.parametrize("sample", WINOGRAD, ids=str)
def test_winograd_rectifies_as_it_collects(sample, cpu_capability):
    assert_one_pass_is_two(sample, torch.float32, "winograd")


@pytest.mark.parametrize("algorithm", ["im2col", "implicit_gemm", "winograd", "direct"])
@dtypes
def test_nan_stays_and_zeros_keep_their_sign(algorithm, dtype):
    input, weight, _ = Sample("", 1, 3, 4, (14, 14), (3, 3)).tensors(dtype)
    input[0, 0, 1, 1], input[0, 1, 12, 12] = float("nan"), float("inf")
    input[0, :, 6:] = 0.0
    arguments = (None, [1], [1], [1], 1, algorithm)
    rectified = ops.convolution_relu(input, weight, *arguments)
    assert rectified.isnan().any()
    assert_same_bits(rectified, ops.convolution(input, weight, *arguments).relu())
    minus_zero = ops.convolution_relu(
        torch.full((1, 1, 5, 5), -0.0, dtype=dtype), torch.ones(1, 1, 1, 1, dtype=dtype),
        torch.full((1,), -0.0, dtype=dtype), [1], [0], [1], 1, "implicit_gemm",
    )  # fmt: skip
    assert minus_zero.eq(0).all()


def test_complex_numbers_have_no_relu():
    for device in ("cpu", "meta"):
        tensor = torch.zeros(1, 1, 3, 3, dtype=torch.complex64, device=device)
        with pytest.raises(RuntimeError, match="convolution_relu: input: expected a real dtype"):
            ops.convolution_relu(tensor, tensor, None, [1], [0], [1], 1, "auto")


def test_no_element_is_left_unwritten():
    torch.use_deterministic_algorithms(True)  # fills what at::empty returns with NaN
    try:
        for sample in ALL:
            output = ops.convolution_relu(*sample.tensors(), *sample.arguments, "auto")
            assert output.isfinite().all(), sample
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("sample", ALL, ids=str)
def test_meta_tensors_have_the_real_shape_and_strides(sample):
    input, weight, bias = sample.tensors()
    real = ops.convolution_relu(input, weight, bias, *sample.arguments, "auto")
    meta = [None if t is None else t.to("meta") for t in (input, weight, bias)]
    meta[0] = torch.empty_strided(input.shape, input.stride(), dtype=input.dtype, device="meta")
    fake = ops.convolution_relu(*meta, *sample.arguments, "auto")
    assert (fake.shape, fake.stride(), fake.dtype) == (real.shape, real.stride(), real.dtype)


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"stride": 2, "padding": "half"},
        {"padding": (0, 1, 2, 3)},
        {"padding": "same", "dilation": 2},
    ],
    ids=str,
)
def test_the_function_takes_conv2ds_arguments(arguments):
    input, weight, bias = Sample("", 2, 4, 6, (9, 8), (3, 3)).tensors()
    expected = conv2d(input, weight, bias, **arguments).relu()
    assert torch.equal(conv_relu2d(input, weight, bias, **arguments), expected)
    assert torch.equal(conv_relu2d(input[0], weight, bias, **arguments), expected[0])


def test_autocast_and_the_default_algorithm_are_conv2ds():
    input, weight, bias = Sample("", 2, 16, 16, (12, 12), (3, 3)).tensors(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        rectified = conv_relu2d(input, weight, bias)
        assert rectified.dtype == torch.bfloat16
        assert torch.equal(rectified, conv2d(input, weight, bias).relu())
    with cnn_ext.default_algorithm("im2col"):
        rectified = conv_relu2d(input, weight, bias)
    assert torch.equal(rectified, conv2d(input, weight, bias, algorithm="im2col").relu())


# ---------------------------------------------------------------------------------- gradients


@small
@doors
def test_gradcheck_to_second_order(sample, apply):
    tensors = sample.tensors(requires_grad=True)

    def function(input, weight, bias):
        return apply(input, weight, bias, *sample.arguments, "auto")

    assert gradcheck(function, tensors, check_batched_grad=True)
    assert gradgradcheck(function, tensors)


@small
def test_gradcheck_in_forward_mode(sample):
    tensors = sample.tensors(requires_grad=True)

    def function(input, weight, bias):
        return convolution_relu(input, weight, bias, *sample.arguments, "auto")

    assert gradcheck(function, tensors, check_forward_ad=True, check_batched_forward_grad=True)
    assert gradgradcheck(function, tensors, check_fwd_over_rev=True)


def test_gradients_are_those_of_two_operations():
    """Also where the sum is exactly zero or NaN: what torch.relu's gradient does there."""
    input = torch.tensor([1.0, -1.0, 0.0, -0.0, float("nan")]).double().view(1, 1, 5)
    weight = torch.ones(1, 1, 1, dtype=torch.double)
    results = []
    for function in (
        lambda x, w: ops.convolution_relu(x, w, None, [1], [0], [1], 1, "auto"),
        lambda x, w: ops.convolution(x, w, None, [1], [0], [1], 1, "auto").relu(),
    ):
        x, w = input.clone().requires_grad_(), weight.clone().requires_grad_()
        results.append(torch.autograd.grad(function(x, w).sum(), (x, w)))
    for a, b in zip(*results, strict=True):
        assert_same_bits(a, b)
    assert results[0][0].flatten().tolist() == [1, 0, 0, 0, 1]


@doors
def test_the_output_is_kept_and_the_relus_input_is_not(apply):
    sample = SMALL[0]
    input, weight, bias = sample.tensors(requires_grad=True)
    input.requires_grad_(False)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        output = apply(input, weight, bias, *sample.arguments, "auto")
    assert [t.data_ptr() for t in kept] == [input.data_ptr(), output.data_ptr()]
    with Counter() as counter:
        output.sum().backward()
    assert counter.calls == ["convolution_weight_gradient"]


@doors
def test_double_backward_computes_no_zeros(apply):
    sample = SMALL[0]
    tensors = sample.tensors(requires_grad=True)
    output = apply(*tensors, *sample.arguments, "auto")
    (grad,) = torch.autograd.grad(output.sum(), tensors[0], create_graph=True)
    with Counter() as counter:
        torch.autograd.grad(grad.square().sum(), tensors[1])
    assert counter.calls == ["convolution_weight_gradient"]


def test_an_output_that_is_written_to_is_an_error_as_with_torchs_relu():
    sample = SMALL[0]
    output = convolution_relu(*sample.tensors(requires_grad=True), *sample.arguments, "auto")
    output.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.sum().backward()


@small
def test_opcheck(sample):
    tensors = sample.tensors(requires_grad=True)
    results = torch.library.opcheck(ops.convolution_relu.default, (*tensors, *sample.arguments, "auto"))
    assert set(results.values()) == {"SUCCESS"}


# ------------------------------------------------------------------------- torch.func, compile


def ours(sample):
    return lambda *tensors: convolution_relu(*tensors, *sample.arguments, "auto")


def theirs(sample):
    return lambda *tensors: F.relu(sample.torch(*tensors))


def test_func_grad_jacobians_and_hessian():
    sample, every = EVERYTHING, (0, 1, 2)
    tensors = sample.tensors()
    ours_loss, torch_loss = loss_of(ours(sample)), loss_of(theirs(sample))
    for transform in (torch.func.grad, torch.func.jacrev, torch.func.jacfwd):
        for a, b in zip(
            transform(ours_loss, every)(*tensors), transform(torch_loss, every)(*tensors), strict=True
        ):
            torch.testing.assert_close(a, b)
    torch.testing.assert_close(
        torch.func.hessian(ours_loss, 1)(*tensors), torch.func.hessian(torch_loss, 1)(*tensors)
    )


@pytest.mark.parametrize(
    "mapped", [(0, None, None), (None, 0, None), (None, None, 0), (1, 2, 1)], ids=str
)
def test_vmap_is_one_call_of_the_operation(mapped):
    sample = EVERYTHING
    tensors = [
        t if dim is None else torch.stack([t, 2 * t, t - 1], dim)
        for t, dim in zip(sample.tensors(), mapped, strict=True)
    ]
    with Counter() as counter:
        result = torch.vmap(ours(sample), mapped)(*tensors)
    assert counter.calls == ["convolution_relu"]
    torch.testing.assert_close(result, torch.vmap(theirs(sample), mapped)(*tensors))


def test_gradients_per_sample_take_one_call_each():
    sample, every = EVERYTHING, (0, 1, 2)
    input, weight, bias = sample.tensors()
    images = torch.stack([input, -input, 2 * input])
    results = []
    for function in (ours(sample), theirs(sample)):
        with Counter() as counter:
            per_sample = torch.vmap(torch.func.grad(loss_of(function), every), (0, None, None))
            results.append((per_sample(images, weight, bias), counter.calls))
    assert sorted(results[0][1]) == [
        "convolution_input_gradient", "convolution_relu", "convolution_weight_gradient",
    ]  # fmt: skip
    for a, b in zip(results[0][0], results[1][0], strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("dynamic", [False, True])
def test_compile_without_graph_breaks(dynamic):
    sample = EVERYTHING
    tensors = sample.tensors(requires_grad=True)
    torch._dynamo.reset()
    compiled = torch.compile(loss_of(ours(sample)), fullgraph=True, dynamic=dynamic)
    expected = loss_of(theirs(sample))(*tensors)
    torch.testing.assert_close(compiled(*tensors), expected)
    for a, b in zip(
        torch.autograd.grad(compiled(*tensors), tensors),
        torch.autograd.grad(expected, tensors),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


def test_a_tangent_is_refused_rather_than_dropped():
    input, weight, _ = SMALL[0].tensors()
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(input, torch.ones_like(input))
        with pytest.raises(NotImplementedError, match="convolution_relu has no forward-mode"):
            ops.convolution_relu(dual, weight, None, *SMALL[0].arguments, "auto")
