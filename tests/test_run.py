"""``python -m cnn_ext run``: a script runs as Python runs it, on our kernels."""

import os
import subprocess
import sys

import pytest

SCRIPT = """
import sys, os, __main__
print(__name__, sys.argv, sys.path[0], os.path.abspath(__file__) == __file__)
import beside, torch
print(beside.__name__, torch.get_num_threads())
conv = torch.nn.Conv2d(3, 8, 3)
conv(torch.randn(2, 3, 16, 16)).sum().backward()
assert __main__.conv is conv
whole = torch.ones(1, 1, 4, 4, dtype=torch.int)
torch.nn.functional.conv2d(whole, whole)
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "beside.py").write_text("")
    (tmp_path / "script.py").write_text(SCRIPT)
    return tmp_path


def python(*arguments, cwd=None, **environment):
    return subprocess.run(
        [sys.executable, *map(str, arguments)], capture_output=True, text=True, check=False, cwd=cwd,
        env={**os.environ, **environment}, timeout=600,
    )  # fmt: skip


def run(*arguments, **keywords):
    return python("-m", "cnn_ext", "run", *arguments, **keywords)


def test_a_script_prints_what_python_has_it_print(folder):
    arguments = (folder / "script.py", "--epochs", "3", "-m", "--", "x")
    plain, ours = python(*arguments, OMP_NUM_THREADS="1"), run(*arguments, OMP_NUM_THREADS="1")
    assert (ours.returncode, ours.stderr) == (0, "")
    assert ours.stdout == plain.stdout
    assert (
        f"__main__ ['{folder / 'script.py'}', '--epochs', '3', '-m', '--', 'x'] {folder}" in ours.stdout
    )


def test_a_module_and_a_folder_too(folder):
    (folder / "package").mkdir()
    (folder / "package" / "__init__.py").write_text("")
    (folder / "package" / "__main__.py").write_text(
        "import sys; print(__name__, __spec__.name, sys.argv)"
    )
    for arguments in (("-m", "package", "-a"), ("-m", "package.__main__", "-a")):
        ours, plain = run(*arguments, cwd=folder), python(*arguments, cwd=folder)
        assert ours.stdout == plain.stdout
    (folder / "package" / "__main__.py").write_text(
        "import sys; print(__name__, sys.argv[1:], sys.path[0])"
    )
    assert run("package", "-a", cwd=folder).stdout == python("package", "-a", cwd=folder).stdout


def test_the_summary_tells_routes_and_what_stayed_on_torch(folder):
    ours = run("--threads", "1", "--summary", "script.py", cwd=folder)
    assert ours.returncode == 0
    assert "beside 1" in ours.stdout
    lines = [line.split() for line in ours.stderr.splitlines()]
    assert lines[0][:2] == ["cnn_ext:", "calls"]
    assert lines[1] == ["operation", "pass", "route", "calls", "ms"]
    assert {tuple(line[:2]) for line in lines[2:5]} == {
        ("convolution", "forward"), ("convolution", "weight_gradient"),
    }  # fmt: skip
    assert ["aten::convolution", "dtype", "1"] in [line[:3] for line in lines]
    assert any(line[:3] == ["Stayed", "on", "torch:"] for line in lines)


@pytest.mark.parametrize(
    ("code", "status", "said"),
    [
        ("raise SystemExit(7)", 7, ""),
        ("import sys; sys.exit('enough')", 1, "enough\n"),
        ("import sys; sys.exit()", 0, ""),
    ],
)
def test_exit_statuses_are_the_scripts(tmp_path, code, status, said):
    (tmp_path / "script.py").write_text(code)
    ours = run("script.py", cwd=tmp_path)
    assert (ours.returncode, ours.stderr) == (status, said)


@pytest.mark.parametrize(
    "code", ["def f():\n    return 1 / 0\nf()\n", "def f(:\n", "import nothing_there"]
)
def test_tracebacks_are_pythons(tmp_path, code):
    (tmp_path / "script.py").write_text(code)
    plain, ours = python("script.py", cwd=tmp_path), run("script.py", cwd=tmp_path)
    assert ours.returncode == plain.returncode == 1
    shown, expected = ours.stderr.splitlines(), plain.stderr.splitlines()
    assert shown[-1] == expected[-1]
    assert [line for line in shown if line.startswith("  File")][-1].split('"')[2] == (
        [line for line in expected if line.startswith("  File")][-1].split('"')[2]
    )
    assert not any("cnn_ext" in line or "runpy" in line for line in shown)


def test_what_is_not_there(tmp_path):
    ours = run("nothing.py", cwd=tmp_path)
    assert ours.returncode == 2
    assert ours.stderr == "cnn-ext run: nothing.py: there is no such script\n"
    ours = run("-m", "nothing", cwd=tmp_path)
    assert ours.returncode == 1
    assert "No module named nothing" in ours.stderr


def test_workers_of_a_loader_and_a_spawned_process(tmp_path):
    (tmp_path / "script.py").write_text("""
import torch, multiprocessing

def square(x):
    return x * x

class Data(torch.utils.data.Dataset):
    def __len__(self):
        return 4
    def __getitem__(self, i):
        return torch.nn.functional.conv1d(torch.ones(1, 1, 4), torch.ones(1, 1, 3)) * i

if __name__ == "__main__":
    torch.set_num_threads(1)
    batches = list(torch.utils.data.DataLoader(Data(), num_workers=1))
    print(len(batches), batches[-1].sum().item())
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        print(pool.map(square, [1, 2, 3]))
""")
    ours = run("script.py", cwd=tmp_path, OMP_NUM_THREADS="1")
    assert ours.stdout == "4 18.0\n[1, 4, 9]\n", ours.stderr
