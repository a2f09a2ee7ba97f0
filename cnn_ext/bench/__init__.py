"""``python -m cnn_ext bench``: every operation and whole networks against torch's, in one process.

The JSON that ``--out`` and ``--json`` give::

    {"machine": {"processor", "capability", "threads", "torch", "date", "load", "peak_gflops"},
     "complete": true if nothing was left out, in float32 on full rounds,
     "rows": [...],
     "goals": [{"goal", "wanted", "measured", "rows", "met": true, false or null, "same_format"}]}

Fields of every row:

``operation``
    The name of an operation (:mod:`cnn_ext.operations`), or ``"networks"``.
``layer`` and its ``set`` and ``family``; ``network``; or ``shape``
    What was measured. A family is a set of layers that a goal is about. The shape of a dense layer is
    its rows of input, ``in_features`` and ``out_features``.
``pass``, ``format``, ``dtype``
    ``"forward"``, ``"input gradient"`` ...; ``"NCHW"`` (any contiguous tensor) or ``"channels_last"``.
``milliseconds``
    Medians by contender: ``ours``; torch's ways in this format, ``eager`` and ``compiled``; and those
    that no ratio is against: ``clone`` (one copy of the tensor), ``read`` (one sum over as many bytes),
    ``albumentations``, ``onnxruntime``, ``openvino``.
``ratio``
    The best of torch's ways in this format over ours: above 1 ours is faster.
``ratio_any_format``
    The best of torch's ways in any format over the best of ours in any; of convolution and networks.
``spread``
    The widest middle half of a contender's times over its median, of all that took turns.

``bench random`` and ``bench paths`` are surveys (:mod:`cnn_ext.bench.survey`): their JSON has
``survey``, the name, and no goals; fields of their own are described in their modules.

Of convolution also ``algorithm`` (what ``"auto"`` takes forward), ``gflops`` and ``torch_gflops``, and
of its first three passes ``workspace_mib`` beside the result, ``workspace_twice_mib`` with twice the
batch, ``weights_mib`` that transformed weights may take of it, and relative rms errors against float64:
``error``, ``implicit_gemm_error`` (without Winograd), ``torch_error``. Of LRN ``memory``
(``"in cache"`` or ``"beyond cache"``), ``error`` and ``torch_error``; of networks ``difference``, from
torch's output; of colour PCA's fitting ``gigabytes_per_second``.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from cnn_ext.bench.options import Options, check
from cnn_ext.bench.report import Report, heading, line
from cnn_ext.bench.timing import machine, peak_gflops
from cnn_ext.enabling import torch_only
from cnn_ext.operations import BENCHMARKS


@torch_only()
def run(
    what: str = "all",
    options: Options | None = None,
    show: Callable[[str], object] | None = None,
    out: Path | None = None,
) -> Report:
    """Runs one benchmark or all.

    Args:
        what: one of :data:`cnn_ext.operations.BENCHMARKS`, or ``"all"``.
        options: see :class:`cnn_ext.bench.options.Options`.
        show: gets every line as it is known.
        out: the JSON is written there after each row, so that a run that is stopped keeps what it has.

    Raises:
        ValueError: a layer or a set that there is not; the message lists those that there are.

    Example:
        >>> report = run("convolution", Options(names=("LeNet C5",), quick=True))
        >>> [row["pass"] for row in report.rows if row["format"] == "NCHW"]
        ['forward', 'input gradient', 'weight gradient', 'both gradients', 'training']
    """
    options = options or Options()
    modules = {name: module(name) for name in BENCHMARKS if what in (name, "all")}
    known = {name: benchmark.names(options) for name, benchmark in modules.items()}
    check(options, known)
    peak = peak_gflops()
    limited = options.names or options.sets or options.quick or options.dtype != "float32"
    report = Report(machine(peak), complete=what == "all" and not limited)
    show = show or (lambda _: None)
    show(", ".join(f"{key} {_short(value)}" for key, value in report.machine.items()))
    for name, benchmark in modules.items():
        if options.wanted(known[name]):
            show(f"\n{heading(name)}")
        for row in benchmark.rows(options):
            report.rows.append(row)
            show(line(row, peak))
            if out:
                report.write(out)
    show(report.ending())
    return report


def module(name: str) -> ModuleType:
    """The module of a benchmark: ``names`` and ``rows``."""
    return importlib.import_module(f"cnn_ext.bench.{name}")


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
