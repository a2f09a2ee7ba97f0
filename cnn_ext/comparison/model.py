"""Two builds of one network, measured layer by layer against each other and against float64.

:func:`compare` takes any network apart: it runs it in float64 on torch's layers, keeps what goes into
every layer and the gradient that comes back, and gives exactly these to our layer, to torch's and to
torch's in float64. So each layer answers for itself alone, and the first that is wrong is the first in
the table. :mod:`cnn_ext.comparison.training` lets errors run through the network instead.
"""

from __future__ import annotations

import contextlib
import math
import statistics
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrize import type_before_parametrizations
from torch.utils._pytree import tree_map

from cnn_ext import _inspection as inspection
from cnn_ext._inspection import copied, new_parameters, preserved, tensors_in
from cnn_ext.comparison.errors import relative_error
from cnn_ext.comparison.report import ERRORS, Layer, Measured, Report
from cnn_ext.enabling import torch_only
from cnn_ext.models.convert import convert, left_alone, revert
from cnn_ext.nn._layer import Layer as LayerOfOurs
from cnn_ext.receptive_field import follow

# A layer parts from torch's where its error against float64 is more than FACTOR times torch's own and
# more than FLOOR roundings: sums of a few thousand terms in another order stay well below both.
FACTOR, FLOOR = 10.0, 32.0
MOST_PROBED = 48  # rows and columns of the image, one evaluation each in an experiment
SHOWN = 3  # shapes in a message


def compare(model: torch.nn.Module, x: Any, *, rounds: int = 5, progress: bool | None = None) -> Report:
    """Any network on our layers and on torch's, layer by layer, against float64.

    Args:
        model: of torch's layers, of ours, or of both; a copy is measured, in evaluation mode.
        x: its input, or a tuple of its inputs; of the model's dtype, on its device.
        rounds: timed runs of each layer and build, which take turns; the median counts.
        progress: a bar on the terminal; by default where there is one.

    Returns:
        A :class:`~cnn_ext.comparison.Report`. Errors are relative, root mean square. A layer is every
        module that calls no other: of one called more than once, its last call is measured. What is
        not in a layer that gives tensors has a row of its own, so that parameters and operations add
        up to the model's.
        Torch's layers run on torch's kernels, also while :func:`cnn_ext.enable` is on.
        On CUDA, TF32 is off for both builds. The model stays as it is.

    Example:
        >>> from cnn_ext.models import lenet5
        >>> report = compare(lenet5(), torch.randn(2, 1, 32, 32), rounds=1, progress=False)
        >>> [layer.name for layer in report.layers if layer.algorithm]
        ['c1', 's2', 'c3', 's4', 'c5']
        >>> report.first_parting is None and report.ours.output_error < 1e-6
        True
    """
    inputs = x if isinstance(x, tuple) else (x,)
    sample = next(filter(_differentiable, tensors_in(inputs)), None)
    if sample is None:
        raise ValueError(f"x: expected a floating point tensor or a tuple with one, got {x!r}")
    if rounds < 1:
        raise ValueError(f"rounds: expected at least 1, got {rounds}")
    for name, tensor in (*model.named_parameters(), *model.named_buffers(), ("x", sample)):
        if is_lazy(tensor) or tensor.is_meta:
            raise ValueError(f"compare: {name} has no values: it is lazy or on the meta device")
    with torch_only(), preserved(model), _exact_arithmetic(), _bar(progress) as step:
        return _compare(model, inputs, rounds, step)


def _compare(
    model: torch.nn.Module, inputs: tuple, rounds: int, step: Callable[[str, int], None]
) -> Report:
    with warnings.catch_warnings(record=True):  # what is left alone is in the report
        warnings.simplefilter("always")
        ours = convert(model).eval()
        theirs = on_torch(model).eval()
        alone = left_alone(model)
    for parameter in (*ours.parameters(), *theirs.parameters()):
        parameter.requires_grad_(_differentiable(parameter))
    calls, flops = _calls(theirs, inputs)
    fields = _receptive_fields(theirs, inputs)
    layers: list[Layer] = []
    seen: set[int] = set()
    for name, call in calls.items():
        step(name, len(calls) + 1)
        builds = ours.get_submodule(name), theirs.get_submodule(name)
        counts = new_parameters(builds[1].parameters(), seen), flops[name]
        layers.append(_layer(name, *builds, call, fields.get(name), counts, rounds))
    step("the whole network", len(calls) + 1)
    total = _measure([ours, theirs], _double(theirs), Call(inputs, {}, None), rounds)
    sample = next(filter(_differentiable, tensors_in(inputs)))
    return Report(
        model=type(model).__name__,
        device=str(sample.device),
        dtype=str(sample.dtype).removeprefix("torch."),
        threads=torch.get_num_threads(),
        tf32="off",
        layers=layers,
        ours=total[0],
        torch=total[1],
        parameters=sum(p.numel() for p in model.parameters()),
        flops=flops[""],
        left_alone=alone,
        share_left_alone=alone.share,
    )


@dataclass
class Call:
    """What a layer was called with, and the gradients that came back to its outputs."""

    arguments: tuple
    keywords: dict
    gradients: list[Tensor | None] | None  # None: draw them


def _calls(model: torch.nn.Module, inputs: tuple) -> tuple[dict[str, Call], dict[str, int]]:
    """The last call of every layer within the network in float64, in the dtype of the inputs.

    Also, by name, the operations of all calls of every module; the whole network's name is "".
    """
    dtype = next(filter(_differentiable, tensors_in(inputs))).dtype.to_real()
    exact = _double(model)
    calls: dict[str, Call] = {}
    flops: dict[str, int] = defaultdict(int)
    kept: dict[str, tuple[tuple, dict]] = {}

    def keep(name: str) -> Callable:  # before anything in place touches them
        def hook(_module: torch.nn.Module, arguments: tuple, keywords: dict) -> None:
            kept[name] = tree_map(lambda v: _as(v, dtype), (arguments, keywords))

        return hook

    def end(call: inspection.Call, output: Any) -> None:
        flops[call.name] += counter.get_total_flops() - call.before
        tensors = tensors_in(output)
        if not call.is_layer or not any(map(_differentiable, tensors)):
            return
        gradients: list[Tensor | None] = [None] * len(tensors)
        calls.pop(call.name, None)  # the order is that of the last calls
        calls[call.name] = Call(*kept.pop(call.name), gradients)
        for i, tensor in enumerate(tensors):
            if tensor.requires_grad:
                tensor.register_hook(lambda g, i=i: gradients.__setitem__(i, _as(g, dtype)))

    inspection.watch(exact, end, start=lambda _module: counter.get_total_flops())
    for name, module in inspection.own_modules(exact).items():
        if not isinstance(module, torch.jit.ScriptModule):
            module.register_forward_pre_hook(keep(name), with_kwargs=True)
    with inspection.counting() as counter:
        outputs = exact(*_clones(tree_map(lambda v: _leaf(v, torch.double), inputs)))
    flops[""] = counter.get_total_flops()
    _backward(outputs, None)
    return calls, flops


def on_torch(model: torch.nn.Module) -> torch.nn.Module:
    """A copy on torch's operations alone, also where torch has no layer for what ours does."""
    model = revert(model)
    for module in model.modules():
        if isinstance(module, LayerOfOurs) and (kind := module._kind_on_torch()):
            module.__class__ = kind  # type: ignore[assignment]
    return model


def _layer(
    name: str,
    ours: torch.nn.Module,
    theirs: torch.nn.Module,
    call: Call,
    seen: tuple[int, ...] | None,
    counts: tuple[int, int],
    rounds: int,
) -> Layer:
    """One row: errors, times and memory of both builds; ``counts`` are parameters and operations."""
    algorithm = chosen_algorithm(ours, call) if type(ours) is not type(theirs) else None
    exact = _double(theirs)
    builds = [ours, theirs] if algorithm else [theirs]
    measured = _measure(builds, exact, call, rounds)
    ours_, theirs_ = measured[0], measured[-1]
    with torch.no_grad():
        output = theirs(*tree_map(lambda v: _as(v, None), call.arguments), **call.keywords)
    tensors = tensors_in((call.arguments, call.keywords, output))
    floor = FLOOR * next(torch.finfo(t.dtype).eps for t in tensors if _differentiable(t))
    return Layer(
        name=name,
        kind=type_before_parametrizations(ours).__name__,
        algorithm=algorithm,
        input_shape=tuple(tensors[0].shape),
        output_shape=tuple(tensors[-1].shape),
        parameters=counts[0],
        flops=counts[1],
        receptive_field=seen,
        ours=ours_,
        torch=theirs_,
        parts=_parts(ours_, theirs_, floor),
    )


def _parts(ours: Measured, theirs: Measured, floor: float) -> bool:
    """Whether an error of ours is beyond bounds; one that is no number is, if torch's is one."""
    pairs = [(getattr(ours, name), getattr(theirs, name)) for name in ERRORS]
    return any(
        a is not None and b is not None and not math.isnan(b) and not a <= max(FACTOR * b, floor)
        for a, b in pairs
    )


def _measure(
    builds: Sequence[torch.nn.Module], exact: torch.nn.Module, call: Call, rounds: int
) -> list[Measured]:
    """Errors against the exact build, times in turns, and what is kept for the backward pass."""
    right = _run(exact, call, torch.double)
    seconds: list[list[float]] = [[] for _ in builds]
    results = [_run(build, call, None) for build in builds]
    for _ in range(rounds):
        for build, times in zip(builds, seconds, strict=True):
            times.append(_run(build, call, None).seconds)

    measured = []
    for result, times in zip(results, seconds, strict=True):
        uncompared = _uncompared(result.outputs, right.outputs)
        weights = _error if call.gradients else _together
        measured.append(
            Measured(
                output_error=None if uncompared else _error(result.outputs, right.outputs),
                input_gradient_error=_error(result.inputs, right.inputs),
                weight_gradient_error=weights(result.weights, right.weights),
                seconds=statistics.median(times),
                kept_bytes=result.kept,
                uncompared=uncompared,
            )
        )
    return measured


def _uncompared(mine: Sequence[Tensor], true: Sequence[Tensor]) -> str | None:
    """Why these outputs cannot be compared with the exact ones; None if they can."""
    if not mine or not true:
        return "there is no tensor in them"
    if [t.shape for t in mine] != [t.shape for t in true]:
        shapes = [[tuple(t.shape) for t in side[:SHOWN]] for side in (mine, true)]
        return f"they have the shapes {shapes[0]}, in float64 {shapes[1]}"
    if not any(t.isfinite().any() for t in true):
        return "there is no finite number in them"
    return None


def _error(mine: Sequence[Tensor | None], true: Sequence[Tensor | None]) -> float | None:
    """The worst of several tensors; None if none of them is in both."""
    pairs = [(a, b) for a, b in zip(mine, true, strict=True) if a is not None and b is not None]
    return max((relative_error(a, b) for a, b in pairs), key=_nan_is_worst, default=None)


def _nan_is_worst(error: float) -> float:
    return math.inf if math.isnan(error) else error


def _together(mine: list[Tensor | None], true: list[Tensor | None]) -> float | None:
    """One error of all weights: within a network, some gradients are zero but for rounding."""
    pairs = [(a, b) for a, b in zip(mine, true, strict=True) if a is not None and b is not None]
    if not pairs:
        return None
    return relative_error(*(torch.cat([_numbers(t) for t in side]) for side in zip(*pairs)))  # noqa: B905


def _numbers(tensor: Tensor) -> Tensor:
    """Its real and imaginary parts, in float64."""
    real = torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor
    return real.double().flatten()


@dataclass
class _Result:
    outputs: list[Tensor]
    inputs: list[Tensor | None]
    weights: list[Tensor | None]
    seconds: float
    kept: int


def _run(module: torch.nn.Module, call: Call, dtype: torch.dtype | None) -> _Result:
    """One forward and backward pass."""
    arguments, keywords = tree_map(lambda v: _leaf(v, dtype), (call.arguments, call.keywords))
    leaves = list(filter(_differentiable, tensors_in((arguments, keywords))))
    arguments, keywords = _clones((arguments, keywords))
    weights = {p.data_ptr(): 0 for p in (*module.parameters(), *module.buffers())}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in weights:
            kept[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    torch.manual_seed(0)  # for all builds alike, if the network draws numbers
    module.zero_grad(set_to_none=True)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        _synchronise(leaves)
        start = time.perf_counter()
        outputs = module(*arguments, **keywords)
    _backward(outputs, call.gradients)
    _synchronise(leaves)
    seconds = time.perf_counter() - start
    tensors = [t.detach() for t in tensors_in(outputs)]
    gradients = [p.grad for p in module.parameters()]
    result = _Result(tensors, [v.grad for v in leaves], gradients, seconds, sum(kept.values()))
    module.zero_grad(set_to_none=True)
    return result


def _backward(outputs: Any, gradients: list[Tensor | None] | None) -> None:
    """From the gradients given, or from the same random ones in every dtype."""
    tensors = tensors_in(outputs)
    if gradients is None:
        generator = torch.Generator().manual_seed(0)
        gradients = [torch.randn(t.shape, generator=generator).to(t) for t in tensors]
    pairs = [
        (t, g.to(t.dtype))
        for t, g in zip(tensors, gradients, strict=True)
        if t.requires_grad and g is not None
    ]
    if pairs:
        torch.autograd.backward([t for t, _ in pairs], [g for _, g in pairs])


def _differentiable(value: Any) -> bool:
    return isinstance(value, Tensor) and (value.is_floating_point() or value.is_complex())


def _as(value: Any, dtype: torch.dtype | None) -> Any:
    """A copy of a tensor, in another precision if it has one: that of a real ``dtype``."""
    if not isinstance(value, Tensor):
        return value
    if dtype is None or not _differentiable(value):
        return value.detach().clone()
    return value.detach().to(dtype.to_complex() if value.is_complex() else dtype, copy=True)


def _leaf(value: Any, dtype: torch.dtype | None) -> Any:
    copied = _as(value, dtype)
    return copied.requires_grad_() if _differentiable(copied) else copied


def _clones(values: Any) -> Any:
    """What in-place layers may write to, as they may not to leaves."""
    return tree_map(lambda v: v.clone() if _differentiable(v) else v, values)


def _double(module: torch.nn.Module) -> torch.nn.Module:
    return copied(module)._apply(lambda tensor: _as(tensor, torch.double))


def _synchronise(tensors: Sequence[Tensor]) -> None:
    if tensors and tensors[0].is_cuda:
        torch.cuda.synchronize()


@contextlib.contextmanager
def _exact_arithmetic() -> Iterator[None]:
    """TF32 off, in both of its switches, and back as it was."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = False
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before


@contextlib.contextmanager
def _bar(progress: bool | None) -> Iterator[Callable[[str, int], None]]:
    """A progress bar that is told the name of the next layer and how many there are."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not (
        console.is_terminal if progress is None else progress)) as bar:  # fmt: skip
        task = bar.add_task("torch in float64", total=None)
        done = iter(range(10**9))
        yield lambda name, total: bar.update(task, description=name, total=total, completed=next(done))


def _receptive_fields(model: torch.nn.Module, inputs: tuple) -> dict[str, tuple[int, ...]]:
    """As far as they can be followed; by experiment, which takes long, only on small images."""
    if len(inputs) != 1 or not _differentiable(inputs[0]) or inputs[0].dim() < 3:
        return {}
    size = inputs[0].shape[1:]
    with contextlib.suppress(Exception):  # a column less is no reason to fail
        fields = follow(model, size, experiments=sum(size[1:]) <= MOST_PROBED)
        return {name: field.size for name, field in fields.items()}
    return {}


def chosen_algorithm(module: torch.nn.Module, call: Call) -> str | None:
    """What the module computes with; ``"auto"`` is resolved for convolutions, by their shape.

    None where it leaves the call to torch.
    """
    if isinstance(module, LayerOfOurs):
        return module._kernel_for(_input(call))
    return getattr(module, "algorithm", "fused")


def _input(call: Call) -> Tensor:
    return next(iter((*call.arguments, *call.keywords.values())))
