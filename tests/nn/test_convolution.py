"""Conv1d, Conv2d, Conv3d as drop-ins for their torch.nn twins."""

import copy
import inspect
import pickle

import pytest
import torch
from torch.nn.utils import prune

import cnn_ext

TWINS = [
    (getattr(cnn_ext.nn, name), getattr(torch.nn, name)) for name in ("Conv1d", "Conv2d", "Conv3d")
]
twins = pytest.mark.parametrize(("ours", "theirs"), TWINS, ids=["Conv1d", "Conv2d", "Conv3d"])


def an_input(theirs, channels=4):
    return torch.randn(2, channels, *(9, 8, 7)[: int(theirs.__name__[4])])


@twins
def test_constructor_takes_torchs_arguments(ours, theirs):
    expected = inspect.signature(theirs).parameters
    parameters = inspect.signature(ours).parameters
    assert list(parameters)[: len(expected)] == list(expected)
    for name, parameter in expected.items():
        assert parameters[name].default == parameter.default
    assert parameters["algorithm"].kind is inspect.Parameter.KEYWORD_ONLY


@twins
@pytest.mark.parametrize("bias", [True, False])
def test_initial_values_keys_and_representation_are_torchs(ours, theirs, bias):
    built = []
    for kind in (ours, theirs):
        torch.manual_seed(3)
        built.append(kind(4, 6, 3, stride=2, padding=1, groups=2, bias=bias))
    a, b = built
    assert isinstance(a, theirs)
    assert repr(a) == repr(b)
    assert a.state_dict().keys() == b.state_dict().keys()
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


@twins
@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
@pytest.mark.parametrize("padding", [2, "same", "valid"])
def test_padding_modes_are_torchs(ours, theirs, mode, padding):
    a = ours(4, 6, 3, padding=padding, padding_mode=mode)
    b = theirs(4, 6, 3, padding=padding, padding_mode=mode)
    b.load_state_dict(a.state_dict())
    input = an_input(theirs)
    torch.testing.assert_close(a(input), b(input))
    torch.testing.assert_close(a(input[0]), b(input[0]))


@pytest.mark.parametrize("mode", ["zeros", "circular"])
def test_half_full_and_asymmetric_padding_with_every_mode(mode):
    input = torch.randn(1, 1, 8, 8)
    sizes = [
        cnn_ext.nn.Conv2d(1, 1, 3, padding=padding, padding_mode=mode)(input).shape[2:]
        for padding in ("half", "full", (0, 1, 2, 3))
    ]
    assert sizes == [(8, 8), (10, 10), (11, 7)]


def test_same_padding_at_a_stride_follows_the_input():
    layer = cnn_ext.nn.Conv2d(1, 1, 11, stride=4, padding="same")
    assert [layer(torch.zeros(1, 1, n, n)).shape[-1] for n in (224, 227, 12)] == [56, 57, 3]


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"padding": "hlaf"}, "padding: expected"),
        ({"algorithm": "fft"}, "algorithm: expected one of"),
        ({"padding_mode": "wrap"}, "padding_mode"),
        ({"groups": 2}, "divisible by groups"),
    ],
    ids=["padding", "algorithm", "padding_mode", "groups"],
)
def test_bad_arguments_are_refused_when_the_layer_is_made(keywords, message):
    with pytest.raises(ValueError, match=message):
        cnn_ext.nn.Conv2d(3, 3, 3, **keywords)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_keep_what_torch_has_no_argument_for(copied):
    layer = cnn_ext.nn.Conv2d(1, 2, 3, padding="half", algorithm="im2col")
    twin, input = copied(layer), torch.randn(1, 1, 6, 6)
    assert twin.algorithm == "im2col"
    assert torch.equal(twin(input), layer(input))


def test_parametrizations_and_pruning_work_as_on_torchs():
    layer = cnn_ext.nn.Conv2d(2, 3, 3)
    input = torch.randn(1, 2, 5, 5)
    before = layer(input)
    torch.nn.utils.parametrizations.weight_norm(layer)
    torch.testing.assert_close(layer(input), before)
    pruned = prune.l1_unstructured(cnn_ext.nn.Conv2d(2, 3, 3), "weight", 0.5)
    assert (pruned.weight == 0).float().mean() == 0.5
    torch.testing.assert_close(
        pruned(input), torch.nn.functional.conv2d(input, pruned.weight, pruned.bias)
    )


def test_an_exported_module_computes_and_trains():
    model = torch.nn.Sequential(cnn_ext.nn.Conv2d(1, 2, 3), torch.nn.ReLU(), cnn_ext.nn.Conv2d(2, 1, 3))
    batch = torch.export.Dim("batch")
    program = torch.export.export(model, (torch.randn(2, 1, 8, 8),), dynamic_shapes=({0: batch},))
    rebuilt, input = program.module(), torch.randn(3, 1, 8, 8)
    torch.testing.assert_close(rebuilt(input), model(input))
    rebuilt(input).square().sum().backward()
    model(input).square().sum().backward()
    for a, b in zip(rebuilt.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)
