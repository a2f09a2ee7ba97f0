"""What the layers of a frozen model call: convolution with filters that are transformed already."""

import pytest
import torch

from cnn_ext._native import _C
from tests.ops.convolution_samples import ALL, WINOGRAD, Sample
from tests.ops.test_convolution import Counter

ops = torch.ops.cnn_ext
plain_and_rectified = pytest.mark.parametrize("relu", [False, True], ids=["plain", "rectified"])


def assert_frozen_is_unfrozen(sample, dtype, relu, algorithm, filters=None):
    input, weight, bias = sample.tensors(dtype)
    if filters is None and sample in WINOGRAD:
        filters = ops.winograd_filters(weight, sample.groups)
    frozen = ops.convolution_frozen(
        input, weight, bias, filters, *sample.arguments, relu, algorithm
    )  # fmt: skip
    operation = ops.convolution_relu if relu else ops.convolution
    unfrozen = operation(input, weight, bias, *sample.arguments, algorithm)
    assert torch.equal(frozen, unfrozen)
    assert frozen.stride() == unfrozen.stride()


@pytest.mark.parametrize("sample", ALL, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@plain_and_rectified
def test_the_bits_are_those_of_the_unfrozen_convolution(sample, dtype, relu):
    for algorithm in ("auto", "implicit_gemm", "im2col"):
        assert_frozen_is_unfrozen(sample, dtype, relu, algorithm)


@pytest.mark.parametrize("sample", WINOGRAD, ids=str)
@plain_and_rectified
def test_filters_transformed_before_are_those_transformed_on_the_way(sample, relu, cpu_capability):
    for dtype in (torch.float32, torch.float64, torch.float16):
        assert_frozen_is_unfrozen(sample, dtype, relu, "winograd")


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize(
    "sample",
    [
        Sample("blocks of each thread", 4, 16, 24, (40, 40), (3, 3), padding=1),
        Sample("one block shared", 3, 200, 180, (7, 7), (3, 3), padding=1),
        Sample("blocks shared", 5, 200, 180, (40, 40), (3, 3), padding=1),
        Sample("blocks shared, in groups", 3, 400, 360, (40, 40), (3, 3), padding=1, groups=2),
    ],
    ids=str,
)
def test_however_threads_share_the_work(sample, threads):
    torch.set_num_threads(threads)
    input, weight, bias = sample.tensors(torch.float32)
    filters = ops.winograd_filters(weight, sample.groups)
    arguments = (input, weight, bias, filters, *sample.arguments, False)
    frozen = ops.convolution_frozen(*arguments, "auto")
    unfrozen = ops.convolution(input, weight, bias, *sample.arguments, "auto")
    assert torch.equal(frozen, unfrozen)
    filters.zero_()  # they are what is read: without them, only the bias is left
    (K,) = bias.shape
    assert torch.equal(
        ops.convolution_frozen(*arguments, "auto"), bias.view(1, K, 1, 1).expand_as(frozen)
    )
    by_gemm = ops.convolution_frozen(*arguments, "implicit_gemm")  # which has no use for them
    assert torch.equal(
        by_gemm, ops.convolution(input, weight, bias, *sample.arguments, "implicit_gemm")
    )


@pytest.mark.skipif(_C.best_cpu_capability() == "scalar", reason="one instruction set has one layout")
@pytest.mark.parametrize(("C", "K"), [(16, 32), (64, 64), (17, 33)])
def test_filters_that_another_processor_laid_out_are_not_used(C, K):
    input, weight = torch.randn(1, C, 12, 12), torch.randn(K, C, 3, 3)
    shapes = set()
    for level in ("scalar", "avx2", "avx512"):
        try:
            _C.set_cpu_capability(level)
        except ValueError:
            continue
        filters = ops.winograd_filters(weight, 1)
        shapes.add(filters.shape)
        _C.set_cpu_capability(_C.best_cpu_capability())
        frozen = ops.convolution_frozen(input, weight, None, filters, [1], [1], [1], 1, False, "auto")
        assert torch.equal(frozen, ops.convolution(input, weight, None, [1], [1], [1], 1, "auto"))
    assert len(shapes) > 1


def test_filters_of_many_groups_strides_and_half_precision():
    weight = torch.randn(40, 18, 3, 3)
    filters = ops.winograd_filters(weight, 2)
    strided = weight.contiguous(memory_format=torch.channels_last)
    assert torch.equal(ops.winograd_filters(strided, 2), filters)
    half = weight.bfloat16()
    assert torch.equal(ops.winograd_filters(half, 2), ops.winograd_filters(half.float(), 2))
    assert ops.winograd_filters(weight.to("meta"), 2).shape == filters.shape


@pytest.mark.parametrize(
    ("weight", "groups", "message"),
    [
        (
            torch.zeros(4, 4, 7, 7),
            1,
            r"expected 3 x 3 or 5 x 5 .* got a weight of shape \[4, 4, 7, 7\]",
        ),
        (torch.zeros(4, 4), 1, "weight: expected 3, 4 or 5 dimensions"),
        (torch.zeros(4, 4, 3, 3), 3, "groups: expected a divisor of the 4 filters"),
        (torch.zeros(4, 4, 3, 3), 0, "groups: expected an integer of at least 1"),
        (torch.zeros(4, 4, 3, 3).to(torch.complex64), 1, "weight: expected a floating-point dtype"),
        (torch.zeros(4, 4, 3, 3).long(), 1, "weight: expected a floating-point dtype"),
    ],
    ids=lambda value: None if isinstance(value, (torch.Tensor, int)) else value[:20],
)
def test_a_weight_that_cannot_be_transformed_is_named(weight, groups, message):
    with pytest.raises(RuntimeError, match=f"winograd_filters: .*{message}|{message}"):
        ops.winograd_filters(weight, groups)


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        (torch.zeros(1, 1, 36, 9).double(), "filters: expected Float on cpu.*got Double"),
        (torch.zeros(1, 1, 36, 9, device="meta"), "filters: expected Float on cpu.*meta"),
        (torch.zeros(2, 1, 36, 9), r"filters: expected shape \[1, panels, 36, cell\].*\[2, 1, 36, 9\]"),
        (torch.zeros(36, 9), r"filters: expected shape .* got \[36, 9\]"),
        (torch.zeros(1, 1, 9, 36).mT, "contiguous"),
    ],
)
def test_filters_that_nobody_transformed_are_named(filters, message):
    input, weight = torch.zeros(1, 4, 6, 6), torch.zeros(4, 4, 3, 3)
    with pytest.raises(RuntimeError, match=message):
        ops.convolution_frozen(input, weight, None, filters, [1], [1], [1], 1, False, "auto")


def test_complex_weights_have_no_transformed_filters():
    input, weight = torch.zeros(1, 4, 6, 6).cfloat(), torch.zeros(4, 4, 3, 3).cfloat()
    filters = ops.winograd_filters(weight.real, 1)
    with pytest.raises(RuntimeError, match="filters: expected none beside a weight that"):
        ops.convolution_frozen(input, weight, None, filters, [1], [1], [1], 1, False, "auto")


@pytest.mark.parametrize("required", ["input", "weight", "bias"])
def test_a_gradient_is_refused_by_the_name_of_freeze(required):
    tensors = {
        "input": torch.randn(1, 2, 5, 5),
        "weight": torch.randn(3, 2, 3, 3),
        "bias": torch.randn(3),
    }
    tensors[required].requires_grad_()
    arguments = (None, [1], [1], [1], 1, False, "auto")
    with pytest.raises(RuntimeError, match=r"a layer that cnn_ext\.freeze made has no gradient"):
        ops.convolution_frozen(*tensors.values(), *arguments)
    with torch.no_grad():
        assert not ops.convolution_frozen(*tensors.values(), *arguments).requires_grad
    with pytest.raises(RuntimeError, match=r"winograd_filters: .*no gradient"):
        ops.winograd_filters(torch.randn(3, 2, 3, 3, requires_grad=True), 1)


@plain_and_rectified
def test_opcheck(relu):
    input, weight, bias = Sample("", 2, 16, 17, (9, 9), (3, 3)).tensors(torch.float32)
    filters = ops.winograd_filters(weight, 1)
    for operation, arguments in (
        (ops.convolution_frozen, (input, weight, bias, filters, [1], [1], [1], 1, relu, "auto")),
        (ops.winograd_filters, (weight, 1)),
    ):
        assert set(torch.library.opcheck(operation.default, arguments).values()) == {"SUCCESS"}


def test_vmap_over_images_is_one_call():
    input, weight, bias = Sample("", 3, 16, 17, (9, 9), (3, 3)).tensors(torch.float32)
    arguments = (weight, bias, ops.winograd_filters(weight, 1), [1], [1], [1], 1, True, "auto")

    def convolve(image):
        return ops.convolution_frozen(image.unsqueeze(0), *arguments).squeeze(0)

    with Counter() as counter:
        result = torch.vmap(convolve)(input)
    assert counter.calls == ["convolution_frozen"]
    assert torch.equal(result, ops.convolution_frozen(input, *arguments))
