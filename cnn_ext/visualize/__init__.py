"""Pictures of convolutions, networks and colours. Needs matplotlib.

One module for each subject; all their functions are here too.
"""

from cnn_ext.visualize.cells import cells
from cnn_ext.visualize.colors import color_pca
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
from cnn_ext.visualize.runs import confusion_matrix, curves, mistakes, training

__all__ = [
    "cells",
    "color_pca",
    "confusion_matrix",
    "connections",
    "curves",
    "exciting_patches",
    "feature_maps",
    "fields_of",
    "filters",
    "grid",
    "hierarchy",
    "mistakes",
    "receptive_fields",
    "show",
    "signed_map",
    "stacks",
    "step",
    "training",
]
