"""``bench random``: random layers against torch eager in the same memory format.

Two passes, forward and all gradients together (input, weight and bias). Where torch takes less than
40 µs the way through Python and the dispatcher decides; such rows are listed apart, in microseconds.

A row has, beside what rows of the benchmark have, ``seed``, ``kinds`` (the lines of the table that it
counts in) and ``routes`` (of each pass the row of the rule and the path). A convolution is named
(batch, channels, size, filters, kernel; stride, dilation, groups; format), max-pooling (batch,
channels, size, window; stride, padding; format).
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from cnn_ext import functional
from cnn_ext.bench import random_layers
from cnn_ext.bench.convolution import Layer
from cnn_ext.bench.options import DTYPES
from cnn_ext.bench.survey import SurveyOptions
from cnn_ext.bench.timing import LAYOUTS, Row, ratio, turns

GRADIENTS = ("input gradient", "weight gradient")
PASSES = {"forward": ("forward",), "gradients": GRADIENTS}  # and whose routes they take
SLOW = 0.8  # of torch's speed: below it a row is printed and counted
SMALL = 0.04  # milliseconds of torch
ROUNDS = 3  # turns at least
SECONDS = 0.25  # of each contender in a pass, where it is quick enough for more turns


class Case(NamedTuple):
    """One random layer, ready to run."""

    name: str
    format: str
    kinds: list[str]  # the lines of the table that it counts in
    tensors: tuple[Tensor, ...]
    ours: Callable[..., Any]
    eager: Callable[..., Any]
    routes: dict[str, str]  # of each pass, the row of the rule and the path


def rows(options: SurveyOptions) -> Iterator[Row]:
    """A row for each layer and pass: of seed 0, unless others are asked for.

    Raises:
        ValueError: layers or sets of the benchmark are asked for.
    """
    if options.names or options.sets:
        asked = ", ".join((*options.names, *options.sets))
        raise ValueError(f"layers: expected none, for random layers are drawn, got {asked}")
    for seed in options.seeds or (0,):
        for case in cases(seed, options):
            for what in PASSES:
                yield {"operation": options.operation, "seed": seed, **_row(case, what, options)}


def cases(seed: int, options: SurveyOptions) -> Iterator[Case]:
    """The layers of one seed."""
    dtype = DTYPES[options.dtype]
    if options.operation == "linear":
        for dense in itertools.islice(random_layers.dense_layers(seed), options.count):
            yield _dense(dense, dtype)
    elif options.operation == "max_pool":
        for pool in itertools.islice(random_layers.pools(seed), options.count):
            yield _pool(pool, dtype)
    else:
        transposed = options.operation == "conv_transpose"
        for _, layer in random_layers.layers([seed], options.count, transposed):
            yield _convolution(layer, dtype)


def _convolution(layer: Layer, dtype: torch.dtype) -> Case:
    (format,) = layer.formats()
    input, weight, bias, _ = layer.operands(dtype)[format]
    assert bias is not None  # for mypy: random layers have one
    found = {what: layer.route(what, format, dtype) for what in ("forward", *GRADIENTS)}
    return Case(
        name=layer.name,
        format=format,
        kinds=kinds(layer),
        tensors=(input, weight, bias),
        ours=layer.function(functional),
        eager=layer.function(F),
        routes={what: f"{route.row}: {route.path}" for what, route in found.items()},
    )


def kinds(layer: Layer) -> list[str]:
    """The lines of the table that a random layer counts in.

    Example:
        >>> _, layer = next(random_layers.layers([0], 1))
        >>> kinds(layer)
        ['1-d', 'kernel 3', 'stride 1', 'NCHW']
    """
    axes, kernel = len(layer.weight) - 2, layer.weight[-1]
    found = [f"{axes}-d", f"kernel {kernel}", f"stride {layer.stride}", layer.only_format]
    if layer.dilation > 1:
        found.append("dilation")
    if layer.groups > 1:
        found.append("groups")
    if (axes, kernel, layer.stride) == (2, 3, 1):
        found.append("3 x 3 stride 1")
    return found


def _dense(layer: random_layers.Dense, dtype: torch.dtype) -> Case:
    rows, inputs, outputs = layer
    products = rows * inputs * outputs
    return Case(
        name=f"{rows} x {inputs} -> {outputs}",
        format="NCHW",
        kinds=["below 100,000 products" if products < 1e5 else "from 100,000 products",
               "to 16 rows" if rows <= 16 else "from 32 rows"],
        tensors=tuple(
            torch.randn(size, dtype=dtype) for size in ((rows, inputs), (outputs, inputs), (outputs,))
        ),
        ours=functional.linear,
        eager=F.linear,
        routes={},
    )  # fmt: skip


def _pool(pool: random_layers.Pool, dtype: torch.dtype) -> Case:
    format = "channels_last" if pool.channels_last else "NCHW"
    input = torch.randn(pool.N, pool.C, pool.H, pool.H, dtype=dtype)
    windows: dict[str, Any] = {"kernel_size": pool.R, "stride": pool.stride, "padding": pool.padding}
    return Case(
        name=f"({pool.N}, {pool.C}, {pool.H}, {pool.R}; {pool.stride}, {pool.padding}; {format})",
        format=format,
        kinds=[f"kernel {pool.R}", f"stride {pool.stride}", format],
        tensors=(input.contiguous(memory_format=LAYOUTS[format]),),
        ours=partial(functional.max_pool2d, **windows),
        eager=partial(F.max_pool2d, **windows),
        routes={},
    )


def _row(case: Case, what: str, options: SurveyOptions) -> Row:
    contenders = {"ours": case.ours, "eager": case.eager}
    runs = {name: _call(function, case.tensors, what) for name, function in contenders.items()}
    seconds = 2 * (0.02 if options.quick else SECONDS)
    with torch.set_grad_enabled(what != "forward"):
        timed = turns(runs, options.turns(ROUNDS), seconds)
    return {
        "layer": case.name,
        "kinds": case.kinds,
        "pass": what,
        "format": case.format,
        "dtype": options.dtype,
        "routes": {key: case.routes[key] for key in PASSES[what] if key in case.routes},
        "milliseconds": timed.milliseconds,
        "ratio": ratio(timed.milliseconds),
        "spread": timed.spread,
    }


def _call(function: Callable, tensors: Sequence[Tensor], what: str) -> Callable[[], Any]:
    """One pass, to be called again and again; what the gradients need of the forward pass is there."""
    if what == "forward":
        return lambda: function(*tensors)
    leaves = [tensor.detach().requires_grad_() for tensor in tensors]
    output = function(*leaves)
    grad = torch.randn_like(output)
    return lambda: torch.autograd.grad(output, leaves, grad, retain_graph=True)


def line(row: Row) -> str | None:
    """A row that is slower than torch allows; None of the others and of small ones."""
    if row["milliseconds"]["eager"] < SMALL or row["ratio"] >= SLOW:
        return None
    ours, eager = row["milliseconds"]["ours"], row["milliseconds"]["eager"]
    paths = " | ".join(row["routes"].values())
    return f"{row['layer']:56}{row['pass']:10}{ours:10.3f}{eager:10.3f} ms{row['ratio']:6.2f}  {paths}"


def ending(rows: Sequence[Row]) -> list[str]:
    """The table by kind, which rows of the rule are slow, and the small rows."""
    large = [row for row in rows if row["milliseconds"]["eager"] >= SMALL]
    small = [row for row in rows if row["milliseconds"]["eager"] < SMALL]
    head = f"{'rows':>8}{'median':>8}{'5 %':>6}{'worst':>7}{f'< {SLOW:g}':>7}"
    lines = [f"{'times as fast as torch':32}{'forward':>8}{'':28}{'gradients':>9}",
             f"{'':24}{head}{head}"]  # fmt: skip
    found = dict.fromkeys(kind for row in large for kind in row["kinds"])
    for kind in ("all", *sorted(found, key=_order)):
        chosen = [row for row in large if kind in ("all", *row["kinds"])]
        cells = [_cells([r["ratio"] for r in chosen if r["pass"] == what]) for what in PASSES]
        lines.append(f"{kind:24}{''.join(cells)}".rstrip())
    return [*lines, *_by_route(large), *_microseconds(small)]


def _order(kind: str) -> tuple[str, int]:
    word, _, number = kind.rpartition(" ")
    return (word, int(number)) if number.isdigit() else (kind, 0)


def _cells(ratios: Sequence[float]) -> str:
    if not ratios:
        return f"{0:8d}{'':28}"
    ordered = sorted(ratios)
    fifth, slow = ordered[len(ordered) // 20], sum(ratio < SLOW for ratio in ordered)
    middle = statistics.median(ordered)
    return f"{len(ordered):8d}{middle:8.2f}{fifth:6.2f}{ordered[0]:7.2f}{slow:7d}"


def _by_route(rows: Sequence[Row]) -> list[str]:
    """How many rows went each way; gradients count for the ways of both."""
    ways: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        for what, way in row["routes"].items():
            ways.setdefault((what, way), []).append(row["ratio"])
    if not ways:
        return []
    head = f"{'':4}{'rows':>8}{'median':>8}{'5 %':>6}{'worst':>7}{f'< {SLOW:g}':>7}"
    lines = ["", f"{'by row of the rule and path':72}{head}"]
    for (what, way), ratios in sorted(ways.items()):
        lines.append(f"{f'{what}, {way}':72}{'':4}{_cells(ratios)}")
    return lines


def _microseconds(rows: Sequence[Row]) -> list[str]:
    if not rows:
        return []
    lines = ["", f"{f'torch below {1e3 * SMALL:g} µs':56}{'':10}{'ours':>8}{'torch':>8}{'more':>8}"]
    more = [1e3 * (row["milliseconds"]["ours"] - row["milliseconds"]["eager"]) for row in rows]
    for row, difference in zip(rows, more, strict=True):
        ours, eager = (1e3 * row["milliseconds"][name] for name in ("ours", "eager"))
        lines.append(f"{row['layer']:56}{row['pass']:10}{ours:8.1f}{eager:8.1f}{difference:8.1f}")
    return [*lines, f"median {statistics.median(more):.1f} µs more, at most {max(more):.1f}"]
