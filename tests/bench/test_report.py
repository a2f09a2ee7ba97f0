"""Turns, ratios, goals, tables and pictures of the benchmark, from made-up figures."""

import json
import math
import re
import tomllib
from pathlib import Path

import pytest
import torch

from cnn_ext import bench, cli
from cnn_ext.bench import convolution, goals, report, timing
from cnn_ext.bench.options import Options, shapes
from cnn_ext.bench.report import Report

MACHINE = {"processor": "an abacus", "threads": 2, "load": 0.0, "peak_gflops": 100.0}


def row(layer: str, what: str = "forward", ratio: float = 2.0, **more) -> dict:
    return {
        "operation": "convolution", "layer": layer, "set": "vgg", "family": "3 x 3 from 64 channels",
        "pass": what, "format": "NCHW", "dtype": "float32", "algorithm": "winograd",
        "milliseconds": {"ours": 1.0, "eager": ratio}, "ratio": ratio, "ratio_any_format": ratio,
        "gflops": 90.0, "torch_gflops": 90 / ratio, "spread": 0.01, **more,
    }  # fmt: skip


def test_contenders_take_turns_and_their_first_calls_are_not_timed(monkeypatch):
    clock = iter(range(10**6))
    monkeypatch.setattr(timing.time, "perf_counter", lambda: float(next(clock)))
    calls = []
    contenders = {name: lambda name=name: calls.append(name) for name in "ab"}
    timed = timing.turns(contenders, rounds=3, seconds=0)
    assert "".join(calls) == "aabbbbaaaabb"  # a second is more than enough to warm up
    assert timed.milliseconds == {"a": 1000.0, "b": 1000.0}
    assert timed.spread == 0


def test_quick_contenders_have_more_turns():
    calls = []
    timing.turns({"a": lambda: calls.append(0)}, rounds=1, seconds=0.2)
    assert len(calls) == (timing.WARMING + 1) * 101


def test_a_median_does_not_see_one_slow_turn_and_the_spread_sees_many(monkeypatch):
    def timed(durations: list[float]) -> timing.Timed:
        moments = [0.0, *(t for d in durations for t in (0.0, 1.0, 0.0, d)), 0.0]  # one call to warm up
        monkeypatch.setattr(timing.time, "perf_counter", iter(moments).__next__)
        return timing.turns({"a": lambda: None}, rounds=len(durations), seconds=0)

    once = timed([1.0, 1.0, 9.0, 1.0, 1.0])
    assert once.milliseconds == {"a": 1000.0}
    assert once.spread == 0
    assert timed([1.0, 2.0, 1.0, 2.0, 1.5]).spread > timing.BUSY


def test_ratios_are_to_the_best_of_torch_and_to_nothing_else():
    times = {"ours": 2.0, "eager": 8.0, "compiled": 6.0, "clone": 0.1, "albumentations": 1.0}
    assert timing.ratio(times) == 3.0


def test_formats_are_sorted_and_the_best_of_each_side_is_found():
    times = {"ours NCHW": 4.0, "eager NCHW": 8.0, "compiled NCHW": 3.0, "ours channels_last": 2.0,
             "eager channels_last": 5.0}  # fmt: skip
    found = timing.by_format(timing.Timed(times, 0.0))
    assert found["NCHW"] == ({"ours": 4.0, "eager": 8.0, "compiled": 3.0}, 1.5)
    assert found["channels_last"] == ({"ours": 2.0, "eager": 5.0}, 1.5)


def test_the_processor_is_called_what_it_calls_itself(tmp_path):
    file = tmp_path / "cpuinfo"
    file.write_text("processor : 0\nmodel name\t: Abacus 3000: gold\nmodel name\t: another\n")
    assert timing.processor(file) == "Abacus 3000: gold"
    assert timing.processor(tmp_path / "nothing")


def test_a_peak_is_measured_and_the_machine_is_described():
    machine = timing.machine(timing.peak_gflops((64,)))
    assert machine["peak_gflops"] > 0
    assert machine["threads"] == torch.get_num_threads()
    assert machine.keys() == {
        "processor", "capability", "threads", "torch", "date", "load", "peak_gflops",
    }  # fmt: skip


def find(name: str, rows: list[dict], threads: int = 2) -> goals.Verdict:
    (verdict,) = (v for v in goals.verdicts(rows, threads) if v.goal == name)
    return verdict


FORWARD = "3 x 3 at stride 1, from 64 channels: forward"


@pytest.mark.parametrize(
    ("ratios", "met"),
    [([2.5, 2.5], True), ([2.0, 3.2], True), ([2.0, 3.1], False), ([1.7, 9.0], False)],
    ids=["just", "mean above", "mean below", "one layer below"],
)
def test_a_goal_is_a_mean_and_a_least(ratios, met):
    rows = [row(f"VGG {i}", ratio=ratio) for i, ratio in enumerate(ratios)]
    verdict = find(FORWARD, rows)
    assert (verdict.met, verdict.rows) == (met, 2)
    assert verdict.wanted == "mean ≥ 2.5, each ≥ 1.8"
    assert (
        f"mean {math.sqrt(math.prod(ratios)):.3g}, least {min(ratios):.3g} (VGG 0)" == verdict.measured
    )


def test_a_goal_speaks_of_its_rows_only():
    rows = [
        row("VGG 1_2", ratio=3.0),
        row("VGG 1_2", ratio=0.1, dtype="bfloat16"),
        row("VGG 1_2", ratio=0.1, what="training"),
        row("ResNet-50 conv1", ratio=0.1, family="other"),
    ]
    assert find(FORWARD, rows).met is True
    assert find("any other convolution: forward", rows).met is False


def test_a_goal_that_was_not_measured_says_so():
    verdict = find(FORWARD, [])
    assert (verdict.met, verdict.measured, verdict.rows) == (None, "not measured", 0)


def test_ratios_within_a_format_stand_beside_the_verdict():
    rows = [row("a", ratio=3.0), row("a", ratio=2.0, format="channels_last")]
    assert find(FORWARD, rows).same_format == {
        "NCHW": pytest.approx(3.0),
        "channels_last": pytest.approx(2.0),
    }


def test_memory_is_counted_by_thread_beside_the_weights():
    memory = {"workspace_mib": 30.0, "workspace_twice_mib": 30.5, "weights_mib": 10.0,
              "error": 4e-7, "implicit_gemm_error": 3e-7, "torch_error": 1e-7}  # fmt: skip
    rows = [row("VGG 5_1", **memory)]
    name = "workspace beside transformed weights, MiB per thread, at twice the batch"
    assert find(name, rows, threads=2).measured == "most 10.2 (VGG 5_1)"
    assert find(name, rows, threads=2).met is False
    assert find(name, rows, threads=4).met is True
    assert find("workspace that comes with twice the batch, MiB", rows).met is True
    assert find("relative rms error against float64, of the networks' layers", rows).met is True
    assert find("the same without Winograd, over torch's error", rows).met is False


def test_copies_are_counted_in_copies():
    facts = {"operation": "local_response_norm", "shape": [128, 96, 55, 55], "dtype": "float32",
             "memory": "beyond cache", "spread": 0.0}  # fmt: skip
    times = {"ours": 3.0, "eager": 60.0, "compiled": 9.0, "clone": 2.0}
    rows = [{**facts, "pass": "forward", "milliseconds": times}]
    assert find("LRN beyond cache: forward, in clones", rows).measured == "most 1.5 (128x96x55x55)"
    assert find("LRN beyond cache: forward, in clones", rows).met is True
    assert find("LRN beyond cache: backward, in clones", rows).met is None
    assert find("LRN beyond cache: over torch.compile", rows).met is False


def test_every_goal_has_a_bound_and_speaks_of_something_that_is_measured():
    layers = convolution.layers(convolution.SETS)
    for goal in shapes("goals"):
        assert goal.keys() & {"mean_at_least", "each_at_least", "each_at_most"}
        where = goal["where"]
        if where["operation"] == "convolution" and "family" in where:
            assert any(layer.kind() == where["family"] for layer in layers.values()), goal
        if "network" in where:
            asked = where["network"] if isinstance(where["network"], list) else [where["network"]]
            assert set(asked) <= shapes("networks").keys()
        assert where.get("layer", "LeNet C3") in layers


def test_a_row_that_lost_is_printed_as_one_that_won():
    won, lost = report.line(row("a", ratio=2.5), 100.0), report.line(row("a", ratio=0.4), 100.0)
    assert "2.50" in won
    assert "0.40" in lost
    assert re.sub(r" *\d[\d.]*", "#", won) == re.sub(r" *\d[\d.]*", "#", lost)
    assert " 90%" in won
    assert "varies" not in won
    assert "(varies by 40%)" in report.line(row("a", spread=0.4), 100.0)


def test_the_end_counts_losses_lists_every_goal_and_warns_of_a_busy_machine():
    rows = [row("a", ratio=2.0), row("b", ratio=1.01), row("c", ratio=0.25, spread=0.5)]
    text = Report(MACHINE, True, rows).ending()
    assert (
        "3 rows against the best of torch in the same format: 1 faster, 1 within 5 %, 1 slower" in text
    )
    assert all(goal["goal"] in text for goal in shapes("goals"))
    assert "not met" in text
    assert "of 1 of 3 rows vary by more than 25%" in text
    assert "other work ran" not in Report(MACHINE, True, rows[:2]).ending()


def test_a_part_is_called_a_part():
    assert "of the part that was measured" in Report(MACHINE, False, [row("a")]).ending()
    assert "of the part that was measured" not in Report(MACHINE, True, [row("a")]).ending()


def test_json_has_machine_rows_and_goals_and_no_nan(tmp_path):
    file = tmp_path / "new" / "figures.json"
    Report(MACHINE, True, [row("a", error=math.nan)]).write(file)
    read = json.loads(file.read_text(), parse_constant=pytest.fail)
    assert read["machine"] == MACHINE
    assert read["complete"] is True
    assert read["rows"][0]["error"] is None
    assert [goal["goal"] for goal in read["goals"]] == [goal["goal"] for goal in shapes("goals")]


def test_the_picture_has_a_bar_for_each_row_and_a_line_at_one():
    rows = [row(layer, what, ratio, format=name)
            for layer in ("a", "b", "c") for what in ("forward", "training")
            for ratio, name in ((2.0, "NCHW"), (0.5, "channels_last"))]  # fmt: skip
    rows += [{**row("a"), "operation": "networks", "network": "VGG-16"}]
    rows += [{"operation": "color_pca", "pass": "fitting", "milliseconds": {"ours": 1.0}}]
    figure = Report(MACHINE, True, rows).plot()
    bars = [bar for ax in figure.axes for bar in ax.patches]
    assert len(bars) == 13  # fitting has no opponent
    ends = sorted(round(bar.get_x() + bar.get_width(), 6) for bar in bars)
    assert ends == [0.5] * 6 + [2.0] * 7
    assert all(bar.get_x() == 1 for bar in bars)
    assert all([line.get_xdata()[0] for line in ax.lines] == [1] for ax in figure.axes)
    assert [ax.get_title() for ax in figure.axes] == ["forward", "training", "forward"]


def test_the_command_prints_a_table_writes_json_and_draws(tmp_path, capsys):
    out, picture = tmp_path / "b.json", tmp_path / "pictures" / "b.png"
    command = ["bench", "convolution", "--layers", "lenet c5", "--quick", "--rounds", "1"]
    assert cli.main([*command, "--out", str(out), "--picture", str(picture)]) == 0
    printed = capsys.readouterr().out
    assert printed.count("\nLeNet C5  ") == 10
    assert "goals, of the part that was measured" in printed
    written = json.loads(out.read_text())
    assert len(written["rows"]) == 10
    assert written["complete"] is False
    assert picture.stat().st_size > 10_000


def test_json_is_all_that_is_printed_if_it_is_asked_for(tmp_path, capsys):
    shapes_of_mine = tmp_path / "mine.json"
    shapes_of_mine.write_text(json.dumps({"m": {"input": [1, 2, 6, 6], "weight": [2, 2, 3, 3]}}))
    before = torch.get_num_threads()
    command = ["bench", "convolution", "--shapes", str(shapes_of_mine), "--rounds", "1", "--json"]
    assert cli.main([*command, "--threads", "1", "--dtype", "bfloat16"]) == 0
    read = json.loads(capsys.readouterr().out)
    assert read["machine"]["threads"] == 1
    assert {(row["layer"], row["dtype"]) for row in read["rows"]} == {("m", "bfloat16")}
    assert torch.get_num_threads() == before


def test_an_unknown_layer_is_an_error_that_lists_the_known(capsys):
    assert cli.main(["bench", "all", "--layers", "VGG 1_2", "VGG 9"]) == 2
    message = capsys.readouterr().err
    assert "got 'VGG 9'" in message
    for known in ("VGG 1_2", "LeNet C1", "ResNet-18", "128x96x55x55"):
        assert known in message
    assert cli.main(["bench", "--shapes", "squeezenet"]) == 2
    assert "expected some of lenet" in capsys.readouterr().err


def test_only_what_was_named_runs():
    options = Options(names=("3x256x256", "lenet c5"), quick=True, rounds=1)
    rows = bench.run("all", options).rows
    assert {row["operation"] for row in rows} == {"convolution", "color_pca"}
    assert {goals.label(row) for row in rows} == {"LeNet C5", "3x256x256"}


def test_shapes_and_goals_are_installed_with_the_package():
    root = Path(__file__).parents[2]
    settings = tomllib.loads((root / "pyproject.toml").read_text())
    patterns = settings["tool"]["setuptools"]["package-data"]["cnn_ext"]
    found = {file for pattern in patterns for file in (root / "cnn_ext").glob(pattern)}
    assert found >= set((root / "cnn_ext" / "bench").rglob("*.json"))
    assert {f"{name}.json" for name in convolution.SETS} < {file.name for file in found}
