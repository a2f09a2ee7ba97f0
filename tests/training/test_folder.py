"""A run owns its folder: what may begin there, what continues, and what is refused by name."""

import contextlib
import json
import os
import shutil
import signal
from dataclasses import replace

import pytest
import torch
from filelock import FileLock

from cnn_ext import cli
from cnn_ext.training import folder, train
from tests.training.conftest import noise

pytestmark = pytest.mark.usefixtures("tiny", "one_thread", "no_pictures")
OPTIONS = train.Options(model="lenet5", data="tiny", epochs=2, batch_size=8, image_size=32,
                        accelerator="cpu")  # fmt: skip


def run(path, resume=False, overwrite=False, **options):
    return train.run(replace(OPTIONS, **options), path, resume, progress=False, overwrite=overwrite)


@pytest.fixture(scope="module")
def once(tmp_path_factory, loads_tiny, power_cut):
    """A run that has ended and one that a power cut ended in its second epoch, made once."""
    place = tmp_path_factory.mktemp("once")
    with pytest.MonkeyPatch.context() as patch:
        loads_tiny(patch, noise())
        run(place / "finished")
        with power_cut(epoch=1):
            run(place / "begun")
    return place


@pytest.fixture
def no_pictures(monkeypatch):
    """Drawing takes longer than these runs."""
    monkeypatch.setattr(folder.RunFolder, "write_picture", lambda *_: None)


@pytest.fixture
def finished(once, tmp_path):
    return shutil.copytree(once / "finished", tmp_path / "finished")


@pytest.fixture
def begun(once, tmp_path):
    return shutil.copytree(once / "begun", tmp_path / "begun")


def report_of(path):
    return json.loads((path / "report.json").read_text())


def files(path):
    """The content of all files of a folder, the lock aside."""
    return {p.name: p.read_bytes() for p in path.rglob("*") if p.is_file() and p.name != ".lock"}


def rewrite(path, **values):
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_a_folder_that_has_a_run_takes_no_other(finished):
    before = files(finished)
    with pytest.raises(ValueError, match="--resume continues it, --overwrite begins anew"):
        run(finished, seed=7)
    assert files(finished) == before


@pytest.mark.parametrize("left", ["options.json", "last.ckpt", "report.json"])
def test_one_file_of_a_run_is_enough_to_keep_others_out(left, tmp_path):
    (tmp_path / left).write_text("{}")
    with pytest.raises(ValueError, match="there is a run"):
        run(tmp_path)
    assert files(tmp_path) == {left: b"{}"}


@pytest.mark.parametrize(
    "wrong",
    [{"batch_size": 25}, {"model": "lenet6"}, {"image_size": 28}, {"accelerator": "none", "seed": 1}],
)
def test_a_call_that_fails_leaves_a_finished_run_alone(wrong, finished):
    before = files(finished)
    for how in ({}, {"overwrite": True}, {"resume": True}):
        with pytest.raises(ValueError, match=":"):
            run(finished, **how, **wrong)
        assert files(finished) == before


def test_a_call_that_fails_makes_no_folder(tmp_path):
    with pytest.raises(ValueError, match="batch_size"):
        run(tmp_path / "new", batch_size=25)
    assert not (tmp_path / "new").exists()


def test_overwriting_begins_anew_and_leaves_other_files_alone(finished, tmp_path):
    first = report_of(finished)
    (finished / "notes.txt").write_text("mine")
    second = run(finished, overwrite=True, seed=7)
    assert second["run"] != first["run"]
    assert second["losses"] != first["losses"]
    assert second["losses"] == run(tmp_path / "elsewhere", seed=7)["losses"]
    assert (finished / "notes.txt").read_text() == "mine"
    assert len(list(finished.glob("csv/*"))) == 1


def test_an_overwritten_run_never_continues_from_the_checkpoint_before(finished, power_cut, tmp_path):
    other = {"learning_rate": 1e-9, "seed": 7}
    with power_cut(epoch=0):
        run(finished, overwrite=True, **other)
    assert not (finished / "last.ckpt").exists()
    assert run(finished, resume=True, **other)["losses"] == run(tmp_path / "whole", **other)["losses"]


@pytest.mark.parametrize("moment", range(5))
def test_whenever_overwriting_is_stopped_no_checkpoint_meets_other_options(
    moment, once, finished, monkeypatch
):
    """Stopped before its first, second ... change of the folder, the earlier run is there still."""
    changes = iter(range(10))

    def counted(change):
        def counting(*arguments, **keywords):
            if next(changes) == moment:
                raise KeyboardInterrupt
            return change(*arguments, **keywords)

        return counting

    with monkeypatch.context() as patch:
        patch.setattr(folder.Path, "unlink", counted(folder.Path.unlink))
        patch.setattr(os, "replace", counted(os.replace))
        with pytest.raises(KeyboardInterrupt):
            run(finished, overwrite=True, seed=7)
    first = json.loads((once / "finished/report.json").read_text())
    assert run(finished, resume=True)["losses"] == first["losses"]


def test_options_checkpoint_and_report_have_one_identity(finished, tmp_path):
    options = json.loads((finished / "options.json").read_text())
    assert options == torch.load(finished / "last.ckpt", weights_only=True)["run"]
    assert options.items() <= report_of(finished).items()
    assert run(tmp_path / "again")["run"] != options["run"]


def test_options_have_the_numbers_of_the_recipe(finished):
    options = json.loads((finished / "options.json").read_text())
    assert (options["recipe"], options["learning_rate"]) == ("lenet5", 0.004)


def test_the_checkpoint_of_another_run_is_refused_by_name(begun, finished):
    shutil.copy(finished / "last.ckpt", begun / "last.ckpt")
    with pytest.raises(folder.RunError, match=r"last\.ckpt and options\.json .* of different runs"):
        run(begun, resume=True)


def test_the_report_of_another_run_is_refused_by_name(begun, finished):
    shutil.copy(finished / "report.json", begun / "report.json")
    with pytest.raises(folder.RunError, match=r"report\.json and options\.json .* of different runs"):
        run(begun, resume=True)


def test_options_that_were_edited_are_refused_by_name(begun):
    rewrite(begun / "options.json", seed=7)
    with pytest.raises(folder.RunError, match=r"last\.ckpt and options\.json .* seed was 0 and is 7"):
        run(begun, resume=True, seed=7)


def test_data_that_have_changed_are_refused_by_name(begun, monkeypatch, loads_tiny):
    loads_tiny(monkeypatch, noise(25))
    with pytest.raises(ValueError, match=r"'tiny' is not what .* training_images was 24 and is 25"):
        run(begun, resume=True)


def test_a_run_does_not_continue_with_other_options(begun):
    before = files(begun)
    with pytest.raises(
        ValueError, match=r"epochs was 2 and is 3, learning_rate was 0\.004 and is 0\.1;"
    ):
        run(begun, resume=True, epochs=3, learning_rate=0.1)
    assert files(begun) == before


def test_what_changes_nothing_of_what_is_learnt_may_be_other_and_is_told(begun, once, capsys):
    report = run(begun, resume=True, ten_crop=True, downloads="elsewhere")
    told = capsys.readouterr().err
    assert "ten_crop was False and is True" in told
    assert "downloads was 'data' and is 'elsewhere'" in told
    assert 0 <= report["ten_crop_accuracy"] <= 1
    assert report["losses"] == report_of(once / "finished")["losses"]


def test_a_run_that_has_ended_is_not_run_again(finished, capsys, monkeypatch):
    monkeypatch.setattr(train.images, "load", None)  # not even its data are read
    assert run(finished, resume=True) == report_of(finished)
    assert "had ended" in capsys.readouterr().err


def test_a_run_that_was_stopped_while_it_was_evaluated_is_evaluated(begun, once, monkeypatch):
    def stopped(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(train.Classifier, "predict_step", stopped)
        with pytest.raises(KeyboardInterrupt):
            run(begun, resume=True)
    report, whole = run(begun, resume=True), report_of(once / "finished")
    assert report["losses"] == whole["losses"]
    assert report["accuracy"] == whole["accuracy"]


def truncated(content):
    return content[: len(content) // 2]


def flipped(content):
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.parametrize("damage", [truncated, flipped, lambda _: b"", lambda _: b"words"])
def test_a_damaged_checkpoint_is_refused_in_one_sentence(damage, begun, capsys):
    checkpoint = begun / "last.ckpt"
    checkpoint.write_bytes(damage(checkpoint.read_bytes()))
    assert cli.main(["train", "--resume", "--out", str(begun)]) == 1
    (sentence,) = capsys.readouterr().err.splitlines()
    assert sentence.startswith(f"cnn-ext train: resume: {checkpoint} cannot be used: ")
    assert sentence.endswith("--overwrite begins anew")


class Evil:
    def __reduce__(self):
        return os.kill, (os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("content", [{"run": Evil()}, {"state_dict": {}}, [1, 2], {"run": "a"}])
def test_a_foreign_checkpoint_is_refused_in_one_sentence(content, begun, capsys):
    torch.save(content, begun / "last.ckpt")
    assert cli.main(["train", "--resume", "--out", str(begun)]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "{}", '{"run": 1}', '{"run": "a"}', '{"run": "a", "model": "lenet5", "data": 3}',
     '{"run": "a", "model": "lenet5", "data": "tiny", "epochs": NaN}', b"\xff\xfe\x00"],
)  # fmt: skip
def test_damaged_options_are_refused_in_one_sentence(content, tmp_path, capsys):
    path = tmp_path / "options.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert cli.main(["train", "--resume", "--out", str(tmp_path)]) in (1, 2)
    (sentence,) = capsys.readouterr().err.splitlines()
    assert "options.json" in sentence


def test_two_processes_do_not_share_a_folder(begun, monkeypatch):
    monkeypatch.setattr(folder, "PATIENCE", 0.1)
    with FileLock(begun / ".lock"), pytest.raises(folder.RunError, match="another process"):
        run(begun, resume=True)


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "file").write_text("mine")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises((ValueError, OSError), match="file"):
            run(place, overwrite=True)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_folder_that_cannot_be_made_is_told_in_one_sentence(tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    words = f"train --model lenet5 --data tiny --batch-size 8 --out {tmp_path}/file/below"
    assert cli.main(words.split()) == 1
    (sentence,) = capsys.readouterr().err.splitlines()
    assert "Not a directory" in sentence


def test_a_file_is_whole_or_not_there(tmp_path):
    path = tmp_path / "a"
    path.write_text("before")
    with contextlib.suppress(KeyboardInterrupt), folder.whole_file(path) as file:
        file.write(b"half of it")
        raise KeyboardInterrupt
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    assert path.read_text() == "before"
