"""The picture of colour PCA."""

import io

import numpy
import PIL.Image
import skimage
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


def drawn(ax):
    return torch.tensor(ax.images[0].get_array())


def test_pictures_are_drawn_as_they_are_not_stretched():
    dim = torch.full((3, 4, 5), 100, dtype=torch.uint8)
    dim[0] = 110
    over = torch.tensor([-0.5, 0.25, 1.5]).view(1, 1, 3)
    figure = visualize.pictures({"dim": dim, "over": over}, columns=3)
    first, second, rest = figure.axes
    assert torch.equal(drawn(first), dim.movedim(0, -1))
    assert drawn(second).tolist() == [[0, 0.25, 1]]
    assert second.images[0].get_clim() == (0, 1)
    assert [ax.get_title() for ax in figure.axes] == ["dim", "over", ""]
    assert not rest.images


def test_a_grey_picture_of_bytes_spans_0_to_255():
    figure = visualize.pictures({"": torch.tensor([[[7, 8]]], dtype=torch.uint8)}, columns=1)
    assert figure.axes[0].images[0].get_clim() == (0, 255)


def test_each_row_of_axis_shifts_is_one_axis_and_says_its_strength():
    image = torch.randint(0, 256, (3, 6, 8), dtype=torch.uint8)
    pca = ColorPCA.imagenet()
    for scaling, scale in (("eigenvalue", pca.eigenvalues), ("stdev", pca.eigenvalues.sqrt())):
        figure = visualize.axis_shifts(image, pca, std=0.2, steps=(-2, 0, 2), scaling=scaling)
        for axis in range(3):
            for ax, step in zip(figure.axes[3 * axis :], (-2, 0, 2), strict=False):
                alphas = torch.zeros(3, dtype=torch.double)
                alphas[axis] = 0.2 * step
                shifted = functional.color_pca(image, pca.eigenvectors, scale, alphas)
                assert torch.equal(drawn(ax).movedim(-1, 0), shifted)
            red = 255 * 0.2 * scale[axis] * pca.eigenvectors[0, axis]
            label = figure.axes[3 * axis].get_ylabel()
            assert label.startswith(f"axis {axis + 1}\nλ = {pca.eigenvalues[axis]:.4f}")
            assert f"\n{red:+.2f}, " in label


def test_the_panels_of_the_cloud_show_colours_along_the_axes():
    image = torch.randint(0, 256, (3, 60, 50), dtype=torch.uint8)
    pca = ColorPCA.fit([image], progress=False)
    cube, first, second = visualize.color_cloud([image], pca).axes
    assert len(cube.lines) == 3
    pixels = image.flatten(1).T.double() / 255  # 3000: each is drawn
    along = (pixels - pca.mean) @ pca.eigenvectors
    for ax, columns in ((first, [0, 1]), (second, [1, 2])):
        points = torch.tensor(ax.collections[0].get_offsets())
        torch.testing.assert_close(points, along[:, columns])
        colours = torch.tensor(ax.collections[0].get_facecolors())[:, :3]
        torch.testing.assert_close(colours, pixels)
    assert first.get_xlim() == second.get_xlim() == (-1, 1)  # so that flat looks flat


def test_a_figure_as_jpeg_is_the_same_picture_in_less_space():
    photograph = torch.tensor(skimage.data.astronaut()).movedim(-1, 0)
    figure = visualize.pictures({"astronaut": photograph}, columns=1, width=3)
    small = visualize.jpeg(figure)._repr_jpeg_()
    large = io.BytesIO()
    figure.savefig(large, format="png", bbox_inches="tight")
    assert len(small) < len(large.getvalue()) / 2
    pictures = [PIL.Image.open(file).convert("RGB") for file in (io.BytesIO(small), large)]
    first, second = (torch.tensor(numpy.array(picture)).float() for picture in pictures)
    assert first.shape == second.shape
    assert (first - second).abs().mean() < 5  # of 255
