"""Volumes, labels, voxel sizes and embeddings as the displays take them."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.decomposition import PCA

from sksubtomo._labels import is_missing
from sksubtomo._stored import StoredVolumes


def check_volumes(volumes: Any) -> Any:
    """Validate volumes without reading those that are on disk.

    Parameters
    ----------
    volumes : array-like of shape (n, depth, height, width) or (depth, height, width)
        Volumes, or one. Memory maps and arrays of h5py, Zarr and dask stay on disk.

    Returns
    -------
    array of shape (n, depth, height, width)
        The volumes.

    Raises
    ------
    ValueError
        If the shape is another, or there is no volume.
    """
    if not hasattr(volumes, "ndim") or not hasattr(volumes, "shape"):
        volumes = np.asarray(volumes)
    if volumes.ndim == 3:
        volumes = np.asarray(volumes)[np.newaxis]
    if volumes.ndim != 4 or 0 in volumes.shape:
        raise ValueError(
            f"volumes have shape {tuple(volumes.shape)}; expected (n, depth, height, "
            "width), at least one."
        )
    return volumes


def read_part(volumes: Any, row: int, part: Any = ...) -> npt.NDArray[np.float64]:
    """Read a volume, or a slice of it, and nothing else.

    Parameters
    ----------
    volumes : array of shape (n, depth, height, width)
        What `check_volumes` returned.
    row : int
        Which volume.
    part : tuple of int and slice, default=...
        Which part of it.

    Returns
    -------
    ndarray
        The values.

    Raises
    ------
    ValueError
        If one is not finite.
    """
    if isinstance(volumes, StoredVolumes):
        values = volumes.take([row])[0][part]
    else:
        values = volumes[(row, *part) if isinstance(part, tuple) else row]
    values = np.asarray(values, dtype=np.float64)
    if not np.isfinite(values).all():
        raise ValueError(f"volume {row} holds NaN or infinity; expected finite values.")
    return values


def as_column(values: Any) -> npt.NDArray[Any]:
    """Make an array of labels or names, in which what is missing stays so.

    Parameters
    ----------
    values : array-like of shape (n,)
        Labels or names.

    Returns
    -------
    ndarray of shape (n,)
        The same; of objects if text and missing values were mixed.
    """
    array = np.asarray(values)
    if array.dtype.kind == "U" and not isinstance(values, np.ndarray):
        # Beside text, NumPy takes NaN for the text "nan".
        objects = np.asarray(values, dtype=object)
        if any(map(is_missing, objects.flat)):
            return objects
    return array


def check_labels(labels: npt.ArrayLike, n: int, of: str) -> npt.NDArray[Any]:
    """Validate that there is a label for each of something.

    Parameters
    ----------
    labels : array-like of shape (n,)
        Labels.
    n : int
        Their number.
    of : str
        What they belong to, for the message.

    Returns
    -------
    ndarray of shape (n,)
        The labels.

    Raises
    ------
    ValueError
        If the shape is another.
    """
    column = as_column(labels)
    if column.shape != (n,):
        raise ValueError(
            f"labels have shape {column.shape}; expected ({n},), one for each {of}."
        )
    return column


def is_labeled(labels: npt.NDArray[Any], unlabeled: Any) -> npt.NDArray[np.bool_]:
    """Tell which rows have a label.

    Parameters
    ----------
    labels : ndarray of shape (n,)
        Labels.
    unlabeled : object
        The label that marks unlabelled rows, besides None, NaN and what pandas has
        for them, which always do. None means that there is no other.

    Returns
    -------
    ndarray of shape (n,), bool
        Which.
    """
    return np.array(
        [
            not is_missing(label) and (unlabeled is None or label != unlabeled)
            for label in labels.tolist()
        ],
        bool,
    )


def check_count(number: Any, parameter: str) -> None:
    """Validate a number of things.

    Parameters
    ----------
    number : int
        The number.
    parameter : str
        Name of the parameter, for the message.

    Raises
    ------
    ValueError
        If it is no integer, or below 1.
    """
    if not isinstance(number, Integral) or number < 1:
        raise ValueError(f"{parameter}={number!r}; expected an integer of at least 1.")


def check_names(names: Any, n: int, parameter: str) -> list[str] | None:
    """Validate that there is a name for each of something, and format numbers.

    Parameters
    ----------
    names : sequence of str or float, or None
        Names; numbers are written with two decimals.
    n : int
        Their number.
    parameter : str
        Name of the parameter, for the message.

    Returns
    -------
    list of str or None
        The names.

    Raises
    ------
    ValueError
        If there are more or fewer.
    """
    if names is None:
        return None
    names = np.asarray(names)
    if names.shape != (n,):
        raise ValueError(
            f"{parameter} has shape {names.shape}; expected ({n},), one for each "
            "volume."
        )
    numbers = names.dtype.kind == "f"
    return [f"{name:.2f}" if numbers else str(name) for name in names.tolist()]


def check_voxel_size(voxel_size: float | None) -> None:
    """Validate a voxel size.

    Parameters
    ----------
    voxel_size : float or None
        Angstroms; None is unknown.

    Raises
    ------
    ValueError
        If it is no positive number.
    """
    if voxel_size is not None and not (np.isfinite(voxel_size) and voxel_size > 0):
        raise ValueError(
            f"voxel_size={voxel_size!r}; expected a positive number of angstroms, or "
            "None."
        )


def length(voxels: float, voxel_size: float | None) -> str:
    """Write a length in angstroms, or in voxels where their size is not known.

    Parameters
    ----------
    voxels : float
        The length in voxels.
    voxel_size : float or None
        Voxel size in angstroms.

    Returns
    -------
    str
        The length with its unit.
    """
    written = (
        f"{voxels:g} voxels" if voxel_size is None else f"{voxels * voxel_size:.4g} Å"
    )
    return written.replace("-", "−")


def check_positions(
    positions: Sequence[int] | None, shape: Sequence[int]
) -> tuple[int, int, int]:
    """Validate where volumes are cut.

    Parameters
    ----------
    positions : sequence of three int or None
        Indices z, y and x; None is the middle of each axis.
    shape : sequence of int
        Depth, height and width of the volumes.

    Returns
    -------
    z, y, x : int
        The indices.

    Raises
    ------
    ValueError
        If they are not three integers, or not inside.
    """
    if positions is None:
        positions = [side // 2 for side in shape]
    if np.shape(positions) != (3,) or not all(
        isinstance(position, Integral) and 0 <= position < side
        for position, side in zip(positions, shape, strict=True)
    ):
        raise ValueError(
            f"positions={positions!r}; expected integer indices z, y and x inside "
            f"volumes of shape {tuple(shape)}."
        )
    z, y, x = map(int, positions)
    return z, y, x


def exact_pca(n_components: int, features: npt.NDArray[Any]) -> PCA:
    """Make the principal component analysis that is the same on every run.

    Parameters
    ----------
    n_components : int
        Number of components, at most: there are no more than rows or features.
    features : ndarray of shape (n, n_features)
        What it will be fitted on.

    Returns
    -------
    PCA
        Not fitted.
    """
    # Both solvers are exact; the first one's memory does not grow with the rows.
    is_tall = len(features) >= features.shape[1]
    return PCA(
        n_components=min(n_components, *features.shape),
        svd_solver="covariance_eigh" if is_tall else "full",
    )


def principal_plane(
    features: npt.NDArray[Any],
) -> tuple[npt.NDArray[np.float64], tuple[str, str]]:
    """Bring an embedding to the plane of its two principal components.

    Parameters
    ----------
    features : ndarray of shape (n, n_features)
        Embeddings, at least two features. Two are left as they are.

    Returns
    -------
    points : ndarray of shape (n, 2)
        The places.
    names : (str, str)
        Of the axes, with their shares of the variance.
    """
    features = np.asarray(features, dtype=np.float64)
    if features.shape[1] == 2:
        return features, ("Dimension 1", "Dimension 2")
    pca = exact_pca(2, features)
    # Where all points coincide there is no variance to explain.
    with np.errstate(invalid="ignore", divide="ignore"):
        points = pca.fit_transform(features)
    one, two = 100 * np.nan_to_num(pca.explained_variance_ratio_)
    return points, (
        f"PC 1 ({one:.0f} % of variance)",
        f"PC 2 ({two:.0f} % of variance)",
    )
