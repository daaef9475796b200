"""The paper's experiment in small: what pretraining is worth when labels are few."""

from sksubtomo.study._report import StudyResult
from sksubtomo.study._run import PreparedStudy, prepare_study, run_study
from sksubtomo.study.settings import StudySettings

__all__ = [
    "PreparedStudy",
    "StudyResult",
    "StudySettings",
    "prepare_study",
    "run_study",
]
