"""Pictures of convolutions, networks and colours. Needs matplotlib.

One module for each subject; all their functions are here too.
"""

from cnn_ext.visualize.architectures import architecture, layers
from cnn_ext.visualize.cells import cells
from cnn_ext.visualize.colors import axis_shifts, color_cloud, color_pca, jpeg, pictures
from cnn_ext.visualize.convolution import connections, signed_map, stacks, step
from cnn_ext.visualize.features import (
    exciting_patches,
    feature_maps,
    fields_of,
    filters,
    hierarchy,
    receptive_fields,
)
from cnn_ext.visualize.images import grid, show
from cnn_ext.visualize.matrices import (
    conv_matrix,
    forward_set,
    patch_product,
    tap_colors,
    tap_graph,
)
from cnn_ext.visualize.responses import (
    competition,
    jacobian,
    lrn_windows,
    normalising_cells,
    oriented_filters,
    response_curves,
    response_maps,
    timings,
)
from cnn_ext.visualize.runs import confusion_matrix, curves, mistakes, training

__all__ = [
    "architecture",
    "axis_shifts",
    "cells",
    "color_cloud",
    "color_pca",
    "competition",
    "confusion_matrix",
    "connections",
    "conv_matrix",
    "curves",
    "exciting_patches",
    "feature_maps",
    "fields_of",
    "filters",
    "forward_set",
    "grid",
    "hierarchy",
    "jacobian",
    "jpeg",
    "layers",
    "lrn_windows",
    "mistakes",
    "normalising_cells",
    "oriented_filters",
    "patch_product",
    "pictures",
    "receptive_fields",
    "response_curves",
    "response_maps",
    "show",
    "signed_map",
    "stacks",
    "step",
    "tap_colors",
    "tap_graph",
    "timings",
    "training",
]
