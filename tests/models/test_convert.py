"""Swapping layers in anybody's network and back."""

import pytest
import torch
from torch import nn

import cnn_ext
from cnn_ext import convert, revert


def a_network():
    shared = nn.Conv2d(4, 4, 3, padding=1)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.BatchNorm2d(4),
        shared,
        nn.ReLU(),
        shared,
        nn.Sequential(nn.Conv2d(4, 2, 1)),
    ).double()


def test_outputs_and_gradients_stay_and_come_back():
    model, input = a_network(), torch.randn(2, 1, 9, 9, dtype=torch.double)
    model(input).square().sum().backward()
    ours = convert(model)
    ours.zero_grad()
    ours(input).square().sum().backward()
    for p, q in zip(ours.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad)
    assert [type(m).__module__ for m in ours.modules() if isinstance(m, nn.Conv2d)] == [
        "cnn_ext.nn.convolution"
    ] * 3
    back = revert(ours)
    assert {type(m) for m in back.modules()} == {type(m) for m in model.modules()}
    assert back.state_dict().keys() == model.state_dict().keys()


def test_the_original_is_untouched_unless_asked():
    model = a_network()
    convert(model)
    assert type(model[0]) is nn.Conv2d
    assert convert(model, inplace=True) is model
    assert type(model[0]) is cnn_ext.nn.Conv2d
    assert revert(model, inplace=True) is model
    assert type(model[0]) is nn.Conv2d


def test_hooks_modes_frozen_parameters_and_sharing_are_kept():
    model, calls = a_network(), []
    model[0].register_forward_hook(lambda *_: calls.append(1))
    model[0].weight.requires_grad_(False)
    model.eval()
    parameters = list(model.parameters())
    ours = convert(model, inplace=True)
    ours(torch.randn(1, 1, 9, 9, dtype=torch.double))
    assert calls == [1]
    assert not ours[0].weight.requires_grad
    assert not any(m.training for m in ours.modules())
    assert ours[2] is ours[4]
    assert all(p is q for p, q in zip(ours.parameters(), parameters, strict=True))


def test_a_single_layer_is_a_model_too():
    assert type(convert(nn.Conv1d(1, 1, 3))) is cnn_ext.nn.Conv1d
    assert type(revert(cnn_ext.nn.Conv3d(1, 1, 3))) is nn.Conv3d


def test_excluded_modules_are_left_alone_with_all_in_them():
    model = convert(a_network(), exclude=["0", "5"])
    assert type(model[0]) is nn.Conv2d
    assert type(model[5][0]) is nn.Conv2d
    assert type(model[2]) is cnn_ext.nn.Conv2d
    with pytest.raises(ValueError, match="no module named 'head'"):
        convert(a_network(), exclude=["head"])


def test_a_subclass_is_left_alone_and_named():
    class Mine(nn.Conv2d):
        pass

    with pytest.warns(UserWarning, match=r"left 0 \(Mine\) alone: it is a subclass"):
        model = convert(nn.Sequential(Mine(1, 1, 3)))
    assert type(model[0]) is Mine


@pytest.mark.parametrize(
    "layer",
    [
        cnn_ext.nn.Conv2d(1, 2, 5, padding="half"),
        cnn_ext.nn.Conv2d(1, 2, 3, padding="full", padding_mode="circular"),
        cnn_ext.nn.Conv2d(1, 2, 3, padding="same", padding_mode="reflect"),
        cnn_ext.nn.Conv2d(1, 2, 3, padding=(1, 1, 2, 2), algorithm="im2col"),
        cnn_ext.nn.Conv2d(1, 2, 3, padding="valid", stride=2),
    ],
    ids=lambda layer: layer.extra_repr(),
)
def test_padding_that_torch_can_say_is_said(layer):
    theirs, input = revert(layer), torch.randn(1, 1, 9, 8)
    assert type(theirs) is nn.Conv2d
    torch.testing.assert_close(theirs(input), layer(input))
    again = nn.Conv2d(1, 2, theirs.kernel_size, theirs.stride, theirs.padding,
                      padding_mode=theirs.padding_mode)  # fmt: skip
    assert again.__dict__.keys() == theirs.__dict__.keys()
    repeated = [list(layer._reversed_padding_repeated_twice) for layer in (again, theirs)]
    assert repeated[0] == repeated[1]


@pytest.mark.parametrize("padding", ["same", (0, 1, 0, 1)])
def test_padding_that_torch_cannot_say_stays_ours_with_the_reason(padding):
    layer = cnn_ext.nn.Conv2d(1, 2, 3, stride=2, padding=padding)
    with pytest.warns(UserWarning, match="torch has no padding="):
        assert type(revert(layer)) is cnn_ext.nn.Conv2d
