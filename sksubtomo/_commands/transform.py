"""``python -m sksubtomo transform``."""

from __future__ import annotations

import argparse
from typing import Any

from sksubtomo._commands._guard import guard
from sksubtomo._commands._training import (
    add_input,
    add_overwrite,
    add_training,
    load_encoder,
    pretraining,
    reading,
    show,
)


def add(commands: Any) -> None:
    """Add the command.

    Parameters
    ----------
    commands : object
        What ``add_subparsers`` returned.
    """
    command = commands.add_parser(
        "transform",
        help="embed particles",
        description="Embed particles, with a saved encoder or with one that is learned "
        "from themselves first.",
    )
    add_input(command)
    command.add_argument(
        "--output",
        required=True,
        metavar="EMBEDDINGS.npy",
        help="NumPy file, one row a particle in the order of the input; the names go "
        "beside it into a CSV file",
    )
    add_overwrite(command)
    add_training(command).add_argument(
        "--encoder",
        metavar="ENCODER",
        help="folder that the command pretrain wrote; without it, pretraining comes "
        "first",
    )
    command.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    def work() -> None:
        from sksubtomo.workflows import default_pretrainer, embed_particles

        parameters = pretraining(options)
        encoder = load_encoder(options)
        result = embed_particles(
            options.input,
            encoder=encoder,
            pretrainer=default_pretrainer(**parameters) if encoder is None else None,
            output=options.output,
            overwrite=options.overwrite,
            **reading(options),
        )
        n, n_features = result.embeddings.shape
        show(f"{n} embeddings of {n_features} numbers are in {options.output}.")

    return guard("transform", work, "Nothing was written.")
