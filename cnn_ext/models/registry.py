"""Our networks in torchvision's registry, as ``cnn_ext_alexnet``, ``cnn_ext_vgg16`` and so on.

torchvision finds the weights of a network in its builder's annotation, so each builder is registered
with one that names torchvision's enumeration. Where torchvision is missing, nothing happens.
"""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable, Iterable

import torch


def register(builders: Iterable[Callable[..., torch.nn.Module]]) -> None:
    """Registers builders under ``cnn_ext_`` and their names; a second time is the first.

    Example:
        >>> from torchvision.models import get_model, get_model_weights
        >>> type(get_model("cnn_ext_vgg11", width=1 / 16)).__module__
        'cnn_ext.models.vgg'
        >>> get_model_weights("cnn_ext_vgg11").__name__
        'VGG11_Weights'
    """
    try:
        import torchvision.models as theirs
        from torchvision.models._api import register_model
    except ModuleNotFoundError:
        return
    except Exception as broken:  # one built for another torch raises what it likes
        warnings.warn(f"torchvision cannot be imported ({broken}); its registry has none of cnn_ext's",
                      stacklevel=2)  # fmt: skip
        return
    for builder in builders:
        name = builder.__name__
        if f"cnn_ext_{name}" not in theirs.list_models():
            register_model(f"cnn_ext_{name}")(_annotated(builder, _weights_of(name, theirs)))


def _weights_of(name: str, theirs) -> type | None:
    enums = {
        key.removesuffix("_Weights").lower(): value
        for key, value in vars(theirs).items()
        if key.endswith("_Weights")
    }
    return enums.get(name)


def _annotated(builder: Callable[..., torch.nn.Module], weights: type | None):
    """The builder, its ``weights`` annotated as torchvision reads it."""

    @functools.wraps(builder)
    def registered(*arguments, **keywords):
        return builder(*arguments, **keywords)

    signature = inspect.signature(builder)
    parameters = [
        p.replace(annotation=weights | None) if p.name == "weights" and weights else p  # type: ignore[operator]
        for p in signature.parameters.values()
    ]
    registered.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return registered
