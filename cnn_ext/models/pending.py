"""Calls of layers that wait until it is known what their result is given to.

A frozen model's code is its own, but for calls whose result only the next call can see: there
:mod:`cnn_ext.models.weave` has put :func:`lazily`. A convolution called so gives a :class:`Pending`. A
batch norm or a ReLU called with one becomes part of it, and :func:`settle` computes it. Whether that is
possible is asked at each call, of the modules at hand: hooks, modes, types and ranks may have changed.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from types import FunctionType
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from cnn_ext.models.weave import LAZY

# What gives its input as it is, in evaluation mode.
NOTHING = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout,
           nn.FeatureAlphaDropout)  # fmt: skip


class Scout(Protocol):
    """Watches the calls of a model while it is being frozen."""

    thread: int
    is_tensor: bool

    def call(self, function: Any, args: tuple, kwargs: dict) -> Any:
        """Stands for ``lazily`` meanwhile."""


scout: Scout | None = None


def lazily(function: Any, *args: Any, **kwargs: Any) -> Any:
    """``function(*args, **kwargs)``, or a :class:`Pending` that is worth it."""
    if scout is not None and scout.thread == threading.get_ident():
        return scout.call(function, args, kwargs)
    if len(args) == 1 and not kwargs:
        input = args[0]
        if isinstance(input, Pending):
            joined = input.then(function)
            if joined is not None:
                return joined
            if isinstance(function, Woven) and function.takes_waiting and is_calm(function):
                return getattr(function, "forward" + LAZY)(input)
            input = input.value()
        if isinstance(function, Layer) and isinstance(input, Tensor) and is_calm(function):
            return Pending(function, input, None)
        args = (input,)
    if isinstance(function, Woven) and function.takes_waiting and is_calm(function):
        return getattr(function, "forward" + LAZY)(*args, **kwargs)
    return function(*args, **kwargs)


def settle(value: Any) -> Any:
    """The value that was waited for."""
    return value.value() if isinstance(value, Pending) else value


def is_calm(module: nn.Module) -> bool:
    """Whether calling the module is to call the forward of its class: no hook sees it."""
    return not (
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks
        or module._backward_pre_hooks or torch_module._global_forward_hooks
        or torch_module._global_forward_pre_hooks or torch_module._global_backward_hooks
        or torch_module._global_backward_pre_hooks or "forward" in module.__dict__
    )  # fmt: skip


def passes(module: Any) -> bool:
    """Whether the module gives its input as it is."""
    return type(module) in NOTHING and (not module.training or type(module) is nn.Identity)


@dataclass(frozen=True)
class Form:
    """A layer with what follows it: ``module`` computes both."""

    norm: nn.Module | None
    relu: bool
    module: nn.Module


class Watched(nn.Module):
    """Notes whether an attribute was set by hand after the model was frozen."""

    changed = False

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name != "training":
            self.__dict__["changed"] = True


class Layer(Watched):
    """A layer in a frozen model that something that follows it can become part of."""

    forms: tuple[Form, ...] = ()
    ranks: tuple[int, ...] = ()  # of the inputs for which a batch norm behind it is part of it


class Folded(Watched):
    """A batch norm in a frozen model that is part of the layers before it."""

    kind: type[nn.Module]  # what it was
    tail: tuple[str, ...]  # children that it calls on what it has normalised


class Woven(nn.Module):
    """A module whose code was rewritten."""

    functions: dict[str, FunctionType]  # that are in its ``__dict__``, and were rewritten too
    takes_waiting = False  # whether its forward was, and its class calls that and does nothing else


class Pending:
    """A call of a layer that waits."""

    def __init__(self, layer: Layer, input: Tensor, form: Form | None) -> None:
        self.layer, self.input, self.form = layer, input, form

    def then(self, function: Any) -> Any:
        """The call of a function with this one's result: None if it is not to be part of it."""
        if not isinstance(function, nn.Module) or not is_calm(function):
            return None
        if passes(function):
            return self
        norm = self.form.norm if self.form is not None else None
        if self.form is not None and self.form.relu:
            return None
        if isinstance(function, Folded):
            stale = function.training or function.changed or self.layer.changed
            if norm is not None or stale or self.input.dim() not in self.layer.ranks:
                return None
            result: Any = self._with(function, False)
            if result is not None:
                for name in function.tail:
                    result = lazily(getattr(function, name), result)
            return result
        if type(function) is nn.ReLU and not self.layer.changed:
            return self._with(norm, True)
        return None

    def _with(self, norm: nn.Module | None, relu: bool) -> Pending | None:
        for form in self.layer.forms:
            if form.norm is norm and form.relu == relu:
                return Pending(self.layer, self.input, form)
        return None

    def value(self) -> Any:
        """Computes it."""
        if self.form is None:
            return self.layer(self.input)
        return self.form.module.forward(self.input)


def method(owner: Any, name: str) -> Any:
    """The owner's method, in the version that may return what waits, unless it was replaced."""
    lazy, own = getattr(owner, name + LAZY, None), owner.__dict__.get(name)
    if lazy is None or own is not type(owner).functions.get(name):
        return getattr(owner, name)
    return lazy


def is_instance(value: Any, kinds: Any) -> bool:
    """``isinstance``, for which a folded batch norm is what it was."""
    if isinstance(value, Folded) and not isinstance(value, kinds):
        return issubclass(value.kind, kinds)  # type: ignore[arg-type]
    if scout is not None and isinstance(value, torch.fx.Proxy):
        return isinstance(torch.empty(0), kinds) == scout.is_tensor
    return isinstance(value, kinds)


def type_of(value: Any) -> type:
    """``type``, likewise."""
    return value.kind if isinstance(value, Folded) else type(value)


HELPERS = {"lazily": lazily, "settle": settle, "method": method, "isinstance": is_instance,
           "type": type_of}  # fmt: skip
