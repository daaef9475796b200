"""MRC files."""

from __future__ import annotations

import bz2
import gzip
import math
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import IO, Any, NamedTuple, Self

import numpy as np
from mrcfile import utils
from mrcfile.dtypes import HEADER_DTYPE
from numpy.typing import ArrayLike, NDArray

from sksubtomo._files import places, put_in_place, write_atomically
from sksubtomo._version import __version__

_STACK_EXPECTED = (
    "expected a volume stack: four-dimensional data (n, depth, height, width), header "
    "ispg 401 and mz the depth of a volume, as mrcfile writes it from a 4-D array"
)
_IMAGES = "such as the tilt images of a particle in RELION 5 and Warp, not a volume"

# RELION's suffix of image stacks.
_IMAGE_STACK_SUFFIXES = (".mrcs", ".mrcs.gz", ".mrcs.bz2")

# First bytes of gzip and bzip2 files, which cannot be memory-mapped.
_COMPRESSED: dict[bytes, tuple[str, Callable[..., Any]]] = {
    b"\x1f\x8b\x08": ("gzip", gzip.open),
    b"BZh": ("bzip2", bz2.open),
}

_SPACE_GROUP_IMAGES = 0
_SPACE_GROUP_VOLUME = 1
_SPACE_GROUP_STACK = 401

# A voxel size differs between axes by the rounding of cell lengths, which are stored
# in single precision and often rounded before.
_VOXEL_SIZE_TOLERANCE = 0.01

# Voxels read, checked or converted at a time.
_BLOCK_VOXELS = 1 << 22


def open_volume(
    path: str | Path,
    *,
    voxel_size: float | None = None,
    allow_image_stacks: bool = False,
) -> tuple[NDArray[Any], float | None]:
    """Open one volume, such as a tomogram, without reading it into memory.

    Parameters
    ----------
    path : str or Path
        An MRC file of one volume. One compressed with gzip or bzip2 is read into
        memory.
    voxel_size : float, default=None
        Voxel size in angstroms, which overrides that of the header.
    allow_image_stacks : bool, default=False
        Take a file for a volume that looks like a stack of images: its space group
        (ispg) is 0, its name ends in ".mrcs", or it has several sections and mz is 1.
        RELION up to 5.0 and Warp leave the space group of tomograms zero; they do so
        for subtomograms as well, so that 0 counts for nothing in a cube whose mz is
        its depth.

    Returns
    -------
    volume : ndarray of shape (depth, height, width)
        The volume, read-only, memory-mapped, in the file's dtype. A file that stores
        its axes in another order gives a transposed view.
    voxel_size : float or None
        Voxel size in angstroms; None if the header has none, or has different ones
        along the axes, which is warned of.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is no MRC file, is truncated, contradicts its header, or holds
        complex values or something else than one volume.

    Warns
    -----
    UserWarning
        If the header breaks the format in a way that leaves the data readable.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import numpy as np
    >>> from sksubtomo.io import open_volume, write_volume
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "tomogram.mrc")
    ...     write_volume(path, np.zeros((10, 30, 20)), voxel_size=13.5)
    ...     volume, voxel_size = open_volume(path)
    ...     volume.shape, voxel_size
    ((10, 30, 20), 13.5)
    """
    path = Path(path)
    voxel_size = check_voxel_size(voxel_size)
    contents = _open(path)
    if contents.data.ndim == 4 and len(contents.data) == 1:
        contents = contents._replace(data=contents.data[0])
    if contents.data.ndim == 4:
        n_volumes, *shape = contents.data.shape
        raise ValueError(
            f"{path}: holds a stack of {n_volumes} volumes of shape {tuple(shape)}; "
            "expected one volume."
        )
    volume = _single_volume(path, contents, allow_image_stacks)
    _warn_of_faults(path, contents)
    if voxel_size is None:
        voxel_size = _voxel_size(path, contents.spacing)
    return volume, voxel_size


def open_tomogram(
    path: str | Path,
    *,
    voxel_size: float | None = None,
    allow_image_stacks: bool = False,
) -> tuple[NDArray[Any], float]:
    """Open one volume whose voxel size has to be known, see `open_volume`.

    Parameters
    ----------
    path : str or Path
        An MRC file of one volume.
    voxel_size : float, default=None
        Voxel size in angstroms, which overrides that of the header.
    allow_image_stacks : bool, default=False
        Take a stack of images for a volume.

    Returns
    -------
    volume : ndarray of shape (depth, height, width)
        The volume, read-only.
    voxel_size : float
        Voxel size in angstroms.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it cannot be read as a volume, or its voxel size is not known.
    """
    volume, found = open_volume(
        path, voxel_size=voxel_size, allow_image_stacks=allow_image_stacks
    )
    if found is None:
        raise ValueError(
            f"{path}: the header has no voxel size; expected one, or give it "
            "(voxel_size=, --voxel-size) in angstroms."
        )
    return volume, found


def read_volume_stack(path: str | Path) -> tuple[NDArray[Any], float | None]:
    """Open an MRC stack of volumes without reading it into memory.

    Parameters
    ----------
    path : str or Path
        An uncompressed MRC volume stack.

    Returns
    -------
    volumes : ndarray of shape (n, depth, height, width)
        The volumes, memory-mapped and read-only, in the file's dtype. A file that
        stores its axes in another order gives a transposed view.
    voxel_size : float or None
        Voxel size in angstroms; None if the header has none, or has different ones
        along the axes, which is warned of.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is no MRC file, is truncated, contradicts its header, holds complex
        values or something else than a stack of volumes.

    Warns
    -----
    UserWarning
        If the header breaks the format in a way that leaves the data readable.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import numpy as np
    >>> from sksubtomo.io import read_volume_stack, write_volume_stack
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "stack.mrc")
    ...     write_volume_stack(path, np.zeros((5, 8, 8, 8)), voxel_size=10)
    ...     volumes, voxel_size = read_volume_stack(path)
    ...     volumes.shape, voxel_size
    ((5, 8, 8, 8), 10.0)
    """
    path = Path(path)
    contents = _open(path, compressed=False)
    if contents.data.ndim != 4:
        shape = contents.data.shape
        if contents.data.ndim == 2:
            found = f"an image of shape {shape} (ispg {contents.space_group})"
        elif contents.image_signs:
            found = _image_stack(contents)
        else:
            found = f"a single volume of shape {shape} (ispg {contents.space_group})"
        raise ValueError(f"{path}: holds {found}; {_STACK_EXPECTED}.")
    _warn_of_faults(path, contents)
    return contents.data, _voxel_size(path, contents.spacing)


def open_volumes(
    path: Path,
    *,
    allow_image_stacks: bool = False,
    ignore_voxel_size: bool = False,
    warn: bool = True,
    warn_of_images: bool = True,
) -> tuple[NDArray[Any], float | None]:
    """Open a volume or a stack of volumes, whichever the file holds.

    Parameters
    ----------
    path : Path
        An MRC file. A compressed one is read into memory, any other memory-mapped.
    allow_image_stacks : bool, default=False
        Take a stack of images for one volume.
    ignore_voxel_size : bool, default=False
        Do not look at the header's voxel size.
    warn : bool, default=True
        Whether to warn of anything; False if the file will be opened once more.
    warn_of_images : bool, default=True
        Whether to warn of a single volume that is no cube: its header may call tilt
        images a volume, and subtomograms usually are cubes.

    Returns
    -------
    volumes : ndarray of shape (n, depth, height, width)
        The volumes, read-only, in the file's dtype; a single volume has n = 1.
    voxel_size : float or None
        Voxel size in angstroms, if the header has one.
    """
    contents = _open(path)
    volumes = contents.data
    if volumes.ndim != 4:
        volumes = _single_volume(path, contents, allow_image_stacks)[np.newaxis]
        is_cube = len(set(volumes.shape[1:])) == 1
        if warn and warn_of_images and not (is_cube or allow_image_stacks):
            warnings.warn(
                f"{path}: holds a single volume of shape {volumes.shape[1:]} (ispg "
                f"{contents.space_group}), which is no cube. It may be "
                f"{volumes.shape[1]} tilt images of a particle whose header is wrong; "
                "if it is a volume, say so (allow_image_stacks=True, "
                "--allow-image-stacks).",
                UserWarning,
                stacklevel=2,
            )
    if warn:
        _warn_of_faults(path, contents)
    if ignore_voxel_size:
        return volumes, None
    return volumes, _voxel_size(path, contents.spacing, warn=warn)


class VolumeStackWriter:
    """Write an MRC stack of volumes bit by bit, in constant memory.

    The file has the format of mrcfile's four-dimensional data: mode 2 (float32), space
    group 401 and mz the depth of a volume. It appears under its name when the ``with``
    block ends without an exception and has all its volumes; until then it is a hidden
    file beside it, which an exception removes.

    Parameters
    ----------
    path : str or Path
        The file to make or replace. Its folder has to exist.
    n_volumes : int
        How many volumes will be written.
    volume_shape : tuple of three int
        Depth, height and width of a volume in voxels.
    voxel_size : float or None
        Voxel size in angstroms; None if it is unknown.

    Raises
    ------
    ValueError
        If a parameter is out of range or the stack has too many slices for the format.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import numpy as np
    >>> from sksubtomo.io import VolumeStackWriter, read_volume_stack
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "stack.mrc")
    ...     with VolumeStackWriter(path, 4, (8, 8, 8), voxel_size=10) as writer:
    ...         writer.write(np.zeros((3, 8, 8, 8)))
    ...         writer.write(np.ones((1, 8, 8, 8)))
    ...     volumes, _ = read_volume_stack(path)
    ...     volumes.shape, float(volumes[3].mean())
    ((4, 8, 8, 8), 1.0)
    """

    def __init__(
        self,
        path: str | Path,
        n_volumes: int,
        volume_shape: tuple[int, int, int],
        voxel_size: float | None,
    ) -> None:
        self.path = Path(path)
        self.volume_shape = _check_shape(volume_shape)
        self.voxel_size = check_voxel_size(voxel_size)
        if n_volumes < 1:
            raise ValueError(f"n_volumes={n_volumes!r}; expected at least 1.")
        self.n_volumes = int(n_volumes)
        self.n_written = 0
        self._statistics = _Statistics()
        self._header = _make_header(
            (self.n_volumes, *self.volume_shape), self.voxel_size
        )
        self._target, self._beside = places(self.path)
        self._file: IO[bytes] | None = None

    def __enter__(self) -> Self:
        _check_folder(self.path)
        self._file = self._beside.open("wb")
        self._file.write(self._header.tobytes())
        return self

    def write(self, volumes: ArrayLike) -> None:
        """Append volumes.

        Parameters
        ----------
        volumes : array-like of shape (k, depth, height, width)
            Finite real values, which are stored as float32.

        Raises
        ------
        ValueError
            If the volumes are of another shape, more than promised, complex or not
            finite.
        RuntimeError
            If called outside of the ``with`` block.
        """
        if self._file is None:
            raise RuntimeError(
                "VolumeStackWriter writes inside of its `with` block only."
            )
        # A memory map of any size comes in block by block.
        array = volumes if isinstance(volumes, np.ndarray) else np.asarray(volumes)
        if array.ndim != 4 or array.shape[1:] != self.volume_shape:
            raise ValueError(
                f"volumes has shape {array.shape}; expected (k, "
                f"{', '.join(map(str, self.volume_shape))})."
            )
        if self.n_written + len(array) > self.n_volumes:
            raise ValueError(
                f"{self.path}: got volumes {self.n_written + 1} to "
                f"{self.n_written + len(array)}; expected {self.n_volumes} in all."
            )
        block = max(1, _BLOCK_VOXELS // math.prod(self.volume_shape))
        for start in range(0, len(array), block):
            values = _as_float32(array[start : start + block])
            finite = np.isfinite(values)
            if not finite.all():
                row, z, y, x = np.argwhere(~finite)[0]
                raise ValueError(
                    f"{self.path}: volume {self.n_written + row} holds "
                    f"{values[row, z, y, x]} at voxel (z={z}, y={y}, x={x}); expected "
                    "finite values."
                )
            self._statistics.add(values)
            self._file.write(values.data)
            self.n_written += len(values)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._file is not None
        file, self._file = self._file, None
        try:
            with file:
                if kind is not None:
                    return
                if self.n_written != self.n_volumes:
                    raise ValueError(
                        f"{self.path}: got {self.n_written} volumes; expected "
                        f"{self.n_volumes}. Nothing was written."
                    )
                self._statistics.store(self._header)
                file.seek(0)
                file.write(self._header.tobytes())
            put_in_place(self._beside, self._target)
        finally:
            self._beside.unlink(missing_ok=True)


def write_volume_stack(
    path: str | Path, volumes: ArrayLike, voxel_size: float | None
) -> None:
    """Write volumes as an MRC volume stack, atomically.

    Parameters
    ----------
    path : str or Path
        The file to make or replace. Its folder has to exist.
    volumes : array-like of shape (n, depth, height, width)
        Finite real values, which are stored as float32. A memory map is copied block
        by block.
    voxel_size : float or None
        Voxel size in angstroms; None if it is unknown.

    Raises
    ------
    ValueError
        If the volumes are of another shape, complex or not finite, or the voxel size is
        not positive.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import numpy as np
    >>> from sksubtomo.io import read_volume_stack, write_volume_stack
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "stack.mrc")
    ...     write_volume_stack(path, np.ones((2, 8, 8, 8)), voxel_size=10)
    ...     read_volume_stack(path)[0].dtype
    dtype('float32')
    """
    array = volumes if isinstance(volumes, np.ndarray) else np.asarray(volumes)
    if array.ndim != 4:
        raise ValueError(
            f"volumes has shape {array.shape}; expected (n, depth, height, width)."
        )
    n_volumes, depth, height, width = array.shape
    with VolumeStackWriter(
        path, n_volumes, (depth, height, width), voxel_size
    ) as writer:
        writer.write(array)


def write_volume(path: str | Path, volume: ArrayLike, voxel_size: float | None) -> None:
    """Write one volume, such as a tomogram, as an MRC file, atomically.

    Parameters
    ----------
    path : str or Path
        The file to make or replace. Its folder has to exist.
    volume : array-like of shape (depth, height, width)
        Finite real values, which are stored as float32.
    voxel_size : float or None
        Voxel size in angstroms; None if it is unknown.

    Raises
    ------
    ValueError
        If the volume is of another shape, complex or not finite, or the voxel size is
        not positive.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import numpy as np
    >>> from sksubtomo.io import open_volume, write_volume
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "volume.mrc")
    ...     write_volume(path, np.ones((8, 8, 8)), voxel_size=10)
    ...     open_volume(path)[1]
    10.0
    """
    path = Path(path)
    array = volume if isinstance(volume, np.ndarray) else np.asarray(volume)
    if array.ndim != 3:
        raise ValueError(
            f"volume has shape {array.shape}; expected (depth, height, width)."
        )
    _check_folder(path)
    header = _make_header(_check_shape(array.shape), check_voxel_size(voxel_size))
    statistics = _Statistics()

    def write(beside: Path) -> None:
        block = max(1, _BLOCK_VOXELS // math.prod(array.shape[1:]))
        with beside.open("wb") as file:
            file.write(header.tobytes())
            for start in range(0, len(array), block):
                values = _as_float32(array[start : start + block])
                finite = np.isfinite(values)
                if not finite.all():
                    z, y, x = np.argwhere(~finite)[0]
                    raise ValueError(
                        f"{path}: the volume holds {values[z, y, x]} at voxel "
                        f"(z={start + z}, y={y}, x={x}); expected finite values."
                    )
                statistics.add(values)
                file.write(values.data)
            statistics.store(header)
            file.seek(0)
            file.write(header.tobytes())

    write_atomically(path, write)


def check_voxel_size(voxel_size: float | None) -> float | None:
    """Return a voxel size that is positive and finite, or None.

    Parameters
    ----------
    voxel_size : float or None
        Voxel size in angstroms.

    Returns
    -------
    float or None
        The same.

    Raises
    ------
    ValueError
        If it is not positive or not finite.
    """
    if voxel_size is None:
        return None
    if not (math.isfinite(voxel_size) and voxel_size > 0):
        raise ValueError(
            f"voxel_size={voxel_size!r}; expected a positive number of angstroms."
        )
    return float(voxel_size)


class _Contents(NamedTuple):
    """What a file holds."""

    # (height, width), (depth, height, width) or (n, depth, height, width)
    data: NDArray[Any]
    space_group: int
    image_signs: list[str]  # what says that it is images; nothing in a volume
    spacing: NDArray[np.float64]  # angstroms along z, y, x; may be anything
    faults: list[str]


class _Layout(NamedTuple):
    """Where the voxels are, according to the header."""

    header: Any
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    offset: int
    byte_order: str

    @property
    def n_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def _open(path: Path, *, compressed: bool = True) -> _Contents:
    """Map, or decompress, the voxels of a file of which the header is true.

    Nothing is allocated on the word of the header: the file must have the bytes.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file.")
    with path.open("rb") as file:
        start = file.read(HEADER_DTYPE.itemsize)
    form, decompress = _COMPRESSED.get(start[:3], (None, None))
    if form is not None and not compressed:
        raise ValueError(
            f"{path}: is compressed with {form}, which cannot be memory-mapped; "
            "expected an uncompressed MRC file."
        )
    data: NDArray[Any]
    try:
        if decompress is None:
            n_bytes = path.stat().st_size
            layout, faults = _layout(start, n_bytes)
            data = np.memmap(path, layout.dtype, "r", layout.offset, shape=layout.shape)
        else:
            contents = _decompress(decompress, path)
            layout, faults = _layout(contents, len(contents))
            data = np.frombuffer(
                contents, layout.dtype, math.prod(layout.shape), layout.offset
            ).reshape(layout.shape)
    except (ValueError, EOFError, OSError, zlib.error) as error:
        if isinstance(error, PermissionError):
            raise
        raise ValueError(f"{path}: cannot be read as an MRC file ({error}).") from error
    if layout.dtype.kind == "c":
        raise ValueError(f"{path}: holds complex values; expected real densities.")
    data = _reorder_axes(path, data, layout.header)
    return _Contents(
        data,
        int(layout.header["ispg"]),
        _image_signs(path, layout.header, data.shape),
        _spacing(layout.header),
        faults,
    )


def _decompress(decompress: Callable[..., Any], path: Path) -> bytes:
    """Read a compressed file, no further than its header says."""
    with decompress(path, "rb") as file:
        start = file.read(HEADER_DTYPE.itemsize)
        needed = max(
            (layout.offset + layout.n_bytes for layout in _layouts(start)[0]),
            default=len(start),
        )
        # Piece by piece, because the header may promise more than there is.
        pieces = [start]
        n_bytes = len(start)
        while n_bytes < 2 * needed:
            piece = file.read(1 << 15)
            if not piece:
                break
            pieces.append(piece)
            n_bytes += len(piece)
    return b"".join(pieces)


def _layout(start: bytes, n_bytes: int) -> tuple[_Layout, list[str]]:
    """Find the byte order in which the header agrees with the size of the file."""
    layouts, order, faults = _layouts(start)
    problems = []
    for layout in layouts:
        surplus = n_bytes - layout.offset - layout.n_bytes
        section = math.prod(layout.shape[-2:]) * layout.dtype.itemsize
        what = f"{layout.n_bytes} bytes of data of shape {layout.shape}"
        if surplus < 0:
            problems.append(f"the header promises {what}, {-surplus} more than it has")
        elif surplus >= section:
            problems.append(f"it has {surplus} bytes more than {what} after its header")
        else:
            if surplus:
                faults.append(f"it has {surplus} bytes after its last section")
            if layout.byte_order != order:
                faults.append("the machine stamp contradicts the byte order")
            return layout, faults
    raise ValueError("; ".join(problems[:1] + faults))


def _layouts(start: bytes) -> tuple[list[_Layout], str, list[str]]:
    """Read the header in the byte order of its machine stamp, and in the other one.

    Returns those of the two that make sense, the order of the stamp, and what is wrong.
    Raises ValueError, with what the first trips over, if none makes sense.
    """
    if len(start) < HEADER_DTYPE.itemsize:
        raise ValueError(
            f"it has {len(start)} bytes, a header has {HEADER_DTYPE.itemsize}"
        )
    faults = []
    header = np.frombuffer(start, HEADER_DTYPE, 1)[0]
    if bytes(header["map"])[:3] != b"MAP":
        faults.append("the map ID is missing from the header")
    # IMOD and SerialEM have written machine stamps that are not standard.
    try:
        order = utils.byte_order_from_machine_stamp(header["machst"])
    except ValueError:
        order = "<"
        faults.append("the machine stamp is not standard")
    layouts = []
    problems = []
    for byte_order in (order, {"<": ">", ">": "<"}[order]):
        ordered = HEADER_DTYPE.newbyteorder(byte_order)
        try:
            layouts.append(_parse(np.frombuffer(start, ordered, 1)[0], byte_order))
        except ValueError as error:
            problems.append(str(error))
    if not layouts:
        raise ValueError("; ".join(problems[:1] + faults))
    return layouts, order, faults


def _parse(header: Any, byte_order: str) -> _Layout:
    n_extended = int(header["nsymbt"])
    if n_extended < 0:
        raise ValueError(f"the extended header has {n_extended} bytes")
    dtype = np.dtype(utils.dtype_from_mode(header["mode"])).newbyteorder(byte_order)
    # By its name, so that the machine's own order is not spelt out as another dtype.
    dtype = np.dtype(dtype.str)
    nx, ny, nz, mz, space_group = (
        int(header[name]) for name in ("nx", "ny", "nz", "mz", "ispg")
    )
    if min(nx, ny, nz) < 1:
        raise ValueError(f"the header has nx {nx}, ny {ny}, nz {nz}")
    shape: tuple[int, ...] = (nz, ny, nx)
    if utils.spacegroup_is_volume_stack(space_group):
        if mz < 1 or nz % mz:
            raise ValueError(
                f"the header has nz {nz}, no multiple of mz {mz}, in a volume stack"
            )
        shape = (nz // mz, mz, ny, nx)
    elif space_group == _SPACE_GROUP_IMAGES and nz == 1:
        shape = (ny, nx)
    offset = HEADER_DTYPE.itemsize + n_extended
    return _Layout(header, dtype, shape, offset, byte_order)


def _image_signs(path: Path, header: Any, shape: tuple[int, ...]) -> list[str]:
    """Return what says that a file holds images, of data whose axes are z, y, x.

    Space group 0 means images, but RELION up to 5.0 and Warp write it for volumes as
    well. Their subtomograms are cubes that have as many samples along z as slices,
    where the format asks for one in a stack of images. Space group 1 may mean images
    for all that: mrcfile writes it for any three-dimensional array.
    """
    if len(shape) == 4:
        return []
    space_group, n_samples = int(header["ispg"]), int(header["mz"])
    is_cube = len(shape) == 3 and len(set(shape)) == 1
    signs = []
    if space_group == _SPACE_GROUP_IMAGES and not (is_cube and n_samples == shape[0]):
        signs.append("ispg 0")
    if len(shape) == 3 and n_samples == 1 < shape[0]:
        signs.append("mz 1")
    if path.name.lower().endswith(_IMAGE_STACK_SUFFIXES):
        signs.append("a name that ends in .mrcs")
    return signs


def _reorder_axes(path: Path, data: NDArray[Any], header: Any) -> NDArray[Any]:
    """Bring the axes of volumes into the order z, y, x, as a view."""
    columns, rows, sections = (int(header[name]) for name in ("mapc", "mapr", "maps"))
    # Some writers leave them zero, which means the usual order.
    if (columns, rows, sections) in ((1, 2, 3), (0, 0, 0)):
        return data
    stored = (sections, rows, columns)
    if data.ndim < 3 or set(stored) != {1, 2, 3}:
        raise ValueError(
            f"{path}: stores the axes {(columns, rows, sections)} as columns, rows and "
            "sections; expected (1, 2, 3), that is x, y, z, or, for volumes, a "
            "permutation of them."
        )
    order = [stored.index(axis) - 3 for axis in (3, 2, 1)]
    # In a volume stack mz counts the sections of a volume, whichever axis they are.
    return data.transpose([0, *(4 + k for k in order)] if data.ndim == 4 else order)


def _spacing(header: Any) -> NDArray[np.float64]:
    """Return the voxel size along z, y and x; NaN where the header has none."""
    # NaN of the signalling kind warns when it becomes a number of another precision.
    with np.errstate(invalid="ignore", over="ignore"):
        lengths = np.array([header["cella"][axis] for axis in "zyx"], np.float64)
        samples = np.array([header[name] for name in ("mz", "my", "mx")], np.float64)
        spacing = np.full(3, np.nan)
        return np.divide(lengths, samples, out=spacing, where=samples > 0)


def _voxel_size(
    path: Path, spacing: NDArray[np.float64], *, warn: bool = True
) -> float | None:
    """Return the one voxel size of three axes, which the header may lack."""
    if not (np.isfinite(spacing).all() and (spacing > 0).all()):
        return None
    if np.ptp(spacing) > _VOXEL_SIZE_TOLERANCE * spacing.max():
        z, y, x = spacing
        if warn:
            warnings.warn(
                f"{path}: the header's voxel size is {z:g} x {y:g} x {x:g} A (z, y, "
                "x); expected equal sides. It is taken as unknown.",
                UserWarning,
                stacklevel=3,
            )
        return None
    # A header holds lengths in single precision.
    return float(f"{spacing.mean():.6g}")


def _single_volume(
    path: Path, contents: _Contents, allow_image_stacks: bool
) -> NDArray[Any]:
    data = contents.data
    if data.ndim == 2 and contents.image_signs:
        raise ValueError(
            f"{path}: holds one image of shape {data.shape} "
            f"({', '.join(contents.image_signs)}); expected a volume (depth, height, "
            "width)."
        )
    if contents.image_signs and not allow_image_stacks:
        raise ValueError(
            f"{path}: holds {_image_stack(contents)}; expected a volume (ispg 1, mz "
            "its depth, a name that ends in .mrc). If it is one nevertheless, say so "
            "(allow_image_stacks=True, --allow-image-stacks)."
        )
    return data[np.newaxis] if data.ndim == 2 else data


def _image_stack(contents: _Contents) -> str:
    n_images, *shape = contents.data.shape
    signs = ", ".join(contents.image_signs)
    return f"a stack of {n_images} images of shape {tuple(shape)} ({signs}), {_IMAGES}"


def _warn_of_faults(path: Path, contents: _Contents) -> None:
    if contents.faults:
        warnings.warn(
            f"{path}: {'; '.join(contents.faults)}", UserWarning, stacklevel=3
        )


def _as_float32(values: NDArray[Any]) -> NDArray[np.float32]:
    if values.dtype.kind not in "biuf":
        raise ValueError(f"volumes have dtype {values.dtype}; expected real numbers.")
    # A float64 too large for float32 becomes infinity, which is reported.
    with np.errstate(over="ignore", invalid="ignore"):
        return np.ascontiguousarray(values, dtype="<f4")


def _check_shape(shape: tuple[int, ...]) -> tuple[int, int, int]:
    if len(shape) != 3 or min(shape) < 1:
        raise ValueError(
            f"volume_shape={tuple(shape)!r}; expected three positive integers (depth, "
            "height, width)."
        )
    depth, height, width = map(int, shape)
    return depth, height, width


def _check_folder(path: Path) -> None:
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path}: there is no folder {path.parent}.")


class _Statistics:
    """Minimum, maximum, mean and deviation of values that come in blocks."""

    def __init__(self) -> None:
        self.minimum = np.inf
        self.maximum = -np.inf
        self.n = 0
        self.mean = 0.0
        self.squares = 0.0  # sum of squared deviations from the mean

    def add(self, values: NDArray[np.float32]) -> None:
        mean = float(values.mean(dtype=np.float64))
        n = self.n + values.size
        # Chan, Golub & LeVeque (1983): sums of squares would cancel.
        self.squares += float(values.var(dtype=np.float64)) * values.size
        self.squares += (mean - self.mean) ** 2 * self.n * values.size / n
        self.mean += (mean - self.mean) * values.size / n
        self.n = n
        self.minimum = min(self.minimum, float(values.min()))
        self.maximum = max(self.maximum, float(values.max()))

    def store(self, header: NDArray[np.void]) -> None:
        header["dmin"] = self.minimum
        header["dmax"] = self.maximum
        header["dmean"] = self.mean
        header["rms"] = math.sqrt(self.squares / self.n)


def _make_header(shape: tuple[int, ...], voxel_size: float | None) -> NDArray[np.void]:
    """Return the header, of the MRC2014 format, of float32 volumes."""
    depth, height, width = shape[-3:]
    n_sections = math.prod(shape[:-2])
    limit = np.iinfo(np.int32).max
    if max(n_sections, height, width) > limit:
        raise ValueError(
            f"volumes of shape {shape} have {n_sections} slices in all; an MRC file "
            f"has at most {limit} along an axis. Write several files."
        )
    header = np.zeros((), HEADER_DTYPE.newbyteorder("<"))
    header["nx"], header["ny"], header["nz"] = width, height, n_sections
    header["mx"], header["my"], header["mz"] = width, height, depth
    header["mode"] = 2
    header["cella"] = tuple((voxel_size or 0.0) * n for n in (width, height, depth))
    header["cellb"] = (90.0, 90.0, 90.0)
    header["mapc"], header["mapr"], header["maps"] = 1, 2, 3
    # The format's way to say that they are not known yet.
    header["dmin"], header["dmax"], header["dmean"], header["rms"] = 0, -1, -2, -1
    header["ispg"] = _SPACE_GROUP_STACK if len(shape) == 4 else _SPACE_GROUP_VOLUME
    header["nversion"] = 20140
    header["map"] = b"MAP "
    header["machst"] = utils.machine_stamp_from_byte_order("<")
    header["nlabl"] = 1
    header["label"][0] = f"sksubtomo {__version__}".encode()
    return header
