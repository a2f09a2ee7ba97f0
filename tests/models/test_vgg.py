"""VGG: table 1 of the paper, torchvision's networks, and the same on our layers and on torch's."""

import pytest
import torch
import torchvision

import cnn_ext
from cnn_ext import models
from cnn_ext.models.vgg import VGG
from tests.models.twins import assert_twins

NAMES = ("vgg11", "vgg11_lrn", "vgg11_bn", "vgg13", "vgg13_bn", "vgg16_c", "vgg16", "vgg16_bn",
         "vgg19", "vgg19_bn")  # fmt: skip
SHARED = [name for name in NAMES if hasattr(torchvision.models, name)]
LOSS = torch.nn.CrossEntropyLoss()


@pytest.fixture(autouse=True)
def one_thread():
    """Beside another test process, more threads than cores wait for each other in small layers."""
    torch.set_num_threads(1)


@pytest.mark.parametrize(
    ("name", "count", "depth"),
    [  # table 2 has millions; these are its columns counted out
        ("vgg11", 132_863_336, 11),
        ("vgg11_lrn", 132_863_336, 11),
        ("vgg13", 133_047_848, 13),
        ("vgg16_c", 133_638_952, 16),
        ("vgg16", 138_357_544, 16),
        ("vgg19", 143_667_240, 19),
    ],
)
def test_parameters_and_depth_are_as_published(name, count, depth):
    with torch.device("meta"):
        model = getattr(models, name)()
    assert sum(p.numel() for p in model.parameters()) == count
    assert sum(isinstance(m, torch.nn.Conv2d | torch.nn.Linear) for m in model.modules()) == depth


@pytest.mark.parametrize("name", SHARED)
def test_keys_and_shapes_are_torchvisions(name):
    with torch.device("meta"):
        ours, theirs = getattr(models, name)(), getattr(torchvision.models, name)()
    shapes = [{k: v.shape for k, v in m.state_dict().items()} for m in (ours, theirs)]
    assert shapes[0] == shapes[1]


def test_torchvisions_weights_load_unchanged_and_give_its_outputs(monkeypatch):
    torch.manual_seed(1)
    theirs = torchvision.models.vgg11_bn().eval()
    weights = torchvision.models.VGG11_BN_Weights
    monkeypatch.setattr(weights, "get_state_dict", lambda self, **_: theirs.state_dict())
    ours = models.vgg11_bn(weights="IMAGENET1K_V1").eval()
    image = torch.randn(1, 3, 64, 96)  # averaged to 7 x 7 cells, as torchvision does
    torch.testing.assert_close(ours(image), theirs(image), rtol=1e-4, atol=1e-5)


def test_initial_weights_are_torchvisions_for_the_same_seed():
    torch.manual_seed(1)
    theirs = torchvision.models.vgg11(num_classes=10).state_dict()
    torch.manual_seed(1)
    ours = models.vgg11(num_classes=10).state_dict()
    assert all(torch.equal(ours[key], value) for key, value in theirs.items())


@pytest.mark.parametrize("name", NAMES)
def test_both_builds_agree_in_float64_to_rounding(name):
    def build(layers):
        return getattr(models, name)(layers=layers, width=1 / 4, num_classes=10, image_size=32)

    assert_twins(build, torch.randn(4, 3, 32, 32), LOSS, rtol=1e-11)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("algorithm", "rtol"), [("implicit_gemm", 1e-5), ("auto", 1e-4)])
def test_both_builds_agree_in_float32_to_the_documented_bounds(name, algorithm, rtol):
    """Winograd's roundings, in `auto`, are some three times larger, and batch norms pass them on."""

    def build(layers):
        return getattr(models, name)(layers=layers, width=1 / 4, num_classes=10, image_size=32)

    image = torch.randn(4, 3, 32, 32)
    with cnn_ext.default_algorithm(algorithm):
        assert_twins(build, image, LOSS, rtol, later=1e-4, dtype=torch.float)


def test_the_papers_initialisation_has_variance_one_hundredth():
    model = models.vgg11(width=1 / 4, init="paper")
    for layer in model.modules():
        if hasattr(layer, "weight"):
            assert layer.weight.var().item() == pytest.approx(0.01, rel=0.1)
            assert not layer.bias.any()


def test_glorots_initialisation_depends_on_the_fans():
    layer = models.vgg11(width=1 / 4, init="glorot").features[3]  # 16 to 32 channels, 3 x 3
    assert layer.weight.abs().max() <= (6 / (9 * (16 + 32))) ** 0.5
    assert layer.weight.std().item() == pytest.approx((2 / (9 * (16 + 32))) ** 0.5, rel=0.05)


def test_a_deep_net_starts_from_the_first_four_and_the_dense_layers_of_net_a():
    a, e = models.vgg11(width=1 / 16), models.vgg19(width=1 / 16)
    before = {key: value.clone() for key, value in e.state_dict().items()}
    e.start_from(a)
    changed = {k for k, v in e.state_dict().items() if not torch.equal(v, before[k])}
    of_four = {"features.0.weight", "features.5.weight", "features.10.weight", "features.12.weight"}
    of_dense = {"classifier.0.weight", "classifier.3.weight", "classifier.6.weight"}
    assert changed == of_four | of_dense
    with pytest.raises(ValueError, match="shallow: expected a net A"):
        a.start_from(e)


def test_net_c_ends_its_last_three_stages_in_1_by_1_filters():
    model = models.vgg16_c(width=1 / 16)
    sizes = [m.kernel_size[0] for m in model.features if isinstance(m, torch.nn.Conv2d)]
    assert sizes == [3, 3, 3, 3, 3, 3, 1, 3, 3, 1, 3, 3, 1]


def test_global_average_pooling_replaces_the_dense_layers():
    model = models.vgg11(width=1 / 8, num_classes=7, head="gap")
    assert model(torch.zeros(2, 3, 96, 64)).shape == (2, 7)
    assert [p.numel() for p in model.classifier.parameters()] == [64 * 7, 7]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"column": "F"}, "column: expected one of"),
        ({"norm": "layer"}, "norm: expected one of"),
        ({"head": "none"}, "head: expected one of"),
        ({"init": "xavier"}, "init: expected one of"),
        ({"image_size": 31}, "image_size: expected at least 32 pixels, got 31"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        VGG(**arguments)


def test_weights_that_nobody_published_are_refused():
    with pytest.raises(ValueError, match="weights: torchvision has none for this network"):
        models.vgg16_c(weights="DEFAULT")


def test_builds_differ_in_the_layers_they_call():
    first = models.vgg11_lrn(width=1 / 16).features
    theirs = models.vgg11_lrn(width=1 / 16, layers=torch.nn).features
    assert (type(first[0]), type(first[2])) == (cnn_ext.nn.Conv2d, cnn_ext.nn.LocalResponseNorm)
    assert (type(theirs[0]), type(theirs[2])) == (torch.nn.Conv2d, torch.nn.LocalResponseNorm)
