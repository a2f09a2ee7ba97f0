"""Builds cnn_ext._C, the C++ operations, against the torch that is installed.

Everything else about the package is in pyproject.toml. Environment variables: MAX_JOBS (compiler
processes at once), CNN_EXT_DEBUG=1 (no optimisation, assertions, symbols).
"""

import os
import platform
import sys
from pathlib import Path

from setuptools import setup

try:
    import torch
    from torch.utils import cpp_extension
except ModuleNotFoundError:
    sys.exit(
        "cnn_ext compiles against the torch you have, and there is none here. Type: "
        "pip install torch setuptools ninja pybind11 && pip install --no-build-isolation ."
    )

# A translation unit that includes torch's headers takes about 1.5 GB to compile.
os.environ.setdefault("MAX_JOBS", str(max(1, min(os.cpu_count() or 1, 8))))

DEBUG = os.environ.get("CNN_EXT_DEBUG") == "1"
OPTIMISATION = ["-O0", "-g"] if DEBUG else ["-O3", "-DNDEBUG"]
# cpp_extension does not add -fopenmp, without which at::parallel_for runs on one thread.
OPENMP = ["-fopenmp"] if platform.system() == "Linux" else []
WARNINGS = ["-Wall", "-Wno-unknown-pragmas", "-Wno-maybe-uninitialized"]


class Build(cpp_extension.BuildExtension):
    """Keeps object files where the next build finds them, one folder per torch version."""

    def finalize_options(self):
        super().finalize_options()
        tag = f"{sys.implementation.cache_tag}-torch{torch.__version__}{'-debug' * DEBUG}"
        self.build_temp = str(Path("build", tag))


setup(
    ext_modules=[
        cpp_extension.CppExtension(
            "cnn_ext._C",
            sorted(str(path) for path in Path("csrc").rglob("*.cpp")),
            extra_compile_args=[
                *OPTIMISATION,
                *OPENMP,
                *WARNINGS,
                "-ffp-contract=fast",  # a * b + c is one fused operation where the target has it
                "-fno-math-errno",  # so that loops with a square root are vectorised
                "-fvisibility=hidden",
            ],
            extra_link_args=OPENMP,
        )
    ],
    cmdclass={"build_ext": Build},
)
