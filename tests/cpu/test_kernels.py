"""What every CPU kernel relies on: the table, the choice of instruction set, threads."""

import os
import subprocess
import sys

import pytest
import torch

from cnn_ext._native import _C
from tests.conftest import AVAILABLE


def in_new_process(code: str, **environment: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", f"from cnn_ext._native import _C; {code}"],
        env={**os.environ, **environment},
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()


@pytest.mark.parametrize("level", AVAILABLE)
def test_the_environment_may_lower_the_instruction_set(level):
    assert in_new_process("print(_C.cpu_capability())", CNN_EXT_CPU_CAPABILITY=level) == level


@pytest.mark.parametrize("value", ["avx10", "", "AVX2"])
def test_an_unknown_level_in_the_environment_is_ignored(value):
    best = _C.best_cpu_capability()
    assert in_new_process("print(_C.cpu_capability())", CNN_EXT_CPU_CAPABILITY=value) == best


def test_the_environment_is_not_a_way_up():
    assert (
        in_new_process("print(_C.best_cpu_capability())", CNN_EXT_CPU_CAPABILITY="scalar") in AVAILABLE
    )
    assert AVAILABLE.index(_C.cpu_capability()) <= AVAILABLE.index(_C.best_cpu_capability())


def test_an_unknown_level_is_refused_by_name():
    with pytest.raises(ValueError, match='got "sse9", expected one of scalar, avx2, avx512'):
        _C.set_cpu_capability("sse9")


def test_the_level_decides_which_kernels_run(cpu_capability):
    """Levels round differently (fused or separate multiplication), so their bits tell them apart."""
    assert _C.cpu_capability() == cpu_capability
    torch.manual_seed(0)
    tensors = torch.randn(1, 64, 9, 9), torch.randn(8, 64, 3, 3)
    arguments = (None, [1], [0], [1], 1, "implicit_gemm")
    result = torch.ops.cnn_ext.convolution(*tensors, *arguments)
    _C.set_cpu_capability("scalar")
    scalar = torch.ops.cnn_ext.convolution(*tensors, *arguments)
    assert torch.equal(result, scalar) == (cpu_capability == "scalar")


def test_kernels_run_on_as_many_threads_as_torch_has():
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        assert _C.parallel_threads() == threads


def test_the_table_names_every_kernel_once():
    slots = _C.kernel_slots()
    assert {"convolve", "weight_gradient"} <= set(slots)
    assert len(slots) == len(set(slots))
