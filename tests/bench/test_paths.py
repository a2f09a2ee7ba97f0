"""Every path beside `auto`: which there are, what they compute, what is lost. No times."""

import json

import pytest
import torch

from cnn_ext import cli
from cnn_ext.bench import convolution, paths
from cnn_ext.bench.convolution import Layer
from cnn_ext.bench.survey import SurveyOptions

TINY = SurveyOptions(quick=True, rounds=1)
LAYERS = [
    Layer("3 x 3", "tiny", (2, 16, 9, 10), (16, 16, 3, 3), padding=1),
    Layer("small maps", "tiny", (2, 16, 6, 7), (24, 16, 1, 1)),
    Layer("1-d", "tiny", (2, 4, 40), (6, 2, 5), stride=2, padding=2, groups=2),
    Layer("3-d", "tiny", (1, 4, 4, 5, 6), (3, 4, 3, 3, 3), padding=1, only_format="channels_last"),
    Layer("transposed", "tiny", (2, 4, 5, 6), (4, 3, 3, 3), 2, 1, output_padding=1, transposed=True),
    Layer("1-d transposed", "tiny", (2, 4, 9), (4, 3, 4), 2, 1, transposed=True),
]
each_layer = pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.name)


@each_layer
@pytest.mark.parametrize("what", paths.READS)
def test_all_paths_compute_the_same(layer, what):
    for format, operands in layer.operands(torch.float32).items():
        found = paths.paths(layer, format, what, operands, (*paths.ALGORITHMS, "im2col"))
        with torch.no_grad():
            results = {name: run() for name, run in found.items() if paths.path_of(run) is not None}
        assert {"auto", "implicit_gemm", "direct"} < results.keys()
        for result in results.values():
            torch.testing.assert_close(
                result.reshape(results["auto"].shape), results["auto"], atol=1e-4, rtol=1e-4
            )


@each_layer
def test_a_row_for_each_pass_and_format_says_what_auto_loses(layer):
    for format in layer.formats():
        for what in paths.READS:
            row = paths.path_row(layer, format, what, TINY)
            times = {name: row["milliseconds"][name] for name in row["routes"]}
            assert row["loss"] == times["auto"] / min(times.values()) >= 1
            assert times[row["fastest"]] == min(times.values())
            assert paths.VIA not in row["fastest_in_layout"]
            assert row["loss_in_layout"] <= row["loss"]
            assert row["row"] == layer.route(what, format).row
            assert row["routes"]["auto"] == layer.route(what, format).path
            assert json.loads(json.dumps(row))["sizes"]["input"] == list(layer.input)


def test_an_algorithm_that_does_not_serve_has_no_time():
    rows = [paths.path_row(layer, "NCHW", "forward", TINY) for layer in LAYERS[:2]]
    assert ["winograd" in row["routes"] for row in rows] == [True, False]


def test_a_path_with_two_names_has_one_time():
    row = paths.path_row(LAYERS[0], "NCHW", "forward", TINY)
    assert row["routes"]["auto"] == "winograd"
    assert row["milliseconds"]["auto"] == row["milliseconds"]["winograd"]
    assert row["milliseconds"]["winograd via channels_last"] != row["milliseconds"]["winograd"]


def test_small_maps_run_without_being_transposed_too():
    row = paths.path_row(LAYERS[1], "NCHW", "forward", TINY)
    assert row["routes"]["auto"].startswith("transposed > ")
    assert not row["routes"][paths.UNTRANSPOSED].startswith("transposed > ")
    assert paths.UNTRANSPOSED not in paths.path_row(LAYERS[2], "NCHW", "forward", TINY)["routes"]


def test_other_errors_are_not_taken_for_an_algorithm_that_does_not_serve():
    def run():
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        paths.path_of(run)


def test_seeds_are_of_random_layers_and_sets_of_the_benchmarks():
    def drawn(**more):
        return [(seed, layer.set) for seed, layer in paths.layers(SurveyOptions(count=2, **more))]

    assert drawn(seeds=(4, 5)) == [(4, "random 4")] * 2 + [(5, "random 5")] * 2
    assert drawn(seeds=(4,), names=("lenet c3",)) == [(None, "lenet"), (4, "random 4"), (4, "random 4")]
    assert {name for _, name in drawn()} == set(convolution.SETS)
    with pytest.raises(ValueError, match="expected convolution or conv_transpose, got 'linear'"):
        drawn(operation="linear")


def made_up(loss: float, what: str = "forward", row: str = "band", fastest: str = "winograd") -> dict:
    return {
        "layer": "a layer", "pass": what, "format": "NCHW", "row": row, "fastest": fastest,
        "routes": {"auto": "band"}, "milliseconds": {"auto": loss}, "loss": loss, "ratio": 0.9,
        "loss_in_layout": min(loss, 1.5), "best_ratio": 0.9 * loss, "spread": 0.0,
    }  # fmt: skip


def test_the_end_counts_by_pass_and_row_of_the_rule_and_lists_the_worst():
    rows = [made_up(1.0), made_up(2.0), made_up(1.02, "input gradient", "products")]
    lines = paths.ending(rows)
    text = "\n".join(lines)
    (all_rows,) = (line.split() for line in lines if line.startswith("all "))
    assert all_rows == ["all", "3", "67%", "1.15", "1.50", "3", "67%", "1.27", "2.00", "winograd", "1"]
    (band,) = (line.split() for line in lines if line.startswith("forward, band "))
    assert band[2:4] == ["2", "50%"]
    assert "Slower than 0.95 of torch: 3 rows with auto, 2 with the fastest path." in text
    assert len([line for line in lines if line.startswith("a layer")]) == 1


def test_the_command_writes_what_it_prints(tmp_path, capsys):
    out = tmp_path / "paths.json"
    shapes = tmp_path / "mine.json"
    shapes.write_text(json.dumps({"m": {"input": [1, 2, 6, 6], "weight": [2, 2, 3, 3]}}))
    command = ["bench", "paths", "--shapes", str(shapes), "--quick", "--rounds", "1", "--im2col"]
    assert cli.main([*command, "--out", str(out)]) == 0
    assert capsys.readouterr().out.count("\nm  ") >= 6
    written = json.loads(out.read_text())
    assert written["survey"] == "paths"
    assert [row["routes"]["im2col"] for row in written["rows"]] == ["im2col"] * 6
    assert cli.main(["bench", "paths", "--operation", "linear"]) == 2
    assert "operation: expected convolution" in capsys.readouterr().err
