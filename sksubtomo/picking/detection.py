"""Where particles may be: difference of Gaussians and its maxima."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from numbers import Integral, Real
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, maximum_filter
from scipy.spatial import cKDTree

from sksubtomo.io.particles import write_particles

CONTRASTS = ("dark", "light")

# Ratio of the two Gaussians, the value of Voss et al. (2009).
_SIGMA_RATIO = 1.1
# Kernels are cut here, in standard deviations.
_TRUNCATE = 4.0
# Particles are searched at no more voxels a diameter than twice this.
_DIAMETER_VOXELS = 12
# The contrast is wrong if the response is skewed to the other side by more than this,
# and by more than so many times sqrt(6 / n) of n maxima. Noise alone has a standard
# deviation of 0.25 to 0.45 of these.
_SKEWNESS = 0.1
_SKEWNESS_NOISE = 1.5
# Side of the blocks in voxels, at which the filter works: 8 MiB without the margin.
_BLOCK = 128


@dataclass(frozen=True)
class Picks:  # numpydoc ignore=PR02
    """Positions of candidate particles in one tomogram, the best first.

    Parameters
    ----------
    coordinates : ndarray of shape (n, 3)
        Positions z, y, x in voxels of the tomogram; the centre of the first voxel is
        at zero.
    scores : ndarray of shape (n,)
        The higher, the better.
    voxel_size : float
        Voxel size of the tomogram in angstroms.
    diameter : float
        Diameter of the particles in angstroms.
    """

    coordinates: NDArray[np.float64]
    scores: NDArray[np.float64]
    voxel_size: float
    diameter: float

    def __len__(self) -> int:
        return len(self.coordinates)

    def first(self, n: int) -> Picks:
        """Return the best picks.

        Parameters
        ----------
        n : int
            How many, at most.

        Returns
        -------
        Picks
            The first n of them.
        """
        return Picks(
            self.coordinates[:n], self.scores[:n], self.voxel_size, self.diameter
        )

    def sorted_by(self, scores: NDArray[np.floating[Any]]) -> Picks:
        """Return the same picks with other scores, the best first.

        Parameters
        ----------
        scores : ndarray of shape (n,)
            A score for each pick, such as that of `rank_by_correlation`.

        Returns
        -------
        Picks
            The picks in the order of falling scores.

        Raises
        ------
        ValueError
            If there is not one score for each pick.

        Examples
        --------
        >>> import numpy as np
        >>> from sksubtomo.picking import Picks
        >>> picks = Picks(np.eye(3), np.array([3.0, 2.0, 1.0]), 10.0, 120.0)
        >>> picks.sorted_by(np.array([0.1, 0.4, 0.2])).scores
        array([0.4, 0.2, 0.1])
        """
        values: NDArray[np.float64] = np.asarray(scores, dtype=np.float64)
        if values.shape != (len(self),):
            raise ValueError(
                f"scores have shape {values.shape}; expected ({len(self)},), one for "
                "each pick."
            )
        order = np.argsort(-values, kind="stable")
        return Picks(
            self.coordinates[order], values[order], self.voxel_size, self.diameter
        )


def write_picks(
    path: str | Path,
    picks: Picks,
    *,
    tomogram_name: str,
    tomogram_shape: tuple[int, ...],
) -> None:
    """Write picks as a STAR file.

    Parameters
    ----------
    path : str or Path
        The file to make or replace, atomically. Its folder has to exist.
    picks : Picks
        The picks.
    tomogram_name : str
        Name of the tomogram.
    tomogram_shape : (int, int, int)
        Depth, height and width of the tomogram in voxels.

    Notes
    -----
    Each row has the position twice: in voxels of the tomogram picked in
    (``rlnCoordinateX``, from 0, as RELION 3.1 and 4 and Warp read it; the size of such
    a voxel is in the optics table, ``rlnMicrographPixelSize``), and in angstroms from
    the tomogram's centre (``rlnCenteredCoordinateXAngst``, as RELION 5 reads it), which
    holds for tomograms of any binning. Besides, the tomogram's name (``rlnTomoName``
    and ``rlnMicrographName``), a name of the particle (``rlnTomoParticleName``, the
    tomogram's and a number from 1) and the score (``rlnAutopickFigureOfMerit``).

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import numpy as np
    >>> from sksubtomo.io import read_particles
    >>> from sksubtomo.picking import Picks, write_picks
    >>> picks = Picks(np.array([[8.0, 9.0, 10.0]]), np.array([5.5]), 10.0, 120.0)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "picks.star")
    ...     write_picks(
    ...         path, picks, tomogram_name="TS_01", tomogram_shape=(16, 32, 32)
    ...     )
    ...     read_particles(path).coordinates(10.0, tomogram_shape=(16, 32, 32))
    array([[ 8.,  9., 10.]])
    """
    pixels = picks.coordinates[:, ::-1]
    centred = (pixels - np.array(tomogram_shape)[::-1] / 2) * picks.voxel_size
    columns: dict[str, Any] = {
        "rlnTomoName": [tomogram_name] * len(picks),
        "rlnTomoParticleName": [
            f"{tomogram_name}/{number}" for number in range(1, len(picks) + 1)
        ],
        "rlnMicrographName": [tomogram_name] * len(picks),
    }
    for axis, values in zip("XYZ", pixels.T, strict=True):
        columns[f"rlnCoordinate{axis}"] = [f"{value + 0.0:.4f}" for value in values]
    for axis, values in zip("XYZ", centred.T, strict=True):
        columns[f"rlnCenteredCoordinate{axis}Angst"] = [
            f"{value + 0.0:.4f}" for value in values
        ]
    columns["rlnAutopickFigureOfMerit"] = [f"{score:.6f}" for score in picks.scores]
    write_particles(
        path, columns, optics={"rlnMicrographPixelSize": f"{picks.voxel_size:.6f}"}
    )


def difference_of_gaussians(
    tomogram: NDArray[Any],
    diameter: float,
    *,
    voxel_size: float,
    contrast: str = "dark",
    sigma_ratio: float = _SIGMA_RATIO,
) -> NDArray[np.float32]:
    r"""Filter a tomogram so that particles of a given diameter stand out as maxima.

    Parameters
    ----------
    tomogram : ndarray of shape (depth, height, width)
        The tomogram, z first. A memory map is read block by block; the result is in
        memory.
    diameter : float
        Diameter of the particles in angstroms.
    voxel_size : float
        Voxel size of the tomogram in angstroms.
    contrast : {"dark", "light"}, default="dark"
        Whether particles are darker than their surroundings, as in raw tomograms, or
        lighter, as in most simulations.
    sigma_ratio : float, default=1.1
        Ratio of the standard deviations of the two Gaussians, above 1. The default is
        that of [1]_; values up to 1.6 find a solid ball in white noise nearly equally
        well (the signal-to-noise ratio falls by 2 %).

    Returns
    -------
    ndarray of shape (depth, height, width), float32
        The filtered tomogram, in its own units, with maxima on particles.

    Raises
    ------
    ValueError
        If the tomogram is no volume, holds NaN or infinite values, or if a parameter is
        out of range.

    See Also
    --------
    pick_particles : The maxima of this filter.

    Notes
    -----
    The difference of the Gaussians with standard deviations :math:`\sigma` and
    :math:`k\sigma` [1]_ [2]_ is positive up to the radius where both are equal. Here it
    is the particle's, which makes the response to a solid ball the largest that any
    ball can have: in three dimensions

    .. math:: \sigma = \frac{d}{2} \sqrt{\frac{k^2 - 1}{6 k^2 \ln k}},

    which tends to the :math:`d / (2 \sqrt 3)` of the Laplacian of a Gaussian [3]_ as k
    tends to 1. Beyond its faces the tomogram is continued by its mirror image.

    References
    ----------
    .. [1] Voss et al., "DoG Picker and TiltPicker: software tools to facilitate
       particle selection in single particle electron microscopy", J. Struct. Biol.
       166, 2009.
    .. [2] Pei et al., "Simulating cryo electron tomograms of crowded cell cytoplasm for
       assessment of automated particle picking", BMC Bioinformatics 17, 2016.
    .. [3] Lindeberg, "Feature detection with automatic scale selection", Int. J.
       Comput. Vis. 30, 1998.

    Examples
    --------
    >>> import numpy as np
    >>> from sksubtomo.picking import difference_of_gaussians
    >>> tomogram = np.zeros((16, 24, 24), np.float32)
    >>> tomogram[6:9, 10:13, 14:17] = -1.0
    >>> response = difference_of_gaussians(tomogram, 40.0, voxel_size=10.0)
    >>> [int(i) for i in np.unravel_index(response.argmax(), response.shape)]
    [7, 11, 15]
    """
    tomogram = check_tomogram(tomogram)
    dog = _Filter.of(diameter, voxel_size, contrast, sigma_ratio)
    response = np.empty(tomogram.shape, dtype=np.float32)
    for start, stop in _blocks(tomogram.shape):
        inside = tuple(map(slice, start, stop))
        response[inside] = dog.apply(tomogram, start, stop)
    return response


def pick_particles(
    tomogram: NDArray[Any],
    diameter: float,
    *,
    voxel_size: float,
    n_picks: int = 1000,
    contrast: str = "dark",
    min_distance: float | None = None,
    border: float | None = None,
    mask: NDArray[np.bool_] | None = None,
    score_range: tuple[float, float] = (-np.inf, np.inf),
) -> Picks:
    """Find particles of a given diameter by the difference of Gaussians.

    Parameters
    ----------
    tomogram : ndarray of shape (depth, height, width)
        The tomogram, z first. A memory map is read block by block: memory does not grow
        with the tomogram, but for the list of maxima.
    diameter : float
        Diameter of the particles in angstroms; at least three voxels.
    voxel_size : float
        Voxel size of the tomogram in angstroms.
    n_picks : int, default=1000
        Number of particles, if there are as many.
    contrast : {"dark", "light"}, default="dark"
        Whether particles are darker than their surroundings, as in raw tomograms, or
        lighter, as in most simulations.
    min_distance : float, default=None
        Smallest distance of two picks in angstroms. None means 0.8 diameters, because
        complexes are seldom spheres and may touch.
    border : float, default=None
        How far picks stay from the faces of the tomogram, in angstroms. None means
        0.3 diameters: with 0.5, particles that lie wholly inside are lost as soon as
        they are found a voxel off, and at the faces themselves noise counts double.
    mask : ndarray of shape (depth, height, width), default=None
        True where picks may lie.
    score_range : (float, float), default=(-inf, inf)
        Lowest and highest score. A highest one leaves out gold beads and their
        surroundings.

    Returns
    -------
    Picks
        The picks, the best first. Their scores are the filter's response, less its
        mean, in standard deviations over the tomogram.

    Raises
    ------
    ValueError
        If the tomogram is no volume, holds NaN or infinite values or is constant, or
        if a parameter is out of range.
    TypeError
        If a parameter is of a wrong type.

    Warns
    -----
    UserWarning
        If the tomogram looks as if its particles had the other contrast.

    See Also
    --------
    difference_of_gaussians : The filter.
    rank_by_correlation : A better order of the picks.

    Notes
    -----
    Candidates are the maxima of `difference_of_gaussians` among their 26 neighbours.
    They are taken from the highest to the lowest, and each one bars those closer than
    `min_distance` (non-maximum suppression). Positions are then refined between voxels
    by the parabola through the maximum and its neighbours along each axis.

    If the diameter is 24 voxels or more, the tomogram is averaged over cubes of as many
    voxels as leave at least 12 a diameter, which the filter would smooth away anyway.

    Particles fill less of a tomogram than what surrounds them, so that the response to
    them has a long tail on their side, and its skewness the sign of their contrast. It
    is warned of if that is the other one, beyond what noise makes of it.

    Examples
    --------
    >>> import numpy as np
    >>> from sksubtomo.picking import pick_particles
    >>> tomogram = np.zeros((24, 32, 32), np.float32)
    >>> tomogram[6:9, 10:13, 14:17] = -1.0
    >>> tomogram[15:18, 20:23, 8:11] = -2.0
    >>> picks = pick_particles(tomogram, 40.0, voxel_size=10.0, n_picks=2)
    >>> np.abs(picks.coordinates.round())
    array([[16., 21.,  9.],
           [ 7., 11., 15.]])
    """
    tomogram = check_tomogram(tomogram)
    check_length("diameter", diameter)
    check_length("voxel_size", voxel_size)
    n_picks = check_count("n_picks", n_picks)
    min_distance = 0.8 * diameter if min_distance is None else min_distance
    border = 0.3 * diameter if border is None else border
    for name, value in (("min_distance", min_distance), ("border", border)):
        if not (np.isfinite(value) and value >= 0):
            raise ValueError(f"{name}={value!r}; expected angstroms, 0 or more.")
    low, high = score_range
    if not low < high:
        raise ValueError(
            f"score_range={score_range!r}; expected (lowest, highest) in standard "
            "deviations."
        )
    if mask is not None and mask.shape != tomogram.shape:
        raise ValueError(
            f"mask has shape {mask.shape}; expected the tomogram's, {tomogram.shape}."
        )
    voxels = diameter / voxel_size
    if not 3 <= voxels <= min(tomogram.shape):
        raise ValueError(
            f"diameter={diameter:g} A is {voxels:.3g} voxels of {voxel_size:g} A; "
            f"expected 3 to {min(tomogram.shape)}, the tomogram's shortest side."
        )
    binning = max(1, int(voxels // _DIAMETER_VOXELS))
    dog = _Filter.of(diameter, voxel_size, contrast, _SIGMA_RATIO, binning)
    positions, responses, moments = _maxima(tomogram, dog)
    _warn_of_contrast(contrast, moments.skewness, len(responses))
    scores = (responses - moments.mean) / moments.deviation

    coordinates = positions * binning + (binning - 1) / 2
    margin = border / voxel_size
    last = np.array(tomogram.shape) - 1
    allowed = ((coordinates >= margin) & (coordinates <= last - margin)).all(axis=1)
    allowed &= scores >= low
    if mask is not None:
        allowed &= _mask_at(mask, coordinates)
    order = np.flatnonzero(allowed)
    order = order[np.argsort(-scores[order], kind="stable")]
    # A gold bead bars its surroundings before it is left out itself.
    limit = int(np.count_nonzero(scores[order] > high)) + n_picks
    kept = order[suppress(coordinates[order], min_distance / voxel_size, limit)]
    kept = kept[scores[kept] <= high][:n_picks]
    return Picks(coordinates[kept], scores[kept], float(voxel_size), float(diameter))


def suppress(
    coordinates: NDArray[np.float64], distance: float, limit: int
) -> NDArray[np.intp]:
    """Take points in their order, each barring the later ones close to it.

    Parameters
    ----------
    coordinates : ndarray of shape (n, 3)
        The points, the best first.
    distance : float
        Points closer than this are barred.
    limit : int
        Number of points to take at most.

    Returns
    -------
    ndarray
        Indices of the points that were taken, in order.
    """
    barred = np.zeros(len(coordinates), dtype=bool)
    taken: list[int] = []
    if len(coordinates):
        tree = cKDTree(coordinates)
        # Just below, because two points at the distance itself may both stay.
        radius = np.nextafter(distance, 0)
        for index, point in enumerate(coordinates):
            if len(taken) == limit:
                break
            if not barred[index]:
                taken.append(index)
                barred[tree.query_ball_point(point, radius)] = True
    return np.array(taken, dtype=np.intp)


class _Filter(NamedTuple):
    """The difference of two Gaussians of a volume averaged over cubes of voxels."""

    sigmas: tuple[float, float]
    sign: float
    binning: int

    @classmethod
    def of(
        cls,
        diameter: float,
        voxel_size: float,
        contrast: str,
        ratio: float,
        binning: int = 1,
    ) -> _Filter:
        check_length("diameter", diameter)
        check_length("voxel_size", voxel_size)
        if contrast not in CONTRASTS:
            raise ValueError(
                f"contrast={contrast!r}; expected 'dark' (raw tomograms) or 'light'."
            )
        if not (np.isfinite(ratio) and ratio > 1):
            raise ValueError(f"sigma_ratio={ratio!r}; expected a number above 1.")
        radius = diameter / (2 * voxel_size * binning)
        sigma = radius * np.sqrt((ratio**2 - 1) / (6 * ratio**2 * np.log(ratio)))
        sign = -1.0 if contrast == "dark" else 1.0
        return cls((float(sigma), float(ratio * sigma)), sign, binning)

    @property
    def margin(self) -> int:
        return int(_TRUNCATE * self.sigmas[1] + 0.5)

    def shape(self, tomogram: NDArray[Any]) -> tuple[int, ...]:
        """Return the shape of the averaged tomogram."""
        return tuple(side // self.binning for side in tomogram.shape)

    def apply(
        self,
        tomogram: NDArray[Any],
        start: tuple[int, ...],
        stop: tuple[int, ...],
    ) -> NDArray[np.float64]:
        """Return the filtered block from start to stop, in averaged voxels."""
        shape = self.shape(tomogram)
        low = [max(0, a - self.margin) for a in start]
        high = [min(n, b + self.margin) for b, n in zip(stop, shape, strict=True)]
        f = self.binning
        # Double precision and no offset, because two nearly equal numbers are
        # subtracted, which would leave rounding errors of a constant tomogram.
        block = np.asarray(
            tomogram[tuple(slice(a * f, b * f) for a, b in zip(low, high, strict=True))]
        ).astype(np.float64)
        block -= np.float64(tomogram[0, 0, 0])
        if f > 1:
            d, h, w = (side // f for side in block.shape)
            block = block.reshape(d, f, h, f, w, f).mean(axis=(1, 3, 5))
        if not np.isfinite(block).all():
            corner = [int(a * f) for a in low]
            raise ValueError(
                "the tomogram holds NaN or infinite values, in the block from voxel "
                f"{corner} (z, y, x) on; expected finite values."
            )
        inner, outer = (
            gaussian_filter(block, sigma, mode="reflect", truncate=_TRUNCATE)
            for sigma in self.sigmas
        )
        inside = tuple(
            slice(a - c, b - c) for a, b, c in zip(start, stop, low, strict=True)
        )
        response: NDArray[np.float64] = self.sign * (inner - outer)[inside]
        return response


def _blocks(
    shape: tuple[int, ...],
) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Yield the first and the last plus one voxel of blocks that fill a shape."""
    for start in product(*(range(0, side, _BLOCK) for side in shape)):
        stop = tuple(
            min(a + _BLOCK, side) for a, side in zip(start, shape, strict=True)
        )
        yield start, stop


class _Moments(NamedTuple):
    """Moments of the filter's response over the tomogram."""

    mean: float
    deviation: float
    skewness: float

    @classmethod
    def of(cls, sums: NDArray[np.float64], n: int) -> _Moments:
        """Return those of n values from the sums of their first three powers."""
        mean, square, cube = sums / n
        variance = square - mean**2
        if not variance > 0:
            raise ValueError(
                "the tomogram is constant; expected one that shows particles."
            )
        deviation = np.sqrt(variance)
        skewness = (cube - 3 * mean * variance - mean**3) / deviation**3
        return cls(float(mean), float(deviation), float(skewness))


def _warn_of_contrast(contrast: str, skewness: float, n_maxima: int) -> None:
    # The standard deviation of the skewness of as many independent normal values.
    noise = np.sqrt(6 / max(n_maxima, 1))
    if skewness < -max(_SKEWNESS, _SKEWNESS_NOISE * noise):
        other = CONTRASTS[1 - CONTRASTS.index(contrast)]
        warnings.warn(
            f"contrast={contrast!r}: the tomogram looks as if its particles were "
            f"{other}: filtered for {contrast} ones it has a skewness of "
            f"{skewness:.2g}. If they are {other}, say so (contrast={other!r}, "
            f"--contrast {other}); these picks are the gaps between them.",
            stacklevel=3,
        )


def _maxima(
    tomogram: NDArray[Any], dog: _Filter
) -> tuple[NDArray[np.float64], NDArray[np.float64], _Moments]:
    """Return the maxima's positions and heights, and the response's moments."""
    shape = dog.shape(tomogram)
    positions, heights = [np.empty((0, 3))], [np.empty(0)]
    sums = np.zeros(3)
    for start, stop in _blocks(shape):
        # One voxel more, to tell a maximum on the block's faces and to refine it.
        low = tuple(max(0, a - 1) for a in start)
        high = tuple(min(n, b + 1) for b, n in zip(stop, shape, strict=True))
        response = dog.apply(tomogram, low, high)
        inside = tuple(
            slice(a - c, b - c) for a, b, c in zip(start, stop, low, strict=True)
        )
        values = response[inside]
        squares = np.square(values)
        sums += values.sum(), squares.sum(), (squares * values).sum()
        peak = (response == maximum_filter(response, 3)) & (response > 0)
        offset = [part.start for part in inside]
        found = np.argwhere(peak[inside]) + offset
        positions.append(found + _refinement(response, found) + low)
        heights.append(response[tuple(found.T)])
    return (
        np.concatenate(positions),
        np.concatenate(heights),
        _Moments.of(sums, int(np.prod(shape))),
    )


def _refinement(
    response: NDArray[np.float64], peaks: NDArray[np.intp]
) -> NDArray[np.float64]:
    """Return where parabolas through maxima have their tops, in [-0.5, 0.5]."""
    shift = np.zeros(peaks.shape)
    middle = response[tuple(peaks.T)]
    for axis, side in enumerate(response.shape):
        step = np.eye(3, dtype=int)[axis]
        # On a face there is no neighbour, and no refinement.
        inner = (peaks[:, axis] > 0) & (peaks[:, axis] < side - 1)
        before = response[tuple((peaks[inner] - step).T)]
        after = response[tuple((peaks[inner] + step).T)]
        curvature = before - 2 * middle[inner] + after
        slope = (before - after) / 2
        shift[inner, axis] = np.divide(
            slope, curvature, out=np.zeros_like(slope), where=curvature < 0
        )
    return shift


def _mask_at(
    mask: NDArray[np.bool_], coordinates: NDArray[np.float64]
) -> NDArray[np.bool_]:
    last = np.array(mask.shape) - 1
    nearest = np.clip(np.floor(coordinates + 0.5).astype(np.intp), 0, last)
    inside: NDArray[np.bool_] = mask[tuple(nearest.T)].astype(bool)
    return inside


def check_tomogram(tomogram: Any) -> NDArray[Any]:
    """Check that an array is a volume of real numbers.

    Parameters
    ----------
    tomogram : array-like
        What was given as a tomogram.

    Returns
    -------
    ndarray
        The tomogram; an array is not copied.

    Raises
    ------
    ValueError
        If it is something else.
    """
    if not isinstance(tomogram, np.ndarray):
        tomogram = np.asarray(tomogram)
    if tomogram.ndim != 3 or not tomogram.size:
        raise ValueError(
            f"the tomogram has shape {tomogram.shape}; expected one volume (depth, "
            "height, width)."
        )
    if tomogram.dtype.kind not in "iuf":
        raise ValueError(
            f"the tomogram is of type {tomogram.dtype}; expected real numbers."
        )
    return tomogram


def check_length(name: str, value: Any) -> None:
    """Check that a parameter is a length.

    Parameters
    ----------
    name : str
        The parameter.
    value : object
        Its value.

    Raises
    ------
    TypeError
        If it is no number.
    ValueError
        If it is not positive.
    """
    if not isinstance(value, Real) or isinstance(value, bool):
        raise TypeError(
            f"{name}={value!r} of type {type(value).__name__}; expected a number of "
            "angstroms."
        )
    if not (np.isfinite(float(value)) and float(value) > 0):
        raise ValueError(f"{name}={value!r}; expected a positive number of angstroms.")


def check_count(name: str, value: Any) -> int:
    """Check that a parameter is an integer of at least one.

    Parameters
    ----------
    name : str
        The parameter.
    value : object
        Its value.

    Returns
    -------
    int
        The value.

    Raises
    ------
    TypeError
        If it is no integer.
    ValueError
        If it is less than one.
    """
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise TypeError(
            f"{name}={value!r} of type {type(value).__name__}; expected an integer."
        )
    if value < 1:
        raise ValueError(f"{name}={value!r}; expected at least 1.")
    return int(value)
