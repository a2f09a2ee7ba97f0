"""What the benchmarks on a GPU share: times of the device, and contenders that take turns.

A benchmark is a file with the name of its operation and a function ``rows(device, quick, rounds)``,
which yields (name, figures).
"""

import statistics
import time
from collections.abc import Callable, Mapping

import torch


def milliseconds(run: Callable[[], object], device: str) -> float:
    """Of one call, after an untimed one."""
    run()
    if device != "cuda":
        start = time.perf_counter()
        run()
        return 1e3 * (time.perf_counter() - start)
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    run()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end)


def medians(runs: Mapping[str, Callable[[], object]], device: str, rounds: int) -> dict[str, float]:
    """Milliseconds by name; the contenders take turns."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            times[name].append(milliseconds(run, device))
    return {name: statistics.median(values) for name, values in times.items()}


def small(shape: dict) -> dict:
    """With one image."""
    return {**shape, "input": [1, *shape["input"][1:]]}
