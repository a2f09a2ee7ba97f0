"""LabelSafe: which rule speaks against which transform."""

import pytest
import torch
from torch import nn
from torchvision import transforms as v1
from torchvision.transforms import v2

from cnn_ext.transforms import ColorPCA, LabelSafe, RandomColorPCA, Symmetries


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        (
            v2.RandomHorizontalFlip(),
            "RandomHorizontalFlip: unsafe by rule 'digits', mirror image: a mirrored 2",
        ),
        (v1.RandomHorizontalFlip(), "RandomHorizontalFlip: unsafe by rule 'digits', mirror image"),
        (v2.RandomVerticalFlip(), "RandomVerticalFlip: unsafe by rule 'digits', upside down: a 6 .* 9"),
        (v2.RandomRotation(180), "rotation by up to 180°, more than 15°: a half turn makes 6 of 9"),
        (v2.RandomRotation((-5, 40)), "rotation by up to 40°"),
        (v2.RandomAffine(20), "RandomAffine: .*rotation by up to 20°"),
        (v2.RandomAffine(10, shear=10), "RandomAffine: .*rotation by up to 20°"),
        (v2.RandomPerspective(0.9), "RandomPerspective: .*rotation by up to 39"),
        (v2.TenCrop(20), "TenCrop: .*mirror image"),
        (v2.TrivialAugmentWide(), "TrivialAugmentWide: .*rotation by up to 135°"),
        (v2.RandAugment(), "RandAugment: .*rotation by up to 30°"),
        (v2.AugMix(), "AugMix: .*rotation by up to 30°"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_digits_are_no_cats(transform, message):
    with pytest.raises(ValueError, match=message):
        LabelSafe(transform, "digits")


@pytest.mark.parametrize(
    "transform",
    [
        v2.RandomRotation(15),
        v2.RandomAffine(10, (0.1, 0.1), (0.9, 1.1)),
        v2.RandomCrop(28, padding=2),
        v2.ElasticTransform(),
        v2.RandomHorizontalFlip(p=0),
        RandomColorPCA(ColorPCA.imagenet()),
        v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize([0], [1])]),
    ],
    ids=lambda transform: type(transform).__name__,
)
def test_what_leaves_a_digit_the_digit_is_let_through(transform):
    LabelSafe(transform, "digits")


@pytest.mark.parametrize(
    "wrap",
    [
        lambda t: v2.Compose([v2.ToImage(), t]),
        lambda t: v2.RandomApply([t]),
        lambda t: v2.RandomChoice([v2.Identity(), t]),
        lambda t: v2.RandomOrder([t]),
        lambda t: nn.Sequential(v2.Compose([v2.Compose([t])])),
        lambda t: LabelSafe(t, "photographs"),
    ],
    ids=["Compose", "RandomApply", "RandomChoice", "RandomOrder", "Sequential", "LabelSafe"],
)
def test_it_looks_inside(wrap):
    with pytest.raises(ValueError, match="RandomHorizontalFlip: unsafe"):
        LabelSafe(wrap(v2.RandomHorizontalFlip()), "digits")


def test_a_mirrored_cat_is_a_cat():
    image = torch.arange(6.0).view(1, 2, 3)
    flip = LabelSafe(v2.RandomHorizontalFlip(p=1), "photographs")
    assert torch.equal(flip(image), image.flip(-1))
    with pytest.raises(ValueError, match="upside down: the sky is above"):
        LabelSafe(v2.RandomVerticalFlip(), "photographs")
    LabelSafe(v2.RandomVerticalFlip(), "aerial")


class Mine(v2.Transform):
    def transform(self, inpt, params):
        return inpt


class RandomHorizontalFlip(Mine):
    """Has the name of one that is known."""


@pytest.mark.parametrize(
    "transform",
    [Mine(), RandomHorizontalFlip(), v2.Lambda(lambda x: x), lambda x: x],
    ids=["own", "namesake", "Lambda", "function"],
)
def test_what_is_unknown_is_refused_unless_it_is_trusted(transform):
    with pytest.raises(ValueError, match=r"unknown to LabelSafe; .* trusted="):
        LabelSafe(v2.Compose([v2.ToImage(), transform]), "aerial")
    LabelSafe(v2.Compose([v2.ToImage(), transform]), "digits", trusted=(type(transform),))


def test_rules_of_ones_own():
    clocks = Symmetries("clocks", False, False, 5.0, {"mirror image": "time runs backwards"})
    with pytest.raises(ValueError, match="rule 'clocks', mirror image: time runs backwards"):
        LabelSafe(v2.RandomHorizontalFlip(), clocks)
    with pytest.raises(
        ValueError, match="rule 'clocks', rotation by up to 6°, more than 5°: changes the"
    ):
        LabelSafe(v2.RandomRotation(6), clocks)


def test_unknown_rules_are_named():
    with pytest.raises(ValueError, match=r"symmetries: expected one of digits, .* got 'cats'"):
        LabelSafe(v2.Identity(), "cats")
