"""Pictures: that what is drawn is what was given."""

import torch
from matplotlib.figure import Figure

from cnn_ext import visualize
from cnn_ext.models import lenet5


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
