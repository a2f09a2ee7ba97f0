"""The classic CNN operations for PyTorch, in C++.

:mod:`cnn_ext.functional` and :mod:`cnn_ext.nn` are twins of ``torch.nn.functional`` and
``torch.nn``; :mod:`cnn_ext.ops` has the operations as ``torch.autograd.Function``;
:mod:`cnn_ext.transforms` has colour PCA and the augmentations around it; :mod:`cnn_ext.models` has
reference networks built of them.
"""

from cnn_ext import _early as _early  # first: may end the process
from cnn_ext import _native as _native  # second: registers torch.ops.cnn_ext
from cnn_ext import functional, matrix, models, nn, ops, transforms
from cnn_ext.enabling import disable, enable, enabled
from cnn_ext.functional import default_algorithm
from cnn_ext.models.convert import convert, revert
from cnn_ext.models.freeze import freeze
from cnn_ext.tracing import Record, trace


def __getattr__(name: str):
    """``cnn_ext.compare``, which is loaded when it is asked for."""
    if name == "compare":
        from cnn_ext.comparison import compare

        return compare
    raise AttributeError(f"module 'cnn_ext' has no attribute {name!r}")


__version__ = "0.1.0"

__all__ = [
    "Record",
    "compare",
    "convert",
    "default_algorithm",
    "disable",
    "enable",
    "enabled",
    "freeze",
    "functional",
    "matrix",
    "models",
    "nn",
    "ops",
    "revert",
    "trace",
    "transforms",
]
