"""Max-pooling beside cuDNN's."""

from collections.abc import Iterator

import torch

from benchmarks.cuda.timing import medians, small
from cnn_ext.bench.options import shapes
from cnn_ext.bench.timing import LAYOUTS

POOLS = ["AlexNet pool 1", "VGG pool 1"]
ops = torch.ops.cnn_ext


def rows(device: str, quick: bool, rounds: int) -> Iterator[tuple[str, dict]]:
    """A row for each layer, dtype and memory format."""
    for name in POOLS[: 1 if quick else None]:
        shape = small(shapes("max_pool")[name]) if quick else shapes("max_pool")[name]
        for dtype in (torch.float32, torch.bfloat16)[: 1 if device == "cpu" else None]:
            for label, memory_format in LAYOUTS.items():
                figures = layer_figures(shape, memory_format, dtype, device, rounds)
                yield f"{name} {dtype} {label}", figures


def layer_figures(shape: dict, memory_format, dtype: torch.dtype, device: str, rounds: int) -> dict:
    """Forward with what a gradient needs, and the gradient."""
    input = torch.randn(shape["input"], device=device, dtype=dtype)
    input = input.contiguous(memory_format=memory_format)
    size, stride = [shape["kernel_size"]] * 2, [shape["stride"]] * 2
    geometry = size, stride, [0, 0], [1, 1], False
    output, taps = ops.max_pool2d_with_taps(input, *geometry)
    right, indices = torch.ops.aten.max_pool2d_with_indices(input, *geometry)
    grad = torch.randn_like(output)
    forward = {
        "ours": lambda: ops.max_pool2d_with_taps(input, *geometry),
        "torch": lambda: torch.ops.aten.max_pool2d_with_indices(input, *geometry),
    }
    backward = {
        "ours": lambda: ops.max_pool2d_backward(grad, taps, input.shape, *geometry),
        "torch": lambda: torch.ops.aten.max_pool2d_with_indices_backward(
            grad, input, *geometry, indices
        ),
    }
    return {
        "difference": (output - right).abs().max().item(),
        "forward": medians(forward, device, rounds),
        "gradients": medians(backward, device, rounds),
    }
