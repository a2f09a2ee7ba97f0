"""Augmentation in advance: the same files however often it was interrupted."""

import pytest
import torch
from PIL import Image
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


class Interrupted(v2.Transform):
    """Raises after some samples, once."""

    def __init__(self, after):
        super().__init__()
        self.transform_, self.left = TRANSFORM, after

    def forward(self, *inputs):
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return self.transform_(*inputs)

    def __repr__(self):
        return repr(self.transform_)


def test_an_interrupted_run_goes_on_where_it_stopped_and_ends_the_same(tmp_path):
    whole = run(tmp_path / "whole", copies=2)
    with pytest.raises(KeyboardInterrupt):
        precompute(DATA, Interrupted(4), tmp_path / "part", copies=2, progress=False)
    with pytest.raises(FileNotFoundError, match="6 of 10 samples are missing; call precompute again"):
        Precomputed(tmp_path / "part")
    rest = Interrupted(6)  # and not one more
    part = precompute(DATA, rest, tmp_path / "part", copies=2, progress=False)
    assert rest.left == 0
    assert all(torch.equal(a[0], b[0]) for a, b in zip(whole, part, strict=True))


def test_what_is_complete_is_not_computed_again(tmp_path):
    run(tmp_path)
    precompute(DATA, Interrupted(0), tmp_path, progress=False)


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
