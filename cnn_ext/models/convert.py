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
from torch.nn.utils import parametrize

from cnn_ext import nn
from cnn_ext.nn.convolution import _Convolution

TWINS: dict[type[torch.nn.Module], type[torch.nn.Module]] = {
    getattr(torch.nn, name): getattr(nn, name) for name in nn.__all__ if hasattr(torch.nn, name)
}
EXCLUDED = "it is excluded"


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
        The model; ``state_dict`` keys, hooks, parametrizations, dtype, device and training mode are
        unchanged. What :func:`left_alone` names is left alone, with a warning unless it is excluded.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(1, 6, 5), torch.nn.ReLU())
        >>> convert(model)[0].__class__.__module__
        'cnn_ext.nn.convolution'
    """
    if not inplace:
        model = copy.deepcopy(model)
    reasons = left_alone(model, exclude=exclude)
    for name, module in model.named_modules():
        twin = TWINS.get(parametrize.type_before_parametrizations(module))
        if reasons.get(name, EXCLUDED) != EXCLUDED:
            _left_alone("convert", name, module, reasons[name])
        elif twin and name not in reasons:
            _become(module, twin)
    return model


def left_alone(model: torch.nn.Module, *, exclude: Iterable[str] = ()) -> dict[str, str]:
    """What :func:`convert` leaves alone though it looks like a layer that has a twin here, and why.

    Args:
        model, exclude: as for :func:`convert`.

    Returns:
        Reasons by module name; nothing for what is swapped, and for layers of other kinds, as which
        subclasses of ``Linear`` count: attention's, an adapter's.

    Example:
        >>> class Mine(torch.nn.Conv2d):
        ...     pass
        >>> left_alone(torch.nn.Sequential(torch.nn.Conv2d(1, 1, 1), Mine(1, 1, 1), torch.nn.ReLU()))
        {'1': 'Mine is a subclass of Conv2d, perhaps with a forward of its own'}
    """
    excluded = _modules_in(model, exclude)
    reasons = {}
    for name, module in model.named_modules():
        kind = parametrize.type_before_parametrizations(module)
        if issubclass(kind, tuple(TWINS.values())):
            continue
        twins = [theirs.__name__ for theirs in TWINS if issubclass(kind, theirs)]
        if isinstance(module, torch.jit.ScriptModule):
            twins = [theirs.__name__ for theirs in TWINS if theirs.__name__ == module.original_name]
        if not twins or _multiplies_otherwise(kind):
            continue
        if module in excluded:
            reasons[name] = EXCLUDED
        elif isinstance(module, torch.jit.ScriptModule):
            reasons[name] = "it is compiled by TorchScript: convert the model before it is scripted"
        elif kind not in TWINS:
            of = twins[-1]  # LazyConv2d is a Conv2d too: the table has the plain ones first
            reasons[name] = f"{kind.__name__} is a subclass of {of}, perhaps with a forward of its own"
    return reasons


def _multiplies_otherwise(kind: type) -> bool:
    """Whether it is another kind of linear layer."""
    return issubclass(kind, torch.nn.Linear) and kind not in TWINS


def _modules_in(model: torch.nn.Module, names: Iterable[str]) -> set[torch.nn.Module]:
    """The modules of these names and all that is in them, by whichever name."""
    known = dict(model.named_modules(remove_duplicate=False))
    names = tuple(names)
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"exclude: the model has no module named {unknown[0]!r}")
    return {inner for name in names for inner in known[name].modules()}


def _become(module: torch.nn.Module, kind: type[torch.nn.Module]) -> None:
    """Changes the class of a module where it stands.

    A parametrization has put a class of the module's own between it and its layer's class, which has
    the computed tensors as properties: it gets such a class over the new one.
    """
    if parametrize.is_parametrized(module):
        members = {k: v for k, v in vars(type(module)).items() if k not in ("__dict__", "__weakref__")}
        kind = type(f"Parametrized{kind.__name__}", (kind,), members)
    module.__class__ = kind


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
        kind = parametrize.type_before_parametrizations(module)
        theirs = ours.get(kind)
        if theirs is None:
            if isinstance(module, _Convolution):
                _left_alone("revert", name, module, f"torch has no twin of {kind.__name__}")
            continue
        if reason := _say_as_torch(module):
            _left_alone("revert", name, module, reason)
            continue
        module.__dict__.pop("algorithm", None)
        _become(module, theirs)
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
