"""Picks over slices of their tomogram."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sksubtomo.inspection._matplotlib import OKABE_ITO, import_pyplot
from sksubtomo.picking.detection import Picks, check_count, check_tomogram
from sksubtomo.picking.evaluation import match_picks

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_BLUE, _GREEN, _VERMILION = OKABE_ITO[:3]
_YELLOW = OKABE_ITO[6]
# Width of a panel and height of titles, labels and legend, in inches.
_PANEL = 4.0
_TEXT = 1.2
# More pixels than this along a side are not seen in a panel.
_PIXELS = 1000


def plot_picks(
    tomogram: NDArray[Any],
    picks: Picks,
    *,
    truth: NDArray[Any] | None = None,
    n_slices: int = 3,
    figure: Figure | None = None,
) -> Figure:
    """Draw picks as circles over z slices of their tomogram.

    Parameters
    ----------
    tomogram : ndarray of shape (depth, height, width)
        The tomogram, z first; a memory map is read only where it is drawn.
    picks : Picks
        The picks.
    truth : ndarray of shape (n, 3), default=None
        True positions z, y, x in voxels. Picks within half a diameter of one are then
        drawn as true, others as false, and positions without a pick as missed.
    n_slices : int, default=3
        Number of slices, evenly spaced over the depth that picks and truth span.
    figure : matplotlib Figure, default=None
        Where to draw; it is given the size it needs. None makes a new one.

    Returns
    -------
    matplotlib Figure
        One panel a slice, x to the right and y upwards. Each is the mean over half a
        diameter along z, in grey from the 1st to the 99th percentile; a circle is the
        cut of the plane through a sphere of the particles' diameter around the pick.

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    ValueError
        If shapes do not fit.
    """
    tomogram = check_tomogram(tomogram)
    n_slices = check_count("n_slices", n_slices)
    groups = [("pick", _YELLOW, "-", picks.coordinates)]
    if truth is not None:
        truth = np.asarray(truth, dtype=np.float64)
        match = match_picks(picks, truth, picks.diameter / picks.voxel_size / 2)
        is_true = match.matched_truth >= 0
        groups = [
            ("true pick", _GREEN, "-", picks.coordinates[is_true]),
            ("false pick", _VERMILION, "-", picks.coordinates[~is_true]),
            ("missed", _BLUE, "--", truth[~match.found]),
        ]
    everything = np.concatenate([positions[:, 0] for *_, positions in groups])
    low, high = (0, len(tomogram) - 1)
    if len(everything):
        low, high = everything.min(), everything.max()
    # The middles of equal parts, so that no slice is at the border.
    edges = np.linspace(low, high, n_slices + 1)
    planes = np.unique(np.clip(np.round((edges[1:] + edges[:-1]) / 2), 0, None))
    planes = np.minimum(planes, len(tomogram) - 1).astype(int)

    if figure is None:
        figure = import_pyplot().figure()
    height = 0.9 * _PANEL * tomogram.shape[1] / tomogram.shape[2] + _TEXT
    figure.set_size_inches(_PANEL * len(planes) + 0.4, min(height, 4 * _PANEL))
    figure.set_layout_engine("constrained")
    grid = figure.subplots(1, len(planes), squeeze=False)[0]
    for plane, ax in zip(planes, grid, strict=True):
        _draw_slice(ax, tomogram, int(plane), picks)
        for _, color, style, positions in groups:
            _draw_circles(ax, positions, int(plane), picks, color, style)
    grid[0].set_ylabel("y, nm")
    _draw_legend(figure, groups)
    figure.suptitle(
        f"{len(picks)} picks of {picks.diameter:g} Å; slices of "
        f"{_thickness(picks) * picks.voxel_size / 10:.3g} nm",
        fontsize="medium",
    )
    return figure


def _thickness(picks: Picks) -> int:
    """Return the number of z slices that are averaged, an odd one."""
    return 2 * int(picks.diameter / picks.voxel_size / 4) + 1


def _draw_slice(ax: Any, tomogram: NDArray[Any], plane: int, picks: Picks) -> None:
    step = max(1, max(tomogram.shape[1:]) // _PIXELS)
    half = _thickness(picks) // 2
    slab = tomogram[max(0, plane - half) : plane + half + 1, ::step, ::step]
    image = np.asarray(slab).mean(axis=0, dtype=np.float64)
    low, high = np.percentile(image, [1, 99])
    nm = picks.voxel_size / 10
    rows, columns = image.shape
    ax.imshow(
        image,
        cmap="gray",
        vmin=low,
        vmax=high,
        origin="lower",
        extent=np.array([-0.5, columns - 0.5, -0.5, rows - 0.5]) * step * nm,
    )
    ax.set_title(f"z = {plane * nm:.1f} nm (voxel {plane})", fontsize="small")
    ax.set_xlabel("x, nm")


def _draw_circles(
    ax: Any,
    positions: NDArray[np.float64],
    plane: int,
    picks: Picks,
    color: str,
    style: str,
) -> None:
    from matplotlib.collections import EllipseCollection

    radius = picks.diameter / picks.voxel_size / 2
    cut = radius**2 - np.square(positions[:, 0] - plane)
    near = cut > 0
    # Hardly more than a dot where the plane only touches the sphere.
    widths = 2 * np.sqrt(np.maximum(cut[near], 0.04 * radius**2))
    nm = picks.voxel_size / 10
    ax.add_collection(
        EllipseCollection(
            widths * nm,
            widths * nm,
            np.zeros(len(widths)),
            units="xy",
            offsets=positions[near][:, :0:-1] * nm,
            offset_transform=ax.transData,
            facecolors="none",
            edgecolors=color,
            linestyles=style,
            linewidths=1.2,
        )
    )


def _draw_legend(figure: Figure, groups: list[tuple[str, str, str, Any]]) -> None:
    from matplotlib.lines import Line2D

    if len(groups) == 1:
        return
    handles = [
        Line2D(
            [],
            [],
            marker="o",
            markersize=9,
            markerfacecolor="none",
            markeredgecolor=color,
            linestyle="none",
            label=f"{name} ({len(positions)})",
        )
        for name, color, _, positions in groups
    ]
    figure.legend(
        handles=handles, loc="outside lower center", ncols=3, fontsize="small"
    )
