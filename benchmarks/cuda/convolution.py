"""Convolution beside cuDNN: layers of classic networks, in every precision."""

from collections.abc import Iterator

import torch

from benchmarks.cuda.timing import medians, small
from cnn_ext.bench.options import shapes
from cnn_ext.bench.timing import LAYOUTS

LAYERS = {
    "lenet": ["LeNet C1", "LeNet C3", "LeNet C5"],
    "alexnet": ["AlexNet 1", "AlexNet 2", "AlexNet 3"],
    "vgg": ["VGG 1_1", "VGG 1_2", "VGG 2_2", "VGG 3_2", "VGG 4_2", "VGG 5_1"],
    "resnet50": ["ResNet-50 layer1.0.conv3", "ResNet-50 layer2.0.conv2"],
    "others": ["depthwise, 7 x 7 (ConvNeXt)"],
}
PRECISIONS = {
    "float32": (torch.float32, False),
    "tf32": (torch.float32, True),
    "bfloat16": (torch.bfloat16, True),
}
ops = torch.ops.cnn_ext


def rows(device: str, quick: bool, rounds: int) -> Iterator[tuple[str, dict]]:
    """A row for each layer, precision and memory format."""
    layers = [(name, shapes(file)[name]) for file, names in LAYERS.items() for name in names]
    for layer, shape in layers[: 2 if quick else None]:
        shape = small(shape) if quick else shape
        for precision in PRECISIONS:
            for label, memory_format in LAYOUTS.items():
                figures = layer_figures(shape, memory_format, precision, device, rounds)
                yield f"{layer} {precision} {label}", figures


def layer_figures(shape: dict, memory_format, precision: str, device: str, rounds: int) -> dict:
    """Forward and both gradients of a layer."""
    dtype, allowed = PRECISIONS[precision]
    torch.backends.cudnn.allow_tf32 = allowed
    stride, padding = [shape.get("stride", 1)] * 2, [shape.get("padding", 0)] * 2
    groups = shape.get("groups", 1)
    input, weight = (
        torch.randn(shape[name], device=device, dtype=dtype).contiguous(memory_format=memory_format)
        for name in ("input", "weight")
    )
    tail, geometry = (
        (stride, padding, [1, 1], groups, "auto"),
        (stride, padding, [1, 1], False, [0, 0], groups),
    )
    output = ops.convolution(input, weight, None, *tail)
    grad = torch.randn_like(output)

    def gradients():
        ops.convolution_input_gradient(grad, weight, input.shape, *tail)
        ops.convolution_weight_gradient(grad, input, weight.shape, *tail)

    forward = {
        "ours": lambda: ops.convolution(input, weight, None, *tail),
        "torch": lambda: torch.ops.aten.convolution(input, weight, None, *geometry),
    }
    backward = {
        "ours": gradients,
        "torch": lambda: torch.ops.aten.convolution_backward(
            grad, input, weight, None, *geometry, [True, True, False]
        ),
    }
    return {
        "difference": ((output - forward["torch"]()).norm() / output.norm()).item(),
        "forward": medians(forward, device, rounds),
        "gradients": medians(backward, device, rounds),
    }
