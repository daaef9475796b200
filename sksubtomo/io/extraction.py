"""Subtomograms cut out of tomograms."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from sksubtomo.io._outputs import already_there
from sksubtomo.io.mrc import VolumeStackWriter, open_tomogram
from sksubtomo.io.particles import ParticleTable, read_particles, rotation_matrices
from sksubtomo.io.star import StarFile

STACK_NAME = "subtomograms.mrc"
STAR_NAME = "particles.star"
EDGES = ("drop", "pad")

# What a tomogram's file is called after the name of its tilt series, by IMOD, Warp and
# RELION.
_SUFFIXES = (".tomostar", ".mrc", ".mrcs", ".rec", ".map", ".st", ".ali", ".gz", ".bz2")
_ORIGINS = tuple(f"rlnOrigin{axis}Angst" for axis in "XYZ")
_ORIGINS_PIXELS = tuple(f"rlnOrigin{axis}" for axis in "XYZ")
_PIXELS = tuple(f"rlnCoordinate{axis}" for axis in "XYZ")
_CENTERED = tuple(f"rlnCenteredCoordinate{axis}Angst" for axis in "XYZ")
_TURNS = tuple(f"rlnTomoSubtomogram{angle}" for angle in ("Rot", "Tilt", "Psi"))
_IS_2D = "rlnTomoSubTomosAre2DStacks"
# Voxel sizes of tomograms in one stack agree within rounding and calibration.
_VOXEL_SIZE_TOLERANCE = 0.01
# Names given in a message; the rest is counted.
_SHOWN = 5


@dataclass(frozen=True)
class Extraction:  # numpydoc ignore=PR02
    """What `extract_subtomograms` did.

    Parameters
    ----------
    stack : Path
        The volumes.
    star : Path
        Their particles, a row a volume, in the stack's order.
    names : list of str
        Names of the particles in the stack.
    voxel_size : float
        Voxel size of the volumes in angstroms.
    dropped : list of str
        Particles left out, because their boxes reach over the edge of the tomogram,
        while their centres are inside.
    padded : list of str
        Particles whose boxes were filled up.
    constant : list of str
        Particles whose boxes do not vary, such as in an empty margin.
    missing : dict of str to int
        How many particles were left out, by the names of their tomograms, which were
        not given.
    unused : list of str
        Files of the several tomograms that have no particle in the STAR file.
    outside : list of str
        Particles left out, because their centres are outside of the tomogram.
    """

    stack: Path
    star: Path
    names: list[str]
    voxel_size: float
    dropped: list[str]
    padded: list[str]
    constant: list[str]
    missing: dict[str, int] = field(default_factory=dict)
    unused: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)

    def summary(self) -> str:
        """Tell in a few lines what was done.

        Returns
        -------
        str
            Numbers, files, and the names of the particles that were left out or padded,
            and of the tomograms that were not given.
        """
        lines = [
            f"{len(self.names)} subtomograms with voxels of {self.voxel_size:.4g} A "
            f"are in {self.stack}, their particles in {self.star}."
        ]
        for names, what in (
            (self.dropped, "dropped, with boxes that reach over the tomogram's edge"),
            (self.padded, "padded at the tomogram's edge"),
            (self.constant, "in boxes that do not vary"),
        ):
            if names:
                lines.append(f"{len(names)} {what}: {shorten(names)}.")
        if self.outside:
            lines.append(
                f"{len(self.outside)} left out, with centres outside of the tomogram: "
                f"{shorten(self.outside)}. If they belong inside, check the units of "
                "the coordinates and the voxel sizes (--coordinate-units, "
                "--coordinate-voxel-size, --voxel-size)."
            )
        if self.missing:
            counts = [f"{name} ({n})" for name, n in self.missing.items()]
            lines.append(
                f"{sum(self.missing.values())} left out, of {len(counts)} tomograms "
                f"that were not given: {shorten(counts)}."
            )
        if self.unused:
            lines.append(
                f"{len(self.unused)} tomograms have no particle in the STAR file: "
                f"{shorten(self.unused)}."
            )
        return "\n".join(lines)


def extract_subtomograms(
    tomogram: str | Path | Sequence[str | Path],
    particles: str | Path | ParticleTable,
    *,
    size: int,
    output: str | Path,
    binning: int = 1,
    invert_contrast: bool = False,
    normalize: bool = False,
    edge: str = "drop",
    voxel_size: float | None = None,
    coordinate_units: str | None = None,
    coordinate_voxel_size: float | None = None,
    selection: Collection[str] | None = None,
    tomogram_name: str | None = None,
    allow_image_stacks: bool = False,
    overwrite: bool = False,
    progress: bool = False,
) -> Extraction:
    """Cut boxes around particles out of a tomogram, or out of several.

    Parameters
    ----------
    tomogram : str, Path or sequence of them
        An MRC file of one tomogram, or several of them, which are memory-mapped.
    particles : str, Path or ParticleTable
        A STAR file of particles with coordinates, in any dialect of `read_particles`.
    size : int
        Side of the boxes in voxels, after binning.
    output : str or Path
        Folder for ``subtomograms.mrc`` and ``particles.star``; made if it is missing.
    binning : int, default=1
        Average over cubes of so many voxels a side. The voxels become larger by as
        much.
    invert_contrast : bool, default=False
        Change the sign of the values: particles that are dark in a raw tomogram become
        light.
    normalize : bool, default=False
        Give each box mean 0 and standard deviation 1.
    edge : {"drop", "pad"}, default="drop"
        What becomes of boxes that reach over the edge of the tomogram: left out, or
        filled up with the mean of what is inside. A particle whose centre is outside
        is left out anyway.
    voxel_size : float, default=None
        Voxel size of the tomograms in angstroms, which overrides those of the headers.
        These have to agree within 1 %; the volumes get that of the first.
    coordinate_units : {"pixels", "angstroms_centered"}, default=None
        Which coordinates to use, see `ParticleTable.coordinates`. None takes the
        centred ones if they are there.
    coordinate_voxel_size : float, default=None
        Angstroms a pixel of ``rlnCoordinateX``. None takes it from the STAR file, or
        takes the coordinates to be in their tomogram's voxels if that does not say.
    selection : collection of str, default=None
        Names of the particles to extract, as `sksubtomo.picking.read_selection` returns
        them: their ``rlnTomoParticleName``, else their ``rlnImageName`` (which may be
        given in any case), else their position in the file from 1. None means all.
    tomogram_name : str, default=None
        Name of the tomogram in the STAR file, if one is given. None: if the STAR file
        names several tomograms, the one that the tomogram's file is called after
        (``TS_01``, ``TS_01.mrc``, ``rec_TS_01.mrc``, ``TS_01_10.00Apx.mrc``);
        otherwise all particles, with a warning if the file is not called after the
        one name there is. Several tomograms are always told by their files.
    allow_image_stacks : bool, default=False
        Take a file whose header says that it is a stack of images for a tomogram, see
        `open_volume`.
    overwrite : bool, default=False
        Replace files of an earlier extraction.
    progress : bool, default=False
        Show a progress bar.

    Returns
    -------
    Extraction
        Files, names and what happened at the edges.

    Raises
    ------
    FileExistsError
        If there are subtomograms in the folder already.
    FileNotFoundError
        If a file does not exist.
    NotADirectoryError
        If `output` is a file, or would have to be in one.
    ValueError
        If a file cannot be read or is a stack of 2-D images, a voxel size is unknown
        or contradicts another, two files are of one tomogram, no particle is of these
        tomograms, no box lies in them, or a parameter is out of range.

    Warns
    -----
    UserWarning
        If the only tomogram is taken for the only one that the STAR file names, and is
        not called after it.

    Notes
    -----
    From several tomograms come one stack and one STAR file, in the order of the rows;
    each row is cut from the tomogram that it names. Particles of a tomogram that was
    not given are left out and counted.

    The centre of a box of even or odd side is its voxel ``size // 2``, counted from 0,
    as in RELION. Boxes are not interpolated: with a binning of 1 the centre is the
    voxel of the tomogram nearest to the particle, with binning b the position nearest
    to it that b allows, within half a voxel of the tomogram along each axis.
    What remains is kept in the STAR file in the way of RELION, where the particle is at
    coordinate minus origin: the coordinates become those of the box's centre, and
    ``rlnOriginXAngst``, ``rlnOriginYAngst`` and ``rlnOriginZAngst`` what is between.
    Shifts that were there before are thereby applied, as `ParticleTable.coordinates`
    does. All other columns stay as they are, but for ``rlnImageName``, and in the table
    of optics ``rlnImagePixelSize``, ``rlnImageSize`` and ``rlnImageDimensionality``.

    Averaging is the simplest binning that keeps boxes independent of each other and
    without ringing at their edges; it dampens the highest frequencies that remain (to
    0.64 at Nyquist along an axis).

    Volumes go to disk one by one, and the files appear when they are complete. One
    tomogram is open at a time, which is the next one when the rows come to it: rows
    that mix tomograms cost little, unless these are compressed.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import numpy as np
    >>> from sksubtomo.io import extract_subtomograms, write_particles, write_volume
    >>> tomogram = np.random.default_rng(0).normal(size=(16, 32, 32))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "TS_01.mrc")
    ...     write_volume(path, tomogram, voxel_size=10.0)
    ...     star = Path(folder, "picks.star")
    ...     coordinates = {"X": [16, 2], "Y": [20, 9], "Z": [8, 8]}
    ...     write_particles(
    ...         star, {f"rlnCoordinate{k}": v for k, v in coordinates.items()}
    ...     )
    ...     extraction = extract_subtomograms(path, star, size=8, output=folder)
    ...     extraction.names, extraction.dropped
    (['1'], ['2'])
    """
    output = Path(output)
    paths = [
        Path(path)
        for path in ([tomogram] if isinstance(tomogram, (str, Path)) else tomogram)
    ]
    if not paths:
        raise ValueError("tomogram=[]; expected at least one file.")
    if tomogram_name is not None and len(paths) > 1:
        raise ValueError(
            f"tomogram_name={tomogram_name!r} is for one tomogram, and {len(paths)} "
            "are given; expected files that are called after their tomograms."
        )
    size, binning = _count("size", size), _count("binning", binning)
    if edge not in EDGES:
        raise ValueError(f"edge={edge!r}; expected 'drop' or 'pad'.")
    check_folder(output)
    stack, star_path = output / STACK_NAME, output / STAR_NAME
    for path in (stack, star_path):
        if path.exists() and not overwrite:
            raise already_there(path)
    table = (
        particles if isinstance(particles, ParticleTable) else read_particles(particles)
    )
    if table.path.absolute() == star_path.absolute():
        raise ValueError(f"{star_path}: is the input; choose another folder.")
    how: dict[str, Any] = {
        "voxel_size": voxel_size,
        "allow_image_stacks": allow_image_stacks,
    }
    all_shapes, all_sizes = [], []
    for path in paths:
        # The last one stays open.
        volume, found = open_tomogram(path, **how)
        all_shapes.append(volume.shape)
        all_sizes.append(found)
    names = particle_names(table)
    owners = _owners(table, paths, tomogram_name)
    is_chosen = np.ones(len(table), dtype=bool)
    if selection is not None:
        is_chosen = _is_selected(table, names, selection)
    rows = np.flatnonzero(is_chosen & (owners >= 0))
    if not len(rows):
        whose = "this tomogram" if len(paths) == 1 else "these tomograms"
        raise ValueError(
            f"selection: has no particle of {whose} in {table.path}; expected at "
            "least one."
        )
    owner = owners[rows]
    voxel_size = _common_voxel_size(paths, all_sizes, owner)
    sought: dict[str, Any] = {
        "units": coordinate_units,
        "coordinate_voxel_size": coordinate_voxel_size,
    }
    # Of each particle's tomogram; the numbers of rows without one are not used.
    shapes: NDArray[np.intp] = np.array(all_shapes)[owners]
    sizes: NDArray[np.float64] = np.array(all_sizes)[owners]
    centres = table.coordinates(sizes, shapes, **sought)[rows]
    shapes, sizes = shapes[rows], sizes[rows]
    starts = nearest_starts(centres, size, binning)
    side = size * binning
    whole = ((starts >= 0) & (starts + side <= shapes)).all(axis=1)
    inside = ((centres >= -0.5) & (centres < shapes - 0.5)).all(axis=1)
    kept = whole if edge == "drop" else inside
    for index in np.unique(owner):
        if side > 2 * max(all_shapes[index]):
            raise ValueError(
                f"size={size} with binning={binning} makes boxes of {side} voxels a "
                f"side; {paths[index]} has shape {all_shapes[index]}. Expected smaller "
                "ones."
            )
    if not kept.any():
        where = paths[owner[0]].name
        if len(paths) > 1:
            where = f"its tomogram; that of the first is {where}"
        z, y, x = centres[0]
        raise ValueError(
            f"{table.path}: none of {len(rows)} boxes of {side} voxels lies in "
            f"{where}, of shape {all_shapes[owner[0]]} with voxels of "
            f"{sizes[0]:g} A; the first particle is at z={z:.1f}, y={y:.1f}, "
            f"x={x:.1f}. Expected coordinates within it: check the voxel size and the "
            "units of the coordinates (coordinate_units=, --coordinate-units)."
        )

    constant: list[str] = []
    current = len(paths) - 1
    with (
        _folder_for_results(output),
        VolumeStackWriter(
            stack, int(kept.sum()), (size, size, size), voxel_size * binning
        ) as writer,
    ):
        for row in tqdm(
            np.flatnonzero(kept), disable=not progress, desc="extract", unit="box"
        ):
            if owner[row] != current:
                current = int(owner[row])
                with warnings.catch_warnings():
                    # Told when it was first opened.
                    warnings.simplefilter("ignore")
                    volume, _ = open_tomogram(paths[current], **how)
            name = names[rows[row]]
            where = f"{paths[current]}, particle {name}"
            box = cut_box(volume, starts[row], size, binning, where)
            box = -box if invert_contrast else box
            deviation = box.std()
            # A box with one value everywhere has rounding errors at most.
            if not deviation > 1e-7 * abs(box.mean()):
                constant.append(name)
                deviation = 1.0
            if normalize:
                box = (box - box.mean()) / deviation
            writer.write(box[None])
        # Never an old table beside new volumes.
        star_path.unlink(missing_ok=True)
    written = table.select(rows[kept])
    residual = centres[kept] - _box_centres(starts[kept], size, binning)
    star = written.with_columns(
        _columns(
            written, residual, sizes[kept], shapes[kept], sought, voxel_size * binning
        )
    )
    _describe_images(star, written, size, voxel_size * binning)
    star.write(star_path)

    def named(mask: Any) -> list[str]:
        return [names[row] for row in rows[mask]]

    missing: Counter[str] = Counter()
    unused: list[str] = []
    if table.tomogram_names is not None:
        tomogram_names = np.array(table.tomogram_names)
        missing.update(tomogram_names[is_chosen & (owners < 0)].tolist())
    if len(paths) > 1:
        used = set(owners.tolist())
        unused = [path.name for k, path in enumerate(paths) if k not in used]
    return Extraction(
        stack=stack,
        star=star_path,
        names=named(kept),
        voxel_size=voxel_size * binning,
        dropped=named(inside & ~kept),
        padded=named(kept & ~whole),
        constant=constant,
        missing=dict(missing),
        unused=unused,
        outside=named(~inside & ~kept),
    )


def particle_names(table: ParticleTable) -> list[str]:
    """Return what particles are called in messages and selections.

    Parameters
    ----------
    table : ParticleTable
        The particles.

    Returns
    -------
    list of str
        Their ``rlnTomoParticleName``, else their ``rlnImageName``, else their position
        in the file, from 1.
    """
    if "rlnTomoParticleName" in table.loop:
        return table.loop.column("rlnTomoParticleName")
    return table.image_names or [str(row + 1) for row in range(len(table))]


def shorten(names: Collection[str]) -> str:
    """Return a few names of many.

    Parameters
    ----------
    names : collection of str
        The names.

    Returns
    -------
    str
        The first ones, and how many more there are.
    """
    shown = ", ".join(list(names)[:_SHOWN])
    more = len(names) - _SHOWN
    return shown + (f" and {more} more" if more > 0 else "")


def tomogram_stem(path: str | Path) -> str:
    """Return what a tomogram is called, without folder and suffixes.

    Parameters
    ----------
    path : str or Path
        A file, or a name in a STAR file, such as ``001`` or ``TS_01.tomostar``.

    Returns
    -------
    str
        The name.
    """
    # A path of another system in a STAR file is a path, too.
    name = re.split(r"[/\\]", str(path))[-1]
    while name.lower().endswith(_SUFFIXES):
        name = name[: name.rindex(".")]
    return name


def check_folder(folder: Path) -> None:
    """Check that a folder is there or can be made.

    Parameters
    ----------
    folder : Path
        The folder.

    Raises
    ------
    NotADirectoryError
        If it, or what it would have to be in, is a file.
    """
    for path in (folder, *folder.parents):
        if path.is_dir():
            return
        if path.exists():
            raise NotADirectoryError(
                f"{folder}: {path} is a file; expected a folder, or a new name."
            )


@contextmanager
def _folder_for_results(folder: Path) -> Iterator[None]:
    """Make a folder; what was made for it goes again if the work fails."""
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        for path in made:
            with suppress(OSError):
                path.rmdir()
        raise


def _owners(
    table: ParticleTable, paths: list[Path], tomogram_name: str | None
) -> NDArray[np.intp]:
    """Return which of the files is each particle's tomogram, or -1 if none is."""
    if not len(table):
        raise ValueError(f"{table.path}: has no particle.")
    names = table.tomogram_names or [""] * len(table)
    if len(paths) > 1 and table.tomogram_names is None:
        raise ValueError(
            f"{table.path}: has no column rlnTomoName or rlnMicrographName, and "
            f"{len(paths)} tomograms are given; expected names, or one tomogram."
        )
    distinct = sorted(set(names))
    by_stem: dict[str, list[str]] = {}
    for name in distinct:
        by_stem.setdefault(tomogram_stem(name), []).append(name)
    owners: dict[str, int] = {}
    for index, path in enumerate(paths):
        if tomogram_name is not None:
            found = [name for name in distinct if name == tomogram_name]
            found = found or by_stem.get(tomogram_name, [])
        elif len(paths) == len(distinct) == 1:
            found = distinct
            if table.tomogram_names and not _called_after(path, by_stem):
                warnings.warn(
                    f"{path} is taken for {distinct[0]}, the only tomogram of "
                    f"{table.path}; --tomogram-name {distinct[0]} (tomogram_name=) "
                    "says that this is meant.",
                    stacklevel=3,
                )
        else:
            found = _called_after(path, by_stem)
        if len(found) > 1 or (not found and len(paths) == 1):
            sought = repr(tomogram_name) if tomogram_name else f"the file {path.name}"
            hint = ", or give its name (tomogram_name=, --tomogram-name)"
            raise ValueError(
                f"{table.path}: {len(found) or 'none'} of its tomograms "
                f"({shorten(distinct)}) belong to {sought}; expected one"
                f"{hint if len(paths) == 1 else ''}."
            )
        for name in found:
            if name in owners:
                raise ValueError(
                    f"{paths[owners[name]]} and {path} are both of the tomogram "
                    f"{name!r} of {table.path}; expected one file for each tomogram."
                )
            owners[name] = index
    if not owners:
        raise ValueError(
            f"{table.path}: none of its tomograms ({shorten(distinct)}) belong to the "
            f"files {shorten([path.name for path in paths])}; expected files that are "
            "called after them."
        )
    return np.array([owners.get(name, -1) for name in names], dtype=np.intp)


def _called_after(path: Path, by_stem: dict[str, list[str]]) -> list[str]:
    """Return the tomograms, of those by their stems, that a file is called after."""
    stem = tomogram_stem(path)
    if stem in by_stem:
        return by_stem[stem]
    found = by_stem.get(stem[4:], []) if stem.startswith("rec_") else []
    of_warp = re.fullmatch(r"(.*)_[\d.]+Apx", stem, re.DOTALL)
    return found + (by_stem.get(of_warp[1], []) if of_warp else [])


def _common_voxel_size(
    paths: list[Path], sizes: list[float], owner: NDArray[np.intp]
) -> float:
    """Return the voxel size of the first tomogram of which there are particles."""
    first, *others = np.unique(owner)
    for other in others:
        if abs(sizes[other] - sizes[first]) > _VOXEL_SIZE_TOLERANCE * sizes[first]:
            raise ValueError(
                f"{paths[other]}: has voxels of {sizes[other]:g} A, and {paths[first]} "
                f"of {sizes[first]:g} A; expected the same within 1 %. Extract them "
                "into different folders, or give the true size if a header is wrong "
                "(voxel_size=, --voxel-size)."
            )
    return sizes[first]


def _is_selected(
    table: ParticleTable, names: list[str], selection: Collection[str]
) -> NDArray[np.bool_]:
    """Tell which rows a selection names, in any of the ways particles are called."""
    wanted = set(selection)
    images = table.image_names
    is_wanted = np.zeros(len(names), dtype=bool)
    known: set[str] = set()
    for index, name in enumerate(names):
        aliases = {name} | ({images[index]} if images else set())
        known |= aliases & wanted
        is_wanted[index] = bool(aliases & wanted)
    unknown = sorted(wanted - known)
    if unknown:
        raise ValueError(
            f"selection: {len(unknown)} particles are not in {table.path} "
            f"({shorten(unknown)}); its particles are called {shorten(names)}."
        )
    return is_wanted


def nearest_starts(
    centres: NDArray[np.float64], size: int, binning: int
) -> NDArray[np.intp]:
    """Return where boxes begin whose centres are nearest to particles.

    Parameters
    ----------
    centres : ndarray of shape (n, 3)
        The particles, in voxels of the tomogram.
    size : int
        Side of the boxes in voxels, after binning.
    binning : int
        Voxels of the tomogram along a side of a binned voxel.

    Returns
    -------
    ndarray of shape (n, 3)
        First voxel of each box.
    """
    nearest = np.floor(centres - _box_centres(0, size, binning) + 0.5)
    # Far out is far out, and has to fit into an integer.
    return np.clip(nearest, -(2**40), 2**40).astype(np.intp)


def _box_centres(starts: Any, size: int, binning: int) -> Any:
    """Return where the middle of the binned voxel ``size // 2`` is in the tomogram."""
    return starts + (size // 2) * binning + (binning - 1) / 2


def cut_box(
    volume: NDArray[Any],
    start: NDArray[np.intp],
    size: int,
    binning: int,
    name: str,
) -> NDArray[np.float64]:
    """Cut a box, filled up with the mean of what lies in the volume.

    Parameters
    ----------
    volume : ndarray of shape (depth, height, width)
        The tomogram.
    start : ndarray of shape (3,)
        First voxel of the box. Part of it has to lie in the tomogram.
    size : int
        Side of the box in voxels, after binning.
    binning : int
        Average over cubes of so many voxels a side.
    name : str
        What is cut out, for an error.

    Returns
    -------
    ndarray of shape (size, size, size)
        The box.

    Raises
    ------
    ValueError
        If it holds NaN or infinite values.
    """
    side = size * binning
    low = np.maximum(start, 0)
    high = np.minimum(start + side, volume.shape)
    box = np.asarray(
        volume[tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))]
    ).astype(np.float64)
    if not np.isfinite(box).all():
        raise ValueError(
            f"{name}: the box holds NaN or infinite values; expected finite ones."
        )
    if box.shape != (side, side, side):
        inside, box = box, np.full((side, side, side), box.mean())
        target = zip(low - start, high - start, strict=True)
        box[tuple(slice(int(a), int(b)) for a, b in target)] = inside
    averaged: NDArray[np.float64] = box.reshape((size, binning) * 3).mean((1, 3, 5))
    return averaged


def _columns(
    table: ParticleTable,
    residual: NDArray[np.float64],
    voxel_sizes: NDArray[np.float64],
    shapes: NDArray[np.intp],
    sought: dict[str, Any],
    image_voxel_size: float,
) -> dict[str, Any]:
    """Return the columns that change: image names, coordinates and origins."""
    columns: dict[str, Any] = {
        "rlnImageName": [
            f"{number:06d}@{STACK_NAME}" for number in range(1, len(table) + 1)
        ]
    }
    loop = table.loop
    stored = table.coordinates(voxel_sizes, shapes, **sought, apply_shifts=False)
    particle = table.coordinates(voxel_sizes, shapes, **sought)
    centre = particle - residual
    # From where the columns say to the box's centre, x, y, z in angstroms.
    moved = ((centre - stored) * voxel_sizes[:, None])[:, ::-1]
    if not np.abs(moved).max() > 1e-6 and not np.abs(residual).max() > 1e-6:
        return columns
    unit = sought["coordinate_voxel_size"] or table.coordinate_voxel_sizes
    for tags, length in (
        (_CENTERED, 1.0),
        (_PIXELS, voxel_sizes if unit is None else unit),
    ):
        if all(tag in loop for tag in tags):
            values = np.array([loop.column(tag) for tag in tags], dtype=np.float64)
            columns |= _written(tags, values + moved.T / length)
    origins = -residual[:, ::-1] * voxel_sizes[:, None]
    if all(tag in loop for tag in _TURNS):
        angles = np.array([loop.column(tag) for tag in _TURNS], dtype=np.float64).T
        turns = rotation_matrices(angles)[:, ::-1, ::-1]
        origins = np.einsum("nji,nj->ni", turns, origins)
    columns |= _written(_ORIGINS, origins.T)
    there = [tag for tag in _ORIGINS_PIXELS if tag in loop]
    in_pixels = _written(_ORIGINS_PIXELS, origins.T / image_voxel_size)
    return columns | {tag: in_pixels[tag] for tag in there}


def _written(
    tags: tuple[str, ...], values: NDArray[np.float64]
) -> dict[str, list[str]]:
    return {
        tag: [f"{value + 0.0:.4f}" for value in column]
        for tag, column in zip(tags, values, strict=True)
    }


def _describe_images(
    star: StarFile, table: ParticleTable, size: int, voxel_size: float
) -> None:
    """Say in the optics table, or else in the particles', what the volumes are."""
    general = star.block("general")
    if general is not None and _IS_2D in general.pairs:
        general.set_pair(_IS_2D, "0")
    described = {
        "rlnImagePixelSize": f"{voxel_size:.6f}",
        "rlnImageSize": str(size),
        "rlnImageDimensionality": "3",
    }
    block = star.block("optics")
    if block is not None and block.loops:
        loop = block.loops[0]
    else:
        block = star.blocks[table.star.blocks.index(table.block)]
        loop = block.loops[table.block.loops.index(table.loop)]
        described = {
            tag: value
            for tag, value in described.items()
            if tag in loop or tag == "rlnImagePixelSize"
        }
    for tag, value in described.items():
        loop.set_column(tag, [value] * len(loop))


def _count(name: str, value: Any) -> int:
    if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name}={value!r}; expected an integer of at least 1.")
    return int(value)
