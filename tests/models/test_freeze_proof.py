"""freeze fuses what is proven at the call: whatever the model's code does, the results are its own."""

import contextlib
import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import prune

import cnn_ext
from cnn_ext import freeze

FLAG = False


@pytest.fixture(autouse=True)
def one_thread():
    """Beside another test process, more threads than cores make networks three times slower."""
    torch.set_num_threads(1)


class Base(nn.Module):
    """A convolution, a batch norm with statistics that are not trivial, and a ReLU."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.bn, self.relu = nn.Conv2d(2, 2, 3, padding=1), nn.BatchNorm2d(2), nn.ReLU()
        self.conv2, self.bn2 = nn.Conv2d(2, 2, 1, bias=False), nn.BatchNorm2d(2)
        self.drop, self.flag, self.kept = nn.Dropout(0.5), False, []
        for bn in (self.bn, self.bn2):
            nn.init.normal_(bn.running_mean)
            nn.init.uniform_(bn.running_var, 0.5, 2)
            nn.init.uniform_(bn.weight, -1.5, 1.5)
            nn.init.normal_(bn.bias)
        self.double().eval()


class TensorOrDict(Base):
    def forward(self, x):
        if isinstance(x, torch.Tensor):
            y = self.conv(x)
            return self.relu(y) + y
        return self.relu(self.bn(self.conv(x["image"])))


class DictOrTensor(Base):
    def forward(self, x):
        if isinstance(x, dict):
            y = self.conv(x["image"])
            return self.bn(y), y
        return self.relu(self.bn(self.conv(x)))


class ByGradientMode(Base):
    def forward(self, x):
        y = self.conv(x)
        return self.bn(y) + y if torch.is_grad_enabled() else self.bn(y)


class ByFlag(Base):
    def forward(self, x):
        y = self.conv(x)
        if self.flag:
            return self.relu(y)
        return self.bn(y)


class ByGlobal(Base):
    def forward(self, x):
        y = self.conv(x)
        if FLAG:
            self.kept.append(y)
        return self.bn(y)


class ByTraining(Base):
    def forward(self, x):
        y = self.conv(x)
        if not self.training:
            y = self.bn(y)
        return self.relu(y)


class Keeps(Base):
    def forward(self, x):
        self.logits = self.conv(x)
        return self.relu(self.bn(self.logits))

    def also(self):
        return self.logits


class KeepsInAList(Base):
    def forward(self, x):
        self.kept.clear()
        y = self.conv(x)
        self.kept.append(y)
        z = self.bn(y)
        self.kept.append(z)
        return self.relu(z)

    def also(self):
        return torch.stack(self.kept)


class KeepsInAClosure(Base):
    def forward(self, x):
        y = self.conv(x)
        self.look = lambda: y
        return self.bn(y)

    def also(self):
        return self.look()


class ReadsTheWeight(Base):
    def forward(self, x):
        return self.bn(self.conv(x)) * self.conv.weight.norm() + F.conv2d(
            x, self.conv.weight, padding=1
        )


class ChangesItsInput(Base):
    def forward(self, x):
        x = x + 0
        y = self.conv(x)
        x.mul_(2)
        z = self.bn(y)
        return z + x


class ChangesItsInputByACall(Base):
    def forward(self, x):
        x = x + 0
        y = self.conv(x)
        w = self.relu_(x)
        return self.bn(y) + w

    def relu_(self, x):
        return x.relu_()


class ChangesTheOutput(Base):
    def forward(self, x):
        y = self.conv(x)
        z = self.bn(y)
        y += 1
        return z + y


class RectifiesInPlace(Base):
    def __init__(self):
        super().__init__()
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        y = self.conv(x)
        z = self.relu(y)
        return self.bn(z) + y


class ByShape(Base):
    def forward(self, x):
        if x.shape[-1] > 5:
            return self.bn(self.conv(x))
        y = self.conv(x)
        return self.bn(y) - y


class ByRank(Base):
    def forward(self, x):
        if x.dim() == 3:
            return self.relu(self.conv(x))
        return self.relu(self.bn(self.conv(x)))


class ByValue(Base):
    def forward(self, x):
        y = self.conv(x)
        if x.mean() > 0:
            y = self.bn(y)
        if x.std() > 0.5:
            return self.relu(y)
        return y


class ByArguments(Base):
    def forward(self, x, *more, scale=None, **others):
        y = self.conv(x)
        if more or others:
            return y
        y = self.bn(y)
        return y if scale is None else y * scale


class CallsFromElsewhere(Base):
    """The parts of a sequence, alone, sliced, and in a loop that is left early."""

    def __init__(self):
        super().__init__()
        self.seq = nn.Sequential(self.conv, self.bn, self.relu, self.conv2, self.bn2)
        self.depth = 5

    def forward(self, x):
        y = self.seq(x) + self.seq[0](x) + self.seq[:2](x)
        for layer in self.seq[: self.depth]:
            x = layer(x)
            if x.sum() > 1e9:
                break
        return y + x

    def also(self):
        x = torch.ones(1, 2, 4, 4).double()
        return self.conv(x) + self.bn(x) + self.seq[3](x)


class Shares(Base):
    """Weights, and a batch norm."""

    def __init__(self):
        super().__init__()
        self.conv2 = nn.Conv2d(2, 2, 3, padding=1).double()
        self.conv2.weight = self.conv.weight

    def forward(self, x):
        return self.bn(self.conv(x)) + self.bn(self.conv2(x)) + self.bn2(self.conv(x)) + self.conv(x)


class InABranch(Base):
    def forward(self, x):
        if x.shape[-1] > 3:
            y = self.conv(x)
        x = self.conv2(x)
        if x.shape[-1] > 3:
            x = x + self.bn(y)
        return x


class InALoop(Base):
    def forward(self, x):
        y = None
        for i in range(3):
            if y is not None:
                x = x + self.bn(y)
            y = self.conv(x)
            if i == 5:
                continue
        while x.shape[0] > 2:
            x = self.bn2(self.conv2(x[1:]))
        return self.bn(y)


class InContexts(Base):
    def forward(self, x):
        with torch.no_grad():
            y = self.conv(x)
        y = self.bn(y)
        with contextlib.suppress(ValueError):
            z = self.conv2(y)
            z = self.bn2(z)
            raise ValueError
        try:
            z = self.conv(z)
            z = self.undefined(z)
        except AttributeError:
            z = self.bn(z)
        return y + z


class Looks(Base):
    """At its parts, by class."""

    def forward(self, x):
        for part in (self.conv, self.bn, self.relu):
            if isinstance(part, nn.BatchNorm2d | nn.Conv2d) or type(part) is nn.ReLU:
                x = part(x)
        y = self.conv(x)
        return self.bn(y) if type(self.bn) is nn.BatchNorm2d else y


class Nested(Base):
    """Through methods, conditional expressions, comprehensions, and names given twice."""

    def first(self, x):
        return self.conv(x)

    def norm(self, x):
        return self.bn(x) if self.bn is not None else x

    def forward(self, x):
        y = z = self.first(x)
        w = self.norm(self.first(x))
        pair = [self.bn2(self.conv2(v)) for v in (x, w)]
        (u := self.conv(x)).add_(1)
        return self.bn(z) + y + sum(pair) + self.bn(u)


class PreActivation(nn.Module):
    """Batch norm first: what it is given may still wait."""

    def __init__(self, base):
        super().__init__()
        self.bn, self.conv = base.bn, base.conv

    def forward(self, x):
        return self.conv(self.bn(x))


class UsesItTwice(PreActivation):
    def forward(self, x):
        y = self.bn(x)
        return y + self.conv(x)


class ConvolvesFirst(Base):
    """The convolution and its batch norm lie in different parts."""

    def __init__(self):
        super().__init__()
        self.rest, self.twice = PreActivation(self), UsesItTwice(self)

    def forward(self, x):
        y = self.conv2(x)
        y = self.rest(y)
        z = self.conv2(x)
        z = self.twice(z)
        return y + z


def twice(x):
    return 2 * x


class NamedAsAGlobal(Base):
    """Its method has the name of a function that it calls."""

    def twice(self, x):
        return twice(self.bn(self.conv(x)))

    def forward(self, x):
        return self.twice(x)


KINDS = [
    NamedAsAGlobal, ConvolvesFirst, TensorOrDict, DictOrTensor, ByGradientMode,
    ByFlag, ByGlobal, ByTraining, Keeps, KeepsInAList,
    KeepsInAClosure, ReadsTheWeight, ChangesItsInput, ChangesItsInputByACall, ChangesTheOutput,
    RectifiesInPlace, ByShape, ByRank, ByValue, ByArguments,
    CallsFromElsewhere, Shares, InABranch, InALoop, InContexts,
    Looks, Nested,
]  # fmt: skip


def same(frozen, model, *args, **kwargs):
    """Outputs, and what the model keeps, agree, in and out of gradient mode and inference mode."""
    for mode in (torch.enable_grad, torch.no_grad, torch.inference_mode):
        with mode():
            try:
                expected = model(*args, **kwargs)
            except (TypeError, ValueError) as error:  # a rank that the model does not take
                with pytest.raises(type(error)):
                    frozen(*args, **kwargs)
                continue
            torch.testing.assert_close(frozen(*args, **kwargs), expected, rtol=1e-10, atol=1e-10)
            if hasattr(model, "also"):
                torch.testing.assert_close(frozen.also(), model.also(), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_whatever_the_code_does_the_results_are_the_models(kind):
    global FLAG
    model = kind()
    with torch.enable_grad():
        frozen = freeze(model)
    for p in model.parameters():
        p.requires_grad_(False)
    twin = pickle.loads(pickle.dumps(frozen)) if kind is not KeepsInAClosure else copy.deepcopy(frozen)
    x = torch.randn(3, 2, 6, 6).double()
    for one in (frozen, twin):
        for image in (x, -x.abs(), x[..., :3], x[:1] * 0.01, x[0]):
            same(one, model, image)
        same(one, model, x.clone())
        if kind in (TensorOrDict, DictOrTensor):
            same(one, model, {"image": x})
        if kind is ByArguments:
            same(one, model, x, 1)
            same(one, model, x, scale=2.0)
            same(one, model, x, other=2)
        try:
            one.flag = model.flag = FLAG = True
            same(one, model, x)
        finally:
            one.flag = model.flag = FLAG = False
        same(one, model, x)


FOLD = {
    ConvolvesFirst: 1, TensorOrDict: 1, DictOrTensor: 1, ByFlag: 1,
    ByTraining: 1, ReadsTheWeight: 1, ByShape: 1, ByRank: 1,
    ByValue: 1, ByArguments: 1, CallsFromElsewhere: 2, Shares: 2,
    InABranch: 0, ChangesItsInput: 0, ChangesTheOutput: 0, Keeps: 0,
    KeepsInAList: 0, RectifiesInPlace: 0, Looks: 1,
}  # fmt: skip


@pytest.mark.parametrize("kind", FOLD)
def test_what_is_proven_is_folded(kind):
    report = freeze(kind()).report()
    assert report.folded == FOLD[kind], report


class Plain(Base):
    def forward(self, x):
        x = self.conv(x)
        x = self.bn(x)
        x = self.drop(x)
        return self.relu(x)


def calls(frozen, x):
    """The operations that a call dispatches."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Mode(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            names.append(func.__name__.split(".")[0])
            return func(*args, **(kwargs or {}))

    names = []
    with Mode(), torch.no_grad():
        frozen(x)
    return names


def test_a_fused_call_is_one_operation():
    assert calls(freeze(Plain()), torch.randn(1, 2, 6, 6).double()) == ["convolution_frozen"]


@pytest.mark.parametrize("where", ["conv", "bn", "relu", "drop"])
@pytest.mark.parametrize("kind", ["hook", "pre-hook", "global", "forward", "none"])
def test_hooks_that_come_later_see_what_the_model_computes(where, kind):
    model = Plain()
    frozen, x, handles = freeze(model), torch.randn(1, 2, 6, 6).double(), []
    seen = []
    for one in (model, frozen):
        part = getattr(one, where)
        if kind == "hook":
            handles.append(part.register_forward_hook(lambda m, x, y: seen.append((x[0] + 0, y + 0))))
        elif kind == "pre-hook":
            handles.append(part.register_forward_pre_hook(lambda m, x: seen.append((x[0] + 0, 0))))
        elif kind == "forward":
            part.forward = lambda x, forward=part.forward: seen.append((x + 0, 0)) or forward(x)
        elif kind == "global":
            parts = (model.conv, model.bn, frozen.conv, frozen.bn)

            def look(m, x, y, parts=parts):
                if m in parts:
                    seen.append((x[0] + 0, y + 0))

            handles.append(nn.modules.module.register_module_forward_hook(look))
        with torch.no_grad():
            one(x)
        if kind == "global":
            handles.pop().remove()
    if kind != "none":
        half = len(seen) // 2
        assert half
        torch.testing.assert_close(seen[half:], seen[:half])
    for handle in handles:
        handle.remove()
    with torch.no_grad():
        torch.testing.assert_close(frozen(x), model(x))
    assert kind == "forward" or calls(frozen, x) == ["convolution_frozen"]


def test_modes_and_attributes_set_by_hand_are_obeyed():
    model, x = Plain(), torch.randn(4, 2, 6, 6).double()
    for change in (
        lambda m: setattr(m.bn, "training", True),
        lambda m: setattr(m.bn, "eps", 1.0),
        lambda m: setattr(m.conv, "padding", (0, 0)),
        lambda m: setattr(m.conv, "weight", nn.Parameter(torch.ones(2, 2, 3, 3).double(), False)),
        lambda m: setattr(m, "relu", nn.Tanh()),
        lambda m: setattr(m, "bn", nn.Identity()),
        lambda m: setattr(m, "conv", copy.deepcopy(m.conv2)),
    ):  # fmt: skip
        twins = copy.deepcopy(model), freeze(model)
        for twin in twins:
            change(twin)
        with torch.no_grad():
            torch.testing.assert_close(twins[1](x), twins[0](x))


def test_a_network_of_the_same_layers_in_another_thread_is_not_disturbed():
    import threading

    frozen, x = freeze(Plain()), torch.randn(1, 2, 6, 6).double()
    expected, results, stop = frozen(x), [], threading.Event()

    def run():
        while not stop.is_set():
            results.append(torch.equal(frozen(x), expected))

    thread = threading.Thread(target=run)
    thread.start()
    for _ in range(5):
        freeze(Plain())
    stop.set()
    thread.join()
    assert results
    assert all(results)


@pytest.mark.parametrize("name", ["weight", "bias"])
@pytest.mark.parametrize("layer", [nn.Conv2d(2, 4, 3), nn.Linear(2, 4)], ids=["conv", "linear"])
def test_what_a_hook_computes_stays_and_runs(layer, name):
    norm = nn.BatchNorm2d(4) if isinstance(layer, nn.Conv2d) else nn.BatchNorm1d(4)
    model = nn.Sequential(copy.deepcopy(layer), norm).eval()
    prune.random_unstructured(model[0], name, 0.5)
    setattr(model[0], name, getattr(model[0], name).detach())  # torch copies no other
    x = torch.randn(3, 2, 6, 6) if isinstance(layer, nn.Conv2d) else torch.randn(3, 2)
    with pytest.warns(UserWarning, match="folded none of 1 batch norms.*a hook"):
        frozen = freeze(model)
    with torch.no_grad():
        torch.testing.assert_close(frozen(x), model(x))


def test_state_dict_is_the_models():
    model = Plain()
    frozen = freeze(model)
    assert list(frozen.state_dict()) == list(model.state_dict())
    for key, value in frozen.state_dict().items():
        torch.testing.assert_close(value, model.state_dict()[key], rtol=0, atol=0)


def test_files_hold_the_weights_once():
    model = nn.Sequential(nn.Conv2d(64, 64, 3), nn.BatchNorm2d(64), nn.ReLU())
    frozen = freeze(model)
    assert len(pickle.dumps(frozen)) < 1.2 * len(pickle.dumps(model))
    assert pickle.loads(pickle.dumps(frozen))[0].folded
    assert cnn_ext.freeze(frozen).report().folded == 1
