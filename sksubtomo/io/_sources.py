"""Files that hold volumes, of whatever format, behind one interface.

A format is a function that opens a file and gives an array-like of shape
``(n, depth, height, width)``, of which single volumes are read by their index, and the
voxel size.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from sksubtomo.io.mrc import open_volumes

HDF5_SUFFIXES = {".h5", ".hdf5", ".hdf"}
ZARR_SUFFIX = ".zarr"
EM_SUFFIX = ".em"
STAR_SUFFIX = ".star"

# What the reference to a volume takes, about.
_REFERENCE_BYTES = 300

_EM_HEADER_BYTES = 512
# Machine codes of the EM format whose byte order is big-endian: SGI and Macintosh.
_EM_BIG_ENDIAN = {3, 5}


@dataclass(frozen=True, slots=True)
class Reference:
    """One volume of a file: all there is, or the one of an index from 0."""

    path: Path
    index: int | None
    name: str


def parse_reference(reference: Any, row: int | None = None) -> Reference:
    """Read ``path`` or ``3@path``, in which volumes count from 1.

    Raises TypeError for what is no name, ValueError for a number below 1.
    """
    what = "reference" if row is None else f"reference {row}"
    if not isinstance(reference, (str, os.PathLike)):
        raise TypeError(
            f"{what} is {reference!r} of type {type(reference).__name__}; expected "
            "the name of a file, such as 'volume.mrc' or '3@stack.mrc'."
        )
    name = os.fspath(reference)
    if not isinstance(name, str) or not name or "\0" in name:
        raise ValueError(
            f"{what} is {name!r}; expected the name of a file, such as 'volume.mrc' or "
            "'3@stack.mrc'."
        )
    match = re.fullmatch(r"([0-9]{1,18})@(.+)", name, flags=re.DOTALL)
    if match is None:
        return Reference(Path(name), None, name)
    number = int(match[1])
    if number < 1:
        raise ValueError(f"{what} is {name!r}; volumes of a stack count from 1.")
    return Reference(Path(match[2]), number - 1, name)


def stack_references(path: Path, n_volumes: int, prefix: str) -> list[Reference]:
    """Refer to each volume of a file, named with the prefix before its path."""
    check_memory(n_volumes * _REFERENCE_BYTES, f"{path}: to list {n_volumes} volumes")
    return [
        Reference(path, index, f"{index + 1:06d}@{prefix}")
        for index in range(n_volumes)
    ]


@contextmanager
def open_source(
    path: Path,
    *,
    dataset: str | None = None,
    keep_open: bool = False,
    **options: bool,
) -> Iterator[tuple[Any, float | None]]:
    """Open the volumes of a file, whose format its suffix tells.

    Yields an array-like of shape (n, depth, height, width) and the voxel size. The
    array-like is a read-only memory map where the format allows; otherwise it reads
    what it is indexed with, and only while it is open: if it is to be kept open, as
    long as it exists. The options are those of `open_volumes`, for MRC files.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path}: there is no such file.")
    suffix = path.suffix.lower()
    if suffix == STAR_SUFFIX:
        raise ValueError(
            f"{path}: is a STAR file; expected a file of volumes. A STAR file is read "
            "alone, not in a sequence or by a pattern."
        )
    if suffix in HDF5_SUFFIXES:
        with _open_hdf5(path, dataset, keep_open) as volumes:
            yield _check_volumes(path, volumes), None
    elif suffix == ZARR_SUFFIX:
        yield _check_volumes(path, _open_zarr(path, dataset)), None
    elif suffix == EM_SUFFIX:
        yield _check_volumes(path, _open_em(path)), None
    else:
        volumes, voxel_size = open_volumes(path, **options)
        yield _check_volumes(path, volumes), voxel_size


def _check_volumes(path: Path, volumes: Any) -> Any:
    if volumes.dtype.kind == "c":
        raise ValueError(f"{path}: holds complex values; expected real densities.")
    if volumes.dtype.kind not in "biuf":
        raise ValueError(
            f"{path}: holds values of dtype {volumes.dtype}; expected real numbers."
        )
    if 0 in volumes.shape:
        raise ValueError(f"{path}: has shape {tuple(volumes.shape)}, no voxel.")
    return volumes


@contextmanager
def _open_hdf5(path: Path, dataset: str | None, keep_open: bool) -> Iterator[Any]:
    try:
        import h5py
    except ImportError as error:
        raise _missing_extra(path, "h5py", "hdf5") from error
    with _reading(path, "an HDF5 file"):
        file = h5py.File(path, "r")
    try:
        with _reading(path, "an HDF5 file"):
            found: dict[str, Any] = {}

            def collect(name: str, item: Any) -> None:
                if isinstance(item, h5py.Dataset):
                    found[name] = item

            file.visititems(collect)
            given = None if dataset is None else file.get(dataset)
        if isinstance(given, h5py.Dataset):
            found[str(dataset)] = given
        chosen = _choose(path, found, dataset)
        with _reading(path, "an HDF5 file"):
            mapped = _map_hdf5(path, file, chosen)
        yield _lift(chosen if mapped is None else mapped)
    finally:
        # A dataset that is still referred to keeps its file open, if it was not closed.
        if not keep_open:
            file.close()


def _map_hdf5(path: Path, file: Any, dataset: Any) -> NDArray[Any] | None:
    """Map a dataset that lies in the file in one piece and as it is."""
    offset = dataset.id.get_offset()
    if (
        offset is None
        or dataset.external
        or dataset.is_virtual
        or file.userblock_size
        or dataset.dtype.kind not in "iuf"
        or offset + dataset.nbytes > path.stat().st_size
    ):
        return None
    return np.memmap(path, dataset.dtype, "r", offset, shape=dataset.shape)


def _open_zarr(path: Path, dataset: str | None) -> Any:
    try:
        import zarr
    except ImportError as error:
        raise _missing_extra(path, "zarr", "zarr") from error
    with _reading(path, "a Zarr store"):
        node = zarr.open(path, mode="r")
        if isinstance(node, zarr.Array):
            if dataset is not None:
                raise ValueError(
                    f"it is an array itself; expected a group that has {dataset!r}"
                )
            found = {"": node}
        else:
            found = {
                name: item
                for name, item in node.members(max_depth=None)
                if isinstance(item, zarr.Array)
            }
    return _lift(_choose(path, found, dataset))


def _choose(path: Path, found: dict[str, Any], dataset: str | None) -> Any:
    """Return the dataset of that name, or the only one that holds volumes."""
    listing = (
        ", ".join(f"{name or 'the array'} {item.shape}" for name, item in found.items())
        or "no array"
    )
    if dataset is not None:
        chosen = found.get(dataset.strip("/"), found.get(dataset))
        if chosen is None:
            raise ValueError(f"{path}: has no array {dataset!r}; it holds {listing}.")
        if chosen.ndim not in (3, 4):
            raise ValueError(
                f"{path}: dataset={dataset!r} has shape {chosen.shape}; expected (n, "
                "depth, height, width) or (depth, height, width)."
            )
        return chosen
    volumes = [item for item in found.values() if item.ndim == 4]
    if len(volumes) != 1:
        raise ValueError(
            f"{path}: holds {listing}; expected one array of shape (n, depth, height, "
            "width). Say which to read (dataset=, --dataset)."
        )
    return volumes[0]


class _SingleVolume:
    """A volume in a file as an array of one volume."""

    def __init__(self, volume: Any) -> None:
        self._volume = volume
        self.shape = (1, *volume.shape)
        self.ndim = 4
        self.dtype = volume.dtype

    def __getitem__(self, index: Any) -> Any:
        return self._volume[...] if index == 0 else self._volume[...][np.newaxis]


def _lift(volumes: Any) -> Any:
    if volumes.ndim == 4:
        return volumes
    if isinstance(volumes, np.ndarray):
        return volumes[np.newaxis]
    return _SingleVolume(volumes)


def _open_em(path: Path) -> NDArray[Any]:
    try:
        import emfile
        from emfile.specs import dtype_spec
    except ImportError as error:
        raise _missing_extra(path, "emfile", "em") from error
    with _reading(path, "an EM file"):
        header, _ = emfile.read(path, header_only=True)
        if header["machine"] in _EM_BIG_ENDIAN:
            raise ValueError(
                f"machine code {header['machine']} is big-endian; expected "
                "little-endian, code 6"
            )
        code = header["dtype"]
        if code not in dtype_spec:
            raise ValueError(
                f"data type {code} is unknown; expected one of {sorted(dtype_spec)}"
            )
        dtype = np.dtype(dtype_spec[code])
        if dtype.subdtype is not None:
            raise ValueError(f"data type {code} is complex; expected real densities")
        shape = tuple(header[name] for name in ("zdim", "ydim", "xdim"))
        if min(shape) < 1:
            raise ValueError(f"the header has shape {shape}")
        # Before anything is mapped: the header may promise more than there is.
        expected = _EM_HEADER_BYTES + dtype.itemsize * shape[0] * shape[1] * shape[2]
        n_bytes = path.stat().st_size
        if n_bytes != expected:
            raise ValueError(
                f"it has {n_bytes} bytes, a volume of shape {shape} and data type "
                f"{code} has {expected}"
            )
        _, volume = emfile.read(path, mmap=True)
    return volume[np.newaxis]


@contextmanager
def _reading(path: Path, format_name: str) -> Iterator[None]:
    """Turn whatever a reader trips over into an error that names the file."""
    try:
        yield
    except PermissionError:
        raise
    except Exception as error:
        raise ValueError(
            f"{path}: cannot be read as {format_name} ({error})."
        ) from error


def _missing_extra(path: Path, package: str, extra: str) -> ImportError:
    return ImportError(
        f"{path}: reading it needs {package}; install it with "
        f"`pip install 'sksubtomo[{extra}]'`."
    )


def check_axes(axes: str) -> tuple[int, int, int]:
    """Return the stored axes at which z, y and x are found."""
    if not isinstance(axes, str) or sorted(axes) != ["x", "y", "z"]:
        raise ValueError(
            f"axes={axes!r}; expected 'zyx' or another order of these three letters, "
            "slowest first, such as 'xyz'."
        )
    return axes.index("z"), axes.index("y"), axes.index("x")


def reorder(volumes: NDArray[Any], axes: str) -> NDArray[Any]:
    """Bring volumes stored in this order of axes to z, y, x, as a view."""
    if axes == "zyx":
        return volumes
    n_leading = volumes.ndim - 3
    order = [n_leading + axis for axis in check_axes(axes)]
    return volumes.transpose(*range(n_leading), *order)


class Reordered:
    """Volumes of a file, stored in another order of axes, as z, y, x.

    Parameters
    ----------
    volumes : array-like of shape (n, ...)
        What reads single volumes, or slices of them.
    axes : str
        The order in which they are stored.
    """

    def __init__(self, volumes: Any, axes: str) -> None:
        sides = tuple(volumes.shape[1 + axis] for axis in check_axes(axes))
        self.shape = (volumes.shape[0], *sides)
        self.ndim = 4
        self.dtype = volumes.dtype
        self.chunks = getattr(volumes, "chunks", None)
        self._volumes = volumes
        self._axes = axes

    def __getitem__(self, rows: int | slice) -> NDArray[Any]:
        return reorder(np.asarray(self._volumes[rows]), self._axes)


def check_index(reference: Reference, n_volumes: int) -> int:
    """Return the index of the volume that a reference means, of those of its file."""
    index = reference.index
    if index is None:
        if n_volumes > 1:
            raise ValueError(
                f"{reference.name}: holds {n_volumes} volumes; expected one. Say which "
                f"with its number, such as '1@{reference.name}'."
            )
        return 0
    if index >= n_volumes:
        raise ValueError(
            f"{reference.name}: asks for volume {index + 1}; {reference.path} has "
            f"{n_volumes}."
        )
    return index


def read_part(path: Path, volumes: Any, part: int | slice) -> NDArray[Any]:
    """Read, or take a view of, some volumes of an open file."""
    if isinstance(volumes, np.ndarray):
        return volumes[part]
    shape = volumes.shape[1:]
    if isinstance(part, slice):
        shape = (len(range(*part.indices(volumes.shape[0]))), *shape)
    check_array(shape, volumes.dtype, str(path))
    with _reading(path, "volumes"):
        return np.asarray(volumes[part])


def check_array(shape: tuple[int, ...], dtype: DTypeLike, name: str) -> None:
    """Raise MemoryError if an array that a file gives is larger than the memory.

    HDF5 and Zarr may promise any shape: what is not stored is zero.
    """
    n_bytes = math.prod(shape) * np.dtype(dtype).itemsize
    check_memory(n_bytes, f"{name}: an array of shape {tuple(shape)}")


def check_memory(n_bytes: int, what: str) -> None:
    """Raise MemoryError if so many bytes are not available."""
    available = available_memory()
    if available is not None and n_bytes > available:
        raise MemoryError(
            f"{what} needs {n_bytes / 1e9:.3g} GB of memory; {available / 1e9:.3g} GB "
            "are available. Expected less, a file that can be memory-mapped (an MRC "
            "stack), or ReadVolumes in a pipeline."
        )


def available_memory() -> int | None:
    """Return how many bytes there are, as the system says, or None if it does not."""
    try:
        # What is free, and what is in use as a cache.
        text = Path("/proc/meminfo").read_text(encoding="ascii")
        return int(text.partition("MemAvailable:")[2].split()[0]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None


class Expected(NamedTuple):
    """What is known of volumes so far, and what says so."""

    volume_shape: tuple[int, ...] | None = None
    shape_origin: str = ""
    voxel_size: float | None = None
    voxel_size_origin: str = ""
    widths: tuple[float, ...] = ()
    widths_origin: str = ""

    def check(
        self, volume_shape: tuple[int, ...], voxel_size: float | None, name: str
    ) -> Expected:
        """Add what another file says, or raise ValueError if it contradicts."""
        if self.volume_shape not in (None, volume_shape):
            raise ValueError(
                f"{name}: holds a volume of shape {volume_shape}; expected "
                f"{self.volume_shape}, that of {self.shape_origin}."
            )
        for width in self.widths:
            if width != volume_shape[-1]:
                raise ValueError(
                    f"{name}: holds a volume of shape {volume_shape}; expected a width "
                    f"of {width:g}, the rlnImageSize of {self.widths_origin}. If the "
                    "volumes are right, give their voxel size, which that file may "
                    "have wrong as well (voxel_size=, --voxel-size)."
                )
        if contradicts(voxel_size, self.voxel_size):
            raise ValueError(
                f"{name}: has a voxel size of {voxel_size:g} A; expected "
                f"{self.voxel_size:g} A, that of {self.voxel_size_origin}. If one of "
                "them is wrong, give the right one (voxel_size=, --voxel-size)."
            )
        known = self
        if self.volume_shape is None:
            known = known._replace(volume_shape=volume_shape, shape_origin=name)
        if self.voxel_size is None:
            known = known._replace(voxel_size=voxel_size, voxel_size_origin=name)
        return known


def group_by_file(references: Sequence[Reference]) -> dict[Path, list[int]]:
    """Return the rows of each file, files in the order of their first row."""
    groups: dict[Path, list[int]] = {}
    for row, reference in enumerate(references):
        groups.setdefault(reference.path, []).append(row)
    return groups


def gather(
    references: Sequence[Reference],
    expected: Expected,
    *,
    dataset: str | None,
    axes: str,
    allow_image_stacks: bool,
    ignore_voxel_size: bool,
) -> tuple[NDArray[np.float32], float | None]:
    """Read volumes one by one into an array, opening each file once, one at a time."""
    output: NDArray[np.float32] | None = None
    for path, rows in group_by_file(references).items():
        with open_source(
            path,
            dataset=dataset,
            allow_image_stacks=allow_image_stacks,
            ignore_voxel_size=ignore_voxel_size,
            # All have the shape of the first: one warning says it.
            warn_of_images=output is None,
        ) as (volumes, voxel_size):
            shape = tuple(volumes.shape[1 + axis] for axis in check_axes(axes))
            name = references[rows[0]].name
            expected = expected.check(shape, voxel_size, name)
            if output is None:
                whole = (len(references), *shape)
                check_array(whole, np.float32, name)
                output = np.empty(whole, np.float32)
            for row in rows:
                index = check_index(references[row], volumes.shape[0])
                volume = read_part(path, volumes, index)
                # A float64 too large for float32 becomes infinity, which is reported.
                with np.errstate(over="ignore", invalid="ignore"):
                    output[row] = reorder(volume, axes)
                check_finite(output[row], references[row].name)
    assert output is not None
    return output, expected.voxel_size


def contradicts(one: float | None, other: float | None) -> bool:
    """Tell whether two voxel sizes differ by more than their rounding."""
    if one is None or other is None:
        return False
    return abs(one - other) > 0.01 * max(one, other)


def check_finite(volume: NDArray[Any], name: str) -> None:
    """Raise ValueError that names the first voxel which is not finite."""
    if volume.dtype.kind != "f":
        return
    # One sum instead of a mask of all voxels: it is finite if they are, unless they
    # are huge.
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(volume.sum(dtype=np.float64)):
            return
    finite = np.isfinite(volume)
    if finite.all():
        return
    z, y, x = np.argwhere(~finite)[0]
    value = volume[z, y, x]
    what = "NaN" if np.isnan(value) else "infinity, or more than float32 holds,"
    raise ValueError(
        f"{name}: holds {what} at voxel (z={z}, y={y}, x={x}); expected finite values."
    )
