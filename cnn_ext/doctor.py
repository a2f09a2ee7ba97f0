"""What this installation is made of, what is wrong with it, and what to type."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
from collections.abc import Iterator

import torch

from cnn_ext._native import _C

# One library computes with these; the others make training, pictures and transforms possible.
OPTIONAL = ("torchvision", "lightning", "sklearn", "matplotlib")


def facts() -> dict[str, object]:
    """Versions, the build, the processor and the threads."""
    build = _C.build_facts()
    return {
        "cnn_ext": importlib.metadata.version("cnn_ext") if _installed() else "in place",
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "torch": torch.__version__,
        "built for torch": build["torch_version"],
        "compiler": build["compiler"],
        "c++11 abi": torch.compiled_with_cxx11_abi(),
        "cpu capability": _C.cpu_capability(),
        "best cpu capability": _C.best_cpu_capability(),
        "threads of torch": torch.get_num_threads(),
        "threads of cnn_ext": _C.parallel_threads(),
        "cuda of torch": torch.version.cuda,
        "cuda of cnn_ext": build["cuda_version"],
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        **{f"optional: {name}": importlib.util.find_spec(name) is not None for name in OPTIONAL},
    }


def problems(facts: dict[str, object]) -> Iterator[str]:
    """What is wrong, each with what mends it. Nothing, if all is well.

    Example:
        >>> good = {"threads of torch": 2, "threads of cnn_ext": 2, "cpu capability": "avx2",
        ...         "best cpu capability": "avx512", "gpu": None, "cuda of cnn_ext": None,
        ...         "optional: torchvision": True}
        >>> for problem in problems(good):
        ...     print(problem)
        The kernels use avx2, this processor has avx512. Unset CNN_EXT_CPU_CAPABILITY.
    """
    if facts["threads of cnn_ext"] != facts["threads of torch"]:
        yield (
            f"The kernels run on {facts['threads of cnn_ext']} of {facts['threads of torch']} "
            "threads: the library was built without OpenMP. Install a compiler that has it (g++) and "
            "type: pip install --no-build-isolation --force-reinstall --no-deps ."
        )
    if facts["cpu capability"] != facts["best cpu capability"]:
        yield (
            f"The kernels use {facts['cpu capability']}, this processor has "
            f"{facts['best cpu capability']}. Unset CNN_EXT_CPU_CAPABILITY."
        )
    wanted = os.environ.get("CNN_EXT_CPU_CAPABILITY")
    if wanted is not None and wanted not in ("scalar", "avx2", "avx512"):
        yield (
            f"CNN_EXT_CPU_CAPABILITY={wanted!r} is not scalar, avx2 or avx512 and was ignored. "
            "Unset it."
        )
    if facts["gpu"] is not None and facts["cuda of cnn_ext"] is None:
        yield f"There is a GPU ({facts['gpu']}), and cnn_ext has no CUDA kernels yet: use the CPU."
    missing = [name for name in OPTIONAL if facts.get(f"optional: {name}") is False]
    if missing:
        yield (
            f"Without {', '.join(missing)} the operations work, training and pictures do not. "
            "Type: pip install --no-build-isolation '.[train]'"
        )


def _installed() -> bool:
    try:
        importlib.metadata.version("cnn_ext")
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def report() -> str:
    """Facts and problems for a terminal."""
    known = facts()
    lines = [f"{name:22}{value}" for name, value in known.items()]
    found = list(problems(known))
    lines += ["", *(f"! {problem}" for problem in found)] if found else ["", "All is well."]
    return "\n".join(lines)
