"""torchvision's registry knows our networks; without torchvision they are there all the same."""

import subprocess
import sys

import torch
import torchvision.models as theirs

from cnn_ext import models


def test_every_network_is_registered():
    names = {name for name in models.__all__ if name.startswith(("lenet", "alexnet", "vgg"))}
    assert {f"cnn_ext_{name}" for name in names} == set(theirs.list_models(include="cnn_ext_*"))


def test_get_model_passes_arguments_on():
    model = theirs.get_model("cnn_ext_alexnet", variant="caffenet", width=1 / 8, layers=torch.nn)
    assert isinstance(model.features.norm1, torch.nn.LocalResponseNorm)
    assert type(theirs.get_model("cnn_ext_lenet5", variant="1998")) is type(models.lenet5("1998"))


def test_weights_are_torchvisions_enumerations():
    for name in ("alexnet", "vgg11", "vgg13_bn", "vgg19"):
        assert theirs.get_model_weights(f"cnn_ext_{name}") is theirs.get_model_weights(name)


WITHOUT = """
import sys
sys.modules["torchvision"] = None
import torch, cnn_ext
assert cnn_ext.models.vgg11(width=1 / 16)(torch.zeros(1, 3, 32, 32)).shape == (1, 1000)
try:
    cnn_ext.models.vgg16(weights="DEFAULT")
except ModuleNotFoundError as error:
    print(error)
"""


def test_without_torchvision_all_but_its_weights_is_there():
    done = subprocess.run([sys.executable, "-c", WITHOUT], capture_output=True, text=True, check=True)
    assert "Type: pip install torchvision" in done.stdout
    assert not done.stderr
