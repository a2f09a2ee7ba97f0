"""Shapes, passes, flops, errors and memory of the benchmark of convolution. No times."""

import json

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from cnn_ext import functional
from cnn_ext.bench import convolution
from cnn_ext.bench.convolution import PASSES, SETS, Layer
from cnn_ext.bench.options import Options
from cnn_ext.bench.workspace import workspace_bytes

TINY = Options(quick=True, rounds=1)
LAYERS = [
    Layer("plain", "tiny", (2, 3, 8, 7), (4, 3, 3, 3), padding=1),
    Layer("strided, no bias", "tiny", (2, 4, 9, 9), (6, 2, 3, 3), stride=2, groups=2, bias=False),
    Layer("dilated", "tiny", (1, 2, 12, 12), (2, 2, 3, 3), dilation=2, padding=(1, 2)),
    Layer("1-d", "tiny", (2, 3, 16), (4, 3, 5)),
    Layer("3-d", "tiny", (1, 2, 4, 5, 6), (3, 2, 3, 3, 3), stride=(1, 2, 2), padding=1),
    Layer(
        "transposed", "tiny", (2, 4, 5, 5), (4, 3, 3, 3), stride=2, output_padding=1, transposed=True
    ),
    Layer("1-d transposed", "tiny", (2, 4, 5), (4, 1, 4), stride=2, groups=2, transposed=True),
]
each_layer = pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.name)


@each_layer
def test_a_layer_has_a_row_for_each_pass_and_format(layer):
    rows = list(convolution.layer_rows(layer, TINY))
    found = [(row["pass"], row["format"]) for row in rows]
    assert found == [(what, name) for what in PASSES for name in layer.formats()]
    for row in rows:
        times = row["milliseconds"]
        assert times.keys() == {"ours", "eager"}
        assert row["ratio"] == times["eager"] / times["ours"]
        work = layer.flops() * {"both gradients": 2, "training": 3}.get(row["pass"], 1)
        assert row["gflops"] == pytest.approx(work / times["ours"] / 1e6)
        assert row["torch_gflops"] == pytest.approx(work / times["eager"] / 1e6)
        assert row["algorithm"] in functional.ALGORITHMS
    assert json.loads(json.dumps(rows)) == rows


def test_the_second_ratio_is_of_the_best_formats():
    rows = list(convolution.layer_rows(LAYERS[0], TINY))
    for what in PASSES:
        pair = [row for row in rows if row["pass"] == what]
        ours = min(row["milliseconds"]["ours"] for row in pair)
        torchs = min(row["milliseconds"]["eager"] for row in pair)
        assert [row["ratio_any_format"] for row in pair] == [torchs / ours] * 2


def test_compile_takes_turns_when_it_is_asked_for():
    rows = list(convolution.layer_rows(LAYERS[0], Options(quick=True, rounds=1, compile=True)))
    for row in rows:
        times = row["milliseconds"]
        assert row["ratio"] == min(times["eager"], times["compiled"]) / times["ours"]


@each_layer
def test_flops_are_those_that_torch_counts(layer):
    operands = layer.operands(torch.float32)["NCHW"]
    with FlopCounterMode(display=False) as counter:
        layer.function(F)(*operands[:3])
    assert layer.flops() == counter.get_total_flops()


@each_layer
@pytest.mark.parametrize("what", PASSES)
def test_a_pass_computes_what_torch_computes(layer, what):
    operands = layer.operands(torch.float32)["NCHW"]
    ours, theirs = (
        convolution.call(layer.function(module), operands, what)() for module in (functional, F)
    )
    count = {"forward": 1, "both gradients": 2, "training": 2 + layer.bias}.get(what, 1)
    assert (torch.is_tensor(ours) and what == "forward") or len(ours) == count
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


@each_layer
def test_the_operations_whose_memory_is_measured_are_those_of_the_passes(layer):
    operands = layer.operands(torch.float32)["NCHW"]
    for what, run in convolution.native(layer, operands).items():
        result = convolution.call(layer.function(functional), operands, what)()
        torch.testing.assert_close(run(), result if what == "forward" else result[0])


@each_layer
def test_errors_are_roundings_in_float32_and_larger_in_bfloat16(layer):
    for single in convolution.errors(layer, torch.float32).values():
        assert single.keys() == {"error", "implicit_gemm_error", "torch_error"}
        assert all(0 < error < 1e-6 for error in single.values())
    for half in convolution.errors(layer, torch.bfloat16).values():
        assert all(1e-4 < error < 2e-2 for error in half.values())


def test_an_error_is_seen():
    layer = LAYERS[0]
    operands = layer.operands(torch.float32)["NCHW"]
    exact = convolution.results(layer.function(F), operands.first(2, torch.double))
    wrong = convolution.results(lambda *tensors: 1.5 * layer.function(F)(*tensors), operands)
    error = convolution.relative_error(wrong["weight gradient"], exact["weight gradient"])
    assert error == pytest.approx(0.5, rel=1e-5)


def test_the_patch_matrix_of_im2col_is_in_its_workspace():
    input, weight = torch.randn(1, 16, 32, 32), torch.randn(8, 16, 3, 3)
    patches = 4 * 16 * 9 * 32 * 32
    measured = workspace_bytes(lambda: functional.conv2d(input, weight, padding=1, algorithm="im2col"))
    assert patches <= measured < 1.5 * patches


def test_a_workspace_is_the_most_at_once_beside_the_result():
    def run():
        first = torch.empty(1000, dtype=torch.uint8)
        result = torch.empty(50, dtype=torch.uint8)
        del first
        second = torch.empty(3000, dtype=torch.uint8)
        del second
        return result

    assert workspace_bytes(run) == 3000


def test_known_layers_have_names_of_their_own_and_fit_together():
    known = convolution.layers(SETS)
    assert len(known) == sum(len(convolution.layers((name,))) for name in SETS)
    for layer in known.values():
        assert min(layer.output_size()) > 0, layer
        assert layer.algorithm(torch.float32) in functional.ALGORITHMS
    assert {layer.set for layer in known.values()} == set(SETS)
    wide = [layer for layer in known.values() if layer.kind() == "3 x 3 from 64 channels"]
    assert "VGG 5_1" in {layer.name for layer in wide}
    assert all(layer.weight[2:] == (3, 3) and layer.stride == 1 for layer in wide)


def test_a_file_of_your_own_is_a_set(tmp_path):
    file = tmp_path / "mine.json"
    file.write_text(json.dumps({"wide": {"input": [1, 1, 9, 9], "weight": [1, 1, 1, 9]}}))
    (layer,) = convolution.layers((str(file),)).values()
    assert (layer.name, layer.set, layer.output_size()) == ("wide", "mine", (1, 1, 9, 1))


def test_an_unknown_set_is_an_error_that_lists_the_known():
    with pytest.raises(ValueError, match=r"shapes: expected some of lenet, .*, others.*got 'squeeze'"):
        convolution.layers(("squeeze",))
