"""Pictures of images: that what is drawn is what was given."""

import torch
from matplotlib.figure import Figure

from cnn_ext import visualize


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
