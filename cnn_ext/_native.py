"""Loads the compiled library, or says in one sentence why it cannot and what to type.

Loading it registers the operations with torch's dispatcher, as ``torch.ops.cnn_ext.*``.
"""

import torch

_REBUILD = (
    "Build it for this torch with: pip install --no-build-isolation --force-reinstall --no-deps ."
)


def _mismatch(
    built_for: str, running: str, cuda: str | None = None, running_cuda: str | None = None
) -> str | None:
    """Why a library built for one torch cannot run beside another; None if it can.

    ``cuda``: the version that its CUDA kernels were built with, if it has any.
    """
    if built_for.split("+")[0] == running.split("+")[0]:
        if cuda is None or running_cuda is None or cuda.split(".")[0] == running_cuda.split(".")[0]:
            return None
        return f"cnn_ext was built with CUDA {cuda} and torch with CUDA {running_cuda}. {_REBUILD}"
    return (
        f"cnn_ext was built for torch {built_for} and this is torch {running}: "
        f"their C++ interfaces differ. {_REBUILD}"
    )


try:
    from cnn_ext import _C  # type: ignore[attr-defined]
except ImportError as error:
    raise ImportError(
        f"cnn_ext's library did not load beside torch {torch.__version__} ({error}). {_REBUILD}"
    ) from error

_built = _C.build_facts()
if _problem := _mismatch(
    _built["torch_version"], torch.__version__, _built["cuda_version"], torch.version.cuda
):
    raise ImportError(_problem)

__all__ = ["_C"]
