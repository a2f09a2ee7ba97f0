"""The command line and the doctor."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy
import pytest
import torch
from PIL import Image

from cnn_ext import cli, doctor
from cnn_ext._native import _C
from cnn_ext.transforms import ColorPCA

COMMANDS = ("bench", "compare", "demo", "doctor", "fit-pca", "run", "train")
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
        ({"gpu": "NVIDIA H200"}, "CNN_EXT_CUDA=1 pip install"),
        (
            {
                "gpu": "NVIDIA H200",
                "gpu architecture": "9.0",
                "cuda of cnn_ext": "13.0",
                "cuda architectures": "8.0;12.0+PTX",
            },
            "TORCH_CUDA_ARCH_LIST=9.0 CNN_EXT_CUDA=1",
        ),
        ({"optional: lightning": False}, "pip install --no-build-isolation '.[train]'"),
    ],
    ids=["threads", "capability", "gpu", "architecture", "extras"],
)
def test_every_problem_comes_with_what_mends_it(change, command):
    (problem,) = doctor.problems({**WELL, **change})
    assert command in problem


def test_an_unknown_level_in_the_environment_is_reported(monkeypatch):
    monkeypatch.setenv("CNN_EXT_CPU_CAPABILITY", "sse9")
    (problem,) = doctor.problems(WELL)
    assert "'sse9' is none of scalar, avx2, avx512" in problem


@pytest.mark.parametrize(
    "arguments", [[], ["fly"], ["demo", "--epochs", "0"], ["demo", "--epochs", "x"]]
)
def test_a_wrong_command_is_explained(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(arguments)
    assert stopped.value.code == 2
    assert "usage: cnn-ext" in capsys.readouterr().err


def test_every_command_has_help(capsys):
    for command in COMMANDS:
        with pytest.raises(SystemExit) as stopped:
            cli.main([command, "--help"])
        assert stopped.value.code == 0


@pytest.mark.parametrize(
    ("arguments", "status"),
    [(["--help"], 0), *(([command, "--help"], 0) for command in COMMANDS), (["fly"], 2), ([], 2),
     (["train", "--epochs", "0"], 2), (["train", "--resume", "--overwrite"], 2)],
    ids=str,
)  # fmt: skip
def test_help_and_wrong_usage_do_not_wait_for_torch(arguments, status):
    command = [sys.executable, "-X", "importtime", "-m", "cnn_ext", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == status
    assert "usage: cnn-ext" in done.stdout + done.stderr
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if "|" in line}
    assert "argparse" in loaded
    assert not loaded & {"torch", "numpy", "lightning", "torchvision", "matplotlib"}


def test_the_installed_script_does_not_wait_either(tmp_path):
    script = tmp_path / "cnn-ext"
    script.write_text("import sys\nfrom cnn_ext.cli import main\nsys.exit(main())\n")
    command = [sys.executable, "-X", "importtime", str(script), "train", "--help"]
    path = os.pathsep.join([str(Path.cwd()), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}
    )
    assert "--overwrite" in done.stdout
    assert not re.search(r"\| +torch$", done.stderr, re.MULTILINE)


def test_a_size_that_cannot_be_compared_is_one_sentence(capsys):
    assert cli.main(["compare", "squeezenet1_1", "--size", "12"]) == 2
    (sentence,) = capsys.readouterr().err.splitlines()
    assert sentence.startswith(
        "cnn-ext compare: image_size: squeezenet1_1 cannot take images of 12 x 12"
    )


def test_the_demonstration_prints_strict_json_alone(monkeypatch, capsys):
    def run(*_):
        print("LeNet-5 on torch's layers")
        return {"losses": [float("nan"), 0.5]}

    monkeypatch.setattr("cnn_ext.examples.demo.run", run)
    assert cli.main(["demo", "--json"]) == 0
    assert capsys.readouterr().out == '{"losses": [null, 0.5]}\n'


def test_a_full_disk_is_one_sentence(monkeypatch, capsys):
    def run(*_):
        raise OSError(28, "No space left on device", "demo.json")

    monkeypatch.setattr("cnn_ext.examples.demo.run", run)
    assert cli.main(["demo"]) == 1
    assert capsys.readouterr().err == "cnn-ext: [Errno 28] No space left on device: 'demo.json'\n"


def test_ctrl_c_while_torch_loads_leaves_no_trace():
    command = subprocess.Popen(
        [sys.executable, "-X", "importtime", "-m", "cnn_ext", "doctor"],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert command.stderr is not None
    for line in command.stderr:
        if line.rpartition("|")[2].strip().startswith("torch."):  # a part of it is loaded
            command.send_signal(signal.SIGINT)
            break
    rest = [line for line in command.stderr if not line.startswith("import time:")]
    assert command.wait() == 130
    assert [line.strip() for line in rest if line.strip()] == ["Stopped."]


@pytest.fixture
def photographs(tmp_path):
    """A folder with another inside, images of three kinds and sizes, and what is no image."""
    folder = tmp_path / "photographs"
    (folder / "more").mkdir(parents=True)
    pixels = numpy.random.default_rng(0).integers(0, 256, (20, 30, 4), dtype=numpy.uint8)
    Image.fromarray(pixels[..., :3]).save(folder / "a.png")
    Image.fromarray(pixels[5:]).save(folder / "more" / "B.PNG")
    Image.fromarray(pixels[:7, :, 0]).save(folder / "grey.bmp")
    (folder / "notes.txt").write_text("no image")
    return folder, [pixels[..., :3], pixels[5:, :, :3], pixels[:7, :, :1].repeat(3, -1)]


def test_fit_pca_fits_all_images_of_a_folder(photographs, tmp_path, capsys):
    folder, arrays = photographs
    out = tmp_path / "runs" / "pca.json"
    assert cli.main(["fit-pca", str(folder), "--out", str(out), "--json"]) == 0
    captured = capsys.readouterr()
    report = json.loads(captured.out)
    assert (report["images"], report["pixels"], report["unreadable"]) == (3, 600 + 450 + 210, [])
    assert "3/3" in captured.err  # the progress bar
    expected = ColorPCA.fit(arrays, progress=False)
    assert torch.equal(ColorPCA.load(out).eigenvectors, expected.eigenvectors)
    assert report["eigenvalues"] == expected.eigenvalues.tolist()


def test_fit_pca_prints_a_table_and_draws(photographs, tmp_path, capsys):
    out = tmp_path / "pca.json"
    assert cli.main(["fit-pca", str(photographs[0]), "--out", str(out), "--show"]) == 0
    printed = capsys.readouterr().out
    assert "3 images, 1260 pixels" in printed
    assert f"Written: {out}, {tmp_path / 'pca.png'}" in printed
    assert Image.open(tmp_path / "pca.png").width > 500


def test_fit_pca_names_what_it_cannot_read(photographs, tmp_path, capsys):
    folder = photographs[0]
    (folder / "broken.jpg").write_bytes(b"no image")
    assert cli.main(["fit-pca", str(folder), "--out", str(tmp_path / "pca.json")]) == 0
    captured = capsys.readouterr()
    assert "3 images" in captured.out
    assert f"left out, unreadable: {folder / 'broken.jpg'}" in captured.err


def test_fit_pca_of_no_images_is_said_in_one_sentence(tmp_path, capsys):
    assert cli.main(["fit-pca", str(tmp_path / "nowhere")]) == 1
    assert "expected a folder with images, found none" in capsys.readouterr().err
