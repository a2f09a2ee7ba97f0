"""The command line: ``python -m cnn_ext``, also installed as ``cnn-ext``."""

from __future__ import annotations

import argparse
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
    command.add_argument("--variant", choices=["relu", "1998"], default="relu")
    command.add_argument("--epochs", type=_positive, default=30)
    command.add_argument("--seed", type=int, default=0)
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
    command.add_argument("--batch", type=_positive, default=1)
    command.add_argument("--size", type=_positive, default=224, help="of the square images: 224")
    command.add_argument("--rounds", type=_positive, default=5, help="timed runs of each layer: 5")
    command.add_argument("--html", type=Path, help="write the table there")
    command.add_argument("--picture", type=Path, help="draw errors and times there")
    command.add_argument("--json", action="store_true", help="for a program to read")
    command.set_defaults(run=_compare)

    options = parser.parse_args(arguments)
    return options.run(options)


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

        from cnn_ext.training.compare import compare
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
    for path in report["unreadable"]:
        print(f"left out, unreadable: {path}", file=sys.stderr)
    return 0
