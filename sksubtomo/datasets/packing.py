"""Where the neighbours of a complex sit."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.transform import Rotation

_N_CANDIDATES = 64


def random_rotations(n: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Draw rotation matrices uniformly from SO(3).

    Parameters
    ----------
    n : int
        Number of rotations.
    rng : numpy.random.Generator
        Source of randomness.

    Returns
    -------
    ndarray of shape (n, 3, 3)
        Proper rotations, from normalised Gaussian quaternions. The uniform (Haar)
        distribution is the same for matrices that act on z, y, x and on x, y, z.

    Examples
    --------
    >>> import numpy as np
    >>> from sksubtomo.datasets import random_rotations
    >>> matrices = random_rotations(5, np.random.default_rng(0))
    >>> np.allclose(matrices @ matrices.transpose(0, 2, 1), np.eye(3))
    True
    """
    quaternions = rng.standard_normal((n, 4))
    matrices: NDArray[np.float64] = Rotation.from_quat(quaternions).as_matrix()
    return matrices


def place_neighbors(
    radius: float,
    neighbor_radii: Sequence[float] | NDArray[np.float64],
    rng: np.random.Generator,
    *,
    max_gap: float = 20.0,
) -> NDArray[np.float64]:
    """Place bounding spheres around a target at random, close and without overlap.

    One after the other, each neighbour is put in a random direction at a distance that
    leaves a gap between its sphere and the target's, uniform between 0 and `max_gap`.
    A place that overlaps with an earlier neighbour is drawn again; when no room is
    found, the gap is let grow, so that any number of neighbours can be placed.

    Parameters
    ----------
    radius : float
        Bounding radius of the target in angstroms.
    neighbor_radii : array-like of shape (n,)
        Bounding radii of the neighbours in angstroms.
    rng : numpy.random.Generator
        Source of randomness.
    max_gap : float, default=20.0
        Largest gap to the target's sphere in angstroms, as long as there is room.

    Returns
    -------
    ndarray of shape (n, 3)
        Centres of the neighbours relative to the target's, z, y, x, in angstroms.

    Raises
    ------
    ValueError
        If a radius is not positive or `max_gap` is negative.

    Examples
    --------
    >>> import numpy as np
    >>> from sksubtomo.datasets import place_neighbors
    >>> centres = place_neighbors(70.0, [60.0, 80.0], np.random.default_rng(0))
    >>> distances = np.linalg.norm(centres, axis=1)
    >>> gaps = distances - [130.0, 150.0]
    >>> bool(np.all((gaps >= 0) & (gaps <= 20)))
    True
    """
    radii = np.asarray(neighbor_radii, dtype=np.float64)
    if not radius > 0 or not (radii > 0).all():
        raise ValueError(
            f"radius={radius!r}, neighbor_radii={neighbor_radii!r}; expected positive "
            "lengths in angstroms."
        )
    if not max_gap >= 0:
        raise ValueError(
            f"max_gap={max_gap!r}; expected angstroms that are not negative."
        )
    centres = np.empty((len(radii), 3))
    for index, own in enumerate(radii):
        gap = max_gap
        while True:
            directions = rng.standard_normal((_N_CANDIDATES, 3))
            directions /= np.linalg.norm(directions, axis=1, keepdims=True)
            distances = radius + own + gap * rng.random((_N_CANDIDATES, 1))
            candidates = directions * distances
            between = candidates[:, None] - centres[:index]
            needed = (own + radii[:index]) ** 2
            free = (np.sum(between**2, axis=2) >= needed).all(axis=1)
            if free.any():
                centres[index] = candidates[free.argmax()]
                break
            gap += own
    return centres


def transform_points(
    coordinates: NDArray[np.float64], rotation: ArrayLike, shift: ArrayLike
) -> NDArray[np.float64]:
    """Rotate points about the origin, then shift them.

    Parameters
    ----------
    coordinates : ndarray of shape (n, 3)
        Points z, y, x in angstroms.
    rotation : array-like of shape (3, 3)
        Matrix that acts on a column z, y, x.
    shift : array-like of shape (3,)
        Shift z, y, x in angstroms.

    Returns
    -------
    ndarray of shape (n, 3)
        ``coordinates @ rotation.T + shift``.

    Examples
    --------
    A quarter turn that takes the y axis to the x axis:

    >>> import numpy as np
    >>> from sksubtomo.datasets import transform_points
    >>> y_to_x = [[1, 0, 0], [0, 0, -1], [0, 1, 0]]
    >>> transform_points(np.array([[5.0, 2.0, 0.0]]), y_to_x, [0, 0, 10])
    array([[ 5.,  0., 12.]])
    """
    moved: NDArray[np.float64] = coordinates @ np.asarray(
        rotation, dtype=np.float64
    ).T + np.asarray(shift, dtype=np.float64)
    return moved
