"""Dense layers against torch's: each pass alone, for several numbers of inputs.

What has few weights, or many rows of input, is torch's in both.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from cnn_ext import functional
from cnn_ext.bench.options import DTYPES, Options, shapes
from cnn_ext.bench.timing import Row, ratio, turns


def names(options: Options) -> list[str]:
    """The layers that can be asked for."""
    return list(shapes("linear"))


def rows(options: Options) -> Iterator[Row]:
    """A row for each layer, number of inputs and pass."""
    for name in options.wanted(names(options)):
        layer = shapes("linear")[name]
        for count in layer["rows"]:
            yield from layer_rows(name, count, layer["in_features"], layer["out_features"], options)


def layer_rows(
    name: str, count: int, in_features: int, out_features: int, options: Options
) -> Iterator[Row]:
    """The rows of one layer with so many inputs."""
    generator = torch.Generator().manual_seed(0)

    def numbers(*size: int) -> Tensor:
        return torch.randn(size, generator=generator).to(DTYPES[options.dtype])

    input, grad = numbers(count, in_features).requires_grad_(), numbers(count, out_features)
    weight, bias = (numbers(out_features, *size).requires_grad_() for size in ((in_features,), ()))
    ways = {"ours": functional.linear, "eager": F.linear}
    outputs = {who: way(input, weight, bias) for who, way in ways.items()}

    def gradient(of: tuple[Tensor, ...]) -> dict:
        return {
            who: partial(torch.autograd.grad, output, of, grad, retain_graph=True)
            for who, output in outputs.items()
        }

    plain = [tensor.detach() for tensor in (input, weight, bias)]
    for what, runs in (
        ("forward", {who: partial(way, *plain) for who, way in ways.items()}),
        ("input gradient", gradient((input,))),
        ("weight gradient", gradient((weight, bias))),
    ):
        timed = turns(runs, options.turns(9), options.seconds())
        yield {
            "operation": "linear",
            "layer": name,
            "shape": [count, in_features, out_features],
            "pass": what,
            "format": "NCHW",
            "dtype": options.dtype,
            "milliseconds": timed.milliseconds,
            "ratio": ratio(timed.milliseconds),
            "spread": timed.spread,
        }
