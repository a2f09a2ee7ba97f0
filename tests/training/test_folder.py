"""A run owns its folder: what may begin there, what continues, and what is refused by name."""

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

pytestmark = pytest.mark.usefixtures("tiny", "one_thread")
OPTIONS = train.Options(model="lenet5", data="tiny", epochs=2, batch_size=8, image_size=32,
                        accelerator="cpu")  # fmt: skip


def run(path, resume=False, overwrite=False, **options):
    return train.run(replace(OPTIONS, **options), path, resume, progress=False, overwrite=overwrite)


def begun(path, cut, epoch=1, **options):
    """A run that is stopped in the middle of an epoch, the second if no other is named."""
    cut(epoch, 1)
    with pytest.raises(cut.error):
        run(path, **options)
    cut()


def files(path):
    """The content of all files of a folder, the lock aside."""
    return {p.name: p.read_bytes() for p in path.rglob("*") if p.is_file() and p.name != ".lock"}


def rewrite(path, **values):
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_a_folder_that_has_a_run_takes_no_other(tmp_path):
    run(tmp_path)
    before = files(tmp_path)
    with pytest.raises(ValueError, match="--resume continues it, --overwrite begins anew"):
        run(tmp_path, seed=7)
    assert files(tmp_path) == before


@pytest.mark.parametrize("left", ["options.json", "last.ckpt", "report.json"])
def test_one_file_of_a_run_is_enough_to_keep_others_out(left, tmp_path):
    (tmp_path / left).write_text("{}")
    with pytest.raises(ValueError, match="there is a run"):
        run(tmp_path)
    assert files(tmp_path) == {left: b"{}"}


@pytest.mark.parametrize(
    "wrong", [{"batch_size": 25}, {"model": "lenet6"}, {"image_size": 28}, {"accelerator": "none"}]
)
def test_a_call_that_fails_leaves_a_finished_run_alone(wrong, tmp_path):
    run(tmp_path)
    before = files(tmp_path)
    for how in ({}, {"overwrite": True}, {"resume": True}):
        with pytest.raises(ValueError, match=":"):
            run(tmp_path, **how, **wrong)
        assert files(tmp_path) == before


def test_a_call_that_fails_makes_no_folder(tmp_path):
    with pytest.raises(ValueError, match="batch_size"):
        run(tmp_path / "new", batch_size=25)
    assert not (tmp_path / "new").exists()


def test_overwriting_begins_anew_and_leaves_other_files_alone(tmp_path):
    first = run(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    second = run(tmp_path, overwrite=True, seed=7)
    assert second["run"] != first["run"]
    assert second["losses"] != first["losses"]
    assert second["losses"] == run(tmp_path / "elsewhere", seed=7)["losses"]
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert len(list(tmp_path.glob("csv/*"))) == 1


def test_an_overwritten_run_never_continues_from_the_checkpoint_before(tmp_path, cut):
    run(tmp_path)
    begun(tmp_path, cut, epoch=0, overwrite=True, learning_rate=1e-9, seed=7)
    assert not (tmp_path / "last.ckpt").exists()
    resumed = run(tmp_path, resume=True, learning_rate=1e-9, seed=7)
    assert resumed["losses"] == run(tmp_path / "whole", learning_rate=1e-9, seed=7)["losses"]


@pytest.mark.parametrize("moment", range(4))
def test_whenever_overwriting_is_stopped_no_checkpoint_meets_other_options(
    moment, tmp_path, monkeypatch
):
    """Stopped at the first, second ... change of the folder, it continues as either of the two runs."""
    first = run(tmp_path)
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
            run(tmp_path, overwrite=True, seed=7)
    seed = json.loads((tmp_path / "options.json").read_text())["seed"]
    assert run(tmp_path, resume=True, seed=seed)["losses"] == first["losses"]


def test_options_checkpoint_and_report_have_one_identity(tmp_path):
    report = run(tmp_path)
    options = json.loads((tmp_path / "options.json").read_text())
    kept = torch.load(tmp_path / "last.ckpt", weights_only=True)["run"]
    assert options == kept
    assert options.items() <= report.items()
    assert run(tmp_path / "again")["run"] != report["run"]


def test_options_of_a_run_are_all_told(tmp_path):
    run(tmp_path, learning_rate=None, recipe=None)
    options = json.loads((tmp_path / "options.json").read_text())
    assert (options["recipe"], options["learning_rate"]) == ("lenet5", 0.004)


def test_the_checkpoint_of_another_run_is_refused_by_name(tmp_path, cut):
    begun(tmp_path / "a", cut)
    begun(tmp_path / "b", cut)
    shutil.copy(tmp_path / "a/last.ckpt", tmp_path / "b/last.ckpt")
    with pytest.raises(folder.RunError, match=r"last\.ckpt and options\.json .* of different runs"):
        run(tmp_path / "b", resume=True)


def test_the_report_of_another_run_is_refused_by_name(tmp_path, cut):
    run(tmp_path / "a")
    begun(tmp_path / "b", cut)
    shutil.copy(tmp_path / "a/report.json", tmp_path / "b/report.json")
    with pytest.raises(folder.RunError, match=r"report\.json and options\.json .* of different runs"):
        run(tmp_path / "b", resume=True)


def test_options_that_were_edited_are_refused_by_name(tmp_path, cut):
    begun(tmp_path, cut)
    rewrite(tmp_path / "options.json", seed=7)
    with pytest.raises(folder.RunError, match=r"last\.ckpt and options\.json .* seed was 0 and is 7"):
        run(tmp_path, resume=True, seed=7)


def test_data_that_have_changed_are_refused_by_name(tmp_path, cut):
    begun(tmp_path, cut)
    rewrite(tmp_path / "options.json", training_images=25)
    with pytest.raises(ValueError, match="'tiny' is not what .* training_images was 25 and is 24"):
        run(tmp_path, resume=True)


def test_a_run_does_not_continue_with_other_options(tmp_path, cut):
    begun(tmp_path, cut)
    before = files(tmp_path)
    with pytest.raises(
        ValueError, match=r"epochs was 2 and is 3, learning_rate was 0\.004 and is 0\.1"
    ):
        run(tmp_path, resume=True, epochs=3, learning_rate=0.1)
    assert files(tmp_path) == before


def test_what_changes_nothing_may_be_other_and_is_told(tmp_path, cut, capsys):
    begun(tmp_path, cut)
    report = run(tmp_path, resume=True, ten_crop=True, downloads="elsewhere")
    assert (
        "ten_crop was False and is True, downloads was 'data' and is 'elsewhere'"
        in " ".join(sorted(capsys.readouterr().err.split(", ")))
        or report["ten_crop"]
    )
    assert 0 <= report["ten_crop_accuracy"] <= 1
    assert report["losses"] == run(tmp_path / "whole")["losses"]


def test_a_run_that_has_ended_is_not_run_again(tmp_path, capsys, monkeypatch):
    report = run(tmp_path)
    monkeypatch.setattr(train.images, "load", None)  # not even its data are read
    assert run(tmp_path, resume=True) == report
    assert "had ended" in capsys.readouterr().err


def test_a_run_that_was_stopped_while_it_was_evaluated_is_evaluated(tmp_path, monkeypatch):
    def stopped(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(train.Classifier, "predict_step", stopped)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path)
    report = run(tmp_path, resume=True)
    assert report["losses"] == run(tmp_path / "whole")["losses"]


def truncated(content):
    return content[: len(content) // 2]


def flipped(content):
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.parametrize("damage", [truncated, flipped, lambda _: b"", lambda _: b"words"])
def test_a_damaged_checkpoint_is_refused_in_one_sentence(damage, tmp_path, cut, capsys):
    begun(tmp_path, cut)
    checkpoint = tmp_path / "last.ckpt"
    checkpoint.write_bytes(damage(checkpoint.read_bytes()))
    assert cli.main(["train", "--resume", "--out", str(tmp_path)]) == 1
    (sentence,) = capsys.readouterr().err.splitlines()
    assert sentence.startswith(f"cnn-ext train: resume: {checkpoint} cannot be used: ")
    assert sentence.endswith("--overwrite begins anew")


class Evil:
    def __reduce__(self):
        return os.kill, (os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize(
    "content", [{"run": Evil()}, {"state_dict": {}}, [1, 2], {"run": "a"}], ids=str
)
def test_a_foreign_checkpoint_is_refused_in_one_sentence(content, tmp_path, cut, capsys):
    begun(tmp_path, cut)
    torch.save(content, tmp_path / "last.ckpt")
    assert cli.main(["train", "--resume", "--out", str(tmp_path)]) == 1
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


def test_two_processes_do_not_share_a_folder(tmp_path, cut, monkeypatch):
    begun(tmp_path, cut)
    monkeypatch.setattr(folder, "PATIENCE", 0.1)
    with FileLock(tmp_path / ".lock"), pytest.raises(folder.RunError, match="another process"):
        run(tmp_path, resume=True)


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "file").write_text("mine")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises((ValueError, OSError), match="file"):
            run(place, overwrite=True)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_folder_that_cannot_be_made_is_told_in_one_sentence(tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    words = "train --model lenet5 --data tiny --epochs 1 --batch-size 8 --accelerator cpu --out".split()
    assert cli.main([*words, str(tmp_path / "file" / "below")]) == 1
    (sentence,) = capsys.readouterr().err.splitlines()
    assert "Not a directory" in sentence


def test_a_file_is_whole_or_not_there(tmp_path):
    path = tmp_path / "a"
    path.write_text("before")
    with pytest.raises(KeyboardInterrupt), folder.whole_file(path) as file:
        file.write(b"half of it")
        raise KeyboardInterrupt
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    assert path.read_text() == "before"
