"""Answers ``--help``, wrong usage and Ctrl-C while torch is not yet loaded, which takes seconds.

``python -m cnn_ext`` and the script ``cnn-ext`` import this package before any line of the command line
runs, and so this is the place.
"""

import signal
import sys
from pathlib import Path


def is_command_line(argv: list[str], interpreter: list[str]) -> bool:
    """Whether this process is the package's own command.

    Args:
        argv: ``sys.argv``; its first is ``-m`` while Python looks for the module to run.
        interpreter: ``sys.orig_argv``, which has the module's name too.

    Example:
        >>> is_command_line(["-m", "train"], ["python", "-X", "dev", "-m", "cnn_ext", "train"])
        True
        >>> is_command_line(["-m", "train"], ["python", "-m", "pytest", "train"])
        False
        >>> is_command_line(["/usr/bin/cnn-ext", "train"], ["python", "/usr/bin/cnn-ext", "train"])
        True
    """
    if argv[:1] == ["-m"] and len(argv) < len(interpreter):
        return interpreter[-len(argv)].removeprefix("-m") == "cnn_ext"
    return bool(argv) and Path(argv[0]).stem == "cnn-ext"


def stop(number: int, frame: object) -> None:
    """Ctrl-C before the command has begun: there is nothing to tidy up, nor a trace worth reading."""
    print("\nStopped.", file=sys.stderr)
    sys.exit(130)


if is_command_line(getattr(sys, "argv", []), sys.orig_argv):
    from cnn_ext import cli

    cli.parser().parse_args()
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not so under nohup
        signal.signal(signal.SIGINT, stop)
