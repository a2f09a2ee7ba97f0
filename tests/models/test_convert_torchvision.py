"""Every classification network of torchvision, and segmentation, converted and back.

In float64, where two ways to add agree to rounding and nothing jumps. Networks come with random
weights and see small images; the four with more than 300 million parameters lose depth, not kind.
"""

import warnings

import pytest
import torch
import torchvision
from torch import nn
from torchvision.models import regnet, vision_transformer

import cnn_ext

HUGE = {
    "vit_l_16": lambda: vision_transformer.VisionTransformer(32, 16, 2, 16, 1024, 4096),
    "vit_l_32": lambda: vision_transformer.VisionTransformer(64, 32, 2, 16, 1024, 4096),
    "vit_h_14": lambda: vision_transformer.VisionTransformer(28, 14, 2, 16, 1280, 5120),
    "regnet_y_128gf": lambda: regnet.RegNet(
        regnet.BlockParams.from_init_params(
            depth=5, w_0=456, w_a=160.83, w_m=2.52, group_width=264, se_ratio=0.25
        )
    ),
}
ARGUMENTS = {
    "googlenet": {"init_weights": False},
    "inception_v3": {"init_weights": False},
    "vit_b_16": {"image_size": 32},
    "vit_b_32": {"image_size": 64},
}
SIZES = {"inception_v3": 80, "maxvit_t": 224, "vit_b_16": 32, "vit_l_16": 32, "vit_h_14": 28}


def build(name, module=torchvision.models):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the initialisation that we ask for
        get = HUGE.get(name, lambda: torchvision.models.get_model(name, **ARGUMENTS.get(name, {})))
        model = get()
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


@pytest.mark.parametrize("name", torchvision.models.list_models(module=torchvision.models))
def test_outputs_and_gradients_agree(name):
    size = SIZES.get(name, 64)
    assert_same_before_and_after(build(name).eval(), torch.randn(1, 3, size, size).double())


@pytest.mark.parametrize("name", ["fcn_resnet50", "deeplabv3_resnet50", "lraspp_mobilenet_v3_large"])
def test_segmentation_networks_agree(name):
    model = torchvision.models.get_model(name, weights_backbone=None, num_classes=4).double().eval()
    assert_same_before_and_after(model, torch.randn(1, 3, 64, 64).double())


@pytest.mark.parametrize("name", ["resnet18", "googlenet", "mobilenet_v3_small", "densenet121"])
def test_training_mode_agrees_with_its_dropout_and_running_statistics(name):
    model = build(name).train()
    assert_same_before_and_after(model, torch.randn(4, 3, 96, 96).double())
    assert all(m.training for m in model.modules())
