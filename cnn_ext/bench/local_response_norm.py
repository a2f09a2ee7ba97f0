"""Local response normalisation against torch: eager, compiled, and one copy of the tensor.

Shapes are AlexNet's and GoogLeNet's, from one image to 128. ``clone`` allocates its output, as any
operation must; beyond some 32 MB that costs more than the copy.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F

from cnn_ext.bench.options import DTYPES, Options, shapes
from cnn_ext.bench.timing import Row, ratio, turns
from cnn_ext.comparison import relative_error
from cnn_ext.functional import local_response_norm

CONSTANTS: dict[str, Any] = {"size": 5, "alpha": 1e-4, "beta": 0.75, "k": 2.0}
CACHED = 2**24  # bytes: a tensor and its result stay in 32 MB, and malloc reuses their memory


def names(options: Options) -> list[str]:
    """The tensors that can be asked for."""
    return ["x".join(map(str, shape)) for shape in shapes("local_response_norm")]


def rows(options: Options) -> Iterator[Row]:
    """A row for each tensor and direction."""
    wanted = options.wanted(names(options))
    for shape in shapes("local_response_norm"):
        if "x".join(map(str, shape)) in wanted:
            yield from shape_rows(shape, options)


def shape_rows(shape: Sequence[int], options: Options) -> Iterator[Row]:
    """The rows of one tensor."""
    generator = torch.Generator().manual_seed(0)
    input, grad = (torch.randn(shape, generator=generator).to(DTYPES[options.dtype]) for _ in range(2))
    x = input.clone().requires_grad_()
    functions = {"ours": local_response_norm, "eager": F.local_response_norm}
    if options.compiles(True):
        torch._dynamo.reset()
        functions["compiled"] = torch.compile(F.local_response_norm, dynamic=False)
    with torch._functorch.config.patch(donated_buffer=False):  # the graph is used again
        outputs = {name: f(x, **CONSTANTS) for name, f in functions.items()}
    forward = {name: lambda f=f: f(input, **CONSTANTS) for name, f in functions.items()}
    backward = {
        name: lambda y=y: torch.autograd.grad(y, x, grad, retain_graph=True)
        for name, y in outputs.items()
    }
    exact = input[:1].double().requires_grad_()
    right = F.local_response_norm(exact, **CONSTANTS)
    (right_gradient,) = torch.autograd.grad(right, exact, grad[:1].double())
    gradients = {name: backward[name]()[0][:1] for name in ("ours", "eager")}
    values = {name: outputs[name][:1].detach() for name in ("ours", "eager")}
    for what, runs, results, true in (
        ("forward", forward, values, right.detach()),
        ("backward", backward, gradients, right_gradient),
    ):
        timed = turns(runs | {"clone": input.clone}, options.turns(9), options.seconds())
        times = timed.milliseconds
        yield {
            "operation": "local_response_norm",
            "shape": list(shape),
            "memory": "in cache" if input.nbytes <= CACHED else "beyond cache",
            "pass": what,
            "format": "NCHW",
            "dtype": options.dtype,
            "milliseconds": times,
            "ratio": ratio(times),
            "error": relative_error(results["ours"], true),
            "torch_error": relative_error(results["eager"], true),
            "spread": timed.spread,
        }
