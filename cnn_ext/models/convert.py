"""Swaps ``torch.nn`` layers for ours in anybody's network, and back.

Our modules differ from their twins in their class alone, so that a swap changes the class of the
module where it stands: parameters, buffers, hooks, dtype, device, training mode, and the same module
used in two places all stay as they are.
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Iterable

import torch
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize

from cnn_ext._inspection import copied
from cnn_ext.models.twins import TWINS, base_of, obstacle, original, swapped
from cnn_ext.models.twins import become as _become
from cnn_ext.nn._layer import Layer

EXCLUDED = "it is excluded"
SCRIPTED = "it is compiled by TorchScript: convert the model before it is scripted"
# Attention reads the weight of this layer without calling it. The class says that to other tools.
NEVER_CALLED = torch.nn.modules.linear.NonDynamicallyQuantizableLinear


class LeftAlone(dict[str, str]):
    """Reasons by module name, and the share of the model's parameters in these modules."""

    share: float = 0.0


def convert(
    model: torch.nn.Module, *, exclude: Iterable[str] = (), inplace: bool = False
) -> torch.nn.Module:
    """The model with every ``torch.nn`` layer that has a twin here swapped for it.

    A layer of a subclass that leaves ``forward`` and what it calls alone is swapped too: its new class
    derives from its own and from ours.

    Args:
        model: any module, a single layer too.
        exclude: names, as ``model.named_modules()`` gives them, of modules to leave alone with all
            that is in them.
        inplace: change ``model`` itself rather than a deep copy.

    Returns:
        The model; ``state_dict`` keys, hooks, parametrizations, dtype, device and training mode are
        unchanged. What :func:`left_alone` names is left alone; one warning tells how much that is,
        unless it is excluded.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(1, 6, 5), torch.nn.ReLU())
        >>> convert(model)[0].__class__.__module__
        'cnn_ext.nn.convolution'
    """
    if not inplace:
        model = copied(model)
    alone = swap_layers(model, exclude=exclude)
    _warn("convert", model, {name: why for name, why in alone.items() if why != EXCLUDED})
    return model


def swap_layers(model: torch.nn.Module, *, exclude: Iterable[str] = ()) -> LeftAlone:
    """Swaps in place, without a word; what it leaves alone, and why."""
    alone = left_alone(model, exclude=exclude)
    for name, module in model.named_modules():
        kind = parametrize.type_before_parametrizations(module)
        if name not in alone and _has_twin(module):
            _become(module, swapped(kind))
    return alone


def left_alone(model: torch.nn.Module, *, exclude: Iterable[str] = ()) -> LeftAlone:
    """What :func:`convert` leaves alone though it looks like a layer that has a twin here, and why.

    Args:
        model, exclude: as for :func:`convert`.

    Returns:
        Reasons by module name; nothing for what is swapped, and for layers of other kinds. Its
        attribute ``share`` is the share of the model's parameters that these modules hold.

    Example:
        >>> class Mine(torch.nn.Conv2d):
        ...     def forward(self, input):
        ...         return super().forward(input).relu()
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(1, 3, 1), Mine(3, 1, 1), torch.nn.ReLU())
        >>> alone = left_alone(model)
        >>> alone, alone.share
        ({'1': 'Mine has a forward of its own'}, 0.4)
    """
    excluded = _modules_in(model, exclude)
    reasons = LeftAlone()
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            if module.original_name not in {theirs.__name__ for theirs in TWINS}:
                continue
            reason: str | None = (
                "it is compiled by TorchScript: convert the model before it is scripted"
            )
        elif _has_twin(module):
            base = base_of(parametrize.type_before_parametrizations(module))
            reason = obstacle(module, base)  # type: ignore[arg-type]
        else:
            continue
        if module in excluded:
            reason = EXCLUDED
        if reason:
            reasons[name] = reason
    reasons.share = _share(model, reasons)
    return reasons


def _has_twin(module: torch.nn.Module) -> bool:
    kind = parametrize.type_before_parametrizations(module)
    return base_of(kind) is not None and kind is not NEVER_CALLED


def _share(model: torch.nn.Module, names: Iterable[str]) -> float:
    """The share of the parameters that have values which is in the modules of these names."""

    def numbers(modules: Iterable[torch.nn.Module]) -> int:
        parameters = {id(p): p for module in modules for p in module.parameters()}
        return sum(p.numel() for p in parameters.values() if not is_lazy(p))

    return numbers(map(model.get_submodule, names)) / max(1, numbers([model]))


def _modules_in(model: torch.nn.Module, names: Iterable[str]) -> set[torch.nn.Module]:
    """The modules of these names and all that is in them, by whichever name."""
    known = dict(model.named_modules(remove_duplicate=False))
    names = tuple(names)
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"exclude: the model has no module named {unknown[0]!r}")
    return {inner for name in names for inner in known[name].modules()}


def revert(model: torch.nn.Module, *, inplace: bool = False) -> torch.nn.Module:
    """The model with our layers swapped for ``torch.nn``'s: the inverse of :func:`convert`.

    Padding that torch has no word for becomes integers where it is the same before and after every
    axis for any input; layers that torch cannot express are left alone, with one warning that says why.

    Example:
        >>> from cnn_ext import nn
        >>> layer = revert(nn.Conv2d(1, 1, 5, padding="half"))
        >>> layer
        Conv2d(1, 1, kernel_size=(5, 5), stride=(1, 1), padding=(2, 2))
        >>> layer.__class__.__module__
        'torch.nn.modules.conv'
    """
    if not inplace:
        model = copied(model)
    alone: dict[str, str] = {}
    for name, module in model.named_modules():
        kind = parametrize.type_before_parametrizations(module)
        theirs = original(kind)
        if theirs is None:
            if isinstance(module, Layer):
                alone[name] = f"torch has no twin of {kind.__name__}"
        elif reason := module._say_as_torch():  # type: ignore[operator]
            alone[name] = reason
        else:
            module.__dict__.pop("algorithm", None)
            _become(module, theirs)
    _warn("revert", model, alone)
    return model


def _warn(operation: str, model: torch.nn.Module, reasons: dict[str, str]) -> None:
    """One warning for a model: how many layers, how much of it that is, and the reasons."""
    if not reasons:
        return
    of_reason = defaultdict(list)
    for name, reason in reasons.items():
        of_reason[reason].append(name)
    told = []
    for reason, names in list(of_reason.items())[:REASONS]:
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        kind = type(model.get_submodule(names[0])).__name__
        told.append(f"{names[0] or 'the model'} ({kind}){more}: {reason}")
    if len(of_reason) > REASONS:
        told.append("and other reasons")
    layers = "1 layer" if len(reasons) == 1 else f"{len(reasons)} layers"
    share = _share(model, reasons)
    warnings.warn(
        f"{operation}: left {layers} alone, with {share:.0%} of the parameters: {'; '.join(told)}",
        stacklevel=3,
    )


REASONS = 5  # that a warning tells
