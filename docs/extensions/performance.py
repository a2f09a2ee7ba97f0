"""The tables of the performance page, from every file in benchmarks/results.

A file holds ``machine`` and ``rows``. In a row, text, whole numbers and sizes say what was measured. A
mapping is a pass: milliseconds by contender, of whom ``ours`` is one and all had turns in the same run.
Names end in ``_ms`` where other figures stand beside them, and where a row is a single pass and has no
mapping. Other figures of a row follow at the end of the line.
"""

import json
import math
import re
import statistics
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
OURS = ("ours", "cnn_ext")
COPIES = ("clone", "copy")  # no opponents: what moving the tensor once costs
OTHER_WORK = ("moments", "sum")  # of fitting colour PCA, which has figures of its own
TIE = 1.05  # either way: timings do not repeat more closely
NAMES = {
    "clone": "copies",
    "color_pca": "colour PCA",
    "compiled": "`torch.compile`",
    "gigabytes_per_second_fitting": "fitting, GiB/s",
    "gigabytes_per_second_sum": "`sum()`, GiB/s",
}


class Row(NamedTuple):
    """One line of a table."""

    labels: dict[str, str]
    passes: dict[str, dict[str, float]]  # milliseconds by contender
    figures: dict[str, float]


def markdown() -> str:
    """A section for each operation, the newest results first."""
    by_operation: dict[str, list[Path]] = {}
    for file in sorted(RESULTS.glob("*.json"), reverse=True):
        by_operation.setdefault(file.stem.rpartition("-")[2], []).append(file)
    parts = []
    for operation in sorted(by_operation, key=lambda name: (name != "convolution", name)):
        title = named(operation)
        parts += [f"## {title[0].upper()}{title[1:]}", *map(section, by_operation[operation])]
    return "\n\n".join(parts)


def section(file: Path) -> str:
    """One file: the machine, who was faster how often, a picture, the table."""
    results = json.loads(file.read_text())
    day, where = re.fullmatch(r"(?:(\d{4}-\d\d-\d\d)-)?(.+)-\w+", file.stem).groups()  # type: ignore[union-attr]
    machine = ", ".join(f"{named(key)} {value}" for key, value in results["machine"].items())
    rows = [read(row) for row in results["rows"]]
    parts = [
        f"### {where.replace('-', ' ')}, {results.get('date', day)}",
        f"{machine} – the file: [{file.name}](../benchmarks/results/{file.name})",
        verdict([ratio for _, ratio in measurements(rows)]),
        picture(measurements(rows)),
        table(rows),
    ]
    return "\n\n".join(parts)


def read(row: dict[str, Any]) -> Row:
    """Sorts the entries of a row by what they are."""
    labels, figures, flat = {}, {}, {}
    passes = {name: timed(times) for name, times in row.items() if isinstance(times, dict)}
    for name, value in row.items():
        if isinstance(value, float):
            (flat if name.endswith("_ms") else figures)[name] = value
        elif isinstance(value, list):
            labels[name] = "×".join(map(str, value))
        elif isinstance(value, str | int):
            labels[name] = str(value)
    if flat:
        passes[""] = timed(flat)
    if not passes:
        raise ValueError(f"expected milliseconds by contender in every row, got {row}")
    return Row(labels, passes, figures)


def timed(times: dict[str, float]) -> dict[str, float]:
    """Milliseconds by contender, ours first, under the name "ours"."""
    marked = {name.removesuffix("_ms"): ms for name, ms in times.items() if name.endswith("_ms")}
    known = marked or {name: ms for name, ms in times.items() if name not in OTHER_WORK}
    (ours,) = (name for name in known if name in OURS)
    return {"ours": known.pop(ours), **known}


def measurements(rows: Iterable[Row]) -> list[tuple[str, float]]:
    """Of every pass what it is, and how many times faster ours is than the fastest of the others."""
    found = []
    for row in rows:
        for name, times in row.passes.items():
            if others := [ms for who, ms in times.items() if who not in ("ours", *COPIES)]:
                found.append(
                    (", ".join([*row.labels.values(), named(name)]), min(others) / times["ours"])
                )
    return found


def verdict(ratios: list[float]) -> str:
    """The figures counted."""
    counts = Counter(map(kind, ratios))
    return (
        f"**{len(ratios)} measurements against the fastest of the others: {counts['faster']} faster, "
        f"{counts['tie']} within 5 %, {counts['slower']} slower.** From {min(ratios):.2g} to "
        f"{max(ratios):.3g} times as fast, median {statistics.median(ratios):.2g}."
    )


def table(rows: list[Row]) -> str:
    """Every row; of every pass ours in milliseconds, and how many times faster than each other."""
    columns: dict[str, Callable[[Row], str]] = {}
    for row in rows:
        for label in row.labels:
            columns.setdefault(named(label), lambda r, key=label: r.labels.get(key, ""))
        for name, times in row.passes.items():
            for who in times:
                title = f"{named(name)} ms" if who == "ours" else f"{named(name)} {named(who)}"
                columns.setdefault(title, lambda r, n=name, w=who: cell(r.passes.get(n, {}), w))
    for row in rows:
        for figure in row.figures:
            columns.setdefault(
                named(figure), lambda r, k=figure: f"{r.figures[k]:.3g}" if k in r.figures else ""
            )
    words = sum(named(label) in columns for label in {label for row in rows for label in row.labels})
    rule = ["---"] * words + ["---:"] * (len(columns) - words)
    lines = [list(columns), rule, *([text(row) for text in columns.values()] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cell(times: dict[str, float], who: str) -> str:
    """Milliseconds of ours; copies that fit into ours; how many times faster than an opponent."""
    if who not in times:
        return ""
    if who == "ours":
        return f"{times[who]:.3g}"
    if who in COPIES:
        return f"{times['ours'] / times[who]:.3g}"
    ratio = times[who] / times["ours"]
    return f"[{ratio:.3g}]{{.{kind(ratio)}}}"


def kind(ratio: float) -> str:
    """Which of the three it is; the style sheet knows the words."""
    return "faster" if ratio > TIE else "slower" if ratio < 1 / TIE else "tie"


def picture(found: list[tuple[str, float]]) -> str:
    """Every measurement as a dot on a logarithmic line, ours faster to the right of 1."""
    low = min(-2, math.floor(min(math.log2(ratio) for _, ratio in found)))
    high = max(2, math.ceil(max(math.log2(ratio) for _, ratio in found)))

    def x(power: float) -> float:
        return 20 + 600 * (power - low) / (high - low)

    ticks = "".join(
        f'<line x1="{x(p):.1f}" x2="{x(p):.1f}" y1="8" y2="56" class="{"one" if p == 0 else "tick"}"/>'
        f'<text x="{x(p):.1f}" y="74">{2.0**p:g}</text>'
        for p in range(low, high + 1)
    )
    dots = "".join(
        f'<circle cx="{x(math.log2(ratio)):.1f}" cy="{16 + 16 * (i % 3)}" r="5"'
        f' class="{kind(ratio)}"><title>{what}: {ratio:.3g}</title></circle>'
        for i, (what, ratio) in enumerate(found)
    )
    return (
        f'<svg class="ratios" viewBox="0 0 640 82" role="img" aria-label="{len(found)} ratios">'
        f"{ticks}{dots}</svg>"
    )


def named(key: str) -> str:
    """A field's name as people read it."""
    return NAMES.get(key, "" if key == "milliseconds" else key.replace("_", " "))
