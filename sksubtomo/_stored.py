"""Volumes that stay on disk, and what can be done with them as with those in memory."""

from __future__ import annotations

import hashlib
import math
import mmap
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

# What is read, checked and written at a time: small beside the memory of any machine,
# large beside the cost of one more call.
_BLOCK_BYTES = 1 << 23

# After as many bytes of a memory map were touched, its pages are given back.
_KEPT_BYTES = 1 << 25

# Where a page of a file is read, Linux maps what it has of the file around it, up to
# this.
_FAULT_BYTES = 1 << 21


class StoredVolumes:
    """Volumes on disk, of which only those that are asked for are in memory.

    The memory it takes does not grow with what was read: pages of a memory map, which
    would stay as long as the system has room, are given back. Those of a copy-on-write
    map are not, for they may hold changes.

    Parameters
    ----------
    source : array-like of shape (n, depth, height, width) or (n, n_features)
        A memory map or a view of one, an array of h5py, Zarr or dask: whatever
        `is_stored` accepts. Any real dtype.
    volume_shape : tuple of int
        Depth, height and width; of a table, what its rows stand for.

    Attributes
    ----------
    dtype : dtype
        That of what is taken: float32.
    """

    ndim = 4
    dtype = np.dtype(np.float32)

    def __init__(self, source: Any, volume_shape: tuple[int, int, int]) -> None:
        # Slices of the class memmap are slow to make.
        self._source = np.asarray(source) if isinstance(source, np.ndarray) else source
        self._volume_shape = volume_shape
        self._rows: range | NDArray[np.intp] = range(source.shape[0])
        self._sign = 1
        self._pages = MappedPages(source)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Number of volumes, and depth, height and width of each."""
        return len(self._rows), *self._volume_shape

    @property
    def nbytes(self) -> int:
        """Bytes that all volumes would take in memory."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def chunk_rows(self) -> int:
        """Volumes that are stored, and decoded, together."""
        rows = (getattr(self._source, "chunks", None) or (1,))[0]
        # dask's chunks need not be of one size.
        return rows if isinstance(rows, int) else max(rows)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, rows: Any) -> StoredVolumes:
        """Return some of the volumes, without reading them.

        Parameters
        ----------
        rows : slice, or array-like of int or bool
            Which, in which order. Or a tuple of these and an Ellipsis, which
            scikit-learn gives.

        Returns
        -------
        StoredVolumes
            On the same source.
        """
        part = object.__new__(StoredVolumes)
        part.__dict__.update(self.__dict__)
        if isinstance(rows, tuple) and len(rows) == 2 and rows[1] is Ellipsis:
            rows = rows[0]
        if isinstance(rows, slice):
            part._rows = self._rows[rows]
        else:
            part._rows = np.asarray(self._rows, np.intp)[np.asarray(rows)]
        return part

    def __neg__(self) -> StoredVolumes:
        """Return the volumes with their contrast inverted, without reading them."""
        inverted = self[:]
        inverted._sign = -self._sign
        return inverted

    def __iter__(self) -> Iterator[NDArray[np.float32]]:
        for _, block in iterate_blocks(self):
            yield from block

    def take(self, rows: ArrayLike) -> NDArray[np.float32]:
        """Read some volumes.

        Parameters
        ----------
        rows : array-like of shape (k,)
            Indices, in any order, repeated or not.

        Returns
        -------
        ndarray of shape (k, depth, height, width), float32
            A copy in C order.
        """
        chosen: NDArray[np.intp] = np.asarray(rows, np.intp)
        if isinstance(self._rows, range):
            if len(chosen) and not (chosen.min() >= 0 and chosen.max() < len(self)):
                raise IndexError(
                    f"rows are from {chosen.min()} to {chosen.max()}; expected from 0 "
                    f"to {len(self) - 1}."
                )
            chosen = self._rows.start + self._rows.step * chosen
        else:
            chosen = self._rows[chosen]
        if not len(chosen) or isinstance(self._source, np.ndarray):
            return self._read(chosen)
        # HDF5 wants increasing rows, and what is stored in chunks is decoded once for
        # all rows of a chunk.
        unique, places = np.unique(chosen, return_inverse=True)
        volumes = self._read(unique)
        return volumes if np.array_equal(chosen, unique) else volumes[places]

    def _read(self, rows: NDArray[np.intp]) -> NDArray[np.float32]:
        """Read rows of the source, which increase unless it is mapped."""
        source = self._source
        volumes = np.empty((len(rows), *self._volume_shape), np.float32)
        table = volumes.reshape(len(rows), *source.shape[1:])
        # Where rows begin that lie together.
        starts = np.flatnonzero(np.diff(rows, prepend=-2) != 1).tolist()
        # A float64 too large for float32 becomes infinity, which is reported.
        with np.errstate(over="ignore", invalid="ignore"):
            if len(starts) > 1 and isinstance(source, np.ndarray):
                step = max(1, _KEPT_BYTES // (_FAULT_BYTES + 2 * table[0].nbytes))
                for start in range(0, len(rows), step):
                    table[start : start + step] = source[rows[start : start + step]]
                    self._pages.touch(step * (_FAULT_BYTES + table[0].nbytes))
            elif len(starts) > 1 and hasattr(source, "oindex"):
                table[...] = source.oindex[rows]
            else:
                for start, stop in pairwise([*starts, len(rows)]):
                    first = int(rows[start])
                    table[start:stop] = source[first : first + stop - start]
                    self._pages.touch(table[start:stop].nbytes)
        if self._sign < 0:
            np.negative(volumes, out=volumes)
        return volumes


Volumes = NDArray[np.float32] | StoredVolumes


class MappedPages:
    """The pages of a memory map that were touched, given back now and then.

    Parameters
    ----------
    array : array-like
        Whatever is read or written. Nothing is done unless it is a shared memory map
        (modes "r", "r+" and "w+"), or a view of one, on a system that can do this.
    """

    def __init__(self, array: Any) -> None:
        mapped, mode = _find_map(array)
        shared = mode in ("r", "r+", "w+") and hasattr(mmap, "MADV_DONTNEED")
        self._map = mapped if shared else None
        self._touched = 0

    def touch(self, n_bytes: int) -> None:
        """Count what was read or written, and give the pages back if it is much.

        Parameters
        ----------
        n_bytes : int
            How much.
        """
        self._touched += n_bytes
        if self._map is not None and self._touched >= _KEPT_BYTES:
            # What was written stays in the system's cache until it is on the disk.
            self._map.madvise(mmap.MADV_DONTNEED)
            self._touched = 0


def is_stored(X: Any) -> bool:
    """Tell whether an array is on disk rather than in memory.

    Parameters
    ----------
    X : object
        Anything.

    Returns
    -------
    bool
        True for memory maps, views of them, arrays in chunks as those of h5py, Zarr and
        dask, all of two axes or more, and StoredVolumes.
    """
    if isinstance(X, StoredVolumes):
        return True
    if isinstance(X, np.ndarray):
        return X.ndim >= 2 and _find_map(X)[0] is not None
    return (
        hasattr(X, "chunks")
        and isinstance(getattr(X, "dtype", None), np.dtype)
        and getattr(X, "ndim", 0) >= 2
    )


def take_rows(volumes: Volumes, rows: NDArray[np.intp]) -> NDArray[np.float32]:
    """Copy some volumes into memory.

    Parameters
    ----------
    volumes : ndarray or StoredVolumes of shape (n, depth, height, width)
        Volumes.
    rows : ndarray of shape (k,)
        Indices, in any order.

    Returns
    -------
    ndarray of shape (k, depth, height, width), float32
        The volumes.
    """
    if isinstance(volumes, StoredVolumes):
        return volumes.take(rows)
    return volumes[rows]


def iterate_blocks(
    volumes: Volumes, multiple: int = 1
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Go through volumes in blocks of some megabytes.

    Parameters
    ----------
    volumes : ndarray or StoredVolumes of shape (n, depth, height, width)
        Volumes.
    multiple : int, default=1
        The number of volumes in a block, but for the last one, is a multiple of this.

    Yields
    ------
    start : int
        Index of the block's first volume.
    block : ndarray of shape (k, depth, height, width), float32
        The volumes; of an array, a view.
    """
    for start, stop in block_bounds(volumes, multiple):
        if isinstance(volumes, StoredVolumes):
            yield start, volumes.take(np.arange(start, stop))
        else:
            yield start, volumes[start:stop]


def block_bounds(volumes: Volumes, multiple: int = 1) -> Sequence[tuple[int, int]]:
    """Return where the blocks of `iterate_blocks` begin and end.

    Parameters
    ----------
    volumes : ndarray or StoredVolumes of shape (n, depth, height, width)
        Volumes.
    multiple : int, default=1
        Of what the number of volumes in a block is a multiple.

    Returns
    -------
    list of tuple of int
        First index, and the one after the last, of each block.
    """
    n = len(volumes)
    size = _BLOCK_BYTES // max(1, 4 * math.prod(volumes.shape[1:]))
    if isinstance(volumes, StoredVolumes):
        # No chunk is decoded for two blocks, if a block can hold whole ones.
        whole = math.lcm(multiple, volumes.chunk_rows)
        multiple = whole if whole <= size else multiple
    size = max(multiple, size - size % multiple)
    return [(start, min(start + size, n)) for start in range(0, n, size)]


def check_finite(block: NDArray[np.float32], start: int = 0) -> None:
    """Refuse volumes that have a voxel which is no finite number.

    Parameters
    ----------
    block : ndarray of shape (n, depth, height, width)
        Some of the volumes of X.
    start : int, default=0
        Index of the first one in X.

    Raises
    ------
    ValueError
        If there is one. It says which.
    """
    # One sum instead of a mask of all voxels: it is finite if they are, unless they
    # are huge.
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(block.sum()):
            return
    finite = np.isfinite(block)
    if finite.all():
        return
    row, z, y, x = (int(i) for i in np.argwhere(~finite)[0])
    what = (
        "NaN"
        if np.isnan(block[row, z, y, x])
        else "infinity (inf) or a value too large for float32"
    )
    feature = int(np.ravel_multi_index((z, y, x), block.shape[1:]))
    raise ValueError(
        f"Input X contains {what}: first in volume {start + row} at voxel "
        f"(z={z}, y={y}, x={x}), feature {feature}."
    )


def digest(volumes: Volumes) -> str:
    """Return a fingerprint of volumes.

    Parameters
    ----------
    volumes : ndarray or StoredVolumes of shape (n, depth, height, width)
        Volumes.

    Returns
    -------
    str
        Hexadecimal BLAKE2b hash of the shape and of the voxels as little-endian
        float32: the same in every process, and however the volumes are stored.
    """
    shape = repr(tuple(map(int, volumes.shape)))
    hasher = hashlib.blake2b(shape.encode(), digest_size=16)
    for _, block in iterate_blocks(volumes):
        hasher.update(np.ascontiguousarray(block, "<f4").data)
    return hasher.hexdigest()


def _find_map(array: Any) -> tuple[mmap.mmap | None, str]:
    """Return the map that an array is a view of, and its mode, if there is one."""
    mode = ""
    while isinstance(array, np.ndarray):
        if isinstance(array, np.memmap):
            mode = array.mode
        array = array.base
    return (array, mode) if isinstance(array, mmap.mmap) and mode else (None, "")
