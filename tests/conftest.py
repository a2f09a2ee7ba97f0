"""Fixtures of all tests."""

import signal

import hypothesis
import pytest
import torch

import cnn_ext
from cnn_ext._native import _C

# A shell has its background jobs ignore Ctrl-C, and what they start would too.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# A busy machine takes longer than hypothesis allows for an example.
hypothesis.settings.register_profile("cnn_ext", deadline=None)
hypothesis.settings.load_profile("cnn_ext")

# "avx512_bf16" adds kernels for bfloat16 to those of "avx512"; tests of that dtype ask for it.
ALL_LEVELS = ("scalar", "avx2", "avx512", "avx512_bf16")
LEVELS = ALL_LEVELS[:-1]
AVAILABLE = ALL_LEVELS[: ALL_LEVELS.index(_C.best_cpu_capability()) + 1]


collect_ignore = ["toy_operation"]  # which runs in a copy of the tree (test_adding_an_operation.py)


@pytest.fixture(autouse=True)
def same_start():
    """The same random numbers, two threads, and the defaults, before every test."""
    torch.manual_seed(0)
    torch.set_num_threads(2)
    yield
    cnn_ext.default_algorithm("auto")
    _C.set_cpu_capability(_C.best_cpu_capability())


@pytest.fixture(params=LEVELS)
def cpu_capability(request):
    """Every instruction set, one after the other; those this processor lacks are skipped by name."""
    if request.param not in AVAILABLE:
        pytest.skip(f"this processor has no {request.param}")
    _C.set_cpu_capability(request.param)
    return request.param
