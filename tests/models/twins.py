"""Two builds of one network, trained side by side: what the tests of every network share."""

import copy

import torch

import cnn_ext


def assert_twins(build, image, loss, rtol, later=None, dtype=torch.double, steps=10, lr=1e-3):
    """Outputs, loss, every gradient, and so many steps of SGD agree within ``rtol`` of their scale.

    ``later`` is the bound of gradients, which jump where a ReLU's input rounds to the other side of
    zero, and of all after the first step, which has amplified that; ``rtol`` if not given.
    ``build(layers)`` gives the network; dropout is drawn alike for both.
    """
    ours = build(cnn_ext.nn).to(dtype)
    theirs = build(torch.nn).to(dtype)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    theirs.load_state_dict(ours.state_dict())
    start = copy.deepcopy(ours.state_dict())
    images, labels = image.to(dtype), torch.arange(len(image)) % 3
    optimizers = [torch.optim.SGD(m.parameters(), lr=lr, momentum=0.9) for m in (ours, theirs)]
    for step in range(steps):
        results = []
        for model, optimizer in zip((ours, theirs), optimizers, strict=True):
            torch.manual_seed(step)
            optimizer.zero_grad()
            output = model(images)
            value = loss(output, labels)
            value.backward()
            results.append((output.detach(), value.detach()))
        (output, value), (other, other_value) = results
        bound = (later or rtol) if step else rtol
        close(output, other, bound, f"output of step {step}")
        close(value, other_value, bound, f"loss of step {step}")
        if step == 0:
            gradients = [{n: p.grad for n, p in m.named_parameters()} for m in (ours, theirs)]
            layers_close(*gradients, later or rtol, "gradient of")
        for optimizer in optimizers:
            optimizer.step()
    layers_close(ours.state_dict(), theirs.state_dict(), later or rtol, "after the last step,")
    assert any(not torch.equal(value, start[name]) for name, value in ours.state_dict().items())


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
