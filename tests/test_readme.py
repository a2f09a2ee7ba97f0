"""Every snippet of README and docs runs."""

import re
import shlex
from pathlib import Path

import pytest

from cnn_ext import cli

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def snippets(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_runs_from_top_to_bottom(page):
    namespace: dict = {}
    for snippet in snippets(page, "python"):
        exec(compile(snippet, str(page), "exec"), namespace)


def commands() -> list[list[str]]:
    lines = "".join(snippets(ROOT / "README.md", "console")).splitlines()
    return [shlex.split(line.removeprefix("$ "), comments=True) for line in lines]


def test_the_readme_has_the_snippets_that_the_tests_run():
    assert len(snippets(ROOT / "README.md", "python")) >= 4
    assert [command[0] for command in commands()] == ["make", "make", "python"]


def test_every_make_target_exists():
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {command[1] for command in commands() if command[0] == "make"} <= targets


def test_every_command_of_ours_runs(capsys):
    for command in commands():
        if command[:3] == ["python", "-m", "cnn_ext"]:
            assert cli.main(command[3:]) == 0


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_that_is_named_exists(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        assert target.startswith("http") or (page.parent / target).exists(), target
