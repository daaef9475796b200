"""``python -m sksubtomo classify``."""

from __future__ import annotations

import argparse
from typing import Any

from sksubtomo._commands._guard import guard
from sksubtomo._commands._training import (
    AUTO_EPOCHS,
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
        "classify",
        help="classify particles of which a few are labelled",
        description="Pretrain on all particles (or take a saved encoder), fine-tune on "
        "the labelled ones, and write the same STAR file with the classes.",
    )
    add_input(command)
    command.add_argument(
        "--labels",
        metavar="LABELS.csv",
        help="CSV file with the columns particle (as the STAR file names it) and label "
        "(empty for an unlabelled one)",
    )
    command.add_argument(
        "--labels-column",
        metavar="TAG",
        help="column of a STAR file that has the labels: of the one given as --labels, "
        "or else of INPUT",
    )
    command.add_argument(
        "--output",
        required=True,
        metavar="OUT.star",
        help="STAR file to write: INPUT with every block and column kept, and columns "
        "rlnClassNumber, sksubtomoClass and sksubtomoProbability",
    )
    command.add_argument(
        "--embeddings",
        action="store_true",
        help="write the embeddings too, as columns",
    )
    command.add_argument(
        "--save-model", metavar="DIR", help="folder to save the fitted classifier in"
    )
    add_overwrite(command)
    group = add_training(command)
    group.add_argument(
        "--fine-tune-epochs",
        type=int,
        metavar="N",
        help=f"epochs of fine-tuning on the labelled ones (default: {AUTO_EPOCHS})",
    )
    group.add_argument(
        "--encoder",
        metavar="ENCODER",
        help="folder that the command pretrain wrote, to start from",
    )
    command.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    def work() -> None:
        from sksubtomo.workflows import (
            classify_particles,
            default_classifier,
            default_pretrainer,
        )

        classifier = default_classifier(
            pretrainer=default_pretrainer(**pretraining(options)),
            random_state=options.seed,
            device=options.device,
            verbose=1,
        )
        if options.fine_tune_epochs is not None:
            classifier.set_params(max_epochs=options.fine_tune_epochs)
        result = classify_particles(
            options.input,
            options.labels,
            labels_column=options.labels_column,
            classifier=classifier,
            encoder=load_encoder(options),
            embeddings=options.embeddings,
            output=options.output,
            model=options.save_model,
            overwrite=options.overwrite,
            **reading(options),
        )
        show(result.summary())
        show(f"{len(result.names)} classified particles are in {options.output}.")

    return guard("classify", work, "No STAR file was written.")
