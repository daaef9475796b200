import builtins
import gzip
import os
import re
import tracemalloc
import warnings
from pathlib import Path

import emfile
import h5py
import mrcfile
import numpy as np
import pytest
import zarr

from sksubtomo._stored import StoredVolumes
from sksubtomo.io import (
    ReadVolumes,
    _sources,
    contrast_sign,
    list_references,
    read_volumes,
    write_particles,
    write_volume,
    write_volume_stack,
)
from sksubtomo.io import volumes as volumes_module
from sksubtomo.io.volumes import open_subtomograms, set_contrast

# Volumes of three different sides tell one axis from another.
pytestmark = pytest.mark.filterwarnings("ignore:.*which is no cube:UserWarning")


@pytest.fixture
def stack():
    return np.random.default_rng(0).normal(size=(3, 4, 5, 6)).astype(np.float32)


@pytest.fixture
def folder(tmp_path, stack):
    """A folder of volumes whose names sort differently as text."""
    folder = tmp_path / "particles"
    folder.mkdir()
    for number, volume in zip((2, 9, 10), stack, strict=True):
        write_volume(folder / f"p_{number}.mrc", volume, 10)
    return folder


def write_images(path, data):
    with mrcfile.new(path) as mrc:
        mrc.set_data(data)
        mrc.set_image_stack()
    return path


def is_mapped(array):
    while array is not None and not isinstance(array, np.memmap):
        array = array.base
    return array is not None


# MRC


def test_stack_is_mapped(tmp_path, stack):
    path = tmp_path / "s.mrc"
    write_volume_stack(path, stack, 10)
    subtomograms = read_volumes(path)
    assert isinstance(subtomograms.volumes, np.memmap)
    assert not subtomograms.volumes.flags.writeable
    np.testing.assert_array_equal(subtomograms.volumes, stack)
    assert subtomograms.voxel_size == 10
    assert list(subtomograms.names) == [f"00000{i}@s.mrc" for i in (1, 2, 3)]
    assert subtomograms.particles is None
    assert len(subtomograms) == 3


def test_stack_is_never_held_in_memory(tmp_path):
    path = tmp_path / "s.mrc"
    write_volume_stack(path, np.ones((500, 16, 16, 16), np.float32), 10)
    tracemalloc.start()
    try:
        subtomograms = read_volumes(str(path), axes="xyz")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert is_mapped(subtomograms.volumes)
    assert peak < path.stat().st_size / 10


def test_single_volume(tmp_path, stack):
    path = tmp_path / "v.mrc"
    write_volume(path, stack[0], 10)
    subtomograms = read_volumes(path)
    np.testing.assert_array_equal(subtomograms.volumes, stack[:1])
    assert is_mapped(subtomograms.volumes)
    assert list(subtomograms.names) == [str(path)]


def test_one_volume_of_a_stack(tmp_path, stack):
    path = tmp_path / "s.mrc"
    write_volume_stack(path, stack, 10)
    subtomograms = read_volumes(f"2@{path}")
    np.testing.assert_array_equal(subtomograms.volumes, stack[1:2])
    assert is_mapped(subtomograms.volumes)


def test_compressed_stack(tmp_path, stack):
    path = tmp_path / "s.mrc"
    write_volume_stack(path, stack, 10)
    compressed = tmp_path / "s.mrc.gz"
    compressed.write_bytes(gzip.compress(path.read_bytes()))
    np.testing.assert_array_equal(read_volumes(compressed).volumes, stack)


def test_image_stack_is_refused_unless_allowed(tmp_path, stack):
    path = write_images(tmp_path / "i.mrcs", stack[0])
    with pytest.raises(ValueError, match=r"4 images.*tilt images.*image_stacks=True"):
        read_volumes(path)
    subtomograms = read_volumes(path, allow_image_stacks=True)
    np.testing.assert_array_equal(subtomograms.volumes, stack[:1])


def test_tilt_images_that_a_header_calls_a_volume(tmp_path):
    images = np.random.default_rng(0).normal(size=(7, 6, 6)).astype(np.float32)
    for name, mz in (("t.mrcs", 7), ("t.mrc", 1)):
        path = tmp_path / name
        with mrcfile.new(path) as mrc:
            mrc.set_data(images)
            mrc.header.mz = mz
            assert mrc.header.ispg == 1
        message = r"7 images of shape \(6, 6\) \((mz 1|a name that ends in .mrcs)\)"
        for read in (read_volumes, list_references):
            with pytest.raises(ValueError, match=message):
                read(path)
        with pytest.raises(ValueError, match=message):
            ReadVolumes().fit([path])
        subtomograms = read_volumes(path, allow_image_stacks=True)
        np.testing.assert_array_equal(subtomograms.volumes[0], images)


def caught(read, *args, **options):
    """Return the messages of all warnings."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        read(*args, **options)
    return [str(warning.message) for warning in found]


def test_volumes_that_are_no_cubes_are_warned_of_once(tmp_path, folder, stack):
    path = tmp_path / "v.mrc"
    write_volume(path, stack[0], 10)
    message = (
        r"\.mrc: holds a single volume of shape \(4, 5, 6\) .ispg 1.*4 tilt images"
    )
    reader = ReadVolumes().fit([path])
    for found in (
        caught(read_volumes, path),
        caught(read_volumes, folder),
        caught(ReadVolumes().fit_transform, list_references(folder)),
        caught(reader.transform, [path, path]),
    ):
        assert len(found) == 1
        assert re.search(message, found[0])
    assert not caught(read_volumes, folder, allow_image_stacks=True)
    write_volume(path, np.zeros((4, 4, 4)), 10)
    assert not caught(read_volumes, path)
    write_volume_stack(path, stack[:1], 10)
    assert not caught(read_volumes, path)


def test_header_is_warned_of_once(tmp_path):
    path = tmp_path / "v.mrc"
    write_volume(path, np.zeros((4, 4, 4)), 10)
    with mrcfile.open(path, "r+") as mrc:
        mrc.voxel_size = (10, 10, 12)
    for found in (
        caught(read_volumes, path),
        caught(ReadVolumes().fit_transform, [path, path]),
    ):
        assert len(found) == 1
        assert "12 x 10 x 10 A" in found[0]
    # Neither the listing nor a voxel size that is given reads the header's.
    assert not caught(list_references, path)
    assert not caught(read_volumes, path, voxel_size=10)
    with mrcfile.open(path, "r+") as mrc:
        mrc.header.map = b""
    assert len(caught(read_volumes, path, voxel_size=10)) == 1


@pytest.mark.parametrize("axes", ["zyx", "xyz"])
def test_stack_of_permuted_axes(tmp_path, stack, axes):
    path = tmp_path / "s.mrc"
    with mrcfile.new(path) as mrc:
        mrc.set_data(np.ascontiguousarray(stack.transpose(0, 3, 2, 1)))
        mrc.header.mapc, mrc.header.maps = 3, 1
    # `axes` counts from what the header gives.
    expected = stack if axes == "zyx" else stack.transpose(0, 3, 2, 1)
    subtomograms = read_volumes(path, axes=axes)
    np.testing.assert_array_equal(subtomograms.volumes, expected)
    assert is_mapped(subtomograms.volumes)
    gathered = read_volumes([f"3@{path}", f"1@{path}"], axes=axes).volumes
    np.testing.assert_array_equal(gathered, expected[[2, 0]])


# Folders, patterns and lists


def test_folder_is_read_in_natural_order(folder, stack):
    (folder / "._p_2.mrc").write_bytes(b"of another system")
    (folder / "notes.txt").write_text("not a volume")
    subtomograms = read_volumes(folder)
    np.testing.assert_array_equal(subtomograms.volumes, stack)
    assert subtomograms.volumes.dtype == np.float32
    assert subtomograms.voxel_size == 10
    expected = [str(folder / f"p_{number}.mrc") for number in (2, 9, 10)]
    assert list(subtomograms.names) == expected


def test_pattern(folder, stack):
    subtomograms = read_volumes(f"{folder}/*_?.mrc")
    np.testing.assert_array_equal(subtomograms.volumes, stack[:2])
    np.testing.assert_array_equal(
        read_volumes(f"{folder.parent}/**/*0.mrc").volumes, stack[2:]
    )
    with pytest.raises(FileNotFoundError, match="no file matches"):
        read_volumes(f"{folder}/*.rec")


def test_name_that_looks_like_a_pattern(tmp_path, stack):
    write_volume(tmp_path / "v[1].mrc", stack[0], 10)
    np.testing.assert_array_equal(
        read_volumes(tmp_path / "v[1].mrc").volumes, stack[:1]
    )


def test_folder_without_volumes(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has no \.mrc or"):
        read_volumes(tmp_path)


def test_list_of_references(folder, stack, tmp_path):
    path = tmp_path / "s.mrc"
    write_volume_stack(path, stack, 10)
    references = [f"3@{path}", folder / "p_2.mrc", f"0001@{path}", f"3@{path}"]
    for source in (references, np.array(references), np.array(references)[:, None]):
        subtomograms = read_volumes(source)
        np.testing.assert_array_equal(subtomograms.volumes, stack[[2, 0, 0, 2]])
        assert list(subtomograms.names) == [str(name) for name in references]


def test_consecutive_references_are_mapped(tmp_path, stack):
    path = tmp_path / "s.mrc"
    write_volume_stack(path, stack, 10)
    subtomograms = read_volumes([f"2@{path}", f"3@{path}"])
    assert is_mapped(subtomograms.volumes)
    np.testing.assert_array_equal(subtomograms.volumes, stack[1:])


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ([], ValueError, "no references"),
        (["a.mrc", 3], TypeError, "reference 1 is 3 of type int"),
        (np.zeros((2, 4, 4, 4)), ValueError, r"shape \(2, 4, 4, 4\)"),
        ([["a.mrc", "b.mrc"]], ValueError, r"shape \(1, 2\)"),
        (None, ValueError, "shape"),
        (7, ValueError, "shape"),
        ("", ValueError, "''; expected the name"),
        (["a.mrc", ""], ValueError, "reference 1 is ''"),
        ("0@a.mrc", ValueError, "count from 1"),
        ("nothing.mrc", FileNotFoundError, "nothing"),
        ("1@nothing.mrc", FileNotFoundError, "nothing"),
        ("nothing.star", FileNotFoundError, "nothing"),
        ("nothing.h5", FileNotFoundError, "nothing"),
        ("nothing.zarr", FileNotFoundError, "nothing"),
    ],
)
def test_sources_that_are_none(source, error, message):
    with pytest.raises(error, match=message):
        read_volumes(source)


def test_number_beyond_the_stack(tmp_path, stack):
    path = tmp_path / "s.mrc"
    write_volume_stack(path, stack, 10)
    for source in (f"4@{path}", [f"1@{path}", f"4@{path}"], [f"4@{path}"] * 2):
        with pytest.raises(ValueError, match=r"asks for volume 4; .*s\.mrc has 3"):
            read_volumes(source)


def test_stack_without_a_number(tmp_path, stack):
    path = tmp_path / "s.mrc"
    write_volume_stack(path, stack, 10)
    with pytest.raises(ValueError, match=r"holds 3 volumes.*'1@"):
        read_volumes([path])
    with pytest.raises(ValueError, match=r"holds 3 volumes.*'1@"):
        read_volumes(tmp_path)


# What files have to agree on


def test_mixed_shapes_are_named(folder):
    write_volume(folder / "p_9.mrc", np.zeros((4, 5, 7)), 10)
    with pytest.raises(
        ValueError, match=r"p_9\.mrc: .*\(4, 5, 7\).*\(4, 5, 6\).*p_2\.mrc"
    ):
        read_volumes(folder)


def test_contradictory_voxel_sizes_are_named(folder, stack):
    write_volume(folder / "p_9.mrc", stack[1], 12)
    with pytest.raises(
        ValueError, match=r"p_9\.mrc: .*12 A; expected 10 A.*p_2\.mrc.*voxel_size="
    ):
        read_volumes(folder)
    assert read_volumes(folder, voxel_size=12).voxel_size == 12


def test_missing_voxel_sizes(folder, stack):
    write_volume(folder / "p_2.mrc", stack[0], None)
    assert read_volumes(folder).voxel_size == 10
    write_volume(folder / "p_9.mrc", stack[1], None)
    write_volume(folder / "p_10.mrc", stack[2], None)
    assert read_volumes(folder).voxel_size is None


def test_given_voxel_size(tmp_path, stack):
    path = tmp_path / "s.mrc"
    write_volume_stack(path, stack, 10)
    assert read_volumes(path, voxel_size=13.3).voxel_size == 13.3
    for voxel_size in (0, -1, np.nan):
        with pytest.raises(ValueError, match="voxel_size="):
            read_volumes(path, voxel_size=voxel_size)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_named(
    tmp_path, stack, folder, value, monkeypatch
):
    # A block of two volumes.
    monkeypatch.setattr(volumes_module, "_BLOCK_BYTES", 2 * stack[0].nbytes)
    stack[1, 2, 3, 4] = value
    for name, data in (("s.mrc", stack), ("particles/p_9.mrc", stack[1])):
        with mrcfile.new(tmp_path / name, overwrite=True) as mrc:
            mrc.set_data(np.zeros_like(data))
            if data.ndim == 3:
                mrc.set_volume()
            mrc.data[...] = data
    with pytest.raises(ValueError, match=r"000002@s\.mrc: .*\(z=2, y=3, x=4\)"):
        read_volumes(tmp_path / "s.mrc")
    with pytest.raises(ValueError, match=r"000002@s\.mrc: .*\(z=4, y=3, x=2\)"):
        read_volumes(tmp_path / "s.mrc", axes="xyz")
    with pytest.raises(ValueError, match=r"2@.*s\.mrc: .*\(z=2, y=3, x=4\)"):
        read_volumes([f"{number}@{tmp_path / 's.mrc'}" for number in (2, 3)])
    assert len(read_volumes(f"3@{tmp_path / 's.mrc'}")) == 1
    with pytest.raises(ValueError, match=r"p_9\.mrc: .*\(z=2, y=3, x=4\)"):
        read_volumes(folder)


def test_huge_values_are_finite(tmp_path):
    path = tmp_path / "s.mrc"
    write_volume_stack(path, np.full((2, 4, 4, 4), 3e38), 10)
    assert len(read_volumes(path)) == 2


@pytest.mark.parametrize("axes", ["xyz", "yxz", "zxy"])
def test_axes_are_brought_into_order(tmp_path, stack, axes):
    stored = stack.transpose(0, *(1 + "zyx".index(axis) for axis in axes))
    path = tmp_path / "s.mrc"
    write_volume_stack(path, stored, 10)
    subtomograms = read_volumes(path, axes=axes)
    np.testing.assert_array_equal(subtomograms.volumes, stack)
    assert is_mapped(subtomograms.volumes)
    references = [f"3@{path}", f"1@{path}"]
    np.testing.assert_array_equal(
        read_volumes(references, axes=axes).volumes, stack[[2, 0]]
    )


@pytest.mark.parametrize("axes", ["zyxx", "zy", "abc", None])
def test_axes_that_are_none(tmp_path, axes):
    with pytest.raises(ValueError, match="axes="):
        read_volumes(tmp_path, axes=axes)


# Contrast


def particles(n=20, side=12, snr=0.3, seed=0):
    rng = np.random.default_rng(seed)
    axis = np.arange(side) - (side - 1) / 2
    radii = np.sqrt(axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2)
    # A hollow particle, dark in its very centre.
    particle = ((radii < side / 4) & (radii > side / 12)).astype(float)
    return snr * particle + rng.normal(size=(n, side, side, side))


def test_contrast_sign():
    volumes = particles().astype(np.float32)
    assert contrast_sign(volumes) == 1
    assert contrast_sign(-volumes) == -1
    assert contrast_sign(100 - 7 * volumes) == -1


@pytest.mark.parametrize(
    "volumes",
    [
        particles(snr=0),
        particles(n=9, snr=5),
        np.ones((20, 8, 8, 8)),
        np.ones((20, 1, 1, 1)),
        particles(n=3),
    ],
)
def test_contrast_that_cannot_be_told(volumes):
    assert contrast_sign(volumes) == 0


def test_contrast_of_a_single_volume_array():
    with pytest.raises(ValueError, match=r"\(n, depth, height, width\)"):
        contrast_sign(np.zeros((8, 8, 8)))


def test_dark_particles_are_warned_of(tmp_path):
    volumes = particles().astype(np.float32)
    path = tmp_path / "s.mrc"
    write_volume_stack(path, -volumes, 10)
    with pytest.warns(UserWarning, match=r"darker.*invert_contrast=True"):
        read_volumes(path)
    left = read_volumes(path, invert_contrast=False).volumes
    np.testing.assert_array_equal(left, -volumes)
    inverted = read_volumes(path, invert_contrast=True).volumes
    np.testing.assert_array_equal(inverted, volumes)
    write_volume_stack(path, volumes, 10)
    assert is_mapped(read_volumes(path).volumes)


@pytest.mark.parametrize("dtype", [np.uint16, np.int8, np.float16])
def test_any_dtype_can_be_inverted(tmp_path, dtype):
    data = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5).astype(dtype)
    with mrcfile.new(tmp_path / "s.mrc") as mrc:
        mrc.set_data(data)
    inverted = read_volumes(tmp_path / "s.mrc", invert_contrast=True).volumes
    assert inverted.dtype == np.float32
    np.testing.assert_array_equal(inverted, -data.astype(np.float32))


# HDF5


def test_hdf5_in_one_piece_is_mapped(tmp_path, stack):
    path = tmp_path / "s.h5"
    with h5py.File(path, "w") as file:
        file["entry/volumes"] = stack.astype(">f4")
        file["labels"] = np.arange(3)
    subtomograms = read_volumes(path)
    assert is_mapped(subtomograms.volumes)
    np.testing.assert_array_equal(subtomograms.volumes, stack)
    assert subtomograms.voxel_size is None
    assert list(subtomograms.names) == [f"00000{i}@s.h5" for i in (1, 2, 3)]


@pytest.mark.parametrize(
    "options",
    [
        {"chunks": (1, 4, 5, 6)},
        {"compression": "gzip", "shuffle": True},
        {"dtype": "float64"},
    ],
)
def test_other_hdf5_is_read(tmp_path, stack, options):
    path = tmp_path / "s.hdf5"
    with h5py.File(path, "w") as file:
        file.create_dataset("volumes", data=stack, **options)
    np.testing.assert_array_equal(read_volumes(path, voxel_size=10).volumes, stack)
    references = [f"3@{path}", f"1@{path}"]
    np.testing.assert_array_equal(read_volumes(references).volumes, stack[[2, 0]])


def test_hdf5_with_a_user_block(tmp_path, stack):
    path = tmp_path / "s.h5"
    with h5py.File(path, "w", userblock_size=512) as file:
        file["volumes"] = stack
    np.testing.assert_array_equal(read_volumes(path).volumes, stack)


def test_hdf5_dataset_is_chosen_by_name(tmp_path, stack):
    path = tmp_path / "s.h5"
    with h5py.File(path, "w") as file:
        file["train"] = stack
        file["test"] = -stack[:1]
        file["mean"] = stack[0]
        file["labels"] = np.arange(3)
        file["names"] = ["a", "b"]
        file["masks"] = np.full((3, 1, 1, 1), b"text")
        file["complex"] = stack.astype(np.complex64)
        file["empty"] = stack[:0]
    with pytest.raises(ValueError, match=r"train \(3, 4, 5, 6\).*dataset="):
        read_volumes(path)
    for name in ("test", "/test"):
        volumes = read_volumes(path, dataset=name).volumes
        np.testing.assert_array_equal(volumes, -stack[:1])
    volumes = read_volumes(path, dataset="mean").volumes
    np.testing.assert_array_equal(volumes, stack[:1])
    for name, message in (
        ("other", "no array 'other'; it holds .*train"),
        ("labels", r"'labels' has shape \(3,\)"),
        ("masks", "dtype"),
        ("complex", "complex"),
        ("empty", "no voxel"),
    ):
        with pytest.raises(ValueError, match=rf"s\.h5: .*{message}"):
            read_volumes(path, dataset=name)


def test_one_volume_of_a_chunked_format(tmp_path, stack):
    with h5py.File(tmp_path / "v.h5", "w") as file:
        file.create_dataset("volume", data=stack[1], chunks=True)
    zarr.open_group(tmp_path / "v.zarr", mode="w").create_array("volume", data=stack[1])
    paths = [tmp_path / "v.h5", tmp_path / "v.zarr"]
    for source in (*paths, paths):
        volumes = read_volumes(source, dataset="volume").volumes
        for volume in volumes:
            np.testing.assert_array_equal(volume, stack[1])
    with pytest.raises(ValueError, match=r"asks for volume 2; .*v\.h5 has 1"):
        read_volumes(f"2@{paths[0]}", dataset="volume")


def test_hdf5_without_volumes(tmp_path):
    path = tmp_path / "s.h5"
    with h5py.File(path, "w"):
        pass
    with pytest.raises(ValueError, match="no array"):
        read_volumes(path)


@pytest.mark.parametrize("name", ["s.h5", "s.em", "s.mrc", "s.star"])
def test_files_of_another_format(tmp_path, name):
    path = tmp_path / name
    for content in (b"", b"text\n" * 1000, b"\xff" * 2000):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=name):
            read_volumes(path)


def test_truncated_hdf5(tmp_path, stack):
    path = tmp_path / "s.h5"
    for options in ({}, {"compression": "gzip"}):
        with h5py.File(path, "w") as file:
            file.create_dataset("volumes", data=stack, **options)
        contents = path.read_bytes()
        for n_bytes in range(100, len(contents), 400):
            path.write_bytes(contents[:n_bytes])
            with pytest.raises(ValueError, match=r"s\.h5: "):
                read_volumes(path)


# Zarr


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_zarr(tmp_path, stack, zarr_format):
    path = tmp_path / "s.zarr"
    group = zarr.open_group(path, mode="w", zarr_format=zarr_format)
    group.create_array("a/volumes", data=stack, chunks=(1, 4, 5, 6))
    group.create_array("labels", data=np.arange(3))
    np.testing.assert_array_equal(read_volumes(path).volumes, stack)
    np.testing.assert_array_equal(
        read_volumes([f"3@{path}", f"1@{path}"]).volumes, stack[[2, 0]]
    )
    group.create_array("b", data=-stack)
    with pytest.raises(ValueError, match=r"b \(3, 4, 5, 6\).*dataset="):
        read_volumes(path)
    np.testing.assert_array_equal(read_volumes(path, dataset="b").volumes, -stack)


def test_zarr_array(tmp_path, stack):
    path = tmp_path / "s.zarr"
    zarr.create_array(path, data=stack)
    np.testing.assert_array_equal(read_volumes(path).volumes, stack)
    with pytest.raises(ValueError, match=r"s\.zarr: .*array itself"):
        read_volumes(path, dataset="volumes")


def test_broken_zarr(tmp_path, stack):
    path = tmp_path / "s.zarr"
    path.mkdir()
    with pytest.raises(ValueError, match=r"s\.zarr: cannot be read"):
        read_volumes(path)
    zarr.create_array(path, data=stack, overwrite=True)
    (path / "zarr.json").write_text("{")
    with pytest.raises(ValueError, match=r"s\.zarr: cannot be read"):
        read_volumes(path)


# EM


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int8, np.int16, np.int32])
def test_em(tmp_path, stack, dtype):
    data = (10 * stack).astype(dtype)
    for number, volume in enumerate(data):
        emfile.write(tmp_path / f"v_{number}.em", volume)
    volumes = read_volumes(tmp_path).volumes
    np.testing.assert_array_equal(volumes, data.astype(np.float32))
    subtomograms = read_volumes(tmp_path / "v_1.em")
    np.testing.assert_array_equal(subtomograms.volumes, data[1:2])
    assert is_mapped(subtomograms.volumes)


def test_broken_em(tmp_path, stack):
    path = tmp_path / "v.em"
    emfile.write(path, stack[0])
    contents = path.read_bytes()
    for broken in (
        contents[:-1],
        contents + b"x",
        contents[:3] + bytes([8]) + contents[4:],
        contents[:3] + bytes([77]) + contents[4:],
        contents[:4] + b"\xff\xff\xff\x7f" * 3 + contents[16:],
        contents[:4] + bytes(12) + contents[16:],
        bytes([5]) + contents[1:],
    ):
        path.write_bytes(broken)
        with pytest.raises(ValueError, match=r"v\.em: cannot be read as an EM file"):
            read_volumes(path)


@pytest.mark.parametrize(
    ("name", "package", "extra"),
    [("s.h5", "h5py", "hdf5"), ("s.zarr", "zarr", "zarr"), ("s.em", "emfile", "em")],
)
def test_missing_extra_is_named(tmp_path, monkeypatch, name, package, extra):
    imports = builtins.__import__

    def without(module, *args, **kwargs):
        if module.partition(".")[0] == package:
            raise ModuleNotFoundError(module)
        return imports(module, *args, **kwargs)

    path = tmp_path / name
    path.write_bytes(b"")
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=rf"pip install 'sksubtomo\[{extra}\]'"):
        read_volumes(path)


# STAR


def test_star_of_a_stack_in_order_is_mapped(tmp_path, stack):
    write_volume_stack(tmp_path / "s.mrc", stack, 10)
    names = [f"00000{i}@s.mrc" for i in (1, 2, 3)]
    path = tmp_path / "p.star"
    write_particles(path, {"rlnImageName": names}, optics={"rlnImagePixelSize": 10})
    subtomograms = read_volumes(path)
    assert is_mapped(subtomograms.volumes)
    np.testing.assert_array_equal(subtomograms.volumes, stack)
    assert list(subtomograms.names) == names
    assert subtomograms.voxel_size == 10
    assert len(subtomograms.particles) == 3


def test_star_of_several_files(tmp_path, stack, folder, monkeypatch):
    write_volume_stack(tmp_path / "s.mrc", stack, 10)
    names = ["3@s.mrc", "particles/p_9.mrc", "1@s.mrc"]
    path = tmp_path / "p.star"
    write_particles(path, {"rlnImageName": names})
    expected = stack[[2, 1, 0]]
    subtomograms = read_volumes(path)
    np.testing.assert_array_equal(subtomograms.volumes, expected)
    assert list(subtomograms.names) == names
    assert subtomograms.voxel_size == 10
    references = list_references(path)
    np.testing.assert_array_equal(read_volumes(references).volumes, expected)


def test_star_and_header_contradict(tmp_path, stack, folder):
    write_volume_stack(tmp_path / "s.mrc", stack, 10)
    path = tmp_path / "p.star"
    for names in (["1@s.mrc", "2@s.mrc"], ["2@s.mrc", "particles/p_9.mrc"]):
        write_particles(path, {"rlnImageName": names}, optics={"rlnImagePixelSize": 8})
        with pytest.raises(ValueError, match=r"@s\.mrc: .*10 A; expected 8 A.*p\.star"):
            read_volumes(path)
        assert read_volumes(path, voxel_size=8).voxel_size == 8


def test_star_and_volumes_contradict_in_size(tmp_path, stack):
    write_volume_stack(tmp_path / "s.mrc", stack, 10)
    path = tmp_path / "p.star"
    for names in (["1@s.mrc", "2@s.mrc"], ["3@s.mrc", "1@s.mrc"]):
        columns = {"rlnImageName": names}
        message = (
            r"@s\.mrc: .*\(4, 5, 6\); expected a width of 64.*p\.star.*voxel_size="
        )
        write_particles(path, columns, optics={"rlnImageSize": 64})
        with pytest.raises(ValueError, match=message):
            read_volumes(path)
        assert len(read_volumes(path, voxel_size=10)) == 2
        write_particles(path, columns, optics={"rlnImageSize": 6})
        assert len(read_volumes(path)) == 2
    # In the particles' own table.
    table = "data_\n\nloop_\n_rlnImageName\n_rlnImageSize\n1@s.mrc 6\n2@s.mrc {}\n"
    path.write_text(table.format(64))
    with pytest.raises(ValueError, match=message):
        read_volumes(path)
    path.write_text(table.format("six"))
    with pytest.raises(ValueError, match=r"p\.star: rlnImageSize is .*'six'"):
        read_volumes(path)
    path.write_text(table.format("6.0"))
    assert len(read_volumes(path)) == 2


def test_size_of_optics_groups_without_particles_is_not_theirs(tmp_path, stack):
    write_volume_stack(tmp_path / "s.mrc", stack, 10)
    path = tmp_path / "p.star"
    table = (
        "data_optics\n\nloop_\n_rlnOpticsGroup\n_rlnImageSize\n1 64\n2 6\n\n"
        "data_particles\n\nloop_\n_rlnImageName\n_rlnOpticsGroup\n1@s.mrc 2\n"
    )
    path.write_text(table)
    assert len(read_volumes(path)) == 1
    path.write_text(table + "2@s.mrc 1\n")
    with pytest.raises(ValueError, match="width of 64"):
        read_volumes(path)


def test_star_of_image_stacks_is_refused_unless_allowed(tmp_path, stack):
    write_volume_stack(tmp_path / "s.mrc", stack, 10)
    path = tmp_path / "p.star"
    write_particles(
        path,
        {"rlnImageName": ["1@s.mrc"]},
        optics={"rlnImagePixelSize": 10, "rlnImageDimensionality": 2},
    )
    with pytest.raises(ValueError, match=r"p\.star: .*2-D.*allow_image_stacks=True"):
        read_volumes(path)
    assert len(read_volumes(path, allow_image_stacks=True)) == 1


def test_star_without_volumes(tmp_path):
    path = tmp_path / "p.star"
    write_particles(path, {"rlnCoordinateX": [1.0], "rlnCoordinateY": [1.0]})
    with pytest.raises(ValueError, match=r"p\.star: .*rlnImageName"):
        read_volumes(path)


# References


def test_references_of_sources(tmp_path, stack, folder):
    path = tmp_path / "s.mrc"
    write_volume_stack(path, stack, 10)
    expected = [f"00000{i}@{path}" for i in (1, 2, 3)]
    assert list(list_references(path)) == expected
    assert list(list_references([f"2@{path}", path])) == [expected[1], str(path)]
    assert list(list_references(folder)) == [
        str(folder / f"p_{number}.mrc") for number in (2, 9, 10)
    ]
    assert list_references(folder).dtype.kind == "U"
    with h5py.File(tmp_path / "s.h5", "w") as file:
        file["volumes"] = stack[:1]
    assert list(list_references(tmp_path / "s.h5")) == [f"000001@{tmp_path / 's.h5'}"]


def test_no_source_is_left_open(tmp_path, stack, folder):
    if not Path("/proc/self/fd").is_dir():
        pytest.skip("open files are listed on Linux only")
    with h5py.File(tmp_path / "s.h5", "w") as file:
        file.create_dataset("volumes", data=stack, chunks=True)

    def n_open():
        return len(os.listdir("/proc/self/fd"))

    before = n_open()
    read_volumes(folder)
    read_volumes(tmp_path / "s.h5")
    assert n_open() == before


# Shapes that only a header promises


def write_absurd(path, shape):
    if path.suffix == ".h5":
        with h5py.File(path, "w") as file:
            file.create_dataset("v", shape, "f4", chunks=(1, 8, 8, 8))
    else:
        zarr.create_array(path, shape=shape, dtype="f4", chunks=(1, 8, 8, 8))
    return path


@pytest.mark.parametrize("name", ["a.h5", "a.zarr"])
def test_more_than_the_memory_is_refused_before_it_is_read(tmp_path, name):
    path = write_absurd(tmp_path / name, (10**12, 8, 8, 8))
    tracemalloc.start()
    try:
        with pytest.raises(MemoryError, match=r"a\..*2\.05e\+06 GB .* are available"):
            read_volumes(path)
        with pytest.raises(MemoryError, match="to list 1000000000000 volumes"):
            list_references(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 10e6
    # One volume of them can be read.
    volumes = ReadVolumes(invert_contrast=False).fit_transform([f"7@{path}"])
    assert volumes.shape == (1, 8, 8, 8)
    assert not volumes.any()


def test_available_memory(tmp_path, monkeypatch, stack):
    path = tmp_path / "s.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("volumes", data=stack, compression="gzip")
    paths = [tmp_path / "0.mrc", tmp_path / "1.mrc"]
    for file, volume in zip(paths, stack, strict=False):
        write_volume(file, volume, 10)
    assert 1e6 < _sources.available_memory() < 1e15
    monkeypatch.setattr(_sources, "available_memory", lambda: stack.nbytes - 1)
    with pytest.raises(MemoryError, match=r"s\.h5: an array of shape \(3, 4, 5, 6\)"):
        read_volumes(path)
    assert len(read_volumes(paths)) == 2
    monkeypatch.setattr(_sources, "available_memory", lambda: 2 * stack[0].nbytes - 1)
    with pytest.raises(MemoryError, match=r"0\.mrc: an array of shape \(2, 4, 5, 6\)"):
        read_volumes(paths)
    with pytest.raises(MemoryError, match="inverted"):
        set_contrast(stack, True)
    # Where the system does not say, nothing is refused.
    monkeypatch.setattr(_sources, "available_memory", lambda: None)
    assert len(read_volumes(path)) == 3


@pytest.mark.parametrize("place", ["general", "optics", "particles"])
def test_star_that_says_2d_is_believed_before_a_header_that_may_mean_both(
    tmp_path, place
):
    # As many tilts as pixels, and no word in the header: a cube of space group 0.
    cube = np.random.default_rng(0).normal(size=(6, 6, 6)).astype(np.float32)
    with mrcfile.new(tmp_path / "p.mrc") as mrc:
        mrc.set_data(cube)
        mrc.header.ispg = 0
        mrc.header.mz = 6
    assert len(read_volumes(tmp_path / "p.mrc")) == 1
    blocks = {
        "general": "data_general\n\n_rlnTomoSubTomosAre2DStacks 1\n\n",
        "optics": "data_optics\n\nloop_\n_rlnOpticsGroup\n_rlnImageDimensionality\n"
        "1 2\n\n",
    }
    star = tmp_path / "p.star"
    star.write_text(
        blocks.get(place, "")
        + "data_particles\n\nloop_\n_rlnImageName\n_rlnImageDimensionality\n"
        + ("p.mrc 2\n" if place == "particles" else "p.mrc 3\n")
    )
    for read in (read_volumes, list_references):
        with pytest.raises(ValueError, match="2-D tilt images"):
            read(star)
    assert len(read_volumes(star, allow_image_stacks=True)) == 1


def test_star_among_references(tmp_path):
    for name in "ab":
        write_particles(tmp_path / f"{name}.star", {"rlnImageName": ["1@s.mrc"]})
    with pytest.raises(ValueError, match=r"a\.star: is a STAR file.* alone"):
        read_volumes(str(tmp_path / "*.star"))


# Volumes that stay in their files


def write_stack(path, stack):
    if path.suffix == ".mrc":
        write_volume_stack(path, stack, 10)
    elif path.suffix == ".zarr":
        zarr.create_array(path, data=stack, chunks=(2, *stack.shape[1:]))
    else:
        with h5py.File(path, "w") as file:
            file.create_dataset("v", data=stack, chunks=True, compression="gzip")
    return path


STACKS = ["s.mrc", "s.h5", "s.zarr"]


@pytest.mark.parametrize("name", STACKS)
@pytest.mark.parametrize("invert", [False, True])
@pytest.mark.parametrize("axes", ["zyx", "yxz"])
def test_volumes_of_one_file_stay_there(tmp_path, stack, name, invert, axes):
    stored = stack.transpose(0, *(1 + "zyx".index(axis) for axis in axes))
    path = write_stack(tmp_path / name, stored)
    found = open_subtomograms(path, invert_contrast=invert, axes=axes)
    assert isinstance(found.volumes, StoredVolumes)
    expected = read_volumes(path, invert_contrast=invert, axes=axes)
    np.testing.assert_array_equal(np.stack(list(found.volumes)), expected.volumes)
    np.testing.assert_array_equal(found.names, expected.names)
    assert found.voxel_size == expected.voxel_size
    some = open_subtomograms([f"{i}@{path}" for i in (3, 1, 3)], axes=axes)
    np.testing.assert_array_equal(np.stack(list(some.volumes)), stack[[2, 0, 2]])


def test_volumes_of_several_or_compressed_files_are_read(tmp_path, stack, folder):
    write_volume_stack(tmp_path / "s.mrc", stack, 10)
    packed = tmp_path / "s.mrc.gz"
    packed.write_bytes(gzip.compress((tmp_path / "s.mrc").read_bytes()))
    for source in (folder, packed):
        volumes = open_subtomograms(source).volumes
        assert isinstance(volumes, np.ndarray)
        np.testing.assert_array_equal(volumes, stack)


@pytest.mark.parametrize("name", STACKS)
def test_volumes_that_stay_are_looked_through(tmp_path, stack, name):
    bad = stack.copy()
    bad[1, 2, 3, 4] = np.nan
    path = write_stack(tmp_path / name, stack)
    if name == "s.mrc":
        with mrcfile.mmap(path, "r+") as mrc:
            mrc.data[...] = bad
    elif name == "s.zarr":
        zarr.open(path)[:] = bad
    else:
        with h5py.File(path, "r+") as file:
            file["v"][...] = bad
    with pytest.raises(ValueError, match=r"000002@s\..*\(z=2, y=3, x=4\)"):
        open_subtomograms(path)


@pytest.mark.parametrize("name", STACKS)
def test_contrast_of_volumes_that_stay(tmp_path, name):
    generator = np.random.default_rng(0)
    dark = generator.normal(size=(12, 8, 8, 8)).astype(np.float32)
    dark[:, 3:5, 3:5, 3:5] -= 9
    path = write_stack(tmp_path / name, dark)
    with pytest.warns(UserWarning, match="darker than their surroundings"):
        found = open_subtomograms(path)
    assert contrast_sign(found.volumes) == -1
    assert contrast_sign(open_subtomograms(path, invert_contrast=True).volumes) == 1


def test_a_file_is_open_as_long_as_its_volumes(tmp_path, stack):
    if not Path("/proc/self/fd").is_dir():
        pytest.skip("open files are listed on Linux only")

    def n_open():
        return len(os.listdir("/proc/self/fd"))

    path = write_stack(tmp_path / "s.h5", stack)
    before = n_open()
    found = open_subtomograms(path)
    assert n_open() > before
    part = found.volumes[1:]
    del found
    np.testing.assert_array_equal(np.stack(list(part)), stack[1:])
    del part
    assert n_open() == before


@pytest.mark.parametrize("name", ["a.h5", "a.zarr"])
def test_more_than_the_memory_can_stay(tmp_path, name, monkeypatch):
    path = write_absurd(tmp_path / name, (40, 8, 8, 8))
    monkeypatch.setattr(_sources, "available_memory", lambda: 60_000)
    with pytest.raises(MemoryError):
        read_volumes(path)
    assert open_subtomograms(path).volumes.shape == (40, 8, 8, 8)
