"""What counts as X: the one place that turns user input into volumes.

scikit-learn's tools (and its conformance checks) speak in rows of features,
microscopists in volumes. Here both become one C-ordered float32 array of shape
``(n, depth, height, width)``, or an error that says which row and voxel is
wrong.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Integral
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.utils.validation import validate_data

Volumes = npt.NDArray[np.float32]
VolumeShape = tuple[int, int, int]

# Finiteness is looked up in blocks, so that a memory-mapped stack is never held
# in memory as a whole.
_BLOCK_VALUES = 1 << 22


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
        Volumes of any real dtype, or rows that are flattened volumes.
    volume_shape : sequence of three int, default=None
        Depth, height and width of a flattened volume. By default a row whose
        length is a cube is a cubic volume, and any other row a line of voxels.
    min_volumes : int, default=1
        Fewest rows that can be fitted.

    Returns
    -------
    ndarray of shape (n, depth, height, width), float32
        The volumes; a C-ordered float32 memory map is passed on as it is.

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
    _check_finite(rows, shape)
    estimator.volume_shape_ = shape
    return rows.reshape(-1, *shape)


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
    ndarray of shape (n, depth, height, width), float32
        The volumes.

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
    _check_finite(rows, shape)
    return rows.reshape(-1, *shape)


def _as_array(X: Any) -> Any:
    """Make an array of what is not yet one, if its rows are volumes."""
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
    if isinstance(X, np.ndarray):
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
    if X.dtype.kind == "c":
        raise ValueError(
            f"Complex data not supported: X has dtype {X.dtype}; expected real numbers."
        )
    if X.dtype.kind not in "biuf":
        raise TypeError(
            f"X has dtype {X.dtype}; expected volumes of a real numeric dtype."
        )
    depth, height, width = X.shape[1:]
    return depth, height, width


def _check_rows(
    estimator: Any, X: Any, *, reset: bool, min_volumes: int
) -> npt.NDArray[np.float32]:
    """Let scikit-learn validate X as a table of float32 rows, but for finiteness."""
    if getattr(X, "ndim", 2) == 4:
        X = X.reshape(X.shape[0], math.prod(X.shape[1:]))
    # A float64 too large for float32 becomes infinity, which is reported with its
    # place by _check_finite.
    with np.errstate(over="ignore"):
        return validate_data(
            estimator,
            X,
            reset=reset,
            dtype=np.float32,
            order="C",
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


def _check_finite(rows: npt.NDArray[np.float32], shape: VolumeShape) -> None:
    block = max(1, _BLOCK_VALUES // max(1, rows.shape[1]))
    for start in range(0, len(rows), block):
        finite = np.isfinite(rows[start : start + block])
        if finite.all():
            continue
        row, voxel = np.argwhere(~finite)[0]
        value = rows[start + row, voxel]
        what = (
            "NaN"
            if np.isnan(value)
            else "infinity (inf) or a value too large for float32"
        )
        z, y, x = (int(i) for i in np.unravel_index(voxel, shape))
        raise ValueError(
            f"Input X contains {what}: first in volume {start + row} at voxel "
            f"(z={z}, y={y}, x={x}), feature {voxel}."
        )
