r"""Two builds of the library, an old one and this, in turns in one process: did any family get slower?

    python tools/compare_builds.py OLD.so [--random SEED ... --count M] [--out FILE.json]

Convolutions of the benchmark, in each memory format, and random ones; forward and each gradient alone,
in float32. The ratio is the old time over the new: above 1 this build is faster. A row below 0.93 is
measured twice more, and is slower if it is below in all three runs. Means are of the first run alone:
to repeat only the slow rows, and to count that, would flatter this build.

Both run in one process only if the old one's operations have another name. To build it, in a copy of
the old tree:

    grep -rlE 'TORCH_LIBRARY|"cnn_ext::' csrc | xargs sed -i -E \
        's/(TORCH_LIBRARY[A-Z_]*)\(cnn_ext,/\1(cnn_ext_old,/; s/"cnn_ext::/"cnn_ext_old::/'
    CNN_EXT_CUDA=0 CFLAGS=-fno-gnu-unique python setup.py build_ext --inplace

and the file is `cnn_ext/_C*.so` there. Without -fno-gnu-unique the two share static variables of inline
functions, such as tables of kernels, and one would run the other's.
"""

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

import cnn_ext
from cnn_ext.bench import convolution, random_layers
from cnn_ext.bench.convolution import Layer, native
from cnn_ext.bench.goals import geometric_mean
from cnn_ext.bench.options import Options, check
from cnn_ext.bench.survey import Survey
from cnn_ext.bench.timing import Row, machine, turns

SLOWER = 0.93  # of the old build's speed
MEAN = 0.99  # of each family and pass, at least
RUNS = 3  # of a row that is slower
ROUNDS = 5  # turns at least
SECONDS = 0.15  # of each contender


def load(library: Path, namespace: str):
    """The old build's operations. Raises ValueError if they are this build's under another name."""
    torch.ops.load_library(library)
    old = getattr(torch.ops, namespace)
    if not hasattr(old, "convolution"):
        raise ValueError(f"OLD.so: expected operations called {namespace}::convolution ..., got none")
    x, w = torch.ones(1, 1, 4, 4), torch.ones(1, 1, 3, 3)
    with cnn_ext.trace() as records:
        old.convolution(x, w, None, [1], [0], [1], 1, "auto")
    if records:
        raise ValueError("OLD.so: its calls run this build's code; build it with -fno-gnu-unique")
    return old


def rows(layers: Iterator[Layer], time: Callable[[Layer, str, str], dict[str, float]]) -> Iterator[Row]:
    """A row for each layer, memory format and pass; `time` measures one, in milliseconds."""
    for layer in layers:
        family = "random" if layer.only_format else layer.kind()
        for format in layer.formats():
            for what in ("forward", "input gradient", "weight gradient"):
                runs = [time(layer, format, what)]
                while runs[-1]["old"] / runs[-1]["new"] < SLOWER and len(runs) < RUNS:
                    runs.append(time(layer, format, what))
                ratios = [run["old"] / run["new"] for run in runs]
                yield {
                    "operation": "convolution", "set": layer.set, "layer": layer.name,
                    "family": family, "pass": what, "format": format, "dtype": "float32",
                    "row": layer.route(what, format).row, "milliseconds": runs[0],
                    "ratio": ratios[0], "ratios": ratios, "spread": 0.0,
                }  # fmt: skip


def in_turns(old) -> Callable[[Layer, str, str], dict[str, float]]:
    """What measures a pass of a layer on both builds."""

    def time(layer: Layer, format: str, what: str) -> dict[str, float]:
        operands = layer.operands(torch.float32)[format]
        runs = {
            name: native(layer, operands, library=library)[what]
            for name, library in (("new", torch.ops.cnn_ext), ("old", old))
        }
        with torch.no_grad():
            return turns(runs, ROUNDS, 2 * SECONDS).milliseconds

    return time


def is_slower(row: Row) -> bool:
    """Whether it was below in all runs."""
    return len(row["ratios"]) == RUNS and max(row["ratios"]) < SLOWER


def line(row: Row) -> str:
    """A row, for a terminal."""
    old, new = (row["milliseconds"][name] for name in ("old", "new"))
    ratios = " ".join(f"{ratio:.2f}" for ratio in row["ratios"])
    what = f"{row['layer']:58}{row['pass']:16}{row['format']:14}"
    return f"{what}{old:10.3f}{new:10.3f} ms  {ratios}  {row['row']}"


def ending(rows: list[Row]) -> list[str]:
    """The mean of each family and pass, and the rows that are slower."""
    groups: dict[str, list[float]] = {}
    for row in rows:
        for family in ("all", row["family"]):
            groups.setdefault(f"{family}, {row['pass']}", []).append(row["ratio"])
    lines = [f"{'old time / new time':44}{'rows':>6}{'mean':>7}{'least':>7}"]
    for name, ratios in sorted(groups.items()):
        mean = geometric_mean(ratios)
        below = f"  below {MEAN}" if mean < MEAN else ""
        lines.append(f"{name:44}{len(ratios):6d}{mean:7.3f}{min(ratios):7.2f}{below}")
    slower = [row for row in rows if is_slower(row)]
    return [*lines, f"Below {SLOWER} in {RUNS} runs of {RUNS}: {len(slower)} of {len(rows)} rows",
            *map(line, slower)]  # fmt: skip


def main() -> None:
    words = (__doc__ or "").split("\n\n")
    parser = argparse.ArgumentParser(description=words[0])
    parser.add_argument("old", type=Path, metavar="OLD.so", help="the old build, under its own name")
    parser.add_argument("--namespace", default="cnn_ext_old", help="of its operations: cnn_ext_old")
    parser.add_argument("--layers", nargs="+", default=[], metavar="NAME", help="of the benchmark: all")
    parser.add_argument("--random", nargs="+", type=int, default=[], metavar="SEED",
                        help="random layers of these seeds too")  # fmt: skip
    parser.add_argument("--random-only", action="store_true", help="none of the benchmark's layers")
    parser.add_argument("--count", type=int, default=100, help="random layers of each seed: 100")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="as torch has")
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="write the figures there")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    known = {} if options.random_only else convolution.layers(convolution.SETS)
    chosen = Options(names=tuple(options.layers))
    try:
        check(chosen, {"convolution": known})
        old = load(options.old, options.namespace)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    layers = [known[name] for name in chosen.wanted(known)]
    layers += [layer for _, layer in random_layers.layers(options.random, options.count)]
    survey = Survey(machine(), complete=False, what="compare_builds")
    for row in survey.collected(rows(iter(layers), in_turns(old)), options.out):
        if is_slower(row):
            print(line(row), flush=True)
    print("\n".join(ending(survey.rows)))


if __name__ == "__main__":
    main()
