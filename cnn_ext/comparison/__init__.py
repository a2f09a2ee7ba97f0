"""Two builds of one network, measured against each other and against float64.

The package is not called ``compare``, since an imported submodule of that name would take the place of
the function :func:`cnn_ext.compare`.
"""

from cnn_ext.comparison.errors import relative_error
from cnn_ext.comparison.model import compare
from cnn_ext.comparison.report import Layer, Measured, Report
from cnn_ext.comparison.training import LayerErrors, layer_errors, step_seconds

__all__ = [
    "Layer",
    "LayerErrors",
    "Measured",
    "Report",
    "compare",
    "layer_errors",
    "relative_error",
    "step_seconds",
]
