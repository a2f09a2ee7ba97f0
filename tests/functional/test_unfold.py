"""fold and unfold: strides and aliasing are those of torch's results."""

import pytest
import torch
import torch.nn.functional as F

from cnn_ext import functional

SHAPES = [(2, 3, 6, 8), (1, 1, 6, 8), (1, 3, 1, 1), (2, 1, 4, 4), (1, 4, 8, 1), (3, 6, 8)]

# Functions of this operation and torch's twins, for tests/test_tools.py.
_x = torch.randn(1, 2, 4, 4).double()
CALLS = {
    "unfold": (lambda m, x: m.unfold(x, 2, 1, 1, 2), (_x,)),
    "fold": (lambda m, x: m.fold(x.flatten(2)[:, :, :9].repeat(1, 2, 1), (4, 4), 2), (_x,)),
}


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kernel", ["one cell", "a row", "a column", "all", "two"])
@pytest.mark.parametrize("channels_last", [False, True])
def test_strides_are_torchs_and_nothing_is_aliased(shape, kernel, channels_last):
    H, W = shape[-2:]
    kernel = {"one cell": (1, 1), "a row": (1, W), "a column": (H, 1), "all": (H, W),
              "two": (min(2, H), min(2, W))}[kernel]  # fmt: skip
    image = torch.randn(shape)
    if channels_last and image.dim() == 4:
        image = image.to(memory_format=torch.channels_last)
    for padding in (0, 1):
        for stride in (1, 2, kernel):
            window = (kernel, 1, padding, stride)
            columns, expected = functional.unfold(image, *window), F.unfold(image, *window)
            assert torch.equal(columns, expected)
            assert columns.stride() == expected.stride()
            assert not shares_memory(columns, image)
            for source in (columns, columns.mT.contiguous().mT):
                back, expected = (m.fold(source, (H, W), *window) for m in (functional, F))
                torch.testing.assert_close(back, expected)
                assert back.stride() == expected.stride()
                assert back.untyped_storage().nbytes() == 4 * back.numel()
                assert not shares_memory(back, source)


def shares_memory(a, b):
    return a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()


@pytest.mark.parametrize("shape", [(2, 0, 4, 4), (0, 2, 4, 4), (2, 2, 0, 4), (0, 4, 4)], ids=str)
def test_empty_images_are_refused_where_torch_refuses_them(shape):
    for name, arguments in (("unfold", (2,)), ("unfold", (2, 1, 1)), ("max_pool2d", (2,))):
        results = []
        for library in (functional, F):
            try:
                results.append(getattr(library, name)(torch.zeros(shape), *arguments).shape)
            except RuntimeError:
                results.append(RuntimeError)
        assert results[0] == results[1], name


@pytest.mark.parametrize("shape", [(2, 0, 4), (0, 8, 4), (0, 4)], ids=str)
def test_empty_columns_are_refused_where_torch_refuses_them(shape):
    results = []
    for library in (functional, F):
        try:
            results.append(library.fold(torch.zeros(shape), (3, 3), 2).shape)
        except RuntimeError:
            results.append(RuntimeError)
    assert results[0] == results[1]
