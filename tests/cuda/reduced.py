"""Every CUDA kernel once, on little data: what compute-sanitizer can watch in reasonable time.

compute-sanitizer --tool racecheck python -m tests.cuda.reduced [--device cuda]
"""

import argparse
import sys

import torch

import cnn_ext  # noqa: F401 - registers torch.ops.cnn_ext
from tests.cuda.parity import assert_close, high_precision, tensor_floats
from tests.ops.convolution_samples import SAMPLES, Sample

ops = torch.ops.cnn_ext
FLOATS = {torch.float64: 1e-14, torch.float32: 1e-6, torch.bfloat16: 2**-8, torch.float16: 2**-11}
CHOSEN = ("alexnet 1", "dilated strided", "grouped", "depthwise strided", "volume")


def convolution(device: str, sample: Sample, dtype: torch.dtype, allowed: bool) -> None:
    input, weight, bias = (t.to(device) for t in sample.tensors(dtype))
    with tensor_floats(allowed):
        output = ops.convolution(input, weight, bias, *sample.arguments, "auto")
        ops.convolution_input_gradient(output, weight, input.shape, *sample.arguments, "auto")
        ops.convolution_weight_gradient(output, input, weight.shape, *sample.arguments, "auto")
    exact = sample.torch(*(high_precision(t) for t in (input, weight, bias)))
    assert_close(output, exact, 2**-10 if allowed and dtype == torch.float32 else FLOATS[dtype])


def local_response_norm(device: str, shape: tuple[int, ...], size: int, dtype: torch.dtype) -> None:
    input = torch.randn(shape).to(device, dtype)
    arguments = (size, 0.3, 0.75, 2.0, "mean", "channels", 1)
    output = ops.local_response_norm(input, *arguments)
    ops.local_response_norm_backward(output, input, *arguments)
    exact = torch.nn.functional.local_response_norm(high_precision(input), size, 0.3, 0.75, 2.0)
    assert_close(output, exact, FLOATS[dtype])


def max_pool(device: str, input: torch.Tensor) -> None:
    geometry = (3, 3), (2, 2), (1, 1), (1, 1), False
    output, taps = ops.max_pool2d_with_taps(input.to(device), *geometry)
    ops.max_pool2d_backward(output, taps, input.shape, *geometry)
    assert_close(output, torch.nn.functional.max_pool2d(high_precision(input), *geometry), 0)


def color_pca(device: str, image: torch.Tensor) -> None:
    image = image.to(device)
    eye = torch.eye(3, dtype=torch.double, device=device)
    shift = torch.tensor([0.2, -0.1, 0.01], dtype=torch.double, device=device)
    output = ops.color_pca(image, eye, torch.ones_like(shift), shift)
    ops.color_moments(image)
    if image.is_floating_point():
        ops.color_pca_shift_gradient(output)
        assert_close(output, high_precision(image) + shift.cpu()[:, None, None], FLOATS[image.dtype])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    device = parser.parse_args().device
    if device == "cuda" and not torch.cuda.is_available():
        sys.exit("no GPU here: torch.cuda.is_available() is False")
    torch.manual_seed(0)
    for dtype in FLOATS:
        for sample in (s for s in SAMPLES if s.name in CHOSEN):
            convolution(device, sample, dtype, False)
        convolution(device, Sample("", 2, 3, 40, (11, 12), (3, 3), padding=1), dtype, True)
        for shape in ((2, 7, 4, 8), (2, 7, 3, 3), (5, 7, 1, 1)):
            for size in (3, 4, 5):
                local_response_norm(device, shape, size, dtype)
        max_pool(device, torch.randn(2, 3, 9, 8).to(dtype))
        color_pca(device, torch.rand(2, 3, 8, 8).to(dtype))
    for shape in ((2, 3, 8, 8), (3, 5, 7)):
        color_pca(device, torch.randint(0, 256, shape, dtype=torch.uint8))
    if device == "cuda":
        torch.cuda.synchronize()
    print("every kernel ran")


if __name__ == "__main__":
    main()
