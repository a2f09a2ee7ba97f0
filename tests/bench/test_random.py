"""Random layers: what is drawn, the rows and tables of `bench random`. No times."""

import itertools
import json
from pathlib import Path

import pytest
import torch

from cnn_ext import cli, functional
from cnn_ext.bench import random_layers, random_rows, survey
from cnn_ext.bench.survey import SurveyOptions

RECORDED = json.loads((Path(__file__).parent / "random_layers.json").read_text())
QUICK = SurveyOptions(seeds=(3,), count=1, quick=True, rounds=1)


@pytest.fixture
def small(monkeypatch):
    """Draws of layers that take no time."""
    monkeypatch.setattr(random_layers, "CHANNELS", [4, 8])
    monkeypatch.setattr(random_layers, "CELLS", {1: [20], 2: [7, 9], 3: [4, 5]})
    monkeypatch.setattr(random_layers, "FEATURES", [10, 16, 64])
    monkeypatch.setattr(random_layers, "LEAST_PRODUCTS", 0)


@pytest.mark.parametrize("seed", range(4))
def test_a_seed_gives_the_layers_that_it_always_gave(seed):
    drawn = itertools.islice(random_layers.convolutions(seed), 20)
    assert [list(layer) for layer in drawn] == RECORDED["convolutions"][seed]


@pytest.mark.parametrize("kind", ["transposed_convolutions", "dense_layers", "pools"])
def test_so_it_does_for_other_operations(kind):
    drawn = itertools.islice(getattr(random_layers, kind)(0), 10)
    assert [list(layer) for layer in drawn] == RECORDED[kind]


def test_convolutions_fit_their_name():
    for seed, layer in random_layers.layers([0, 5], 200):
        axes, cells = len(layer.input) - 2, layer.output_size()
        assert layer.set == f"random {seed}"
        assert 4e6 < layer.flops() < 8e9
        assert list(layer.formats()) == [layer.only_format]
        assert layer.only_format == "NCHW" or axes > 1
        if layer.stride == 1 and layer.weight[-1] % 2:
            assert cells[2:] == layer.input[2:]


def test_a_transposed_convolution_enlarges_by_its_stride():
    for _, layer in random_layers.layers([0], 200, transposed=True):
        wanted = [layer.stride * length for length in layer.input[2:]]
        assert list(layer.output_size()[2:]) == wanted, layer


def test_no_draw_depends_on_how_many_are_wanted():
    for draws in (random_layers.dense_layers, random_layers.pools, random_layers.convolutions):
        first, *_ = itertools.islice(draws(7), 50)
        assert next(draws(7)) == first
        assert next(draws(8)) != first


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("operation", survey.OPERATIONS)
def test_ours_and_torchs_compute_the_same(operation):
    options = SurveyOptions(operation=operation, count=6)
    for case in random_rows.cases(0, options):
        for what in random_rows.PASSES:
            torch.manual_seed(0)
            ours = random_rows._call(case.ours, case.tensors, what)()
            torch.manual_seed(0)
            theirs = random_rows._call(case.eager, case.tensors, what)()
            torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=1e-3)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("operation", survey.OPERATIONS)
def test_each_layer_has_two_rows_that_json_holds(operation):
    rows = list(random_rows.rows(SurveyOptions((), (), 1, True, seeds=(1, 2), operation=operation,
                                               count=2)))  # fmt: skip
    assert [(row["seed"], row["pass"]) for row in rows] == [
        (seed, what) for seed in (1, 2) for _ in range(2) for what in ("forward", "gradients")
    ]
    for row in rows:
        assert row["operation"] == operation
        assert row["ratio"] == row["milliseconds"]["eager"] / row["milliseconds"]["ours"]
    assert json.loads(json.dumps(rows)) == rows


@pytest.mark.usefixtures("small")
def test_a_row_of_a_convolution_says_which_way_each_pass_took():
    forward, gradients = random_rows.rows(QUICK)
    assert forward["routes"].keys() == {"forward"}
    assert gradients["routes"].keys() == {"input gradient", "weight gradient"}
    _, layer = next(random_layers.layers([3], 1))
    for what, way in {**forward["routes"], **gradients["routes"]}.items():
        rule, path = way.split(": ", 1)
        route = layer.route(what, layer.only_format)
        assert (route.row, route.path) == (rule, path)
        assert rule in {row[0] for row in functional.algorithm._C.convolution_rule()}


def made_up(ratio: float, eager: float, what: str = "forward", **more) -> dict:
    return {
        "layer": "a layer", "kinds": ["stride 1", "NCHW"], "pass": what, "format": "NCHW",
        "routes": {"forward": "band: band"} if what == "forward" else {}, "ratio": ratio,
        "milliseconds": {"ours": eager / ratio, "eager": eager}, "spread": 0.0, **more,
    }  # fmt: skip


def test_the_table_has_median_fifth_percentile_worst_and_the_slow():
    ratios = [0.5 + 0.05 * i for i in range(21)]
    rows = [made_up(ratio, 1.0) for ratio in ratios] + [made_up(0.7, 1.0, "gradients")]
    lines = random_rows.ending(rows)
    (row_of_all,) = (line.split() for line in lines if line.startswith("all "))
    assert row_of_all[1:] == ["21", "1.00", "0.55", "0.50", "6", "1", "0.70", "0.70", "0.70", "1"]
    assert any(line.startswith("forward, band: band ") for line in lines)
    assert random_rows.line(rows[0]).split()[:3] == ["a", "layer", "forward"]
    assert random_rows.line(rows[-2]) is None


def test_small_rows_are_in_microseconds_and_in_no_ratio():
    rows = [made_up(0.5, 0.01), made_up(2.0, 1.0)]
    lines = random_rows.ending(rows)
    assert [line.split()[1] for line in lines if line.startswith("all ")] == ["1"]
    (small,) = (line.split() for line in lines if line.startswith("a layer"))
    assert small == ["a", "layer", "forward", "20.0", "10.0", "10.0"]
    assert random_rows.line(rows[0]) is None


def test_numbers_are_sorted_as_numbers():
    kinds = ["stride 4", "kernel 11", "kernel 3", "NCHW"]
    assert sorted(kinds, key=random_rows._order) == ["NCHW", "kernel 3", "kernel 11", "stride 4"]


def test_a_run_that_is_stopped_keeps_its_rows(tmp_path):
    def rows():
        yield made_up(1.0, 1.0)
        raise KeyboardInterrupt

    out = tmp_path / "random.json"
    found = survey.Survey({"threads": 1}, complete=False, what="random")
    with pytest.raises(KeyboardInterrupt):
        list(found.collected(rows(), out))
    written = json.loads(out.read_text())
    assert (len(written["rows"]), written["complete"]) == (1, False)


@pytest.mark.usefixtures("small")
def test_the_command_prints_the_table_and_writes_json(tmp_path, capsys):
    out = tmp_path / "figures" / "random.json"
    command = ["bench", "random", "--seed", "1", "2", "--count", "2", "--quick", "--rounds", "1"]
    assert cli.main([*command, "--out", str(out)]) == 0
    assert "times as fast as torch" in capsys.readouterr().out
    written = json.loads(out.read_text())
    assert (written["survey"], written["complete"], len(written["rows"])) == ("random", True, 8)
    assert {"processor", "threads", "torch"} <= written["machine"].keys()
    assert "goals" not in written


def test_the_command_line_knows_the_surveys_and_their_operations():
    assert tuple(survey.SURVEYS) == cli.SURVEYS
    (bench,) = (a.choices["bench"] for a in cli.parser()._actions if a.choices)
    (operation,) = (a for a in bench._actions if a.dest == "operation")
    assert tuple(operation.choices) == survey.OPERATIONS


def test_no_benchmark_draws_layers(capsys):
    assert cli.main(["bench", "linear", "--seeds", "1"]) == 2
    assert "seeds: of random and paths alone, got 'linear'" in capsys.readouterr().err


def test_random_layers_have_no_names_and_no_picture(capsys):
    assert cli.main(["bench", "random", "--layers", "LeNet C1"]) == 2
    assert "layers: expected none, for random layers are drawn, got LeNet C1" in capsys.readouterr().err
    assert cli.main(["bench", "random", "--picture", "p.png"]) == 2
    assert "picture: of the benchmarks alone, got 'random'" in capsys.readouterr().err
