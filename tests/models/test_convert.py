"""Swapping layers in anybody's network and back."""

import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils import prune
from torch.nn.utils.parametrizations import orthogonal, spectral_norm, weight_norm
from torch.nn.utils.parametrize import remove_parametrizations, type_before_parametrizations

import cnn_ext
from cnn_ext import convert, revert
from cnn_ext.models.convert import left_alone


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

    with pytest.warns(UserWarning, match=r"left 0 \(Mine\) alone: Mine is a subclass of Conv2d"):
        model = convert(nn.Sequential(Mine(1, 1, 3)))
    assert type(model[0]) is Mine


def test_what_is_left_alone_is_told_with_its_reason():
    class Mine(nn.Conv2d):
        pass

    scripted = torch.jit.script(nn.Conv2d(1, 1, 1))
    model = nn.Sequential(
        nn.Conv2d(1, 1, 1), Mine(1, 1, 1), nn.LazyConvTranspose2d(1, 1), scripted, nn.ReLU()
    )
    reasons = left_alone(model, exclude=["0"])
    assert reasons["0"] == "it is excluded"
    assert reasons["1"] == "Mine is a subclass of Conv2d, perhaps with a forward of its own"
    assert reasons["2"].startswith("LazyConvTranspose2d is a subclass of ConvTranspose2d")
    assert reasons["3"].startswith("it is compiled by TorchScript")
    assert list(reasons) == ["0", "1", "2", "3"]
    assert left_alone(nn.Sequential(cnn_ext.nn.Conv2d(1, 1, 1), nn.ReLU())) == {}


def test_a_module_with_two_names_is_excluded_by_either():
    assert type(convert(a_network(), exclude=["4"])[2]) is nn.Conv2d


@pytest.mark.parametrize("wrap", [weight_norm, spectral_norm, orthogonal])
def test_parametrizations_are_kept(wrap):
    model = nn.Sequential(wrap(nn.Conv2d(2, 4, 3)), nn.ReLU(), nn.Conv2d(4, 1, 1)).double().eval()
    input = torch.randn(1, 2, 6, 6, dtype=torch.double)
    ours = convert(model)
    assert type_before_parametrizations(ours[0]) is cnn_ext.nn.Conv2d
    assert type_before_parametrizations(model[0]) is nn.Conv2d  # the original is another class
    assert ours.state_dict().keys() == model.state_dict().keys()
    torch.testing.assert_close(ours(input), model(input))
    for m in (ours, model):
        m(input).square().sum().backward()
    for p, q in zip(ours.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad)
    back = revert(ours)
    assert type_before_parametrizations(back[0]) is nn.Conv2d
    torch.testing.assert_close(back(input), model(input))
    remove_parametrizations(ours[0], "weight")
    assert type(ours[0]) is cnn_ext.nn.Conv2d


def test_pruned_and_old_style_normalised_layers_are_kept():
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Conv2d(4, 2, 1))
    prune.random_unstructured(model[0], "weight", 0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        nn.utils.weight_norm(model[1])
    input = torch.randn(1, 2, 6, 6)
    before = model(input)
    ours = convert(model, inplace=True)  # torch cannot copy such layers
    assert type(ours[0]) is type(ours[1]) is cnn_ext.nn.Conv2d
    torch.testing.assert_close(ours(input), before)
    assert (ours[0].weight == 0).sum() == 36


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
