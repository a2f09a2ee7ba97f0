"""torch.library.opcheck on every operation of every operation's schema, with a sample of its tests."""

import pytest
import torch

from cnn_ext.operations import OPERATIONS
from tests.every_operation import declared


def samples():
    """By name, what tests/ops/test_NAME.py yields as dispatched()."""
    return {
        operation._qualified_op_name.removeprefix("cnn_ext::"): (operation, arguments)
        for dispatched in declared("dispatched")
        for operation, arguments in dispatched()
    }


@pytest.mark.parametrize("name", [name for one in OPERATIONS for name in one.dispatched()])
def test_opcheck(name):
    found = samples()
    assert name in found, f"{name}: expected a sample from dispatched() in tests/ops/test_NAME.py"
    operation, arguments = found[name]
    assert set(torch.library.opcheck(operation.default, arguments).values()) == {"SUCCESS"}
