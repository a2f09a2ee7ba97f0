"""What the tests of the operations share, and what they declare for tests of them all."""

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

from cnn_ext.operations import OPERATIONS

TESTS = Path(__file__).parent


def declared(name: str) -> Iterator[Any]:
    """What test files of operations have under a name, in the order of the registry."""
    for operation in OPERATIONS:
        for folder in ("ops", "functional"):
            if (TESTS / folder / f"test_{operation.name}.py").exists():
                module = importlib.import_module(f"tests.{folder}.test_{operation.name}")
                if hasattr(module, name):
                    yield getattr(module, name)


class Counter(TorchDispatchMode):
    """Counts calls of our operations."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.namespace == "cnn_ext":
            self.calls.append(function._opname)
        return function(*args, **(kwargs or {}))
