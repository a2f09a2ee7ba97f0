"""Max-pooling without indices, as frozen networks use it, against torch's."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

pool = torch.ops.cnn_ext.max_pool2d

GEOMETRIES = [
    ((2, 2), (2, 2), (0, 0), (1, 1), False),
    ((3, 3), (2, 2), (1, 1), (1, 1), False),
    ((3, 3), (2, 2), (0, 0), (1, 1), True),
    ((3, 3), (1, 1), (1, 1), (1, 1), False),
    ((2, 3), (3, 4), (1, 0), (2, 1), True),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_it_is_torchs(geometry, layout, dtype, cpu_capability):
    input = torch.randn(2, 19, 13, 37).to(dtype).contiguous(memory_format=layout)
    output, expected = pool(input, *geometry), F.max_pool2d(input, *geometry)
    assert torch.equal(output, expected)
    assert output.is_contiguous(memory_format=layout)


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
    input = torch.randn(draw(st.integers(1, 2)), draw(st.integers(1, 20)), *size)
    if draw(st.booleans()):
        input = input.contiguous(memory_format=torch.channels_last)
    if draw(st.booleans()):
        input = input.transpose(2, 3).contiguous().transpose(2, 3)
    if draw(st.booleans()):
        input[torch.rand(input.shape) < 0.05] = torch.nan
    expected = F.max_pool2d(input, *arguments)
    torch.testing.assert_close(pool(input, *arguments), expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("shape", [(3, 9, 9), (0, 3, 9, 9)])
def test_shapes_at_the_edge(shape):
    input = torch.randn(shape)
    assert torch.equal(pool(input, *GEOMETRIES[1]), F.max_pool2d(input, *GEOMETRIES[1]))


@pytest.mark.parametrize(
    ("input", "arguments", "message"),
    [
        (torch.zeros(4, 4), ((2, 2), (2, 2), (0, 0), (1, 1)), r"input: expected \(N, C, H, W\)"),
        (torch.zeros(1, 4, 4), ((0, 2), (2, 2), (0, 0), (1, 1)), "kernel_size: .* got .0, 2."),
        (torch.zeros(1, 4, 4), ((2, 2), (2, 2), (2, 0), (1, 1)), "padding: expected at most half"),
        (torch.zeros(1, 4, 4), ((5, 2), (2, 2), (0, 0), (1, 1)), "at least one window"),
    ],
)
def test_bad_input_is_named(input, arguments, message):
    with pytest.raises(RuntimeError, match=message):
        pool(input, *arguments, False)


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_opcheck(geometry):
    tests = ("test_schema", "test_faketensor", "test_aot_dispatch_dynamic")
    torch.library.opcheck(pool, (torch.randn(2, 3, 9, 13), *geometry), test_utils=tests)
