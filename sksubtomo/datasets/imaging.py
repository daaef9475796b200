"""From points with masses to a noisy volume with a missing wedge.

A scene is drawn on a grid larger than the crop (`draw_density`), multiplied in Fourier
space by a transfer volume (`gaussian_transfer`, `missing_wedge_mask`: any real volume
of that layout can be multiplied in), cropped, and only then given noise, because the
noise's variance is stated relative to the crop's.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import fft

# Variance of the linear (triangular) kernel that draw_density spreads points with, in
# squared voxels along each axis.
_LINEAR_KERNEL_VARIANCE = 1 / 6


def draw_density(
    coordinates: NDArray[np.float64],
    masses: NDArray[np.float64],
    size: int,
    voxel_size: float,
) -> NDArray[np.float32]:
    """Spread point masses linearly over the voxels of a cube.

    Parameters
    ----------
    coordinates : ndarray of shape (n, 3)
        Points z, y, x in angstroms, relative to the centre of the cube, which is at
        ``(size - 1) / 2`` voxels along each axis.
    masses : ndarray of shape (n,)
        Masses in daltons.
    size : int
        Side of the cube in voxels.
    voxel_size : float
        Voxel size in angstroms.

    Returns
    -------
    ndarray of shape (size, size, size)
        Density in daltons per cubic angstrom, z first. A point's mass goes to the eight
        nearest voxel centres by trilinear weights, which keeps the mass and the centre
        of mass; points beyond the outermost voxel centres are left out.

    Examples
    --------
    >>> import numpy as np
    >>> from sksubtomo.datasets import draw_density
    >>> volume = draw_density(np.array([[0.0, 0.0, 1.0]]), np.array([80.0]), 3, 2.0)
    >>> volume[1, 1]
    array([0., 5., 5.], dtype=float32)
    """
    position = coordinates / voxel_size + (size - 1) / 2
    inside = ((position >= 0) & (position <= size - 1)).all(axis=1)
    position, masses = position[inside], masses[inside]
    # A point on the last voxel centre belongs to the cell before it.
    corner = np.minimum(position.astype(np.int64), size - 2)
    fraction = position - corner
    strides = (size * size, size, 1)
    flat = corner @ np.array(strides)
    index = np.empty((8, len(flat)), dtype=np.int64)
    weight = np.empty((8, len(flat)))
    along = [(1 - fraction[:, axis], fraction[:, axis]) for axis in range(3)]
    for z in (0, 1):
        weight_z = masses * along[0][z]
        for y in (0, 1):
            weight_zy = weight_z * along[1][y]
            for x in (0, 1):
                row = 4 * z + 2 * y + x
                index[row] = flat + (z * strides[0] + y * strides[1] + x)
                weight[row] = weight_zy * along[2][x]
    total = np.bincount(index.ravel(), weights=weight.ravel(), minlength=size**3)
    return (total / voxel_size**3).reshape(size, size, size).astype(np.float32)


def gaussian_transfer(
    size: int, voxel_size: float, resolution: float
) -> NDArray[np.float32]:
    """Return the transfer volume that brings a drawn density to a resolution.

    Parameters
    ----------
    size : int
        Side of the cube in voxels.
    voxel_size : float
        Voxel size in angstroms.
    resolution : float
        Resolution d in angstroms: amplitudes fall to 1/e at the frequency 1/d, that is,
        a point becomes a Gaussian with standard deviation ``d / (sqrt(2) pi)``.

    Returns
    -------
    ndarray of shape (size, size, size // 2 + 1)
        Real factors in the layout of `scipy.fft.rfftn`, 1 at frequency zero.

    Notes
    -----
    `draw_density` itself blurs by a linear kernel of variance 1/6 squared voxel, which
    is taken off the Gaussian's. A resolution finer than 1.8 voxels can therefore not be
    reached, and leaves the linear kernel alone.

    Examples
    --------
    >>> from sksubtomo.datasets import gaussian_transfer
    >>> gaussian_transfer(16, voxel_size=10.0, resolution=20.0).shape
    (16, 16, 9)
    """
    variance = (resolution / voxel_size) ** 2 / (2 * np.pi**2) - _LINEAR_KERNEL_VARIANCE
    exponent = -2 * np.pi**2 * max(variance, 0.0)
    full = np.exp(exponent * fft.fftfreq(size) ** 2)
    half = np.exp(exponent * fft.rfftfreq(size) ** 2)
    transfer = full[:, None, None] * full[:, None] * half
    return transfer.astype(np.float32)


def missing_wedge_mask(size: int, tilt_range: tuple[float, float]) -> NDArray[np.bool_]:
    """Return the Fourier coefficients that a tilt series measures.

    Parameters
    ----------
    size : int
        Side of the cube in voxels.
    tilt_range : (float, float)
        Smallest and largest tilt in degrees, within [-90, 90].

    Returns
    -------
    ndarray of shape (size, size, size // 2 + 1)
        True where measured, in the layout of `scipy.fft.rfftn`, axes z, y, x. The tilt
        axis is y and the beam runs along z, so the image at tilt t measures the plane
        spanned by the y axis and ``x cos t + z sin t``, and a coefficient is measured
        if its angle ``arctan(kz / kx)`` lies in the range.

    Examples
    --------
    >>> from sksubtomo.datasets import missing_wedge_mask
    >>> round(float(missing_wedge_mask(64, (-60.0, 60.0)).mean()), 1)
    0.7
    >>> bool(missing_wedge_mask(16, (-90.0, 90.0)).all())
    True
    """
    low, high = np.deg2rad(tilt_range)
    # The angle of the line through the coefficient, in (-90, 90] degrees.
    frequency = fft.fftfreq(size, 1 / size)
    kz, kx = np.meshgrid(frequency, frequency, indexing="ij")
    flipped = np.where(kx < 0, -1.0, 1.0)
    angle = np.arctan2(kz * flipped, kx * flipped)
    tolerance = 1e-9
    vertical = np.isclose(np.abs(angle), np.pi / 2)
    measured = (angle >= low - tolerance) & (angle <= high + tolerance)
    # +90 and -90 degrees are the same line.
    measured |= vertical & (max(-low, high) >= np.pi / 2 - tolerance)
    measured[0, 0] = True
    # On the Nyquist planes of an even side +f and -f are one coefficient, which counts
    # as measured only if it is so from both sides: the mask of a real volume has to be
    # point-symmetric.
    mirror = -np.arange(size) % size
    measured &= measured[np.ix_(mirror, mirror)]
    half = measured[:, None, : size // 2 + 1]
    return np.repeat(half, size, axis=1)


def apply_transfer(
    volume: NDArray[np.float32], transfer: NDArray[np.float32] | NDArray[np.bool_]
) -> NDArray[np.float32]:
    """Multiply a volume by a transfer volume in Fourier space.

    Parameters
    ----------
    volume : ndarray of shape (size, size, size)
        The volume, taken as periodic: pad it first.
    transfer : ndarray of shape (size, size, size // 2 + 1)
        Real factors in the layout of `scipy.fft.rfftn`.

    Returns
    -------
    ndarray of shape (size, size, size)
        The filtered volume.

    Raises
    ------
    ValueError
        If the shapes do not fit.
    """
    expected = (*volume.shape[:-1], volume.shape[-1] // 2 + 1)
    if transfer.shape != expected:
        raise ValueError(
            f"transfer has shape {transfer.shape}; expected {expected} for a volume of "
            f"shape {volume.shape}."
        )
    spectrum = fft.rfftn(volume)
    spectrum *= transfer
    filtered: NDArray[np.float32] = fft.irfftn(spectrum, s=volume.shape)
    return filtered


def crop_center(volume: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """Cut the central cube out of a cube.

    Parameters
    ----------
    volume : ndarray of shape (n, n, n)
        The cube.
    size : int
        Side of the central cube in voxels; n - size has to be even, so that the
        centres coincide.

    Returns
    -------
    ndarray of shape (size, size, size)
        A view of the central cube.

    Raises
    ------
    ValueError
        If the cube has no central cube of that side.
    """
    margin, odd = divmod(volume.shape[0] - size, 2)
    if odd or margin < 0 or size < 1:
        raise ValueError(
            f"size={size} does not lie centrally in a cube of side {volume.shape[0]}; "
            "expected at most that side, and both even or both odd."
        )
    middle = slice(margin, margin + size)
    return volume[middle, middle, middle]


def add_white_noise(
    volume: NDArray[np.float32], snr: float, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Add white Gaussian noise at an exact signal-to-noise ratio.

    Parameters
    ----------
    volume : ndarray
        The clean volume.
    snr : float
        Variance of the clean volume over variance of the noise. The noise drawn is
        scaled so that the ratio of the realised variances is `snr`, up to the rounding
        of float32. ``inf`` adds none.
    rng : numpy.random.Generator
        Source of randomness.

    Returns
    -------
    ndarray
        The noisy volume, a new array.

    Raises
    ------
    ValueError
        If `snr` is not positive, or if the volume is constant, which no noise has a
        signal-to-noise ratio with.

    Examples
    --------
    >>> import numpy as np
    >>> from sksubtomo.datasets import add_white_noise
    >>> rng = np.random.default_rng(0)
    >>> clean = rng.random((8, 8, 8), dtype=np.float32)
    >>> noise = add_white_noise(clean, 0.1, rng) - clean
    >>> print(round(float(clean.var() / noise.var()), 3))
    0.1
    """
    if not snr > 0:
        raise ValueError(f"snr={snr!r}; expected a positive number or inf.")
    if np.isinf(snr):
        return volume.copy()
    signal = volume.var(dtype=np.float64)
    if signal == 0:
        raise ValueError(
            f"the volume is constant, so that snr={snr!r} has no meaning; expected a "
            "volume that varies, or snr=inf."
        )
    noise = rng.standard_normal(volume.shape, dtype=np.float32)
    scale = np.sqrt(signal / (snr * noise.var(dtype=np.float64)))
    return volume + np.float32(scale) * noise
