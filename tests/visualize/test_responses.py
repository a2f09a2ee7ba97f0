"""Pictures of local response normalisation: the numbers, windows and slopes drawn are the true ones."""

import pytest
import torch
import torch.nn.functional as F
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from torch import nn

from cnn_ext import functional, visualize
from cnn_ext.visualize.responses import EDGE, INSIDE


def axes():
    return Figure().subplots()


def texts(ax):
    return [text.get_text() for text in ax.texts]


def panels(ax):
    return {tuple(round(x) for x in patch.get_xy()): patch for patch in ax.patches}


def normalised(cells, size, alpha, beta, k):
    return functional.local_response_norm(cells[None], size, alpha, beta, k, alpha_scaling="sum")[0]


def test_the_windows_are_clipped_at_both_ends():
    ax = visualize.lrn_windows(torch.tensor([3.0, 4, 12, 3, 4]), size=3).axes[0]
    inside = {xy for xy, patch in panels(ax).items() if patch.get_facecolor()[:3] == to_rgb(INSIDE)}
    assert inside == {(j, i) for i in range(5) for j in range(5) if abs(i - j) <= 1}
    framed = {xy for xy, patch in panels(ax).items() if patch.get_edgecolor()[:3] == to_rgb(EDGE)}
    assert framed == {(i, i) for i in range(5)}


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 9])
def test_the_windows_drawn_are_those_of_the_operation(size):
    ax = visualize.lrn_windows(torch.ones(5), size).axes[0]
    inside = torch.zeros(5, 5)
    for (j, i), patch in panels(ax).items():
        inside[i, j] = patch.get_facecolor()[:3] == to_rgb(INSIDE)
    slopes = torch.func.jacrev(lambda x: normalised(x, size, 1.0, 0.75, 1.0))(torch.ones(5))
    assert torch.equal(inside, (slopes != 0).float())


def test_the_row_of_a_filter_says_its_squares_its_sum_and_its_result():
    found = texts(visualize.lrn_windows(torch.tensor([3.0, 4, 12, 3, 4]), 3, 1.0, 0.5, 0.0).axes[0])
    assert found[:5] == ["9", "16", "3", "25", "0.600"]  # 3 / sqrt(9 + 16)
    assert found[5:11] == ["9", "16", "144", "4", "169", "0.308"]


def test_the_sum_has_k_and_alpha_in_it():
    found = texts(
        visualize.lrn_windows(torch.tensor([1.0, 2.0]), 3, alpha=10.0, beta=1.0, k=2.0).axes[0]
    )
    assert found[3] == "52"
    assert found[4] == f"{1 / 52:.3f}"


def test_competition_draws_what_was_before_and_what_is_after():
    ax = axes()
    visualize.competition(ax, torch.tensor([1.0, 6.0]), torch.tensor([0.5, 2.0]), "two filters")
    assert [bar.get_height() for bar in ax.patches] == [1, 6, 0.5, 2]
    assert ax.get_title() == "two filters"


def test_a_response_curve_is_the_operation_and_is_marked_where_it_turns():
    ax = axes()
    visualize.response_curves(ax, [0, 100], alpha=1e-4, beta=0.75, k=2.0, reach=1000)
    curves, tops = ax.lines[0::2], ax.lines[1::2]
    for curve, top, e in zip(curves, tops, (0, 100), strict=True):
        a, b = (torch.as_tensor(values) for values in curve.get_data())
        expected = a / (2 + 1e-4 * (a**2 + e**2)) ** 0.75
        torch.testing.assert_close(b, expected)
        assert b.max() <= top.get_ydata()[0] <= b.max() * 1.001
        assert abs(a[b.argmax()] - top.get_xdata()[0]) < 3
    assert tops[0].get_xdata()[0] == pytest.approx(200)


def test_a_curve_without_a_turn_has_no_mark():
    ax = axes()
    visualize.response_curves(ax, [0, 5], alpha=1.0, beta=0.5, k=1.0, reach=10)
    assert len(ax.lines) == 2


def test_the_jacobian_is_that_of_the_function_with_its_numbers():
    ax, at = axes(), torch.tensor([1.0, 2, 3], dtype=torch.double)
    visualize.jacobian(ax, lambda x: torch.stack([x[0] * x[1], x[2]]), at)
    assert ax.images[0].get_array().tolist() == [[2, 1, 0], [0, 0, 1]]
    assert texts(ax) == ["2.00", "1.00", "1.00"]
    low, high = ax.images[0].get_clim()
    assert (low, high) == (-2, 2)  # no slope is the colour in the middle


def test_oriented_filters_have_mean_zero_and_norm_one():
    filters = visualize.oriented_filters(96, 11)
    assert filters.shape == (96, 3, 11, 11)
    torch.testing.assert_close(filters.flatten(1).norm(dim=1), torch.ones(96))
    torch.testing.assert_close(filters.mean((1, 2, 3)), torch.zeros(96), atol=1e-6, rtol=0)


def test_neighbouring_filters_look_alike_and_those_at_right_angles_do_not():
    first = visualize.oriented_filters(96, 11)[:12].flatten(1)
    alike = first @ first.T
    assert (alike.diagonal(1) > 0.8).all()
    assert abs(alike[0, 6]) < 0.3


def test_a_number_of_filters_that_is_not_divisible_by_eight_is_refused():
    with pytest.raises(ValueError, match="count: expected one divisible by 8, got 12"):
        visualize.oriented_filters(12)


def test_maps_of_a_row_share_one_scale_and_say_its_end():
    maps = torch.arange(12.0).view(3, 2, 2)
    figure = visualize.response_maps({"before": maps, "after": maps / 2}, filters=[0, 2])
    assert len(figure.axes) == 4
    for ax, scale, i in zip(figure.axes, (1, 1, 2, 2), (0, 2, 0, 2), strict=True):
        assert torch.equal(torch.tensor(ax.images[0].get_array()), maps[i] / scale)
        assert ax.images[0].get_clim() == (0, 11 / scale)
    assert [ax.get_title() for ax in figure.axes] == ["filter 0", "filter 2", "", ""]
    assert figure.axes[2].get_ylabel() == "after\nlargest 5.5"


def acting(layer, cell=(1, 3, 1, 2), size=(3, 7, 4, 4)):
    """(n, c, h, w) of the coloured cells, the cell's own included."""
    ax = axes()
    visualize.normalising_cells(ax, layer, size, cell)
    found = set()
    for (x, y), patch in panels(ax).items():
        if patch.get_facecolor()[:3] != to_rgb("#ececec"):
            found.add((y // 5, x // 5, y % 5, x % 5))
    return found


def test_lrn_reaches_five_channels_of_one_pixel_of_one_image():
    found = acting(lambda x: functional.local_response_norm(x, 5))
    assert found == {(1, c, 1, 2) for c in (1, 2, 3, 4, 5)}


def test_batch_norm_reaches_all_pixels_of_all_images_in_one_channel():
    found = acting(nn.BatchNorm2d(7, dtype=torch.double))
    assert found == {(n, 3, h, w) for n in range(3) for h in range(4) for w in range(4)}


def test_the_cell_itself_is_dark():
    ax = axes()
    visualize.normalising_cells(ax, F.relu, (1, 1, 2, 2), (0, 0, 1, 0))
    dark = [xy for xy, patch in panels(ax).items() if patch.get_facecolor()[:3] == to_rgb(EDGE)]
    assert dark == [(0, 1)]


def test_timings_show_every_contender_and_the_ratio():
    ax = axes()
    visualize.timings(ax, {"forward": {"ours": 2.0, "torch": 50.0}, "backward": {"ours": 8.0}})
    ours, theirs = ax.collections
    assert ours.get_offsets().tolist() == [[2, 0], [8, 1]]
    assert theirs.get_offsets().tolist() == [[50, 0]]
    assert texts(ax)[0] == "25 ×"
    assert [label.get_text() for label in ax.get_yticklabels()] == ["forward", "backward"]
