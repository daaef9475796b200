"""Averages of the volumes of each class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from sksubtomo._stored import (
    StoredVolumes,
    check_finite,
    is_stored,
    iterate_blocks,
)
from sksubtomo.inspection._arrays import (
    check_labels,
    check_volumes,
    check_voxel_size,
    is_labeled,
)
from sksubtomo.inspection.slices import SlicesDisplay


def class_averages(
    volumes: Any, labels: npt.ArrayLike, *, unlabeled: Any = None
) -> tuple[npt.NDArray[Any], npt.NDArray[np.float32]]:
    """Average the volumes of each class, as they lie.

    Nothing is aligned, so what is rotated differently is blurred, and the missing wedge
    is not compensated: the averages show whether the volumes of a class have something
    in common. They are no reconstructions.

    Parameters
    ----------
    volumes : array-like of shape (n, depth, height, width)
        Volumes; those on disk are read once, some megabytes at a time.
    labels : array-like of shape (n,)
        The class of each volume. Volumes of None or NaN are left out.
    unlabeled : int, float or str, default=None
        A further label that marks volumes without a class, which are left out.

    Returns
    -------
    classes : ndarray of shape (n_classes,)
        The classes, sorted.
    averages : ndarray of shape (n_classes, depth, height, width), float32
        The mean of the volumes of each, computed in double precision.

    Raises
    ------
    ValueError
        If shapes do not fit, no volume has a class, or a voxel is not finite.

    See Also
    --------
    ClassAveragesDisplay : Draws them.

    Examples
    --------
    >>> import numpy as np
    >>> from sksubtomo.inspection import class_averages
    >>> volumes = np.arange(4.0).reshape(4, 1, 1, 1) * np.ones((4, 2, 2, 2))
    >>> classes, averages = class_averages(volumes, ["b", "a", "b", "a"])
    >>> classes.tolist(), averages[:, 0, 0, 0].tolist()
    (['a', 'b'], [2.0, 1.0])
    """
    classes, averages, _ = _average(volumes, labels, unlabeled)
    return classes, averages


def _average(
    volumes: Any, labels: npt.ArrayLike, unlabeled: Any
) -> tuple[npt.NDArray[Any], npt.NDArray[np.float32], npt.NDArray[np.intp]]:
    """Return classes and averages, and the number of volumes of each."""
    volumes = check_volumes(volumes)
    of_volumes = check_labels(labels, len(volumes), "volume")
    classes, places, counts = _find_classes(of_volumes, unlabeled)
    if is_stored(volumes) and not isinstance(volumes, StoredVolumes):
        volumes = StoredVolumes(volumes, volumes.shape[1:])
    sums = np.zeros((len(classes), *volumes.shape[1:]))
    for start, block in iterate_blocks(volumes):
        check_finite(block, start)
        of_block = places[start : start + len(block)]
        for place in np.unique(of_block[of_block >= 0]):
            sums[place] += block[of_block == place].sum(axis=0, dtype=np.float64)
    averages = sums / counts[:, None, None, None]
    return classes, averages.astype(np.float32), counts


class ClassAveragesDisplay:
    """Central slices of the average of each class, with the number of volumes.

    Make it with :meth:`from_predictions` or :meth:`from_estimator`. All parameters are
    stored as attributes.

    Parameters
    ----------
    classes : sequence of length n_classes
        The classes.
    averages : ndarray of shape (n_classes, depth, height, width)
        The mean of the volumes of each, such as `class_averages` returns.
    counts : sequence of int of length n_classes
        How many volumes were averaged.
    voxel_size : float, default=None
        Voxel size in angstroms. None means that it is unknown, and lengths are in
        voxels.

    Attributes
    ----------
    figure_ : matplotlib Figure
        The figure.
    axes_ : ndarray of shape (n_classes, 3)
        A row for each class, with the planes xy, xz and yz as in `SlicesDisplay`.
    images_ : list of AxesImage
        The slices, row by row; the grey values of each row have their own range.

    See Also
    --------
    class_averages : The averages themselves, and what they are not.

    Examples
    --------
    >>> from sksubtomo.datasets import make_subtomograms
    >>> from sksubtomo.inspection import ClassAveragesDisplay
    >>> X, y = make_subtomograms(n_per_class=3, size=8, random_state=0,
    ...                          return_X_y=True)
    >>> display = ClassAveragesDisplay.from_predictions(X, y)
    >>> display.counts.tolist()
    [3, 3, 3, 3, 3, 3, 3, 3, 3, 3]
    """

    def __init__(
        self,
        classes: npt.ArrayLike,
        averages: npt.ArrayLike,
        counts: npt.ArrayLike,
        *,
        voxel_size: float | None = None,
    ) -> None:
        self.classes = classes
        self.averages = averages
        self.counts = counts
        self.voxel_size = voxel_size

    @classmethod
    def from_predictions(
        cls,
        volumes: Any,
        labels: npt.ArrayLike,
        *,
        unlabeled: Any = None,
        voxel_size: float | None = None,
        ax: Any = None,
        title: str | None = None,
    ) -> Self:
        """Average the volumes of each class, and draw the averages.

        Parameters
        ----------
        volumes : array-like of shape (n, depth, height, width)
            Volumes; those on disk are read some megabytes at a time.
        labels : array-like of shape (n,)
            The class of each volume, known or predicted. Volumes of None or NaN are
            left out.
        unlabeled : int, float or str, default=None
            A further label that marks volumes without a class, which are left out.
        voxel_size : float, default=None
            Voxel size in angstroms. None means that it is unknown, and lengths are in
            voxels.
        ax : Axes, array of 3 n_classes Axes, Figure or SubFigure, default=None
            Where to draw, see :meth:`plot`.
        title : str, default=None
            Heading; None says that nothing was aligned.

        Returns
        -------
        ClassAveragesDisplay
            The display.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        ValueError
            If shapes do not fit, no volume has a class, or a voxel is not finite.
        """
        check_voxel_size(voxel_size)
        classes, averages, counts = _average(volumes, labels, unlabeled)
        display = cls(classes, averages, counts, voxel_size=voxel_size)
        return display.plot(ax=ax, title=title)

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        *,
        voxel_size: float | None = None,
        ax: Any = None,
        title: str | None = None,
    ) -> Self:
        """Average the volumes by the class that an estimator predicts.

        Parameters
        ----------
        estimator : classifier or clusterer
            A fitted estimator with ``predict``.
        X : array-like of shape (n, depth, height, width)
            Volumes.
        voxel_size : float, default=None
            Voxel size in angstroms. None means that it is unknown, and lengths are in
            voxels.
        ax : Axes, array of 3 n_classes Axes, Figure or SubFigure, default=None
            Where to draw, see :meth:`plot`.
        title : str, default=None
            Heading; None says that nothing was aligned.

        Returns
        -------
        ClassAveragesDisplay
            The display.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        ValueError
            If shapes do not fit or a voxel is not finite.
        """
        return cls.from_predictions(
            X, estimator.predict(X), voxel_size=voxel_size, ax=ax, title=title
        )

    def plot(self, *, ax: Any = None, title: str | None = None) -> Self:
        """Draw the averages.

        Parameters
        ----------
        ax : Axes, array of 3 n_classes Axes, Figure or SubFigure, default=None
            Where to draw. The place of Axes is divided; a Figure is given the size that
            the panels need. None makes a figure of a journal's column width.
        title : str, default=None
            Heading; None says that nothing was aligned.

        Returns
        -------
        ClassAveragesDisplay
            The display itself.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        """
        classes: Sequence[Any] = np.asarray(self.classes).tolist()
        counts: Sequence[int] = np.asarray(self.counts).tolist()
        drawn = SlicesDisplay.from_volumes(
            self.averages,
            voxel_size=self.voxel_size,
            names=[
                f"{name}\nn = {count}"
                for name, count in zip(classes, counts, strict=True)
            ],
            ax=ax,
            title=(
                "Means without alignment, each with its own grey scale"
                if title is None
                else title
            ),
        )
        self.figure_, self.axes_ = drawn.figure_, drawn.axes_
        self.images_ = drawn.images_
        return self


def _find_classes(
    labels: npt.NDArray[Any], unlabeled: Any
) -> tuple[npt.NDArray[Any], npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Return the classes, the place of each row's class (or -1), and the counts."""
    labeled = is_labeled(labels, unlabeled)
    if not labeled.any():
        raise ValueError(
            f"labels are all unlabeled={unlabeled!r}, None or NaN; expected a class "
            "for at least one volume."
        )
    places = np.full(len(labels), -1, dtype=np.intp)
    classes, places[labeled], counts = np.unique(
        labels[labeled], return_inverse=True, return_counts=True
    )
    return classes, places, counts
