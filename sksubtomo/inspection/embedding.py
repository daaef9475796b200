"""Maps of embeddings."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from sksubtomo._training.runtime import draw_seed
from sksubtomo.inspection._arrays import (
    as_column,
    check_labels,
    is_labeled,
    principal_plane,
)
from sksubtomo.inspection._matplotlib import class_style, make_axes

_METHODS = ("pca", "umap")

# From so many points on they are drawn without edges, and as one image in vector
# graphics.
_MANY = 2000
# The legend's markers, in points.
_LEGEND_MARKER = 5.0
_MOST_CLASSES_A_COLUMN = 16
# Light enough to lie underneath, dark enough to be seen on white.
_UNKNOWN = "0.75"

# What matplotlib warns of where there is nothing to map.
_COLOR_MAPPING = {"cmap", "norm", "vmin", "vmax"}


class EmbeddingDisplay:
    """Map of an embedding in the plane, coloured by class or by a value.

    Make it with :meth:`from_estimator` or :meth:`from_embedding`. All parameters are
    stored as attributes.

    Parameters
    ----------
    points : ndarray of shape (n, 2)
        Where each row is drawn.
    labels : array-like of shape (n,), default=None
        Classes, tomograms, or whatever else the rows are grouped by. None and NaN mark
        rows without one.
    values : array-like of shape (n,), default=None
        A number for each row, such as a probability, instead of labels. NaN is unknown.
    unlabeled : int, float or str, default=None
        A further label that marks rows without one.
    axis_names : tuple of two str, default=("Dimension 1", "Dimension 2")
        Names of the axes.

    Attributes
    ----------
    figure_ : matplotlib Figure
        The figure.
    ax_ : matplotlib Axes
        The axes.
    scatters_ : dict of PathCollection
        The points of each label, by label; those without one have the key None. Those
        of values have the key "values". Above 2000 points, the key is the marker, such
        as "o": the points of all labels that have it, eight at most, are in random
        order, so that none lies on top of the others.
    legend_ : matplotlib Legend or None
        The legend of the labels.
    colorbar_ : matplotlib Colorbar or None
        The colour bar of the values.

    See Also
    --------
    sksubtomo.ContrastivePretrainer.transform : Makes embeddings.

    Examples
    --------
    >>> import numpy as np
    >>> from sksubtomo.inspection import EmbeddingDisplay
    >>> embedding = np.random.default_rng(0).normal(size=(20, 8))
    >>> display = EmbeddingDisplay.from_embedding(embedding, labels=[0, 1] * 10)
    >>> display.points.shape, sorted(display.scatters_)
    ((20, 2), [0, 1])
    """

    def __init__(
        self,
        points: npt.NDArray[np.float64],
        *,
        labels: npt.ArrayLike | None = None,
        values: npt.ArrayLike | None = None,
        unlabeled: Any = None,
        axis_names: tuple[str, str] = ("Dimension 1", "Dimension 2"),
    ) -> None:
        self.points = points
        self.labels = labels
        self.values = values
        self.unlabeled = unlabeled
        self.axis_names = axis_names

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: npt.ArrayLike,
        y: npt.ArrayLike | None = None,
        *,
        values: npt.ArrayLike | None = None,
        unlabeled: Any = None,
        method: str = "pca",
        random_state: Any = None,
        ax: Any = None,
        legend: bool = True,
        name: str | None = None,
        marker_size: float | None = None,
        scatter_kw: Mapping[str, Any] | None = None,
    ) -> Self:
        """Embed volumes, and draw the map.

        Parameters
        ----------
        estimator : transformer
            A fitted estimator with ``transform``, such as a
            :class:`~sksubtomo.ContrastivePretrainer`, or a pipeline without its last
            step.
        X : array-like of shape (n, depth, height, width)
            Volumes.
        y : array-like of shape (n,), default=None
            Labels of the volumes, as the `labels` of :meth:`from_embedding`.
        values : array-like of shape (n,), default=None
            A number for each volume, such as a probability, instead of labels.
        unlabeled : int, float or str, default=None
            A further label that marks volumes without one.
        method : {"pca", "umap"}, default="pca"
            How the embedding is brought to the plane.
        random_state : int, RandomState instance or None, default=None
            Seed of UMAP.
        ax : matplotlib Axes, default=None
            Where to draw. None makes a figure of a journal's column width.
        legend : bool, default=True
            Whether to name the labels, or to draw the colour bar.
        name : str, default=None
            What the labels or the values are, written at the legend or colour bar.
        marker_size : float, default=None
            Area of the markers in square points. None means the smaller, the more
            points there are.
        scatter_kw : dict, default=None
            Further arguments of ``Axes.scatter``.

        Returns
        -------
        EmbeddingDisplay
            The display.

        Raises
        ------
        ImportError
            If matplotlib is not installed, or what the method needs.
        TypeError
            If the estimator has no ``transform``.
        ValueError
            If shapes do not fit, or a value is not finite.
        """
        if not hasattr(estimator, "transform"):
            raise TypeError(
                f"estimator is of type {type(estimator).__name__}, which has no "
                "transform; expected a fitted transformer, such as a "
                "ContrastivePretrainer."
            )
        return cls.from_embedding(
            estimator.transform(X),
            labels=y,
            values=values,
            unlabeled=unlabeled,
            method=method,
            random_state=random_state,
            ax=ax,
            legend=legend,
            name=name,
            marker_size=marker_size,
            scatter_kw=scatter_kw,
        )

    @classmethod
    def from_embedding(
        cls,
        embedding: npt.ArrayLike,
        *,
        labels: npt.ArrayLike | None = None,
        values: npt.ArrayLike | None = None,
        unlabeled: Any = None,
        method: str = "pca",
        random_state: Any = None,
        ax: Any = None,
        legend: bool = True,
        name: str | None = None,
        marker_size: float | None = None,
        scatter_kw: Mapping[str, Any] | None = None,
    ) -> Self:
        """Draw the map of an embedding.

        Parameters
        ----------
        embedding : array-like of shape (n, n_features)
            Embeddings, at least two features. Two are drawn as they are, whatever the
            method.
        labels : array-like of shape (n,), default=None
            Classes, tomograms, or whatever else the rows are grouped by. Eight labels
            are told apart by colour; the next eight have another marker, and so on.
            Rows of None or NaN have no label: they are drawn in grey, underneath.
        values : array-like of shape (n,), default=None
            A number for each row, such as a probability, instead of labels. Rows of NaN
            are drawn in grey, underneath.
        unlabeled : int, float or str, default=None
            A further label that marks rows without one.
        method : {"pca", "umap"}, default="pca"
            The two principal components, or UMAP with its own defaults [1]_, for which
            umap-learn has to be installed. UMAP shows neighbours; sizes of its clusters
            and distances between them mean little.
        random_state : int, RandomState instance or None, default=None
            Seed of UMAP.
        ax : matplotlib Axes, default=None
            Where to draw. None makes a figure of a journal's column width.
        legend : bool, default=True
            Whether to name the labels, or to draw the colour bar.
        name : str, default=None
            What the labels or the values are, written at the legend or colour bar.
        marker_size : float, default=None
            Area of the markers in square points. None means the smaller, the more
            points there are.
        scatter_kw : dict, default=None
            Further arguments of ``Axes.scatter``.

        Returns
        -------
        EmbeddingDisplay
            The display.

        Raises
        ------
        ImportError
            If matplotlib is not installed, or what the method needs.
        ValueError
            If shapes do not fit, a value is not finite, or both labels and values are
            given.

        References
        ----------
        .. [1] L. McInnes, J. Healy and J. Melville. UMAP: Uniform Manifold
           Approximation and Projection for Dimension Reduction. arXiv:1802.03426, 2018.
        """
        features = np.asarray(embedding, dtype=np.float64)
        if features.ndim != 2 or features.shape[1] < 2 or len(features) < 2:
            raise ValueError(
                f"embedding has shape {features.shape}; expected (n, n_features) with "
                "at least two rows and two features."
            )
        if not np.isfinite(features).all():
            raise ValueError("embedding holds NaN or infinity; expected finite values.")
        if method not in _METHODS:
            raise ValueError(f"method={method!r}; expected one of {list(_METHODS)}.")
        _check_colors(labels, values, len(features))
        points, axis_names = _project(features, method, random_state)
        display = cls(
            points,
            labels=labels,
            values=values,
            unlabeled=unlabeled,
            axis_names=axis_names,
        )
        return display.plot(
            ax=ax,
            legend=legend,
            name=name,
            marker_size=marker_size,
            scatter_kw=scatter_kw,
        )

    def plot(
        self,
        *,
        ax: Any = None,
        legend: bool = True,
        name: str | None = None,
        marker_size: float | None = None,
        scatter_kw: Mapping[str, Any] | None = None,
    ) -> Self:
        """Draw the map.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw. None makes a figure of a journal's column width.
        legend : bool, default=True
            Whether to name the labels, or to draw the colour bar.
        name : str, default=None
            What the labels or the values are, written at the legend or colour bar.
        marker_size : float, default=None
            Area of the markers in square points. None means the smaller, the more
            points there are.
        scatter_kw : dict, default=None
            Further arguments of ``Axes.scatter``.

        Returns
        -------
        EmbeddingDisplay
            The display itself.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        ValueError
            If shapes do not fit, or both labels and values are given.
        """
        n = len(self.points)
        _check_colors(self.labels, self.values, n)
        self.figure_, self.ax_ = make_axes(ax, height=2.5)
        size = _marker_size(n) if marker_size is None else marker_size
        style: dict[str, Any] = {
            "s": size,
            "linewidths": 0.0 if n > _MANY else 0.3,
            # Yellow needs an edge on white paper.
            "edgecolors": "0.25",
            "alpha": 0.85,
            "rasterized": n > _MANY,
            **(scatter_kw or {}),
        }
        self.legend_: Any = None
        self.colorbar_: Any = None
        self.scatters_: dict[Any, Any] = {}
        if self.values is not None:
            self._draw_values(style, legend, name)
        elif self.labels is not None:
            self._draw_labels(style, legend, name, size)
        else:
            everything = np.ones(n, bool)
            self.scatters_[None] = self._scatter(
                everything, {**class_style(0), **style}
            )
        self.ax_.set_xlabel(self.axis_names[0], fontsize="small")
        self.ax_.set_ylabel(self.axis_names[1], fontsize="small")
        # Coordinates have no unit and no meaning of their own.
        self.ax_.set_xticks([])
        self.ax_.set_yticks([])
        return self

    def _scatter(self, rows: npt.NDArray[Any], style: Mapping[str, Any]) -> Any:
        return self.ax_.scatter(self.points[rows, 0], self.points[rows, 1], **style)

    def _draw_unknown(
        self, rows: npt.NDArray[np.bool_], style: Mapping[str, Any], label: str
    ) -> None:
        if not rows.any():
            return
        grey = {"color": _UNKNOWN, "edgecolors": "none", "zorder": 0.9, "label": label}
        plain = {key: style[key] for key in style.keys() - _COLOR_MAPPING}
        self.scatters_[None] = self._scatter(rows, {**plain, **grey})

    def _draw_values(
        self, style: Mapping[str, Any], legend: bool, name: str | None
    ) -> None:
        values = np.asarray(self.values, dtype=np.float64)
        known = ~np.isnan(values)
        self._draw_unknown(~known, style, "unknown")
        colors = {"c": values[known], "cmap": "viridis", **style}
        # Edges would hide the colour of small markers.
        colors["edgecolors"] = "none"
        self.scatters_["values"] = self._scatter(known, colors)
        if legend:
            self.colorbar_ = self.figure_.colorbar(
                self.scatters_["values"], ax=self.ax_
            )
            self.colorbar_.set_label(name or "Value", fontsize="small")
            self.colorbar_.ax.tick_params(labelsize="x-small")
            # The bar is opaque where the points are not.
            self.colorbar_.solids.set_alpha(1.0)

    def _draw_labels(
        self, style: Mapping[str, Any], legend: bool, name: str | None, size: float
    ) -> None:
        labels = as_column(self.labels)
        labeled = is_labeled(labels, self.unlabeled)
        classes, places = np.unique(labels[labeled], return_inverse=True)
        looks = [
            {**class_style(number), "label": str(label), **style}
            for number, label in enumerate(classes.tolist())
        ]
        rows = np.flatnonzero(labeled)
        if len(labels) > _MANY and looks:
            self._draw_shuffled(rows, places, looks)
        else:
            self.scatters_ = {
                label: self._scatter(rows[places == number], looks[number])
                for number, label in enumerate(classes.tolist())
            }
        self._draw_unknown(~labeled, style, "unlabelled")
        if legend:
            self.legend_ = self.ax_.legend(
                loc="center left",
                bbox_to_anchor=(1.0, 0.5),
                frameon=False,
                fontsize="x-small",
                title=name,
                title_fontsize="small",
                markerscale=_LEGEND_MARKER / np.sqrt(size),
                handletextpad=0.2,
                borderpad=0.2,
                ncols=1 + len(classes) // _MOST_CLASSES_A_COLUMN,
            )

    def _draw_shuffled(
        self,
        rows: npt.NDArray[np.intp],
        places: npt.NDArray[np.intp],
        looks: Sequence[Mapping[str, Any]],
    ) -> None:
        """Draw the classes of a marker as one, and what the legend shows of each."""
        order = np.random.default_rng(0).permutation(len(rows))
        colors = np.array([look["color"] for look in looks])
        markers = [class_style(number)["marker"] for number in range(len(looks))]
        for marker in dict.fromkeys(markers):
            has_marker = np.array([other == marker for other in markers])
            mixed = order[has_marker[places[order]]]
            dots = {**looks[markers.index(marker)], "label": None, "color": None}
            self.scatters_[marker] = self._scatter(
                rows[mixed], {**dots, "c": colors[places[mixed]], "edgecolors": "none"}
            )
        for look in looks:
            self._scatter(rows[:0], look)


def _check_colors(labels: Any, values: Any, n: int) -> None:
    if labels is not None and values is not None:
        raise ValueError(
            "labels (y) and values were both given; expected one, for a point has one "
            "colour."
        )
    if labels is not None:
        check_labels(labels, n, "row of embedding")
    if values is not None and np.shape(values) != (n,):
        raise ValueError(
            f"values have shape {np.shape(values)}; expected ({n},), one for each row "
            "of embedding."
        )
    if values is not None:
        infinite = np.isinf(np.asarray(values, dtype=np.float64))
        if infinite.any():
            raise ValueError(
                f"values hold infinity in row {infinite.argmax()}; expected finite "
                "numbers, or NaN where none is known."
            )


def _marker_size(n: int) -> float:
    """Return the area of a marker in square points, so that all cover about as much."""
    return float(np.clip(14.0 * 400 / n, 0.6, 14.0))


def _project(
    features: npt.NDArray[np.float64], method: str, random_state: Any
) -> tuple[npt.NDArray[np.float64], tuple[str, str]]:
    """Bring an embedding to the plane, and name its axes."""
    if method == "umap" and features.shape[1] > 2:
        return _fit_umap(features, random_state), ("UMAP 1", "UMAP 2")
    return principal_plane(features)


def _fit_umap(
    features: npt.NDArray[np.float64], random_state: Any
) -> npt.NDArray[np.float64]:
    try:
        with warnings.catch_warnings():
            # The parametric UMAP, which is not used here, misses it.
            warnings.filterwarnings(
                "ignore", "Tensorflow not installed", category=ImportWarning
            )
            from umap import UMAP
    except ImportError as error:
        raise ImportError(
            'method="umap" needs umap-learn, which is not installed: '
            'pip install "sksubtomo[umap]".'
        ) from error
    # With a seed UMAP uses one thread, and warns unless it is told to; without one it
    # would draw from NumPy's global generator.
    reducer = UMAP(
        n_neighbors=min(15, len(features) - 1),
        random_state=draw_seed(random_state),
        n_jobs=1,
    )
    return np.asarray(reducer.fit_transform(features), dtype=np.float64)
