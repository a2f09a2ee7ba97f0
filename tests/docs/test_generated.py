"""Pages that are generated: the tables of benchmarks, the gallery of notebooks, the command line."""

import base64
import json

import command_line
import gallery
import operations
import performance
import pytest

from cnn_ext import cli
from cnn_ext.operations import OPERATIONS
from tests.docs.conftest import ROOT

MACHINE = {"capability": "avx2", "threads": 2, "torch": "2.15.0"}
BY_PASS = {
    "layer": "C1",
    "forward": {"ours_ms": 2.0, "torch_ms": 3.0, "ours_gflops": 9.0, "ratio": 1.5},
    "weight gradient": {"ours_ms": 4.0, "torch_ms": 1.0, "ours_gflops": 9.0, "ratio": 0.25},
}
PLAIN = {
    "shape": [16, 3, 8, 8],
    "milliseconds": {"ours": 2.0, "eager": 8.0, "compiled": 1.98, "clone": 1.0, "moments": 5.0},
    "relative_rms_error": 9.1e-8,
}
NEWER = [
    {"operation": "networks", "network": "LeNet-5", "pass": what, "format": "NCHW", "dtype": "float32",
     "milliseconds": {"ours": 2.0, "eager": eager, "onnxruntime": 1.0}, "ratio": eager / 2.0}
    for what, eager in (("inference", 5.0), ("training", 1.0))
]  # fmt: skip


@pytest.mark.parametrize(
    ("rows", "cells"),
    [
        ([BY_PASS], ["C1", "2", "[1.5]{.faster}", "4", "[0.25]{.slower}"]),
        ([PLAIN], ["16×3×8×8", "2", "[4]{.faster}", "[0.99]{.tie}", "2", "9.1e-08"]),
        (NEWER, ["LeNet-5", "NCHW", "2", "[2.5]{.faster}", "[0.5]{.slower}",
                 "2", "[0.5]{.slower}", "[0.5]{.slower}"]),
    ],
    ids=["by pass", "plain", "newer"],
)  # fmt: skip
def test_passes_become_a_line_whichever_way_they_are_written(rows, cells):
    merged = performance.merged(map(performance.read, rows))
    heading, rule, line = performance.table(merged).splitlines()
    assert [cell.strip() for cell in line.strip("|").split(" | ")] == cells
    assert heading.count("|") == rule.count("|") == line.count("|")


def test_losses_are_counted_as_wins_are():
    found = performance.measurements(map(performance.read, [BY_PASS, PLAIN, *NEWER]))
    ratios = [ratio for _, ratio in found]
    assert ratios == [1.5, 0.25, 0.99, 2.5, 0.5]  # to the best of torch's ways, not to its rivals
    verdict = performance.verdict(ratios)
    assert "5 measurements against the fastest of torch's ways" in verdict
    assert "2 faster, 1 within 5 %, 2 slower" in verdict
    assert "From 0.25 to 2.5 times as fast" in verdict


def test_the_picture_has_a_dot_for_each_measurement():
    picture = performance.picture([("a", 1.5), ("b", 0.25), ("c", 1.0)])
    for kind in ("faster", "slower", "tie"):
        assert picture.count(f'class="{kind}"') == 1
    assert "<title>b: 0.25</title>" in picture


def test_a_row_without_times_is_an_error_and_not_left_out():
    with pytest.raises(ValueError, match="expected milliseconds by contender"):
        performance.read({"layer": "C1", "gflops": 3.0})


def test_every_result_there_is_becomes_a_section(tmp_path, monkeypatch):
    page = performance.markdown()
    for file in ROOT.glob("benchmarks/results/*.json"):
        assert f"[{file.name}](../benchmarks/results/{file.name})" in page
    results = {"machine": MACHINE, "rows": [PLAIN]}
    (tmp_path / "2027-01-31-some-machine-color_pca.json").write_text(json.dumps(results))
    monkeypatch.setattr(performance, "RESULTS", tmp_path)
    page = performance.markdown()
    assert page.startswith(
        "## Colour PCA\n\n### some machine, 2027-01-31\n\ncapability avx2, threads 2"
    )


def test_goals_come_first_whether_they_are_met_or_not(tmp_path, monkeypatch):
    goals = [
        {"goal": f"goal {met}", "wanted": "mean ≥ 3", "measured": "…", "rows": 1, "met": met}
        for met in (True, False, None)
    ]
    facts = {**MACHINE, "processor": "Some processor", "date": "2027-02-28"}
    results = {"machine": facts, "complete": False, "rows": NEWER, "goals": goals}
    (tmp_path / "2027-02-28-some-all.json").write_text(json.dumps(results))
    monkeypatch.setattr(performance, "RESULTS", tmp_path)
    page = performance.markdown()
    assert page.startswith("## Goals\n\n### Some processor, 2027-02-28\n\nOnly a part")
    assert page.index("goal None") < page.index("## Whole networks")
    assert page.count("[met]{.faster}") == page.count("[not met]{.slower}") == 1


def test_the_gallery_shows_title_paragraph_and_first_picture(tmp_path, monkeypatch):
    png = base64.b64encode(b"a picture").decode()
    cells = [
        {"source": ["# A title\n", "\n", "What it is\n", "about.\n", "\n", "Not this."]},
        {"source": ["draw()"], "outputs": [{"text": "1"}, {"data": {"image/png": png}}]},
    ]
    for name, number in (("02_b", 2), ("01_a", 1)):
        (tmp_path / f"{name}.ipynb").write_text(json.dumps({"cells": cells[:number]}))
    monkeypatch.setattr(gallery, "NOTEBOOKS", tmp_path)
    monkeypatch.setattr(gallery, "PICTURES", tmp_path)
    page = gallery.markdown()
    assert page.index("[A title](notebooks/01_a.ipynb)") < page.index("[A title](notebooks/02_b.ipynb)")
    assert "What it is about." in page
    assert "Not this" not in page
    assert (tmp_path / "02_b.png").read_bytes() == b"a picture"
    assert not (tmp_path / "01_a.png").exists()


def test_the_pages_of_operations_are_listed_in_the_order_of_the_registry():
    pages = [o.name for o in OPERATIONS if (ROOT / "docs" / f"{o.name}.md").exists()]
    assert pages[0] == "convolution"
    assert operations.markdown().splitlines()[4:-1] == pages


def test_the_command_line_page_has_every_command_and_every_option(capsys):
    page = command_line.markdown()
    with pytest.raises(SystemExit):
        cli.main(["train", "--help"])
    options = {word.strip(",[]") for word in capsys.readouterr().out.split() if word.startswith("--")}
    assert "## train" in page
    assert all(f"`{option}" in page for option in options - {"--help"})
    assert ": \n" not in page + "\n"  # each is explained
