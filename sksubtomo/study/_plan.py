"""What a study computes: numbers of labels, pretrainings, cells, and their seeds."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sksubtomo._labels import draw_by_class
from sksubtomo.classification import SubtomogramClassifier
from sksubtomo.pretraining import ContrastivePretrainer
from sksubtomo.semi_supervised import LabelFractionClassifier
from sksubtomo.study._data import Parts
from sksubtomo.study.settings import BASELINE, StudySettings

MAIN_TABLE = "label_fractions.csv"
"""The CSV file of the fits from random weights and from the main views."""

VALIDATION_FROM = 20
"""Fewest labels of a class at which further labels are spent on choosing the epoch."""

CellKey = tuple[str, str, float, int, int, int]
"""What identifies a row: its CSV file and its first five columns."""


@dataclass(frozen=True)
class LabelSetting:
    """A number of labels to fine-tune on.

    `label_fraction` is the part of the training labels that was asked for, or that
    `per_class` labels of each class make; `labels_per_class` counts those of the class
    with the fewest. At `few` labels the paper's views are shown; labels are
    `validated` if further ones choose the epoch.
    """

    label_fraction: float
    labels_per_class: int
    n_labels: int
    per_class: int | None
    validated: bool
    few: bool


def plan_label_settings(
    y_train: NDArray[Any], fractions: Sequence[float], labels_per_class: Sequence[int]
) -> list[LabelSetting]:
    """Work out how many labels are used, in the order of the tables.

    Settings that use the same labels are one, the largest fraction.
    """
    _, codes = np.unique(y_train, return_inverse=True)
    planned: dict[tuple[int, ...], LabelSetting] = {}
    asked: list[tuple[float, bool]] = [
        # The larger first: of those with the same labels it stays.
        *((wanted, False) for wanted in sorted(fractions, reverse=True)),
        *((wanted, True) for wanted in labels_per_class),
    ]
    for wanted, absolute in asked:
        # How many are drawn does not depend on the seed, and only here is the rule.
        kept = draw_by_class(codes, wanted, np.random.default_rng(0), absolute=absolute)
        counts = tuple(np.bincount(codes[kept]).tolist())
        fraction = round(sum(counts) / len(codes), 6) if absolute else float(wanted)
        setting = LabelSetting(
            label_fraction=fraction,
            labels_per_class=min(counts),
            n_labels=sum(counts),
            per_class=int(wanted) if absolute else None,
            validated=min(counts) >= VALIDATION_FROM,
            few=False,
        )
        setting = planned.setdefault(counts, setting)
        if absolute:
            planned[counts] = replace(setting, few=True)
    settings = sorted(
        planned.values(),
        key=lambda setting: (setting.labels_per_class, setting.label_fraction),
    )
    if not labels_per_class:
        settings[0] = replace(settings[0], few=True)
    return settings


@dataclass(frozen=True)
class Pretraining:
    """A pretraining, kept at `path`; rows that start from it go into `table`."""

    method: str
    views: str
    pretrainer: ContrastivePretrainer
    path: Path
    table: str


def plan_pretrainings(settings: StudySettings, cache: Path) -> list[Pretraining]:
    """List each method with the main views, then with the paper's."""
    main, *_ = settings.named_views
    # One seed: all start from the same encoder and take volumes in one order.
    seed = derive_seed(settings, "pretraining")
    return [
        Pretraining(
            method=method,
            views=name,
            pretrainer=ContrastivePretrainer(
                method=method_object,
                encoder=settings.encoder,
                augmentation=views,
                max_epochs=settings.epochs,
                batch_size=settings.batch_size,
                lr=settings.lr,
                weight_decay=settings.weight_decay,
                device=settings.device,
                random_state=seed,
            ),
            path=cache / f"{name}-{method}.joblib",
            table=MAIN_TABLE if name == main else f"label_fractions_{name}.csv",
        )
        for name, views in settings.named_views.items()
        for method, method_object in settings.methods.items()
    ]


@dataclass(frozen=True)
class Cell:
    """A row of a table; it starts from random weights if `start` is None."""

    start: Pretraining | None
    setting: LabelSetting
    validation_labels: int
    repeat: int
    classifier: LabelFractionClassifier

    @property
    def table(self) -> str:
        """The CSV file of the row."""
        return MAIN_TABLE if self.start is None else self.start.table

    @property
    def key(self) -> CellKey:
        """What identifies the row."""
        return (
            self.table,
            BASELINE if self.start is None else self.start.method,
            self.setting.label_fraction,
            self.setting.labels_per_class,
            self.validation_labels,
            self.repeat,
        )


Task = Pretraining | Cell


def plan_cells(
    settings: StudySettings, parts: Parts, pretrainings: Sequence[Pretraining]
) -> list[Cell]:
    """List the cells in the order of the rows in the tables."""
    label_settings = plan_label_settings(
        parts.y_train, settings.fractions, settings.labels_per_class
    )
    return [
        Cell(
            start=start,
            setting=setting,
            validation_labels=len(parts.y_val) if setting.validated else 0,
            repeat=repeat,
            classifier=_classifier(settings, setting, repeat),
        )
        for setting in label_settings
        for start in (None, *pretrainings)
        if start is None or start.table == MAIN_TABLE or setting.few
        for repeat in range(settings.repeats)
    ]


def _classifier(
    settings: StudySettings, setting: LabelSetting, repeat: int
) -> LabelFractionClassifier:
    """Build what all methods share within a repeat: settings, labels and seed."""
    name = (
        f"fraction {setting.label_fraction!r}"
        if setting.per_class is None
        else f"{setting.per_class} per class"
    )
    classifier = SubtomogramClassifier(
        encoder=settings.encoder,
        device=settings.device,
        random_state=derive_seed(settings, "fine-tuning", name, str(repeat)),
    )
    if settings.fine_tune_epochs is not None:
        classifier.set_params(max_epochs=settings.fine_tune_epochs)
    return LabelFractionClassifier(
        classifier,
        label_fraction=setting.label_fraction,
        labels_per_class=setting.per_class,
        random_state=derive_seed(settings, "labels", name, str(repeat)),
    )


def derive_seed(settings: StudySettings, *purpose: str) -> int:
    """Derive a seed; another purpose does not change it."""
    words = [settings.seed, *(zlib.crc32(word.encode()) for word in purpose)]
    return int(np.random.SeedSequence(words).generate_state(1)[0])
