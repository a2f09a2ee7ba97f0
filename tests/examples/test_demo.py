"""The demonstration, shortened: data, training, report and picture."""

import json

import pytest

from cnn_ext.examples import demo


@pytest.mark.parametrize(("variant", "epochs", "at_least"), [("relu", 8, 0.9), ("1998", 8, 0.8)])
def test_both_builds_learn_the_same_from_the_same(variant, epochs, at_least, tmp_path, capsys):
    report = demo.run(tmp_path, variant, epochs)
    assert report["test_accuracy"]["cnn_ext"] == pytest.approx(
        report["test_accuracy"]["torch"], abs=0.01
    )
    assert report["test_accuracy"]["cnn_ext"] > at_least
    assert report["first_epoch_loss_difference"] < 1e-4
    for name in ("cnn_ext", "torch"):
        losses = report["losses"][name]
        assert len(losses) == epochs * (1437 // 64)
        assert sum(losses[-5:]) < sum(losses[:5])
        for row in report["errors_against_float64"][name]:
            assert 0 < row["output"] < 2e-6
            assert 0 < row["grad_output"] < 1e-5
    assert json.loads((tmp_path / "demo.json").read_text()) == report
    assert (tmp_path / "demo.png").read_bytes().startswith(b"\x89PNG")
    table = demo.table(report)
    assert "c5" in table
    assert f"{report['step_ratio']:.2f}x" in table
