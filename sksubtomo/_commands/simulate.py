"""``python -m sksubtomo simulate``."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from typing import Any

from sksubtomo._commands._guard import guard

# What holds unless a preset or an option says otherwise.
_DEFAULTS: dict[str, Any] = {"voxel_size": 10.0, "snr": float("inf"), "seed": 0}
_SUBTOMOGRAM_DEFAULTS: dict[str, Any] = {"n_per_class": 100, "size": 32}

# Options that only one of the two kinds of data has.
_ONLY_SUBTOMOGRAMS = (
    *("n_per_class", "size", "neighbors", "max_shift", "preset", "jobs"),
    *("tilt_step", "convention"),
)
_ONLY_TOMOGRAM = ("shape", "n_particles")

# Options whose parameters in Python have other names.
_PARAMETERS = {"seed": "random_state", "neighbors": "n_neighbors"}


def add(commands: Any) -> None:
    """Add the command.

    Parameters
    ----------
    commands : object
        What ``add_subparsers`` returned.
    """
    from sksubtomo.datasets.presets import PRESETS

    command = commands.add_parser(
        "simulate",
        help="make subtomograms, or a tomogram, of known complexes",
        description="Simulate subtomograms into the folder OUT: subtomograms.mrc, an "
        "MRC volume stack, and particles.star with the class, rotation, shift and "
        "neighbours of each. With --tomogram: tomogram.mrc, and particles.star with "
        "the coordinates, class and rotation of each complex.",
        argument_default=argparse.SUPPRESS,
    )
    command.set_defaults(run=_run)
    command.add_argument("output", metavar="OUT", help="folder for the files")
    command.add_argument(
        "--structures",
        metavar="DIR",
        help="folder of PDB, mmCIF or MRC files, one a class (default: embedded "
        "phantoms)",
    )
    command.add_argument(
        "--voxel-size", type=float, metavar="A", help="in angstroms (default: 10)"
    )
    command.add_argument(
        "--resolution", type=float, metavar="A", help="in angstroms (default: 2 voxels)"
    )
    command.add_argument(
        "--snr", type=float, help="signal-to-noise ratio (default: inf, no noise)"
    )
    command.add_argument(
        "--low-pass",
        type=float,
        metavar="A",
        help="resolution in angstroms at which a low-pass filter of signal and noise "
        "begins to fall (default: no filter)",
    )
    command.add_argument(
        "--crowding",
        type=float,
        help="density of the complexes, 0 to 1 (default: 0.5, in a tomogram 0.3)",
    )
    command.add_argument(
        "--tilt-range",
        type=float,
        nargs=2,
        metavar=("MIN", "MAX"),
        help="smallest and largest tilt in degrees (default: -60 60)",
    )
    command.add_argument(
        "--tilt-axis",
        type=_tilt_axis,
        metavar="AXIS",
        help="y, x, or the angle from y in degrees (default: y)",
    )
    command.add_argument(
        "--defocus",
        type=float,
        metavar="UM",
        help="in micrometres, positive for underfocus (default: 5)",
    )
    command.add_argument(
        "--no-optics",
        action="store_true",
        help="no contrast transfer and a perfect detector: density with a missing "
        "wedge and noise",
    )
    command.add_argument("--seed", type=int, help="seed of everything (default: 0)")
    command.add_argument(
        "--clean",
        action="store_true",
        help="write the volumes without noise as clean.mrc, too",
    )
    command.add_argument(
        "--overwrite",
        action="store_true",
        help="replace the files of an earlier simulation in OUT",
    )
    subtomograms = command.add_argument_group("subtomograms")
    subtomograms.add_argument(
        "--preset",
        choices=sorted(PRESETS),
        help="a published data set; other options override it. Its structures are "
        "looked for in --structures by their PDB ids, and else downloaded from the "
        "wwPDB",
    )
    subtomograms.add_argument(
        "--n-per-class", type=int, metavar="N", help="volumes of each class (100)"
    )
    subtomograms.add_argument(
        "--size", type=int, metavar="N", help="side in voxels (32)"
    )
    subtomograms.add_argument(
        "--neighbors", type=int, metavar="N", help="complexes around each target (4)"
    )
    subtomograms.add_argument(
        "--max-shift",
        type=float,
        metavar="F",
        help="how far off the centre, as a fraction of the side (0.1)",
    )
    subtomograms.add_argument(
        "--tilt-step",
        type=_tilt_step,
        metavar="DEGREES",
        help="degrees between tilts, or none for a continuum (3)",
    )
    subtomograms.add_argument(
        "--convention",
        choices=["exact", "liu2020"],
        help="what --snr means: the ratio of variances in each volume, or twice that "
        "as in the paper's data (exact)",
    )
    subtomograms.add_argument(
        "--jobs", type=int, metavar="N", help="threads (default: one a core)"
    )
    tomogram = command.add_argument_group("a tomogram")
    tomogram.add_argument(
        "--tomogram", action="store_true", help="make a tomogram of many complexes"
    )
    tomogram.add_argument(
        "--shape",
        type=int,
        nargs=3,
        metavar=("Z", "Y", "X"),
        help="sides in voxels (64 256 256)",
    )
    tomogram.add_argument(
        "--n-particles",
        type=int,
        metavar="N",
        help="number of complexes (default: by --crowding)",
    )


def _run(options: argparse.Namespace) -> int:
    given = vars(options)
    output = given.pop("output")
    given.pop("run")
    work = _make_tomogram if given.pop("tomogram", False) else _make_subtomograms
    return guard("simulate", lambda: print(work(output, given)))


def _make_subtomograms(output: str, given: dict[str, Any]) -> str:
    from sksubtomo.datasets import simulation_preset, write_subtomograms

    _refuse(given, _ONLY_TOMOGRAM, "is for a tomogram; expected --tomogram with it")
    jobs = given.pop("jobs", -1)
    if jobs != -1 and jobs < 1:
        raise ValueError(f"--jobs {jobs}; expected at least 1.")
    clean, overwrite = given.pop("clean", False), given.pop("overwrite", False)
    parameters = _renamed(_DEFAULTS | _SUBTOMOGRAM_DEFAULTS)
    if "preset" in given:
        folder = given.pop("structures", None)
        parameters |= simulation_preset(given.pop("preset"), structures=folder)
    parameters |= _renamed(_with_microscope(given, parameters))
    path = write_subtomograms(
        output,
        clean=clean,
        overwrite=overwrite,
        n_jobs=jobs,
        progress=sys.stderr.isatty(),
        **parameters,
    )
    return f"Subtomograms and {path.name} are in {output}."


def _make_tomogram(output: str, given: dict[str, Any]) -> str:
    from sksubtomo.datasets import make_tomogram, write_tomogram
    from sksubtomo.datasets.writing import TOMOGRAM_FILES, check_output

    _refuse(given, _ONLY_SUBTOMOGRAMS, "is for subtomograms, not for --tomogram")
    clean, overwrite = given.pop("clean", False), given.pop("overwrite", False)
    if "n_particles" in given and "crowding" in given:
        raise ValueError(
            "--crowding and --n-particles both say how many complexes there are; "
            "expected one of them."
        )
    given = _with_microscope(given, {})
    # Before the work is done.
    check_output(output, TOMOGRAM_FILES, overwrite)
    parameters = _renamed(_DEFAULTS | given)
    tomogram = make_tomogram(return_clean=clean, **parameters)
    path = write_tomogram(output, tomogram, overwrite=overwrite)
    return (
        f"A tomogram with {len(tomogram.target)} complexes and {path.name} are in "
        f"{output}."
    )


def _with_microscope(given: dict[str, Any], base: dict[str, Any]) -> dict[str, Any]:
    """Replace the options of the optics by a microscope, based on that of a preset."""
    from sksubtomo.datasets import Microscope

    rest = dict(given)
    no_optics, defocus = rest.pop("no_optics", False), rest.pop("defocus", None)
    if no_optics and defocus is not None:
        raise ValueError("--defocus is a part of the optics, and not for --no-optics.")
    if no_optics:
        rest["microscope"] = None
    elif defocus is not None:
        microscope = base.get("microscope") or Microscope()
        rest["microscope"] = replace(microscope, defocus=defocus)
    return rest


def _tilt_axis(text: str) -> str | float:
    return text if text in ("x", "y") else float(text)


def _tilt_step(text: str) -> float | None:
    return None if text == "none" else float(text)


# What argparse calls them in its messages.
_tilt_axis.__name__ = "tilt axis"
_tilt_step.__name__ = "tilt step"


def _refuse(given: dict[str, Any], names: tuple[str, ...], why: str) -> None:
    for name in names:
        if name in given:
            raise ValueError(f"--{name.replace('_', '-')} {why}.")


def _renamed(options: dict[str, Any]) -> dict[str, Any]:
    return {
        _PARAMETERS.get(name, name): tuple(value) if isinstance(value, list) else value
        for name, value in options.items()
    }
