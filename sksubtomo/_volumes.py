"""What counts as X: the one place that turns user input into volumes.

scikit-learn's tools (and its conformance checks) speak in rows of features,
microscopists in volumes. Here both become one C-ordered float32 array of shape
``(n, depth, height, width)``, or what stays on disk and gives such arrays, or an error
that says which row and voxel is wrong.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.utils.validation import validate_data

from sksubtomo._stored import (
    StoredVolumes,
    Volumes,
    check_finite,
    is_stored,
    iterate_blocks,
)

VolumeShape = tuple[int, int, int]


def check_fit_volumes(
    estimator: Any,
    X: Any,
    *,
    volume_shape: Sequence[int] | None = None,
    min_volumes: int = 1,
) -> Volumes:
    """Validate the X of ``fit`` and record what it looks like.

    Sets ``n_features_in_``, ``volume_shape_`` and, for data frames,
    ``feature_names_in_`` on `estimator`.

    Parameters
    ----------
    estimator : estimator object
        The estimator being fitted.
    X : array-like of shape (n, depth, height, width) or (n, n_features)
        Volumes of any real dtype, or rows that are flattened volumes. Memory maps and
        arrays of h5py and Zarr stay on disk; they are read once, block by block.
    volume_shape : sequence of three int, default=None
        Depth, height and width of a flattened volume. By default a row whose
        length is a cube is a cubic volume, and any other row a line of voxels.
    min_volumes : int, default=1
        Fewest rows that can be fitted.

    Returns
    -------
    ndarray or StoredVolumes of shape (n, depth, height, width), float32
        The volumes; those that are on disk are not in memory.

    Raises
    ------
    ValueError
        If the shape, the dtype, the number of rows or a voxel is not acceptable.
    TypeError
        If X holds objects that are not numbers.
    """
    X = _as_array(X)
    shape = None if volume_shape is None else _check_volume_shape(volume_shape)
    found = _shape_of_volumes(X)
    if found is not None and shape is not None and found != shape:
        raise ValueError(
            f"X has volumes of shape {found}, but volume_shape={shape} was given."
        )
    rows = _check_rows(estimator, X, reset=True, min_volumes=min_volumes)
    n_features = rows.shape[1]
    if found is not None:
        shape = found
    elif shape is None:
        shape = _default_shape(n_features)
    elif math.prod(shape) != n_features:
        raise ValueError(
            f"volume_shape={shape} has {math.prod(shape)} voxels, but the rows of X "
            f"have {n_features} features."
        )
    volumes = _as_volumes(X, rows, shape)
    for start, block in iterate_blocks(volumes):
        check_finite(block, start)
    estimator.volume_shape_ = shape
    return volumes


def check_predict_volumes(estimator: Any, X: Any) -> Volumes:
    """Validate the X of ``predict`` or ``transform`` against that of ``fit``.

    Parameters
    ----------
    estimator : estimator object
        A fitted estimator, with ``volume_shape_`` and ``n_features_in_``.
    X : array-like of shape (n, depth, height, width) or (n, n_features)
        Volumes or flattened volumes, whichever way the estimator was fitted.

    Returns
    -------
    ndarray or StoredVolumes of shape (n, depth, height, width), float32
        The volumes. Those that are on disk were not read: whoever does checks that
        they are finite.

    Raises
    ------
    ValueError
        If X does not look like what the estimator was fitted on.
    TypeError
        If X holds objects that are not numbers.
    """
    X = _as_array(X)
    shape = estimator.volume_shape_
    found = _shape_of_volumes(X)
    if found is not None and found != shape:
        raise ValueError(
            f"X has volumes of shape {found}, but {type(estimator).__name__} is "
            f"expecting volumes of shape {shape} as input."
        )
    rows = _check_rows(estimator, X, reset=False, min_volumes=1)
    volumes = _as_volumes(X, rows, shape)
    if not isinstance(volumes, StoredVolumes):
        for start, block in iterate_blocks(volumes):
            check_finite(block, start)
    return volumes


def _as_volumes(X: Any, rows: npt.NDArray[np.float32], shape: VolumeShape) -> Volumes:
    if isinstance(X, StoredVolumes):
        return X
    return StoredVolumes(X, shape) if is_stored(X) else rows.reshape(-1, *shape)


def _as_array(X: Any) -> Any:
    """Make an array of what is not yet one, if its rows are volumes."""
    if isinstance(X, Mapping):
        raise TypeError(
            f"X is a {type(X).__name__} with the keys {list(X)[:5]}; expected one of "
            f"its arrays, such as X[key]."
        )
    if isinstance(X, (list, tuple)) and len(X) > 0 and np.ndim(X[0]) >= 2:
        shapes = [np.shape(volume) for volume in X]
        for row, shape in enumerate(shapes):
            if shape != shapes[0]:
                raise ValueError(
                    f"X is a list of volumes of different shapes: volume 0 has shape "
                    f"{shapes[0]}, volume {row} has shape {shape}; expected all to "
                    f"be equal."
                )
        return np.asarray(X)
    if isinstance(X, np.ndarray) or is_stored(X):
        return X
    if not hasattr(X, "ndim") and hasattr(X, "__array__"):
        return np.asarray(X)
    if getattr(X, "ndim", 0) > 2:
        return np.asarray(X)
    return X


def _shape_of_volumes(X: Any) -> VolumeShape | None:
    """Return the shape of the volumes of X, or None if X is a table."""
    n_axes = getattr(X, "ndim", 2)
    if n_axes <= 2:
        return None
    expected = (
        "expected volumes of shape (n, depth, height, width) or flattened volumes of "
        "shape (n, n_features)"
    )
    if n_axes != 4:
        hint = {
            3: " Reshape your data: a single volume is X[np.newaxis].",
            5: " Remove the channel axis.",
        }.get(n_axes, "")
        raise ValueError(
            f"X has {n_axes} axes, shape {tuple(X.shape)}; {expected}.{hint}"
        )
    _check_dtype(X)
    depth, height, width = X.shape[1:]
    return depth, height, width


def _check_dtype(X: Any) -> None:
    if X.dtype.kind == "c":
        raise ValueError(
            f"Complex data not supported: X has dtype {X.dtype}; expected real numbers."
        )
    if X.dtype.kind not in "biuf":
        raise TypeError(
            f"X has dtype {X.dtype}; expected volumes of a real numeric dtype."
        )


def _check_rows(
    estimator: Any, X: Any, *, reset: bool, min_volumes: int
) -> npt.NDArray[np.float32]:
    """Let scikit-learn validate X as a table of float32 rows, but for finiteness."""
    stored = is_stored(X)
    if stored:
        _check_dtype(X)
        # All that is looked at but the values, in no memory.
        X = np.broadcast_to(np.float32(0), (X.shape[0], math.prod(X.shape[1:])))
    elif getattr(X, "ndim", 2) == 4:
        X = X.reshape(X.shape[0], math.prod(X.shape[1:]))
    # A float64 too large for float32 becomes infinity, which is reported with its
    # place by check_finite.
    with np.errstate(over="ignore"):
        return validate_data(
            estimator,
            X,
            reset=reset,
            dtype=np.float32,
            order=None if stored else "C",
            ensure_all_finite=False,
            ensure_min_samples=min_volumes,
        )


def _check_volume_shape(volume_shape: Sequence[int]) -> VolumeShape:
    sides = tuple(volume_shape)
    if len(sides) != 3 or not all(
        isinstance(side, Integral) and side >= 1 for side in sides
    ):
        raise ValueError(
            f"volume_shape={volume_shape!r}; expected three positive integers "
            f"(depth, height, width)."
        )
    return int(sides[0]), int(sides[1]), int(sides[2])


def _default_shape(n_features: int) -> VolumeShape:
    side = round(n_features ** (1 / 3))
    if side**3 == n_features:
        return side, side, side
    return 1, 1, n_features
