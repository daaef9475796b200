"""Isosurfaces of volumes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from sksubtomo.inspection._arrays import (
    check_count,
    check_names,
    check_volumes,
    check_voxel_size,
    read_part,
)
from sksubtomo.inspection._matplotlib import (
    COLUMN_WIDTH,
    OKABE_ITO,
    make_grid,
    round_length,
)

_COLOR = OKABE_ITO[5]

# Of volumes with a longer side only every other voxel, or fewer, are used: their
# surfaces would have more triangles than matplotlib draws in seconds.
_LONGEST_SIDE = 64

Surface = tuple[npt.NDArray[np.float64], npt.NDArray[np.intp]]


class IsosurfaceDisplay:
    """Shaded isosurfaces of one or several volumes.

    Make it with :meth:`from_volumes`. All parameters are stored as attributes.

    Parameters
    ----------
    surfaces : list of tuple of ndarray
        For each volume the vertices, of shape (n_vertices, 3), with x, y and z in
        angstroms (or voxels) around the central voxel, and the triangles of shape
        (n_triangles, 3), indices of vertices that run counter-clockwise seen from
        outside.
    levels : sequence of float
        The values of the surfaces, in the units of the volumes.
    volume_shape : tuple of int
        Depth, height and width of the volumes in voxels.
    voxel_size : float, default=None
        Voxel size in angstroms. None means that it is unknown, and lengths are in
        voxels.
    titles : list of str, default=None
        What is written above each volume.
    level_name : str, default=None
        The level as it is written in the heading. None means no heading.

    Attributes
    ----------
    figure_ : matplotlib Figure
        The figure.
    axes_ : ndarray of shape (n_rows, n_columns)
        The panels, of matplotlib's ``Axes3D``, with the same scale along x, y and z;
        those without a volume are hidden.
    surfaces_ : list of Poly3DCollection
        What was drawn.

    See Also
    --------
    SlicesDisplay : Grey values, where a level would hide the noise.

    Examples
    --------
    >>> import numpy as np
    >>> from sksubtomo.inspection import IsosurfaceDisplay
    >>> z, y, x = np.indices((10, 10, 10)) - 5
    >>> ball = np.exp(-(z**2 + y**2 + x**2) / 8)
    >>> display = IsosurfaceDisplay.from_volumes(ball, voxel_size=10.0)
    >>> display.axes_[0, 0].get_xlabel()
    'x (Å)'
    """

    def __init__(
        self,
        surfaces: Sequence[Surface],
        *,
        levels: Sequence[float],
        volume_shape: tuple[int, int, int],
        voxel_size: float | None = None,
        titles: Sequence[str] | None = None,
        level_name: str | None = None,
    ) -> None:
        self.surfaces = surfaces
        self.levels = levels
        self.volume_shape = volume_shape
        self.voxel_size = voxel_size
        self.titles = titles
        self.level_name = level_name

    @classmethod
    def from_volumes(
        cls,
        volumes: Any,
        *,
        level: float = 2.0,
        level_unit: str = "sigma",
        contrast: str = "light",
        voxel_size: float | None = None,
        titles: Sequence[Any] | None = None,
        n_columns: int = 2,
        color: str = _COLOR,
        ax: Any = None,
    ) -> Self:
        """Find the isosurfaces of volumes by marching cubes [1]_, and draw them.

        Parameters
        ----------
        volumes : array-like of shape (n, depth, height, width), or one volume
            A few volumes; best averages, for a level hides no noise. Of volumes with a
            side above 64 voxels, only every other voxel (or fewer) is used.
        level : float, default=2.0
            Where the surface lies.
        level_unit : {"sigma", "value"}, default="sigma"
            Whether `level` is in standard deviations from the mean of each volume,
            towards the particle, or a value of the voxels.
        contrast : {"light", "dark"}, default="light"
            Whether particles are lighter than their surroundings, as in simulations and
            after inversion, or darker, as in raw tomograms. The surface encloses what
            is above, or below, the level.
        voxel_size : float, default=None
            Voxel size in angstroms. None means that it is unknown, and axes are in
            voxels.
        titles : sequence of n str or float, default=None
            What is written above each volume.
        n_columns : int, default=2
            Volumes in a row.
        color : str, default="#56B4E9"
            Colour of the surfaces, before shading.
        ax : Axes, array of Axes, Figure or SubFigure, default=None
            Where to draw, see :meth:`plot`.

        Returns
        -------
        IsosurfaceDisplay
            The display.

        Raises
        ------
        ImportError
            If matplotlib or scikit-image is not installed.
        ValueError
            If shapes do not fit, a voxel is not finite, a parameter is out of range, or
            a volume has no surface at the level.

        References
        ----------
        .. [1] T. Lewiner, H. Lopes, A. Vieira and G. Tavares. Efficient implementation
           of marching cubes' cases with topological guarantees. Journal of Graphics
           Tools 8(2), 1-15, 2003.
        """
        volumes = check_volumes(volumes)
        check_voxel_size(voxel_size)
        for name, value, choices in [
            ("level_unit", level_unit, ("sigma", "value")),
            ("contrast", contrast, ("light", "dark")),
        ]:
            if value not in choices:
                raise ValueError(f"{name}={value!r}; expected one of {list(choices)}.")
        check_count(n_columns, "n_columns")
        titles = check_names(titles, len(volumes), "titles")
        sign = 1.0 if contrast == "light" else -1.0
        surfaces, levels = [], []
        for row in range(len(volumes)):
            volume = sign * read_part(volumes, row)
            height = sign * level
            if level_unit == "sigma":
                height = float(volume.mean() + level * volume.std())
            if not volume.min() < height < volume.max():
                limits = _format_limits(volume, level_unit, sign)
                raise ValueError(
                    f"level={level!r} in units of {level_unit}: volume {row} has no "
                    f"surface there; expected between {limits}."
                )
            surfaces.append(_find_surface(volume, height, voxel_size))
            levels.append(sign * height)
        display = cls(
            surfaces,
            levels=levels,
            volume_shape=volumes.shape[1:],
            voxel_size=voxel_size,
            titles=titles,
            level_name=(
                f"mean {'+' if sign * level >= 0 else '−'} {abs(level):g} σ"
                if level_unit == "sigma"
                else f"{level:g}"
            ),
        )
        return display.plot(ax=ax, n_columns=n_columns, color=color)

    def plot(self, *, ax: Any = None, n_columns: int = 2, color: str = _COLOR) -> Self:
        """Draw the surfaces.

        Parameters
        ----------
        ax : Axes, array of Axes, Figure or SubFigure, default=None
            Where to draw. The place of Axes is divided; an array has to have one
            ``Axes3D`` for each panel; a Figure is given the size that the panels need.
            None makes a figure of a journal's column width.
        n_columns : int, default=2
            Volumes in a row.
        color : str, default="#56B4E9"
            Colour of the surfaces, before shading.

        Returns
        -------
        IsosurfaceDisplay
            The display itself.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        TypeError
            If axes of an array are not three-dimensional.
        """
        n = len(self.surfaces)
        n_columns = min(n, n_columns)
        n_rows = -(-n // n_columns)
        cell = min(COLUMN_WIDTH / n_columns, 2.4)
        self.figure_, self.axes_ = make_grid(
            ax,
            n_rows,
            n_columns,
            figsize=(COLUMN_WIDTH, (cell + 0.2) * n_rows),
            heading=f"Isosurface at {self.level_name}" if self.level_name else "",
            projection="3d",
        )
        self.surfaces_: list[Any] = []
        for number, ax in enumerate(self.axes_.flat):
            if number >= n:
                ax.set_visible(False)
                continue
            if getattr(ax, "name", "") != "3d":
                raise TypeError(
                    f"ax has axes of the projection {ax.name!r}; expected '3d'."
                )
            self._draw(ax, self.surfaces[number], color)
            if self.titles is not None:
                ax.set_title(self.titles[number], fontsize="small", pad=-2)
        return self

    def _draw(self, ax: Any, surface: Surface, color: str) -> None:
        from matplotlib.colors import LightSource, to_rgba
        from mpl_toolkits.mplot3d.art3d import Poly3DCollection

        vertices, triangles = surface
        drawn = Poly3DCollection(
            vertices[triangles],
            facecolors=[to_rgba(color)],
            # Of the colour of the faces, or seams show between them.
            edgecolors=[to_rgba(color)],
            linewidths=0.2,
            shade=True,
            # From the left and above of where matplotlib looks from.
            lightsource=LightSource(azdeg=225, altdeg=50),
            # In vector graphics thousands of triangles are slow, and have seams.
            rasterized=True,
        )
        # The box around it decides the layout, which would project it many times.
        drawn.set_in_layout(False)
        self.surfaces_.append(ax.add_collection3d(drawn))
        unit = 1.0 if self.voxel_size is None else self.voxel_size
        sides = np.array(self.volume_shape[::-1])
        low = unit * (-0.5 - sides // 2)
        high = low + unit * sides
        written = "voxels" if self.voxel_size is None else "Å"
        for axis, start, stop in zip("xyz", low, high, strict=True):
            getattr(ax, f"set_{axis}lim")(start, stop)
            set_label = getattr(ax, f"set_{axis}label")
            set_label(f"{axis} ({written})", fontsize="x-small", labelpad=-8)
            # None near the ends, where axes meet and their labels would overlap.
            tick = round_length(0.35 * (stop - start))
            getattr(ax, f"set_{axis}ticks")([-tick, 0, tick])
        ax.tick_params(labelsize="xx-small", pad=-4)
        ax.set_box_aspect(sides, zoom=0.8)


def _find_surface(
    volume: npt.NDArray[np.float64], level: float, voxel_size: float | None
) -> Surface:
    """Return where a volume crosses a level from below, as triangles."""
    try:
        from skimage.measure import marching_cubes
    except ImportError as error:
        raise ImportError(
            "Isosurfaces need scikit-image, which is not installed: "
            'pip install "sksubtomo[study]".'
        ) from error
    step = -(-max(volume.shape) // _LONGEST_SIDE)
    coarse = volume[::step, ::step, ::step]
    # A border below the level closes what the faces of the box cut open.
    closed = np.pad(coarse, 1, constant_values=volume.min())
    vertices, triangles, _, _ = marching_cubes(closed, level)
    centre = np.array(volume.shape) // 2
    unit = 1.0 if voxel_size is None else voxel_size
    # From z, y, x to x, y, z: a reflection, after which triangles that ran clockwise
    # seen from outside run counter-clockwise.
    positions = unit * ((vertices - 1) * step - centre)[:, ::-1]
    return positions.astype(np.float64), triangles.astype(np.intp)


def _format_limits(
    volume: npt.NDArray[np.float64], level_unit: str, sign: float
) -> str:
    limits = np.array([volume.min(), volume.max()])
    if level_unit == "sigma":
        spread = volume.std()
        limits = (limits - volume.mean()) / spread if spread else limits * 0
    else:
        limits = np.sort(sign * limits)
    return f"{limits[0]:.3g} and {limits[1]:.3g}"
