"""Building and importing: what is missing is said in one sentence."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cnn_ext import _native

ROOT = Path(__file__).parent.parent
SETUP_ENV = ROOT / "tools" / "setup_env.py"


def python(code: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )


def test_setup_without_torch_names_the_command_to_type():
    hidden = "import sys, runpy; sys.modules['torch'] = None; runpy.run_path('setup.py')"
    done = python(hidden)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "pip install torch" in done.stderr


@pytest.mark.parametrize(
    ("environment", "before", "sentence"),
    [
        ({"CNN_EXT_CUDA": "yes"}, "", "CNN_EXT_CUDA: expected auto, 0 or 1, got 'yes'"),
        ({"CNN_EXT_CUDA": "1"}, "torch.version.cuda = None", "was built without CUDA; install one"),
        (
            {"CNN_EXT_CUDA": "1", "CUDA_HOME": "/nowhere"},
            "torch.version.cuda = '13.0'",
            "there is no CUDA toolkit; install CUDA 13.0",
        ),
    ],
    ids=["word", "torch", "toolkit"],
)
def test_cuda_kernels_that_cannot_be_built_are_refused_in_one_sentence(environment, before, sentence):
    done = python(f"import runpy, torch\n{before}\nrunpy.run_path('setup.py')", **environment)
    assert done.returncode == 1
    assert sentence in done.stderr
    assert done.stderr.count("\n") == 1


def test_the_architectures_of_a_toolkit():
    code = """
import runpy, setuptools
setuptools.setup = lambda **arguments: None
default = runpy.run_path("setup.py")["default_architectures"]
assert default("12.6") == "7.5;8.0;8.6;8.9;9.0+PTX"
assert default("13.0").endswith("9.0;10.0;12.0+PTX")
"""
    done = python(code, CNN_EXT_CUDA="0")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("before", "sentence"),
    [
        ("sys.version_info = (3, 10, 0)", "3.11 or newer is needed"),
        ("os.environ['CXX'] = 'no-such-compiler'", "there is no C++ compiler (no-such-compiler)"),
        ("sysconfig.get_path = lambda name: '/nowhere'", "Python's C headers are missing"),
        ("shutil.disk_usage = lambda path: types.SimpleNamespace(free=2**30)", "1.0 GB are free"),
    ],
    ids=["python", "compiler", "headers", "disk"],
)
def test_a_machine_that_lacks_something_is_told_so_in_one_sentence(before, sentence):
    code = f"""
import os, runpy, shutil, sys, sysconfig, types
{before}
tool = runpy.run_path({str(SETUP_ENV)!r})
tool["check_machine"]()
tool["check_disk"]()
"""
    done = python(code)
    assert done.returncode == 1
    assert sentence in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_full_disk_is_recognised_in_what_a_command_prints():
    code = f"""
import runpy, sys
tool = runpy.run_path({str(SETUP_ENV)!r})
tool["run"](sys.executable, "-c", "raise OSError(28, 'No space left on device')", why="trying")
"""
    done = python(code)
    assert done.returncode == 1
    assert done.stderr == "cnn_ext: the disk is full; make room and type the same again\n"


def test_the_package_imports_without_the_training_libraries():
    hidden = ("torchvision", "lightning", "sklearn", "matplotlib")
    done = python(f"import sys\nfor name in {hidden}: sys.modules[name] = None\nimport cnn_ext")
    assert done.returncode == 0, done.stderr
    done = python(
        f"import sys\nfor name in {hidden}: sys.modules[name] = None\n"
        "from cnn_ext.cli import main; sys.exit(main(['demo']))"
    )
    assert done.returncode == 1
    assert "pip install --no-build-isolation '.[train]'" in done.stderr


def test_colour_pca_works_without_torchvision_and_the_rest_says_what_is_missing():
    hidden = "import sys\nfor name in ('torchvision', 'tqdm', 'tqdm.auto'): sys.modules[name] = None\n"
    done = python(
        f"{hidden}import torch, cnn_ext\n"
        "pca = cnn_ext.transforms.ColorPCA.fit([torch.rand(3, 4, 4)])\n"
        "image, alphas = torch.rand(3, 4, 4), torch.ones(3)\n"
        "cnn_ext.functional.color_pca(image, pca.eigenvectors, pca.eigenvalues, alphas)"
    )
    assert done.returncode == 0, done.stderr
    done = python(f"{hidden}from cnn_ext.transforms import RandomColorPCA")
    assert "RandomColorPCA needs torchvision. Type: pip install" in done.stderr


def test_a_library_built_for_another_torch_is_refused_with_the_command_to_type():
    assert _native._mismatch("2.15.0", "2.15.0+cpu") is None
    sentence = _native._mismatch("2.13.0", "2.15.0+cu132")
    assert "built for torch 2.13.0 and this is torch 2.15.0+cu132" in sentence
    assert _native._mismatch("2.15.0", "2.15.0+cu132", "13.0", "13.2") is None
    assert "with CUDA 12.8 and torch with CUDA 13.2" in _native._mismatch(
        "2.15.0", "2.15.0", "12.8", "13.2"
    )
    assert "pip install --no-build-isolation" in sentence


def test_a_missing_library_is_explained():
    done = python("import sys; sys.modules['cnn_ext._C'] = None; import cnn_ext")
    assert done.returncode == 1
    assert "pip install --no-build-isolation" in done.stderr
