"""Receptive fields by arithmetic are those of the experiment, and the literature's."""

import pytest
import torch
import torchvision
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

import cnn_ext
from cnn_ext.matrix import receptive_field
from cnn_ext.models import alexnet, lenet5, vgg16
from cnn_ext.receptive_field import fields_of, follow


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


class Called(nn.Module):
    """A function as a module, which has other modules."""

    def __init__(self, function, *modules):
        super().__init__()
        self.function, self.parts = function, nn.ModuleList(modules)

    def forward(self, x):
        return self.function(x, *self.parts)


class Wider(nn.Conv2d):
    """Sees more than its kernel says."""

    def forward(self, input):
        return super().forward(super().forward(input))


class Squeeze(nn.Module):
    def __init__(self):
        super().__init__()
        self.pool, self.gate = nn.AdaptiveAvgPool2d(1), nn.Conv2d(2, 2, 1)

    def forward(self, x):
        return x * torch.sigmoid(self.gate(self.pool(x)))


def hooked():
    layer = nn.Conv2d(2, 2, 1)
    layer.register_forward_hook(lambda module, inputs, output: output.roll(1, 2) + output)
    return layer


CONVOLUTION = nn.Conv2d(2, 2, 3, padding=1)
ODD = {
    "prelu": nn.PReLU(2),
    "group norm": nn.GroupNorm(1, 2),
    "instance norm": nn.InstanceNorm2d(2),
    "batch norm without statistics": nn.BatchNorm2d(2, track_running_stats=False),
    "upsampling": nn.Upsample(scale_factor=2),
    "bilinear": nn.Upsample(scale_factor=2, mode="bilinear"),
    "shuffled pixels": nn.Sequential(nn.Conv2d(2, 8, 1), nn.PixelShuffle(2)),
    "unshuffled pixels": nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(8, 2, 1)),
    "transposed": nn.ConvTranspose2d(2, 2, 3, stride=2),
    "constant padding": nn.ConstantPad2d((0, 2, 1, 3), 1.0),
    "replication": nn.ReplicationPad2d((1, 0, 0, 2)),
    "circular": nn.CircularPad2d(1),
    "circular convolution": nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular"),
    "joined along space": Called(lambda x, c: torch.cat([x, c(x)], 2), nn.Conv2d(2, 2, 1)),
    "joined with itself": Called(lambda x: torch.cat([x, x], 3)),
    "joined along one of the last axes": Called(lambda x, c: torch.cat([x, c(x)], dim=-2), CONVOLUTION),
    "added to a shifted copy": Called(lambda x: x + x.roll(2, 3)),
    "cut": Called(lambda x: x[:, :, 1:-1, ::2]),
    "padded by a function": Called(lambda x: nn.functional.pad(x, (1, 0, 2, 0))),
    "turned": Called(lambda x: x.transpose(2, 3)),
    "mirrored": Called(lambda x: x.flip(2)),
    "mean along one axis": Called(lambda x: x - x.mean(3, keepdim=True)),
    "softmax": Called(lambda x: x.flatten(2).softmax(2).view(-1, 2, 12, 12)),
    "channels last": Called(lambda x, n: n(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), nn.LayerNorm(2)),
    "uneven pooling": nn.AdaptiveAvgPool2d(5),
    "pooling of one axis": nn.Sequential(nn.AdaptiveAvgPool2d((None, 1)), nn.Upsample(12)),
    "pooling of the other": nn.AdaptiveMaxPool2d((4, None)),
    "pooling up": nn.Sequential(nn.MaxPool2d(2, ceil_mode=True), nn.Upsample(12)),
    "pooling by norm": nn.LPPool2d(2, 2),
    "a forward of its own": Wider(2, 2, 3, padding=1),
    "a hook": hooked(),
    "parametrized": weight_norm(nn.Conv2d(2, 2, 3, dilation=2, padding=2)),
    "ours": cnn_ext.convert(nn.Conv2d(2, 2, (1, 3), padding=(0, 1))),
    "unknown to everybody": Called(lambda x, c: c(x).sort(1).values, CONVOLUTION),
    "squeeze": nn.Sequential(Squeeze(), nn.Upsample(12)),
    "two strides": Called(lambda x, a, b: a(x) + b(x), nn.Conv2d(2, 2, 3, 2), nn.Conv2d(2, 2, 8)),
}  # fmt: skip


@pytest.mark.parametrize("name", list(ODD))
def test_what_the_arithmetic_does_not_list_is_found_by_experiment(name):
    layers = nn.Conv2d(1, 2, 3, padding=1), ODD[name], nn.Conv2d(2, 2, 2), nn.ReLU()
    model = nn.Sequential(*layers).eval()
    found, followed = receptive_field(model, (1, 12, 12)), follow(model, (1, 12, 12))
    assert {"0", "2", "3"} <= followed.keys()
    for layer, field in followed.items():
        for axis, (size, stride, offset) in enumerate(zip(*field, strict=True)):
            seen = [value[axis] for value in found[layer]]
            assert min(size, 12) == seen[0], layer
            if size <= 12 and seen[1] == seen[1]:  # whole in both, and more than one unit is
                assert (stride, offset) == (pytest.approx(seen[1]), pytest.approx(seen[2])), layer


def test_a_mirrored_border_is_as_wide_as_a_black_one():
    fields = [
        follow(nn.Sequential(nn.Conv2d(1, 2, 3, 2, 1), pad, nn.Conv2d(2, 1, 3)), (1, 12, 12))
        for pad in (nn.ZeroPad2d((1, 0, 2, 0)), nn.ReflectionPad2d((1, 0, 2, 0)))
    ]
    assert fields[0] == fields[1]
    assert fields[0]["2"].offset == (-2.0, 0.0)


def test_a_window_found_by_experiment_is_one_for_the_arithmetic_behind_it():
    """Where the border cuts off what an experiment can see."""
    odd = nn.Sequential(nn.Conv2d(1, 1, 9, 2, padding=4), Wider(1, 1, 5, padding=2), nn.Conv2d(1, 1, 9))
    plain = nn.Sequential(nn.Conv2d(1, 1, 9, 2, padding=4), nn.Conv2d(1, 1, 9, padding=4),
                          nn.Conv2d(1, 1, 9))  # fmt: skip
    assert follow(odd, (1, 24, 24)) == follow(plain, (1, 24, 24))
    assert follow(odd, (1, 24, 24))["2"].size == (41, 41)


def test_local_response_normalisation_over_space_is_a_window():
    norm = cnn_ext.nn.LocalResponseNorm(5, region="spatial")
    fields = follow(nn.Sequential(nn.Conv2d(1, 2, 3, stride=2), norm), (1, 20, 20))
    assert fields["1"] == ((11, 11), (2.0, 2.0), (1.0, 1.0))


def test_without_experiments_the_walk_ends_where_it_does_not_know_a_layer():
    model = nn.Sequential(nn.Conv2d(1, 1, 3), nn.Upsample(scale_factor=2), nn.Conv2d(1, 1, 3))
    assert list(follow(model, (1, 8, 8), experiments=False)) == ["0"]
    assert list(follow(model, (1, 8, 8))) == ["0", "1", "2"]


def test_fields_end_with_the_maps():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(72, 3))
    assert list(follow(model, (1, 8, 8))) == ["0"]


def test_a_model_without_values_has_fields_too():
    with torch.device("meta"):
        model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Upsample(scale_factor=2), nn.Conv2d(2, 1, 3))
    fields = follow(model, (1, 9, 9))
    assert [fields[name].size for name in "012"] == [(3, 3), (3, 3), (4, 4)]
    assert model[0].weight.is_meta


def test_fields_of_what_cannot_be_traced_are_found_by_experiment():
    class Chooses(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Conv2d(1, 1, 3)

        def forward(self, x):
            return self.layer(x) if x.sum() > 0 else self.layer(-x)

    assert fields_of(Chooses(), (1, 6, 6))["layer"].size == (3, 3)


def test_an_experiment_that_cannot_begin_says_why():
    with pytest.raises(RuntimeError, match="to have 3 channels"):
        receptive_field(nn.Sequential(nn.Conv2d(3, 1, 3)), (1, 6, 6))


def test_a_network_that_cannot_be_traced_is_an_error():
    class Chooses(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    with pytest.raises(ValueError, match=r"model: torch\.fx cannot follow it"):
        follow(Chooses(), (1, 4, 4))
