"""The benchmark of the CUDA kernels, run dry: on the CPU, on little data. No times."""

import sys

import pytest

from benchmarks import cuda
from cnn_ext.bench.options import shapes


def test_it_runs_every_operation(tmp_path, monkeypatch, capsys):
    out = tmp_path / "figures.json"
    arguments = ["cuda", "--device", "cpu", "--quick", "--rounds", "1", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", arguments)
    cuda.main()
    rows = cuda.json.loads(out.read_text())["rows"]
    assert {row["operation"] for row in rows} == {
        "convolution", "max_pool", "local_response_norm", "color_pca"
    }  # fmt: skip
    assert all(row["difference"] < 1e-2 for row in rows if "difference" in row)
    assert "LeNet C1 float32 NCHW" in capsys.readouterr().out


@pytest.mark.parametrize("file", cuda.LAYERS)
def test_its_layers_are_of_two_axes(file):
    for name in cuda.LAYERS[file]:
        shape = shapes(file)[name]
        assert len(shape["input"]) == len(shape["weight"]) == 4
        assert all(isinstance(shape.get(key, 1), int) for key in ("stride", "padding"))
