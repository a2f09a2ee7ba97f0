"""Grids of numbers."""

import pytest
import torch
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure

from cnn_ext.visualize import cells

NAN = float("nan")


@pytest.fixture
def ax():
    return Figure().subplots()


def written(ax):
    """By (row, column), what is written there."""
    return {(text.get_position()[1], text.get_position()[0]): text.get_text() for text in ax.texts}


def face(ax, row, column):
    (found,) = [p.get_facecolor() for p in ax.patches if p.get_xy() == (column - 0.5, row - 0.5)]
    return found


def test_every_number_is_written_in_its_cell(ax):
    cells(ax, torch.tensor([[1.0, 2.5, -3], [0, NAN, 6]]), title="six")
    assert written(ax) == {
        (0, 0): "1", (0, 1): "2.5", (0, 2): "-3", (1, 0): "0", (1, 1): "", (1, 2): "6",
    }  # fmt: skip
    corners = {patch.get_xy() for patch in ax.patches}
    assert corners == {(j - 0.5, i - 0.5) for i in range(2) for j in range(3)}
    assert ax.get_title() == "six"


def test_rows_go_downwards_and_cells_are_square(ax):
    cells(ax, torch.zeros(2, 3))
    bottom, top = ax.get_ylim()
    assert bottom > top
    assert ax.get_aspect() == 1


def test_the_format_is_the_callers(ax):
    cells(ax, torch.tensor([[1, 2]]), fmt="{:.1f}")
    assert list(written(ax).values()) == ["1.0", "2.0"]


@pytest.mark.parametrize(
    ("padding", "left", "right", "top", "bottom"),
    [(1, 1, 1, 1, 1), ((2, 1), 1, 1, 2, 2), ((0, 3, 1, 2), 0, 3, 1, 2)],
)
def test_padding_is_dashed_zeros_on_the_sides_asked_for(ax, padding, left, right, top, bottom):
    cells(ax, torch.full((2, 2), 7), padding=padding)
    rows, columns = range(-top, 2 + bottom), range(-left, 2 + right)
    inside = {(i, j) for i in range(2) for j in range(2)}
    expected = {(i, j): "7" if (i, j) in inside else "0" for i in rows for j in columns}
    assert written(ax) == expected
    dashed = {(p.get_y() + 0.5, p.get_x() + 0.5) for p in ax.patches if p.get_linestyle() == "--"}
    assert dashed == set(expected) - inside
    assert ax.get_xlim()[0] < -left
    assert ax.get_xlim()[1] > 1 + right
    assert ax.get_ylim()[1] < -top
    assert ax.get_ylim()[0] > 1 + bottom


def test_windows_are_outlines_in_cells_of_the_unpadded_tensor(ax):
    cells(ax, torch.zeros(4, 4), padding=1, windows=[(-1, 2, 3, 2, "C1"), (0, 0, 1, 1, "red")])
    outlines = [patch for patch in ax.patches if not patch.get_fill()]
    assert [(p.get_y(), p.get_x(), p.get_height(), p.get_width()) for p in outlines] == [
        (-1.5, 1.5, 3, 2), (-0.5, -0.5, 1, 1),
    ]  # fmt: skip
    assert [p.get_edgecolor() for p in outlines] == [to_rgba("C1"), to_rgba("red")]


def test_colours_by_channel_by_name_and_by_number(ax):
    rgb = torch.rand(1, 2, 3)
    cells(ax, torch.zeros(1, 2), colors=rgb)
    assert face(ax, 0, 1) == pytest.approx((*rgb[0, 1].tolist(), 1))
    for colors, last in (([["w", "C2"]], to_rgba("C2")), (torch.rand(1, 2, 4), None)):
        ax.clear()
        cells(ax, torch.zeros(1, 2), colors=colors)
        assert face(ax, 0, 1) == pytest.approx(last or tuple(colors[0, 1].tolist()))
    ax.clear()
    cells(ax, torch.zeros(1, 3), colors=torch.tensor([[5, 6, 7]]))
    brightness = [sum(face(ax, 0, j)[:3]) for j in range(3)]
    assert brightness == sorted(brightness, reverse=True)


def test_numbers_are_light_on_dark_cells(ax):
    cells(ax, torch.zeros(1, 3), colors=[["black", "white", (0.0, 0.0, 0.0, 0.1)]])
    assert [text.get_color() for text in ax.texts] == ["white", "black", "black"]


@pytest.mark.parametrize(
    ("values", "colors", "message"),
    [
        (torch.zeros(2, 2, 2), None, r"values: expected 2 dimensions \(H, W\), got shape \[2, 2, 2\]"),
        (torch.zeros(2, 2), torch.zeros(2, 3), r"colors: expected \(2, 2\), .* got \[2, 3\]"),
        (torch.zeros(2, 2), torch.zeros(2, 2, 2), r"colors: .* got \[2, 2, 2\]"),
    ],
)
def test_another_shape_is_named(ax, values, colors, message):
    with pytest.raises(ValueError, match=message):
        cells(ax, values, colors=colors)
