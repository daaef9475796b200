"""Slices through volumes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from sksubtomo.inspection._arrays import (
    check_count,
    check_labels,
    check_names,
    check_positions,
    check_volumes,
    check_voxel_size,
    is_labeled,
    length,
    read_part,
)
from sksubtomo.inspection._matplotlib import (
    COLUMN_WIDTH,
    draw_image,
    draw_scale_bar,
    make_grid,
    name_row,
    name_width,
    shorten_lines,
)

_Image = npt.NDArray[np.float64]

_PLANES = (("z", "xy"), ("y", "xz"), ("x", "yz"))
# Heights in inches of what is written above and below the panels, and of a title.
_HEADING, _TITLE = 0.5, 0.15


class SlicesDisplay:
    """Three orthogonal slices of one or a few volumes.

    Make it with :meth:`from_volumes`. All parameters are stored as attributes.

    Parameters
    ----------
    slices : list of tuple of ndarray
        For each volume the slices at constant z, y and x, of shapes (height, width),
        (depth, width) and (depth, height).
    positions : tuple of int
        Indices z, y and x of the slices.
    voxel_size : float, default=None
        Voxel size in angstroms. None means that it is unknown, and lengths are in
        voxels.
    names : list of str, default=None
        Names of the volumes.
    shared_contrast : bool, default=False
        Whether grey values run from the 1st to the 99th percentile of all slices, so
        that brightness can be compared, rather than of the slices of each volume.

    Attributes
    ----------
    figure_ : matplotlib Figure
        The figure.
    axes_ : ndarray of shape (n, 3)
        A row for each volume: x to the right and y upwards, x and z, y and z.
    images_ : list of AxesImage
        The slices, row by row. Coordinates are in angstroms (or voxels), with zero at
        the central voxel, of index ``n // 2``.

    See Also
    --------
    MontageDisplay : One slice each of many volumes.
    ClassAveragesDisplay : Slices of the mean of each class.

    Examples
    --------
    >>> import numpy as np
    >>> from sksubtomo.inspection import SlicesDisplay
    >>> volume = np.random.default_rng(0).normal(size=(8, 8, 8))
    >>> display = SlicesDisplay.from_volumes(volume, voxel_size=13.0)
    >>> display.axes_.shape
    (1, 3)
    """

    def __init__(
        self,
        slices: Sequence[Sequence[_Image]],
        *,
        positions: tuple[int, int, int],
        voxel_size: float | None = None,
        names: Sequence[str] | None = None,
        shared_contrast: bool = False,
    ) -> None:
        self.slices = slices
        self.positions = positions
        self.voxel_size = voxel_size
        self.names = names
        self.shared_contrast = shared_contrast

    @classmethod
    def from_volumes(
        cls,
        volumes: Any,
        *,
        positions: Sequence[int] | None = None,
        voxel_size: float | None = None,
        names: Sequence[Any] | None = None,
        shared_contrast: bool = False,
        ax: Any = None,
        title: str | None = None,
    ) -> Self:
        """Draw slices of volumes.

        Parameters
        ----------
        volumes : array-like of shape (n, depth, height, width), or one volume
            A few volumes; those on disk are read only where they are drawn.
        positions : tuple of three int, default=None
            Indices z, y and x of the slices, in voxels. None means the central ones, of
            index ``n // 2``.
        voxel_size : float, default=None
            Voxel size in angstroms. None means that it is unknown, and lengths are in
            voxels.
        names : sequence of n str or float, default=None
            Names of the volumes, written to the left.
        shared_contrast : bool, default=False
            Whether all volumes have one range of grey values.
        ax : Axes, array of 3 n Axes, Figure or SubFigure, default=None
            Where to draw, see :meth:`plot`.
        title : str, default=None
            Heading; None says how grey values were chosen.

        Returns
        -------
        SlicesDisplay
            The display.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        ValueError
            If shapes do not fit, a slice is outside the volumes, or a voxel that is
            drawn is not finite.
        """
        volumes = check_volumes(volumes)
        check_voxel_size(voxel_size)
        z, y, x = check_positions(positions, volumes.shape[1:])
        parts = (
            (z,),
            (slice(None), y),
            (slice(None), slice(None), x),
        )
        display = cls(
            [
                [read_part(volumes, row, part) for part in parts]
                for row in range(len(volumes))
            ],
            positions=(z, y, x),
            voxel_size=voxel_size,
            names=check_names(names, len(volumes), "names"),
            shared_contrast=shared_contrast,
        )
        return display.plot(ax=ax, title=title)

    def plot(self, *, ax: Any = None, title: str | None = None) -> Self:
        """Draw the slices.

        Parameters
        ----------
        ax : Axes, array of 3 n Axes, Figure or SubFigure, default=None
            Where to draw. The place of Axes is divided; a Figure is given the size that
            the panels need. None makes a figure of a journal's column width.
        title : str, default=None
            Heading; None says how grey values were chosen.

        Returns
        -------
        SlicesDisplay
            The display itself.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        """
        # At one scale, panels are as wide as what they show.
        widths = [image.shape[1] for image in self.slices[0]]
        tallest = max(image.shape[0] for image in self.slices[0])
        room = COLUMN_WIDTH - name_width(self.names) - 0.15
        height = tallest * room / sum(widths) + 0.08
        self.figure_, self.axes_ = make_grid(
            ax,
            len(self.slices),
            3,
            figsize=(COLUMN_WIDTH, _HEADING + _TITLE + height * len(self.slices)),
            heading=(
                "Slices, "
                + (
                    "one grey scale for all"
                    if self.shared_contrast
                    else "each volume with its own grey scale"
                )
                if title is None
                else title
            ),
            width_ratios=[float(width) for width in widths],
        )
        limits = _limits(self.slices, self.shared_contrast)
        self.images_ = [
            draw_image(ax, image, self.voxel_size, of_volume)
            for panels, images, of_volume in zip(
                self.axes_, self.slices, limits, strict=True
            )
            for ax, image in zip(panels, images, strict=True)
        ]
        for ax, (axis, plane), position, size in zip(
            self.axes_[0], _PLANES, self.positions, self._shape(), strict=True
        ):
            place = length(position - size // 2, self.voxel_size)
            ax.set_title(f"{plane}, {axis} = {place}", fontsize="x-small", pad=3)
        for panels, name in zip(self.axes_, self.names or (), strict=bool(self.names)):
            name_row(panels[0], name)
        draw_scale_bar(self.axes_[-1, 0], self.voxel_size)
        return self

    def _shape(self) -> tuple[int, int, int]:
        of_z, of_y, _ = self.slices[0]
        return (of_y.shape[0], *of_z.shape)


class MontageDisplay:
    """The central z slices of many volumes.

    Make it with :meth:`from_volumes`, :meth:`from_predictions` or
    :meth:`from_estimator`. All parameters are stored as attributes.

    Parameters
    ----------
    images : list of list of ndarray of shape (height, width)
        The slices, row by row. Rows may differ in length.
    titles : list of list of str, default=None
        What is written above each slice.
    names : list of str, default=None
        Names of the rows, such as their class.
    voxel_size : float, default=None
        Voxel size in angstroms, for the scale bar. None means that it is unknown, and
        the bar is in voxels.
    shared_contrast : bool, default=False
        Whether grey values run from the 1st to the 99th percentile of all slices, so
        that brightness can be compared, rather than of each slice.

    Attributes
    ----------
    figure_ : matplotlib Figure
        The figure.
    axes_ : ndarray of shape (n_rows, n_columns)
        The panels; those without a slice are hidden.
    images_ : list of AxesImage
        The slices, row by row.

    See Also
    --------
    SlicesDisplay : Three orthogonal slices of a few volumes.

    Examples
    --------
    >>> from sksubtomo.datasets import make_subtomograms
    >>> from sksubtomo.inspection import MontageDisplay
    >>> X, y = make_subtomograms(n_per_class=3, size=8, random_state=0,
    ...                          return_X_y=True)
    >>> display = MontageDisplay.from_predictions(X, y, n_per_class=2)
    >>> display.axes_.shape
    (10, 2)
    """

    def __init__(
        self,
        images: Sequence[Sequence[_Image]],
        *,
        titles: Sequence[Sequence[str]] | None = None,
        names: Sequence[str] | None = None,
        voxel_size: float | None = None,
        shared_contrast: bool = False,
    ) -> None:
        self.images = images
        self.titles = titles
        self.names = names
        self.voxel_size = voxel_size
        self.shared_contrast = shared_contrast

    @classmethod
    def from_volumes(
        cls,
        volumes: Any,
        *,
        titles: Sequence[Any] | None = None,
        n_columns: int = 5,
        voxel_size: float | None = None,
        shared_contrast: bool = False,
        ax: Any = None,
        title: str | None = None,
    ) -> Self:
        """Draw all of some volumes.

        Parameters
        ----------
        volumes : array-like of shape (n, depth, height, width)
            Volumes; of those on disk only the central z slices are read.
        titles : sequence of n str or float, default=None
            What is written above each slice, such as a probability. Fractions are
            written with two decimals.
        n_columns : int, default=5
            Slices in a row.
        voxel_size : float, default=None
            Voxel size in angstroms, for the scale bar. None means that it is unknown,
            and the bar is in voxels.
        shared_contrast : bool, default=False
            Whether all slices have one range of grey values.
        ax : Axes, array of Axes, Figure or SubFigure, default=None
            Where to draw, see :meth:`plot`.
        title : str, default=None
            Heading; None says how grey values were chosen.

        Returns
        -------
        MontageDisplay
            The display.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        ValueError
            If shapes do not fit, a voxel that is drawn is not finite or a parameter is
            out of range.
        """
        volumes = check_volumes(volumes)
        check_count(n_columns, "n_columns")
        everything = np.arange(len(volumes))
        display = cls._read(
            volumes,
            [everything[n : n + n_columns] for n in range(0, len(volumes), n_columns)],
            titles=titles,
            names=None,
            voxel_size=voxel_size,
            shared_contrast=shared_contrast,
        )
        return display.plot(ax=ax, title=title)

    @classmethod
    def from_predictions(
        cls,
        volumes: Any,
        labels: npt.ArrayLike,
        *,
        n_per_class: int = 4,
        classes: Sequence[Any] | None = None,
        titles: Sequence[Any] | None = None,
        voxel_size: float | None = None,
        shared_contrast: bool = False,
        ax: Any = None,
        title: str | None = None,
    ) -> Self:
        """Draw the first volumes of each class, a row for each.

        Parameters
        ----------
        volumes : array-like of shape (n, depth, height, width)
            Volumes; those on disk are read only where they are drawn.
        labels : array-like of shape (n,)
            The class of each volume, known or predicted. Volumes of None or NaN are
            left out.
        n_per_class : int, default=4
            Number of volumes of each class, if it has as many.
        classes : sequence, default=None
            Which classes, in this order. None means all, sorted.
        titles : sequence of n str or float, default=None
            What is written above each slice, such as a probability. Fractions are
            written with two decimals.
        voxel_size : float, default=None
            Voxel size in angstroms, for the scale bar. None means that it is unknown,
            and the bar is in voxels.
        shared_contrast : bool, default=False
            Whether all slices have one range of grey values.
        ax : Axes, array of Axes, Figure or SubFigure, default=None
            Where to draw, see :meth:`plot`.
        title : str, default=None
            Heading; None says how grey values were chosen.

        Returns
        -------
        MontageDisplay
            The display.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        ValueError
            If shapes do not fit, a class has no volume, a voxel that is drawn is not
            finite or a parameter is out of range.
        """
        volumes = check_volumes(volumes)
        of_volumes = check_labels(labels, len(volumes), "volume")
        check_count(n_per_class, "n_per_class")
        labeled = np.flatnonzero(is_labeled(of_volumes, None))
        if not len(labeled):
            raise ValueError(
                "labels are all None or NaN; expected a class for at least one volume."
            )
        known = of_volumes[labeled]
        classes = list(np.unique(known)) if classes is None else list(classes)
        rows = [labeled[known == name][:n_per_class] for name in classes]
        for name, found in zip(classes, rows, strict=True):
            if not len(found):
                raise ValueError(f"classes has {name!r}, of which there is no volume.")
        display = cls._read(
            volumes,
            rows,
            titles=titles,
            names=[str(name) for name in classes],
            voxel_size=voxel_size,
            shared_contrast=shared_contrast,
        )
        return display.plot(ax=ax, title=title)

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        *,
        n_per_class: int = 4,
        voxel_size: float | None = None,
        shared_contrast: bool = False,
        ax: Any = None,
        title: str | None = None,
    ) -> Self:
        """Draw what a classifier is surest of in each class, with the probability.

        Parameters
        ----------
        estimator : classifier
            A fitted classifier with ``predict_proba``.
        X : array-like of shape (n, depth, height, width)
            Volumes to classify.
        n_per_class : int, default=4
            Number of volumes that are predicted to be of each class, if there are as
            many. A class that is never predicted has no row.
        voxel_size : float, default=None
            Voxel size in angstroms, for the scale bar. None means that it is unknown,
            and the bar is in voxels.
        shared_contrast : bool, default=False
            Whether all slices have one range of grey values.
        ax : Axes, array of Axes, Figure or SubFigure, default=None
            Where to draw, see :meth:`plot`.
        title : str, default=None
            Heading; None says how grey values were chosen.

        Returns
        -------
        MontageDisplay
            The display.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        TypeError
            If the estimator gives no probabilities.
        ValueError
            If shapes do not fit, a voxel that is drawn is not finite or a parameter is
            out of range.
        """
        if not hasattr(estimator, "predict_proba"):
            raise TypeError(
                f"estimator is of type {type(estimator).__name__}, which has no "
                "predict_proba; expected a classifier that gives probabilities."
            )
        check_count(n_per_class, "n_per_class")
        volumes = check_volumes(X)
        probabilities = np.asarray(estimator.predict_proba(X))
        best, surest = probabilities.argmax(axis=1), probabilities.max(axis=1)
        order = np.argsort(-surest, kind="stable")
        found = np.unique(best)
        display = cls._read(
            volumes,
            [order[best[order] == number][:n_per_class] for number in found],
            titles=surest,
            names=[str(name) for name in np.asarray(estimator.classes_)[found]],
            voxel_size=voxel_size,
            shared_contrast=shared_contrast,
        )
        return display.plot(ax=ax, title=title)

    @classmethod
    def _read(
        cls,
        volumes: Any,
        rows: Sequence[npt.NDArray[np.intp]],
        *,
        titles: Any,
        names: Sequence[str] | None,
        voxel_size: float | None,
        shared_contrast: bool,
    ) -> Self:
        check_voxel_size(voxel_size)
        written = check_names(titles, len(volumes), "titles")
        middle = volumes.shape[1] // 2
        return cls(
            [[read_part(volumes, int(n), (middle,)) for n in row] for row in rows],
            titles=written and [[written[n] for n in row] for row in rows],
            names=names,
            voxel_size=voxel_size,
            shared_contrast=shared_contrast,
        )

    def plot(self, *, ax: Any = None, title: str | None = None) -> Self:
        """Draw the slices.

        Parameters
        ----------
        ax : Axes, array of Axes, Figure or SubFigure, default=None
            Where to draw. The place of Axes is divided; an array has to have one for
            each panel; a Figure is given the size that the panels need. None makes a
            figure of a journal's column width, or wider if there are many columns.
        title : str, default=None
            Heading; None says how grey values were chosen.

        Returns
        -------
        MontageDisplay
            The display itself.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        """
        n_columns = max(map(len, self.images))
        height, width = self.images[0][0].shape
        beside = name_width(self.names) + 0.1
        cell = min(max((COLUMN_WIDTH - beside) / n_columns, 0.45), 0.9)
        written = [title for row in self.titles or () for title in row]
        above = _TITLE * max((len(title.splitlines()) for title in written), default=0)
        self.figure_, self.axes_ = make_grid(
            ax,
            len(self.images),
            n_columns,
            figsize=(
                max(COLUMN_WIDTH, beside + cell * n_columns),
                _HEADING + (cell * height / width + 0.05 + above) * len(self.images),
            ),
            heading=(
                "Central z slices, "
                + (
                    "one grey scale for all"
                    if self.shared_contrast
                    else "each with its own grey scale"
                )
                if title is None
                else title
            ),
        )
        for ax in self.axes_.flat:
            ax.set_axis_off()
        # A montage has one slice of each volume.
        limits = iter(
            _limits(
                [[image] for row in self.images for image in row], self.shared_contrast
            )
        )
        self.images_: list[Any] = []
        for n, row in enumerate(self.images):
            for m, image in enumerate(row):
                ax = self.axes_[n, m]
                ax.set_axis_on()
                self.images_.append(
                    draw_image(ax, image, self.voxel_size, next(limits))
                )
                if self.titles is not None:
                    # Fifteen characters or so are an inch wide.
                    longest = max(3, int(15 * COLUMN_WIDTH / self.axes_.shape[1]))
                    title = shorten_lines(self.titles[n][m], longest)
                    ax.set_title(title, fontsize="x-small", pad=2)
            if self.names is not None:
                name_row(self.axes_[n, 0], self.names[n])
        draw_scale_bar(self.axes_[-1, 0], self.voxel_size)
        return self


def _limits(
    groups: Sequence[Sequence[_Image]], shared: bool
) -> list[tuple[float, float]]:
    """Return black and white of each group of images, or of all of them."""
    values = [np.concatenate([image.ravel() for image in images]) for images in groups]
    ranges = [np.concatenate(values)] if shared else values
    limits = [tuple(np.percentile(one, [1, 99]).tolist()) for one in ranges]
    return limits * len(groups) if shared else limits
