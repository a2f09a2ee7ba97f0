"""docs/adding_an_op.md is true: a copy of the tree gets an operation as the page says, and has it.

The operation is hard shrinkage, in tests/toy_operation/, laid out as the tree is. The copy is built by
setup.py. Its compiler takes objects from the build folder here where neither their source nor any
header of it differs, as ccache would; so a dozen files are compiled and not sixty.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TOY = Path(__file__).parent / "toy_operation"
PAGE = (ROOT / "docs" / "adding_an_op.md").read_text()
NAME = "hardshrink"
COPIED = ["benchmarks", "cnn_ext", "csrc", "docs", "tests", "tools"]
ALONE = ["Makefile", "conftest.py", "pyproject.toml", "setup.py", "README.md", ".clang-format"]
LEFT = shutil.ignore_patterns(
    "__pycache__", "*.so", "results", "images", "notebooks", "toy_operation", "*.ipynb"
)

COMPILER = """#!{python}
import json, os, shutil, sys
known = json.loads({known!r})
arguments = sys.argv[1:]
source = next((one for one in arguments if one in known), None)
if source is None:
    os.execvp("c++", ["c++", *arguments])
result = arguments[arguments.index("-o") + 1]
shutil.copyfile(known[source], result)
with open(arguments[arguments.index("-MF") + 1], "w") as dependencies:
    dependencies.write(result + ": " + source)
"""

FOUND = f"""
import json, sys
import torch
from torch.utils.flop_counter import FlopCounterMode
import cnn_ext
from cnn_ext import bench, doctor
from cnn_ext.operations import BENCHMARKS, named
from cnn_ext.receptive_field import follow
sys.path[:0] = ["docs/extensions", "."]
import operations, performance
from benchmarks.cuda.__main__ import SUBJECTS
from tests.cuda import test_emulated

def flops(model):
    with FlopCounterMode(display=False) as counter:
        model(torch.ones(1, 3, 8, 8)).sum().backward()
    return counter.get_total_flops()

theirs = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Hardshrink(0.25))
ours = cnn_ext.convert(theirs)
report = cnn_ext.compare(theirs, torch.ones(1, 3, 8, 8), rounds=1, progress=False)
rows = bench.run("{NAME}", bench.Options(names=("small",), quick=True)).rows
print(json.dumps({{
    "dispatcher": named("{NAME}").dispatched(),
    "ops": "HardshrinkFunction" in cnn_ext.ops.__all__ and cnn_ext.ops.HardshrinkFunction.__name__,
    "functional": "{NAME}" in cnn_ext.functional.__all__ and cnn_ext.functional.{NAME}.__module__,
    "nn": "Hardshrink" in cnn_ext.nn.__all__ and cnn_ext.nn.Hardshrink.__module__,
    "convert": type(ours[1]).__module__,
    "revert": type(cnn_ext.revert(ours)[1]).__module__,
    "compare": [(row.kind, row.algorithm, row.parts) for row in report.layers][1],
    "bench": ["{NAME}" in BENCHMARKS, rows[0]["operation"], rows[0]["layer"]],
    "doctor": ["{NAME}" in doctor.facts()[key] for key in ("operations", "kernels")],
    "receptive field": follow(ours, (3, 8, 8))["1"].size,
    "FLOPs": flops(ours) == flops(theirs) > 0,
    "pages": "\\n{NAME}\\n" in operations.markdown(),
    "headings": performance.named("{NAME}"),
    "CUDA": ["{NAME}" in test_emulated.SUBJECTS, "{NAME}" in SUBJECTS],
}}))
"""


EVERYWHERE = {
    "dispatcher": ["hardshrink", "hardshrink_backward"],
    "ops": "HardshrinkFunction",
    "functional": "cnn_ext.functional.hardshrink",
    "nn": "cnn_ext.nn.hardshrink",
    "convert": "cnn_ext.nn.hardshrink",
    "revert": "torch.nn.modules.activation",
    "compare": ["Hardshrink", "fused", False],
    "bench": [True, "hardshrink", "small"],
    "doctor": [True, True],
    "receptive field": [3, 3],
    "FLOPs": True,
    "pages": True,
    "headings": "hard shrinkage",
    "CUDA": [True, True],
}


def run(tree: Path, *command: str, **environment: str) -> subprocess.CompletedProcess:
    here = Path(sys.executable).parent
    return subprocess.run(
        command,
        env={**os.environ, "PATH": f"{os.environ['PATH']}{os.pathsep}{here}", **environment},
        capture_output=True,
        text=True,
        check=False,
        cwd=tree,
    )


def build_folder() -> Path | None:
    """Where setup.py keeps the objects of a build without CUDA."""
    code = (
        "import runpy, setuptools\nsetuptools.setup = lambda **arguments: None\n"
        "print(runpy.run_path('setup.py')['OBJECTS'])"
    )
    folder = Path(run(ROOT, sys.executable, "-c", code, CNN_EXT_CUDA="0").stdout.strip())
    return folder if (folder / "build.ninja").exists() else None


def reusable(folder: Path, tree: Path) -> dict[str, str]:
    """Sources of the copy whose objects are in the build folder here, and where."""
    logs = tree.parent / "logs"  # copies: another version of ninja would begin them anew
    logs.mkdir()
    for name in ("build.ninja", ".ninja_deps", ".ninja_log"):
        shutil.copy(folder / name, logs)
    told = run(ROOT, "ninja", "-C", str(logs), "-t", "deps").stdout
    found = {}
    for block in told.split("\n\n"):
        head, *lines = block.strip().splitlines() or [""]
        target = Path(head.partition(": #deps")[0])
        sources = [Path(line.strip()) for line in lines]
        ours = [source for source in sources if source.is_relative_to(ROOT / "csrc")]
        if "VALID" not in head or not ours or not target.exists():
            continue
        made = target.stat().st_mtime_ns
        there = [tree / source.relative_to(ROOT) for source in ours]
        if all(a.exists() and a.stat().st_mtime_ns <= made for a in sources) and all(
            b.exists() and a.read_bytes() == b.read_bytes() for a, b in zip(ours, there, strict=True)
        ):
            found[str(there[0])] = str(target)
    return found


def added(file: str) -> list[str]:
    """The lines that the page adds to a file."""
    (block,) = re.findall(rf"```diff\n \S+ {re.escape(file)}\n(.*?)```", PAGE, re.DOTALL)
    return [line[1:] + "\n" for line in block.splitlines() if line.startswith("+")]


def insert(file: Path, after: str, before: str, lines: list[str]) -> None:
    """Puts lines before a text: the first that comes after another."""
    text = file.read_text()
    at = text.index(before, text.index(after))
    file.write_text(text[:at] + "".join(lines) + text[at:])


def built(tree: Path, folder: Path) -> None:
    """Makes a copy of the tree with the operation in it, as the page says, and builds it."""
    for name in COPIED:
        shutil.copytree(ROOT / name, tree / name, ignore=LEFT)
    for name in ALONE:
        shutil.copy(ROOT / name, tree / name)
    shutil.copytree(TOY, tree, dirs_exist_ok=True)
    operations, kernels = tree / "cnn_ext" / "operations.py", tree / "csrc" / "cpu" / "kernels.h"
    insert(operations, "OPERATIONS = (", ")\n\n", added("cnn_ext/operations.py"))
    include, line = added("csrc/cpu/kernels.h")
    insert(kernels, "#include", "\n//", [include])
    insert(kernels, "#define CNN_EXT_FAMILIES(X)", "  X(", [line])
    assert run(tree, sys.executable, "tools/exports.py").returncode == 0

    known = reusable(folder, tree)
    if len(known) < 30:
        pytest.skip("the library is older than its sources, or another ninja built it: make build")
    compiler = tree.parent / "c++"
    compiler.write_text(COMPILER.format(python=sys.executable, known=json.dumps(known)))
    compiler.chmod(0o755)
    headers = tree / "build" / folder.name / "ops"
    headers.mkdir(parents=True)
    for file in (folder / "ops").glob("torch.h.*"):
        (headers / file.name).symlink_to(file)
    done = run(
        tree, sys.executable, "setup.py", "build_ext", "--inplace", CNN_EXT_CUDA="0", MAX_JOBS="2",
        CXX=str(compiler),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]


def run_pytest(tree: Path, *arguments: str) -> subprocess.CompletedProcess:
    """The tests of the operation in these files of the copy."""
    pytest_ = (
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:xdist",
        "--tb=short",
        "--show-capture=no",
    )
    return run(tree, *pytest_, "-k", NAME, *arguments)


def test_the_page_lists_the_files_of_the_operation():
    table = PAGE[PAGE.index("## The files") : PAGE.index("## The entries")]
    rows = [line for line in table.splitlines() if line.startswith("|")]
    listed = re.findall(r"`([\w/]+/[\w.]+\.\w+)`", "".join(row.split("|")[2] for row in rows))
    files = {re.sub(r"(?<=[/_])x(?=[./])", NAME, file) for file in listed}
    assert files == {str(f.relative_to(TOY)) for f in TOY.rglob("*.*") if "__pycache__" not in f.parts}


def test_an_operation_that_is_added_as_the_page_says_is_everywhere(tmp_path):
    """One test, for all of it needs the one build."""
    folder = build_folder()
    if folder is None:
        pytest.skip("there are no objects of a build without CUDA; make test builds them")
    tree = tmp_path / "cnn_ext"
    built(tree, folder)

    done = run(tree, sys.executable, "-c", FOUND)
    assert done.returncode == 0, done.stderr[-4000:]
    assert json.loads(done.stdout.splitlines()[-1]) == EVERYWHERE

    own = [str(file.relative_to(TOY)) for file in sorted(TOY.glob("cnn_ext/*/*.py"))]
    shared = ["tests/ops/test_opcheck.py", "tests/test_tools.py", "tests/cuda/test_emulated.py"]
    checks = "tests/test_operations.py"
    done = run_pytest(tree, *own, *shared, checks, f"tests/ops/test_{NAME}.py")
    assert done.returncode == 0, done.stdout[-8000:]

    (tree / "docs" / f"{NAME}.md").unlink()  # the checks name what an incomplete operation has not
    done = run_pytest(tree, checks)
    assert done.returncode == 1
    assert f"docs/{NAME}.md: the page of {NAME}" in done.stdout

    if shutil.which("ruff", path=str(Path(sys.executable).parent)):
        done = run(tree, "ruff", "format", "--check", ".")
        assert done.returncode == 0, done.stdout
