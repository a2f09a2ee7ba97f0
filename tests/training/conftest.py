"""A data set so small that a run takes a second."""

import contextlib
from dataclasses import replace

import pytest
import torch
from torch.utils.data import TensorDataset

from cnn_ext.training import recipes, train
from cnn_ext.training.images import Images


def noise(count=24, classes=("dark", "bright")):
    """Noise images of two classes, one of them brighter: so many to learn from, sixteen to test on."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 200, (count + 16, 3, 72, 72), dtype=torch.uint8, generator=generator)
    labels = torch.arange(count + 16) % 2
    images += (50 * labels).view(-1, 1, 1, 1).byte()
    parts = (TensorDataset(images[part], labels[part]) for part in (slice(count), slice(count, None)))
    return Images(*parts, classes, 3, 64, mirror=True)


@pytest.fixture(scope="session")
def loads_tiny():
    """``loads_tiny(monkeypatch, data)``: any name loads these; colour statistics are left out."""

    def loads_tiny(monkeypatch, data):
        monkeypatch.setattr(train.images, "load", lambda name, folder: data)
        plain = {name: replace(recipe, color_pca=False) for name, recipe in recipes.RECIPES.items()}
        monkeypatch.setattr(recipes, "RECIPES", plain)
        return data

    return loads_tiny


@pytest.fixture
def tiny(monkeypatch, loads_tiny):
    """Every data set is forty noise images."""
    return loads_tiny(monkeypatch, noise())


@pytest.fixture
def one_thread():
    """Beside another test process, more threads than cores wait for each other in small layers."""
    torch.set_num_threads(1)


class PowerCutError(Exception):
    """Stops a run as a power cut does."""


@pytest.fixture(scope="session")
def power_cut():
    """``with power_cut(epoch, step):`` stops a run there."""

    @contextlib.contextmanager
    def power_cut(epoch, step=1):
        before = train.Classifier.training_step

        def training_step(self, batch, index):
            if (self.current_epoch, index) == (epoch, step):
                raise PowerCutError
            return before(self, batch, index)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(train.Classifier, "training_step", training_step)
            with pytest.raises(PowerCutError):
                yield

    return power_cut
