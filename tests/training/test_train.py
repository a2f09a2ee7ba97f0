"""Training by name: resuming, seeds, checkpoints, what is written, two processes as one."""

import json
import os
import pickle
import signal
from dataclasses import replace

import lightning
import pytest
import torch
from torch.utils.data import TensorDataset

from cnn_ext import cli
from cnn_ext.models import lenet5
from cnn_ext.training import train
from cnn_ext.training.classifier import Classifier
from cnn_ext.training.images import Images
from cnn_ext.training.recipes import Recipe
from cnn_ext.training.seeds import Augmented, SeededSampler, derive

pytestmark = pytest.mark.usefixtures("tiny", "one_thread")
OPTIONS = train.Options(model="alexnet", data="tiny", recipe="alexnet-small", width=1 / 16, epochs=3,
                        batch_size=8, image_size=64, accelerator="cpu", seed=3)  # fmt: skip


def weights(folder):
    return torch.load(folder / "last.ckpt", weights_only=True)["state_dict"]


def test_a_resumed_run_is_the_uninterrupted_run_to_the_bit(tmp_path, power_cut):
    whole = train.run(OPTIONS, tmp_path / "whole", progress=False)
    with power_cut(epoch=1):
        train.run(OPTIONS, tmp_path / "cut", progress=False)
    after_one_epoch = weights(tmp_path / "cut")
    torch.manual_seed(99)  # another process would have other random numbers
    resumed = train.run(OPTIONS, tmp_path / "cut", resume=True, progress=False)
    assert resumed["losses"] == whole["losses"]  # the epoch that was cut is repeated
    assert resumed["accuracy"] == whole["accuracy"]
    ends = weights(tmp_path / "cut"), weights(tmp_path / "whole")
    assert all(torch.equal(value, ends[1][key]) for key, value in ends[0].items())
    assert any(not torch.equal(value, ends[1][key]) for key, value in after_one_epoch.items())


def test_a_run_cut_in_its_first_epoch_starts_again(tmp_path, power_cut):
    one_epoch = replace(OPTIONS, epochs=1)
    with power_cut(epoch=0):
        train.run(one_epoch, tmp_path / "cut", progress=False)
    resumed = train.run(one_epoch, tmp_path / "cut", resume=True, progress=False)
    whole = train.run(one_epoch, tmp_path / "whole", progress=False)
    assert resumed["losses"] == whole["losses"]


def test_the_seed_decides_weights_order_augmentation_and_dropout(tmp_path):
    one_epoch = replace(OPTIONS, epochs=1)
    first = train.run(one_epoch, tmp_path / "a", progress=False)
    again = train.run(one_epoch, tmp_path / "b", progress=False)
    other = train.run(replace(one_epoch, seed=4), tmp_path / "c", progress=False)
    assert first["losses"] == again["losses"]
    assert first["losses"] != other["losses"]


def test_a_checkpoint_is_whole_or_the_one_before(tmp_path, monkeypatch):
    path, io = tmp_path / "last.ckpt", train.AtomicCheckpointIO()
    io.save_checkpoint({"epoch": 1}, path)

    def half(content, file):
        file.write(b"half of it")
        raise OSError("no space left")

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(OSError, match="no space left"):
        io.save_checkpoint({"epoch": 2}, path)
    assert io.load_checkpoint(path) == {"epoch": 1}


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.kill, (os.getpid(), signal.SIGTERM)

    path = tmp_path / "last.ckpt"
    torch.save({"state_dict": Evil()}, path)
    with pytest.raises(pickle.UnpicklingError):
        train.AtomicCheckpointIO().load_checkpoint(path)


def test_everything_is_written(tmp_path):
    report = train.run(replace(OPTIONS, epochs=1, ten_crop=True), tmp_path, progress=False)
    assert json.loads((tmp_path / "report.json").read_text()) == report
    assert 0 <= report["ten_crop_accuracy"] <= 1
    for picture in ("confusion.png", "mistakes.png"):
        assert (tmp_path / picture).read_bytes().startswith(b"\x89PNG")
    assert "test_accuracy" in next(tmp_path.glob("csv/*/metrics.csv")).read_text()
    assert list(tmp_path.glob("tensorboard/*/events*"))
    assert sum(report["losses"]) > 0


@pytest.mark.parametrize("options", [{"precision": "bf16-mixed"}, {"precision": "64-true"},
                                     {"workers": 1}, {"layers": "torch"}], ids=str)  # fmt: skip
def test_a_run_takes_other_precisions_workers_and_layers(options, tmp_path):
    report = train.run(replace(OPTIONS, epochs=1, **options), tmp_path, progress=False)
    assert len(report["losses"]) == 3


def test_workers_change_nothing(tmp_path):
    losses = [
        train.run(replace(OPTIONS, epochs=1, workers=n), tmp_path / str(n), progress=False)["losses"]
        for n in (0, 2)
    ]
    assert losses[0] == losses[1]


def test_a_compiled_network_has_the_same_keys(tmp_path):
    small = replace(OPTIONS, model="lenet5", recipe="lenet5", epochs=1, image_size=32)
    train.run(small, tmp_path / "eager", progress=False)
    train.run(replace(small, compile=True), tmp_path / "compiled", progress=False)
    assert weights(tmp_path / "eager").keys() == weights(tmp_path / "compiled").keys()


def test_each_epoch_and_each_image_has_a_seed_of_its_own():
    sampler = SeededSampler(10, seed=0)
    epochs = []
    for epoch in (0, 1, 0):
        sampler.set_epoch(epoch)
        epochs.append(list(sampler))
    assert epochs[0] == epochs[2] != epochs[1]
    assert sorted(i for i, _ in epochs[0]) == list(range(10))
    assert not {seed for _, seed in epochs[0]} & {seed for _, seed in epochs[1]}


def test_processes_share_an_epoch_between_them():
    whole = list(SeededSampler(11, seed=0))
    halves = [list(SeededSampler(11, seed=0, rank=rank, world=2)) for rank in (0, 1)]
    assert [len(half) for half in halves] == [5, 5]
    assert sorted(halves[0] + halves[1]) == sorted(whole[:10])


def test_augmentation_leaves_the_other_random_numbers_alone():
    data = TensorDataset(torch.zeros(1, 3), torch.zeros(1))
    noisy = Augmented(data, lambda x: x + torch.randn_like(x))
    state = torch.get_rng_state()
    assert torch.equal(noisy[0, 7][0], noisy[0, 7][0])
    assert not torch.equal(noisy[0, 7][0], noisy[0, 8][0])
    assert torch.equal(torch.get_rng_state(), state)


def one_step(devices, batch_size):
    """The weights after one step of plain SGD at rate one: the start minus the gradient."""
    torch.manual_seed(0)
    images, labels = torch.randint(0, 256, (16, 1, 32, 32), dtype=torch.uint8), torch.arange(16) % 10
    data = Images(TensorDataset(images, labels), TensorDataset(images, labels),
                  tuple("0123456789"), 1, 32, mirror=False, digits=True)  # fmt: skip
    recipe = Recipe("sgd", 1.0, "steps", 1, batch_size, momentum=0, weight_decay=0)
    network = lenet5().double()
    classifier = Classifier(network, torch.nn.CrossEntropyLoss(), recipe, seed=0)
    trainer = lightning.Trainer(
        max_steps=1, accelerator="cpu", devices=devices, precision="64-true", logger=False,
        strategy="ddp_spawn" if devices > 1 else "auto", use_distributed_sampler=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        limit_val_batches=0,
    )  # fmt: skip
    trainer.fit(classifier, train.ImageData(data, recipe, 32, 1))
    return network.state_dict()


def test_two_processes_have_the_gradient_of_one_with_the_doubled_batch():
    together, alone = one_step(2, 4), one_step(1, 8)
    torch.manual_seed(0)
    torch.randint(0, 256, (16, 1, 32, 32), dtype=torch.uint8)
    start = lenet5().double().state_dict()
    for key, value in alone.items():
        gradient = start[key] - value
        assert gradient.any()
        torch.testing.assert_close(start[key] - together[key], gradient, rtol=1e-9, atol=1e-12)


def test_the_command_trains_and_resumes_with_the_options_of_the_run(tmp_path, capsys):
    run = "train --model lenet5 --data tiny --epochs 1 --batch-size 8 --image-size 32 --accelerator cpu"
    arguments = [*run.split(), "--out", str(tmp_path), "--json"]
    assert cli.main(arguments) == 0
    first = json.loads(capsys.readouterr().out)
    assert first["epochs"] == 1
    assert cli.main(["train", "--resume", "--out", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["accuracy"] == first["accuracy"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "expected --model and --data, or --resume"),
        (["--resume"], "resume: there is no run in"),
        (["--model", "lenet6", "--data", "tiny"], "model: expected one of"),
        (["--model", "lenet5", "--data", "tiny", "--recipe", "x"], "recipe: expected one of"),
        (["--model", "alexnet", "--data", "tiny", "--width", "0"], "width: expected a positive"),
    ],
)
def test_wrong_options_are_explained(arguments, message, tmp_path, capsys):
    assert cli.main(["train", *arguments, "--out", str(tmp_path / "none")]) == 2
    assert message in capsys.readouterr().err


def test_derived_seeds_are_spread():
    seeds = {derive(0, epoch, step) for epoch in range(10) for step in range(100)}
    assert len(seeds) == 1000
    assert all(0 <= seed < 2**56 for seed in seeds)
