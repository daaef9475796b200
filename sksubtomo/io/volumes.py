"""Particles, in whatever files they are, as one array of volumes."""

from __future__ import annotations

import glob
import os
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sksubtomo._stored import StoredVolumes, is_stored, take_rows
from sksubtomo.io._sources import (
    EM_SUFFIX,
    HDF5_SUFFIXES,
    STAR_SUFFIX,
    ZARR_SUFFIX,
    Expected,
    Reference,
    Reordered,
    check_array,
    check_axes,
    check_finite,
    check_index,
    gather,
    open_source,
    parse_reference,
    read_part,
    reorder,
    stack_references,
)
from sksubtomo.io.mrc import check_voxel_size

if TYPE_CHECKING:
    from sksubtomo.io.particles import ParticleTable

# What a folder is searched for; other names are reached with a pattern.
_FOLDER_SUFFIXES = (".mrc", ".mrc.gz", ".mrc.bz2", EM_SUFFIX)

# The sign of the contrast is told from this many volumes at most, and not from so few
# that their noise could decide.
_MAX_CONTRAST_VOLUMES = 200
_MIN_CONTRAST_VOLUMES = 10
_MIN_CONTRAST_ERRORS = 5.0

# Of a stack that is mapped, looked through at a time.
_BLOCK_BYTES = 1 << 26


@dataclass(frozen=True)
class Subtomograms:
    """Volumes as they were read, with what their files say about them.

    Attributes
    ----------
    volumes : ndarray of shape (n, depth, height, width)
        The volumes, axes z, y, x; memory-mapped and read-only where the file allows.
        In the workflows, those of one file stay in it.
    voxel_size : float or None
        Voxel size in angstroms, if it is known.
    names : ndarray of str, shape (n,)
        The name of each particle: as the STAR file has it (rlnImageName), such as
        "000001@stack.mrc" for a stack, or the path of its file.
    particles : ParticleTable or None
        The STAR file's particles, if they come from one.
    """

    volumes: NDArray[Any] | StoredVolumes
    voxel_size: float | None
    names: NDArray[np.str_]
    particles: ParticleTable | None = None

    def __len__(self) -> int:
        return len(self.volumes)


def read_volumes(
    source: str | os.PathLike[str] | Sequence[Any] | NDArray[Any],
    *,
    dataset: str | None = None,
    voxel_size: float | None = None,
    invert_contrast: bool | None = None,
    axes: str = "zyx",
    allow_image_stacks: bool = False,
) -> Subtomograms:
    """Read subtomograms from files of any of the field's formats.

    A stack in MRC format, an uncompressed HDF5 dataset in one piece, and an EM file are
    memory-mapped, not read. Volumes from several files become one float32 array.

    Parameters
    ----------
    source : path, pattern, or sequence of references
        - an MRC file of one volume or of a stack of volumes,
        - an HDF5 file (``.h5``, ``.hdf5``, ``.hdf``), a Zarr store (``.zarr``) or an EM
          file (``.em``), each of which needs the extra of its name,
        - a STAR file of RELION 3.1, 4 or 5 or of Warp (``.star``),
        - a folder, of which all ``.mrc`` and ``.em`` files are read in natural order,
          or a pattern such as ``"particles/*_sub.mrc"``,
        - a sequence of references: paths, or ``"3@stack.mrc"`` for the third volume of
          a stack.
    dataset : str, default=None
        Which array of an HDF5 file or Zarr store to read. By default the only one with
        four axes.
    voxel_size : float, default=None
        Voxel size in angstroms, which overrides what the files say.
    invert_contrast : bool, default=None
        True multiplies the volumes by -1, False leaves them. None leaves them as well,
        but warns if the particles are darker than their surroundings, as they usually
        are in tomograms that were not inverted.
    axes : str, default="zyx"
        The order in which the files store the axes, slowest first. "xyz" is what
        arrays indexed ``[x, y, z]`` are stored as in HDF5 and Zarr.
    allow_image_stacks : bool, default=False
        Take files for volumes whose header, name (".mrcs") or STAR file says that they
        are stacks of images, and single volumes that are no cubes without a warning.

    Returns
    -------
    Subtomograms
        Volumes, voxel size, names, and the particles of a STAR file.

    Raises
    ------
    FileNotFoundError
        If there is no such file, or none that matches.
    ValueError
        If a file cannot be read or holds something else than real, finite volumes, or
        volumes differ in shape or voxel size, from each other or from the STAR file.
    TypeError
        If the source is no path and no sequence of them.
    ImportError
        If the format needs an extra that is not installed.
    MemoryError
        If the volumes cannot be memory-mapped and are more than there is memory for.

    Warns
    -----
    UserWarning
        If the header breaks the format in a way that leaves the data readable, a single
        volume is no cube and so may be tilt images, or the contrast looks inverted and
        `invert_contrast` is None.

    See Also
    --------
    list_references : The references of a source, without reading it.
    sksubtomo.ReadVolumes : Reads references in a pipeline.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import numpy as np
    >>> from sksubtomo.io import read_volumes, write_volume
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for number in (1, 2, 10):
    ...         path = Path(folder, f"particle_{number}.mrc")
    ...         write_volume(path, np.full((8, 8, 8), number), voxel_size=10)
    ...     subtomograms = read_volumes(folder)
    >>> subtomograms.volumes.shape, subtomograms.voxel_size
    ((3, 8, 8, 8), 10.0)
    >>> subtomograms.volumes[:, 0, 0, 0]
    array([ 1.,  2., 10.], dtype=float32)
    >>> Path(subtomograms.names[2]).name
    'particle_10.mrc'
    """
    volumes, found, names, particles = _read(
        source,
        dataset=dataset,
        voxel_size=voxel_size,
        axes=axes,
        allow_image_stacks=allow_image_stacks,
        on_disk=False,
    )
    volumes = set_contrast(volumes, invert_contrast)
    return Subtomograms(volumes, found, names, particles)


def open_subtomograms(
    source: str | os.PathLike[str] | Sequence[Any] | NDArray[Any],
    *,
    dataset: str | None = None,
    voxel_size: float | None = None,
    invert_contrast: bool | None = None,
    axes: str = "zyx",
    allow_image_stacks: bool = False,
) -> Subtomograms:
    """Read subtomograms as `read_volumes` does, but leave those of one file there.

    Parameters
    ----------
    source, dataset, voxel_size, invert_contrast, axes, allow_image_stacks : object
        As for `read_volumes`, which raises and warns the same.

    Returns
    -------
    Subtomograms
        Its volumes are StoredVolumes if all are in one file that is not compressed as a
        whole, in whatever order; otherwise they are in memory.
    """
    volumes, found, names, particles = _read(
        source,
        dataset=dataset,
        voxel_size=voxel_size,
        axes=axes,
        allow_image_stacks=allow_image_stacks,
        on_disk=True,
    )
    volumes = set_contrast(volumes, invert_contrast)
    return Subtomograms(volumes, found, names, particles)


def _read(
    source: Any,
    *,
    dataset: str | None,
    voxel_size: float | None,
    axes: str,
    allow_image_stacks: bool,
    on_disk: bool,
) -> tuple[Any, float | None, NDArray[np.str_], ParticleTable | None]:
    """Return volumes, their voxel size, their names and the STAR file's particles."""
    voxel_size = check_voxel_size(voxel_size)
    check_axes(axes)
    references, particles = _list(
        source, dataset, allow_image_stacks, in_memory=not on_disk
    )
    expected = Expected(voxel_size=voxel_size)
    if voxel_size is None and particles is not None:
        origin = str(particles.path)
        expected = Expected(
            voxel_size=particles.voxel_size,
            voxel_size_origin=origin,
            widths=_image_sizes(particles),
            widths_origin=origin,
        )
    read: Callable[..., tuple[Any, float | None]] = gather
    if on_disk and len({reference.path for reference in references}) == 1:
        read = _open_one_file
    elif _is_one_piece(references):
        read = _read_one_piece
    volumes, found = read(
        references,
        expected,
        dataset=dataset,
        axes=axes,
        allow_image_stacks=allow_image_stacks,
        ignore_voxel_size=voxel_size is not None,
    )
    names = np.array([reference.name for reference in references])
    return volumes, found, names, particles


def list_references(
    source: str | os.PathLike[str] | Sequence[Any] | NDArray[Any],
    *,
    dataset: str | None = None,
    allow_image_stacks: bool = False,
) -> NDArray[np.str_]:
    """List the volumes of a source as references that `ReadVolumes` takes.

    Parameters
    ----------
    source : path, pattern, or sequence of references
        As for :func:`read_volumes`.
    dataset : str, default=None
        Which array of an HDF5 file or Zarr store is meant. By default the only one with
        four axes.
    allow_image_stacks : bool, default=False
        Take files for volumes whose header, or STAR file, says that they are stacks of
        images.

    Returns
    -------
    ndarray of str, shape (n,)
        A path for each file of one volume, and ``000001@path`` and so on for the
        volumes of a stack. Particles of a STAR file are in its order, with the paths
        at which they were found.

    Raises
    ------
    FileNotFoundError
        If there is no such file, or none that matches.
    ValueError
        If the source is a stack or a STAR file that cannot be read.
    TypeError
        If the source is no path and no sequence of them.
    ImportError
        If the format needs an extra that is not installed.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import numpy as np
    >>> from sksubtomo.io import list_references, write_volume_stack
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "stack.mrc")
    ...     write_volume_stack(path, np.zeros((2, 8, 8, 8)), voxel_size=10)
    ...     references = list_references(path)
    >>> [reference.split("@")[0] for reference in references]
    ['000001', '000002']
    """
    references, _ = _list(source, dataset, allow_image_stacks, in_memory=False)
    return np.array(
        [
            str(reference.path)
            if reference.index is None
            else f"{reference.index + 1:06d}@{reference.path}"
            for reference in references
        ]
    )


def contrast_sign(volumes: ArrayLike) -> int:
    """Tell whether particles are lighter or darker than their surroundings.

    In each of up to 200 volumes the mean within a quarter of the smallest side from the
    centre is compared with the mean beyond three eighths of it. The mean difference, in
    standard deviations of the volume, counts if it is above five times its standard
    error over the volumes.

    Parameters
    ----------
    volumes : array-like of shape (n, depth, height, width)
        Volumes with a particle near their centres.

    Returns
    -------
    int
        1 if particles are lighter, as in simulations, templates and inverted
        tomograms; -1 if they are darker, as in raw tomograms; 0 if this cannot be
        told, which fewer than ten volumes never can.

    Raises
    ------
    ValueError
        If the volumes have another number of axes.

    Examples
    --------
    >>> from sksubtomo.datasets import make_subtomograms
    >>> from sksubtomo.io import contrast_sign
    >>> X, _ = make_subtomograms(n_per_class=3, size=16, random_state=0,
    ...                          return_X_y=True)
    >>> contrast_sign(X), contrast_sign(-X)
    (1, -1)
    """
    array: Any = volumes
    if not isinstance(volumes, (np.ndarray, StoredVolumes)):
        array = np.asarray(volumes)
    if array.ndim != 4:
        raise ValueError(
            f"volumes has shape {array.shape}; expected (n, depth, height, width)."
        )
    if len(array) < _MIN_CONTRAST_VOLUMES:
        return 0
    sides = array.shape[1:]
    # Squared distance from the centre in units of the smallest side.
    z, y, x = (((np.arange(side) - (side - 1) / 2) / min(sides)) ** 2 for side in sides)
    radii = z[:, np.newaxis, np.newaxis] + y[:, np.newaxis] + x
    centre = radii <= 0.25**2
    around = radii >= 0.375**2
    if not (centre.any() and around.any()):
        return 0
    rows = np.unique(
        np.linspace(0, len(array) - 1, _MAX_CONTRAST_VOLUMES).round().astype(int)
    )
    differences = np.zeros(len(rows))
    for i, row in enumerate(rows):
        volume = take_rows(array, np.array([row]))[0].astype(np.float64)
        spread = volume.std()
        if spread > 0:
            difference = volume[centre].mean() - volume[around].mean()
            differences[i] = difference / spread
    error = differences.std(ddof=1) / np.sqrt(len(rows))
    if abs(differences.mean()) <= _MIN_CONTRAST_ERRORS * error:
        return 0
    return int(np.sign(differences.mean()))


def set_contrast(volumes: Any, invert_contrast: bool | None) -> Any:
    """Invert the volumes, leave them, or leave them and warn if they look inverted.

    Parameters
    ----------
    volumes : ndarray or StoredVolumes of shape (n, depth, height, width)
        The volumes.
    invert_contrast : bool or None
        True gives a float32 copy multiplied by -1, of volumes on disk when they are
        read. None warns if protein is dark.

    Returns
    -------
    ndarray or StoredVolumes of shape (n, depth, height, width)
        The volumes themselves, unless they are inverted.
    """
    if invert_contrast and isinstance(volumes, StoredVolumes):
        return -volumes
    if invert_contrast:
        check_array(volumes.shape, np.float32, "the inverted volumes")
        return np.negative(volumes, dtype=np.float32, casting="unsafe")
    if invert_contrast is None and contrast_sign(volumes) < 0:
        warnings.warn(
            "The particles are darker than their surroundings, as in tomograms whose "
            "contrast was not inverted; simulations and templates have light "
            "particles. Invert them (invert_contrast=True, --invert-contrast), or say "
            "that this is meant (False, --no-invert-contrast).",
            UserWarning,
            stacklevel=3,
        )
    return volumes


def _list(
    source: Any, dataset: str | None, allow_image_stacks: bool, *, in_memory: bool
) -> tuple[list[Reference], ParticleTable | None]:
    if not isinstance(source, (str, os.PathLike)):
        return parse_references(source), None
    reference = parse_reference(source)
    path = reference.path
    if reference.index is not None:
        return [reference], None
    suffix = path.suffix.lower()
    if path.is_dir() and suffix != ZARR_SUFFIX:
        return _list_folder(path), None
    if not path.exists() and glob.has_magic(reference.name):
        return _list_pattern(reference.name), None
    if suffix == STAR_SUFFIX:
        return _list_star(path, allow_image_stacks)
    # Whoever reads the volumes opens the file again, and is warned then.
    with open_source(
        path, dataset=dataset, allow_image_stacks=allow_image_stacks, warn=False
    ) as (volumes, _):
        if in_memory and not isinstance(volumes, np.ndarray):
            check_array(volumes.shape, volumes.dtype, str(path))
        if volumes.shape[0] == 1 and suffix not in {*HDF5_SUFFIXES, ZARR_SUFFIX}:
            return [reference], None
        return stack_references(path, volumes.shape[0], path.name), None


def parse_references(references: Any) -> list[Reference]:
    """Read a sequence of references, or a table of one column of them.

    Parameters
    ----------
    references : array-like of shape (n,) or (n, 1)
        Paths, or ``"3@stack.mrc"``.

    Returns
    -------
    list of Reference
        One for each row.

    Raises
    ------
    ValueError
        If there is none or they have another shape.
    TypeError
        If one is no path.
    """
    array = np.asarray(references, dtype=object)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise ValueError(
            f"references have shape {array.shape}; expected (n,) or (n, 1) names of "
            "files, such as 'volume.mrc' or '3@stack.mrc'."
        )
    if not len(array):
        raise ValueError(
            "got no references (0 samples); expected at least one name of a file."
        )
    return [parse_reference(reference, row) for row, reference in enumerate(array)]


def _list_folder(folder: Path) -> list[Reference]:
    names = [
        entry.name
        for entry in os.scandir(folder)
        # macOS puts hidden files beside those it copies.
        if entry.name.lower().endswith(_FOLDER_SUFFIXES)
        and not entry.name.startswith(".")
        and entry.is_file()
    ]
    if not names:
        raise FileNotFoundError(
            f"{folder}: has no {' or '.join(_FOLDER_SUFFIXES)} file; for other names "
            f"give a pattern such as '{folder}/*.rec'."
        )
    paths = [folder / name for name in sorted(names, key=_natural)]
    return [Reference(path, None, str(path)) for path in paths]


def _list_pattern(pattern: str) -> list[Reference]:
    names = sorted(glob.glob(pattern, recursive=True), key=_natural)
    if not names:
        raise FileNotFoundError(f"{pattern}: no file matches this pattern.")
    return [Reference(Path(name), None, name) for name in names]


def _natural(name: str) -> list[Any]:
    """Sort 2 before 10."""
    return [
        (int(part), "") if part.isdecimal() else (-1, part)
        for part in re.split(r"([0-9]{1,18})", name)
    ]


def _list_star(
    path: Path, allow_image_stacks: bool
) -> tuple[list[Reference], ParticleTable | None]:
    from sksubtomo.io.particles import read_particles

    particles = read_particles(path)
    if particles.image_names is None:
        raise ValueError(
            f"{path}: has no column rlnImageName, so its particles are not extracted; "
            "expected a STAR file of subtomograms. Extract them first."
        )
    if not len(particles):
        raise ValueError(f"{path}: has no particles; expected at least one.")
    if particles.is_image_stack and not allow_image_stacks:
        raise ValueError(
            f"{path}: says that its particles are stacks of 2-D tilt images "
            "(rlnTomoSubTomosAre2DStacks or rlnImageDimensionality), not volumes; "
            "extract 3-D subtomograms instead. If they are volumes and the file is "
            "wrong, say so (allow_image_stacks=True, --allow-image-stacks)."
        )
    references = []
    for row, name in enumerate(particles.image_names):
        image, index = particles.resolve_image(row)
        references.append(Reference(image, index, name))
    return references, particles


def _image_sizes(particles: ParticleTable) -> tuple[float, ...]:
    """Return the values of rlnImageSize, of the particles' optics or their own."""
    loop, optics = particles.loop, particles.optics
    tag, group = "rlnImageSize", "rlnOpticsGroup"
    if optics is not None and tag in optics:
        sizes = optics.column(tag)
        if group in loop and group in optics:
            used = set(loop.column(group))
            groups = zip(optics.column(group), sizes, strict=True)
            sizes = [size for name, size in groups if name in used]
    elif tag in loop:
        sizes = loop.column(tag)
    else:
        return ()
    try:
        return tuple(float(size) for size in dict.fromkeys(sizes))
    except ValueError:
        raise ValueError(
            f"{particles.path}: {tag} is {sorted(set(sizes))}; expected numbers."
        ) from None


def _is_one_piece(references: list[Reference]) -> bool:
    """Tell whether the volumes are consecutive ones of a file."""
    first = references[0]
    if first.index is None:
        return len(references) == 1
    return all(
        reference.path == first.path and reference.index == first.index + i
        for i, reference in enumerate(references)
    )


def _read_one_piece(
    references: list[Reference],
    expected: Expected,
    *,
    dataset: str | None,
    axes: str,
    allow_image_stacks: bool,
    ignore_voxel_size: bool,
) -> tuple[NDArray[Any], float | None]:
    """Map consecutive volumes of a file, or read them, in the file's dtype."""
    path = references[0].path
    with open_source(
        path,
        dataset=dataset,
        allow_image_stacks=allow_image_stacks,
        ignore_voxel_size=ignore_voxel_size,
    ) as (stored, voxel_size):
        start, last = (check_index(references[i], stored.shape[0]) for i in (0, -1))
        volumes = reorder(read_part(path, stored, slice(start, last + 1)), axes)
    expected = expected.check(volumes.shape[1:], voxel_size, references[0].name)
    for row, volume in _each_volume(stored, volumes, start, axes):
        check_finite(volume, references[row].name)
    return volumes, expected.voxel_size


def _open_one_file(
    references: list[Reference],
    expected: Expected,
    *,
    dataset: str | None,
    axes: str,
    allow_image_stacks: bool,
    ignore_voxel_size: bool,
) -> tuple[NDArray[Any] | StoredVolumes, float | None]:
    """Leave volumes of a file there, once they are known to be finite."""
    with open_source(
        references[0].path,
        dataset=dataset,
        keep_open=True,
        allow_image_stacks=allow_image_stacks,
        ignore_voxel_size=ignore_voxel_size,
    ) as (source, voxel_size):
        rows = [check_index(reference, source.shape[0]) for reference in references]
    if isinstance(source, np.ndarray):
        source = reorder(source, axes)
    elif axes != "zyx":
        source = Reordered(source, axes)
    depth, height, width = source.shape[1:]
    expected = expected.check((depth, height, width), voxel_size, references[0].name)
    volumes: NDArray[Any] | StoredVolumes
    if is_stored(source) or not isinstance(source, np.ndarray):
        volumes = StoredVolumes(source, (depth, height, width))
    else:
        volumes = source
    whole = rows == list(range(len(volumes)))
    volumes = volumes[:] if whole else volumes[rows]
    for reference, volume in zip(references, volumes, strict=True):
        check_finite(volume, reference.name)
    return volumes, expected.voxel_size


def _each_volume(
    stored: Any, volumes: NDArray[Any], start: int, axes: str
) -> Iterator[tuple[int, NDArray[Any]]]:
    """Go through volumes, those of a stack that is mapped without keeping its pages."""
    if not (isinstance(stored, np.memmap) and stored.flags.c_contiguous):
        yield from enumerate(volumes)
        return
    n_bytes = stored[0].nbytes
    block = max(1, _BLOCK_BYTES // n_bytes)
    for row in range(0, len(volumes), block):
        # A map of its own, whose pages leave the memory of the process with it.
        mapped = np.memmap(
            str(stored.filename),
            stored.dtype,
            "r",
            stored.offset + (start + row) * n_bytes,
            (min(block, len(volumes) - row), *stored.shape[1:]),
        )
        yield from enumerate(reorder(mapped, axes), row)
