"""The registry of operations, and that nothing which lists operations leaves one out."""

import importlib
import runpy
from pathlib import Path

import pytest

import cnn_ext
from cnn_ext.operations import OPERATIONS, named

ROOT = Path(__file__).parent.parent
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
