"""Every classification network of torchvision, and segmentation, converted and back.

In float64, where two ways to add agree to rounding and nothing jumps. Networks have random weights
and see small images.
"""

import contextlib
import warnings
from unittest import mock

import pytest
import torch
import torchvision
from torch import nn
from torchvision.models import regnet

import cnn_ext

ARGUMENTS = {
    "googlenet": {"init_weights": False},
    "inception_v3": {"init_weights": False},
    "vit_b_16": {"image_size": 32},
    "vit_b_32": {"image_size": 32},
}
SIZES = {"alexnet": 64, "inception_v3": 80, "maxvit_t": 224}
NAMES = torchvision.models.list_models(module=torchvision.models)
# Too large for a test, with smaller siblings of the same blocks: their layers, without numbers.
SHAPES_ONLY = {"vit_l_16", "vit_l_32", "vit_h_14", "convnext_base", "convnext_large", "resnet152",
               "wide_resnet101_2", "efficientnet_b6", "efficientnet_b7", "efficientnet_v2_l",
               "resnext101_32x8d", "resnext101_64x4d", "swin_b", "swin_v2_b"}  # fmt: skip
# The blocks of a RegNet are as wide as it is deep, and its builder needs numbers: these lose blocks.
SHALLOW = {"regnet_x_16gf", "regnet_x_32gf", "regnet_y_16gf", "regnet_y_32gf", "regnet_y_128gf"}


@pytest.fixture(autouse=True)
def one_thread():
    """Beside another test process, more threads than cores make these networks three times slower."""
    torch.set_num_threads(1)


def build(name):
    with warnings.catch_warnings(), contextlib.ExitStack() as stack:
        warnings.simplefilter("ignore")  # about the initialisation that we ask for
        if name in SHALLOW:
            params, full = regnet.BlockParams, regnet.BlockParams.from_init_params
            few = mock.Mock(side_effect=lambda **arguments: full(**{**arguments, "depth": 5}))
            stack.enter_context(mock.patch.object(params, "from_init_params", few))
        if name.startswith(("vgg", "alexnet")):  # most of their weights are dense: no matter here
            stack.enter_context(torch.device("meta"))
        model = torchvision.models.get_model(name, **ARGUMENTS.get(name, {}))
    if name.startswith(("vgg", "alexnet")):
        model.classifier = nn.Linear(model.classifier[1 if name == "alexnet" else 0].in_features, 8)
        model.to_empty(device="cpu").apply(
            lambda m: m.reset_parameters() if hasattr(m, "reset_parameters") else None
        )
    for parameter in model.parameters():  # heads that start at zero would let no gradient through
        if not parameter.any():
            nn.init.normal_(parameter, std=0.02)
    return model.double()


def results(model, image):
    """All outputs, and the gradients of one random functional of them in image and parameters."""
    torch.manual_seed(0)
    image = image.clone().requires_grad_()
    model.zero_grad()
    outputs = torch.utils._pytree.tree_leaves(model(image))
    sum((output * torch.randn_like(output)).sum() for output in outputs).backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {**dict(enumerate(outputs)), "image": image.grad, **gradients}


def assert_same_before_and_after(model, image):
    keys, before = list(model.state_dict()), results(model, image)
    kinds = [type(m) for m in model.modules()]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nothing may be left alone
        cnn_ext.convert(model, inplace=True)
        left = [m for m in model.modules() if type(m) in cnn_ext.models.convert.TWINS]
        assert not left
        after = results(model, image)
        assert list(model.state_dict()) == keys
        cnn_ext.revert(model, inplace=True)
    assert [type(m) for m in model.modules()] == kinds
    assert before.keys() == after.keys()
    largest = max(value.norm() for key, value in before.items() if isinstance(key, str))
    for key, value in before.items():
        scale = value.norm() if isinstance(key, int) else value.norm() + 1e-6 * largest
        assert (after[key] - value).norm() <= 1e-9 * scale, key


@pytest.mark.parametrize("name", sorted(set(NAMES) - SHAPES_ONLY))
def test_outputs_and_gradients_agree(name):
    size = SIZES.get(name, 32)
    assert_same_before_and_after(build(name).eval(), torch.randn(1, 3, size, size).double())


@pytest.mark.parametrize("name", sorted(SHAPES_ONLY))
def test_every_layer_of_the_largest_is_swapped_and_comes_back(name):
    with torch.device("meta"):
        model = torchvision.models.get_model(name)
    keys, kinds = list(model.state_dict()), [type(m) for m in model.modules()]
    twins = cnn_ext.models.convert.TWINS
    ours = cnn_ext.convert(model)
    assert [type(m) for m in ours.modules()] == [twins.get(kind, kind) for kind in kinds]
    assert list(ours.state_dict()) == keys
    assert [type(m) for m in cnn_ext.revert(ours).modules()] == kinds


@pytest.mark.parametrize("name", ["fcn_resnet50", "lraspp_mobilenet_v3_large"])
def test_segmentation_networks_agree(name):
    model = torchvision.models.get_model(name, weights_backbone=None, num_classes=4).double().eval()
    assert_same_before_and_after(model, torch.randn(1, 3, 64, 64).double())


@pytest.mark.parametrize("name", ["resnet18", "googlenet", "mobilenet_v3_small"])
def test_training_mode_agrees_with_its_dropout_and_running_statistics(name):
    model = build(name).train()
    assert_same_before_and_after(model, torch.randn(4, 3, 96, 96).double())
    assert all(m.training for m in model.modules())
