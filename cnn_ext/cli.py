"""The command line: ``python -m cnn_ext``, also installed as ``cnn-ext``."""

from __future__ import annotations

import argparse
import functools
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from cnn_ext import doctor


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status.

    Example:
        >>> main(["doctor", "--json"])  # doctest: +ELLIPSIS
        {
         "cnn_ext": ...
        0
    """
    options = parser().parse_args(arguments)
    return options.run(options)


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
    command.add_argument("--size", type=_positive, default=224, help="of the square images: 224")
    command.add_argument("--rounds", type=_positive, default=5, help="timed runs of each layer: 5")
    command.add_argument("--html", type=Path, help="write the table there")
    command.add_argument("--picture", type=Path, help="draw errors and times there")
    command.add_argument("--json", action="store_true", help="for a program to read")
    command.set_defaults(run=_compare)

    _add_train(commands)
    _add_bench(commands)
    return parser


# What our own messages about options start with; anything else is a fault, and its trace is wanted.
EXPLAINED = ("expected --model", "resume:", "data:", "model:", "recipe:", "width:", "image_size:",
             "variant:", "init:", "num_classes:")  # fmt: skip


def _add_train(commands) -> None:
    command = commands.add_parser("train", help="train a network by name on a data set by name")
    command.add_argument(
        "--model", help="lenet5, lenet5:1998, alexnet, alexnet:caffenet, vgg11 ... or torchvision's"
    )
    command.add_argument(
        "--data", help="digits, photographs, mnist, fashion_mnist, cifar10, cifar100, or a folder"
    )
    command.add_argument(
        "--recipe", help="a preset: adamw, lenet5, alexnet, vgg, alexnet-small, vgg-small"
    )
    command.add_argument(
        "--layers", choices=["cnn_ext", "torch"], default="cnn_ext", help="whose: cnn_ext"
    )
    command.add_argument("--width", type=float, default=1.0, help="of alexnet and vgg")
    command.add_argument("--image-size", type=_positive, help="of the squares that the network sees")
    command.add_argument("--epochs", type=_positive, help="instead of the recipe's")
    command.add_argument("--batch-size", type=_positive, help="of each process")
    command.add_argument("--learning-rate", type=float, help="instead of the recipe's")
    command.add_argument("--seed", type=int, default=0, help="of all random numbers: 0")
    command.add_argument(
        "--precision", default="32-true", help="as Lightning has it: bf16-mixed, 64-true"
    )
    command.add_argument("--compile", action="store_true", help="with torch.compile")
    command.add_argument(
        "--ten-crop", action="store_true", help="evaluate on ten crops of each image too"
    )
    command.add_argument("--accelerator", default="auto", help="cpu, gpu: as Lightning has it")
    command.add_argument("--devices", type=_positive, default=1, help="processes of each host")
    command.add_argument("--nodes", type=_positive, default=1, help="hosts, started by torchrun")
    command.add_argument("--workers", type=int, default=0, help="processes that read images")
    command.add_argument("--downloads", default="data", help="where data sets are kept: data")
    command.add_argument(
        "--skip-broken", action="store_true", help="go on without images that cannot be read"
    )
    command.add_argument("--out", type=Path, default=Path("runs/train"), help="default: runs/train")
    command.add_argument(
        "--resume", action="store_true", help="continue the run in --out, with the options it has there"
    )
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
        choices=[
            "convolution",
            "networks",
            "linear",
            "max_pool",
            "local_response_norm",
            "color_pca",
            "all",
        ],
        help="default: all",
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
    command.add_argument("--rounds", type=_positive, help="turns at least: 9, of networks 5")
    command.add_argument("--threads", type=_positive, help="default: as many as torch takes")
    command.add_argument(
        "--dtype",
        choices=["float32", "bfloat16"],
        default="float32",
        help="of convolution, networks and LRN",
    )
    command.add_argument(
        "--compile",
        action=argparse.BooleanOptionalAction,
        help="torch.compile takes turns too; by default in networks and LRN",
    )
    command.add_argument("--out", type=Path, metavar="FILE.json", help="write the figures there")
    command.add_argument("--picture", type=Path, metavar="FILE.png", help="draw the ratios there")
    command.add_argument("--json", action="store_true", help="print the figures as JSON, and no table")
    command.set_defaults(run=_bench)


def _bench(options: argparse.Namespace) -> int:
    import torch

    from cnn_ext import bench

    chosen = bench.Options(
        names=tuple(options.layers), sets=tuple(options.shapes), rounds=options.rounds,
        quick=options.quick, compile=options.compile, dtype=options.dtype,
    )  # fmt: skip
    show = None if options.json else functools.partial(print, flush=True)
    before = torch.get_num_threads()
    torch.set_num_threads(options.threads or before)
    try:
        report = bench.run(options.what, chosen, show, options.out)
    except ModuleNotFoundError as missing:
        return _needs(missing)
    except ValueError as error:
        if not str(error).startswith(("layers:", "shapes:")):
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
        from cnn_ext.training import train
    except ModuleNotFoundError as missing:
        return _needs(missing)
    fields = train.Options.__dataclass_fields__
    chosen = {key: value for key, value in vars(options).items() if key in fields}
    try:
        if options.resume:
            kept = options.out / "options.json"
            if not kept.exists():
                raise ValueError(f"resume: there is no run in {str(options.out)!r}")
            chosen = json.loads(kept.read_text())
        elif not (options.model and options.data):
            raise ValueError("expected --model and --data, or --resume")
        report = train.run(train.Options(**chosen), options.out, options.resume, not options.json)
    except (ValueError, RuntimeError) as error:
        if not str(error).startswith(EXPLAINED):
            raise
        print(f"cnn-ext train: {error}", file=sys.stderr)
        return 2
    if report["left_out"]:
        print(f"{len(report['left_out'])} images are left out:", *report["left_out"], sep="\n",
              file=sys.stderr)  # fmt: skip
    if options.json:
        print(json.dumps(report))
    else:
        print(f"\ntest accuracy {report['accuracy']:.2%}", end="")
        ten = report.get("ten_crop_accuracy")
        print(f", over ten crops {ten:.2%}" if ten is not None else "")
        print(f"Written: {options.out}")
    return 0


def _positive(text: str) -> int:
    if not (text.isdigit() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"expected a positive integer, got {text!r}")
    return int(text)


def _doctor(options: argparse.Namespace) -> int:
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
        from cnn_ext.training.networks import build
    except ModuleNotFoundError as missing:
        return _needs(missing)
    try:
        model, channels = build(options.model, image_size=options.size)
    except ValueError as error:
        print(f"cnn-ext compare: {error}", file=sys.stderr)
        return 2
    torch.manual_seed(0)
    images = torch.randn(options.batch, channels, options.size, options.size)
    report = compare(model, images, rounds=options.rounds)
    if options.html:
        options.html.write_text(report._repr_html_())
    if options.picture:
        report.plot().savefig(options.picture, dpi=110)
    print(report.to_json() if options.json else report)
    return 0


def _demo(options: argparse.Namespace) -> int:
    try:
        from cnn_ext.training import demo
    except ModuleNotFoundError as missing:
        return _needs(missing)
    report = demo.run(options.out, options.variant, options.epochs, options.seed)
    print()
    print(json.dumps(report) if options.json else demo.table(report))
    if not options.json:
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
