"""Colour PCA: every byte, gradients of every kind, moments, misuse."""

from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.autograd import forward_ad, gradcheck, gradgradcheck

from cnn_ext import functional, reference
from cnn_ext.ops import ColorPCAFunction
from tests.ops.convolution_samples import lay_out
from tests.ops.test_convolution import Counter, assert_close

ops = torch.ops.cnn_ext

EIGENVALUES = torch.tensor([0.2175, 0.0188, 0.0045], dtype=torch.double)
SHAPES = [(3, 1, 1), (3, 5, 7), (2, 3, 33, 65), (2, 2, 3, 9, 4), (1, 3, 300, 301), (3, 3, 64, 64)]
shapes = pytest.mark.parametrize("shape", SHAPES, ids=str)
LAYOUTS = ["contiguous", "sliced", "transposed", "expanded", "overlapping", "channels_last"]
BOUNDS = {torch.float64: 1e-15, torch.float32: 1e-7, torch.bfloat16: 2**-8, torch.float16: 2**-11}
dtypes = pytest.mark.parametrize("dtype", list(BOUNDS), ids=str)

# Functions of this operation and the formula in torch's, for tests/test_tools.py.
CALLS = {
    "color_pca": (
        lambda m, x, P, v, a: m.color_pca(x, P, v, a) if m is functional
        else x + (P @ (a * v))[:, None, None],
        (torch.randn(1, 2, 4, 4).double(), torch.eye(2).double(), torch.rand(2).double(),
         torch.randn(2).double()),
    ),
}  # fmt: skip


def dispatched():
    """Each operation with arguments, for tests/ops/test_opcheck.py."""
    image = torch.rand(2, 3, 4, 5, dtype=torch.double, requires_grad=True)
    alphas = torch.randn(2, 3, dtype=torch.double, requires_grad=True)
    yield ops.color_pca, (image, basis(), EIGENVALUES, alphas)
    yield ops.color_pca_shift_gradient, (image,)
    yield ops.color_moments, (image.detach(),)


def basis(channels=3):
    return torch.linalg.qr(torch.randn(channels, channels, dtype=torch.double))[0]


def bytes_of(*shape):
    return torch.randint(0, 256, shape, dtype=torch.uint8)


def shift_of(P, eigenvalues, alphas):
    return (alphas.double() * eigenvalues.double()) @ P.double().mT


def exact_bytes(input, shift):
    """The oracle: float64, torch's rounding (ties to even), torch's clamp."""
    return (input.double() + 255 * shift[..., None, None]).round().clamp(0, 255).to(torch.uint8)


# ------------------------------------------------------------------------------------- values


@shapes
@dtypes
@pytest.mark.parametrize("one_for_all", [True, False])
def test_floats_are_the_formula_at_every_dtype_and_instruction_set(
    shape, dtype, one_for_all, cpu_capability
):
    input, P = torch.rand(shape).to(dtype), basis()
    alphas = torch.randn(3 if one_for_all else (*shape[:-3], 3), dtype=torch.double)
    output = functional.color_pca(input, P, EIGENVALUES, alphas)
    exact = input.double() + shift_of(P, EIGENVALUES, alphas)[..., None, None]
    assert (output.dtype, output.stride()) == (dtype, input.stride())
    assert_close(output, exact, BOUNDS[dtype])


@shapes
@pytest.mark.parametrize("one_for_all", [True, False])
def test_bytes_are_those_of_float64_at_every_instruction_set(shape, one_for_all, cpu_capability):
    input, P = bytes_of(*shape), basis()
    alphas = torch.randn(3 if one_for_all else (*shape[:-3], 3), dtype=torch.double)
    output = functional.color_pca(input, P, EIGENVALUES, alphas)
    assert torch.equal(output, exact_bytes(input, shift_of(P, EIGENVALUES, alphas)))


def test_every_byte_under_every_shift_of_a_quarter_grey_level(cpu_capability):
    """256 bytes by shifts from -300 to 300: saturation at both ends, and every tie to even."""
    quarters = torch.arange(-1200, 1201, dtype=torch.double) / 4
    input = torch.arange(256, dtype=torch.uint8).view(1, 1, 1, 256).expand(len(quarters), 1, 1, 256)
    one = torch.ones(1, dtype=torch.double)
    output = functional.color_pca(input, one.view(1, 1), one / 255, quarters.view(-1, 1))
    # 255 (q / 255) may miss a tie by its last bit, and comes back to it when a byte is added.
    exact = exact_bytes(input, (quarters * (one / 255)).view(-1, 1))
    assert torch.equal(output, exact)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_ties_go_to_the_even_neighbour(layout, cpu_capability):
    half = torch.tensor([0.5, -0.5, 1.5], dtype=torch.double) / 255
    assert torch.equal(255 * half, torch.tensor([0.5, -0.5, 1.5], dtype=torch.double))
    input = lay_out(bytes_of(1, 3, 40, 41), layout)
    eye, ones = torch.eye(3, dtype=torch.double), torch.ones(3, dtype=torch.double)
    output = functional.color_pca(input, eye, ones, half)
    assert torch.equal(output, exact_bytes(input, half))
    assert (output[:, :2] % 2 == 0)[input[:, :2] % 255 != 0].all()


@settings(deadline=None, max_examples=200)
@given(st.floats(-400, 400), st.sampled_from([torch.float32, torch.float64]))
def test_every_byte_under_any_shift(levels, dtype):
    one = torch.ones(1, dtype=dtype)
    alpha = torch.tensor([levels / 255], dtype=dtype)
    input = torch.arange(256, dtype=torch.uint8).view(1, 16, 16)
    output = functional.color_pca(input, one.view(1, 1), one, alpha)
    assert torch.equal(output, exact_bytes(input, alpha.double()))


def test_away_from_ties_a_byte_is_the_nearest_to_the_exact_sum():
    """In rational arithmetic, from the shift that the parameters give in float64."""
    one = torch.ones(1, dtype=torch.double)
    for alpha in torch.randn(100, 1, dtype=torch.double) / 4:
        input = bytes_of(1, 1, 50)
        output = functional.color_pca(input, one.view(1, 1), one, alpha)
        shift = Fraction(255 * alpha.item())
        exact = [min(max(round(x + shift), 0), 255) for x in input.flatten().tolist()]
        assert output.flatten().tolist() == exact


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32], ids=str)
def test_every_layout_keeps_the_values_and_torchs_strides(layout, dtype):
    plain = bytes_of(3, 3, 15, 17).to(dtype)
    input, alphas = lay_out(plain, layout), torch.randn(3, 3)
    arguments = (basis(), EIGENVALUES, alphas)
    output = functional.color_pca(input, *arguments)
    assert torch.equal(output, functional.color_pca(input.contiguous(), *arguments))
    assert output.stride() == torch.empty_like(input).stride()


def test_a_crop_of_an_image_read_by_pixels():
    photograph = bytes_of(40, 50, 3).movedim(-1, 0)  # as PIL and NumPy have it
    crop = photograph[:, 3:20, 7:29]
    alphas = torch.randn(3)
    assert torch.equal(functional.color_pca(crop, basis(), EIGENVALUES, torch.zeros(3)), crop)
    P = basis()
    assert torch.equal(
        functional.color_pca(crop, P, EIGENVALUES, alphas),
        functional.color_pca(photograph, P, EIGENVALUES, alphas)[:, 3:20, 7:29],
    )


@pytest.mark.parametrize("shape", [(3, 4, 5), (2, 3, 4, 5)])
def test_it_is_the_papers_formula(shape):
    input, P = torch.rand(shape, dtype=torch.double), basis()
    alphas = torch.randn(*shape[:-3], 3, dtype=torch.double)
    images = input.view(-1, *shape[-3:])
    exact = [
        reference.color_pca(i, P, EIGENVALUES, a)
        for i, a in zip(images, alphas.view(-1, 3), strict=True)
    ]
    assert_close(
        functional.color_pca(input, P, EIGENVALUES, alphas), torch.stack(exact).view(shape), 1e-15
    )


@pytest.mark.parametrize("channels", [1, 2, 4, 13, 130])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_any_number_of_channels(channels, layout, cpu_capability):
    P, values = basis(channels), torch.rand(channels, dtype=torch.double) / channels
    alphas = torch.randn(2, channels, dtype=torch.double)
    input = lay_out(bytes_of(2, channels, 13, 11), layout)
    output = functional.color_pca(input, P, values, alphas)
    assert torch.equal(output, exact_bytes(input, shift_of(P, values, alphas)))
    output = functional.color_pca(input.float(), P, values, alphas)
    assert_close(output, input.double() + shift_of(P, values, alphas)[..., None, None], 1e-7)


def test_parameters_of_different_dtypes_are_taken_as_they_are():
    input, P = torch.rand(2, 3, 4, 4), basis()
    mixed = functional.color_pca(input, P, EIGENVALUES.float(), torch.ones(3).bfloat16())
    torch.testing.assert_close(
        mixed, functional.color_pca(input, P.float(), EIGENVALUES, torch.ones(3))
    )


@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (2, 3, 0, 5), (3, 0, 0), (2, 0, 4, 4)], ids=str)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32], ids=str)
def test_without_pixels_nothing_happens(shape, dtype):
    input, C = torch.zeros(shape, dtype=dtype), shape[-3]
    output = functional.color_pca(input, torch.eye(C), torch.ones(C), torch.ones(*shape[:-3], C))
    assert (output.shape, output.dtype) == (input.shape, dtype)


def test_nan_and_infinity():
    eye, ones = torch.eye(3), torch.ones(3)
    pixels = torch.tensor([0.5, float("nan"), float("inf")]).expand(3, 1, 3)
    output = functional.color_pca(pixels, eye, ones, torch.full((3,), 0.25))
    torch.testing.assert_close(output, pixels + 0.25, equal_nan=True)
    alphas = torch.tensor([float("nan"), float("inf"), float("-inf")])
    # One shift that is no number makes all channels so: P mixes them.
    assert functional.color_pca(pixels[:, :, :1], eye, ones, alphas).isnan().all()
    one = torch.ones(1)
    for alpha, byte in (("nan", 0), ("inf", 255), ("-inf", 0)):
        shifted = functional.color_pca(
            bytes_of(1, 2, 2), one.view(1, 1), one, torch.tensor([float(alpha)])
        )
        assert (shifted == byte).all()


@shapes
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32], ids=str)
def test_results_are_the_same_bits_at_any_number_of_threads(shape, dtype):
    input, results, P = bytes_of(*shape).to(dtype), [], basis()
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        shifted = functional.color_pca(input, P, EIGENVALUES, torch.ones(3))
        moments = ops.color_moments(input)
        sums = ops.color_pca_shift_gradient(input.float())
        results.append((shifted, *moments, sums))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


# ---------------------------------------------------------------------------------- gradients


def small(one_for_all=False, leading=(2,)):
    return tuple(
        t.requires_grad_()
        for t in (
            torch.rand(*leading, 3, 2, 3, dtype=torch.double),
            basis(),
            EIGENVALUES.clone(),
            torch.randn(3 if one_for_all else (*leading, 3), dtype=torch.double),
        )
    )


kinds = pytest.mark.parametrize(
    ("one_for_all", "leading"), [(True, (2,)), (False, (2,)), (True, ()), (False, (2, 1))]
)


@kinds
@pytest.mark.parametrize("call", [functional.color_pca, ColorPCAFunction.apply], ids=["op", "Function"])
def test_gradcheck_and_gradgradcheck(one_for_all, leading, call):
    assert gradcheck(call, small(one_for_all, leading), check_batched_grad=True)
    assert gradgradcheck(call, small(one_for_all, leading))


@kinds
def test_gradcheck_in_forward_mode(one_for_all, leading):
    inputs = small(one_for_all, leading)
    assert gradcheck(
        functional.color_pca, inputs, check_forward_ad=True, check_batched_forward_grad=True
    )
    assert gradgradcheck(functional.color_pca, inputs, check_fwd_over_rev=True)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "expanded"])
@dtypes
def test_the_gradient_of_the_shift_is_the_sum_of_all_pixels(layout, dtype, cpu_capability):
    grad = lay_out(torch.randn(2, 3, 67, 45).to(dtype), layout)
    result = ops.color_pca_shift_gradient(grad)
    assert result.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    exact = grad.double().sum((-2, -1))
    scale = grad.double().abs().sum((-2, -1)).norm()
    assert (result - exact).norm() <= (1e-15 if dtype == torch.float64 else 1e-7) * scale


def test_the_images_are_not_kept():
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        functional.color_pca(*small())
    assert sorted(kept) == [3, 6, 9]


def test_where_only_the_image_wants_a_gradient_nothing_is_summed():
    input, *parameters = small()
    output = functional.color_pca(input, *(t.detach() for t in parameters))
    with Counter() as counter:
        output.sum().backward()
    assert counter.calls == []
    assert torch.equal(input.grad, torch.ones_like(input))


def test_rounded_bytes_have_no_gradient():
    _, *parameters = small()
    assert not functional.color_pca(bytes_of(2, 3, 2, 3), *parameters).requires_grad
    assert not ColorPCAFunction.apply(bytes_of(2, 3, 2, 3), *parameters).requires_grad


def test_the_augmentation_can_be_learned():
    """Gradient descent on alphas finds the shift between two images."""
    image, P, _, _ = (t.detach() for t in small(True, ()))
    ones = torch.ones(3, dtype=torch.double)
    wanted = image + torch.tensor([0.02, -0.01, 0.03]).double()[:, None, None]
    alphas = torch.zeros(3, dtype=torch.double, requires_grad=True)
    optimizer = torch.optim.LBFGS([alphas], line_search_fn="strong_wolfe", max_iter=100)

    def loss():
        optimizer.zero_grad()
        value = (functional.color_pca(image, P, ones, alphas) - wanted).square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    torch.testing.assert_close(functional.color_pca(image, P, ones, alphas), wanted)


@kinds
def test_opcheck(one_for_all, leading):
    inputs = small(one_for_all, leading)
    for results in (
        torch.library.opcheck(ops.color_pca.default, inputs),
        torch.library.opcheck(ops.color_pca.default, (bytes_of(*inputs[0].shape), *inputs[1:])),
        torch.library.opcheck(ops.color_pca_shift_gradient.default, (inputs[0],)),
        torch.library.opcheck(ops.color_moments.default, (inputs[0].detach(),)),
        torch.library.opcheck(ops.color_moments.default, (bytes_of(*inputs[0].shape),)),
    ):
        assert set(results.values()) == {"SUCCESS"}


# ------------------------------------------------------------------------- torch.func, compile


def losses():
    def theirs(input, P, eigenvalues, alphas):
        return input + ((alphas * eigenvalues) @ P.mT)[..., None, None]

    return (
        lambda *t: functional.color_pca(*t).square().sum(),
        lambda *t: theirs(*t).square().sum(),
    )


@kinds
def test_func_grad_jacobian_and_hessian(one_for_all, leading):
    ours, theirs = losses()
    inputs = tuple(t.detach() for t in small(one_for_all, leading))
    for transform in (torch.func.grad, torch.func.jacfwd, torch.func.jacrev, torch.func.hessian):
        a, b = (transform(f, argnums=(1, 2, 3))(*inputs) for f in (ours, theirs))
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("mapped", range(1, 16))
@pytest.mark.parametrize("leading", [(), (2,)])
@pytest.mark.parametrize("rows", [False, True])
def test_vmap_over_any_of_the_four_is_one_call(mapped, leading, rows):
    inputs = [t.detach() for t in small(not rows, leading)]
    dims = [0 if mapped >> i & 1 else None for i in range(4)]
    for i, dim in enumerate(dims):
        if dim is not None:
            inputs[i] = torch.stack([inputs[i], 0.5 * inputs[i], -inputs[i]])
    with Counter() as counter:
        result = torch.vmap(functional.color_pca, tuple(dims))(*inputs)
    assert counter.calls == ["color_pca"]
    one = [[t if dim is None else t[b] for t, dim in zip(inputs, dims, strict=True)] for b in range(3)]
    torch.testing.assert_close(result, torch.stack([functional.color_pca(*t) for t in one]))


def test_vmap_of_the_gradient_is_one_call_each():
    ours, theirs = losses()
    inputs = [t.detach() for t in small(True, ())]
    images = torch.stack([inputs[0], 2 * inputs[0]])
    with Counter() as counter:
        result = torch.vmap(torch.func.grad(ours, 3), (0, None, None, None))(images, *inputs[1:])
    assert counter.calls == ["color_pca", "color_pca_shift_gradient"]
    expected = torch.vmap(torch.func.grad(theirs, 3), (0, None, None, None))(images, *inputs[1:])
    torch.testing.assert_close(result, expected)


@pytest.mark.parametrize("dynamic", [False, True])
def test_compile_without_graph_breaks(dynamic):
    ours, theirs = losses()
    torch._dynamo.reset()
    compiled = torch.compile(ours, fullgraph=True, dynamic=dynamic)
    inputs = small()
    torch.testing.assert_close(compiled(*inputs), theirs(*inputs))
    for a, b in zip(
        *(torch.autograd.grad(f(*inputs), inputs) for f in (compiled, theirs)), strict=True
    ):
        torch.testing.assert_close(a, b)


class Augment(nn.Module):
    def __init__(self):
        super().__init__()
        self.P = nn.Parameter(basis())
        self.eigenvalues = nn.Parameter(EIGENVALUES.clone())

    def forward(self, images, alphas):
        return functional.color_pca(images, self.P, self.eigenvalues, alphas)


def test_an_exported_module_trains():
    module, inputs = Augment(), (torch.rand(2, 3, 4, 4).double(), torch.randn(2, 3).double())
    rebuilt = torch.export.export(module, inputs).module()
    rebuilt(*inputs).square().sum().backward()
    module(*inputs).square().sum().backward()
    for a, b in zip(rebuilt.parameters(), module.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_the_operations_refuse_a_tangent_rather_than_drop_it():
    inputs = [t.detach() for t in small()]
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(inputs[3], inputs[3])
        with pytest.raises(NotImplementedError, match=r"color_pca has no forward-mode"):
            ops.color_pca(*inputs[:3], dual)
        dual = forward_ad.make_dual(inputs[0], inputs[0])
        with pytest.raises(NotImplementedError, match="shift_gradient has no forward-mode"):
            ops.color_pca_shift_gradient(dual)


# ----------------------------------------------------------------------------------- moments


@shapes
@pytest.mark.parametrize("layout", ["contiguous", "pixels"])
def test_moments_of_bytes_are_exact_integers(shape, layout, cpu_capability):
    input = bytes_of(*shape)
    laid = input if layout == "contiguous" else input.movedim(-3, -1).contiguous().movedim(-1, -3)
    sums, products = ops.color_moments(laid)
    pixels = input.long().movedim(-3, 0).flatten(1)
    assert torch.equal(sums, pixels.sum(1))
    assert torch.equal(products, (pixels[:, None] * pixels[None]).sum(-1))


def test_moments_of_white_do_not_overflow(cpu_capability):
    sums, products = ops.color_moments(torch.full((2, 3, 1000, 1100), 255, dtype=torch.uint8))
    assert (sums == 255 * 2_200_000).all()
    assert (products == 255**2 * 2_200_000).all()


@shapes
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_moments_of_floats_survive_a_large_mean(shape, dtype, offset, cpu_capability):
    """Sums of squares less squared sums would lose eight of float64's sixteen digits at 1e4."""
    input = (torch.rand(shape, dtype=torch.double) + offset).to(dtype)
    mean, products = ops.color_moments(input)
    pixels = input.double().movedim(-3, 0).flatten(1)
    exact = pixels.mean(1, keepdim=True)
    torch.testing.assert_close(mean, exact[:, 0], rtol=1e-14, atol=0)
    apart = pixels - exact
    error = (products - apart @ apart.mT).abs().max()
    # A mean of 1e4 is known to 2e-12, a colour's distance from it to as much.
    assert error <= (1e-14 + 1e-16 * offset) * apart.square().sum()


@pytest.mark.parametrize("channels", [1, 2, 5, 40])
def test_moments_of_any_number_of_channels(channels, cpu_capability):
    input = bytes_of(2, channels, 30, 41)
    pixels = input.double().movedim(1, 0).flatten(1)
    sums, products = ops.color_moments(input.contiguous(memory_format=torch.channels_last))
    assert torch.equal(products.double(), pixels @ pixels.mT)
    mean, around = ops.color_moments(input.float() / 255)
    torch.testing.assert_close(
        around / pixels.shape[1], torch.cov(pixels / 255, correction=0).view_as(around)
    )
    torch.testing.assert_close(mean, sums.double() / pixels.shape[1] / 255)


def test_moments_of_nothing_are_zero():
    for dtype in (torch.uint8, torch.float32):
        first, second = ops.color_moments(torch.zeros(0, 3, 4, 4, dtype=dtype))
        assert first.tolist() == [0, 0, 0]
        assert second.abs().sum() == 0


def test_moments_refuse_to_lose_a_gradient():
    with pytest.raises(NotImplementedError, match=r"call it with input.detach\(\)"):
        ops.color_moments(torch.rand(3, 4, 4, requires_grad=True))


# ------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input": torch.zeros(3, 4)}, r"input: expected at least 3 dimensions.*got shape \[3, 4\]"),
        ({"input": torch.zeros(3, 4, 4).long()}, "input: expected uint8 or .*, got Long"),
        ({"eigenvectors": torch.eye(4)}, r"eigenvectors: expected shape \[3, 3\].*got \[4, 4\]"),
        ({"eigenvectors": torch.eye(3).long()}, "eigenvectors: expected a floating-point dtype"),
        ({"eigenvalues": torch.ones(1, 3)}, r"eigenvalues: expected shape \[3\].*got \[1, 3\]"),
        ({"alphas": torch.ones(4)}, r"alphas: expected shape \[3\], or \[2, 3\].*got \[4\]"),
        ({"alphas": torch.ones(3, 3)}, r"alphas: expected shape .*got \[3, 3\]"),
        ({"alphas": torch.ones(3, device="meta")}, "alphas: expected a tensor on cpu"),
        ({"eigenvalues": torch.ones(3, device="meta")}, "eigenvalues: expected a tensor on cpu"),
    ],
    ids=["rank", "dtype", "P", "P dtype", "eigenvalues", "alphas", "rows", "device", "device 2"],
)
def test_a_bad_argument_is_named(change, message):
    good = {"input": torch.zeros(2, 3, 4, 4), "eigenvectors": torch.eye(3),
            "eigenvalues": torch.ones(3), "alphas": torch.ones(3)}  # fmt: skip
    with pytest.raises((RuntimeError, NotImplementedError), match=f"color_pca: {message}"):
        functional.color_pca(**{**good, **change})


def test_bad_arguments_of_the_other_operations_are_named():
    with pytest.raises(
        RuntimeError, match="color_pca_shift_gradient: grad_output: expected a floating"
    ):
        ops.color_pca_shift_gradient(bytes_of(3, 2, 2))
    with pytest.raises(
        RuntimeError, match="color_pca_shift_gradient: grad_output: expected at least 3"
    ):
        ops.color_pca_shift_gradient(torch.zeros(3))
    with pytest.raises(RuntimeError, match="color_moments: input: expected uint8 or"):
        ops.color_moments(torch.zeros(3, 2, 2).int())
    with pytest.raises(RuntimeError, match="color_moments: input: expected at least 3"):
        ops.color_moments(torch.zeros(3, 2))
