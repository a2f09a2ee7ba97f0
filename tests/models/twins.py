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
    kinks = SharedKinks(ours, theirs, later or rtol)
    for step in range(steps):
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
        bound = (later or rtol) if step else rtol
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
    there, right as both are. Such an input is given the twin's value, and its gradient passes through;
    it must lie within ``rtol`` of the scale, so that nothing wrong can hide behind it.
    """

    def __init__(self, ours, theirs, rtol):
        self.rtol, self.inputs = rtol, []
        for model, hook in ((theirs, self._note), (ours, self._take)):
            for module in model.modules():
                if isinstance(module, torch.nn.ReLU | torch.nn.MaxPool2d):
                    module.register_forward_pre_hook(hook)

    def _note(self, module, inputs):
        self.inputs.append(inputs[0].detach().clone())

    def _take(self, module, inputs):
        (ours,), theirs = inputs, self.inputs.pop(0)
        if isinstance(module, torch.nn.ReLU):
            parted = (ours > 0) != (theirs > 0)
        else:
            parted = (picked(module, ours) != picked(module, theirs)).flatten(2).any(2)[..., None, None]
        if not parted.any():
            return None
        close(ours * parted, theirs * parted, self.rtol, "beside a kink", theirs.abs().max().item())
        return torch.where(parted, ours + (theirs - ours).detach(), ours)


def picked(pool, input):
    """Which pixel each window of a max-pooling picks."""
    arguments = (pool.kernel_size, pool.stride, pool.padding, pool.dilation, pool.ceil_mode)
    return torch.nn.functional.max_pool2d(input, *arguments, return_indices=True)[1]


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
