"""What counts as y: labels, the mark of unlabelled rows, draws class by class."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _num_samples, validate_data


def check_labels(
    estimator: Any, X: Any, y: Any, *, unlabeled: Any = None
) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
    """Validate the y of ``fit``.

    Parameters
    ----------
    estimator : estimator object
        The estimator being fitted, for error messages.
    X : array-like
        Only its length is looked at.
    y : array-like of shape (n,)
        Labels.
    unlabeled : int, float, str or None, default=None
        The label that marks unlabelled rows.

    Returns
    -------
    y : ndarray of shape (n,)
        The labels.
    labeled : ndarray of shape (n,), bool
        Which rows have one.

    Raises
    ------
    ValueError
        If y is missing, of another length than X, not categorical, or has no
        labelled row.
    """
    if unlabeled is not None and unlabeled != unlabeled:
        raise ValueError(
            f"unlabeled={unlabeled!r}; expected a mark that is equal to itself."
        )
    y = validate_data(estimator, y=y)
    if _num_samples(X) != len(y):
        raise ValueError(
            f"X and y have inconsistent numbers of samples: X has {_num_samples(X)} "
            f"volumes, y has {len(y)} labels."
        )
    labeled = np.ones(len(y), bool)
    if unlabeled is not None:
        # Arrays of objects may mix the two; in others such a mark never matches.
        if y.dtype.kind != "O" and (y.dtype.kind in "US") != isinstance(unlabeled, str):
            raise ValueError(
                f"unlabeled={unlabeled!r} is of type {type(unlabeled).__name__}, but y "
                f"has dtype {y.dtype}; expected a mark of the labels' own type."
            )
        labeled = np.asarray(y != unlabeled, bool)
        if not labeled.any():
            raise ValueError(
                f"y has no labelled row: all {len(y)} are unlabeled={unlabeled!r}."
            )
    check_classification_targets(y[labeled])
    return y, labeled


def encode_labels(
    y: Any, classes: npt.NDArray[Any], n_volumes: int, parameter: str
) -> npt.NDArray[np.int64]:
    """Encode labels by the classes that were fitted.

    Parameters
    ----------
    y : array-like of shape (n,)
        Labels.
    classes : ndarray of shape (n_classes,)
        Sorted known classes.
    n_volumes : int
        Number of volumes that y belongs to.
    parameter : str
        Where y comes from, for the error message.

    Returns
    -------
    ndarray of shape (n,)
        Indices into `classes`.

    Raises
    ------
    ValueError
        If the length is wrong or a label is not known.
    """
    y = np.asarray(y)
    if y.shape != (n_volumes,):
        raise ValueError(
            f"the labels of {parameter} have shape {y.shape}; expected "
            f"({n_volumes},), one for each volume."
        )
    unknown = ~np.isin(y, classes)
    if unknown.any():
        raise ValueError(
            f"{parameter} has the label {y[unknown].tolist()[0]!r}, which is not one "
            f"of the classes in y: {classes.tolist()}."
        )
    return np.searchsorted(classes, y).astype(np.int64)


def unpack_validation_data(validation_data: Any) -> tuple[Any, Any]:
    """Split the `validation_data` of ``fit``.

    Parameters
    ----------
    validation_data : tuple
        Volumes and labels.

    Returns
    -------
    X_val, y_val : array-like
        The two parts.

    Raises
    ------
    ValueError
        If it is no pair.
    """
    if isinstance(validation_data, (tuple, list)) and len(validation_data) == 2:
        return validation_data[0], validation_data[1]
    raise ValueError(
        f"validation_data is of type {type(validation_data).__name__}; expected a "
        f"tuple (X_val, y_val)."
    )


def draw_by_class(
    labels: npt.NDArray[np.int64],
    wanted: float,
    generator: np.random.Generator,
    *,
    absolute: bool = False,
    keep_one: bool = False,
) -> npt.NDArray[np.bool_]:
    """Draw a part of each class, at least one row of it.

    The rows of a smaller draw from a generator of the same seed are among those of
    a larger one.

    Parameters
    ----------
    labels : ndarray of shape (n,)
        Encoded classes.
    wanted : float
        The fraction of each class, or the number if `absolute`.
    generator : numpy Generator
        Source of randomness.
    absolute : bool, default=False
        Whether `wanted` is a number of rows; a smaller class is taken whole.
    keep_one : bool, default=False
        Whether to leave at least one row of each class undrawn; a class of a single
        row is then not drawn from.

    Returns
    -------
    ndarray of shape (n,), bool
        Which rows were drawn.
    """
    drawn = np.zeros(len(labels), bool)
    order = generator.permutation(len(labels))
    for label in np.unique(labels):
        rows = order[labels[order] == label]
        number = wanted if absolute else round(wanted * len(rows))
        number = min(max(1, int(number)), len(rows) - keep_one)
        drawn[rows[:number]] = True
    return drawn


def is_missing(value: Any) -> bool:
    """Tell whether a value is None, NaN, or how pandas marks a missing one.

    Parameters
    ----------
    value : object
        An entry of a column.

    Returns
    -------
    bool
        Whether it stands for nothing.
    """
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(value, (float, np.floating)) and math.isnan(value)
