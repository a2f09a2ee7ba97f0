"""A copy of a network for inference: what follows a layer folded into it, filters transformed once.

Like :mod:`cnn_ext.models.convert`, it changes the classes of modules where they stand. Code, names,
weights and hooks stay. Beside each layer lie its *forms*: the layer with a batch norm, a ReLU, or both.
Which to call is decided at each call, by :mod:`cnn_ext.models.pending`.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from types import FunctionType
from typing import Any

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize

from cnn_ext import functional, nn
from cnn_ext.functional import Ints
from cnn_ext.models import norms
from cnn_ext.models.convert import _become, copied, swap_layers
from cnn_ext.models.dataflow import Findings, explore
from cnn_ext.models.freeze_report import Report, Row
from cnn_ext.models.norms import Affine
from cnn_ext.models.pending import HELPERS, Folded, Form, Layer, Woven
from cnn_ext.models.weave import LAZY, NotWovenError, weave
from cnn_ext.nn.convolution import _Convolution

MOST_KEPT = 2**22  # numbers: from beyond the cache more of them are read no faster than transformed


def freeze(model: torch.nn.Module, *, fuse: bool = True, example_input: Any = None) -> torch.nn.Module:
    """A copy of the model for inference on our layers, in evaluation mode.

    Its convolutions keep their filters transformed where ``"auto"`` may choose Winograd, if these are
    at most 2²² numbers: some four times the memory of the weights, which are kept too. Parametrized
    weights become plain ones.

    Args:
        model: any module, of torch's layers or of ours; it is not changed.
        fuse: fold every batch norm that directly follows a convolution or a linear layer into it, and
            make every ReLU module that directly follows a convolution part of it. The weights of such
            layers are kept twice, for the model's code runs as it is: where it uses a layer's output in
            another way, or a hook sees it, the modules compute what they always did.
        example_input: a tensor, or a tuple of arguments, to call the model with (without its hooks) in
            order to see what follows what. Without one the code is traced, which needs it only where
            it asks for values.

    Returns:
        The copy. Its method ``report()`` says for each layer what was fused, what was not, and why. To
        train it, to load a ``state_dict`` into it, to change its dtype or to move it raises: freeze the
        changed model again. It can be copied, pickled and compiled; filters and folded weights are not
        pickled but computed anew.

    Raises:
        TypeError: the model is a TorchScript module.
        ValueError: a lazy layer has seen no input yet.

    Warns:
        UserWarning: batch norms may follow convolutions, and none could be folded.

    Example:
        >>> model = torch.nn.Sequential(
        ...     torch.nn.Conv2d(3, 16, 3), torch.nn.BatchNorm2d(16), torch.nn.ReLU()
        ... ).eval()
        >>> frozen = freeze(model)
        >>> frozen
        FrozenSequential(
          (0): FrozenConv2d(3, 16, kernel_size=(3, 3), stride=(1, 1), batch norm folded, relu)
          (1): Folded(BatchNorm2d, 16)
          (2): ReLU()
        )
        >>> x = torch.randn(1, 3, 8, 8)
        >>> torch.testing.assert_close(frozen(x), model(x))
        >>> frozen.report().folded
        1
    """
    if isinstance(model, torch.jit.ScriptModule):
        raise TypeError("freeze: model: freeze it before it is compiled by TorchScript")
    if isinstance(model, _Frozen):
        return copy.deepcopy(model)
    for name, parameter in model.named_parameters():
        if is_lazy(parameter):
            raise ValueError(f"freeze: {name} has no values yet: call the lazy model once")
    frozen = copied(model).eval()
    swap_layers(frozen)
    for parameter in frozen.parameters():
        parameter.requires_grad_(False)
        parameter.grad = None
    for module in tuple(frozen.modules()):
        _materialise(module)
    findings, reasons = Findings(), dict[torch.nn.Module, str]()
    if fuse:
        kinds = {id(m): type(m) for m in frozen.modules()}
        reasons = {m: reason for m in frozen.modules() if (reason := _weave(m))}
        findings = explore(frozen, example_input)
        for module in frozen.modules():  # the rest keeps its own code
            if isinstance(module, Woven) and not findings.pairs.keys() & set(module.modules()):
                module.__class__ = kinds[id(module)]  # type: ignore[assignment]
    report = _report(frozen, findings, reasons)
    for norm, affine in findings.affine.items():
        _become_folded(norm, affine)
    for module in tuple(frozen.modules()):
        pairs = findings.pairs.get(module, ())
        if pairs or (type(module) in FROZEN and module._parameters.get("weight") is not None):
            _freeze_layer(module, tuple(pairs))
    _seal(frozen, report)
    if fuse and not report.folded and _might_be_folded(findings, report):
        _warn(report)
    return frozen


# ---------------------------------------------------------------------------------------------
# Frozen modules
# ---------------------------------------------------------------------------------------------


class _Frozen(torch.nn.Module):
    """Refuses whatever would part a frozen module from the model it was made of."""

    def _refuse(self, what: str) -> RuntimeError:
        return RuntimeError(
            f"{type(self).__name__}: {what}: it was made by cnn_ext.freeze, for inference alone; "
            "do this to the model that was frozen, and freeze that again"
        )

    def report(self) -> Report:
        """What was fused in each layer, what was not, and why; of the whole that was frozen."""
        if "_frozen_report" not in self.__dict__:
            raise self._refuse("has no report, for it is a part of a frozen model")
        return self.__dict__["_frozen_report"]

    def train(self, mode: bool = True):
        """Raises, but for ``train(False)``."""
        if mode:
            raise self._refuse("cannot be trained")
        return super().train(mode)

    def requires_grad_(self, requires_grad: bool = True):
        """Raises, but for ``requires_grad_(False)``."""
        if requires_grad:
            raise self._refuse("cannot require gradients")
        return super().requires_grad_(requires_grad)

    def load_state_dict(self, *_: Any, **__: Any):
        """Raises."""
        raise self._refuse("cannot load a state_dict")

    def _load_from_state_dict(self, *_: Any, **__: Any) -> None:  # as a part of a larger model
        raise self._refuse("cannot load a state_dict")

    def to_empty(self, *_: Any, **__: Any):
        """Raises."""
        raise self._refuse("cannot lose its values")

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True):
        kinds = ((t.dtype, t.device) for t in (*self.parameters(), *self.buffers()))
        for dtype, device in dict.fromkeys(kinds):
            result = fn(torch.empty(0, dtype=dtype, device=device))
            if result.dtype != dtype or result.device != device:
                raise self._refuse(f"cannot go from {dtype} on {device} to {result.dtype} on "
                                   f"{result.device}")  # fmt: skip
        return super()._apply(fn, recurse)


class _FrozenLayer(_Frozen, Layer):
    """What frozen layers share; they come from :func:`freeze`, not from a constructor."""

    pairs: tuple[
        tuple[Any, bool], ...
    ] = ()  # what follows it: a batch norm or None, and whether a ReLU

    def _form(self) -> None:
        """Computes its forms, where what follows it is there."""
        forms: list[Form] = []
        for norm, relu in self.pairs:
            if norm is None or "_affine" in norm.__dict__:
                forms.append(Form(norm, relu, _twin(self, norm, relu, forms)))
        self.__dict__.update(forms=tuple(forms), changed=False)

    @property
    def folded(self) -> bool:
        """Whether a batch norm is folded into it."""
        return any(form.norm is not None for form in self.forms)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True):
        super()._apply(fn, recurse)
        for form in self.forms:
            form.module._apply(fn, recurse)
        return self

    def extra_repr(self) -> str:
        """As the layer's, and what became part of it."""
        return super().extra_repr() + ", batch norm folded" * self.folded

    # Folded weights are not pickled, nor copied, but computed anew.

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in super().__getstate__().items() if k not in ("forms", "changed")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._form()


def _twin(layer: _FrozenLayer, norm: Any, relu: bool, forms: list[Form]) -> torch.nn.Module:
    """The layer with what follows it as one module; forms of one batch norm share their tensors."""
    source = next((form.module for form in forms if form.norm is norm), layer)
    twin = type(layer).__new__(type(layer))
    twin.__dict__.update(source.__dict__, pairs=(), forms=())
    for name in ("_parameters", "_buffers"):
        twin.__dict__[name] = dict(source.__dict__[name])
    if norm is not None and source is layer:
        weight, bias = norms.folded(layer, norm.__dict__["_affine"])
        twin._parameters.update(weight=weight, bias=bias)
        if isinstance(twin, _FrozenConvolution):
            twin._transform()
    if relu:
        twin.__dict__["rectifies"] = True
    return twin


class _FrozenConvolution(_FrozenLayer, _Convolution):
    """What frozen convolutions share."""

    rectifies: bool = False
    filters: Tensor | None

    @property
    def relu(self) -> bool:
        """Whether it computes a ReLU, always or where one follows it."""
        return self.rectifies or any(form.relu for form in self.forms)

    def _transform(self) -> None:
        """Transforms the filters, if the algorithm may be Winograd for some input, and they are few."""
        self._buffers["filters"] = None
        ones = self.stride == self.dilation == (1, 1)  # what winograd_filters transforms
        if self.kernel_size not in ((3, 3), (5, 5)) or not ones:
            return
        if self.weight.device.type != "cpu" or self.weight.is_complex():
            return
        algorithm = self.algorithm
        if algorithm == "auto":
            size = (1, self.in_channels, *(100 + extent for extent in self.weight.shape[2:]))
            algorithm = functional.convolution_algorithm(
                size, self.weight.shape, self.stride, 0, self.dilation, self.groups,
                dtype=self.weight.dtype,
            )  # fmt: skip
        if algorithm == "winograd":
            transform, weight = torch.ops.cnn_ext.winograd_filters, self.weight.detach()
            if transform(weight.to("meta"), self.groups).numel() <= MOST_KEPT:
                self._buffers["filters"] = transform(weight, self.groups)

    def _form(self) -> None:
        if not any(norm for norm, _ in self.pairs):  # else it is its forms that are called
            self._transform()
        super()._form()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True):
        super()._apply(fn, recurse)
        if self.filters is not None:  # which have a layout of their own, whatever the weight's
            self._buffers["filters"] = self.filters.contiguous()
        return self

    def _convolve(
        self, input: Tensor, weight: Tensor, bias: Tensor | None, padding: Ints | str
    ) -> Tensor:
        return functional._conv(
            self.axes, input, weight, bias, self.stride, padding, self.dilation, self.groups,
            self.algorithm, self._operation,
        )  # fmt: skip

    def _operation(self, input, weight, bias, stride, padding, dilation, groups, algorithm):
        stale = self.changed or weight.dtype != self.weight.dtype  # set by hand; or in autocast
        filters = None if stale else self.filters
        return torch.ops.cnn_ext.convolution_frozen(
            input, weight, bias, filters, stride, padding, dilation, groups, self.rectifies, algorithm
        )

    def extra_repr(self) -> str:
        """As the layer's, and what became part of it."""
        return super().extra_repr() + ", relu" * self.relu

    # Transformed filters lie as the processor at hand wants them, and so stay here.

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_buffers": {**self._buffers, "filters": None}}


class FrozenConv1d(_FrozenConvolution, nn.Conv1d):
    """A :class:`cnn_ext.nn.Conv1d` in a frozen model."""


class FrozenConv2d(_FrozenConvolution, nn.Conv2d):
    """A :class:`cnn_ext.nn.Conv2d` in a frozen model."""


class FrozenConv3d(_FrozenConvolution, nn.Conv3d):
    """A :class:`cnn_ext.nn.Conv3d` in a frozen model."""


class FrozenLinear(_FrozenLayer, nn.Linear):
    """A linear layer in a frozen model, with a batch norm folded into it."""


FROZEN: dict[type[torch.nn.Module], type[_FrozenLayer]] = {
    nn.Conv1d: FrozenConv1d,
    nn.Conv2d: FrozenConv2d,
    nn.ConvReLU2d: FrozenConv2d,
    nn.Conv3d: FrozenConv3d,
}


class FoldedNorm(nn._layer.Layer, _Frozen, Folded):
    """A batch norm that is part of the layers it follows. Called otherwise, it does what it did."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The batch norm's."""
        return self.kind.forward(self._original(), *args, **kwargs)

    def _original(self) -> torch.nn.Module:
        """The batch norm: another class over the same parameters, buffers and attributes."""
        if "_norm" not in self.__dict__:
            original = self.kind.__new__(self.kind)
            original.__dict__ = self.__dict__
            self.__dict__["_norm"] = (original,)  # in a tuple, for it is no module of the model
        return self.__dict__["_norm"][0]

    def _get_name(self) -> str:
        return "Folded"

    def extra_repr(self) -> str:
        """The class it was of, and its channels."""
        return f"{self.kind.__name__}, {len(self.__dict__['_affine'].scale)}"

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in ("_norm", "changed")}


def _become_folded(norm: torch.nn.Module, affine: Affine) -> None:
    kind = type(norm)
    norm.__class__ = FoldedNorm
    norm.__dict__.update(kind=kind, tail=affine.tail, _affine=affine)
    norm._original()  # type: ignore[operator]


def _freeze_layer(layer: Any, pairs: tuple[tuple[Any, bool], ...]) -> None:
    rectifies = isinstance(layer, nn.ConvReLU2d)
    layer.__class__ = _frozen_kind(type(layer))
    layer.__dict__.update(pairs=pairs, ranks=norms.ranks(layer))
    if rectifies:
        layer.__dict__["rectifies"] = True
    if isinstance(layer, _FrozenConvolution):
        layer.register_buffer("filters", None, persistent=False)
    layer._form()


def _frozen_kind(kind: type[torch.nn.Module]) -> type[torch.nn.Module]:
    """The frozen class of a layer's."""
    if kind in FROZEN:
        return FROZEN[kind]
    if kind in (nn.Linear, torch.nn.Linear):
        return FrozenLinear
    for ours in (nn.Conv1d, nn.Conv2d, nn.Conv3d):
        theirs = getattr(torch.nn, ours.__name__)
        if issubclass(kind, theirs) and norms.has_plain_forward(kind):
            return _combined(FROZEN[ours], kind)
    return _combined(_FrozenLayer, kind)


# ---------------------------------------------------------------------------------------------
# Classes made for others' classes, and pickled as these
# ---------------------------------------------------------------------------------------------

_MADE: dict[tuple, type[torch.nn.Module]] = {}


def _combined(frozen: type[torch.nn.Module], kind: type[torch.nn.Module]) -> type[torch.nn.Module]:
    """A frozen class over somebody's class of layers."""
    if (frozen, kind) not in _MADE:
        members = {"__doc__": kind.__doc__, "__module__": __name__, "__reduce_ex__": _reduce_combined}
        _MADE[frozen, kind] = type(f"Frozen{kind.__name__}", (frozen, kind), members)
    return _MADE[frozen, kind]


def _reduce_combined(self: torch.nn.Module, protocol: Any) -> tuple:
    frozen, kind = type(self).__bases__
    return _empty_combined, (frozen, kind), self.__getstate__()


def _empty_combined(frozen: type[torch.nn.Module], kind: type[torch.nn.Module]) -> torch.nn.Module:
    kind = _combined(frozen, kind)
    return kind.__new__(kind)


Functions = tuple[tuple[str, FunctionType], ...]


class _Container(Woven):
    """A container of a frozen model: of a class that :func:`_container` makes, and so pickled by it."""

    made_of: tuple[type[torch.nn.Module], Functions, bool]

    def __reduce_ex__(self, protocol: Any) -> Any:
        if _is_customised(self.made_of[0]):
            return _as_it_was(self).__reduce_ex__(protocol)
        return _empty_container, self.made_of, self.__getstate__()

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for module in self.modules():  # what follows a layer may have been missing when it was loaded
            if isinstance(module, _FrozenLayer) and len(module.forms) < len(module.pairs):
                module._form()


def _as_it_was(container: _Container) -> torch.nn.Module:
    """The same object of its own class, for classes that copy and pickle in a way of their own.

    The copy is of that class too: it computes the same, and fuses nothing in its own code.
    """
    alias = object.__new__(container.made_of[0])
    alias.__dict__ = container.__dict__
    return alias


class _Sealed(_Frozen, _Container):
    """The whole of a frozen model."""


def _container(kind: type[torch.nn.Module], functions: Functions, whole: bool) -> type[torch.nn.Module]:
    """The class of a container of this class, its code rewritten; the whole model's is sealed too.

    ``super()`` in a method of ``kind`` looks for what comes behind it in the order of classes, and so
    each base whose code was rewritten has a class of its own, before it.
    """
    key = (kind, functions, whole)
    if key not in _MADE:
        bases, reasons = [], dict[str, str]()
        for owner in kind.__mro__[1:]:
            members = _woven_members(owner, frozenset(dir(kind)), (), reasons)
            if members:
                bases.append(type(owner.__name__, (owner,), members))
        members = _woven_members(kind, frozenset(dir(kind)), functions, reasons)
        woven = bool(members) or bool(bases)
        name = f"Frozen{kind.__name__}" if whole else kind.__name__
        members |= {"__doc__": kind.__doc__, "__module__": __name__, "made_of": key, "woven": woven,
                    "functions": dict(functions), "reasons": reasons}  # fmt: skip
        if _is_customised(kind):
            members["__deepcopy__"] = lambda self, memo: copy.deepcopy(_as_it_was(self), memo)
        first = _Sealed if whole else _Container
        _MADE[key] = type(name, (first, kind, *bases), members)
    return _MADE[key]


def _empty_container(*made_of: Any) -> torch.nn.Module:
    kind = _container(*made_of)
    return kind.__new__(kind)


def _woven_members(
    owner: type, methods: frozenset[str], functions: Functions, reasons: dict[str, str]
) -> dict[str, Any]:
    """A class's own methods and an object's functions, rewritten; others are added to ``reasons``."""
    torchs = owner.__module__.split(".")[0] == "torch" and owner is not torch.nn.Sequential
    if torchs and not issubclass(owner, torch.fx.GraphModule):
        return {}
    own = {name: f for name, f in vars(owner).items() if isinstance(f, FunctionType)
           and (name == "forward" or not hasattr(torch.nn.Module, name))}  # fmt: skip
    members: dict[str, Any] = {}
    any_woven = False
    for name, function in {**own, **dict(functions)}.items():
        woven = None
        try:
            woven = weave(function, methods | dict(functions).keys(), HELPERS)
        except NotWovenError as reason:
            reasons.setdefault(name, str(reason))
        any_woven = any_woven or woven is not None
        if name in dict(functions):
            members[name + LAZY] = staticmethod(woven[1] if woven else function)
        elif woven:
            members[name], members[name + LAZY] = woven
        else:  # or that of a base would be found
            members[name + LAZY] = function
        if name == "forward":
            plain = owner.__call__ in (torch.nn.Module.__call__, nn._layer.Layer.__call__)
            members["takes_waiting"] = woven is not None and plain
    return members if any_woven or "takes_waiting" in members else {}


def _is_customised(kind: type[torch.nn.Module]) -> bool:
    """Whether its objects are pickled in a way of their own."""
    return kind.__reduce__ is not object.__reduce__ or kind.__reduce_ex__ is not object.__reduce_ex__


def _weave(module: torch.nn.Module) -> str | None:
    """Rewrites the module's code; the reason, if its forward cannot be."""
    kind = type(module)
    if next(module.children(), None) is None or issubclass(kind, torch.jit.ScriptModule | _Frozen):
        return None
    if norms.is_norm(module) or norms.is_layer(module):
        return None
    functions = tuple((n, f) for n, f in vars(module).items() if isinstance(f, FunctionType))
    made = _container(kind, functions, False)
    if made.woven:  # type: ignore[attr-defined]
        module.__class__ = made
    reasons = made.reasons  # type: ignore[attr-defined]
    return f"{kind.__name__}.forward: {reasons['forward']}" if "forward" in reasons else None


def _seal(frozen: torch.nn.Module, report: Report) -> None:
    """Makes the whole refuse what frozen modules refuse, and answer ``report()``."""
    kind = type(frozen)
    frozen.__dict__["_frozen_report"] = report
    if issubclass(kind, _Frozen):
        return
    made_of = kind.made_of[:2] if issubclass(kind, _Container) else (kind, ())
    if _is_customised(made_of[0]):
        frozen.__dict__["report"] = lambda: report
    else:
        frozen.__class__ = _container(*made_of, True)


def _materialise(module: torch.nn.Module) -> None:
    """Plain parameters in the place of parametrized ones."""
    if parametrize.is_parametrized(module) and norms.is_layer(module):
        # Removing one takes it from the class, which the model that was copied may share.
        _become(module, parametrize.type_before_parametrizations(module))
        for name in list(module.parametrizations):  # type: ignore[arg-type]
            value = getattr(module, name).detach().clone()
            parametrize.remove_parametrizations(module, name, leave_parametrized=True)
            setattr(module, name, torch.nn.Parameter(value, requires_grad=False))


# ---------------------------------------------------------------------------------------------
# The report
# ---------------------------------------------------------------------------------------------


def _report(model: torch.nn.Module, findings: Findings, reasons: dict[torch.nn.Module, str]) -> Report:
    """What is about to be done, by name."""
    names = {m: name for name, m in model.named_modules()}
    for owner, reason in reasons.items():  # its code, as it stands, may do anything with what it gets
        for norm in owner.children():
            if norm in findings.left:
                findings.left[norm] = (reason, findings.left[norm][1])
    rows, relus = [], 0
    for module, name in names.items():
        pairs = findings.pairs.get(module, [])
        kind = type(module).__name__
        if norms.is_layer(module):
            fused = [names[norm] for norm, _ in pairs if norm is not None]
            fused = list(dict.fromkeys(fused)) + ["relu"] * any(relu for _, relu in pairs)
            relus += any(relu for _, relu in pairs)
            left = [names[n] + ": " + why for n, (why, layer) in findings.left.items()
                    if layer is module]  # fmt: skip
            reason = norms.cannot_start(module) or ""
            rows.append(Row(name, kind, ", ".join(fused), "; ".join(left) or reason))
        elif norms.is_norm(module):
            if module in findings.left:
                also = " in another call" if module in findings.affine else ""
                rows.append(Row(name, kind, "", findings.left[module][0] + also))
            elif module not in findings.affine:
                rows.append(Row(name, kind, "", _why_not_reached(name, names, findings, reasons)))
    before = sum(isinstance(module, Folded) for module in names)  # in parts that were frozen already
    count, folded = sum(map(norms.is_norm, names)), len(findings.affine)
    return Report(rows, before + count, before + folded, relus)


def _why_not_reached(
    name: str, names: dict[torch.nn.Module, str], findings: Findings,
    reasons: dict[torch.nn.Module, str],
) -> str:  # fmt: skip
    """Why a batch norm was in no call that could be followed."""
    for why in (reasons, findings.errors):
        for module, reason in reversed(why.items()):
            if name.startswith(names[module]):
                return f"no call of it was seen ({reason})"
    return "no call of it was seen in the model's code"


def _might_be_folded(findings: Findings, report: Report) -> bool:
    """Whether some batch norm follows a layer, or is not known not to."""
    known = sum(layer is None for _, layer in findings.left.values())
    return report.batch_norms > known


def _warn(report: Report) -> None:
    first = next((row for row in report if "BatchNorm" in row.kind and row.left), None)
    why = f", {first.name or 'the model'} because: {first.left}" if first else ""
    warnings.warn(
        f"freeze: folded none of {report.batch_norms} batch norms{why}. See report() of the result",
        stacklevel=3,
    )
