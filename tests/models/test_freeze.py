"""freeze: copies for inference, to the bit where nothing is folded, to rounding where batch norm is."""

import copy
import io
import pickle
import warnings

import pytest
import torch
import torchvision
from torch import nn
from torch.nn.utils import prune
from torch.nn.utils.parametrizations import orthogonal, spectral_norm, weight_norm

import cnn_ext
from cnn_ext import freeze
from cnn_ext._native import _C
from cnn_ext.models.freeze import FoldedNorm, FrozenConv2d, FrozenLinear


@pytest.fixture(autouse=True)
def one_thread():
    """Beside another test process, more threads than cores make networks three times slower."""
    torch.set_num_threads(1)


def with_statistics(model):
    """Batch norms as training leaves them: none of their four tensors trivial."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            if module.running_mean is not None:
                module.running_mean.normal_(std=0.5)
                module.running_var.uniform_(0.5, 2.0)
            if module.affine:
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, std=0.3)
    return model.eval()


def kinds(model):
    return [type(m).__name__ for m in model.modules()]


def layers(model):
    return [m for m in model.modules() if isinstance(m, FrozenConv2d)]


def assert_close(frozen, model, *inputs, bound=1e-12):
    with torch.no_grad():
        ours, theirs = (torch.utils._pytree.tree_leaves(m(*inputs)) for m in (frozen, model))
    for a, b in zip(ours, theirs, strict=True):
        assert (a - b).norm() <= bound * b.norm()


def block(*layers):
    """A sequence in float64 with statistics."""
    return with_statistics(nn.Sequential(*layers).double())


# ------------------------------------------------------------------------------- one layer


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    ("arguments", "size"),
    [
        ((16, 24, 3, 1, 1), 40),
        ((300, 200, 3, 1, 1), 14),
        ((20, 32, 5, 1, 2), 13),
        ((16, 24, 3, 2, 1), 15),
        ((16, 16, 3, 1, 1, 1, 16), 12),
        ((32, 64, 3, 1, 1, 1, 2), 12),
        ((16, 24, 3, 1, "half"), 12),
        ((16, 24, 3, 1, (0, 1, 2, 3)), 12),
        ((3, 24, 11, 4, 2), 35),
        ((16, 24, 1), 9),
    ],
    ids=str,
)
def test_a_layer_gives_the_same_bits(arguments, size, dtype, threads):
    torch.set_num_threads(threads)
    layer, input = cnn_ext.nn.Conv2d(*arguments, dtype=dtype), torch.randn(2, arguments[0], size, size)
    input = input.to(dtype)
    frozen = freeze(layer)
    with torch.no_grad():
        assert torch.equal(frozen(input), layer(input))
        assert torch.equal(frozen(input[0]), layer(input[0]))
        rectified = freeze(nn.Sequential(layer, nn.ReLU()))
        assert torch.equal(rectified(input), layer(input).relu())
    assert list(frozen.state_dict()) == list(layer.state_dict())


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
@pytest.mark.parametrize("algorithm", ["auto", "im2col", "winograd"])
def test_padding_modes_and_algorithms_are_the_layers(mode, algorithm):
    layer = cnn_ext.nn.ConvReLU2d(16, 16, 3, padding=1, padding_mode=mode, algorithm=algorithm)
    input = torch.randn(2, 16, 9, 9)
    assert torch.equal(freeze(layer)(input), layer(input))


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_batch_norm_and_relu_become_part_of_a_convolution(axes, affine, bias):
    conv, norm = getattr(nn, f"Conv{axes}d"), getattr(nn, f"BatchNorm{axes}d")
    model = block(conv(4, 6, 3, groups=2, bias=bias), norm(6, affine=affine), nn.ReLU(inplace=True))
    frozen = freeze(model)
    assert kinds(frozen)[1:] == [f"Frozen{conv.__name__}", "FoldedNorm", "ReLU"]
    assert frozen[0].folded
    assert frozen[0].relu
    input = torch.randn(2, 4, *(6,) * axes).double()
    assert_close(frozen, model, input)
    with torch.no_grad():
        assert frozen(input).min() == 0


def test_batch_norm_becomes_part_of_a_linear_layer():
    model = block(nn.Linear(5, 7), nn.BatchNorm1d(7), nn.ReLU(), nn.Linear(7, 2))
    frozen = freeze(model)
    assert [type(m) for m in frozen] == [FrozenLinear, FoldedNorm, nn.ReLU, cnn_ext.nn.Linear]
    assert_close(frozen, model, torch.randn(3, 5).double())


def test_of_three_dimensions_batch_norm_takes_the_second_also_behind_a_linear_layer():
    model = block(nn.Linear(5, 7), nn.BatchNorm1d(7))
    frozen = freeze(model)
    assert frozen[0].folded
    assert_close(frozen, model, torch.randn(3, 7, 5).double())


def test_max_pooling_is_swapped_as_by_convert():
    pool = torch.nn.MaxPool2d(3, 2, padding=1, ceil_mode=True)
    frozen = cnn_ext.freeze(torch.nn.Sequential(pool))
    assert type(frozen[0]) is cnn_ext.nn.MaxPool2d
    x = torch.randn(2, 3, 9, 14)
    torch.testing.assert_close(frozen(x), pool(x), rtol=0, atol=0)


def test_filters_are_kept_where_auto_may_choose_winograd():
    def filters(*arguments, **keywords):
        return freeze(nn.Conv2d(*arguments, **keywords)).filters

    assert filters(16, 32, 3).numel() > 4 * 16 * 32 * 9 * 0.99
    assert filters(16, 32, 5) is not None
    assert filters(16, 32, 3, dtype=torch.bfloat16).dtype == torch.float32
    for without in (
        filters(16, 32, 3, stride=2), filters(16, 32, 3, dilation=2), filters(16, 32, 1),
        filters(3, 32, 3), filters(32, 32, 3, groups=32), filters(16, 32, 3, dtype=torch.float64),
    ):  # fmt: skip
        assert without is None
    assert filters(320, 352, 3).numel() <= 2**22
    assert filters(320, 384, 3) is None  # would be more
    assert freeze(cnn_ext.nn.Conv2d(16, 32, 3, algorithm="implicit_gemm")).filters is None
    assert freeze(cnn_ext.nn.Conv2d(2, 2, 3, algorithm="winograd")).filters is not None


def test_the_filters_that_are_kept_are_those_that_are_used():
    layer, input = nn.Conv2d(16, 32, 3, bias=False), torch.randn(1, 16, 20, 20)
    frozen = freeze(layer)
    frozen.filters.zero_()
    assert not frozen(input).any()
    with cnn_ext.default_algorithm("implicit_gemm"):  # the one switch that excludes Winograd
        torch.testing.assert_close(frozen(input), layer(input).detach())


def test_autocast_computes_as_the_unfrozen_layer_does():
    layer, input = cnn_ext.nn.Conv2d(16, 32, 3), torch.randn(1, 16, 20, 20)
    frozen = freeze(layer)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        assert frozen(input).dtype == torch.bfloat16
        assert torch.equal(frozen(input), layer(input))


# ------------------------------------------------------------------------- whole networks


def torchvisions(name, **arguments):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torchvision.models.get_model(name, **arguments)


NETWORKS = {
    # builder, size of the image, batch norms folded (auxiliary classifiers' too), ReLUs fused
    "vgg16_bn": (lambda: cnn_ext.models.vgg16_bn(width=1 / 16), 64, 13, 13),
    "vgg11 of torch": (lambda: cnn_ext.models.vgg11(width=1 / 16, layers=nn), 64, 0, 8),
    "alexnet 2012": (lambda: cnn_ext.models.alexnet("2012", width=1 / 8), 224, 0, 5),
    "alexnet": (lambda: torchvisions("alexnet"), 64, 0, 5),
    "lenet5": (lambda: cnn_ext.models.lenet5("relu"), 0, 0, None),
    "resnet18": (lambda: torchvisions("resnet18"), 64, 20, 9),
    "resnet50": (lambda: torchvisions("resnet50"), 64, 53, 33),
    "googlenet": (lambda: torchvisions("googlenet", init_weights=False), 64, 59, 0),
    "inception_v3": (lambda: torchvisions("inception_v3", init_weights=False), 80, 96, 0),
    "densenet121": (lambda: torchvisions("densenet121"), 64, 59, None),
    "mobilenet_v2": (lambda: torchvisions("mobilenet_v2"), 64, 52, 0),
    "mobilenet_v3_small": (lambda: torchvisions("mobilenet_v3_small"), 64, 34, None),
    "shufflenet_v2_x0_5": (lambda: torchvisions("shufflenet_v2_x0_5"), 64, 56, None),
    "efficientnet_b0": (lambda: torchvisions("efficientnet_b0"), 64, 49, 0),
    "squeezenet1_1": (lambda: torchvisions("squeezenet1_1"), 64, 0, 26),
    "fcn_resnet50": (
        lambda: torchvisions("fcn_resnet50", weights_backbone=None, num_classes=4), 64, 54, 34,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_whole_networks_agree(name):
    build, size, folded, fused = NETWORKS[name]
    model = with_statistics(build().double())
    frozen = freeze(model)
    image = torch.randn(2, 3, size, size) if size else torch.randn(2, 1, 32, 32)
    assert_close(frozen, model, image.double())
    assert sum(getattr(m, "folded", False) for m in frozen.modules()) == folded
    if fused is not None:
        assert sum(m.relu for m in layers(frozen)) == fused
    assert_close(freeze(model, fuse=False), model, image.double())


def test_without_fusing_the_bits_are_those_of_the_converted_network():
    model = with_statistics(cnn_ext.models.vgg16_bn(width=1 / 4, num_classes=10))
    image = torch.randn(2, 3, 64, 64)
    frozen = freeze(model, fuse=False)
    assert sum(layer.filters is not None for layer in layers(frozen)) > 5
    with torch.no_grad():
        assert torch.equal(frozen(image), model(image))


# --------------------------------------------------------------------------------- dataflow


class Net(nn.Module):
    """Of the layers and the forward given."""

    def __init__(self, forward, **parts):
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)
        self.run = forward

    def forward(self, x):
        return self.run(self, x)


def a_net(forward, **more):
    parts = {"conv": nn.Conv2d(2, 2, 3, padding=1), "bn": nn.BatchNorm2d(2), "relu": nn.ReLU()} | more
    return with_statistics(Net(forward, **parts).double())


def forks(net, x):  # a convolution whose output is used twice
    y = net.conv(x)
    return net.relu(net.bn(y)) + y


def forks_after_norm(net, x):
    y = net.bn(net.conv(x))
    return net.relu(y) + y


def residual(net, x):
    y = net.bn(net.conv(x))
    y += x
    return net.relu(y)


def calls_twice(net, x):
    return net.relu(net.bn(net.conv(net.relu(net.bn(net.conv(x))))))


def norm_elsewhere_too(net, x):
    return net.bn(net.conv(x)) + net.bn(x)


def relu_elsewhere_too(net, x):
    return net.relu(net.bn(net.conv(net.relu(x))))


def reads_the_weight(net, x):
    return net.bn(net.conv(x)) + net.conv.weight.sum() + net.bn.running_mean.sum()


def in_another_order(net, x):
    return net.conv(net.relu(net.bn(x)))


def something_between(net, x):
    return net.relu(net.bn(net.conv(x) * 2))


def of_functions(net, x):
    return nn.functional.relu(net.bn(net.conv(x)))


def with_keywords(net, x):
    return net.relu(input=net.bn(input=net.conv(input=x)))


def over_dropout(net, x):
    return net.relu(net.bn(net.dropout(net.conv(x))))


def two_norms(net, x):
    return net.bn2(net.bn(net.conv(x)))


def shared_by_two(net, x):  # one batch norm and one ReLU after each of two convolutions
    return net.relu(net.bn(net.conv2(net.relu(net.bn(net.conv(x))))))


@pytest.mark.parametrize(
    ("forward", "folded", "fused"),
    [
        (forks, 0, 0),
        (forks_after_norm, 1, 0),
        (residual, 1, 0),
        (calls_twice, 1, 1),
        (norm_elsewhere_too, 1, 0),
        (relu_elsewhere_too, 1, 1),
        (reads_the_weight, 1, 0),
        (in_another_order, 0, 0),
        (something_between, 0, 0),
        (of_functions, 1, 0),
        (with_keywords, 0, 0),
        (over_dropout, 1, 1),
        (two_norms, 1, 0),
        (shared_by_two, 2, 2),
    ],
)
def test_what_is_fused_is_what_nothing_else_reads(forward, folded, fused):
    more = {
        "conv2": nn.Conv2d(2, 2, 1, bias=False), "bn2": nn.BatchNorm2d(2), "dropout": nn.Dropout(0.5),
    }  # fmt: skip
    model = a_net(forward, **more)
    frozen = freeze(model)
    assert_close(frozen, model, torch.randn(2, 2, 6, 6).double())
    assert sum(layer.folded for layer in layers(frozen)) == folded
    assert sum(layer.relu for layer in layers(frozen)) == fused


def test_control_flow_that_depends_on_values_is_followed_each_time():
    """Whichever branch is taken computes what it says, and is fused."""

    def by_value(net, x):
        return net.relu(net.bn(net.conv(x))) if x.sum() > 0 else net.conv(x)

    hidden = a_net(by_value)
    parts = {"inner": hidden, "rest": block(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3), nn.ReLU())}
    model = with_statistics(Net(lambda net, x: net.rest(net.inner(x)), **parts).double())
    frozen = freeze(model)
    assert [layer.folded for layer in layers(frozen)] == [True, True]
    assert [layer.relu for layer in layers(frozen)] == [True, True]
    for sign in (1, -1):
        assert_close(frozen, model, sign * torch.rand(2, 2, 6, 6).double())
    alone = freeze(hidden)
    for sign in (1, -1):
        assert_close(alone, hidden, sign * torch.rand(1, 2, 6, 6).double())


def test_a_layer_that_two_parts_share_is_fused_where_batch_norm_follows():
    conv, bn = nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2)
    hidden = Net(lambda net, x: net.conv(x) if x.sum() > 0 else x, conv=conv)
    parts = {"hidden": hidden, "conv": conv, "bn": bn}
    model = Net(lambda net, x: net.bn(net.conv(net.hidden(x))), **parts)
    model = with_statistics(model.double())
    frozen = freeze(model)
    assert frozen.conv.folded
    for sign in (1, -1):
        assert_close(frozen, model, sign * torch.rand(1, 2, 4, 4).double())


def test_a_forward_that_arguments_turn_elsewhere_is_not_fused():
    class Optional(Net):
        def forward(self, x, extra=None):
            y = self.conv(x)
            return self.bn(y) if extra is None else self.bn(y + extra)

    class Unused(Net):
        def forward(self, x, scale=2.0):
            return self.bn(self.conv(x)) * scale

    image = torch.randn(1, 2, 6, 6).double()
    for kind, folded in ((Optional, False), (Unused, True)):
        model = kind(None, conv=nn.Conv2d(2, 2, 3, padding=1), bn=nn.BatchNorm2d(2))
        model = with_statistics(model.double())
        frozen = freeze(model)
        assert frozen.conv.folded == folded
        assert_close(frozen, model, image)
        assert_close(frozen, model, image, image)


def test_batch_norm_without_running_statistics_or_of_another_size_stays():
    model = block(nn.Conv2d(2, 4, 1), nn.BatchNorm2d(4, track_running_stats=False))
    assert kinds(freeze(model))[2] == "BatchNorm2d"
    assert_close(freeze(model), model, torch.randn(2, 2, 5, 5).double())
    model = block(nn.Conv2d(2, 4, 1), nn.InstanceNorm2d(4), nn.ReLU6())
    assert kinds(freeze(model))[2:] == ["InstanceNorm2d", "ReLU6"]


def test_tracing_leaves_nothing_behind_and_calls_no_hook():
    def stores(net, x):
        net.seen = net.conv(x)
        return net.seen

    model, calls = a_net(stores), []
    model.conv.register_forward_hook(lambda *_: calls.append(1))
    model.register_forward_hook(lambda *_: calls.append(2))
    frozen = freeze(model)
    assert calls == []
    assert not hasattr(frozen, "seen")
    frozen(torch.randn(1, 2, 4, 4).double())
    assert calls == [1, 2]


@pytest.mark.parametrize("hooked", ["conv", "bn", "relu"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_what_a_hook_sees_is_not_fused(hooked, when):
    model, seen = a_net(lambda net, x: net.relu(net.bn(net.conv(x)))), []
    if when == "after":
        getattr(model, hooked).register_forward_hook(lambda m, x, y: seen.append(y.clone()))
    else:
        getattr(model, hooked).register_forward_pre_hook(lambda m, x: seen.append(x[0].clone()))
    frozen = freeze(model)
    assert frozen.conv.folded == (hooked == "relu")
    input = torch.randn(1, 2, 4, 4).double()
    assert_close(frozen, model, input)
    ours, theirs = seen
    torch.testing.assert_close(ours, theirs)


def test_what_a_hook_of_a_container_sees_is_not_fused_across_it():
    inner = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3))
    model, seen = block(inner, nn.BatchNorm2d(4)), []
    model[0].register_forward_hook(lambda m, x, y: seen.append(y.clone()))
    frozen = freeze(model)
    assert [layer.folded for layer in layers(frozen)] == [True, False]
    assert_close(frozen, model, torch.randn(1, 2, 8, 8).double())
    torch.testing.assert_close(*seen)


# ---------------------------------------------------------------------------- kinds of weights


@pytest.mark.parametrize("wrap", [weight_norm, spectral_norm, orthogonal])
def test_parametrized_weights_become_plain(wrap):
    model = block(wrap(nn.Conv2d(2, 4, 3)), nn.BatchNorm2d(4), wrap(nn.Linear(6, 3)))
    frozen = freeze(model)
    assert kinds(frozen)[1:] == ["FrozenConv2d", "FoldedNorm", "Linear"]
    plain = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Linear(6, 3))
    assert set(frozen.state_dict()) == set(plain.state_dict())
    assert_close(frozen, model, torch.randn(2, 2, 8, 8).double())
    assert "parametrizations" in repr(model)


def test_a_weight_that_a_hook_computes_is_left_to_it():
    model = block(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4))
    prune.random_unstructured(model[0], "weight", 0.5)
    with torch.no_grad():
        model[0].weight = model[0].weight.detach()  # torch copies no other
    frozen = freeze(model)
    assert type(frozen[0]) is cnn_ext.nn.Conv2d
    assert_close(frozen, model, torch.randn(1, 2, 6, 6).double())


def test_layers_that_share_a_weight_are_folded_apart():
    model = nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2), nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2))
    model[2].weight = model[0].weight
    model = with_statistics(model.double())
    assert_close(freeze(model), model, torch.randn(1, 2, 4, 4).double())


def test_channels_last_weights_stay_so():
    model = with_statistics(nn.Sequential(nn.Conv2d(16, 32, 3), nn.BatchNorm2d(32)))
    model = model.to(memory_format=torch.channels_last)
    frozen = freeze(model)
    assert frozen[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert_close(frozen, model, torch.randn(1, 16, 9, 9), bound=1e-5)


def test_lazy_and_scripted_models_are_refused_by_name():
    with pytest.raises(ValueError, match=r"freeze: 0\.weight has no values yet"):
        freeze(nn.Sequential(nn.LazyConv2d(3, 3)))
    with pytest.raises(TypeError, match="before it is compiled by TorchScript"):
        freeze(torch.jit.script(nn.Conv2d(1, 1, 1)))


# ------------------------------------------------------------------------------ being frozen


def a_frozen_model():
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 32, 3))
    return freeze(with_statistics(model))


def test_the_model_is_untouched():
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU()).train()
    before, state = kinds(model), copy.deepcopy(model.state_dict())
    frozen = freeze(model)
    assert kinds(model) == before
    assert all(m.training for m in model.modules())
    assert all(p.requires_grad for p in model.parameters())
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert not any(m.training for m in frozen.modules())
    assert not any(p.requires_grad for p in frozen.parameters())
    assert isinstance(frozen, nn.Sequential)


REFUSED = {
    "train": (lambda m: m.train(), "cannot be trained"),
    "requires_grad_": (lambda m: m.requires_grad_(), "cannot require gradients"),
    "load_state_dict": (lambda m: m.load_state_dict(m.state_dict()), "cannot load a state_dict"),
    "double": (lambda m: m.double(), "cannot go from torch.float32 on cpu to torch.float64"),
    "half": (lambda m: m.half(), "cannot go from torch.float32"),
    "to dtype": (lambda m: m.to(torch.bfloat16), "cannot go from torch.float32"),
    "to device": (lambda m: m.to("meta"), "cannot go from torch.float32 on cpu to .* on meta"),
    "to_empty": (lambda m: m.to_empty(device="cpu"), "cannot lose its values"),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("where", ["whole", "layer", "within another model"])
def test_what_would_part_it_from_its_model_is_refused(name, where):
    do, message = REFUSED[name]
    frozen = a_frozen_model()
    if where == "within another model" and name in ("requires_grad_", "to_empty"):
        return  # it does not ask its parts
    module = {"whole": frozen, "layer": frozen[3], "within another model": nn.Sequential(frozen)}[where]
    before = copy.deepcopy(frozen.state_dict())
    with pytest.raises(RuntimeError, match=f"{message}.*cnn_ext.freeze.*freeze that again"):
        do(module)
    assert not any(m.training for m in frozen.modules())
    for key, value in frozen.state_dict().items():
        assert torch.equal(value, before[key])
    frozen(torch.randn(1, 3, 9, 9))


def test_gradients_are_refused_also_in_the_input():
    with pytest.raises(RuntimeError, match=r"cnn_ext\.freeze made has no gradient"):
        a_frozen_model()(torch.randn(1, 3, 9, 9, requires_grad=True))


def test_what_changes_nothing_is_allowed():
    frozen, input = a_frozen_model(), torch.randn(1, 3, 9, 9)
    before = frozen(input)
    frozen.eval().train(False).requires_grad_(False).to("cpu").float().cpu().to(torch.float32)
    frozen.to(memory_format=torch.channels_last).share_memory()
    assert frozen[3].weight.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(frozen(input), before)
    with torch.inference_mode():
        torch.testing.assert_close(frozen(input), before)


def saved_and_loaded(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m)), saved_and_loaded, freeze],
    ids=["deepcopy", "pickle", "save", "freeze"],
)  # fmt: skip
def test_copies_are_frozen_and_give_the_same_bits(copied):
    frozen, input = a_frozen_model(), torch.randn(1, 3, 9, 9)
    twin = copied(frozen)
    assert torch.equal(twin(input), frozen(input))
    assert type(twin) is type(frozen)
    assert kinds(twin) == kinds(frozen)
    assert torch.equal(twin[3].filters, frozen[3].filters)
    with pytest.raises(RuntimeError, match="cannot be trained"):
        twin.train()


def test_filters_are_not_written_to_files():
    model = freeze(nn.Conv2d(64, 64, 3))
    assert model.filters.nbytes > 4 * model.weight.nbytes * 0.99
    assert len(pickle.dumps(model)) < 1.2 * model.weight.nbytes


@pytest.mark.skipif(_C.best_cpu_capability() == "scalar", reason="nothing is lower")
def test_a_model_that_was_frozen_on_another_processor_computes_rightly():
    model, input = nn.Conv2d(16, 32, 3), torch.randn(1, 16, 20, 20)
    frozen = freeze(model)
    stored = pickle.dumps(frozen)
    _C.set_cpu_capability("scalar")
    with torch.no_grad():
        expected = cnn_ext.convert(model)(input)
        assert torch.equal(frozen(input), expected)  # its filters are of no use here
        loaded = pickle.loads(stored)
        assert loaded.filters.shape != frozen.filters.shape
        assert torch.equal(loaded(input), expected)


def test_compile_without_graph_breaks():
    frozen, input = a_frozen_model(), torch.randn(2, 3, 12, 12)
    torch._dynamo.reset()
    with torch.no_grad():
        compiled = torch.compile(frozen, fullgraph=True)
        torch.testing.assert_close(compiled(input), frozen(input))


def test_an_exported_copy_computes_the_same():
    frozen, input = a_frozen_model(), torch.randn(2, 3, 12, 12)
    program = torch.export.export(frozen, (input,))
    assert torch.equal(program.module()(input), frozen(input))


def test_vmap_over_images():
    frozen, images = a_frozen_model(), torch.randn(4, 2, 3, 9, 9)
    one_by_one = torch.stack([frozen(image) for image in images])
    torch.testing.assert_close(torch.vmap(frozen)(images), one_by_one)


def test_revert_and_compare_say_that_it_is_frozen():
    frozen = a_frozen_model()
    with pytest.warns(UserWarning, match="revert: left 3 layers .* no twin of FrozenConv2d"):
        assert type(cnn_ext.revert(frozen)[3]) is FrozenConv2d
    with pytest.raises(RuntimeError, match=r"made by cnn_ext\.freeze"):
        cnn_ext.compare(frozen, torch.randn(1, 3, 9, 9), rounds=1, progress=False)


def test_methods_and_attributes_of_the_model_stay():
    class Mine(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(1, 2, 3)
            self.classes = ["a", "b"]

        def forward(self, x):
            return self.scores(x).argmax(1)

        def scores(self, x):
            return self.conv(x).mean((2, 3))

    model, input = Mine(), torch.randn(4, 1, 9, 9)
    frozen = freeze(model)
    assert isinstance(frozen, Mine)
    assert frozen.classes == ["a", "b"]
    with torch.no_grad():
        torch.testing.assert_close(frozen.scores(input), model.scores(input))
        assert torch.equal(frozen(input), model(input))
