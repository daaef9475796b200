"""Maps of embeddings."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from sklearn.decomposition import PCA

from sksubtomo.inspection._matplotlib import CLASS_COLORS, MARKERS, import_pyplot

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot_embedding(
    embedding: npt.ArrayLike,
    labels: npt.ArrayLike,
    *,
    legend: bool = True,
    marker_size: float = 14.0,
    ax: Axes | None = None,
) -> Axes:
    """Draw an embedding in the plane, coloured by class.

    Parameters
    ----------
    embedding : array-like of shape (n, n_features)
        Embeddings, at least two features. Two are drawn as they are; more are
        projected on the two principal components.
    labels : array-like of shape (n,)
        The class of each row.
    legend : bool, default=True
        Whether to name the classes beside the axes.
    marker_size : float, default=14.0
        Area of the markers in square points.
    ax : matplotlib Axes, default=None
        Where to draw. None makes a new figure.

    Returns
    -------
    matplotlib Axes
        The axes. Each class has a colour and a marker of its own.

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    ValueError
        If shapes do not fit, or a value is not finite.

    See Also
    --------
    sksubtomo.ContrastivePretrainer.transform : Makes embeddings.
    """
    points = np.asarray(embedding, dtype=np.float64)
    classes = np.asarray(labels)
    if points.ndim != 2 or points.shape[1] < 2 or len(points) < 2:
        raise ValueError(
            f"embedding has shape {points.shape}; expected (n, n_features) with at "
            "least two rows and two features."
        )
    if classes.shape != (len(points),):
        raise ValueError(
            f"labels have shape {classes.shape}; expected ({len(points)},), one for "
            "each row of embedding."
        )
    if not np.isfinite(points).all():
        raise ValueError("embedding holds NaN or infinity; expected finite values.")
    names = ("Dimension 1", "Dimension 2")
    if points.shape[1] > 2:
        # The full solver is exact and the same on every run.
        projection = PCA(n_components=2, svd_solver="full")
        # Where all points coincide there is no variance to explain.
        with np.errstate(invalid="ignore", divide="ignore"):
            points = projection.fit_transform(points)
        shares = np.nan_to_num(projection.explained_variance_ratio_)
        names = (
            f"PC 1 ({100 * shares[0]:.0f} % of variance)",
            f"PC 2 ({100 * shares[1]:.0f} % of variance)",
        )
    if ax is None:
        _, ax = import_pyplot().subplots(layout="constrained")
    assert ax is not None
    for number, name in enumerate(np.unique(classes)):
        rows = classes == name
        ax.scatter(
            points[rows, 0],
            points[rows, 1],
            s=marker_size,
            color=CLASS_COLORS[number % len(CLASS_COLORS)],
            # A step every full round of colours, so that no pair comes twice.
            marker=MARKERS[(number + number // len(CLASS_COLORS)) % len(MARKERS)],
            # Yellow needs an edge on white paper.
            edgecolors="0.25",
            linewidths=0.3,
            alpha=0.85,
            label=str(name),
        )
    ax.set_xlabel(names[0])
    ax.set_ylabel(names[1])
    ax.set_xticks([])
    ax.set_yticks([])
    if legend:
        ax.legend(
            loc="center left",
            bbox_to_anchor=(1.0, 0.5),
            frameon=False,
            fontsize="small",
        )
    return ax
