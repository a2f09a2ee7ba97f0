"""How many threads there are changes no bit of a result: sums are cut by the shape alone."""

import pytest
import torch

from .convolution_samples import ALL, Sample, lay_out

ops = torch.ops.cnn_ext

# Layers whose weight gradients are summed in parts, by every kernel.
IN_PARTS = [
    Sample("products", 8, 32, 40, (40, 40), (1, 1)),
    Sample("products, few filters", 4, 24, 6, (50, 50), (2, 2), stride=2),
    Sample(
        "products in channels_last", 8, 32, 40, (30, 30), (3, 3), dilation=2, layout="channels_last"
    ),
    Sample("band", 8, 3, 16, (60, 60), (5, 5), padding=2),
    Sample("band along filters", 8, 3, 16, (60, 60), (5, 5), padding=2, layout="channels_last"),
    Sample("depthwise", 6, 40, 40, (30, 30), (3, 3), padding=1, groups=40),
    Sample("depthwise, one image", 1, 24, 24, (120, 40), (3, 3), padding=1, groups=24),
    Sample("narrow groups", 6, 32, 32, (30, 30), (3, 3), padding=1, groups=8, layout="channels_last"),
    Sample("Winograd, parts", 4, 24, 40, (130, 130), (3, 3), padding=1),
    Sample("Winograd, 5 x 5", 3, 20, 36, (90, 90), (5, 5), padding=2),
    Sample("Winograd, groups", 4, 64, 64, (28, 28), (3, 3), padding=1, groups=2),
    Sample("Winograd, shared", 3, 200, 180, (40, 40), (3, 3), padding=1),
    Sample("Winograd, some images at a time", 9, 24, 20, (199, 195), (11, 11), stride=4),
    Sample("1-d", 4, 48, 24, (4000,), (9,), padding=4),
    Sample("3-d", 2, 8, 12, (12, 20, 20), (3, 3, 3), padding=1),
]


def results(sample: Sample, dtype: torch.dtype, threads: int, algorithm: str) -> list[torch.Tensor]:
    torch.manual_seed(0)
    input, weight, bias = (t if t is None else t.to(dtype) for t in sample.tensors(torch.float64))
    input = lay_out(input, sample.layout)
    arguments = (*sample.arguments, algorithm)
    torch.set_num_threads(threads)
    output = ops.convolution(input, weight, bias, *arguments)
    grad = torch.randn(output.shape, dtype=torch.float64).to(dtype)
    grad = torch.empty_like(output).copy_(grad)
    return [
        output,
        ops.convolution_input_gradient(grad, weight, input.shape, *arguments),
        ops.convolution_weight_gradient(grad, input, weight.shape, *arguments),
    ]


def assert_equal_bits(sample: Sample, dtype: torch.dtype, algorithm: str = "auto") -> None:
    expected = results(sample, dtype, 1, algorithm)
    for threads in (2, 3, 8):
        for name, one, many in zip(
            ("output", "input gradient", "weight gradient"),
            expected,
            results(sample, dtype, threads, algorithm),
            strict=True,
        ):
            assert torch.equal(one, many), f"{name} with {threads} threads"


@pytest.mark.parametrize("sample", IN_PARTS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_sums_in_parts_are_equal_with_any_number_of_threads(sample, dtype):
    assert_equal_bits(sample, dtype)


@pytest.mark.parametrize("sample", ALL, ids=str)
def test_results_are_equal_with_any_number_of_threads(sample):
    for dtype in (torch.float32, torch.float16, torch.complex64):
        assert_equal_bits(sample, dtype)


@pytest.mark.parametrize("sample", IN_PARTS, ids=str)
def test_every_instruction_set_is_indifferent_to_threads(sample, cpu_capability):
    assert_equal_bits(sample, torch.float32)
