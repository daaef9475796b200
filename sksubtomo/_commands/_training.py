"""Options that the commands which read particles and train on them share."""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any

# What max_epochs="auto" stands for; the numbers are those of `enough_epochs`, whose
# import would bring torch into every `--help`.
_OR_STEPS = "or with few volumes as many as make 2,000 steps"
AUTO_EPOCHS = f"50, {_OR_STEPS}"
AUTO_PRETRAINING_EPOCHS = f"100, {_OR_STEPS}"


def add_input(command: argparse.ArgumentParser) -> None:
    """Add the particles and how to read them.

    Parameters
    ----------
    command : ArgumentParser
        The command's parser.
    """
    command.add_argument(
        "input",
        metavar="INPUT",
        help="particles: a STAR file, an MRC stack of volumes, a folder or pattern of "
        "MRC files, or an HDF5, Zarr or EM file",
    )
    group = command.add_argument_group("reading")
    group.add_argument(
        "--voxel-size",
        type=float,
        metavar="A",
        help="voxel size in angstroms, in place of what the files say",
    )
    group.add_argument(
        "--invert-contrast",
        action=argparse.BooleanOptionalAction,
        help="multiply by -1: dark particles become light; --no-invert-contrast says "
        "that they are meant to be dark",
    )
    group.add_argument(
        "--axes",
        default="zyx",
        help="order in which the axes are stored, slowest first (default: zyx)",
    )
    group.add_argument(
        "--dataset", metavar="NAME", help="which array of an HDF5 or Zarr file"
    )
    group.add_argument(
        "--allow-image-stacks",
        action="store_true",
        help="take files for volumes whose header, or STAR file, says that they are "
        "stacks of images",
    )


def reading(options: argparse.Namespace) -> dict[str, Any]:
    """Return the arguments of `read_volumes` that were given.

    Parameters
    ----------
    options : Namespace
        The parsed options.

    Returns
    -------
    dict
        Keyword arguments.
    """
    names = ("voxel_size", "invert_contrast", "axes", "dataset", "allow_image_stacks")
    return {name: getattr(options, name) for name in names}


def add_training(command: argparse.ArgumentParser) -> Any:
    """Add what pretraining can be told.

    Parameters
    ----------
    command : ArgumentParser
        The command's parser.

    Returns
    -------
    object
        The group of options, for more of them.
    """
    group = command.add_argument_group("training")
    group.add_argument(
        "--epochs",
        type=int,
        metavar="N",
        help=f"epochs of pretraining (default: {AUTO_PRETRAINING_EPOCHS})",
    )
    group.add_argument(
        "--seed",
        type=int,
        default=0,
        metavar="N",
        help="seed of everything random (default: 0)",
    )
    group.add_argument(
        "--device",
        default="auto",
        help="cpu, cuda, mps, ... (default: auto, the fastest there is)",
    )
    return group


def pretraining(options: argparse.Namespace) -> dict[str, Any]:
    """Return the parameters of the pretrainer.

    Parameters
    ----------
    options : Namespace
        The parsed options.

    Returns
    -------
    dict
        Parameters for `default_pretrainer`.

    Raises
    ------
    ValueError
        If the number of epochs or the seed makes no sense, or this machine has no such
        device.
    """
    from sksubtomo._training.runtime import resolve_device

    for flag, minimum in (("epochs", 1), ("fine_tune_epochs", 1), ("seed", 0)):
        value = getattr(options, flag, None)
        if value is not None and value < minimum:
            raise ValueError(
                f"--{flag.replace('_', '-')} {value}; expected at least {minimum}."
            )
    if options.seed >= 2**32:
        raise ValueError(f"--seed {options.seed}; expected less than 2^32.")
    # An encoder would embed on the CPU, whatever was asked for.
    resolve_device(options.device)
    parameters = {"random_state": options.seed, "device": options.device, "verbose": 1}
    if options.epochs is not None:
        parameters["max_epochs"] = options.epochs
    return parameters


def add_overwrite(command: argparse.ArgumentParser) -> None:
    """Add the permission to replace what is there.

    Parameters
    ----------
    command : ArgumentParser
        The command's parser.
    """
    command.add_argument(
        "--overwrite", action="store_true", help="replace outputs that exist already"
    )


def load_encoder(options: argparse.Namespace) -> Any:
    """Load the encoder that was given.

    Parameters
    ----------
    options : Namespace
        The parsed options.

    Returns
    -------
    ContrastivePretrainer or None
        The encoder, on the device that was asked for.

    Raises
    ------
    ValueError
        If epochs of pretraining were given too, or the encoder cannot be loaded.
    """
    if options.encoder is None:
        return None
    if options.epochs is not None:
        raise ValueError(
            "--epochs is for pretraining; it cannot be given with --encoder."
        )
    from sksubtomo.pretraining import ContrastivePretrainer

    return ContrastivePretrainer.load(options.encoder).set_params(device=options.device)


def show(text: str) -> None:
    """Print a text, whatever characters the terminal knows.

    Of several processes that train together only the first one prints it.

    Parameters
    ----------
    text : str
        The text.
    """
    from sksubtomo._training.distribution import is_main

    if not is_main():
        return
    encoding = sys.stdout.encoding or "utf-8"
    try:
        print(text.encode(encoding, "backslashreplace").decode(encoding), flush=True)
    except BrokenPipeError:
        # The files are written, and nobody reads this any more. Python itself would
        # complain when it closes stdout.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
