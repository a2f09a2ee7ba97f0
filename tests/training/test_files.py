"""Image files: which are found, what is read of them, and how one that cannot be read is named."""

import json
import math
import os

import numpy
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from cnn_ext import cli
from cnn_ext.training import files
from cnn_ext.training.images import Mapped

RAMP = numpy.linspace(0, 65535, 4096).astype(numpy.uint16).reshape(64, 64)


@pytest.fixture
def photograph(tmp_path):
    """A JPEG of noise."""
    pixels = numpy.random.default_rng(0).integers(0, 256, (60, 50, 3), dtype=numpy.uint8)
    Image.fromarray(pixels).save(tmp_path / "good.jpg")
    return tmp_path / "good.jpg"


# ----------------------------------------------------------------------------------------- found


def test_images_are_found_by_suffix_in_all_folders_in_order(tmp_path):
    wanted = ["a.PNG", "b/c.jpeg", "b/d/e.tif", "z.gif"]
    for name in [*wanted, "notes.txt", "b/.hidden.png", ".cache/f.png", "__/._x.jpg"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    assert files.find(tmp_path) == [tmp_path / name for name in wanted]


def test_linked_folders_are_followed_and_loops_end(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "a.png").touch()
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "link").symlink_to(tmp_path / "there")
    (tmp_path / "here" / "loop").symlink_to(tmp_path / "here")
    (tmp_path / "here" / "nothing.png").symlink_to(tmp_path / "nowhere")
    assert files.find(tmp_path / "here") == [
        tmp_path / "here" / "link" / "a.png", tmp_path / "here" / "nothing.png",
    ]  # fmt: skip


# ------------------------------------------------------------------------------------------ read


def test_16_bits_are_read_as_16_and_converted_as_torchvision_does(tmp_path):
    Image.fromarray(RAMP).save(tmp_path / "ramp.png")
    deep = files.read(tmp_path / "ramp.png")
    assert deep.dtype == torch.uint16
    assert torch.equal(deep, torch.from_numpy(RAMP).expand(3, -1, -1))
    converted = torch.from_numpy(RAMP // 256).to(torch.uint8).expand(3, -1, -1)
    assert torch.equal(files.read_bytes(tmp_path / "ramp.png"), converted)


def test_floats_are_read_from_black_to_white(tmp_path):
    Image.fromarray((RAMP / 65535).astype(numpy.float32)).save(tmp_path / "ramp.tif")
    assert files.read(tmp_path / "ramp.tif").aminmax() == (0, 1)
    levels = files.read_bytes(tmp_path / "ramp.tif").flatten().bincount()
    assert (len(levels), int(levels.min()), int(levels.max())) == (256, 48, 48)  # 3 * 4096 / 256


def test_of_an_animation_the_first_picture_is_read_and_alpha_is_left_out(tmp_path):
    first, second = (Image.new("RGB", (4, 3), colour) for colour in ("red", "blue"))
    first.save(tmp_path / "a.gif", save_all=True, append_images=[second])
    assert files.read(tmp_path / "a.gif")[:, 0, 0].tolist() == [255, 0, 0]
    Image.new("RGBA", (4, 3), (1, 2, 3, 0)).save(tmp_path / "a.png")
    assert files.read(tmp_path / "a.png")[:, 0, 0].tolist() == [1, 2, 3]


def test_an_image_is_not_turned_as_its_exif_asks(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    Image.new("RGB", (8, 4)).save(tmp_path / "a.jpg", exif=exif)
    assert files.read(tmp_path / "a.jpg").shape == (3, 4, 8)  # as torchvision reads it


# ---------------------------------------------------------------------------------------- broken


def damaged(folder, kind, photograph):
    """A file of the kind."""
    path = folder / f"{kind}.png"
    whole = photograph.read_bytes()
    if kind == "huge":
        Image.new("1", (14000, 14000)).save(path)
    elif kind == "float":
        path = path.with_suffix(".tif")
        Image.fromarray(numpy.full((4, 4), 200, numpy.float32)).save(path)
    elif kind == "link":
        path.symlink_to(folder / "nowhere")
    else:
        contents = {"empty": b"", "text": b"no image", "cut": whole[: len(whole) // 2],
                    "header": b"\x89PNG\r\n\x1a\nnonsense", "zeros": bytes(1000)}  # fmt: skip
        path.write_bytes(contents[kind])
    return path


REASONS = {
    "empty": "no image, or of a kind that PIL does not know",
    "text": "no image, or of a kind that PIL does not know",
    "zeros": "no image, or of a kind that PIL does not know",
    "cut": "truncated",
    "header": "Truncated File Read",
    "huge": "exceeds limit",
    "link": "No such file",
    "float": r"expected colours on \[0, 1\], got 200 to 200",
}


@pytest.mark.parametrize("kind", REASONS)
def test_a_broken_file_is_named_in_one_line_with_its_reason(kind, tmp_path, photograph):
    path = damaged(tmp_path, kind, photograph)
    with pytest.raises(
        files.BrokenImageError, match=f"^data: .*{kind}.* cannot be read: .*{REASONS[kind]}"
    ):
        files.read(path)
    ((found, sentence),) = files.broken([str(photograph), str(path)]).items()
    assert found == str(path)
    assert "\n" not in sentence


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_a_workers_sentence_arrives_without_its_traceback(context, tmp_path):
    path = str(tmp_path / "text.png")
    (tmp_path / "text.png").write_bytes(b"no image")
    loader = DataLoader(Mapped([(path, 0)], files.read_bytes), num_workers=1,
                        multiprocessing_context=context)  # fmt: skip
    with pytest.raises(files.BrokenImageError) as raised:
        list(loader)
    assert str(raised.value) == (
        f"data: {path!r} cannot be read: no image, or of a kind that PIL does not know"
    )


# ------------------------------------------------------------------------------------- train


@pytest.fixture
def classes(tmp_path):
    """Two classes of four images in train and test, one of the first broken."""
    generator = numpy.random.default_rng(0)
    for part in ("train", "test"):
        for label in "ab":
            (tmp_path / part / label).mkdir(parents=True)
            for i in range(4):
                pixels = generator.integers(0, 256, (40, 40, 3), dtype=numpy.uint8)
                Image.fromarray(pixels).save(tmp_path / part / label / f"{i}.png")
    (tmp_path / "train" / "a" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnonsense")
    return tmp_path


def train(folder, *more):
    return cli.main(
        ["train", "--model", "alexnet", "--width", "0.125", "--image-size", "64", "--batch-size", "4",
         "--epochs", "1", "--layers", "torch", "--data", str(folder), "--out", str(folder / "out"),
         "--json", *more]
    )  # fmt: skip


def test_train_ends_with_one_sentence_about_a_broken_image(classes, capsys):
    assert train(classes) == 2
    last = capsys.readouterr().err.strip().split("\n")[-1]
    assert last.startswith(
        f"cnn-ext train: data: {str(classes / 'train/a/broken.png')!r} cannot be read"
    )
    assert last.endswith("add --skip-broken")


def test_train_goes_on_without_a_broken_image_and_says_so(classes, capsys):
    assert train(classes, "--recipe", "adamw", "--skip-broken") == 0
    captured = capsys.readouterr()
    report = json.loads(captured.out)
    (left_out,) = report["left_out"]
    assert all(math.isfinite(loss) for loss in report["losses"])
    assert "broken.png' cannot be read" in left_out
    assert f"1 images are left out:\n{left_out}" in captured.err
