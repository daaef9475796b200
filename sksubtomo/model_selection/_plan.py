"""What is drawn for a comparison: splits, numbers of labels, and seeds."""

from __future__ import annotations

import math
import warnings
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import joblib
import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import (
    PredefinedSplit,
    StratifiedGroupKFold,
    StratifiedKFold,
)
from sklearn.utils import _safe_indexing

from sksubtomo._labels import draw_by_class
from sksubtomo._random import as_generator

VALIDATION_FROM = 20
"""Fewest labels of a class at which further labels are spent on choosing the epoch."""

UNLABELED = -1
"""The code of rows without a label; those of classes count from 0."""

Rows = NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class Split:
    """Rows of X in each part, ascending; those without a label are in `train`."""

    train: Rows
    validation: Rows
    test: Rows

    @property
    def digest(self) -> str:
        """What tells the split from others of the same rows."""
        parts = (self.train, self.validation, self.test)
        return str(joblib.hash([part.tolist() for part in parts]))


@dataclass(frozen=True)
class LabelSetting:
    """A number of labels to train on.

    `label_fraction` is the part of the training labels that was asked for, or that
    `per_class` labels of each class make. `counts` has the labels of each class, for
    each split.
    """

    label_fraction: float
    per_class: int | None
    counts: tuple[tuple[int, ...], ...]

    @property
    def labels_per_class(self) -> int:
        """Labels of the class with the fewest, of the split with the fewest."""
        return min(map(min, self.counts))


def derive_seed(seed: int, *purpose: str | int) -> int:
    """Derive a seed; another purpose does not change it."""
    words = (zlib.crc32(w.encode()) if isinstance(w, str) else w for w in purpose)
    return int(np.random.SeedSequence([seed, *words]).generate_state(1)[0])


def labeled_folds(
    cv: Any, X: Any, y: NDArray[Any], labeled: NDArray[np.bool_], groups: Any
) -> Iterator[tuple[Rows, Rows]]:
    """Yield training and test rows, of which the latter all have a label.

    A splitter sees the labelled rows only. The others join the training part, unless
    their group is one that is tested and not trained on. Of a list of splits they stay
    in the training parts that they are in.
    """
    if isinstance(cv, PredefinedSplit):
        cv = list(cv.split())
    if not hasattr(cv, "split"):
        for train, test in cv:
            rows = np.arange(len(y))
            yield np.sort(rows[train]), np.sort(rows[test][labeled[test]])
        return
    known, unknown = np.flatnonzero(labeled), np.flatnonzero(~labeled)
    shown = X if labeled.all() else _safe_indexing(X, known)
    shown_groups = None if groups is None else groups[known]
    for positions in cv.split(shown, y[known], shown_groups):
        train, test = (np.sort(known[part]) for part in positions)
        joining = unknown
        if groups is not None:
            apart = np.setdiff1d(groups[test], groups[train])
            joining = unknown[~np.isin(groups[unknown], apart)]
        yield np.union1d(train, joining), test


def plan_splits(
    X: Any,
    codes: NDArray[np.int64],
    classes: NDArray[Any],
    groups: NDArray[Any] | None,
    *,
    cv: Any,
    n_splits: int,
    test_size: float,
    validation_size: float,
    seed: int,
) -> list[Split]:
    """Split into training, validation and test part: `n_splits` times, or as `cv` does.

    With groups, no group is in two parts.
    """
    labeled = codes != UNLABELED
    if cv is None:
        if groups is None:
            _check_class_sizes(codes, classes, test_size, validation_size)
        cv = [
            _hold_out(
                np.arange(len(codes)),
                codes,
                groups,
                test_size,
                derive_seed(seed, "test", number),
            )
            for number in range(n_splits)
        ]
    elif isinstance(cv, Integral):
        cv = StratifiedKFold(cv) if groups is None else StratifiedGroupKFold(cv)
    elif isinstance(cv, str) or not (hasattr(cv, "split") or isinstance(cv, Iterable)):
        raise ValueError(
            f"cv={cv!r}; expected a number of folds, a splitter, pairs of rows, or "
            "None."
        )
    splits = []
    for number, (train, test) in enumerate(
        labeled_folds(cv, X, codes, labeled, groups)
    ):
        validation = train[:0]
        if validation_size:
            share = validation_size * labeled.sum() / labeled[train].sum()
            if share >= 1:
                raise ValueError(
                    f"validation_size={validation_size:g}, but the training part of "
                    f"split {number} has {labeled[train].sum()} of {labeled.sum()} "
                    "labelled volumes; expected a smaller part."
                )
            seed_of_split = derive_seed(seed, "validation", number)
            train, validation = _hold_out(train, codes, groups, share, seed_of_split)
        split = Split(train, validation, test)
        _check_split(split, number, codes, classes, groups)
        splits.append(split)
    return splits


def _hold_out(
    rows: Rows, codes: NDArray[np.int64], groups: Any, share: float, seed: int
) -> tuple[Rows, Rows]:
    """Draw about a share of the labelled rows, class by class or in whole groups.

    Return what is left, without other rows of the groups drawn, and what was drawn.
    """
    known = rows[codes[rows] != UNLABELED]
    if groups is None:
        rng = np.random.default_rng(seed)
        drawn = known[draw_by_class(codes[known], share, rng, keep_one=True)]
        return np.setdiff1d(rows, drawn), drawn
    names, numbers = np.unique(groups[known], return_inverse=True)
    n_groups = len(names)
    if n_groups < 2:
        raise ValueError(
            f"groups has {n_groups} group of labelled volumes to split; expected one "
            "for each of training, validation and test part."
        )
    folds = StratifiedGroupKFold(min(max(2, round(1 / share)), n_groups))
    # Not by the folds: with shuffle=True, scikit-learn 1.7 exchanges the groups' counts
    # of the classes, but not the groups.
    shuffled = np.argsort(as_generator(seed).permutation(n_groups))[numbers]
    with warnings.catch_warnings():
        # That a class is in few groups is the data's, and checked below.
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)
        held_out = [
            known[part] for _, part in folds.split(known, codes[known], shuffled)
        ]
    everything = np.bincount(codes[known])

    def deviation(part: Rows) -> tuple[int, float]:
        counts = np.bincount(codes[part], minlength=len(everything))
        untrained = int(((counts == everything) & (counts > 0)).sum())
        return untrained, float(np.abs(counts - share * everything).sum())

    drawn = min(held_out, key=deviation)
    return rows[~np.isin(groups[rows], groups[drawn])], drawn


def _check_class_sizes(
    codes: NDArray[np.int64],
    classes: NDArray[Any],
    test_size: float,
    validation_size: float,
) -> None:
    counts = np.bincount(codes[codes != UNLABELED])
    needed = math.ceil(
        1 / min(share for share in (test_size, validation_size) if share)
    )
    if counts.min() < needed:
        shares = (1 - test_size - validation_size, validation_size, test_size)
        raise ValueError(
            f"class {classes.tolist()[counts.argmin()]!r} has {counts.min()} volumes; "
            f"the split {':'.join(f'{100 * share:.3g}' for share in shares)} needs at "
            f"least {needed} of each class."
        )


def _check_split(
    split: Split,
    number: int,
    codes: NDArray[np.int64],
    classes: NDArray[Any],
    groups: NDArray[Any] | None,
) -> None:
    missing = np.setdiff1d(np.arange(len(classes)), codes[split.train])
    if len(missing):
        raise ValueError(
            f"class {classes.tolist()[missing[0]]!r} has no labelled volume in the "
            f"training part of split {number}; expected one at least"
            + (", that is, groups of it in every part." if groups is not None else ".")
        )
    if not len(split.test):
        raise ValueError(f"the test part of split {number} has no labelled volume.")
    untested = np.concatenate([split.train, split.validation])
    shared = np.intersect1d(untested, split.test)
    if len(shared):
        raise ValueError(
            f"cv puts {len(shared)} rows, the first of them {shared[0]}, into both the "
            f"training and the test part of split {number}; expected parts that have "
            "no row in common."
        )
    if groups is not None:
        torn = np.intersect1d(groups[untested], groups[split.test])
        if len(torn):
            raise ValueError(
                f"cv puts volumes of group {torn.tolist()[0]!r} into both the training "
                f"and the test part of split {number}; expected a splitter that keeps "
                "groups together, such as StratifiedGroupKFold."
            )


def plan_label_settings(
    codes: Sequence[NDArray[np.int64]],
    label_fractions: Sequence[float],
    labels_per_class: Sequence[int],
) -> list[LabelSetting]:
    """Work out how many labels are used, by their number.

    `codes` are the classes of the labelled training rows, for each split. Settings that
    use the same labels are one, the largest fraction.
    """
    planned: dict[tuple[tuple[int, ...], ...], LabelSetting] = {}
    asked: list[tuple[float, bool]] = [
        # The larger first: of those with the same labels it stays.
        *((wanted, False) for wanted in sorted(label_fractions, reverse=True)),
        *((wanted, True) for wanted in labels_per_class),
    ]
    for wanted, absolute in asked:
        # How many are drawn does not depend on the seed, and only there is the rule.
        counts = tuple(
            tuple(
                np.bincount(
                    part[
                        draw_by_class(
                            part, wanted, np.random.default_rng(0), absolute=absolute
                        )
                    ]
                ).tolist()
            )
            for part in codes
        )
        shares = [sum(n) / len(part) for n, part in zip(counts, codes, strict=True)]
        setting = LabelSetting(
            label_fraction=(
                round(float(np.mean(shares)), 6) if absolute else float(wanted)
            ),
            per_class=int(wanted) if absolute else None,
            counts=counts,
        )
        planned.setdefault(counts, setting)
    return sorted(
        planned.values(),
        key=lambda setting: (setting.labels_per_class, setting.label_fraction),
    )
