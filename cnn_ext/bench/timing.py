"""What every benchmark here shares: fair turns, the machine, and what a ratio is.

The contenders take turns in one process, in this order and then in the reverse. Each turn is some
untimed calls, which bring its data into the cache, and one timed. Medians are compared, never the
times of two runs.

One untimed call is not enough: after 64 MB of other data a depthwise layer of 9 MB took 0.69 ms in its
second call and 0.25 in its eighth (Zen 4), torch's likewise; and the contenders share their input, so
that whoever came later found it warmer.
"""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import torch

from cnn_ext._native import _C

Row = dict[str, Any]

# Contenders that a ratio is against. The others are there to be seen: `clone` and `read` move the
# tensor once, FancyPCA, ONNX Runtime and OpenVINO are not torch.
OPPONENTS = ("eager", "compiled")
WARMING = 5  # untimed calls before each timed one, at most;
WARMING_SECONDS = 0.005  # after this time there are no more
BUSY = 0.25  # spread beyond which something else ran on the machine
FORMATS = ("NCHW", "channels_last")
LAYOUTS = dict(zip(FORMATS, (torch.contiguous_format, torch.channels_last), strict=True))


class Timed(NamedTuple):
    """Of contenders that took turns."""

    milliseconds: dict[str, float]  # medians
    spread: float  # the widest middle half of any contender's times, over its median


def turns(contenders: Mapping[str, Callable[[], object]], rounds: int, seconds: float = 0.3) -> Timed:
    """Times contenders in turns.

    Args:
        contenders: what to call, by name.
        rounds: turns that each has at least.
        seconds: where they are quick, they have more turns in this time, at most 101.

    Example:
        >>> turns({"a": lambda: None, "b": lambda: sum(range(10**5))}, rounds=3).milliseconds.keys()
        dict_keys(['a', 'b'])
    """
    times: dict[str, list[float]] = {name: [] for name in contenders}
    begin, done = time.perf_counter(), 0
    while done < rounds or (done < 101 and time.perf_counter() - begin < seconds):
        for name, run in list(contenders.items())[:: -1 if done % 2 else 1]:
            _warm(run)
            start = time.perf_counter()
            run()
            times[name].append(1e3 * (time.perf_counter() - start))
        done += 1
    medians = {name: statistics.median(values) for name, values in times.items()}
    return Timed(medians, max((_middle_half(v) for v in times.values()), default=0.0))


def _warm(run: Callable[[], object]) -> None:
    begin = time.perf_counter()
    for _ in range(WARMING):
        run()
        if time.perf_counter() - begin > WARMING_SECONDS:
            return


def _middle_half(times: Sequence[float]) -> float:
    """The distance of the quartiles over the median; 0 of a single time."""
    if len(times) < 2:
        return 0.0
    low, middle, high = statistics.quantiles(times, n=4, method="inclusive")
    return (high - low) / middle


def ratio(milliseconds: Mapping[str, float], ours: str = "ours") -> float:
    """How many times faster ours is than the best of torch's ways.

    Example:
        >>> ratio({"ours": 2.0, "eager": 5.0, "compiled": 4.0, "clone": 1.0})
        2.0
    """
    return min(milliseconds[name] for name in OPPONENTS if name in milliseconds) / milliseconds[ours]


def by_format(timed: Timed) -> dict[str, tuple[dict[str, float], float]]:
    """Sorts contenders named ``"ours NCHW"``, ``"eager channels_last"`` ... by format.

    Returns:
        For each format that ours has, milliseconds by contender, and the second ratio: the best of
        torch's ways in any format over the best of ours in any.

    Example:
        >>> times = {"ours NCHW": 4.0, "eager NCHW": 6.0, "ours channels_last": 2.0,
        ...          "eager channels_last": 5.0}
        >>> by_format(Timed(times, 0.0))["NCHW"]
        ({'ours': 4.0, 'eager': 6.0}, 2.5)
    """
    found: dict[str, dict[str, float]] = {}
    for name, milliseconds in timed.milliseconds.items():
        contender, memory_format = name.rsplit(" ", 1)
        found.setdefault(memory_format, {})[contender] = milliseconds
    ours = min(times["ours"] for times in found.values() if "ours" in times)
    torchs = min(times[name] for times in found.values() for name in OPPONENTS if name in times)
    return {
        memory_format: (times, torchs / ours)
        for memory_format, times in found.items()
        if "ours" in times
    }


def machine(peak: float | None = None) -> dict[str, Any]:
    """What a reader must know to repeat the figures.

    Args:
        peak: what :func:`peak_gflops` gave, if it was asked.
    """
    return {
        "processor": processor(),
        "capability": _C.cpu_capability(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "date": date.today().isoformat(),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "peak_gflops": peak,
    }


def processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The name that the processor has for itself."""
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def peak_gflops(sizes: Sequence[int] = (512, 1024, 1536, 2048)) -> float:
    """The most that ``torch.mm`` reaches in float32 with the threads as they are: a measured peak.

    It is that of torch's BLAS, which on some processors stays below what others reach there; and
    Winograd, with its fewer multiplications, can exceed any.
    """
    best = 0.0
    for size in sizes:
        a, b = torch.randn(size, size), torch.randn(size, size)
        result = torch.mm(a, b)
        for _ in range(5):
            start = time.perf_counter()
            torch.mm(a, b, out=result)
            best = max(best, 2e-9 * size**3 / (time.perf_counter() - start))
    return best
