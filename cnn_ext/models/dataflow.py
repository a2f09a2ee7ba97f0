"""Finds which layers a network's batch norms and ReLUs follow, by following its calls once.

What is found here is only where to look. :mod:`cnn_ext.models.weave` proves that a layer's output
goes nowhere else, and :mod:`cnn_ext.models.pending` checks at each call that nothing has changed. So
any path through the code will do, also one that no image takes.
"""

from __future__ import annotations

import copy
import inspect
import itertools
import threading
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.fx import Proxy, Tracer

from cnn_ext.models import norms, pending
from cnn_ext.models.norms import Affine
from cnn_ext.models.pending import Pending, Woven, passes
from cnn_ext.models.weave import LAZY

HOOKED = "a hook sees its calls"
MOST_BRANCHES = 1000  # of one trace: a loop over values might never end


@dataclass
class Findings:
    """What follows what, in the model's own modules."""

    pairs: dict[nn.Module, list[tuple[nn.Module | None, bool]]] = field(default_factory=dict)
    affine: dict[nn.Module, Affine] = field(default_factory=dict)
    left: dict[nn.Module, tuple[str, nn.Module | None]] = field(default_factory=dict)
    """Why a batch norm was not folded in one of its calls, and the layer that it follows there."""
    errors: dict[nn.Module, str] = field(default_factory=dict)
    """Why the calls of a module could not be followed."""


def explore(model: nn.Module, example_input: Any = None) -> Findings:
    """Calls the model with the example, or traces it, or what of it can be traced.

    That runs the model's code, and so a copy is called that shares its tensors: what the code stores in
    its modules is not for the model, and hooks are not called.

    Args:
        model: in evaluation mode, its code rewritten.
        example_input: a tensor, or a tuple of arguments.
    """
    tensors = itertools.chain(model.parameters(), model.buffers())
    copied = copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})
    theirs = dict(zip(copied.modules(), model.modules(), strict=True))
    for module, their in theirs.items():
        if type(module) is not type(their):  # copied in a way of its own
            module.__class__ = type(their)
    scout = _Scout(theirs)
    for module in scout.hooked:
        for hooks in (module._forward_hooks, module._forward_pre_hooks,
                      module._backward_hooks, module._backward_pre_hooks):  # fmt: skip
            hooks.clear()
        module.__dict__.pop("forward", None)
    pending.scout = scout
    try:
        if example_input is not None:
            arguments = example_input if isinstance(example_input, tuple) else (example_input,)
            for norm in scout.norms:
                norm.register_forward_pre_hook(lambda norm, given: scout.note(norm, given))
            for layer in scout.reasons:
                layer.register_forward_hook(lambda layer, _, value: scout.returned(layer, value))
            with torch.no_grad():
                copied(*arguments)
        else:
            scout.trace_all(copied)
    finally:
        pending.scout = None
    return scout.findings


class _Scout:
    """Stands for :func:`cnn_ext.models.pending.lazily` while the model is explored."""

    def __init__(self, theirs: dict[nn.Module, nn.Module]) -> None:
        self.thread, self.is_tensor = threading.get_ident(), True
        self.theirs, self.findings = theirs, Findings()
        self.hooked = {m for m in theirs if _is_watched(m)}
        self.norms = {m for m in theirs if norms.is_norm(m)}
        self.seen: set[nn.Module] = set()
        self.folding: tuple[nn.Module, ...] = ()  # those that are called together with a layer
        self.origins: dict[int, tuple[Any, nn.Module]] = {}  # the layer that gave a value, by id
        layers = [m for m in theirs if norms.is_layer(m)]
        self.reasons = {m: HOOKED if m in self.hooked else norms.cannot_start(m) for m in layers}
        # Asked now, for while fx traces, a module's tensors are proxies.
        self.affine = {m: norms.affine(m) for m in self.norms}

    def trace_all(self, model: nn.Module) -> None:
        """Traces the whole, and then every part with batch norms that have not been called."""
        for part in model.modules():
            if next(part.children(), None) is None or isinstance(part, nn.ModuleList | nn.ModuleDict):
                continue
            if part is not model and not (self.norms - self.seen) & set(part.modules()):
                continue
            for answer in (False, True):
                if error := self.trace(part, answer):
                    self.findings.errors.setdefault(self.theirs[part], error)
                if self.norms & set(part.modules()) <= self.seen:
                    break

    def trace(self, module: nn.Module, answer: bool) -> str | None:
        """Traces it, answering so when its code asks for values; what went wrong, if anything."""
        self.is_tensor = not answer  # what it says when asked whether a proxy is one
        try:
            parameters = inspect.signature(type(module).forward).parameters.values()
            defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
            _Tracer(self, answer).trace(module, concrete_args=defaults or None)
        except Exception as error:  # fx raises what the module's code raises on its proxies
            return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        return None

    def call(self, function: Any, args: tuple, kwargs: dict) -> Any:
        """Stands for ``lazily``."""
        if len(args) == 1 and not kwargs:
            input = args[0]
            if isinstance(input, Pending):
                joined = input.then(function)
                if joined is not None:
                    return joined
                if (
                    isinstance(function, Woven)
                    and function.takes_waiting
                    and function not in self.hooked
                ):
                    return getattr(function, "forward" + LAZY)(input)
                input = input.value()
            if isinstance(function, nn.Module) and self.reasons.get(function, HOOKED) is None:
                return _Trial(self, function, input)
            args = (input,)
        if isinstance(function, Woven) and function.takes_waiting and function not in self.hooked:
            return getattr(function, "forward" + LAZY)(*args, **kwargs)
        return function(*args, **kwargs)

    def returned(self, layer: nn.Module, value: Any) -> None:
        """A layer is called, and its result may go anywhere."""
        self.origins[id(value)] = (value, layer)

    def note(self, norm: nn.Module, args: tuple) -> None:
        """A batch norm is called, with or without a layer that waits."""
        if norm in self.folding:
            return
        _, layer = self.origins.get(id(args[0]), (None, None)) if args else (None, None)
        if layer is None:
            reason = "what it is given comes from no convolution or linear layer directly"
        elif norm in self.hooked:
            reason = HOOKED
        elif self.reasons[layer]:
            reason = f"{type(layer).__name__} before it: {self.reasons[layer]}"
        else:
            reason = f"what {type(layer).__name__} gives it may be used elsewhere too"
        self.leave(norm, reason, layer)

    def leave(self, norm: nn.Module, reason: str, layer: nn.Module | None) -> None:
        self.seen.add(norm)
        if self.theirs[norm] not in self.findings.left:
            self.findings.left[self.theirs[norm]] = (reason, layer and self.theirs[layer])

    def fold(self, layer: nn.Module, norm: nn.Module) -> Affine | None:
        """What a batch norm does that follows the layer, if it can be part of it."""
        found = self.affine[norm]
        reason = found if isinstance(found, str) else norms.cannot_fold(layer, norm, found)
        if norm in self.hooked:
            reason = HOOKED
        if isinstance(reason, str):
            self.leave(norm, reason, layer)
            return None
        assert isinstance(found, Affine)
        self.seen.add(norm)
        self.findings.affine[self.theirs[norm]] = found
        self.found(layer, norm, False)
        return found

    def found(self, layer: nn.Module, norm: nn.Module | None, relu: bool) -> None:
        pairs = self.findings.pairs.setdefault(self.theirs[layer], [])
        pair = (norm and self.theirs[norm], relu)
        if pair not in pairs:
            pairs.append(pair)


def _is_watched(module: nn.Module) -> bool:
    """Whether hooks of its own see its calls; what sees all modules' may be gone at run time."""
    return bool(module._forward_hooks or module._forward_pre_hooks or module._backward_hooks
                or module._backward_pre_hooks or "forward" in module.__dict__)  # fmt: skip


class _Trial(Pending):
    """What waits while the model is explored; anything that may be part of it becomes one."""

    def __init__(self, scout: _Scout, layer: nn.Module, input: Any) -> None:
        self.scout, self.layer, self.input = scout, layer, input  # type: ignore[assignment]
        self.norm: nn.Module | None = None
        self.relu: bool = False
        self.calls: tuple[nn.Module, ...] = (layer,)

    def with_(self, *calls: nn.Module, norm: nn.Module | None, relu: bool) -> _Trial:
        trial = copy.copy(self)
        trial.norm, trial.relu, trial.calls = norm, relu, (*self.calls, *calls)
        return trial

    def then(self, function: Any) -> Any:
        """As :meth:`cnn_ext.models.pending.Pending.then`."""
        scout = self.scout
        if not isinstance(function, nn.Module) or function in scout.hooked:
            return None
        if passes(function):
            return self
        if self.relu:
            return None
        if function in scout.norms and self.norm is None:
            found = scout.fold(self.layer, function)
            if found is None:
                return None
            trial = self.with_(function, norm=function, relu=False)
            tail = [getattr(function, name) for name in found.tail]
            if not tail:
                return trial
            if len(tail) == 1 and self._rectifies(tail[0]):
                scout.found(self.layer, function, True)
                return self.with_(function, norm=function, relu=True)
            return trial.value()
        if self._rectifies(function):
            scout.found(self.layer, self.norm, True)
            return self.with_(function, norm=self.norm, relu=True)
        return None

    def _rectifies(self, function: nn.Module) -> bool:
        """Whether it is a ReLU that this layer can compute."""
        plain = norms.is_plain_layer(self.layer) and isinstance(self.layer, nn.modules.conv._ConvNd)
        plain = plain and not isinstance(self.layer, nn.modules.conv._ConvTransposeNd)
        return type(function) is nn.ReLU and plain and function not in self.scout.hooked

    def value(self) -> Any:
        """Calls the modules, as the model would."""
        value, self.scout.folding = self.input, self.calls
        for module in self.calls:
            value = module(value)
        self.scout.folding = ()
        return value


class _Tracer(Tracer):
    """Layers are what has no children, and batch norms; questions about values have one answer."""

    def __init__(self, scout: _Scout, answer: bool) -> None:
        super().__init__()
        self.scout, self.answer, self.branches = scout, answer, 0

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return next(m.children(), None) is None or norms.is_norm(m)

    def call_module(self, m: nn.Module, forward: Any, args: tuple, kwargs: dict) -> Any:
        if threading.get_ident() != self.scout.thread:  # fx replaces calls for the whole process
            return forward(*args, **kwargs)
        if m in self.scout.norms:
            self.scout.note(m, args)
        value = super().call_module(m, forward, args, kwargs)
        if m in self.scout.reasons:
            self.scout.returned(m, value)
        return value

    def to_bool(self, obj: Proxy) -> bool:
        self.branches += 1
        if self.branches > MOST_BRANCHES:
            raise RuntimeError("its code asks for too many values")
        return self.answer
