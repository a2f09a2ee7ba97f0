"""Looking at a model leaves it as it was, and everything around it too, also after an error."""

import contextlib
import copy
import random
import warnings

import numpy
import pytest
import torch
from matplotlib.figure import Figure
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

import cnn_ext
from cnn_ext import visualize
from cnn_ext._inspection import copied, looking_at, preserved
from cnn_ext.comparison import layer_errors, step_seconds
from cnn_ext.matrix import receptive_field
from cnn_ext.models.convert import left_alone
from cnn_ext.receptive_field import fields_of, follow


class RanIntoError(RuntimeError):
    pass


class Restless(nn.Module):
    """Changes whatever it can as it runs."""

    def __init__(self):
        super().__init__()
        self.convolution, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.spectral = spectral_norm(nn.Conv2d(4, 2, 1))
        self.relu, self.dropout = nn.ReLU(inplace=True), nn.Dropout()
        self.register_buffer("calls", torch.zeros(2))
        self.total, self.seen, self.notes = torch.zeros(1), [], {"sizes": [1]}
        self.fails = False

    def forward(self, x):
        self.calls += 1
        self.total += 1
        self.seen.append(1)
        self.notes["sizes"].append(2)
        self.last = x
        self.norm.eps = 1e-3
        torch.rand(2), random.random(), numpy.random.rand()
        x = self.relu(self.norm(self.convolution(x)))
        self.norm.train()
        if self.fails:
            self.convolution.requires_grad_(False)
            self.convolution.register_forward_hook(lambda *_: None)
            self.spectral.double()
            torch.set_default_dtype(torch.float64)
            torch.set_num_threads(1)
            raise RanIntoError
        return self.dropout(self.spectral(x))


def state(model):
    modules = {
        name: (type(m), m.training, {k: copy.copy(v) for k, v in vars(m).items() if "hooks" in k},
               {k: v for k, v in vars(m).items() if isinstance(v, int | float)}, sorted(vars(m)))
        for name, m in model.named_modules()
    }  # fmt: skip
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    values = {name: (id(t), t.dtype, t.requires_grad, t.tolist()) for name, t in tensors.items()}
    gradients = {k: (id(t.grad), t.grad.tolist()) for k, t in tensors.items() if t.grad is not None}
    rest = model.seen[:], copy.deepcopy(model.notes), model.total.item()
    return modules, values, gradients, rest


def surroundings():
    return (
        torch.get_rng_state().tolist(), random.getstate(), str(numpy.random.get_state()),
        torch.get_default_dtype(), torch.is_grad_enabled(), torch.get_num_threads(),
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32,
        torch.backends.mha.get_fastpath_enabled(), len(nn.modules.module._global_forward_hooks),
    )  # fmt: skip


def loss(output, labels):
    return output.mean((1, 2, 3)).sum() * labels.sum()


IMAGES = torch.rand(2, 3, 8, 8)
BATCH = IMAGES, torch.ones(2)
LOOKS = {
    "convert": cnn_ext.convert,
    "revert": cnn_ext.revert,
    "left_alone": left_alone,
    "compare": lambda m: cnn_ext.compare(m, IMAGES, rounds=1, progress=False),
    "layer_errors": lambda m: layer_errors(m, m, loss, BATCH),
    "step_seconds": lambda m: step_seconds([m], loss, BATCH, rounds=1),
    "receptive_field": lambda m: receptive_field(m, (3, 8, 8)),
    "follow": lambda m: follow(m, (3, 8, 8)),
    "fields_of": lambda m: fields_of(m, (3, 8, 8)),
    "layers": lambda m: visualize.layers(m, (3, 8, 8)),
    "architecture": lambda m: visualize.architecture(m, (3, 8, 8)),
    "feature_maps": lambda m: visualize.feature_maps(m, IMAGES[0]),
    "exciting_patches": lambda m: visualize.exciting_patches(m, "convolution", IMAGES, 0),
    "receptive_fields": lambda m: visualize.receptive_fields(m, IMAGES[0]),
    "hierarchy": lambda m: visualize.hierarchy(m, ["convolution"], IMAGES, 1, 1),
    "filters": lambda m: visualize.filters(m, "spectral"),
    "copied": copied,
}
# They run nothing, or show the layers before the one that refuses its input.
NEVER_RAISE = {"convert", "revert", "left_alone", "filters", "copied", "receptive_field", "fields_of"}
MODES = {
    "training": lambda m: m.train(),
    "mixed": lambda m: (m.train(), m.norm.eval(), m.spectral.eval()),
}


@pytest.mark.parametrize("fails", [False, True], ids=["well", "error"])
@pytest.mark.parametrize("mode", list(MODES))
@pytest.mark.parametrize("name", list(LOOKS))
def test_looking_leaves_the_model_and_its_surroundings_as_they_were(name, mode, fails):
    model, calls = Restless(), []
    model(IMAGES).sum().backward()
    MODES[mode](model)
    model.fails = fails
    model.relu.register_forward_hook(lambda *_: calls.append(1))
    images = IMAGES.clone()
    before = state(model), surroundings()
    raises = fails and name not in NEVER_RAISE
    expected = pytest.raises((RanIntoError, ValueError)) if raises else contextlib.nullcontext()
    with expected, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        LOOKS[name](model)
    assert state(model) == before[0]
    assert surroundings() == before[1]
    assert torch.equal(images, IMAGES)


def test_pictures_of_a_function_leave_a_module_as_it_was():
    norm = nn.BatchNorm2d(2).double().train()
    visualize.normalising_cells(Figure().subplots(), norm, (2, 2, 2, 2), (0, 0, 0, 0))
    visualize.jacobian(Figure().subplots(), nn.Sequential(nn.Linear(2, 3), nn.Dropout()), torch.rand(2))
    assert norm.num_batches_tracked == 0
    assert not norm.running_mean.any()


def test_a_lazy_model_that_was_looked_at_is_lazy():
    model = nn.Sequential(nn.LazyConv2d(2, 3), nn.LazyBatchNorm2d(), nn.Flatten(), nn.LazyLinear(3))
    rows = visualize.layers(model, (1, 5, 5))
    assert [row.parameters for row in rows] == [20, 4, 0, 57]
    with looking_at(model):
        model(torch.zeros(1, 4, 5, 5))
    assert type(model[0]) is nn.LazyConv2d
    assert all(map(nn.parameter.is_lazy, model.parameters()))
    assert type(copied(model)[0]) is nn.LazyConv2d
    model(torch.zeros(2, 7, 6, 6))
    assert model[0].weight.shape == (2, 7, 3, 3)


def test_modules_that_do_more_when_their_mode_changes_do_it_twice():
    class Switches(nn.Module):
        way = "train"

        def train(self, mode=True):
            type(self).way = "train" if mode else "evaluate"
            return super().train(mode)

    model = Switches()
    with looking_at(model):
        assert model.way == "evaluate"
    assert (model.way, model.training) == ("train", True)


def test_weights_that_were_moved_come_back():
    model = nn.Linear(2, 2)
    where = model.weight.data_ptr()
    with preserved(model):
        model.half()
    assert (model.weight.dtype, model.weight.data_ptr()) == (torch.float32, where)
