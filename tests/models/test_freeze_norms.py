"""Which batch norms and layers freeze folds: torch's and others', by class and by values."""

import copy
import pickle
import warnings

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.ops.misc import FrozenBatchNorm2d

import cnn_ext
from cnn_ext import freeze
from cnn_ext.models import norms


@pytest.fixture(autouse=True)
def one_thread():
    """Beside another test process, more threads than cores make networks three times slower."""
    torch.set_num_threads(1)


def with_statistics(model):
    torch.manual_seed(0)
    for module in model.modules():
        if norms.is_norm(module) and module.running_mean is not None:
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            for parameter in (module.weight, module.bias):
                if parameter is not None:
                    parameter.data.normal_()
    return model.double().eval()


def check(model, x, folded=1):
    """The frozen model agrees with the model, and has folded so many."""
    model = with_statistics(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        frozen = freeze(model)
    assert frozen.report().folded == folded, frozen.report()
    with torch.no_grad():
        for one in (frozen, copy.deepcopy(frozen)):
            torch.testing.assert_close(one(x.double()), model(x.double()), rtol=1e-9, atol=1e-9)
    return frozen


IMAGE = torch.randn(2, 3, 7, 8)


class LeavesForwardAlone(nn.BatchNorm2d):
    pass


class WithCount(nn.BatchNorm2d):
    """It leaves arithmetic alone, and keeps something."""

    def forward(self, x):
        self.last = x
        return super().forward(x)


class InStraightLines(nn.Module):
    """DETR's: four buffers, eps in the code."""

    def __init__(self, n):
        super().__init__()
        for name, value in (("weight", 1), ("bias", 0), ("running_mean", 0), ("running_var", 1)):
            self.register_buffer(name, torch.full((n,), float(value)))

    def forward(self, x):
        w = self.weight.reshape(1, -1, 1, 1)
        b = self.bias.reshape(1, -1, 1, 1)
        rv = self.running_var.reshape(1, -1, 1, 1)
        rm = self.running_mean.reshape(1, -1, 1, 1)
        scale = w * (rv + 1e-5).rsqrt()
        bias = b - rm * scale
        return x * scale + bias


class OfOtherValues(InStraightLines):
    def forward(self, x):
        return super().forward(x) * 2


class Branches(InStraightLines):
    def forward(self, x):
        return super().forward(x) if x.shape[0] > 1 else x


class Upcasts(nn.BatchNorm2d):
    def forward(self, x):
        return super().forward(x.double()).type_as(x)


@pytest.mark.parametrize(
    ("norm", "folded"),
    [
        (nn.BatchNorm2d(4), 1),
        (nn.BatchNorm2d(4, affine=False), 1),
        (nn.BatchNorm2d(4, eps=0.1, momentum=None), 1),
        (nn.BatchNorm2d(4, track_running_stats=False), 0),
        (nn.SyncBatchNorm(4), 1),
        (FrozenBatchNorm2d(4), 1),
        (FrozenBatchNorm2d(4, eps=0.1), 1),
        (LeavesForwardAlone(4), 1),
        (InStraightLines(4), 1),
        (Upcasts(4), 1),
        (WithCount(4), 0),
        (OfOtherValues(4), 0),
        (Branches(4), 0),
        (nn.InstanceNorm2d(4, track_running_stats=True), 0),
        (nn.GroupNorm(2, 4), 0),
    ],
    ids=lambda value: type(value).__name__,
)
def test_batch_norms_of_every_class(norm, folded):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), norm, nn.ReLU())
    frozen = check(model, IMAGE, folded)
    with torch.no_grad():
        torch.testing.assert_close(frozen(IMAGE[:1].double()), model(IMAGE[:1].double()))
    assert isinstance(frozen[1], type(norm)) != folded
    torch.testing.assert_close(
        pickle.loads(pickle.dumps(frozen))(IMAGE.double()), frozen(IMAGE.double())
    )


class Scales(nn.Conv2d):
    """Normalises its weight: to scale that would change nothing."""

    def forward(self, x):
        return self._conv_forward(x, self.weight / self.weight.norm(), self.bias)


class LeavesConvAlone(nn.Conv3d):
    def __init__(self, n):
        super().__init__(3, n, (3, 1, 1), bias=False)


@pytest.mark.parametrize(
    ("layer", "x", "folded"),
    [
        (nn.Conv1d(3, 4, 3, padding=1, padding_mode="reflect"), torch.randn(2, 3, 8), 1),
        (nn.Conv2d(3, 4, 3, bias=False, padding="same"), IMAGE, 1),
        (nn.Conv3d(3, 4, 3), torch.randn(2, 3, 4, 5, 6), 1),
        (LeavesConvAlone(4), torch.randn(2, 3, 4, 5, 6), 1),
        (nn.ConvTranspose1d(3, 4, 3), torch.randn(2, 3, 8), 1),
        (nn.ConvTranspose2d(3, 4, 3, stride=2, bias=False), IMAGE, 1),
        (nn.ConvTranspose2d(6, 4, 2, groups=2), torch.randn(2, 6, 4, 5), 1),
        (nn.ConvTranspose3d(3, 4, 2), torch.randn(2, 3, 3, 4, 5), 1),
        (nn.Linear(3, 4), torch.randn(5, 3), 1),
        (nn.Bilinear(3, 3, 4), None, 0),
        (cnn_ext.nn.Conv2d(3, 4, 3, padding="half"), IMAGE, 1),
        (cnn_ext.nn.ConvReLU2d(3, 4, 3), IMAGE, 0),
        (Scales(3, 4, 3), IMAGE, 0),
    ],
    ids=lambda value: type(value).__name__,
)
def test_layers_of_every_class(layer, x, folded):
    if x is None:
        return
    norm = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}[x.dim()](4)
    frozen = check(nn.Sequential(layer, norm), x, folded)
    assert frozen(x.double()).shape == freeze(layer.double())(x.double()).shape


class Blocks(nn.Module):
    """The other ways in which networks are written."""

    def __init__(self, way):
        super().__init__()
        self.way = way
        self.layers = nn.ModuleList([nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(),
                                     nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)])  # fmt: skip
        self.named = nn.ModuleDict({"conv": self.layers[0], "bn": self.layers[1]})
        self.seq = nn.Sequential(*self.layers)

    def forward(self, x):
        return getattr(self, self.way)(x)

    def loop(self, x):
        for layer in self.layers:
            x = layer(x)
        return x

    def counted(self, x):
        for i in range(len(self.layers)):
            x = self.layers[i](x)
        return x

    def numbered(self, x):
        for _, layer in enumerate(self.layers):
            x = layer(x)
        return x

    def paired(self, x):
        for conv, bn in zip(self.layers[::3], self.layers[1::3], strict=True):
            x = bn(conv(x))
        return x

    def by_name(self, x):
        x = self.named["conv"](x)
        return F.relu(self.named["bn"](x))

    def in_halves(self, x):
        return self.seq[2:](self.seq[1](self.seq[0](x)))

    def optional(self, x):
        act = getattr(self, "act", None)
        x = self.layers[0](x)
        x = self.layers[1](x) if len(self.layers) > 1 else x
        if act is not None:
            x = act(x)
        return x


@pytest.mark.parametrize(
    ("way", "folded"),
    [("loop", 2), ("counted", 2), ("numbered", 2), ("paired", 2), ("by_name", 1), ("in_halves", 2),
     ("optional", 1)],
)  # fmt: skip
def test_networks_written_in_every_way(way, folded):
    frozen = check(Blocks(way), IMAGE, 2)
    assert operations(frozen, IMAGE.double()).count("convolution_frozen") == folded
    assert not [n for n in operations(frozen, IMAGE.double()) if "norm" in n]


def operations(frozen, x):
    """Names of those that a call dispatches."""

    class Mode(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            names.append(func.__name__.split(".")[0])
            return func(*args, **(kwargs or {}))

    names = []
    with Mode(), torch.no_grad():
        frozen(x)
    return names


class CallsItsBase(Blocks):
    def forward(self, x):
        return super().forward(x) * 2

    def loop(self, x):
        return super().loop(x)


class CallsItsBaseNot(CallsItsBase):
    def forward(self, x):
        return x.mean() + self.loop(x)


@pytest.mark.parametrize("kind", [CallsItsBase, CallsItsBaseNot])
def test_methods_of_base_classes_are_fused_too(kind):
    frozen = check(kind("loop"), IMAGE, 2)
    assert not [n for n in operations(frozen, IMAGE.double()) if "norm" in n]


def test_what_fx_has_made_is_fused():
    graphs = torch.fx.symbolic_trace(with_statistics(Blocks("loop")))
    frozen = check(graphs, IMAGE, 2)
    assert not [n for n in operations(frozen, IMAGE.double()) if "norm" in n]


def test_a_class_that_is_called_in_its_own_way_is_called_so():
    class Doubles(nn.Sequential):
        def __call__(self, x):
            return 2 * super().__call__(x)

    class DoubledConv(nn.Conv2d):
        def __call__(self, x):
            return 2 * super().__call__(x)

    check(nn.Sequential(Doubles(nn.Conv2d(3, 4, 1)), nn.BatchNorm2d(4)), IMAGE, 0)
    check(nn.Sequential(Doubles(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)), nn.ReLU()), IMAGE, 1)
    model = with_statistics(nn.Sequential(DoubledConv(3, 4, 1), nn.BatchNorm2d(4)))
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.testing.assert_close(freeze(model)(IMAGE.double()), model(IMAGE.double()))


class CannotBeTraced(nn.Module):
    """As a whole: it makes numbers of its input before anything else."""

    def __init__(self):
        super().__init__()
        self.part = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU())
        self.conv, self.bn = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)

    def forward(self, x):
        times = int(x.shape[0]) + len(x)
        for _ in range(times):
            y = self.part(x)
        y = self.conv(y)
        return self.bn(y)


def test_parts_of_what_cannot_be_traced_are_folded_and_the_rest_is_reported():
    frozen = check(CannotBeTraced(), IMAGE, 1)
    assert "no call of it was seen" in frozen.report().left["bn"]
    model = with_statistics(CannotBeTraced())
    frozen = freeze(model, example_input=IMAGE.double())
    assert frozen.report().folded == 2
    with torch.no_grad():
        torch.testing.assert_close(frozen(IMAGE.double()), model(IMAGE.double()))


def test_the_report_is_a_table_with_reasons():
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1, self.bn1 = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)
            self.conv2, self.bn2 = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
            self.bn3, self.fc, self.spare = nn.BatchNorm2d(4), nn.Linear(4, 2), nn.BatchNorm2d(4)

        def forward(self, x):
            x = self.bn1(self.conv1(x))
            y = self.conv2(x)
            return self.fc((self.bn3(self.bn2(y) + y)).mean((2, 3)))

    report = freeze(Mixed()).report()
    assert (report.batch_norms, report.folded) == (4, 1)
    assert report.left["bn2"] == "what Conv2d gives it may be used elsewhere too"
    assert "bn2" in report.left["conv2"]
    assert report.left["bn3"] == "what it is given comes from no convolution or linear layer directly"
    assert report.left["spare"] == "no call of it was seen in the model's code"
    lines = str(report).splitlines()
    assert lines[0] == "1 of 4 batch norms folded, 0 ReLUs fused"
    assert any(line.split()[:3] == ["conv1", "Conv2d", "bn1"] for line in lines)
    with pytest.raises(RuntimeError, match="has no report, for it is a part"):
        freeze(Mixed()).conv1.report()


def test_one_warning_when_nothing_could_be_folded():
    class Keeps(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.bn = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)

        def forward(self, x):
            self.y = self.conv(x)
            return self.bn(self.y)

    with pytest.warns(UserWarning, match="folded none of 2 batch norms, 0.bn because") as warned:
        freeze(nn.Sequential(Keeps(), nn.ReLU(), Keeps()))
    assert len(warned) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        freeze(nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 4, 1)))  # nothing to fold
        freeze(nn.Sequential(Keeps(), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)))


def test_code_without_source_runs_and_is_reported():
    namespace = {"nn": nn}
    exec(
        "class Net(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.conv, self.bn = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)\n"
        "    def forward(self, x):\n"
        "        return self.bn(self.conv(x))\n",
        namespace,
    )
    model = with_statistics(namespace["Net"]())
    with pytest.warns(UserWarning, match="its source is not at hand"):
        frozen = freeze(model)
    with torch.no_grad():
        torch.testing.assert_close(frozen(IMAGE.double()), model(IMAGE.double()))


@pytest.mark.parametrize("norm", [FrozenBatchNorm2d, nn.SyncBatchNorm])
def test_resnets_of_other_batch_norms_fold_all(norm):
    model = torchvision.models.resnet18(norm_layer=norm, num_classes=5)
    check(model, torch.randn(1, 3, 32, 32), 20)


def test_a_network_of_subclasses_of_convolutions_folds_all():
    model = torchvision.models.video.r3d_18(num_classes=5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert freeze(model).report().folded == 20


@pytest.mark.parametrize(
    ("name", "folded"),
    [("test_efficientnet", 13), ("tf_mobilenetv3_small_minimal_100", 34), ("test_byobnet", 14),
     ("test_resnet", 15)],
)  # fmt: skip
def test_networks_of_timm(name, folded):
    timm = pytest.importorskip("timm")
    check(timm.create_model(name, num_classes=3), torch.randn(1, 3, 64, 64), folded)


def test_timms_batch_norms_with_activation():
    layers = pytest.importorskip("timm.layers")
    for norm in (layers.BatchNormAct2d(4), layers.BatchNormAct2d(4, act_layer=nn.SiLU),
                 layers.BatchNormAct2d(4, apply_act=False), layers.FrozenBatchNormAct2d(4),
                 layers.BatchNormAct2d(4, drop_layer=nn.Dropout)):  # fmt: skip
        for conv in (nn.Conv2d(3, 4, 3), layers.create_conv2d(3, 4, 3, stride=2, padding="same")):
            check(nn.Sequential(copy.deepcopy(conv), copy.deepcopy(norm)), IMAGE)
