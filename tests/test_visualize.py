"""Pictures: that what is drawn is what was given."""

import pytest
import torch
from matplotlib.figure import Figure

from cnn_ext import functional, visualize
from cnn_ext.models import lenet5
from cnn_ext.transforms import ColorPCA


def test_a_grid_shows_every_image_scaled_to_its_own_range():
    ax = Figure().subplots()
    images = torch.stack([torch.eye(2), 10 * torch.eye(2), torch.zeros(2, 2)])
    visualize.grid(ax, images, columns=2, title="")
    sheet = torch.tensor(ax.images[0].get_array().filled(float("nan")))
    assert sheet.shape == (5, 5)
    assert torch.equal(sheet[:2, :2], torch.eye(2))
    assert torch.equal(sheet[:2, 3:], torch.eye(2))
    assert torch.equal(sheet[3:, :2], torch.zeros(2, 2))
    assert sheet[2].isnan().all()


def test_feature_maps_are_the_layers_outputs_and_leave_no_hooks():
    network, image = lenet5(), torch.randn(1, 32, 32)
    maps = visualize.feature_maps(network, image)
    torch.testing.assert_close(maps["c1"], network.c1(image))
    assert not any(module._forward_hooks for module in network.modules())


def test_the_training_picture_has_a_curve_for_every_run():
    losses = {"a": [3.0, 2.0], "b": [3.0, 1.0], "c": [3.0, 2.5]}
    figure = visualize.training(losses, lenet5(), torch.randn(1, 32, 32))
    curves = [list(line.get_ydata()) for line in figure.axes[0].lines]
    assert curves == list(losses.values())


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


def test_confusions_are_counted_by_row_and_column():
    labels, guesses = torch.tensor([0, 0, 1, 2]), torch.tensor([0, 1, 1, 1])
    (ax,) = visualize.confusion_matrix(labels, guesses, ("a", "b", "c")).axes
    table = ax.images[0].get_array()
    assert table.tolist() == [[1, 1, 0], [0, 1, 0], [0, 1, 0]]
    assert ax.get_title() == "50.0% of 4 are right"


def test_mistakes_show_what_it_is_and_what_it_was_taken_for():
    figure = visualize.mistakes([(torch.zeros(3, 4, 4), "cat", "dog")])
    assert figure.axes[0].get_title() == "cat\nnot dog"
    assert "Not one mistake" in visualize.mistakes([]).get_suptitle()


def test_every_network_has_a_panel_with_a_curve_for_every_build():
    runs = {"a": {"ours": [3.0, 2.0], "torch": [3.0, 2.0]}, "b": {"ours": [1.0]}}
    figure = visualize.curves(runs, smooth=1)
    assert [len(ax.lines) for ax in figure.axes] == [2, 1]


def test_the_picture_of_colour_pca_shows_each_axis_at_each_step():
    images = [torch.randint(0, 256, (3, 6, 8), dtype=torch.uint8) for _ in range(2)]
    pca = ColorPCA.fit(images, progress=False)
    figure = visualize.color_pca(images, pca, std=0.5)
    cells = [torch.tensor(ax.images[0].get_array()).movedim(-1, 0) for ax in figure.axes if ax.images]
    assert len(cells) == 2 * 3 * 8
    for row in range(6):
        image, axis = images[row // 3], row % 3
        original, *steps = cells[8 * row : 8 * row + 5]
        assert torch.equal(original, image)
        for step, cell in zip((-3, -1, 1, 3), steps, strict=True):
            alphas = torch.zeros(3, dtype=torch.double)
            alphas[axis] = 0.5 * step
            shifted = functional.color_pca(image, pca.eigenvectors, pca.eigenvalues, alphas)
            assert torch.equal(cell, shifted)


def test_the_cloud_has_the_three_axes_through_the_mean():
    image = torch.randint(0, 256, (3, 30, 30), dtype=torch.uint8)
    pca = ColorPCA.fit([image], progress=False)
    cloud = visualize.color_pca([image], pca).axes[-1]
    assert len(cloud.lines) == 3
    for k, line in enumerate(cloud.lines):
        start, end = torch.tensor(line.get_data_3d(), dtype=torch.double).T
        torch.testing.assert_close((start + end) / 2, pca.mean)
        torch.testing.assert_close(end - start, 4 * pca.eigenvalues[k].sqrt() * pca.eigenvectors[:, k])
