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
    group = add_training(command)
    group.add_argument(
        "--checkpoint-dir",
        metavar="FOLDER",
        help="save the state of training there after every epoch, and go on from there "
        "if the command was ended before",
    )
    group.add_argument(
        "--precision",
        choices=("auto", "float32", "tf32", "bf16"),
        default="auto",
        help="of the encoder's arithmetic (default: auto, tf32 on CUDA and float32 "
        "elsewhere)",
    )
    command.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    def work() -> None:
        from sksubtomo.workflows import default_pretrainer, pretrain_encoder

        encoder = pretrain_encoder(
            options.input,
            pretrainer=default_pretrainer(
                checkpoint_dir=options.checkpoint_dir,
                precision=options.precision,
                **pretraining(options),
            ),
            output=options.output,
            overwrite=options.overwrite,
            **reading(options),
        )
        shape = " x ".join(map(str, encoder.volume_shape_))
        show(f"An encoder of volumes of {shape} voxels is in {options.output}.")

    return guard("pretrain", work, "Nothing was saved.")
