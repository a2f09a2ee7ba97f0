"""Hard shrinkage beside torch's."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F

from benchmarks.cuda.timing import medians
from cnn_ext.functional import hardshrink


def rows(device: str, quick: bool, rounds: int) -> Iterator[tuple[str, dict]]:
    """A row for each dtype."""
    for dtype in (torch.float32, torch.bfloat16):
        x = torch.randn(64 if quick else 2**24, device=device, dtype=dtype)
        runs = {"ours": lambda x=x: hardshrink(x), "torch": lambda x=x: F.hardshrink(x)}
        yield f"shrink {dtype}", {"forward": medians(runs, device, rounds)}
