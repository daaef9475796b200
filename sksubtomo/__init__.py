"""Contrastive pretraining and few-label classification of cryo-ET subtomograms."""

from sksubtomo._version import __version__
from sksubtomo.classification import (
    CB3DClassifier,
    DSRF3DClassifier,
    RB3DClassifier,
    SubtomogramClassifier,
)
from sksubtomo.io import ReadVolumes
from sksubtomo.pretraining import ContrastivePretrainer
from sksubtomo.semi_supervised import LabelFractionClassifier, SelfDistillation

__all__ = [
    "CB3DClassifier",
    "ContrastivePretrainer",
    "DSRF3DClassifier",
    "LabelFractionClassifier",
    "RB3DClassifier",
    "ReadVolumes",
    "SelfDistillation",
    "SubtomogramClassifier",
    "__version__",
]
