"""Builds cnn_ext._C, the C++ operations, against the torch that is installed.

Everything else about the package is in pyproject.toml. Environment variables: MAX_JOBS (compiler
processes at once), CNN_EXT_DEBUG=1 (no optimisation, assertions, symbols), CNN_EXT_CUDA (auto: CUDA
kernels where there are a torch with CUDA and a toolkit of the same major version; 0: none; 1: or stop),
CUDA_HOME (the toolkit), TORCH_CUDA_ARCH_LIST (for which GPUs).
"""

import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import setup

try:
    import torch
except ModuleNotFoundError:
    sys.exit(
        "cnn_ext compiles against the torch you have, and there is none here. Type: "
        "pip install torch setuptools ninja pybind11 && pip install --no-build-isolation ."
    )


def toolkit_version(home: Path) -> str | None:
    """Of a CUDA toolkit that is whole enough to compile with: "13.0"; otherwise None."""
    nvcc = home / "bin" / "nvcc"
    headers = list(home.glob("include/cuda_runtime.h")) + list(
        home.glob("targets/*/include/cuda_runtime.h")
    )
    if not nvcc.exists() or not headers:
        return None
    printed = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=False).stdout
    found = re.search(r"release (\d+\.\d+)", printed)
    return found[1] if found else None


def find_toolkit() -> tuple[Path, str] | None:
    """CUDA_HOME, or the nvcc that is on the PATH, or the usual place."""
    named = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    on_path = shutil.which("nvcc")
    places = [Path(named)] if named else [Path("/usr/local/cuda")]
    if on_path and not named:
        places.insert(0, Path(on_path).resolve().parent.parent)
    for home in places:
        if version := toolkit_version(home):
            return home, version
    return None


def cuda_toolkit() -> tuple[Path, str] | None:
    """The toolkit to build the CUDA kernels with; None to build without them.

    Whether a GPU is visible is never asked: libraries are built on machines that have none.
    """
    wanted = os.environ.get("CNN_EXT_CUDA", "auto")
    if wanted not in ("auto", "0", "1"):
        sys.exit(f"CNN_EXT_CUDA: expected auto, 0 or 1, got {wanted!r}")
    if wanted == "0":
        return None
    torchs, found = torch.version.cuda, find_toolkit()
    if torchs is None:
        problem = (
            f"torch {torch.__version__} was built without CUDA; install one that was built with it"
        )
    elif found is None:
        problem = (
            f"there is no CUDA toolkit; install CUDA {torchs} and name it: CUDA_HOME=/usr/local/cuda"
        )
    elif found[1].split(".")[0] != torchs.split(".")[0]:
        problem = (
            f"the toolkit in {found[0]} is CUDA {found[1]} and torch's is {torchs}; install the same"
        )
    else:
        return found
    if wanted == "1":
        sys.exit(f"CNN_EXT_CUDA=1: {problem}")
    return None


def default_architectures(version: str) -> str:
    """Every generation that the toolkit knows, from Turing on; PTX of the last for later ones."""
    numbers = tuple(int(part) for part in version.split("."))
    known = ["7.5", "8.0", "8.6", "8.9", "9.0"]
    if numbers >= (12, 8):
        known += ["10.0", "12.0"]
    return ";".join(known) + "+PTX"


TOOLKIT = cuda_toolkit()
if TOOLKIT is not None:
    os.environ["CUDA_HOME"] = str(TOOLKIT[0])  # read when cpp_extension is imported
    if os.environ.get("TORCH_CUDA_ARCH_LIST", "") == "":
        os.environ["TORCH_CUDA_ARCH_LIST"] = default_architectures(TOOLKIT[1])

from torch.utils import cpp_extension  # noqa: E402

# A translation unit that includes torch's headers takes about 1.5 GB to compile.
os.environ.setdefault("MAX_JOBS", str(max(1, min(os.cpu_count() or 1, 8))))

DEBUG = os.environ.get("CNN_EXT_DEBUG") == "1"
OPTIMISATION = ["-O0", "-g"] if DEBUG else ["-O3", "-DNDEBUG"]
# Python brings -g, and debug symbols of torch's headers take about half of the time to compile.
SYMBOLS = [] if DEBUG else ["-g0"]
# cpp_extension does not add -fopenmp, without which at::parallel_for runs on one thread.
OPENMP = ["-fopenmp"] if platform.system() == "Linux" else []
WARNINGS = ["-Wall", "-Wno-unknown-pragmas", "-Wno-maybe-uninitialized", "-Wno-sign-compare"]
CXX = [
    "-std=c++20",
    *OPTIMISATION,
    *SYMBOLS,
    *OPENMP,
    *WARNINGS,
    "-ffp-contract=fast",  # a * b + c is one fused operation where the target has it
    "-fno-math-errno",  # so that loops with a square root are vectorised
    "-fvisibility=hidden",
]


TAG = f"{sys.implementation.cache_tag}-torch{torch.__version__}{'-debug' * DEBUG}"
OBJECTS = Path("build", f"{TAG}-cuda{TOOLKIT[1]}" if TOOLKIT else TAG).resolve()


HEADERS = Path("csrc/ops/torch.h")  # which every file of csrc/ops/ includes first


class Build(cpp_extension.BuildExtension):
    """Keeps object files where the next build finds them, one folder per torch version."""

    def finalize_options(self):
        super().finalize_options()
        self.build_temp = str(OBJECTS)

    def build_extensions(self):
        self.precompile_headers()
        super().build_extensions()

    def precompile_headers(self):
        """Has torch's headers read once, which else take most of the time of a dozen files.

        GCC alone: it takes the result where its flags are the same, and the headers themselves
        otherwise.
        """
        compiler = self.compiler.compiler_so
        if "Free Software Foundation" not in version_of(self.compiler.compiler_cxx[0]):
            return
        precompiled = OBJECTS / HEADERS.relative_to("csrc").with_suffix(".h.gch")
        flags = [*compiler[1:], *CXX]
        if TOOLKIT:
            flags.append("-DCNN_EXT_CUDA")
        key = f"{flags} {HEADERS.read_text()}"
        stamp = precompiled.with_suffix(".flags")
        if precompiled.exists() and stamp.exists() and stamp.read_text() == key:
            return
        precompiled.parent.mkdir(parents=True, exist_ok=True)
        (extension,) = self.extensions
        includes = [f"-I{path}" for path in [*extension.include_dirs, *self.compiler.include_dirs]]
        defined = ["-DTORCH_API_INCLUDE_EXTENSION_H", "-DTORCH_EXTENSION_NAME=_C"]
        command = [self.compiler.compiler_cxx[0], *flags, *defined, *includes]
        command += ["-x", "c++-header", str(HEADERS), "-o", str(precompiled)]
        if subprocess.run(command, check=False).returncode == 0:
            stamp.write_text(key)
        else:
            precompiled.unlink(missing_ok=True)  # the headers themselves are read then


def version_of(compiler: str) -> str:
    """What a compiler says of itself."""
    return subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False).stdout


def write_cuda_facts(version: str, architectures: str) -> None:
    """For csrc/bindings.cpp alone, so that other architectures do not compile everything again."""
    header = OBJECTS / "cuda_facts.h"
    header.parent.mkdir(parents=True, exist_ok=True)
    facts = f'''#define CNN_EXT_CUDA_VERSION "{version}"
#define CNN_EXT_CUDA_ARCHITECTURES "{architectures}"
'''
    if not header.exists() or header.read_text() != facts:
        header.write_text(facts)


def extension():
    """The library, with CUDA kernels or without."""
    sources = sorted(str(path) for path in Path("csrc").rglob("*.cpp"))
    if TOOLKIT is None:
        return cpp_extension.CppExtension(
            "cnn_ext._C",
            sources,
            include_dirs=[str(OBJECTS), str(Path("csrc").resolve())],
            extra_compile_args=CXX,
            extra_link_args=OPENMP,
        )
    write_cuda_facts(TOOLKIT[1], os.environ["TORCH_CUDA_ARCH_LIST"].replace(" ", ";"))
    # nvcc's own threads: it compiles for one architecture after the other otherwise.
    threads = f"--threads={min(os.cpu_count() or 1, 4)}"
    return cpp_extension.CUDAExtension(
        "cnn_ext._C",
        sources + sorted(str(path) for path in Path("csrc").rglob("*.cu")),
        include_dirs=[str(OBJECTS), str(Path("csrc").resolve())],
        extra_compile_args={
            "cxx": [*CXX, "-DCNN_EXT_CUDA"],
            "nvcc": [*OPTIMISATION, "-Xcompiler=-fvisibility=hidden", threads],
        },
        extra_link_args=OPENMP,
    )


setup(ext_modules=[extension()], cmdclass={"build_ext": Build})
