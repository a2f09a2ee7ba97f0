"""Networks as tables and pictures: shapes, parameters, activations, multiply-adds."""

import pytest
import torch
from matplotlib.colors import to_hex
from matplotlib.patches import Polygon
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from cnn_ext import visualize
from cnn_ext.models import alexnet, lenet5, vgg11, vgg11_bn, vgg16
from cnn_ext.visualize.architectures import COLOURS, short_number

GROUPS = nn.Sequential(
    nn.Conv2d(4, 8, 3, stride=2, dilation=2, groups=2), nn.ReLU(),
    nn.ConvTranspose2d(8, 2, 4, stride=2), nn.Flatten(), nn.Linear(2 * 14 * 14, 3, bias=False),
)  # fmt: skip
NETWORKS = {
    "lenet5": (lenet5(), (1, 32, 32)),
    "alexnet": (alexnet(width=1 / 8), (3, 224, 224)),
    "alexnet on torch": (alexnet(width=1 / 8, layers=nn), (3, 224, 224)),
    "vgg11": (vgg11(width=1 / 16, image_size=64), (3, 64, 64)),
    "groups and transposed": (GROUPS, (4, 16, 16)),
    "one axis": (nn.Sequential(nn.Conv1d(2, 4, 3), nn.Conv1d(4, 4, 3, padding=1)), (2, 20)),
}
networks = pytest.mark.parametrize("name", list(NETWORKS))


@networks
def test_parameters_add_up(name):
    model, size = NETWORKS[name]
    rows = visualize.layers(model, size)
    assert sum(row.parameters for row in rows) == sum(p.numel() for p in model.parameters())


@networks
def test_shapes_and_activations_are_those_of_a_real_run(name):
    model, size = NETWORKS[name]
    outputs = []
    handles = [
        module.register_forward_hook(lambda _m, _i, output: outputs.append(output.shape[1:]))
        for module in model.modules()
        if not list(module.children())
    ]
    model.eval()(torch.zeros(1, *size))
    for handle in handles:
        handle.remove()
    rows = visualize.layers(model, size)
    assert [row.shape for row in rows] == [tuple(shape) for shape in outputs]
    assert [row.activations for row in rows] == [shape.numel() for shape in outputs]


@networks
def test_multiply_adds_are_half_of_what_torch_counts(name):
    model, size = NETWORKS[name]
    with FlopCounterMode(display=False) as counter:
        model.eval()(torch.zeros(1, *size))
    assert (
        2 * sum(row.multiply_adds for row in visualize.layers(model, size)) == counter.get_total_flops()
    )


def test_the_paper_of_1998_counts_its_trainable_parameters_alike():
    rows = {row.name: row for row in visualize.layers(lenet5("1998"), (1, 32, 32))}
    counts = {name: row.parameters for name, row in rows.items() if row.parameters}
    assert counts == {"c1": 156, "s2": 12, "c3": 1516, "s4": 32, "c5": 48_120, "f6": 10_164}
    # its connections, "151,600" in C3, are multiplications and biases: a bias for each cell
    assert rows["c1"].multiply_adds + rows["c1"].activations == 122_304
    assert rows["c3"].multiply_adds + rows["c3"].activations == 151_600
    assert [rows[name].family for name in ("c1", "s2", "c3", "f6", "output")] == [
        "convolution", "pooling", "convolution", "dense", "other",
    ]  # fmt: skip


def test_nothing_is_computed_and_the_model_is_left_as_it_was():
    with torch.device("meta"):
        model = vgg16()  # 553 MB, were there numbers
    model.train()
    model.features[0].eval()
    rows = visualize.layers(model, (3, 224, 224))
    assert sum(row.parameters for row in rows) == 138_357_544
    assert model.training
    assert not model.features[0].training
    assert model.features[2].training
    assert not any(module._forward_hooks for module in model.modules())
    normalised = vgg11_bn(width=1 / 16)
    before = {key: value.clone() for key, value in normalised.state_dict().items()}
    visualize.layers(normalised, (3, 64, 64))
    assert all(torch.equal(before[key], value) for key, value in normalised.state_dict().items())


def test_a_layer_called_twice_has_two_rows_and_its_parameters_once():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.convolution = nn.Conv2d(2, 2, 3, padding=1)

        def forward(self, x):
            return self.convolution(self.convolution(x))

    first, second = visualize.layers(Twice().double(), (2, 5, 5))
    assert (first.parameters, second.parameters) == (38, 0)
    assert first.multiply_adds == second.multiply_adds == 36 * 25


def test_the_picture_shows_the_rows_that_matter():
    figure = visualize.architecture(lenet5(), (1, 32, 32), "LeNet-5")
    blocks, parameters, activations, work = figure.axes
    shapes = ["1×32×32", "6×28×28", "6×14×14", "16×10×10", "16×5×5", "120×1×1", "84", "10"]
    assert [text.get_text() for text in blocks.texts] == shapes  # no ReLU
    assert blocks.get_title(loc="right") == "LeNet-5"
    assert [tick.get_text() for tick in work.get_xticklabels()] == [
        "input", "c1", "s2", "c3", "s4", "c5", "f6", "output",
    ]  # fmt: skip
    heights = [[bar.get_height() for bar in ax.patches] for ax in (parameters, activations, work)]
    assert heights == [
        [156, 0, 2416, 0, 48_120, 10_164, 850],
        [4704, 1176, 1600, 400, 120, 84, 10],
        [117_600, 0, 240_000, 0, 48_000, 10_080, 840],
    ]
    assert parameters.get_title(loc="left") == "61.7k parameters: convolution 82.2%, dense 17.8%"
    assert [to_hex(bar.get_facecolor()) for bar in parameters.patches[3:5]] == [
        COLOURS["pooling"].lower(), COLOURS["convolution"].lower(),
    ]  # fmt: skip


def test_blocks_have_the_sides_of_the_maps_on_a_square_root_scale():
    model = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.MaxPool2d(4))
    blocks = visualize.architecture(model, (1, 16, 16)).axes[0]
    fronts = [face.get_xy() for face in blocks.patches if isinstance(face, Polygon)][::3]
    sides = [(xy[:, 0].max() - xy[:, 0].min(), xy[:, 1].max()) for xy in fronts]
    (w0, h0), (w1, h1), (w2, h2) = sides
    assert (w1 / w0, w2 / w1) == pytest.approx((2, 1))
    assert (h0, h1 / h0, h2 / h1) == pytest.approx((1, 1, 0.5))


def test_names_are_whole_where_their_ends_are_not_unique():
    figure = visualize.architecture(vgg11(width=1 / 16, image_size=64), (3, 64, 64))
    names = [tick.get_text() for tick in figure.axes[-1].get_xticklabels()]
    assert names[:3] == ["input", "features.0", "features.2"]
    assert names[-1] == "classifier.6"


def test_numbers_are_short():
    assert [short_number(n) for n in (0, 999, 1000, 15_346_630_656)] == ["0", "999", "1k", "15.3G"]
