"""The digits: how they are split, scaled and shuffled."""

import pytest
import torch

from cnn_ext.training.data import BACKGROUND, INK, Digits


def test_digits_are_split_by_class_and_scaled_as_the_paper_has_them():
    digits = Digits()
    assert (len(digits.train), len(digits.test)) == (1437, 360)
    images, labels = digits.test[:]
    assert images.shape == (360, 1, 32, 32)
    assert (images.min(), images.max()) == (
        pytest.approx(BACKGROUND, abs=1e-6),
        pytest.approx(INK, abs=1e-6),
    )
    assert all(35 <= (labels == digit).sum() <= 37 for digit in range(10))
    both = torch.cat([digits.train[:][0], images]).flatten(1)
    assert len(both.unique(dim=0)) > 1790  # no image of the one is in the other, but for rare twins


def test_the_same_seed_gives_the_same_batches():
    def first_batch(seed):
        torch.manual_seed(seed)
        return next(iter(Digits(seed=seed).train_dataloader()))[0]

    assert torch.equal(first_batch(1), first_batch(1))
    assert not torch.equal(first_batch(1), first_batch(2))
