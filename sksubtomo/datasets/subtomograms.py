"""Simulated subtomograms of known class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
from joblib import Parallel, delayed
from numpy.typing import NDArray
from scipy import fft
from sklearn.utils import Bunch, gen_batches

from sksubtomo.datasets.imaging import (
    add_white_noise,
    apply_transfer,
    crop_center,
    draw_density,
    gaussian_transfer,
    missing_wedge_mask,
)
from sksubtomo.datasets.packing import (
    place_neighbors,
    random_rotations,
    transform_points,
)
from sksubtomo.datasets.phantoms import PHANTOMS, list_phantoms, load_phantom
from sksubtomo.datasets.structures import (
    Structure,
    check_unique_names,
    coarse_grain,
    load_structure,
    load_structures,
)

# The filtered scene is periodic; twice the crop keeps the streaks of the missing wedge
# from coming in on the other side.
_PADDING = 2

# Points per voxel and axis that structures are reduced to before they are drawn.
_POINTS_PER_VOXEL = 2

_CHUNK = 16


@dataclass(frozen=True)
class _Scene:
    """What all volumes of a data set share."""

    structures: list[Structure]
    radii: NDArray[np.float64]
    size: int
    scene_size: int
    voxel_size: float
    transfer: NDArray[np.float32]
    snr: float
    n_neighbors: int
    max_shift: float
    entropy: Any


@overload
def make_subtomograms(
    n_per_class: int = ...,
    *,
    structures: str | Path | Sequence[str | Path | Structure] | None = ...,
    size: int = ...,
    voxel_size: float | None = ...,
    resolution: float | None = ...,
    snr: float = ...,
    n_neighbors: int = ...,
    max_shift: float = ...,
    tilt_range: tuple[float, float] = ...,
    shuffle: bool = ...,
    random_state: int | np.random.RandomState | np.random.Generator | None = ...,
    n_jobs: int | None = ...,
    return_X_y: Literal[False] = ...,
) -> Bunch: ...


@overload
def make_subtomograms(
    n_per_class: int = ...,
    *,
    structures: str | Path | Sequence[str | Path | Structure] | None = ...,
    size: int = ...,
    voxel_size: float | None = ...,
    resolution: float | None = ...,
    snr: float = ...,
    n_neighbors: int = ...,
    max_shift: float = ...,
    tilt_range: tuple[float, float] = ...,
    shuffle: bool = ...,
    random_state: int | np.random.RandomState | np.random.Generator | None = ...,
    n_jobs: int | None = ...,
    return_X_y: Literal[True],
) -> tuple[NDArray[np.float32], NDArray[np.int64]]: ...


def make_subtomograms(
    n_per_class: int = 100,
    *,
    structures: str | Path | Sequence[str | Path | Structure] | None = None,
    size: int = 32,
    voxel_size: float | None = None,
    resolution: float | None = None,
    snr: float = 0.1,
    n_neighbors: int = 2,
    max_shift: float = 0.1,
    tilt_range: tuple[float, float] = (-60.0, 60.0),
    shuffle: bool = True,
    random_state: int | np.random.RandomState | np.random.Generator | None = None,
    n_jobs: int | None = None,
    return_X_y: bool = False,
) -> Bunch | tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Simulate subtomograms of several complexes.

    Each volume shows one complex, its class, in a uniformly random orientation and off
    the centre, among neighbours drawn from all classes, with a missing wedge and white
    noise.

    Parameters
    ----------
    n_per_class : int, default=100
        Number of volumes of each class.
    structures : str, Path, list or None, default=None
        The complexes, one class each. None means all phantoms (`list_phantoms`), which
        need no file. A path means all PDB, mmCIF and MRC files of that folder
        (`load_structures`). In a list, each item is the path of such a file
        (`load_structure`), the name of a phantom, or a `Structure`.
    size : int, default=32
        Side of the volumes in voxels, at least 8.
    voxel_size : float, default=None
        Voxel size in angstroms. None means the smallest at which the largest structure
        fits into the volume wherever it is shifted and turned: twice its bounding
        radius is ``size * (1 - 2 * max_shift)`` voxels.
    resolution : float, default=None
        Resolution in angstroms, the inverse of the frequency at which amplitudes fall
        to 1/e. None means two voxels. Finer than 1.8 voxels has no effect.
    snr : float, default=0.1
        Signal-to-noise ratio: the variance of the clean volume, neighbours included,
        over the variance of the noise, exact for each volume. ``inf`` means no noise.
    n_neighbors : int, default=2
        Number of complexes packed around the target (`place_neighbors`).
    max_shift : float, default=0.1
        The target's centre of mass lies off the centre of the volume by a shift that is
        uniform within this fraction of the side in either direction of each axis. Less
        than 0.5.
    tilt_range : (float, float), default=(-60.0, 60.0)
        Smallest and largest tilt in degrees. Coefficients outside the range are missing
        (`missing_wedge_mask`); (-90, 90) measures all. The tilt axis is y and the beam
        runs along z.
    shuffle : bool, default=True
        Whether to shuffle the volumes; otherwise they come class by class.
    random_state : int, RandomState, Generator or None, default=None
        Seed. An int gives the same volumes each time, whatever `n_jobs`; None gives
        others each time and leaves NumPy's global generator alone.
    n_jobs : int, default=None
        Number of threads, as for joblib. More than one pays from about 32 voxels on.
    return_X_y : bool, default=False
        Whether to return ``(data, target)`` instead of a Bunch.

    Returns
    -------
    data : Bunch
        A dictionary with attributes:

        data : ndarray of shape (n, size, size, size), float32
            The volumes, z first, in daltons per cubic angstrom; protein is positive.
        target : ndarray of shape (n,), int64
            The class of each volume.
        target_names : ndarray of shape (n_classes,)
            The name of each class.
        rotations : ndarray of shape (n, 3, 3)
            Orientation of each target: the matrix that takes its structure's
            coordinates to the volume's, acting on columns z, y, x. For columns x, y, z
            use ``rotations[:, ::-1, ::-1]``.
        shifts : ndarray of shape (n, 3)
            Position z, y, x of the target's centre of mass in angstroms relative to the
            centre of the volume, which is at ``(size - 1) / 2`` voxels.
        voxel_size : float
            Voxel size in angstroms.
        resolution : float
            Resolution in angstroms.
        structures : list of Structure
            The structure of each class.
        DESCR : str
            A description of the data set.
    (data, target) : tuple
        If `return_X_y` is True.

    Raises
    ------
    ValueError
        If a parameter is out of range, if a name is no phantom, if a folder has no
        structure or if a file cannot be read; the message names the parameter or file.
    TypeError
        If a parameter is of a wrong type.
    FileNotFoundError
        If a file or folder does not exist.

    See Also
    --------
    load_structure : Read a structure file, with options for maps.
    list_phantoms : The names of the phantoms.

    Notes
    -----
    The scene is drawn and filtered in a cube of twice the side, then cropped, as a
    subtomogram is cut from a tomogram: the crop's edges put a little energy back into
    the missing wedge. Noise is added last and is white, also in the wedge. It has its
    own random stream, so that the same `random_state` with ``snr=inf`` gives the clean
    volumes. Volume i of a class does not depend on `n_per_class`.

    Examples
    --------
    >>> from sksubtomo.datasets import make_subtomograms
    >>> subtomograms = make_subtomograms(3, size=16, random_state=0)
    >>> subtomograms.data.shape
    (30, 16, 16, 16)
    >>> X, y = make_subtomograms(
    ...     4, structures=["groel", "apoferritin"], size=8, return_X_y=True
    ... )
    >>> X.shape, y.shape
    ((8, 8, 8, 8), (8,))
    """
    n_per_class = _integer("n_per_class", n_per_class, 1)
    size = _integer("size", size, 8)
    n_neighbors = _integer("n_neighbors", n_neighbors, 0)
    snr = _number("snr", snr, "a positive number or inf")
    if not snr > 0:
        raise ValueError(f"snr={snr!r}; expected a positive number or inf.")
    max_shift = _number("max_shift", max_shift, "a fraction of the side in [0, 0.5)")
    if not 0 <= max_shift < 0.5:
        raise ValueError(
            f"max_shift={max_shift!r}; expected a fraction of the side in [0, 0.5)."
        )
    tilt_range = _tilt_range(tilt_range)
    for parameter, value in (("voxel_size", voxel_size), ("resolution", resolution)):
        if value is not None:
            _positive_length(parameter, value)
    root = _seed_sequence(random_state)
    classes = _resolve_structures(structures)

    radii = np.array([structure.radius for structure in classes])
    if voxel_size is None:
        voxel_size = 2 * float(radii.max()) / (size * (1 - 2 * max_shift))
        if voxel_size == 0:
            raise ValueError(
                "voxel_size=None cannot be derived from structures of a single point; "
                "expected a number of angstroms."
            )
    voxel_size = float(voxel_size)
    resolution = 2 * voxel_size if resolution is None else float(resolution)

    scene_size = _scene_size(size)
    transfer = gaussian_transfer(scene_size, voxel_size, resolution)
    transfer *= missing_wedge_mask(scene_size, tilt_range)
    cell = voxel_size / _POINTS_PER_VOXEL
    scene = _Scene(
        structures=[coarse_grain(structure, cell) for structure in classes],
        # The bounding sphere of a single point still needs a size to be packed.
        radii=np.maximum(radii, cell),
        size=size,
        scene_size=scene_size,
        voxel_size=voxel_size,
        transfer=transfer,
        snr=snr,
        n_neighbors=n_neighbors,
        max_shift=max_shift,
        entropy=root.entropy,
    )
    target = np.repeat(np.arange(len(classes), dtype=np.int64), n_per_class)
    rank = np.tile(np.arange(n_per_class), len(classes))
    if shuffle:
        # Keys of volumes have two numbers, so this one is nobody else's.
        key = np.random.SeedSequence(root.entropy, spawn_key=(0,))
        order = np.random.default_rng(key).permutation(len(target))
        target, rank = target[order], rank[order]

    data = np.empty((len(target), size, size, size), dtype=np.float32)
    rotations = np.empty((len(target), 3, 3))
    shifts = np.empty((len(target), 3))
    # Threads, because NumPy and SciPy release the interpreter's lock for most of the
    # time, and because they can write into the same arrays.
    Parallel(n_jobs=n_jobs, require="sharedmem")(
        delayed(_simulate)(
            scene, target[rows], rank[rows], data[rows], rotations[rows], shifts[rows]
        )
        for rows in gen_batches(len(target), _CHUNK)
    )

    if return_X_y:
        return data, target
    return Bunch(
        data=data,
        target=target,
        target_names=np.array([structure.name for structure in classes]),
        rotations=rotations,
        shifts=shifts,
        voxel_size=voxel_size,
        resolution=resolution,
        structures=classes,
        DESCR=_describe(classes, n_per_class, scene, resolution, tilt_range),
    )


def _simulate(
    scene: _Scene,
    target: NDArray[np.int64],
    rank: NDArray[np.int64],
    data: NDArray[np.float32],
    rotations: NDArray[np.float64],
    shifts: NDArray[np.float64],
) -> None:
    """Fill in the volumes of given class and rank within the class, and their poses."""
    limit = scene.max_shift * scene.size * scene.voxel_size
    for row, (label, number) in enumerate(zip(target, rank, strict=True)):
        key = (int(label), int(number))
        seeds = np.random.SeedSequence(scene.entropy, spawn_key=key).spawn(3)
        pose_rng, crowd_rng, noise_rng = map(np.random.default_rng, seeds)
        rotations[row] = random_rotations(1, pose_rng)[0]
        shifts[row] = pose_rng.uniform(-limit, limit, size=3)

        crowd = crowd_rng.integers(len(scene.structures), size=scene.n_neighbors)
        turns = random_rotations(scene.n_neighbors, crowd_rng)
        centres = place_neighbors(scene.radii[label], scene.radii[crowd], crowd_rng)
        members = [int(label), *crowd]
        points = np.concatenate(
            [
                transform_points(scene.structures[member].coordinates, turn, centre)
                for member, turn, centre in zip(
                    members,
                    [rotations[row], *turns],
                    [shifts[row], *(centres + shifts[row])],
                    strict=True,
                )
            ]
        )
        masses = np.concatenate([scene.structures[member].masses for member in members])
        density = draw_density(points, masses, scene.scene_size, scene.voxel_size)
        filtered = apply_transfer(density, scene.transfer)
        clean = crop_center(filtered, scene.size)
        if not np.ptp(clean):
            raise ValueError(
                f"voxel_size={scene.voxel_size!r} with size={scene.size} makes a "
                f"volume of class {scene.structures[label].name!r} that shows nothing "
                "but constant density; expected a volume as large as the structures, "
                "or voxel_size=None."
            )
        data[row] = add_white_noise(clean, scene.snr, noise_rng)


def _scene_size(size: int) -> int:
    """Return a fast FFT size that is large enough and central to the crop."""
    scene_size = fft.next_fast_len(_PADDING * size, real=True)
    while (scene_size - size) % 2:
        scene_size = fft.next_fast_len(scene_size + 1, real=True)
    return int(scene_size)


def _resolve_structures(
    structures: str | Path | Sequence[str | Path | Structure] | None,
) -> list[Structure]:
    if structures is None:
        return [load_phantom(name) for name in list_phantoms()]
    if isinstance(structures, str | Path):
        if structures in PHANTOMS and not Path(structures).exists():
            raise ValueError(
                f"structures={structures!r} is a single phantom; expected a list, such "
                f"as [{structures!r}, ...], a folder, or None for all phantoms."
            )
        return load_structures(structures)
    if not isinstance(structures, Sequence):
        raise TypeError(
            f"structures is of type {type(structures).__name__}; expected a folder, a "
            "list of files, phantom names and Structure objects, or None."
        )
    if not structures:
        raise ValueError("structures is empty; expected at least one, or None for all.")
    resolved = [_resolve_structure(item) for item in structures]
    check_unique_names(
        (structure.name, f"structures[{index}] ({item!r})")
        for index, (structure, item) in enumerate(
            zip(resolved, structures, strict=True)
        )
    )
    return resolved


def _resolve_structure(item: str | Path | Structure) -> Structure:
    if isinstance(item, Structure):
        return item
    if not isinstance(item, str | Path):
        raise TypeError(
            f"structures holds {item!r} of type {type(item).__name__}; expected the "
            "path of a structure file, the name of a phantom, or a Structure."
        )
    if item in PHANTOMS:
        return load_phantom(str(item))
    # Without a suffix or a folder it is more likely a misspelt name than a file.
    if Path(item).suffix or Path(item).exists() or Path(item).name != str(item):
        return load_structure(item)
    raise ValueError(
        f"structures holds {str(item)!r}, which is neither a file nor a phantom; "
        f"expected a file or one of {', '.join(list_phantoms())}."
    )


def _seed_sequence(
    random_state: int | np.random.RandomState | np.random.Generator | None,
) -> np.random.SeedSequence:
    """Return the root of all seeds; never draws from the global generator."""
    if random_state is None:
        return np.random.SeedSequence()
    if isinstance(random_state, np.random.RandomState):
        words = random_state.randint(0, 2**32, size=4, dtype=np.uint32)
        return np.random.SeedSequence(words.tolist())
    if isinstance(random_state, np.random.Generator):
        words = random_state.integers(0, 2**32, size=4, dtype=np.uint32)
        return np.random.SeedSequence(words.tolist())
    if isinstance(random_state, Integral) and not isinstance(random_state, bool):
        return np.random.SeedSequence(_integer("random_state", random_state, 0))
    raise TypeError(
        f"random_state={random_state!r} of type {type(random_state).__name__}; "
        "expected an int, a RandomState, a Generator or None."
    )


def _integer(parameter: str, value: Any, minimum: int) -> int:
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise TypeError(
            f"{parameter}={value!r} of type {type(value).__name__}; expected an "
            f"integer of at least {minimum}."
        )
    if value < minimum:
        raise ValueError(
            f"{parameter}={value!r}; expected an integer of at least {minimum}."
        )
    return int(value)


def _number(parameter: str, value: Any, expected: str) -> float:
    if not isinstance(value, Real) or isinstance(value, bool):
        raise TypeError(
            f"{parameter}={value!r} of type {type(value).__name__}; expected "
            f"{expected}."
        )
    return float(value)


def _positive_length(parameter: str, value: Any) -> None:
    expected = "a positive number of angstroms, or None"
    number = _number(parameter, value, expected)
    if not (np.isfinite(number) and number > 0):
        raise ValueError(f"{parameter}={value!r}; expected {expected}.")


def _tilt_range(tilt_range: Any) -> tuple[float, float]:
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


def _describe(
    classes: list[Structure],
    n_per_class: int,
    scene: _Scene,
    resolution: float,
    tilt_range: tuple[float, float],
) -> str:
    lines = [
        "Simulated subtomograms",
        "----------------------",
        f"{len(classes) * n_per_class} volumes of {scene.size}^3 voxels of "
        f"{scene.voxel_size:.4g} A, {n_per_class} of each class, at "
        f"{resolution:.4g} A resolution.",
        "Target in a uniformly random orientation, off the centre by up to "
        f"{scene.max_shift:g} of the side along each axis, among {scene.n_neighbors} "
        "neighbours drawn from all classes.",
        f"Tilts from {tilt_range[0]:g} to {tilt_range[1]:g} degrees about y; white "
        f"noise at a signal-to-noise variance ratio of {scene.snr:g}.",
        "",
        "Classes:",
    ]
    for structure in classes:
        line = (
            f"- {structure.name}: {structure.mass / 1e3:.0f} kDa, "
            f"radius {structure.radius:.0f} A"
        )
        if structure.description:
            line += f"; {structure.description}"
        lines.append(line)
    return "\n".join(lines) + "\n"
