"""Swapping layers in anybody's network and back."""

import copy
import pickle
import warnings

import pytest
import torch
import torchvision
from torch import nn
from torch.nn.utils import prune
from torch.nn.utils.parametrizations import orthogonal, spectral_norm, weight_norm
from torch.nn.utils.parametrize import remove_parametrizations, type_before_parametrizations
from torchvision.models.feature_extraction import create_feature_extractor

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


class Mine(nn.Conv2d):
    """Somebody's layer, with much of its own and torch's arithmetic."""

    scale = 2

    def __init__(self, channels):
        super().__init__(channels, channels, 3, padding=1)
        self.tag = "mine"

    @staticmethod
    def downsampling():
        return 1, 2, 2

    @property
    def fan(self):
        return self.weight[0].numel()

    def extra_repr(self):
        return f"mine, {super().extra_repr()}"


class Rectified(nn.Conv2d):
    def forward(self, input):
        return super().forward(input).relu()


class Standardised(nn.Conv3d):
    def _conv_forward(self, input, weight, bias):
        return super()._conv_forward(input, weight / weight.std(), bias)


def test_a_subclass_with_torchs_arithmetic_is_swapped_and_stays_what_it_is():
    model = nn.Sequential(Mine(2), nn.Sequential(Mine(2))).double()
    input = torch.randn(1, 2, 6, 6).double()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ours = convert(model)
    layer = ours[0]
    assert isinstance(layer, Mine)
    assert isinstance(layer, cnn_ext.nn.Conv2d)
    assert type(layer) is type(ours[1][0])
    assert (layer.tag, layer.scale, layer.downsampling(), layer.fan) == ("mine", 2, (1, 2, 2), 18)
    assert repr(ours) == repr(model)
    assert ours.state_dict().keys() == model.state_dict().keys()
    torch.testing.assert_close(ours(input), model(input))
    assert {type(m) for m in revert(ours).modules()} == {nn.Sequential, Mine}
    assert type(model[0]) is Mine


@pytest.mark.parametrize("way", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m)), convert])
def test_a_swapped_subclass_can_be_copied_pickled_and_converted_again(way):
    layer = convert(Mine(2))
    again = way(layer)
    assert type(again) is type(layer)
    assert again.tag == "mine"
    input = torch.randn(1, 2, 5, 5)
    assert torch.equal(again(input), layer(input))
    assert type(revert(again)) is Mine


class Named(type):
    """Somebody's class of classes."""


class Classed(nn.Conv2d, metaclass=Named):
    pass


@pytest.mark.parametrize("layer", [Mine(2), Classed(2, 2, 3)], ids=["type", "metaclass"])
def test_classes_of_swapped_layers_can_be_pickled_and_derived_from(layer):
    kind = type(convert(layer))
    assert pickle.loads(pickle.dumps(kind)) is kind
    derived = type("Derived", (kind,), {})
    assert cnn_ext.models.twins.original(derived) is None
    again = pickle.loads(pickle.dumps(convert(layer), protocol=0))
    assert type(again) is kind


def test_subclasses_of_every_kind_of_layer_are_swapped():
    def subclass(kind, *arguments):
        return type(f"My{kind.__name__}", (kind,), {})(*arguments)

    model = nn.Sequential(
        subclass(nn.Conv1d, 1, 1, 1), subclass(nn.Conv3d, 1, 1, 1),
        subclass(nn.ConvTranspose2d, 1, 1, 1), subclass(nn.Linear, 2, 2), subclass(nn.MaxPool2d, 2),
        subclass(nn.LocalResponseNorm, 3), subclass(nn.LazyConv2d, 1, 1),
    )  # fmt: skip
    assert left_alone(model) == {}
    ours = convert(model)
    for layer, theirs in zip(ours, model, strict=True):
        assert isinstance(layer, cnn_ext.models.convert.TWINS[type(theirs).__mro__[1]])
    lazy = ours[-1]
    lazy(torch.zeros(1, 3, 4, 4))
    assert type(lazy) is cnn_ext.nn.Conv2d


def test_a_list_of_subclasses_does_not_see_the_swapped_one():
    known = []

    class Registered(nn.Conv2d):
        def __init_subclass__(cls):
            known.append(cls)

    class Sub(Registered):
        pass

    convert(Sub(1, 1, 1))
    assert known == [Sub]


def test_parametrized_subclasses_are_swapped():
    model = nn.Sequential(weight_norm(Mine(2)))
    ours, input = convert(model), torch.randn(1, 2, 5, 5)
    assert isinstance(ours[0], cnn_ext.nn.Conv2d)
    assert isinstance(ours[0], Mine)
    torch.testing.assert_close(ours(input), model(input))
    assert type_before_parametrizations(revert(ours)[0]) is Mine


def test_what_is_left_alone_is_told_with_its_reason():
    class OwnName(nn.Conv2d):
        algorithm = "fft"

    class OwnTarget(nn.LazyConv2d):
        cls_to_become = Mine

    class OwnCall(nn.Linear):
        def __call__(self, input):
            return super().__call__(input) + 1

    class Sharded(nn.Parameter):
        pass

    patched, padded, sharded = nn.Conv2d(1, 1, 1), nn.Conv2d(1, 1, 3, padding=1), nn.Conv2d(1, 1, 1)
    patched.forward = lambda input: input
    padded.padding_mode, padded._reversed_padding_repeated_twice = "constant", [1, 0, 1, 0]
    sharded.weight = Sharded(sharded.weight.data)
    model = nn.ModuleDict({
        "plain": nn.Conv2d(1, 1, 1), "relu": nn.ReLU(), "own": Rectified(1, 1, 1),
        "own2": Standardised(1, 1, 1), "name": OwnName(1, 1, 1), "call": OwnCall(1, 1),
        "patched": patched, "padded": padded, "sharded": sharded, "target": OwnTarget(1, 1),
        "scripted": torch.jit.script(nn.Conv2d(1, 1, 1)), "attention": nn.MultiheadAttention(2, 1),
    })  # fmt: skip
    reasons = left_alone(model, exclude=["plain"])
    assert reasons == {
        "plain": "it is excluded",
        "own": "Rectified has a forward of its own",
        "own2": "Standardised has a _conv_forward of its own",
        "name": "it has an attribute 'algorithm', which means something else in our layer",
        "call": "OwnCall has a __call__ of its own",
        "patched": "its forward was replaced",
        "padded": "its padding was changed after it was built",
        "sharded": "its weight is a Sharded",
        "target": "OwnTarget has a cls_to_become of its own",
        "scripted": "it is compiled by TorchScript: convert the model before it is scripted",
    }
    assert left_alone(nn.Sequential(cnn_ext.nn.Conv2d(1, 1, 1), nn.ReLU())) == {}
    kinds = [type(m) for m in model.modules()]
    with pytest.warns(UserWarning, match="left 9 layers alone"):
        convert(model, exclude=["plain"], inplace=True)
    assert [type(m) for m in model.modules()] == kinds


def test_one_warning_tells_how_many_layers_how_much_of_the_model_and_why():
    rows = [Rectified(1, 1, 1, bias=False) for _ in range(3)]
    model = nn.Sequential(nn.Conv2d(1, 6, 1, bias=False), *rows, Standardised(1, 1, 1, bias=False))
    assert left_alone(model).share == 0.4
    with pytest.warns(UserWarning, match="left 4") as told:
        convert(model)
    assert [str(warning.message) for warning in told] == [
        "convert: left 4 layers alone, with 40% of the parameters: 1 (Rectified) and 2 more: Rectified "
        "has a forward of its own; 4 (Standardised): Standardised has a _conv_forward of its own"
    ]
    assert told[0].filename == __file__


def test_torchvisions_video_networks_are_swapped_whole():
    with torch.device("meta"):
        model = torchvision.models.get_model("r3d_18")
    kinds = [type(m) for m in model.modules()]
    ours = convert(model)
    assert all(isinstance(m, cnn_ext.nn.Conv3d) for m in ours.modules() if isinstance(m, nn.Conv3d))
    assert [type(m) for m in revert(ours).modules()] == kinds


class BackToTraining(nn.Sequential):
    """Its copies are trained."""

    def __deepcopy__(self, memo):
        return BackToTraining(*(copy.deepcopy(m, memo) for m in self)).train()


def test_modes_survive_whatever_a_models_deepcopy_does():
    model = BackToTraining(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), BackToTraining(nn.Dropout())).eval()
    model[2].train()
    calls = []
    model.register_forward_hook(lambda *_: calls.append("hook"))
    modes = [m.training for m in model.modules()]
    for swap in (convert, revert):
        swapped = swap(model)
        assert [m.training for m in swapped.modules()] == modes
        swapped(torch.zeros(1, 1, 2, 2))
    assert calls == ["hook", "hook"]


def test_a_feature_extractor_stays_in_evaluation():
    extractor = create_feature_extractor(torchvision.models.resnet18(num_classes=2).eval(), ["layer1"])
    ours, input = convert(extractor), torch.randn(1, 3, 32, 32)
    assert not any(m.training for m in ours.modules())
    torch.testing.assert_close(ours(input)["layer1"], extractor(input)["layer1"], rtol=1e-4, atol=1e-4)
    assert all(m.training for m in convert(extractor.train()).modules())


def test_a_model_whose_copy_is_itself_is_converted_in_place_or_not_at_all():
    class Single(nn.Sequential):
        def __deepcopy__(self, memo):
            return self

    model = nn.Sequential(Single(nn.Conv2d(1, 1, 1)))
    with pytest.raises(TypeError, match="model: its copy shares 0 with it"):
        convert(model)
    assert type(model[0][0]) is nn.Conv2d
    assert type(convert(model, inplace=True)[0][0]) is cnn_ext.nn.Conv2d


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
    ours = convert(model)
    assert type(model[0]) is nn.Conv2d
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
