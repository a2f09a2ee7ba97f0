"""What the tests of the operations declare for tests that all of them share."""

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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
