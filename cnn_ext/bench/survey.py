"""``bench random`` and ``bench paths``: what no goal is about, on layers that nobody tuned for.

A survey is a module with ``rows(options)``, ``line(row)``, which is None for a row that need not be
shown as it is measured, and ``ending(rows)``, the lines of its tables.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cnn_ext.bench.options import Options
from cnn_ext.bench.report import Report
from cnn_ext.bench.timing import Row, machine
from cnn_ext.enabling import torch_only

SURVEYS = {"random": "random_rows", "paths": "paths"}  # by name, the module
OPERATIONS = ("convolution", "conv_transpose", "linear", "max_pool")  # of random layers


@dataclass(frozen=True)
class SurveyOptions(Options):
    """What a person asks of a survey, beside what all benchmarks share.

    Args:
        seeds: of random layers; if there are none, ``random`` takes seed 0 and ``paths`` the layers of
            the benchmark.
        count: random layers of each seed.
        operation: one of :data:`OPERATIONS`; random layers are of it.
        im2col: the patch matrix is a path too.
    """

    seeds: tuple[int, ...] = ()
    count: int = 100
    operation: str = "convolution"
    im2col: bool = False


@dataclass
class Survey(Report):
    """The rows of a survey. Its table is its own; goals speak of the benchmark's rows alone."""

    what: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Everything, in what JSON has."""
        found = super().to_dict()
        del found["goals"]
        return {"survey": self.what, **found}

    def collected(self, rows: Iterable[Row], out: Path | None) -> Iterator[Row]:
        """Rows as they are measured, kept, and written to the file if there is one."""
        try:
            for row in rows:
                self.rows.append(row)
                yield row
                if out and len(self.rows) % 50 == 0:
                    self.write(out)
            self.complete = True
        finally:
            if out and self.rows:
                self.write(out)

    def ending(self) -> str:
        """The tables and, if there is reason, a warning."""
        return "\n".join(["", *_module(self.what).ending(self.rows), *self.warnings()])


@torch_only()
def run(
    what: str,
    options: SurveyOptions,
    show: Callable[[str], object] | None = None,
    out: Path | None = None,
) -> Survey:
    """Runs a survey.

    Args:
        what: one of :data:`SURVEYS`.
        options: see :class:`SurveyOptions`.
        show: gets every line as it is known.
        out: the JSON is written there from time to time and at the end, so that a run that is stopped
            keeps what it has.

    Raises:
        ValueError: a layer or a set that there is not; the message lists those that there are.
    """
    module = _module(what)
    survey = Survey(machine(), complete=False, what=what)
    show = show or (lambda _: None)
    show(", ".join(f"{key} {value}" for key, value in survey.machine.items() if value is not None))
    for row in survey.collected(module.rows(options), out):
        text = module.line(row)
        if text is not None:
            show(text)
    show(survey.ending())
    return survey


def _module(what: str):
    return importlib.import_module(f"cnn_ext.bench.{SURVEYS[what]}")
