"""Would a cost model choose better than the table of `auto`? Fits one, and judges both.

    python tools/fit_cost_model.py PATHS.json [MORE.json ...] --fit 0 1 2

The files are what `python -m cnn_ext bench paths --seeds ... --out` writes. For each pass, memory
format and path, time = a products + b products of whole panels + p packed cells + m bytes + c, where no
coefficient is negative and the sum of squared relative errors is least. The rows of the seeds after
--fit are fitted to; the two are judged on the others. Seeds are of random layers; the rows of the
benchmark have none. A layer that no fitted path serves is left out.
"""

import argparse
import collections
import itertools
import json
import math
from pathlib import Path

import torch

from cnn_ext.bench.convolution import Layer
from cnn_ext.bench.paths import losses

PANEL = 16  # filters, or channels in an input gradient, that a product fills up to
LEAST = 8  # rows that a path needs to be fitted


def features(sizes: dict, what: str, path: str) -> list[float]:
    """Millions of products, of products of whole panels, of packed cells, of bytes; and one.

    Winograd's products are those of tiles of 36 cells, in each phase of the stride.
    """
    facts = {name: tuple(v) if isinstance(v, list) else v for name, v in sizes.items()}
    layer = Layer(name="", set="", **facts)
    input, output = layer.input, tuple(layer.output_size())
    if layer.transposed:  # the input gradient of a convolution from its output to its input
        input, output = output, input
        what = {"forward": "input gradient", "input gradient": "forward"}.get(what, what)
    K, C, *filter = layer.weight
    strides = layer.stride if isinstance(layer.stride, tuple) else (layer.stride,) * len(filter)
    cells, taps = input[0] * math.prod(output[2:]), math.prod(filter)
    if path.startswith("winograd"):
        tiles = [-(-length // (7 - -(-r // s)))
                 for length, r, s in zip(output[2:], filter, strides, strict=True)]  # fmt: skip
        cells, taps = input[0] * math.prod(tiles), 36 * math.prod(strides)
    columns = C if what == "input gradient" else K // layer.groups
    filled = -(-columns // PANEL) * PANEL / columns
    products, patches = cells * K * C * taps, cells * C * layer.groups * taps
    elements = math.prod(input) + math.prod(output) + math.prod(layer.weight)
    return [products / 1e6, filled * products / 1e6, patches / 1e6, 4 * elements / 1e6, 1.0]


def fit(samples: list[tuple[list[float], float]]) -> torch.Tensor:
    """The coefficients, none negative: the best of the least-squares fits of all sets of features."""
    A = torch.tensor([row for row, _ in samples], dtype=torch.double)
    A = A / torch.tensor([time for _, time in samples], dtype=torch.double).unsqueeze(1)
    ones = torch.ones(len(samples), 1, dtype=torch.double)
    best, least = torch.zeros(A.shape[1], dtype=torch.double), float(len(samples))
    for size in range(1, A.shape[1] + 1):
        for chosen in map(list, itertools.combinations(range(A.shape[1]), size)):
            found = torch.linalg.lstsq(A[:, chosen], ones, driver="gelsd").solution
            error = float((A[:, chosen] @ found - ones).square().sum())
            if error < least and bool((found >= 0).all()):
                least, best = error, torch.zeros_like(best)
                best[chosen] = found.squeeze(1)
    return best


def model_of(rows: list[dict]) -> dict[tuple[str, str, str], torch.Tensor]:
    """Coefficients by pass, memory format and path."""
    samples = collections.defaultdict(list)
    for row in rows:
        for path in row["routes"].keys() - {"auto"}:
            time = row["milliseconds"][path]
            key = row["pass"], row["format"], path
            samples[key].append((features(row["sizes"], row["pass"], path), time))
    return {key: fit(found) for key, found in samples.items() if len(found) >= LEAST}


def loss(model: dict, row: dict) -> float | None:
    """The time of the path that the model picks over that of the fastest; None where it knows none."""
    costs = {}
    for path in row["routes"].keys() - {"auto"}:
        if (coefficients := model.get((row["pass"], row["format"], path))) is not None:
            facts = features(row["sizes"], row["pass"], path)
            costs[path] = sum(a * b for a, b in zip(facts, coefficients.tolist(), strict=True))
    if not costs:
        return None
    times = {path: row["milliseconds"][path] for path in row["routes"]}
    return times[min(costs, key=costs.__getitem__)] / min(times.values())


def table(model: dict, groups: dict[str, list[dict]]) -> list[str]:
    """Both rules on each group of rows and pass: rows, share as fast as the fastest, mean, worst."""
    head = f"{'rows':>6}{'in 3%':>7}{'mean':>7}{'worst':>7}"
    lines = [f"{'loss of':40}{'auto':>14}{'':13}{'model':>14}", f"{'':40}{head}{head}"]
    for name, rows in groups.items():
        for what in ("all", *dict.fromkeys(row["pass"] for row in rows)):
            judged = [(row["loss"], loss(model, row)) for row in rows if what in ("all", row["pass"])]
            known = [pair for pair in judged if pair[1] is not None]
            autos, models = ([pair[which] for pair in known] for which in (0, 1))
            lines.append(f"{f'{name}, {what}':40}{losses(autos)}{losses(models)}")
    return lines


def main() -> None:
    words = (__doc__ or "").split("\n\n")
    parser = argparse.ArgumentParser(description=words[0])
    parser.add_argument("files", nargs="+", type=Path, metavar="PATHS.json")
    parser.add_argument("--fit", nargs="+", type=int, required=True, metavar="SEED", help="to fit to")
    parser.add_argument("--out", type=Path, help="write the coefficients there, as JSON")
    options = parser.parse_args()
    rows = [row for file in options.files for row in json.loads(file.read_text())["rows"]]
    fitted = [row for row in rows if row.get("seed") in options.fit]
    if not fitted:
        seeds = sorted({row["seed"] for row in rows if "seed" in row})
        parser.error(f"--fit: expected some of the seeds in these files, {seeds}, got {options.fit}")
    model = model_of(fitted)
    groups = {
        "other seeds": [r for r in rows if "seed" in r and r["seed"] not in options.fit],
        "benchmark": [r for r in rows if "seed" not in r],
        "fitted seeds": fitted,
    }
    print("\n".join(table(model, {name: group for name, group in groups.items() if group})))
    if options.out:
        names = ("products", "whole panels", "patches", "bytes", "constant")  # ms for each million
        found = {", ".join(key): dict(zip(names, c.tolist(), strict=True)) for key, c in model.items()}
        options.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
