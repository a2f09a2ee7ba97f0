"""Two builds of one network, measured layer by layer against each other and against float64.

:func:`compare` takes any network apart: it runs it in float64 on torch's layers, keeps what goes into
every layer and the gradient that comes back, and gives exactly these to our layer, to torch's and to
torch's in float64. So each layer answers for itself alone, and the first that is wrong is the first in
the table. :mod:`cnn_ext.comparison.training` lets errors run through the network instead.
"""

from __future__ import annotations

import contextlib
import copy
import math
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.flop_counter import FlopCounterMode

from cnn_ext import functional, nn
from cnn_ext.comparison.errors import relative_error
from cnn_ext.comparison.report import Layer, Measured, Report
from cnn_ext.models.convert import convert, left_alone, revert
from cnn_ext.nn.convolution import _Convolution
from cnn_ext.receptive_field import follow

# A layer parts from torch's where its error against float64 is more than FACTOR times torch's own and
# more than FLOOR roundings: sums of a few thousand terms in another order stay well below both.
FACTOR, FLOOR = 10.0, 32.0


def compare(model: torch.nn.Module, x: Any, *, rounds: int = 5, progress: bool | None = None) -> Report:
    """Any network on our layers and on torch's, layer by layer, against float64.

    Args:
        model: of torch's layers, of ours, or of both; a copy is measured, in evaluation mode.
        x: its input, or a tuple of its inputs; of the model's dtype, on its device.
        rounds: timed runs of each layer and build, which take turns; the median counts.
        progress: a bar on the terminal; by default where there is one.

    Returns:
        A :class:`Report`. Errors are relative, root mean square. A layer is every module that calls no
        other: of one called more than once, its last call. On CUDA, TF32 is off for both builds.

    Example:
        >>> from cnn_ext.models import lenet5
        >>> report = compare(lenet5(), torch.randn(2, 1, 32, 32), rounds=1, progress=False)
        >>> [layer.name for layer in report.layers if layer.algorithm]
        ['c1', 's2', 'c3', 's4', 'c5']
        >>> report.first_parting is None and report.ours.output_error < 1e-6
        True
    """
    inputs = x if isinstance(x, tuple) else (x,)
    if not any(isinstance(value, Tensor) and value.is_floating_point() for value in inputs):
        raise ValueError(f"x: expected a floating point tensor or a tuple with one, got {x!r}")
    if rounds < 1:
        raise ValueError(f"rounds: expected at least 1, got {rounds}")
    with warnings.catch_warnings(record=True):  # what is left alone is in the report
        warnings.simplefilter("always")
        ours = convert(model).eval()
        theirs = on_torch(model).eval()
        alone = left_alone(model)
    for parameter in (*ours.parameters(), *theirs.parameters()):
        parameter.requires_grad_(parameter.is_floating_point())
    with _exact_arithmetic(), _bar(progress) as step:
        calls = _calls(theirs, inputs)
        fields = _receptive_fields(theirs, inputs)
        layers = []
        for name, call in calls.items():
            step(name, len(calls) + 1)
            builds = ours.get_submodule(name), theirs.get_submodule(name)
            layers.append(_layer(name, *builds, call, fields.get(name), rounds))
        step("the whole network", len(calls) + 1)
        total = _measure([ours, theirs], _double(theirs), Call(inputs, {}, None), rounds)
    sample = next(v for v in inputs if isinstance(v, Tensor) and v.is_floating_point())
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
        left_alone=alone,
    )


@dataclass
class Call:
    """What a layer was called with, and the gradients that came back to its outputs."""

    arguments: tuple
    keywords: dict
    gradients: list[Tensor | None] | None  # None: draw them


def _calls(model: torch.nn.Module, inputs: tuple) -> dict[str, Call]:
    """The calls of every layer within the network in float64, in the dtype of the inputs."""
    dtype = next(v.dtype for v in inputs if isinstance(v, Tensor) and v.is_floating_point())
    exact = _double(model)
    calls: dict[str, Call] = {}
    inside: list[bool] = []  # for each module that is being called: has it called another?

    def before(_module, arguments, keywords):
        if inside:
            inside[-1] = True
        inside.append(False)

    def after(name):
        def hook(_module, arguments, keywords, output):
            if inside.pop() or not any(map(_differentiable, tree_leaves(output))):
                return
            tensors = [t for t in tree_leaves(output) if isinstance(t, Tensor)]
            gradients: list[Tensor | None] = [None] * len(tensors)
            call = Call(*kept.pop(name), gradients)
            calls.pop(name, None)  # the order is that of the last calls
            calls[name] = call
            for i, tensor in enumerate(tensors):
                if tensor.requires_grad:
                    tensor.register_hook(lambda g, i=i: gradients.__setitem__(i, g.to(dtype)))

        return hook

    kept: dict[str, tuple[tuple, dict]] = {}

    def keep(name):  # before anything in place touches them
        def hook(_module, arguments, keywords):
            kept[name] = tree_map(lambda v: _as(v, dtype), (arguments, keywords))

        return hook

    for name, module in exact.named_modules():
        module.register_forward_pre_hook(before, with_kwargs=True)
        module.register_forward_pre_hook(keep(name), with_kwargs=True)
        module.register_forward_hook(after(name), with_kwargs=True)
    outputs = exact(*(_leaf(v, torch.double) for v in inputs))
    _backward(outputs, None)
    return calls


def on_torch(model: torch.nn.Module) -> torch.nn.Module:
    """A copy on torch's operations alone, also where torch has no layer for what ours does."""
    model = revert(model)
    for module in model.modules():
        if isinstance(module, _Convolution):
            module.__class__ = type(f"Padded{type(module).__name__}", (_Padded, type(module)), {})
        elif isinstance(module, nn.LocalResponseNorm):
            module.__class__ = _AnyNorm
    return model


class _Padded(_Convolution):
    """Pads as ours does, then convolves as torch does."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
        padded = F.pad(input, self.padding_of(input.shape[-self.axes :]), mode)
        convolve = getattr(F, f"conv{self.axes}d")
        output = convolve(padded, weight, bias, self.stride, 0, self.dilation, self.groups)
        return output.relu() if isinstance(self, nn.ConvReLU2d) else output


class _AnyNorm(nn.LocalResponseNorm):
    """Local response normalisation of any kind, of torch's own operations."""

    def forward(self, input: Tensor) -> Tensor:
        x = input.movedim(self.channel_dim, 1) if self.region == "channels" else input
        axes = input.dim() - 2 if self.region == "spatial" else 0
        scale = self.size ** (axes or 1) if self.alpha_scaling == "sum" else 1
        if self.region == "channels":
            y = F.local_response_norm(x, self.size, scale * self.alpha, self.beta, self.k)
            return y.movedim(1, self.channel_dim)
        mean = getattr(F, f"avg_pool{axes}d")(x.square(), self.size, 1, self.size // 2)
        return x / (self.k + scale * self.alpha * mean) ** self.beta


def _layer(
    name: str,
    ours: torch.nn.Module,
    theirs: torch.nn.Module,
    call: Call,
    seen: tuple[int, ...] | None,
    rounds: int,
) -> Layer:
    """One row: errors, times and memory of both builds."""
    algorithm = chosen_algorithm(ours, call) if type(ours) is not type(theirs) else None
    exact = _double(theirs)
    builds = [ours, theirs] if algorithm else [theirs]
    measured = _measure(builds, exact, call, rounds)
    ours_, theirs_ = measured[0], measured[-1]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        output = theirs(*tree_map(lambda v: _as(v, None), call.arguments), **call.keywords)
    tensors = [t for t in tree_leaves((call.arguments, output)) if isinstance(t, Tensor)]
    floor = FLOOR * next(torch.finfo(t.dtype).eps for t in tensors if _differentiable(t))
    return Layer(
        name=name,
        kind=type(ours).__name__,
        algorithm=algorithm,
        input_shape=tuple(tensors[0].shape),
        output_shape=tuple(tensors[-1].shape),
        parameters=sum(p.numel() for p in theirs.parameters()),
        flops=counter.get_total_flops(),
        receptive_field=seen,
        ours=ours_,
        torch=theirs_,
        parts=any(
            not a <= max(FACTOR * b, floor)  # so that NaN parts
            for a, b in zip(ours_.errors(), theirs_.errors(), strict=True)
        ),
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

    def error(mine: list[Tensor | None], true: list[Tensor | None]) -> float | None:
        pairs = [(a, b) for a, b in zip(mine, true, strict=True) if a is not None and b is not None]
        return max((relative_error(a, b) for a, b in pairs), key=_nan_is_worst, default=None)

    return [
        Measured(
            output_error=error(result.outputs, right.outputs) or 0.0,
            input_gradient_error=error(result.inputs, right.inputs),
            weight_gradient_error=_together(result.weights, right.weights)
            if call.gradients is None
            else error(result.weights, right.weights),
            seconds=statistics.median(times),
            kept_bytes=result.kept,
        )
        for result, times in zip(results, seconds, strict=True)
    ]


def _nan_is_worst(error: float) -> float:
    return math.inf if math.isnan(error) else error


def _together(mine: list[Tensor | None], true: list[Tensor | None]) -> float | None:
    """One error of all weights: within a network, some gradients are zero but for rounding."""
    pairs = [(a, b) for a, b in zip(mine, true, strict=True) if a is not None and b is not None]
    if not pairs:
        return None
    return relative_error(*(torch.cat([t.double().flatten() for t in side]) for side in zip(*pairs)))  # noqa: B905


@dataclass
class _Result:
    outputs: list[Tensor | None]
    inputs: list[Tensor | None]
    weights: list[Tensor | None]
    seconds: float
    kept: int


def _run(module: torch.nn.Module, call: Call, dtype: torch.dtype | None) -> _Result:
    """One forward and backward pass."""
    arguments, keywords = tree_map(lambda v: _leaf(v, dtype), (call.arguments, call.keywords))
    leaves = [v for v in tree_leaves((arguments, keywords)) if _differentiable(v)]
    # In-place layers may not write to leaves.
    arguments, keywords = tree_map(
        lambda v: v.clone() if _differentiable(v) else v, (arguments, keywords)
    )
    weights = {p.data_ptr(): 0 for p in (*module.parameters(), *module.buffers())}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in weights:
            kept[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    module.zero_grad(set_to_none=True)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        _synchronise(leaves)
        start = time.perf_counter()
        outputs = module(*arguments, **keywords)
    _backward(outputs, call.gradients)
    _synchronise(leaves)
    seconds = time.perf_counter() - start
    tensors = [t.detach() for t in tree_leaves(outputs) if isinstance(t, Tensor)]
    gradients = [p.grad for p in module.parameters()]
    result = _Result(list(tensors), [v.grad for v in leaves], gradients, seconds, sum(kept.values()))
    module.zero_grad(set_to_none=True)
    return result


def _backward(outputs: Any, gradients: list[Tensor | None] | None) -> None:
    """From the gradients given, or from the same random ones in every dtype."""
    tensors = [t for t in tree_leaves(outputs) if isinstance(t, Tensor)]
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
    return isinstance(value, Tensor) and value.is_floating_point()


def _as(value: Any, dtype: torch.dtype | None) -> Any:
    """A copy of a tensor, in another precision if it has one."""
    if not isinstance(value, Tensor):
        return value
    return value.detach().to(dtype if _differentiable(value) else None, copy=True)


def _leaf(value: Any, dtype: torch.dtype | None) -> Any:
    copied = _as(value, dtype)
    return copied.requires_grad_() if _differentiable(copied) else copied


def _double(module: torch.nn.Module) -> torch.nn.Module:
    return copy.deepcopy(module).double()


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
    """By arithmetic; none where it cannot follow the network."""
    if len(inputs) != 1 or not _differentiable(inputs[0]) or inputs[0].dim() < 3:
        return {}
    with contextlib.suppress(ValueError):
        return {name: f.size for name, f in follow(model, inputs[0].shape[1:]).items()}
    return {}


def chosen_algorithm(module: torch.nn.Module, call: Call) -> str | None:
    """What the module computes with; ``"auto"`` is resolved for convolutions, by their shape.

    None for a linear layer that leaves the call to torch.
    """
    if isinstance(module, nn.Linear):
        ours = functional.is_dense(_input(call), module.weight, module.bias)
        return "dense" if ours else None
    asked = getattr(module, "algorithm", None)
    if asked is None:
        return "taps" if isinstance(module, nn.MaxPool2d) else "fused"
    if asked != "auto" or not isinstance(module, torch.nn.modules.conv._ConvNd) or module.transposed:
        return asked
    input = _input(call)
    size = input.shape if input.dim() == module.weight.dim() else (1, *input.shape)
    padding = "valid" if module.padding_mode != "zeros" else module.padding
    memory_format = torch.contiguous_format
    for axes, last in ((4, torch.channels_last), (5, torch.channels_last_3d)):
        if input.dim() == axes and not input.is_contiguous():
            memory_format = last if input.is_contiguous(memory_format=last) else memory_format
    return functional.convolution_algorithm(
        size, module.weight.shape, module.stride, padding, module.dilation, module.groups,
        dtype=module.weight.dtype, memory_format=memory_format,
    )  # fmt: skip


def _input(call: Call) -> Tensor:
    return next(iter((*call.arguments, *call.keywords.values())))
