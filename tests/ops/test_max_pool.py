"""Max-pooling against torch's: the operations, the Function, and functional.max_pool2d."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd.forward_ad import dual_level, make_dual, unpack_dual

from cnn_ext import functional
from cnn_ext.ops import MaxPool2dFunction

ops = torch.ops.cnn_ext

GEOMETRIES = [
    ((2, 2), (2, 2), (0, 0), (1, 1), False),
    ((3, 3), (2, 2), (1, 1), (1, 1), False),
    ((3, 3), (2, 2), (0, 0), (1, 1), True),
    ((3, 3), (1, 1), (1, 1), (1, 1), False),
    ((2, 3), (3, 4), (1, 0), (2, 1), True),
]
geometries = pytest.mark.parametrize("geometry", GEOMETRIES)
layouts = pytest.mark.parametrize(
    "layout", [torch.contiguous_format, torch.channels_last], ids=["nchw", "channels_last"]
)

# Functions of this operation and torch's twins, for tests/test_tools.py.
CALLS = {"max_pool2d": (lambda m, x: m.max_pool2d(x, 3, 2, 1), (torch.randn(1, 2, 4, 4).double(),))}


def dispatched():
    """Each operation with arguments, for tests/ops/test_opcheck.py."""
    input, geometry = torch.randn(2, 3, 9, 13, requires_grad=True), GEOMETRIES[1]
    output, taps = ops.max_pool2d_with_taps(input.detach(), *geometry)
    yield ops.max_pool2d, (input, *geometry)
    yield ops.max_pool2d_with_taps, (input, *geometry)
    yield ops.max_pool2d_backward, (output.requires_grad_(), taps, input.shape, *geometry)


def both(input, geometry):
    """Output and gradient, ours and torch's; of small integers, so that sums are exact."""
    results = []
    for pool in (functional.max_pool2d, F.max_pool2d):
        leaf = input.clone().requires_grad_()
        output = pool(leaf, *geometry)
        torch.manual_seed(0)
        (gradient,) = torch.autograd.grad(output, leaf, torch.randint(-9, 9, output.shape).to(input))
        results.append((output.detach(), gradient))
    return results


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@layouts
@geometries
def test_it_is_torchs(geometry, layout, dtype, cpu_capability):
    input = torch.randn(2, 19, 13, 37).relu().to(dtype).contiguous(memory_format=layout)
    (output, gradient), (its_output, its_gradient) = both(input, geometry)
    assert torch.equal(output, its_output)
    assert torch.equal(gradient, its_gradient)  # ties, of which a ReLU makes many, broken alike
    assert torch.equal(ops.max_pool2d(input, *geometry), its_output)
    assert output.is_contiguous(memory_format=layout)
    assert gradient.is_contiguous(memory_format=layout)


@given(st.data())
def test_over_any_geometry_it_is_torchs(data):
    draw = data.draw
    geometry, size = [], []
    for _ in range(2):
        window, stride = draw(st.integers(1, 5)), draw(st.integers(1, 5))
        dilation = draw(st.integers(1, 3))
        padding = draw(st.integers(0, window // 2))
        geometry.append((window, stride, padding, dilation))
        size.append(max(1, (window - 1) * dilation + 1 - 2 * padding) + draw(st.integers(0, 40)))
    arguments = (*(list(axis) for axis in zip(*geometry, strict=True)), draw(st.booleans()))
    input = torch.randint(-4, 4, (draw(st.integers(1, 2)), draw(st.integers(1, 40)), *size)).float()
    if draw(st.booleans()):
        input = input.contiguous(memory_format=torch.channels_last)
    if draw(st.booleans()):
        input = input.transpose(2, 3).contiguous().transpose(2, 3)
    for value in (torch.nan, -torch.inf):
        if draw(st.booleans()):
            input[torch.rand(input.shape) < draw(st.sampled_from((0.05, 0.9)))] = value
    expected = F.max_pool2d(input, *arguments)
    same = {"rtol": 0, "atol": 0, "equal_nan": True}
    torch.testing.assert_close(ops.max_pool2d(input, *arguments), expected, **same)
    torch.testing.assert_close(ops.max_pool2d_with_taps(input, *arguments)[0], expected, **same)
    reaches = [(window - 1) * dilation for window, _, _, dilation in geometry]
    if all(reach < extent for reach, extent in zip(reaches, size, strict=True)):
        # Else a window may lie in the padding alone, where torch's index is of no cell.
        (_, ours), (_, theirs) = both(input, arguments)
        torch.testing.assert_close(ours, theirs, **same)


@layouts
def test_a_window_in_the_padding_alone_owes_nothing(layout):
    """Window 2, dilation 5, padding 1: cells at -1 and 4 of a row that ends at 3."""
    geometry = (2, 2), (1, 1), (1, 1), (5, 5), False
    input = torch.randn(1, 20, 4, 4).contiguous(memory_format=layout).requires_grad_()
    output, taps = ops.max_pool2d_with_taps(input, *geometry)
    assert (taps[0, 0] == 255).all()
    assert torch.isneginf(output).all()
    (gradient,) = torch.autograd.grad(output.sum(), input)
    assert not gradient.any()


def test_nothing_is_kept_but_a_byte_for_every_window():
    kept = []
    input = torch.randn(2, 4, 8, 8, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        output = functional.max_pool2d(input, 2)
    assert [(t.dtype, t.shape) for t in kept] == [(torch.uint8, output.shape)]


@pytest.mark.parametrize(
    ("shape", "windows"),
    [
        ((1, 1, 2, 2), (3, 2, 0, 1, True)),  # no whole window
        ((1, 2, 5, 3000), ((1, 2), (1, 999))),
        ((1, 1, 8, 8), (2, 2**31 - 1)),  # one window, and a stride to nowhere
        ((2, 20, 14, 14), (14,)),
    ],
)
@layouts
def test_windows_at_the_edge(shape, windows, layout):
    input = torch.randn(shape).contiguous(memory_format=layout)
    for ours, theirs in zip(*both(input, windows), strict=True):
        assert torch.equal(ours, theirs)
    assert torch.equal(functional.max_pool2d(input, *windows), F.max_pool2d(input, *windows))


@pytest.mark.parametrize("shape", [(3, 9, 9), (0, 3, 9, 9)])
def test_shapes_at_the_edge(shape):
    (output, gradient), (its_output, its_gradient) = both(torch.randn(shape), GEOMETRIES[1])
    assert torch.equal(output, its_output)
    assert torch.equal(gradient, its_gradient)


def test_windows_of_more_cells_than_a_byte_can_number():
    input = torch.randn(2, 3, 20, 17)
    for ours, theirs in zip(*both(input, ((20, 17),)), strict=True):
        assert torch.equal(ours, theirs)
    with pytest.raises(RuntimeError, match="at most 255 cells to a window"):
        ops.max_pool2d(input.requires_grad_(), (20, 17), (1, 1), (0, 0), (1, 1), False)


def test_indices_are_torchs():
    input = torch.randn(2, 3, 9, 9)
    for ours, theirs in zip(
        functional.max_pool2d(input, 2, return_indices=True),
        F.max_pool2d(input, 2, return_indices=True),
        strict=True,
    ):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize(
    ("input", "arguments", "message"),
    [
        (torch.zeros(4, 4), ((2, 2), (2, 2), (0, 0), (1, 1)), r"input: expected \(N, C, H, W\)"),
        (torch.zeros(1, 4, 4), ((0, 2), (2, 2), (0, 0), (1, 1)), "kernel_size: .* got .0, 2."),
        (torch.zeros(1, 4, 4), ((2, 2), (2, 2), (2, 0), (1, 1)), "padding: expected at most half"),
        (torch.zeros(1, 4, 4), ((2, 2), (2, 2), (2, 0), (5, 1)), "padding: expected at most half"),
        (torch.zeros(1, 4, 4), ((5, 2), (2, 2), (0, 0), (1, 1)), "at least one window"),
        (torch.zeros(1, 4, 4), ((2, 2), (2**62, 2), (0, 0), (1, 1)), "stride: .* less than 2.31"),
    ],
)
def test_bad_input_is_named(input, arguments, message):
    with pytest.raises(RuntimeError, match=message):
        ops.max_pool2d(input, *arguments, False)


def test_bad_gradients_are_named():
    taps = torch.zeros(1, 2, 2, 2, dtype=torch.uint8)
    windows = ((2, 2), (2, 2), (0, 0), (1, 1))
    for grad_output, taps_, message in [
        (torch.zeros(1, 2, 2, 3), taps, "grad_output: expected the shape of taps"),
        (torch.zeros(1, 2, 2, 2), taps.long(), "taps: expected uint8"),
        (torch.zeros(1, 2, 2, 2).half(), taps, "grad_output: expected float32 or float64"),
    ]:
        with pytest.raises(RuntimeError, match=message):
            ops.max_pool2d_backward(grad_output, taps_, (1, 2, 4, 4), *windows, False)
    with pytest.raises(RuntimeError, match="input_size: expected one whose windows"):
        ops.max_pool2d_backward(torch.zeros(1, 2, 2, 2), taps, (1, 2, 6, 4), *windows, False)
    one = torch.zeros(1, 1, 1, 1)
    windows = (300, 300), (1, 1), (0, 0), (1, 1)
    with pytest.raises(RuntimeError, match="max_pool2d_backward: kernel_size: expected at most 255"):
        ops.max_pool2d_backward(one, one.byte(), (1, 1, 300, 300), *windows, False)


@layouts
def test_taps_that_no_window_has_stay_inside_the_input(layout):
    taps = torch.arange(256, dtype=torch.uint8).repeat(9)[: 20 * 9].view(1, 20, 3, 3)
    taps = taps.contiguous(memory_format=layout)
    ones = torch.ones(1, 20, 3, 3).contiguous(memory_format=layout)
    windows = ((3, 3), (2, 2), (1, 1), (1, 1))
    gradient = ops.max_pool2d_backward(ones, taps, (1, 20, 5, 5), *windows, False)
    assert gradient.sum() <= ones.sum()


def distinct(*shape):
    """Cells far enough apart that no difference quotient changes which is the greatest."""
    count = torch.Size(shape).numel()
    return torch.randperm(count).double().view(shape).requires_grad_()


@layouts
@geometries
def test_gradients_of_every_order(geometry, layout):
    input = distinct(2, 3, 9, 11).detach().contiguous(memory_format=layout).requires_grad_()

    def pool(x):
        return functional.max_pool2d(x, *geometry)

    assert torch.autograd.gradcheck(pool, (input,), check_forward_ad=True, fast_mode=True)
    assert torch.autograd.gradgradcheck(pool, (input,), check_fwd_over_rev=True, fast_mode=True)

    def apply(x):
        return MaxPool2dFunction.apply(x, *geometry)[0]

    assert torch.autograd.gradcheck(apply, (input,))
    assert torch.autograd.gradgradcheck(apply, (input,))


@geometries
@pytest.mark.parametrize("shape", [(4, 2, 3, 9, 11), (4, 3, 9, 11)])
def test_transforms(geometry, shape):
    images, directions = torch.randn(shape), torch.randn(shape)

    def ours(x):
        return functional.max_pool2d(x, *geometry)

    def theirs(x):
        return F.max_pool2d(x, *geometry)

    for pool in (torch.vmap, lambda f: torch.vmap(torch.func.grad(lambda x: f(x).square().sum()))):
        torch.testing.assert_close(pool(ours)(images), pool(theirs)(images))
    with dual_level():
        dual = make_dual(images[0], directions[0])
        torch.testing.assert_close(unpack_dual(ours(dual)), unpack_dual(theirs(dual)))


def test_forward_mode_of_the_operation_is_refused():
    with dual_level(), pytest.raises(NotImplementedError, match="no forward-mode derivative"):
        ops.max_pool2d(make_dual(torch.ones(1, 4, 4), torch.ones(1, 4, 4)), *GEOMETRIES[0])


def test_compiled_it_trains():
    torch._dynamo.reset()
    input = torch.randn(2, 3, 9, 11, requires_grad=True)
    compiled = torch.compile(lambda x: functional.max_pool2d(x.relu(), 3, 2).square(), fullgraph=True)
    plain = F.max_pool2d(input.relu(), 3, 2).square()
    for a, b in ((compiled(input), plain), (compiled(input.detach()), plain.detach())):
        torch.testing.assert_close(a, b)
    (ours,), (theirs,) = (torch.autograd.grad(t.sum(), input) for t in (compiled(input), plain))
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("grad_mode", [False, True])
def test_compiled_under_vmap(grad_mode):
    torch._dynamo.reset()
    images = torch.randn(4, 2, 3, 9, 11)

    def pool(x):
        return functional.max_pool2d(x, 3, 2, ceil_mode=True)

    with torch.set_grad_enabled(grad_mode):
        mapped = torch.compile(torch.vmap(pool), backend="aot_eager", fullgraph=True)(images)
    torch.testing.assert_close(mapped, pool(images.flatten(0, 1)).unflatten(0, (4, 2)))


@pytest.mark.parametrize("requires_grad", [False, True])
@geometries
def test_opcheck(geometry, requires_grad):
    input = torch.randn(2, 3, 9, 13, requires_grad=requires_grad)
    torch.library.opcheck(ops.max_pool2d, (input, *geometry))
    torch.library.opcheck(ops.max_pool2d_with_taps, (input, *geometry))
    output, taps = ops.max_pool2d_with_taps(input, *geometry)
    grad = torch.randn(output.shape, requires_grad=requires_grad)
    torch.library.opcheck(ops.max_pool2d_backward, (grad, taps, input.shape, *geometry))
