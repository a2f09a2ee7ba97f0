"""A data set so small that a run takes a second."""

from dataclasses import replace

import pytest
import torch
from torch.utils.data import TensorDataset

from cnn_ext.training import recipes, train
from cnn_ext.training.images import Images


@pytest.fixture
def tiny(monkeypatch):
    """Forty noise images of two classes, one of them brighter; no colour statistics."""
    images = torch.randint(0, 200, (40, 3, 72, 72), dtype=torch.uint8)
    labels = torch.arange(40) % 2
    images += (50 * labels).view(-1, 1, 1, 1).byte()
    data = Images(TensorDataset(images[:24], labels[:24]), TensorDataset(images[24:], labels[24:]),
                  ("dark", "bright"), 3, 64, mirror=True)  # fmt: skip
    monkeypatch.setattr(train.images, "load", lambda name, folder: data)
    plain = {name: replace(recipe, color_pca=False) for name, recipe in recipes.RECIPES.items()}
    monkeypatch.setattr(recipes, "RECIPES", plain)
    return data


@pytest.fixture
def one_thread():
    """Beside another test process, more threads than cores wait for each other in small layers."""
    torch.set_num_threads(1)


class PowerCutError(Exception):
    """Stops a run as a power cut does."""


@pytest.fixture
def cut(monkeypatch):
    """``cut(epoch, step)`` stops the next runs there; ``cut()`` lets them go on."""
    before = train.Classifier.training_step

    def cut(epoch=None, step=None):
        def training_step(self, batch, index):
            if (self.current_epoch, index) == (epoch, step):
                raise PowerCutError
            return before(self, batch, index)

        monkeypatch.setattr(train.Classifier, "training_step", training_step)

    cut.error = PowerCutError
    return cut
