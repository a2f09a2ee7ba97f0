"""The proof, made small: a hundred windows of each photograph, a few epochs."""

import pytest

from cnn_ext.training import images, proof, train


@pytest.fixture(scope="module")
def data():
    return images.patches(tuple(images.photographs()), train=100, test=30)


@pytest.mark.parametrize(("model", "epochs"), [("alexnet", 8), ("vgg11", 5)])
def test_both_builds_learn_what_a_linear_classifier_does_not(
    model, epochs, data, monkeypatch, tmp_path
):
    monkeypatch.setattr(train.images, "load", lambda name, folder: data)
    reports = {
        layers: train.run(
            train.Options(**{**proof.RUNS[model], "ten_crop": False, "epochs": epochs,
                             "batch_size": 32}, layers=layers, accelerator="cpu"),
            tmp_path / layers, progress=False,
        )
        for layers in train.LAYERS
    }  # fmt: skip
    linear = proof.linear_accuracy(data, 64)
    for report in reports.values():
        assert report["accuracy"] > 0.6
        assert report["accuracy"] > linear + 0.1
    ours, theirs = (report["losses"] for report in reports.values())
    assert ours[0] == pytest.approx(theirs[0], rel=1e-5)  # the same start, the same first batch
    assert len(ours) == len(theirs) == epochs * (1000 // 32)


def test_the_proof_writes_a_summary_and_one_picture(monkeypatch, tmp_path, capsys):
    small = {"model": "lenet5", "data": "digits", "recipe": "lenet5", "epochs": 1}
    monkeypatch.setattr(proof, "RUNS", {"lenet5": small})
    monkeypatch.setattr(proof, "linear_accuracy", lambda data, size: 0.5)
    monkeypatch.setattr(proof.images, "load", load_digits_only(images.load))
    reports = proof.run(tmp_path)
    assert set(reports["lenet5"]) == {"cnn_ext", "torch"}
    assert (tmp_path / "proof.png").read_bytes().startswith(b"\x89PNG")
    assert '"linear": 0.5' in (tmp_path / "proof.json").read_text()


def load_digits_only(load):
    return lambda name, *folder: load("digits")
