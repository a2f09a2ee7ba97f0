"""The operations on a GPU against torch's: convolution beside cuDNN, the others beside a copy too.

    python -m benchmarks.cuda [--out FILE.json] [--only convolution|max_pool|...]
    python -m benchmarks.cuda --device cpu --quick     a dry run: the same code on tiny shapes

Every row is one interleaved run; its medians are compared. Times are of the device, by events, of a
call that follows an untimed one. The ratio is to torch in the same memory format and precision: above
1 ours is faster. Gradients are those of input and weight together. Layers are named as in
cnn_ext/bench/shapes.
"""

import argparse
import datetime
import json
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
import torch.nn.functional as F

from cnn_ext._native import _C
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
POOLS = ["AlexNet pool 1", "VGG pool 1"]
NORM_SHAPES = [[16, 64, 55, 55], [128, 96, 55, 55], [128, 256, 27, 27]]
IMAGE_SHAPES = [[1, 3, 256, 256], [256, 3, 256, 256]]
ops = torch.ops.cnn_ext


def milliseconds(run: Callable[[], object], device: str) -> float:
    """Of one call, after an untimed one."""
    run()
    if device != "cuda":
        start = time.perf_counter()
        run()
        return 1e3 * (time.perf_counter() - start)
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    run()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end)


def medians(runs: Mapping[str, Callable[[], object]], device: str, rounds: int) -> dict[str, float]:
    """Milliseconds by name; the contenders take turns."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            times[name].append(milliseconds(run, device))
    return {name: statistics.median(values) for name, values in times.items()}


def convolution(shape: dict, memory_format, precision: str, device: str, rounds: int) -> dict:
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


def max_pool(shape: dict, memory_format, dtype: torch.dtype, device: str, rounds: int) -> dict:
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


def local_response_norm(shape: list[int], dtype: torch.dtype, device: str, rounds: int) -> dict:
    """Forward and backward, beside eager torch and one copy."""
    input = torch.randn(shape, device=device, dtype=dtype, requires_grad=True)
    grad = torch.randn_like(input)
    constants = (5, 1e-4, 0.75, 2.0)
    arguments = (*constants, "mean", "channels", 1)
    output, target = F.local_response_norm(input, *constants), torch.empty_like(input)
    copy = {"copy": lambda: target.copy_(grad)}
    forward = {
        "ours": lambda: ops.local_response_norm(input.detach(), *arguments),
        "torch": lambda: F.local_response_norm(input.detach(), *constants),
    }
    backward = {
        "ours": lambda: ops.local_response_norm_backward(grad, input.detach(), *arguments),
        "torch": lambda: torch.autograd.grad(output, input, grad, retain_graph=True),
    }
    return {
        "forward": medians(forward | copy, device, rounds),
        "gradients": medians(backward | copy, device, rounds),
    }


def color_pca(shape: list[int], dtype: torch.dtype, device: str, rounds: int) -> dict:
    """The shift, beside eager torch and one copy."""
    image = torch.randint(0, 256, shape, device=device, dtype=torch.uint8)
    image = image if dtype == torch.uint8 else image.to(dtype) / 255
    P = torch.linalg.qr(torch.randn(3, 3))[0].to(device)
    eigenvalues = torch.tensor([0.2, 0.02, 0.004], device=device)
    alphas, target = 0.1 * torch.randn(shape[0], 3, device=device), torch.empty_like(image)

    def eager():
        shift = ((alphas * eigenvalues) @ P.mT)[..., None, None]
        if dtype == torch.uint8:
            return (image + 255 * shift).round_().clamp_(0, 255).to(torch.uint8)
        return image + shift.to(dtype)

    runs = {"ours": lambda: ops.color_pca(image, P, eigenvalues, alphas), "torch": eager,
            "copy": lambda: target.copy_(image)}  # fmt: skip
    return {"forward": medians(runs, device, rounds)}


def table(name: str, figures: dict) -> str:
    """A row for a terminal."""
    cells = []
    for part in ("forward", "gradients"):
        if part in figures:
            t = figures[part]
            copy = f" {t['ours'] / t['copy']:6.2f} copies" if "copy" in t else ""
            cells.append(f"{part} {t['ours']:9.3f} ms {t['torch'] / t['ours']:6.2f}x{copy}")
    return f"{name:44}" + "   ".join(cells)


def machine(device: str) -> dict:
    """What a reader must know to repeat the figures."""
    build = _C.build_facts()
    facts = {"torch": torch.__version__, "cuda": torch.version.cuda,
             "cudnn": torch.backends.cudnn.version(),
             "built with": build["cuda_version"], "architectures": build["cuda_architectures"],
             "date": datetime.date.today().isoformat()}  # fmt: skip
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        facts["device"] = properties.name
        facts["memory GiB"] = round(properties.total_memory / 2**30, 1)
    return facts


def small(shape: dict) -> dict:
    """With one image."""
    return {**shape, "input": [1, *shape["input"][1:]]}


def all_rows(
    only: str | None, device: str, quick: bool, rounds: int
) -> Iterator[tuple[str, str, dict]]:
    """(operation, name, figures), one after the other."""
    if only in (None, "convolution"):
        layers = [(name, shapes(file)[name]) for file, names in LAYERS.items() for name in names]
        for layer, shape in layers[: 2 if quick else None]:
            shape = small(shape) if quick else shape
            for precision in PRECISIONS:
                for label, memory_format in LAYOUTS.items():
                    figures = convolution(shape, memory_format, precision, device, rounds)
                    yield "convolution", f"{layer} {precision} {label}", figures
    if only in (None, "max_pool"):
        for name in POOLS[: 1 if quick else None]:
            shape = small(shapes("max_pool")[name]) if quick else shapes("max_pool")[name]
            for dtype in (torch.float32, torch.bfloat16)[: 1 if device == "cpu" else None]:
                for label, memory_format in LAYOUTS.items():
                    figures = max_pool(shape, memory_format, dtype, device, rounds)
                    yield "max_pool", f"{name} {dtype} {label}", figures
    if only in (None, "local_response_norm"):
        for shape in [[2, 8, 4, 4]] if quick else NORM_SHAPES:
            for dtype in (torch.float32, torch.bfloat16)[: 1 if device == "cpu" else None]:
                figures = local_response_norm(shape, dtype, device, rounds)
                yield "local_response_norm", f"norm {shape} {dtype}", figures
    if only in (None, "color_pca"):
        for shape in [[2, 3, 8, 8]] if quick else IMAGE_SHAPES:
            for dtype in (torch.uint8, torch.float32, torch.bfloat16):
                yield "color_pca", f"colour {shape} {dtype}", color_pca(shape, dtype, device, rounds)


def main() -> None:
    """Prints a table, and writes it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument(
        "--only", choices=["convolution", "max_pool", "local_response_norm", "color_pca"]
    )
    parser.add_argument("--quick", action="store_true", help="tiny shapes: whether it runs at all")
    parser.add_argument("--rounds", type=int, default=11)
    options = parser.parse_args()
    before = torch.backends.cudnn.allow_tf32
    rows = []
    for operation, name, figures in all_rows(
        options.only, options.device, options.quick, options.rounds
    ):
        rows.append({"operation": operation, "name": name, **figures})
        print(table(name, figures), flush=True)
    torch.backends.cudnn.allow_tf32 = before
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        facts = {"machine": machine(options.device), "rows": rows}
        options.out.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
