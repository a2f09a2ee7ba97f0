"""Two builds of one network side by side: the measurements must notice what is wrong."""

import dataclasses
import json
import math

import pytest
import torch
import torchvision
from torch import nn
from torch.nn.utils.parametrizations import weight_norm
from torch.utils.flop_counter import FlopCounterMode

import cnn_ext
from cnn_ext import cli
from cnn_ext.comparison import compare, layer_errors, relative_error, step_seconds
from cnn_ext.comparison.model import on_torch
from cnn_ext.models import alexnet

BATCH = torch.randn(4, 3), torch.tensor([0, 1, 1, 0])
LOSS = nn.CrossEntropyLoss()


def a_network():
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2))


def test_errors_of_float32_are_rounding():
    network = a_network()
    rows = layer_errors(network, network, LOSS, BATCH)
    assert [row.layer for row in rows] == ["0", "1", "2"]
    for row in rows:
        assert 0 < row.output < 1e-6
        assert 0 < row.grad_output < 1e-6
    assert [row.grad_weight is None for row in rows] == [False, True, False]


def test_a_wrong_layer_is_seen_where_it_is():
    class Wrong(nn.Tanh):
        def forward(self, input):
            return super().forward(input) * 1.01

    network = a_network()
    wrong = nn.Sequential(network[0], Wrong(), network[2])
    first, second, third = layer_errors(wrong, network, LOSS, BATCH)
    assert first.output < 1e-6
    assert second.output == pytest.approx(0.01, rel=0.01)
    assert third.output > 1e-4
    assert first.grad_output > 1e-4


def test_networks_are_left_as_they_were():
    network = a_network()
    before = [p.clone() for p in network.parameters()]
    layer_errors(network, network, LOSS, BATCH)
    seconds = step_seconds([network, network], LOSS, BATCH, rounds=3)
    assert len(seconds) == 2
    assert all(torch.equal(p, q) for p, q in zip(network.parameters(), before, strict=True))
    assert all(p.grad is None for p in network.parameters())


def test_relative_error_of_nothing_is_nothing():
    zero = torch.zeros(3)
    assert relative_error(zero, zero) == 0
    assert relative_error(zero + 1, zero) == float("inf")


class Twice(nn.Conv2d):
    """Somebody's own."""

    def forward(self, input):
        return 2 * super().forward(input)


@pytest.fixture(autouse=True)
def one_thread():
    """Beside another test process, more threads than cores wait for each other in small layers."""
    torch.set_num_threads(1)


def a_deep_network():
    shared = nn.Conv2d(4, 4, 3, padding=1)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.ReLU(inplace=True), shared, nn.BatchNorm2d(4), nn.ReLU(inplace=True),
        shared, nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 3),
    )  # fmt: skip


IMAGES = torch.randn(2, 2, 8, 8)


def report_of(model, x=IMAGES):
    return compare(model, x, rounds=1, progress=False)


def test_every_layer_is_in_the_table_with_what_it_is():
    report = report_of(a_deep_network())
    assert [layer.name for layer in report.layers] == ["0", "1", "3", "4", "2", "6", "7", "8"]
    first, dense = report.layers[0], report.layers[-1]
    assert (first.input_shape, first.output_shape) == ((2, 2, 8, 8), (2, 4, 6, 6))
    assert (first.parameters, first.flops) == (4 * 2 * 9 + 4, 2 * 2 * 4 * 36 * 18)
    assert (first.algorithm, dense.algorithm) == ("direct", None)
    assert (first.receptive_field, report.layers[5].receptive_field) == ((3, 3), (8, 8))
    assert dense.ratio is None
    assert report.parameters == sum(p.numel() for p in a_deep_network().parameters())


def test_errors_of_a_good_network_are_rounding_and_nothing_parts():
    report = report_of(a_deep_network())
    assert report.first_parting is None
    for measured in (report.ours, report.torch, *(layer.ours for layer in report.layers)):
        assert all(error < 2e-6 for error in measured.errors())
    assert any(error > 0 for error in report.layers[0].ours.errors())


@pytest.mark.parametrize("what", ["output", "gradient", "nan"])
def test_the_first_wrong_layer_is_named_and_those_behind_it_are_not(what, monkeypatch):
    right = cnn_ext.nn.Conv2d._conv_forward

    class OffByOnePercent(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return {"output": 1.01 * x, "gradient": x.clone(), "nan": x / 0 * 0}[what]

        @staticmethod
        def backward(ctx, g):
            return g if what == "output" else 1.01 * g

    def wrong(self, input, weight, bias):
        output = right(self, input, weight, bias)
        return OffByOnePercent.apply(output) if self.in_channels == 4 else output

    monkeypatch.setattr(cnn_ext.nn.Conv2d, "_conv_forward", wrong)
    report = report_of(a_deep_network())
    assert report.first_parting == "2"
    assert [layer.name for layer in report.layers if layer.parts] == ["2"]
    assert "The first layer beyond bounds is 2." in str(report)


def test_a_network_is_measured_whichever_layers_it_is_built_of():
    for layers in (cnn_ext.nn, torch.nn):
        model = alexnet(width=1 / 16, num_classes=3, image_size=64, layers=layers, init="he")
        report = report_of(model, torch.randn(1, 3, 64, 64))
        swapped = [layer.kind for layer in report.layers if layer.algorithm]
        normed = ["Conv2d", "LocalResponseNorm", "MaxPool2d"]
        assert swapped == [*normed, *normed, "Conv2d", "Conv2d", "Conv2d", "MaxPool2d"]
        assert report.first_parting is None


@pytest.mark.filterwarnings("ignore:revert. left")
@pytest.mark.parametrize(
    "layer",
    [
        cnn_ext.nn.Conv2d(4, 2, 3, stride=2, padding="same"),
        cnn_ext.nn.Conv2d(4, 2, 3, padding=(0, 1, 2, 0), padding_mode="circular"),
        cnn_ext.nn.LocalResponseNorm(3, 0.1, 0.5, 1.0, region="spatial"),
        cnn_ext.nn.LocalResponseNorm(3, 0.1, 0.5, 1.0, region="spatial", alpha_scaling="sum"),
        cnn_ext.nn.LocalResponseNorm(3, 0.1, 0.5, 1.0, channel_dim=3, alpha_scaling="sum"),
    ],
    ids=lambda layer: layer.extra_repr(),
)
def test_what_torch_has_no_layer_for_is_said_in_its_operations(layer):
    theirs, input = on_torch(layer), torch.randn(2, 4, 6, 6)
    with cnn_ext.trace() as records:
        output = theirs(input)
    assert records == []  # of calls of our operations
    torch.testing.assert_close(output, layer(input))


def test_the_algorithm_is_the_one_that_was_taken():
    plain, depthwise = cnn_ext.nn.Conv2d(4, 8, 3), cnn_ext.nn.Conv2d(4, 4, 3, groups=4)
    asked = cnn_ext.nn.Conv2d(4, 8, 3, algorithm="im2col")
    layers = report_of(
        nn.Sequential(asked, nn.Conv2d(8, 4, 1), depthwise, plain), torch.randn(1, 4, 12, 12)
    )
    assert [layer.algorithm for layer in layers.layers] == [
        "im2col", "implicit_gemm", "direct", "direct"
    ]  # fmt: skip


def test_a_dense_layer_is_ours_or_left_to_torch_and_then_has_no_ratio():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.large, self.small = nn.Linear(1100, 1000), nn.Linear(1000, 3)

        def forward(self, x):
            return self.small(input=self.large(input=x))  # by keyword

    large, small = report_of(Named(), torch.randn(2, 1100)).layers
    assert (large.algorithm, small.algorithm) == ("dense", None)
    assert not large.parts
    assert small.ours == small.torch


def test_memory_kept_for_the_backward_pass_is_counted():
    layer = nn.Sequential(nn.LocalResponseNorm(5))
    (norm,) = report_of(layer, torch.randn(2, 8, 16, 16)).layers
    assert norm.ours.kept_bytes == 2 * 8 * 16 * 16 * 4  # its input, and nothing else
    assert norm.torch.kept_bytes > 2 * norm.ours.kept_bytes


def test_the_model_is_left_as_it_was():
    model = a_deep_network().train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    report_of(model)
    assert model.training
    assert type(model[0]) is nn.Conv2d
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_networks_with_branches_attention_and_several_outputs_are_served():
    resnet = torchvision.models.resnet18(num_classes=3)
    assert report_of(resnet, torch.randn(1, 3, 32, 32)).first_parting is None
    vit = torchvision.models.VisionTransformer(32, 16, 1, 2, 8, 8, num_classes=3)
    report = report_of(vit, torch.randn(1, 3, 32, 32))
    assert "MultiheadAttention" in {layer.kind for layer in report.layers}
    segment = torchvision.models.get_model("lraspp_mobilenet_v3_large", weights_backbone=None)
    assert report_of(segment, torch.randn(1, 3, 32, 32)).first_parting is None


def test_what_was_left_alone_is_told():
    report = report_of(nn.Sequential(Twice(2, 2, 3), nn.Conv2d(2, 2, 3)))
    assert report.left_alone == {"0": "Twice has a forward of its own"}
    assert report.share_left_alone == 0.5
    assert "Left alone: 0: Twice has a forward of its own. That is 50% of the parameters." in str(
        report
    )


def sums_of(report):
    *layers, total = report.rows()
    return [(sum(row[key] for row in layers), total[key]) for key in ("parameters", "flops")]


class Odd(nn.Module):
    """Parameters and products of its own, a layer that is not called, a shared weight, attention."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(2, 2, 3, padding=1), nn.Conv2d(2, 2, 3, padding=1)
        self.second.weight = self.first.weight
        self.scale = nn.Parameter(torch.ones(2, 1, 1))
        self.unused = nn.Linear(3, 3)
        self.normed = weight_norm(nn.Conv2d(2, 8, 8))
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x):
        x = self.normed(self.second(self.first(self.first(x)) * self.scale)).flatten(2).transpose(1, 2)
        return {"attended": self.attention(x, x, x), "more": [x @ x.transpose(1, 2), None]}


def test_parameters_and_operations_add_up_to_the_models():
    for model, x in ((Odd(), IMAGES), (a_deep_network(), IMAGES)):
        report = report_of(model, x)
        (parameters, all_), (flops, all_flops) = sums_of(report)
        assert parameters == all_ == sum(p.numel() for p in model.parameters())
        with FlopCounterMode(display=False) as counter:
            model(x)
        assert flops == all_flops == counter.get_total_flops()
        assert report.first_parting is None
    rows = {row["name"]: row for row in report_of(Odd()).rows()}
    assert rows["elsewhere"]["parameters"] == 2 + 12
    assert (rows["normed"]["kind"], rows["normed"]["parameters"]) == ("Conv2d", 2 * 8 * 64 + 8 + 8)
    assert (rows["first"]["parameters"], rows["second"]["parameters"]) == (38, 2)
    assert rows["first"]["flops"] == 2 * rows["second"]["flops"]


class Result:
    def __init__(self, value):
        self.value = value


@dataclasses.dataclass
class Data:
    value: torch.Tensor


GIVES = {
    "there is no tensor in them": [lambda x: None, Result, lambda x: {"a": (1, "b")}],
    "there is no finite number in them": [lambda x: x[:0], lambda x: x * math.nan, lambda x: x / 0.0],
    "they have the shapes": [lambda x: [x] * (1 + (x.dtype == torch.double)),
                             lambda x: x[: 1 + (x.dtype == torch.double)]],
}  # fmt: skip


@pytest.mark.parametrize(("why", "give"), [(why, give) for why in GIVES for give in GIVES[why]])
def test_outputs_that_cannot_be_compared_are_said_to_be_so(why, give):
    class Gives(nn.Sequential):
        def forward(self, x):
            return give(super().forward(x))

    report = report_of(Gives(nn.Conv2d(2, 3, 3)))
    assert report.ours.output_error is report.torch.output_error is None
    assert report.uncompared.startswith(why)
    assert f"The outputs could not be compared: {why}" in str(report)
    assert f"The outputs could not be compared: {why}" in report._repr_html_()
    assert json.loads(report.to_json())["uncompared"].startswith(why)
    assert report.layers[0].ours.output_error < 1e-6  # its layers could be
    assert report.to_dataframe()["output_error"].isna().tolist() == [False, True]
    report.plot()


@pytest.mark.parametrize(
    "give", [Data, lambda x: {"a": [x, None]}, lambda x: x.masked_fill(x < 0, -math.inf)]
)
def test_outputs_in_any_container_are_compared(give):
    class Gives(nn.Sequential):
        def forward(self, x):
            return give(super().forward(x))

    report = report_of(Gives(nn.Conv2d(2, 3, 3)))
    assert report.uncompared is None
    assert 0 < report.ours.output_error < 1e-6


def test_infinities_must_be_in_the_same_places():
    exact = torch.tensor([math.inf, 2.0, math.nan])
    assert relative_error(torch.tensor([math.inf, 3.0, math.nan]), exact) == 0.5
    for wrong in ([math.inf, 2.0, 1.0], [-math.inf, 2.0, math.nan], [3.0, 2.0, math.nan]):
        assert relative_error(torch.tensor(wrong), exact) == math.inf


def test_the_error_of_complex_numbers_has_both_parts():
    assert relative_error(torch.tensor([3 + 4j]), torch.tensor([3 + 0j])) == pytest.approx(4 / 3)
    layers = nn.Conv2d(2, 3, 3, dtype=torch.complex64), nn.Conv2d(3, 1, 3, dtype=torch.complex64)
    report = report_of(nn.Sequential(*layers), torch.randn(2, 2, 8, 8, dtype=torch.complex64))
    assert report.first_parting is None
    assert 0 < report.ours.output_error < 1e-6


def test_networks_that_draw_numbers_or_write_to_their_input_are_compared():
    class Draws(nn.Module):
        def forward(self, x):
            return x + torch.rand(x.shape[-1])

    model, x = nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(2, 3, 3), Draws()), IMAGES.clone()
    assert report_of(model, x).ours.output_error < 1e-6
    assert torch.equal(x, IMAGES)


def test_a_network_without_values_is_named():
    with pytest.raises(ValueError, match=r"compare: 0\.weight has no values"):
        report_of(nn.Sequential(nn.LazyConv2d(1, 1)))
    with pytest.raises(ValueError, match=r"compare: weight has no values"):
        report_of(nn.Conv2d(2, 1, 1, device="meta"))


def test_fields_are_found_by_experiment_on_small_images_alone():
    model = nn.Sequential(nn.Conv2d(1, 1, 3), nn.Upsample(scale_factor=2), nn.Conv2d(1, 1, 3))
    small, large = torch.randn(1, 1, 12, 12), torch.randn(1, 1, 12, 150)
    assert [layer.receptive_field for layer in report_of(model, small).layers] == [
        (3, 3),
        (3, 3),
        (4, 4),
    ]
    assert [layer.receptive_field for layer in report_of(model, large).layers] == [(3, 3), None, None]


def test_the_report_is_table_frame_picture_page_and_json():
    report = report_of(a_deep_network())
    assert "direct" in str(report)
    frame = report.to_dataframe()
    assert list(frame["name"])[-1] == "total"
    assert len(frame) == len(report.layers) + 1
    assert report._repr_html_().count("<tr") == len(report.layers) + 2
    read = json.loads(report.to_json())
    assert read["rows"][0]["output_error"] == report.layers[0].ours.output_error
    assert read["tf32"] == "off"
    assert len(report.plot().axes) == 2


def test_tf32_is_off_while_it_measures_and_afterwards_as_it_was(monkeypatch):
    seen = []
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    model = nn.Sequential(nn.Conv2d(2, 2, 1))
    model[0].register_forward_hook(lambda *_: seen.append(torch.backends.cudnn.allow_tf32))
    report_of(model)
    assert set(seen) == {False}
    assert torch.backends.cudnn.allow_tf32


@pytest.mark.parametrize(("x", "message"), [(torch.zeros(1, dtype=torch.long), "x: expected a float"),
                                            ((), "x: expected a floating")])  # fmt: skip
def test_bad_input_is_named(x, message):
    with pytest.raises(ValueError, match=message):
        compare(a_deep_network(), x)
    with pytest.raises(ValueError, match="rounds: expected at least 1"):
        compare(a_deep_network(), IMAGES, rounds=0)


def test_the_command_compares_a_network_by_name(capsys, tmp_path):
    page, picture = tmp_path / "page.html", tmp_path / "picture.png"
    arguments = ["compare", "lenet5:1998", "--size", "32", "--rounds", "1", "--json",
                 "--html", str(page), "--picture", str(picture)]  # fmt: skip
    assert cli.main(arguments) == 0
    assert json.loads(capsys.readouterr().out)["model"] == "LeNet51998"
    assert page.read_text().startswith("<table>")
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert cli.main(["compare", "lenet6"]) == 2
    assert "model: expected one of alexnet, lenet5" in capsys.readouterr().err
