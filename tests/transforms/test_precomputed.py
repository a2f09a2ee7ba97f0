"""Augmentation in advance: the same files however often it was interrupted."""

import functools
import json
import os
import random
import subprocess
import sys
import threading

import numpy
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader
from torchvision import tv_tensors
from torchvision.transforms import v2

from cnn_ext.transforms import ColorPCA, Precomputed, RandomColorPCA, precompute

DATA = [(torch.randint(0, 256, (3, 12, 12), dtype=torch.uint8), label) for label in range(5)]
TRANSFORM = v2.Compose([v2.RandomCrop(8), RandomColorPCA(ColorPCA.imagenet(), p=1.0)])


def run(folder, **keywords):
    return precompute(DATA, TRANSFORM, folder, progress=False, **keywords)


def test_every_copy_of_every_sample_is_there_once(tmp_path):
    data = run(tmp_path, copies=3)
    assert len(data) == 15
    assert [data[i][1] for i in range(15)] == 3 * [0, 1, 2, 3, 4]
    assert len({data[i][0].numpy().tobytes() for i in range(15)}) == 15
    assert data[-1][1] == 4
    with pytest.raises(IndexError, match="expected one below 15, got 15"):
        data[15]


class Interrupted(list):
    """The samples, of which one may be read so many times and no more."""

    def __init__(self, left):
        super().__init__(DATA)
        self.left = left

    def __getitem__(self, index):
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return super().__getitem__(index)


def test_an_interrupted_run_goes_on_where_it_stopped_and_ends_the_same(tmp_path):
    whole = run(tmp_path / "whole", copies=2)
    with pytest.raises(KeyboardInterrupt):
        precompute(Interrupted(4), TRANSFORM, tmp_path / "part", copies=2, progress=False)
    with pytest.raises(FileNotFoundError, match="6 of 10 samples are missing; call precompute again"):
        Precomputed(tmp_path / "part")
    rest = Interrupted(6)  # and not one more
    part = precompute(rest, TRANSFORM, tmp_path / "part", copies=2, progress=False)
    assert rest.left == 0
    assert all(torch.equal(a[0], b[0]) for a, b in zip(whole, part, strict=True))


def test_what_is_complete_is_not_computed_again(tmp_path):
    run(tmp_path)
    precompute(Interrupted(0), TRANSFORM, tmp_path, progress=False)


def test_half_a_file_is_not_taken_for_a_sample(tmp_path):
    data = run(tmp_path)
    wanted = data[2][0]
    (tmp_path / "00000002.pt").rename(tmp_path / "00000002.999.partial")
    assert torch.equal(run(tmp_path)[2][0], wanted)


def test_the_global_generator_is_left_as_it_was(tmp_path):
    before = torch.get_rng_state()
    run(tmp_path)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("key", "value"), [("seed", 1), ("copies", 2)])
def test_results_of_other_arguments_are_not_mixed(tmp_path, key, value):
    run(tmp_path)
    with pytest.raises(ValueError, match=f"holds results of {key} = "):
        run(tmp_path, **{key: value})


def test_results_of_another_transform_are_not_mixed(tmp_path):
    run(tmp_path)
    with pytest.raises(ValueError, match="holds results of transform = "):
        precompute(DATA, v2.RandomCrop(8), tmp_path, progress=False)


class Brighter(nn.Module):
    """Its repr hides its state."""

    def __init__(self, by):
        super().__init__()
        self.by = by

    def forward(self, image):
        return image + self.by


class Plain:
    """No module: its repr is an address."""

    def __init__(self, by):
        self.by = by

    def __call__(self, image):
        return image + self.by


def images_of(transform, folder):
    data = [torch.full((3, 4, 4), 10, dtype=torch.uint8)]
    return [image.unique().tolist() for image in precompute(data, transform, folder, progress=False)]


@pytest.mark.parametrize("kind", [Brighter, Plain, lambda by: functools.partial(torch.add, other=by)])
def test_state_counts_whatever_the_repr(kind, tmp_path):
    assert images_of(kind(1), tmp_path) == [[11]]
    assert images_of(kind(1), tmp_path) == [[11]]  # another object of the same state
    with pytest.raises(
        ValueError, match=r"holds results of transform\..* and now it is .*another folder"
    ):
        images_of(kind(50), tmp_path)


def test_a_mismatch_names_what_differs(tmp_path):
    images_of(Brighter(1), tmp_path)
    with pytest.raises(ValueError, match=r"holds results of transform.by = 1 and now it is 50; choose"):
        images_of(Brighter(50), tmp_path)


def test_code_counts(tmp_path):
    images_of(lambda image: image // 2, tmp_path)
    with pytest.raises(ValueError, match=r"holds results of transform = function .*, code .* and now"):
        images_of(lambda image: image // 3, tmp_path)


def test_versions_count(tmp_path, monkeypatch):
    images_of(torch.relu, tmp_path)
    monkeypatch.setattr("cnn_ext.__version__", "99.0")
    with pytest.raises(ValueError, match=r"holds results of versions.cnn_ext = .* and now it is 99.0"):
        images_of(torch.relu, tmp_path)


SCRIPT = """
import sys, torch
from cnn_ext.transforms import precompute

class Plain:
    def __init__(self, by): self.by = by
    def __call__(self, image): return other(image) + self.by

def other(image): return image // FACTOR

FACTOR = 2

class Data(list):
    def __getitem__(self, index):
        if index and "stop" in sys.argv: raise InterruptedError
        return super().__getitem__(index)

data = Data(torch.full((3, 4, 4), 10 * i, dtype=torch.uint8) for i in (1, 2))
for name, transform in {"a": other, "b": Plain(1), "c": lambda image: other(image) - 1}.items():
    try:
        images = precompute(data, transform, sys.argv[1] + name, progress=False)
        print([int(image[0, 0, 0]) for image in images])
    except InterruptedError:
        pass
"""


def test_another_process_goes_on_with_functions_and_plain_objects(tmp_path):
    def process(seed, *arguments):
        return subprocess.run(
            [sys.executable, "-c", SCRIPT, f"{tmp_path}/", *arguments], check=True, text=True,
            capture_output=True, env={**os.environ, "PYTHONHASHSEED": seed},
        )  # fmt: skip

    process("1", "stop")
    assert [path.parent.name for path in sorted(tmp_path.glob("*/*.pt"))] == ["a", "b", "c"]
    assert process("2").stdout.split("\n")[:3] == ["[5, 10]", "[6, 11]", "[4, 9]"]


def test_what_cannot_be_recognised_is_refused_before_anything_is_written(tmp_path):
    lock = threading.Lock()
    with pytest.raises(TypeError, match=r"transform.__closure__.lock is of type lock. Leave it out"):
        images_of(lambda image: image if lock else None, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_pythons_and_numpys_draws_do_not_depend_on_what_came_before(tmp_path):
    def transform(image):
        return torch.tensor([random.random(), float(numpy.random.rand()), float(torch.rand(()))])

    states = random.getstate(), numpy.random.get_state()[1].tolist()
    whole = precompute(DATA, transform, tmp_path / "whole", progress=False)
    assert (random.getstate(), numpy.random.get_state()[1].tolist()) == states
    with pytest.raises(KeyboardInterrupt):
        precompute(Interrupted(3), transform, tmp_path / "part", progress=False)
    random.random()
    part = precompute(DATA, transform, tmp_path / "part", progress=False)
    assert all(torch.equal(a, b) for a, b in zip(whole, part, strict=True))
    assert len({tuple(draw.tolist()) for draw in whole}) == len(DATA)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 half a file"], ids=["empty", "half"])
def test_a_damaged_file_is_named_and_computed_anew(content, tmp_path):
    data = run(tmp_path)
    wanted = data[2][0]
    (tmp_path / "00000002.pt").write_bytes(content)
    with pytest.raises(ValueError, match=r"00000002.pt: cannot be read; delete it and call precompute"):
        data[2]
    assert torch.equal(run(tmp_path)[2][0], wanted)


def test_other_files_in_the_folder_are_not_counted(tmp_path):
    run(tmp_path)
    (tmp_path / "weights.pt").touch()
    assert len(Precomputed(tmp_path)) == 5
    (tmp_path / "00000004.pt").unlink()
    with pytest.raises(FileNotFoundError, match="1 of 5 samples are missing"):
        Precomputed(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"samples": 5}'])
def test_a_damaged_manifest_is_named(text, tmp_path):
    run(tmp_path)
    (tmp_path / "manifest.json").write_text(text)
    for use in (run, Precomputed):
        with pytest.raises(ValueError, match=r"manifest.json: is damaged .* delete the folder"):
            use(tmp_path)


def test_a_folder_that_knows_the_repr_alone_is_read_but_not_continued(tmp_path):
    run(tmp_path)
    facts = {"samples": 5, "copies": 1, "seed": 0, "transform": repr(TRANSFORM)}
    (tmp_path / "manifest.json").write_text(json.dumps(facts))
    assert len(Precomputed(tmp_path)) == 5
    with pytest.raises(ValueError, match=r"written by an earlier cnn_ext.*choose another folder"):
        run(tmp_path)


@pytest.mark.parametrize("copies", [0, -1, 1.5, True, "2"])
def test_copies_are_counted(copies, tmp_path):
    with pytest.raises(ValueError, match="copies: expected a positive integer, got"):
        run(tmp_path, copies=copies)


def test_a_generator_of_ones_own_is_refused(tmp_path):
    draw = RandomColorPCA(ColorPCA.imagenet(), generator=torch.Generator())
    with pytest.raises(ValueError, match="RandomColorPCA has a generator of its own"):
        precompute(DATA, v2.Compose([draw]), tmp_path)


def test_samples_are_plain_tensors_and_pil_images_are_refused(tmp_path):
    images = [{"image": Image.new("RGB", (5, 4)), "box": tv_tensors.Mask(torch.ones(1, 4, 5))}]
    data = precompute(images, v2.ToImage(), tmp_path / "a", progress=False)
    assert type(data[0]["image"]) is type(data[0]["box"]) is torch.Tensor
    with pytest.raises(TypeError, match=r"got Image; begin the transform with .*ToImage"):
        precompute(images, v2.Identity(), tmp_path / "b", progress=False)


def test_a_crop_does_not_bring_its_whole_image(tmp_path):
    big = [torch.zeros(3, 500, 500, dtype=torch.uint8)]
    precompute(big, v2.CenterCrop(4), tmp_path, progress=False)
    assert (tmp_path / "00000000.pt").stat().st_size < 5000


def test_a_loader_reads_it_and_the_bar_shows_progress(tmp_path, capsys):
    data = precompute(DATA, TRANSFORM, tmp_path)
    assert "5/5" in capsys.readouterr().err
    batches = list(DataLoader(data, batch_size=2, num_workers=1))
    assert [len(label) for _, label in batches] == [2, 2, 1]


def test_nothing_there_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"expected what cnn_ext.transforms.precompute wrote"):
        Precomputed(tmp_path)
    with pytest.raises(TypeError, match="dataset: expected a map-style data set"):
        precompute(iter(DATA), TRANSFORM, tmp_path)
