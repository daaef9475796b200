"""Where complexes sit and how they are turned."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

# Directions that a neighbour can come from.
_N_DIRECTIONS = 64

# Relative room for rounding errors of distances.
_MARGIN = 1e-12

# Spheres in a box are pushed apart as if they were larger by this part, which lets the
# push end, and by more than they overlap, which makes it faster.
_SLACK = 1e-3
_OVERRELAXATION = 1.3
_MAX_STEPS = 5000

# If, after so many steps, two spheres are still closer than this part of the distance
# that they need, they will not come apart any more.
_PATIENCE = 300
_HOPELESS = 0.8

# Part of space that equal spheres fill in the densest packing there is.
_DENSEST = 0.74


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
    if n == 0:
        # Older versions of SciPy take no empty array.
        return np.empty((0, 3, 3))
    matrices: NDArray[np.float64] = Rotation.from_quat(quaternions).as_matrix()
    return matrices


def place_neighbors(
    radius: float,
    neighbor_radii: Sequence[float] | NDArray[np.float64],
    rng: np.random.Generator,
    *,
    crowding: float = 0.5,
) -> NDArray[np.float64]:
    """Pack bounding spheres around a target without overlap.

    One after the other, the neighbours come in from random directions, straight towards
    the target, until they touch it or an earlier neighbour. Then all distances from the
    target are stretched, so that the spheres are as dense as asked for.

    Parameters
    ----------
    radius : float
        Bounding radius of the target in angstroms.
    neighbor_radii : array-like of shape (n,)
        Bounding radii of the neighbours in angstroms.
    rng : numpy.random.Generator
        Source of randomness.
    crowding : float, default=0.5
        Density of the spheres relative to the state where they touch, in (0, 1]:
        distances from the target are ``crowding ** (-1 / 3)`` times those at contact.
        1 means touching; at 0.5 the distances are 1.26 times as large.

    Returns
    -------
    ndarray of shape (n, 3)
        Centres of the neighbours relative to the target's, z, y, x, in angstroms. No
        two spheres overlap, the target's included.

    Raises
    ------
    ValueError
        If a radius is not a positive finite number, or if `crowding` is out of range.

    Notes
    -----
    Of 64 random directions a neighbour takes the first that lets it touch the target,
    and if none does, the one that lets it come closest. The distance of first contact
    has a closed form, so that there is nothing to converge: the packing is exact for
    any number of neighbours and any radii. Each neighbour by itself comes from a
    uniformly random direction.

    Examples
    --------
    >>> import numpy as np
    >>> from sksubtomo.datasets import place_neighbors
    >>> rng = np.random.default_rng(0)
    >>> centres = place_neighbors(70.0, [60.0, 80.0], rng, crowding=1.0)
    >>> np.linalg.norm(centres, axis=1).round(6)
    array([130., 150.])
    """
    radii = np.asarray(neighbor_radii, dtype=np.float64)
    if not _positive(np.append(radii, radius)):
        raise ValueError(
            f"radius={radius!r}, neighbor_radii={neighbor_radii!r}; expected positive "
            "lengths in angstroms."
        )
    if not 0 < crowding <= 1:
        raise ValueError(
            f"crowding={crowding!r}; expected a density relative to touching spheres, "
            "in (0, 1]."
        )
    centres = np.empty((len(radii), 3))
    for index, own in enumerate(radii):
        directions = rng.standard_normal((_N_DIRECTIONS, 3))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        contact = np.full(_N_DIRECTIONS, radius + own)
        if index:
            # Where the ray of a direction last leaves the sphere around each earlier
            # neighbour that this one's centre has to keep out of.
            placed = centres[:index]
            along = directions @ placed.T
            squared = (own + radii[:index]) ** 2 - np.sum(placed**2, axis=1)
            discriminant = along**2 + squared
            leaves = along + np.sqrt(np.maximum(discriminant, 0.0))
            leaves[discriminant <= 0] = 0.0
            contact = np.maximum(contact, leaves.max(axis=1))
        best = contact.argmin()
        centres[index] = directions[best] * contact[best]
    # The margin makes up for rounding.
    return centres * (crowding ** (-1 / 3) * (1 + _MARGIN))


def pack_spheres(
    radii: Sequence[float] | NDArray[np.float64],
    sides: Sequence[float] | NDArray[np.float64],
    rng: np.random.Generator,
    *,
    inside: bool = True,
) -> NDArray[np.float64]:
    """Pack spheres into a box at random without overlap.

    Parameters
    ----------
    radii : array-like of shape (n,)
        Radii in angstroms.
    sides : array-like of shape (3,)
        Sides z, y, x of the box in angstroms.
    rng : numpy.random.Generator
        Source of randomness.
    inside : bool, default=True
        Whether the spheres lie wholly inside the box; otherwise only their centres do.

    Returns
    -------
    ndarray of shape (n, 3)
        Centres z, y, x in angstroms, relative to the corner of the box; no two spheres
        overlap.

    Raises
    ------
    ValueError
        If a radius or a side is not a positive finite number, if a sphere is larger
        than the box, or if the spheres do not fit together; the message says how many
        of them do.

    Notes
    -----
    From uniformly random centres, overlapping spheres push each other apart by equal
    shares until no overlap is left. Equal spheres jam at a packing fraction of 0.64
    (random close packing [1]_), less next to walls; up to 0.45 this takes fractions of
    a second for thousands of spheres.

    References
    ----------
    .. [1] Scott, G. D. and Kilgour, D. M. (1969). The density of random close packing
       of spheres. Journal of Physics D 2, 863-866.

    Examples
    --------
    >>> import numpy as np
    >>> from scipy.spatial.distance import pdist
    >>> from sksubtomo.datasets import pack_spheres
    >>> radii = np.full(40, 50.0)
    >>> centres = pack_spheres(radii, (300, 800, 800), np.random.default_rng(0))
    >>> bool(pdist(centres).min() >= 100)
    True
    """
    radii = np.asarray(radii, dtype=np.float64)
    box = np.asarray(sides, dtype=np.float64)
    if radii.ndim != 1 or not _positive(radii):
        raise ValueError(f"radii={radii!r}; expected positive lengths in angstroms.")
    if box.shape != (3,) or not _positive(box):
        raise ValueError(
            f"sides={sides!r}; expected three positive lengths z, y, x in angstroms."
        )
    margin = radii[:, None] if inside else np.zeros((len(radii), 1))
    low, high = np.broadcast_to(margin, (len(radii), 3)), box - margin
    if (low > high).any():
        raise ValueError(
            f"sides={tuple(box.tolist())} (z, y, x): a sphere of radius "
            f"{radii.max():.4g} A does not fit; expected sides of at least "
            f"{2 * radii.max():.4g} A, or inside=False."
        )
    room = float(np.prod(box if inside else box + 2 * radii.max(initial=0)))

    centres = _pack_first(len(radii), radii, low, high, room, rng, _MAX_STEPS)
    if centres is not None:
        return centres
    fits, too_many = 0, len(radii)
    while too_many - fits > max(1, 0.05 * fits):
        middle = (fits + too_many) // 2
        steps = _MAX_STEPS // 5
        if _pack_first(middle, radii, low, high, room, rng, steps) is None:
            too_many = middle
        else:
            fits = middle
    filled = np.append(0.0, np.cumsum(_volume(radii))) / box.prod()
    raise ValueError(
        f"{len(radii)} spheres of {filled[-1]:.2g} times the volume of the box, sides="
        f"{tuple(box.tolist())} (z, y, x), cannot be packed without overlap; the first "
        f"{fits} of them fit, which fill {filled[fits]:.2g}. Expected fewer or smaller "
        "spheres, or a larger box."
    )


def _pack_first(
    n: int,
    radii: NDArray[np.float64],
    low: NDArray[np.float64],
    high: NDArray[np.float64],
    room: float,
    rng: np.random.Generator,
    max_steps: int,
) -> NDArray[np.float64] | None:
    """Pack the first n spheres into a volume `room`, or give up."""
    radii, low, high = radii[:n], low[:n], high[:n]
    if _volume(radii).sum() > _DENSEST * room:
        return None
    centres = low + (high - low) * rng.random((n, 3))
    return _push_apart(centres, radii, low, high, max_steps) if n else centres


def _push_apart(
    centres: NDArray[np.float64],
    radii: NDArray[np.float64],
    low: NDArray[np.float64],
    high: NDArray[np.float64],
    max_steps: int,
) -> NDArray[np.float64] | None:
    """Move spheres within bounds until no two overlap; None if that does not end."""
    # Slightly larger spheres than asked for: their small overlaps may stay.
    padded = radii * (1 + _SLACK)
    for step in range(max_steps):
        first, second, between, distance = _close_pairs(centres, padded)
        needed = radii[first] + radii[second]
        if (distance >= needed).all():
            return centres
        if step == _PATIENCE and (distance < _HOPELESS * needed).any():
            return None
        overlap = padded[first] + padded[second] - distance
        push = between * (_OVERRELAXATION * overlap / (2 * distance))[:, None]
        for axis in range(3):
            along = push[:, axis]
            centres[:, axis] += np.bincount(second, along, len(radii))
            centres[:, axis] -= np.bincount(first, along, len(radii))
        np.clip(centres, low, high, out=centres)
    return None


def _close_pairs(
    centres: NDArray[np.float64], radii: NDArray[np.float64]
) -> tuple[
    NDArray[np.intp], NDArray[np.intp], NDArray[np.float64], NDArray[np.float64]
]:
    """Return the pairs that overlap, the way from first to second, and its length."""
    pairs = cKDTree(centres).query_pairs(2 * radii.max(), output_type="ndarray")
    first, second = pairs.T
    between = centres[second] - centres[first]
    # Two spheres in one corner of the box have to be told apart.
    between[(between == 0).all(axis=1)] = 1e-9 * radii.min()
    distance = np.linalg.norm(between, axis=1)
    close = distance < radii[first] + radii[second]
    return first[close], second[close], between[close], distance[close]


def _volume(radii: NDArray[np.float64]) -> NDArray[np.float64]:
    return 4 / 3 * np.pi * radii**3


def _positive(lengths: NDArray[np.float64]) -> bool:
    return bool(np.isfinite(lengths).all() and (lengths > 0).all())


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
