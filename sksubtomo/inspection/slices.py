"""Slices through volumes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from sksubtomo.inspection._matplotlib import import_pyplot

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_CELL = 0.72
_LABEL_WIDTH = 1.7
_TITLE_HEIGHT = 0.6


def plot_slices(
    volumes: npt.NDArray[Any],
    labels: npt.ArrayLike,
    *,
    n_per_class: int = 4,
    classes: Sequence[Any] | None = None,
    voxel_size: float | None = None,
    figure: Figure | None = None,
) -> Figure:
    """Draw the central z slice of the first volumes of each class.

    Parameters
    ----------
    volumes : array-like of shape (n, depth, height, width)
        Volumes; a memory map is read only where it is drawn.
    labels : array-like of shape (n,)
        The class of each volume.
    n_per_class : int, default=4
        Number of volumes of each class, if it has as many.
    classes : list, default=None
        Which classes, in this order. None means all, sorted.
    voxel_size : float, default=None
        Voxel size in angstroms, for the scale bar. None means that it is unknown, and
        the bar is in voxels.
    figure : matplotlib Figure, default=None
        Where to draw; it is given the size that the grid needs. None makes a new one.

    Returns
    -------
    matplotlib Figure
        A row for each class. Grey values run from the 1st to the 99th percentile of
        each slice, so that brightness cannot be compared between slices.

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    ValueError
        If shapes do not fit, a class has no volume or a parameter is out of range.
    """
    if getattr(volumes, "ndim", None) != 4:
        volumes = np.asarray(volumes)
    classes_of_volumes = np.asarray(labels)
    if volumes.ndim != 4 or not len(volumes):
        raise ValueError(
            f"volumes have shape {volumes.shape}; expected (n, depth, height, width), "
            "at least one."
        )
    if classes_of_volumes.shape != (len(volumes),):
        raise ValueError(
            f"labels have shape {classes_of_volumes.shape}; expected "
            f"({len(volumes)},), one for each volume."
        )
    if n_per_class < 1:
        raise ValueError(f"n_per_class={n_per_class!r}; expected at least 1.")
    if voxel_size is not None and not (np.isfinite(voxel_size) and voxel_size > 0):
        raise ValueError(
            f"voxel_size={voxel_size!r}; expected a positive number of angstroms, or "
            "None."
        )
    if classes is None:
        classes = list(np.unique(classes_of_volumes))
    rows = []
    for name in classes:
        found = np.flatnonzero(classes_of_volumes == name)[:n_per_class]
        if not len(found):
            raise ValueError(f"classes has {name!r}, of which there is no volume.")
        rows.append(found)
    n_columns = max(len(found) for found in rows)
    if figure is None:
        figure = import_pyplot().figure()
    figure.set_size_inches(
        _LABEL_WIDTH + _CELL * max(n_columns, 3), _TITLE_HEIGHT + _CELL * len(rows)
    )
    figure.set_layout_engine("constrained", w_pad=0.02, h_pad=0.02)
    grid = figure.subplots(len(rows), n_columns, squeeze=False)
    middle = volumes.shape[1] // 2
    for name, found, axes in zip(classes, rows, grid, strict=True):
        for column, ax in enumerate(axes):
            ax.set_xticks([])
            ax.set_yticks([])
            if column >= len(found):
                ax.set_axis_off()
                continue
            image = np.asarray(volumes[found[column], middle], dtype=np.float64)
            low, high = np.percentile(image, [1, 99])
            ax.imshow(image, cmap="gray", vmin=low, vmax=high, origin="lower")
        axes[0].set_ylabel(
            str(name), rotation=0, ha="right", va="center", fontsize="small"
        )
    _draw_scale_bar(grid[-1, 0], volumes.shape[3], voxel_size)
    spacing = "" if voxel_size is None else f", voxels of {voxel_size:.3g} Å"
    figure.suptitle(f"Central z slices{spacing}", fontsize="medium")
    return figure


def _draw_scale_bar(ax: Any, width: int, voxel_size: float | None) -> None:
    """Draw a bar of a round length, about half the width, below a slice."""
    unit = 1.0 if voxel_size is None else voxel_size
    longest = 0.7 * width * unit
    decade = 10.0 ** np.floor(np.log10(longest))
    length = max(step * decade for step in (1, 2, 5) if step * decade <= longest)
    name = f"{length:g} voxels" if voxel_size is None else f"{length:g} Å"
    below = -1.0 - 0.04 * width
    middle, half = (width - 1) / 2, length / unit / 2
    ax.plot(
        [middle - half, middle + half],
        [below, below],
        color="black",
        linewidth=2,
        clip_on=False,
        solid_capstyle="butt",
    )
    ax.set_xlim(-0.5, width - 0.5)
    ax.set_ylim(-0.5, None)
    ax.set_xlabel(name, fontsize="small", labelpad=5)
