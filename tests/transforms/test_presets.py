"""Presets: what the papers say of sizes, patches, reflections; ten crops and their average."""

import pytest
import torch
from PIL import Image
from torch import nn
from torchvision import tv_tensors
from torchvision.transforms import v2

from cnn_ext.transforms import (
    AveragedPredictions,
    ColorPCA,
    LabelSafe,
    alexnet_eval,
    alexnet_train,
    digits_train,
    vgg_train,
)

PLAIN = {"mean": (0, 0, 0), "divisor": (1, 1, 1)}


def photograph(height=300, width=400):
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8)


@pytest.mark.parametrize("preset", [alexnet_train, vgg_train])
@pytest.mark.parametrize(
    "image",
    [photograph(), Image.new("RGB", (400, 300)), tv_tensors.Image(photograph())],
    ids=["tensor", "pil", "Image"],
)
def test_training_presets_give_a_float_patch(preset, image):
    patch, label = preset()(image, 3)
    assert (patch.shape, patch.dtype, label) == ((3, 224, 224), torch.float32, 3)


def test_alexnet_train_takes_patches_of_the_central_square_mirrored_or_not():
    """Columns and rows are written into the image: a patch tells where it came from."""
    image = torch.zeros(3, 256, 300)
    image[0] = torch.arange(300) / 1000
    image[1] = torch.arange(256)[:, None] / 1000
    seen = set()
    for _ in range(60):
        patch = alexnet_train(std=0.0, **PLAIN)(image)
        columns, rows = (1000 * patch[0, 0]).round(), (1000 * patch[1, :, 0]).round()
        mirrored = bool(columns[0] > columns[-1])
        first = columns.min()
        assert torch.equal(columns.sort().values, first + torch.arange(224))
        assert torch.equal(rows, rows[0] + torch.arange(224))
        assert 22 <= first <= 54
        seen.add(mirrored)
    assert seen == {True, False}


def test_alexnet_train_changes_the_colour_of_every_image():
    grey = torch.full((3, 256, 256), 0.5)
    draws = {tuple(alexnet_train(**PLAIN)(grey)[:, 0, 0].tolist()) for _ in range(10)}
    assert len(draws) == 10


def test_vgg_train_jitters_the_scale():
    """A ramp of one per pixel at 256 has half the slope at 512."""
    image = (torch.arange(256) / 1000).expand(3, 256, 256)
    slopes = []
    for _ in range(40):
        row = vgg_train(std=0.0, **PLAIN)(image)[0, 0]
        slopes.append(float((row[150] - row[50]).abs() * 1000 / 100))
    assert min(slopes) < 0.6
    assert max(slopes) > 0.85
    assert 0.49 < min(slopes) <= max(slopes) < 1.01


def test_the_ten_crops_are_corners_and_middle_and_their_mirror_images():
    image = photograph(256, 256)
    crops = alexnet_eval(**PLAIN)(image)
    assert crops.shape == (10, 3, 224, 224)
    scaled = image / 255
    corners = [
        scaled[:, y : y + 224, x : x + 224] for y, x in ((0, 0), (0, 32), (32, 0), (32, 32), (16, 16))
    ]
    for i, corner in enumerate(corners):
        torch.testing.assert_close(crops[i], corner)
        torch.testing.assert_close(crops[i + 5], v2.functional.hflip(scaled)[:, *_place(i)])


def _place(i):
    y, x = ((0, 0), (0, 32), (32, 0), (32, 32), (16, 16))[i]
    return slice(y, y + 224), slice(x, x + 224)


def test_ten_crops_beside_a_label():
    crops, label = alexnet_eval()(photograph(), 4)
    assert (crops.shape, label) == ((10, 3, 224, 224), 4)
    sample = alexnet_eval()({"image": Image.new("RGB", (300, 280)), "label": 2})
    assert (sample["image"].shape, sample["label"]) == ((10, 3, 224, 224), 2)


def test_predictions_are_averaged_after_the_softmax():
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 5))
    crops = torch.randn(2, 10, 3, 2, 2)
    expected = torch.stack([network(image).softmax(-1).mean(0) for image in crops])
    averaged = AveragedPredictions(network)
    torch.testing.assert_close(averaged(crops), expected)
    torch.testing.assert_close(averaged(crops[0]), expected[0])
    torch.testing.assert_close(averaged(crops).sum(-1), torch.ones(2))
    with pytest.raises(ValueError, match=r"crops: expected \(N, crops, C, H, W\)"):
        averaged(crops[0, 0])


def test_digits_keep_their_size_and_are_never_mirrored():
    transform = digits_train()
    digit = torch.zeros(1, 28, 28, dtype=torch.uint8)
    digit[:, 4:24, 4:8] = 255  # the left of an L
    digit[:, 20:24, 4:18] = 255
    for _ in range(50):
        moved = transform(digit)
        assert (moved.shape, moved.dtype) == ((1, 28, 28), torch.float32)
        weight = moved[0] / moved.sum()
        rows, columns = torch.arange(28.0), torch.arange(28.0)
        top = (weight[:14].sum(0) * columns).sum() / weight[:14].sum()
        bottom = (weight[14:].sum(0) * columns).sum() / weight[14:].sum()
        assert top < bottom  # the stem stays left of the foot's middle
        assert (weight.sum(1) * rows).sum() > 10


def test_presets_are_safe_for_what_they_are_made_for():
    LabelSafe(digits_train(), "digits")
    for preset in (alexnet_train(), vgg_train(), alexnet_eval()):
        LabelSafe(preset, "photographs")
        with pytest.raises(ValueError, match="mirror image"):
            LabelSafe(preset, "digits")


def test_the_statistics_of_ones_own_data_are_used():
    pca = ColorPCA(torch.eye(3), [0.75, 0.0, 0.0])
    grey = torch.full((3, 256, 256), 0.5)
    patch = alexnet_train(pca, **PLAIN)(grey)
    assert (patch[0] != 0.5).all()
    assert (patch[1:] == 0.5).all()
