"""Copies of models, and looking at models: what every tool that takes one shares."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import random
import sys
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils import parametrize
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks",
         "_forward_hooks_with_kwargs", "_forward_pre_hooks_with_kwargs",
         "_forward_hooks_always_called")  # fmt: skip


def copied(model: torch.nn.Module) -> torch.nn.Module:
    """A deep copy with the modes and hooks of the model, whatever its ``__deepcopy__`` makes of them.

    Tensors that torch cannot copy, such as the weight that a hook computes from others, are copied
    without their history.

    Raises:
        TypeError: the copy is the model itself or shares a module with it.
    """
    memo = {
        id(value): _copied_tensor(value)
        for module in model.modules()
        for value in tree_leaves(list(vars(module).values()))
        if isinstance(value, Tensor)
        and (isinstance(value, torch.nn.UninitializedBuffer) or not value.is_leaf)
    }
    result = copy.deepcopy(model, memo)
    theirs = {id(module): name for name, module in model.named_modules()}
    for module in result.modules():
        if id(module) in theirs:
            raise TypeError(
                f"model: its copy shares {theirs[id(module)] or 'everything'} with it, for a class in "
                "it has a __deepcopy__ that copies nothing; use inplace=True"
            )
    originals = dict(model.named_modules(remove_duplicate=False))
    for name, module in result.named_modules(remove_duplicate=False):  # parents before children
        if (original := originals.get(name)) is None:
            continue
        if module.training != original.training:
            module.train(original.training)  # the method: some modules do more than to set the flag
        for hooks in HOOKS:
            if not getattr(module, hooks, True):
                getattr(module, hooks).update(getattr(original, hooks))
    return result


def _copied_tensor(tensor: Tensor) -> Tensor:
    """A copy of a tensor that torch cannot copy."""
    if isinstance(tensor, torch.nn.UninitializedBuffer):
        facts: dict[str, Any] = {"device": tensor.device, "dtype": tensor.dtype}
        return torch.nn.UninitializedBuffer(**facts)
    return tensor.detach().clone()


def own_modules(model: torch.nn.Module) -> dict[str, torch.nn.Module]:
    """The modules of a model by name, without those that compute a parametrized tensor of another."""
    of_parametrizations = {
        inner
        for module in model.modules()
        if parametrize.is_parametrized(module)
        for inner in module.parametrizations.modules()  # type: ignore[union-attr]
    }
    return {name: m for name, m in model.named_modules() if m not in of_parametrizations}


@dataclasses.dataclass
class Call:
    """One call of a module."""

    name: str
    module: torch.nn.Module
    caller: Call | None
    before: Any  # what `start` gave
    is_layer: bool = True  # it called no other module
    inside: int = 0  # for the user to count something of the calls inside


def watch(
    model: torch.nn.Module,
    end: Callable[[Call, Any], None],
    start: Callable[[torch.nn.Module], Any] = lambda module: None,
) -> None:
    """Has ``end(call, output)`` called at the end of every call of a module, those inside first.

    The hooks stay: it is for models that are :func:`looking_at`, and for copies. Modules compiled by
    TorchScript take no hooks and are not seen.
    """
    running: list[Call] = []

    def before(name: str) -> Callable:
        def hook(module: torch.nn.Module, _inputs: Any) -> None:
            caller = running[-1] if running else None
            if caller:
                caller.is_layer = False
            running.append(Call(name, module, caller, start(module)))

        return hook

    def after(module: torch.nn.Module, _inputs: Any, output: Any) -> None:
        while (call := running.pop()).module is not module:
            pass  # a call that ended with an error, which the model caught
        end(call, output)

    for name, module in own_modules(model).items():
        if not isinstance(module, torch.jit.ScriptModule):
            module.register_forward_pre_hook(before(name))
            module.register_forward_hook(after)


@contextlib.contextmanager
def counting() -> Iterator[FlopCounterMode]:
    """torch's flop counter, with attention as the matrix products that it is made of.

    The counter does not know the single operations that torch has for it on the CPU.
    """
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            yield counter
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def tensors_in(value: Any) -> list[Tensor]:
    """The tensors in what a module takes or gives: alone, or in containers and data classes."""
    found = []
    for leaf in tree_leaves(value):
        if isinstance(leaf, Tensor):
            found.append(leaf)
        elif dataclasses.is_dataclass(leaf) and not isinstance(leaf, type):
            found += tensors_in([getattr(leaf, field.name) for field in dataclasses.fields(leaf)])
        elif isinstance(leaf, Mapping):
            found += tensors_in(list(leaf.values()))
    return found


def new_parameters(parameters: Iterable[torch.nn.Parameter], seen: set[int]) -> int:
    """Numbers in those parameters that are not among the seen ones, where they are from now on."""
    found = {id(p): p for p in parameters if id(p) not in seen}
    seen.update(found)
    return sum(p.numel() for p in found.values())


def with_values(model: torch.nn.Module) -> torch.nn.Module:
    """The model, or a copy of zeros on the CPU if it is on the meta device."""
    if not any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers())):
        return model
    model = copied(model).to_empty(device="cpu")
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.zero_()
    return model


def example(model: torch.nn.Module, input_size: Sequence[int], batch: int = 1) -> Tensor:
    """Zeros of the model's dtype on its device."""
    tensors = [*model.parameters(), *model.buffers()]
    like = next((t for t in tensors if t.is_floating_point() or t.is_complex()), torch.zeros(()))
    return torch.zeros(batch, *input_size, dtype=like.dtype, device=like.device)


@contextlib.contextmanager
def looking_at(model: torch.nn.Module) -> Iterator[torch.nn.Module]:
    """The model in evaluation mode, without gradients; afterwards all is :func:`preserved`.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Dropout(), torch.nn.BatchNorm1d(2).eval())
        >>> with looking_at(model):
        ...     assert not model[0].training
        >>> [module.training for module in model]
        [True, False]
    """
    with preserved(model), torch.no_grad():
        yield model.eval()


@contextlib.contextmanager
def preserved(*models: Any) -> Iterator[None]:
    """Leaves models, random generators and torch's switches as they are now, after an exception too.

    Of every module that is its class, its mode, its hooks and all that its attributes hold, lists and
    dictionaries in them included; of every tensor in there its gradient, whether it requires one, and
    its values, except that those of parameters must not be written in place.

    Args:
        models: what is no module, a function say, is passed over.
    """
    undo: list[Callable[[], None]] = [_restorer(*switch) for switch in SWITCHES]
    if "numpy" in sys.modules:
        import numpy

        undo.append(_restorer(numpy.random.get_state, numpy.random.set_state))
    if torch.cuda.is_initialized():
        undo.append(_restorer(torch.cuda.get_rng_state_all, torch.cuda.set_rng_state_all))
    for model in models:
        if isinstance(model, torch.nn.Module):
            undo += _restorers(model)
    try:
        yield
    finally:
        for restore in reversed(undo):
            restore()


SWITCHES: list[tuple[Callable[[], Any], Callable[[Any], Any]]] = [
    (torch.get_rng_state, torch.set_rng_state),
    (random.getstate, random.setstate),
    (torch.is_grad_enabled, torch.set_grad_enabled),
    (torch.get_default_dtype, torch.set_default_dtype),
    (torch.get_num_threads, torch.set_num_threads),
]
CONTAINERS = (dict, OrderedDict, defaultdict, list, set, deque)


def _restorer(get: Callable[[], Any], set_: Callable[[Any], None]) -> Callable[[], None]:
    before = get()

    def restore() -> None:
        now = get()
        if not isinstance(before, bool | int | torch.dtype) or now != before:
            set_(before)

    return restore


def _restorers(model: torch.nn.Module) -> Iterator[Callable[[], None]]:
    """What brings the parts of a model back, in the reverse of the order in which to call them."""
    modules = list(model.modules())
    found: dict[int, Any] = {}  # containers and tensors
    for module in modules:
        _find(vars(module), found)
    for tensor in (*model.parameters(), *model.buffers()):
        found[id(tensor)] = tensor  # those of a ScriptModule are no attributes
    for value in found.values():
        yield _tensor_restorer(value) if isinstance(value, Tensor) else _container_restorer(value)
    for module in modules:
        yield _class_restorer(module)
    for module in reversed(modules):  # parents first
        yield _mode_restorer(module)


def _find(value: Any, found: dict[int, Any]) -> None:
    if id(value) in found or not (type(value) in CONTAINERS or isinstance(value, Tensor)):
        return
    found[id(value)] = value
    if not isinstance(value, Tensor):
        for inner in value.values() if isinstance(value, dict) else value:
            _find(inner, found)


def _container_restorer(container: Any) -> Callable[[], None]:
    before = container.copy()

    def restore() -> None:
        container.clear()
        (container.extend if isinstance(container, list | deque) else container.update)(before)

    return restore


def _class_restorer(module: torch.nn.Module) -> Callable[[], None]:
    kind = type(module)

    def restore() -> None:
        if type(module) is not kind:  # a lazy module, once it was called
            module.__class__ = kind

    return restore


def _mode_restorer(module: torch.nn.Module) -> Callable[[], None]:
    training = module.training

    def restore() -> None:
        if module.training != training:
            # The method, for some modules do more than to set the flag. What it does to the modules
            # inside is corrected after it.
            with contextlib.suppress(Exception):
                module.train(training)
            module.training = training

    return restore


def _tensor_restorer(tensor: Tensor) -> Callable[[], None]:
    kind, data = type(tensor), tensor.data
    requires_grad, gradient = tensor.requires_grad, tensor.grad if tensor.is_leaf else None
    plain = kind in (Tensor, torch.nn.Parameter, torch.nn.Buffer)
    readable = plain and tensor.layout is torch.strided and not tensor.is_meta
    is_state = readable and not isinstance(tensor, torch.nn.Parameter)
    values = data.clone() if is_state else None
    if gradient is not None:
        tensor.grad = None  # so that nothing is added to it

    def restore() -> None:
        if type(tensor) is not kind:  # a lazy parameter, once it has values
            tensor.data = data
            tensor.__class__ = kind
        if readable and not _same_memory(tensor, data):
            tensor.data = data
        if values is not None and not torch.equal(data, values):
            data.copy_(values)
        if tensor.is_leaf:
            tensor.grad = gradient
            if tensor.requires_grad != requires_grad:
                tensor.requires_grad_(requires_grad)

    return restore


def _same_memory(a: Tensor, b: Tensor) -> bool:
    facts = [(t.dtype, t.device, t.shape, t.stride(), t.data_ptr()) for t in (a, b)]
    return facts[0] == facts[1]
