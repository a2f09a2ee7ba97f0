"""The tables of the performance page, from every file in benchmarks/results.

``python -m cnn_ext bench`` writes a row for each pass, and :mod:`cnn_ext.bench` describes its fields.
The files of 2026-11-22 are older: a file is one operation, which its name ends with, and a row may have
several passes, a mapping each. Read here is what both have. Text and sizes say what was measured. A
mapping is milliseconds by contender, of whom ``ours`` is one. Other figures of the older files follow
at the end of a line; those of the newer stay in the file.
"""

import json
import math
import re
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cnn_ext.operations import OPERATIONS

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
COPIES = ("clone", "read")  # no contenders: what moving or reading the tensor once costs
RIVALS = ("albumentations", "onnxruntime", "openvino")  # contenders, but not torch's
OTHER_WORK = ("moments", "sum")  # of fitting colour PCA, which has figures of its own
TIE = 1.05  # either way: timings do not repeat more closely
NAMES = {
    **{operation.name: operation.title for operation in OPERATIONS},
    "clone": "copies",
    "read": "reads",
    "compiled": "`torch.compile`",
    "gigabytes_per_second_fitting": "fitting, GiB/s",
    "gigabytes_per_second_sum": "`sum()`, GiB/s",
    "milliseconds": "",
    "networks": "whole networks",
}
ORDER = ("convolution", "networks")  # before the others


class Row(NamedTuple):
    """One line of a table."""

    labels: dict[str, str]
    passes: dict[str, dict[str, float]]  # milliseconds by contender
    figures: dict[str, float]


def markdown() -> str:
    """The goals, then a section for each operation, the newest results first."""
    files = sorted(RESULTS.glob("*.json"), reverse=True)
    parts, sections = [], {}
    for file in files:
        results = json.loads(file.read_text())
        title = heading(file, results["machine"])
        if "goals" in results:
            parts += ["## Goals", f"### {title}", goals(results)]
        operations: dict[str, list[dict[str, Any]]] = {}
        for row in results["rows"]:
            operations.setdefault(row.get("operation", file.stem.rpartition("-")[2]), []).append(row)
        for operation, rows in operations.items():
            told = f"{machine(results['machine'])} – the file: [{file.name}]"
            sections.setdefault(operation, []).append(
                f"### {title}\n\n{told}(../benchmarks/results/{file.name})\n\n{section(rows)}"
            )
    for operation in sorted(sections, key=lambda name: (name not in ORDER, name)):
        title = named(operation)
        parts += [f"## {title[0].upper()}{title[1:]}", *sections[operation]]
    return "\n\n".join(parts)


def heading(file: Path, facts: dict[str, Any]) -> str:
    """Machine and day: as the file has them or, where it has not, as its name has."""
    day, where = re.fullmatch(r"(?:(\d{4}-\d\d-\d\d)-)?(.+)-\w+", file.stem).groups()  # type: ignore[union-attr]
    known = "date" in facts
    return f"{facts['processor'] if known else where.replace('-', ' ')}, {facts.get('date', day)}"


def machine(facts: dict[str, Any]) -> str:
    """What a reader must know to repeat the figures."""
    said = {key: f"{value:.3g}" if isinstance(value, float) else value for key, value in facts.items()}
    known = (key for key, value in said.items() if value is not None and key != "date")
    return ", ".join(f"{named(key)} {said[key]}" for key in known)


def goals(results: dict[str, Any]) -> str:
    """What was to be reached before anything was written, beside what is."""
    lines = ["| goal | wanted | measured | rows | |", "| --- | --- | --- | ---: | --- |"]
    for goal in results["goals"]:
        met = {True: "[met]{.faster}", False: "[not met]{.slower}", None: ""}[goal["met"]]
        lines.append(
            f"| {goal['goal']} | {goal['wanted']} | {goal['measured']} | {goal['rows']} | {met} |"
        )
    part = "" if results.get("complete") else "Only a part of the benchmark was run.\n\n"
    return part + "\n".join(lines)


def section(entries: list[dict[str, Any]]) -> str:
    """Who was faster how often, a picture, and a table for each set of layers."""
    sets: dict[str, list[Row]] = {}
    for entry in entries:
        sets.setdefault(entry.get("set", ""), []).append(read(entry))
    found = measurements(row for rows in sets.values() for row in rows)
    parts = [verdict([ratio for _, ratio in found]), picture(found)]
    for name, rows in sets.items():
        parts += [f"**{named(name)}**"] * bool(name) + [table(merged(rows))]
    return "\n\n".join(parts)


def read(entry: dict[str, Any]) -> Row:
    """Sorts the fields of a row by what they are."""
    labels, passes, figures = {}, {}, {}
    newer = "operation" in entry
    for name, value in entry.items():
        if name in ("operation", "set", "family", "pass"):
            continue
        if isinstance(value, dict):
            passes[entry.get("pass", name)] = timed(value)
        elif isinstance(value, list):
            labels[name] = "×".join(map(str, value))
        elif isinstance(value, str):
            labels[name] = value
        elif isinstance(value, float) and not newer:
            figures[name] = value
    if not passes:
        raise ValueError(f"expected milliseconds by contender in every row, got {entry}")
    return Row(labels, passes, figures)


def timed(times: dict[str, float]) -> dict[str, float]:
    """Milliseconds by contender, ours first."""
    marked = {name.removesuffix("_ms"): ms for name, ms in times.items() if name.endswith("_ms")}
    known = marked or {name: ms for name, ms in times.items() if name not in OTHER_WORK}
    return {"ours": known.pop("ours"), **known}


def merged(rows: Iterable[Row]) -> list[Row]:
    """Rows that say the same of what was measured become one, with the passes of all."""
    lines: dict[tuple[str, ...], Row] = {}
    for row in rows:
        line = lines.setdefault(tuple(row.labels.values()), Row(row.labels, {}, row.figures))
        line.passes.update(row.passes)
    return list(lines.values())


def measurements(rows: Iterable[Row]) -> list[tuple[str, float]]:
    """Of every pass what it is, and how many times faster ours is than the fastest of torch's ways."""
    found = []
    for row in rows:
        for name, times in row.passes.items():
            torch = [ms for who, ms in times.items() if who not in ("ours", *COPIES, *RIVALS)]
            if torch:
                what = ", ".join(filter(None, [*row.labels.values(), named(name)]))
                found.append((what, min(torch) / times["ours"]))
    return found


def verdict(ratios: list[float]) -> str:
    """The figures counted."""
    if not ratios:
        return "Nothing was measured against torch."
    counts = Counter(map(kind, ratios))
    return (
        f"**{len(ratios)} measurements against the fastest of torch's ways: {counts['faster']} faster, "
        f"{counts['tie']} within 5 %, {counts['slower']} slower.** From {min(ratios):.3g} to "
        f"{max(ratios):.3g} times as fast, median {statistics.median(ratios):.3g}."
    )


def table(rows: Sequence[Row]) -> str:
    """Every row; of every pass ours in milliseconds, and how many times faster than each other."""
    words: dict[str, Callable[[Row], str]] = {}
    numbers: dict[str, Callable[[Row], str]] = {}
    mixed = any(row.labels.get("dtype", "float32") != "float32" for row in rows)
    for row in rows:
        for label in row.labels if mixed else [key for key in row.labels if key != "dtype"]:
            words.setdefault(named(label), lambda r, k=label: r.labels.get(k, ""))
        for name, times in row.passes.items():
            for who in times:
                title = f"{named(name)} {'ms' if who == 'ours' else named(who)}"
                numbers.setdefault(title, lambda r, n=name, w=who: cell(r.passes.get(n, {}), w))
    for figure in {key: None for row in rows for key in row.figures}:
        numbers[named(figure)] = lambda r, k=figure: f"{r.figures[k]:.3g}" if k in r.figures else ""
    columns = words | numbers
    rule = ["---"] * len(words) + ["---:"] * len(numbers)
    lines = [list(columns), rule, *([text(row) for text in columns.values()] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cell(times: dict[str, float], who: str) -> str:
    """Milliseconds of ours; copies that fit into ours; how many times faster than a contender."""
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
    powers = [math.log2(ratio) for _, ratio in found]
    low, high = min(-2, *map(math.floor, powers)), max(2, *map(math.ceil, powers))

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
    return NAMES.get(key, key.replace("_", " "))
