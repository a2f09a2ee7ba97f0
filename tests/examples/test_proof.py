"""The proof, made small: a hundred windows of each photograph, a few epochs."""

import pytest
import torch

from cnn_ext.examples import proof
from cnn_ext.training import images, train


@pytest.fixture(scope="module")
def data():
    return images.patches(tuple(images.photographs()), train=100, test=30)


@pytest.mark.parametrize(("model", "epochs"), [("alexnet", 8), ("vgg11", 8)])
def test_it_beats_a_linear_classifier_and_starts_as_its_twin(
    model, epochs, data, monkeypatch, tmp_path
):
    monkeypatch.setattr(train.images, "load", lambda name, folder: data)
    torch.set_num_threads(1)  # as fast for maps this small, and another test runs beside this one
    shared = {**proof.RUNS[model], "ten_crop": False, "batch_size": 32, "accelerator": "cpu"}

    def run(**options):
        options = train.Options(**{**shared, **options})
        return train.run(options, tmp_path / f"{options.layers} {options.precision}", progress=False)

    report = run(epochs=epochs)
    assert report["accuracy"] > proof.linear_accuracy(data, 64, strengths=(1e-4,)) + 0.1
    double = {"epochs": 1, "precision": "64-true"}  # in float32 roundings part any two trainings
    ours, theirs = (run(layers=layers, **double)["losses"] for layers in train.LAYERS)
    assert ours == pytest.approx(theirs, rel=1e-8)
    assert report["losses"][0] == pytest.approx(theirs[0], rel=1e-5)  # the same start and first batch


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
