"""``python -m cnn_ext run``: anybody's script, unchanged, with torch's convolutions on our kernels.

The script runs as Python itself would run it: ``sys.argv``, ``sys.path``, ``__main__``, errors and the
exit status are its own.
"""

from __future__ import annotations

import builtins
import io
import os
import runpy
import signal
import sys
import types
import zipfile
from collections.abc import Sequence
from pathlib import Path

from cnn_ext import _early
from cnn_ext._native import _C
from cnn_ext.enabling import Calls, call_counts, enable

OURS = (__file__, "<frozen runpy>", runpy.__file__)  # files whose frames no traceback shows


def run(script: str, arguments: Sequence[str], *, module: bool = False, summary: bool = False) -> int:
    """Runs a script to its end.

    Args:
        script: a file, a folder or an archive with a ``__main__.py``, or the name of a module.
        arguments: the script's.
        module: whether it is a module, as in ``python -m``.
        summary: whether to print, on standard error, where the time of the convolutions went.

    Returns:
        The exit status of a script that ends by itself or with an error; ``SystemExit`` passes through.
    """
    if not module and not Path(script).exists():
        print(f"cnn-ext run: {script}: there is no such script", file=sys.stderr)
        return 2
    if signal.getsignal(signal.SIGINT) is _early.stop:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    process = os.getpid()
    enable()
    totals = _C.begin_totals() if summary else None
    try:
        return _status_of(script, arguments, module)
    finally:
        if totals is not None and os.getpid() == process:  # a forked child may come here too
            print(table(_C.end_totals(totals), call_counts()), file=sys.stderr)


def _status_of(script: str, arguments: Sequence[str], module: bool) -> int:
    sys.argv = [script, *arguments]
    try:
        if module:
            _first_on_path(os.getcwd())
            runpy.run_module(script, run_name="__main__", alter_sys=True)
        elif Path(script).is_file() and not _is_archive(script):
            _first_on_path(os.path.dirname(os.path.realpath(script)))
            _execute(script)
        else:
            # Absolute, as Python has it on sys.path; sys.argv[0] is absolute then too.
            runpy.run_path(os.path.abspath(script), run_name="__main__")
    except SystemExit:
        raise
    except BaseException as error:
        traceback = error.__traceback__
        while traceback is not None and traceback.tb_frame.f_code.co_filename in OURS:
            traceback = traceback.tb_next
        error.__traceback__ = traceback
        sys.excepthook(type(error), error, traceback)
        return 130 if isinstance(error, KeyboardInterrupt) else 1
    return 0


def _first_on_path(folder: str) -> None:
    if not sys.flags.safe_path:
        sys.path[0] = folder


def _is_archive(script: str) -> bool:
    """Whether Python runs it otherwise than as source."""
    return script.endswith(".pyc") or zipfile.is_zipfile(script)


def _execute(script: str) -> None:
    """A file as ``__main__``, which stays: threads and exit handlers may ask for it."""
    with io.open_code(os.path.abspath(script)) as file:
        code = compile(file.read(), script, "exec", dont_inherit=True)
    main = types.ModuleType("__main__")
    main.__dict__.update(__file__=os.path.abspath(script), __builtins__=builtins, __cached__=None)
    sys.modules["__main__"] = main
    exec(code, main.__dict__)


def table(totals: Sequence[tuple[str, str, str, int, float]], counts: Sequence[Calls]) -> str:
    """What ran where.

    Args:
        totals: operation, pass, route, calls and milliseconds.
        counts: what :func:`cnn_ext.enabling.call_counts` tells.

    Example:
        >>> counts = [Calls("convolution", "", 9, 75), Calls("convolution", "torch: dtype", 1, 25)]
        >>> print(table([("convolution", "forward", "winograd", 9, 2.0)], counts))
        cnn_ext: calls and milliseconds by operation and route
        operation    pass     route     calls   ms
        convolution  forward  winograd      9  2.0
        Stayed on torch: 25.0 % of the multiply-adds
        operator           why    calls  multiply-adds
        aten::convolution  dtype      1         25.0 %
    """
    lines = ["cnn_ext: calls and milliseconds by operation and route"]
    if not totals:
        return lines[0] + ": none of torch's operators reached our kernels"
    by_time = sorted(totals, key=lambda total: -total[4])
    rows = [(*names, str(calls), f"{ms:.1f}") for *names, calls, ms in by_time]
    lines += _aligned([("operation", "pass", "route", "calls", "ms"), *rows], numbers=2)
    work = sum(count.multiply_adds for count in counts) or 1
    handed_back = [count for count in counts if count.handed_back]
    share = sum(count.multiply_adds for count in handed_back) / work
    lines.append(f"Stayed on torch: {100 * share:.1f} % of the multiply-adds")
    if handed_back:
        rows = [
            (
                f"aten::{count.operator}",
                count.handed_back.removeprefix("torch: "),
                str(count.calls),
                f"{100 * count.multiply_adds / work:.1f} %",
            )
            for count in handed_back
        ]
        lines += _aligned([("operator", "why", "calls", "multiply-adds"), *rows], numbers=2)
    return "\n".join(lines)


def _aligned(rows: Sequence[tuple[str, ...]], numbers: int) -> list[str]:
    """Rows in columns; the last ones, ``numbers`` of them, are flush right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    first = len(widths) - numbers
    return [
        "  ".join(
            cell.rjust(width) if column >= first else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
