"""What every notebook has: an aim, a setup, three exercises, the outputs of one run from the top."""

import json
import re

import pytest

from tests.notebooks.exercises import NOTEBOOKS, cells, run

every_notebook = pytest.mark.parametrize(
    "name", sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb"))
)


def code_cells(name):
    return [cell for cell in cells(name) if cell["cell_type"] == "code"]


def printed(cell):
    return "".join("".join(out["text"]) for out in cell["outputs"] if out["output_type"] == "stream")


@every_notebook
def test_it_opens_with_what_the_reader_will_be_able_to_do(name):
    first = cells(name)[0]
    assert first["cell_type"] == "markdown"
    assert first["source"].startswith("# ")
    _, after = first["source"].split("**After this notebook you can**")
    assert 3 <= len(re.findall(r"^- ", after, re.MULTILINE)) <= 5


@every_notebook
def test_it_ends_with_three_exercises(name):
    headings = [
        line
        for cell in cells(name)
        if cell["cell_type"] == "markdown"
        for line in cell["source"].splitlines()
        if line.startswith("## ")
    ]
    assert headings[-1] == "## Exercises"
    tags = [tag for cell in code_cells(name) for tag in cell["metadata"].get("tags", ())]
    assert "setup" in tags
    assert [tag for tag in tags if tag.startswith(("exercise-", "check-"))] == [
        "exercise-1", "check-1", "exercise-2", "check-2", "exercise-3", "check-3",
    ]  # fmt: skip


@every_notebook
def test_its_exercises_wait_for_an_answer(name):
    checks = [
        c
        for c in code_cells(name)
        if {"check-1", "check-2", "check-3"} & set(c["metadata"].get("tags", ()))
    ]
    assert [printed(cell).strip() for cell in checks] == ["not answered yet"] * 3


@every_notebook
def test_its_outputs_are_those_of_one_run_from_top_to_bottom(name):
    counts = [cell["execution_count"] for cell in code_cells(name)]
    assert counts == list(range(1, len(counts) + 1))
    outputs = [output for cell in code_cells(name) for output in cell["outputs"]]
    assert all(output["output_type"] != "error" for output in outputs)
    assert [printed({"outputs": [o]}) for o in outputs if o.get("name") == "stderr"] == []


@every_notebook
def test_it_asserts_and_draws(name):
    sources = "\n".join(cell["source"] for cell in code_cells(name))
    assert len(re.findall(r"\bassert(?:_close)?\b", sources)) >= 10
    pictures = [
        o for cell in code_cells(name) for o in cell["outputs"] if "image/png" in o.get("data", {})
    ]
    assert len(pictures) >= 2


@every_notebook
def test_it_is_small_names_no_machine_and_knows_no_python_version(name):
    path = NOTEBOOKS / f"{name}.ipynb"
    assert path.stat().st_size < 1_000_000
    notebook = json.loads(path.read_text())
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    assert "version" not in notebook["metadata"].get("language_info", {})
    text = "\n".join(line for line in path.read_text().splitlines() if '"image/png"' not in line)
    assert not re.search(r"/(?:tmp|work|root|home|usr)/", text)


@every_notebook
def test_every_file_that_it_links_to_exists(name):
    for cell in cells(name):
        if cell["cell_type"] == "markdown":
            for target in re.findall(r"\]\(([^)#]+)\)", cell["source"]):
                assert target.startswith("http") or (NOTEBOOKS / target).exists(), target


def test_an_exercise_that_a_notebook_has_not_is_named():
    with pytest.raises(LookupError, match="expected one code cell with the tag 'exercise-4'"):
        run("01_convolution", 4)
