"""The two operations of dense layers: values, gradients of every kind, and every kind of misuse."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import forward_ad, gradcheck, gradgradcheck
from torch.utils.flop_counter import FlopCounterMode

import cnn_ext
from cnn_ext.ops import LinearFunction
from cnn_ext.ops.linear import linear, weight_gradient
from tests.every_operation import Counter

ops = torch.ops.cnn_ext

# Relative rms error, as of convolution: rounding of a sum of a few thousand terms; one rounding of
# the result in half precision.
BOUNDS = {
    torch.float32: 1e-6,
    torch.float64: 1e-14,
    torch.complex64: 1e-6,
    torch.complex128: 1e-14,
    torch.bfloat16: 2**-8,
    torch.float16: 2**-11,
}

# Sizes of the rows, in_features, out_features, and where the tensors lie.
SAMPLES = {
    "one number": ((1,), 1, 1, ""),
    "a row": ((), 7, 5, ""),
    "rows": ((3,), 7, 5, ""),
    "rows of rows": ((2, 3), 33, 17, ""),
    "many rows": ((5, 3, 21), 129, 70, ""),
    "a dense layer": ((9,), 515, 300, ""),  # of 2¹⁷ weights and more: nothing is packed
    "a dense row": ((), 700, 257, ""),
    "transposed rows": ((4, 3), 515, 300, "transposed rows"),
    "transposed input": ((9,), 515, 300, "transposed input"),
    "transposed weight": ((9,), 515, 300, "transposed weight"),
    "sliced": ((9,), 515, 300, "sliced"),
    "expanded": ((2, 4), 40, 30, "expanded"),
    "small sliced": ((2, 4), 40, 31, "sliced"),
}
EMPTY = {
    "no rows": ((0,), 5, 3, ""),
    "no rows of rows": ((2, 0), 5, 3, ""),
    "no inputs": ((4,), 0, 3, ""),
    "no outputs": ((4,), 5, 0, ""),
    "nothing": ((0,), 0, 0, ""),
}
SMALL = {"a row": ((), 4, 3, ""), "rows": ((3,), 4, 2, ""), "rows of rows": ((2, 2), 3, 4, "")}

by_name = pytest.mark.parametrize("sample", SAMPLES.values(), ids=list(SAMPLES))
small = pytest.mark.parametrize("sample", SMALL.values(), ids=list(SMALL))
every = pytest.mark.parametrize("sample", [*SAMPLES.values(), *EMPTY.values()], ids=[*SAMPLES, *EMPTY])
dtypes = pytest.mark.parametrize("dtype", list(BOUNDS), ids=str)


def sliced(tensor):
    """A window of a larger tensor, every second number of each row."""
    larger = tensor.new_zeros(*(n + 2 for n in tensor.shape[:-1]), 2 * tensor.shape[-1] + 3)
    view = larger[(slice(1, -1),) * (tensor.dim() - 1) + (slice(2, -1, 2),)]
    return view.copy_(tensor)


def tensors_of(sample, dtype=torch.double, requires_grad=False):
    """Input, weight, bias and a gradient of the output."""
    rows, C, K, where = sample
    input, weight, bias, grad = (
        torch.randn(size, dtype=dtype) for size in ((*rows, C), (K, C), (K,), (*rows, K))
    )
    if where == "transposed rows":
        input, grad = (t.transpose(0, 1).contiguous().transpose(0, 1) for t in (input, grad))
    elif where == "transposed input":
        input, grad = (t.t().contiguous().t() for t in (input, grad))
    elif where == "transposed weight":
        weight = weight.t().contiguous().t()
    elif where == "sliced":
        input, weight, bias, grad = map(sliced, (input, weight, bias, grad))
    elif where == "expanded":
        input, grad = (t[:1].expand_as(t) for t in (input, grad))
        weight, bias = weight[:1].expand_as(weight), bias[:1].expand_as(bias)
    if requires_grad:
        for tensor in (input, weight, bias):
            tensor.requires_grad_()
    return input, weight, bias, grad


def high_precision(tensor):
    return tensor.detach().to(torch.complex128 if tensor.is_complex() else torch.float64)


def assert_close(value, exact, bound):
    assert value.shape == exact.shape
    assert value.is_contiguous()
    error = (high_precision(value) - exact).norm()
    assert error <= bound * exact.norm(), f"{error / exact.norm():.2e} > {bound}"


def assert_it_is_torchs(sample, dtype):
    """Output and both gradients, by the operations and by torch in float64."""
    input, weight, bias, grad = tensors_of(sample, dtype)
    x, w, b, g = map(high_precision, (input, weight, bias, grad))
    assert_close(ops.linear(input, weight, bias), F.linear(x, w, b), BOUNDS[dtype])
    assert_close(ops.linear(input, weight, None), F.linear(x, w), BOUNDS[dtype])
    assert_close(ops.linear(grad, weight.t().conj(), None), g @ w.conj(), BOUNDS[dtype])
    exact = g.reshape(-1, w.shape[0]).t() @ x.conj().reshape(-1, w.shape[1])
    assert_close(ops.linear_weight_gradient(grad, input.conj()), exact, BOUNDS[dtype])


# ------------------------------------------------------------------------------------- values


@by_name
@dtypes
def test_output_and_both_gradients_are_torchs(sample, dtype):
    assert_it_is_torchs(sample, dtype)


@by_name
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_every_instruction_set_gives_the_same(sample, dtype, cpu_capability):
    assert_it_is_torchs(sample, dtype)


@by_name
@pytest.mark.parametrize("cpu_capability", ["avx2", "avx512", "avx512_bf16"], indirect=True)
def test_bfloat16_with_and_without_instructions_of_its_own(sample, cpu_capability):
    assert_it_is_torchs(sample, torch.bfloat16)


@given(
    rows=st.lists(st.integers(1, 7), max_size=3),
    sizes=st.tuples(st.integers(1, 200), st.integers(1, 200)),
    where=st.sampled_from(["", "sliced", "expanded", "transposed weight"]),
    dtype=st.sampled_from([torch.float64, torch.complex128]),
)
def test_over_any_size_it_is_torchs(rows, sizes, where, dtype):
    input, weight, bias, grad = tensors_of((tuple(rows), *sizes, where), dtype)
    torch.testing.assert_close(ops.linear(input, weight, bias), F.linear(input, weight, bias))
    by_rows = (t.reshape(-1, t.shape[-1]) for t in (grad, input))
    expected = next(by_rows).t() @ next(by_rows)
    torch.testing.assert_close(ops.linear_weight_gradient(grad, input), expected)


@pytest.mark.parametrize("sample", EMPTY.values(), ids=list(EMPTY))
@dtypes
def test_empty_tensors_are_torchs(sample, dtype):
    input, weight, bias, grad = tensors_of(sample, dtype)
    assert torch.equal(ops.linear(input, weight, bias), F.linear(input, weight, bias))
    assert torch.equal(ops.linear(input, weight, None), F.linear(input, weight))
    gradient = ops.linear_weight_gradient(grad, input)
    assert torch.equal(gradient, torch.zeros_like(weight))


@by_name
def test_results_are_the_same_bits_from_run_to_run(sample):
    input, weight, bias, grad = tensors_of(sample, torch.float32)
    for _ in range(3):
        assert torch.equal(ops.linear(input, weight, bias), ops.linear(input, weight, bias))
        gradients = [ops.linear_weight_gradient(grad, input) for _ in range(2)]
        assert torch.equal(*gradients)


@pytest.mark.parametrize("threads", [1, 2, 3, 5])
def test_any_number_of_threads(threads):
    torch.set_num_threads(threads)
    for name in ("many rows", "a dense layer", "transposed weight"):
        assert_it_is_torchs(SAMPLES[name], torch.float64)


def test_no_element_is_left_unwritten():
    torch.use_deterministic_algorithms(True)  # fills what at::empty returns with NaN
    try:
        for sample in (*SAMPLES.values(), *EMPTY.values()):
            input, weight, bias, grad = tensors_of(sample)
            results = (ops.linear(input, weight, bias), ops.linear_weight_gradient(grad, input))
            assert all(result.isfinite().all() for result in results), sample
    finally:
        torch.use_deterministic_algorithms(False)


def test_a_record_carries_the_name_of_the_operation():
    input, weight, bias, grad = tensors_of(SAMPLES["a dense layer"], torch.float32, True)
    with cnn_ext.trace() as records:
        ops.linear(input, weight, bias).backward(grad)
    told = [(record.op, record.pass_, record.route, record.sizes) for record in records]
    assert told == [
        ("linear", "forward", "dense", "9x515 w300x515"),
        ("linear", "forward", "dense", "9x300 w515x300"),  # the gradient of the input
        ("linear", "weight_gradient", "dense", "9x515 w300x515"),
    ]


# ---------------------------------------------------------------------------------- gradients


@small
@pytest.mark.parametrize("apply", [linear, LinearFunction.apply], ids=["op", "Function"])
def test_gradcheck(sample, apply):
    *tensors, grad = tensors_of(sample, requires_grad=True)
    assert gradcheck(apply, tensors, check_batched_grad=True)
    assert gradcheck(lambda x, w: apply(x, w, None), tensors[:2])
    both = (grad.requires_grad_(), tensors[0])
    assert gradcheck(weight_gradient, both, check_batched_grad=True)


@small
def test_gradcheck_of_complex_tensors(sample):
    *tensors, grad = tensors_of(sample, torch.complex128, requires_grad=True)
    assert gradcheck(linear, tensors)
    assert gradgradcheck(linear, tensors)
    assert gradcheck(weight_gradient, (grad.requires_grad_(), tensors[0]))


@small
def test_gradcheck_in_forward_mode(sample):
    *tensors, grad = tensors_of(sample, requires_grad=True)
    modes = {"check_forward_ad": True, "check_batched_forward_grad": True}
    assert gradcheck(linear, tensors, **modes)
    assert gradcheck(weight_gradient, (grad.requires_grad_(), tensors[0]), **modes)


@small
@pytest.mark.parametrize("apply", [linear, LinearFunction.apply], ids=["op", "Function"])
def test_gradgradcheck(sample, apply):
    *tensors, grad = tensors_of(sample, requires_grad=True)
    assert gradgradcheck(apply, tensors, check_fwd_over_rev=apply is linear)
    assert gradgradcheck(weight_gradient, (grad.requires_grad_(), tensors[0]), check_fwd_over_rev=True)


CALLS = {
    "linear": (
        lambda m, x, w, b: m.linear(x, w, b),
        (torch.randn(3, 4).double(), torch.randn(5, 4).double(), torch.randn(5).double()),
    )
}


def dispatched():
    """Each operation with arguments, for tests/ops/test_opcheck.py."""
    *tensors, grad = tensors_of(SAMPLES["rows of rows"], requires_grad=True)
    yield ops.linear, tuple(tensors)
    yield ops.linear_weight_gradient, (grad, tensors[0])


@pytest.mark.parametrize("name", [*SMALL, *EMPTY, "small sliced", "transposed weight"])
def test_opcheck_of_strange_sizes(name):
    *tensors, grad = tensors_of({**SAMPLES, **EMPTY, **SMALL}[name], requires_grad=True)
    for operation, inputs in (
        (ops.linear, tensors),
        (ops.linear, [*tensors[:2], None]),
        (ops.linear_weight_gradient, (grad, tensors[0])),
    ):
        results = torch.library.opcheck(operation.default, tuple(inputs))
        assert set(results.values()) == {"SUCCESS"}


@pytest.mark.parametrize("frozen", ["input", "weight"])
@pytest.mark.parametrize("apply", [linear, LinearFunction.apply], ids=["op", "Function"])
def test_only_gradients_asked_for_are_computed_and_only_their_tensors_kept(frozen, apply):
    input, weight, bias, _ = tensors_of(SMALL["rows"], requires_grad=True)
    fixed, other = (input, weight) if frozen == "input" else (weight, input)
    fixed.requires_grad_(False)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        output = apply(input, weight, bias)
    assert [t.data_ptr() for t in kept] == [fixed.data_ptr()]
    with Counter() as counter:
        output.sum().backward()
    assert counter.calls == [{"input": "linear_weight_gradient", "weight": "linear"}[frozen]]
    assert other.grad is not None
    assert fixed.grad is None


# ------------------------------------------------------------------------- torch.func, compile


def loss_of(function):
    def loss(*tensors):
        return function(*tensors).square().sum()

    return loss


@small
def test_func_grad_jacobians_and_hessian(sample):
    tensors = tensors_of(sample)[:3]
    ours, torchs, all_three = loss_of(linear), loss_of(F.linear), (0, 1, 2)
    for transform in (torch.func.grad, torch.func.jacrev, torch.func.jacfwd, torch.func.hessian):
        torch.testing.assert_close(
            transform(ours, all_three)(*tensors), transform(torchs, all_three)(*tensors)
        )


MAPPED = [(0, None, None), (None, 0, None), (None, None, 0), (0, 0, 0), (0, 1, None), (0, None, 0)]


@small
@pytest.mark.parametrize("mapped", MAPPED, ids=str)
def test_vmap_is_one_call(sample, mapped):
    tensors = [
        t if dim is None else torch.stack([t, 2 * t, t - 1], dim)
        for t, dim in zip(tensors_of(sample), mapped, strict=False)
    ]
    with Counter() as counter:
        result = torch.vmap(linear, mapped)(*tensors)
    groups = mapped[0] is not None and mapped != (0, None, None)
    assert counter.calls == ["convolution" if groups else "linear"]
    torch.testing.assert_close(result, torch.vmap(F.linear, mapped)(*tensors))


def plain_weight_gradient(grad_output, input):
    return grad_output.reshape(-1, grad_output.shape[-1]).t() @ input.reshape(-1, input.shape[-1])


@small
@pytest.mark.parametrize("mapped", [(0, None), (None, 0), (0, 0), (-1, 0)], ids=str)
def test_vmap_of_the_weight_gradient_is_one_call(sample, mapped):
    input, *_, grad = tensors_of(sample)
    tensors = [
        t if dim is None else torch.stack([t, 2 * t, t - 1], dim)
        for t, dim in zip((grad, input), mapped, strict=True)
    ]
    with Counter() as counter:
        result = torch.vmap(weight_gradient, mapped)(*tensors)
    groups = None not in mapped
    assert counter.calls == ["convolution_weight_gradient" if groups else "linear_weight_gradient"]
    torch.testing.assert_close(result, torch.vmap(plain_weight_gradient, mapped)(*tensors))


def test_gradients_per_sample_take_one_call_each():
    input, weight, bias, _ = tensors_of(SMALL["rows"])
    samples = torch.stack([input, -input, 2 * input])
    mapped, all_three = (0, None, None), (0, 1, 2)
    with Counter() as counter:
        gradients = torch.vmap(torch.func.grad(loss_of(linear), all_three), mapped)(
            samples, weight, bias
        )
    assert sorted(counter.calls) == ["convolution_weight_gradient", "linear", "linear"]
    expected = torch.vmap(torch.func.grad(loss_of(F.linear), all_three), mapped)(samples, weight, bias)
    torch.testing.assert_close(gradients, expected)


@small
@pytest.mark.parametrize("dynamic", [False, True])
def test_compile_without_graph_breaks(sample, dynamic):
    tensors = tensors_of(sample, requires_grad=True)[:3]
    torch._dynamo.reset()
    compiled = torch.compile(loss_of(linear), fullgraph=True, dynamic=dynamic)
    expected = loss_of(F.linear)(*tensors)
    torch.testing.assert_close(compiled(*tensors), expected)
    for a, b in zip(
        torch.autograd.grad(compiled(*tensors), tensors),
        torch.autograd.grad(expected, tensors),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


class Dense(torch.nn.Module):
    """A layer that is ours at every size."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(outputs, inputs))
        self.bias = torch.nn.Parameter(torch.randn(outputs))

    def forward(self, input):
        return linear(input, self.weight, self.bias)


def test_an_exported_program_trains_on_batches_of_any_size():
    layer, input = Dense(5, 4), torch.randn(3, 5)
    sizes = ({0: torch.export.Dim("rows")},)
    program = torch.export.export(layer, (input,), dynamic_shapes=sizes)
    assert "cnn_ext.linear" in program.graph_module.code
    module = program.module()
    for rows in (2, 7):
        input = torch.randn(rows, 5)
        losses = [m(input).square().sum() for m in (module, layer)]
        torch.testing.assert_close(*losses)
        gradients = [
            torch.autograd.grad(loss, list(m.parameters()))
            for loss, m in zip(losses, (module, layer), strict=True)
        ]
        torch.testing.assert_close(*gradients)


def test_checkpointing_gives_the_same_gradients():
    tensors = tensors_of(SMALL["rows"], requires_grad=True)[:3]
    expected = torch.autograd.grad(loss_of(linear)(*tensors), tensors)
    again = torch.utils.checkpoint.checkpoint(loss_of(linear), *tensors, use_reentrant=False)
    for a, b in zip(torch.autograd.grad(again, tensors), expected, strict=True):
        assert torch.equal(a, b)


def test_a_dispatcher_operation_refuses_a_tangent_rather_than_drop_it():
    input, weight, _, grad = tensors_of(SMALL["rows"])
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(input, torch.ones_like(input))
        for call in (
            lambda: ops.linear(dual, weight, None),
            lambda: ops.linear_weight_gradient(grad, dual),
        ):
            with pytest.raises(NotImplementedError, match="forward-mode"):
                call()


def test_a_dispatcher_operation_refuses_torch_func_rather_than_be_wrong():
    input, weight, bias, _ = tensors_of(SMALL["rows"])
    with pytest.raises(RuntimeError, match="functorch"):
        torch.func.grad(loss_of(ops.linear))(input, weight, bias)


@every
def test_meta_tensors_have_the_real_shape_and_strides(sample):
    input, weight, bias, grad = tensors_of(sample)
    meta = [t.to("meta") for t in (input, weight, bias, grad)]
    for real, fake in (
        (ops.linear(input, weight, bias), ops.linear(*meta[:3])),
        (ops.linear_weight_gradient(grad, input), ops.linear_weight_gradient(meta[3], meta[0])),
    ):
        assert (fake.shape, fake.stride(), fake.dtype) == (real.shape, real.stride(), real.dtype)


def test_operations_are_counted_as_torchs_are():
    input, weight, bias, _ = tensors_of(((2, 3), 7, 5, ""), requires_grad=True)
    counts = []
    for function in (linear, F.linear):
        with FlopCounterMode(display=False) as counter:
            function(input, weight, bias).sum().backward()
        counts.append(counter.get_total_flops())
    assert counts == [3 * 2 * math.prod((2, 3, 7, 5))] * 2


# ------------------------------------------------------------------------------------ bad input

GOOD = {"input": torch.zeros(2, 4), "weight": torch.zeros(6, 4), "bias": torch.zeros(6)}
BAD = [
    ("rank of input", {"input": torch.zeros(())}, r"input: expected at least 1 dimension.*\[\]"),
    ("rank of weight", {"weight": torch.zeros(4)}, r"weight: expected 2 dimensions.*\[4\]"),
    ("features", {"input": torch.zeros(2, 5)}, r"input: expected 4 features.*\[6, 4\].*5.*\[2, 5\]"),
    ("bias shape", {"bias": torch.zeros(5)}, r"bias: expected shape \[6\].*got \[5\]"),
    ("bias rank", {"bias": torch.zeros(1, 6)}, r"bias: expected shape \[6\].*got \[1, 6\]"),
    ("bias dtype", {"bias": torch.zeros(6).double()}, r"bias: expected Float.*got Double"),
    ("weight dtype", {"weight": GOOD["weight"].double()}, r"weight: expected Float.*got Double"),
    ("integers", {"input": GOOD["input"].long()}, r"input: expected a floating-point or comp.*Long"),
    ("device", {"weight": GOOD["weight"].to("meta")}, r"weight: expected a tensor on cpu.*meta"),
    (
        "eight bits",
        {name: tensor.to(torch.float8_e4m3fn) for name, tensor in GOOD.items()},
        r"input: expected float16, bfloat16, float32, float64 or a complex dtype.*Float8",
    ),
]


@pytest.mark.parametrize(("change", "message"), [case[1:] for case in BAD], ids=[c[0] for c in BAD])
def test_a_bad_argument_is_named(change, message):
    with pytest.raises(RuntimeError, match=f"linear: {message}"):
        ops.linear(*{**GOOD, **change}.values())


@pytest.mark.parametrize(
    ("grad_output", "input", "message"),
    [
        (torch.zeros(()), GOOD["input"], r"grad_output: expected at least 1 dimension.*\[\]"),
        (torch.zeros(2, 6), torch.zeros(()), r"input: expected at least 1 dimension.*\[\]"),
        (torch.zeros(3, 6), GOOD["input"], r"grad_output: expected as many rows.*\[2, 4\].*\[3, 6\]"),
        (torch.zeros(6), GOOD["input"], r"grad_output: expected as many rows.*\[2, 4\].*\[6\]"),
        (torch.zeros(2, 6).double(), GOOD["input"], r"input: expected Double.*got Float"),
    ],
    ids=["rank of grad_output", "rank of input", "rows", "axes", "dtype"],
)
def test_a_bad_argument_of_the_weight_gradient_is_named(grad_output, input, message):
    with pytest.raises(RuntimeError, match=f"linear_weight_gradient: {message}"):
        ops.linear_weight_gradient(grad_output, input)


def test_an_unsupported_device_is_named():
    tensor = torch.zeros(3, 3).to_sparse()
    with pytest.raises(NotImplementedError, match="SparseCPU"):
        ops.linear(tensor, tensor, None)


def test_on_a_device_it_is_a_convolution_of_one_tap():
    """What the CUDA kernels are composed of, run on the CPU."""
    input, weight, bias, grad = tensors_of(SAMPLES["rows of rows"])
    key = torch._C.DispatchKeySet(torch._C.DispatchKey.CUDA)
    output = ops.linear.default.redispatch(key, input, weight, bias)
    torch.testing.assert_close(output, F.linear(input, weight, bias))
    gradient = ops.linear_weight_gradient.default.redispatch(key, grad, input)
    torch.testing.assert_close(gradient, plain_weight_gradient(grad, input))
