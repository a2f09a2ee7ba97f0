"""Pictures of convolution itself."""

import pytest
import torch
import torch.nn.functional as F
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Polygon

from cnn_ext import visualize
from cnn_ext.matrix import conv_matrix


@pytest.fixture
def ax():
    return Figure().subplots()


def numbers(ax):
    """The numbers of a panel, row by row, padding included."""
    return torch.tensor([float(text.get_text()) for text in ax.texts[:-1]])  # the last is the sign


def outline(ax):
    (found,) = [patch for patch in ax.patches if not patch.get_fill()]
    return found.get_y() + 0.5, found.get_x() + 0.5, found.get_height(), found.get_width()


@pytest.mark.parametrize(
    ("stride", "padding", "cell", "window"),
    [
        (1, 0, (2, 3), (2, 3, 3, 2)),
        (2, 0, (1, 2), (2, 4, 3, 2)),
        (1, (2, 0, 1, 0), (0, 0), (-1, -2, 3, 2)),
        ((1, 2), "full", (7, 1), (5, 1, 3, 2)),
    ],
)
def test_a_step_shows_window_products_and_the_cell_they_sum_to(stride, padding, cell, window):
    image, filter = torch.randint(0, 9, (6, 7)).float(), torch.randint(-2, 3, (3, 2)).float()
    figure = visualize.step(image, filter, cell, stride=stride, padding=padding)
    left, kernel, products, right = figure.axes
    amounts = {"full": (1, 1, 2, 2), 0: (0, 0, 0, 0)}.get(padding, padding)
    padded = F.pad(image, amounts)
    output = F.conv2d(padded[None], filter[None, None], stride=stride)[0]
    rows, columns, height, width = window
    seen = padded[rows + amounts[2] :, columns + amounts[0] :][:height, :width]
    assert torch.equal(numbers(left), padded.flatten())
    assert torch.equal(numbers(kernel), filter.flatten())
    assert torch.equal(numbers(products), (seen * filter).flatten())
    assert torch.equal(numbers(right), output.flatten())
    assert outline(left) == window
    assert outline(right) == (*cell, 1, 1)
    assert products.get_title() == f"products, sum {output[cell]:g}"


def test_a_step_that_the_output_has_not_is_refused():
    with pytest.raises(IndexError, match=r"expected one of the \(5, 5\) output, got \(5, 0\)"):
        visualize.step(torch.zeros(7, 7), torch.zeros(3, 3), (5, 0))


def test_connections_are_the_weights_that_are_not_zero(ax):
    matrix = conv_matrix(torch.tensor([[[1.0, 2.0, 3.0]]]), 7, layout=torch.strided)
    visualize.connections(ax, matrix, "shared")
    ends = {(tuple(line.get_xdata()), tuple(line.get_ydata())) for line in ax.lines}
    assert ends == {((i, p + 1), (0, 1)) for p, i in matrix.nonzero().tolist()}
    colours = {}
    for line in ax.lines:  # one colour for each of the three taps
        i, p = line.get_xdata()
        colours.setdefault(i - (p - 1), set()).add(line.get_color())
    assert set(colours) == {0, 1, 2}
    assert all(len(found) == 1 for found in colours.values())
    assert len(set.union(*colours.values())) == 3
    assert ax.get_title() == "shared"


def test_many_different_weights_are_all_grey_and_sparse_is_as_dense(ax):
    visualize.connections(ax, (torch.rand(5, 7) + 1e-3).to_sparse())
    assert len(ax.lines) == 35
    assert {line.get_color() for line in ax.lines} == {"0.6"}


def test_stacks_draw_a_sheet_for_each_map_and_count_those_beyond_twelve():
    figure = visualize.stacks([(1, 28, 28), (5, 24, 24), (256, 12, 12)])
    (ax,) = figure.axes
    assert len(ax.patches) == 1 + 5 + 12
    assert [text.get_text() for text in ax.texts] == [
        "1 map\n28 x 28", "5 maps\n24 x 24", "256 maps\n12 x 12",
    ]  # fmt: skip
    assert [p.get_width() for p in ax.patches] == [1] + 5 * [24 / 28] + 12 * [12 / 28]


def test_stacks_join_windows_to_the_cells_that_see_them():
    figure = visualize.stacks([(3, 32, 32), (5, 28, 28), (10, 26, 26)], [(5, 5), (3, 3)])
    (ax,) = figure.axes
    assert [text.get_text() for text in ax.texts[3:]] == [
        "5 filters\n3 x 5 x 5",
        "10 filters\n5 x 3 x 3",
    ]
    wedges = [patch for patch in ax.patches if isinstance(patch, Polygon)]
    windows = [p for p in ax.patches if p.get_edgecolor() == to_rgba("C1") and p not in wedges]
    assert [window.get_width() * 32 for window in windows] == pytest.approx([5, 3])
    assert len(wedges) == 2


def test_stacks_want_a_kernel_between_each_two_sizes():
    with pytest.raises(ValueError, match=r"kernels: expected 1 between 2 sizes, got \[\(3, 3\), "):
        visualize.stacks([(1, 5, 5), (1, 3, 3)], [(3, 3), (3, 3)])


def test_zero_is_the_middle_of_a_signed_maps_colours(ax):
    values = torch.tensor([[-3.0, 0.0], [1.0, 2.0]])
    visualize.signed_map(ax, values, "edges")
    (image,) = ax.images
    assert image.get_clim() == (-3, 3)
    assert torch.equal(torch.tensor(image.get_array()), values)
    assert ax.get_title() == "edges"
    visualize.signed_map(ax, values, limit=5)
    assert ax.images[-1].get_clim() == (-5, 5)


def test_a_map_of_zeros_is_drawn(ax):
    visualize.signed_map(ax, torch.zeros(3, 3))
    assert ax.images[0].get_clim() == (-1, 1)
