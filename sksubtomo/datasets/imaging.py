"""From points with masses to noisy volumes, as a tilt series and its reconstruction.

A scene is drawn on a grid larger than the crop (`draw_density`), multiplied in Fourier
space by a transfer volume (`gaussian_transfer`, `transfer_volume`, `low_pass_transfer`:
any real volume of that layout can be multiplied in), cropped, and only then given noise
(`filtered_noise`, `add_noise`), because the noise's variance is stated relative to the
crop's.

The microscope enters as functions of the spatial frequency: `contrast_transfer`,
`envelope` and `detector_mtf`. The tilt series enters as the part of Fourier space that
it measures: `tilt_angles`, `missing_wedge_mask` and `tilt_weights`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import constants, fft

from sksubtomo.datasets._checks import check_fraction, check_number, check_positive

TiltAxis = Literal["x", "y"] | float

# Variance of the linear (triangular) kernel that draw_density spreads points with, in
# squared voxels along each axis.
_LINEAR_KERNEL_VARIANCE = 1 / 6

# Rounding errors of a few tilts must not move the border of the wedge.
_ANGLE_TOLERANCE = 1e-9

# What is left of the slices where they reach out of the missing wedge's border.
_OUTSIDE_WEDGE = 0.25

# Width of a low-pass filter's edge, as a part of the frequency where it begins.
_LOW_PASS_EDGE = 0.25

_MICROSCOPE_RANGES: dict[str, tuple[Callable[[float], bool], str]] = {
    "voltage": (lambda value: 0 < value < np.inf, "a positive number of kilovolts"),
    "spherical_aberration": (
        lambda value: 0 <= value < np.inf,
        "a number of millimetres that is not negative",
    ),
    "amplitude_contrast": (lambda value: 0 <= value <= 1, "a fraction in [0, 1]"),
    "defocus": (np.isfinite, "a finite number of micrometres"),
    "b_factor": (
        lambda value: 0 <= value < np.inf,
        "a number of square angstroms that is not negative",
    ),
    "pixel_size": (
        lambda value: 0 <= value < np.inf,
        "a number of angstroms that is not negative, or None",
    ),
}


@dataclass(frozen=True, kw_only=True)
class Microscope:  # numpydoc ignore=PR02
    """The optics and the detector that volumes are imaged with.

    The defaults are those of a present microscope with a direct detector, at the
    defocus of the paper's data [1]_; `Microscope.liu2020` gives all values of those
    data.

    Parameters
    ----------
    voltage : float, default=300.0
        Acceleration voltage in kilovolts [2]_.
    spherical_aberration : float, default=2.7
        Spherical aberration in millimetres; the default is the Titan Krios' [2]_.
    amplitude_contrast : float, default=0.07
        Fraction of amplitude contrast, in [0, 1]; the default is what is assumed for
        ice at 300 kV [2]_.
    defocus : float, default=5.0
        Defocus in micrometres, positive for underfocus [1]_.
    b_factor : float, default=240.0
        Decay of the envelope ``exp(-b_factor f^2 / 4)`` with the spatial frequency f,
        in square angstroms. The default stands for radiation damage: 4 square angstroms
        for each electron per square angstrom [3]_, at the mean of an exposure that
        grows to 120 electrons per square angstrom.
    pixel_size : float, default=None
        Size of a detector pixel at the specimen in angstroms, for `detector_mtf`. None
        means the voxel size (images that were not binned), 0 a perfect detector.

    Raises
    ------
    ValueError
        If a value is out of range.
    TypeError
        If a value is not a number.

    See Also
    --------
    contrast_transfer : The oscillating part of the transfer.
    envelope : The decaying part.
    detector_mtf : The detector's part.

    References
    ----------
    .. [1] Liu, S. et al. (2020). Efficient cryo-electron tomogram simulation of
       macromolecular crowding with application to SARS-CoV-2. IEEE International
       Conference on Bioinformatics and Biomedicine, 80-87.
    .. [2] The tilt series of the RELION tutorial on subtomogram averaging, EMPIAR-10164
       (300 kV, 2.7 mm, 0.07); Schur, F. K. M. et al. (2016). Science 353, 506-508.
    .. [3] Tegunov, D. and Cramer, P. (2019). Real-time cryo-electron microscopy data
       preprocessing with Warp. Nature Methods 16, 1146-1152.

    Examples
    --------
    >>> from sksubtomo.datasets import Microscope
    >>> Microscope(defocus=3.0).spherical_aberration
    2.7
    >>> Microscope.liu2020(voxel_size=10.0).b_factor
    10000.0
    """

    voltage: float = 300.0
    spherical_aberration: float = 2.7
    amplitude_contrast: float = 0.07
    defocus: float = 5.0
    b_factor: float = 240.0
    pixel_size: float | None = None

    def __post_init__(self) -> None:
        for parameter, (valid, expected) in _MICROSCOPE_RANGES.items():
            value = getattr(self, parameter)
            if parameter == "pixel_size" and value is None:
                continue
            check_number(parameter, value, valid, expected)

    @classmethod
    def liu2020(cls, voxel_size: float) -> Microscope:
        """Return the optics of the paper's simulated data.

        Parameters
        ----------
        voxel_size : float
            Voxel size in angstroms, because the envelope was set relative to Nyquist,
            as ``exp(-(f / 0.4 f_Nyquist)^2)``.

        Returns
        -------
        Microscope
            300 kV, 2.0 mm, 5 micrometres underfocus, no amplitude contrast.

        Raises
        ------
        ValueError
            If `voxel_size` is not positive.
        """
        check_positive("voxel_size", voxel_size, "angstroms")
        return cls(
            spherical_aberration=2.0,
            amplitude_contrast=0.0,
            defocus=5.0,
            b_factor=float(4 * (2 * voxel_size / 0.4) ** 2),
        )

    @property
    def wavelength(self) -> float:  # numpydoc ignore=RT01
        """Relativistic wavelength of the electrons, in angstroms."""
        kinetic = constants.e * self.voltage * 1e3
        rest = constants.m_e * constants.c**2
        momentum = np.sqrt(kinetic * (kinetic + 2 * rest)) / constants.c
        return float(constants.h / momentum * 1e10)


def draw_density(
    coordinates: NDArray[np.float64],
    masses: NDArray[np.float64],
    shape: int | tuple[int, int, int],
    voxel_size: float,
) -> NDArray[np.float32]:
    """Spread point masses linearly over the voxels of a volume.

    Parameters
    ----------
    coordinates : ndarray of shape (n, 3)
        Points z, y, x in angstroms, relative to the centre of the volume, which is at
        ``(side - 1) / 2`` voxels along each axis.
    masses : ndarray of shape (n,)
        Masses in daltons.
    shape : int or (int, int, int)
        Side of a cube, or depth, height and width of the volume, in voxels.
    voxel_size : float
        Voxel size in angstroms.

    Returns
    -------
    ndarray of shape (depth, height, width)
        Density in daltons per cubic angstrom, z first. A point's mass goes to the eight
        nearest voxel centres by trilinear weights, which keeps the mass and the centre
        of mass; points beyond the outermost voxel centres are left out.

    Raises
    ------
    ValueError
        If shapes do not fit, if a coordinate is not finite or if `voxel_size` is not
        positive.
    TypeError
        If `voxel_size` is not a number.

    Examples
    --------
    >>> import numpy as np
    >>> from sksubtomo.datasets import draw_density
    >>> volume = draw_density(np.array([[0.0, 0.0, 1.0]]), np.array([80.0]), 3, 2.0)
    >>> volume[1, 1]
    array([0., 5., 5.], dtype=float32)
    """
    shape = _shape(shape)
    check_positive("voxel_size", voxel_size, "angstroms")
    coordinates = np.asarray(coordinates, dtype=np.float64)
    masses = np.asarray(masses, dtype=np.float64)
    if coordinates.ndim != 2 or coordinates.shape[1] != 3:
        raise ValueError(
            f"coordinates have shape {coordinates.shape}; expected (n, 3), columns z, "
            "y, x."
        )
    if masses.shape != (len(coordinates),):
        raise ValueError(
            f"masses have shape {masses.shape}; expected ({len(coordinates)},), one "
            "for each row of coordinates."
        )
    if not np.isfinite(coordinates).all():
        raise ValueError("coordinates hold NaN or infinity; expected angstroms.")
    last = np.array(shape) - 1
    position = coordinates / voxel_size + last / 2
    inside = ((position >= 0) & (position <= last)).all(axis=1)
    position, masses = position[inside], masses[inside]
    # A point on the last voxel centre belongs to the cell before it.
    corner = np.minimum(position.astype(np.int64), last - 1)
    fraction = position - corner
    strides = (shape[1] * shape[2], shape[2], 1)
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
    total = np.bincount(
        index.ravel(), weights=weight.ravel(), minlength=int(np.prod(shape))
    )
    return (total / voxel_size**3).reshape(shape).astype(np.float32)


def gaussian_transfer(
    shape: int | tuple[int, int, int], voxel_size: float, resolution: float
) -> NDArray[np.float32]:
    """Return the transfer volume that brings a drawn density to a resolution.

    Parameters
    ----------
    shape : int or (int, int, int)
        Side of a cube, or depth, height and width of the volume, in voxels.
    voxel_size : float
        Voxel size in angstroms.
    resolution : float
        Resolution d in angstroms: amplitudes fall to 1/e at the frequency 1/d, that is,
        a point becomes a Gaussian with standard deviation ``d / (sqrt(2) pi)``.

    Returns
    -------
    ndarray of shape (depth, height, width // 2 + 1)
        Real factors in the layout of `scipy.fft.rfftn`, 1 at frequency zero.

    Raises
    ------
    ValueError
        If a parameter is out of range.
    TypeError
        If a parameter is of a wrong type.

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
    voxel_size = check_positive("voxel_size", voxel_size, "angstroms")
    resolution = check_positive("resolution", resolution, "angstroms")
    variance = (resolution / voxel_size) ** 2 / (2 * np.pi**2) - _LINEAR_KERNEL_VARIANCE
    exponent = -2 * np.pi**2 * max(variance, 0.0)
    along_z, along_y, along_x = (
        np.exp(exponent * frequency**2) for frequency in _frequencies(_shape(shape))
    )
    transfer = along_z[:, None, None] * along_y[:, None] * along_x
    return transfer.astype(np.float32)


def contrast_transfer(
    frequency: ArrayLike, microscope: Microscope
) -> NDArray[np.float64]:
    """Return the contrast transfer function of a weak phase object.

    Parameters
    ----------
    frequency : array-like
        Spatial frequency in 1/angstrom, of any shape.
    microscope : Microscope
        The optics.

    Returns
    -------
    ndarray of the shape of `frequency`
        ``sin(chi + arcsin(A))`` with the phase shift ``chi = pi L f^2 (z - L^2 f^2 C /
        2)`` [1]_ for the wavelength L, the defocus z, the spherical aberration C and
        the amplitude contrast A. The sign is that of images in which protein is light,
        as in the densities of this package: positive at low frequencies for underfocus.
        Raw images, in which protein is dark, have the opposite sign, as in [1]_.

    Raises
    ------
    TypeError
        If `microscope` is no `Microscope`.

    References
    ----------
    .. [1] Rohou, A. and Grigorieff, N. (2015). CTFFIND4: Fast and accurate defocus
       estimation from electron micrographs. Journal of Structural Biology 192, 216-221.

    Examples
    --------
    >>> from sksubtomo.datasets import Microscope, contrast_transfer
    >>> contrast_transfer([0.0, 0.01], Microscope(defocus=5.0)).round(2)
    array([0.07, 0.37])
    """
    if not isinstance(microscope, Microscope):
        raise TypeError(
            f"microscope={microscope!r} of type {type(microscope).__name__}; expected "
            "a Microscope."
        )
    squared = np.square(np.asarray(frequency, dtype=np.float64))
    defocus = microscope.defocus * 1e4
    aberration = microscope.spherical_aberration * 1e7
    wavelength = microscope.wavelength
    phase = (np.pi * wavelength) * squared
    phase *= defocus - (0.5 * wavelength**2 * aberration) * squared
    contrast: NDArray[np.float64] = np.sin(
        phase + np.arcsin(microscope.amplitude_contrast)
    )
    return contrast


def envelope(frequency: ArrayLike, b_factor: float) -> NDArray[np.float64]:
    """Return the decay of the contrast with frequency.

    Parameters
    ----------
    frequency : array-like
        Spatial frequency in 1/angstrom, of any shape.
    b_factor : float
        B factor in square angstroms [1]_.

    Returns
    -------
    ndarray of the shape of `frequency`
        ``exp(-b_factor f^2 / 4)``.

    Raises
    ------
    ValueError
        If `b_factor` is negative or not finite.
    TypeError
        If `b_factor` is not a number.

    References
    ----------
    .. [1] Rosenthal, P. B. and Henderson, R. (2003). Optimal determination of particle
       orientation, absolute hand, and contrast loss in single-particle electron
       cryomicroscopy. Journal of Molecular Biology 333, 721-745.

    Examples
    --------
    >>> from sksubtomo.datasets import envelope
    >>> envelope([0.0, 0.1], 400.0).round(3)
    array([1.   , 0.368])
    """
    check_number("b_factor", b_factor, *_MICROSCOPE_RANGES["b_factor"])
    squared = np.square(np.asarray(frequency, dtype=np.float64))
    decay: NDArray[np.float64] = np.exp(-0.25 * b_factor * squared)
    return decay


def detector_mtf(frequency: ArrayLike, pixel_size: float) -> NDArray[np.float64]:
    """Return the modulation transfer function of an ideal pixel detector.

    Parameters
    ----------
    frequency : array-like
        Spatial frequency in 1/angstrom, of any shape.
    pixel_size : float
        Size of a detector pixel at the specimen, in angstroms; 0 for a perfect
        detector.

    Returns
    -------
    ndarray of the shape of `frequency`
        ``sin(x) / x`` with ``x = pi f pixel_size``, which is 2 / pi at the pixel's
        Nyquist frequency: each electron is counted in the square that it falls into.
        Electron-counting detectors come close to it; integrating ones stay below [1]_.

    Raises
    ------
    ValueError
        If `pixel_size` is negative or not finite.
    TypeError
        If `pixel_size` is not a number.

    References
    ----------
    .. [1] McMullan, G., Chen, S., Henderson, R. and Faruqi, A. R. (2009). Detective
       quantum efficiency of electron area detectors in electron microscopy.
       Ultramicroscopy 109, 1126-1143.

    Examples
    --------
    >>> from sksubtomo.datasets import detector_mtf
    >>> detector_mtf([0.0, 0.05], 10.0).round(3)
    array([1.   , 0.637])
    """
    check_number(
        "pixel_size",
        pixel_size,
        lambda size: 0 <= size < np.inf,
        "a number of angstroms that is not negative",
    )
    modulation: NDArray[np.float64] = np.sinc(
        np.asarray(frequency, dtype=np.float64) * pixel_size
    )
    return modulation


def tilt_angles(
    tilt_range: tuple[float, float], tilt_step: float
) -> NDArray[np.float64]:
    """Return the tilts of a series.

    Parameters
    ----------
    tilt_range : (float, float)
        Smallest and largest tilt in degrees, within [-90, 90].
    tilt_step : float
        Degrees between tilts. A step wider than the range leaves the smallest tilt
        alone, a single central slice.

    Returns
    -------
    ndarray of shape (n,)
        The tilts in degrees, from the smallest on, as far as the range goes.

    Raises
    ------
    ValueError
        If the range or the step is out of range.

    Examples
    --------
    >>> from sksubtomo.datasets import tilt_angles
    >>> tilt_angles((-60.0, 60.0), 30.0)
    array([-60., -30.,   0.,  30.,  60.])
    """
    low, high = check_tilt_range(tilt_range)
    check_positive("tilt_step", tilt_step, "degrees")
    count = int(np.floor((high - low) / tilt_step + _ANGLE_TOLERANCE)) + 1
    angles: NDArray[np.float64] = low + tilt_step * np.arange(count, dtype=np.float64)
    return angles


def missing_wedge_mask(
    shape: int | tuple[int, int, int],
    tilt_range: tuple[float, float],
    tilt_axis: TiltAxis = "y",
) -> NDArray[np.bool_]:
    """Return the Fourier coefficients that a tilt series can measure.

    Parameters
    ----------
    shape : int or (int, int, int)
        Side of a cube, or depth, height and width of the volume, in voxels.
    tilt_range : (float, float)
        Smallest and largest tilt in degrees, within [-90, 90].
    tilt_axis : "x", "y" or float, default="y"
        The tilt axis; the beam runs along z. A number is the angle in degrees from the
        y axis to the tilt axis, counter-clockwise for x to the right and y up, as
        IMOD states it; 0 is "y" and 90 is "x".

    Returns
    -------
    ndarray of shape (depth, height, width // 2 + 1)
        True where measured, in the layout of `scipy.fft.rfftn`, axes z, y, x. The image
        at tilt t measures the plane spanned by the tilt axis and ``u cos t + z sin t``,
        where u is the direction across the tilt axis: x for the axis y, y for the axis
        x, and ``x cos a + y sin a`` for the angle a. A coefficient is measured if its
        angle ``arctan(kz / ku)`` lies in the range.

    Raises
    ------
    ValueError
        If a parameter is out of range.

    Examples
    --------
    >>> from sksubtomo.datasets import missing_wedge_mask
    >>> round(float(missing_wedge_mask(64, (-60.0, 60.0)).mean()), 1)
    0.7
    >>> bool(missing_wedge_mask(16, (-90.0, 90.0)).all())
    True
    """
    shape = _shape(shape)
    low, high = np.deg2rad(check_tilt_range(tilt_range))
    across = check_tilt_axis(tilt_axis)
    measured = np.ones((), dtype=bool)
    for kz, ku in _wedge_frequencies(shape, across):
        # The angle of the line through the coefficient, in [-90, 90] degrees.
        flipped = np.where(ku < 0, -1.0, 1.0)
        angle = np.arctan2(kz * flipped, ku * flipped)
        inside = (angle >= low - _ANGLE_TOLERANCE) & (angle <= high + _ANGLE_TOLERANCE)
        if max(-low, high) >= np.pi / 2 - _ANGLE_TOLERANCE:
            # +90 and -90 degrees are the same line.
            inside |= np.abs(angle) >= np.pi / 2 - _ANGLE_TOLERANCE
        inside |= (kz == 0) & (np.abs(ku) <= _ANGLE_TOLERANCE / max(shape))
        measured = measured & inside
    return np.broadcast_to(measured, _half(shape)).copy()


def tilt_weights(
    shape: int | tuple[int, int, int],
    tilt_range: tuple[float, float],
    tilt_step: float | None = 3.0,
    tilt_axis: TiltAxis = "y",
) -> NDArray[np.float32]:
    """Return how much of each Fourier coefficient a tilt series measures.

    Parameters
    ----------
    shape : int or (int, int, int)
        Side of a cube, or depth, height and width of the volume, in voxels.
    tilt_range : (float, float)
        Smallest and largest tilt in degrees, within [-90, 90].
    tilt_step : float, default=3.0
        Degrees between tilts [1]_. None means a continuum of tilts, and
        `missing_wedge_mask` as numbers.
    tilt_axis : "x", "y" or float, default="y"
        The tilt axis, as for `missing_wedge_mask`.

    Returns
    -------
    ndarray of shape (depth, height, width // 2 + 1)
        Numbers in [0, 1] in the layout of `scipy.fft.rfftn`.

    Raises
    ------
    ValueError
        If a parameter is out of range.

    Notes
    -----
    Each image fills in a central slice with a triangular profile that falls to zero
    half a Fourier coefficient away: what a reconstruction does that pads the images to
    twice the side and interpolates linearly in Fourier space. Where slices overlap the
    sum is divided by itself, which is the weighting of the back-projection; where it
    stays below 1, that is, between slices that are further apart than they are thick,
    it is left as it is. That is computed in steps of half a coefficient and smoothed by
    1/4, 1/2, 1/4 along z and across the tilt axis, as cutting out the volume does to a
    reconstruction of twice the side.

    The outermost slices are as thick as the others and so reach out of the wedge of
    `missing_wedge_mask`, close to the origin in particular. There the weights are
    multiplied by 0.25, which leaves less than 1 % of a scene's energy in the missing
    wedge.

    References
    ----------
    .. [1] Hagen, W. J. H., Wan, W. and Briggs, J. A. G. (2017). Implementation of a
       cryo-electron tomography tilt-scheme optimized for high resolution subtomogram
       averaging. Journal of Structural Biology 197, 191-198.

    Examples
    --------
    >>> from sksubtomo.datasets import tilt_weights
    >>> weights = tilt_weights(64, (-60.0, 60.0), 3.0)
    >>> weights.shape
    (64, 64, 33)
    >>> float(weights[0, 0, 8]), float(weights[16, 0, 0])
    (1.0, 0.0)
    """
    shape = _shape(shape)
    mask = missing_wedge_mask(shape, tilt_range, tilt_axis)
    if tilt_step is None:
        return mask.astype(np.float32)
    tilts = np.deg2rad(tilt_angles(tilt_range, tilt_step))
    across = check_tilt_axis(tilt_axis)
    # Half a coefficient, in cycles per voxel along z and across the tilt axis.
    half_z = 0.5 / shape[0]
    half_u = 0.5 * float(np.hypot(across[0] / shape[1], across[1] / shape[2]))
    weights = np.ones((), dtype=np.float64)
    for kz, ku in _wedge_frequencies(shape, across):
        # The weights depend on ku only, whatever the axis: a table of them is enough.
        n_steps = int(np.ceil(np.abs(ku).max() / half_u)) + 2
        grid = half_u * np.arange(-n_steps, n_steps + 1)
        table = np.zeros((shape[0], len(grid)))
        for offset, share in ((-half_z, 0.25), (0.0, 0.5), (half_z, 0.25)):
            total = np.zeros_like(table)
            for sine, cosine in zip(np.sin(tilts), np.cos(tilts), strict=True):
                reach = np.hypot(cosine * half_z, sine * half_u)
                distance = np.abs((kz[:, 0] + offset) * cosine - grid * sine)
                total += np.maximum(1 - distance / reach, 0)
            table += share * np.minimum(total, 1)
        table[:, 1:-1] = (
            0.25 * table[:, :-2] + 0.5 * table[:, 1:-1] + 0.25 * table[:, 2:]
        )
        position = ku / half_u + n_steps
        index = np.floor(position).astype(np.intp)
        fraction = position - index
        weights = np.minimum(
            weights, (1 - fraction) * table[:, index] + fraction * table[:, index + 1]
        )
    return np.where(mask, weights, _OUTSIDE_WEDGE * weights).astype(np.float32)


def transfer_volume(
    shape: int | tuple[int, int, int],
    voxel_size: float,
    microscope: Microscope | None = None,
    tilt_range: tuple[float, float] = (-60.0, 60.0),
    tilt_step: float | None = 3.0,
    tilt_axis: TiltAxis = "y",
    *,
    optics: bool = True,
) -> NDArray[np.float32]:
    """Return what imaging by a tilt series and reconstruction do to each coefficient.

    Parameters
    ----------
    shape : int or (int, int, int)
        Side of a cube, or depth, height and width of the volume, in voxels.
    voxel_size : float
        Voxel size in angstroms.
    microscope : Microscope, default=None
        Optics and detector. None means perfect ones: only the tilts matter.
    tilt_range : (float, float), default=(-60.0, 60.0)
        Smallest and largest tilt in degrees, within [-90, 90].
    tilt_step : float, default=3.0
        Degrees between tilts; None means a continuum.
    tilt_axis : "x", "y" or float, default="y"
        The tilt axis, as for `missing_wedge_mask`.
    optics : bool, default=True
        Whether what is imaged passes the optics. False is for the noise that arises in
        the detector: `tilt_weights` times `detector_mtf`.

    Returns
    -------
    ndarray of shape (depth, height, width // 2 + 1)
        Real factors in the layout of `scipy.fft.rfftn`: `tilt_weights` times
        `contrast_transfer`, `envelope` and `detector_mtf` at the frequency of the
        coefficient.

    Raises
    ------
    ValueError
        If a parameter is out of range.
    TypeError
        If a parameter is of a wrong type.

    Notes
    -----
    All images of the series have the same transfer: the defocus does not change along
    the beam or across a tilted image. Without astigmatism the transfer depends only on
    the distance from the origin, which in a slice one coefficient thick is that of the
    coefficient, so that the weighted mean over the slices is the transfer at that
    frequency times the clamped sum of their weights.

    Examples
    --------
    >>> from sksubtomo.datasets import Microscope, transfer_volume
    >>> transfer_volume((16, 32, 32), 10.0, Microscope(defocus=3.0)).shape
    (16, 32, 17)
    """
    shape = _shape(shape)
    check_positive("voxel_size", voxel_size, "angstroms")
    if not (microscope is None or isinstance(microscope, Microscope)):
        raise TypeError(
            f"microscope={microscope!r} of type {type(microscope).__name__}; expected "
            "a Microscope, or None for perfect optics."
        )
    transfer = tilt_weights(shape, tilt_range, tilt_step, tilt_axis)
    if microscope is None:
        return transfer
    pixel_size = voxel_size if microscope.pixel_size is None else microscope.pixel_size
    # One plane at a time, for the sake of memory at the size of a tomogram.
    for plane, frequency in zip(
        transfer, _planes_of_frequencies(shape, voxel_size), strict=True
    ):
        if optics:
            plane *= contrast_transfer(frequency, microscope)
            plane *= envelope(frequency, microscope.b_factor)
        plane *= detector_mtf(frequency, pixel_size)
    return transfer


def low_pass_transfer(
    shape: int | tuple[int, int, int], voxel_size: float, low_pass: float
) -> NDArray[np.float32]:
    """Return the transfer volume of a low-pass filter with a smooth edge.

    Parameters
    ----------
    shape : int or (int, int, int)
        Side of a cube, or depth, height and width of the volume, in voxels.
    voxel_size : float
        Voxel size in angstroms.
    low_pass : float
        Resolution d in angstroms at which the filter begins to fall; at most the
        longest side of the volume.

    Returns
    -------
    ndarray of shape (depth, height, width // 2 + 1)
        Real factors in the layout of `scipy.fft.rfftn`: 1 up to the spatial frequency
        1/d, beyond it ``exp(-(4 (f d - 1))^2)``, a Gaussian edge [1]_ that has fallen
        to 1/e at 1.25/d and to 0.0001 at 1.76/d. Its width is that of the paper's data
        [2]_: two Fourier coefficients, for a filter that begins to fall at eight.

    Raises
    ------
    ValueError
        If a parameter is out of range.
    TypeError
        If a parameter is of a wrong type.

    References
    ----------
    .. [1] The band-pass filter of the TOM toolbox: Nickell, S. et al. (2005). TOM
       software toolbox: acquisition and analysis for electron tomography. Journal of
       Structural Biology 149, 227-234.
    .. [2] Liu, S. et al. (2020). Efficient cryo-electron tomogram simulation of
       macromolecular crowding with application to SARS-CoV-2. IEEE International
       Conference on Bioinformatics and Biomedicine, 80-87.

    Examples
    --------
    >>> from sksubtomo.datasets import low_pass_transfer
    >>> low_pass_transfer(32, voxel_size=10.0, low_pass=40.0)[0, 0, 8:13].round(3)
    array([1.   , 0.779, 0.368, 0.105, 0.018], dtype=float32)
    """
    shape = _shape(shape)
    voxel_size = check_positive("voxel_size", voxel_size, "angstroms")
    low_pass = check_positive("low_pass", low_pass, "angstroms")
    side = max(shape) * voxel_size
    if low_pass > side:
        raise ValueError(
            f"low_pass={low_pass!r} lets nothing pass but the mean; expected at most "
            f"the longest side of the volume, {side:.4g} angstroms."
        )
    transfer = np.empty(_half(shape), dtype=np.float32)
    for plane, frequency in zip(
        transfer, _planes_of_frequencies(shape, voxel_size), strict=True
    ):
        beyond = np.maximum(frequency * low_pass - 1, 0)
        plane[:] = np.exp(-np.square(beyond / _LOW_PASS_EDGE))
    return transfer


def apply_transfer(
    volume: NDArray[np.float32], transfer: NDArray[np.float32] | NDArray[np.bool_]
) -> NDArray[np.float32]:
    """Multiply a volume by a transfer volume in Fourier space.

    Parameters
    ----------
    volume : ndarray of shape (depth, height, width)
        The volume, taken as periodic: pad it first.
    transfer : ndarray of shape (depth, height, width // 2 + 1)
        Real factors in the layout of `scipy.fft.rfftn`.

    Returns
    -------
    ndarray of shape (depth, height, width)
        The filtered volume.

    Raises
    ------
    ValueError
        If the shapes do not fit.
    """
    if volume.ndim != 3:
        raise ValueError(
            f"volume has shape {volume.shape}; expected depth, height and width."
        )
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


def crop_center(
    volume: NDArray[np.float32], shape: int | tuple[int, int, int]
) -> NDArray[np.float32]:
    """Cut the central part out of a volume.

    Parameters
    ----------
    volume : ndarray of shape (depth, height, width)
        The volume.
    shape : int or (int, int, int)
        Sides of the central part in voxels. Along each axis the volume's side less this
        one has to be even, so that the centres coincide.

    Returns
    -------
    ndarray of shape `shape`
        A view of the central part.

    Raises
    ------
    ValueError
        If the volume has no central part of that shape.
    """
    sides = _sides(shape)
    if len(sides) != volume.ndim:
        raise ValueError(
            f"shape={shape!r} does not fit a volume of shape {volume.shape}; expected "
            "the side of a cube, or depth, height and width."
        )
    margins = [outer - inner for outer, inner in zip(volume.shape, sides, strict=True)]
    if any(margin < 0 or margin % 2 for margin in margins) or min(sides) < 1:
        raise ValueError(
            f"shape={shape!r} does not lie centrally in a volume of shape "
            f"{volume.shape}; expected at most its sides, and both even or both odd."
        )
    middle = tuple(
        slice(margin // 2, margin // 2 + inner)
        for margin, inner in zip(margins, sides, strict=True)
    )
    return volume[middle]


def noise_transfer(
    structural: NDArray[np.float32],
    detector: NDArray[np.float32],
    structural_noise: float,
) -> NDArray[np.float32]:
    """Return the transfer volume of noise from the specimen and from the detector.

    The sum of two independent Gaussian noises is one Gaussian noise with the sum of
    their power spectra, so that one draw stands for both.

    Parameters
    ----------
    structural : ndarray of shape (depth, height, width // 2 + 1)
        What the noise that arises in the specimen passes: `transfer_volume`.
    detector : ndarray of the same shape
        What the noise that arises in the detector passes: `transfer_volume` with
        ``optics=False``.
    structural_noise : float
        The fraction of the variance, behind the transfer, that arises in the specimen;
        in [0, 1].

    Returns
    -------
    ndarray of the same shape
        Factors that give white noise of unit variance both spectra, in the layout of
        `scipy.fft.rfftn`, and leave its variance at 1.

    Raises
    ------
    ValueError
        If shapes do not fit, if `structural_noise` is out of range, or if a transfer
        volume that is needed lets nothing pass.
    TypeError
        If `structural_noise` is not a number.
    """
    structural_noise = check_fraction("structural_noise", structural_noise)
    if detector.shape != structural.shape:
        raise ValueError(
            f"detector has shape {detector.shape}; expected that of structural, "
            f"{structural.shape}."
        )
    power = np.zeros(structural.shape, dtype=np.float32)
    for name, part, share in (
        ("structural", structural, structural_noise),
        ("detector", detector, 1 - structural_noise),
    ):
        if share == 0:
            continue
        squared = np.square(part)
        # All planes but the first stand for two. For an even width the last one does
        # not; that changes the variance by less than the noise itself does.
        first = squared[..., 0]
        total = 2 * squared.sum(dtype=np.float64) - first.sum(dtype=np.float64)
        if total == 0:
            raise ValueError(
                f"{name} is zero everywhere; expected a transfer volume that lets "
                "something pass."
            )
        count = 2 * squared.size - first.size
        squared *= np.float32(share * count / total)
        power += squared
    return np.sqrt(power, out=power)


def filtered_noise(
    shape: int | tuple[int, int, int],
    transfer: NDArray[np.float32] | NDArray[np.bool_],
    rng: np.random.Generator,
) -> NDArray[np.float32]:
    """Draw white Gaussian noise and pass it through a transfer volume.

    Parameters
    ----------
    shape : int or (int, int, int)
        Side of a cube, or depth, height and width of the volume, in voxels.
    transfer : ndarray of shape (depth, height, width // 2 + 1)
        Real factors in the layout of `scipy.fft.rfftn`.
    rng : numpy.random.Generator
        Source of randomness.

    Returns
    -------
    ndarray of shape (depth, height, width)
        The noise, of unit variance before the transfer.

    Raises
    ------
    ValueError
        If the shapes do not fit.
    """
    noise = rng.standard_normal(_shape(shape), dtype=np.float32)
    return apply_transfer(noise, transfer)


def add_noise(
    volume: NDArray[np.float32], noise: NDArray[np.float32], snr: float
) -> NDArray[np.float32]:
    """Add given noise at an exact signal-to-noise ratio.

    Parameters
    ----------
    volume : ndarray
        The clean volume.
    noise : ndarray of the same shape
        The noise, in any units.
    snr : float
        Variance of the clean volume over variance of the noise that is added: the noise
        is scaled so that the ratio of the realised variances is `snr`, up to the
        rounding of float32. ``inf`` adds none.

    Returns
    -------
    ndarray
        The noisy volume, a new array.

    Raises
    ------
    ValueError
        If `snr` is not positive, or if the volume or the noise is constant, so that
        there is no such ratio.

    Examples
    --------
    >>> import numpy as np
    >>> from sksubtomo.datasets import add_noise
    >>> clean = np.array([0.0, 0.0, 1.0, 1.0], dtype=np.float32)
    >>> add_noise(clean, np.array([5.0, -5.0, 5.0, -5.0], dtype=np.float32), snr=1.0)
    array([ 0.5, -0.5,  1.5,  0.5], dtype=float32)
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
    variance = noise.var(dtype=np.float64)
    if variance == 0:
        raise ValueError(
            f"the noise is constant, so that it cannot be scaled to snr={snr!r}; "
            "expected noise that varies."
        )
    return volume + np.float32(np.sqrt(signal / (snr * variance))) * noise


def add_white_noise(
    volume: NDArray[np.float32], snr: float, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Add white Gaussian noise at an exact signal-to-noise ratio.

    Parameters
    ----------
    volume : ndarray
        The clean volume.
    snr : float
        Variance of the clean volume over variance of the noise, as for `add_noise`.
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
    noise = rng.standard_normal(volume.shape, dtype=np.float32)
    return add_noise(volume, noise, snr)


def check_tilt_range(tilt_range: Any) -> tuple[float, float]:
    """Return a tilt range as floats.

    Parameters
    ----------
    tilt_range : (float, float)
        Smallest and largest tilt in degrees.

    Returns
    -------
    (float, float)
        The same.

    Raises
    ------
    TypeError
        If it is not a pair of numbers.
    ValueError
        If they are not ascending or not within [-90, 90].
    """
    expected = "two angles (smallest, largest) in degrees within [-90, 90]"
    try:
        low, high = tilt_range
    except (TypeError, ValueError):
        raise TypeError(f"tilt_range={tilt_range!r}; expected {expected}.") from None
    if not (isinstance(low, Real) and isinstance(high, Real)):
        raise TypeError(f"tilt_range={tilt_range!r}; expected {expected}.")
    if not -90 <= float(low) < float(high) <= 90:
        raise ValueError(f"tilt_range={tilt_range!r}; expected {expected}.")
    return float(low), float(high)


def check_tilt_axis(tilt_axis: Any) -> tuple[float, float]:
    """Return the direction across a tilt axis.

    Parameters
    ----------
    tilt_axis : "x", "y" or float
        The tilt axis, as for `missing_wedge_mask`.

    Returns
    -------
    (float, float)
        The components y, x of the unit vector in the plane of the untilted image that
        is normal to the tilt axis.

    Raises
    ------
    TypeError
        If it is neither "x", "y" nor a number.
    ValueError
        If it is another name, or not finite.
    """
    if tilt_axis == "y":
        return 0.0, 1.0
    if tilt_axis == "x":
        return 1.0, 0.0
    expected = "'x', 'y' or the angle from the y axis in degrees"
    if isinstance(tilt_axis, str):
        raise ValueError(f"tilt_axis={tilt_axis!r}; expected {expected}.")
    if not isinstance(tilt_axis, Real) or isinstance(tilt_axis, bool):
        raise TypeError(f"tilt_axis={tilt_axis!r}; expected {expected}.")
    if not np.isfinite(float(tilt_axis)):
        raise ValueError(f"tilt_axis={tilt_axis!r}; expected {expected}.")
    angle = np.deg2rad(float(tilt_axis))
    # Rounded, so that a quarter turn has components of exactly 0 and 1.
    return round(float(np.sin(angle)), 15), round(float(np.cos(angle)), 15)


def _sides(shape: int | tuple[int, int, int]) -> tuple[int, ...]:
    return tuple(shape) if isinstance(shape, Sequence) else (shape,) * 3


def _shape(shape: int | tuple[int, int, int]) -> tuple[int, int, int]:
    sides = _sides(shape)
    if len(sides) != 3 or not all(
        isinstance(side, Integral) and side > 1 for side in sides
    ):
        raise ValueError(
            f"shape={shape!r}; expected the side of a cube, or depth, height and "
            "width, in voxels, each at least 2."
        )
    return int(sides[0]), int(sides[1]), int(sides[2])


def _half(shape: tuple[int, int, int]) -> tuple[int, int, int]:
    return shape[0], shape[1], shape[2] // 2 + 1


def _frequencies(shape: tuple[int, int, int]) -> list[NDArray[np.float64]]:
    """Return the frequencies along z, y and x, in cycles per voxel, as of rfftn."""
    return [
        fft.fftfreq(shape[0]),
        fft.fftfreq(shape[1]),
        fft.rfftfreq(shape[2]),
    ]


def _planes_of_frequencies(
    shape: tuple[int, int, int], voxel_size: float
) -> Iterator[NDArray[np.float64]]:
    """Yield the spatial frequencies of each plane in z, in 1/angstrom."""
    along_z, along_y, along_x = (axis / voxel_size for axis in _frequencies(shape))
    in_plane = along_y[:, None] ** 2 + along_x**2
    for frequency in along_z:
        yield np.sqrt(in_plane + frequency**2)


def _wedge_frequencies(
    shape: tuple[int, int, int], across: tuple[float, float]
) -> Iterator[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Yield the frequencies along z and across the tilt axis, which broadcast.

    They come twice, with either sign of those at Nyquist: on the planes at the Nyquist
    frequency of an even side +f and -f are one coefficient, and the factors of a real
    volume have to be the same for both.
    """
    for sign in (1.0, -1.0):
        along = _frequencies(shape)
        for axis, side in zip(along, shape, strict=True):
            if side % 2 == 0:
                axis[side // 2] *= sign
        kz, ky, kx = along[0][:, None, None], along[1][:, None], along[2][None]
        terms = [
            component * axis
            for component, axis in zip(across, (ky, kx), strict=True)
            # An axis that the tilt axis lies along does not matter.
            if component
        ]
        yield kz, sum(terms[1:], terms[0])  # (depth, 1, 1), (height, width), or 1
