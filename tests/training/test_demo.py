"""The demonstration, shortened: data, training, report and picture."""

import json

import pytest
import torch

from cnn_ext.training import demo
from cnn_ext.training.data import BACKGROUND, INK, Digits


def test_digits_are_split_by_class_and_scaled_as_the_paper_has_them():
    digits = Digits()
    assert (len(digits.train), len(digits.test)) == (1437, 360)
    images, labels = digits.test[:]
    assert images.shape == (360, 1, 32, 32)
    assert (images.min(), images.max()) == (
        pytest.approx(BACKGROUND, abs=1e-6),
        pytest.approx(INK, abs=1e-6),
    )
    assert all(35 <= (labels == digit).sum() <= 37 for digit in range(10))
    both = torch.cat([digits.train[:][0], images]).flatten(1)
    assert len(both.unique(dim=0)) > 1790  # no image of the one is in the other, but for rare twins


def test_the_same_seed_gives_the_same_batches():
    def first_batch(seed):
        torch.manual_seed(seed)
        return next(iter(Digits(seed=seed).train_dataloader()))[0]

    assert torch.equal(first_batch(1), first_batch(1))
    assert not torch.equal(first_batch(1), first_batch(2))


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
