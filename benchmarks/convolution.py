"""Convolution against torch's, forward and both gradients, in NCHW and channels_last.

    python -m benchmarks.convolution [--out FILE.json]

Every row is one interleaved run, and its medians are compared (see timing.py). The ratio is to torch in
the same memory format: above 1 ours is faster. GFLOP/s count two operations for each multiplication of
the direct sum.
"""

import argparse
import json
from pathlib import Path

import torch

from benchmarks.timing import machine, medians

SHAPES = json.loads(Path(__file__).with_name("convolution.json").read_text())
FORMATS = {"NCHW": torch.contiguous_format, "channels_last": torch.channels_last}
PASSES = {
    "forward": None,
    "input gradient": [True, False, False],
    "weight gradient": [False, True, False],
}


def row(shape: dict, memory_format: torch.memory_format) -> dict[str, dict[str, float]]:
    """Milliseconds, GFLOP/s of both, and the ratio, by pass."""
    stride, padding = [shape.get("stride", 1)] * 2, [shape.get("padding", 0)] * 2
    groups, size = shape.get("groups", 1), shape["size"]
    input = torch.randn(shape["input"]).contiguous(memory_format=memory_format)
    weight = torch.randn(shape["filters"], input.shape[1] // groups, size, size)
    weight = weight.contiguous(memory_format=memory_format)
    tail = (stride, padding, [1, 1], groups, "auto")
    ours = torch.ops.cnn_ext
    output = ours.convolution(input, weight, None, *tail)
    grad = torch.randn_like(output)
    flops = 2 * output.numel() * weight[0].numel()

    def theirs(mask):
        geometry = (stride, padding, [1, 1], False, [0, 0], groups)
        if mask is None:
            return lambda: torch.ops.aten.convolution(input, weight, None, *geometry)
        return lambda: torch.ops.aten.convolution_backward(grad, input, weight, None, *geometry, mask)

    runs = {
        "forward": lambda: ours.convolution(input, weight, None, *tail),
        "input gradient": lambda: ours.convolution_input_gradient(grad, weight, input.shape, *tail),
        "weight gradient": lambda: ours.convolution_weight_gradient(grad, input, weight.shape, *tail),
    }
    result = {}
    for name, mask in PASSES.items():
        t = medians({"ours": runs[name], "torch": theirs(mask)}, rounds=9)
        result[name] = {
            "ours_ms": t["ours"],
            "torch_ms": t["torch"],
            "ours_gflops": flops / t["ours"] / 1e6,
            "torch_gflops": flops / t["torch"] / 1e6,
            "ratio": t["torch"] / t["ours"],
        }
    return result


def main() -> None:
    """Prints a table, and writes it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    rows = []
    print(f"{'GFLOP/s ours, torch, ratio':36}" + "".join(f"{name:^24}" for name in PASSES))
    for name, shape in SHAPES.items():
        for label, memory_format in FORMATS.items():
            figures = row(shape, memory_format)
            rows.append({"layer": name, "format": label, **figures})
            cells = "".join(
                f"{f['ours_gflops']:8.0f}{f['torch_gflops']:7.0f}{f['ratio']:6.2f}x  "
                for f in figures.values()
            )
            print(f"{name:22}{label:14}{cells}", flush=True)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
