"""What every benchmark here shares: fair turns, and the name of the machine."""

import platform
import statistics
import time
from collections.abc import Callable, Mapping

import torch

from cnn_ext._native import _C


def medians(contenders: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Milliseconds by name.

    The contenders take turns in one process. Each turn is one untimed call, which brings its own data
    into the cache, and one timed.
    """
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, run in contenders.items():
            run()
            start = time.perf_counter()
            run()
            times[name].append(1e3 * (time.perf_counter() - start))
    return {name: statistics.median(values) for name, values in times.items()}


def machine() -> dict[str, object]:
    """What a reader must know to repeat the figures."""
    return {
        "processor": platform.processor() or platform.machine(),
        "capability": _C.cpu_capability(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
