"""Picks against the truth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import maximum_bipartite_matching
from scipy.spatial import cKDTree

from sksubtomo.picking.detection import Picks


@dataclass(frozen=True)
class PickMatch:  # numpydoc ignore=PR02
    """How picks and true positions go together, one to one.

    Parameters
    ----------
    matched_truth : ndarray of shape (n_picks,)
        For each pick the row of its true position, -1 for a false pick.
    n_truth : int
        Number of true positions.
    """

    matched_truth: NDArray[np.intp]
    n_truth: int

    @property
    def found(self) -> NDArray[np.bool_]:  # numpydoc ignore=RT01,SS05
        """Which of the true positions were found, shape (n_truth,)."""
        found = np.zeros(self.n_truth, dtype=bool)
        found[self.matched_truth[self.matched_truth >= 0]] = True
        return found

    @property
    def n_matched(self) -> int:  # numpydoc ignore=RT01,SS05
        """Number of pairs, the true positives."""
        return int(np.count_nonzero(self.matched_truth >= 0))

    @property
    def precision(self) -> float:  # numpydoc ignore=RT01,SS05
        """Part of the picks that are true; NaN if there is no pick."""
        n = len(self.matched_truth)
        return self.n_matched / n if n else float("nan")

    @property
    def recall(self) -> float:  # numpydoc ignore=RT01,SS05
        """Part of the true positions that were found; NaN if there is none."""
        return self.n_matched / self.n_truth if self.n_truth else float("nan")

    @property
    def f1(self) -> float:  # numpydoc ignore=RT01,SS05
        """Harmonic mean of precision and recall; NaN if there is nothing at all."""
        n = len(self.matched_truth) + self.n_truth
        return 2 * self.n_matched / n if n else float("nan")


def match_picks(
    picks: Picks | NDArray[Any], truth: NDArray[Any], tolerance: float
) -> PickMatch:
    """Match picks with true positions.

    Parameters
    ----------
    picks : Picks or ndarray of shape (n_picks, 3)
        The picks, or their positions.
    truth : ndarray of shape (n_truth, 3)
        True positions, in the same order of axes and the same unit: voxels of the
        tomogram, z, y, x, for `Picks`.
    tolerance : float
        Largest distance of a pair, in that unit; half a particle's diameter is usual.

    Returns
    -------
    PickMatch
        Precision, recall, F1 score and the pairs.

    Raises
    ------
    ValueError
        If shapes do not fit or the tolerance is not positive.

    Notes
    -----
    Each pick goes with one true position at most, and the other way round, in such a
    way that there are as many pairs as possible. Where more than one matching has as
    many pairs, which of them is returned is not specified; the numbers are the same.

    Examples
    --------
    >>> import numpy as np
    >>> from sksubtomo.picking import match_picks
    >>> truth = np.array([[0.0, 0.0, 0.0], [9.0, 9.0, 9.0]])
    >>> match = match_picks(np.array([[0.0, 0.0, 1.0]]), truth, tolerance=2.0)
    >>> match.precision, match.recall
    (1.0, 0.5)
    >>> match.matched_truth
    array([0])
    """
    coordinates = picks.coordinates if isinstance(picks, Picks) else np.asarray(picks)
    truth = np.asarray(truth)
    for name, positions in (("picks", coordinates), ("truth", truth)):
        if positions.ndim != 2 or positions.shape[1] != 3:
            raise ValueError(f"{name} have shape {positions.shape}; expected (n, 3).")
    if not tolerance > 0:
        raise ValueError(f"tolerance={tolerance!r}; expected a positive distance.")
    matched = np.full(len(coordinates), -1, dtype=np.intp)
    if len(coordinates) and len(truth):
        near = cKDTree(coordinates).query_ball_tree(cKDTree(truth), tolerance)
        columns = np.concatenate([np.array(row, dtype=np.intp) for row in near])
        ends = np.cumsum([0, *map(len, near)])
        graph = csr_matrix(
            (np.ones(len(columns)), columns, ends),
            shape=(len(coordinates), len(truth)),
        )
        matched[:] = maximum_bipartite_matching(graph, perm_type="column")
    return PickMatch(matched, len(truth))
