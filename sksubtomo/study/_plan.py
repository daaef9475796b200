"""What a study compares: random initialisation, the methods, and the recipes."""

from __future__ import annotations

from typing import Any

from sksubtomo import recipes
from sksubtomo.classification import SubtomogramClassifier
from sksubtomo.model_selection._comparison import Comparison, plan_comparison
from sksubtomo.pretraining import ContrastivePretrainer
from sksubtomo.study._data import StudyData
from sksubtomo.study.settings import BASELINE, StudySettings


def plan_study(settings: StudySettings, data: StudyData) -> Comparison:
    """Draw split, labels and seeds, and build the classifiers."""
    return plan_comparison(
        plan_classifiers(settings),
        data.X,
        data.y,
        label_fractions=settings.fractions,
        labels_per_class=settings.labels_per_class,
        n_repeats=settings.repeats,
        cv=None,
        groups=None,
        unlabeled=None,
        test_size=0.2,
        validation_size=0.2,
        resplit=False,
        random_state=settings.seed,
    )


def plan_classifiers(settings: StudySettings) -> dict[str, SubtomogramClassifier]:
    """Build the classifier of each row of the table.

    But for the start, that of random initialisation and those of the methods are equal.
    """
    own: dict[str, Any] = {"device": settings.device}
    if settings.fine_tune_epochs is not None:
        own["max_epochs"] = settings.fine_tune_epochs
    # As in the paper, without views, which would hide most of what the start is worth.
    plain = {"augmentation": None, "max_epochs": 50} | own
    classifiers = {BASELINE: SubtomogramClassifier(encoder=settings.encoder, **plain)}
    for name, method in settings.methods.items():
        pretrainer = ContrastivePretrainer(
            method=method,
            encoder=settings.encoder,
            augmentation=settings.views,
            max_epochs=settings.epochs,
            batch_size=settings.batch_size,
            lr=settings.lr,
            weight_decay=settings.weight_decay,
            device=settings.device,
        )
        classifiers[name] = SubtomogramClassifier(pretrainer, **plain)
    for name in settings.recipes:
        classifiers[name] = getattr(recipes, name)(
            pretrainer__max_epochs=settings.epochs,
            pretrainer__device=settings.device,
            **own,
        )
    return classifiers
