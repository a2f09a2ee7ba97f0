"""Hard shrinkage against torch's."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F

from cnn_ext.bench.options import DTYPES, Options, shapes
from cnn_ext.bench.timing import Row, ratio, turns
from cnn_ext.functional import hardshrink


def names(options: Options) -> list[str]:
    """The tensors that can be asked for."""
    return list(shapes("hardshrink"))


def rows(options: Options) -> Iterator[Row]:
    """A row for each tensor."""
    for name in options.wanted(names(options)):
        input = torch.randn(shapes("hardshrink")[name]).to(DTYPES[options.dtype])
        runs = {"ours": lambda x=input: hardshrink(x), "eager": lambda x=input: F.hardshrink(x)}
        timed = turns(runs, options.turns(9), options.seconds())
        yield {
            "operation": "hardshrink",
            "layer": name,
            "pass": "forward",
            "format": "NCHW",
            "dtype": options.dtype,
            "milliseconds": timed.milliseconds,
            "ratio": ratio(timed.milliseconds),
            "spread": timed.spread,
        }
