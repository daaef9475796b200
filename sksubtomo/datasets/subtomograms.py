"""Simulated subtomograms of known class."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
from joblib import Parallel, delayed
from numpy.typing import ArrayLike, NDArray
from scipy import fft
from sklearn.utils import Bunch, gen_batches

from sksubtomo.datasets._checks import (
    as_seed,
    check_crowding,
    check_fraction,
    check_integer,
    check_number,
    check_optional,
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
from sksubtomo.datasets.packing import (
    place_neighbors,
    random_rotations,
    transform_points,
)
from sksubtomo.datasets.structures import POINTS_PER_VOXEL, Structure, coarse_grain

# The filtered scene is periodic; twice the crop keeps the streaks of the missing wedge
# from coming in on the other side.
_PADDING = 2

_CHUNK = 16

_MICROSCOPE = Microscope()


@dataclass(frozen=True)
class SimulatedChunk:  # numpydoc ignore=PR02
    """Some of the volumes of a simulated data set, and what is true of them.

    Parameters
    ----------
    volumes : ndarray of shape (n, size, size, size), float32
        The volumes, z first; protein is positive.
    clean : ndarray of shape (n, size, size, size), float32, or None
        The same volumes without noise, if asked for.
    target : ndarray of shape (n,), int64
        The class of each volume.
    rotations : ndarray of shape (n, 3, 3)
        Orientation of each target: the matrix that takes its structure's coordinates to
        the volume's, acting on columns z, y, x.
    shifts : ndarray of shape (n, 3)
        Position z, y, x of the target's centre of mass in angstroms relative to the
        centre of the volume, which is at ``(size - 1) / 2`` voxels.
    neighbors : ndarray of shape (n, n_neighbors), int64
        The classes of the complexes around each target.
    """

    volumes: NDArray[np.float32]
    clean: NDArray[np.float32] | None
    target: NDArray[np.int64]
    rotations: NDArray[np.float64]
    shifts: NDArray[np.float64]
    neighbors: NDArray[np.int64]

    def part(self, rows: slice) -> SimulatedChunk:
        """Return some of the rows, as views.

        Parameters
        ----------
        rows : slice
            Positions in this chunk.

        Returns
        -------
        SimulatedChunk
            Views of the arrays.
        """
        return SimulatedChunk(
            volumes=self.volumes[rows],
            clean=None if self.clean is None else self.clean[rows],
            target=self.target[rows],
            rotations=self.rotations[rows],
            shifts=self.shifts[rows],
            neighbors=self.neighbors[rows],
        )


class SubtomogramSimulator:
    """A data set of simulated subtomograms whose volumes are made when asked for.

    The parameters are those of `make_subtomograms`, which makes all volumes at once.
    They are checked, and everything that the volumes share is prepared, when the
    simulator is made. A volume depends only on the parameters, its class and its rank
    within the class: any way to cut the rows into chunks, in any order, in threads or
    processes, gives the same bits.

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
        radius is ``size * (1 - 2 * max_shift)`` voxels. So tight a box shows little of
        the neighbours: of the phantoms' 6 % lie inside and make up 20 % of its mass, at
        10 A and 32 voxels 38 % and 60 %.
    resolution : float, default=None
        Resolution in angstroms, the inverse of the frequency at which amplitudes fall
        to 1/e. None means two voxels, the finest that the grid can show (Nyquist).
        Finer than 1.8 voxels has no effect. The paper's data have one voxel, 10 A [1]_.
    snr : float, default=0.1
        Signal-to-noise ratio: the variance of the clean volume, neighbours included,
        over the variance of the noise, exact for each volume. ``inf`` means no noise.
        The default is a choice; the paper has inf, 0.05 and 0.03, by another definition
        (`convention`).
    n_neighbors : int, default=4
        Number of complexes packed around the target (`place_neighbors`), drawn from all
        classes. The default is that of the paper's data [1]_. How much of them is in
        the picture depends on `voxel_size` and `crowding`.
    max_shift : float, default=0.1
        The target's centre of mass lies off the centre of the volume by a shift that is
        uniform within this fraction of the side in either direction of each axis. Less
        than 0.5. The default is a choice, 3 of 32 voxels: a larger one needs a larger
        box. The paper's data have 8 of 32 [1]_, which cuts large structures off.
    tilt_range : (float, float), default=(-60.0, 60.0)
        Smallest and largest tilt in degrees. Coefficients outside the range are missing
        (`missing_wedge_mask`); (-90, 90) measures all. The default is that of the
        paper's data [1]_.
    shuffle : bool, default=True
        Whether to shuffle the volumes; otherwise they come class by class.
    random_state : int, RandomState, Generator or None, default=None
        Seed. An int gives the same volumes each time, whatever `n_jobs`; None gives
        others each time and leaves NumPy's global generator alone.
    crowding : float, default=0.5
        How densely the neighbours are packed, in (0, 1]; at 1 they touch the target or
        each other (`place_neighbors`). The default is a choice without a source. With
        the default `voxel_size` it shows 6 % of the phantoms' neighbours and 1 shows
        26 %, half of the mass in the box: for crowded pictures give ``crowding=1`` or
        ``voxel_size=10``.
    tilt_step : float, default=3.0
        Degrees between tilts, as is usual at present [2]_ (`tilt_weights`); at most the
        width of the range. None means a continuum of tilts.
    tilt_axis : "x", "y" or float, default="y"
        The tilt axis, or its angle from the y axis in degrees (`missing_wedge_mask`).
        The beam runs along z.
    microscope : Microscope or None, default=Microscope()
        Voltage, aberration, defocus, envelope and detector. The default is a modern
        microscope's, `Microscope.liu2020` has the values of the paper's data. None
        means perfect optics: density with a missing wedge.
    structural_noise : float, default=0.5
        The fraction of the noise's variance that arises in the specimen and passes the
        optics; the rest arises in the detector and passes only its transfer. Both have
        the missing wedge. The default is that of the paper's data [1]_.
    convention : {"exact", "liu2020"}, default="exact"
        What `snr` means. "exact" is the definition above. "liu2020" is the nominal
        value of the paper's data, in which noise of variance signal / snr comes in
        twice, so that the ratio of variances is half of `snr`.
    low_pass : float, default=None
        Resolution in angstroms at which a low-pass filter begins to fall that the
        cropped volumes, signal and noise, pass at the end (`low_pass_transfer`); `snr`
        is the ratio behind it. None means no filter. The paper's data have 40 A, half
        of Nyquist [1]_.

    Attributes
    ----------
    n_subtomograms : int
        Number of volumes, ``n_per_class`` for each class.
    target : ndarray of shape (n_subtomograms,), int64
        The class of each volume, shuffled if asked for.
    target_names : ndarray of shape (n_classes,)
        The name of each class.
    structures : list of Structure
        The structure of each class.
    size : int
        Side of the volumes in voxels.
    voxel_size : float
        Voxel size in angstroms.
    resolution : float
        Resolution in angstroms.
    n_neighbors : int
        Number of complexes around each target.
    microscope : Microscope or None
        The optics.
    description : str
        What the data set is, in words.

    Raises
    ------
    ValueError
        If a parameter is out of range, if a name is no phantom, if a folder has no
        structure or if a file cannot be read; the message names the parameter or file.
    TypeError
        If a parameter is of a wrong type.
    FileNotFoundError
        If a file or folder does not exist.

    Warns
    -----
    UserWarning
        If the largest structure does not fit into the volume.

    See Also
    --------
    make_subtomograms : The same as one array.

    References
    ----------
    .. [1] Liu, S. et al. (2020). Efficient cryo-electron tomogram simulation of
       macromolecular crowding with application to SARS-CoV-2. IEEE International
       Conference on Bioinformatics and Biomedicine, 80-87; used by Gupta, T. et al.
       (2022). Frontiers in Physiology 13, 957484.
    .. [2] Hagen, W. J. H., Wan, W. and Briggs, J. A. G. (2017). Implementation of a
       cryo-electron tomography tilt-scheme optimized for high resolution subtomogram
       averaging. Journal of Structural Biology 197, 191-198.

    Examples
    --------
    >>> from sksubtomo.datasets import SubtomogramSimulator
    >>> simulator = SubtomogramSimulator(1000, size=16, snr=0.05, random_state=0)
    >>> simulator.n_subtomograms
    10000
    >>> chunk = simulator.simulate(range(2000, 2004), clean=True)
    >>> chunk.volumes.shape
    (4, 16, 16, 16)
    """

    def __init__(
        self,
        n_per_class: int = 100,
        *,
        structures: str | Path | Sequence[str | Path | Structure] | None = None,
        size: int = 32,
        voxel_size: float | None = None,
        resolution: float | None = None,
        snr: float = 0.1,
        n_neighbors: int = 4,
        max_shift: float = 0.1,
        tilt_range: tuple[float, float] = (-60.0, 60.0),
        shuffle: bool = True,
        random_state: int | np.random.RandomState | np.random.Generator | None = None,
        crowding: float = 0.5,
        tilt_step: float | None = 3.0,
        tilt_axis: TiltAxis = "y",
        microscope: Microscope | None = _MICROSCOPE,
        structural_noise: float = 0.5,
        convention: Literal["exact", "liu2020"] = "exact",
        low_pass: float | None = None,
    ) -> None:
        self.n_per_class = check_integer("n_per_class", n_per_class, 1)
        self.size = check_integer("size", size, 8)
        self.n_neighbors = check_integer("n_neighbors", n_neighbors, 0)
        self.snr = check_snr(snr)
        self.max_shift = check_number(
            "max_shift",
            max_shift,
            lambda number: 0 <= number < 0.5,
            "a fraction of the side in [0, 0.5)",
        )
        self.crowding = check_crowding(crowding)
        self.structural_noise = check_fraction("structural_noise", structural_noise)
        self.tilt_range = check_tilt_range(tilt_range)
        check_tilt_axis(tilt_axis)
        self.tilt_axis = tilt_axis
        self.tilt_step = _check_tilt_step(tilt_step, self.tilt_range)
        self.low_pass = check_optional("low_pass", low_pass, "angstroms")
        voxel_size = check_optional("voxel_size", voxel_size, "angstroms")
        resolution = check_optional("resolution", resolution, "angstroms")
        self.microscope = microscope
        if convention not in ("exact", "liu2020"):
            raise ValueError(
                f"convention={convention!r}; expected 'exact' or 'liu2020'."
            )
        self.convention = convention
        self.shuffle = bool(shuffle)
        self._entropy = seed_sequence(random_state).entropy
        self.structures = resolve_structures(structures)

        radii = np.array([structure.radius for structure in self.structures])
        if voxel_size is None:
            voxel_size = 2 * float(radii.max()) / (self.size * (1 - 2 * self.max_shift))
            if voxel_size == 0:
                raise ValueError(
                    "voxel_size=None cannot be derived from structures of a single "
                    "point; expected a number of angstroms."
                )
        self.voxel_size = voxel_size
        self._warn_of_large_structures(radii)
        self.resolution = 2 * voxel_size if resolution is None else resolution

        cell = self.voxel_size / POINTS_PER_VOXEL
        self._points = [coarse_grain(structure, cell) for structure in self.structures]
        # The bounding sphere of a single point still needs a size to be packed.
        self._radii = np.maximum(radii, cell)
        self._scene_size = _scene_size(self.size)
        image = partial(
            transfer_volume,
            self._scene_size,
            self.voxel_size,
            microscope,
            tilt_range=self.tilt_range,
            tilt_step=self.tilt_step,
            tilt_axis=tilt_axis,
        )
        self._low_pass = (
            None
            if self.low_pass is None
            else low_pass_transfer(self.size, voxel_size, self.low_pass)
        )
        transfer = image()
        self._noise_transfer = noise_transfer(
            transfer, image(optics=False), self.structural_noise
        )
        self._transfer = transfer * gaussian_transfer(
            self._scene_size, self.voxel_size, self.resolution
        )

        target = np.repeat(np.arange(len(self.structures), dtype=np.int64), n_per_class)
        rank = np.tile(np.arange(n_per_class), len(self.structures))
        if shuffle:
            # Keys of volumes have two numbers, so this one is nobody else's.
            key = np.random.SeedSequence(self._entropy, spawn_key=(0,))
            order = np.random.default_rng(key).permutation(len(target))
            target, rank = target[order], rank[order]
        self.target = target
        self._rank = rank

    def __repr__(self) -> str:
        return (
            f"SubtomogramSimulator({len(self.structures)} classes x {self.n_per_class} "
            f"volumes of {self.size}^3 voxels of {self.voxel_size:.4g} A, "
            f"snr={self.snr:g}, n_neighbors={self.n_neighbors})"
        )

    @property
    def n_subtomograms(self) -> int:  # numpydoc ignore=RT01
        """Number of volumes."""
        return len(self.target)

    @property
    def target_names(self) -> NDArray[np.str_]:  # numpydoc ignore=RT01
        """The name of each class."""
        return np.array([structure.name for structure in self.structures])

    @property
    def description(self) -> str:  # numpydoc ignore=RT01
        """What the data set is, in words."""
        optics = "perfect optics"
        if self.microscope is not None:
            optics = (
                f"{self.microscope.voltage:g} kV, "
                f"{self.microscope.defocus:g} micrometres underfocus"
            )
        step = "" if self.tilt_step is None else f" every {self.tilt_step:g} degrees"
        low_pass = (
            "" if self.low_pass is None else f"; low-pass filter at {self.low_pass:g} A"
        )
        lines = [
            "Simulated subtomograms",
            "----------------------",
            f"{self.n_subtomograms} volumes of {self.size}^3 voxels of "
            f"{self.voxel_size:.4g} A, {self.n_per_class} of each class, at "
            f"{self.resolution:.4g} A resolution.",
            "Target in a uniformly random orientation, off the centre by up to "
            f"{self.max_shift:g} of the side along each axis, among "
            f"{self.n_neighbors} neighbours drawn from all classes.",
            f"{optics[0].upper()}{optics[1:]}; tilts from {self.tilt_range[0]:g} to "
            f"{self.tilt_range[1]:g} degrees{step}{low_pass}; noise at a "
            f"signal-to-noise variance ratio of {self._variance_ratio:g}.",
            "",
            "Classes:",
        ]
        for structure in self.structures:
            line = (
                f"- {structure.name}: {structure.mass / 1e3:.0f} kDa, "
                f"radius {structure.radius:.0f} A"
            )
            if structure.description:
                line += f"; {structure.description}"
            lines.append(line)
        return "\n".join(lines) + "\n"

    @property
    def parameters(self) -> dict[str, Any]:  # numpydoc ignore=RT01
        """The parameters that make the same volumes, but for the structures."""
        return {
            "n_per_class": self.n_per_class,
            "size": self.size,
            "voxel_size": self.voxel_size,
            "resolution": self.resolution,
            "snr": self.snr,
            "n_neighbors": self.n_neighbors,
            "max_shift": self.max_shift,
            "tilt_range": self.tilt_range,
            "shuffle": self.shuffle,
            "random_state": as_seed(self._entropy),
            "crowding": self.crowding,
            "tilt_step": self.tilt_step,
            "tilt_axis": self.tilt_axis,
            "microscope": self.microscope,
            "structural_noise": self.structural_noise,
            "convention": self.convention,
            "low_pass": self.low_pass,
        }

    def _warn_of_large_structures(self, radii: NDArray[np.float64]) -> None:
        largest = int(radii.argmax())
        diameter, side = 2 * float(radii[largest]), self.size * self.voxel_size
        # What voxel_size=None derives fits by its own definition, up to rounding.
        if diameter > side * (1 + 1e-9):
            warnings.warn(
                f"{self.structures[largest].name!r}, which is up to {diameter:.4g} A "
                f"across, does not fit into volumes of {self.size} voxels of "
                f"{self.voxel_size:.4g} A, {side:.4g} A; expected a larger size or "
                "voxel_size, or voxel_size=None.",
                stacklevel=3,
            )

    @property
    def _variance_ratio(self) -> float:
        return self.snr / 2 if self.convention == "liu2020" else self.snr

    def simulate(
        self, rows: slice | ArrayLike | range | None = None, *, clean: bool = False
    ) -> SimulatedChunk:
        """Make some of the volumes.

        Parameters
        ----------
        rows : array-like of int, range, slice or None, default=None
            Indices of the volumes in the data set; negative ones count from its end.
            None means all.
        clean : bool, default=False
            Whether to return the volumes without noise as well.

        Returns
        -------
        SimulatedChunk
            The volumes in the order of `rows`, and what is true of them.

        Raises
        ------
        IndexError
            If there is no such row.
        TypeError
            If `rows` is anything else, such as a single number.
        ValueError
            If a volume shows nothing but constant density.
        """
        index = np.arange(self.n_subtomograms)
        if isinstance(rows, slice):
            index = index[rows]
        elif rows is not None:
            index = index[_check_rows(rows, len(index))]
        chunk = self._empty(index, clean)
        self._fill(index, chunk)
        return chunk

    def _empty(self, index: NDArray[np.int64], clean: bool) -> SimulatedChunk:
        shape = (len(index), self.size, self.size, self.size)
        return SimulatedChunk(
            volumes=np.empty(shape, dtype=np.float32),
            clean=np.empty(shape, dtype=np.float32) if clean else None,
            target=self.target[index],
            rotations=np.empty((len(index), 3, 3)),
            shifts=np.empty((len(index), 3)),
            neighbors=np.empty((len(index), self.n_neighbors), dtype=np.int64),
        )

    def _fill(self, index: NDArray[np.int64], chunk: SimulatedChunk) -> None:
        """Make the volumes of given indices, in the arrays of a chunk."""
        limit = self.max_shift * self.size * self.voxel_size
        for row, number in enumerate(index):
            label, rank = int(self.target[number]), int(self._rank[number])
            seeds = np.random.SeedSequence(self._entropy, spawn_key=(label, rank))
            pose_rng, crowd_rng, noise_rng = map(np.random.default_rng, seeds.spawn(3))
            chunk.rotations[row] = random_rotations(1, pose_rng)[0]
            chunk.shifts[row] = pose_rng.uniform(-limit, limit, size=3)
            chunk.neighbors[row] = crowd_rng.integers(
                len(self.structures), size=self.n_neighbors
            )
            scene = self._draw(
                label,
                chunk.neighbors[row],
                chunk.rotations[row],
                chunk.shifts[row],
                crowd_rng,
            )
            signal = self._crop(apply_transfer(scene, self._transfer))
            if not np.ptp(signal):
                raise ValueError(
                    f"voxel_size={self.voxel_size!r} with size={self.size} makes a "
                    f"volume of class {self.structures[label].name!r} that shows "
                    "nothing but constant density; expected a volume as large as the "
                    "structures, or voxel_size=None."
                )
            if chunk.clean is not None:
                chunk.clean[row] = signal
            if np.isinf(self.snr):
                chunk.volumes[row] = signal
                continue
            noise = filtered_noise(self._scene_size, self._noise_transfer, noise_rng)
            chunk.volumes[row] = add_noise(
                signal, self._crop(noise), self._variance_ratio
            )

    def _crop(self, scene: NDArray[np.float32]) -> NDArray[np.float32]:
        volume = crop_center(scene, self.size)
        if self._low_pass is None:
            return volume
        return apply_transfer(volume, self._low_pass)

    def _draw(
        self,
        label: int,
        neighbors: NDArray[np.int64],
        rotation: NDArray[np.float64],
        shift: NDArray[np.float64],
        rng: np.random.Generator,
    ) -> NDArray[np.float32]:
        """Draw the target and the neighbours in the padded scene."""
        turns = random_rotations(len(neighbors), rng)
        centres = place_neighbors(
            self._radii[label], self._radii[neighbors], rng, crowding=self.crowding
        )
        members = [label, *neighbors]
        points = np.concatenate(
            [
                transform_points(self._points[member].coordinates, turn, centre)
                for member, turn, centre in zip(
                    members,
                    [rotation, *turns],
                    [shift, *(centres + shift)],
                    strict=True,
                )
            ]
        )
        masses = np.concatenate([self._points[member].masses for member in members])
        return draw_density(points, masses, self._scene_size, self.voxel_size)


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
    crowding: float = ...,
    tilt_step: float | None = ...,
    tilt_axis: TiltAxis = ...,
    microscope: Microscope | None = ...,
    structural_noise: float = ...,
    convention: Literal["exact", "liu2020"] = ...,
    return_clean: bool = ...,
    low_pass: float | None = ...,
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
    crowding: float = ...,
    tilt_step: float | None = ...,
    tilt_axis: TiltAxis = ...,
    microscope: Microscope | None = ...,
    structural_noise: float = ...,
    convention: Literal["exact", "liu2020"] = ...,
    return_clean: bool = ...,
    low_pass: float | None = ...,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]: ...


def make_subtomograms(
    n_per_class: int = 100,
    *,
    structures: str | Path | Sequence[str | Path | Structure] | None = None,
    size: int = 32,
    voxel_size: float | None = None,
    resolution: float | None = None,
    snr: float = 0.1,
    n_neighbors: int = 4,
    max_shift: float = 0.1,
    tilt_range: tuple[float, float] = (-60.0, 60.0),
    shuffle: bool = True,
    random_state: int | np.random.RandomState | np.random.Generator | None = None,
    n_jobs: int | None = None,
    return_X_y: bool = False,
    crowding: float = 0.5,
    tilt_step: float | None = 3.0,
    tilt_axis: TiltAxis = "y",
    microscope: Microscope | None = _MICROSCOPE,
    structural_noise: float = 0.5,
    convention: Literal["exact", "liu2020"] = "exact",
    return_clean: bool = False,
    low_pass: float | None = None,
) -> Bunch | tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Simulate subtomograms of several complexes.

    Each volume shows one complex, its class, in a uniformly random orientation and off
    the centre, among neighbours drawn from all classes, as a tilt series taken with a
    microscope and reconstructed: with contrast transfer, missing wedge and noise.

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
        radius is ``size * (1 - 2 * max_shift)`` voxels. So tight a box shows little of
        the neighbours: of the phantoms' 6 % lie inside and make up 20 % of its mass, at
        10 A and 32 voxels 38 % and 60 %.
    resolution : float, default=None
        Resolution in angstroms, the inverse of the frequency at which amplitudes fall
        to 1/e. None means two voxels, the finest that the grid can show (Nyquist).
        Finer than 1.8 voxels has no effect. The paper's data have one voxel, 10 A [1]_.
    snr : float, default=0.1
        Signal-to-noise ratio: the variance of the clean volume, neighbours included,
        over the variance of the noise, exact for each volume. ``inf`` means no noise.
        The default is a choice; the paper has inf, 0.05 and 0.03, by another definition
        (`convention`).
    n_neighbors : int, default=4
        Number of complexes packed around the target (`place_neighbors`), drawn from all
        classes. The default is that of the paper's data [1]_. How much of them is in
        the picture depends on `voxel_size` and `crowding`.
    max_shift : float, default=0.1
        The target's centre of mass lies off the centre of the volume by a shift that is
        uniform within this fraction of the side in either direction of each axis. Less
        than 0.5. The default is a choice, 3 of 32 voxels: a larger one needs a larger
        box. The paper's data have 8 of 32 [1]_, which cuts large structures off.
    tilt_range : (float, float), default=(-60.0, 60.0)
        Smallest and largest tilt in degrees. Coefficients outside the range are missing
        (`missing_wedge_mask`); (-90, 90) measures all. The default is that of the
        paper's data [1]_.
    shuffle : bool, default=True
        Whether to shuffle the volumes; otherwise they come class by class.
    random_state : int, RandomState, Generator or None, default=None
        Seed. An int gives the same volumes each time, whatever `n_jobs`; None gives
        others each time and leaves NumPy's global generator alone.
    n_jobs : int, default=None
        Number of threads, as for joblib. More than one pays from about 32 voxels on.
    return_X_y : bool, default=False
        Whether to return ``(data, target)`` instead of a Bunch.
    crowding : float, default=0.5
        How densely the neighbours are packed, in (0, 1]; at 1 they touch the target or
        each other (`place_neighbors`). The default is a choice without a source. With
        the default `voxel_size` it shows 6 % of the phantoms' neighbours and 1 shows
        26 %, half of the mass in the box: for crowded pictures give ``crowding=1`` or
        ``voxel_size=10``.
    tilt_step : float, default=3.0
        Degrees between tilts, as is usual at present [2]_ (`tilt_weights`); at most the
        width of the range. None means a continuum of tilts.
    tilt_axis : "x", "y" or float, default="y"
        The tilt axis, or its angle from the y axis in degrees (`missing_wedge_mask`).
        The beam runs along z.
    microscope : Microscope or None, default=Microscope()
        Voltage, aberration, defocus, envelope and detector. The default is a modern
        microscope's, `Microscope.liu2020` has the values of the paper's data. None
        means perfect optics: density with a missing wedge.
    structural_noise : float, default=0.5
        The fraction of the noise's variance that arises in the specimen and passes the
        optics; the rest arises in the detector and passes only its transfer. Both have
        the missing wedge. The default is that of the paper's data [1]_.
    convention : {"exact", "liu2020"}, default="exact"
        What `snr` means. "exact" is the definition above. "liu2020" is the nominal
        value of the paper's data, in which noise of variance signal / snr comes in
        twice, so that the ratio of variances is half of `snr`.
    return_clean : bool, default=False
        Whether the Bunch holds the volumes without noise as well.
    low_pass : float, default=None
        Resolution in angstroms at which a low-pass filter begins to fall that the
        cropped volumes, signal and noise, pass at the end (`low_pass_transfer`); `snr`
        is the ratio behind it. None means no filter. The paper's data have 40 A, half
        of Nyquist [1]_.

    Returns
    -------
    data : Bunch
        A dictionary with attributes:

        data : ndarray of shape (n, size, size, size), float32
            The volumes, z first; protein is positive. Without a microscope in daltons
            per cubic angstrom, otherwise that times the transfer.
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
        neighbors : ndarray of shape (n, n_neighbors), int64
            The classes of the complexes around each target.
        clean : ndarray of shape (n, size, size, size), float32
            The volumes without noise, if `return_clean`.
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

    Warns
    -----
    UserWarning
        If the largest structure does not fit into the volume.

    See Also
    --------
    SubtomogramSimulator : Makes the same volumes piece by piece.
    load_structure : Read a structure file, with options for maps.
    list_phantoms : The names of the phantoms.

    Notes
    -----
    The scene is drawn and filtered in a cube of twice the side, then cropped, as a
    subtomogram is cut from a tomogram: the crop's edges put a little energy back into
    the missing wedge. The noise is filtered and cropped in the same way, and scaled in
    the crop. A low-pass filter comes after the crop, so that it also takes away the
    high frequencies that the crop's edges have. The noise has its own random stream, so
    that the same `random_state` with ``snr=inf`` gives the clean volumes. Volume i of a
    class does not depend on `n_per_class`.

    References
    ----------
    .. [1] Liu, S. et al. (2020). Efficient cryo-electron tomogram simulation of
       macromolecular crowding with application to SARS-CoV-2. IEEE International
       Conference on Bioinformatics and Biomedicine, 80-87; used by Gupta, T. et al.
       (2022). Frontiers in Physiology 13, 957484.
    .. [2] Hagen, W. J. H., Wan, W. and Briggs, J. A. G. (2017). Implementation of a
       cryo-electron tomography tilt-scheme optimized for high resolution subtomogram
       averaging. Journal of Structural Biology 197, 191-198.

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
    simulator = SubtomogramSimulator(
        n_per_class,
        structures=structures,
        size=size,
        voxel_size=voxel_size,
        resolution=resolution,
        snr=snr,
        n_neighbors=n_neighbors,
        max_shift=max_shift,
        tilt_range=tilt_range,
        shuffle=shuffle,
        random_state=random_state,
        crowding=crowding,
        tilt_step=tilt_step,
        tilt_axis=tilt_axis,
        microscope=microscope,
        structural_noise=structural_noise,
        convention=convention,
        low_pass=low_pass,
    )
    rows = np.arange(simulator.n_subtomograms)
    whole = simulator._empty(rows, return_clean)
    # Threads, because NumPy and SciPy release the interpreter's lock for most of the
    # time, and because they can write into the same arrays.
    Parallel(n_jobs=n_jobs, require="sharedmem")(
        delayed(simulator._fill)(rows[part], whole.part(part))
        for part in gen_batches(len(rows), _CHUNK)
    )
    if return_X_y:
        return whole.volumes, simulator.target
    bunch = Bunch(
        data=whole.volumes,
        target=simulator.target,
        target_names=simulator.target_names,
        rotations=whole.rotations,
        shifts=whole.shifts,
        neighbors=whole.neighbors,
        voxel_size=simulator.voxel_size,
        resolution=simulator.resolution,
        structures=simulator.structures,
        DESCR=simulator.description,
    )
    if return_clean:
        bunch.clean = whole.clean
    return bunch


def _check_tilt_step(tilt_step: Any, tilt_range: tuple[float, float]) -> float | None:
    step = check_optional("tilt_step", tilt_step, "degrees")
    width = tilt_range[1] - tilt_range[0]
    if step is not None and step > width:
        raise ValueError(
            f"tilt_step={tilt_step!r} leaves a single tilt of tilt_range={tilt_range}; "
            f"expected at most {width:g} degrees, or None."
        )
    return step


def _check_rows(rows: ArrayLike, n: int) -> NDArray[Any]:
    """Return indices, or a mask, of some of n rows."""
    expected = "a list of row numbers, a range, a slice or None"
    wanted = np.asarray(rows)
    if wanted.ndim != 1:
        raise TypeError(f"rows={rows!r}; expected {expected}.")
    if not wanted.size:
        return wanted.astype(np.intp)
    if wanted.dtype == bool:
        if len(wanted) != n:
            raise IndexError(f"rows is a mask of {len(wanted)} rows; expected {n}.")
        return wanted
    if not np.issubdtype(wanted.dtype, np.integer):
        raise TypeError(f"rows are of type {wanted.dtype}; expected {expected}.")
    absent = wanted[(wanted < -n) | (wanted >= n)]
    if absent.size:
        raise IndexError(f"rows: there is no row {absent[0]}; expected 0 to {n - 1}.")
    return wanted


def _scene_size(size: int) -> int:
    """Return a fast FFT size that is large enough and central to the crop."""
    scene_size = fft.next_fast_len(_PADDING * size, real=True)
    while (scene_size - size) % 2:
        scene_size = fft.next_fast_len(scene_size + 1, real=True)
    return int(scene_size)
