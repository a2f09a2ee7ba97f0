"""The picture of colour PCA."""

import torch

from cnn_ext import functional, visualize
from cnn_ext.transforms import ColorPCA


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
