"""The benchmark of the CUDA kernels, run dry: on the CPU, on little data. No times."""

import sys

import pytest

from benchmarks.cuda import __main__ as cuda
from benchmarks.cuda.convolution import LAYERS
from cnn_ext.bench.options import shapes


def test_it_runs_every_operation(tmp_path, monkeypatch, capsys):
    out = tmp_path / "figures.json"
    arguments = ["cuda", "--device", "cpu", "--quick", "--rounds", "1", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", arguments)
    cuda.main()
    rows = cuda.json.loads(out.read_text())["rows"]
    assert [row["operation"] for row in rows] == sorted(
        (row["operation"] for row in rows), key=cuda.SUBJECTS.index
    )
    assert {row["operation"] for row in rows} == set(cuda.SUBJECTS)
    assert all(row["difference"] < 1e-2 for row in rows if "difference" in row)
    assert "LeNet C1 float32 NCHW" in capsys.readouterr().out


@pytest.mark.parametrize("file", LAYERS)
def test_its_layers_are_of_two_axes(file):
    for name in LAYERS[file]:
        shape = shapes(file)[name]
        assert len(shape["input"]) == len(shape["weight"]) == 4
        assert all(isinstance(shape.get(key, 1), int) for key in ("stride", "padding"))
