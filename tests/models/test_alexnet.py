"""AlexNet: the published numbers, torchvision's, and the same network on our layers and on torch's."""

import pytest
import torch
import torchvision

import cnn_ext
from cnn_ext.models import alexnet
from tests.models.twins import assert_twins

variants = pytest.mark.parametrize("variant", ["2012", "caffenet", "one_weird_trick"])
LOSS = torch.nn.CrossEntropyLoss()


@pytest.fixture(autouse=True)
def one_thread():
    """Beside another test process, more threads than cores wait for each other in small layers."""
    torch.set_num_threads(1)


def parameters(model):
    return sum(p.numel() for p in model.parameters())


@pytest.fixture
def on_meta():
    """Full-size networks of shapes without numbers."""
    with torch.device("meta"):
        yield


@pytest.mark.parametrize(
    ("variant", "count"),
    [("2012", 60_965_224), ("caffenet", 60_965_224), ("one_weird_trick", 61_100_840)],
)
@pytest.mark.parametrize("layers", [cnn_ext.nn, torch.nn], ids=["ours", "torch"])
def test_parameters_are_as_published(variant, count, layers, on_meta):
    assert parameters(alexnet(variant, layers=layers)) == count


def test_feature_maps_have_the_papers_sizes():
    model, sizes = alexnet("2012", width=1 / 8), {}
    for name, layer in model.features.named_children():
        layer.register_forward_hook(lambda _m, _i, y, name=name: sizes.update({name: y.shape[-1]}))
    model(torch.zeros(1, 3, 224, 224))
    assert [sizes[f"conv{i}"] for i in range(1, 6)] == [55, 27, 13, 13, 13]
    assert [sizes[f"pool{i}"] for i in (1, 2, 5)] == [27, 13, 6]


def test_channels_are_those_of_figure_two(on_meta):
    convolutions = [m for m in alexnet().modules() if isinstance(m, torch.nn.Conv2d)]
    assert [m.out_channels for m in convolutions] == [96, 256, 384, 384, 256]
    assert [m.groups for m in convolutions] == [1, 2, 1, 2, 2]
    dense = [m.out_features for m in alexnet().modules() if isinstance(m, torch.nn.Linear)]
    assert dense == [4096, 4096, 1000]


def test_caffenet_pools_before_it_normalises_with_caffes_constants(on_meta):
    def order(variant):
        return [n for n, _ in alexnet(variant).features.named_children() if n[:4] in ("norm", "pool")]

    assert order("2012") == ["norm1", "pool1", "norm2", "pool2", "pool5"]
    assert order("caffenet") == ["pool1", "norm1", "pool2", "norm2", "pool5"]
    norm = alexnet("caffenet").features.norm1
    assert (norm.size, norm.alpha, norm.beta, norm.k, norm.alpha_scaling) == (
        5,
        1e-4,
        0.75,
        1.0,
        "mean",
    )


def test_the_border_serves_224_and_227_pixels_alike():
    model = alexnet("caffenet", width=1 / 8).eval()
    image = torch.randn(1, 3, 227, 227)
    bare = torch.nn.functional.conv2d(
        image, model.features.conv1.weight, model.features.conv1.bias, stride=4
    )
    torch.testing.assert_close(model.features.conv1(image), bare)  # Caffe's crop needs no border
    assert model(image).shape == model(image[:, :, :224, :224]).shape


def test_initial_weights_are_the_papers():
    model = alexnet("2012", width=1 / 4)
    ones = {"conv2", "conv4", "conv5", "fc6", "fc7"}
    for name, layer in [*model.features.named_children(), *model.classifier.named_children()]:
        if hasattr(layer, "weight"):
            assert layer.weight.std().item() == pytest.approx(0.01, rel=0.05)
            assert set(layer.bias.tolist()) == {1.0 if name in ones else 0.0}


def test_a_narrow_network_keeps_its_signal_with_he_and_loses_it_with_the_papers():
    image = torch.randn(8, 3, 64, 64)

    def spread(init):
        model = alexnet("2012", width=1 / 8, image_size=64, init=init).eval()
        return model(image).std(0).mean().item()  # over images: what there is to learn from

    assert spread("paper") < 1e-6
    assert spread("he") > 1e-2


@variants
def test_both_builds_agree_in_float64_to_rounding(variant):
    def build(layers):
        return alexnet(variant, layers=layers, width=1 / 4, num_classes=10, image_size=96, init="he")

    assert_twins(build, torch.randn(4, 3, 96, 96), LOSS, rtol=1e-11)


@variants
def test_both_builds_agree_in_float32_to_the_documented_bounds(variant):
    def build(layers):
        return alexnet(variant, layers=layers, width=1 / 4, num_classes=10, image_size=96, init="he")

    image = torch.randn(4, 3, 96, 96)
    assert_twins(build, image, LOSS, rtol=1e-5, later=1e-4, dtype=torch.float)


def test_both_builds_agree_at_full_size():
    image = torch.randn(2, 3, 224, 224)
    assert_twins(
        lambda layers: alexnet(layers=layers, num_classes=10), image, LOSS, rtol=1e-11, steps=2
    )


def test_the_torch_build_has_no_layer_of_ours():
    modules = alexnet("2012", layers=torch.nn, width=1 / 8).modules()
    assert not any(type(m).__module__.startswith("cnn_ext.nn") for m in modules)


def test_one_weird_trick_is_torchvisions_network():
    torch.manual_seed(1)
    theirs = torchvision.models.alexnet(num_classes=10).eval()
    torch.manual_seed(1)
    ours = alexnet("one_weird_trick", num_classes=10).eval()
    for (name, p), (other, q) in zip(
        ours.state_dict().items(), theirs.state_dict().items(), strict=True
    ):
        assert name == other
        assert torch.equal(p, q)  # drawn alike from the same seed
    image = torch.randn(1, 3, 224, 224)
    torch.testing.assert_close(ours(image), theirs(image), rtol=1e-5, atol=1e-6)


def test_torchvisions_weights_load_unchanged(monkeypatch):
    weights = torchvision.models.AlexNet_Weights.DEFAULT
    published = torchvision.models.alexnet().state_dict()
    monkeypatch.setattr(type(weights), "get_state_dict", lambda self, **_: published)
    model = alexnet("one_weird_trick", weights="DEFAULT")
    assert all(torch.equal(model.state_dict()[key], value) for key, value in published.items())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"variant": "2013"}, "variant: expected one of"),
        ({"init": "xavier"}, "init: expected one of"),
        ({"width": 0}, "width: expected a positive number, got 0"),
        ({"image_size": 62}, "image_size: expected at least 63 pixels, got 62"),
        ({"weights": "DEFAULT"}, "weights: torchvision's are those of 'one_weird_trick'"),
        (
            {"variant": "one_weird_trick", "weights": "DEFAULT", "num_classes": 3},
            "num_classes: expected 1000",
        ),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        alexnet(**arguments)
