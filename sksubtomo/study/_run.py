"""The study from beginning to end: what is missing is computed, then reported."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import joblib
import numpy as np
from tqdm import tqdm

from sksubtomo._training.runtime import resolve_device
from sksubtomo.inspection._matplotlib import import_pyplot
from sksubtomo.study._data import Parts, load_parts
from sksubtomo.study._folder import claim_folder, read_rows, write_rows
from sksubtomo.study._plan import (
    MAIN_TABLE,
    Cell,
    Pretraining,
    Task,
    derive_seed,
    plan_cells,
    plan_pretrainings,
)
from sksubtomo.study._report import StudyResult, report
from sksubtomo.study._work import load_pretrained, run_tasks
from sksubtomo.study.settings import StudySettings


def run_study(
    settings: StudySettings | None = None,
    output: str | Path = "study",
    *,
    n_jobs: int | None = None,
    progress: bool = False,
) -> StudyResult:
    """Compare random initialisation with contrastive pretraining at few labels.

    Volumes are simulated or read, and split once, 60:20:20 in each class. Each method
    pretrains on the training part without labels. A classifier is then fine-tuned from
    each and from random weights, on the same labels within a repeat, and tested.

    Parameters
    ----------
    settings : StudySettings, default=None
        What to do; None means all defaults.
    output : str or Path, default="study"
        Folder for tables and figures. If it holds an interrupted study of the same
        settings, that is continued.
    n_jobs : int, default=None
        Number of processes, as for joblib, each with one thread; None means one a core.
        Results do not depend on it.
    progress : bool, default=False
        Whether to show a progress bar on standard error.

    Returns
    -------
    StudyResult
        Rows, summaries and the table.

    Raises
    ------
    ValueError
        If the data do not allow the study, or if `output` holds one of other settings
        or a table that was changed.
    FileNotFoundError
        If a file of the settings does not exist.
    ImportError
        If matplotlib is not installed.
    FloatingPointError
        If a training diverges. Finished fits are kept, as in every interruption.

    Notes
    -----
    Split and pretraining are the same in all repeats: the standard deviation and the
    p-value speak of the choice of labels and the seed of fine-tuning only.

    Examples
    --------
    >>> from sksubtomo.study import StudySettings, run_study
    >>> settings = StudySettings(structures=["groel", "apoferritin"], snr=0.5)
    >>> result = run_study(settings, "groel_study")  # doctest: +SKIP
    >>> print(result.table)  # doctest: +SKIP
    """
    return prepare_study(settings, output).run(n_jobs=n_jobs, progress=progress)


def prepare_study(
    settings: StudySettings | None = None, output: str | Path = "study"
) -> PreparedStudy:
    """Do everything that can fail on bad input, and compute nothing.

    Parameters
    ----------
    settings : StudySettings, default=None
        What to do; None means all defaults.
    output : str or Path, default="study"
        Folder for tables and figures.

    Returns
    -------
    PreparedStudy
        The study, ready to run.

    Raises
    ------
    ValueError, OSError, ImportError
        As `run_study`.
    """
    settings = StudySettings() if settings is None else settings
    import_pyplot()
    resolve_device(settings.device)
    generator = np.random.default_rng(derive_seed(settings, "split"))
    parts = load_parts(settings, generator)
    output = Path(output)
    claim_folder(output, settings, parts.contents)
    study = PreparedStudy(settings, output, parts)
    read_rows(output, study._cells())
    return study


@dataclass(frozen=True)
class PreparedStudy:
    """A study whose input has been checked, as `prepare_study` returns it.

    Attributes
    ----------
    settings : StudySettings
        What to do.
    output : Path
        The folder of the files.
    parts : Parts
        The split.
    """

    settings: StudySettings
    output: Path
    parts: Parts

    def run(self, *, n_jobs: int | None = None, progress: bool = False) -> StudyResult:
        """Compute what is not yet there, and write tables and figures.

        Parameters
        ----------
        n_jobs : int, default=None
            Number of processes; None means one a core.
        progress : bool, default=False
            Whether to show a progress bar on standard error.

        Returns
        -------
        StudyResult
            Rows, summaries and the table.
        """
        pretrainings, cells = self._pretrainings(), self._cells()
        rows = read_rows(self.output, cells)
        missing = [task for task in pretrainings if load_pretrained(task.path) is None]
        todo = [cell for cell in cells if cell.key not in rows]
        # Those that take longest first.
        todo.sort(key=lambda cell: -cell.setting.n_labels)
        # Cells from random weights wait for nothing, and fill the cores that the last
        # pretrainings leave idle.
        first: list[Task] = [*missing, *(cell for cell in todo if cell.start is None)]
        second: list[Task] = [cell for cell in todo if cell.start is not None]
        stages = (run_tasks(tasks, self.parts, n_jobs) for tasks in (first, second))
        for finished in tqdm(
            chain.from_iterable(stages),
            total=len(pretrainings) + len(cells),
            initial=len(pretrainings) - len(missing) + len(rows),
            desc="study",
            unit="fit",
            disable=not progress,
        ):
            if finished is not None:
                cell, row = finished
                rows[cell.key] = row
                write_rows(self.output, cell.table, cells, rows)
        pretrained = [(task, joblib.load(task.path)) for task in pretrainings]
        for task, result in pretrained:
            for message, category in result.messages:
                warnings.warn(
                    f"pretraining {task.method} with {task.views} views: {message}",
                    category,
                    stacklevel=2,
                )
        return report(
            self.settings,
            self.output,
            self.parts,
            [rows[cell.key] for cell in cells if cell.table == MAIN_TABLE],
            [rows[cell.key] for cell in cells if cell.table != MAIN_TABLE],
            pretrained,
        )

    def _pretrainings(self) -> list[Pretraining]:
        # Workers may have been started in another working directory.
        return plan_pretrainings(self.settings, self.output.absolute() / "cache")

    def _cells(self) -> list[Cell]:
        return plan_cells(self.settings, self.parts, self._pretrainings())
