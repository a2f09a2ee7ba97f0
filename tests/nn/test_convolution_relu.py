"""ConvReLU2d: a Conv2d whose output is rectified."""

import copy
import pickle

import pytest
import torch

import cnn_ext
from cnn_ext.functional import convolution_algorithm
from cnn_ext.nn import Conv2d, ConvReLU2d


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
@pytest.mark.parametrize("padding", [2, "same", "half", (0, 1, 2, 1)], ids=str)
def test_it_is_a_conv2d_and_a_relu(mode, padding):
    arguments = {"padding": padding, "padding_mode": mode, "groups": 2}
    layer, plain = ConvReLU2d(4, 6, 3, **arguments), Conv2d(4, 6, 3, **arguments)
    assert isinstance(layer, torch.nn.Conv2d)
    assert list(layer.state_dict()) == ["weight", "bias"]
    plain.load_state_dict(layer.state_dict())
    input = torch.randn(2, 4, 9, 8)
    assert torch.equal(layer(input), plain(input).relu())
    assert torch.equal(layer(input[0]), plain(input[0]).relu())


def test_initial_values_are_torchs():
    torch.manual_seed(3)
    layer = ConvReLU2d(3, 5, 3)
    torch.manual_seed(3)
    assert torch.equal(layer.weight, torch.nn.Conv2d(3, 5, 3).weight)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_compute_the_same(copied):
    layer, input = ConvReLU2d(1, 2, 3, padding="half", algorithm="im2col"), torch.randn(1, 1, 6, 6)
    assert torch.equal(copied(layer)(input), layer(input))


def test_an_exported_module_computes_and_trains():
    model = torch.nn.Sequential(ConvReLU2d(1, 4, 3), ConvReLU2d(4, 1, 3))
    batch = torch.export.Dim("batch")
    program = torch.export.export(model, (torch.randn(2, 1, 8, 8),), dynamic_shapes=({0: batch},))
    rebuilt, input = program.module(), torch.randn(3, 1, 8, 8)
    torch.testing.assert_close(rebuilt(input), model(input))
    rebuilt(input).square().sum().backward()
    model(input).square().sum().backward()
    assert any(p.grad.any() for p in model.parameters())
    for a, b in zip(rebuilt.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_convert_and_revert_leave_it_and_revert_says_why():
    model = torch.nn.Sequential(ConvReLU2d(1, 2, 3), Conv2d(2, 1, 1))
    assert type(cnn_ext.convert(model)[0]) is ConvReLU2d
    with pytest.warns(
        UserWarning, match=r"revert: left 1 layer alone.* 0 \(ConvReLU2d\): torch has no twin"
    ):
        theirs = cnn_ext.revert(model)
    assert [type(m) for m in theirs] == [ConvReLU2d, torch.nn.Conv2d]


def test_compare_measures_it_against_torchs_two_operations():
    model = torch.nn.Sequential(ConvReLU2d(1, 4, 3, padding="half"), Conv2d(4, 1, 1))
    report = cnn_ext.compare(model, torch.randn(2, 1, 9, 9), rounds=1, progress=False)
    assert report.first_parting is None
    assert [layer.name for layer in report.layers] == ["0", "1"]
    assert report.layers[0].algorithm == convolution_algorithm((2, 1, 9, 9), (4, 1, 3, 3), 1, "half")
