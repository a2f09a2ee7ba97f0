"""Convolution against torch's: every pass of every layer, in NCHW and channels_last.

All contenders of a pass take turns in one process: ours and torch's in both formats and, if asked for,
``torch.compile``, which calls the same kernel for a single convolution. Ours is what a user of that
format gets by ``cnn_ext.functional`` and autograd with ``algorithm="auto"``, packing of weights and
changes of layout included. Two ratios: ``ratio``, to the best of torch's ways in the same format, and
``ratio_any_format``, the best of torch's in any format over the best of ours in any.

GFLOP/s count two operations for each multiplication of the direct sum, so that Winograd's are
effective ones. The shapes are data: the files of the folder ``shapes``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

import cnn_ext
from cnn_ext import functional
from cnn_ext.bench.options import DTYPES, Options, shapes
from cnn_ext.bench.timing import Row, by_format, ratio, turns
from cnn_ext.bench.workspace import workspace_bytes
from cnn_ext.comparison import relative_error
from cnn_ext.functional import Route

SETS = ("lenet", "alexnet", "vgg", "resnet50", "mobilenet_v2", "googlenet", "others")
QUICK = ("lenet", "alexnet", "vgg")
# The last is what training pays: forward, and the gradients of input, weight and bias.
PASSES = ("forward", "input gradient", "weight gradient", "both gradients", "training")
WORK = {"both gradients": 2, "training": 3}  # in forward passes
EXACT_FLOPS = 2e9  # of a float64 reference: of a larger layer some images only
MIB = 2.0**20


class Operands(NamedTuple):
    """What a layer is called with, and the gradient that comes back."""

    input: Tensor
    weight: Tensor
    bias: Tensor | None
    grad: Tensor

    def first(self, images: int, dtype: torch.dtype | None = None) -> Operands:
        """Those of some images only, perhaps in another dtype."""
        input, grad = self.input[:images].to(dtype), self.grad[:images].to(dtype)
        bias = None if self.bias is None else self.bias.to(dtype)
        return Operands(input, self.weight.to(dtype), bias, grad)


Function = Callable[[Tensor, Tensor, Tensor | None], Tensor]


@dataclass(frozen=True)
class Layer:
    """One convolution: a row of a file of shapes, where numbers may be one for each axis."""

    name: str
    set: str
    input: tuple[int, ...]  # (N, C, *spatial)
    weight: tuple[int, ...]  # (K, C / groups, *filter), transposed (C, K / groups, *filter)
    stride: Any = 1
    padding: Any = 0
    dilation: Any = 1
    groups: int = 1
    output_padding: Any = 0
    bias: bool = True
    transposed: bool = False
    family: str = ""  # of goals; found by kind if it is not said
    only_format: str = ""  # that is measured; all that torch has if it is not said

    def kind(self) -> str:
        """The family whose goals are this layer's."""
        plain = not self.transposed and self.groups == 1 and self.stride == self.dilation == 1
        if self.family:
            return self.family
        wide = min(self.weight[:2]) >= 64
        return "3 x 3 from 64 channels" if plain and wide and self.weight[2:] == (3, 3) else "other"

    def sizes(self) -> dict[str, Any]:
        """What defines the computation, as files of shapes have it."""
        facts = ("input", "weight", "stride", "padding", "dilation", "groups", "output_padding",
                 "bias", "transposed")  # fmt: skip
        return {name: getattr(self, name) for name in facts}

    def function(self, module) -> Function:
        """The layer as ``torch.nn.functional`` or ``cnn_ext.functional`` computes it."""
        axes = len(self.weight) - 2
        if self.transposed:
            convolve = getattr(module, f"conv_transpose{axes}d")
            rest: tuple[Any, ...] = (
                self.stride, self.padding, self.output_padding, self.groups, self.dilation,
            )  # fmt: skip
        else:
            convolve = getattr(module, f"conv{axes}d")
            rest = self.stride, self.padding, self.dilation, self.groups
        return lambda input, weight, bias: convolve(input, weight, bias, *rest)

    def output_size(self) -> torch.Size:
        """(N, K, *output)."""
        input, weight = (torch.empty(size, device="meta") for size in (self.input, self.weight))
        return self.function(F)(input, weight, None).shape

    def flops(self) -> int:
        """Of the forward pass, two for each multiplication; either gradient takes as many."""
        cells = self.input[2:] if self.transposed else self.output_size()[2:]
        return 2 * self.input[0] * math.prod(self.weight) * math.prod(cells)

    def algorithm(self, dtype: torch.dtype, images: int | None = None) -> str:
        """What ``"auto"`` takes; of a transposed convolution, for the one that it transposes."""
        size = self.output_size() if self.transposed else self.input
        return functional.convolution_algorithm(
            (images or size[0], *size[1:]), self.weight, self.stride, self.padding, self.dilation,
            self.groups, dtype=dtype,
        )  # fmt: skip

    def route(
        self, what: str, memory_format: str = "NCHW", dtype: torch.dtype = torch.float32
    ) -> Route:
        """What ``"auto"`` takes for one of the first three of :data:`PASSES`."""
        size = self.input
        if self.transposed:  # it is the input gradient of the convolution that it transposes
            size = self.output_size()
            what = {"forward": "input gradient", "input gradient": "forward"}.get(what, what)
        return functional.convolution_algorithm(
            size, self.weight, self.stride, self.padding, self.dilation, self.groups, dtype=dtype,
            memory_format=self.formats()[memory_format], input_gradient=what == "input gradient",
            weight_gradient=what == "weight gradient",
        )  # fmt: skip

    def formats(self) -> dict[str, torch.memory_format]:
        """Those that torch has for so many axes, or the layer's only one."""
        found = {"NCHW": torch.contiguous_format}
        axes = len(self.weight) - 2
        if axes > 1:
            found["channels_last"] = torch.channels_last if axes == 2 else torch.channels_last_3d
        return {name: f for name, f in found.items() if self.only_format in ("", name)}

    def operands(self, dtype: torch.dtype, images: int | None = None) -> dict[str, Operands]:
        """The same random numbers in every format."""
        generator = torch.Generator().manual_seed(0)
        size, output_size = [(images or s[0], *s[1:]) for s in (self.input, self.output_size())]
        input, weight, grad = (
            torch.randn(s, generator=generator).to(dtype) for s in (size, self.weight, output_size)
        )
        bias = torch.randn(grad.shape[1], generator=generator).to(dtype) if self.bias else None

        def laid(memory_format: torch.memory_format) -> Operands:
            x, w, g = (t.contiguous(memory_format=memory_format) for t in (input, weight, grad))
            return Operands(x, w, bias, g)

        return {name: laid(memory_format) for name, memory_format in self.formats().items()}


def sets(options: Options) -> tuple[str, ...]:
    """The sets that are asked for; named layers are looked for in all."""
    return options.sets or (QUICK if options.quick and not options.names else SETS)


def layers(chosen: tuple[str, ...]) -> dict[str, Layer]:
    """The layers of some sets, by name.

    Args:
        chosen: names of sets, or paths of JSON files like them.

    Raises:
        ValueError: there is no such set.

    Example:
        >>> layers(("lenet",))["LeNet C3"].flops()
        61440000
    """
    found = {}
    for name in chosen:
        if name in SETS:
            entries = shapes(name)
        elif Path(name).is_file():
            entries = json.loads(Path(name).read_text())
        else:
            raise ValueError(f"shapes: expected some of {', '.join(SETS)}, or a file; got {name!r}")
        for layer, facts in entries.items():
            sizes: dict[str, Any] = {
                key: tuple(v) if isinstance(v, list) else v for key, v in facts.items()
            }
            found[layer] = Layer(name=layer, set=Path(name).stem, **sizes)
    return found


def names(options: Options) -> list[str]:
    """The layers that can be asked for."""
    return list(layers(sets(options)))


def rows(options: Options) -> Iterator[Row]:
    """A row for each layer, pass and format."""
    known = layers(sets(options))
    for name in options.wanted(known):
        yield from layer_rows(known[name], options)


def layer_rows(layer: Layer, options: Options) -> Iterator[Row]:
    """The rows of one layer."""
    dtype = DTYPES[options.dtype]
    operands = layer.operands(dtype)
    accuracy, memory = errors(layer, dtype), workspaces(layer, dtype)
    algorithm, flops = layer.algorithm(dtype), layer.flops()
    functions = {"ours": layer.function(functional), "eager": layer.function(F)}
    if options.compiles(False):
        torch._dynamo.reset()
        functions["compiled"] = torch.compile(functions["eager"], dynamic=False)
    for what in PASSES:
        runs = {
            f"{contender} {memory_format}": call(function, tensors, what)
            for memory_format, tensors in operands.items()
            for contender, function in functions.items()
        }
        with torch.set_grad_enabled(what != "forward"):
            timed = turns(runs, options.turns(9), options.seconds())
        for memory_format, (times, any_format) in by_format(timed).items():
            work = flops * WORK.get(what, 1) / 1e6
            yield {
                "operation": "convolution",
                "set": layer.set,
                "layer": layer.name,
                "family": layer.kind(),
                "pass": what,
                "format": memory_format,
                "dtype": options.dtype,
                "algorithm": algorithm,
                "milliseconds": times,
                "ratio": ratio(times),
                "ratio_any_format": any_format,
                "gflops": work / times["ours"],
                "torch_gflops": work / times["ours"] / ratio(times),
                **memory.get((what, memory_format), {}),
                **accuracy.get((what, memory_format), {}),
                "spread": timed.spread,
            }


def call(function: Function, operands: Operands, what: str) -> Callable[[], object]:
    """One pass, to be called again and again; what it needs from the forward pass is there."""
    input, weight, bias, grad = operands
    if what == "forward":
        return lambda: function(input, weight, bias)
    x = input.detach().requires_grad_(what != "weight gradient")
    w = weight.detach().requires_grad_(what != "input gradient")
    leaves = [tensor for tensor in (x, w) if tensor.requires_grad]
    if what == "training":
        b = None if bias is None else bias.detach().requires_grad_()
        leaves += [] if b is None else [b]
        return lambda: torch.autograd.grad(function(x, w, b), leaves, grad)
    with torch._functorch.config.patch(donated_buffer=False):  # the graph is used again
        output = function(x, w, bias)
    return lambda: torch.autograd.grad(output, leaves, grad, retain_graph=True)


def errors(layer: Layer, dtype: torch.dtype) -> dict[tuple[str, str], dict[str, float]]:
    """Relative rms errors against float64, by pass and format: ours, without Winograd, and torch's.

    A large layer is measured on its first images: on as many as float64 can take, unless ``"auto"``
    would take another algorithm for so few.
    """
    images = max(1, min(layer.input[0], int(EXACT_FLOPS * layer.input[0] / layer.flops())))
    if layer.algorithm(dtype, images) != layer.algorithm(dtype):
        images = layer.input[0]
    operands = layer.operands(dtype)
    exact = results(layer.function(F), operands["NCHW"].first(images, torch.double))
    found = {}
    for memory_format, tensors in operands.items():
        few = tensors.first(images)
        ours = results(layer.function(functional), few)
        theirs = results(layer.function(F), few)
        with cnn_ext.default_algorithm("implicit_gemm"):
            plain = results(layer.function(functional), few)
        for what, right in exact.items():
            found[what, memory_format] = {
                "error": relative_error(ours[what], right),
                "implicit_gemm_error": relative_error(plain[what], right),
                "torch_error": relative_error(theirs[what], right),
            }
    return found


def results(function: Function, operands: Operands) -> dict[str, Tensor]:
    """The output and both gradients."""
    x, w = operands.input.detach().requires_grad_(), operands.weight.detach().requires_grad_()
    output = function(x, w, operands.bias)
    gradients = torch.autograd.grad(output, [x, w], operands.grad)
    return dict(zip(PASSES, (output.detach(), *gradients), strict=False))


def workspaces(layer: Layer, dtype: torch.dtype) -> dict[tuple[str, str], dict[str, float]]:
    """MiB that ours takes beside its result, by pass and format; also with twice the images."""
    found: dict[tuple[str, str], dict[str, float]] = {}
    weights = transformed_weights(layer, layer.algorithm(dtype)) / MIB
    for key, images in (("workspace_mib", None), ("workspace_twice_mib", 2 * layer.input[0])):
        for memory_format, operands in layer.operands(dtype, images).items():
            for what, run in native(layer, operands).items():
                entry = found.setdefault((what, memory_format), {"weights_mib": weights})
                entry[key] = workspace_bytes(run) / MIB
    return found


def native(
    layer: Layer, operands: Operands, algorithm: str = "auto", library: Any = torch.ops.cnn_ext
) -> dict[str, Callable[[], Tensor]]:
    """The operations under the three passes, called without autograd.

    Args:
        layer: whose.
        operands: what they are called with.
        algorithm: of all three.
        library: where the operations are registered: ``torch.ops`` has one name for each build.
    """
    x, w, bias, g = operands
    axes = len(layer.weight) - 2
    lists = (
        (value,) * axes if isinstance(value, int) else value
        for value in (layer.stride, layer.padding, layer.dilation)
    )
    rest = (*lists, layer.groups, algorithm)
    forward, input_gradient, weight_gradient = (
        library.convolution, library.convolution_input_gradient, library.convolution_weight_gradient
    )  # fmt: skip
    if layer.transposed:

        def transposed() -> Tensor:
            output = input_gradient(x, w, g.shape, *rest)
            return output if bias is None else output.add_(bias.view(-1, *[1] * axes))

        return {
            "forward": transposed,
            "input gradient": lambda: forward(g, w, None, *rest),
            "weight gradient": lambda: weight_gradient(x, g, w.shape, *rest),
        }
    return {
        "forward": lambda: forward(x, w, bias, *rest),
        "input gradient": lambda: input_gradient(g, w, x.shape, *rest),
        "weight gradient": lambda: weight_gradient(g, x, w.shape, *rest),
    }


def transformed_weights(layer: Layer, algorithm: str) -> int:
    """Bytes of all filters as the kernels read them, in float32; of a Winograd gradient as many.

    Winograd's are 36 cells each, F(4 x 4, 3 x 3) and F(2 x 2, 5 x 5); channels and filters are filled
    up to whole panels of at most 32.
    """
    first, second, *filter = layer.weight
    cells = 36 if algorithm == "winograd" else math.prod(filter)
    panels = [-(-length // 32) * 32 if length > 1 else 1 for length in (first // layer.groups, second)]
    return 4 * layer.groups * cells * math.prod(panels)
