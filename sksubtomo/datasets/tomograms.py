"""Simulated tomograms with the place and pose of every complex."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft
from sklearn.utils import Bunch

from sksubtomo.datasets._checks import (
    as_seed,
    check_crowding,
    check_fraction,
    check_integer,
    check_optional,
    check_positive,
    check_snr,
    seed_sequence,
)
from sksubtomo.datasets._classes import resolve_structures
from sksubtomo.datasets.imaging import (
    Microscope,
    TiltAxis,
    add_noise,
    apply_transfer,
    check_tilt_axis,
    check_tilt_range,
    crop_center,
    draw_density,
    filtered_noise,
    gaussian_transfer,
    low_pass_transfer,
    noise_transfer,
    transfer_volume,
)
from sksubtomo.datasets.packing import pack_spheres, random_rotations, transform_points
from sksubtomo.datasets.structures import POINTS_PER_VOXEL, Structure, coarse_grain

# Part of space that equal spheres fill in random close packing.
_RANDOM_CLOSE_PACKING = 0.64

# The tomogram is filtered with an empty margin of so many voxels on each side, because
# the filter is periodic and the contrast transfer spreads a point over several voxels.
_MARGIN = 32

_MICROSCOPE = Microscope()


def make_tomogram(
    n_particles: int | None = None,
    *,
    structures: str | Path | Sequence[str | Path | Structure] | None = None,
    shape: tuple[int, int, int] = (64, 256, 256),
    voxel_size: float = 10.0,
    resolution: float | None = None,
    crowding: float = 0.3,
    snr: float = 0.1,
    tilt_range: tuple[float, float] = (-60.0, 60.0),
    tilt_axis: TiltAxis = "y",
    microscope: Microscope | None = _MICROSCOPE,
    structural_noise: float = 0.5,
    random_state: int | np.random.RandomState | np.random.Generator | None = None,
    return_clean: bool = False,
    low_pass: float | None = None,
) -> Bunch:
    """Simulate a tomogram of many complexes, each with its place, class and pose.

    Complexes drawn from all classes with equal probability lie in uniformly random
    orientations wholly inside the tomogram, so that no bounding spheres overlap. They
    are imaged by the same microscope as in `make_subtomograms`.

    Parameters
    ----------
    n_particles : int, default=None
        Number of complexes. None means as many as `crowding` says.
    structures : str, Path, list or None, default=None
        The complexes, one class each, as for `make_subtomograms`. None means all
        phantoms.
    shape : (int, int, int), default=(64, 256, 256)
        Depth, height and width of the tomogram in voxels.
    voxel_size : float, default=10.0
        Voxel size in angstroms.
    resolution : float, default=None
        Resolution in angstroms, the inverse of the frequency at which amplitudes fall
        to 1/e. None means two voxels.
    crowding : float, default=0.3
        Density of the bounding spheres relative to random close packing, in which they
        fill 0.64 of the volume [1]_. Up to about 0.8 can be packed in a thick tomogram,
        0.7 in one that is as thin as two complexes. Has no effect if `n_particles` is
        given. The default is a choice: bounding spheres that fill 19 % of the volume.
    snr : float, default=0.1
        Signal-to-noise ratio: the variance of the clean tomogram over the variance of
        the noise. ``inf`` means no noise.
    tilt_range : (float, float), default=(-60.0, 60.0)
        Smallest and largest tilt in degrees.
    tilt_axis : "x", "y" or float, default="y"
        The tilt axis, or its angle from the y axis in degrees. The beam runs along z.
    microscope : Microscope or None, default=Microscope()
        Optics and detector; None means perfect ones.
    structural_noise : float, default=0.5
        The fraction of the noise's variance that passes the optics, as for
        `make_subtomograms`.
    random_state : int, RandomState, Generator or None, default=None
        Seed. An int gives the same tomogram each time; None gives another each time and
        leaves NumPy's global generator alone.
    return_clean : bool, default=False
        Whether to return the tomogram without noise as well.
    low_pass : float, default=None
        Resolution in angstroms at which a low-pass filter begins to fall that signal
        and noise pass at the end (`low_pass_transfer`); `snr` is the ratio behind it.
        None means no filter.

    Returns
    -------
    Bunch
        A dictionary with attributes:

        tomogram : ndarray of shape `shape`, float32
            The tomogram, z first; protein is positive.
        coordinates : ndarray of shape (n_particles, 3)
            Centres of mass z, y, x in voxels: 0 is the centre of the first voxel, so
            that a complex at (3, 4, 5) is centred on ``tomogram[3, 4, 5]``.
        target : ndarray of shape (n_particles,), int64
            The class of each complex.
        target_names : ndarray of shape (n_classes,)
            The name of each class.
        rotations : ndarray of shape (n_particles, 3, 3)
            Orientation of each complex: the matrix that takes its structure's
            coordinates to the tomogram's, acting on columns z, y, x.
        radii : ndarray of shape (n_particles,)
            Radius of the bounding sphere of each complex in angstroms.
        clean : ndarray of shape `shape`, float32
            The tomogram without noise, if `return_clean`.
        voxel_size : float
            Voxel size in angstroms.
        resolution : float
            Resolution in angstroms.
        microscope : Microscope or None
            The optics.
        structures : list of Structure
            The structure of each class.
        parameters : dict
            The parameters that make the same tomogram, but for the structures.
        DESCR : str
            A description of the tomogram.

    Raises
    ------
    ValueError
        If a parameter is out of range, if a structure is larger than the tomogram or if
        the complexes do not fit into it.
    TypeError
        If a parameter is of a wrong type.
    FileNotFoundError
        If a file or folder of structures does not exist.

    See Also
    --------
    make_subtomograms : Single complexes, cut out.
    pack_spheres : The packing.
    write_tomogram : Write it to disk.

    Notes
    -----
    The tilts are a continuum. At the size of a tomogram the central slices of single
    images lie far apart in Fourier space, which shows as faint rays that each complex
    casts far around it; they are left out.

    Each complex is drawn in a box of its own, and the scene is filtered once with an
    empty margin of 32 voxels on each side, so that memory peaks at about ten times that
    of the tomogram and grows with nothing else. The same `random_state` with
    ``snr=inf`` gives the clean tomogram.

    References
    ----------
    .. [1] Scott, G. D. and Kilgour, D. M. (1969). The density of random close packing
       of spheres. Journal of Physics D 2, 863-866.

    Examples
    --------
    >>> from sksubtomo.datasets import make_tomogram
    >>> scene = make_tomogram(8, shape=(32, 64, 64), voxel_size=15.0, random_state=0)
    >>> scene.tomogram.shape, scene.coordinates.shape
    ((32, 64, 64), (8, 3))
    """
    if n_particles is not None:
        n_particles = check_integer("n_particles", n_particles, 1)
    shape = _check_shape(shape)
    voxel_size = check_positive("voxel_size", voxel_size, "angstroms")
    resolution = check_optional("resolution", resolution, "angstroms") or 2 * voxel_size
    low_pass = check_optional("low_pass", low_pass, "angstroms")
    crowding = check_crowding(crowding)
    structural_noise = check_fraction("structural_noise", structural_noise)
    snr = check_snr(snr)
    classes = resolve_structures(structures)
    tilt_range = check_tilt_range(tilt_range)
    check_tilt_axis(tilt_axis)
    root = seed_sequence(random_state)
    class_rng, place_rng, pose_rng, noise_rng = map(
        np.random.default_rng, root.spawn(4)
    )
    parameters = {
        "n_particles": n_particles,
        "shape": shape,
        "voxel_size": voxel_size,
        "resolution": resolution,
        "crowding": crowding,
        "snr": snr,
        "tilt_range": tilt_range,
        "tilt_axis": tilt_axis,
        "microscope": microscope,
        "structural_noise": structural_noise,
        "random_state": as_seed(root.entropy),
        "low_pass": low_pass,
    }

    cell = voxel_size / POINTS_PER_VOXEL
    class_radii = np.array([max(structure.radius, cell) for structure in classes])
    sides = np.array(shape) * voxel_size
    _check_sizes(classes, class_radii, shape, voxel_size)
    if n_particles is None:
        target = _draw_classes(class_radii, sides, crowding, class_rng)
    else:
        target = class_rng.integers(len(classes), size=n_particles)
    radii = class_radii[target]
    try:
        places = pack_spheres(radii, sides, place_rng)
    except ValueError as error:
        parameter = (
            f"crowding={crowding!r}"
            if n_particles is None
            else f"n_particles={n_particles}"
        )
        raise ValueError(f"{parameter} with shape={shape}: {error}") from error
    # Distances from the corner of the first voxel become positions of voxel centres.
    coordinates = places / voxel_size - 0.5
    rotations = random_rotations(len(target), pose_rng)

    padded = (_padded(shape[0]), _padded(shape[1]), _padded(shape[2]))
    image = partial(
        transfer_volume,
        padded,
        voxel_size,
        microscope,
        tilt_range=tilt_range,
        tilt_step=None,
        tilt_axis=tilt_axis,
    )
    transfer = image()
    passed = (
        np.float32(1)
        if low_pass is None
        else low_pass_transfer(padded, voxel_size, low_pass)
    )
    if np.isfinite(snr):
        for_noise = noise_transfer(transfer, image(optics=False), structural_noise)
        for_noise *= passed
        noise = crop_center(filtered_noise(padded, for_noise, noise_rng), shape).copy()
        del for_noise
    transfer *= gaussian_transfer(padded, voxel_size, resolution)
    transfer *= passed
    scene = _draw_scene(
        [coarse_grain(structure, cell) for structure in classes],
        target,
        rotations,
        coordinates + (np.array(padded) - shape) / 2,
        padded,
        voxel_size,
    )
    clean = crop_center(apply_transfer(scene, transfer), shape).copy()
    del scene, transfer
    tomogram = add_noise(clean, noise, snr) if np.isfinite(snr) else clean
    bunch = Bunch(
        tomogram=tomogram,
        coordinates=coordinates,
        target=target,
        target_names=np.array([structure.name for structure in classes]),
        rotations=rotations,
        radii=radii,
        voxel_size=voxel_size,
        resolution=resolution,
        microscope=microscope,
        structures=classes,
        parameters=parameters,
        DESCR=_describe(classes, target, shape, voxel_size, resolution, snr),
    )
    if return_clean:
        bunch.clean = clean
    return bunch


def _check_shape(shape: Any) -> tuple[int, int, int]:
    try:
        depth, height, width = shape
    except (TypeError, ValueError):
        raise TypeError(
            f"shape={shape!r}; expected depth, height and width in voxels."
        ) from None
    return (
        check_integer("shape[0]", depth, 8),
        check_integer("shape[1]", height, 8),
        check_integer("shape[2]", width, 8),
    )


def _check_sizes(
    classes: list[Structure],
    radii: NDArray[np.float64],
    shape: tuple[int, int, int],
    voxel_size: float,
) -> None:
    largest = int(radii.argmax())
    diameter = 2 * float(radii[largest])
    if diameter > min(shape) * voxel_size:
        raise ValueError(
            f"shape={shape} with voxel_size={voxel_size!r} is too small for "
            f"{classes[largest].name!r}, which is up to {diameter:.4g} A across; "
            f"expected sides of at least {int(np.ceil(diameter / voxel_size))} voxels."
        )


def _draw_classes(
    radii: NDArray[np.float64],
    sides: NDArray[np.float64],
    crowding: float,
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """Draw as many complexes as have their bounding spheres fill the volume."""
    volumes = 4 / 3 * np.pi * radii**3
    wanted = crowding * _RANDOM_CLOSE_PACKING * sides.prod()
    enough = int(wanted / volumes.min()) + 1
    target = rng.integers(len(radii), size=enough)
    count = np.searchsorted(np.cumsum(volumes[target]), wanted, side="right")
    return target[: max(int(count), 1)]


def _draw_scene(
    structures: list[Structure],
    target: NDArray[np.int64],
    rotations: NDArray[np.float64],
    coordinates: NDArray[np.float64],
    shape: tuple[int, int, int],
    voxel_size: float,
) -> NDArray[np.float32]:
    """Draw each complex in a box just large enough, and add the box to the volume."""
    scene = np.zeros(shape, dtype=np.float32)
    for label, rotation, position in zip(target, rotations, coordinates, strict=True):
        structure = structures[label]
        # Two voxels more than the diameter, as the box lies on whole voxels.
        side = int(np.ceil(2 * structure.radius / voxel_size)) + 2
        corner = np.round(position - (side - 1) / 2).astype(int)
        shift = (position - corner - (side - 1) / 2) * voxel_size
        points = transform_points(structure.coordinates, rotation, shift)
        box = tuple(slice(start, start + side) for start in corner)
        scene[box] += draw_density(points, structure.masses, side, voxel_size)
    return scene


def _padded(side: int) -> int:
    """Return a fast FFT size that leaves the margin and the same centre."""
    padded = fft.next_fast_len(side + 2 * _MARGIN, real=True)
    while (padded - side) % 2:
        padded = fft.next_fast_len(padded + 1, real=True)
    return int(padded)


def _describe(
    classes: list[Structure],
    target: NDArray[np.int64],
    shape: tuple[int, int, int],
    voxel_size: float,
    resolution: float,
    snr: float,
) -> str:
    lines = [
        "Simulated tomogram",
        "------------------",
        f"{len(target)} complexes in {' x '.join(map(str, shape))} voxels (z, y, x) of "
        f"{voxel_size:.4g} A, at {resolution:.4g} A resolution and a signal-to-noise "
        f"variance ratio of {snr:g}.",
        "",
        "Classes:",
    ]
    counts = np.bincount(target, minlength=len(classes))
    lines += [
        f"- {structure.name}: {count}"
        for structure, count in zip(classes, counts, strict=True)
    ]
    return "\n".join(lines) + "\n"
