"""Local response normalisation: every convention, gradients of every kind, misuse."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd import forward_ad, gradcheck, gradgradcheck
from torch.testing._internal.common_methods_invocations import op_db

import cnn_ext
from cnn_ext import functional, reference
from cnn_ext.ops import LocalResponseNormFunction
from cnn_ext.ops import local_response_norm as lrn
from tests.ops.convolution_samples import lay_out
from tests.ops.test_convolution import Counter, assert_close

ops = torch.ops.cnn_ext

SHAPES = [
    (2, 1, 3),
    (3, 7, 5, 6),
    (2, 96, 13, 13),
    (1, 5, 3),
    (2, 3, 4, 5, 6),
    (40, 300, 1, 1),
    (2, 33, 17, 31),
    (1, 2, 2, 2, 3, 3),
    (0, 4, 3, 3),
]
shapes = pytest.mark.parametrize("shape", SHAPES, ids=str)
sizes = pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 8, 37])
betas = pytest.mark.parametrize("beta", [0.75, 0.5, 1.0, 0.6])
BOUNDS = {torch.float64: 1e-14, torch.float32: 1e-6, torch.bfloat16: 2**-8, torch.float16: 2**-11}
dtypes = pytest.mark.parametrize("dtype", list(BOUNDS), ids=str)
CONVENTIONS = [("mean", "channels"), ("sum", "channels"), ("mean", "spatial"), ("sum", "spatial")]
conventions = pytest.mark.parametrize(("scaling", "region"), CONVENTIONS)

# Functions of this operation and torch's twins, for tests/test_tools.py.
CALLS = {
    "local_response_norm": (
        lambda m, x: m.local_response_norm(x, 3, 0.5),
        (torch.randn(1, 2, 4, 4).double(),),
    )
}


def dispatched():
    """Each operation with arguments, for tests/ops/test_opcheck.py."""
    input, grad = small_input(), small_input()
    arguments = (3, 0.7, 0.75, 1.5, "mean", "channels", 1)
    yield ops.local_response_norm, (input, *arguments)
    yield ops.local_response_norm_backward, (grad, input, *arguments)


def gradient(output, input, grad):
    return torch.autograd.grad(output, input, grad)[0]


# ------------------------------------------------------------------------------------- values


@shapes
@sizes
@betas
def test_mean_over_channels_is_torchs_forward_and_backward(shape, size, beta):
    input = torch.randn(shape, dtype=torch.double, requires_grad=True)
    exact = F.local_response_norm(input, size, 0.3, beta, 1.5)
    grad = torch.randn_like(exact)
    output = functional.local_response_norm(input, size, 0.3, beta, 1.5)
    assert_close(output, exact, 1e-14)
    if input.numel():
        assert_close(gradient(output, input, grad), gradient(exact, input, grad), 1e-13)


@shapes
@dtypes
def test_every_dtype_and_instruction_set(shape, dtype, cpu_capability):
    input = torch.randn(shape).to(dtype)
    grad = torch.randn(shape).to(dtype)
    double = input.double().requires_grad_()
    exact = F.local_response_norm(double, 5, 0.3, 0.75, 2.0)
    arguments = (5, 0.3, 0.75, 2.0, "mean", "channels", 1)
    assert_close(ops.local_response_norm(input, *arguments), exact, BOUNDS[dtype])
    if input.numel():
        ours = ops.local_response_norm_backward(grad, input, *arguments)
        assert_close(ours, gradient(exact, double, grad.double()), 2 * BOUNDS[dtype])


@pytest.mark.parametrize("layout", ["channels_last", "sliced", "transposed", "expanded", "overlapping"])
@conventions
def test_every_layout_keeps_the_values_and_torchs_strides(layout, scaling, region):
    plain = torch.randn(3, 6, 5, 7, dtype=torch.double)
    input = lay_out(plain, layout)
    arguments = (3, 0.3, 0.75, 2.0, scaling, region, 1)
    output = ops.local_response_norm(input, *arguments)
    assert torch.equal(output, ops.local_response_norm(input.contiguous(), *arguments))
    assert output.stride() == F.local_response_norm(input, 3).stride()
    grad = lay_out(torch.randn_like(plain), "transposed")
    torch.testing.assert_close(
        ops.local_response_norm_backward(grad, input, *arguments),
        ops.local_response_norm_backward(grad.contiguous(), input.contiguous(), *arguments),
        rtol=0,
        atol=0,
    )


@pytest.mark.parametrize("size", [1, 2, 5, 9])
@pytest.mark.parametrize("scaling", ["mean", "sum"])
def test_it_is_the_papers_formula(size, scaling):
    input = torch.randn(2, 7, 2, 3, dtype=torch.double)
    exact = reference.local_response_norm(input, size, 0.3, 0.75, 2.0, scaling)
    ours = functional.local_response_norm(input, size, 0.3, 0.75, 2.0, alpha_scaling=scaling)
    assert_close(ours, exact, 1e-15)


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("size", [1, 3, 5])
@pytest.mark.parametrize("scaling", ["mean", "sum"])
def test_inside_a_map_it_is_an_average_of_squares(axes, size, scaling):
    """Caffe's WITHIN_CHANNEL: average pooling of the squares, borders counted as zeros."""
    input = torch.randn(2, 3, *(6, 5, 7)[:axes], dtype=torch.double, requires_grad=True)
    pool = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[axes - 1]
    factor = 1 if scaling == "mean" else size**axes
    mean = pool(input.square(), size, 1, size // 2)
    exact = input * (1.5 + 0.3 * factor * mean) ** -0.75
    ours = functional.local_response_norm(
        input, size, 0.3, 0.75, 1.5, alpha_scaling=scaling, region="spatial"
    )
    assert_close(ours, exact, 1e-14)
    grad = torch.randn_like(exact)
    assert_close(gradient(ours, input, grad), gradient(exact, input, grad), 1e-13)


@conventions
@pytest.mark.parametrize("channel_dim", [0, 1, 2, 3, -1])
def test_the_axis_of_the_filters_may_be_any(channel_dim, scaling, region):
    axis = channel_dim % 4
    input = torch.randn(4, 5, 6, 7, dtype=torch.double)
    order = [axis] + [i for i in range(4) if i != axis]  # filters first, then what remains
    ours = functional.local_response_norm(
        input, 3, 0.3, 0.75, 2.0, alpha_scaling=scaling, region=region, channel_dim=channel_dim
    )
    if axis == 0 or region == "channels":  # one image of three spatial axes
        moved = input.permute(order).unsqueeze(0)
        expected = functional.local_response_norm(
            moved, 3, 0.3, 0.75, 2.0, alpha_scaling=scaling, region=region
        )[0]
        expected = expected.permute([order.index(i) for i in range(4)])
    else:
        expected = functional.local_response_norm(
            input.movedim(axis, 1), 3, 0.3, 0.75, 2.0, alpha_scaling=scaling, region=region
        ).movedim(1, axis)
    torch.testing.assert_close(ours, expected)


def test_an_image_without_a_batch_is_normalised_over_its_filters():
    image = torch.randn(6, 5, 4)
    ours = functional.local_response_norm(image, 3, 0.5, channel_dim=0)
    torch.testing.assert_close(ours, F.local_response_norm(image[None], 3, 0.5)[0])
    assert not torch.allclose(ours, F.local_response_norm(image, 3, 0.5))  # torch: over H


def test_float16_squares_do_not_overflow():
    input = torch.full((1, 5, 1, 1), 1000.0).half()
    output = functional.local_response_norm(input, 5, 1.0, 0.5, 1.0)  # 1 / sqrt(3, 4, 5, 4, 3 fifths)
    expected = torch.tensor([1.291, 1.118, 1.0, 1.118, 1.291]).half()
    torch.testing.assert_close(output.flatten(), expected, rtol=2e-3, atol=0)


@pytest.mark.parametrize("beta", [0.5, 0.75, 1.0, 0.6])
@dtypes
def test_zero_infinity_and_nan_are_torchs(beta, dtype, cpu_capability):
    rows = torch.tensor(
        [[0.0, 0, 0, 1, 2], [1e-10, 0, 3, 0, 0], [float("inf"), 1, 1, 1, 1], [1, float("nan"), 1, 1, 1]]
    )
    input = rows.to(dtype).view(4, 5, 1, 1).repeat(1, 1, 4, 9)
    for alpha, k in ((1.0, 0.0), (0.0, 0.0), (1.0, 1.0), (1.0, -1e9)):
        ours = functional.local_response_norm(input, 3, alpha, beta, k)
        theirs = F.local_response_norm(input.double(), 3, alpha, beta, k)
        assert torch.equal(ours.isnan(), theirs.isnan())
        small = theirs.abs() < torch.finfo(torch.float16).max
        assert torch.equal(ours.isinf()[small], theirs.isinf()[small])


def test_one_infinite_cell_does_not_reach_beyond_its_window():
    input = torch.ones(1, 40, 1, 3)
    input[0, 10] = float("inf")
    output = functional.local_response_norm(input, 5)
    assert output[0, 13:].isfinite().all()
    assert (output[0, 13:] > 0).all()


@shapes
def test_results_are_the_same_bits_at_any_number_of_threads(shape):
    input, results = torch.randn(shape), []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        results.append(functional.local_response_norm(input, 5))
    assert all(torch.equal(results[0], result) for result in results)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_every_sample_of_torchs_database(dtype):
    op = next(op for op in op_db if op.name == "nn.functional.local_response_norm")
    found = list(op.sample_inputs("cpu", dtype))
    assert found
    for sample in found:
        ours = functional.local_response_norm(sample.input, *sample.args, **sample.kwargs)
        exact = F.local_response_norm(sample.input.double(), *sample.args, **sample.kwargs)
        assert_close(ours, exact, BOUNDS[dtype])


# ---------------------------------------------------------------------------------- gradients

SMALL = [
    (size, scaling, region, beta)
    for size, scaling, region in [
        (3, "sum", "channels"),
        (4, "mean", "channels"),
        (3, "mean", "spatial"),
    ]
    for beta in (0.75, 0.6)
]
small = pytest.mark.parametrize(("size", "scaling", "region", "beta"), SMALL)


def small_input(requires_grad=True):
    return torch.randn(2, 5, 2, 3, dtype=torch.double, requires_grad=requires_grad)


@small
def test_gradcheck_and_gradgradcheck(size, scaling, region, beta):
    arguments = (size, 0.7, beta, 1.5, scaling, region, 1)

    def function(input):
        return LocalResponseNormFunction.apply(input, *arguments)

    assert gradcheck(function, (small_input(),), check_batched_grad=True)
    assert gradgradcheck(function, (small_input(),))


@small
def test_gradcheck_in_forward_mode(size, scaling, region, beta):
    def function(input):
        return lrn.local_response_norm(input, size, 0.7, beta, 1.5, scaling, region, 1)

    assert gradcheck(function, (small_input(),), check_forward_ad=True, check_batched_forward_grad=True)
    assert gradgradcheck(function, (small_input(),), check_fwd_over_rev=True)


def test_third_derivatives():
    x = torch.randn(1, 3, 1, 1, dtype=torch.double, requires_grad=True)

    def second(x):
        y = functional.local_response_norm(x, 3, 0.7).square().sum()
        (first,) = torch.autograd.grad(y, x, create_graph=True)
        return torch.autograd.grad(first.sum(), x, create_graph=True)[0]

    assert gradcheck(second, (x,))


@small
def test_opcheck(size, scaling, region, beta):
    arguments = (size, 0.7, beta, 1.5, scaling, region, 1)
    input, grad = small_input(), small_input()
    for results in (
        torch.library.opcheck(ops.local_response_norm.default, (input, *arguments)),
        torch.library.opcheck(ops.local_response_norm_backward.default, (grad, input, *arguments)),
    ):
        assert set(results.values()) == {"SUCCESS"}


def test_the_input_alone_is_kept():
    kept = []
    input = small_input()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        functional.local_response_norm(input, 3)
    assert [t.data_ptr() for t in kept] == [input.data_ptr()]


# ------------------------------------------------------------------------- torch.func, compile


def losses():
    return (
        lambda x: functional.local_response_norm(x, 3, 0.7).square().sum(),
        lambda x: F.local_response_norm(x, 3, 0.7).square().sum(),
    )


def test_func_grad_jacobian_and_hessian():
    ours, theirs = losses()
    x = small_input(False)
    for transform in (torch.func.grad, torch.func.jacfwd, torch.func.jacrev, torch.func.hessian):
        torch.testing.assert_close(transform(ours)(x), transform(theirs)(x))


@pytest.mark.parametrize("dim", [0, 2])
@pytest.mark.parametrize("channel_dim", [0, 1, -1])
def test_vmap_is_one_call_forward_and_backward(dim, channel_dim):
    images = torch.randn(4, 2, 5, 3, dtype=torch.double).movedim(0, dim)

    def loss(x):
        return functional.local_response_norm(x, 3, 0.7, channel_dim=channel_dim).square().sum()

    with Counter() as counter:
        result = torch.vmap(torch.func.grad(loss), dim)(images)
    assert counter.calls == ["local_response_norm", "local_response_norm_backward"]
    expected = torch.stack([torch.func.grad(loss)(image) for image in images.movedim(dim, 0)])
    torch.testing.assert_close(result, expected)


@pytest.mark.parametrize("dynamic", [False, True])
def test_compile_without_graph_breaks(dynamic):
    ours, theirs = losses()
    torch._dynamo.reset()
    compiled = torch.compile(ours, fullgraph=True, dynamic=dynamic)
    x = small_input()
    torch.testing.assert_close(compiled(x), theirs(x))
    torch.testing.assert_close(
        torch.autograd.grad(compiled(x), x)[0], torch.autograd.grad(theirs(x), x)[0]
    )


def test_a_dispatcher_operation_refuses_a_tangent_rather_than_drop_it():
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(small_input(False), small_input(False))
        with pytest.raises(NotImplementedError, match="forward-mode"):
            ops.local_response_norm(dual, 3, 1.0, 0.75, 1.0, "mean", "channels", 1)


def test_an_exported_module_trains():
    layer = nn.Sequential(nn.Linear(4, 4), cnn_ext.nn.LocalResponseNorm(3, 0.7))
    input = torch.randn(2, 5, 4)
    rebuilt = torch.export.export(layer, (input,)).module()
    rebuilt(input).square().sum().backward()
    layer(input).square().sum().backward()
    for a, b in zip(rebuilt.parameters(), layer.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_autocast_computes_in_float32():
    input = torch.randn(1, 3, 2, 2).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = functional.local_response_norm(input, 3)
    assert output.dtype == torch.float32
    torch.testing.assert_close(output, F.local_response_norm(input.float(), 3))


# ------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input": torch.zeros(3)}, "input: expected at least 2 dimensions"),
        ({"input": torch.zeros(1, 2, 3).long()}, "input: expected a floating-point dtype, got Long"),
        ({"size": 0}, "size: expected an integer of at least 1, got 0"),
        ({"size": 2, "region": "spatial"}, 'size: expected an odd integer for region "spatial", got 2'),
        ({"alpha_scaling": "max"}, 'alpha_scaling: expected "mean" or "sum", got "max"'),
        ({"region": "time"}, 'region: expected "channels" or "spatial", got "time"'),
        ({"channel_dim": 3}, "channel_dim: expected an axis of shape .* got 3"),
        ({"input": torch.zeros(2, 3), "region": "spatial"}, "input: expected 1 to 3 spatial axes"),
    ],
    ids=["rank", "dtype", "size", "even", "scaling", "region", "axis", "no space"],
)
def test_a_bad_argument_is_named(change, message):
    good = {"input": torch.zeros(1, 2, 3), "size": 3}
    with pytest.raises(RuntimeError, match=f"local_response_norm: {message}"):
        functional.local_response_norm(**{**good, **change})


def test_a_gradient_of_the_wrong_shape_is_named():
    arguments = (3, 1.0, 0.75, 1.0, "mean", "channels", 1)
    with pytest.raises(RuntimeError, match=r"grad_output: expected shape \[1, 2, 3\]"):
        ops.local_response_norm_backward(torch.zeros(1, 2, 4), torch.zeros(1, 2, 3), *arguments)


# --------------------------------------------------------------------------------------- module


def test_the_module_is_a_drop_in():
    ours, theirs = (
        cnn_ext.nn.LocalResponseNorm(5, 0.1, 0.6, 2.0),
        nn.LocalResponseNorm(5, 0.1, 0.6, 2.0),
    )
    input = torch.randn(2, 7, 3, 3)
    assert isinstance(ours, nn.LocalResponseNorm)
    assert repr(ours) == repr(theirs)
    torch.testing.assert_close(ours(input), theirs(input))
    assert type(cnn_ext.convert(theirs)) is cnn_ext.nn.LocalResponseNorm
    assert type(cnn_ext.revert(ours)) is nn.LocalResponseNorm


def test_alexnets_layer_is_the_papers_and_reverts_to_alpha_times_n():
    layer, input = (
        cnn_ext.nn.LocalResponseNorm.alexnet(),
        50 * torch.rand(1, 9, 2, 2, dtype=torch.double),
    )
    exact = reference.local_response_norm(input, 5, 1e-4, 0.75, 2.0)
    assert_close(layer(input), exact, 1e-15)
    theirs = cnn_ext.revert(layer)
    assert theirs.alpha == pytest.approx(5e-4)
    assert_close(theirs(input), exact, 1e-15)


@pytest.mark.parametrize("keywords", [{"region": "spatial"}, {"channel_dim": 0}])
def test_what_torch_lacks_stays_ours_with_the_reason(keywords):
    with pytest.warns(UserWarning, match="torch has no region="):
        assert type(cnn_ext.revert(cnn_ext.nn.LocalResponseNorm(3, **keywords))) is (
            cnn_ext.nn.LocalResponseNorm
        )


def test_bad_words_are_refused_when_the_layer_is_made():
    with pytest.raises(ValueError, match="alpha_scaling: expected one of"):
        cnn_ext.nn.LocalResponseNorm(3, alpha_scaling="max")
