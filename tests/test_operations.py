"""The registry of operations, and that nothing which lists operations leaves one out."""

import importlib
import runpy
from pathlib import Path

import pytest
import torch

import cnn_ext
from cnn_ext.operations import OPERATIONS, named

ROOT = Path(__file__).parent.parent

# The files that every operation has (docs/adding_an_op.md).
FILES = {
    "functional": "cnn_ext/functional/{}.py",
    "Function": "cnn_ext/ops/{}.py",
    "module": "cnn_ext/nn/{}.py",
    "schema": "csrc/ops/{}/schema.cpp",
    "CPU driver": "csrc/ops/{}/cpu.cpp",
    "kernels": "csrc/cpu/{}",
    "CUDA driver": "csrc/cuda/{}.cu",
    "CUDA kernels": "csrc/cuda/{}",
    "tests": "tests/ops/test_{}.py",
    "CUDA tests": "tests/cuda/test_{}.py",
    "benchmark": "cnn_ext/bench/{}.py",
    "CUDA benchmark": "benchmarks/cuda/{}.py",
    "page": "docs/{}.md",
}
# Which of them some have not.
WITHOUT = {
    "color_pca": {"module"},  # it is an augmentation: cnn_ext/transforms/
    # The kernels are convolution's, a dense layer being one of a single tap.
    "linear": {"kernels", "CUDA driver", "CUDA kernels", "CUDA tests", "CUDA benchmark"},
    # Loops over rows in the driver; elsewhere torch's operations, rearranged.
    "unfold": {
        "module",
        "kernels",
        "CUDA driver",
        "CUDA kernels",
        "CUDA tests",
        "benchmark",
        "CUDA benchmark",
    },
}

EXPORTS = runpy.run_path(str(ROOT / "tools" / "exports.py"))


@pytest.mark.parametrize("package", EXPORTS["PACKAGES"])
def test_packages_export_what_the_files_of_operations_offer(package):
    """make format writes it."""
    file = ROOT / "cnn_ext" / package / "__init__.py"
    assert file.read_text() == EXPORTS["rewritten"](package)
    module = getattr(cnn_ext, package)
    for operation in OPERATIONS:
        for name in operation.exported(package):
            own = importlib.import_module(f"cnn_ext.{package}.{operation.name}")
            assert getattr(module, name) is getattr(own, name)


def test_an_operation_that_is_not_there_is_refused_with_those_that_are():
    with pytest.raises(KeyError, match=r"expected one of .*'max_pool'.* got 'min_pool'"):
        named("min_pool")


def test_a_file_that_does_not_say_what_it_offers_is_named(tmp_path, monkeypatch):
    (tmp_path / "nn").mkdir()
    (tmp_path / "nn" / "linear.py").write_text("class Linear: ...\n")
    monkeypatch.setattr("cnn_ext.operations._PACKAGE", tmp_path)
    with pytest.raises(ValueError, match=r"cnn_ext/nn/linear\.py: expected __all__"):
        named("linear").exported("nn")


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
def test_an_operation_has_the_files_of_every_operation(operation):
    for part, pattern in FILES.items():
        file = pattern.format(operation.name)
        wanted = part not in WITHOUT.get(operation.name, ())
        assert (ROOT / file).exists() == wanted, f"{file}: the {part} of {operation.name}"


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
def test_a_dispatcher_operation_serves_fakes_derivatives_and_devices(operation):
    names = operation.dispatched()
    assert bool(names) == ("schema" not in WITHOUT.get(operation.name, ()))
    for name in names:
        keys = torch._C._dispatch_dump(f"cnn_ext::{name}")
        assert "\nMeta: " in keys, f"{name}: expected a kernel for fake tensors"
        assert "\nAutograd" in keys, f"{name}: expected a derivative, or a refusal of one"
        assert "\nCPU: " in keys or "\nCompositeExplicitAutograd" in keys, f"{name}: no CPU kernel"


def test_every_operation_of_the_dispatcher_is_of_one_in_the_registry():
    all_ours = {n for n in torch._C._dispatch_get_all_op_names() if n.startswith("cnn_ext::")}
    in_cpp = {name for name in all_ours if not name.startswith("cnn_ext::traced_")}
    assert in_cpp == {f"cnn_ext::{name}" for one in OPERATIONS for name in one.dispatched()}
