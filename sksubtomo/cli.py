"""The command line: arguments in, calls out, nothing else."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any, NoReturn

from sksubtomo._version import __version__

_SUCCESS, _FAILURE, _BAD_INPUT, _INTERRUPTED = 0, 1, 2, 130

# Options of the study that describe simulated volumes.
_SIMULATION = ("structures", "size", "snr", "n_per_class")


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
    # A further command is a further line here.
    _add_study(commands)
    options = parser.parse_args(arguments)
    run: Callable[[argparse.Namespace], int] = options.run
    return run(options)


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(_BAD_INPUT, f"{self.prog}: error: {message} (see --help)\n")


def _add_study(commands: Any) -> None:
    from sksubtomo.study import StudySettings

    # The one place of the defaults is the dataclass; what is not given stays away.
    defaults = StudySettings()
    command = commands.add_parser(
        "study",
        help="what pretraining is worth when labels are few",
        description="Simulate subtomograms (or read your own), pretrain with SimCLR, "
        "SwAV and MoCo without labels, fine-tune from each and from random "
        "initialisation on few labels, and test. An interrupted study is continued by "
        "the same command.",
        argument_default=argparse.SUPPRESS,
    )
    command.set_defaults(run=_run_study)

    def add(group: Any, option: str, text: str, **keywords: Any) -> None:
        name = option.removeprefix("--").replace("-", "_")
        default = getattr(defaults, name, None)
        if isinstance(default, tuple):
            default = " ".join(map(str, default))
        shown = "" if default is None else f" (default: {default})"
        group.add_argument(option, help=text + shown, **keywords)

    simulated = command.add_argument_group("simulated volumes")
    add(
        simulated,
        "--structures",
        "folder of PDB, mmCIF or MRC files, one a class (default: embedded ones)",
        metavar="DIR",
    )
    add(simulated, "--size", "side of the volumes in voxels", type=int)
    add(simulated, "--snr", "signal-to-noise ratio; inf for no noise", type=float)
    add(simulated, "--n-per-class", "volumes of each class", type=int)
    own = command.add_argument_group("your own volumes")
    add(own, "--data", "MRC stack of volumes (n, depth, height, width)", metavar="MRC")
    add(
        own,
        "--labels",
        "CSV file with a column 'label', in the stack's order",
        metavar="CSV",
    )
    study = command.add_argument_group("study")
    add(
        study,
        "--fractions",
        "parts of the training labels to fine-tune on",
        type=float,
        nargs="*",
        metavar="F",
    )
    add(
        study,
        "--labels-per-class",
        "numbers of labels of each class to fine-tune on",
        type=int,
        nargs="*",
        metavar="N",
    )
    add(study, "--repeats", "label subsets and seeds", type=int)
    add(study, "--epochs", "epochs of pretraining", type=int)
    add(
        study,
        "--fine-tune-epochs",
        "epochs of fine-tuning (default: the classifier's own)",
        type=int,
    )
    study.add_argument(
        "--no-paper-views",
        help=f"leave out the rows of the paper's views ({defaults.paper_views})",
        dest="paper_views",
        action="store_const",
        const=None,
    )
    add(study, "--seed", "seed of everything", type=int)
    add(study, "--device", "where to compute: cpu, cuda, auto, ...")
    study.add_argument(
        "--jobs",
        help="processes, each with one thread (default: one a core)",
        type=int,
        default=None,
    )
    study.add_argument(
        "--output", help="folder for tables and figures (default: study)", metavar="DIR"
    )


def _run_study(options: argparse.Namespace) -> int:
    from sksubtomo.study import StudySettings, prepare_study

    given = vars(options)
    output = given.get("output", "study")
    n_jobs = given.get("jobs")
    names = {item.name for item in fields(StudySettings)}
    chosen = {name: value for name, value in given.items() if name in names}
    with warnings.catch_warnings():
        # Python's own format would bury the message in source lines.
        warnings.showwarning = _show_warning
        try:
            try:
                _check_options(chosen, n_jobs)
                study = prepare_study(StudySettings(**chosen), output)
            except (ValueError, TypeError, OSError, ImportError) as error:
                return _fail(error, _BAD_INPUT)
            # From here on a ValueError is a mistake of ours, and needs its traceback.
            result = study.run(n_jobs=n_jobs, progress=True)
        except (OSError, FloatingPointError) as error:
            return _fail(error, _FAILURE)
        except KeyboardInterrupt:
            print(
                f"sksubtomo study: interrupted. Finished cells are kept in {output}; "
                "the same command continues.",
                file=sys.stderr,
            )
            return _INTERRUPTED
    print(result.table)
    print(f"Tables and figures are in {result.output}.")
    return _SUCCESS


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


def _fail(error: Exception, status: int) -> int:
    message = " ".join(str(error).split()) or type(error).__name__
    print(f"sksubtomo study: error: {message}", file=sys.stderr)
    return status


def _show_warning(message: Any, *_: Any, **__: Any) -> None:
    text = " ".join(str(message).split())
    print(f"sksubtomo study: warning: {text}", file=sys.stderr)
