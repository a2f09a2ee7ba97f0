"""Goals that were set before the kernels were written, held against what was measured.

They are data, ``shapes/goals.json``: which rows (``where``: fields and their values), which ``figure``
of each, and what its geometric mean (``mean_at_least``) or every row (``each_at_least``,
``each_at_most``) must be. None is left out of the table: what was not measured is said to be so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cnn_ext.bench.options import shapes
from cnn_ext.bench.timing import FORMATS, Row


@dataclass(frozen=True)
class Verdict:
    """One line of the table."""

    goal: str
    wanted: str
    measured: str
    rows: int
    met: bool | None  # None: not measured
    same_format: dict[str, float]  # of a ratio between best formats: its mean within each


def verdicts(rows: Sequence[Row], threads: int) -> list[Verdict]:
    """All goals.

    Args:
        rows: of any benchmarks.
        threads: that they ran on.

    Example:
        >>> row = {"operation": "convolution", "dtype": "float32", "format": "NCHW", "pass": "forward",
        ...        "layer": "LeNet C3", "family": "first layer", "ratio": 1.1, "ratio_any_format": 1.2}
        >>> for verdict in verdicts([row], threads=2):
        ...     if verdict.rows:
        ...         print(verdict.goal, verdict.wanted, verdict.measured, verdict.met)
        first layers (VGG 1_1, LeNet C1, C3): forward mean ≥ 3 mean 1.2 False
        LeNet C3: forward each ≥ 1.5 least 1.2 (LeNet C3) False
    """
    return [verdict(goal, rows, threads) for goal in shapes("goals")]


def verdict(goal: Mapping[str, Any], rows: Sequence[Row], threads: int) -> Verdict:
    """One goal, held against the rows that it speaks of."""
    chosen = [row for row in rows if _fits(row, goal["where"])]
    found = [
        (value, row) for row in chosen if (value := figure(row, goal["figure"], threads)) is not None
    ]
    values = [value for value, _ in found]
    wanted, measured, met = [], [], []
    if (bound := goal.get("mean_at_least")) is not None:
        wanted.append(f"mean ≥ {bound:g}")
        measured.append(f"mean {geometric_mean(values):.3g}")
        met.append(geometric_mean(values) >= bound)
    if (bound := goal.get("each_at_least")) is not None:
        value, row = min(found, key=lambda pair: pair[0], default=(math.nan, {}))
        wanted.append(f"each ≥ {bound:g}")
        measured.append(f"least {value:.3g} ({label(row)})")
        met.append(value >= bound)
    if (bound := goal.get("each_at_most")) is not None:
        value, row = max(found, key=lambda pair: pair[0], default=(math.nan, {}))
        wanted.append(f"each ≤ {bound:g}")
        measured.append(f"most {value:.3g} ({label(row)})")
        met.append(value <= bound)
    return Verdict(
        goal=goal["goal"],
        wanted=", ".join(wanted),
        measured=", ".join(measured) if found else "not measured",
        rows=len(found),
        met=all(met) if found else None,
        same_format=_same_format(goal, rows) if found else {},
    )


def _same_format(goal: Mapping[str, Any], rows: Sequence[Row]) -> dict[str, float]:
    """The geometric mean of the ratio within a format, for each."""
    if goal["figure"] != "ratio_any_format":
        return {}
    means = {}
    for name in FORMATS:
        chosen = [row["ratio"] for row in rows if _fits(row, {**goal["where"], "format": name})]
        if chosen:
            means[name] = geometric_mean(chosen)
    return means


def _fits(row: Row, where: Mapping[str, Any]) -> bool:
    return all(
        row.get(key) in (wanted if isinstance(wanted, list) else [wanted])
        for key, wanted in where.items()
    )


def figure(row: Row, name: str, threads: int) -> float | None:
    """A figure of a row: one that it has, or one that follows from those; None if it has not.

    Example:
        >>> figure({"milliseconds": {"ours": 2.0, "eager": 30.0, "clone": 1.0}}, "over eager", 2)
        15.0
        >>> figure({"milliseconds": {"ours": 2.0, "clone": 1.0}}, "clones", 2)
        2.0
    """
    times = row.get("milliseconds", {})
    if name in row:
        return row[name]
    if name.startswith("over "):
        other = name.removeprefix("over ")
        return times[other] / times["ours"] if other in times else None
    if name in ("clones", "reads"):
        unit = name.removesuffix("s")
        return times["ours"] / times[unit] if unit in times else None
    if "error" not in row or "workspace_mib" not in row:
        return None
    return {
        "workspace_per_thread": max(0, row["workspace_twice_mib"] - row["weights_mib"]) / threads,
        "workspace_growth": row["workspace_twice_mib"] - row["workspace_mib"],
        "implicit_gemm_over_torch": row["implicit_gemm_error"] / row["torch_error"],
    }[name]


def geometric_mean(values: Sequence[float]) -> float:
    """Of ratios: that of 2 and 1/2 is 1."""
    return math.exp(sum(map(math.log, values)) / len(values)) if values else math.nan


def label(row: Row) -> str:
    """What a row is about: the layer, the network, or the shape of the tensor.

    Example:
        >>> label({"layer": "VGG 1_1", "pass": "forward"}), label({"shape": [3, 8, 8]})
        ('VGG 1_1', '3x8x8')
    """
    if "shape" in row:
        return "x".join(map(str, row["shape"]))
    return row.get("layer") or row.get("network") or ""
