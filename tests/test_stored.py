import hashlib
from pathlib import Path

import dask.array
import h5py
import numpy as np
import pytest
import zarr
from sklearn.base import clone
from sklearn.utils import _safe_indexing

from sksubtomo import ContrastivePretrainer, RB3DClassifier, _stored
from sksubtomo._stored import (
    MappedPages,
    StoredVolumes,
    block_bounds,
    check_finite,
    digest,
    is_stored,
    iterate_blocks,
    take_rows,
)

SHAPE = (3, 4, 6)


@pytest.fixture
def volumes():
    return np.random.default_rng(0).normal(size=(40, *SHAPE)).astype(np.float32)


def _map(folder, volumes, mode="r"):
    np.save(folder / "volumes.npy", volumes)
    return np.load(folder / "volumes.npy", mmap_mode=mode)


def _hdf5(folder, volumes, **options):
    file = h5py.File(folder / "volumes.h5", "w")
    return file.create_dataset("volumes", data=volumes, **options)


def _zarr(folder, volumes, chunk=3):
    array = zarr.create_array(
        folder / "volumes.zarr",
        shape=volumes.shape,
        dtype=volumes.dtype,
        chunks=(chunk, *volumes.shape[1:]),
    )
    array[:] = volumes
    return array


def _store(kind, folder, volumes):
    match kind:
        case "map":
            return _map(folder, volumes)
        case "view":
            return _map(folder, volumes.transpose(0, 3, 2, 1)).transpose(0, 3, 2, 1)
        case "table":
            return _map(folder, volumes.reshape(len(volumes), -1))
        case "hdf5":
            return _hdf5(folder, volumes)
        case "chunked hdf5":
            chunks = (7, *volumes.shape[1:])
            return _hdf5(folder, volumes, chunks=chunks, compression="gzip")
        case "zarr":
            return _zarr(folder, volumes)
        case "dask":
            return dask.array.from_array(volumes, chunks=(7, *volumes.shape[1:]))


KINDS = ["map", "view", "table", "hdf5", "chunked hdf5", "zarr", "dask"]


@pytest.mark.parametrize("kind", KINDS)
def test_behaves_as_the_array(volumes, tmp_path, kind):
    source = _store(kind, tmp_path, volumes)
    assert is_stored(source)
    stored = StoredVolumes(source, SHAPE)
    assert (stored.shape, stored.ndim, len(stored)) == (volumes.shape, 4, 40)
    assert stored.nbytes == volumes.nbytes
    rows = np.random.default_rng(1).integers(0, 40, 60)
    for chosen in (rows, rows[:0], np.arange(5, 9), np.arange(40)[::-1]):
        taken = stored.take(chosen)
        assert taken.dtype == np.float32
        assert taken.flags.c_contiguous
        np.testing.assert_array_equal(taken, volumes[chosen])
    np.testing.assert_array_equal(np.stack(list(stored)), volumes)
    for part in (slice(4, 30, 3), slice(None, None, -2), rows, volumes[:, 0, 0, 0] > 0):
        np.testing.assert_array_equal(np.stack(list(stored[part])), volumes[part])
        again = stored[part][1:9:2]
        np.testing.assert_array_equal(again.take([2, 0]), volumes[part][1:9:2][[2, 0]])
        safe = _safe_indexing(stored, part)
        np.testing.assert_array_equal(np.stack(list(safe)), volumes[part])


@pytest.mark.parametrize("dtype", ["f2", ">f4", "f8", "i1", "u2", ">i2", "i8", "bool"])
@pytest.mark.parametrize("kind", ["map", "hdf5", "zarr"])
def test_any_real_dtype(volumes, tmp_path, dtype, kind):
    X = (volumes * 10).astype(dtype)
    taken = StoredVolumes(_store(kind, tmp_path, X), SHAPE).take([3, 1, 30])
    assert taken.dtype == np.float32
    assert taken.dtype.isnative
    np.testing.assert_array_equal(taken, X[[3, 1, 30]].astype(np.float32))


def test_rows_that_are_not_there(volumes, tmp_path):
    stored = StoredVolumes(_map(tmp_path, volumes), SHAPE)[10:]
    for rows in ([30], [-1]):
        with pytest.raises(IndexError, match=f"{rows[0]}; expected from 0 to 29"):
            stored.take(rows)


def test_what_is_stored(volumes, tmp_path):
    mapped = _map(tmp_path, volumes)
    for array in (mapped, np.asarray(mapped), mapped[::2, 1:], mapped.reshape(40, -1)):
        assert is_stored(array)
    for other in (volumes, mapped[[1, 2]], mapped.copy(), mapped[0, 0, 0], [volumes]):
        assert not is_stored(other)


def test_take_rows_of_an_array_is_a_copy(volumes):
    taken = take_rows(volumes, np.array([2, 2]))
    taken += 1
    assert not np.array_equal(taken[0], volumes[2])


@pytest.mark.parametrize("kind", [None, *KINDS])
def test_blocks(volumes, tmp_path, monkeypatch, kind):
    monkeypatch.setattr(_stored, "_BLOCK_BYTES", 9 * volumes[0].nbytes)
    X = volumes
    if kind is not None:
        X = StoredVolumes(_store(kind, tmp_path, volumes), SHAPE)
    blocks = list(iterate_blocks(X))
    assert len(blocks) > 4
    assert all(
        start == sum(len(block) for _, block in blocks[:i])
        for i, (start, _) in enumerate(blocks)
    )
    np.testing.assert_array_equal(np.concatenate([b for _, b in blocks]), volumes)
    assert [len(b) for _, b in iterate_blocks(X, 4)][:-1] == [8] * 4
    # At least as many as asked for, whatever their size.
    assert block_bounds(X, 16) == [(0, 16), (16, 32), (32, 40)]


def test_blocks_hold_whole_chunks(volumes, tmp_path, monkeypatch):
    monkeypatch.setattr(_stored, "_BLOCK_BYTES", 20 * volumes[0].nbytes)
    stored = StoredVolumes(_zarr(tmp_path, volumes, chunk=3), SHAPE)
    assert block_bounds(stored)[0] == (0, 18)
    assert block_bounds(stored, 4)[0] == (0, 12)
    assert block_bounds(stored, 16)[0] == (0, 16)


class _Counting:
    """An array in chunks that counts how often it is read."""

    chunks = (4, *SHAPE)

    def __init__(self, volumes):
        self.volumes = volumes
        self.shape, self.dtype, self.ndim = volumes.shape, volumes.dtype, 4
        self.reads = []

    def __getitem__(self, index):
        self.reads.append(index)
        return self.volumes[index]


def test_rows_that_lie_together_are_read_together(volumes):
    source = _Counting(volumes)
    stored = StoredVolumes(source, SHAPE)
    taken = stored.take([9, 3, 8, 7, 3, 20])
    np.testing.assert_array_equal(taken, volumes[[9, 3, 8, 7, 3, 20]])
    assert source.reads == [slice(3, 4), slice(7, 10), slice(20, 21)]


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="needs Linux")
@pytest.mark.parametrize(("mode", "given_back"), [("r", True), ("c", False)])
def test_pages_are_given_back(tmp_path, monkeypatch, mode, given_back):
    volumes = np.ones((256, 16, 16, 16), np.float32)
    mapped = _map(tmp_path, volumes, mode)
    if mode == "c":
        mapped[0] = 5
    monkeypatch.setattr(_stored, "_KEPT_BYTES", 1 << 20)
    stored = StoredVolumes(mapped, (16, 16, 16))
    for _ in range(2):
        for row in np.random.default_rng(0).permutation(256):
            stored.take([row])
    resident = _resident_bytes(tmp_path / "volumes.npy")
    assert (resident <= 1 << 20) == given_back
    # Changes of a private map would be lost with its pages.
    assert stored.take([0]).max() == (1 if given_back else 5)


def _resident_bytes(path):
    smaps = Path("/proc/self/smaps").read_text().split(str(path.resolve()))[1]
    return int(smaps.partition("Rss:")[2].split()[0]) * 1024


def test_written_pages_keep_their_values(tmp_path, monkeypatch):
    monkeypatch.setattr(_stored, "_KEPT_BYTES", 1000)
    out = np.lib.format.open_memmap(tmp_path / "out.npy", "w+", "f4", (100, 50))
    pages = MappedPages(out)
    for start in range(0, 100, 10):
        out[start : start + 10] = start
        pages.touch(out[:10].nbytes)
    expected = np.repeat(np.arange(0, 100, 10), 10)
    np.testing.assert_array_equal(out[:, 7], expected)
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy")[:, 7], expected)


@pytest.mark.parametrize("kind", KINDS)
def test_digest_does_not_depend_on_storage(volumes, tmp_path, monkeypatch, kind):
    stored = StoredVolumes(_store(kind, tmp_path, volumes), SHAPE)
    whole = digest(volumes)
    monkeypatch.setattr(_stored, "_BLOCK_BYTES", 5 * volumes[0].nbytes)
    assert digest(stored) == digest(volumes) == whole
    assert digest(stored[5:20]) == digest(volumes[5:20]) != whole


def test_digest_is_of_shape_and_values(volumes):
    contents = repr(volumes.shape).encode() + volumes.tobytes()
    expected = hashlib.blake2b(contents, digest_size=16)
    assert digest(volumes) == expected.hexdigest()
    assert digest(volumes.reshape(40, 4, 3, 6)) != digest(volumes)
    other = volumes.copy()
    other[30, 2, 3, 5] += 1e-6
    assert digest(other) != digest(volumes)


@pytest.mark.parametrize(
    ("value", "name"), [(np.nan, "NaN"), (np.inf, "inf"), (-np.inf, "inf")]
)
def test_not_finite_is_located(volumes, value, name):
    check_finite(volumes)
    volumes[3, 2, 1, 4] = value
    place = rf"{name}.*volume 13 at voxel \(z=2, y=1, x=4\), feature 58"
    with pytest.raises(ValueError, match=place):
        check_finite(volumes, 10)


def test_large_values_are_finite(volumes):
    check_finite(np.full_like(volumes, 3e38))


@pytest.mark.parametrize("kind", ["map", "table", "chunked hdf5", "zarr"])
def test_estimators_give_the_same_as_in_memory(tmp_path, kind):
    volumes = np.random.default_rng(0).normal(size=(24, 8, 8, 8)).astype(np.float32)
    labels = np.array(["a", "b", ""] * 8)
    source = _store(kind, tmp_path, volumes)
    options = {"max_epochs": 1, "device": "cpu", "random_state": 0}
    pretrainer = ContrastivePretrainer(normalize="volume", mask="sphere", **options)
    classifier = RB3DClassifier(
        ContrastivePretrainer(**options),
        unlabeled="",
        validation_fraction=0.3,
        **options,
    )
    in_memory, on_disk = (
        [
            clone(pretrainer).fit_transform(X),
            clone(classifier).fit(X, labels).predict_proba(X),
        ]
        for X in (volumes, source)
    )
    for expected, found in zip(in_memory, on_disk, strict=True):
        np.testing.assert_array_equal(found, expected)
