"""Accuracy against the number of labels, for any estimators on equal terms."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, fields, replace
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sksubtomo.model_selection._comparison import Comparison, plan_comparison
from sksubtomo.model_selection._plan import Split
from sksubtomo.model_selection.label_fractions import (
    LabelFractionDisplay,
    LabelFractionRow,
    LabelFractionSummary,
    summarize_label_fractions,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from pandas import DataFrame

_TESTS = ("paired", "corrected")


@dataclass(frozen=True, eq=False, repr=False)
class LabelFractionCurve:
    """What `label_fraction_curve` found.

    Attributes
    ----------
    rows_ : list of LabelFractionRow
        The fits: by number of labels, then in the order of the estimators, of the
        splits and of the repeats.
    baseline : str
        The method that the others are tested against unless another is named.
    methods_ : list of str
        Names of the estimators.
    label_fractions_ : ndarray of shape (n_settings,)
        Part of the training labels of each number of labels: as asked for, or what a
        number for each class makes, in the mean of the splits.
    labels_per_class_ : ndarray of shape (n_settings,)
        Labels of the class with the fewest, in the split with the fewest.
    scores_ : dict of ndarray of shape (n_settings, n_runs)
        Test accuracies of each method, 0 to 1. A run is a repeat on a split, and the
        columns are the same runs for all methods.
    summaries_ : list of LabelFractionSummary
        What `summary` returns by default, as objects.
    splits_ : list of Split
        For each split the rows of X in its parts, ascending, as the attributes `train`
        (with the unlabelled), `validation` and `test`.
    test_over_train_ : float
        Test volumes divided by labelled training volumes, in the mean of the splits.
    chance_ : float
        Test accuracy of always naming the most frequent class, in the mean of the
        splits.
    pretraining_seconds_ : dict of ndarray of shape (n_splits,)
        Duration of the pretraining of each method that has one; NaN where it was not
        needed, because all its fits were there.
    """

    rows_: list[LabelFractionRow]
    baseline: str
    methods_: list[str]
    label_fractions_: NDArray[np.float64]
    labels_per_class_: NDArray[np.int64]
    splits_: list[Split]
    test_over_train_: float
    chance_: float
    pretraining_seconds_: dict[str, NDArray[np.float64]]

    @property
    def scores_(self) -> dict[str, NDArray[np.float64]]:  # numpydoc ignore=RT01
        """Test accuracies of each method, by number of labels and run."""
        shape = (len(self.label_fractions_), len(self.methods_), -1)
        scores = np.array([row.accuracy for row in self.rows_]).reshape(shape)
        return {name: scores[:, n].copy() for n, name in enumerate(self.methods_)}

    def to_frame(self) -> DataFrame:
        """Return the fits as a data frame, one a row.

        Returns
        -------
        pandas.DataFrame
            Columns `method`, `label_fraction`, `labels_per_class`, `validation_labels`,
            `split`, `repeat`, `accuracy` (0 to 1) and `seconds`, as in
            `LabelFractionRow`.

        Raises
        ------
        ImportError
            If pandas is not installed.
        """
        columns = [column.name for column in fields(LabelFractionRow)]
        frame = _import_pandas().DataFrame(map(astuple, self.rows_), columns=columns)
        columns.insert(columns.index("repeat"), columns.pop())
        return frame[columns]

    def summary(
        self, *, baseline: str | None = None, test: str = "paired"
    ) -> DataFrame:
        """Average the runs, and test each method against a baseline.

        Parameters
        ----------
        baseline : str, default=None
            The method that the others are tested against; None means the one that the
            curve was made with.
        test : {"paired", "corrected"}, default="paired"
            `paired_t_test`, or `corrected_t_test` with the ratio `test_over_train_`.
            The first takes runs for independent; the second allows for the rows that
            training parts share. Its ratio counts all rows of a training part, also
            those whose labels are hidden, and is that of different splits: where the
            repeats have one split, and share all rows, it still is too optimistic.

        Returns
        -------
        pandas.DataFrame
            One row for each number of labels and method, with the columns `method`,
            `label_fraction`, `labels_per_class`, `validation_labels`, `n_repeats`,
            `mean`, `std` and `pvalue`, as in `LabelFractionSummary`.

        Raises
        ------
        ValueError
            If there is no such method or test.
        ImportError
            If pandas is not installed.
        """
        columns = [column.name for column in fields(LabelFractionSummary)]
        summaries = map(astuple, self._summarize(baseline, test))
        frame: DataFrame = _import_pandas().DataFrame(summaries, columns=columns)
        return frame

    def plot(self, *, ax: Axes | None = None) -> LabelFractionDisplay:
        """Draw accuracy against the number of labels, with standard deviations.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw. None makes a figure of a journal's column width.

        Returns
        -------
        LabelFractionDisplay
            The display, with the axes as `ax_`.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        """
        return LabelFractionDisplay.from_curve(self, ax=ax)

    @property
    def summaries_(self) -> list[LabelFractionSummary]:  # numpydoc ignore=RT01
        """The rows of `summary`, tested by `paired_t_test` against the baseline."""
        return self._summarize()

    def _summarize(
        self, baseline: str | None = None, test: str = "paired"
    ) -> list[LabelFractionSummary]:
        baseline = self.baseline if baseline is None else baseline
        _check_choice("baseline", baseline, self.methods_)
        _check_choice("test", test, _TESTS)
        # Splits of different sizes are one point of the curve.
        size = len(self.rows_) // len(self.label_fractions_)
        rows = [
            replace(row, labels_per_class=int(self.labels_per_class_[n // size]))
            for n, row in enumerate(self.rows_)
        ]
        return summarize_label_fractions(
            rows,
            baseline,
            test_over_train=self.test_over_train_ if test == "corrected" else 0.0,
        )

    def __repr__(self) -> str:
        n_settings = len(self.label_fractions_)
        n_runs = len(self.rows_) // (n_settings * len(self.methods_))
        return (
            f"LabelFractionCurve of {', '.join(self.methods_)}: {n_settings} numbers "
            f"of labels, {n_runs} runs each"
        )


def label_fraction_curve(
    estimators: Mapping[str, Any],
    X: Any,
    y: ArrayLike,
    *,
    label_fractions: Sequence[float] | float = (0.25, 0.5, 0.75, 1.0),
    labels_per_class: int | Sequence[int] | None = None,
    n_repeats: int = 5,
    cv: Any = None,
    groups: ArrayLike | None = None,
    baseline: str | None = None,
    unlabeled: Any = None,
    test_size: float = 0.2,
    validation_size: float = 0.2,
    resplit: bool = False,
    memory: Any = None,
    folder: str | Path | None = None,
    n_jobs: int | None = None,
    random_state: Any = None,
    verbose: int = 0,
) -> LabelFractionCurve:
    """Measure the accuracy of estimators on several parts of the labels.

    X is split into training, validation and test part. Every estimator is fitted on
    labels of the training part, drawn class by class, and tested on the test part.
    Within a repeat, all of them have the same labels and the same seed.

    A :class:`~sksubtomo.ContrastivePretrainer` in an estimator is fitted **once for
    each split**, on all volumes of the training part and on no other, and its frozen
    weights are the start of all fits there.

    Read more in the :ref:`User Guide <label_fraction_curve>`.

    Parameters
    ----------
    estimators : dict of str to estimator object
        Classifiers by name: those of this package, any of scikit-learn, pipelines. They
        are cloned. A fitted pretrainer in ``FrozenEstimator`` is used as it is; that it
        has not seen the test part is then up to you.
    X : array-like of shape (n, depth, height, width) or (n, n_features)
        Volumes, or whatever the estimators take and rows can be chosen from.
    y : array-like of shape (n,)
        Labels.
    label_fractions : float or sequence of float, default=(0.25, 0.5, 0.75, 1.0)
        Parts of the training labels of each class, above 0 and up to 1; of each class
        at least one. May be empty if there are `labels_per_class`.
    labels_per_class : int or sequence of int, default=None
        Further numbers of labels of each class. Numbers that come to the same labels as
        a fraction are fitted once.
    n_repeats : int, default=5
        How often labels and seed are drawn, for each split.
    cv : int, splitter, iterable of (train, test) or None, default=None
        Where the test parts come from. None means one split, stratified, or by groups
        where there are any; an int the number of stratified folds. It sees the labelled
        rows only; in an iterable are rows of X.
    groups : array-like of shape (n,), default=None
        What each volume belongs to, such as its tomogram. No group is in two parts.
    baseline : str, default=None
        Name of the estimator that the others are tested against; None means the first.
    unlabeled : int, float or str, default=None
        The label that marks unlabelled rows. They are in the training part (with
        groups, unless their group is tested), for pretraining and for estimators with a
        parameter `unlabeled`, which is set to this mark. None means that all rows are
        labelled.
    test_size : float, default=0.2
        Test part of the labelled rows, if `cv` is None.
    validation_size : float, default=0.2
        Part of the labelled rows that is kept from the training part, in all fits and
        all methods. From 20 labels of each class up, it is passed as `validation_data`
        to classifiers that take it and have no `validation_fraction`, and counted in
        their rows; with fewer, it would outnumber the labels that are studied. 0 leaves
        it in the training part.
    resplit : bool, default=False
        Whether each repeat has a split of its own, and so a pretraining of its own.
        Without, standard deviations and tests speak of labels and seeds on one split
        only.
    memory : str or object with the joblib.Memory interface, default=None
        Cache of the pretrainings. None means the folder ``cache`` in `folder`, or a
        temporary one.
    folder : str or Path, default=None
        Where each fit is kept as soon as it is finished, in a file of its own. What is
        there is not computed again: the same call continues an interrupted curve, and
        with other estimators, fractions or repeats it computes those only. A fit is
        known by its estimator's parameters, the values of X and y, the split, the
        seeds, and the versions of the packages. It needs a `random_state`.
    n_jobs : int, default=None
        Number of jobs, as for joblib, whose ``parallel_config`` decides the backend.
        With a seed, results do not depend on it, as long as the number of torch threads
        is the same.
    random_state : int, RandomState instance or None, default=None
        Determines splits, pretrainings, labels and fits. Every `random_state` in the
        estimators is replaced: pretrainings of one split have one seed, and fits of one
        repeat another.
    verbose : int, default=0
        Above 0, shows a progress bar on standard error.

    Returns
    -------
    LabelFractionCurve
        Scores of all runs, with their summary and figure.

    Raises
    ------
    ValueError
        If an argument is not acceptable, or the data do not allow the split. Errors of
        a fit say which one it was.
    OSError
        If `folder` cannot be written.

    See Also
    --------
    LabelFractionSplit : A part of the labels in cross-validation and searches.
    sksubtomo.LabelFractionClassifier : Hides a part of the labels.

    Examples
    --------
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> from sksubtomo import ContrastivePretrainer
    >>> from sksubtomo.datasets import make_subtomograms
    >>> from sksubtomo.model_selection import label_fraction_curve
    >>> X, y = make_subtomograms(n_per_class=10, size=8, random_state=0,
    ...                          return_X_y=True)
    >>> linear = LogisticRegression(max_iter=1000)
    >>> pretrained = make_pipeline(ContrastivePretrainer(max_epochs=1), linear)
    >>> curve = label_fraction_curve(
    ...     {"voxels": linear, "pretrained": pretrained}, X.reshape(100, -1), y,
    ...     label_fractions=(0.5, 1.0), n_repeats=2, random_state=0)
    >>> curve
    LabelFractionCurve of voxels, pretrained: 2 numbers of labels, 2 runs each
    >>> curve.summary().columns.tolist()  # doctest: +ELLIPSIS
    ['method', 'label_fraction', ..., 'mean', 'std', 'pvalue']
    """
    comparison = plan_comparison(
        estimators,
        X,
        y,
        label_fractions=label_fractions,
        labels_per_class=labels_per_class,
        n_repeats=n_repeats,
        cv=cv,
        groups=groups,
        unlabeled=unlabeled,
        test_size=test_size,
        validation_size=validation_size,
        resplit=resplit,
        random_state=random_state,
    )
    if folder is not None and not isinstance(random_state, Integral):
        raise ValueError(
            f"folder={str(folder)!r} was given with random_state={random_state!r}; "
            "expected an int, or no fit could be known again."
        )
    baseline = next(iter(estimators)) if baseline is None else baseline
    _check_choice("baseline", baseline, estimators)
    return run_comparison(
        comparison,
        baseline,
        memory=memory,
        folder=folder,
        n_jobs=n_jobs,
        verbose=verbose,
    )


def run_comparison(
    comparison: Comparison,
    baseline: str,
    *,
    memory: Any = None,
    folder: str | Path | None = None,
    n_jobs: int | None = None,
    verbose: int = 0,
) -> LabelFractionCurve:
    """Compute what `label_fraction_curve` has planned.

    Parameters
    ----------
    comparison : Comparison
        What `plan_comparison` returned.
    baseline : str
        Name of the estimator that the others are tested against.
    memory : str, object with the joblib.Memory interface, or None
        As for `label_fraction_curve`.
    folder : str, Path or None
        As for `label_fraction_curve`.
    n_jobs : int or None
        As for `label_fraction_curve`.
    verbose : int
        As for `label_fraction_curve`.

    Returns
    -------
    LabelFractionCurve
        Scores of all runs.
    """
    pretrainings, fits = comparison.pretrainings(), comparison.fits()
    durations, results = comparison.run(
        memory=memory,
        folder=None if folder is None else Path(folder),
        n_jobs=n_jobs,
        verbose=verbose,
        warn=lambda message, category: warnings.warn(message, category, stacklevel=6),
    )
    seconds: dict[str, list[float]] = {}
    for pretraining, duration in zip(pretrainings, durations, strict=True):
        seconds.setdefault(pretraining.method, []).append(duration)
    splits = comparison.splits
    tested = [comparison.y[split.test] for split in splits]
    return LabelFractionCurve(
        rows_=[
            LabelFractionRow(
                method=fit.method,
                label_fraction=fit.setting.label_fraction,
                labels_per_class=min(fit.setting.counts[fit.number]),
                validation_labels=fit.validation_labels,
                repeat=fit.repeat,
                accuracy=result["accuracy"],
                seconds=result["seconds"],
                split=fit.number,
            )
            for fit, result in zip(fits, results, strict=True)
        ],
        baseline=baseline,
        methods_=list(comparison.estimators),
        label_fractions_=np.array([s.label_fraction for s in comparison.settings]),
        labels_per_class_=np.array([s.labels_per_class for s in comparison.settings]),
        splits_=list(splits),
        test_over_train_=float(
            np.mean(
                [
                    len(split.test) / comparison.labeled[split.train].sum()
                    for split in splits
                ]
            )
        ),
        chance_=float(
            np.mean(
                [np.unique(y, return_counts=True)[1].max() / len(y) for y in tested]
            )
        ),
        pretraining_seconds_={name: np.array(s) for name, s in seconds.items()},
    )


def _check_choice(name: str, value: Any, choices: Iterable[str]) -> None:
    if value not in choices:
        raise ValueError(f"{name}={value!r}; expected one of {list(choices)}.")


def _import_pandas() -> Any:
    try:
        import pandas
    except ImportError as error:
        raise ImportError(
            "Data frames need pandas, which is not installed: "
            'pip install "sksubtomo[study]".'
        ) from error
    return pandas
