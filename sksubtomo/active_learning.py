"""Which volumes to label next."""

from __future__ import annotations

import heapq
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.exceptions import NotFittedError
from sklearn.metrics import pairwise_distances, pairwise_distances_argmin_min
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import _num_samples, check_is_fitted

from sksubtomo._random import as_generator

_STRATEGIES = ("mixed", "diversity", "uncertainty", "random")

# How many of the unlabelled rows, at most, may be chosen, and how many of them the
# choice has to be near to. Distances between the two take 160 MB; whoever asks for more
# rows than these has as many candidates, and 16 kB for each.
_MOST_CANDIDATES = 10_000
_MOST_REFERENCES = 4_000

# With fewer labels for each class it knows, a classifier does not know what it does not
# know, and its probabilities are not looked at.
_LABELS_PER_CLASS = 2

# Gains below this part of the largest distance are rounding: they are none.
_ROUNDING = 1e-6

# Where a meta-estimator keeps what it fitted.
_INNER = ("best_estimator_", "estimator_", "estimator")


def next_to_label(
    estimator: Any,
    X: Any,
    n: int,
    strategy: str = "mixed",
    *,
    labeled: ArrayLike | None = None,
    embedding: ArrayLike | None = None,
    random_state: Any = None,
) -> NDArray[np.intp]:
    """Choose the rows of X whose labels would help most.

    Before there is any label, `estimator` is a fitted
    :class:`~sksubtomo.ContrastivePretrainer`; afterwards it is a classifier that was
    fitted on the labels so far.

    Read more in the :ref:`User Guide <next_to_label>`, which has what each strategy
    gained.

    Parameters
    ----------
    estimator : estimator object or None
        A fitted classifier or transformer. Its embedding is, in this order, that of
        its ``pretrainer_``, of its own ``transform``, of the steps of a pipeline before
        the last one, or that of the estimator inside a search or another
        meta-estimator. Where there is none, as in a logistic regression on embeddings,
        X itself is taken for the embedding, if it has two dimensions. None is no
        classifier yet.
    X : array-like of shape (n_rows, depth, height, width) or (n_rows, n_features)
        What `estimator` takes: all rows, labelled ones too.
    n : int
        How many rows to choose.
    strategy : {"mixed", "diversity", "uncertainty", "random"}, default="mixed"
        What is chosen:

        - ``"diversity"``: rows that the others are near to. The sum over all rows of
          the distance to the nearest labelled or chosen row is made small, one row
          after the other (facility location [1]_).
        - ``"mixed"``: the same, where each row counts by its uncertainty: 1 less the
          margin [2]_ between its two largest probabilities. Without a classifier, or
          with fewer than two labels for each class that it knows, all rows count the
          same, and it is ``"diversity"``. They do, too, where what is left has margins
          of 1.
        - ``"uncertainty"``: the smallest margins, wherever they are; only with a
          classifier.
        - ``"random"``: any rows, with equal probabilities.
    labeled : array-like of bool of shape (n_rows,) or of int, default=None
        Which rows have a label already, as a mask such as ``y != -1`` or as row
        numbers. They are never chosen, and rows near to them hardly. None means that
        no row of X has one; a classifier then has its labels from elsewhere.
    embedding : array-like of shape (n_rows, n_features), default=None
        The embedding, if it is there already. None computes it from `estimator`.
    random_state : int, RandomState instance or None, default=None
        Determines random choices, the order of equal margins and of rows that
        add nothing, such as doubles, and what is drawn from many rows. None is fresh
        entropy; NumPy's global generator is not touched.

    Returns
    -------
    ndarray of shape (n,)
        Row numbers, the most useful one first.

    Raises
    ------
    ValueError
        If shapes do not fit, `labeled` has a row number twice, there are fewer than
        `n` rows without a label, a probability is needed and `estimator` has none, or
        there is no embedding.

    See Also
    --------
    sksubtomo.clustering.propose_clusters : Shows what is in the data.

    Notes
    -----
    Of more than 10,000 unlabelled rows as many are drawn as candidates, or `n` if that
    is more, and sums of distances are over 4,000 rows.

    References
    ----------
    .. [1] K. Wei, R. Iyer, J. Bilmes, "Submodularity in data subset selection and
       active learning", ICML 2015.
    .. [2] T. Scheffer, C. Decomain, S. Wrobel, "Active hidden Markov models for
       information extraction", IDA 2001.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sksubtomo import ContrastivePretrainer
    >>> from sksubtomo.active_learning import next_to_label
    >>> from sksubtomo.datasets import make_subtomograms
    >>> X, truth = make_subtomograms(n_per_class=4, size=8, random_state=0,
    ...                              return_X_y=True)
    >>> pretrainer = ContrastivePretrainer(max_epochs=2, random_state=0).fit(X)
    >>> rows = next_to_label(pretrainer, X, 10)
    >>> y = np.full(len(X), -1)
    >>> y[rows] = truth[rows]  # what an expert would do
    >>> Z = pretrainer.transform(X)
    >>> classifier = LogisticRegression(max_iter=1000).fit(Z[rows], y[rows])
    >>> more = next_to_label(classifier, Z, 5, labeled=y != -1, random_state=0)
    >>> len(more), bool(np.isin(more, rows).any())
    (5, False)
    """
    if strategy not in _STRATEGIES:
        raise ValueError(f"strategy={strategy!r}; expected one of {list(_STRATEGIES)}.")
    n_rows = _num_samples(X)
    has_label = _check_labeled(labeled, n_rows)
    free = np.flatnonzero(~has_label)
    if isinstance(n, bool) or not isinstance(n, Integral) or not 1 <= n <= len(free):
        raise ValueError(
            f"n={n!r}; expected an integer from 1 to {len(free)}, the number of rows "
            "without a label."
        )
    n = int(n)
    generator = as_generator(random_state)
    if strategy == "random":
        return free[generator.permutation(len(free))[:n]]
    can_predict = hasattr(estimator, "predict_proba")
    if strategy == "uncertainty":
        if not can_predict:
            raise ValueError(
                "strategy='uncertainty' needs class probabilities, but estimator is of "
                f"type {type(estimator).__name__}, which has no predict_proba: without "
                "labels there are no classes to be unsure between. Expected a "
                "classifier fitted on some labels, or strategy='mixed'."
            )
        doubts = _uncertainty(estimator, X, n_rows)
        shuffled = generator.permutation(free)
        return shuffled[np.argsort(-doubts[shuffled], kind="stable")[:n]]

    points = _embed(estimator, X, embedding, n_rows)
    weights = np.ones(n_rows)
    if strategy == "mixed" and can_predict:
        n_labels = None if labeled is None else int(has_label.sum())
        weights = _uncertainty(estimator, X, n_rows, n_labels)
    candidates = _draw(free, max(n, _MOST_CANDIDATES), generator)
    references = _draw(candidates, _MOST_REFERENCES, generator)
    distances = pairwise_distances(points[candidates], points[references])
    nearest = np.full(len(references), distances.max())
    if has_label.any():
        _, to_labeled = pairwise_distances_argmin_min(
            points[references], points[has_label]
        )
        nearest = np.minimum(nearest, to_labeled)
    order = generator.permutation(len(candidates)).tolist()
    return candidates[_cover(distances, nearest, weights[references], n, order)]


def _cover(
    distances: NDArray[Any],
    nearest: NDArray[Any],
    weights: NDArray[np.float64],
    n: int,
    order: list[int],
) -> list[int]:
    """Choose rows one by one that bring references nearer, weighted.

    Once no row gains anything by the weights, all references count the same; once no
    row gains anything at all, rows are chosen in `order`.
    """
    weights = weights.astype(distances.dtype)
    chosen: list[int] = []
    for of_reference in (weights, np.ones_like(weights)):
        if len(chosen) < n:
            chosen += _gain_most(distances, nearest, of_reference, n - len(chosen))
            nearest = np.minimum(nearest, distances[chosen].min(axis=0, initial=np.inf))
    taken = set(chosen)
    rest = [row for row in order if row not in taken]
    return chosen + rest[: n - len(chosen)]


def _gain_most(
    distances: NDArray[Any],
    nearest: NDArray[Any],
    weights: NDArray[Any],
    n: int,
) -> list[int]:
    """Choose at most n rows, as long as there is one that gains something.

    What a row gains only shrinks as others are chosen, so a gain is computed again only
    when the row comes out on top (M. Minoux, "Accelerated greedy algorithms for
    maximizing submodular set functions", 1978).
    """

    def gain(row: int) -> float:
        return float(np.maximum(nearest - distances[row], 0) @ weights)

    rounding = _ROUNDING * distances.max()
    heap = [(-gain(row), row, 0) for row in range(len(distances))]
    heapq.heapify(heap)
    chosen: list[int] = []
    while heap and len(chosen) < n:
        _, row, age = heapq.heappop(heap)
        if age < len(chosen):
            heapq.heappush(heap, (-gain(row), row, len(chosen)))
            continue
        if not (nearest - distances[row] > rounding)[weights > 0].any():
            break
        chosen.append(row)
        nearest = np.minimum(nearest, distances[row])
    return chosen


def _uncertainty(
    estimator: Any, X: Any, n_rows: int, n_labels: int | None = None
) -> NDArray[np.float64]:
    """Return 1 less the margin between the two largest probabilities of each row.

    If there are too few labels, which None never is, it is 1 for all rows.
    """
    probabilities = np.asarray(estimator.predict_proba(X), dtype=np.float64)
    if probabilities.ndim != 2 or len(probabilities) != n_rows:
        raise ValueError(
            f"the predict_proba of {type(estimator).__name__} returned an array of "
            f"shape {probabilities.shape}; expected ({n_rows}, n_classes)."
        )
    n_classes = probabilities.shape[1]
    if n_classes < 2:
        return np.ones(n_rows)
    if n_labels is not None and n_labels < _LABELS_PER_CLASS * n_classes:
        return np.ones(n_rows)
    second, first = np.partition(probabilities, -2, axis=1)[:, -2:].T
    return 1 - (first - second)


def _embed(
    estimator: Any, X: Any, embedding: ArrayLike | None, n_rows: int
) -> NDArray[np.float32]:
    """Return the given embedding, or that of the estimator, in single precision."""
    if embedding is None:
        embedder = _find_embedder(estimator)
        if embedder is not None:
            embedding = embedder.transform(X)
        elif len(getattr(X, "shape", ()) or np.shape(X)) == 2:
            embedding = X
        else:
            raise ValueError(
                f"embedding: none was given, estimator, of type "
                f"{type(estimator).__name__}, has no transform, and X does not have "
                "the two dimensions of an embedding; expected embedding of shape "
                "(n_rows, n_features)."
            )
    points = np.asarray(embedding, dtype=np.float32)
    if points.ndim != 2 or len(points) != n_rows:
        raise ValueError(
            f"embedding: has shape {points.shape}; expected ({n_rows}, n_features), "
            "one row for each of X."
        )
    if not np.isfinite(points).all():
        raise ValueError("embedding: holds NaN or infinity; expected finite values.")
    return points


def _find_embedder(estimator: Any) -> Any:
    """Return what transforms X into an embedding, or None."""
    # Weights that were fine-tuned have seen the labelled rows, and set them apart from
    # the others; those of the pretrainer treat all rows alike.
    if getattr(estimator, "pretrainer_", None) is not None:
        return estimator.pretrainer_
    if hasattr(estimator, "transform"):
        return estimator
    if isinstance(estimator, Pipeline) and len(estimator) > 1:
        return estimator[:-1]
    template = None
    for name in _INNER:
        inner = getattr(estimator, name, None)
        embedder = None if inner is None else _find_embedder(inner)
        if embedder is not None:
            if _is_fitted(inner):
                return embedder
            template = inner
    if template is not None:
        raise ValueError(
            f"embedding: none was given, and all that {type(estimator).__name__} shows "
            f"of its {type(template).__name__} is a template that is not fitted; "
            "expected embedding of shape (n_rows, n_features)."
        )
    return None


def _is_fitted(estimator: Any) -> bool:
    if not hasattr(estimator, "fit"):
        return True
    try:
        check_is_fitted(estimator)
    except NotFittedError:
        return False
    return True


def _draw(
    rows: NDArray[np.intp], most: int, generator: np.random.RandomState
) -> NDArray[np.intp]:
    """Return at most so many of the rows, ascending."""
    if len(rows) <= most:
        return rows
    return np.sort(generator.choice(rows, most, replace=False))


def _check_labeled(labeled: ArrayLike | None, n_rows: int) -> NDArray[np.bool_]:
    """Return the mask of rows that have a label."""
    mask = np.zeros(n_rows, bool)
    if labeled is None:
        return mask
    given = np.asarray(labeled)
    if given.ndim == 1 and not len(given):
        return mask
    if given.dtype == bool and given.shape == (n_rows,):
        return given
    if given.dtype.kind not in "iu" or given.ndim != 1:
        raise ValueError(
            f"labeled: has dtype {given.dtype} and shape {given.shape}; expected a "
            f"mask of shape ({n_rows},), bool, such as y != -1, or row numbers."
        )
    if given.min() < 0 or given.max() >= n_rows:
        raise ValueError(
            f"labeled: has row numbers from {given.min()} to {given.max()}; expected 0 "
            f"to {n_rows - 1}. A mask, such as y != -1, has dtype bool."
        )
    mask[given] = True
    if mask.sum() < len(given):
        raise ValueError(
            f"labeled: has {len(given)} row numbers, of which {mask.sum()} are "
            "distinct; expected each once. A mask, such as y != -1, has dtype bool, "
            "not integers 0 and 1."
        )
    return mask
