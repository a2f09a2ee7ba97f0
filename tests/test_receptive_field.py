"""Receptive fields by arithmetic are those of the experiment, and the literature's."""

import pytest
import torch
import torchvision
from torch import nn

from cnn_ext.matrix import receptive_field
from cnn_ext.models import alexnet, lenet5, vgg16
from cnn_ext.receptive_field import follow


class Branches(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 2, 3, stride=2, padding=1)
        self.wide, self.narrow = nn.Conv2d(2, 2, 5, padding=2), nn.Conv2d(2, 2, 1)
        self.last = nn.Conv2d(4, 1, 3)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        return self.last(torch.cat([self.wide(x) + x, self.narrow(x)], 1))


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.MaxPool2d(3, 2, padding=1),
                      nn.Conv2d(2, 2, (5, 3), stride=2, dilation=2, padding=2)),
        nn.Sequential(nn.ZeroPad2d((0, 3, 0, 3)), nn.Conv2d(1, 1, 5, stride=2), nn.AvgPool2d(2)),
        Branches(),
    ],
    ids=["strides and dilation", "one-sided padding", "branches"],
)  # fmt: skip
def test_arithmetic_agrees_with_experiment(model):
    found, computed = receptive_field(model, (1, 48, 48)), follow(model, (1, 48, 48))
    assert computed
    for name, field in computed.items():
        assert field == found[name], name


def test_fields_are_those_of_the_literature():
    assert follow(lenet5(), (1, 32, 32))["c5"].size == (32, 32)
    assert follow(alexnet(width=1 / 16), (3, 224, 224))["features.pool5"].size == (195, 195)
    assert follow(vgg16(width=1 / 16), (3, 224, 224))["features.30"].size == (212, 212)
    resnet = follow(torchvision.models.resnet18(), (3, 64, 64))
    assert resnet["layer4.1.conv2"].size == (435, 435)  # Araujo et al., table 1


def test_the_walk_ends_where_it_does_not_know_a_layer():
    model = nn.Sequential(nn.Conv2d(1, 1, 3), nn.Upsample(scale_factor=2), nn.Conv2d(1, 1, 3))
    assert list(follow(model, (1, 8, 8))) == ["0"]


def test_a_network_that_cannot_be_traced_is_an_error():
    class Chooses(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    with pytest.raises(ValueError, match=r"model: torch\.fx cannot follow it"):
        follow(Chooses(), (1, 4, 4))
