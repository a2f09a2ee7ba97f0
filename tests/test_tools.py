"""Tools that look at a model or transform it: they know our layers as they know torch's.

Where one cannot, the line of torch's source that forbids it is held here: if it changes, the answer
may.
"""

import copy
import inspect
import io
import pickle
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.functional import hessian, jacobian
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.passes.shape_prop import ShapeProp
from torch.nn.utils import prune
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.overrides import TorchFunctionMode
from torch.testing._internal.two_tensor import TwoTensor
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

import cnn_ext
from cnn_ext import functional
from tests.every_operation import declared


class Network(nn.Module):
    """Every layer that has a twin."""

    def __init__(self, layers=cnn_ext.nn):
        super().__init__()
        self.first = layers.Conv2d(3, 8, 3, padding="same")
        self.norm = layers.LocalResponseNorm(3)
        self.pool = layers.MaxPool2d(2)
        self.second = layers.Conv2d(8, 8, 3, padding=1, padding_mode="reflect", bias=False)
        self.batch_norm = nn.BatchNorm2d(8)
        self.up = layers.ConvTranspose2d(8, 4, 3, 2, 1)
        self.dense = layers.Linear(4, 5)

    def forward(self, x):
        x = self.pool(self.norm(self.first(x)))
        x = torch.relu(self.batch_norm(self.second(x)))
        return self.dense(self.up(x, output_size=[16, 16]).mean((2, 3)))


def twins():
    """The network on our layers, and on torch's."""
    ours, theirs = Network().eval(), Network(nn).eval()
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


IMAGES = torch.randn(2, 3, 16, 16)

# Every function, its torch twin, and arguments; of doubles, for derivatives.
FUNCTIONS = {name: call for calls in declared("CALLS") for name, call in calls.items()}
functions = pytest.mark.parametrize("name", FUNCTIONS)


def assert_same(name, compute):
    """compute(function, arguments) is the same for ours and torch's."""
    call, arguments = FUNCTIONS[name]
    ours, theirs = (compute(lambda *a, m=m: call(m, *a), arguments) for m in (functional, F))
    torch.testing.assert_close(ours, theirs)


# ---------------------------------------------------------------------------------------- torch.fx


def test_fx_records_our_layers_where_it_records_torchs():
    ours, theirs = twins()
    graphs = [torch.fx.symbolic_trace(net).graph for net in (ours, theirs)]
    assert [(n.op, n.name) for n in graphs[0].nodes] == [(n.op, n.name) for n in graphs[1].nodes]
    traced = torch.fx.symbolic_trace(ours)
    assert type(traced.first) is cnn_ext.nn.Conv2d
    for same in (traced, pickle.loads(pickle.dumps(traced)), copy.deepcopy(traced),
                 torch.fx.Transformer(traced).transform()):  # fmt: skip
        assert torch.equal(same(IMAGES), ours(IMAGES))
    ShapeProp(traced).propagate(IMAGES)
    assert {n.name: n for n in traced.graph.nodes}["pool"].meta["tensor_meta"].shape == (2, 8, 8, 8)


@pytest.mark.parametrize(
    ("layer", "size"),
    [
        (cnn_ext.nn.Conv2d(3, 4, 3, padding="half"), (2, 3, 9, 9)),
        (cnn_ext.nn.Conv2d(3, 4, 5, 2, padding="same"), (2, 3, 9, 9)),
        (cnn_ext.nn.Conv2d(3, 4, 5, 2, padding="same", padding_mode="circular"), (2, 3, 9, 9)),
        (cnn_ext.nn.Conv1d(3, 4, 3, padding=(0, 1)), (2, 3, 9)),
        (cnn_ext.nn.ConvReLU2d(3, 4, 3), (2, 3, 9, 9)),
        (cnn_ext.nn.MaxPool2d(2), (2, 3, 9, 9)),
        (cnn_ext.nn.LocalResponseNorm(3, region="spatial"), (2, 3, 9, 9)),
        (cnn_ext.nn.Linear(9, 2), (2, 9)),
    ],
    ids=str,
)
def test_fx_traces_a_layer_by_itself_as_one_function_of_ours(layer, size):
    traced, input = torch.fx.symbolic_trace(layer), torch.randn(size)
    assert torch.equal(traced(input), layer(input))
    called = [node.target.__module__ for node in traced.graph.nodes if node.op == "call_function"]
    assert called[-1].startswith("cnn_ext.functional")


@functions
def test_fx_records_a_function(name):
    call, arguments = FUNCTIONS[name]
    body = {1: lambda x: call(functional, x), 3: lambda x, w, b: call(functional, x, w, b),
            4: lambda x, p, v, a: call(functional, x, p, v, a)}[len(arguments)]  # fmt: skip
    traced = torch.fx.symbolic_trace(body)
    targets = [node.target for node in traced.graph.nodes if node.op == "call_function"]
    assert getattr(functional, name) in targets
    assert torch.equal(traced(*arguments), body(*arguments))


def test_fx_leaves_hooks_to_the_layer():
    pruned = nn.Sequential(cnn_ext.nn.Conv2d(3, 4, 3), cnn_ext.nn.Conv2d(4, 4, 3))
    prune.l1_unstructured(pruned[0], "weight", 0.5)
    torch.nn.utils.parametrizations.weight_norm(pruned[1])
    seen = []
    pruned[0].register_forward_hook(lambda *_: seen.append("hook"))
    traced = torch.fx.symbolic_trace(pruned)
    assert seen == []
    assert [node.op for node in traced.graph.nodes] == ["placeholder", *["call_module"] * 2, "output"]
    assert torch.equal(traced(IMAGES), pruned(IMAGES))
    assert seen == ["hook", "hook"]


def test_fx_traces_through_a_subclass_as_it_does_through_one_of_torchs():
    class Doubled(cnn_ext.nn.Conv2d):
        def forward(self, input):
            return 2 * super().forward(input)

    layer = nn.Sequential(Doubled(3, 4, 3))
    traced = torch.fx.symbolic_trace(layer)
    assert torch.equal(traced(IMAGES), layer(IMAGES))


def test_a_tracer_that_wants_no_leaf_of_torchs_gets_none_of_ours():
    class Through(torch.fx.Tracer):
        def is_leaf_module(self, module, name):
            return isinstance(module, nn.MaxPool2d)

    layers = nn.Sequential(cnn_ext.nn.Conv2d(3, 4, 3), cnn_ext.nn.MaxPool2d(2))
    operations = [node.op for node in Through().trace(layers).nodes]
    assert operations == [
        "placeholder",
        "get_attr",
        "get_attr",
        "call_function",
        "call_module",
        "output",
    ]


def test_features_are_extracted_under_torchs_names():
    ours, theirs = twins()
    assert get_graph_node_names(ours) == get_graph_node_names(theirs)
    for name in ("first", "norm", "pool", "second", "up", "dense"):
        a, b = (create_feature_extractor(net, [name])(IMAGES)[name] for net in (ours, theirs))
        torch.testing.assert_close(a, b)


def test_fx_traces_a_frozen_model():
    """Layer by layer: a graph that may be changed has no layers that became one."""
    frozen = cnn_ext.freeze(twins()[0])
    torch.testing.assert_close(torch.fx.symbolic_trace(frozen)(IMAGES), frozen(IMAGES))


# ----------------------------------------------------------------------------------- torch.jit.trace


@pytest.mark.parametrize(
    ("layer", "traced_on", "run_on"),
    [
        *((cnn_ext.nn.Conv2d(3, 4, 3, stride, padding, padding_mode=mode), (1, 3, 8, 8), (2, 3, 11, 10))
          for padding in ("same", "half", "full", (1, 0, 2, 1)) for stride in (1, 2)
          for mode in ("zeros", "circular") if (padding, mode) != ("full", "circular")),
        (cnn_ext.nn.ConvReLU2d(3, 4, 3, padding="half"), (1, 3, 8, 8), (2, 3, 9, 9)),
        (cnn_ext.nn.ConvTranspose1d(3, 4, 3, 2, 1, 1), (1, 3, 8), (3, 7)),
        (cnn_ext.nn.ConvTranspose2d(3, 4, 3, 2, 1), (1, 3, 8, 8), (2, 3, 5, 6)),
        (cnn_ext.nn.ConvTranspose3d(3, 4, 3), (1, 3, 4, 4, 4), (2, 3, 5, 2, 3)),
        (cnn_ext.nn.MaxPool2d(3, 2), (1, 3, 8, 8), (2, 3, 9, 9)),
        (cnn_ext.nn.LocalResponseNorm(3), (1, 3, 8, 8), (2, 5, 9, 9)),
        (cnn_ext.nn.Linear(1100, 1000), (1, 1100), (3, 90, 1100)),
    ],
    ids=str,
)  # fmt: skip
def test_a_trace_serves_other_sizes_and_trains(layer, traced_on, run_on):
    with warnings.catch_warnings():
        warnings.simplefilter("error", torch.jit.TracerWarning)  # that the trace may not generalise
        traced = torch.jit.trace(layer, torch.randn(traced_on))
    stored = io.BytesIO()
    torch.jit.save(traced, stored)
    stored.seek(0)
    gradients = []
    input = torch.randn(run_on)
    for module in (layer, torch.jit.load(stored)):
        leaf = input.clone().requires_grad_()
        output = module(leaf)
        torch.testing.assert_close(output, layer(input))
        gradients.append(torch.autograd.grad(output.square().sum(), leaf)[0])
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize(
    ("function", "traced_on", "run_on"),
    [
        (lambda x: functional.unfold(x, 2, padding=1), (1, 3, 8, 8), (2, 3, 6, 7)),
        (lambda x: functional.fold(x, (5, 5), 2), (1, 8, 16), (3, 12, 16)),
        (
            lambda x: functional.conv_transpose2d(x, torch.ones(3, 1, 2, 2), stride=2),
            (3, 4, 4),
            (3, 5, 7),
        ),
    ],
    ids=["unfold", "fold", "conv_transpose2d"],
)
def test_a_trace_of_a_function_serves_other_sizes(function, traced_on, run_on):
    traced, input = torch.jit.trace(function, torch.randn(traced_on)), torch.randn(run_on)
    assert torch.equal(traced(input), function(input))


# ------------------------------------------------------- vmap, functionalisation, compiled autograd


@functions
def test_the_old_vmap_of_hessian_and_jacobian(name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the fallback is slow
        assert_same(name, lambda f, a: jacobian(f, a, vectorize=True))
        assert_same(name, lambda f, a: hessian(lambda *a: f(*a).pow(3).sum(), a, vectorize=True))


@functions
def test_batched_gradients(name):
    def gradients(function, arguments):
        leaves = [a.clone().requires_grad_() for a in arguments]
        output = function(*leaves)
        first = torch.autograd.grad(output.pow(3).sum(), leaves, create_graph=True)
        batch = [torch.ones(2, *t.shape).double().cumsum(0) for t in first]
        second = torch.autograd.grad(
            first, leaves, batch, is_grads_batched=True, allow_unused=True, materialize_grads=True
        )
        once = torch.ones(3, *output.shape).double().cumsum(0)
        return second, torch.autograd.grad(function(*leaves), leaves, once, is_grads_batched=True)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert_same(name, gradients)


@functions
def test_functionalisation(name):
    def computed(function, arguments):
        gradient = torch.func.functionalize(torch.func.grad(lambda *a: function(*a).pow(3).sum()))
        return (
            torch.func.functionalize(function)(*arguments),
            gradient(*arguments),
            make_fx(gradient)(*arguments)(*arguments),
        )

    assert_same(name, computed)


def test_functionalisation_of_other_functions_is_left_to_torch():
    class Other(torch.autograd.Function):
        @staticmethod
        def forward(x):
            return x * 2

        @staticmethod
        def setup_context(ctx, inputs, output):
            pass

    with pytest.raises(RuntimeError, match="NYI: Functionalize rule"):
        torch.func.functionalize(Other.apply)(torch.ones(2))


@pytest.mark.parametrize(
    "name", [name for name in FUNCTIONS if "fold" not in name and name != "conv1d"]
)
def test_compiled_autograd(name):
    def gradients(function, arguments):
        leaves = [a.clone().requires_grad_() for a in arguments]
        first = torch.autograd.grad(function(*leaves).pow(3).sum(), leaves, create_graph=True)
        sum(t.square().sum() for t in first).backward()
        return [leaf.grad for leaf in leaves]

    call, arguments = FUNCTIONS[name]
    expected = gradients(lambda *a: call(functional, *a), arguments)
    torch._dynamo.reset()
    with torch._dynamo.compiled_autograd._enable(torch.compile(backend="eager")):
        compiled = gradients(lambda *a: call(functional, *a), arguments)
    torch.testing.assert_close(compiled, expected)


# ---------------------------------------------------------------------- tensor subclasses and modes


@functions
@pytest.mark.parametrize("requires_grad", [False, True])
def test_a_tensor_subclass_stays_one(name, requires_grad):
    call, arguments = FUNCTIONS[name]
    for at in range(len(arguments)):
        mixed = list(arguments)
        mixed[at] = TwoTensor(mixed[at].clone(), mixed[at].clone()).requires_grad_(requires_grad)
        output = call(functional, *mixed)
        assert type(output) is TwoTensor
        torch.testing.assert_close(output.a, call(functional, *arguments))
        if requires_grad:
            output.sum().backward()
            assert type(mixed[at].grad) is TwoTensor


def test_modes_and_subclasses_with_torch_function_see_our_functions():
    class Seen(TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            names.append(function.__name__)
            return function(*args, **(kwargs or {}))

    seen = []
    for net in twins():
        names = []
        with Seen():
            net(IMAGES)
        seen.append(names)
    assert seen[0] == seen[1]

    class Marked(torch.Tensor):
        pass

    assert type(twins()[0](IMAGES.as_subclass(Marked))) is Marked


# ---------------------------------------------------------------------------- counters and surgery


def test_flops_of_a_network_are_torchs():
    counts = []
    for net in twins():
        with FlopCounterMode(display=False) as counter:
            net.train()(IMAGES).sum().backward()
        counts.append({name: sum(by.values()) for name, by in counter.get_flop_counts().items()})
    assert counts[0] == counts[1]
    assert counts[0]["Network.up"] > 0


def test_counters_that_hook_torchs_layers_hook_ours():
    counted = []
    ours, _ = twins()
    for layer in ours.modules():
        if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
            layer.register_forward_hook(lambda layer, _, output: counted.append(output[0].numel()))
    ours(IMAGES)
    assert counted == [8 * 256, 8 * 64, 4 * 256, 5]


def test_batch_norm_is_fused_by_torchs_tool():
    ours, _ = twins()
    fused, input = fuse_conv_bn_eval(ours.second, ours.batch_norm), torch.randn(1, 8, 5, 5)
    assert type(fused) is cnn_ext.nn.Conv2d
    torch.testing.assert_close(fused(input), ours.batch_norm(ours.second(input)))


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpoints_recompute_with_the_same_gradients(reentrant):
    gradients = []
    for call in (lambda net, x: net(x), lambda net, x: checkpoint(net, x, use_reentrant=reentrant)):
        torch.manual_seed(0)
        net, leaf = Network(), IMAGES.clone().requires_grad_()
        call(net, leaf).square().sum().backward()
        gradients.append([leaf.grad, *(p.grad for p in net.parameters())])
    torch.testing.assert_close(*gradients)


def test_an_ensemble_is_one_vmap():
    nets = [Network().eval() for _ in range(2)]
    parameters, buffers = torch.func.stack_module_state(nets)
    base = copy.deepcopy(nets[0]).to("meta")

    def call(parameters, buffers):
        return torch.func.functional_call(base, (parameters, buffers), (IMAGES,))

    torch.testing.assert_close(
        torch.vmap(call)(parameters, buffers), torch.stack([net(IMAGES) for net in nets])
    )


@pytest.mark.parametrize("name", ["LazyConvTranspose1d", "LazyConvTranspose2d", "LazyConvTranspose3d"])
def test_lazy_transposed_layers_become_ours(name):
    axes = int(name[-2])
    torch.manual_seed(0)
    theirs = getattr(nn, name)(4, 3)
    converted = cnn_ext.convert(theirs)
    torch.manual_seed(0)
    ours = getattr(cnn_ext.nn, name)(4, 3)
    input = torch.randn(2, 3, *(5, 4, 3)[:axes])
    for layer in (ours, converted):
        layer(input)
        assert type(layer) is getattr(cnn_ext.nn, name[4:])
        assert layer.in_channels == 3
    assert type(cnn_ext.revert(ours)) is getattr(nn, name[4:])


# ------------------------------------------------------------------------------------ quantisation


def test_quantisation_takes_a_model_that_is_reverted_and_leaves_ours_in_floating_point():
    from torch.ao.quantization import get_default_qconfig_mapping, quantize_dynamic
    from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx

    # Without a transposed convolution, which torch does not quantise by default.
    ours = nn.Sequential(
        cnn_ext.nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), cnn_ext.nn.MaxPool2d(2),
        nn.Flatten(), cnn_ext.nn.Linear(8 * 64, 5),
    ).eval()  # fmt: skip
    theirs = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(8 * 64, 5),
    ).eval()  # fmt: skip
    theirs.load_state_dict(ours.state_dict())
    mapping = get_default_qconfig_mapping(torch.backends.quantized.engine)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.ao.quantization is deprecated
        outputs = []
        for net in (ours, cnn_ext.revert(ours), theirs):
            prepared = prepare_fx(copy.deepcopy(net), mapping, (IMAGES,))
            prepared(IMAGES)
            outputs.append(convert_fx(prepared)(IMAGES))
        dynamic = quantize_dynamic(cnn_ext.revert(ours), {nn.Linear})
        untouched = quantize_dynamic(ours, {nn.Linear})
    assert torch.equal(outputs[1], outputs[2])
    torch.testing.assert_close(outputs[0], ours(IMAGES), rtol=0.1, atol=0.05)
    assert type(dynamic[-1]).__module__.startswith("torch.ao.nn.quantized.dynamic")
    assert type(untouched[-1]) is cnn_ext.nn.Linear


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("torch.ao.quantization.fx.match_utils",
         "if type_before_parametrizations(modules[node.target]) != self_match:"),
        ("torch.ao.quantization.quantize", "elif type_before_parametrizations(mod) in mapping:"),
        ("torch.ao.nn.quantized.dynamic.modules.linear", "if type(mod) not in float_modules:"),
        ("torch.ao.quantization.fuse_modules",
         "types = tuple(type_before_parametrizations(m) for m in mod_list)"),
    ],
    ids=["prepare_fx", "quantize_dynamic", "dynamic Linear", "fuse_modules"],
)  # fmt: skip
def test_torchs_lines_that_keep_quantisation_to_its_own_classes(module, line):
    source = inspect.getsource(__import__(module, fromlist=["_"]))
    assert line in source
