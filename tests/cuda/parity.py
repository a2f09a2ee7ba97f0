"""What the CUDA tests share: a device, real or emulated, and results that two runs agree on."""

import ctypes
import os
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cnn_ext._native import _C

# A library that tests/cuda/emulation has built: it puts the CUDA kernels in the place of the CPU's.
EMULATED = os.environ.get("CNN_EXT_EMULATED_CUDA")
_library = ctypes.CDLL(str(Path(EMULATED).resolve())) if EMULATED else None
if _library is not None:
    _library.emulated_launches.restype = ctypes.c_int64

needs_gpu = pytest.mark.skipif(bool(EMULATED), reason="the emulation has no streams and no clock")


def why_not() -> str | None:
    """Why the CUDA tests cannot run here; None if they can."""
    if EMULATED:
        return None
    if not torch.cuda.is_available():
        return "no GPU here: torch.cuda.is_available() is False"
    if _C.build_facts()["cuda_version"] is None:
        return "cnn_ext was built without CUDA kernels (CNN_EXT_CUDA=1 builds them)"
    return None


def set_emulation(descending: bool = False, capability: int = 90) -> None:
    if _library is not None:
        _library.emulated_set(descending, capability)


def launches() -> int:
    """Kernels launched so far, under emulation."""
    return _library.emulated_launches() if _library is not None else 0


def agreed(run: Callable[[], Tensor], capability: int = 90) -> Tensor:
    """The result of two runs that must agree to the last bit.

    On a GPU, any two. Under emulation, one with the threads of a block in ascending order and one in
    descending order, which differ where a barrier is missing.
    """
    set_emulation(False, capability)
    first = run()
    set_emulation(True, capability)
    second = run()
    set_emulation()
    assert first.stride() == second.stride()
    if first.is_floating_point() or first.is_complex():
        assert torch.equal(first.nan_to_num(nan=12345.0), second.nan_to_num(nan=12345.0))
    else:
        assert torch.equal(first, second)
    return first


@contextmanager
def tensor_floats(allowed: bool):
    """TF32 in convolutions of float32, or not, and as it was afterwards."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def high_precision(tensor: Tensor) -> Tensor:
    return tensor.cpu().to(torch.complex128 if tensor.is_complex() else torch.float64)


def assert_close(value: Tensor, exact: Tensor, bound: float) -> None:
    """Shapes are equal, and the error is at most `bound` of the exact values, both rms."""
    assert value.shape == exact.shape
    exact = high_precision(exact)
    error = (high_precision(value) - exact).norm()
    assert error <= bound * exact.norm(), f"{error / exact.norm():.2e} > {bound:.2e}"
