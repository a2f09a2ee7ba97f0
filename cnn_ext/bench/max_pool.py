"""Max-pooling against torch's, in both memory formats: forward alone, and with its gradient.

Alone no gradient is asked for. torch computes an index for every output either way, ours a byte for
every output if a gradient is asked for; so the second pass is forward and backward together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cnn_ext.bench.options import DTYPES, Options, shapes
from cnn_ext.bench.timing import LAYOUTS, Row, by_format, ratio, turns
from cnn_ext.functional import max_pool2d


def names(options: Options) -> list[str]:
    """The layers that can be asked for."""
    return list(shapes("max_pool"))


def rows(options: Options) -> Iterator[Row]:
    """A row for each layer, pass and memory format."""
    for name in options.wanted(names(options)):
        yield from layer_rows(name, shapes("max_pool")[name], options)


def layer_rows(name: str, layer: dict[str, Any], options: Options) -> Iterator[Row]:
    """The rows of one layer: an entry of ``shapes/max_pool.json``."""
    windows = {key: value for key, value in layer.items() if key != "input"}
    torch.manual_seed(0)
    images = torch.randn(layer["input"]).relu().to(DTYPES[options.dtype])
    forward: dict[str, Callable[[], object]] = {}
    both: dict[str, Callable[[], object]] = {}
    for memory_format, layout in LAYOUTS.items():
        input = images.contiguous(memory_format=layout)
        leaf = input.clone().requires_grad_()
        grad = torch.randn_like(F.max_pool2d(input, **windows))
        for contender, pool in (("ours", max_pool2d), ("eager", F.max_pool2d)):
            key = f"{contender} {memory_format}"
            forward[key] = partial(pool, input, **windows)
            both[key] = partial(_forward_and_gradient, partial(pool, **windows), leaf, grad)
    for what, runs in (("forward", forward), ("forward and gradient", both)):
        timed = turns(runs, options.turns(9), options.seconds())
        for memory_format, (times, any_format) in by_format(timed).items():
            yield {
                "operation": "max_pool",
                "layer": name,
                "pass": what,
                "format": memory_format,
                "dtype": options.dtype,
                "milliseconds": times,
                "ratio": ratio(times),
                "ratio_any_format": any_format,
                "spread": timed.spread,
            }


def _forward_and_gradient(pool: Callable[[Tensor], Any], leaf: Tensor, grad: Tensor) -> Tensor:
    return torch.autograd.grad(pool(leaf), leaf, grad)[0]
