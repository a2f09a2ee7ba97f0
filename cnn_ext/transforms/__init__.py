"""Augmentations around colour PCA, for ``torchvision.transforms.v2`` pipelines.

:class:`ColorPCA` needs torch alone. Everything else is built of torchvision's own transforms and is
imported when first asked for, so that ``import cnn_ext`` works without torchvision.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from cnn_ext.transforms.color_pca import ColorPCA

if TYPE_CHECKING:
    from cnn_ext.transforms.label_safe import SYMMETRIES, LabelSafe, Symmetries
    from cnn_ext.transforms.precomputed import Precomputed, precompute
    from cnn_ext.transforms.presets import (
        AveragedPredictions,
        alexnet_eval,
        alexnet_train,
        digits_train,
        vgg_train,
    )
    from cnn_ext.transforms.random_color_pca import RandomColorPCA

_MODULES = {
    "AveragedPredictions": "presets",
    "LabelSafe": "label_safe",
    "Precomputed": "precomputed",
    "RandomColorPCA": "random_color_pca",
    "SYMMETRIES": "label_safe",
    "Symmetries": "label_safe",
    "alexnet_eval": "presets",
    "alexnet_train": "presets",
    "digits_train": "presets",
    "precompute": "precomputed",
    "vgg_train": "presets",
}

__all__ = [
    "SYMMETRIES",
    "AveragedPredictions",
    "ColorPCA",
    "LabelSafe",
    "Precomputed",
    "RandomColorPCA",
    "Symmetries",
    "alexnet_eval",
    "alexnet_train",
    "digits_train",
    "precompute",
    "vgg_train",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        value = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    except ModuleNotFoundError as missing:
        if missing.name is None or missing.name.startswith("cnn_ext"):
            raise
        raise ModuleNotFoundError(
            f"cnn_ext.transforms.{name} needs {missing.name}. "
            "Type: pip install --no-build-isolation '.[train]'",
            name=missing.name,
        ) from missing
    globals()[name] = value
    return value
