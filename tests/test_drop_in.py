"""cnn_ext.functional held against torch by torch's own tools: its operator database, autocast, flop
counter, exporters. A drop-in is one when these cannot tell the difference."""

import importlib
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch.testing._internal.common_methods_invocations import op_db
from torch.utils.flop_counter import FlopCounterMode

import cnn_ext
from cnn_ext import functional

NAMES = [
    "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "unfold",
    "max_pool2d", "linear",
]  # fmt: skip
DATABASE = {op.name.rpartition(".")[2]: op for op in op_db if op.name.startswith("nn.functional.")}
names = pytest.mark.parametrize("name", NAMES)


def samples(name, dtype, requires_grad=False):
    found = DATABASE[name].sample_inputs("cpu", dtype, requires_grad=requires_grad)
    return [s for s in found if _torch_takes(name, s)]


def _torch_takes(name, sample):
    try:
        result = getattr(F, name)(sample.input, *sample.args, **sample.kwargs)
    except (RuntimeError, TypeError, ValueError):
        return False
    return isinstance(result, torch.Tensor)  # indices of pooling come from torch


@names
@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.complex64], ids=str
)
def test_every_sample_of_torchs_database_gives_torchs_result(name, dtype, monkeypatch):
    """At most twice as far from the result in double precision as torch's own is."""
    if not DATABASE[name].supports_dtype(dtype, "cpu"):
        pytest.skip(f"torch's {name} has no {dtype}")
    dense = importlib.import_module("cnn_ext.functional.linear")
    monkeypatch.setattr(dense, "DENSE_WEIGHTS", 1)  # its linear layers are small
    found = samples(name, dtype)
    assert found
    for sample in found:
        exact = sample.transform(high_precision)
        exact, ours, theirs = (
            getattr(library, name)(s.input, *s.args, **s.kwargs)
            for library, s in ((F, exact), (functional, sample), (F, sample))
        )
        assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype), sample
        error, allowed = ((t.to(exact.dtype) - exact).norm() for t in (ours, theirs))
        # bfloat16 and float16 sum in float32, so that only roundings of the result add up.
        more = torch.finfo(dtype).eps * (0.25 if dtype in (torch.bfloat16, torch.float16) else 4)
        assert error <= 2 * allowed + more * exact.norm(), sample


def high_precision(value):
    if not isinstance(value, torch.Tensor):
        return value
    return value.to(torch.complex128 if value.is_complex() else torch.float64)


@names
def test_every_sample_gives_torchs_gradients(name):
    for sample in samples(name, torch.float64, requires_grad=True):
        tensors = [t for t in (sample.input, *sample.args, *sample.kwargs.values())
                   if isinstance(t, torch.Tensor) and t.requires_grad]  # fmt: skip
        gradients = []
        for library in (functional, F):
            output = getattr(library, name)(sample.input, *sample.args, **sample.kwargs)
            if output.requires_grad and output.numel():
                gradients.append(torch.autograd.grad(output.square().sum(), tensors, allow_unused=True))
        for ours, theirs in zip(*gradients, strict=True) if gradients else ():
            torch.testing.assert_close(ours, theirs)


@names
def test_every_error_input_of_torchs_database_is_an_error(name):
    if DATABASE[name].error_inputs_func is None:
        pytest.skip("torch's database has no error inputs for it")
    for case in DATABASE[name].error_inputs("cpu"):
        if "not supported for strided" in case.error_regex:
            continue  # padding="same" at a stride: here it has a meaning
        sample = case.sample_input
        with pytest.raises((RuntimeError, ValueError, TypeError)):
            getattr(functional, name)(sample.input, *sample.args, **sample.kwargs)


@pytest.mark.parametrize("kernel", [1, 2, (3, 2)])
@pytest.mark.parametrize("dilation", [1, (2, 3)])
@pytest.mark.parametrize("padding", [0, (2, 1)])
@pytest.mark.parametrize("stride", [1, 2, (3, 1)])
def test_unfold_and_fold_at_every_geometry(kernel, dilation, padding, stride):
    image = torch.randn(2, 3, 9, 8, dtype=torch.double, requires_grad=True)
    window = (kernel, dilation, padding, stride)
    columns, expected = functional.unfold(image, *window), F.unfold(image, *window)
    assert torch.equal(columns, expected)
    back, expected = (m.fold(columns, (9, 8), *window) for m in (functional, F))
    torch.testing.assert_close(back, expected)
    torch.testing.assert_close(functional.fold(columns[0], (9, 8), *window), expected[0])
    (a,), (b,) = (
        torch.autograd.grad(t.square().sum(), image, retain_graph=True) for t in (back, expected)
    )
    torch.testing.assert_close(a, b)


def test_unfold_and_fold_in_every_mode():
    image = torch.randn(1, 2, 5, 4, dtype=torch.double, requires_grad=True)

    def there_and_back(image):
        return functional.fold(functional.unfold(image, 2, 2, 1), (5, 4), 2, 2, 1)

    assert torch.autograd.gradcheck(there_and_back, (image,), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(there_and_back, (image,))
    images = torch.randn(3, 1, 2, 5, 4).double()
    torch.testing.assert_close(
        torch.vmap(there_and_back)(images), torch.stack([there_and_back(i) for i in images])
    )
    torch._dynamo.reset()
    compiled = torch.compile(there_and_back, fullgraph=True)
    torch.testing.assert_close(compiled(image), there_and_back(image))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: functional.unfold(torch.zeros(4, 4), 2), "unfold: input: expected 4 dimensions"),
        (
            lambda: functional.unfold(torch.zeros(1, 1, 4, 4), 5),
            "unfold: kernel_size: expected one that",
        ),
        (lambda: functional.unfold(torch.zeros(1, 1, 4, 4), 0), "unfold: kernel_size: .* got"),
        (lambda: functional.unfold(torch.zeros(1, 1, 4, 4), 2, stride=0), "unfold: stride: "),
        (lambda: functional.fold(torch.zeros(1, 4, 5), (3, 3), 2), r"fold: input: .* got shape"),
        (lambda: functional.fold(torch.zeros(1, 3, 4), (3, 3), 2), r"a multiple of 4, 4"),
    ],
    ids=["rank", "large", "empty", "stride", "columns", "rows"],
)
def test_bad_arguments_of_unfold_and_fold_are_named(call, message):
    with pytest.raises(RuntimeError, match=message):
        call()


# ------------------------------------------------------------------------ transposed convolution


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("dilation", [1, 3])
@pytest.mark.parametrize("groups", [1, 2])
def test_transposed_convolution_at_every_output_padding(axes, stride, dilation, groups):
    ours, theirs = (getattr(m, f"conv_transpose{axes}d") for m in (functional, F))
    input = torch.randn(2, 4, *(4, 3, 2)[:axes], dtype=torch.double, requires_grad=True)
    weight = torch.randn(4, 3, *(3, 2, 2)[:axes], dtype=torch.double, requires_grad=True)
    bias = torch.randn(3 * groups, dtype=torch.double, requires_grad=True)
    for more in range(max(stride, dilation)):
        arguments = (input, weight, bias, stride, 1, more, groups, dilation)
        a, b = ours(*arguments), theirs(*arguments)
        torch.testing.assert_close(a, b)
        for p, q in zip(
            torch.autograd.grad(a.square().sum(), (input, weight, bias)),
            torch.autograd.grad(b.square().sum(), (input, weight, bias)),
            strict=True,
        ):
            torch.testing.assert_close(p, q)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"output_padding": 2}, "output_padding: expected .* less than the stride"),
        ({"output_padding": -1}, "output_padding: expected at least 0"),
        ({"bias": torch.zeros(4)}, r"bias: expected shape \[3\].*got \[4\]"),
        ({"stride": (1, 2, 3)}, "stride: expected one int or 2"),
        ({"input": torch.zeros(4, 4)}, "input: expected 4 dimensions"),
        ({"weight": torch.zeros(2, 3, 3)}, "weight: expected 4 dimensions"),
        ({"padding": 9}, "input: expected one that gives an output of at least 1 cell"),
        ({"groups": 3}, "groups: expected a divisor"),
        ({"weight": torch.zeros(5, 3, 3, 3)}, r"grad_output: expected shape|channels|shape"),
    ],
    ids=["large", "negative", "bias", "stride", "rank", "weight", "padding", "groups", "channels"],
)
def test_bad_arguments_of_transposed_convolution_are_named(change, message):
    good = {"input": torch.zeros(1, 2, 4, 4), "weight": torch.zeros(2, 3, 3, 3), "stride": 2}
    assert functional.conv_transpose2d(**good).shape == (1, 3, 9, 9)
    with pytest.raises(RuntimeError, match=message):
        functional.conv_transpose2d(**{**good, **change})


def test_transposed_convolution_in_every_mode():
    input, weight = torch.randn(2, 3, 4, 4).double(), torch.randn(3, 2, 3, 3).double()

    def loss(library):
        return lambda w: library.conv_transpose2d(input, w, None, 2, 1, 1).square().sum()

    expected = torch.func.grad(loss(F))(weight)
    torch.testing.assert_close(torch.func.grad(loss(functional))(weight), expected)
    torch.testing.assert_close(torch.func.jacfwd(loss(functional))(weight), expected)
    torch._dynamo.reset()
    compiled = torch.compile(loss(functional), fullgraph=True, dynamic=True)
    weight.requires_grad_()
    torch.testing.assert_close(torch.autograd.grad(compiled(weight), weight)[0], expected)


# --------------------------------------------------------------------------------------- modules


TRANSPOSES = [
    (getattr(cnn_ext.nn, n), getattr(torch.nn, n))
    for n in ("ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d")
]


@pytest.mark.parametrize(("ours", "theirs"), TRANSPOSES, ids=lambda kind: kind.__name__)
def test_transposing_modules_are_drop_ins(ours, theirs):
    axes = int(theirs.__name__[-2])
    built = []
    for kind in (ours, theirs):
        torch.manual_seed(1)
        built.append(kind(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2))
    a, b = built
    assert isinstance(a, theirs)
    assert repr(a) == repr(b)
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))
    input = torch.randn(2, 4, *(5, 4, 3)[:axes])
    torch.testing.assert_close(a(input), b(input))
    size = [2 * n - 1 for n in input.shape[2:]]
    torch.testing.assert_close(a(input, output_size=size), b(input, output_size=size))
    assert type(cnn_ext.convert(b)) is ours
    assert type(cnn_ext.revert(a)) is theirs


@pytest.mark.parametrize("name", ["LazyConv1d", "LazyConv2d", "LazyConv3d"])
def test_lazy_modules_become_ours(name):
    input = torch.randn(2, 3, *(6, 6, 6)[: int(name[-2])])
    becomes = getattr(cnn_ext.nn, name[4:])
    for layer in (getattr(cnn_ext.nn, name)(4, 3), cnn_ext.convert(getattr(torch.nn, name)(4, 3))):
        layer(input)
        assert type(layer) is becomes
        assert layer.in_channels == 3


def test_spectral_norm_works_as_on_torchs():
    layer = cnn_ext.nn.Conv2d(2, 3, 3)
    torch.nn.utils.parametrizations.spectral_norm(layer).eval()  # in training each call updates it
    input = torch.randn(1, 2, 5, 5)
    torch.testing.assert_close(layer(input), F.conv2d(input, layer.weight, layer.bias))


# ------------------------------------------------------------------------------- autocast, flops


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", ["conv2d", "conv_transpose2d"])
def test_autocast_gives_torchs_dtypes_and_is_accurate_to_a_few_roundings(name, dtype):
    """Against float64, since torch itself adds in bfloat16 where the processor has no instructions."""
    tensors = torch.randn(2, 3, 6, 6), torch.randn(3, 3, 3, 3)

    def results(library, cast):
        input, weight = (cast(t).requires_grad_() for t in tensors)
        with torch.autocast("cpu", dtype=dtype):
            output = getattr(library, name)(input, weight)
        output.to(input.dtype).square().sum().backward()
        return output.detach(), input.grad, weight.grad

    ours, theirs = (results(library, torch.clone) for library in (functional, F))
    assert [t.dtype for t in ours] == [t.dtype for t in theirs]
    for value, exact in zip(ours, results(F, torch.Tensor.double), strict=True):
        assert (value.double() - exact).norm() <= 2 * torch.finfo(dtype).eps * exact.norm()


def test_autocast_leaves_float64_alone_and_works_compiled_and_under_func():
    input, weight = torch.randn(1, 1, 4, 4), torch.randn(1, 1, 3, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert functional.conv2d(input.double(), weight.double()).dtype == torch.float64
        torch._dynamo.reset()
        assert torch.compile(functional.conv2d, fullgraph=True)(input, weight).dtype == torch.bfloat16
        gradient = torch.func.grad(lambda w: functional.conv2d(input, w).float().sum())(weight)
        expected = torch.func.grad(lambda w: F.conv2d(input, w).float().sum())(weight)
    torch.testing.assert_close(gradient, expected, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("name", ["conv1d", "conv2d", "conv_transpose2d"])
def test_flops_are_counted_as_torchs(name):
    counts = []
    axes = int(name[-2])
    for library in (functional, F):
        input = torch.randn(2, 4, *(8, 7)[:axes], requires_grad=True)
        weight = torch.randn(4, 4, *(3, 2)[:axes], requires_grad=True)
        with FlopCounterMode(display=False) as counter:
            getattr(library, name)(input, weight, stride=2).sum().backward()
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] > 0


# ------------------------------------------------------------------------------------- exporters


def a_model():
    return torch.nn.Sequential(
        cnn_ext.nn.Conv2d(1, 2, 3, padding="half"),
        torch.nn.ReLU(),
        cnn_ext.nn.ConvTranspose2d(2, 1, 2, 2),
    ).eval()


def test_torchscript_goes_through_revert():
    model, input = a_model(), torch.randn(1, 1, 6, 6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated
        scripted = torch.jit.script(cnn_ext.revert(model))
    torch.testing.assert_close(scripted(input), model(input))


def test_an_exported_program_is_saved_loaded_and_run(tmp_path):
    model, input = a_model(), torch.randn(2, 1, 6, 6)
    program = torch.export.export(model, (input,))
    torch.export.save(program, tmp_path / "model.pt2")
    loaded = torch.export.load(tmp_path / "model.pt2").module()
    torch.testing.assert_close(loaded(input), model(input))


def test_ahead_of_time_compiled_code_calls_the_operations(tmp_path):
    model, input = a_model(), torch.randn(2, 1, 6, 6)
    with torch.no_grad():
        program = torch.export.export(model, (input,))
        package = torch._inductor.aoti_compile_and_package(
            program, package_path=str(tmp_path / "model.pt2")
        )
        compiled = torch._inductor.aoti_load_package(package)
        torch.testing.assert_close(compiled(input), model(input))
