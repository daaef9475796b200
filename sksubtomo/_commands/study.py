"""``python -m sksubtomo study``."""

from __future__ import annotations

import argparse
import sys
import warnings
from dataclasses import fields
from typing import Any

from sksubtomo._commands._guard import (
    BAD_INPUT,
    FAILURE,
    INPUT_ERRORS,
    INTERRUPTED,
    SUCCESS,
    fail,
    show_warnings,
)

# Options of the study that describe simulated volumes.
_SIMULATION = ("structures", "size", "snr", "n_per_class")


def add(commands: Any) -> None:
    """Add the command.

    Parameters
    ----------
    commands : object
        What ``add_subparsers`` returned.
    """
    from sksubtomo.study import StudySettings

    # The one place of the defaults is the dataclass; what is not given stays away.
    defaults = StudySettings()
    command = commands.add_parser(
        "study",
        help="what pretraining is worth when labels are few",
        description="Simulate subtomograms (or read your own), pretrain with SimCLR, "
        "SwAV and MoCo without labels, fine-tune from each and from random "
        "initialisation on few labels, and test, beside the paper's recipe and the "
        "recommended one. An interrupted study is continued by "
        "the same command.",
        argument_default=argparse.SUPPRESS,
    )
    command.set_defaults(run=_run)

    def option(group: Any, flag: str, text: str, **keywords: Any) -> None:
        name = flag.removeprefix("--").replace("-", "_")
        default = getattr(defaults, name, None)
        if isinstance(default, tuple):
            default = " ".join(map(str, default))
        shown = "" if default is None else f" (default: {default})"
        group.add_argument(flag, help=text + shown, **keywords)

    simulated = command.add_argument_group("simulated volumes")
    option(
        simulated,
        "--structures",
        "folder of PDB, mmCIF or MRC files, one a class (default: embedded ones)",
        metavar="DIR",
    )
    option(simulated, "--size", "side of the volumes in voxels", type=int)
    option(simulated, "--snr", "signal-to-noise ratio; inf for no noise", type=float)
    option(simulated, "--n-per-class", "volumes of each class", type=int)
    own = command.add_argument_group("your own volumes")
    option(
        own, "--data", "MRC stack of volumes (n, depth, height, width)", metavar="MRC"
    )
    option(
        own,
        "--labels",
        "CSV file with a column 'label', in the stack's order",
        metavar="CSV",
    )
    study = command.add_argument_group("study")
    option(
        study,
        "--fractions",
        "parts of the training labels to fine-tune on",
        type=float,
        nargs="*",
        metavar="F",
    )
    option(
        study,
        "--labels-per-class",
        "numbers of labels of each class to fine-tune on",
        type=int,
        nargs="*",
        metavar="N",
    )
    option(study, "--repeats", "label subsets and seeds", type=int)
    option(study, "--epochs", "epochs of pretraining", type=int)
    option(
        study,
        "--fine-tune-epochs",
        "epochs of fine-tuning (default: each row's own)",
        type=int,
    )
    study.add_argument(
        "--no-recipes",
        help=f"leave out the rows of the recipes ({', '.join(defaults.recipes)})",
        dest="recipes",
        action="store_const",
        const=(),
    )
    option(study, "--seed", "seed of everything", type=int)
    option(study, "--device", "where to compute: cpu, cuda, auto, ...")
    study.add_argument(
        "--jobs",
        help="processes, each with one thread (default: one a core)",
        type=int,
        default=None,
    )
    study.add_argument(
        "--output", help="folder for tables and figures (default: study)", metavar="DIR"
    )


def _run(options: argparse.Namespace) -> int:
    from sksubtomo.study import StudySettings, prepare_study

    given = vars(options)
    output = given.get("output", "study")
    n_jobs = given.get("jobs")
    names = {item.name for item in fields(StudySettings)}
    chosen = {name: value for name, value in given.items() if name in names}
    with warnings.catch_warnings():
        show_warnings("study")
        try:
            try:
                _check_options(chosen, n_jobs)
                study = prepare_study(StudySettings(**chosen), output)
            except INPUT_ERRORS as error:
                return fail("study", error, BAD_INPUT)
            # From here on a ValueError is a mistake of ours, and needs its traceback.
            result = study.run(n_jobs=n_jobs, progress=True)
        except (OSError, FloatingPointError) as error:
            return fail("study", error, FAILURE)
        except KeyboardInterrupt:
            print(
                f"sksubtomo study: interrupted. Finished cells are kept in {output}; "
                "the same command continues.",
                file=sys.stderr,
            )
            return INTERRUPTED
    print(result.table)
    print(f"Tables and figures are in {result.output}.")
    return SUCCESS


def _check_options(chosen: dict[str, Any], n_jobs: int | None) -> None:
    """Check what only the command line knows: which options were given."""
    if n_jobs is not None and n_jobs < 1:
        raise ValueError(f"--jobs {n_jobs}; expected at least 1.")
    if "data" in chosen:
        for name in _SIMULATION:
            if name in chosen:
                raise ValueError(
                    f"--{name.replace('_', '-')} is for simulated volumes; it cannot "
                    "be given with --data."
                )
