"""Rows as lines of a terminal, as JSON, as a picture; and the table of goals."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cnn_ext.bench.goals import label, verdicts
from cnn_ext.bench.timing import BUSY, Row

TIE = 1.05  # either way: timings do not repeat more closely
FASTER, SLOWER = "#2a7f62", "#c4572f"  # bars of the picture


@dataclass
class Report:
    """What was measured.

    Args:
        machine: see :func:`cnn_ext.bench.timing.machine`.
        complete: whether nothing was left out.
        rows: see :mod:`cnn_ext.bench`.
    """

    machine: dict[str, Any]
    complete: bool
    rows: list[Row] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Everything, in what JSON has; the verdicts on the goals too."""
        goals = [asdict(verdict) for verdict in verdicts(self.rows, self.machine["threads"])]
        return {
            "machine": self.machine,
            "complete": self.complete,
            "rows": self.rows,
            "goals": goals,
        }

    def to_json(self) -> str:
        """:meth:`to_dict` as text."""
        return json.dumps(_finite(self.to_dict()), indent=1)

    def write(self, path: Path) -> None:
        """Writes the JSON; makes the folder if there is none."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.to_json() + "\n")

    def ending(self) -> str:
        """What follows the rows: how many were faster, the goals, a warning."""
        return "\n".join(["", summary(self.rows), "", *self.goals(), *self.warnings()])

    def goals(self) -> list[str]:
        """The table of goals, as lines."""
        found = verdicts(self.rows, self.machine["threads"])
        wide = max(len(verdict.measured) for verdict in found)
        part = "" if self.complete else ", of the part that was measured"
        lines = [
            f"{f'goals{part}':76}{'wanted':24}{'measured':{wide}}  rows          NCHW  channels_last"
        ]
        for v in found:
            met = {True: "met", False: "not met", None: ""}[v.met]
            same = "".join(
                f"{v.same_format[name]:{width}.2f}" if name in v.same_format else " " * width
                for name, width in (("NCHW", 8), ("channels_last", 15))
            )
            lines.append(
                f"{v.goal:76}{v.wanted:24}{v.measured:{wide}}{v.rows:6d}  {met:8}{same}".rstrip()
            )
        return [*lines, "NCHW, channels_last: the mean of the ratio within that format."]

    def warnings(self) -> list[str]:
        """That the machine was busy, if it was."""
        wide = [row for row in self.rows if row["spread"] > BUSY]
        if not wide:
            return []
        return [
            f"! The times of {len(wide)} of {len(self.rows)} rows vary by more than {BUSY:.0%}: other "
            f"work ran on this machine (load {self.machine['load']:.1f} at the start), and the ratios "
            "of these rows are not to be trusted. Run again when it is idle."
        ]

    def plot(self):
        """Ratios as bars: a matplotlib figure."""
        return picture(self.rows, self.machine)


def heading(operation: str) -> str:
    """The line above the rows of a benchmark."""
    head = f"{operation:40}{'pass':20}{'format':14}{'ms':>10}{'torch':>10}{'ratio':>7}{'any':>7}"
    if operation == "convolution":
        head += f"{'GFLOP/s':>9}{'of peak':>8}{'MiB':>8}{'error':>9}{'torch':>9}  algorithm"
    else:
        head += "   over"
    return head


def line(row: Row, peak: float | None = None) -> str:
    """One row; whether we win or lose, it looks the same.

    Example:
        >>> row = {"operation": "networks", "network": "LeNet-5", "pass": "training", "format": "NCHW",
        ...        "milliseconds": {"ours": 2.0, "eager": 3.0}, "ratio": 1.5, "spread": 0.0}
        >>> line(row).split()
        ['LeNet-5', 'training', 'NCHW', '2.00', '3.00', '1.50', 'eager', '1.50']
    """
    ours = row["milliseconds"]["ours"]
    ratio = row.get("ratio")

    def cell(value: float | None, width: int, form: str) -> str:
        return " " * width if value is None else f"{value:{width}{form}}"

    dtype = "" if row.get("dtype", "float32") == "float32" else f" {row['dtype']}"
    text = (
        f"{label(row) + dtype:40}{row['pass']:20}{row['format']:14}"
        f"{_milliseconds(ours)}{_milliseconds(ours * ratio) if ratio else ' ' * 10}"
        f"{cell(ratio, 7, '.2f')}{cell(row.get('ratio_any_format'), 7, '.2f')}"
    )
    if row["operation"] == "convolution":
        text += (
            f"{row['gflops']:9.0f}{cell(row['gflops'] / peak if peak else None, 8, '.0%')}"
            f"{cell(row.get('workspace_mib'), 8, '.2f')}{cell(row.get('error'), 9, '.1e')}"
            f"{cell(row.get('torch_error'), 9, '.1e')}  {row['algorithm']}"
        )
    else:
        others = {name: t / ours for name, t in row["milliseconds"].items() if name != "ours"}
        text += "  " + "".join(f" {name} {over:.2f}" for name, over in others.items())
    return text + (f"  (varies by {row['spread']:.0%})" if row["spread"] > BUSY else "")


def _milliseconds(value: float) -> str:
    digits = 1 if value >= 1000 else 2 if value >= 1 else 4
    return f"{value:10.{digits}f}"


def summary(rows: Sequence[Row]) -> str:
    """How many rows are faster than the best of torch's ways, and how many slower."""
    ratios = [row["ratio"] for row in rows if "ratio" in row]
    if not ratios:
        return "Nothing was measured against torch."
    won, lost = sum(r > TIE for r in ratios), sum(r < 1 / TIE for r in ratios)
    return (
        f"{len(ratios)} rows against the best of torch in the same format: {won} faster, "
        f"{len(ratios) - won - lost} within 5 %, {lost} slower; from {min(ratios):.2f} to "
        f"{max(ratios):.2f} times as fast."
    )


def picture(rows: Iterable[Row], machine: Mapping[str, Any]):
    """A bar for each row that has a ratio: a panel for each pass, a line for each layer and format.

    Bars to the right of 1 are rows where ours is faster, to the left where torch is. Of both formats,
    the lower and paler bar is channels_last.
    """
    from matplotlib.figure import Figure

    kept = [row for row in rows if "ratio" in row]
    groups: dict[str, list[Row]] = {}
    for row in kept:
        groups.setdefault(row["operation"], []).append(row)
    sizes = [len({_line_of(row) for row in group}) for group in groups.values()]
    columns = max((len({row["pass"] for row in group}) for group in groups.values()), default=1)
    heights = [0.24 * size + 1.3 for size in sizes] or [2.0]
    figure = Figure(figsize=(4.5 + 2.4 * columns, sum(heights) + 0.5), layout="constrained")
    where = [f"{key} {machine[key]}" for key in ("processor", "capability", "threads", "torch", "date")
             if key in machine]  # fmt: skip
    figure.suptitle(", ".join(where), fontsize=10)
    parts = figure.subfigures(max(1, len(groups)), 1, height_ratios=heights, squeeze=False)[:, 0]
    for part, (operation, group) in zip(parts, groups.items(), strict=False):
        _panels(part, operation, group)
    return figure


def _line_of(row: Row) -> str:
    """What stands at the left of its bars."""
    dtype = row.get("dtype", "float32")
    return label(row) + ("" if dtype == "float32" else f", {dtype}")


def _panels(part, operation: str, rows: Sequence[Row]) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    passes = list(dict.fromkeys(row["pass"] for row in rows))
    lines = list(dict.fromkeys(map(_line_of, rows)))
    low = min(0.5, *(row["ratio"] for row in rows)) / 1.15
    high = max(2.0, *(row["ratio"] for row in rows)) * 1.15
    powers = [2.0**p for p in range(math.ceil(math.log2(low)), math.floor(math.log2(high)) + 1)]
    axes = part.subplots(1, len(passes), sharey=True, squeeze=False)[0]
    for ax, what in zip(axes, passes, strict=True):
        for row in (row for row in rows if row["pass"] == what):
            ratio, last = row["ratio"], row["format"] == "channels_last"
            ax.barh(lines.index(_line_of(row)) + (0.2 if last else -0.2), ratio - 1, 0.38, left=1,
                    color=FASTER if ratio > 1 else SLOWER, alpha=0.6 if last else 1.0)  # fmt: skip
        ax.axvline(1, color="black", linewidth=1)
        ax.set(xscale="log", xlim=(low, high), ylim=(len(lines) - 0.4, -0.6), title=what)
        ax.xaxis.set_major_locator(FixedLocator(powers[:: max(1, len(powers) // 5)]))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        ax.set_yticks(range(len(lines)), lines, fontsize=8)
        ax.grid(axis="x", alpha=0.3)
        ax.set_axisbelow(True)
    part.suptitle(
        f"{operation.replace('_', ' ')}: times faster than the best of torch in the same format "
        "(above NCHW, below, paler, channels_last)", fontsize=10,
    )  # fmt: skip


def _finite(value: Any) -> Any:
    """JSON has neither NaN nor infinity."""
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
