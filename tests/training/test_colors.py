"""``fit-pca``: folders of images of all kinds; what cannot be read is left out and named."""

import numpy
import pytest
import torch
from PIL import Image

from cnn_ext.training import colors
from cnn_ext.transforms import ColorPCA


@pytest.fixture
def folder(tmp_path):
    """A colour image, and a dark one of 12 bits in a 16-bit file."""
    generator = numpy.random.default_rng(0)
    colour = generator.integers(0, 256, (20, 30, 3), dtype=numpy.uint8)
    dark = generator.integers(0, 4096, (10, 10), dtype=numpy.uint16)
    Image.fromarray(colour).save(tmp_path / "colour.png")
    Image.fromarray(dark).save(tmp_path / "dark.png")
    return tmp_path


def test_16_bits_are_fitted_as_16_bits_and_looked_at_as_8(folder):
    report = colors.run(folder, folder / "out.json", show=True)
    pictures = [Image.open(folder / name) for name in ("colour.png", "dark.png")]
    exact = ColorPCA.fit(pictures, progress=False)
    assert report["mean"] == exact.mean.tolist()
    assert (folder / "out.png").exists()
    looked_at = colors.Folder(folder)[1]
    assert looked_at.dtype == torch.uint8
    assert looked_at.max() == 15  # 4095 // 256


def test_broken_and_huge_images_are_left_out_with_their_reasons(folder, monkeypatch):
    (folder / "a broken.png").write_bytes(b"no image")
    Image.new("RGB", (50, 50)).save(folder / "huge.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    report = colors.run(folder, folder / "out.json", show=True)
    assert report["images"] == 2
    assert report["unreadable"] == [str(folder / "a broken.png"), str(folder / "huge.png")]
    assert "no image" in report["reasons"][0]
    assert "exceeds limit" in report["reasons"][1]


def test_a_folder_of_broken_images_alone_is_said_with_a_reason(tmp_path):
    (tmp_path / "a.png").write_bytes(b"no image")
    with pytest.raises(
        ValueError, match=r"none of 1 images can be read; data: .*a.png' cannot be read"
    ):
        colors.run(tmp_path, tmp_path / "out.json")
