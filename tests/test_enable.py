"""enable(): torch's own convolutions on our kernels, with torch's results, strides and errors."""

import itertools
import os
import threading

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import forward_ad, gradcheck, gradgradcheck
from torch.testing._internal.common_methods_invocations import op_db

import cnn_ext
from cnn_ext._inspection import tensors_in
from cnn_ext.enabling import call_counts, is_enabled, torch_only

FORMATS = {2: torch.channels_last, 3: torch.channels_last_3d}
# Rounding of one result, and of the sum behind it.
TOLERANCE = {torch.float64: 1e-13, torch.float32: 3e-6, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}
GEOMETRIES = [  # filter, stride, padding, dilation, groups, output_padding
    (3, 1, 1, 1, 1, 0),
    (3, 2, 1, 1, 1, 1),
    (1, 1, 0, 1, 1, 0),
    (3, 1, 2, 2, 2, 0),
    (2, 2, 0, 1, 1, 1),
    (3, 1, 1, 1, 4, 0),
    (4, 3, 0, 1, 2, 2),
    (3, 1, 2, 3, 1, 2),  # output_padding beyond the stride
]


@pytest.fixture(autouse=True)
def off_again():
    """No test leaves torch on our kernels."""
    yield
    assert not is_enabled()


@pytest.fixture
def door():
    """A block in which torch's operators run on our kernels."""
    with cnn_ext.enabled():
        yield


def calls_of(function, *arguments, **keywords):
    """The result, and the passes that our kernels ran."""
    with cnn_ext.trace() as records:
        result = function(*arguments, **keywords)
    return result, [r.pass_ for r in records if not r.route.startswith("torch")]


def that_count(tensor):
    """Strides, but those of an axis of one cell, which nothing reads."""
    return [s for s, length in zip(tensor.stride(), tensor.shape, strict=True) if length > 1]


def operands(axes, dtype, layout, geometry, images=2):
    k, *_, groups, _ = geometry
    x = torch.randn(images, 4, *(7, 8, 9)[:axes]).to(dtype)
    w = torch.randn(4, 4 // groups, *[k] * axes).to(dtype)
    for i, tensor in enumerate((x, w)):
        if layout[i] and axes > 1:
            tensor.data = tensor.contiguous(memory_format=FORMATS[axes])
        elif layout[i]:
            tensor.data = tensor.transpose(1, 2).contiguous().transpose(1, 2)
    return x.requires_grad_(), w.requires_grad_(), torch.randn(4).to(dtype).requires_grad_()


def convolve(axes, transposed, tensors, geometry):
    _, stride, padding, dilation, groups, output_padding = geometry
    keywords = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    if transposed:
        return getattr(F, f"conv_transpose{axes}d")(*tensors, output_padding=output_padding, **keywords)
    return getattr(F, f"conv{axes}d")(*tensors, **keywords)


def results(axes, transposed, tensors, geometry, incoming):
    y = convolve(axes, transposed, tensors, geometry)
    ramp = torch.linspace(-1, 1, y.numel(), dtype=torch.double).view(y.shape).to(y.dtype)
    grad = ramp if incoming == "contiguous" else ramp[:1, :1].expand_as(y)
    return y, *torch.autograd.grad(y, tensors, grad)


@pytest.mark.parametrize("incoming", ["contiguous", "expanded"])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("transposed", [False, True], ids=["conv", "conv_transpose"])
@pytest.mark.parametrize("axes", [1, 2, 3])
def test_values_and_strides_are_torchs(axes, transposed, dtype, incoming):
    torch.set_num_threads(1)
    for geometry, layout, images in itertools.product(
        GEOMETRIES, itertools.product([False, True], repeat=2), (1, 2)
    ):
        tensors = operands(axes, dtype, layout, geometry, images)
        theirs = results(axes, transposed, tensors, geometry, incoming)
        double = [t.detach().double().requires_grad_() for t in tensors]
        exact = results(axes, transposed, double, geometry, incoming)
        with cnn_ext.enabled():
            ours, passes = calls_of(results, axes, transposed, tensors, geometry, incoming)
        assert len(passes) == 3
        for mine, its, right in zip(ours, theirs, exact, strict=True):
            assert mine.dtype == its.dtype
            assert that_count(mine) == that_count(its)
            bound = TOLERANCE[dtype] * right.abs().max()
            assert (mine - right).abs().max() <= max(bound, 2 * (its - right).abs().max())


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128], ids=str)
def test_of_a_complex_convolution_torch_makes_real_ones(door, dtype):
    x, w = torch.randn(1, 4, 9, 9, dtype=dtype), torch.randn(6, 4, 3, 3, dtype=dtype)
    y, passes = calls_of(F.conv2d, x, w)
    assert passes == ["forward"] * 3
    with torch_only():
        torch.testing.assert_close(y, F.conv2d(x, w))


@pytest.mark.parametrize("transposed", [False, True])
def test_only_the_gradients_of_the_output_mask_are_computed(door, transposed):
    x, w, _ = operands(2, torch.float32, (False, False), GEOMETRIES[0])
    names = ["forward", "weight_gradient"] if transposed else ["input_gradient", "weight_gradient"]
    for mask in itertools.product([False, True], repeat=3):
        found, passes = calls_of(
            torch.ops.aten.convolution_backward,
            torch.ones_like(x), x, w, [4], [1], [1], [1], transposed, [0], 1, mask,
        )  # fmt: skip
        assert passes == [name for name, wanted in zip(names, mask, strict=False) if wanted]
        assert [tensor is not None for tensor in found] == list(mask)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("axes", [1, 2])
def test_gradients_of_first_and_second_order(door, axes, transposed):
    x = torch.randn(2, 2, *(4, 3)[:axes], dtype=torch.double, requires_grad=True)
    w = torch.randn(2, 2, *[2] * axes, dtype=torch.double, requires_grad=True)
    b = torch.randn(2, dtype=torch.double, requires_grad=True)
    geometry = (2, 2, 1, 1, 1, 1 if transposed else 0)

    def function(*tensors):
        return convolve(axes, transposed, tensors, geometry)

    _, passes = calls_of(gradcheck, function, (x, w, b), check_forward_ad=True, check_batched_grad=True)
    assert len(passes) > 50
    assert gradgradcheck(function, (x, w, b))


def test_vmap_is_one_call(door):
    x, w = torch.randn(5, 2, 3, 8, 8), torch.randn(5, 4, 3, 3, 3)
    y, passes = calls_of(torch.vmap(F.conv2d), x, w)
    assert passes == ["forward"]
    torch.testing.assert_close(y, torch.stack([F.conv2d(*pair) for pair in zip(x, w, strict=True)]))


def test_forward_mode(door):
    x, w, tangent = torch.randn(2, 3, 8, 8), torch.randn(4, 3, 3, 3), torch.randn(2, 3, 8, 8)
    with forward_ad.dual_level():
        dual, passes = calls_of(F.conv2d, forward_ad.make_dual(x, tangent), w)
        found = forward_ad.unpack_dual(dual).tangent
    assert set(passes) == {"forward"}
    torch.testing.assert_close(found, F.conv2d(tangent, w))


def test_autocast_takes_our_kernels_for_bfloat16(door):
    x, w = torch.randn(2, 16, 8, 8), torch.randn(16, 16, 3, 3)
    with torch.autocast("cpu", torch.bfloat16), cnn_ext.trace() as records:
        y = F.conv2d(x, w)
    assert y.dtype == torch.bfloat16
    assert [record.dtype for record in records] == ["bfloat16"]


class Network(torch.nn.Module):
    """Convolutions that `convert` does not swap: a function, standardised weights, a subclass."""

    def __init__(self):
        super().__init__()

        class Mine(torch.nn.Conv2d):
            def forward(self, input):
                return super().forward(input) + 1

        self.mine = Mine(3, 8, 3, padding=1)
        self.weight = torch.nn.Parameter(torch.randn(8, 8, 3, 3))
        self.up = torch.nn.ConvTranspose2d(8, 4, 2, stride=2)

    def forward(self, x):
        x = self.mine(x).relu()
        weight = (self.weight - self.weight.mean()) / self.weight.std()
        return self.up(F.conv2d(x, weight, padding="same"))


def trained(model, x, steps=3):
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(steps):
        loss = model(x).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_a_network_that_convert_leaves_alone_trains_on_our_kernels():
    x = torch.randn(2, 3, 12, 12)
    torch.manual_seed(1)
    theirs = trained(Network(), x)
    torch.manual_seed(1)
    with cnn_ext.enabled():
        ours, passes = calls_of(trained, Network(), x)
    assert len(passes) == 3 * (3 + 5)  # the first layer's input needs no gradient
    assert ours == pytest.approx(theirs, rel=1e-5)


def test_compiled_training_runs_our_kernels_with_and_without_enable():
    torch._dynamo.reset()
    torch.manual_seed(1)
    model, x = Network().to(memory_format=torch.channels_last), torch.randn(2, 3, 12, 12)
    compiled = torch.compile(model)
    with cnn_ext.enabled():
        y, passes = calls_of(compiled, x)
        _, backwards = calls_of(y.square().mean().backward)
    assert len(passes) == 3
    assert len(backwards) == 5
    torch.testing.assert_close(y, model(x))
    after, passes = calls_of(compiled, x)  # the same program, on torch's kernels
    assert passes == []
    torch.testing.assert_close(after, y, rtol=1e-4, atol=1e-5)


def test_graphs_stay_torchs(door):
    model, x = Network().eval(), torch.randn(1, 3, 8, 8)
    program = torch.export.export(model, (x,))
    names = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert {"aten.conv2d.default", "aten.conv_transpose2d.input"} <= names
    assert not any("cnn_ext" in name for name in names)
    for graph in (program.module(), torch.fx.symbolic_trace(model), torch.jit.trace(model, x)):
        y, passes = calls_of(graph, x)
        assert passes == ["forward", "forward", "input_gradient"]  # the last is transposed
        _, passes = calls_of(y.sum().backward)
        assert len(passes) == 5


@pytest.mark.parametrize("incoming", ["conv2d", "conv_transpose2d"])
def test_tensors_of_any_strides(incoming):
    function = getattr(F, incoming)
    base = torch.randn(2, 9, 20, 11)
    views = {
        "permuted": base.permute(0, 3, 1, 2)[:, :4],
        "sliced": base[:, 1:9:2, ::2, 1:],
        "expanded": base[:, :1].expand(2, 4, 20, 11),
        "overlapping": base.as_strided((2, 4, 8, 8), (1, 3, 2, 1)),
        "flipped offset": base[:, 5:, 3:, 4:],
    }
    weights = torch.randn(1, 4, 3, 3).expand(4, 4, 3, 3), torch.randn(3, 3, 4, 4).permute(3, 2, 1, 0)
    for (name, x), w in itertools.product(views.items(), weights):
        theirs = function(x, w)
        with cnn_ext.enabled():
            ours, passes = calls_of(function, x, w)
        assert len(passes) == 1, name
        assert that_count(ours) == that_count(theirs), name
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


WRONG = {
    "channels": lambda: F.conv2d(torch.ones(1, 3, 8, 8), torch.ones(4, 2, 3, 3)),
    "too small": lambda: F.conv2d(torch.ones(1, 2, 2, 2), torch.ones(4, 2, 3, 3)),
    "bias": lambda: F.conv2d(torch.ones(1, 2, 8, 8), torch.ones(4, 2, 3, 3), torch.ones(3)),
    "dimensions": lambda: F.conv2d(torch.ones(8, 8), torch.ones(4, 2, 3, 3)),
    "dtypes": lambda: F.conv2d(torch.ones(1, 2, 8, 8), torch.ones(4, 2, 3, 3).double()),
    "bias dtype": lambda: F.conv2d(
        torch.ones(1, 2, 8, 8), torch.ones(4, 2, 3, 3), torch.ones(4).half()
    ),
    "groups": lambda: F.conv2d(torch.ones(1, 4, 8, 8), torch.ones(3, 2, 3, 3), groups=2),
    "no groups": lambda: F.conv2d(torch.ones(1, 4, 8, 8), torch.ones(3, 2, 3, 3), groups=0),
    "stride": lambda: F.conv2d(torch.ones(1, 2, 8, 8), torch.ones(4, 2, 3, 3), stride=0),
    "strides": lambda: F.conv2d(torch.ones(1, 2, 8, 8), torch.ones(4, 2, 3, 3), stride=(1, 1, 1)),
    "padding": lambda: F.conv2d(torch.ones(1, 2, 8, 8), torch.ones(4, 2, 3, 3), padding=-1),
    "dilation": lambda: F.conv2d(torch.ones(1, 2, 8, 8), torch.ones(4, 2, 3, 3), dilation=0),
    "no filter": lambda: F.conv2d(torch.ones(1, 2, 8, 8), torch.ones(4, 2, 0, 3)),
    "output_padding": lambda: F.conv_transpose2d(
        torch.ones(1, 2, 8, 8), torch.ones(2, 4, 3, 3), output_padding=1
    ),
    "no output": lambda: F.conv_transpose2d(
        torch.ones(1, 2, 1, 1), torch.ones(2, 4, 3, 3), padding=2
    ),
    "gradient": lambda: torch.ops.aten.convolution_backward(
        torch.ones(1, 4, 5, 6), torch.ones(1, 2, 8, 8), torch.ones(4, 2, 3, 3), None,
        [1], [0], [1], False, [0], 1, (True, True, False),
    ),
    "four axes": lambda: torch.ops.aten.convolution(
        torch.ones(1, 2, 4, 4, 4, 4), torch.ones(4, 2, 3, 3, 3, 3), None,
        [1], [0], [1], False, [0], 1,
    ),
}  # fmt: skip


def outcome(function):
    """What it returns, or the error that it raises."""
    try:
        return function()
    except (RuntimeError, ValueError) as error:
        return f"{type(error).__name__}: {error}"


@pytest.mark.parametrize("name", WRONG)
def test_errors_are_torchs(name):
    theirs = outcome(WRONG[name])
    with cnn_ext.enabled():
        ours = outcome(WRONG[name])
    assert str(ours) == str(theirs)


HANDED_BACK = {
    "torch: dtype": lambda: F.conv2d(
        torch.ones(1, 2, 8, 8, dtype=torch.long), torch.ones(4, 2, 3, 3, dtype=torch.long)
    ),
    "torch: no elements": lambda: F.conv2d(torch.ones(0, 2, 8, 8), torch.ones(4, 2, 3, 3)),
    "torch: output_padding": lambda: F.conv_transpose2d(
        torch.ones(1, 2, 8, 8), torch.ones(2, 4, 3, 3), dilation=2, output_padding=1
    ),
}


@pytest.mark.parametrize("reason", HANDED_BACK)
def test_what_is_not_served_is_torchs_and_told(reason):
    theirs = HANDED_BACK[reason]()
    before = {(c.operator, c.handed_back): c for c in call_counts()}
    with cnn_ext.enabled(), cnn_ext.trace() as records:
        ours = HANDED_BACK[reason]()
    assert torch.equal(ours, theirs)
    assert ours.stride() == theirs.stride()
    (record,) = records
    assert (record.op, record.pass_, record.route) == ("convolution", "forward", reason)
    (count,) = [c for c in call_counts() if before.get((c.operator, c.handed_back)) != c]
    already = before.get((count.operator, count.handed_back))
    assert (count.operator, count.handed_back) == ("convolution", reason)
    assert count.calls - (already.calls if already else 0) == 1
    if reason == "torch: dtype":
        assert count.multiply_adds - (already.multiply_adds if already else 0) == 4 * 36 * 2 * 9


def test_quantised_and_mkldnn_tensors_are_torchs(door):
    x, w = torch.rand(1, 3, 8, 8), torch.randn(4, 3, 3, 3)
    y, passes = calls_of(F.conv2d, x.to_mkldnn(), w.to_mkldnn())
    assert passes == []
    with torch_only():
        torch.testing.assert_close(y.to_dense(), F.conv2d(x, w))


def test_a_bias_gradient_and_multiply_adds_are_counted(door):
    before = {(c.operator, c.handed_back): c.multiply_adds for c in call_counts()}
    x, w, b = operands(2, torch.float32, (False, False), GEOMETRIES[0])
    F.conv2d(x, w, b, padding=1).sum().backward()
    after = {(c.operator, c.handed_back): c.multiply_adds for c in call_counts()}
    one = 2 * 4 * 56 * 4 * 9
    assert after["convolution", ""] - before.get(("convolution", ""), 0) == one
    assert after["convolution_backward", ""] - before.get(("convolution_backward", ""), 0) == 2 * one


def test_hooks_and_anomaly_mode_see_what_they_see_without(door):
    seen = []
    layer = torch.nn.Conv2d(3, 4, 3)
    layer.register_forward_hook(lambda module, args, output: seen.append("forward"))
    layer.register_full_backward_hook(lambda module, grads, outputs: seen.append("backward"))
    with torch.autograd.detect_anomaly(check_nan=True):
        layer(torch.randn(1, 3, 8, 8, requires_grad=True)).sum().backward()
    assert seen == ["forward", "backward"]


def test_inference_mode(door):
    layer = torch.nn.Conv2d(3, 4, 3)
    with torch.inference_mode():
        _, passes = calls_of(layer, torch.randn(1, 3, 8, 8))
    assert passes == ["forward"]


# ---------------------------------------------------------------------------------------------
# On and off
# ---------------------------------------------------------------------------------------------

X, W = torch.ones(1, 1, 4, 4), torch.ones(1, 1, 3, 3)


def runs_ours():
    return calls_of(F.conv2d, X, W)[1] == ["forward"]


def test_enable_twice_and_disable_once():
    assert not runs_ours()
    cnn_ext.enable()
    cnn_ext.enable()
    assert runs_ours()
    cnn_ext.disable()
    assert not runs_ours()


def test_disable_without_enable_is_an_error():
    with pytest.raises(RuntimeError, match=r"disable: expected a call of cnn_ext.enable\(\) before$"):
        cnn_ext.disable()
    with cnn_ext.enabled():
        with pytest.raises(RuntimeError, match=r"1 enabled\(\) block\(s\) are open"):
            cnn_ext.disable()
        assert runs_ours()


def test_blocks_nest_and_mix_with_enable():
    with cnn_ext.enabled():
        with cnn_ext.enabled():
            assert runs_ours()
        assert runs_ours()
        cnn_ext.enable()
    assert runs_ours()  # enable() outlives the block
    with cnn_ext.enabled():
        cnn_ext.disable()
        assert runs_ours()  # the block outlives disable()
    assert not runs_ours()


def test_a_block_ends_with_an_error_and_a_function_may_be_decorated():
    with pytest.raises(ZeroDivisionError), cnn_ext.enabled():
        _ = 1 / 0
    assert not runs_ours()
    assert cnn_ext.enabled()(runs_ours)()
    assert not runs_ours()


def test_blocks_of_all_threads_count():
    inside, leave, seen = threading.Event(), threading.Event(), []

    def hold():
        with cnn_ext.enabled():
            inside.set()
            leave.wait()
            seen.append(runs_ours())

    thread = threading.Thread(target=hold)
    thread.start()
    inside.wait()
    assert runs_ours()  # the other thread's block
    with cnn_ext.enabled():
        pass
    assert runs_ours()
    leave.set()
    thread.join()
    assert seen == [True]
    assert not runs_ours()


def test_calls_of_other_threads_survive_the_switch():
    done, wrong = threading.Event(), []
    x, w = torch.randn(1, 4, 8, 8), torch.randn(4, 4, 3, 3)
    right = F.conv2d(x, w)

    def call():
        torch.set_num_threads(1)
        while not done.is_set():
            if not torch.allclose(F.conv2d(x, w), right, atol=1e-4):
                wrong.append(True)

    threads = [threading.Thread(target=call) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(200):
        with cnn_ext.enabled():
            F.conv2d(x, w)
    done.set()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_forked_process_inherits_it():
    with cnn_ext.enabled():
        child = os.fork()
        if child == 0:
            torch.set_num_threads(1)
            os._exit(0 if runs_ours() else 1)
        assert os.waitpid(child, 0)[1] == 0


def test_another_schema_is_refused_by_name():
    with pytest.raises(RuntimeError, match="aten::convolution: this torch's schema is not the one"):
        cnn_ext._native._C.check_override("convolution", "(Tensor input) -> Tensor")
    with pytest.raises(RuntimeError, match="this torch has no operator aten::konvolution"):
        cnn_ext._native._C.check_override("konvolution", "")


def test_another_library_with_the_same_operators_is_refused():
    library = torch.library.Library("aten", "IMPL")
    try:
        library.impl("convolution", lambda *arguments: None, "CPU")
        with pytest.raises(RuntimeError, match=r"another library has a kernel .* aten::convolution"):
            cnn_ext.enable()
        assert not is_enabled()
    finally:
        library._destroy()
    with cnn_ext.enabled():
        assert runs_ours()


# ---------------------------------------------------------------------------------------------
# The algorithm, the guard
# ---------------------------------------------------------------------------------------------


def route():
    with cnn_ext.trace() as records:
        F.conv2d(torch.ones(1, 16, 20, 20), torch.ones(16, 16, 3, 3))
    return records[0].route


def test_default_algorithm_reaches_torchs_operators(door):
    assert route() == "winograd"
    with cnn_ext.default_algorithm("implicit_gemm"):
        assert route() == "implicit_gemm"
        with cnn_ext.default_algorithm("im2col"):
            assert route() == "im2col"
        assert route() == "implicit_gemm"
        other = []
        thread = threading.Thread(target=lambda: other.append(route()))
        thread.start()
        thread.join()
        assert other == ["winograd"]  # a block is its thread's
    assert route() == "winograd"
    cnn_ext.default_algorithm("direct")
    assert route() == "band"
    cnn_ext.default_algorithm("auto")
    assert route() == "winograd"


def test_a_gradient_has_the_algorithm_that_is_set_when_it_runs(door):
    x = torch.ones(1, 16, 20, 20, requires_grad=True)
    y = F.conv2d(x, torch.ones(16, 16, 3, 3))
    with cnn_ext.default_algorithm("im2col"), cnn_ext.trace() as records:
        y.sum().backward()
    assert [record.route for record in records] == ["im2col"]


def test_torch_only_is_for_its_thread_and_nests(door):
    with torch_only():
        with torch_only():
            assert not runs_ours()
        assert not runs_ours()
        other = []
        thread = threading.Thread(target=lambda: other.append(runs_ours()))
        thread.start()
        thread.join()
        assert other == [True]
        _, passes = calls_of(cnn_ext.functional.conv2d, X, W)
        assert passes == ["forward"]  # our own functions are ours everywhere
    assert runs_ours()


def test_our_operations_do_not_come_back_to_themselves(door):
    before = sum(count.calls for count in call_counts())
    x = torch.randn(1, 16, 20, 20, requires_grad=True)
    for algorithm in ("im2col", "auto"):
        cnn_ext.functional.conv2d(x, torch.randn(16, 16, 3, 3), algorithm=algorithm).sum().backward()
    assert sum(count.calls for count in call_counts()) == before


def served():
    return sum(count.calls for count in call_counts())


def test_compare_and_bench_have_torch_on_torchs_kernels(door):
    from cnn_ext import bench
    from cnn_ext.comparison import compare, layer_errors, step_seconds

    before = served()
    model, x = (
        torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.Flatten()),
        torch.randn(2, 1, 8, 8),
    )
    compare(model, x, rounds=1, progress=False)
    loss, batch = torch.nn.CrossEntropyLoss(), (x, torch.tensor([0, 1]))
    layer_errors(model, model, loss, batch)
    step_seconds([model], loss, batch, rounds=1)
    bench.run("convolution", bench.Options(names=("LeNet C5",), quick=True, rounds=1))
    assert served() == before
    model(x)
    assert served() == before + 1


# ---------------------------------------------------------------------------------------------
# torch's own samples
# ---------------------------------------------------------------------------------------------

NAMES = [f"nn.functional.{name}{axes}d" for name in ("conv", "conv_transpose") for axes in (1, 2, 3)]


SAMPLES_AGREE = {
    torch.float16: 4e-3, torch.bfloat16: 3e-2, torch.float32: 3e-6, torch.float64: 1e-14,
    torch.complex64: 3e-6, torch.complex128: 1e-14, torch.complex32: 4e-3,
}  # fmt: skip


@pytest.mark.parametrize("op", [op for op in op_db if op.name in NAMES], ids=lambda op: op.name)
def test_torchs_own_samples(op):
    torch.set_num_threads(1)  # thousands of tiny calls
    for dtype in sorted(op.supported_dtypes("cpu"), key=str):
        backward = dtype in op.supported_backward_dtypes("cpu")
        for sample in op.sample_inputs("cpu", dtype, requires_grad=backward):
            leaves = [t for t in (sample.input, *sample.args) if isinstance(t, torch.Tensor)]

            def run(sample=sample, leaves=leaves, backward=backward):
                y, *indices = tensors_in(op(sample.input, *sample.args, **sample.kwargs))
                if not backward or not y.requires_grad:
                    return y, *indices
                return y, *indices, *torch.autograd.grad(y, leaves, torch.ones_like(y))

            theirs = run()
            with cnn_ext.enabled():
                ours = run()
            for mine, its in zip(ours, theirs, strict=True):
                assert that_count(mine) == that_count(its)
                # Small sums of large terms have few digits, torch's too.
                size = its.abs().max().item() if its.numel() else 0
                error = SAMPLES_AGREE.get(dtype, 0.0)
                torch.testing.assert_close(mine, its, rtol=error, atol=error * size)


@pytest.mark.parametrize("block", [cnn_ext.enabled, cnn_ext.enabling.torch_only])
def test_a_block_does_not_decorate_what_runs_later(block):
    def generator():
        yield

    async def coroutine(): ...

    for function in (generator, coroutine):
        with pytest.raises(
            TypeError, match=rf"{block.__name__}: .* {function.__name__}; open the block"
        ):
            block()(function)


def test_the_gradient_of_im2col_is_exact_under_autocast():
    x, w = torch.randn(2, 8, 9, 9), torch.randn(6, 8, 3, 3, requires_grad=True)
    with cnn_ext.enabled(), cnn_ext.default_algorithm("im2col"):
        y = F.conv2d(x, w)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y.sum().backward()
    exact = w.detach().double().requires_grad_()
    F.conv2d(x.double(), exact).sum().backward()
    torch.testing.assert_close(w.grad.double(), exact.grad, rtol=1e-5, atol=1e-4)


def test_torch_refuses_output_padding_in_a_gradient_that_is_not_transposed():
    arguments = (torch.ones(1, 4, 6), torch.ones(1, 2, 8), torch.ones(4, 2, 3), None, [1], [0], [1])
    rest = (False, [1], 1, (True, True, False))
    with cnn_ext.enabled(), pytest.raises(RuntimeError, match="output_padding"):
        torch.ops.aten.convolution_backward(*arguments, *rest)


def test_a_signal_whose_channels_are_innermost_has_torchs_values_and_strides():
    x, w = torch.randn(2, 50, 6).transpose(1, 2), torch.randn(5, 6, 3)
    expected = F.conv1d(x, w)
    with cnn_ext.enabled():
        output = F.conv1d(x, w)
    torch.testing.assert_close(output, expected)
    assert output.stride() == expected.stride()
