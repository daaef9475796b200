"""Cross-validation in which a part of the training labels is known."""

from __future__ import annotations

from collections.abc import Iterator
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.model_selection import check_cv
from sklearn.utils import _safe_indexing, indexable

from sksubtomo._labels import check_labels, draw_by_class
from sksubtomo._training.runtime import draw_seed
from sksubtomo.model_selection._plan import UNLABELED, derive_seed, labeled_folds


class LabelFractionSplit:
    """Split as another splitter does, and thin the training labels.

    For ``GridSearchCV``, ``cross_val_score`` and whatever else takes a splitter. Of the
    labelled rows of each training part a fraction is kept, drawn class by class and at
    least one of each. The test parts are those of the other splitter.

    A splitter can leave rows out, but cannot hide their labels: the rows that are not
    kept leave the training part altogether, and are not there for pretraining either.
    To keep them as unlabelled rows, put the classifier into a
    :class:`~sksubtomo.LabelFractionClassifier` and split with the other splitter.

    Read more in the :ref:`User Guide <label_fraction_curve>`.

    Parameters
    ----------
    cv : int, splitter, iterable of (train, test) or None, default=None
        The splitter, or the number of stratified folds; None means five. It sees the
        labelled rows only. In an iterable, as in a `PredefinedSplit`, are rows of X, of
        which the unlabelled ones leave the test parts.
    label_fraction : float, default=1.0
        Part of the training labels of each class to keep, above 0 and up to 1.
    unlabeled : int, float or str, default=None
        The label that marks unlabelled rows of y. They are in every training part, for
        an estimator whose own `unlabeled` is this mark (any other would take it for a
        class), and in no test part. With
        groups, those of a group that is tested are left out. None means that all rows
        are labelled.
    labels_per_class : int, default=None
        Number of training labels of each class to keep, whatever `label_fraction` says;
        a smaller class is kept whole.
    random_state : int, RandomState instance or None, default=None
        Determines which labels are kept; those of a smaller fraction are among those of
        a larger. With an int they are the same whenever ``split`` is called, which a
        search needs to compare its candidates on equal terms.

    See Also
    --------
    sksubtomo.LabelFractionClassifier : Hides labels, and keeps the rows.
    label_fraction_curve : Compares estimators at several fractions.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.model_selection import StratifiedKFold
    >>> from sksubtomo.model_selection import LabelFractionSplit
    >>> y = np.array(["a", "b"] * 20 + ["?"] * 10)
    >>> cv = LabelFractionSplit(StratifiedKFold(4), 0.2, unlabeled="?", random_state=0)
    >>> for train, test in cv.split(np.zeros((50, 1)), y):
    ...     print(*(np.sum(y[train] == label) for label in "ab?"), np.unique(y[test]))
    3 3 10 ['a' 'b']
    3 3 10 ['a' 'b']
    3 3 10 ['a' 'b']
    3 3 10 ['a' 'b']
    """

    def __init__(
        self,
        cv: Any = None,
        label_fraction: float = 1.0,
        unlabeled: Any = None,
        labels_per_class: int | None = None,
        random_state: Any = None,
    ) -> None:
        is_number = isinstance(label_fraction, Real) and label_fraction is not True
        if not (is_number and 0 < label_fraction <= 1):
            raise ValueError(
                f"label_fraction={label_fraction!r}; expected a number above 0 and up "
                "to 1."
            )
        if labels_per_class is not None and not (
            isinstance(labels_per_class, int | np.integer) and labels_per_class >= 1
        ):
            raise ValueError(
                f"labels_per_class={labels_per_class!r}; expected an integer of at "
                "least 1, or None."
            )
        # An iterator could be gone through once only.
        given = cv is None or isinstance(cv, Integral) or hasattr(cv, "split")
        self.cv = cv if given else list(cv)
        self.label_fraction = label_fraction
        self.unlabeled = unlabeled
        self.labels_per_class = labels_per_class
        self.random_state = random_state

    def split(
        self, X: Any, y: Any, groups: Any = None
    ) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
        """Yield the rows of each training and test part.

        Parameters
        ----------
        X : array-like of shape (n, ...)
            Volumes, or whatever else has `n` rows.
        y : array-like of shape (n,)
            Labels.
        groups : array-like of shape (n,), default=None
            Passed on to the splitter, such as the tomograms that the volumes are of.

        Yields
        ------
        train : ndarray of shape (n_train,)
            Rows of X to train on, ascending.
        test : ndarray of shape (n_test,)
            Rows of X to test on, ascending.

        Raises
        ------
        ValueError
            If y is not acceptable, has no labelled row, or can never have the mark.
        """
        X, y, groups = indexable(X, y, groups)
        y, labeled = check_labels(BaseEstimator(), X, y, unlabeled=self.unlabeled)
        groups = None if groups is None else np.asarray(groups)
        codes = np.full(len(y), UNLABELED)
        _, codes[labeled] = np.unique(y[labeled], return_inverse=True)
        cv = self.cv if isinstance(self.cv, list) else self._splitter(y[labeled])
        absolute = self.labels_per_class is not None
        seed = draw_seed(self.random_state)
        for number, (train, test) in enumerate(
            labeled_folds(cv, X, y, labeled, groups)
        ):
            known = train[labeled[train]]
            kept = draw_by_class(
                codes[known],
                self.labels_per_class or self.label_fraction,
                np.random.default_rng(derive_seed(seed, number)),
                absolute=absolute,
            )
            yield np.setdiff1d(train, known[~kept]), test

    def get_n_splits(self, X: Any = None, y: Any = None, groups: Any = None) -> int:
        """Return the number of splits.

        Parameters
        ----------
        X : array-like of shape (n, ...), default=None
            Passed on to the splitter.
        y : array-like of shape (n,), default=None
            Labels.
        groups : array-like of shape (n,), default=None
            Passed on to the splitter, those of labelled rows.

        Returns
        -------
        int
            The number.
        """
        if self.unlabeled is not None and y is not None:
            X, y, groups = indexable(X, y, groups)
            rows = y if X is None else X
            _, labeled = check_labels(
                BaseEstimator(), rows, y, unlabeled=self.unlabeled
            )
            X, y, groups = (
                None
                if given is None
                else _safe_indexing(given, np.flatnonzero(labeled))
                for given in (X, y, groups)
            )
        return int(self._splitter(y).get_n_splits(X, y, groups))

    def get_metadata_routing(self) -> Any:
        """Return what the splitter requests, as scikit-learn's splitters do.

        Returns
        -------
        MetadataRequest
            That of `cv`: a splitter by groups requests `groups`.
        """
        return self._splitter(None).get_metadata_routing()

    def __repr__(self) -> str:
        given = ", ".join(f"{name}={value!r}" for name, value in vars(self).items())
        return f"{type(self).__name__}({given})"

    def _splitter(self, y: Any) -> Any:
        return check_cv(self.cv, y, classifier=True)
