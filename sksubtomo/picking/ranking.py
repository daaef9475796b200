"""Which candidates look like the particle: correlation in the measured region."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft
from scipy.ndimage import affine_transform
from scipy.spatial.transform import Rotation

from sksubtomo.datasets import missing_wedge_mask
from sksubtomo.datasets.imaging import TiltAxis

# Volumes whose spectra are in memory together.
_BATCH = 64
# Rounds of averaging the better half; the order hardly changes after the second.
_N_AVERAGES = 3


def rank_by_correlation(
    volumes: NDArray[Any],
    template: NDArray[Any] | None = None,
    *,
    tilt_range: tuple[float, float] = (-60.0, 60.0),
    tilt_axis: TiltAxis = "y",
    radius: float | None = None,
    max_shift: int | None = None,
    n_rotations: int = 0,
) -> NDArray[np.float64]:
    """Score volumes by their constrained correlation with a template.

    Parameters
    ----------
    volumes : ndarray of shape (n, size, size, size)
        Candidates as they were cut from one tomogram, not rotated, so that all of them
        miss the same wedge. A memory map is read batch by batch.
    template : ndarray of shape (size, size, size), default=None
        The particle at the same voxel size and with the same contrast (light on light,
        or dark on dark), centred at ``size // 2``, with the tomogram's contrast
        transfer. None means the candidates' own average.
    tilt_range : (float, float), default=(-60, 60)
        Smallest and largest tilt in degrees.
    tilt_axis : "x", "y" or float, default="y"
        The tilt axis, or its angle from the y axis in degrees. The beam runs along z.
    radius : float, default=None
        Radius in voxels of the sphere in which volumes are compared, with a soft edge.
        It has to take in some of the particle's surroundings, best about half as much
        again as the particle's own radius, so that boxes of two diameters are right.
        None means the largest that `max_shift` leaves room for.
    max_shift : int, default=None
        Largest shift of the particle along each axis in voxels. None means an eighth of
        the side.
    n_rotations : int, default=0
        Number of orientations of the template, spread evenly over SO(3), of which the
        best is taken. With 0 the template is averaged over all orientations, which is
        quick and does not favour any, and enough to tell particles of about the right
        size and shell structure from noise, membranes and beads. 500 are 30 degrees
        apart.

    Returns
    -------
    ndarray of shape (n,)
        The highest correlation coefficient of each volume over shifts and rotations,
        in [-1, 1].

    Raises
    ------
    ValueError
        If shapes do not fit, a volume holds NaN or infinite values, or a parameter is
        out of range.

    Notes
    -----
    Volumes and template are compared only in the region of Fourier space that the tilt
    series measured (constrained correlation, [1]_ [2]_): outside of it a volume has
    nothing but noise. The coefficient is normalised by mean and variance of the volume
    under the sphere at each shift, computed by fast Fourier transforms [3]_. A volume
    that is constant there scores 0.

    The candidates' own average is that over all of them, then over the better half by
    the scores so far, each volume shifted to where it fits best. It is averaged over
    all orientations about its centre in every round, because the particles' own
    orientations are not known and a free average would wander off the centre. The
    paper's ranking [4]_ is of this kind.

    References
    ----------
    .. [1] Frangakis et al., "Identification of macromolecular complexes in
       cryoelectron tomograms of phantom cells", PNAS 99, 2002.
    .. [2] Förster et al., "Classification of cryo-electron sub-tomograms using
       constrained correlation", J. Struct. Biol. 161, 2008.
    .. [3] Roseman, "Particle finding in electron micrographs using a fast local
       correlation algorithm", Ultramicroscopy 94, 2003.
    .. [4] Zeng et al., "A convolutional autoencoder approach for mining features in
       cellular electron cryo-tomograms and weakly supervised coarse segmentation",
       J. Struct. Biol. 202, 2018.

    Examples
    --------
    >>> import numpy as np
    >>> from sksubtomo.datasets import make_subtomograms
    >>> from sksubtomo.picking import rank_by_correlation
    >>> X, _ = make_subtomograms(
    ...     8, structures=["groel"], size=16, snr=1.0, random_state=0, return_X_y=True
    ... )
    >>> noise = np.random.default_rng(0).normal(size=X.shape)
    >>> scores = rank_by_correlation(np.concatenate([X, noise]))
    >>> bool(scores[:8].min() > scores[8:].max())
    True
    """
    if not isinstance(volumes, np.ndarray):
        volumes = np.asarray(volumes)
    if volumes.ndim != 4 or len(set(volumes.shape[1:])) != 1 or not volumes.size:
        raise ValueError(
            f"volumes have shape {volumes.shape}; expected cubes (n, size, size, size)."
        )
    size = volumes.shape[1]
    if template is not None and np.shape(template) != volumes.shape[1:]:
        raise ValueError(
            f"template has shape {np.shape(template)}; expected the volumes', "
            f"{volumes.shape[1:]}."
        )
    max_shift = size // 8 if max_shift is None else max_shift
    if not 0 <= max_shift < size / 4:
        raise ValueError(
            f"max_shift={max_shift!r}; expected 0 or more voxels, below a quarter of "
            f"the side ({size})."
        )
    largest = (size - 1) / 2 - max_shift
    radius = largest if radius is None else radius
    if not 1 <= radius <= largest:
        raise ValueError(
            f"radius={radius!r}; expected at least 1 and, with a side of {size} and "
            f"max_shift={max_shift}, at most {largest:g} voxels."
        )
    if n_rotations < 0 or (n_rotations and template is None):
        raise ValueError(
            f"n_rotations={n_rotations!r}; expected 0 or more, and 0 for the "
            "candidates' own average."
        )
    search = _Search(size, tilt_range, tilt_axis, radius, max_shift)
    if template is not None:
        template = _finite(np.asarray(template, dtype=np.float32), "template")
        turned: list[NDArray[Any]] = [spherical_average(template)]
        if n_rotations:
            turned = [_rotate(template, turn) for turn in spread_rotations(n_rotations)]
        scores, _ = search.run(volumes, turned)
        return scores
    better = np.arange(len(volumes))
    shifts = np.zeros((len(volumes), 3), dtype=np.intp)
    for _ in range(_N_AVERAGES):
        average = np.zeros(volumes.shape[1:])
        for index in better:
            volume = _finite(volumes[index], f"volume {index}")
            # What does not vary has no weight, and no unit either.
            deviation = volume.std(dtype=np.float64)
            if deviation > 0:
                average += np.roll(volume, -shifts[index], axis=(0, 1, 2)) / deviation
        scores, shifts = search.run(volumes, [spherical_average(average)])
        # In the stack's order, so that the sum does not depend on that of the scores.
        better = np.sort(np.argsort(-scores, kind="stable")[: (len(volumes) + 1) // 2])
    return scores


def spherical_average(volume: NDArray[Any]) -> NDArray[np.float64]:
    """Average a volume over all orientations about its centre.

    Parameters
    ----------
    volume : ndarray of shape (size, size, size)
        The volume; its centre is at ``size // 2``.

    Returns
    -------
    ndarray of shape (size, size, size)
        The average, a function of the distance from the centre alone. The mean over
        shells of one voxel is interpolated linearly between them.
    """
    distance = _distance(volume.shape[0])
    shell = np.floor(distance).astype(np.intp)
    fraction = distance - shell
    # Each voxel belongs to the two shells beside it, by linear weights.
    index = np.concatenate([shell.ravel(), shell.ravel() + 1])
    weight = np.concatenate([1 - fraction.ravel(), fraction.ravel()])
    values = np.concatenate([volume.ravel(), volume.ravel()])
    total = np.bincount(index, weight * values)
    count = np.bincount(index, weight)
    profile = total / np.where(count > 0, count, 1)
    average: NDArray[np.float64] = (1 - fraction) * profile[shell]
    return average + fraction * profile[shell + 1]


def spread_rotations(n: int) -> NDArray[np.float64]:
    """Return rotations that are spread evenly over SO(3).

    Parameters
    ----------
    n : int
        Number of rotations.

    Returns
    -------
    ndarray of shape (n, 3, 3)
        The super-Fibonacci spiral of Alexa ("Super-Fibonacci spirals: fast,
        low-discrepancy sampling of SO(3)", CVPR 2022).
    """
    step = np.arange(n) + 0.5
    inner, outer = np.sqrt(step / n), np.sqrt(1 - step / n)
    # The second constant is the positive root of x^4 = x + 4.
    alpha = 2 * np.pi * step / np.sqrt(2)
    beta = 2 * np.pi * step / 1.533751168755204288118041
    quaternions = np.stack(
        [
            inner * np.sin(alpha),
            inner * np.cos(alpha),
            outer * np.sin(beta),
            outer * np.cos(beta),
        ],
        axis=1,
    )
    matrices: NDArray[np.float64] = Rotation.from_quat(quaternions).as_matrix()
    return matrices


class _Search:
    """Local correlation coefficients of volumes with templates, over shifts."""

    def __init__(
        self,
        size: int,
        tilt_range: tuple[float, float],
        tilt_axis: TiltAxis,
        radius: float,
        max_shift: int,
    ):
        self._shape = (size, size, size)
        self._measured = missing_wedge_mask(size, tilt_range, tilt_axis)
        self._mask = _soft_sphere(size, radius)
        self._mask_sum = float(self._mask.sum())
        self._mask_spectrum = fft.rfftn(fft.ifftshift(self._mask)).conj()
        self._along = np.arange(-max_shift, max_shift + 1)

    def run(
        self, volumes: NDArray[Any], templates: list[NDArray[Any]]
    ) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
        """Return the best coefficient of each volume, and the shift z, y, x there."""
        spectra = [self._template(template) for template in templates]
        scores = np.zeros(len(volumes))
        shifts = np.zeros((len(volumes), 3), dtype=np.intp)
        n = len(self._along)
        for first, batch in _batches(volumes):
            filtered = self._constrain(batch)
            deviation = self._local_deviation(filtered)
            spectrum = fft.rfftn(filtered, axes=(1, 2, 3))
            best = np.full((len(batch), n, n, n), -np.inf)
            for template in spectra:
                np.maximum(best, self._near(spectrum * template), out=best)
            # What does not vary has no correlation. Rounding errors are no variation.
            flat = deviation <= 1e-5 * batch.std(axis=(1, 2, 3), keepdims=True)
            best = np.where(flat, 0.0, best / np.where(flat, 1.0, deviation))
            flattened = best.reshape(len(batch), -1)
            rows = slice(first, first + len(batch))
            scores[rows] = flattened.max(axis=1)
            where = np.unravel_index(flattened.argmax(axis=1), (n, n, n))
            shifts[rows] = self._along[np.stack(where, axis=1)]
        return np.clip(scores, -1, 1), shifts

    def _template(self, template: NDArray[Any]) -> NDArray[np.complex64]:
        """Return the spectrum that a volume's is multiplied by."""
        inside = self._constrain(template[None])[0]
        inside -= (self._mask * inside).sum() / self._mask_sum
        norm = np.sqrt((self._mask * inside**2).sum() / self._mask_sum)
        if not norm > 0:
            raise ValueError(
                "the template is constant inside the sphere in which volumes are "
                "compared; expected one that shows the particle."
            )
        weighted = self._mask * inside / (norm * self._mask_sum)
        spectrum = fft.rfftn(fft.ifftshift(weighted)).conj()
        # Hundreds of them may be in memory together.
        return spectrum.astype(np.complex64)

    def _constrain(self, volumes: NDArray[Any]) -> NDArray[np.float64]:
        """Leave only what the tilt series measured, without the mean."""
        centred = volumes - volumes.mean(axis=(1, 2, 3), keepdims=True)
        spectrum = fft.rfftn(centred, axes=(1, 2, 3)) * self._measured
        filtered: NDArray[np.float64] = fft.irfftn(
            spectrum, s=self._shape, axes=(1, 2, 3)
        )
        return filtered

    def _local_deviation(self, volumes: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the standard deviation under the sphere around each position."""
        mean, square = (
            self._near(fft.rfftn(values, axes=(1, 2, 3)) * self._mask_spectrum)
            / self._mask_sum
            for values in (volumes, volumes**2)
        )
        return np.sqrt(np.maximum(square - mean**2, 0))

    def _near(self, spectrum: NDArray[np.complex128]) -> NDArray[np.float64]:
        """Transform back, and return the values around the box's centre."""
        values = fft.irfftn(spectrum, s=self._shape, axes=(1, 2, 3))
        along = self._along + self._shape[0] // 2
        near: NDArray[np.float64] = values[np.ix_(np.arange(len(values)), *[along] * 3)]
        return near


def _batches(volumes: NDArray[Any]) -> Iterator[tuple[int, NDArray[np.float64]]]:
    for first in range(0, len(volumes), _BATCH):
        batch = np.asarray(volumes[first : first + _BATCH]).astype(np.float64)
        for number, volume in enumerate(batch, start=first):
            _finite(volume, f"volume {number}")
        yield first, batch


def _finite(volume: NDArray[Any], name: str) -> NDArray[Any]:
    if not np.isfinite(volume).all():
        raise ValueError(f"{name} holds NaN or infinite values; expected finite ones.")
    return volume


def _distance(size: int) -> NDArray[np.float64]:
    """Return each voxel's distance from the centre at ``size // 2``."""
    along = np.square(np.arange(size) - size // 2)
    distance: NDArray[np.float64] = np.sqrt(
        along[:, None, None] + along[:, None] + along
    )
    return distance


def _soft_sphere(size: int, radius: float) -> NDArray[np.float64]:
    """Return a sphere whose edge falls from 1 to 0 over a voxel to either side."""
    return np.clip((radius + 1 - _distance(size)) / 2, 0, 1)


def _rotate(
    volume: NDArray[np.float32], rotation: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Turn a volume about its centre, acting on columns z, y, x."""
    centre = np.full(3, volume.shape[0] // 2)
    turned: NDArray[np.float32] = affine_transform(
        volume, rotation.T, centre - rotation.T @ centre, order=1, mode="nearest"
    )
    return turned
