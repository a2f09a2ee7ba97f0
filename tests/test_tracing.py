"""trace() and CNN_EXT_VERBOSE: one record for each call, with the route it took."""

import os
import subprocess
import sys
import threading

import pytest
import torch

import cnn_ext
from cnn_ext import functional
from cnn_ext.functional import convolution_algorithm

LAYERS = [
    ((2, 16, 20, 20), (16, 16, 3, 3), {"padding": 1}),
    ((2, 3, 33, 33), (20, 3, 5, 5), {"stride": 2}),
    ((4, 64, 7, 7), (64, 64, 1, 1), {}),
    ((1, 16, 40, 40), (16, 16, 11, 11), {"stride": 4}),
    ((2, 32, 9, 9), (32, 1, 3, 3), {"groups": 32, "padding": 1}),
    ((2, 33, 8, 8), (40, 33, 2, 2), {"stride": 2}),
    ((2, 8, 50, 50), (20, 8, 3, 3), {"padding": 24, "dilation": 24}),
    ((4, 600, 1, 1), (400, 600, 1, 1), {}),
]


def call(input_size, weight_size, geometry, dtype=torch.float32, **layout):
    x = torch.randn(input_size, dtype=dtype).to(**layout).requires_grad_()
    w = torch.randn(weight_size, dtype=dtype).to(**layout).requires_grad_()
    y = functional.conv2d(x, w, **geometry)
    y.backward(torch.ones_like(y))


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.float16, torch.complex64], ids=str
)
@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_the_route_that_is_told_is_the_route_that_is_taken(layer, dtype):
    input_size, weight_size, geometry = layer
    with cnn_ext.trace() as records:
        call(input_size, weight_size, geometry, dtype)
    told = {
        "forward": convolution_algorithm(input_size, weight_size, dtype=dtype, **geometry),
        "input_gradient": convolution_algorithm(
            input_size, weight_size, dtype=dtype, input_gradient=True, **geometry
        ),
        "weight_gradient": convolution_algorithm(
            input_size, weight_size, dtype=dtype, weight_gradient=True, **geometry
        ),
    }
    taken = {record.pass_: record.route for record in records}
    assert taken == {name: route.path for name, route in told.items()}


def test_paths_name_adapters_and_kernels():
    def path(*sizes, **geometry):
        return convolution_algorithm(*sizes, **geometry).path

    assert path((4, 64, 7, 7), (64, 64, 1, 1)) == "transposed > implicit_gemm"
    assert path((4, 3, 224, 224), (96, 3, 11, 11), stride=4) == "winograd by stride_phases"
    assert path((1, 2048, 1, 1), (1000, 2048, 1, 1)) == "dense"
    assert path((4, 64, 56, 56), (64, 64, 2, 2), stride=2, input_gradient=True) == (
        "implicit_gemm by whole_windows"
    )
    half = path((2, 32, 9, 9), (32, 1, 3, 3), groups=32, padding=1, dtype=torch.float16)
    assert half == "in_float32 > depthwise"
    wide = path((2, 8, 50, 50), (20, 8, 3, 3), padding=24, dilation=24, dtype=torch.complex64)
    assert wide == "real_parts > implicit_gemm by regions"


def test_a_record_has_what_one_asks_a_slow_call():
    with cnn_ext.trace() as records:
        functional.conv2d(torch.ones(1, 3, 8, 9), torch.ones(4, 3, 3, 3), padding=1)
    (record,) = records
    assert record.op == "convolution"
    assert record.sizes == "1x3x8x9 w4x3x3x3 s1x1 p1x1 d1x1 g1"
    assert (record.dtype, record.layout) == ("float32", "contiguous")
    assert record.threads >= 1
    assert record.workspace_bytes > 0
    assert 0 < record.milliseconds < 60_000


def test_other_operations_are_recorded_too():
    x = torch.rand(1, 3, 8, 8)
    with cnn_ext.trace() as records:
        functional.max_pool2d(x, 2)
        functional.local_response_norm(x, 5)
        functional.color_pca(x, torch.eye(3), torch.ones(3), torch.zeros(3))
    assert [record.op for record in records] == ["max_pool2d", "local_response_norm", "color_pca"]


def test_traces_nest_and_hold_the_calls_of_all_threads():
    x, w = torch.ones(1, 1, 4, 4), torch.ones(1, 1, 3, 3)
    with cnn_ext.trace() as outer:
        functional.conv2d(x, w)
        with cnn_ext.trace() as inner:
            thread = threading.Thread(target=functional.conv2d, args=(x, w))
            thread.start()
            thread.join()
    assert (len(outer), len(inner)) == (2, 1)
    functional.conv2d(x, w)
    assert len(outer) == 2


def test_a_call_that_fails_is_no_record():
    with cnn_ext.trace() as records, pytest.raises(RuntimeError):
        functional.conv2d(torch.ones(1, 2, 4, 4), torch.ones(1, 3, 3, 3))
    assert records == []


def test_the_verbose_mode_prints_a_line_for_each_call():
    code = (
        "import torch, cnn_ext.functional as F;"
        "F.conv2d(torch.ones(1, 16, 20, 20), torch.ones(16, 16, 3, 3))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "CNN_EXT_VERBOSE": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    (line,) = [one for one in done.stderr.splitlines() if one.startswith("cnn_ext,")]
    assert line.startswith(
        "cnn_ext,convolution,forward,winograd,1x16x20x20 w16x16x3x3 s1x1 p0x0 d1x1 g1"
    )
    assert "float32,contiguous,threads:" in line
