"""Pictures: that what is drawn is what was given."""

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
