"""``bench paths``: every algorithm that serves a convolution, beside the one that ``"auto"`` takes.

Each pass alone, in each memory format: the algorithms by name, the same behind a change of layout (the
maps and filters are copied to the other format and the result back, by operations of torch), and torch
eager. Where implicit GEMM transposes small maps by itself, it runs without that too. ``loss`` is the
time of ``"auto"`` over that of the fastest of ours: 1 where the rule is right.

A row has, beside what rows of the benchmark have, ``sizes`` of the layer, ``row`` of the rule,
``routes`` (the path behind each name), ``fastest`` and ``loss``; ``fastest_in_layout`` and
``loss_in_layout`` leave out changes of layout; ``ratio`` and ``best_ratio`` are torch's time over that
of ``"auto"`` and of the fastest. Random layers have a ``seed``.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import cnn_ext
from cnn_ext.bench import convolution, random_layers
from cnn_ext.bench.convolution import Layer, Operands, call, native
from cnn_ext.bench.goals import geometric_mean
from cnn_ext.bench.options import DTYPES, check
from cnn_ext.bench.survey import SurveyOptions
from cnn_ext.bench.timing import Row, turns

# What each pass reads; convolution.PASSES has also passes that are several of these.
READS = {
    "forward": ("input", "weight"),
    "input gradient": ("grad", "weight"),
    "weight gradient": ("grad", "input"),
}
ALGORITHMS = ("implicit_gemm", "winograd", "direct")
UNTRANSPOSED = "implicit_gemm, not transposed"
VIA = " via "  # "winograd via channels_last": behind a change of layout
AS_FAST = 1.03  # within it a path is as fast as the fastest
ROUNDS = 3  # turns at least
SECONDS = 0.15  # of each contender, where it is quick enough for more turns
WORST = 25  # rows at the end

Paths = dict[str, Callable[[], Tensor]]


def rows(options: SurveyOptions) -> Iterator[Row]:
    """A row for each layer, memory format and pass."""
    for seed, layer in layers(options):
        for format in layer.formats():
            for what in READS:
                row = path_row(layer, format, what, options)
                yield row if seed is None else {**row, "seed": seed}


def layers(options: SurveyOptions) -> Iterator[tuple[int | None, Layer]]:
    """Random layers with their seeds if there are seeds, and those of the benchmark that are asked for.

    Raises:
        ValueError: a layer or a set that there is not, or an operation that is no convolution.
    """
    if options.operation not in ("convolution", "conv_transpose"):
        raise ValueError(
            f"operation: expected convolution or conv_transpose, got {options.operation!r}"
        )
    if options.sets or options.names or not options.seeds:
        known = convolution.layers(convolution.sets(options))
        check(options, {"convolution": known})
        for name in options.wanted(known):
            yield None, known[name]
    transposed = options.operation == "conv_transpose"
    yield from random_layers.layers(options.seeds, options.count, transposed)


def path_row(layer: Layer, format: str, what: str, options: SurveyOptions) -> Row:
    """All paths of one pass in one memory format."""
    dtype = DTYPES[options.dtype]
    operands = layer.operands(dtype)[format]
    found = paths(layer, format, what, operands, (*ALGORITHMS, *["im2col"] * bool(options.im2col)))
    routes = {name: route for name, run in found.items() if (route := path_of(run)) is not None}
    if routes[UNTRANSPOSED] == routes["implicit_gemm"]:
        del routes[UNTRANSPOSED]
    # A path that is another's by name has that one's time: the noise of two would look like a loss.
    first: dict[tuple[str, bool], str] = {}
    same = {name: first.setdefault((route, VIA in name), name) for name, route in routes.items()}
    runs: dict[str, Callable[[], object]] = {name: found[name] for name in dict.fromkeys(same.values())}
    runs["eager"] = call(layer.function(F), operands, what)
    seconds = len(runs) * (0.01 if options.quick else SECONDS)
    with torch.set_grad_enabled(what != "forward"):
        timed = turns(runs, options.turns(ROUNDS), seconds)
    times = {name: timed.milliseconds[first] for name, first in same.items()}
    here = {name: time for name, time in times.items() if VIA not in name}
    route = layer.route(what, format, dtype)
    return {
        "operation": "convolution",
        "set": layer.set,
        "layer": layer.name,
        "sizes": layer.sizes(),
        "pass": what,
        "format": format,
        "dtype": options.dtype,
        "row": route.row,
        "routes": routes,
        "fastest": _fastest(times),
        "loss": times["auto"] / min(times.values()),
        "fastest_in_layout": _fastest(here),
        "loss_in_layout": times["auto"] / min(here.values()),
        "milliseconds": {**times, "eager": timed.milliseconds["eager"]},
        "ratio": timed.milliseconds["eager"] / times["auto"],
        "best_ratio": timed.milliseconds["eager"] / min(times.values()),
        "spread": timed.spread,
    }


def _fastest(times: dict[str, float]) -> str:
    """The name of the fastest; of an algorithm that ``"auto"`` takes, its own."""
    named = {name: time for name, time in times.items() if name != "auto"}
    least = min(times.values())
    return next((name for name, time in named.items() if time == least), "auto")


def paths(layer: Layer, format: str, what: str, operands: Operands, algorithms: Sequence[str]) -> Paths:
    """One pass by ``"auto"`` and by each algorithm, as it is and behind a change of layout.

    Those that do not serve the layer are among them: they raise when they are called.
    """
    found = {name: native(layer, operands, name)[what] for name in ("auto", *algorithms)}
    # Maps with gaps between them are not transposed.
    gaps = {name: with_gaps(getattr(operands, name)) for name in ("input", "grad")}
    found[UNTRANSPOSED] = native(layer, operands._replace(**gaps), "implicit_gemm")[what]
    there = "NCHW" if format == "channels_last" else "channels_last"
    for name in algorithms:
        found[f"{name}{VIA}{there}"] = changed_layout(layer, there, what, operands, name)
    return found


def with_gaps(maps: Tensor) -> Tensor:
    """A copy of maps in NCHW with a row of memory between each and the next; others as they are."""
    if maps.dim() == 3 or not maps.is_contiguous():
        return maps
    N, C, rows, *rest = maps.shape
    return maps.new_empty(N, C, rows + 1, *rest)[:, :, :-1].copy_(maps)


def changed_layout(
    layer: Layer, there: str, what: str, operands: Operands, algorithm: str
) -> Callable[[], Tensor]:
    """One pass whose operands are copied to another memory format, and its result back.

    A signal becomes an image of one row, for torch has no channels_last of one axis.
    """
    if len(layer.weight) == 3:
        layer = _as_image(layer)
        input, weight, bias, grad = operands
        operands = Operands(input.unsqueeze(2), weight.unsqueeze(2), bias, grad.unsqueeze(2))
    formats = replace(layer, only_format="").formats()
    here = next(f for name, f in formats.items() if name != there)

    def run() -> Tensor:
        read = {name: getattr(operands, name) for name in READS[what]}
        moved = {name: t.contiguous(memory_format=formats[there]) for name, t in read.items()}
        result = native(layer, operands._replace(**moved), algorithm)[what]()
        return result.contiguous(memory_format=here)

    return run


def _as_image(layer: Layer) -> Layer:
    """A convolution of one axis as one of two, the first of a single cell."""

    def along(value: Any, first: int) -> tuple[int, int]:
        return first, value if isinstance(value, int) else value[0]

    def with_row(size: tuple[int, ...]) -> tuple[int, ...]:
        return (*size[:2], 1, *size[2:])

    return replace(
        layer,
        input=with_row(layer.input),
        weight=with_row(layer.weight),
        stride=along(layer.stride, 1),
        padding=along(layer.padding, 0),
        dilation=along(layer.dilation, 1),
        output_padding=along(layer.output_padding, 0),
    )


def path_of(run: Callable[[], object]) -> str | None:
    """The path that a call took, as the trace names it; None if the algorithm does not serve."""
    try:
        with torch.no_grad(), cnn_ext.trace() as records:
            run()
    except RuntimeError as error:
        if "serves" in str(error):
            return None
        raise
    return records[-1].route


def line(row: Row) -> str:
    """A row as it is measured."""
    return (
        f"{row['layer']:58}{row['pass']:16}{row['format']:14}{row['milliseconds']['auto']:10.3f} ms"
        f"{row['ratio']:7.2f}{row['loss_in_layout']:7.2f}{row['loss']:7.2f}  {row['row']} -> "
        f"{row['routes']['auto']}; fastest {row['fastest']} ({row['best_ratio']:.2f})"
    )


def ending(rows: Sequence[Row]) -> list[str]:
    """How often ``"auto"`` is right, what it loses, by pass and by row of the rule; the worst rows."""
    head = f"{'rows':>6}{f'in {AS_FAST - 1:.0%}':>7}{'mean':>7}{'worst':>7}"
    lines = ["Loss: auto's time over that of the fastest. In layout: of the algorithms by name alone.",
             f"{'':40}{'in layout':>12}{'':15}{'with changes of layout':>22}",
             f"{'':40}{head}{head}  fastest where auto loses"]  # fmt: skip
    groups: dict[str, list[Row]] = {"all": list(rows)}
    for row in rows:
        groups.setdefault(row["pass"], []).append(row)
    for row in sorted(rows, key=lambda row: (row["pass"], row["row"])):
        groups.setdefault(f"{row['pass']}, {row['row']}", []).append(row)
    for name, group in groups.items():
        lost = Counter(row["fastest"] for row in group if row["loss"] > AS_FAST)
        winners = ", ".join(f"{winner} {count}" for winner, count in lost.most_common(4))
        cells = [losses([row[key] for row in group]) for key in ("loss_in_layout", "loss")]
        lines.append(f"{name:40}{''.join(cells)}  {winners}".rstrip())
    slower = sum(row["ratio"] < 0.95 for row in rows)
    still = sum(row["best_ratio"] < 0.95 for row in rows)
    lossy = [row for row in rows if row["loss"] > AS_FAST]
    worst = sorted(lossy, key=lambda row: -row["loss"])[:WORST]
    return [
        *lines,
        f"Slower than 0.95 of torch: {slower} rows with auto, {still} with the fastest path.",
        "", "The worst: milliseconds, times as fast as torch, loss in layout, loss", *map(line, worst),
    ]  # fmt: skip


def losses(values: Sequence[float]) -> str:
    """Of losses: how many, the share as fast as the fastest, the geometric mean, the worst.

    Example:
        >>> losses([1.0, 1.02, 1.5, 2.0])
        '     4    50%   1.32   2.00'
    """
    share = sum(loss <= AS_FAST for loss in values) / len(values) if values else math.nan
    worst = max(values, default=math.nan)
    return f"{len(values):6d}{share:7.0%}{geometric_mean(values):7.2f}{worst:7.2f}"
