"""Two builds of one network within a training step: errors that run through the network, and times."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cnn_ext._inspection import copied, preserved
from cnn_ext.comparison.errors import relative_error
from cnn_ext.enabling import torch_only

Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class LayerErrors:
    """Relative rms errors against float64 of one layer, within the whole network."""

    layer: str
    output: float | None
    grad_output: float | None  # of the loss in the layer's output
    grad_weight: float | None  # None: the layer has no weight


@torch_only()
def layer_errors(
    network: torch.nn.Module, exact: torch.nn.Module, loss: Loss, batch: tuple[Tensor, Tensor]
) -> list[LayerErrors]:
    """The error of each layer's output and gradients, over one batch.

    Args:
        network: in float32.
        exact: the same network on operations to trust, with the same keys; its weights are replaced
            by the network's, in float64.
        loss: of output and labels.
        batch: images and labels.
    """
    exact = copied(exact).double()
    exact.load_state_dict(network.state_dict())
    images, labels = batch
    with preserved(network):
        ours = _record(network, loss, images, labels)
    with preserved(exact):
        theirs = _record(exact, loss, images.double(), labels)

    def errors(name: str) -> list[float | None]:
        pairs = zip(ours[name], theirs[name], strict=True)
        return [None if a is None or b is None else relative_error(a, b) for a, b in pairs]

    return [LayerErrors(name, *errors(name)) for name in ours]


def _record(network, loss, images, labels) -> dict[str, list[Tensor | None]]:
    """Of every child that was called: its last output, and gradients of the loss there."""
    network = copied(network)
    outputs: dict[str, Tensor] = {}

    def hook(name: str):
        def record(_module, _inputs, output):
            output.retain_grad()
            outputs[name] = output

        return record

    for name, module in network.named_children():
        module.register_forward_hook(hook(name))
    loss(network(images), labels).backward()
    weights = dict(network.named_parameters())
    return {
        name: [output.detach(), output.grad, getattr(weights.get(f"{name}.weight"), "grad", None)]
        for name, output in outputs.items()
    }


@torch_only()
def step_seconds(
    networks: Sequence[torch.nn.Module],
    loss: Loss,
    batch: tuple[Tensor, Tensor],
    rounds: int = 100,
) -> list[float]:
    """The median time of a training step – forward, backward, SGD – of each network.

    The networks take turns, so that all of them meet the machine in the same state.
    """
    images, labels = batch
    networks = [copied(network) for network in networks]
    optimizers = [torch.optim.SGD(network.parameters(), lr=1e-4) for network in networks]
    seconds: list[list[float]] = [[] for _ in networks]
    with preserved():  # which the numbers are that dropout draws
        for round_ in range(rounds + 5):
            for i, (network, optimizer) in enumerate(zip(networks, optimizers, strict=True)):
                start = time.perf_counter()
                loss(network(images), labels).backward()
                optimizer.step()
                optimizer.zero_grad()
                if round_ >= 5:  # the first few warm up
                    seconds[i].append(time.perf_counter() - start)
    return [statistics.median(times) for times in seconds]
