"""Clusters of an embedding, proposed without labels, and a report of them."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.cluster import HDBSCAN
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import adjusted_rand_score
from sklearn.mixture import BayesianGaussianMixture, GaussianMixture
from sklearn.neighbors import NearestNeighbors

from sksubtomo._files import write_text
from sksubtomo._random import as_generator
from sksubtomo._training.runtime import draw_seed
from sksubtomo.inspection._arrays import (
    check_labels,
    check_volumes,
    check_voxel_size,
    exact_pca,
    is_labeled,
    read_part,
)
from sksubtomo.inspection._html import escape, figure_data_uri, html_page
from sksubtomo.inspection._matplotlib import COLUMN_WIDTH, OKABE_ITO, import_pyplot
from sksubtomo.inspection.averages import class_averages
from sksubtomo.inspection.embedding import EmbeddingDisplay
from sksubtomo.inspection.slices import MontageDisplay, SlicesDisplay
from sksubtomo.io._outputs import already_there

_METHODS = ("mixture", "bayesian", "hdbscan")
_MOST_CLUSTERS = 20

# The variance that every direction of a component has at least, where 1 is the mean
# variance of the reduced embedding: a few rows on a line are no cluster of any density.
_LEAST_VARIANCE = 1e-3

# The smallest cluster of those methods that need to be told, by default.
_SMALLEST_SHARE = 0.01
_SMALLEST_CLUSTER = 5

_MOST_ITERATIONS = 300

_N_MEMBERS = 5
# Class names in a cell of the report's table.
_N_NAMED = 4
_DPI = 160


class ClusterScore(NamedTuple):
    """What one candidate of `propose_clusters` reached.

    Attributes
    ----------
    n_clusters : int
        Number of clusters.
    score : float
        For "mixture" the Bayesian information criterion, smaller is better; for
        "bayesian" the lower bound of the log evidence, up to a constant; for "hdbscan"
        the share of rows that are in a cluster.
    """

    n_clusters: int
    score: float


@dataclass(frozen=True, eq=False, repr=False)
class Clusters:
    """What `propose_clusters` found.

    Attributes
    ----------
    labels_ : ndarray of shape (n,), int64
        The cluster of each row, from 0; 0 is the largest one. -1 is noise, rows in no
        cluster, which mixtures have none of.
    probabilities_ : ndarray of shape (n,)
        How surely each row is in its cluster, 0 to 1: the posterior probability of the
        mixture, or HDBSCAN's strength of membership, 0 for noise.
    n_clusters_ : int
        Number of clusters.
    criterion : str
        What decided their number, in words.
    scores_ : list of ClusterScore
        All candidates in order; one, if there was nothing to choose.
    method : str
        The `method` that found them.
    """

    labels_: NDArray[np.int64]
    probabilities_: NDArray[np.float64]
    n_clusters_: int
    criterion: str
    scores_: list[ClusterScore]
    method: str

    def summary(self) -> str:
        """Describe the clusters in a few lines of text.

        Returns
        -------
        str
            Number and criterion, and for each cluster its size, its share of the rows
            and the mean probability of its members.
        """
        lines = [
            f"{self.n_clusters_} clusters of {len(self.labels_)} rows ({self.method}), "
            f"number by {self.criterion}",
            f"{'cluster':>7} {'size':>7} {'share':>6} {'probability':>11}",
        ]
        for cluster, rows in self._rows():
            name = "noise" if cluster < 0 else str(cluster)
            lines.append(
                f"{name:>7} {len(rows):>7} {len(rows) / len(self.labels_):>6.1%} "
                f"{self.probabilities_[rows].mean():>11.2f}"
            )
        return "\n".join(lines)

    def _rows(self) -> Iterator[tuple[int, NDArray[np.intp]]]:
        """Yield the rows of each cluster, those of noise, if there are any, last."""
        for cluster in [*range(self.n_clusters_), -1]:
            rows = np.flatnonzero(self.labels_ == cluster)
            if len(rows):
                yield cluster, rows

    def __repr__(self) -> str:
        return (
            f"Clusters: {self.n_clusters_} of {len(self.labels_)} rows ({self.method})"
        )


def propose_clusters(
    embedding: ArrayLike,
    *,
    method: str = "mixture",
    n_clusters: int | Sequence[int] | None = None,
    min_cluster_size: int | None = None,
    n_components: int = 8,
    max_samples: int = 3000,
    random_state: Any = None,
) -> Clusters:
    """Propose clusters of an embedding, with no labels.

    The embedding is projected on its first `n_components` principal components and
    divided by one number, so that their mean variance is 1: pretrained embeddings have
    tens to hundreds of features, but most of what tells classes apart is in few
    directions, and their relative spread is kept. Then

    - ``"mixture"`` fits Gaussian mixtures with full covariances, and takes the number
      of components with the least **Bayesian information criterion** (BIC) [1]_. Rare
      classes may be joined to others, and an embedding without clusters is one;
    - ``"bayesian"`` fits one such mixture with a Dirichlet process as prior [2]_, and
      takes the **components that have at least** `min_cluster_size` **rows**. It finds
      rarer classes, but divides an embedding without clusters, too;
    - ``"hdbscan"`` takes the **leaves of HDBSCAN's tree** [3]_, the clusters of at
      least `min_cluster_size` rows that fall into no smaller ones. Rows that lie in no
      dense place are noise: often half of them, but what is in a cluster is purer.

    Read more in the :ref:`User Guide <clusters>`, which says how they did where the
    classes were known.

    Parameters
    ----------
    embedding : array-like of shape (n, n_features)
        Embeddings, such as of :meth:`sksubtomo.ContrastivePretrainer.transform`.
    method : {"mixture", "bayesian", "hdbscan"}, default="mixture"
        How clusters are found.
    n_clusters : int or sequence of int, default=None
        For "mixture" the number of components, or candidates to choose from; for
        "bayesian" the most. None means 1 to 20, and of few rows no more than one for
        each 18 (with the default `n_components`). HDBSCAN takes none.
    min_cluster_size : int, default=None
        The rows of the smallest cluster, among at most `max_samples`. None means a
        hundredth, at least 5. "mixture" takes none.
    n_components : int, default=8
        Number of principal components; fewer if there are fewer features or rows.
    max_samples : int, default=3000
        From more rows than these, as many are drawn, without replacement, for all that
        is fitted. A mixture gives the other rows their clusters by their probability;
        with HDBSCAN they are taken for what the nearest of the drawn rows is. More
        samples find rarer classes, and divide the others: no class is exactly Gaussian,
        and the more rows there are, the more components pay.
    random_state : int, RandomState instance or None, default=None
        Determines draws and starts of the mixtures. None is fresh entropy; NumPy's
        global generator is not touched.

    Returns
    -------
    Clusters
        Cluster and probability of each row, and the scores of all candidates.

    Raises
    ------
    ValueError
        If a parameter is not acceptable, the embedding is not finite or its rows are
        all equal.

    Warns
    -----
    ConvergenceWarning
        If the mixture that was chosen has not converged.
    UserWarning
        If the number of clusters is the largest that was tried.

    See Also
    --------
    write_cluster_report : Shows the clusters on a page.
    sksubtomo.active_learning.next_to_label : Chooses rows to label.

    Notes
    -----
    Clusters are what the embedding has pulled apart, which need not be complexes: the
    defocus or the thickness of a tomogram may be among them. Look at the averages and
    members before giving them names.

    References
    ----------
    .. [1] G. Schwarz, "Estimating the dimension of a model", Annals of Statistics 6,
       461-464, 1978.
    .. [2] D. M. Blei, M. I. Jordan, "Variational inference for Dirichlet process
       mixtures", Bayesian Analysis 1, 121-144, 2006.
    .. [3] R. J. G. B. Campello, D. Moulavi, J. Sander, "Density-based clustering based
       on hierarchical density estimates", PAKDD 2013.

    Examples
    --------
    >>> from sklearn.datasets import make_blobs
    >>> from sksubtomo.clustering import propose_clusters
    >>> embedding, _ = make_blobs([60, 40, 20], 32, random_state=0)
    >>> clusters = propose_clusters(embedding, random_state=0)
    >>> print(clusters.summary())
    3 clusters of 120 rows (mixture), number by least BIC of 1 to 6 components
    cluster    size  share probability
          0      60  50.0%        1.00
          1      40  33.3%        1.00
          2      20  16.7%        1.00
    """
    features = _check_embedding(embedding)
    if method not in _METHODS:
        raise ValueError(f"method={method!r}; expected one of {list(_METHODS)}.")
    _check_count("n_components", n_components, 1)
    _check_count("max_samples", max_samples, 2)
    generator = as_generator(random_state)
    n = len(features)
    drawn = np.arange(n)
    if n > max_samples:
        drawn = np.sort(generator.choice(n, max_samples, replace=False))
    points = _reduce(features, drawn, n_components)
    seed = draw_seed(generator)
    if method == "mixture":
        _refuse(method, "min_cluster_size", min_cluster_size)
        candidates = _check_candidates(n_clusters, len(drawn), points.shape[1])
        found = _fit_mixtures(points, drawn, candidates, seed)
    else:
        smallest = _check_smallest(min_cluster_size, len(drawn))
        if method == "bayesian":
            candidates = _check_candidates(n_clusters, len(drawn), points.shape[1])
            found = _fit_bayesian(points, drawn, candidates[-1], smallest, seed)
        else:
            _refuse(method, "n_clusters", n_clusters)
            found = _fit_hdbscan(points, drawn, smallest)
    labels, probabilities, criterion, scores = found
    labels = _number_by_size(labels)
    return Clusters(
        labels, probabilities, int(labels.max()) + 1, criterion, scores, method
    )


_Found = tuple[NDArray[np.int64], NDArray[np.float64], str, list[ClusterScore]]


def _fit_mixtures(
    points: NDArray[np.float64],
    drawn: NDArray[np.intp],
    candidates: list[int],
    seed: int,
) -> _Found:
    mixtures = [
        _fit(
            GaussianMixture(
                candidate,
                reg_covar=_LEAST_VARIANCE,
                max_iter=_MOST_ITERATIONS,
                n_init=2,
                random_state=seed,
            ),
            points[drawn],
        )
        for candidate in candidates
    ]
    scores = [
        ClusterScore(candidate, float(mixture.bic(points[drawn])))
        for candidate, mixture in zip(candidates, mixtures, strict=True)
    ]
    chosen = int(np.argmin([score.score for score in scores]))
    best = mixtures[chosen]
    _warn_of_convergence(best)
    if len(candidates) > 1 and chosen == len(candidates) - 1:
        _warn_of_most(f"the least BIC is that of the most components, {candidates[-1]}")
    posterior = best.predict_proba(points)
    criterion = "the caller's choice"
    if len(candidates) > 1:
        first, last = candidates[0], candidates[-1]
        is_range = candidates == list(range(first, last + 1))
        tried = f"{first} to {last}" if is_range else ", ".join(map(str, candidates))
        criterion = f"least BIC of {tried} components"
    return posterior.argmax(axis=1), posterior.max(axis=1), criterion, scores


def _fit_bayesian(
    points: NDArray[np.float64],
    drawn: NDArray[np.intp],
    n_components: int,
    smallest: int,
    seed: int,
) -> _Found:
    mixture = _fit(
        BayesianGaussianMixture(
            n_components=n_components,
            reg_covar=_LEAST_VARIANCE,
            max_iter=_MOST_ITERATIONS,
            random_state=seed,
        ),
        points[drawn],
    )
    sizes = np.bincount(mixture.predict(points[drawn]), minlength=n_components)
    # One at least, however many components share a few rows.
    kept = sizes >= min(smallest, sizes.max())
    _warn_of_convergence(mixture)
    if n_components > 1 and kept.all():
        _warn_of_most(
            f"all {n_components} components have the {smallest} rows of a cluster"
        )
    # Their probabilities among all components are zero where a dropped one is far
    # nearer; a mixture of the kept ones compares logarithms of their densities.
    among_kept = GaussianMixture(int(kept.sum()))
    among_kept.weights_ = mixture.weights_[kept] / mixture.weights_[kept].sum()
    among_kept.means_ = mixture.means_[kept]
    among_kept.covariances_ = mixture.covariances_[kept]
    among_kept.precisions_cholesky_ = mixture.precisions_cholesky_[kept]
    posterior = among_kept.predict_proba(points)
    criterion = f"components of at least {smallest} rows, of {n_components}"
    score = ClusterScore(int(kept.sum()), float(mixture.lower_bound_))
    return posterior.argmax(axis=1), posterior.max(axis=1), criterion, [score]


def _fit(mixture: Any, points: NDArray[np.float64]) -> Any:
    with warnings.catch_warnings():
        # With too many components some converge slowly; it matters for the chosen one.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return mixture.fit(points)


def _warn_of_convergence(mixture: Any) -> None:
    if not mixture.converged_:
        warnings.warn(
            f"the mixture of {mixture.n_components} components that was chosen did not "
            f"converge in {_MOST_ITERATIONS} iterations; fewer n_clusters or "
            "n_components may.",
            ConvergenceWarning,
            stacklevel=4,
        )


def _warn_of_most(found: str) -> None:
    warnings.warn(
        f"n_clusters: {found}: there may be more clusters, or none that are apart. "
        "Look at the report, or try larger n_clusters.",
        UserWarning,
        stacklevel=4,
    )


def _fit_hdbscan(
    points: NDArray[np.float64], drawn: NDArray[np.intp], min_cluster_size: int
) -> _Found:
    fitted = HDBSCAN(
        min_cluster_size=min_cluster_size, cluster_selection_method="leaf", copy=True
    ).fit(points[drawn])
    labels, probabilities = fitted.labels_, fitted.probabilities_
    n_clusters = int(labels.max()) + 1
    score = ClusterScore(n_clusters, float(np.mean(labels >= 0)))
    if len(drawn) < len(points):
        nearest = NearestNeighbors(n_neighbors=1).fit(points[drawn])
        of_row = nearest.kneighbors(points, return_distance=False)[:, 0]
        labels, probabilities = labels[of_row], probabilities[of_row]
    criterion = f"HDBSCAN's leaves of at least {min_cluster_size} rows"
    return labels.astype(np.int64), probabilities, criterion, [score]


def _reduce(
    features: NDArray[np.float64], drawn: NDArray[np.intp], n_components: int
) -> NDArray[np.float64]:
    """Project on principal components of the drawn rows, with mean variance 1."""
    fitted = features[drawn]
    if not np.ptp(fitted, axis=0).any():
        raise ValueError("embedding: all rows are equal; expected rows that differ.")
    projected = exact_pca(int(n_components), fitted).fit(fitted).transform(features)
    return np.asarray(projected / projected[drawn].std(), dtype=np.float64)


def _number_by_size(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return labels that count from the largest cluster on; -1 stays."""
    found, sizes = np.unique(labels[labels >= 0], return_counts=True)
    # The last place is that of -1.
    numbers = np.full(labels.max() + 2, -1, dtype=np.int64)
    numbers[found[np.argsort(-sizes, kind="stable")]] = np.arange(len(found))
    return numbers[labels]


def _check_embedding(embedding: ArrayLike) -> NDArray[np.float64]:
    features = np.asarray(embedding, dtype=np.float64)
    if features.ndim != 2 or len(features) < 2 or not features.shape[1]:
        raise ValueError(
            f"embedding: has shape {features.shape}; expected (n, n_features) with at "
            "least two rows and one feature."
        )
    if not np.isfinite(features).all():
        raise ValueError("embedding: holds NaN or infinity; expected finite values.")
    return features


def _check_count(parameter: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise ValueError(f"{parameter}={value!r}; expected an integer from {least} up.")


def _check_candidates(
    n_clusters: int | Sequence[int] | None, n: int, n_components: int
) -> list[int]:
    if n_clusters is None:
        # A component has as many means as there are dimensions, and covariances
        # besides; twice as many rows is the least that says anything about them.
        most = n // (2 * (n_components + 1))
        return list(range(1, min(_MOST_CLUSTERS, max(1, most)) + 1))
    given: list[Any] = np.atleast_1d(np.asarray(n_clusters)).tolist()
    if not given:
        raise ValueError("n_clusters is empty; expected at least one candidate.")
    for candidate in given:
        _check_count("n_clusters", candidate, 1)
        if candidate > n:
            raise ValueError(
                f"n_clusters={candidate}; expected at most the {n} rows that are "
                "clustered."
            )
    return sorted({int(candidate) for candidate in given})


def _check_smallest(min_cluster_size: int | None, n: int) -> int:
    if min_cluster_size is None:
        return min(max(_SMALLEST_CLUSTER, round(_SMALLEST_SHARE * n)), n)
    _check_count("min_cluster_size", min_cluster_size, 2)
    if min_cluster_size > n:
        raise ValueError(
            f"min_cluster_size={min_cluster_size}; expected at most the {n} rows that "
            "are clustered."
        )
    return int(min_cluster_size)


def _refuse(method: str, parameter: str, value: Any) -> None:
    if value is not None:
        raise ValueError(
            f"{parameter}={value!r}, but method={method!r} takes none; expected None."
        )


def write_cluster_report(
    path: str | Path,
    clusters: Clusters,
    embedding: ArrayLike,
    volumes: Any,
    *,
    names: ArrayLike | None = None,
    labels: ArrayLike | None = None,
    unlabeled: Any = None,
    voxel_size: float | None = None,
    overwrite: bool = False,
) -> None:
    """Write clusters as one HTML page, with the average and members of each.

    The page holds all that it shows, and opens without a network. It has the scores of
    the candidates; the map of the embedding on its two principal components, coloured
    by cluster; for each cluster its size, three central slices of the average of its
    volumes as they lie, unaligned, and the five members that are nearest to its centre,
    the mean of its rows of `embedding`. No display is needed.

    Parameters
    ----------
    path : str or Path
        The file to make. Its folder has to exist.
    clusters : Clusters
        What `propose_clusters` returned.
    embedding : array-like of shape (n, n_features)
        The embedding that was clustered.
    volumes : array-like of shape (n, depth, height, width)
        The volumes, in the same order. Those on disk are read some megabytes at a time
        for the averages, and the members that are shown a second time.
    names : array-like of shape (n,), default=None
        Names of the volumes. None means the number of the row.
    labels : array-like of shape (n,), default=None
        Classes, where they are known: the page then has the adjusted Rand index of
        clusters and classes [1]_, 0 for chance and 1 for equal partitions, and what
        each cluster is made of.
    unlabeled : int, float or str, default=None
        The label that marks rows without a class. Labels that are None or NaN never
        are classes, either.
    voxel_size : float, default=None
        Voxel size in angstroms. None means that it is unknown, and lengths are in
        voxels.
    overwrite : bool, default=False
        Whether a file that is there already may be replaced.

    Raises
    ------
    FileExistsError
        If there is such a file already and `overwrite` is False.
    ImportError
        If matplotlib is not installed.
    ValueError
        If lengths do not fit, or a value is not finite.

    See Also
    --------
    sksubtomo.inspection.write_embedding_page : The map of all particles, to select
        from.

    References
    ----------
    .. [1] L. Hubert, P. Arabie, "Comparing partitions", Journal of Classification 2,
       193-218, 1985.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from sklearn.datasets import make_blobs
    >>> from sksubtomo.clustering import propose_clusters, write_cluster_report
    >>> from sksubtomo.datasets import make_subtomograms
    >>> X, y = make_subtomograms(n_per_class=6, size=8, random_state=0,
    ...                          return_X_y=True)
    >>> embedding, _ = make_blobs([35, 25], 32, random_state=0)
    >>> clusters = propose_clusters(embedding, random_state=0)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     page = Path(folder, "clusters.html")
    ...     write_cluster_report(page, clusters, embedding, X, labels=y)
    ...     "Cluster 1" in page.read_text("utf-8")
    True
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise already_there(path)
    import_pyplot()
    features = _check_embedding(embedding)
    n = len(clusters.labels_)
    if len(features) != n:
        raise ValueError(
            f"embedding: has {len(features)} rows; expected {n}, one for each row of "
            "clusters."
        )
    volumes = check_volumes(volumes)
    if len(volumes) != n:
        raise ValueError(
            f"volumes: has {len(volumes)}; expected {n}, one for each row of clusters."
        )
    check_voxel_size(voxel_size)
    texts = np.arange(n).astype(str)
    if names is not None:
        texts = np.asarray(names).astype(str)
        if texts.shape != (n,):
            raise ValueError(
                f"names: has shape {texts.shape}; expected ({n},), one for each row."
            )
    classes, known = None, np.zeros(n, bool)
    if labels is not None:
        classes = check_labels(labels, n, "row of clusters")
        known = is_labeled(classes, unlabeled)
    averages: Any = ()
    if clusters.n_clusters_:
        _, averages = class_averages(volumes, clusters.labels_, unlabeled=-1)

    parts = [
        "<h1>Proposed clusters</h1>",
        f"<p>{escape(clusters.summary().splitlines()[0])}.</p>",
        *_overview(clusters, features),
        *_agreement(clusters, classes, known),
        _table(clusters, classes, known),
        "<p>Averages are means of the volumes as they lie: nothing was aligned, and "
        "the missing wedge is not compensated. The members nearest to the centre of "
        "each cluster are shown by their central z slices.</p>",
    ]
    for cluster, rows in clusters._rows():
        if cluster < 0:
            continue
        distances = np.linalg.norm(features[rows] - features[rows].mean(axis=0), axis=1)
        nearest = rows[np.argsort(distances, kind="stable")[:_N_MEMBERS]]
        parts.append(f"<h2>Cluster {cluster}: {len(rows)} volumes</h2>")
        figure = _new_figure()
        SlicesDisplay.from_volumes(
            averages[cluster], voxel_size=voxel_size, ax=figure, title="Average"
        )
        caption = f"Central slices of the average of cluster {cluster}"
        parts.append(_as_html(figure, caption))
        figure = _new_figure()
        MontageDisplay.from_volumes(
            np.stack([read_part(volumes, int(row)) for row in nearest]),
            voxel_size=voxel_size,
            ax=figure,
            title="Members nearest to the centre",
        )
        caption = (
            f"Central z slices of the members of cluster {cluster} nearest to its "
            f"centre: {', '.join(texts[nearest])}"
        )
        parts.append(_as_html(figure, caption))
    write_text(path, html_page("Proposed clusters", "\n".join(parts)))


def _overview(clusters: Clusters, features: NDArray[np.float64]) -> Iterator[str]:
    """Yield the criterion's curve and the map, where there are any."""
    if len(clusters.scores_) > 1:
        yield _as_html(
            _draw_scores(clusters),
            f"The criterion: {clusters.criterion}. BIC of each number of clusters, "
            "less the least; the chosen number is marked.",
        )
    if features.shape[1] > 1:
        figure = _new_figure((1.5 * COLUMN_WIDTH, 1.1 * COLUMN_WIDTH))
        EmbeddingDisplay.from_embedding(
            features,
            labels=clusters.labels_,
            unlabeled=-1,
            ax=figure.add_subplot(),
            name="Cluster",
        )
        noise = "; noise is grey" if (clusters.labels_ < 0).any() else ""
        yield _as_html(figure, f"The embedding, coloured by cluster{noise}.")


def _draw_scores(clusters: Clusters) -> Any:
    numbers = np.array([score.n_clusters for score in clusters.scores_])
    scores = np.array([score.score for score in clusters.scores_])
    chosen = int(scores.argmin())
    figure = _new_figure((COLUMN_WIDTH, 0.65 * COLUMN_WIDTH))
    ax = figure.add_subplot()
    ax.plot(numbers, scores - scores.min(), color=OKABE_ITO[0], marker="o", ms=3)
    ax.plot(
        numbers[chosen],
        0.0,
        color=OKABE_ITO[2],
        marker="D",
        ls="none",
        label=f"chosen: {numbers[chosen]}",
    )
    ax.set_xlabel("Number of clusters")
    ax.set_ylabel("BIC less the least")
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.legend(frameon=False)
    return figure


def _new_figure(figsize: tuple[float, float] | None = None) -> Any:
    """Return a figure that pyplot does not know of."""
    from matplotlib.figure import Figure

    return Figure(figsize=figsize, layout="constrained")


def _as_html(figure: Any, caption: str) -> str:
    width = round(figure.get_size_inches()[0] * 96)
    return (
        f'<figure><img src="{figure_data_uri(figure, dpi=_DPI)}" width="{width}" '
        f'alt="{escape(caption)}"><figcaption>{escape(caption)}</figcaption></figure>'
    )


def _agreement(
    clusters: Clusters, classes: NDArray[Any] | None, known: NDArray[np.bool_]
) -> Iterator[str]:
    """Yield the adjusted Rand index of clusters and known classes."""
    if classes is None or not known.any():
        return
    inside = known & (clusters.labels_ >= 0)
    if not inside.any():
        return
    codes = np.unique(classes[inside].astype(str), return_inverse=True)[1]
    index = adjusted_rand_score(codes, clusters.labels_[inside])
    text = (
        f"Adjusted Rand index of clusters and classes: {index:.2f}, over the "
        f"{inside.sum()} rows that have a class and are in a cluster."
    )
    if (known & ~inside).any():
        text += f" {(known & ~inside).sum()} further rows with a class are noise."
    yield f"<p>{escape(text)}</p>"


def _table(
    clusters: Clusters, classes: NDArray[Any] | None, known: NDArray[np.bool_]
) -> str:
    """Return the table of the clusters, with their composition where it is known."""
    heads = ["Cluster", "Volumes", "Share", "Mean probability"]
    lines = []
    for cluster, rows in clusters._rows():
        cells = [
            "noise" if cluster < 0 else str(cluster),
            str(len(rows)),
            f"{len(rows) / len(clusters.labels_):.1%}",
            f"{clusters.probabilities_[rows].mean():.2f}",
        ]
        line = "".join(f'<td class="number">{cell}</td>' for cell in cells)
        if classes is not None:
            line += f"<td>{escape(_composition(classes[rows[known[rows]]]))}</td>"
        lines.append(f"<tr>{line}</tr>")
    head = "".join(f'<th class="number">{name}</th>' for name in heads)
    if classes is not None:
        head += "<th>Known classes</th>"
    return f"<table>\n<tr>{head}</tr>\n" + "\n".join(lines) + "\n</table>"


def _composition(classes: NDArray[Any]) -> str:
    """Name the most frequent classes with their numbers."""
    found, counts = np.unique(classes.astype(str), return_counts=True)
    order = np.argsort(-counts, kind="stable")
    parts = [f"{found[place]} {counts[place]}" for place in order[:_N_NAMED]]
    if len(order) > _N_NAMED:
        parts.append(f"others {counts[order[_N_NAMED:]].sum()}")
    return ", ".join(parts)
