"""Colour PCA on CUDA: every byte, gradients, moments."""

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from cnn_ext import functional
from cnn_ext.ops import ColorPCAFunction
from tests.cuda.parity import EMULATED, agreed, assert_close, high_precision, launches, needs_gpu
from tests.ops.convolution_samples import lay_out

ops = torch.ops.cnn_ext

EIGENVALUES = torch.tensor([0.2175, 0.0188, 0.0045], dtype=torch.double)
SHAPES = [(3, 1, 1), (3, 5, 7), (2, 3, 33, 65), (2, 2, 3, 9, 4), (1, 3, 140, 141), (3, 3, 64, 64)]
shapes = pytest.mark.parametrize("shape", SHAPES, ids=str)
LAYOUTS = ["contiguous", "sliced", "transposed", "expanded", "overlapping", "channels_last"]
BOUNDS = {torch.float64: 1e-15, torch.float32: 1e-7, torch.bfloat16: 2**-8, torch.float16: 2**-11}
dtypes = pytest.mark.parametrize("dtype", list(BOUNDS), ids=str)


def basis(device, channels=3):
    P = torch.linalg.qr(torch.randn(channels, channels, dtype=torch.double))[0]
    return P.to(device)


def bytes_of(device, *shape):
    return torch.randint(0, 256, shape, dtype=torch.uint8).to(device)


def shift_of(P, eigenvalues, alphas):
    P, eigenvalues, alphas = (high_precision(t) for t in (P, eigenvalues, alphas))
    return (alphas * eigenvalues) @ P.mT


def exact_bytes(input, shift):
    """The oracle: float64, torch's rounding (ties to even), torch's clamp."""
    return (input.cpu().double() + 255 * shift[..., None, None]).round().clamp(0, 255).to(torch.uint8)


@shapes
@dtypes
@pytest.mark.parametrize("one_for_all", [True, False])
def test_floats_are_the_formula(shape, dtype, one_for_all, device):
    input, P = torch.rand(shape).to(dtype).to(device), basis(device)
    alphas = torch.randn(3 if one_for_all else (*shape[:-3], 3), dtype=torch.double, device=device)
    before = launches()
    output = agreed(lambda: ops.color_pca(input, P, EIGENVALUES.to(device), alphas))
    if EMULATED:
        assert launches() >= before + 4  # it was our kernels that ran
    exact = input.cpu().double() + shift_of(P, EIGENVALUES, alphas)[..., None, None]
    assert (output.dtype, output.stride()) == (dtype, input.stride())
    assert_close(output, exact, BOUNDS[dtype])


@shapes
@pytest.mark.parametrize("one_for_all", [True, False])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_bytes_are_those_of_float64(shape, one_for_all, layout, device):
    if layout == "channels_last" and len(shape) != 4:
        pytest.skip("channels_last has four axes")
    input, P = lay_out(bytes_of(device, *shape), layout), basis(device)
    alphas = torch.randn(3 if one_for_all else (*shape[:-3], 3), dtype=torch.double, device=device)
    output = agreed(lambda: ops.color_pca(input, P, EIGENVALUES.to(device), alphas))
    assert torch.equal(output.cpu(), exact_bytes(input, shift_of(P, EIGENVALUES, alphas)))
    assert output.stride() == input.stride()


def test_every_byte_under_every_shift_of_a_quarter_grey_level(device):
    """256 bytes by shifts from -300 to 300: saturation at both ends, and every tie to even."""
    quarters = torch.arange(-1200, 1201, dtype=torch.double) / 4
    input = torch.arange(256, dtype=torch.uint8).view(1, 1, 1, 256).expand(len(quarters), 1, 1, 256)
    one = torch.ones(1, dtype=torch.double)
    moved = (t.to(device) for t in (input, one.view(1, 1), one / 255, quarters.view(-1, 1)))
    output = ops.color_pca(*moved)
    exact = exact_bytes(input, (quarters * (one / 255)).view(-1, 1))
    assert torch.equal(output.cpu(), exact)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_ties_go_to_the_even_neighbour(layout, device):
    half = torch.tensor([0.5, -0.5, 1.5], dtype=torch.double) / 255
    input = lay_out(bytes_of(device, 1, 3, 40, 41), layout)
    eye, ones = torch.eye(3, dtype=torch.double), torch.ones(3, dtype=torch.double)
    output = ops.color_pca(input, *(t.to(device) for t in (eye, ones, half)))
    assert torch.equal(output.cpu(), exact_bytes(input, half))


def test_a_shift_that_is_no_number_leaves_black(device):
    for value in (float("nan"), float("inf"), -float("inf")):
        one = torch.ones(1, dtype=torch.double, device=device)
        output = ops.color_pca(bytes_of(device, 1, 4, 5), one.view(1, 1), one, one * value)
        assert (output == (255 if value == float("inf") else 0)).all()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32], ids=str)
def test_every_layout_keeps_the_values_and_torchs_strides(layout, dtype, device):
    plain = bytes_of(device, 3, 3, 15, 17).to(dtype)
    input, alphas = lay_out(plain, layout), torch.randn(3, 3, device=device)
    arguments = (basis(device), EIGENVALUES.to(device), alphas)
    output = ops.color_pca(input, *arguments)
    assert torch.equal(output, ops.color_pca(input.contiguous(), *arguments))
    assert output.stride() == torch.empty_like(input).stride()


@shapes
@dtypes
@pytest.mark.parametrize("pixels", [False, True])
def test_the_gradient_of_the_shift_is_the_sum_over_pixels(shape, dtype, pixels, device):
    grad = torch.randn(shape).to(dtype).to(device)
    if pixels:
        grad = grad.movedim(-3, -1).contiguous().movedim(-1, -3)
    sums = agreed(lambda: ops.color_pca_shift_gradient(grad))
    exact = grad.cpu().double().sum((-2, -1))
    bound = 1e-6 if sums.dtype == torch.float32 else 1e-13
    torch.testing.assert_close(sums.cpu().double(), exact, rtol=bound, atol=bound)


def exact_moments(input):
    cells = input.cpu().movedim(-3, 0).flatten(1)
    if input.dtype == torch.uint8:
        return cells.long().sum(1), cells.long() @ cells.long().T
    cells = cells.double()
    centred = cells - cells.mean(1, keepdim=True)
    return cells.mean(1), centred @ centred.T


@shapes
@pytest.mark.parametrize("dtype", [torch.uint8, *BOUNDS], ids=str)
@pytest.mark.parametrize("pixels", [False, True])
def test_moments_are_those_of_all_pixels(shape, dtype, pixels, device):
    input = bytes_of(device, *shape)
    if dtype != torch.uint8:
        input = (100 + input.double() / 255).to(dtype)
    if pixels:
        input = input.movedim(-3, -1).contiguous().movedim(-1, -3)
    first = agreed(lambda: ops.color_moments(input)[0])
    second = agreed(lambda: ops.color_moments(input)[1])
    exact = exact_moments(input)
    if dtype == torch.uint8:
        assert torch.equal(first.cpu(), exact[0])
        assert torch.equal(second.cpu(), exact[1])
    else:
        torch.testing.assert_close(first.cpu(), exact[0], rtol=1e-13, atol=0)
        torch.testing.assert_close(second.cpu(), exact[1], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_any_number_of_channels(channels, device):
    input, P = bytes_of(device, 2, channels, 9, 16), basis(device, channels)
    eigenvalues = torch.rand(channels, dtype=torch.double, device=device)
    alphas = torch.randn(2, channels, dtype=torch.double, device=device)
    output = ops.color_pca(input, P, eigenvalues, alphas)
    assert torch.equal(output.cpu(), exact_bytes(input, shift_of(P, eigenvalues, alphas)))
    for found, exact in zip(ops.color_moments(input), exact_moments(input), strict=True):
        assert torch.equal(found.cpu(), exact)


def test_empty_batches(device):
    arguments = (basis(device), EIGENVALUES.to(device), torch.randn(0, 3, device=device))
    images = torch.rand(0, 3, 4, 4, device=device)
    assert ops.color_pca(images, *arguments).shape == (0, 3, 4, 4)
    assert ops.color_pca_shift_gradient(images).shape == (0, 3)
    assert (ops.color_moments(images)[1] == 0).all()


def test_gradcheck_and_gradgradcheck(device):
    image = torch.rand(2, 3, 4, 5, dtype=torch.double, device=device)
    alphas = torch.randn(2, 3, dtype=torch.double, device=device)
    tensors = [
        t.requires_grad_() for t in (image, basis(device), EIGENVALUES.to(device).clone(), alphas)
    ]
    assert gradcheck(ColorPCAFunction.apply, tensors)
    assert gradgradcheck(ColorPCAFunction.apply, tensors)


def test_opcheck(device):
    image = torch.rand(2, 3, 4, 5, device=device, requires_grad=True)
    alphas = torch.randn(2, 3, device=device, requires_grad=True)
    torch.library.opcheck(ops.color_pca, (image, basis(device), EIGENVALUES.to(device), alphas))
    torch.library.opcheck(ops.color_pca_shift_gradient, (image,))
    torch.library.opcheck(ops.color_moments, (image.detach(),))


@needs_gpu
def test_nothing_waits_for_the_device_and_a_graph_replays(device):
    image, P, eigenvalues = bytes_of(device, 4, 3, 64, 64), basis(device), EIGENVALUES.to(device)
    alphas = torch.randn(4, 3, device=device)
    functional.color_pca(image, P, eigenvalues, alphas)
    torch.cuda.set_sync_debug_mode("error")
    try:
        functional.color_pca(image, P, eigenvalues, alphas)
        ops.color_moments(image)
        ops.color_pca_shift_gradient(image.float())
    finally:
        torch.cuda.set_sync_debug_mode("default")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = ops.color_pca(image, P, eigenvalues, alphas)
    alphas.copy_(torch.randn_like(alphas))
    graph.replay()
    assert torch.equal(output, ops.color_pca(image, P, eigenvalues, alphas))


def reduced(device):
    """Every kernel once (tests/cuda/reduced.py)."""
    images = [torch.rand(2, 3, 8, 8).to(dtype) for dtype in BOUNDS]
    images += [torch.randint(0, 256, shape, dtype=torch.uint8) for shape in ((2, 3, 8, 8), (3, 5, 7))]
    eye = torch.eye(3, dtype=torch.double, device=device)
    shift = torch.tensor([0.2, -0.1, 0.01], dtype=torch.double, device=device)
    for image in (image.to(device) for image in images):
        output = ops.color_pca(image, eye, torch.ones_like(shift), shift)
        ops.color_moments(image)
        if image.is_floating_point():
            ops.color_pca_shift_gradient(output)
            exact = high_precision(image) + shift.cpu()[:, None, None]
            assert_close(output, exact, max(BOUNDS[image.dtype], 1e-14))
