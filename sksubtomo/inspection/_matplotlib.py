"""What all figures share: the optional import, colours, panels and scale bars."""

from __future__ import annotations

from typing import Any

import numpy as np

OKABE_ITO = (
    "#0072B2",
    "#009E73",
    "#D55E00",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#F0E442",
    "#000000",
)
"""Colours that the colour-blind can tell apart (Okabe and Ito 2008)."""

CLASS_COLORS = OKABE_ITO
"""Colours of classes: no more than these, which differ for everyone."""

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">")
"""Markers of classes beyond the colours; `_page/page.js` draws the same ones."""

COLUMN_WIDTH = 8.5 / 2.54
"""Width in inches of the figures that displays make: a column of a journal."""

# How far below the panel a scale bar is, in points.
_BAR = 5.0

_CONTAINERS = "expected a matplotlib Axes, an array of Axes, a Figure or a SubFigure"


def import_pyplot() -> Any:
    """Import ``matplotlib.pyplot``.

    Returns
    -------
    module
        The module.

    Raises
    ------
    ImportError
        If it is not installed; the message names the extra that brings it.
    """
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError(
            "Figures need matplotlib, which is not installed: "
            'pip install "sksubtomo[study]".'
        ) from error
    return plt


def class_style(number: int) -> dict[str, str]:
    """Return the colour and the marker of a class.

    Parameters
    ----------
    number : int
        Its place among the classes.

    Returns
    -------
    dict
        Arguments of matplotlib. The marker changes after each round of colours, and no
        pair comes twice before all have come.
    """
    turn, place = divmod(number, len(CLASS_COLORS))
    return {"color": CLASS_COLORS[place], "marker": MARKERS[turn % len(MARKERS)]}


def make_axes(ax: Any, *, height: float) -> tuple[Any, Any]:
    """Find where a display of one panel is drawn.

    Parameters
    ----------
    ax : matplotlib Axes or None
        Where to draw. None makes a new figure, a column wide.
    height : float
        Height of a new figure in inches.

    Returns
    -------
    figure : matplotlib Figure
        The figure.
    ax : matplotlib Axes
        The axes.
    """
    if ax is not None:
        return ax.figure, ax
    return import_pyplot().subplots(
        figsize=(COLUMN_WIDTH, height), layout="constrained"
    )


def make_grid(
    ax: Any,
    n_rows: int,
    n_columns: int,
    *,
    figsize: tuple[float, float],
    heading: str = "",
    projection: str | None = None,
    width_ratios: list[float] | None = None,
) -> tuple[Any, Any]:
    """Find where a display of several panels is drawn.

    Parameters
    ----------
    ax : Axes, array of Axes, Figure, SubFigure or None
        Axes are hidden and their place is divided, unless they are what a single panel
        needs; an array has to have one for each panel; a figure is given the size of a
        new one; a subfigure is divided. None makes a figure.
    n_rows : int
        Number of rows.
    n_columns : int
        Number of columns.
    figsize : tuple of float
        Width and height in inches of a new figure.
    heading : str, default=""
        Stands above all, unless the axes are the caller's.
    projection : str, default=None
        Kind of the axes: "3d", or None for those of the plane.
    width_ratios : list of float, default=None
        Of the columns; equal by default.

    Returns
    -------
    figure : matplotlib Figure or SubFigure
        What the panels are in.
    axes : ndarray of shape (n_rows, n_columns)
        The panels.

    Raises
    ------
    ValueError
        If an array does not have as many axes, or axes have no place in a grid.
    TypeError
        If `ax` is something else.
    """
    if ax is None:
        ax = import_pyplot().figure()
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, FigureBase

    fits = getattr(ax, "name", None) == (projection or "rectilinear")
    if isinstance(ax, Figure):
        ax.set_size_inches(*figsize)
        ax.set_layout_engine("constrained", w_pad=0.02, h_pad=0.02)
    if isinstance(ax, Axes) and not (fits and n_rows * n_columns == 1):
        place = ax.get_subplotspec()
        if place is None:
            raise ValueError(
                "ax has no place in a grid that could be divided; expected Axes that "
                "plt.subplots() made, or a Figure."
            )
        ax.set_axis_off()
        ax = ax.figure.add_subfigure(place)
    if isinstance(ax, FigureBase):
        if heading:
            ax.suptitle(heading, fontsize="small")
        return ax, ax.subplots(
            n_rows,
            n_columns,
            squeeze=False,
            width_ratios=width_ratios,
            subplot_kw={"projection": projection},
        )
    axes = np.asarray(ax, dtype=object)
    if not all(isinstance(panel, Axes) for panel in axes.flat):
        raise TypeError(f"ax is of type {type(ax).__name__}; {_CONTAINERS}.")
    if axes.size != n_rows * n_columns:
        raise ValueError(
            f"ax has {axes.size} axes; expected {n_rows} x {n_columns}, one for each "
            "panel."
        )
    axes = axes.reshape(n_rows, n_columns)
    return axes[0, 0].figure, axes


def draw_image(
    ax: Any, image: Any, voxel_size: float | None, limits: tuple[float, float]
) -> Any:
    """Draw a slice in grey, its extent in angstroms around the central voxel.

    Parameters
    ----------
    ax : matplotlib Axes
        Where.
    image : ndarray of shape (height, width)
        Grey values; the first axis is drawn upwards.
    voxel_size : float or None
        Voxel size in angstroms; None draws in voxels.
    limits : tuple of float
        Values that are drawn black and white.

    Returns
    -------
    matplotlib AxesImage
        The image.
    """
    unit = 1.0 if voxel_size is None else voxel_size
    rows, columns = image.shape
    left, bottom = -0.5 - columns // 2, -0.5 - rows // 2
    ax.set_xticks([])
    ax.set_yticks([])
    return ax.imshow(
        image,
        cmap="gray",
        vmin=limits[0],
        vmax=limits[1],
        origin="lower",
        interpolation="nearest",
        extent=tuple(
            unit * side for side in (left, left + columns, bottom, bottom + rows)
        ),
    )


def draw_scale_bar(ax: Any, voxel_size: float | None) -> None:
    """Draw a bar of a round length, about half the width, below a slice.

    Parameters
    ----------
    ax : matplotlib Axes
        Has the slice, see `draw_image`.
    voxel_size : float or None
        Voxel size in angstroms; None writes voxels for the unit.
    """
    from matplotlib.transforms import ScaledTranslation

    left, right = ax.get_xlim()
    length = round_length(0.7 * (right - left))
    middle = (left + right) / 2
    ax.plot(
        [middle - length / 2, middle + length / 2],
        [0, 0],
        transform=ax.get_xaxis_transform()
        + ScaledTranslation(0, -_BAR / 72, ax.figure.dpi_scale_trans),
        color="black",
        linewidth=2,
        clip_on=False,
        solid_capstyle="butt",
    )
    ax.set_xlim(left, right)
    unit = "voxels" if voxel_size is None else "Å"
    ax.set_xlabel(f"{length:g} {unit}", fontsize="small", labelpad=1.8 * _BAR)


def round_length(longest: float) -> float:
    """Return the largest of 1, 2, 5, 10, ... that is no longer than a length.

    Parameters
    ----------
    longest : float
        The length, positive.

    Returns
    -------
    float
        A round one.
    """
    decade = 10.0 ** float(np.floor(np.log10(longest)))
    return max(step * decade for step in (1, 2, 5) if step * decade <= longest)


def name_row(ax: Any, name: Any) -> None:
    """Write the name of a row of panels to the left of its first one.

    Parameters
    ----------
    ax : matplotlib Axes
        The first panel.
    name : object
        The name.
    """
    ax.set_ylabel(
        shorten_lines(name), rotation=0, ha="right", va="center", fontsize="small"
    )


# Of a row's name in characters, about a third of a column.
_LONGEST_NAME = 20


def shorten_lines(text: Any, longest: int = _LONGEST_NAME) -> str:
    """Leave out the middle of long lines, such as particles' names.

    Parameters
    ----------
    text : object
        The text.
    longest : int, default=20
        Characters of a line, at least three.

    Returns
    -------
    str
        The text, whose first and last characters tell names of one file apart.
    """
    head = (longest - 1) // 2
    tail = longest - 1 - head
    return "\n".join(
        line if len(line) <= longest else f"{line[:head]}…{line[-tail:]}"
        for line in str(text).split("\n")
    )


def name_width(names: Any) -> float:
    """Estimate the width of what `name_row` writes.

    Parameters
    ----------
    names : iterable of object or None
        All the names; None is none.

    Returns
    -------
    float
        Inches.
    """
    lines = [line for name in names or () for line in shorten_lines(name).splitlines()]
    return 0.1 + 0.062 * max(map(len, lines)) if lines else 0.0
