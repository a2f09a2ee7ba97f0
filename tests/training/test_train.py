"""Training by name: resuming, seeds, checkpoints, what is written, two processes as one."""

import json
import math
import os
import pickle
import re
import shlex
import signal
import subprocess
import sys
from dataclasses import replace

import lightning
import PIL.Image
import pytest
import torch
from torch.utils.data import TensorDataset

from cnn_ext import cli
from cnn_ext.models import lenet5
from cnn_ext.training import folder, networks, train
from cnn_ext.training.classifier import Classifier
from cnn_ext.training.images import Images
from cnn_ext.training.recipes import Recipe
from cnn_ext.training.seeds import Augmented, SeededSampler, derive
from tests.training.conftest import noise

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


LENET = train.Options(model="lenet5", data="tiny", epochs=1, batch_size=8, accelerator="cpu")
COMMAND = "train --model lenet5 --data tiny --epochs 1 --batch-size 8 --accelerator cpu".split()  # noqa: SIM905


def strict(text):
    """What JSON says of a text that is JSON and nothing else."""

    def refuse(constant):
        raise ValueError(constant)

    return json.loads(text, parse_constant=refuse)


@pytest.mark.parametrize(
    "options",
    [{"epochs": 0}, {"batch_size": 0}, {"batch_size": -8}, {"epochs": 1.5}, {"devices": 0},
     {"nodes": 0}, {"image_size": 0}, {"workers": -1}, {"learning_rate": 0.0},
     {"learning_rate": -1e-3}, {"learning_rate": math.nan}, {"learning_rate": math.inf},
     {"width": math.nan}, {"width": 0.0}, {"seed": 2**64}, {"seed": 0.5}, {"precision": "31"},
     {"precision": None}, {"layers": "jax"}, {"recipe": "x"}, {"model": ""}, {"data": None},
     {"compile": "no"}],
    ids=str,
)  # fmt: skip
def test_an_option_with_which_nothing_can_be_learnt_is_refused_by_name(options):
    (name,) = options
    with pytest.raises(ValueError, match=f"^{name}: expected"):
        replace(LENET, **options)


@pytest.mark.parametrize("recipe", ["vgg", "lenet5"])
def test_fewer_images_than_a_batch_are_refused(recipe, tmp_path, capsys):
    words = [*COMMAND, "--recipe", recipe, "--batch-size", "25", "--out", str(tmp_path), "--json"]
    assert cli.main(words) == 2
    printed = capsys.readouterr()
    (sentence,) = printed.err.splitlines()
    assert "batch_size: 25 is more than the 24 training images" in sentence
    assert printed.out == ""
    assert list(tmp_path.iterdir()) == []


def test_every_process_needs_a_batch(tiny):
    with pytest.raises(ValueError, match="24 training images, 12 for each of 2 processes, can fill"):
        train._check_data(tiny, replace(LENET, batch_size=13), processes=2)


@pytest.mark.parametrize(
    ("count", "classes", "message"),
    [(0, ("dark", "bright"), "found 0 to learn from"), (24, ("all",), "at least two classes, found 1")],
)
def test_data_in_which_there_is_nothing_to_learn_are_refused(
    count, classes, message, tmp_path, monkeypatch, loads_tiny
):
    loads_tiny(monkeypatch, noise(count, classes))
    with pytest.raises(ValueError, match=f"^data: .*{message}"):
        train.run(LENET, tmp_path, progress=False)


@pytest.mark.parametrize(
    ("model", "size", "batch", "message"),
    [("lenet5", 28, 8, "lenet5 cannot take images of 28 x 28, only of 32 x 32"),
     ("alexnet", 62, 8, "expected at least 63 pixels"),
     ("squeezenet1_1", 12, 8, "torchvision names 17 x 17 as its smallest"),
     ("resnet18", 32, 1, "32 x 32 in batches of 1")],
)  # fmt: skip
def test_a_size_that_a_network_cannot_take_is_told_before_anything_is_written(
    model, size, batch, message, tmp_path, capsys
):
    options = {"--model": model, "--image-size": size, "--batch-size": batch, "--out": tmp_path}
    assert cli.main([*COMMAND, *(str(word) for pair in options.items() for word in pair)]) == 2
    (sentence,) = capsys.readouterr().err.splitlines()
    assert sentence.startswith("cnn-ext train: image_size: ")
    assert message in sentence
    assert list(tmp_path.iterdir()) == []


def test_a_network_that_is_tried_keeps_its_state():
    torch.manual_seed(0)
    model, channels = networks.build("resnet18", num_classes=2)
    model.eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}, torch.get_rng_state()
    networks.check(model, "resnet18", channels, 32)
    assert all(torch.equal(value, before[0][key]) for key, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), before[1])
    assert not any(module.training for module in model.modules())


@pytest.mark.parametrize(
    ("words", "message"),
    [(["--precision", "31"], "precision: expected one of 32-true"),
     (["--precision", "16-mixed"], "precision: expected bf16-mixed on this device"),
     (["--accelerator", "abacus"], "accelerator: .*abacus"),
     (["--accelerator", "tpu"], "accelerator: .*tpu"),
     (["--nodes", "2"], "nodes: 2 hosts have to be started by torchrun"),
     (["--workers", "-1"], "workers: expected"),
     (["--learning-rate", "nan"], "learning_rate: expected a positive number")],
    ids=lambda value: "".join(value) if isinstance(value, list) else "",
)  # fmt: skip
def test_what_this_machine_cannot_do_is_one_sentence(words, message, tmp_path, capsys):
    assert cli.main([*COMMAND, *words, "--out", str(tmp_path / "none")]) == 2
    (sentence,) = capsys.readouterr().err.splitlines()
    assert re.search(message, sentence)
    assert not (tmp_path / "none").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("name", ["gpu", "cuda"])
def test_a_gpu_that_is_not_there_is_one_sentence(name, tmp_path, capsys):
    assert cli.main([*COMMAND, "--accelerator", name, "--out", str(tmp_path / "none")]) == 2
    (sentence,) = capsys.readouterr().err.splitlines()
    assert f"accelerator: this machine cannot run with accelerator {name!r}" in sentence


def test_a_run_that_diverges_ends_with_strict_json_and_a_sentence(tmp_path, capsys):
    words = [*COMMAND, "--learning-rate", "1e30", "--epochs", "3", "--out", str(tmp_path), "--json"]
    assert cli.main(words) == 1
    printed = capsys.readouterr()
    report = strict(printed.out)
    assert report == strict((tmp_path / "report.json").read_text())
    assert report["accuracy"] is None
    assert report["losses"][-1] is None
    assert report["diverged"] == f"the loss became NaN or infinite at step {len(report['losses'])}"
    (sentence,) = printed.err.splitlines()
    assert report["diverged"] in sentence
    assert "smaller --learning-rate than 1e+30" in sentence
    assert not (tmp_path / "last.ckpt").exists()  # none is made of weights that are no numbers


def test_a_run_that_diverged_has_ended(tmp_path):
    diverging = replace(LENET, learning_rate=1e30, epochs=3)
    for resume in (False, True):
        with pytest.raises(folder.DivergedError, match="NaN or infinite"):
            train.run(diverging, tmp_path, resume, progress=False)


def test_weights_that_are_no_numbers_after_the_last_step_are_told(tmp_path):
    one_step = replace(LENET, learning_rate=1e30, batch_size=24)
    with pytest.raises(folder.DivergedError, match="outputs are NaN after step 1") as told:
        train.run(one_step, tmp_path, progress=False)
    assert told.value.report["accuracy"] is None


@pytest.mark.parametrize(
    ("losses", "diverged"),
    [([2.3, 1.0, 0.1], False), ([2.3, 9.0, 2.0], False), ([0.1, 0.5], False), ([2.3, 4e9, 4e9], True)],
)
def test_a_loss_far_above_its_start_is_no_training(losses, diverged):
    assert bool(train._divergence(losses, torch.ones(5, 10))) == diverged


def test_one_step_is_a_step(tmp_path):
    losses = [
        train.run(
            replace(LENET, batch_size=24, learning_rate=rate), tmp_path / str(rate), progress=False
        )
        for rate in (1e-9, 0.01)
    ]
    first, second = (weights(tmp_path / str(rate)) for rate in (1e-9, 0.01))
    assert losses[0]["losses"] == losses[1]["losses"]
    assert (first["network.c1.weight"] - second["network.c1.weight"]).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["Ctrl-C", "SIGTERM"]
)
@pytest.mark.parametrize(("epoch", "told"), [(0, "No epoch was finished"), (1, "To continue after")])
def test_a_stopped_run_says_how_to_continue(number, status, epoch, told, tmp_path, capsys, monkeypatch):
    before = Classifier.training_step

    def training_step(self, batch, index):
        if (self.current_epoch, index) == (epoch, 1):
            os.kill(os.getpid(), number)
        return before(self, batch, index)

    place = tmp_path / "a run"
    handlers = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    with monkeypatch.context() as patch:
        patch.setattr(Classifier, "training_step", training_step)
        assert cli.main([*COMMAND, "--epochs", "2", "--out", str(place), "--json"]) == status
    printed = capsys.readouterr()
    assert printed.out == ""
    assert told in printed.err
    command = f"python -m cnn_ext train --resume --out '{place}'"
    assert command in printed.err
    assert "Traceback" not in printed.err
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert not list(place.rglob("*.part"))
    assert cli.main([*shlex.split(command)[3:], "--json"]) == 0
    assert len(strict(capsys.readouterr().out)["losses"]) == 6


def test_a_full_disk_keeps_the_checkpoint_before(tmp_path, monkeypatch, capsys):
    saves = iter((torch.save,))

    def save(content, file):
        next(saves, full)(content, file)

    def full(content, file):
        file.write(b"half of it")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", save)
        assert cli.main([*COMMAND, "--epochs", "2", "--out", str(tmp_path), "--json"]) == 1
    sentence, note = capsys.readouterr().err.splitlines()
    assert "last.ckpt cannot be written ([Errno 28] No space left on device)" in sentence
    assert note.startswith(
        "To continue after the last whole epoch, type: python -m cnn_ext train --resume"
    )
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["epoch"] == 0
    assert not list(tmp_path.rglob("*.part"))
    assert cli.main(["train", "--resume", "--out", str(tmp_path)]) == 0


def test_nothing_but_the_report_is_on_standard_output(tmp_path, capsys, monkeypatch):
    before = Classifier.training_step

    def training_step(self, batch, index):
        print("a library that talks")
        return before(self, batch, index)

    monkeypatch.setattr(Classifier, "training_step", training_step)
    assert cli.main([*COMMAND, "--out", str(tmp_path), "--json"]) == 0
    assert strict(capsys.readouterr().out)["epochs"] == 1


class Broken(TensorDataset):
    """One image of it cannot be read."""

    def __getitem__(self, index):
        if index == 5:
            raise ValueError("data: 'cat.jpg' is no image")
        return super().__getitem__(index)


@pytest.fixture
def broken(monkeypatch, tiny):
    """A data set that is broken where nobody looks before the training."""
    monkeypatch.setattr(train.images, "statistics", lambda data: ([0.5] * 3, [0.2] * 3))
    data = replace(tiny, train=Broken(*tiny.train.tensors))
    monkeypatch.setattr(train.images, "load", lambda name, folder: data)


@pytest.mark.usefixtures("broken")
@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_breaks_a_run_is_one_sentence(workers, tmp_path, capsys):
    assert cli.main([*COMMAND, "--workers", str(workers), "--out", str(tmp_path), "--json"]) == 1
    sentence, note = capsys.readouterr().err.splitlines()
    assert sentence == "cnn-ext train: data: 'cat.jpg' is no image"
    assert note.startswith("No epoch was finished. To begin it again, type: ")


def test_a_run_goes_on_without_a_broken_image(tmp_path, capsys, monkeypatch, power_cut):
    with power_cut(epoch=1):
        train.run(replace(LENET, epochs=2), tmp_path, progress=False)
    fewer = replace(noise(23), left_out=("data: 'cat.jpg' is no image",))
    monkeypatch.setattr(train.images, "load", lambda name, folder, skip_broken: fewer)
    assert cli.main(["train", "--resume", "--skip-broken", "--out", str(tmp_path), "--json"]) == 0
    printed = capsys.readouterr()
    assert "skip_broken was False and is True" in printed.err
    assert "1 images are left out:\ndata: 'cat.jpg' is no image" in printed.err
    report = strict(printed.out)
    assert (report["training_images"], len(report["losses"])) == (23, 3 + 2)
    assert report["left_out"] == ["data: 'cat.jpg' is no image"]


def test_two_processes_print_one_document(tmp_path):
    for index in range(12):
        name = f"{'test' if index > 7 else 'train'}/{index % 2}/{index}.png"
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.new("RGB", (32, 32), (20 * index, 0, 200 * (index % 2))).save(tmp_path / name)
    words = (
        "-m cnn_ext train --model lenet5 --epochs 1 --batch-size 2 --devices 2 --accelerator cpu --json"
    )
    done = subprocess.run(
        [sys.executable, *words.split(), "--data", str(tmp_path), "--out", str(tmp_path / "run")],
        capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = strict(done.stdout)
    assert (report["devices"], len(report["losses"])) == (2, 2)
    assert report == strict((tmp_path / "run/report.json").read_text())


def test_derived_seeds_are_spread():
    seeds = {derive(0, epoch, step) for epoch in range(10) for step in range(100)}
    assert len(seeds) == 1000
    assert all(0 <= seed < 2**56 for seed in seeds)
