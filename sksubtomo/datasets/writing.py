"""Simulated data written to disk."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from joblib import Parallel, delayed, effective_n_jobs
from numpy.typing import NDArray
from sklearn.utils import Bunch, gen_batches
from tqdm import tqdm

from sksubtomo._files import write_text
from sksubtomo._version import __version__
from sksubtomo.datasets.imaging import Microscope
from sksubtomo.datasets.structures import Structure
from sksubtomo.datasets.subtomograms import SimulatedChunk, SubtomogramSimulator
from sksubtomo.io.mrc import VolumeStackWriter, write_volume
from sksubtomo.io.particles import euler_angles, write_particles
from sksubtomo.io.star import format_values

# Volumes of a chunk: the more, the less it costs to hand them over; in voxels, so that
# memory does not depend on the size of the volumes.
_CHUNK_VOXELS = 16 * 32**3

# Chunks that are waiting or being made, for each worker.
_CHUNKS_PER_JOB = 4

# Seconds to wait for a chunk that is being made when a run is interrupted.
_PATIENCE = 5.0

_STACK, _CLEAN, _PARTICLES = "subtomograms.mrc", "clean.mrc", "particles.star"
_TOMOGRAM, _SETTINGS = "tomogram.mrc", "simulation.json"

SUBTOMOGRAM_FILES = (_STACK, _CLEAN, _SETTINGS, _PARTICLES)
TOMOGRAM_FILES = (_TOMOGRAM, _CLEAN, _SETTINGS, _PARTICLES)
"""The files of a set; the last one says that the set is complete."""


def write_subtomograms(
    output: str | Path,
    n_per_class: int = 100,
    *,
    clean: bool = False,
    overwrite: bool = False,
    n_jobs: int | None = None,
    progress: bool = False,
    **parameters: Any,
) -> Path:
    """Simulate subtomograms straight to disk, in constant memory.

    The volumes are those that `make_subtomograms` makes from the same parameters.

    Parameters
    ----------
    output : str or Path
        Folder for the files, made if it does not exist.
    n_per_class : int, default=100
        Number of volumes of each class.
    clean : bool, default=False
        Whether to write the volumes without noise as a second stack.
    overwrite : bool, default=False
        Whether to replace the files of an earlier data set in the folder. A tomogram's
        are never replaced.
    n_jobs : int, default=None
        Number of workers, as for joblib: threads, unless `joblib.parallel_config` says
        otherwise. The files are the same for any number and either kind.
    progress : bool, default=False
        Whether to show a progress bar.
    **parameters : dict
        The other parameters of `SubtomogramSimulator`, such as ``structures``, ``size``
        and ``snr``.

    Returns
    -------
    Path
        The STAR file.

    Raises
    ------
    FileExistsError
        If there are such files already and `overwrite` is False, or if the folder holds
        a tomogram.
    ValueError
        If a parameter is out of range, or if the name of a class has a comma, which
        separates neighbours.
    TypeError
        If a parameter is of a wrong type or unknown.
    OSError
        If the folder cannot be written.

    See Also
    --------
    make_subtomograms : The same in memory.
    sksubtomo.io.read_particles : Reads the STAR file.

    Notes
    -----
    The folder gets

    ``subtomograms.mrc``
        The volumes, as an MRC volume stack (space group 401) with their voxel size.
    ``clean.mrc``
        The volumes without noise, if `clean` is True.
    ``particles.star``
        One row a volume, in the order of the stacks: ``rlnImageName``, such as
        ``000001@subtomograms.mrc``; ``rlnClassNumber``, from 1 in the order of
        ``target_names``, and ``sksubtomoClass``, its name; ``rlnAngleRot``,
        ``rlnAngleTilt`` and ``rlnAnglePsi`` in degrees; ``rlnOriginXAngst`` and so on
        in angstroms; ``rlnDefocusU`` and ``rlnDefocusV`` in angstroms and
        ``rlnDefocusAngle``, unless there is no microscope; and ``sksubtomoNeighbors``,
        the names of the complexes around the target, separated by commas.
    ``simulation.json``
        All parameters, of which ``random_state`` is an int that makes the same volumes
        whatever was given; name, mass (daltons) and radius (angstroms) of each
        structure; and the version of this package. An infinite ``snr`` is ``"inf"``.

    Angles and shifts follow RELION: the angles turn the volume back to the structure,
    and the shift is the one that moves the target to the centre, which RELION has at
    voxel ``size // 2`` where this package has it at ``(size - 1) / 2``. So the target's
    centre of mass is at voxel ``size // 2 - shift / voxel_size``.

    Volumes come in chunks, of which no more than a few for each worker are in memory.
    All files appear at the end, the STAR file last; whatever goes wrong before leaves
    none of them behind.

    Examples
    --------
    >>> import tempfile
    >>> from sksubtomo.datasets import write_subtomograms
    >>> from sksubtomo.io import read_particles
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = write_subtomograms(folder, 2, size=8, random_state=0)
    ...     read_particles(path).image_names[-1]
    '000020@subtomograms.mrc'
    """
    check_output(output, SUBTOMOGRAM_FILES, overwrite)
    simulator = SubtomogramSimulator(n_per_class, **parameters)
    _check_names(simulator)
    n, size = simulator.n_subtomograms, simulator.size
    with (
        _staged(output, SUBTOMOGRAM_FILES) as folder,
        contextlib.ExitStack() as open_files,
    ):
        writers = [
            open_files.enter_context(
                VolumeStackWriter(folder / name, n, (size,) * 3, simulator.voxel_size)
            )
            for name in ([_STACK, _CLEAN] if clean else [_STACK])
        ]
        bar = open_files.enter_context(
            tqdm(total=n, unit="volume", disable=not progress)
        )
        for rows, chunk in _simulate_in_order(simulator, clean, n_jobs):
            for writer, volumes in zip(
                writers, (chunk.volumes, chunk.clean), strict=False
            ):
                assert volumes is not None
                writer.write(volumes)
            _write_rows(folder / _PARTICLES, simulator, rows, chunk)
            bar.update(len(chunk.volumes))
        _write_settings(
            folder / _SETTINGS,
            "subtomograms",
            simulator.parameters,
            simulator.structures,
        )
    return Path(output) / _PARTICLES


def write_tomogram(
    output: str | Path, tomogram: Bunch, *, overwrite: bool = False
) -> Path:
    """Write a simulated tomogram and what is in it.

    Parameters
    ----------
    output : str or Path
        Folder for the files, made if it does not exist.
    tomogram : Bunch
        What `make_tomogram` returned.
    overwrite : bool, default=False
        Whether to replace the files of an earlier tomogram in the folder. Those of
        subtomograms are never replaced.

    Returns
    -------
    Path
        The STAR file.

    Raises
    ------
    FileExistsError
        If there are such files already and `overwrite` is False, or if the folder holds
        subtomograms.
    OSError
        If the folder cannot be written.

    See Also
    --------
    make_tomogram : Simulate it.

    Notes
    -----
    The folder gets ``tomogram.mrc`` and, if `tomogram` has it, ``clean.mrc``, the
    tomogram without noise, both as MRC volumes with the voxel size; and
    ``particles.star`` with one row a complex: ``rlnTomoName``; ``rlnCoordinateX`` and
    so on in voxels, 0 at the centre of the first; ``rlnClassNumber``,
    ``sksubtomoClass``, the angles and the defocus as `write_subtomograms` has them; and
    ``sksubtomoRadius``, the radius of the bounding sphere in angstroms. And it gets
    ``simulation.json`` with all parameters, as `write_subtomograms` has it.

    Examples
    --------
    >>> import tempfile
    >>> from sksubtomo.datasets import make_tomogram, write_tomogram
    >>> from sksubtomo.io import read_particles
    >>> scene = make_tomogram(5, shape=(32, 40, 40), voxel_size=20.0, random_state=0)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     particles = read_particles(write_tomogram(folder, scene))
    ...     particles.coordinates().shape
    (5, 3)
    """
    check_output(output, TOMOGRAM_FILES, overwrite)
    with _staged(output, TOMOGRAM_FILES) as folder:
        write_volume(folder / _TOMOGRAM, tomogram.tomogram, tomogram.voxel_size)
        if "clean" in tomogram:
            write_volume(folder / _CLEAN, tomogram.clean, tomogram.voxel_size)
        columns: dict[str, Sequence[Any] | NDArray[Any]] = {
            "rlnTomoName": [Path(_TOMOGRAM).stem] * len(tomogram.target)
        }
        for axis, values in zip("XYZ", tomogram.coordinates.T[::-1], strict=True):
            columns[f"rlnCoordinate{axis}"] = values.round(4)
        columns["rlnClassNumber"] = tomogram.target + 1
        columns["sksubtomoClass"] = tomogram.target_names[tomogram.target]
        columns |= _angle_columns(tomogram.rotations)
        columns |= _defocus_columns(tomogram.microscope, len(tomogram.target))
        columns["sksubtomoRadius"] = tomogram.radii.round(2)
        optics = {"rlnTomoTiltSeriesPixelSize": tomogram.voxel_size}
        write_particles(
            folder / _PARTICLES, columns, optics=optics | _optics(tomogram.microscope)
        )
        _write_settings(
            folder / _SETTINGS, "tomogram", tomogram.parameters, tomogram.structures
        )
    return Path(output) / _PARTICLES


def _write_rows(
    path: Path, simulator: SubtomogramSimulator, rows: slice, chunk: SimulatedChunk
) -> None:
    """Append the rows of a chunk to a STAR file, or begin it."""
    names = simulator.target_names
    columns: dict[str, Sequence[Any] | NDArray[Any]] = {
        "rlnImageName": [
            f"{row:06d}@{_STACK}" for row in range(rows.start + 1, rows.stop + 1)
        ],
        "rlnClassNumber": chunk.target + 1,
        "sksubtomoClass": names[chunk.target],
        **_angle_columns(chunk.rotations),
    }
    # RELION's centre is half a voxel further on where the side is even.
    size, voxel_size = simulator.size, simulator.voxel_size
    origins = -(chunk.shifts + ((size - 1) / 2 - size // 2) * voxel_size)
    for axis, values in zip("XYZ", origins.T[::-1], strict=True):
        columns[f"rlnOrigin{axis}Angst"] = values.round(4)
    columns |= _defocus_columns(simulator.microscope, len(chunk.target))
    if simulator.n_neighbors:
        columns["sksubtomoNeighbors"] = [
            ",".join(row) for row in names[chunk.neighbors]
        ]
    columns["rlnOpticsGroup"] = [1] * len(chunk.target)
    if rows.start == 0:
        optics = {"rlnImagePixelSize": voxel_size, "rlnImageSize": size}
        write_particles(path, columns, optics=optics | _optics(simulator.microscope))
        # A blank line would end the table.
        path.write_bytes(path.read_bytes().rstrip() + b"\n")
        return
    tokens = (format_values(tag, values) for tag, values in columns.items())
    lines = ["  ".join(row) + "\n" for row in zip(*tokens, strict=True)]
    with path.open("ab") as file:
        file.write("".join(lines).encode())


def _simulate_in_order(
    simulator: SubtomogramSimulator, clean: bool, n_jobs: int | None
) -> Iterator[tuple[slice, SimulatedChunk]]:
    """Yield all chunks, with a bounded number of them in memory."""
    n_rows = max(1, _CHUNK_VOXELS // simulator.size**3)
    batches = list(gen_batches(simulator.n_subtomograms, n_rows))
    # A window of chunks at a time: joblib's own generator goes on working whether its
    # results are taken or not, and complains if it is left before its end.
    n_chunks = _CHUNKS_PER_JOB * effective_n_jobs(n_jobs)
    with (
        _waiting_for_threads(),
        Parallel(n_jobs=n_jobs, prefer="threads") as parallel,
    ):
        for window in gen_batches(len(batches), n_chunks):
            chunks = parallel(
                delayed(simulator.simulate)(rows, clean=clean)
                for rows in batches[window]
            )
            for rows in batches[window]:
                # What has been written goes before the next window comes.
                yield rows, chunks.pop(0)


@contextlib.contextmanager
def _waiting_for_threads() -> Iterator[None]:
    """Let threads that were started inside end before an interruption goes on.

    joblib leaves them to themselves, and Python aborts if it ends while one of them is
    in compiled code.
    """
    earlier = set(threading.enumerate())
    try:
        yield
    except BaseException:
        for thread in set(threading.enumerate()) - earlier:
            thread.join(_PATIENCE)
        raise


def check_output(output: str | Path, names: Sequence[str], overwrite: bool) -> None:
    """Raise if a set of files cannot go into a folder.

    Parameters
    ----------
    output : str or Path
        The folder, which need not exist.
    names : sequence of str
        Names of the files.
    overwrite : bool
        Whether there may be such files already.

    Raises
    ------
    NotADirectoryError
        If it is a file.
    FileExistsError
        If there are such files and `overwrite` is False, or if there is data of the
        other kind.
    """
    output = Path(output)
    if output.exists() and not output.is_dir():
        raise NotADirectoryError(f"{output} is a file; expected a folder.")
    # Both kinds have files of the same names, so that a folder cannot hold both.
    for name in (_STACK, _TOMOGRAM):
        if name not in names and (output / name).exists():
            raise FileExistsError(
                f"{output}: already holds {name}, data of the other kind; expected "
                "another folder, whether to overwrite or not."
            )
    existing = [name for name in names if (output / name).exists()]
    if existing and not overwrite:
        raise FileExistsError(
            f"{output}: already holds {', '.join(existing)}; expected another folder, "
            "or overwrite=True (--overwrite)."
        )


@contextlib.contextmanager
def _staged(output: str | Path, names: Sequence[str]) -> Iterator[Path]:
    """Give a folder to write a set of files in, which then replaces an earlier set."""
    output = Path(output)
    is_new = not output.exists()
    output.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(prefix=".simulated-", dir=output) as folder:
            yield Path(folder)
            (output / names[-1]).unlink(missing_ok=True)
            for name in names:
                if (Path(folder) / name).exists():
                    os.replace(Path(folder) / name, output / name)
                else:
                    (output / name).unlink(missing_ok=True)
    except BaseException:
        if is_new:
            with contextlib.suppress(OSError):
                output.rmdir()
        raise


def _angle_columns(rotations: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    angles = euler_angles(rotations).round(4)
    names = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")
    return dict(zip(names, angles.T, strict=True))


def _defocus_columns(
    microscope: Microscope | None, n: int
) -> dict[str, NDArray[np.float64]]:
    if microscope is None:
        return {}
    defocus = np.full(n, round(microscope.defocus * 1e4, 2))
    return {
        "rlnDefocusU": defocus,
        "rlnDefocusV": defocus,
        "rlnDefocusAngle": np.zeros(n),
    }


def _write_settings(
    path: Path,
    kind: str,
    parameters: Mapping[str, Any],
    structures: Sequence[Structure],
) -> None:
    """Write what was simulated, as JSON."""
    plain: dict[str, Any] = {
        # JSON has no infinity.
        name: str(value) if isinstance(value, float) and np.isinf(value) else value
        for name, value in parameters.items()
    }
    if plain["microscope"] is not None:
        plain["microscope"] = asdict(plain["microscope"])
    settings = {
        "sksubtomo": __version__,
        "kind": kind,
        "parameters": plain,
        "structures": [
            {
                "name": structure.name,
                "mass": round(structure.mass, 2),
                "radius": round(structure.radius, 3),
                "description": structure.description,
            }
            for structure in structures
        ],
    }
    # The numbers of NumPy become Python's.
    text = json.dumps(settings, indent=2, ensure_ascii=False, default=float)
    write_text(path, text + "\n")


def _check_names(simulator: SubtomogramSimulator) -> None:
    for name in simulator.target_names:
        if simulator.n_neighbors and "," in name:
            raise ValueError(
                f"structures: the class {str(name)!r} has a comma in its name, which "
                "separates neighbours in the STAR file; expected a name without, or "
                "n_neighbors=0."
            )


def _optics(microscope: Microscope | None) -> dict[str, float]:
    if microscope is None:
        return {}
    return {
        "rlnVoltage": float(microscope.voltage),
        "rlnSphericalAberration": float(microscope.spherical_aberration),
        "rlnAmplitudeContrast": float(microscope.amplitude_contrast),
    }
