"""Swaps ``torch.nn`` layers for ours in anybody's network, and back.

Our modules differ from their twins in their class alone, so that a swap changes the class of the
module where it stands: parameters, buffers, hooks, dtype, device, training mode, and the same module
used in two places all stay as they are.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable

import torch

from cnn_ext import nn
from cnn_ext.nn.convolution import _Convolution

TWINS: dict[type[torch.nn.Module], type[torch.nn.Module]] = {
    getattr(torch.nn, name): getattr(nn, name) for name in nn.__all__
}


def convert(
    model: torch.nn.Module, *, exclude: Iterable[str] = (), inplace: bool = False
) -> torch.nn.Module:
    """The model with every ``torch.nn`` layer that has a twin here swapped for it.

    Args:
        model: any module, a single layer too.
        exclude: names, as ``model.named_modules()`` gives them, of modules to leave alone with all
            that is in them.
        inplace: change ``model`` itself rather than a deep copy.

    Returns:
        The model; ``state_dict`` keys, hooks, dtype, device and training mode are unchanged. A
        subclass of a layer is somebody's own and is left alone, with a warning that names it.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(1, 6, 5), torch.nn.ReLU())
        >>> convert(model)[0].__class__.__module__
        'cnn_ext.nn.convolution'
    """
    if not inplace:
        model = copy.deepcopy(model)
    excluded = tuple(exclude)
    names = {name for name, _ in model.named_modules(remove_duplicate=False)}
    if unknown := [name for name in excluded if name not in names]:
        raise ValueError(f"exclude: the model has no module named {unknown[0]!r}")
    for name, module in model.named_modules():
        if any(name == e or name.startswith(e + ".") or e == "" for e in excluded):
            continue
        if twin := TWINS.get(type(module)):
            module.__class__ = twin
        elif isinstance(module, tuple(TWINS)) and not isinstance(module, tuple(TWINS.values())):
            _left_alone("convert", name, module, "it is a subclass, with a forward of its own")
    return model


def revert(model: torch.nn.Module, *, inplace: bool = False) -> torch.nn.Module:
    """The model with our layers swapped for ``torch.nn``'s: the inverse of :func:`convert`.

    Padding that torch has no word for becomes integers where it is the same before and after every
    axis for any input; a layer that torch cannot express is left alone, with a warning that says why.

    Example:
        >>> layer = revert(nn.Conv2d(1, 1, 5, padding="half"))
        >>> layer
        Conv2d(1, 1, kernel_size=(5, 5), stride=(1, 1), padding=(2, 2))
        >>> layer.__class__.__module__
        'torch.nn.modules.conv'
    """
    if not inplace:
        model = copy.deepcopy(model)
    ours: dict[type, type[torch.nn.Module]] = {twin: theirs for theirs, twin in TWINS.items()}
    for name, module in model.named_modules():
        if type(module) not in ours:
            continue
        if reason := _say_as_torch(module):
            _left_alone("revert", name, module, reason)
            continue
        module.__dict__.pop("algorithm", None)
        module.__class__ = ours[type(module)]  # type: ignore[assignment]
    return model


def _say_as_torch(module: torch.nn.Module) -> str | None:
    """Puts the module's arguments in words that its twin has; the reason, where there are none."""
    if isinstance(module, _Convolution):
        padding = _torch_padding(module)
        if padding is None:
            return f"torch has no padding={module.padding!r} at stride {module.stride}"
        module._reversed_padding_repeated_twice = list(module.padding_of((1,) * module.axes))
        module.padding = padding
    if isinstance(module, nn.LocalResponseNorm):
        if module.region != "channels" or module.channel_dim != 1:
            return f"torch has no region={module.region!r}, channel_dim={module.channel_dim}"
        if module.alpha_scaling == "sum":
            module.alpha = module.alpha * module.size
            del module.alpha_scaling
    return None


def _torch_padding(module: _Convolution) -> tuple[int, ...] | str | None:
    """The padding as torch's layer takes it; None if it cannot."""
    if module.padding == "valid":
        return "valid"
    if module.padding == "same":
        return "same" if all(stride == 1 for stride in module.stride) else None
    before_after = module.padding_of((1,) * module.axes)
    before, after = before_after[0::2], before_after[1::2]
    return tuple(reversed(before)) if before == after else None


def _left_alone(operation: str, name: str, module: object, reason: str) -> None:
    warnings.warn(
        f"{operation}: left {name or 'the model'} ({type(module).__name__}) alone: {reason}",
        stacklevel=3,
    )
