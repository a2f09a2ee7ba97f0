"""The reference of the command line, from argparse itself."""

import argparse
import re
from collections.abc import Iterator

from cnn_ext import cli


def markdown() -> str:
    """A section for each command."""
    commands = next(a for a in cli.parser()._actions if isinstance(a, argparse._SubParsersAction))
    helps = {choice.dest: choice.help for choice in commands._choices_actions}
    parts = []
    for name, command in commands.choices.items():
        parts += [f"## {name}", helps[name] or "", *definitions(command)]
    return "\n\n".join(parts)


def definitions(command: argparse.ArgumentParser) -> Iterator[str]:
    """Each argument: how it is written, and its help."""
    for action in command._actions:
        if isinstance(action, argparse._HelpAction):
            continue
        value = (action.dest if action.metavar is None else str(action.metavar)).upper()
        if action.choices:
            value = "{" + ",".join(map(str, action.choices)) + "}"
        parts = [", ".join(action.option_strings), "" if action.nargs == 0 else value]
        default = f"default: {action.default}" if action.default is not None else ""
        told = re.sub(r"(--[\w-]+)", r"`\1`", action.help or default)
        yield f"`{' '.join(filter(None, parts))}`\n: {told}"
