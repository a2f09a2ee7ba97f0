"""Every CUDA kernel once, on little data: what compute-sanitizer can watch in reasonable time.

compute-sanitizer --tool racecheck python -m tests.cuda.reduced [--device cuda]

The tests of each operation say what that is: their function ``reduced(device)``.
"""

import argparse
import importlib
import sys
from pathlib import Path

import torch

import cnn_ext  # noqa: F401 - registers torch.ops.cnn_ext
from cnn_ext.operations import OPERATIONS

HERE = Path(__file__).parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    device = parser.parse_args().device
    if device == "cuda" and not torch.cuda.is_available():
        sys.exit("no GPU here: torch.cuda.is_available() is False")
    torch.manual_seed(0)
    for operation in OPERATIONS:
        if (HERE / f"test_{operation.name}.py").exists():
            importlib.import_module(f"tests.cuda.test_{operation.name}").reduced(device)
            print(operation.name, "ran", flush=True)
    if device == "cuda":
        torch.cuda.synchronize()
    print("every kernel ran")


if __name__ == "__main__":
    main()
