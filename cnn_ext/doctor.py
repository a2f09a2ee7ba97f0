"""What this installation is made of, what is wrong with it, and what to type."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
from collections.abc import Iterator

import torch

from cnn_ext._native import _C
from cnn_ext.operations import OPERATIONS

# One library computes with these; the others make training, pictures and transforms possible.
OPTIONAL = ("torchvision", "lightning", "sklearn", "matplotlib")


CAPABILITIES = ("scalar", "avx2", "avx512", "avx512_bf16")


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
        "operations": ", ".join(operation.name for operation in OPERATIONS),
        "kernels": ", ".join(_C.kernel_slots()),
        "cuda of torch": torch.version.cuda,
        "cuda of cnn_ext": build["cuda_version"],
        "cuda architectures": build["cuda_architectures"],
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "gpu architecture": _gpu_architecture(),
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
    if wanted is not None and wanted not in CAPABILITIES:
        yield (
            f"CNN_EXT_CPU_CAPABILITY={wanted!r} is none of {', '.join(CAPABILITIES)} and was ignored. "
            "Unset it."
        )
    if facts["gpu"] is not None and facts["cuda of cnn_ext"] is None:
        yield (
            f"There is a GPU ({facts['gpu']}), and this cnn_ext was built without CUDA kernels. "
            f"Install CUDA {facts.get('cuda of torch')}'s toolkit and type: CNN_EXT_CUDA=1 pip install "
            "--no-build-isolation --force-reinstall --no-deps ."
        )
    elif facts["gpu"] is not None and not serves(
        str(facts["cuda architectures"]), str(facts["gpu architecture"])
    ):
        yield (
            f"The CUDA kernels were built for {facts['cuda architectures']} and the GPU "
            f"({facts['gpu']}) is {facts['gpu architecture']}. Type: "
            f"TORCH_CUDA_ARCH_LIST={facts['gpu architecture']} CNN_EXT_CUDA=1 pip install "
            "--no-build-isolation --force-reinstall --no-deps ."
        )
    missing = [name for name in OPTIONAL if facts.get(f"optional: {name}") is False]
    if missing:
        yield (
            f"Without {', '.join(missing)} the operations work, training and pictures do not. "
            "Type: pip install --no-build-isolation '.[train]'"
        )


def serves(architectures: str, gpu: str) -> bool:
    """Whether kernels built for some architectures run on a GPU.

    Machine code runs on later GPUs of the same major number, PTX on all later ones.

    Example:
        >>> serves("7.5;9.0", "8.9"), serves("8.0", "8.9"), serves("8.0+PTX", "12.0")
        (False, True, True)
    """
    wanted = tuple(int(part) for part in gpu.split("."))
    for architecture in architectures.split(";"):
        number, _, ptx = architecture.partition("+")
        built = tuple(int(part.rstrip("af")) for part in number.split("."))
        if built <= wanted and (ptx or built[0] == wanted[0]):
            return True
    return False


def _gpu_architecture() -> str | None:
    if not torch.cuda.is_available():
        return None
    return "{}.{}".format(*torch.cuda.get_device_capability())


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
