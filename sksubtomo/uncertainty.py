"""Knowing when not to answer: calibration, abstention and the score of novelty."""

from __future__ import annotations

from collections.abc import Iterable
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from scipy.stats import binomtest
from sklearn.base import (
    BaseEstimator,
    ClassifierMixin,
    MetaEstimatorMixin,
    OutlierMixin,
    _fit_context,
    clone,
)
from sklearn.calibration import CalibrationDisplay
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import check_cv
from sklearn.neighbors import NearestNeighbors
from sklearn.utils import _safe_indexing, get_tags, indexable
from sklearn.utils._param_validation import HasMethods, Interval
from sklearn.utils.validation import check_is_fitted, validate_data

from sksubtomo._labels import check_labels, draw_by_class, encode_labels
from sksubtomo._training.runtime import draw_seed
from sksubtomo.inspection._matplotlib import COLUMN_WIDTH, make_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Smaller probabilities are rounding: means over several views are float32.
_LEAST_PROBABILITY = float(np.finfo(np.float32).tiny)

# Temperatures from 1e-3 to 1e3; no classifier of use is farther off.
_LOG_TEMPERATURES = (-7.0, 7.0)

# Coverages that `threshold_for_accuracy` may test. It stops at the first that fails, so
# that among more of them it stops earlier.
_N_COVERAGES = 20


class TemperatureScaledClassifier(MetaEstimatorMixin, ClassifierMixin, BaseEstimator):
    """Calibrate a classifier's probabilities by a single temperature.

    Probabilities are taken to the power of one over the temperature, and brought to sum
    to one again. The temperature is that of the smallest log loss on labelled rows that
    the classifier was not trained on: above 1 it was too sure of itself, below 1 not
    sure enough. The most probable class stays what it was.

    Read more in the :ref:`User Guide <uncertainty>`.

    Parameters
    ----------
    estimator : estimator object
        A classifier with ``predict_proba``. ``FrozenEstimator(fitted_classifier)`` is
        not fitted again: all rows of ``fit`` are for the temperature then, and must be
        others than it was trained on.
    validation_fraction : float, default=0.25
        Part of the labelled rows, drawn class by class, that the estimator is not
        trained on and the temperature is learned from. Unused if `cv` is given.
    cv : int, cross-validation generator or iterable, default=None
        Learns the temperature from out-of-fold probabilities, and then fits the
        estimator to all rows: no label is lost, for as many more fits as there are
        folds. An int is the number of stratified folds. An iterable yields pairs of
        index arrays into the labelled rows, in their order, such as
        ``list(GroupKFold().split(X, y, tomograms))``. None holds out
        `validation_fraction`.
    unlabeled : int, float, str or None, default=None
        The label that marks unlabelled rows. None is the estimator's own `unlabeled`,
        or that of an estimator within it, such as ``estimator__unlabeled`` of a
        :class:`~sksubtomo.LabelFractionClassifier`. They never take part in the
        calibration. An estimator with such a parameter gets them, and the rows that are
        held out from it come to it with this mark, so that it may pretrain on their
        volumes; any other gets rows with labels only.
    random_state : int, RandomState instance or None, default=None
        Determines the rows that are held out. None is fresh entropy. The estimator has
        its own.

    Attributes
    ----------
    temperature_ : float
        The temperature.
    estimator_ : estimator object
        The fitted estimator, or the frozen one.
    classes_ : ndarray of shape (n_classes,)
        The labels.
    n_calibration_ : int
        Number of labelled rows that the temperature was learned from.
    calibration_indices_ : ndarray of shape (`n_calibration_`,)
        These rows, of the X and y of ``fit``.
    calibration_probabilities_ : ndarray of shape (`n_calibration_`, n_classes)
        Their probabilities at the temperature, from estimators that were not trained on
        them; with `cv`, these are the ones of the folds. For
        :func:`threshold_for_accuracy`.
    n_features_in_ : int
        Number of features, if `estimator` exposes it.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the features, if `estimator` exposes them.

    See Also
    --------
    sklearn.calibration.CalibratedClassifierCV : Calibrates in other ways, too; does
        not know unlabelled rows.
    expected_calibration_error : Tells how far off probabilities are.
    abstain : Withholds answers below a confidence.

    Notes
    -----
    For the loss, the label of each of the n rows counts (n + 1/2) / (n + 1), and the
    rest is spread over the other classes, as Platt (1999) did for his sigmoid. Without
    it, rows that are all classified rightly have the temperature 0, and a next error an
    infinite loss. With hundreds of rows it makes no difference.

    References
    ----------
    C. Guo, G. Pleiss, Y. Sun, K. Q. Weinberger, "On calibration of modern neural
    networks", ICML 2017.

    J. Platt, "Probabilistic outputs for support vector machines and comparisons to
    regularized likelihood methods", in: Advances in Large Margin Classifiers, MIT
    Press, 1999.

    Examples
    --------
    >>> from sksubtomo import RB3DClassifier
    >>> from sksubtomo.datasets import make_subtomograms
    >>> from sksubtomo.uncertainty import TemperatureScaledClassifier
    >>> X, y = make_subtomograms(n_per_class=4, size=8, random_state=0,
    ...                          return_X_y=True)
    >>> classifier = RB3DClassifier(max_epochs=2, random_state=0)
    >>> calibrated = TemperatureScaledClassifier(classifier, random_state=0).fit(X, y)
    >>> calibrated.n_calibration_, calibrated.predict_proba(X).shape
    (10, (40, 10))
    """

    _parameter_constraints: dict[str, Any] = {
        "estimator": [HasMethods(["fit", "predict_proba"])],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
        "cv": ["cv_object"],
        "unlabeled": [Real, str, None],
        "random_state": ["random_state"],
    }

    def __init__(
        self,
        estimator: Any,
        *,
        validation_fraction: float = 0.25,
        cv: Any = None,
        unlabeled: Any = None,
        random_state: Any = None,
    ) -> None:
        self.estimator = estimator
        self.validation_fraction = validation_fraction
        self.cv = cv
        self.unlabeled = unlabeled
        self.random_state = random_state

    @_fit_context(prefer_skip_nested_validation=False)
    def fit(self, X: Any, y: Any) -> TemperatureScaledClassifier:
        """Fit the estimator, unless it is frozen, and the temperature.

        Parameters
        ----------
        X : array-like
            Whatever `estimator` takes.
        y : array-like of shape (n,)
            Labels.

        Returns
        -------
        self : TemperatureScaledClassifier
            The fitted classifier.

        Raises
        ------
        ValueError
            If y or a parameter is not acceptable, there is no row to calibrate on, a
            class would be missing from those that the estimator is trained on, or the
            estimator takes the mark of unlabelled rows for a class.
        """
        frozen = isinstance(self.estimator, FrozenEstimator)
        mark = self.unlabeled
        if mark is None:
            marks = _find_marks(self.estimator)
            given = [name for name, value in marks.items() if value is not None]
            if given:
                mark = marks[min(given, key=lambda name: name.count("__"))]
        y, labeled = check_labels(self, X, y, unlabeled=mark)
        (X,) = indexable(X)
        rows = np.flatnonzero(labeled)
        if frozen:
            check_is_fitted(self.estimator)
            self.estimator_ = self.estimator
            self.classes_ = self.estimator.classes_
            codes = encode_labels(y[rows], self.classes_, len(rows), "y")
            probabilities = self.estimator.predict_proba(_safe_indexing(X, rows))
        else:
            self.classes_, codes = np.unique(y[rows], return_inverse=True)
            outputs, held_out = [], []
            for train, test in self._splits(codes):
                missing = np.setdiff1d(np.arange(len(self.classes_)), codes[train])
                if len(missing):
                    raise ValueError(
                        f"class {self.classes_[missing].tolist()[0]!r} would have no "
                        f"labelled row to train on; expected at least one in each "
                        f"training part of cv={self.cv!r}."
                    )
                estimator = self._fit_estimator(X, y, rows[train], mark)
                volumes = _safe_indexing(X, rows[test])
                outputs.append(estimator.predict_proba(volumes))
                held_out.append(test)
            probabilities, tested = np.concatenate(outputs), np.concatenate(held_out)
            if self.cv is not None:
                estimator = self._fit_estimator(X, y, rows, mark)
            self.estimator_ = estimator
            rows, codes = rows[tested], codes[tested]
        self.n_calibration_ = len(codes)
        self.temperature_ = _best_temperature(probabilities, codes)
        self.calibration_indices_ = rows
        self.calibration_probabilities_ = self._scale(probabilities)
        return self

    def _splits(
        self, codes: NDArray[np.int64]
    ) -> Iterable[tuple[NDArray[np.intp], NDArray[np.intp]]]:
        """Yield labelled rows to train on, and others to learn the temperature from."""
        if self.cv is not None:
            cv = check_cv(self.cv, codes, classifier=True)
            yield from cv.split(np.zeros((len(codes), 1)), codes)
            return
        generator = np.random.default_rng(draw_seed(self.random_state))
        held_out = draw_by_class(
            codes, self.validation_fraction, generator, keep_one=True
        )
        if not held_out.any():
            raise ValueError(
                f"validation_fraction={self.validation_fraction} leaves no row to "
                f"calibrate on: each class has only one sample with a label."
            )
        yield np.flatnonzero(~held_out), np.flatnonzero(held_out)

    def _fit_estimator(
        self, X: Any, y: NDArray[Any], rows: NDArray[np.intp], mark: Any
    ) -> Any:
        """Return a clone that has seen the labels of these rows only."""
        estimator = clone(self.estimator)
        marks = _find_marks(estimator)
        if mark is not None and marks:
            estimator.set_params(**dict.fromkeys(marks, mark))
            shown = np.zeros(len(y), bool)
            shown[rows] = True
            estimator.fit(X, np.where(shown, y, mark))
        elif len(rows) == len(y):
            estimator.fit(X, y)
        else:
            estimator.fit(_safe_indexing(X, rows), y[rows])
        if not np.array_equal(estimator.classes_, self.classes_):
            raise ValueError(
                f"{type(estimator).__name__} learned the classes "
                f"{np.asarray(estimator.classes_).tolist()}; expected "
                f"{self.classes_.tolist()}, the labels of y other than the mark "
                f"unlabeled={mark!r}."
            )
        return estimator

    def predict(self, X: Any) -> NDArray[Any]:
        """Return the most probable class of each row.

        Parameters
        ----------
        X : array-like
            Whatever `estimator` takes.

        Returns
        -------
        ndarray of shape (n,)
            Labels, of those in ``classes_``.
        """
        best = self.predict_proba(X).argmax(axis=1)
        labels: NDArray[Any] = self.classes_[best]
        return labels

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """Return the calibrated probability of each class for each row.

        Parameters
        ----------
        X : array-like
            Whatever `estimator` takes.

        Returns
        -------
        ndarray of shape (n, n_classes)
            Probabilities, in the order of ``classes_``; rows sum to one.
        """
        check_is_fitted(self)
        return self._scale(self.estimator_.predict_proba(X))

    def _scale(self, probabilities: ArrayLike) -> NDArray[np.float64]:
        scaled: NDArray[np.float64] = softmax(
            _logits(probabilities) / self.temperature_, axis=1
        )
        return scaled

    @property
    def n_features_in_(self) -> int:  # numpydoc ignore=RT01
        """Number of features seen in ``fit``."""
        n_features: int = self.estimator_.n_features_in_
        return n_features

    @property
    def feature_names_in_(self) -> NDArray[Any]:  # numpydoc ignore=RT01,SS05
        """Names of the features seen in ``fit``."""
        names: NDArray[Any] = self.estimator_.feature_names_in_
        return names

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags = get_tags(self.estimator).input_tags
        return tags


def _find_marks(estimator: Any) -> dict[str, Any]:
    """Return the parameters that mark unlabelled rows, within an estimator, too."""
    if isinstance(estimator, FrozenEstimator):
        return _find_marks(estimator.estimator)
    return {
        name: value
        for name, value in estimator.get_params(deep=True).items()
        if name.rpartition("__")[2] == "unlabeled"
    }


def _logits(probabilities: ArrayLike) -> NDArray[np.float64]:
    """Return logits of probabilities, which are known up to a constant a row."""
    least = np.maximum(np.asarray(probabilities, np.float64), _LEAST_PROBABILITY)
    logits: NDArray[np.float64] = np.log(least)
    return logits


def _best_temperature(probabilities: ArrayLike, codes: NDArray[np.int64]) -> float:
    """Return the temperature of the smallest log loss, the labels being encoded."""
    logits = _logits(probabilities)
    if not np.ptp(logits, axis=1).any():
        return 1.0
    n, n_classes = logits.shape
    targets = np.full((n, n_classes), 0.5 / (n + 1) / (n_classes - 1))
    targets[np.arange(n), codes] = (n + 0.5) / (n + 1)

    def loss(log_temperature: float) -> float:
        scaled = log_softmax(logits * np.exp(-log_temperature), axis=1)
        return -float(np.sum(targets * scaled)) / n

    best = minimize_scalar(loss, bounds=_LOG_TEMPERATURES, method="bounded")
    return float(np.exp(best.x))


def abstain(
    probabilities: ArrayLike, classes: ArrayLike, threshold: float, *, label: Any = None
) -> NDArray[Any]:
    """Return the most probable classes, but none where the probability is low.

    Parameters
    ----------
    probabilities : array-like of shape (n, n_classes)
        Probability of each class.
    classes : array-like of shape (n_classes,)
        The label of each column, such as ``classes_`` of the classifier.
    threshold : float
        The confidence, which is the probability of the most probable class, from which
        on there is an answer. Between 0 and 1; infinity withholds all answers.
    label : int, float or str, default=None
        What stands for no answer. None is -1 for classes that are numbers and the empty
        string for classes that are strings, the marks of unlabelled rows.

    Returns
    -------
    ndarray of shape (n,)
        Labels, of those in `classes`, or `label`.

    Raises
    ------
    ValueError
        If the threshold is out of range, the probabilities are none, their columns and
        `classes` are not of one number, or `label` is one of the classes.

    See Also
    --------
    threshold_for_accuracy : Chooses the threshold.

    Examples
    --------
    >>> from sksubtomo.uncertainty import abstain
    >>> abstain([[0.9, 0.1], [0.4, 0.6]], ["groel", "rubisco"], threshold=0.8)
    array(['groel', ''], dtype='<U7')
    """
    if not _is_number(threshold) or not (0 <= threshold <= 1 or threshold == np.inf):
        raise ValueError(
            f"threshold={threshold!r}; expected a number from 0 to 1, or infinity for "
            f"no answer at all."
        )
    probabilities, classes = _check_probabilities(probabilities, classes)
    texts = all(isinstance(name, str) for name in classes.tolist())
    if label is None:
        label = "" if texts else -1
    if label in classes.tolist():
        raise ValueError(
            f"label={label!r} is one of the classes {classes.tolist()}; expected a "
            f"mark that is none of them."
        )
    best = classes[probabilities.argmax(axis=1)]
    if isinstance(label, str) != texts:
        best = best.astype(object)
    return np.where(probabilities.max(axis=1) >= threshold, best, label)


class AccuracyThreshold(NamedTuple):  # numpydoc ignore=PR02
    """What `threshold_for_accuracy` found.

    Parameters
    ----------
    threshold : float
        The confidence from which on there is an answer; infinite if no threshold
        reaches the accuracy.
    coverage : float
        The part of the rows that get an answer.
    accuracy : float
        The part of these answers that are right; NaN if there are none.
    lower_bound : float
        The lower confidence bound on their accuracy; NaN if there are none.
    """

    threshold: float
    coverage: float
    accuracy: float
    lower_bound: float


def threshold_for_accuracy(
    y: ArrayLike,
    probabilities: ArrayLike,
    classes: ArrayLike,
    accuracy: float,
    *,
    confidence_level: float = 0.95,
    junk: Any = None,
) -> AccuracyThreshold:
    """Choose the confidence from which on answers are as accurate as wanted.

    Thresholds at which 5, 10, ..., 100 % of the rows get an answer are tested from the
    highest down, without those of too few rows to pass at all. At each, the lower
    confidence bound on the accuracy of the answers, by Clopper and Pearson (1934), has
    to reach the accuracy; the last one before the first that fails is taken. So few
    rows promise little: all of 29 answers must be right to promise 90 %, and all of 59
    to promise 95 %.

    Parameters
    ----------
    y : array-like of shape (n,)
        Labels of rows that the classifier was not trained on, each of `classes` or
        `junk`.
    probabilities : array-like of shape (n, n_classes)
        Probability of each class for these rows. Those from which a temperature was
        learned will do.
    classes : array-like of shape (n_classes,)
        The label of each column.
    accuracy : float
        The accuracy that the answers shall have, between 0 and 1.
    confidence_level : float, default=0.95
        Of the promise, and of each of the one-sided confidence bounds.
    junk : int, float or str, default=None
        The label of rows that are of none of `classes`, to which any answer is wrong.
        None is for a y without such rows.

    Returns
    -------
    AccuracyThreshold
        The threshold, for `abstain`, and what it means on these rows.

    Raises
    ------
    ValueError
        If a parameter is out of range, the shapes do not fit, or a label of y is
        neither `junk` nor one of the classes.

    Notes
    -----
    The order of the tests is fixed before the labels are looked at and ends with the
    first failure, so that no correction for their number is needed (Maurer et al.
    1995): a threshold is wrong only if the first one in the sequence with too low an
    accuracy passed its own test. Where confidence says nothing about correctness and
    the accuracy is just below the wanted one, the worst case, at most one promise in
    twenty fails at a level of 95 %. The price is that a wrong answer among the most
    confident ones can end the search at its start. The promise holds for particles
    drawn as the rows of y were, not for classes that are not among them.

    References
    ----------
    C. J. Clopper, E. S. Pearson, "The use of confidence or fiducial limits illustrated
    in the case of the binomial", Biometrika 26, 404-413, 1934.

    Y. Geifman, R. El-Yaniv, "Selective classification for deep neural networks",
    NeurIPS 2017.

    W. Maurer, L. A. Hothorn, W. Lehmacher, "Multiple comparisons in drug clinical
    trials and preclinical assays: a-priori ordered hypotheses", in: Biometrie in der
    chemisch-pharmazeutischen Industrie 6, 3-18, Fischer, 1995.

    Examples
    --------
    >>> import numpy as np
    >>> from sksubtomo.uncertainty import threshold_for_accuracy
    >>> confidence = np.linspace(0.5, 1, 400)
    >>> y = (np.random.default_rng(0).random(400) > confidence).astype(int)
    >>> probabilities = np.stack([confidence, 1 - confidence], axis=1)
    >>> found = threshold_for_accuracy(y, probabilities, [0, 1], accuracy=0.85)
    >>> print(f"{found.threshold:.2f} {found.coverage:.2f} {found.accuracy:.2f}")
    0.83 0.35 0.91
    """
    for name, value in (
        ("accuracy", accuracy),
        ("confidence_level", confidence_level),
    ):
        if not (_is_number(value) and 0 < value < 1):
            raise ValueError(f"{name}={value!r}; expected a number between 0 and 1.")
    correct, confidence = _top_label(y, probabilities, classes, junk)
    descending = np.sort(confidence)[::-1]
    n = len(descending)
    counts = np.unique(np.ceil(n * np.arange(1, _N_COVERAGES + 1) / _N_COVERAGES))
    thresholds = descending[counts.astype(int) - 1]
    # What is less sure than any of these rows is to get an answer, too.
    thresholds[-1] = 0.0
    found = AccuracyThreshold(np.inf, 0.0, np.nan, np.nan)
    # The others would fail even if all of their answers were right.
    for threshold in thresholds[(1 - confidence_level) ** (1 / counts) >= accuracy]:
        answered = correct[confidence >= threshold]
        n_right, n_answers = int(answered.sum()), len(answered)
        test = binomtest(n_right, n_answers, alternative="greater")
        bound = float(test.proportion_ci(confidence_level, method="exact").low)
        if bound < accuracy:
            break
        found = AccuracyThreshold(
            float(threshold), n_answers / n, n_right / n_answers, bound
        )
    return found


def expected_calibration_error(
    y: ArrayLike, probabilities: ArrayLike, classes: ArrayLike, *, n_bins: int = 15
) -> float:
    """Return how far confidences are from accuracies.

    Rows are binned by confidence, the probability of the most probable class. The error
    is the mean over the rows of the difference between the accuracy and the mean
    confidence of their bin.

    Parameters
    ----------
    y : array-like of shape (n,)
        Labels.
    probabilities : array-like of shape (n, n_classes)
        Probability of each class.
    classes : array-like of shape (n_classes,)
        The label of each column.
    n_bins : int, default=15
        Number of bins of equal width between 0 and 1.

    Returns
    -------
    float
        The error, between 0 and 1. With few rows it is not 0 even for perfect
        probabilities: about 0.05 with 400 rows in ten filled bins.

    Raises
    ------
    ValueError
        If a parameter is out of range, the shapes do not fit, or a label of y is not
        one of the classes.

    References
    ----------
    C. Guo, G. Pleiss, Y. Sun, K. Q. Weinberger, "On calibration of modern neural
    networks", ICML 2017.

    Examples
    --------
    >>> from sksubtomo.uncertainty import expected_calibration_error
    >>> probabilities = [[0.9, 0.1], [0.9, 0.1], [0.2, 0.8], [0.2, 0.8]]
    >>> print(round(expected_calibration_error([0, 1, 1, 1], probabilities, [0, 1]), 3))
    0.3
    """
    _check_n_bins(n_bins)
    correct, confidence = _top_label(y, probabilities, classes)
    bins = np.minimum((confidence * n_bins).astype(int), n_bins - 1)
    excess = np.bincount(bins, weights=correct - confidence)
    return float(np.abs(excess).sum() / len(correct))


def reliability_display(
    y: ArrayLike,
    probabilities: ArrayLike,
    classes: ArrayLike,
    *,
    n_bins: int = 10,
    strategy: str = "quantile",
    name: str | None = None,
    ax: Axes | None = None,
    **kwargs: Any,
) -> CalibrationDisplay:
    """Draw accuracy against confidence.

    A point below the diagonal stands for answers that are less often right than their
    confidence says.

    Parameters
    ----------
    y : array-like of shape (n,)
        Labels.
    probabilities : array-like of shape (n, n_classes)
        Probability of each class.
    classes : array-like of shape (n_classes,)
        The label of each column.
    n_bins : int, default=10
        Number of bins of the confidence, the probability of the most probable class.
    strategy : {"uniform", "quantile"}, default="quantile"
        Bins of equal width, of which those near 1 often hold nearly all rows, or of
        equal numbers of rows.
    name : str, default=None
        What the legend calls the line.
    ax : matplotlib Axes, default=None
        Where to draw, such as ``ax_`` of another one. None makes a figure.
    **kwargs
        Passed to ``matplotlib.pyplot.plot``.

    Returns
    -------
    sklearn.calibration.CalibrationDisplay
        The display, with ``ax_`` and ``figure_``.

    Raises
    ------
    ValueError
        If `n_bins` is out of range, the shapes do not fit, or a label of y is not one
        of the classes.
    ImportError
        If matplotlib is not installed.

    Examples
    --------
    >>> from sksubtomo.uncertainty import reliability_display
    >>> probabilities = [[0.9, 0.1], [0.7, 0.3], [0.2, 0.8], [0.2, 0.8]]
    >>> display = reliability_display([0, 1, 1, 1], probabilities, [0, 1], n_bins=2)
    >>> display.ax_.get_ylabel()
    'Accuracy'
    """
    _check_n_bins(n_bins)
    correct, confidence = _top_label(y, probabilities, classes)
    _figure, ax = make_axes(ax, height=COLUMN_WIDTH)
    display = CalibrationDisplay.from_predictions(
        correct.astype(int),
        confidence,
        n_bins=n_bins,
        strategy=strategy,
        pos_label=1,
        name=name,
        ax=ax,
        **kwargs,
    )
    display.ax_.set(xlabel="Confidence", ylabel="Accuracy", aspect="equal")
    return display


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _check_n_bins(n_bins: Any) -> None:
    if isinstance(n_bins, bool) or not isinstance(n_bins, Integral) or n_bins < 1:
        raise ValueError(f"n_bins={n_bins!r}; expected a whole number of at least 1.")


def _top_label(
    y: ArrayLike, probabilities: ArrayLike, classes: ArrayLike, junk: Any = None
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Return whether the most probable class is the right one, and its probability."""
    probabilities, classes = _check_probabilities(probabilities, classes)
    y = np.asarray(y)
    if y.shape != (len(probabilities),):
        raise ValueError(
            f"y has shape {y.shape}; expected ({len(probabilities)},), a label for "
            f"each row of probabilities."
        )
    # Python's own equality, for NumPy takes the number 1 and the text "1" for the same.
    known = classes.tolist()
    expected = set(known) if junk is None else {*known, junk}
    for label in y.tolist():
        if label not in expected:
            raise ValueError(
                f"y has the label {label!r}, which is not one of the classes {known}"
                + ("." if junk is None else f" nor junk={junk!r}.")
            )
    correct = np.asarray(classes[probabilities.argmax(axis=1)] == y, bool)
    return correct, probabilities.max(axis=1)


def _check_probabilities(
    probabilities: ArrayLike, classes: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[Any]]:
    probabilities = np.asarray(probabilities, np.float64)
    classes = np.asarray(classes)
    if probabilities.ndim != 2 or classes.shape != probabilities.shape[1:]:
        raise ValueError(
            f"probabilities have shape {probabilities.shape} and classes "
            f"{classes.shape}; expected (n, n_classes) and (n_classes,)."
        )
    if not len(probabilities):
        raise ValueError("probabilities have no row; expected at least one.")
    sums = probabilities.sum(axis=1)
    acceptable = (probabilities >= 0).all(axis=1) & (abs(sums - 1) < 1e-3)
    if not acceptable.all():
        row = int(np.argmin(acceptable))
        raise ValueError(
            f"row {row} of probabilities is {probabilities[row]}; expected numbers "
            f"from 0 to 1 that sum to 1."
        )
    return probabilities, classes


class NoveltyDetector(OutlierMixin, BaseEstimator):
    """Score how unlike the known particles others are, by their embedding.

    A classifier chooses among its classes whatever it is shown: junk, gold beads,
    carbon, or a complex that nobody labelled. Its probabilities are high for some of
    these, too. In the embedding such volumes lie far from the labelled ones: the score
    is the mean distance to the nearest of them.

    Read more in the :ref:`User Guide <uncertainty>`.

    Parameters
    ----------
    n_neighbors : int, default=5
        Number of known particles that the distance is averaged over. Of fewer than
        that, less one, all are taken.
    false_rejection_rate : float, default=0.05
        Part of the particles of known classes that ``predict`` is to call novel.

    Attributes
    ----------
    offset_ : float
        The score below which ``predict`` calls a particle novel.
    neighbors_ : sklearn.neighbors.NearestNeighbors
        The known particles.
    n_features_in_ : int
        Dimension of the embedding.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the columns, if X was a data frame with string names.

    See Also
    --------
    RB3DClassifier : Its ``transform`` gives the embedding.
    sklearn.neighbors.LocalOutlierFactor : Compares distances with those of the
        neighbours to theirs.

    Notes
    -----
    The threshold comes from the scores of the known particles themselves, each among
    the others (leave-one-out): the k-th smallest of the n scores, with k the whole part
    of ``false_rejection_rate * (n + 1)``, and 1 at least. Of further particles that are
    exchangeable with these, about that rate falls below it (Bates et al. 2023); with
    fewer than 19 known ones and a rate of 5 % it is more. An encoder that was trained
    until it knew its labelled volumes by heart draws these together, so that more than
    that rate is rejected. Then ``fit`` to the embedding of labelled volumes that it was
    not trained on.

    A row that is identical to a known one is taken to be that one, and no neighbour of
    its own: the known particles have their leave-one-out scores everywhere, and
    ``fit_predict`` rejects no more than `false_rejection_rate` of them.

    No distance in the embedding is best for everything. The mean one was chosen in
    development, where it did as well as the Mahalanobis distance to the classes (Lee et
    al. 2018) and a little better than the distance to the k-th neighbour alone (Sun et
    al. 2022). It knows no classes, and can compare each known particle with the others.
    Bringing the embeddings to unit length does harm: noise and gold have short ones,
    and the length tells.

    References
    ----------
    F. Angiulli, C. Pizzuti, "Fast outlier detection in high dimensional spaces", PKDD
    2002.

    S. Bates, E. Candès, L. Lei, Y. Romano, M. Sesia, "Testing for outliers with
    conformal p-values", Annals of Statistics 51, 149-178, 2023.

    K. Lee, K. Lee, H. Lee, J. Shin, "A simple unified framework for detecting
    out-of-distribution samples and adversarial attacks", NeurIPS 2018.

    Y. Sun, Y. Ming, X. Zhu, Y. Li, "Out-of-distribution detection with deep nearest
    neighbors", ICML 2022.

    Examples
    --------
    >>> import numpy as np
    >>> from sksubtomo.uncertainty import NoveltyDetector
    >>> generator = np.random.default_rng(0)
    >>> known = generator.normal(size=(200, 8))
    >>> detector = NoveltyDetector().fit(known)
    >>> detector.predict(generator.normal(size=(1000, 8))).tolist().count(-1)
    34
    >>> detector.predict(generator.normal(loc=3, size=(3, 8)))
    array([-1, -1, -1])
    """

    _parameter_constraints: dict[str, Any] = {
        "n_neighbors": [Interval(Integral, 1, None, closed="left")],
        "false_rejection_rate": [Interval(Real, 0, 1, closed="neither")],
    }

    def __init__(
        self, n_neighbors: int = 5, *, false_rejection_rate: float = 0.05
    ) -> None:
        self.n_neighbors = n_neighbors
        self.false_rejection_rate = false_rejection_rate

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any = None) -> NoveltyDetector:
        """Learn what is known.

        Parameters
        ----------
        X : array-like of shape (n, n_features)
            Embedding of particles of the known classes; two at least.
        y : Ignored
            Present for API consistency: of what class they are makes no difference.

        Returns
        -------
        self : NoveltyDetector
            The fitted detector.

        Raises
        ------
        ValueError
            If X or a parameter is not acceptable.
        """
        X = validate_data(self, X, dtype=[np.float64, np.float32], ensure_min_samples=2)
        n = len(X)
        n_neighbors = min(self.n_neighbors, n - 1)
        self.neighbors_ = NearestNeighbors(n_neighbors=n_neighbors).fit(X)
        self._known = X
        rank = max(1, int(self.false_rejection_rate * (n + 1)))
        self.offset_ = float(np.sort(self._scores(X))[rank - 1])
        return self

    def score_samples(self, X: Any) -> NDArray[np.float64]:
        """Return how like the known particles others are.

        Parameters
        ----------
        X : array-like of shape (n, n_features)
            Embedding.

        Returns
        -------
        ndarray of shape (n,)
            The negative mean distance to the nearest known particles, in units of the
            embedding: the higher, the more alike.
        """
        check_is_fitted(self)
        X = validate_data(self, X, dtype=[np.float64, np.float32], reset=False)
        return self._scores(X)

    def _scores(self, X: NDArray[Any]) -> NDArray[np.float64]:
        distances, rows = self.neighbors_.kneighbors(X, self.neighbors_.n_neighbors + 1)
        itself = (self._known[rows[:, 0]] == X).all(axis=1)
        others = np.where(itself[:, None], distances[:, 1:], distances[:, :-1])
        scores: NDArray[np.float64] = -others.astype(np.float64).mean(axis=1)
        return scores

    def decision_function(self, X: Any) -> NDArray[np.float64]:
        """Return the score above the threshold.

        Parameters
        ----------
        X : array-like of shape (n, n_features)
            Embedding.

        Returns
        -------
        ndarray of shape (n,)
            ``score_samples`` less ``offset_``: negative for what ``predict`` calls
            novel.
        """
        return self.score_samples(X) - self.offset_

    def predict(self, X: Any) -> NDArray[np.int64]:
        """Tell the known from the novel.

        Parameters
        ----------
        X : array-like of shape (n, n_features)
            Embedding.

        Returns
        -------
        ndarray of shape (n,)
            1 for a particle that may be of a known class, -1 for a novel one.
        """
        return np.where(self.decision_function(X) < 0, -1, 1)
