"""Compiles and links the CUDA kernels, GPU or not, loads them and checks that they are there.

Run by `make cuda` with the Python of .venv. The toolchain comes from PyPI, in the version of torch's
CUDA, unless CUDA_HOME names another. Everything is kept under build/cuda; the library in use is left
alone. TORCH_CUDA_ARCH_LIST chooses the GPUs (9.0 by default: one is enough for a check).
"""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "build" / "cuda"
# torch's own headers want those of cuBLAS and its like, ours do not.
PARTS = "nvcc,cudart,crt,nvvm,cccl"

CHECK = """
import pathlib, sys, torch, cnn_ext
from cnn_ext import doctor
from cnn_ext.operations import OPERATIONS
SOURCES = sys.argv[1]
facts = doctor.facts()
assert facts["cuda of cnn_ext"], facts
with_source = [o for o in OPERATIONS if pathlib.Path(SOURCES, f"{o.name}.cu").exists()]
for operation in with_source:
    kernels = [line for name in operation.dispatched()
               for line in torch._C._dispatch_dump(f"cnn_ext::{name}").splitlines()
               if line.startswith("CUDA: ")]
    assert kernels and all(f"csrc/cuda/{operation.name}.cu" in line for line in kernels), kernels
print(f"cnn_ext: {cnn_ext.__file__}: CUDA {facts['cuda of cnn_ext']} kernels of all operations for "
      f"{facts['cuda architectures']}; GPU: {facts['gpu']}")
"""


def stop(sentence: str) -> None:
    sys.exit(f"cnn_ext: {sentence}")


def toolkit(version: str) -> Path:
    """The folder of a CUDA toolkit of this version."""
    if "CUDA_HOME" in os.environ:
        return Path(os.environ["CUDA_HOME"])
    target = FOLDER / f"toolkit-{version}"
    home = target / "nvidia" / f"cu{version.split('.')[0]}"
    if not (home / "lib64").exists():
        print(
            f"cnn_ext: installing CUDA {version}'s compiler under {FOLDER.relative_to(ROOT)} ...",
            flush=True,
        )
        shutil.rmtree(target, ignore_errors=True)
        done = subprocess.run(
            [sys.executable, "-m", "pip", "install", "-qq", "--disable-pip-version-check",
             "--target", target, f"cuda-toolkit[{PARTS}]=={version}.*"], check=False,
        )  # fmt: skip
        if done.returncode != 0:
            stop(f"CUDA {version}'s compiler could not be installed; name another: CUDA_HOME=...")
        runtime = next((home / "lib").glob("libcudart.so.*"))
        (home / "lib" / "libcudart.so").symlink_to(runtime.name)
        (home / "lib64").symlink_to("lib")  # last: the mark that all is there
    return home


def main() -> None:
    import torch

    if torch.version.cuda is None:
        stop(f"torch {torch.__version__} was built without CUDA; there is nothing to link with")
    library = FOLDER / "lib"
    shutil.rmtree(library, ignore_errors=True)
    environment = {
        **os.environ,
        "CUDA_HOME": str(toolkit(torch.version.cuda)),
        "CNN_EXT_CUDA": "1",
        "TORCH_CUDA_ARCH_LIST": os.environ.get("TORCH_CUDA_ARCH_LIST") or "9.0",
    }
    print(f"cnn_ext: compiling for {environment['TORCH_CUDA_ARCH_LIST']} (minutes) ...", flush=True)
    begin = time.monotonic()
    done = subprocess.run(
        [sys.executable, "setup.py", "--quiet", "build", "--build-lib", library],
        cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        check=False,
    )  # fmt: skip
    if done.returncode != 0:
        print(done.stdout)
        stop("that did not compile, for the reason above")
    print(f"cnn_ext: compiled in {time.monotonic() - begin:.0f} s", flush=True)
    done = subprocess.run(
        [sys.executable, "-c", CHECK, str(ROOT / "csrc" / "cuda")],
        cwd=library,
        env={**os.environ, "PYTHONPATH": str(library)},
        check=False,
    )
    if done.returncode != 0:
        stop("it compiled, and did not load as it should")


if __name__ == "__main__":
    main()
