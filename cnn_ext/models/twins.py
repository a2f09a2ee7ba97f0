"""Which layer of ours stands for which of torch's, and how a module changes its class where it stands.

Our layers differ from their twins in their class alone. A subclass of a twin that leaves alone what
computes is as good as the twin: it gets a class that is both itself and ours, so that ``isinstance``,
attributes and methods of its own stay.
"""

from __future__ import annotations

import copyreg
import functools
import types
from typing import Any

import torch
from torch._subclasses import FakeTensor
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.utils import parametrize

from cnn_ext import nn
from cnn_ext.functional import padding_amounts

Kind = type[torch.nn.Module]

TWINS: dict[Kind, Kind] = {
    getattr(torch.nn, name): getattr(nn, name) for name in nn.__all__ if hasattr(torch.nn, name)
}
# What a call of a module goes through; a class that changes one of these computes something else.
CALLED = {"forward", "__call__", "_call_impl", "_wrapped_call_impl"}
# Tensors of other classes have operations of their own, which know nothing of ours.
PLAIN_TENSORS = (torch.Tensor, torch.nn.Parameter, torch.nn.Buffer,
                 torch.nn.UninitializedParameter, torch.nn.UninitializedBuffer, FakeTensor)  # fmt: skip


def base_of(kind: Kind) -> Kind | None:
    """The class of torch's with a twin here that a class is, or derives from."""
    if issubclass(kind, tuple(TWINS.values())):
        return None
    return next((base for base in kind.__mro__ if base in TWINS), None)


def obstacle(module: torch.nn.Module, base: Kind) -> str | None:
    """Why our twin of ``base`` would not compute what the module does; None if it would."""
    kind = parametrize.type_before_parametrizations(module)
    overridden, added = _differences(base)  # type: ignore[arg-type]
    computing = sorted(CALLED | overridden)
    for name in computing:
        if getattr(kind, name, None) is not getattr(base, name, None):
            return f"{kind.__name__} has a {name} of its own"
        if name in vars(module):
            return f"its {name} was replaced"
    for name in sorted(added):
        if hasattr(kind, name) or name in vars(module):
            return f"it has an attribute {name!r}, which means something else in our layer"
    if issubclass(kind, LazyModuleMixin) and not issubclass(base, LazyModuleMixin):
        return f"{kind.__name__} becomes another class when it is first called: call the model before"
    for name, tensor in (*module._parameters.items(), *module._buffers.items()):
        if tensor is not None and type(tensor) not in PLAIN_TENSORS:
            return f"its {name} is a {type(tensor).__name__}"
    if getattr(module, "padding_mode", "zeros") != "zeros" and not _pads_as_it_says(module):
        return "its padding was changed after it was built"
    return None


@functools.cache
def _differences(base: Kind) -> tuple[set[str], set[str]]:
    """Names of torch's class that ours overrides, and names that ours adds."""
    ours = TWINS[base]
    names = {
        name
        for layer in ours.__mro__
        if layer.__module__.partition(".")[0] == "cnn_ext"
        for name in vars(layer)
        if not name.startswith("__") and name != "extra_repr"
    }
    return {name for name in names if hasattr(base, name)}, {n for n in names if not hasattr(base, n)}


def _pads_as_it_says(module: Any) -> bool:
    """Whether torch would pad as ``padding`` says: it reads another attribute, made of this one."""
    axes = len(module.kernel_size)
    expected = padding_amounts(
        module.padding, (1,) * axes, module.kernel_size, module.stride, module.dilation
    )
    return tuple(module._reversed_padding_repeated_twice) == tuple(expected)


def swapped(kind: Kind) -> Kind:
    """The class of ours for a class that :func:`obstacle` has nothing against."""
    return TWINS[kind] if kind in TWINS else _both(kind)  # type: ignore[arg-type]


def original(kind: Kind) -> Kind | None:
    """The class that :func:`swapped` was asked for; None for what it did not give."""
    return ORIGINALS.get(kind, vars(kind).get("_cnn_ext_original"))


ORIGINALS: dict[Kind, Kind] = {ours: theirs for theirs, ours in TWINS.items()}


class _Made(type):
    """The class of the classes that are made here."""


def _reduce(made: type) -> Any:
    """For pickle, which does not find a class that is made here by its name."""
    of = vars(made).get("_cnn_ext_original")
    return (_both, (of,)) if of else made.__qualname__


copyreg.pickle(_Made, _reduce)  # type: ignore[arg-type]


class _Both:
    """What a class has that is both a subclass of torch's layer and ours."""

    _cnn_ext_original: Kind

    def __init_subclass__(cls) -> None:
        """Nothing: a class that keeps a list of its subclasses shall not meet this one."""


@functools.cache
def _both(kind: Kind) -> Kind:
    """The class that is both ``kind`` and ours."""
    ours = TWINS[base_of(kind)]  # type: ignore[index]
    made: type = _Made
    if type(kind) is not type:
        made = type("_Made", (_Made, type(kind)), {})
        copyreg.pickle(made, _reduce)  # type: ignore[arg-type]
    members = {
        "__doc__": kind.__doc__,
        "__module__": ours.__module__,
        "__qualname__": kind.__qualname__,
        "_cnn_ext_original": kind,
    }
    bases = (_Both, kind, ours)
    return types.new_class(kind.__name__, bases, {"metaclass": made}, lambda body: body.update(members))


def become(module: torch.nn.Module, kind: Kind) -> None:
    """Changes the class of a module where it stands.

    A parametrization has put a class of the module's own between it and its layer's class, which has
    the computed tensors as properties: it gets such a class over the new one.
    """
    if parametrize.is_parametrized(module):
        members = {k: v for k, v in vars(type(module)).items() if k not in ("__dict__", "__weakref__")}
        kind = type(f"Parametrized{kind.__name__}", (kind,), members)
    module.__class__ = kind
