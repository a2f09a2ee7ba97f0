"""LeNet-5: the paper's numbers, and the same network on our layers and on torch's."""

import math

import pytest
import torch

import cnn_ext
from cnn_ext.models import LeNet5Loss, lenet5
from cnn_ext.models.lenet5 import C3_CONNECTIONS, ScaledTanh, Subsampling, TableConv2d, digit_bitmaps

variants = pytest.mark.parametrize("variant", ["1998", "relu"])


@pytest.mark.parametrize(
    ("layer", "parameters"),
    [("c1", 156), ("s2", 12), ("c3", 1516), ("s4", 32), ("c5", 48120), ("f6", 10164), ("output", 0)],
)
def test_trainable_parameters_are_the_papers(layer, parameters):
    model = lenet5("1998")
    assert sum(p.numel() for p in model.get_submodule(layer).parameters()) == parameters


def test_there_are_sixty_thousand_in_all():
    assert sum(p.numel() for p in lenet5("1998").parameters()) == 60_000
    assert sum(p.numel() for p in lenet5("relu").parameters()) == 61_706


@variants
def test_feature_maps_have_the_papers_sizes(variant):
    sizes = {}
    model = lenet5(variant)
    for name in ("c1", "s2", "c3", "s4", "c5", "f6", "output"):
        model.get_submodule(name).register_forward_hook(
            lambda _m, _i, output, name=name: sizes.update({name: tuple(output.shape[1:])})
        )
    model(torch.zeros(2, 1, 32, 32))
    assert sizes == {
        "c1": (6, 28, 28),
        "s2": (6, 14, 14),
        "c3": (16, 10, 10),
        "s4": (16, 5, 5),
        "c5": (120, 1, 1),
        "f6": (84,),
        "output": (10,),
    }


def test_connections_of_c3_are_table_one():
    assert [len(maps) for maps in C3_CONNECTIONS] == [3] * 6 + [4] * 9 + [6]
    per_map = [sum(c in maps for maps in C3_CONNECTIONS) for c in range(6)]
    assert per_map == [10] * 6  # each map of S2 feeds ten of C3


@variants
def test_both_builds_agree_in_outputs_gradients_and_ten_steps(variant):
    loss = LeNet5Loss() if variant == "1998" else torch.nn.CrossEntropyLoss()
    ours = lenet5(variant).double()
    theirs = lenet5(variant, layers=torch.nn).double()
    theirs.load_state_dict(ours.state_dict())
    images, labels = torch.randn(4, 1, 32, 32).double(), torch.tensor([3, 1, 4, 1])
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.01, momentum=0.9) for m in (ours, theirs)]
    for step in range(10):
        losses = []
        for model, optimizer in zip((ours, theirs), optimizers, strict=True):
            optimizer.zero_grad()
            losses.append(loss(model(images), labels))
            losses[-1].backward()
        torch.testing.assert_close(losses[0], losses[1], rtol=1e-11, atol=0)
        if step == 0:
            for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
                torch.testing.assert_close(p.grad, q.grad, rtol=1e-11, atol=1e-13)
        for optimizer in optimizers:
            optimizer.step()


@variants
def test_builds_differ_in_the_layers_they_call(variant):
    assert type(lenet5(variant).c1) is cnn_ext.nn.Conv2d
    assert type(lenet5(variant, layers=torch.nn).c1) is torch.nn.Conv2d
    table = {name: TableConv2d(6, C3_CONNECTIONS, 5, layers) for name, layers in
             {"ours": cnn_ext.nn, "theirs": torch.nn}.items()}  # fmt: skip
    assert table["ours"].convolve is cnn_ext.functional.conv2d
    assert table["theirs"].convolve is torch.nn.functional.conv2d


def test_a_filter_of_c3_sees_only_the_maps_of_the_table():
    layer = TableConv2d(6, C3_CONNECTIONS, 5)
    torch.nn.init.normal_(layer.weight)
    torch.nn.init.zeros_(layer.bias)
    for c in range(6):
        input = torch.zeros(1, 6, 5, 5)
        input[0, c] = torch.randn(5, 5)
        seen = layer(input).flatten() != 0
        assert seen.tolist() == [c in maps for maps in C3_CONNECTIONS]


def test_subsampling_is_a_coefficient_times_the_sum_plus_a_bias():
    layer = Subsampling(2)
    layer.weight.data, layer.bias.data = torch.tensor([2.0, -1.0]), torch.tensor([0.5, 0.0])
    input = torch.arange(8.0).view(1, 2, 2, 2)  # sums 6 and 22
    assert layer(input).flatten().tolist() == [12.5, -22.0]


def test_squashing_keeps_plus_and_minus_one():
    values = ScaledTanh()(torch.tensor([-1.0, 0.0, 1.0, 100.0]))
    torch.testing.assert_close(values, torch.tensor([-1.0, 0.0, 1.0, 1.7159]), rtol=1e-4, atol=1e-5)


def test_centres_are_fixed_and_distinct_bitmaps():
    model = lenet5("1998")
    assert not model.output.centres.requires_grad
    assert set(model.output.centres.unique().tolist()) == {-1.0, 1.0}
    distances = torch.cdist(digit_bitmaps(), digit_bitmaps()).square()
    assert distances[~torch.eye(10, dtype=torch.bool)].min().round() == 36  # as LeNet5Loss says


def test_output_is_minus_the_squared_distance_so_that_argmax_classifies():
    model = lenet5("1998")
    features = digit_bitmaps() + 0.1
    outputs = model.output(features)
    assert outputs.argmax(1).tolist() == list(range(10))
    torch.testing.assert_close(outputs.diag(), torch.full((10,), -84 * 0.01))


def test_loss_is_equation_nine():
    output, target = -torch.tensor([[3.0, 1.0, 2.0]]), torch.tensor([0])
    j = 0.5
    by_hand = 3 + math.log(math.exp(-j) + math.exp(-3) + math.exp(-1) + math.exp(-2))
    assert LeNet5Loss(j)(output, target).item() == pytest.approx(by_hand, rel=1e-6)


@pytest.mark.parametrize("j", [0.0, -1.0, float("nan"), float("inf")])
def test_the_constant_of_the_loss_is_positive(j):
    with pytest.raises(ValueError, match="j: expected a positive number"):
        LeNet5Loss(j)


def test_initial_weights_are_within_the_papers_bounds():
    model = lenet5("1998")
    assert model.c1.weight.abs().max() <= 2.4 / 25
    assert model.c5.weight.abs().max() <= 2.4 / 400
    fan_in = torch.tensor([25.0 * len(maps) for maps in C3_CONNECTIONS])
    largest = model.c3.weight.abs().amax((1, 2, 3))
    assert (largest <= 2.4 / fan_in[model.c3.filters]).all()
    assert largest.min() > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(("1989",), "variant: expected one of"), (("1998", 11), "num_classes: expected 1 to 10")],
)
def test_bad_arguments_are_named(arguments, message):
    variant, *classes = arguments
    with pytest.raises(ValueError, match=message):
        lenet5(variant, **({"num_classes": classes[0]} if classes else {}))


def test_the_connection_table_passes_gradcheck():
    layer = TableConv2d(3, ((0, 1), (2,), (0, 1, 2)), 2).double()
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter)
    input = torch.randn(2, 3, 4, 4, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(layer, (input,))
