"""Operands of any strides: expanded, overlapping, permuted, sliced, behind an offset.

Every operand lies in memory that is NaN wherever the view has no element, so that an element read
beside the view shows in the result, and whatever is read twice or left out makes a wrong sum.
"""

import random

import pytest
import torch
from torch import Tensor

from cnn_ext._native import _C

OPS = torch.ops.cnn_ext
ALGORITHMS = ("auto", "implicit_gemm", "direct", "im2col", "winograd")
LAYERS = {  # N, C, K, size, filter, stride, padding, dilation, groups
    "one filter cell": (2, 5, 7, (6, 9), (1, 1), 1, 0, 1, 1),
    "3 x 3": (2, 20, 18, (9, 11), (3, 3), 1, 1, 1, 1),
    "3 x 3, few channels": (1, 3, 5, (12, 20), (3, 3), 1, 1, 1, 1),
    "2 x 2, strided": (1, 18, 34, (8, 8), (2, 2), 2, 0, 1, 1),
    "5 x 5, strided by phases": (1, 16, 16, (13, 12), (5, 5), 2, 2, 1, 1),
    "dilated": (1, 6, 17, (17, 18), (3, 2), 1, 2, 2, 1),
    "as large as its input": (3, 6, 40, (4, 4), (4, 4), 1, 0, 1, 1),
    "depthwise": (2, 18, 18, (9, 20), (3, 3), 1, 1, 1, 18),
    "groups of two": (1, 16, 16, (16, 16), (3, 3), 1, 0, 1, 8),
    "groups of eight, strided": (1, 32, 32, (9, 9), (3, 3), 2, 1, 1, 4),
    "groups of sixteen": (1, 32, 32, (7, 7), (3, 3), 1, 1, 1, 2),
    "uneven groups": (1, 6, 9, (7, 18), (3, 3), 1, 1, 1, 3),
    "one axis": (2, 5, 20, (40,), (5,), 2, 2, 1, 1),
    "volume": (1, 4, 18, (5, 6, 7), (3, 2, 2), 1, 1, 1, 1),
    "dense": (3, 520, 300, (1, 1), (1, 1), 1, 0, 1, 1),
}


WINOGRAD = ("3 x 3", "3 x 3, few channels", "5 x 5, strided by phases", "depthwise",
            "groups of two", "groups of sixteen", "uneven groups")  # fmt: skip


def any_strides(shape: tuple[int, ...], rng: random.Random) -> list[int]:
    """Axes in any order in memory; some expanded, overlapping or with gaps between their cells."""
    strides, step = [0] * len(shape), 1
    for axis in rng.sample(range(len(shape)), len(shape)):
        kind = rng.choice(("dense", "dense", "dense", "gap", "expanded", "overlapping"))
        if kind == "expanded":
            continue
        strides[axis] = rng.randrange(1, step + 1) if kind == "overlapping" else step
        if kind != "overlapping":
            step *= shape[axis] + (rng.randrange(1, 4) if kind == "gap" else 0)
    return strides


def view_in_nan(shape: tuple[int, ...], rng: random.Random, dtype: torch.dtype) -> Tensor:
    """Random elements in a view of any strides; NaN in all memory before, between and behind them."""
    strides, offset = any_strides(shape, rng), rng.randrange(70)
    place = torch.full(shape, offset)
    for axis, (size, stride) in enumerate(zip(shape, strides, strict=True)):
        place += (torch.arange(size) * stride).view(-1, *[1] * (len(shape) - 1 - axis))
    memory = torch.full((int(place.max()) + 200,), float("nan"), dtype=dtype)
    memory[place.flatten()] = torch.randn(place.numel()).to(dtype)
    return memory.as_strided(shape, strides, offset)


def check(result: Tensor, expected: Tensor, case: str) -> None:
    assert result.isfinite().all(), f"{case}: memory beside an operand was read"
    bound = {torch.float64: 1e-12, torch.float32: 1e-4, torch.bfloat16: 0.06}[result.dtype]
    error = (result.double() - expected).abs().max() / expected.abs().max().clamp(min=1)
    assert error < bound, f"{case}: error {error:.1e}"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("layer", LAYERS)
def test_operands_of_any_strides_give_what_contiguous_ones_give(layer: str, dtype: torch.dtype) -> None:
    N, C, K, size, filter, stride, padding, dilation, groups = LAYERS[layer]
    rng = random.Random(layer)
    torch.manual_seed(0)
    axes = len(size)
    per_axis = [stride] * axes, [padding] * axes, [dilation] * axes, groups
    reference = per_axis[:3], False, [0] * axes, groups
    x_shape, w_shape = (N, C, *size), (K, C // groups, *filter)
    capabilities = ("scalar", "avx2", "avx512", "avx512_bf16")
    best = capabilities.index(_C.best_cpu_capability())
    for _ in range(12):
        x, w = view_in_nan(x_shape, rng, dtype), view_in_nan(w_shape, rng, dtype)
        b = view_in_nan((K,), rng, dtype)
        y = torch.ops.aten.convolution(
            x.double(), w.double(), b.double(), *reference[0], *reference[1:]
        )
        g = view_in_nan(tuple(y.shape), rng, dtype)
        dx, dw, _ = torch.ops.aten.convolution_backward(
            g.double(), x.double(), w.double(), None, *reference[0], *reference[1:], [True, True, False]
        )
        capability = capabilities[rng.randrange(best + 1)]
        algorithm = rng.choice(ALGORITHMS if layer in WINOGRAD else ALGORITHMS[:-1])
        case = f"{algorithm}, {capability}, strides {x.stride()}, {w.stride()}, {g.stride()}"
        _C.set_cpu_capability(capability)
        try:
            check(OPS.convolution(x, w, b, *per_axis, algorithm), y, case)
            relu = OPS.convolution_relu(x, w, b, *per_axis, algorithm)
            check(relu, y.relu(), f"ReLU, {case}")
            gradient = OPS.convolution_input_gradient(g, w, x_shape, *per_axis, algorithm)
            check(gradient, dx, f"input gradient, {case}")
            gradient = OPS.convolution_weight_gradient(g, x, w_shape, *per_axis, algorithm)
            check(gradient, dw, f"weight gradient, {case}")
        finally:
            _C.set_cpu_capability(capabilities[best])


@pytest.mark.parametrize("groups", [1, 8])
@pytest.mark.parametrize("algorithm", ["auto", "implicit_gemm"])
def test_taps_that_are_one_element_are_not_taken_for_neighbours(algorithm: str, groups: int) -> None:
    """A filter whose last axis is expanded, and whose last but one has neighbours in memory."""
    memory = torch.full((4800,), float("nan"))
    rows = (
        memory[: 16 * (16 // groups) * 3]
        .view(16, 16 // groups, 3, 1)
        .copy_(torch.randn(16, 16 // groups, 3, 1))
    )
    x, w = torch.randn(1, 16, 16, 16), rows.expand(-1, -1, 3, 3)
    y = OPS.convolution(x, w, None, [1], [0], [1], groups, algorithm)
    check(y, torch.conv2d(x.double(), w.double(), groups=groups), algorithm)
