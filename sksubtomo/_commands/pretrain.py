"""``python -m sksubtomo pretrain``."""

from __future__ import annotations

import argparse
from typing import Any

from sksubtomo._commands._guard import guard
from sksubtomo._commands._training import (
    add_input,
    add_overwrite,
    add_training,
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
        "pretrain",
        help="learn an encoder from particles without labels",
        description="Learn an encoder from particles without labels, and save it for "
        "the commands transform and classify.",
    )
    add_input(command)
    command.add_argument(
        "--output",
        required=True,
        metavar="ENCODER",
        help="folder to save the encoder in",
    )
    add_overwrite(command)
    add_training(command)
    command.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    def work() -> None:
        from sksubtomo.workflows import default_pretrainer, pretrain_encoder

        encoder = pretrain_encoder(
            options.input,
            pretrainer=default_pretrainer(**pretraining(options)),
            output=options.output,
            overwrite=options.overwrite,
            **reading(options),
        )
        shape = " x ".join(map(str, encoder.volume_shape_))
        show(f"An encoder of volumes of {shape} voxels is in {options.output}.")

    return guard("pretrain", work, "Nothing was saved.")
