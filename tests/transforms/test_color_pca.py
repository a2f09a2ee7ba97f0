"""ColorPCA: fitted exactly, in any order and any parts; what is no colour statistics is refused."""

import json

import numpy
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from torch.utils.data import DataLoader, Dataset, IterableDataset

from cnn_ext import reference
from cnn_ext.transforms import ColorPCA


def images(*sizes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=generator) for size in sizes]


MIXED = images((5, 7), (1, 1), (20, 3), (64, 65), (2, 2), (13, 1))


def fit(data):
    return ColorPCA.fit(data, progress=False)


def same_bits(a, b):
    return (
        torch.equal(a.eigenvectors, b.eigenvectors)
        and torch.equal(a.eigenvalues, b.eigenvalues)
        and torch.equal(a.mean, b.mean)
        and a.count == b.count
    )


def covariance(pca):
    return pca.eigenvectors @ pca.eigenvalues.diag() @ pca.eigenvectors.mT


def test_the_covariance_of_images_of_mixed_sizes_is_that_of_all_their_pixels():
    small = MIXED[:3]
    exact = reference.color_covariance([image.double() / 255 for image in small])
    torch.testing.assert_close(covariance(fit(small)), exact, rtol=1e-13, atol=1e-15)


def test_eigenvalues_descend_and_each_axis_points_along_its_largest_component():
    pca = fit(MIXED)
    assert (pca.eigenvalues.diff() <= 0).all()
    largest = pca.eigenvectors.gather(0, pca.eigenvectors.abs().argmax(0, keepdim=True))
    assert (largest > 0).all()
    torch.testing.assert_close(pca.eigenvectors.mT @ pca.eigenvectors, torch.eye(3).double())


def test_the_same_bits_in_any_order_and_any_batches():
    equal = images(*[(9, 8)] * 12)
    pca = fit(equal)
    for batch_size in (1, 5, 12):
        for seed in range(3):
            loader = DataLoader(equal, batch_size, shuffle=True,
                                generator=torch.Generator().manual_seed(seed))  # fmt: skip
            assert same_bits(fit(loader), pca)
    assert same_bits(fit([torch.stack(equal)]), pca)
    assert same_bits(fit(MIXED), fit(MIXED[::-1]))


def test_merging_parts_is_fitting_the_whole_to_the_last_bit():
    whole = fit(MIXED)
    parts = fit(MIXED[4:]), fit(MIXED[:1]), fit(MIXED[1:4])
    assert same_bits(parts[0].merge(*parts[1:]), whole)


def test_merging_parts_of_floats_is_fitting_the_whole():
    floats = [image.float() / 255 for image in MIXED]
    whole, merged = fit(floats), fit(floats[:2]).merge(fit(floats[2:]))
    torch.testing.assert_close(covariance(merged), covariance(whole), rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(covariance(merged), covariance(fit(MIXED)), rtol=1e-6, atol=1e-8)


def test_bytes_and_floats_may_be_mixed():
    mixed = [MIXED[0], MIXED[3].double() / 255]
    exact = fit([MIXED[0], MIXED[3]])
    torch.testing.assert_close(covariance(fit(mixed)), covariance(exact), rtol=1e-12, atol=1e-15)
    assert fit(mixed).count == exact.count


class MapStyle(Dataset):
    def __len__(self):
        return len(MIXED)

    def __getitem__(self, index):
        return {"label": index, "image": MIXED[index]}


class Stream(IterableDataset):
    def __iter__(self):
        return ((image, label) for label, image in enumerate(MIXED))


@pytest.mark.parametrize(
    "data",
    [
        MapStyle(),
        Stream(),
        DataLoader(MapStyle(), batch_size=None),
        DataLoader(Stream(), batch_size=2, collate_fn=lambda s: ([x for x, _ in s], [y for _, y in s])),
        [image.movedim(0, -1).numpy() for image in MIXED],
        [(Image.fromarray(image.movedim(0, -1).numpy()), 0) for image in MIXED],
    ],
    ids=["map", "stream", "loader", "lists", "numpy", "pil"],
)
def test_whatever_gives_images_can_be_fitted(data):
    assert same_bits(fit(data), fit(MIXED))


def test_the_workers_of_a_loader_do_the_reading():
    assert same_bits(fit(DataLoader(MapStyle(), batch_size=None, num_workers=2)), fit(MIXED))


def test_alpha_channels_and_grey_images_are_read_as_rgb():
    rgb = Image.fromarray(MIXED[3].movedim(0, -1).numpy())
    rgba = rgb.copy()
    rgba.putalpha(7)
    assert same_bits(fit([rgba]), fit([rgb]))
    grey = fit([rgb.convert("L")])
    torch.testing.assert_close(grey.eigenvectors[:, 0], torch.full((3,), 3**-0.5).double())


def test_a_grey_image_has_one_direction():
    grey = MIXED[3][:1].expand(3, -1, -1)
    pca = fit([grey])
    variance = (grey[0].double() / 255).var(correction=0)
    torch.testing.assert_close(pca.eigenvalues, torch.stack([3 * variance, 0 * variance, 0 * variance]))
    torch.testing.assert_close(pca.eigenvectors[:, 0], torch.full((3,), 3**-0.5).double())


def test_a_single_pixel_has_no_variance():
    pca = fit([torch.full((3, 1, 1), 200, dtype=torch.uint8)])
    assert pca.count == 1
    assert pca.eigenvalues.tolist() == [0, 0, 0]
    torch.testing.assert_close(pca.mean, torch.full((3,), 200 / 255).double())


def test_multispectral_images_are_fitted_in_all_their_bands():
    bands = torch.rand(2, 7, 30, 31, dtype=torch.double)
    exact = torch.cov(bands.movedim(1, 0).flatten(1), correction=0)
    torch.testing.assert_close(covariance(fit([bands])), exact, rtol=1e-12, atol=1e-15)


def test_photographs_vary_most_in_brightness():
    pca = fit(load_sample_images().images)
    assert (pca.eigenvectors[:, 0] > 0.5).all()
    assert pca.eigenvalues[0] > 5 * pca.eigenvalues[1]


def test_imagenets_constants_are_variances_on_the_unit_interval():
    """The global deviations measured in pytorch/vision#1439. The well-known 0.229, 0.224, 0.225 are
    means of the deviations inside each image, and smaller."""
    measured = torch.tensor([0.2806, 0.2736, 0.2877]).double()
    implied = covariance(ColorPCA.imagenet()).diagonal().sqrt()
    torch.testing.assert_close(implied, measured, rtol=0.02, atol=0)


# --------------------------------------------------------------------------------------- files


@pytest.mark.parametrize("pca", [fit(MIXED), fit([MIXED[3] / 255]), ColorPCA.imagenet()],
                         ids=["bytes", "floats", "imagenet"])  # fmt: skip
def test_a_saved_file_is_loaded_to_the_last_bit(pca, tmp_path):
    pca.save(tmp_path / "pca.json")
    loaded = ColorPCA.load(tmp_path / "pca.json")
    assert same_bits(loaded, pca)
    assert loaded.source == pca.source
    assert loaded.state_dict() == pca.state_dict()
    torch.save(pca.state_dict(), tmp_path / "pca.pt")
    again = ColorPCA(torch.eye(3), [0.1, 0.1, 0.1])
    again.load_state_dict(torch.load(tmp_path / "pca.pt", weights_only=True))
    assert same_bits(again, pca)


def test_a_loaded_part_can_be_merged(tmp_path):
    fit(MIXED[:3]).save(tmp_path / "a.json")
    assert same_bits(ColorPCA.load(tmp_path / "a.json").merge(fit(MIXED[3:])), fit(MIXED))


def test_the_file_is_readable(tmp_path):
    ColorPCA.imagenet().save(tmp_path / "pca.json")
    read = json.loads((tmp_path / "pca.json").read_text())
    assert read["eigenvalues"] == [0.2175, 0.0188, 0.0045]
    assert "fb.resnet.torch" in read["source"]


def test_another_state_is_refused_and_changes_nothing():
    pca = ColorPCA.imagenet()
    with pytest.raises(ValueError, match=r"state: expected what ColorPCA.state_dict returns"):
        pca.load_state_dict({"weight": 1})
    assert same_bits(pca, ColorPCA.imagenet())


# ------------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.eye(3), [55.46 * 255, 4.794 * 255, 1.1475 * 255]), "Of colours on 0 to 255"),
        ((torch.eye(3), [0.9, 0.0, 0.0]), "at most 3/4; got a sum of 0.9"),
        ((torch.eye(3), [0.1, 0.2, 0.1]), "expected descending"),
        ((torch.eye(3), [0.1, 0.05, -0.1]), "at least 0"),
        ((torch.eye(3), [float("nan")] * 3), "expected finite"),
        ((torch.ones(3, 3), [0.2, 0.1, 0.1]), "expected orthonormal"),
        ((torch.full((3, 3), float("nan")), [0.2, 0.1, 0.1]), "expected orthonormal"),
        ((torch.eye(2), [0.2, 0.1, 0.1]), r"expected shapes \(C, C\) and \(C,\)"),
        ((torch.eye(3), [0.2, 0.1, 0.1], [0.5]), r"mean: expected shape \(3,\)"),
    ],
    ids=["0-255", "large", "order", "negative", "nan", "basis", "nan basis", "shape", "mean"],
)
def test_what_is_no_colour_statistics_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        ColorPCA(*arguments)


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        ([MIXED[3].float()], ValueError, "Of colours on 0 to 255"),
        ([torch.full((3, 2, 2), float("nan"))], ValueError, "NaN or infinite"),
        ([torch.full((3, 2, 2), float("inf"))], ValueError, "NaN or infinite"),
        ([], ValueError, "expected images with at least one pixel, got none"),
        ([torch.zeros(3, 0, 5)], ValueError, "at least one pixel, got none"),
        (
            [MIXED[0], torch.zeros(4, 2, 2, dtype=torch.uint8)],
            ValueError,
            "3 channels as before, got 4",
        ),
        ([MIXED[0].int()], TypeError, "expected images of uint8, or floating point"),
        (["a path"], TypeError, "expected images .* got str"),
        ([numpy.zeros((4, 4), dtype=numpy.uint8)], TypeError, "at least 3 dimensions"),
    ],
    ids=["0-255", "nan", "inf", "none", "empty", "channels", "int", "text", "flat"],
)
def test_what_cannot_be_fitted_is_named(data, error, message):
    with pytest.raises(error, match=message):
        fit(data)


def test_given_statistics_cannot_be_merged():
    with pytest.raises(ValueError, match=r"merge: expected results of ColorPCA.fit"):
        ColorPCA.imagenet().merge(fit(MIXED))


def test_fitting_shows_its_progress_when_asked(capsys):
    ColorPCA.fit(MIXED)
    assert f"{len(MIXED)}/{len(MIXED)}" in capsys.readouterr().err
    fit(MIXED)
    assert capsys.readouterr().err == ""
