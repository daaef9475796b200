"""The command line: arguments in, calls out, nothing else."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import NoReturn

from sksubtomo._commands import (
    classify,
    extract,
    pick,
    pretrain,
    simulate,
    study,
    transform,
)
from sksubtomo._commands._guard import BAD_INPUT
from sksubtomo._version import __version__

_COMMANDS = (study, simulate, pick, extract, pretrain, transform, classify)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    arguments : sequence of str, default=None
        The arguments; None means those of the process.

    Returns
    -------
    int
        The exit status: 0, 1 if the work failed, 2 for bad input, 130 if interrupted.
    """
    parser = _Parser(
        prog="sksubtomo",
        description="Contrastive pretraining and few-label classification of cryo-ET "
        "subtomograms.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in _COMMANDS:
        command.add(commands)
    options = parser.parse_args(arguments)
    run: Callable[[argparse.Namespace], int] = options.run
    return run(options)


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(BAD_INPUT, f"{self.prog}: error: {message} (see --help)\n")
