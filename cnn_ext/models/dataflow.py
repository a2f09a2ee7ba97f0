"""Which layer's output goes to one other layer and nowhere else, in anybody's network.

What ``torch.fx`` traces is believed only where it must be so: not of modules that hooks watch, whose
weights the model's code reads by itself, or that may be called where no graph shows it.
"""

from __future__ import annotations

import copy
import inspect
import itertools
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass

from torch import nn
from torch.fx import Graph, Node, Tracer

Fit = Callable[[nn.Module, nn.Module], bool]
Regions = list[tuple[nn.Module, Graph]]

# What gives its input as it is, in evaluation mode.
NOTHING = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout,
           nn.FeatureAlphaDropout)  # fmt: skip


def followers(model: nn.Module, *fits: Fit) -> list[dict[nn.Module, nn.Module]]:
    """The layers that follow another and, in every call that the model makes of them, nothing else.

    Args:
        model: in evaluation mode.
        fits: says whether its second argument, which follows the first, is of the kind asked for. Each
            is asked of what comes after the followers found by those before it.

    Returns:
        For each of ``fits``, the followers by the layer that they follow. Such a layer is called once.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Dropout(), nn.ReLU(), nn.Tanh()).eval()
        >>> followers(model, lambda layer, other: isinstance(other, nn.ReLU))
        [{Conv2d(1, 2, kernel_size=(3, 3), stride=(1, 1)): ReLU()}]
    """
    known = _known_calls(model)
    module_of = {node: module for module, nodes in known.calls.items() for node in nodes}

    def after(node: Node) -> Node | None:
        """The call that alone takes what this one gives, as it is or after dropout."""
        while len(node.users) == 1:
            (user,) = node.users
            if user not in module_of or user.args != (node,) or user.kwargs:
                return None
            if type(module_of[user]) not in NOTHING or module_of[user] in known.hooked:
                return user
            node = user
        return None

    results = []
    last = {m: nodes[0] for m, nodes in known.calls.items()
            if m in known.trusted and len(nodes) == 1 and type(m) not in NOTHING}  # fmt: skip
    for fit in fits:
        next_call = {m: user for m, node in last.items() if (user := after(node))}
        follows = {m: module_of[user] for m, user in next_call.items()}
        follows = {m: other for m, other in follows.items()
                   if other in known.trusted - known.hooked and fit(m, other)}  # fmt: skip
        times = Counter(follows.values())
        found = {m: f for m, f in follows.items() if times[f] == len(known.calls[f])}
        last.update({m: next_call[m] for m in found})
        results.append({known.theirs[m]: known.theirs[f] for m, f in found.items()})
    return results


@dataclass
class _Known:
    """What is known of the modules of a copy of the model."""

    calls: dict[nn.Module, list[Node]]  # in the graphs
    trusted: set[nn.Module]  # of which these are all calls, and whose output no hook sees
    hooked: set[nn.Module]
    theirs: dict[nn.Module, nn.Module]  # the model's own


def _known_calls(model: nn.Module) -> _Known:
    """Traces the model, or what of it can be traced.

    Tracing runs the model's code, and so a copy is traced that shares its tensors: what the code stores
    in its modules is not for the model, and hooks are not called.
    """
    tensors = itertools.chain(model.parameters(), model.buffers())
    copied = copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})
    theirs = dict(zip(copied.modules(), model.modules(), strict=True))
    hooked = {m for m in theirs if m._forward_hooks or m._forward_pre_hooks}
    doubtful = {m for m in theirs if m._forward_hooks or "forward" in vars(m)}
    for module in hooked:
        module._forward_hooks.clear()
        module._forward_pre_hooks.clear()
    opaque = {m for m in hooked if not _is_layer(m)}
    regions = [r for m in (copied, *(opaque - {copied})) for r in _regions(m, opaque)[1]]

    calls: dict[nn.Module, list[Node]] = defaultdict(list)
    for region, graph in regions:
        for node in graph.nodes:
            if node.op == "call_module":
                calls[region.get_submodule(node.target)].append(node)
            elif node.op == "get_attr":  # a weight that the model's code reads by itself
                doubtful.add(region.get_submodule(node.target.rpartition(".")[0]))
    if opaque or not all(map(_is_layer, calls)):
        # A module of two names may be called by one of them in a part that is no graph.
        names = Counter(m for _, m in copied.named_modules(remove_duplicate=False))
        doubtful |= {m for m in names if names[m] > 1}
    return _Known(calls, set(theirs) - doubtful, hooked, theirs)


def _is_layer(module: nn.Module) -> bool:
    return next(module.children(), None) is None


class _Tracer(Tracer):
    """Layers are what has no children, what torch says besides, and modules that are opaque."""

    def __init__(self, opaque: set[nn.Module]) -> None:
        super().__init__()
        self.opaque = opaque

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return m in self.opaque or _is_layer(m) or super().is_leaf_module(m, module_qualified_name)


def _regions(module: nn.Module, opaque: set[nn.Module]) -> tuple[bool, Regions]:
    """Whether the module can be traced; and its graph, or else those of its parts.

    Parts that cannot be traced become opaque, and the module is tried again with these as layers; their
    own parts have graphs of their own, on the understanding that they are called whole.
    """
    if graph := _graph(module, opaque):
        return True, [(module, graph)]
    parts: Regions = []
    within_opaque: Regions = []
    again = False
    for part in module.children():
        if part in opaque or _is_layer(part):
            continue
        traceable, regions = _regions(part, opaque)
        parts += regions
        within_opaque += regions[1:] if traceable else regions
        again = again or not traceable
    if again and (graph := _graph(module, opaque)):
        return True, [(module, graph), *within_opaque]
    opaque.add(module)
    return False, parts


def _graph(module: nn.Module, opaque: set[nn.Module]) -> Graph | None:
    """The graph of every call of the module; none, if there is no such thing."""
    if "forward" in vars(module):  # not the class's, which is what fx traces
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


def _layers_of(graph: Graph) -> list[tuple]:
    return [
        (node.target, [str(n) for n in node.all_input_nodes], [str(n) for n in node.users])
        for node in graph.nodes
        if node.op == "call_module"
    ]
