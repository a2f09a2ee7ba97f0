"""Pictures of what a network sees."""

import pytest
import torch
from torch.nn.utils.parametrizations import weight_norm

from cnn_ext import visualize
from cnn_ext.models import lenet5


def test_feature_maps_are_the_layers_outputs_and_leave_no_hooks():
    network, image = lenet5(), torch.randn(1, 32, 32)
    maps = visualize.feature_maps(network, image)
    torch.testing.assert_close(maps["c1"], network.c1(image))
    assert not any(module._forward_hooks for module in network.modules())


NETWORKS = {
    "in place": torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.ReLU(inplace=True), torch.nn.MaxPool2d(2),
        torch.nn.Conv2d(4, 5, 3), torch.nn.ReLU(inplace=True),
    ),
    "one channel": torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU(inplace=True)),
}  # fmt: skip


def test_maps_are_those_before_an_in_place_relu():
    network, image = NETWORKS["in place"], torch.randn(3, 12, 12)
    maps = visualize.feature_maps(network, image)
    torch.testing.assert_close(maps["0"], network[0](image[None])[0])
    assert (maps["0"] < 0).any()
    assert not (maps["1"] < 0).any()


def test_a_parametrized_convolution_is_a_layer_and_the_image_stays_as_it_is():
    first, second = torch.nn.ReLU(inplace=True), weight_norm(torch.nn.Conv2d(3, 4, 3))
    network, image = torch.nn.Sequential(first, second), torch.randn(3, 9, 9)
    before = image.clone()
    maps = visualize.feature_maps(network, image)
    assert {name: tuple(map.shape) for name, map in maps.items()} == {"0": (3, 9, 9), "1": (4, 7, 7)}
    assert torch.equal(image, before)


@pytest.mark.parametrize("name", list(NETWORKS))
def test_filters_fields_and_hierarchy_are_drawn_for_colour_and_grey(name, tmp_path):
    network = NETWORKS[name].train()
    images = torch.randn(5, network[0].in_channels, 12, 12)
    figures = [
        visualize.filters(network, "0"),
        visualize.receptive_fields(network, images[0]),
        visualize.hierarchy(network, ["0", "1"], images, count=3, filters=2),
    ]
    for i, figure in enumerate(figures):
        figure.savefig(tmp_path / f"{i}.png")
    assert len([ax for ax in figures[0].axes if ax.images]) == 4
    assert len(figures[1].axes[0].patches) == {"in place": 3, "one channel": 1}[name]
    assert len([ax for ax in figures[2].axes if ax.images]) == 2 * 3 * 2
    assert network.training


def test_the_patch_that_excites_a_filter_is_the_one_it_was_made_for():
    pattern = torch.randn(1, 3, 3)
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3, bias=False))
    with torch.no_grad():
        network[0].weight[1] = pattern
    images = 0.1 * torch.randn(4, 1, 20, 20)
    images[2, :, 5:8, 11:14] += pattern
    first, *others = visualize.exciting_patches(network, "0", images, filter=1, count=3)
    assert torch.equal(first, images[2, :, 5:8, 11:14])
    assert len(others) == 2


def test_a_patch_at_the_border_is_cut_off_there():
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 1, 5, padding=2, bias=False))
    torch.nn.init.ones_(network[0].weight)
    image = torch.zeros(1, 1, 9, 9)
    image[..., 0, 0] = 1
    image[..., 0, 1] = 1e-3  # so that the corner unit is not alone in seeing most
    (patch,) = visualize.exciting_patches(network, "0", image, filter=0, count=1)
    assert patch.shape == (1, 3, 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda n, x: visualize.filters(n, "1"), "layer: expected a convolution"),
        (
            lambda n, x: visualize.exciting_patches(n, "9", x, 0),
            "layer: expected one with feature maps",
        ),
        (
            lambda n, x: visualize.exciting_patches(n, "0", x, 4),
            "filter: expected 0 to 3 of '0', got 4",
        ),
        (lambda n, x: visualize.hierarchy(n, ["9"], x), "layers: expected names of layers"),
    ],
)
def test_what_cannot_be_drawn_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(NETWORKS["one channel"], torch.randn(2, 1, 8, 8))
