"""The command line and the doctor."""

import json

import pytest
import torch

from cnn_ext import cli, doctor
from cnn_ext._native import _C

WELL = {
    "threads of torch": 2,
    "threads of cnn_ext": 2,
    "cpu capability": "avx2",
    "best cpu capability": "avx2",
    "gpu": None,
    "cuda of cnn_ext": None,
}


def test_doctor_tells_versions_capability_and_threads(capsys):
    assert cli.main(["doctor"]) == 0
    printed = capsys.readouterr().out
    assert torch.__version__ in printed
    assert _C.cpu_capability() in printed
    facts = doctor.facts()
    assert facts["threads of cnn_ext"] == torch.get_num_threads()


def test_doctor_speaks_json(capsys):
    assert cli.main(["doctor", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["torch"] == torch.__version__


def test_nothing_is_wrong_with_a_good_installation():
    assert list(doctor.problems(WELL)) == []


@pytest.mark.parametrize(
    ("change", "command"),
    [
        ({"threads of cnn_ext": 1}, "pip install --no-build-isolation --force-reinstall"),
        ({"cpu capability": "scalar"}, "Unset CNN_EXT_CPU_CAPABILITY"),
        ({"gpu": "NVIDIA H200"}, "use the CPU"),
        ({"optional: lightning": False}, "pip install --no-build-isolation '.[train]'"),
    ],
    ids=["threads", "capability", "gpu", "extras"],
)
def test_every_problem_comes_with_what_mends_it(change, command):
    (problem,) = doctor.problems({**WELL, **change})
    assert command in problem


def test_an_unknown_level_in_the_environment_is_reported(monkeypatch):
    monkeypatch.setenv("CNN_EXT_CPU_CAPABILITY", "sse9")
    (problem,) = doctor.problems(WELL)
    assert "'sse9' is not scalar, avx2 or avx512" in problem


@pytest.mark.parametrize(
    "arguments", [[], ["fly"], ["demo", "--epochs", "0"], ["demo", "--epochs", "x"]]
)
def test_a_wrong_command_is_explained(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(arguments)
    assert stopped.value.code == 2
    assert "usage: cnn-ext" in capsys.readouterr().err


def test_every_command_has_help(capsys):
    for command in ("demo", "doctor", "compare", "train"):
        with pytest.raises(SystemExit) as stopped:
            cli.main([command, "--help"])
        assert stopped.value.code == 0
