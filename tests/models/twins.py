"""Two builds of one network, trained side by side: what the tests of every network share."""

import copy

import torch

import cnn_ext


def assert_twins(build, image, loss, rtol, later=None, dtype=torch.double, steps=10, lr=1e-3):
    """Outputs, loss, every gradient, and so many steps of SGD agree within ``rtol`` of their scale.

    ``later`` is the bound of gradients and of all after the first step, which has amplified what the
    first left; ``rtol`` if not given. ``build(layers)`` gives the network; dropout is drawn alike for
    both, and both stand on the same side of every kink (see :class:`SharedKinks`).
    """
    ours = build(cnn_ext.nn).to(dtype)
    theirs = build(torch.nn).to(dtype)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    theirs.load_state_dict(ours.state_dict())
    start = copy.deepcopy(ours.state_dict())
    images, labels = image.to(dtype), torch.arange(len(image)) % 3
    optimizers = [torch.optim.SGD(m.parameters(), lr=lr, momentum=0.9) for m in (ours, theirs)]
    kinks = SharedKinks(ours, theirs)
    for step in range(steps):
        bound = kinks.rtol = (later or rtol) if step else rtol
        results = []
        for model, optimizer in zip((theirs, ours), reversed(optimizers), strict=True):
            torch.manual_seed(step)
            optimizer.zero_grad()
            output = model(images)
            value = loss(output, labels)
            value.backward()
            results.append((output.detach(), value.detach()))
        assert not kinks.inputs
        (other, other_value), (output, value) = results
        close(output, other, bound, f"output of step {step}")
        close(value, other_value, bound, f"loss of step {step}")
        gradients = [{n: p.grad for n, p in m.named_parameters()} for m in (ours, theirs)]
        layers_close(*gradients, later or rtol, f"in step {step} the gradient of")
        for optimizer in optimizers:
            optimizer.step()
    layers_close(ours.state_dict(), theirs.state_dict(), later or rtol, "after the last step,")
    assert any(not torch.equal(value, start[name]) for name, value in ours.state_dict().items())


class SharedKinks:
    """Lets ``ours`` take the side of each kink on which ``theirs``, run just before, stood.

    Any two ways of computing a layer round differently. A gradient jumps where a ReLU's input thereby
    falls on the other side of zero, or another of two near maxima is pooled, and two trainings part
    there, right as both are. Such an input is given the twin's value, and its gradient passes through.
    It must lie within ``rtol`` of that, in the scale of the map, and there must be few, so that nothing
    wrong can hide behind them.
    """

    MOST = 8  # of a layer

    def __init__(self, ours, theirs):
        self.rtol, self.inputs = 0.0, []
        for model, hook in ((theirs, self._note), (ours, self._take)):
            for module in model.modules():
                if isinstance(module, torch.nn.ReLU | torch.nn.MaxPool2d):
                    module.register_forward_pre_hook(hook)

    def _note(self, module, inputs):
        self.inputs.append(inputs[0].detach().clone())

    def _take(self, module, inputs):
        (ours,), theirs = inputs, self.inputs.pop(0)
        relu = isinstance(module, torch.nn.ReLU)
        parted = (ours > 0) != (theirs > 0) if relu else picked_apart(module, ours, theirs)
        if not parted.any():
            return None
        assert parted.sum() <= self.MOST
        close(ours * parted, theirs * parted, self.rtol, "beside a kink", theirs.abs().max().item())
        return torch.where(parted, ours + (theirs - ours).detach(), ours)


def picked_apart(pool, *maps):
    """The cells that some window of a max-pooling picks in one of two maps and not in the other."""
    arguments = (pool.kernel_size, pool.stride, pool.padding, pool.dilation, pool.ceil_mode)
    first, second = (
        torch.nn.functional.max_pool2d(m, *arguments, return_indices=True)[1].flatten(2) for m in maps
    )
    apart = (first != second).byte()
    cells = torch.zeros_like(maps[0], dtype=torch.uint8).flatten(2)
    for picked in (first, second):
        cells.scatter_reduce_(2, picked, apart, "amax")
    return cells.view(maps[0].shape).bool()


def layers_close(ours, theirs, rtol, what):
    """Each tensor, in the scale of its layer: a bias before batch normalisation has no gradient."""
    scales = {}
    for name, value in theirs.items():
        layer = name.rpartition(".")[0]
        scales[layer] = max(scales.get(layer, 0.0), value.abs().max().item())
    for name, value in theirs.items():
        close(ours[name], value, rtol, f"{what} {name}", scales[name.rpartition(".")[0]])


def close(a, b, rtol, what, scale=None):
    """The largest difference is within ``rtol`` of the scale: the largest entry, if none is given."""
    difference = (a - b).abs().max().item()
    assert difference <= rtol * (scale or b.abs().max().item()), f"{what}: {difference}"
