"""Contrastive pretraining and few-label classification of cryo-ET subtomograms."""

from sksubtomo._version import __version__
from sksubtomo.classification import RB3DClassifier, SubtomogramClassifier
from sksubtomo.io import ReadVolumes
from sksubtomo.pretraining import ContrastivePretrainer
from sksubtomo.semi_supervised import LabelFractionClassifier

__all__ = [
    "ContrastivePretrainer",
    "LabelFractionClassifier",
    "RB3DClassifier",
    "ReadVolumes",
    "SubtomogramClassifier",
    "__version__",
]
