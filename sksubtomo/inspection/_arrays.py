"""Volumes, labels and voxel sizes as the displays take them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

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
    labels = np.asarray(labels)
    if labels.shape != (n,):
        raise ValueError(
            f"labels have shape {labels.shape}; expected ({n},), one for each {of}."
        )
    return labels


def is_labeled(labels: npt.NDArray[Any], unlabeled: Any) -> npt.NDArray[np.bool_]:
    """Tell which rows have a label.

    Parameters
    ----------
    labels : ndarray of shape (n,)
        Labels.
    unlabeled : object
        The label that marks unlabelled rows; None means that there are none.

    Returns
    -------
    ndarray of shape (n,), bool
        Which.
    """
    if unlabeled is None:
        return np.ones(len(labels), bool)
    return np.array([label != unlabeled for label in labels.tolist()], bool)


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
