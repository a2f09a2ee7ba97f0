"""The measurements of the demonstration: they must notice what is wrong."""

import pytest
import torch
from torch import nn

from cnn_ext.training.compare import layer_errors, relative_error, step_seconds

BATCH = torch.randn(4, 3), torch.tensor([0, 1, 1, 0])
LOSS = nn.CrossEntropyLoss()


def a_network():
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2))


def test_errors_of_float32_are_rounding():
    network = a_network()
    rows = layer_errors(network, network, LOSS, BATCH)
    assert [row.layer for row in rows] == ["0", "1", "2"]
    for row in rows:
        assert 0 < row.output < 1e-6
        assert 0 < row.grad_output < 1e-6
    assert [row.grad_weight is None for row in rows] == [False, True, False]


def test_a_wrong_layer_is_seen_where_it_is():
    class Wrong(nn.Tanh):
        def forward(self, input):
            return super().forward(input) * 1.01

    network = a_network()
    wrong = nn.Sequential(network[0], Wrong(), network[2])
    first, second, third = layer_errors(wrong, network, LOSS, BATCH)
    assert first.output < 1e-6
    assert second.output == pytest.approx(0.01, rel=0.01)
    assert third.output > 1e-4
    assert first.grad_output > 1e-4


def test_networks_are_left_as_they_were():
    network = a_network()
    before = [p.clone() for p in network.parameters()]
    layer_errors(network, network, LOSS, BATCH)
    seconds = step_seconds([network, network], LOSS, BATCH, rounds=3)
    assert len(seconds) == 2
    assert all(torch.equal(p, q) for p, q in zip(network.parameters(), before, strict=True))
    assert all(p.grad is None for p in network.parameters())


def test_relative_error_of_nothing_is_nothing():
    zero = torch.zeros(3)
    assert relative_error(zero, zero) == 0
    assert relative_error(zero + 1, zero) == float("inf")
