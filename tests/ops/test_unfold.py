"""unfold and fold, the operations: values, each the gradient of the other, every kind of misuse."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import forward_ad, gradcheck, gradgradcheck

import cnn_ext
from cnn_ext.ops import FoldFunction, UnfoldFunction
from cnn_ext.ops.unfold import fold, unfold
from tests.every_operation import Counter
from tests.ops.convolution_samples import lay_out

ops = torch.ops.cnn_ext

# Size of the image; kernel_size, dilation, padding, stride.
SAMPLES = {
    "a cell": ((1, 1, 1, 1), (1, 1), (1, 1), (0, 0), (1, 1)),
    "overlapping": ((2, 3, 5, 6), (3, 2), (1, 1), (0, 0), (1, 1)),
    "padded": ((1, 2, 4, 5), (3, 3), (1, 1), (1, 2), (2, 1)),
    "dilated": ((1, 2, 7, 6), (2, 3), (3, 2), (2, 1), (1, 2)),
    "side by side": ((2, 1, 4, 6), (2, 3), (1, 1), (0, 0), (2, 3)),
    "apart": ((1, 2, 7, 7), (2, 2), (1, 1), (0, 0), (4, 3)),
    "in the padding alone": ((1, 1, 2, 2), (2, 1), (9, 1), (9, 3), (1, 1)),
    "no images": ((0, 2, 4, 4), (2, 2), (1, 1), (0, 0), (1, 1)),
}
by_name = pytest.mark.parametrize("sample", SAMPLES.values(), ids=list(SAMPLES))
small = pytest.mark.parametrize(
    "sample", [SAMPLES["padded"], SAMPLES["dilated"]], ids=["padded", "dilated"]
)
DTYPES = (
    torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.complex64, torch.complex128,
    torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.bool,
)  # fmt: skip
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def both(sample, dtype=torch.double, requires_grad=False):
    """An image, its columns' like, and the window."""
    size, *window = sample
    image = torch.randint(0, 5, size).to(dtype)  # sums are exact
    columns = torch.randint(0, 5, ops.unfold(image, *window).shape).to(dtype)
    return *(t.requires_grad_(requires_grad) for t in (image, columns)), window


def slow_fold(columns, size, window):
    """The adjoint by definition, in whole numbers: cell by cell through an unfolded table of places."""
    N, C = columns.shape[0], size[1]
    places = torch.arange(1, size[2] * size[3] + 1).double().view(1, 1, *size[2:])
    where = F.unfold(places, *window).long().flatten()  # 0: padding
    taps = window[0][0] * window[0][1]
    result = columns.new_zeros(N, C, size[2] * size[3] + 1)
    result.index_add_(2, where, columns.reshape(N, C, taps * columns.shape[2]))
    return result[:, :, 1:].view(size)


@by_name
@dtypes
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "sliced", "transposed"])
def test_values_are_torchs(sample, dtype, layout):
    image, columns, window = both(sample, dtype)
    unfolded = ops.unfold(lay_out(image, layout), *window)
    assert unfolded.is_contiguous()
    exact = F.unfold(image.to(torch.complex128 if dtype.is_complex else torch.float64), *window)
    assert torch.equal(unfolded, exact.to(dtype))
    if layout == "channels_last":
        columns = columns.mT.contiguous().mT
    elif layout == "sliced":
        columns = lay_out(columns, layout)
    folded = ops.fold(columns, image.shape[2:], *window)
    assert folded.is_contiguous()
    whole = columns if dtype.is_complex or dtype.is_floating_point else columns.long()
    assert torch.equal(folded, slow_fold(whole, image.shape, window).to(dtype))


@given(st.data())
def test_over_any_geometry_they_are_torchs(data):
    window, size = [], []
    for _ in range(2):
        kernel, dilation, stride, padding = (data.draw(st.integers(least, 4)) for least in (1, 1, 1, 0))
        window.append((kernel, dilation, padding, stride))
        size.append(max(1, dilation * (kernel - 1) + 1 - 2 * padding) + data.draw(st.integers(0, 9)))
    sample = ((2, 3, *size), *zip(*window, strict=True))
    image, columns, window = both(sample)
    assert torch.equal(ops.unfold(image, *window), F.unfold(image, *window))
    assert torch.equal(ops.fold(columns, size, *window), F.fold(columns, size, *window))


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_any_number_of_threads(threads):
    torch.set_num_threads(threads)
    image, columns, window = both(((3, 5, 61, 67), (5, 3), (1, 2), (2, 2), (1, 2)))
    assert torch.equal(ops.unfold(image, *window), F.unfold(image, *window))
    assert torch.equal(ops.fold(columns, (61, 67), *window), F.fold(columns, (61, 67), *window))


def test_half_types_are_summed_in_float32():
    """256 + 1 + ... + 1 of bfloat16, whose next number is 258."""
    columns = torch.ones(1, 9, 9, dtype=torch.bfloat16)
    columns[0, 8] = 256
    image = ops.fold(columns, (5, 5), (3, 3), (1, 1), (0, 0), (1, 1))
    assert image[0, 0, 2, 2] == 264


@by_name
@dtypes
def test_on_another_device_they_are_composed_of_torchs_operations(sample, dtype):
    image, columns, window = both(sample, dtype)
    key = torch._C.DispatchKeySet(torch._C.DispatchKey.CUDA)
    unfolded = ops.unfold.default.redispatch(key, image, *window)
    assert torch.equal(unfolded, ops.unfold(image, *window))
    folded = ops.fold.default.redispatch(key, columns, image.shape[2:], *window)
    assert torch.equal(folded, ops.fold(columns, image.shape[2:], *window))


def test_a_record_carries_the_name_of_the_operation():
    image, _, window = both(SAMPLES["padded"])
    with cnn_ext.trace() as records:
        ops.fold(ops.unfold(image, *window), image.shape[2:], *window)
    assert [record.op for record in records] == ["unfold", "fold"]


@small
@pytest.mark.parametrize("function", [False, True], ids=["op", "Function"])
def test_gradients_of_any_order_and_mode(sample, function):
    image, columns, window = both(sample, requires_grad=True)
    for call, tensor in (
        (lambda x: (UnfoldFunction.apply if function else unfold)(x, *window), image),
        (lambda x: (FoldFunction.apply if function else fold)(x, image.shape[2:], *window), columns),
    ):
        modes = {} if function else {"check_forward_ad": True, "check_batched_forward_grad": True}
        assert gradcheck(call, tensor, check_batched_grad=True, **modes)
        assert gradgradcheck(call, tensor)


def test_nothing_is_kept_for_the_gradient():
    image, _, window = both(SAMPLES["padded"], requires_grad=True)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        columns = unfold(image, *window)
        fold(columns, image.shape[2:], *window)
    assert not kept


def dispatched():
    """Each operation with arguments, for tests/ops/test_opcheck.py."""
    image, columns, window = both(SAMPLES["padded"], requires_grad=True)
    yield ops.unfold, (image, *window)
    yield ops.fold, (columns, image.shape[2:], *window)


@by_name
def test_opcheck_of_strange_windows(sample):
    image, columns, window = both(sample, requires_grad=True)
    for operation, inputs in (
        (ops.unfold, (image, *window)),
        (ops.fold, (columns, image.shape[2:], *window)),
    ):
        results = torch.library.opcheck(operation.default, inputs)
        assert set(results.values()) == {"SUCCESS"}


@pytest.mark.parametrize("dim", [0, 2])
def test_vmap_is_one_call(dim):
    image, columns, window = both(SAMPLES["padded"])
    for call, theirs, tensor, name in (
        (unfold, F.unfold, image, "unfold"),
        (lambda x, *w: fold(x, (4, 5), *w), lambda x, *w: F.fold(x, (4, 5), *w), columns, "fold"),
    ):
        mapped = torch.stack([tensor, 2 * tensor, tensor - 1], dim)
        with Counter() as counter:
            result = torch.vmap(lambda x, f=call: f(x, *window), dim)(mapped)
        assert counter.calls == [name]
        assert torch.equal(result, torch.vmap(lambda x, f=theirs: f(x, *window), dim)(mapped))


@pytest.mark.parametrize("dynamic", [False, True])
def test_compile_without_graph_breaks(dynamic):
    image, _, window = both(SAMPLES["padded"], requires_grad=True)

    def loss(image):
        return fold(unfold(image, *window).square(), image.shape[2:], *window).square().sum()

    torch._dynamo.reset()
    compiled = torch.compile(loss, fullgraph=True, dynamic=dynamic)
    gradients = [torch.autograd.grad(call(image), image)[0] for call in (compiled, loss)]
    torch.testing.assert_close(*gradients)


def test_an_exported_program_trains_on_images_of_any_number():
    class Patches(torch.nn.Module):
        def forward(self, image):
            return unfold(image, (2, 2), (1, 1), (1, 1), (2, 2)).square()

    image = torch.randn(3, 2, 4, 4)
    sizes = ({0: torch.export.Dim("images")},)
    program = torch.export.export(Patches(), (image,), dynamic_shapes=sizes).module()
    for count in (2, 7):
        image = torch.randn(count, 2, 4, 4, requires_grad=True)
        gradients = [torch.autograd.grad(m(image).sum(), image)[0] for m in (program, Patches())]
        torch.testing.assert_close(*gradients)


@by_name
def test_meta_tensors_have_the_real_shape_and_strides(sample):
    image, columns, window = both(sample)
    size = image.shape[2:]
    for real, fake in (
        (ops.unfold(image, *window), ops.unfold(image.to("meta"), *window)),
        (ops.fold(columns, size, *window), ops.fold(columns.to("meta"), size, *window)),
    ):
        assert (fake.shape, fake.stride(), fake.dtype) == (real.shape, real.stride(), real.dtype)


def test_a_dispatcher_operation_refuses_a_tangent_rather_than_drop_it():
    image, columns, window = both(SAMPLES["padded"])
    with forward_ad.dual_level():
        for call, tensor in (
            (ops.unfold, image),
            (lambda x, *w: ops.fold(x, (4, 5), *w), columns),
        ):
            with pytest.raises(NotImplementedError, match="forward-mode"):
                call(forward_ad.make_dual(tensor, torch.ones_like(tensor)), *window)


IMAGE, COLUMNS, WINDOW = torch.zeros(1, 2, 4, 4), torch.zeros(1, 8, 9), [(2, 2), (1, 1), (0, 0), (1, 1)]


@pytest.mark.parametrize(
    ("at", "value", "message"),
    [
        (0, (2,), r"kernel_size: expected one or two ints >= 1, got \[2\]"),
        (0, (0, 2), r"kernel_size: expected one or two ints >= 1, got \[0, 2\]"),
        (0, (5, 2), r"kernel_size: expected one that fits the padded image of \[4, 4\].*got \[5, 2\]"),
        (0, (2**31, 2), r"kernel_size: expected ints less than 2.31"),
        (1, (0, 1), r"dilation: expected one or two ints >= 1, got \[0, 1\]"),
        (1, (1, 4), r"kernel_size: expected one that fits.*with dilation \[1, 4\]"),
        (2, (0, -1), r"padding: expected one or two ints >= 0, got \[0, -1\]"),
        (3, (0, 1), r"stride: expected one or two ints >= 1, got \[0, 1\]"),
    ],
)
def test_a_bad_window_is_named(at, value, message):
    window = [*WINDOW[:at], value, *WINDOW[at + 1 :]]
    with pytest.raises(RuntimeError, match=f"unfold: {message}"):
        ops.unfold(IMAGE, *window)
    with pytest.raises(RuntimeError, match=f"fold: {message}"):
        ops.fold(COLUMNS, (4, 4), *window)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ops.unfold(IMAGE[0], *WINDOW), r"unfold: input: expected 4 dimensions.*\[2, 4, 4\]"),
        (lambda: ops.unfold(IMAGE[:, :0], *WINDOW), "unfold: input: expected at least one channel"),
        (
            lambda: ops.fold(COLUMNS[0], (4, 4), *WINDOW),
            r"fold: input: expected \(N, a multiple of 4, 9\)",
        ),
        (lambda: ops.fold(COLUMNS[:, :7], (4, 4), *WINDOW), r"a multiple of 4, 9.*\[1, 7, 9\]"),
        (lambda: ops.fold(COLUMNS[:, :, :8], (4, 4), *WINDOW), r"a multiple of 4, 9.*\[1, 8, 8\]"),
        (lambda: ops.fold(COLUMNS, (4,), *WINDOW), r"fold: output_size: expected one or two ints >= 0"),
    ],
    ids=["rank of unfold", "no channel", "rank of fold", "rows", "cells", "output_size"],
)
def test_a_bad_argument_is_named(call, message):
    with pytest.raises(RuntimeError, match=message):
        call()
