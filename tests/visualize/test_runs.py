"""Pictures of training."""

import torch

from cnn_ext import visualize
from cnn_ext.models import lenet5


def test_the_training_picture_has_a_curve_for_every_run():
    losses = {"a": [3.0, 2.0], "b": [3.0, 1.0], "c": [3.0, 2.5]}
    figure = visualize.training(losses, lenet5(), torch.randn(1, 32, 32))
    curves = [list(line.get_ydata()) for line in figure.axes[0].lines]
    assert curves == list(losses.values())


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
