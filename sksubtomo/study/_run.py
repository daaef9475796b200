"""The study from beginning to end: what is missing is computed, then reported."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import joblib
import torch

from sksubtomo._training.runtime import resolve_device
from sksubtomo.inspection._matplotlib import import_pyplot
from sksubtomo.model_selection._comparison import Comparison
from sksubtomo.model_selection.curve import run_comparison
from sksubtomo.study._data import StudyData, load_data
from sksubtomo.study._folder import claim_folder
from sksubtomo.study._plan import plan_study
from sksubtomo.study._report import StudyResult, report
from sksubtomo.study.settings import BASELINE, StudySettings


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
    each and from random weights, on the same labels within a repeat, and tested; beside
    them stand the recipes of the paper and of this package. It is a
    `sksubtomo.model_selection.label_fraction_curve`, with tables and figures.

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
        If the data do not allow the study, or if `output` holds one of other settings.
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
    data = load_data(settings)
    comparison = plan_study(settings, data)
    output = Path(output)
    claim_folder(output, settings, data.contents)
    return PreparedStudy(settings, output, data, comparison)


@dataclass(frozen=True)
class PreparedStudy:
    """A study whose input has been checked, as `prepare_study` returns it.

    Attributes
    ----------
    settings : StudySettings
        What to do.
    output : Path
        The folder of the files.
    data : StudyData
        The volumes.
    comparison : Comparison
        Split, label settings and classifiers.
    """

    settings: StudySettings
    output: Path
    data: StudyData
    comparison: Comparison

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
        # The number of threads decides in which order sums are computed.
        with (
            _single_thread(),
            joblib.parallel_config(
                "loky", n_jobs=n_jobs or -1, inner_max_num_threads=1
            ),
        ):
            curve = run_comparison(
                self.comparison,
                BASELINE,
                folder=self.output,
                verbose=int(progress),
            )
            return report(self.settings, self.output, self.data, self.comparison, curve)


@contextmanager
def _single_thread() -> Iterator[None]:
    """Let torch use one thread in this process."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
