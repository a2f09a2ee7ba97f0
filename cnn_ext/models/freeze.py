"""A copy of a network for inference: batch norm folded, ReLU fused, filters transformed once.

Like :mod:`cnn_ext.models.convert`, it changes the classes of modules where they stand. Code, hooks and
names stay; a batch norm or a ReLU that became part of the layer before it is an ``Identity``.
:func:`_chains` finds them, in graphs that ``torch.fx`` traces. Where it cannot know what reads a
layer's output, the layer is left as it is.
"""

from __future__ import annotations

import copy
import functools
import inspect
import itertools
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.parameter import UninitializedTensorMixin
from torch.nn.utils import parametrize

from cnn_ext import functional, nn
from cnn_ext.functional import Ints
from cnn_ext.models.convert import convert
from cnn_ext.nn.convolution import _Convolution


def freeze(model: torch.nn.Module, *, fuse: bool = True) -> torch.nn.Module:
    """A copy of the model for inference on our layers, in evaluation mode.

    Its convolutions keep their filters transformed where ``"auto"`` may choose Winograd: some four
    times the memory of the weights, which are kept too. Parametrized weights become plain ones.

    Args:
        model: any module, of torch's layers or of ours; it is not changed.
        fuse: fold every batch norm that directly follows a convolution or a linear layer into it, and
            make every ReLU module that directly follows a convolution part of it. A layer whose output
            is used elsewhere too, or seen by a hook, is not fused.

    Returns:
        The copy. To train it, to load a ``state_dict`` into it, to change its dtype or to move it
        raises: freeze the changed model again. It can be copied, pickled and compiled; filters are not
        pickled but transformed anew.

    Raises:
        TypeError: the model is a TorchScript module.
        ValueError: a lazy layer has seen no input yet.

    Example:
        >>> model = torch.nn.Sequential(
        ...     torch.nn.Conv2d(3, 16, 3), torch.nn.BatchNorm2d(16), torch.nn.ReLU()
        ... ).eval()
        >>> frozen = freeze(model)
        >>> frozen
        FrozenSequential(
          (0): FrozenConv2d(3, 16, kernel_size=(3, 3), stride=(1, 1), batch norm folded, relu)
          (1): Identity()
          (2): Identity()
        )
        >>> x = torch.randn(1, 3, 8, 8)
        >>> torch.testing.assert_close(frozen(x), model(x))
    """
    if isinstance(model, torch.jit.ScriptModule):
        raise TypeError("freeze: model: freeze it before it is compiled by TorchScript")
    for name, parameter in model.named_parameters():
        if isinstance(parameter, UninitializedTensorMixin):
            raise ValueError(f"freeze: {name} has no values yet: call the lazy model once")
    frozen = convert(model).eval()
    for parameter in frozen.parameters():
        parameter.requires_grad_(False)
        parameter.grad = None
    for module in tuple(frozen.modules()):
        if parametrize.type_before_parametrizations(module) in (*FROZEN, torch.nn.Linear):
            _materialise(module)
    relus = _fuse(frozen) if fuse else set()
    for module in tuple(frozen.modules()):
        kind = FROZEN.get(type(module))
        if kind and isinstance(module._parameters.get("weight"), Tensor):  # and no hook computes it
            relu = module in relus or isinstance(module, nn.ConvReLU2d)
            module.__class__ = kind
            module._freeze(relu)
    kind = type(frozen)
    if not issubclass(kind, _Frozen) and kind.__reduce__ is object.__reduce__:
        frozen.__class__ = _sealed(kind)
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
        for dtype, device in {(t.dtype, t.device) for t in (*self.parameters(), *self.buffers())}:
            result = fn(torch.empty(0, dtype=dtype, device=device))
            if result.dtype != dtype or result.device != device:
                raise self._refuse(f"cannot go from {dtype} on {device} to {result.dtype} on "
                                   f"{result.device}")  # fmt: skip
        return super()._apply(fn, recurse)


class _FrozenConvolution(_Frozen, _Convolution):
    """What frozen convolutions share; they come from :func:`freeze`, not from a constructor."""

    relu: bool
    folded: bool = False
    filters: Tensor | None

    def _freeze(self, relu: bool) -> None:
        self.relu = relu
        self.register_buffer("filters", None, persistent=False)
        self._transform()

    def _transform(self) -> None:
        """Transforms the filters, if the algorithm may be Winograd for some input."""
        if self.weight.device.type != "cpu" or self.weight.is_complex():
            return
        algorithm = self.algorithm
        if algorithm == "auto":
            size = (1, self.in_channels, *(100 + extent for extent in self.weight.shape[2:]))
            algorithm = functional.convolution_algorithm(
                size, self.weight.shape, self.stride, 0, self.dilation, self.groups,
                dtype=self.weight.dtype,
            )  # fmt: skip
        if algorithm == "winograd" and self.axes == 2:
            self.filters = torch.ops.cnn_ext.winograd_filters(self.weight.detach(), self.groups)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True):
        super()._apply(fn, recurse)
        if self.filters is not None:  # which have a layout of their own, whatever the weight's
            self.filters = self.filters.contiguous()
        return self

    def _convolve(
        self, input: Tensor, weight: Tensor, bias: Tensor | None, padding: Ints | str
    ) -> Tensor:
        if self.folded and input.dim() != self.axes + 2:
            raise RuntimeError(
                f"{type(self).__name__}: input: expected {self.axes + 2} dimensions, those of the "
                f"batch norm that is folded into it, got shape {list(input.shape)}"
            )
        return functional._conv(
            self.axes, input, weight, bias, self.stride, padding, self.dilation, self.groups,
            self.algorithm, self._operation,
        )  # fmt: skip

    def _operation(self, input, weight, bias, stride, padding, dilation, groups, algorithm):
        filters = self.filters if weight.dtype == self.weight.dtype else None  # not so in autocast
        return torch.ops.cnn_ext.convolution_frozen(
            input, weight, bias, filters, stride, padding, dilation, groups, self.relu, algorithm
        )

    def extra_repr(self) -> str:
        """As the layer's, and what became part of it."""
        return super().extra_repr() + ", batch norm folded" * self.folded + ", relu" * self.relu

    # Transformed filters lie as the processor at hand wants them, and so stay here.

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_buffers": {**self._buffers, "filters": None}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._transform()


class FrozenConv1d(_FrozenConvolution, nn.Conv1d):
    """A :class:`cnn_ext.nn.Conv1d` in a frozen model."""


class FrozenConv2d(_FrozenConvolution, nn.Conv2d):
    """A :class:`cnn_ext.nn.Conv2d` in a frozen model."""


class FrozenConv3d(_FrozenConvolution, nn.Conv3d):
    """A :class:`cnn_ext.nn.Conv3d` in a frozen model."""


class FrozenLinear(_Frozen, torch.nn.Linear):
    """A linear layer in a frozen model, with a batch norm folded into it."""

    def forward(self, input: Tensor) -> Tensor:
        """(N, in_features) to (N, out_features)."""
        if input.dim() != 2:  # of three dimensions, batch norm takes the second
            raise RuntimeError(
                f"FrozenLinear: input: expected 2 dimensions, those of the batch norm that is folded "
                f"into it, got shape {list(input.shape)}"
            )
        return super().forward(input)


FROZEN: dict[type[torch.nn.Module], type[_FrozenConvolution]] = {
    nn.Conv1d: FrozenConv1d,
    nn.Conv2d: FrozenConv2d,
    nn.ConvReLU2d: FrozenConv2d,
    nn.Conv3d: FrozenConv3d,
}


@functools.cache
def _sealed(kind: type[torch.nn.Module]) -> type[torch.nn.Module]:
    """The class of a frozen model of this class."""
    return type(f"Frozen{kind.__name__}", (_Sealed, kind), {"__doc__": kind.__doc__})


class _Sealed(_Frozen):
    """The whole of a frozen model, of a class that :func:`_sealed` makes, and so pickled by it."""

    def __reduce_ex__(self, protocol: Any) -> tuple:
        return _unsealed, (type(self).__bases__[1],), self.__getstate__()


def _unsealed(kind: type[torch.nn.Module]) -> torch.nn.Module:
    """A frozen model of this class that still lacks its state."""
    kind = _sealed(kind)
    return kind.__new__(kind)


def _materialise(module: torch.nn.Module) -> None:
    """Plain parameters in the place of parametrized ones."""
    if parametrize.is_parametrized(module):
        for name in list(module.parametrizations):  # type: ignore[arg-type]
            value = getattr(module, name).detach().clone()
            parametrize.remove_parametrizations(module, name, leave_parametrized=True)
            setattr(module, name, torch.nn.Parameter(value, requires_grad=False))


# ---------------------------------------------------------------------------------------------
# Fusing
# ---------------------------------------------------------------------------------------------

NORMS: dict[type[torch.nn.Module], type[torch.nn.Module]] = {
    nn.Conv1d: torch.nn.BatchNorm1d,
    nn.Conv2d: torch.nn.BatchNorm2d,
    nn.Conv3d: torch.nn.BatchNorm3d,
    torch.nn.Linear: torch.nn.BatchNorm1d,
}
NOTHING = (torch.nn.Identity, torch.nn.Dropout, torch.nn.Dropout1d, torch.nn.Dropout2d,
           torch.nn.Dropout3d, torch.nn.AlphaDropout, torch.nn.FeatureAlphaDropout)  # fmt: skip


def _fuse(model: torch.nn.Module) -> set[torch.nn.Module]:
    """Folds what can be folded, and returns the convolutions that shall rectify."""
    chains = _chains(model)
    for layer, norm in chains.norms.items():
        _fold(layer, norm)
        if isinstance(layer, torch.nn.Linear):
            layer.__class__ = FrozenLinear
    for module in {*chains.norms.values(), *chains.relus.values()}:
        module.__class__ = torch.nn.Identity
        module._parameters.clear()
        module._buffers.clear()
    return set(chains.relus)


@torch.no_grad()
def _fold(layer: torch.nn.Module, norm: torch.nn.Module) -> None:
    """Scales each filter and shifts its bias as batch norm does its output; computed in float64."""
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    shift = -norm.running_mean.double()
    if layer.bias is not None:
        shift = shift + layer.bias.double()
    if norm.weight is not None:
        scale = scale * norm.weight.double()
    shift = shift * scale
    if norm.bias is not None:
        shift = shift + norm.bias.double()
    weight = layer.weight.double() * scale.view(-1, *[1] * (layer.weight.dim() - 1))
    for name, value in (("weight", weight), ("bias", shift)):
        value = value.to(layer.weight.dtype)
        setattr(layer, name, torch.nn.Parameter(value, requires_grad=False))
    layer.folded = True  # type: ignore[assignment]


@dataclass
class _Chains:
    """What follows a convolution or a linear layer and nothing else, by that layer."""

    norms: dict[torch.nn.Module, torch.nn.Module] = field(default_factory=dict)
    relus: dict[torch.nn.Module, torch.nn.Module] = field(default_factory=dict)


def _chains(model: torch.nn.Module) -> _Chains:
    """What can be fused: batch norms and ReLUs whose every call follows a layer read by nothing else.

    Tracing runs the model's code; it does so on a copy that shares the tensors, so that what the code
    stores in its modules is not the model's, and without hooks.
    """
    tensors = itertools.chain(model.parameters(), model.buffers())
    traced = copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})
    theirs = dict(zip(traced.modules(), model.modules(), strict=True))
    hooked = {m for m in theirs if m._forward_hooks or m._forward_pre_hooks}
    rectifiable = {m for m in hooked if type(m) in NORMS and not m._forward_hooks}
    for module in hooked:
        module._forward_hooks.clear()
        module._forward_pre_hooks.clear()
    opaque = {m for m in hooked if not _is_layer(m)}
    regions = [r for m in (traced, *(opaque - {traced})) for r in _regions(m, opaque)[1]]

    module_of: dict[torch.fx.Node, torch.nn.Module] = {}
    calls: dict[torch.nn.Module, list[torch.fx.Node]] = defaultdict(list)
    excluded = (hooked - rectifiable) | {m for m in theirs if "forward" in vars(m)}
    for region, graph in regions:
        for node in graph.nodes:
            if node.op == "call_module":
                module_of[node] = region.get_submodule(node.target)
                calls[module_of[node]].append(node)
            elif node.op == "get_attr":  # a weight that the model's code reads by itself
                excluded.add(region.get_submodule(node.target.rpartition(".")[0]))
    if opaque:  # inside one, a module may be called that has another name outside
        names = Counter(m for _, m in traced.named_modules(remove_duplicate=False))
        excluded |= {m for m in names if names[m] > 1}

    def after(node: torch.fx.Node) -> torch.fx.Node | None:
        """The call of a layer that alone takes what this one gives, as it is or after dropout."""
        while True:
            user = next(iter(node.users), None)
            if len(node.users) != 1 or user.args != (node,) or user.kwargs or user not in module_of:
                return None
            if type(module_of[user]) not in NOTHING or module_of[user] in excluded:
                return user
            node = user

    last = {m: nodes[0] for m, nodes in calls.items()
            if type(m) in NORMS and m not in excluded and len(nodes) == 1
            and isinstance(m._parameters.get("weight"), Tensor)}  # fmt: skip

    def followers(fit: Callable[[torch.nn.Module, torch.nn.Module], bool]):
        """By layer, the module after it, if it fits there and everywhere else where it is called."""
        follows = {m: module_of[user] for m, node in last.items() if (user := after(node))}
        follows = {m: f for m, f in follows.items() if f not in excluded and fit(m, f)}
        times = Counter(follows.values())
        found = {m: f for m, f in follows.items() if times[f] == len(calls[f])}
        last.update({m: after(last[m]) for m in found})
        return {theirs[m]: theirs[f] for m, f in found.items()}

    return _Chains(followers(_can_fold), followers(_can_rectify))


def _can_fold(layer: torch.nn.Module, norm: torch.nn.Module) -> bool:
    return (
        type(norm) is NORMS[type(layer)]
        and norm.running_mean is not None
        and norm.num_features == len(layer.weight)
        and not layer.weight.is_complex()
    )


def _can_rectify(layer: torch.nn.Module, relu: torch.nn.Module) -> bool:
    return type(relu) is torch.nn.ReLU and type(layer) in FROZEN and not layer.weight.is_complex()


def _is_layer(module: torch.nn.Module) -> bool:
    return next(module.children(), None) is None


class _Tracer(torch.fx.Tracer):
    """Layers are what has no children, what torch says besides, and modules that are opaque."""

    def __init__(self, opaque: set[torch.nn.Module]) -> None:
        super().__init__()
        self.opaque = opaque

    def is_leaf_module(self, m: torch.nn.Module, module_qualified_name: str) -> bool:
        return m in self.opaque or _is_layer(m) or super().is_leaf_module(m, module_qualified_name)


_Regions = list[tuple[torch.nn.Module, torch.fx.Graph]]


def _regions(module: torch.nn.Module, opaque: set[torch.nn.Module]) -> tuple[bool, _Regions]:
    """Whether the module can be traced; and its graph, or else those of its parts.

    Parts that cannot be traced become opaque, and the module is tried again with these as layers; their
    own parts have graphs of their own.
    """
    if graph := _graph(module, opaque):
        return True, [(module, graph)]
    within: _Regions = []
    whole: _Regions = []
    found_opaque = False
    for part in module.children():
        if part in opaque or _is_layer(part):
            continue
        traceable, regions = _regions(part, opaque)
        whole += regions
        within += regions[1:] if traceable else regions
        found_opaque = found_opaque or not traceable
    if found_opaque and (graph := _graph(module, opaque)):
        return True, [(module, graph), *within]
    opaque.add(module)
    return False, whole


def _graph(module: torch.nn.Module, opaque: set[torch.nn.Module]) -> torch.fx.Graph | None:
    """The graph of every call of the module; none, if there is no such thing."""
    if "forward" in vars(module):
        return None
    try:
        graph = _Tracer(opaque).trace(module)
        parameters = inspect.signature(module.forward).parameters.values()
        defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
        if defaults:  # code may go another way without them
            plain = _Tracer(opaque).trace(module, concrete_args=defaults)
            if _layers_of(graph) != _layers_of(plain):
                return None
    except Exception:  # fx raises what the module's code raises on its proxies
        return None
    return graph


def _layers_of(graph: torch.fx.Graph) -> list[tuple]:
    return [
        (node.target, [str(n) for n in node.all_input_nodes], [str(n) for n in node.users])
        for node in graph.nodes
        if node.op == "call_module"
    ]
