"""The operations on a GPU against torch's: convolution beside cuDNN, the others beside a copy too.

    python -m benchmarks.cuda [--out FILE.json] [--only OPERATION]
    python -m benchmarks.cuda --device cpu --quick     a dry run: the same code on tiny shapes

Every row is one interleaved run; its medians are compared. Times are of the device, by events, of a
call that follows an untimed one. The ratio is to torch in the same memory format and precision: above
1 ours is faster. Gradients are those of input and weight together. Layers are named as in
cnn_ext/bench/shapes.
"""

import argparse
import datetime
import importlib
import json
from pathlib import Path

import torch

from cnn_ext._native import _C
from cnn_ext.operations import OPERATIONS

HERE = Path(__file__).parent
SUBJECTS = [o.name for o in OPERATIONS if (HERE / f"{o.name}.py").exists()]


def table(name: str, figures: dict) -> str:
    """A row for a terminal."""
    cells = []
    for part in ("forward", "gradients"):
        if part in figures:
            t = figures[part]
            copy = f" {t['ours'] / t['copy']:6.2f} copies" if "copy" in t else ""
            cells.append(f"{part} {t['ours']:9.3f} ms {t['torch'] / t['ours']:6.2f}x{copy}")
    return f"{name:44}" + "   ".join(cells)


def machine(device: str) -> dict:
    """What a reader must know to repeat the figures."""
    build = _C.build_facts()
    facts = {"torch": torch.__version__, "cuda": torch.version.cuda,
             "cudnn": torch.backends.cudnn.version(),
             "built with": build["cuda_version"], "architectures": build["cuda_architectures"],
             "date": datetime.date.today().isoformat()}  # fmt: skip
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        facts["device"] = properties.name
        facts["memory GiB"] = round(properties.total_memory / 2**30, 1)
    return facts


def main() -> None:
    """Prints a table, and writes it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--only", choices=SUBJECTS)
    parser.add_argument("--quick", action="store_true", help="tiny shapes: whether it runs at all")
    parser.add_argument("--rounds", type=int, default=11)
    options = parser.parse_args()
    before = torch.backends.cudnn.allow_tf32
    rows = []
    for operation in SUBJECTS if options.only is None else [options.only]:
        benchmark = importlib.import_module(f"benchmarks.cuda.{operation}")
        for name, figures in benchmark.rows(options.device, options.quick, options.rounds):
            rows.append({"operation": operation, "name": name, **figures})
            print(table(name, figures), flush=True)
    torch.backends.cudnn.allow_tf32 = before
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        facts = {"machine": machine(options.device), "rows": rows}
        options.out.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
