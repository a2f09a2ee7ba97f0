"""Local response normalisation against torch: eager, compiled, and one copy of the tensor.

    python -m benchmarks.local_response_norm [--out FILE.json]

Every row is one interleaved run, and its medians are compared (see timing.py). Shapes are AlexNet's and
GoogLeNet's, from one image to 128. `clone` allocates its output, as any operation must;
beyond some 32 MB that costs more than the copy.
"""

import argparse
import json
from pathlib import Path

import torch
import torch.nn.functional as F

from benchmarks.timing import machine, medians
from cnn_ext.functional import local_response_norm

SHAPES = json.loads(Path(__file__).with_name("local_response_norm.json").read_text())
CONSTANTS = {"size": 5, "alpha": 1e-4, "beta": 0.75, "k": 2.0}


def row(shape: list[int]) -> dict:
    """The figures of one shape."""
    input = torch.randn(shape, requires_grad=True)
    grad = torch.randn(shape)
    torch._dynamo.reset()
    functions = {
        "ours": local_response_norm,
        "eager": F.local_response_norm,
        "compiled": torch.compile(F.local_response_norm),
    }
    forward = {name: lambda f=f: f(input.detach(), **CONSTANTS) for name, f in functions.items()}
    outputs = {name: f(input, **CONSTANTS) for name, f in functions.items()}
    backward = {
        name: lambda y=y: torch.autograd.grad(y, input, grad, retain_graph=True)
        for name, y in outputs.items()
    }
    exact = F.local_response_norm(input.detach()[:1].double(), **CONSTANTS)
    error = (outputs["ours"].detach()[:1] - exact).norm() / exact.norm()
    rounds = 5 if input.numel() > 2**24 else 20
    copy = {"clone": lambda: input.detach().clone()}
    return {
        "shape": shape,
        "forward": medians(forward | copy, rounds),
        "backward": medians(backward | copy, rounds),
        "relative_rms_error": error.item(),
    }


def main() -> None:
    """Prints a table, and writes it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    rows = []
    print(f"{'':22}{'ms':>9}{'x clone':>9}{'eager':>9}{'compiled':>10}   times faster than torch")
    for shape in SHAPES:
        rows.append(row(shape))
        for direction in ("forward", "backward"):
            t = rows[-1][direction]
            name = f"{'x'.join(map(str, shape)):14}{direction:8}"
            print(
                f"{name}{t['ours']:9.2f}{t['ours'] / t['clone']:9.2f}"
                f"{t['eager'] / t['ours']:9.1f}{t['compiled'] / t['ours']:10.1f}",
                flush=True,
            )
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
