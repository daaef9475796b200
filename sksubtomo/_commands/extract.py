"""``python -m sksubtomo extract``."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from sksubtomo._commands._guard import guard


def add(commands: Any) -> None:
    """Add the command.

    Parameters
    ----------
    commands : object
        What ``add_subparsers`` returned.
    """
    command = commands.add_parser(
        "extract",
        help="cut particles out of tomograms",
        description="Cut boxes around the particles of a STAR file out of a tomogram "
        "or several, and write them as an MRC volume stack with a STAR file of its "
        "own.",
    )
    command.set_defaults(run=_run)
    command.add_argument(
        "tomograms",
        help="MRC file of the tomogram; several are each called after their name in "
        "the STAR file",
        nargs="+",
        metavar="TOMOGRAM.mrc",
    )
    command.add_argument(
        "particles", help="STAR file with their coordinates", metavar="PARTICLES.star"
    )
    command.add_argument(
        "--size",
        help="side of the boxes in voxels, after binning",
        type=int,
        required=True,
        metavar="N",
    )
    command.add_argument(
        "--output",
        help="folder for subtomograms.mrc and particles.star",
        required=True,
        metavar="DIR",
    )
    command.add_argument(
        "--binning",
        help="average over cubes of so many voxels a side (default: 1)",
        type=int,
        default=1,
        metavar="B",
    )
    command.add_argument(
        "--invert-contrast",
        "--invert",
        help="multiply by -1: dark particles become light",
        action="store_true",
    )
    command.add_argument(
        "--normalize",
        help="give each box mean 0 and standard deviation 1",
        action="store_true",
    )
    command.add_argument(
        "--edge",
        help="leave out boxes over the tomogram's edge, or fill them up with their "
        "mean (default: drop)",
        choices=("drop", "pad"),
        default="drop",
    )
    command.add_argument(
        "--voxel-size",
        help="voxel size of the tomograms in angstroms, in place of the headers'",
        type=float,
        metavar="A",
    )
    command.add_argument(
        "--coordinate-units",
        help="which coordinates to use: rlnCoordinateX or "
        "rlnCenteredCoordinateXAngst (default: the latter if they are there)",
        choices=("pixels", "angstroms_centered"),
    )
    command.add_argument(
        "--coordinate-voxel-size",
        help="angstroms a pixel of rlnCoordinateX (default: as the STAR file says, or "
        "the tomogram's)",
        type=float,
        metavar="A",
    )
    command.add_argument(
        "--selection",
        help="extract only the particles chosen in this CSV or STAR file",
        metavar="FILE",
    )
    command.add_argument(
        "--tomogram-name",
        help="name of the tomogram, if it is one, in the STAR file (default: the one "
        "that the MRC file is called after)",
        metavar="NAME",
    )
    command.add_argument(
        "--allow-image-stacks",
        help="take a file for a tomogram whose header says that it is a stack of "
        "images",
        action="store_true",
    )
    command.add_argument(
        "--overwrite",
        help="replace outputs that exist already",
        action="store_true",
    )


def _run(options: argparse.Namespace) -> int:
    def work() -> None:
        from sksubtomo.io import extract_subtomograms
        from sksubtomo.picking import read_selection

        selection = None
        if options.selection is not None:
            selection = read_selection(options.selection)
        extraction = extract_subtomograms(
            options.tomograms,
            options.particles,
            size=options.size,
            output=options.output,
            binning=options.binning,
            invert_contrast=options.invert_contrast,
            normalize=options.normalize,
            edge=options.edge,
            voxel_size=options.voxel_size,
            coordinate_units=options.coordinate_units,
            coordinate_voxel_size=options.coordinate_voxel_size,
            selection=selection,
            tomogram_name=options.tomogram_name,
            allow_image_stacks=options.allow_image_stacks,
            overwrite=options.overwrite,
            progress=sys.stderr.isatty(),
        )
        print(extraction.summary())

    return guard("extract", work)
