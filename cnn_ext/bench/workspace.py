"""How much memory an operation takes beside its result."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch._C import _autograd, _profiler


def workspace_bytes(run: Callable[[], Tensor]) -> int:
    """The most that was allocated at once during a call, its result aside.

    Counted are torch's CPU allocations, as its profiler is told of them: our operations have no other
    memory. Libraries under torch have allocators of their own, so that this says nothing of theirs.

    Args:
        run: a call that returns a tensor of its own; no gradients are recorded.

    Example:
        >>> x = torch.randn(1000)
        >>> workspace_bytes(lambda: x + x)
        0
        >>> workspace_bytes(lambda: (x + x) * x)  # the sum, in float32
        4000
    """
    with torch.no_grad():
        run()  # what is allocated once in a process is not of this call
        with _allocations() as allocated:
            result = run()
    now = most = 0
    for amount in allocated:
        now += amount
        most = max(most, now)
    return most - result.untyped_storage().nbytes()


@contextmanager
def _allocations() -> Iterator[list[int]]:
    """Bytes allocated (positive) and freed (negative), in order.

    torch's older profiler: the newer one writes to the terminal, and sorts by operation.
    """
    events: list[int] = []
    state, experimental = _profiler.ProfilerState.CPU, _profiler._ExperimentalConfig()
    config = _profiler.ProfilerConfig(state, False, True, False, False, False, experimental)
    _autograd._enable_profiler_legacy(config)
    try:
        yield events
    finally:
        for thread in _autograd._disable_profiler_legacy():
            events += [e.cpu_memory_usage() for e in thread if e.kind() == "memory_alloc"]
