"""The fit of a cost model and the comparison of two builds, on made-up figures. No times."""

import json
import sys

import pytest
import torch

from cnn_ext.bench.convolution import Layer
from cnn_ext.bench.random_layers import layers
from tools import compare_builds, fit_cost_model

SLOW = {"implicit_gemm": [1.0, 0.0, 0.0, 2.0, 100.0], "direct": [3.0, 0.0, 0.0, 0.0, 0.0]}


def path_rows(seed: int, count: int) -> list[dict]:
    """Rows of `bench paths` on a machine whose times are a model's; `auto` always takes products."""
    rows = []
    for _, layer in layers([seed], count):
        times = {}
        for path, coefficients in SLOW.items():
            facts = fit_cost_model.features(layer.sizes(), "forward", path)
            times[path] = sum(a * b for a, b in zip(coefficients, facts, strict=True))
        times["auto"] = times["implicit_gemm"]
        rows.append({
            "pass": "forward", "format": "NCHW", "sizes": layer.sizes(), "seed": seed,
            "routes": dict.fromkeys(times, ""), "milliseconds": times,
            "loss": times["auto"] / min(times.values()),
        })  # fmt: skip
    return rows


def test_a_fit_finds_the_coefficients_and_none_is_negative():
    samples = [([x, y, 1.0], 2 * x + 0.5) for x, y in ((1, 9), (2, 3), (4, 1), (9, 4))]
    expected = torch.tensor([2, 0, 0.5], dtype=torch.double)
    torch.testing.assert_close(fit_cost_model.fit(samples), expected)
    falling = [([x, 1.0], 10.0 - x) for x in (1.0, 2.0, 3.0)]
    assert fit_cost_model.fit(falling)[0] == 0


def test_features_count_products_patches_and_bytes():
    sizes = Layer("", "", (2, 8, 6, 6), (4, 8, 3, 3), padding=1).sizes()
    products, elements = 2 * 36 * 4 * 8 * 9, 2 * 8 * 36 + 2 * 4 * 36 + 4 * 8 * 9
    found = fit_cost_model.features(sizes, "forward", "implicit_gemm")
    assert found == [products / 1e6, 4 * products / 1e6, products / 4e6, 4 * elements / 1e6, 1.0]
    assert fit_cost_model.features(sizes, "input gradient", "direct")[1] == 2 * products / 1e6
    tiles = fit_cost_model.features(sizes, "forward", "winograd via channels_last")
    assert tiles[0] == 2 * 4 * 36 * 4 * 8 / 1e6  # two by two tiles of 4 x 4
    up = Layer("", "", (2, 4, 6, 6), (4, 8, 3, 3), padding=1, transposed=True).sizes()
    assert fit_cost_model.features(up, "input gradient", "direct") == found


def test_a_model_that_is_right_loses_nothing_on_other_seeds(tmp_path, monkeypatch, capsys):
    file, out = tmp_path / "paths.json", tmp_path / "model.json"
    file.write_text(json.dumps({"rows": path_rows(0, 30) + path_rows(1, 30)}))
    arguments = ["fit_cost_model", str(file), "--fit", "0", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", arguments)
    fit_cost_model.main()
    lines = capsys.readouterr().out.splitlines()
    (others,) = (line.split() for line in lines if line.startswith("other seeds, all"))
    assert others[3] == others[7] == "30"
    assert others[8:] == ["100%", "1.00", "1.00"]
    assert others[4] != "100%"
    assert json.loads(out.read_text())["forward, NCHW, direct"]["products"] == pytest.approx(3)


def test_seeds_that_are_not_in_the_files_are_an_error(tmp_path, monkeypatch, capsys):
    file = tmp_path / "paths.json"
    file.write_text(json.dumps({"rows": path_rows(0, 2)}))
    monkeypatch.setattr(sys, "argv", ["fit_cost_model", str(file), "--fit", "9"])
    with pytest.raises(SystemExit, match="2"):
        fit_cost_model.main()
    assert "expected some of the seeds in these files, [0], got [9]" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("olds", "slower"), [([0.9, 0.9, 0.9], True), ([0.9, 1.0], False), ([0.95], False)]
)
def test_a_row_is_slower_if_it_is_in_three_runs(olds, slower):
    layer = Layer("a layer", "tiny", (1, 1, 5), (1, 1, 3))
    times = iter([*olds, *[1.0] * 9])
    rows = list(compare_builds.rows(iter([layer]), lambda *_: {"old": next(times), "new": 1.0}))
    assert [row["pass"] for row in rows] == ["forward", "input gradient", "weight gradient"]
    assert rows[0]["ratios"] == olds
    assert rows[0]["ratio"] == olds[0]
    assert compare_builds.is_slower(rows[0]) is slower
    text = "\n".join(compare_builds.ending(rows))
    assert f"Below 0.93 in 3 runs of 3: {int(slower)} of 3 rows" in text
    assert ("below 0.99" in text) is (olds[0] < 0.99)


def test_a_build_is_not_compared_with_itself(monkeypatch):
    monkeypatch.setattr(torch.ops, "load_library", lambda path: None)
    with pytest.raises(ValueError, match="its calls run this build's code"):
        compare_builds.load("old.so", "cnn_ext")
    with pytest.raises(ValueError, match="expected operations called nobody::convolution"):
        compare_builds.load("old.so", "nobody")
