"""Networks as tables and pictures: shapes, parameters, activations, multiply-adds."""

import pytest
import torch
import torchvision
from matplotlib.colors import to_hex
from matplotlib.patches import Polygon
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm, weight_norm
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


class Patches(nn.Module):
    """A small transformer on images, with parameters of its own and a head that is not called."""

    def __init__(self):
        super().__init__()
        self.cut, self.first = nn.Conv2d(3, 8, 4, stride=4), nn.Parameter(torch.zeros(1, 1, 8))
        self.places = nn.Embedding(5, 8)
        self.block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.more = nn.ParameterList([torch.ones(8), torch.ones(3)])
        self.head, self.other_head = nn.Linear(8, 2), nn.Linear(8, 7)

    def forward(self, x):
        x = self.cut(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.first, x], 1) + self.places(torch.arange(5)) * self.more[0]
        return {"logits": self.head(self.block(x)[:, 0]), "nothing": None}


class Gated(nn.Conv2d):
    """Does some of its work in a forward of its own."""

    def forward(self, input):
        return super().forward(input) * super().forward(input).sigmoid()


def tied():
    model = nn.Sequential(nn.Conv2d(3, 3, 3), nn.PReLU(), nn.Conv2d(3, 3, 3))
    model[2].weight = model[0].weight
    return model


ODD = {
    "transformer": (Patches(), (3, 8, 8)),
    "tied": (tied(), (3, 8, 8)),
    "weight norm": (nn.Sequential(weight_norm(nn.Conv2d(3, 4, 3)), nn.ReLU()), (3, 8, 8)),
    "spectral norm": (nn.Sequential(spectral_norm(nn.Linear(8, 4)), nn.ReLU()), (8,)),
    "lstm": (nn.Sequential(nn.LSTM(6, 5, 2, batch_first=True, bidirectional=True)), (7, 6)),
    "own forward": (nn.Sequential(Gated(3, 4, 3)), (3, 8, 8)),
    "complex": (nn.Sequential(nn.Conv2d(3, 2, 3, dtype=torch.complex64), nn.Flatten()), (3, 8, 8)),
    "half": (nn.Sequential(nn.Conv2d(3, 2, 3), nn.GroupNorm(1, 2)).half(), (3, 8, 8)),
    "scripted": (nn.Sequential(torch.jit.script(nn.Conv2d(3, 4, 3)), nn.Conv2d(4, 2, 3)), (3, 8, 8)),
    "one layer": (nn.Conv2d(3, 2, 3), (3, 8, 8)),
    "lookup": (nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 2)), torch.zeros(1, 6, dtype=torch.long)),
    "lookup of indices": (nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 2)), (6,)),
    "two inputs": (nn.Bilinear(3, 4, 2), (torch.zeros(1, 3), torch.zeros(1, 4))),
    "googlenet": (torchvision.models.googlenet(init_weights=False, num_classes=3), (3, 64, 64)),
}  # fmt: skip


@pytest.mark.parametrize("name", list(ODD))
def test_parameters_of_any_model_add_up(name):
    model, size = ODD[name]
    rows = visualize.layers(model, size)
    assert sum(row.parameters for row in rows) == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("name", ["transformer", "own forward", "complex"])
def test_multiply_adds_of_odd_models_are_half_of_what_torch_counts(name):
    model, size = ODD[name]
    rows = [row for row in visualize.layers(model, size) if "Norm" not in row.kind]
    example = torch.zeros(1, *size, dtype=next(model.parameters()).dtype)
    with FlopCounterMode(display=False) as counter:
        model.train()(example)  # in evaluation attention is one operation that torch does not count
    assert 2 * sum(row.multiply_adds for row in rows) == counter.get_total_flops()


def test_what_is_in_no_layer_has_a_row_of_its_own():
    rows = {row.name: row for row in visualize.layers(*ODD["transformer"])}
    assert (rows["places"].kind, rows["places"].multiply_adds) == ("Embedding", 0)
    assert rows["block.self_attn"].parameters == 3 * 8 * 9 + 8 * 9
    assert rows["block.self_attn"].multiply_adds == 4 * 5 * 8 * 8 + 2 * 5 * 5 * 8
    assert (rows[""].kind, rows[""].shape, rows[""].parameters) == ("Patches", (2,), 8)
    assert (rows["other_head"].shape, rows["other_head"].activations) == (None, 0)
    assert rows["other_head"].parameters == 63
    assert rows["more"].parameters == 11


@pytest.mark.parametrize(
    ("layer", "size", "expected"),
    [
        (nn.LayerNorm(16), (50, 16), 800),
        (nn.LayerNorm((4, 6, 5)), (4, 6, 5), 120),
        (nn.RMSNorm(16), (50, 16), 800),
        (nn.BatchNorm2d(3), (3, 4, 5), 60),
        (nn.GroupNorm(1, 3), (3, 4, 5), 60),
        (nn.PReLU(), (3, 4, 5), 60),
        (nn.LayerNorm(16, elementwise_affine=False), (50, 16), 0),
        (weight_norm(nn.Conv2d(3, 4, 3)), (3, 6, 6), 4 * 3 * 9 * 16),
        (nn.LSTM(6, 5, batch_first=True), (7, 6), 7 * (4 * 5 * 6 + 4 * 5 * 5)),
        (nn.LSTM(6, 5, batch_first=True, proj_size=2), (7, 6), 7 * (20 * 6 + 20 * 2 + 2 * 5)),
    ],
    ids=str,
)
def test_multiply_adds_of_one_layer(layer, size, expected):
    (row,) = visualize.layers(nn.Sequential(layer), size)
    assert row.multiply_adds == expected


def test_a_model_that_asks_for_values_is_run_with_them():
    class Asks(nn.Sequential):
        def forward(self, x):
            return super().forward(x) if x.sum() < 1 else x

    for device in ("cpu", "meta"):
        with torch.device(device):
            model = Asks(nn.Conv2d(3, 4, 3))
        (row,) = visualize.layers(model, (3, 6, 6))
        assert (row.shape, row.parameters) == ((4, 4, 4), 112)


def test_odd_models_are_drawn(tmp_path):
    for name in ("transformer", "lstm", "one layer", "scripted"):
        figure = visualize.architecture(*ODD[name])
        figure.savefig(tmp_path / "picture.png")
    parameters = visualize.architecture(*ODD["transformer"]).axes[1]
    assert "1.13k parameters" in parameters.get_title(loc="left")


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
