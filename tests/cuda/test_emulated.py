"""The CUDA kernels and drivers, run on the CPU under AddressSanitizer (see emulation/)."""

import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import cnn_ext._native as native
from cnn_ext.operations import OPERATIONS
from tests.cuda import parity

ROOT = Path(__file__).parent.parent.parent
HERE = Path(__file__).parent / "emulation"
SUBJECTS = [o.name for o in OPERATIONS if (ROOT / "csrc" / "cuda" / f"{o.name}.cu").exists()]


def sources(subject: str) -> list[Path]:
    """What the emulation of an operation is compiled of: all but other operations' own files."""
    files = [
        *sorted(HERE.glob("*.*")),
        *sorted(ROOT.glob("csrc/cuda/**/*.cu*")),
        *sorted(ROOT.glob("csrc/ops/**/*.h")),
        *sorted(ROOT.glob("csrc/cpu/**/*.h")),
    ]
    others = {operation.name for operation in OPERATIONS} - {subject}
    return [file for file in files if not others & {file.stem, *file.relative_to(ROOT).parts}]


def tool(name: str) -> str | None:
    """A library that the compiler knows by name, as the dynamic linker wants it."""
    printed = subprocess.run(["g++", f"-print-file-name={name}"], capture_output=True, text=True)
    return printed.stdout.strip() if "/" in printed.stdout else None


def why_not() -> str | None:
    if parity.EMULATED:
        return "these are the tests that this test runs"
    if platform.system() != "Linux" or shutil.which("g++") is None:
        return "the emulation is built by g++ on Linux"
    return None if tool("libasan.so") else "g++ has no AddressSanitizer here"


def build(subject: str) -> Path:
    """The emulation of an operation as a library, built once for every state of its sources."""
    digest = hashlib.sha256(torch.__version__.encode())
    for source in sources(subject):
        digest.update(source.read_bytes())
    result = ROOT / "build" / "emulated" / f"{subject}-{digest.hexdigest()[:16]}.so"
    result.parent.mkdir(parents=True, exist_ok=True)
    with result.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # one worker compiles, the others wait for it
        if not result.exists():
            compile_to(result, subject)
    return result


def compile_to(result: Path, subject: str) -> None:
    library = Path(native._C.__file__)
    torchs = Path(torch.__file__).parent
    partial = result.with_suffix(f".{os.getpid()}")
    command = [
        "g++", "-std=c++20", "-O1", "-g1", "-fsanitize=address", "-fPIC", "-shared", "-Wall",
        "-Wno-unknown-pragmas", "-fvisibility=hidden", f"-I{HERE}", f"-I{ROOT / 'csrc'}",
        f'-DCNN_EXT_CUDA_SOURCE="cuda/{subject}.cu"', f"-I{torchs / 'include'}",
        f"-I{torchs / 'include/torch/csrc/api/include'}", str(HERE / "emulated.cpp"),
        "-o", str(partial),
        f"-L{library.parent}", f"-l:{library.name}", f"-Wl,-rpath,{library.parent}",
        f"-L{torchs / 'lib'}", "-ltorch", "-ltorch_cpu", "-lc10",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr, done.stderr
    partial.rename(result)


@pytest.mark.skipif(bool(why_not()), reason=str(why_not()))
@pytest.mark.parametrize("subject", SUBJECTS)
def test_every_kernel_is_right_on_an_emulated_device(subject, tmp_path):
    """pytest in a process of its own, whose CPU kernels are the emulated ones."""
    environment = {
        **os.environ,
        "CNN_EXT_EMULATED_CUDA": str(build(subject)),
        "LD_PRELOAD": f"{tool('libasan.so')} {tool('libstdc++.so.6')}",
        "ASAN_OPTIONS": f"detect_leaks=0:log_path={tmp_path}/asan",
        "PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
    }
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    done = subprocess.run(
        [*command, f"tests/cuda/test_{subject}.py"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    reports = "".join(path.read_text() for path in sorted(tmp_path.glob("asan*")))
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:] + reports[:4000]


def test_every_operation_has_something_to_say_about_cuda():
    """A kernel where the library has them, and otherwise how to build them."""
    names = [name for operation in OPERATIONS for name in operation.dispatched()]
    on_cpu, on_cuda, composed = (
        {n for n in names if torch._C._dispatch_has_kernel_for_dispatch_key(f"cnn_ext::{n}", key)}
        for key in ("CPU", "CUDA", "CompositeExplicitAutograd")
    )
    assert len(on_cpu) > len(OPERATIONS)
    assert on_cpu <= on_cuda | composed | (
        {"winograd_filters"} if native._C.build_facts()["cuda_version"] else set()
    )
    if native._C.build_facts()["cuda_version"] is None:
        key = torch._C.DispatchKeySet(torch._C.DispatchKey.CUDA)
        with pytest.raises(NotImplementedError, match=r"color_moments: .* CNN_EXT_CUDA=1 pip install"):
            torch.ops.cnn_ext.color_moments.default.redispatch(key, torch.zeros(3, 4, 4))
