"""``python -m sksubtomo pick``."""

from __future__ import annotations

import argparse
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
        "pick",
        help="find particles in a tomogram",
        description="Find particles of a given diameter in a tomogram by the "
        "difference of Gaussians, rank them by correlation if asked, and write them "
        "as a STAR file.",
    )
    command.set_defaults(run=_run)
    command.add_argument(
        "tomogram", help="MRC file of the tomogram", metavar="TOMOGRAM.mrc"
    )
    command.add_argument(
        "--diameter",
        help="diameter of the particles in angstroms",
        type=float,
        required=True,
        metavar="A",
    )
    command.add_argument(
        "--output", help="STAR file to write", required=True, metavar="PICKS.star"
    )
    command.add_argument(
        "--number",
        help="how many particles to pick at most (default: 1000)",
        type=int,
        default=1000,
        metavar="N",
    )
    command.add_argument(
        "--contrast",
        help="whether particles are dark, as in raw tomograms, or light "
        "(default: dark)",
        choices=("dark", "light"),
        default="dark",
    )
    command.add_argument(
        "--voxel-size",
        help="voxel size of the tomogram in angstroms, in place of the header's",
        type=float,
        metavar="A",
    )
    command.add_argument(
        "--min-distance",
        help="smallest distance of two picks in angstroms (default: 0.8 diameters)",
        type=float,
        metavar="A",
    )
    command.add_argument(
        "--border",
        help="distance from the tomogram's faces in angstroms (default: 0.3 diameters)",
        type=float,
        metavar="A",
    )
    command.add_argument(
        "--score-range",
        help="lowest and highest score of a pick before ranking, in standard "
        "deviations of the filtered tomogram, or none for no limit (default: none "
        "none); gold beads score highest",
        type=_limit,
        nargs=2,
        default=(None, None),
        metavar=("LOW", "HIGH"),
    )
    command.add_argument(
        "--tomogram-name",
        help="name of the tomogram in the STAR file (default: that of the MRC file, "
        "without its suffix)",
        metavar="NAME",
    )
    command.add_argument(
        "--allow-image-stacks",
        help="take a file for a tomogram whose header says that it is a stack of "
        "images",
        action="store_true",
    )
    ranking = command.add_argument_group("ranking by constrained correlation")
    ranking.add_argument(
        "--rank",
        help="rank candidates by correlation with their own average",
        action="store_true",
    )
    ranking.add_argument(
        "--template",
        help="rank them by correlation with this volume, light on dark",
        metavar="T.mrc",
    )
    ranking.add_argument(
        "--candidates",
        help="candidates that are ranked, at least --number (default: twice as many)",
        type=int,
        metavar="N",
    )
    ranking.add_argument(
        "--rotations",
        help="orientations of the template; 0 averages over all (default: 0)",
        type=int,
        default=0,
        metavar="N",
    )
    ranking.add_argument(
        "--tilt-range",
        help="smallest and largest tilt in degrees (default: -60 60)",
        type=float,
        nargs=2,
        default=(-60.0, 60.0),
        metavar=("LOW", "HIGH"),
    )
    ranking.add_argument(
        "--tilt-axis",
        help="x, y or its angle from y in degrees (default: y)",
        type=_axis,
        default="y",
        metavar="AXIS",
    )
    shown = command.add_argument_group("pictures")
    shown.add_argument(
        "--figure", help="draw the picks over slices", metavar="PICKS.png"
    )
    shown.add_argument(
        "--contact-sheets",
        help="folder for pages of the picks and a table to select in",
        metavar="DIR",
    )
    command.add_argument(
        "--overwrite",
        help="replace outputs that exist already",
        action="store_true",
    )


def _axis(text: str) -> str | float:
    try:
        return text if text in ("x", "y") else float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r}; expected x, y or an angle from y in degrees"
        ) from None


def _limit(text: str) -> float | None:
    # argparse takes -inf for an option.
    if text == "none":
        return None
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r}; expected a number or none"
        ) from None


def _run(options: argparse.Namespace) -> int:
    def work() -> None:
        from sksubtomo.picking import pick_tomogram

        low, high = options.score_range
        picks = pick_tomogram(
            options.tomogram,
            options.diameter,
            options.output,
            n_picks=options.number,
            contrast=options.contrast,
            voxel_size=options.voxel_size,
            min_distance=options.min_distance,
            border=options.border,
            score_range=(
                float("-inf") if low is None else low,
                float("inf") if high is None else high,
            ),
            rank=options.rank,
            template=options.template,
            n_candidates=options.candidates,
            n_rotations=options.rotations,
            tilt_range=tuple(options.tilt_range),
            tilt_axis=options.tilt_axis,
            figure=options.figure,
            contact_sheets=options.contact_sheets,
            tomogram_name=options.tomogram_name,
            allow_image_stacks=options.allow_image_stacks,
            overwrite=options.overwrite,
        )
        print(
            f"{len(picks)} picks with scores from {picks.scores[0]:.3g} to "
            f"{picks.scores[-1]:.3g} are in {options.output}."
        )
        if options.contact_sheets is not None:
            print(
                f"Contact sheets are in {options.contact_sheets}. Mark the chosen ones "
                "in its selection.csv; extract --selection reads it."
            )

    return guard("pick", work)
