"""MRC files."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
from numpy.typing import NDArray

_EXPECTED = (
    "expected a volume stack: four-dimensional data (n, depth, height, width), header "
    "ispg 401 and mz the depth of a volume, as mrcfile writes it from a 4-D array"
)

# First bytes of gzip and bzip2 files, which cannot be memory-mapped.
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZ": "bzip2"}


def read_volume_stack(path: str | Path) -> tuple[NDArray[Any], float | None]:
    """Open an MRC stack of volumes without reading it into memory.

    Parameters
    ----------
    path : str or Path
        An uncompressed MRC volume stack.

    Returns
    -------
    volumes : ndarray of shape (n, depth, height, width)
        The volumes, memory-mapped and read-only, in the file's dtype.
    voxel_size : float or None
        Voxel size in angstroms; None if the header has none, or has different ones
        along the axes, which is warned of.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is no MRC file, is truncated, holds complex values or something else
        than a stack of volumes, or has an unusual order of axes.

    Warns
    -----
    UserWarning
        If the header breaks the format in a way that leaves the data readable.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import mrcfile
    >>> import numpy as np
    >>> from sksubtomo.io import read_volume_stack
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "stack.mrc")
    ...     mrcfile.write(path, np.zeros((5, 8, 8, 8), np.float32), voxel_size=10)
    ...     volumes, voxel_size = read_volume_stack(path)
    ...     volumes.shape, voxel_size
    ((5, 8, 8, 8), 10.0)
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file.")
    with path.open("rb") as file:
        compression = _COMPRESSED.get(file.read(2))
    if compression is not None:
        raise ValueError(
            f"{path}: is compressed with {compression}, which cannot be memory-mapped; "
            "expected an uncompressed MRC file."
        )
    # Permissive, because the machine stamps of IMOD and SerialEM are not standard.
    # What it would warn of is an error only if the data cannot be read.
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            with mrcfile.mmap(path, mode="r", permissive=True) as mrc:
                volumes = mrc.data
                header = mrc.header
                spacing = np.array(
                    [mrc.voxel_size.z, mrc.voxel_size.y, mrc.voxel_size.x], dtype=float
                )
        # A header that was never one trips over various things.
        except Exception as error:
            raise ValueError(
                f"{path}: cannot be read as an MRC file ({error})."
            ) from error
    faults = "; ".join(dict.fromkeys(str(warning.message) for warning in caught))
    if volumes is None:
        raise ValueError(f"{path}: cannot be read as an MRC file ({faults}).")
    ispg = int(header.ispg)
    if volumes.ndim != 4:
        if volumes.ndim == 3 and ispg == 0:
            found = (
                f"a stack of {volumes.shape[0]} images of shape {volumes.shape[1:]} "
                "(ispg 0), such as the tilt images of a particle"
            )
        elif volumes.ndim == 3:
            found = f"a single volume of shape {volumes.shape} (ispg {ispg})"
        else:
            found = f"an image of shape {volumes.shape} (ispg {ispg})"
        raise ValueError(f"{path}: holds {found}; {_EXPECTED}.")
    if not volumes.size:
        raise ValueError(f"{path}: has shape {volumes.shape}, no voxel; {_EXPECTED}.")
    if np.iscomplexobj(volumes):
        raise ValueError(f"{path}: holds complex values; expected real densities.")
    axes = (int(header.mapc), int(header.mapr), int(header.maps))
    # Some writers leave them zero, which means the usual order.
    if axes not in ((1, 2, 3), (0, 0, 0)):
        raise ValueError(
            f"{path}: stores the axes {axes} as columns, rows and sections; expected "
            "(1, 2, 3), that is x, y, z."
        )
    if faults:
        warnings.warn(f"{path}: {faults}", UserWarning, stacklevel=2)
    return volumes, _voxel_size(path, spacing)


def _voxel_size(path: Path, spacing: NDArray[np.float64]) -> float | None:
    """Return the one voxel size of three axes, which the header may lack."""
    if not (np.isfinite(spacing).all() and (spacing > 0).all()):
        return None
    # Cell lengths are stored in single precision, and often rounded before.
    if np.ptp(spacing) > 0.01 * spacing.max():
        z, y, x = spacing
        warnings.warn(
            f"{path}: the header's voxel size is {z:g} x {y:g} x {x:g} A (z, y, x); "
            "expected equal sides. It is taken as unknown.",
            UserWarning,
            stacklevel=3,
        )
        return None
    return float(spacing.mean())
