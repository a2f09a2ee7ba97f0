"""Pictures of convolution as a matrix: that every weight stands where it acts."""

import pytest
import torch
import torch.nn.functional as F
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from cnn_ext import matrix, visualize
from cnn_ext.visualize.matrices import COLORS, FIRST, LAST


def faces(ax) -> dict[tuple[int, int], str]:
    """The colour of every cell that a picture made by ``cells`` has."""
    squares = [p for p in ax.patches if isinstance(p, Rectangle) and p.get_fill()]
    return {
        (round(p.get_y() + 0.5), round(p.get_x() + 0.5)): to_hex(p.get_facecolor()).upper()
        for p in squares
    }


def texts(ax) -> dict[tuple[int, int], str]:
    """What is written into each cell, or beside the cells."""
    return {
        (round(t.get_position()[1]), round(t.get_position()[0])): t.get_text()
        for t in ax.texts
        if t.get_text()
    }


def outlines(ax) -> list[tuple]:
    """Row, column, height, width and colour of every outline."""
    return [
        (p.get_y() + 0.5, p.get_x() + 0.5, p.get_height(), p.get_width(), to_hex(p.get_edgecolor()))
        for p in ax.patches
        if not p.get_fill()
    ]


def test_each_weight_of_the_matrix_has_its_name_and_colour():
    ax = Figure().subplots()
    weight = torch.tensor([[1.0, 2], [3, 4]]).view(1, 1, 2, 2)
    visualize.conv_matrix(ax, weight, (3, 3), names="abcd")
    C = matrix.conv_matrix(weight, (3, 3), layout=torch.strided)
    for (row, column), color in faces(ax).items():
        number = int(C[row, column])
        assert color == ("#FFFFFF" if number == 0 else COLORS[number - 1])
        assert texts(ax).get((row, column)) == (None if number == 0 else "abcd"[number - 1])
    assert len(faces(ax)) == 4 * 9


@pytest.mark.parametrize("arguments", [{"stride": 2}, {"padding": 1}, {"dilation": 2}, {"groups": 2}])
def test_the_matrix_shows_the_values_of_any_convolution(arguments):
    ax = Figure().subplots()
    weight = torch.arange(1.0, 33.0).view(4, 2, 2, 2)
    channels = 2 * arguments.get("groups", 1)
    visualize.conv_matrix(ax, weight, (channels, 3, 4), **arguments)
    C = matrix.conv_matrix(weight, (3, 4), layout=torch.strided, **arguments)
    expected = {tuple(at): f"{C[tuple(at)]:g}" for at in C.nonzero().tolist()}
    assert texts(ax) == expected


def test_a_weight_of_zero_is_coloured_and_written():
    ax = Figure().subplots()
    visualize.conv_matrix(ax, torch.tensor([[[[0.0, 5.0]]]]), (1, 2))
    assert texts(ax) == {(0, 0): "0", (0, 1): "5"}
    assert faces(ax)[0, 0] == COLORS[0]


def test_blocks_of_filters_and_channels_are_parted():
    ax = Figure().subplots()
    visualize.conv_matrix(ax, torch.ones(2, 3, 2, 2), (3, 3), names=())
    assert [line.get_ydata()[0] for line in ax.lines[:1]] == [3.5]
    assert [line.get_xdata()[0] for line in ax.lines[1:]] == [8.5, 17.5]
    assert not ax.texts or not any(t.get_text() for t in ax.texts)


def test_columns_and_rows_are_named_by_their_cells():
    ax = Figure().subplots()
    visualize.conv_matrix(ax, torch.ones(1, 2, 2, 2), (2, 11), names=(), labels=True)
    names = [t.get_text() for t in ax.texts if t.get_text()]
    assert names[:2] == ["$x_{000}$", "$x_{001}$"]
    assert names[43] == "$x_{1,1,10}$"
    assert names[44:] == [f"$y_{{0{q}}}$" for q in range(10)]


def test_names_must_be_one_for_each_weight():
    with pytest.raises(ValueError, match="names: expected 4, one for each weight, got 3"):
        visualize.conv_matrix(Figure().subplots(), torch.ones(1, 1, 2, 2), (3, 3), names="abc")


def test_the_product_of_filters_and_patches_is_the_convolution():
    image, weight, bias = torch.randn(2, 4, 3), torch.randn(3, 2, 2, 2), torch.randn(3)
    figure = visualize.patch_product(image, weight, bias, padding=1, stride=2, fmt="{:.3f}")
    *maps, filters, patches, product = figure.axes
    assert len(maps) == 2
    expected = F.conv2d(image[None], weight, bias, 2, 1).flatten(2)[0]
    assert texts(product) == {
        (k, p): f"{expected[k, p]:.3f}" for k in range(3) for p in range(expected.shape[1])
    }
    columns = F.unfold(image[None], 2, padding=1, stride=2)[0]
    assert texts(patches)[5, 1] == f"{columns[5, 1]:.3f}"
    assert [texts(patches)[8, p] for p in range(columns.shape[1])] == ["1.000"] * columns.shape[1]
    assert [texts(filters)[k, 8] for k in range(3)] == [f"{b:.3f}" for b in bias]
    for row in range(9):  # what meets in the product has one colour
        assert faces(patches)[row, 0] == faces(filters)[0, row]
    assert faces(filters)[0, 1] == faces(filters)[0, 5] == COLORS[1]


def test_the_first_and_the_last_patch_are_outlined_where_they_lie():
    figure = visualize.patch_product(
        torch.zeros(1, 6, 7), torch.zeros(1, 1, 2, 2), stride=2, padding=(0, 1), dilation=2
    )
    image, _, patches, product = figure.axes
    assert outlines(image) == [(0, -1, 3, 3, FIRST), (2, 5, 3, 3, LAST)]
    assert outlines(patches) == [(0, 0, 4, 1, FIRST), (0, 7, 4, 1, LAST)]
    assert outlines(product) == [(0, 0, 1, 1, FIRST), (0, 7, 1, 1, LAST)]


@pytest.mark.parametrize(("stride", "padding", "dilation"), [(1, 0, 1), (2, 1, 1), (1, 2, 2)])
@pytest.mark.parametrize("cell", [(0, 0), (2, 3), (4, 5)])
def test_the_forward_set_bears_the_taps_through_which_it_is_reached(cell, stride, padding, dilation):
    figure = visualize.forward_set(cell, (5, 6), (3, 2), stride, padding, dilation)
    source, filter, output = figure.axes
    pairs = matrix.forward_set(cell, (5, 6), (3, 2), stride, padding, dilation)
    assert texts(output) == {out: f"$w_{{{r}{s}}}$" for out, (r, s) in pairs}
    for out, tap in pairs:
        assert faces(output)[out] == faces(filter)[tap]
    assert len([c for c in faces(output).values() if c != "#FFFFFF"]) == len(pairs)
    assert texts(source)[cell] == "$x$"
    assert output.get_title() == f"reaches {len(pairs)}"


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("padding", [0, 1, 2])
def test_both_directions_of_a_graph_have_the_same_lines(padding, stride):
    forward, backward = Figure().subplots(1, 2)
    visualize.tap_graph(forward, 6, 3, stride, padding)
    visualize.tap_graph(backward, 6, 3, stride, padding, backward=True)
    assert solid(forward) == solid(backward)
    pairs = [
        (i, *pair) for i in range(6) for pair in matrix.forward_set((i,), (6,), 3, stride, padding)
    ]
    assert solid(forward) == {(i, p * stride - padding + 1.0, COLORS[f]) for i, (p,), (f,) in pairs}


def test_lines_from_zeros_are_dotted_and_taps_named_once():
    ax = Figure().subplots()
    visualize.tap_graph(ax, 5, 3, stride=2, padding=1)
    drawn = [line for line in ax.lines if len(line.get_xdata())]
    assert len(drawn) == 3 * 3
    assert len(drawn) - len(solid(ax)) == 2
    assert ax.get_legend_handles_labels()[1] == ["$w_{0}$", "$w_{1}$", "$w_{2}$"]
    assert named(ax, "0") == [(-1, 0), (5, 0)]
    assert named(ax, "$y_{1}$") == [(2, 1)]


@pytest.mark.parametrize("padding", [0, 1, 2])
def test_forward_and_backward_zeros_add_up_to_f_minus_one_a_side(padding):
    forward, backward = Figure().subplots(1, 2)
    visualize.tap_graph(forward, 5, 3, padding=padding)
    visualize.tap_graph(backward, 5, 3, padding=padding, backward=True)
    assert len(named(forward, "0")) == 2 * padding
    assert len(named(backward, "0")) == 2 * (2 - padding)
    assert {y for _, y in named(backward, "0")} <= {1}


def test_the_backward_pass_of_a_stride_has_zeros_between_the_cells_of_g():
    ax = Figure().subplots()
    visualize.tap_graph(ax, 5, 3, stride=2, padding=1, backward=True)
    row = sorted((t.get_position()[0], t.get_text()) for t in ax.texts if t.get_position()[1] == 1)
    assert [text for _, text in row] == ["0", "$g_{0}$", "0", "$g_{1}$", "0", "$g_{2}$", "0"]


def test_more_than_full_padding_has_no_graph_backward():
    with pytest.raises(ValueError, match="padding: expected at most F - 1"):
        visualize.tap_graph(Figure().subplots(), 5, 3, padding=3, backward=True)


def solid(ax) -> set[tuple]:
    """Lines between cells that are no zeros: input cell, place of the output cell, colour."""
    return {
        (*line.get_xdata(), line.get_color())
        for line in ax.lines
        if len(line.get_xdata()) and line.get_linestyle() == "-"
    }


def named(ax, text) -> list[tuple]:
    """Where a text stands."""
    return [t.get_position() for t in ax.texts if t.get_text() == text]
