"""The command line: ``python -m cnn_ext``, also installed as ``cnn-ext``.

The exit status is 0 if all went well, 1 if it did not, 2 after wrong usage, 130 after Ctrl-C, 143 after
SIGTERM. This module loads nothing that takes time, so that ``--help`` takes none.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import signal
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnn_ext import _early
from cnn_ext.operations import BENCHMARKS

if TYPE_CHECKING:
    from cnn_ext.training.options import Options


SURVEYS = ("random", "paths")  # of `bench`: each has a table of its own


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status.

    Example:
        >>> main(["doctor", "--json"])  # doctest: +ELLIPSIS
        {
         "cnn_ext": ...
        0
    """
    options = parser().parse_args(arguments)
    if options.run is _run:  # signals, errors and the exit status are the script's
        return _run(options)
    try:
        with _stoppable():
            return options.run(options)
    except KeyboardInterrupt as stopped:
        notes = getattr(stopped, "__notes__", [])
        print("\nStopped.", *notes, file=sys.stderr)
        return 143 if isinstance(stopped, Terminated) else 130
    except OSError as error:  # no place, no right, no space: not a fault of ours
        print(f"cnn-ext: {error}", file=sys.stderr)
        return 1


class Terminated(KeyboardInterrupt):
    """SIGTERM came: everything that tidies up after Ctrl-C does so then too."""


@contextlib.contextmanager
def _stoppable() -> Iterator[None]:
    """SIGTERM ends the command as Ctrl-C does, unless somebody has decided otherwise."""

    def terminated(number: int, frame: object) -> None:
        raise Terminated

    if threading.current_thread() is not threading.main_thread():  # others may not set handlers
        yield
        return
    if signal.getsignal(signal.SIGINT) is _early.stop:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    before = signal.getsignal(signal.SIGTERM)
    if before is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, terminated)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def parser() -> argparse.ArgumentParser:
    """All commands and their options; the documentation reads them here too."""
    parser = argparse.ArgumentParser(
        prog="cnn-ext", description="The classic CNN operations for PyTorch, in C++."
    )
    commands = parser.add_subparsers(required=True, metavar="command")

    command = commands.add_parser(
        "doctor", help="versions, CPU capability, threads; what is wrong and what mends it"
    )
    command.add_argument("--json", action="store_true", help="for a program to read")
    command.set_defaults(run=_doctor)

    command = commands.add_parser(
        "demo", help="train LeNet-5 on handwritten digits, on our layers and on torch's"
    )
    command.add_argument("--variant", choices=["relu", "1998"], default="relu", help="of LeNet-5: relu")
    command.add_argument("--epochs", type=_positive, default=30, help="of each training: 30")
    command.add_argument("--seed", type=int, default=0, help="of all random numbers: 0")
    command.add_argument("--out", type=Path, default=Path("runs/demo"), help="default: runs/demo")
    command.add_argument("--json", action="store_true", help="print the report as JSON")
    command.set_defaults(run=_demo)

    command = commands.add_parser(
        "fit-pca", help="the principal components of the colours of a folder of images"
    )
    command.add_argument("folder", type=Path, help="searched with all folders inside")
    command.add_argument("--out", type=Path, default=Path("runs/color_pca.json"),
                         help="for ColorPCA.load; default: runs/color_pca.json")  # fmt: skip
    command.add_argument("--show", action="store_true", help="draw what it does, beside --out as PNG")
    command.add_argument("--json", action="store_true", help="print the result as JSON")
    command.set_defaults(run=_fit_pca)

    command = commands.add_parser(
        "compare",
        help="a network layer by layer beside torch's: errors against float64, times, memory",
    )
    command.add_argument("model", help="of cnn_ext.models or of torchvision, such as vgg16 or resnet50")
    command.add_argument("--batch", type=_positive, default=1, help="images at once: 1")
    command.add_argument("--size", type=_positive, help="of the square images: 224, of lenet5 32")
    command.add_argument("--rounds", type=_positive, default=5, help="timed runs of each layer: 5")
    command.add_argument("--html", type=Path, help="write the table there")
    command.add_argument("--picture", type=Path, help="draw errors and times there")
    command.add_argument("--json", action="store_true", help="for a program to read")
    command.set_defaults(run=_compare)

    _add_run(commands)
    _add_train(commands)
    _add_bench(commands)
    return parser


def _add_run(commands) -> None:
    command = commands.add_parser(
        "run", help="run a script unchanged, as python does, with torch's convolutions on our kernels"
    )
    command.add_argument("--threads", type=_positive, help="of torch: as many as it takes by itself")
    command.add_argument(
        "--summary", action="store_true",
        help="print at the end calls and milliseconds by operation and route, and what stayed on torch",
    )  # fmt: skip
    command.add_argument("-m", "--module", action="store_true", help="script is a module's name")
    command.add_argument("script", help="a file, or a folder or archive with a __main__.py")
    command.add_argument("arguments", nargs=argparse.REMAINDER, help="the script's own")
    command.set_defaults(run=_run)


def _add_train(commands) -> None:
    command = commands.add_parser("train", help="train a network by name on a data set by name")
    # What is not given has no attribute: a resumed run has its own options, and those alone.
    option = functools.partial(command.add_argument, default=argparse.SUPPRESS)
    option("--model", help="lenet5, lenet5:1998, alexnet, alexnet:caffenet, vgg11 ... or torchvision's")
    option("--data", help="digits, photographs, mnist, fashion_mnist, cifar10, cifar100, or a folder")
    option("--recipe", help="a preset: adamw, lenet5, alexnet, vgg, alexnet-small, vgg-small")
    option("--layers", choices=["cnn_ext", "torch"], help="whose: cnn_ext")
    option("--width", type=float, help="of alexnet and vgg")
    option("--image-size", type=_positive, help="of the squares that the network sees")
    option("--epochs", type=_positive, help="instead of the recipe's")
    option("--batch-size", type=_positive, help="of each process")
    option("--learning-rate", type=float, help="instead of the recipe's")
    option("--seed", type=int, help="of all random numbers: 0")
    option("--precision", help="as Lightning has it: 32-true (the default), bf16-mixed, 64-true")
    option("--compile", action="store_true", help="with torch.compile")
    option("--ten-crop", action="store_true", help="evaluate on ten crops of each image too")
    option("--accelerator", help="cpu, gpu: as Lightning has it")
    option("--devices", type=_positive, help="processes of each host: 1")
    option("--nodes", type=_positive, help="hosts, started by torchrun: 1")
    option("--workers", type=int, help="processes that read images: 0")
    option("--downloads", help="where data sets are kept: data")
    option("--skip-broken", action="store_true", help="go on without images that cannot be read")
    command.add_argument("--out", type=Path, default=Path("runs/train"), help="default: runs/train")
    place = command.add_mutually_exclusive_group()
    place.add_argument(
        "--resume", action="store_true", help="continue the run in --out, with the options it has there"
    )
    place.add_argument("--overwrite", action="store_true", help="begin anew in place of a run in --out")
    command.add_argument("--json", action="store_true", help="print the report as JSON, and no bars")
    command.set_defaults(run=_train)


def _add_bench(commands) -> None:
    command = commands.add_parser(
        "bench", help="how fast: every operation and whole networks against torch's, and the goals"
    )
    command.add_argument(
        "what",
        nargs="?",
        default="all",
        choices=[*BENCHMARKS, *SURVEYS, "all"],
        help="default: all. random: layers drawn at random against torch. paths: every algorithm that "
        "serves a convolution, beside the one that is chosen",
    )
    command.add_argument(
        "--layers",
        nargs="+",
        default=[],
        metavar="NAME",
        help="only these layers, networks or tensors, as the table names them",
    )
    command.add_argument(
        "--shapes",
        nargs="+",
        default=[],
        metavar="SET",
        help="only these sets of convolutions: lenet, alexnet, vgg, resnet50, mobilenet_v2, googlenet, "
        "others, or a JSON file like theirs",
    )
    command.add_argument(
        "--quick",
        action="store_true",
        help="a look: few turns, classic networks, torch.compile only if asked for",
    )
    command.add_argument(
        "--rounds", type=_positive, help="turns at least: 9, of networks 5, of random and paths 3"
    )
    command.add_argument("--threads", type=_positive, help="default: as many as torch takes")
    command.add_argument(
        "--dtype",
        choices=["float32", "bfloat16"],
        default="float32",
        help="of convolution, networks, LRN, random and paths: float32",
    )
    command.add_argument(
        "--compile",
        action=argparse.BooleanOptionalAction,
        help="torch.compile takes turns too; by default in networks and LRN",
    )
    survey = command.add_argument_group("of random and paths alone")
    survey.add_argument(
        "--seeds",
        "--seed",
        nargs="+",
        type=int,
        metavar="N",
        help="of random layers; random: 0, paths: none, and so the benchmark's layers",
    )
    survey.add_argument("--count", type=_positive, help="random layers of each seed: 100")
    survey.add_argument(
        "--operation",
        choices=["convolution", "conv_transpose", "linear", "max_pool"],
        help="of random layers: convolution; paths has the first two",
    )
    survey.add_argument(
        "--im2col", action="store_true", default=None, help="paths: the patch matrix is a path too"
    )
    command.add_argument("--out", type=Path, metavar="FILE.json", help="write the figures there")
    command.add_argument("--picture", type=Path, metavar="FILE.png", help="draw the ratios there")
    command.add_argument("--json", action="store_true", help="print the figures as JSON, and no table")
    command.set_defaults(run=_bench)


def _run(options: argparse.Namespace) -> int:
    import torch

    from cnn_ext import run

    if options.threads:
        torch.set_num_threads(options.threads)
    return run.run(options.script, options.arguments, module=options.module, summary=options.summary)


def _bench(options: argparse.Namespace) -> int:
    import torch

    from cnn_ext import bench
    from cnn_ext.bench import survey

    shared: dict[str, Any] = {
        "names": tuple(options.layers), "sets": tuple(options.shapes), "rounds": options.rounds,
        "quick": options.quick, "compile": options.compile, "dtype": options.dtype,
    }  # fmt: skip
    asked = {name: value for name in ("seeds", "count", "operation", "im2col")
             if (value := getattr(options, name)) is not None}  # fmt: skip
    if options.picture and options.what in SURVEYS:
        print(f"cnn-ext bench: picture: of the benchmarks alone, got {options.what!r}", file=sys.stderr)
        return 2
    if asked and options.what not in SURVEYS:
        print(f"cnn-ext bench: {next(iter(asked))}: of random and paths alone, got {options.what!r}",
              file=sys.stderr)  # fmt: skip
        return 2
    show = None if options.json else functools.partial(print, flush=True)
    before = torch.get_num_threads()
    torch.set_num_threads(options.threads or before)
    report: bench.Report
    try:
        if options.what in SURVEYS:
            chosen = survey.SurveyOptions(**shared, **asked)
            report = survey.run(options.what, chosen, show, options.out)
        else:
            report = bench.run(options.what, bench.Options(**shared), show, options.out)
    except ModuleNotFoundError as missing:
        return _needs(missing)
    except ValueError as error:
        if not str(error).startswith(("layers:", "shapes:", "operation:")):
            raise
        print(f"cnn-ext bench: {error}", file=sys.stderr)
        return 2
    finally:
        torch.set_num_threads(before)
    if options.json:
        print(report.to_json())
    if options.picture:
        options.picture.parent.mkdir(parents=True, exist_ok=True)
        report.plot().savefig(options.picture, dpi=110)
    return 0


def _train(options: argparse.Namespace) -> int:
    try:
        from cnn_ext._json import strict_json
        from cnn_ext.training import folder, train
    except ModuleNotFoundError as missing:
        return _needs(missing)
    status = 0
    try:
        with contextlib.redirect_stdout(sys.stderr):  # standard output is the report's alone
            found = train.run(
                _asked(options), options.out, options.resume, not options.json,
                overwrite=options.overwrite,
            )  # fmt: skip
    except folder.DivergedError as error:
        found, status = error.report, 1
        if train.is_first_process():
            _complain("train", str(error), error)
    except ModuleNotFoundError as missing:  # of one data set alone
        return _needs(missing)
    except (ValueError, RuntimeError, OSError) as error:
        sentence = _sentence(error, train.Options.__dataclass_fields__)
        if sentence is None:
            raise
        wrong_usage = isinstance(error, ValueError) and not hasattr(error, "__notes__")
        if train.is_first_process() or not wrong_usage:  # which every process finds, and one tells
            _complain("train", sentence, error)
        return 2 if wrong_usage else 1
    if not train.is_first_process():  # the first has all to say; Lightning would kill it if this failed
        return 0
    if found["left_out"]:
        print(f"{len(found['left_out'])} images are left out:", *found["left_out"], sep="\n",
              file=sys.stderr)  # fmt: skip
    print(strict_json(found) if options.json else _summary(found, options.out))
    return status


def _sentence(error: Exception, options: Iterable[str]) -> str | None:
    """What to tell about an error; None if it is a fault, whose trace is wanted.

    Our own messages begin with the name of an option.
    """
    text = str(error)
    if text.startswith("Caught "):  # a worker process sends its whole trace as the message
        text = text.strip().rpartition("\n")[2].partition(": ")[2]
    if "out of memory" in text or "can't allocate memory" in text:
        reason = text.partition("\n")[0]
        return f"batch_size: too much for the memory; take a smaller one, or smaller images ({reason})"
    ours = text.partition(":")[0] in (*options, "out", "resume", "init", "variant", "num_classes")
    return text if ours or isinstance(error, OSError) else None


def _complain(command: str, sentence: str, error: BaseException) -> None:
    """One sentence, and what the error has noted beside it."""
    print(f"cnn-ext {command}: {sentence}", *getattr(error, "__notes__", []), sep="\n", file=sys.stderr)


def _asked(options: argparse.Namespace) -> Options:
    """A new run's options, or those of the run in the folder with what was asked for instead."""
    from cnn_ext.training import folder, train

    chosen = {key: v for key, v in vars(options).items() if key in train.Options.__dataclass_fields__}
    if options.resume:
        return replace(train.from_record(folder.RunFolder(options.out).record()), **chosen)
    if not {"model", "data"} <= chosen.keys():
        raise ValueError("model: expected --model and --data, or --resume")
    return train.Options(**chosen)


def _summary(report: dict[str, Any], out: Path) -> str:
    accuracies = [f"test accuracy {report['accuracy']:.2%}"] if report["accuracy"] is not None else []
    if report.get("ten_crop_accuracy") is not None:
        accuracies.append(f"over ten crops {report['ten_crop_accuracy']:.2%}")
    return "\n".join(filter(None, ["", ", ".join(accuracies), f"Written: {out}"]))


def _positive(text: str) -> int:
    if not (text.isdigit() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"expected a positive integer, got {text!r}")
    return int(text)


def _doctor(options: argparse.Namespace) -> int:
    from cnn_ext import doctor

    if options.json:
        facts = doctor.facts()
        print(json.dumps({**facts, "problems": list(doctor.problems(facts))}, indent=1))
    else:
        print(doctor.report())
    return 0


def _needs(missing: ModuleNotFoundError) -> int:
    print(
        f"This needs {missing.name}. Type: pip install --no-build-isolation '.[train]'", file=sys.stderr
    )
    return 1


def _compare(options: argparse.Namespace) -> int:
    try:
        import torch

        from cnn_ext.comparison import compare
        from cnn_ext.training import networks
    except ModuleNotFoundError as missing:
        return _needs(missing)
    size = options.size or (32 if options.model.startswith("lenet5") else 224)
    try:
        model, channels = networks.build(options.model, image_size=size)
        networks.check(model, options.model, channels, size)
    except ValueError as error:
        _complain("compare", str(error), error)
        return 2
    torch.manual_seed(0)
    images = torch.randn(options.batch, channels, size, size)
    report = compare(model, images, rounds=options.rounds)
    if options.html:
        options.html.parent.mkdir(parents=True, exist_ok=True)
        options.html.write_text(report._repr_html_())
    if options.picture:
        options.picture.parent.mkdir(parents=True, exist_ok=True)
        report.plot().savefig(options.picture, dpi=110)
    print(report.to_json() if options.json else report)
    return 0


def _demo(options: argparse.Namespace) -> int:
    try:
        from cnn_ext._json import strict_json
        from cnn_ext.examples import demo
    except ModuleNotFoundError as missing:
        return _needs(missing)
    with contextlib.redirect_stdout(sys.stderr if options.json else sys.stdout):
        report = demo.run(options.out, options.variant, options.epochs, options.seed)
    if options.json:
        print(strict_json(report))
        return 0
    print(f"\n{demo.table(report)}")
    print(f"\nWritten: {options.out / 'demo.json'} and {options.out / 'demo.png'}")
    return 0


def _fit_pca(options: argparse.Namespace) -> int:
    try:
        from cnn_ext.training import colors
    except ModuleNotFoundError as missing:
        print(
            f"fit-pca needs {missing.name}. Type: pip install --no-build-isolation '.[train]'",
            file=sys.stderr,
        )
        return 1
    try:
        report = colors.run(options.folder, options.out, options.show)
    except (OSError, ValueError) as wrong:
        print(wrong, file=sys.stderr)
        return 1
    print(json.dumps(report, indent=1) if options.json else colors.table(report))
    for path, reason in zip(report["unreadable"], report["reasons"], strict=True):
        print(f"left out, unreadable: {path} ({reason.partition(': ')[2]})", file=sys.stderr)
    return 0
