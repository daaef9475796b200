import bz2
import gzip
import re
import sys
import tracemalloc
import warnings

import mrcfile
import numpy as np
import pytest

from sksubtomo.io import (
    VolumeStackWriter,
    open_volume,
    read_volume_stack,
    write_volume,
    write_volume_stack,
)


@pytest.fixture
def stack():
    return np.random.default_rng(0).normal(size=(3, 4, 5, 6)).astype(np.float32)


def write(path, data, **header):
    with mrcfile.new(path) as mrc:
        mrc.set_data(data)
        mrc.voxel_size = 10.0
        for name, value in header.items():
            mrc.header[name] = value
    return path


@pytest.mark.parametrize("dtype", [np.float32, np.int8, np.int16, np.float16])
def test_reads_back_what_was_written(tmp_path, stack, dtype):
    stack = (10 * stack).astype(dtype)
    volumes, voxel_size = read_volume_stack(write(tmp_path / "s.mrc", stack))
    np.testing.assert_array_equal(volumes, stack)
    assert volumes.dtype == dtype
    assert voxel_size == pytest.approx(10)


def test_is_mapped_and_read_only(tmp_path, stack):
    volumes, _ = read_volume_stack(write(tmp_path / "s.mrc", stack))
    assert isinstance(volumes, np.memmap)
    assert not volumes.flags.writeable


def test_unknown_voxel_size(tmp_path, stack):
    with mrcfile.new(tmp_path / "s.mrc") as mrc:
        mrc.set_data(stack)
    assert read_volume_stack(tmp_path / "s.mrc")[1] is None


def test_unequal_voxel_sizes_are_warned_of(tmp_path, stack):
    path = tmp_path / "s.mrc"
    with mrcfile.new(path) as mrc:
        mrc.set_data(stack)
        mrc.voxel_size = (10, 10, 30)
    with pytest.warns(UserWarning, match=r"s\.mrc.*30 x 10 x 10 A"):
        assert read_volume_stack(path)[1] is None


def test_faults_that_leave_the_data_readable_are_warned_of(tmp_path, stack):
    path = write(tmp_path / "s.mrc", stack, machst=[0, 0, 0, 0])
    with pytest.warns(UserWarning, match=r"s\.mrc.*machine stamp"):
        volumes, _ = read_volume_stack(path)
    np.testing.assert_array_equal(volumes, stack)


def test_tilt_images_are_not_a_volume_stack(tmp_path, stack):
    path = tmp_path / "s.mrc"
    with mrcfile.new(path) as mrc:
        mrc.set_data(stack[0])
        mrc.set_image_stack()
    with pytest.raises(ValueError, match=r"4 images of shape \(5, 6\) .ispg 0.*401"):
        read_volume_stack(path)


def test_single_volume_is_not_a_stack(tmp_path, stack):
    path = tmp_path / "s.mrc"
    with mrcfile.new(path) as mrc:
        mrc.set_data(stack[0])
        mrc.set_volume()
    with pytest.raises(ValueError, match=r"single volume.*\(4, 5, 6\) .ispg 1.*401"):
        read_volume_stack(path)


def test_single_image_is_not_a_stack(tmp_path, stack):
    with pytest.raises(ValueError, match="an image of shape"):
        read_volume_stack(write(tmp_path / "s.mrc", stack[0, 0]))


def test_truncated_file(tmp_path, stack):
    path = write(tmp_path / "s.mrc", stack)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"s\.mrc: cannot be read as an MRC file"):
        read_volume_stack(path)


@pytest.mark.parametrize("content", [b"", b"no MRC file", b"label\n" * 500])
def test_other_file(tmp_path, content):
    path = tmp_path / "s.mrc"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"s\.mrc: "):
        read_volume_stack(path)


def test_compressed_file(tmp_path, stack):
    path = tmp_path / "s.mrc.gz"
    path.write_bytes(gzip.compress(write(tmp_path / "s.mrc", stack).read_bytes()))
    with pytest.raises(ValueError, match="gzip"):
        read_volume_stack(path)


@pytest.mark.parametrize("stored", ["zyx", "xyz", "yzx", "xzy", "zxy", "yxz"])
def test_axes_of_a_stack_are_brought_into_order(tmp_path, stack, stored):
    # mapc, mapr and maps: the axis (x is 1) of columns, rows and sections.
    mapc, mapr, maps = ("_xyz".index(axis) for axis in reversed(stored))
    data = stack.transpose(0, *(1 + "zyx".index(axis) for axis in stored))
    path = write(
        tmp_path / "s.mrc",
        np.ascontiguousarray(data),
        mapc=mapc,
        mapr=mapr,
        maps=maps,
    )
    volumes, voxel_size = read_volume_stack(path)
    np.testing.assert_array_equal(volumes, stack)
    assert isinstance(volumes, np.memmap)
    assert voxel_size == 10


def test_axes_of_a_stack_that_are_no_permutation(tmp_path, stack):
    path = write(tmp_path / "s.mrc", stack, mapc=3)
    with pytest.raises(ValueError, match=r"s\.mrc: stores the axes \(3, 2, 3\)"):
        read_volume_stack(path)


def test_complex_values(tmp_path, stack):
    path = write(tmp_path / "s.mrc", stack.astype(np.complex64))
    with pytest.raises(ValueError, match="complex"):
        read_volume_stack(path)


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing"):
        read_volume_stack(tmp_path / "nothing.mrc")


# open_volume


def write_single(path, data, **header):
    with mrcfile.new(path) as mrc:
        mrc.set_data(data)
        mrc.set_volume()
        mrc.voxel_size = 10.0
        for name, value in header.items():
            mrc.header[name] = value
    return path


def test_opens_a_volume_mapped_and_read_only(tmp_path, stack):
    volume, voxel_size = open_volume(write_single(tmp_path / "v.mrc", stack[0]))
    assert isinstance(volume, np.memmap)
    assert not volume.flags.writeable
    assert volume.dtype == np.float32
    assert voxel_size == 10
    np.testing.assert_array_equal(volume, stack[0])


@pytest.mark.parametrize(
    ("dtype", "mode"), [(np.int8, 0), (np.int16, 1), (np.uint16, 6), (np.float16, 12)]
)
@pytest.mark.parametrize("order", ["<", ">"])
def test_modes_and_byte_orders(tmp_path, stack, dtype, mode, order):
    data = abs(10 * stack[0]).astype(np.dtype(dtype).newbyteorder(order))
    path = write_single(tmp_path / "v.mrc", data)
    with mrcfile.open(path, header_only=True) as mrc:
        assert mrc.header.mode == mode
    volume, voxel_size = open_volume(path)
    assert volume.dtype.newbyteorder("=") == dtype
    assert voxel_size == 10
    np.testing.assert_array_equal(volume, data)


def test_wrong_machine_stamp(tmp_path, stack):
    path = write_single(tmp_path / "v.mrc", stack[0].astype(">f4"))
    contents = bytearray(path.read_bytes())
    contents[212:216] = b"DD\0\0"
    path.write_bytes(contents)
    with pytest.warns(UserWarning, match=r"v\.mrc.*contradicts the byte order"):
        volume, _ = open_volume(path)
    np.testing.assert_array_equal(volume, stack[0])


def test_missing_map_id(tmp_path, stack):
    path = write_single(tmp_path / "v.mrc", stack[0], map=b"")
    with pytest.warns(UserWarning, match="map ID is missing"):
        volume, _ = open_volume(path)
    np.testing.assert_array_equal(volume, stack[0])


def test_image_stack_is_refused_unless_allowed(tmp_path, stack):
    path = write_single(tmp_path / "v.mrc", stack[0], ispg=0)
    with pytest.raises(
        ValueError, match=r"v\.mrc: holds a stack of 4 images.*allow_image_stacks=True"
    ):
        open_volume(path)
    volume, _ = open_volume(path, allow_image_stacks=True)
    np.testing.assert_array_equal(volume, stack[0])


def test_cubes_of_relion_and_warp_are_volumes(tmp_path):
    # They leave the space group of volumes zero, too.
    cube = np.zeros((6, 6, 6), np.float32)
    assert open_volume(write_single(tmp_path / "v.mrc", cube, ispg=0))[0].shape == (
        6,
        6,
        6,
    )
    for name, mz in (("v.mrcs", 6), ("w.mrc", 1)):
        path = write_single(tmp_path / name, cube, ispg=0, mz=mz)
        with pytest.raises(ValueError, match=rf"{name}: holds a stack of 6 images"):
            open_volume(path)


@pytest.mark.parametrize(
    ("name", "header", "sign"),
    [
        ("v.mrcs", {}, "a name that ends in .mrcs"),
        ("V.MRCS", {"ispg": 19}, "a name that ends in .mrcs"),
        ("v.mrcs.gz", {}, "a name that ends in .mrcs"),
        ("v.mrc", {"mz": 1}, "mz 1"),
        ("v.mrc", {"ispg": 0, "mz": 1}, "ispg 0, mz 1"),
        ("v.mrcs", {"ispg": 0}, "ispg 0, a name that ends in .mrcs"),
    ],
)
def test_signs_of_images_in_a_header_of_any_space_group(
    tmp_path, stack, name, header, sign
):
    path = write_single(tmp_path / "plain", stack[0], **header)
    contents = path.read_bytes()
    path = tmp_path / name
    path.write_bytes(gzip.compress(contents) if name.endswith("gz") else contents)
    found = re.escape(f"a stack of 4 images of shape (5, 6) ({sign})")
    with pytest.raises(ValueError, match=found + r".*allow_image_stacks=True"):
        open_volume(path)
    if not name.endswith("gz"):
        with pytest.raises(ValueError, match=found + ".*ispg 401"):
            read_volume_stack(path)
    volume, _ = open_volume(path, allow_image_stacks=True, voxel_size=10)
    np.testing.assert_array_equal(volume, stack[0])


def test_what_is_no_sign_of_images(tmp_path, stack):
    # A stack of volumes is one by its space group, and one slice is no stack.
    volumes, _ = read_volume_stack(write(tmp_path / "s.mrcs", stack))
    np.testing.assert_array_equal(volumes, stack)
    sections = np.ascontiguousarray(stack[:, :1])
    assert read_volume_stack(write(tmp_path / "t.mrc", sections))[0].shape[1] == 1
    volume, _ = open_volume(write_single(tmp_path / "v.mrc", stack[0, :1]))
    np.testing.assert_array_equal(volume, stack[0, :1])
    # A slab whose one slice along z is not the axis of the sections.
    path = write_single(tmp_path / "w.mrc", stack[0, :, :1], mapr=3, maps=2, mz=1)
    assert open_volume(path, voxel_size=10)[0].shape == (1, 4, 6)


def test_stack_of_one_volume(tmp_path, stack):
    volume, _ = open_volume(write(tmp_path / "s.mrc", stack[:1]))
    np.testing.assert_array_equal(volume, stack[0])


def test_volume_stack_is_not_one_volume(tmp_path, stack):
    path = write(tmp_path / "s.mrc", stack)
    with pytest.raises(ValueError, match=r"stack of 3 volumes of shape \(4, 5, 6\)"):
        open_volume(path)


@pytest.mark.parametrize("stored", ["zyx", "xyz", "yzx", "xzy", "zxy", "yxz"])
def test_axes_are_brought_into_order(tmp_path, stack, stored):
    # mapc, mapr and maps: the axis (x is 1) of columns, rows and sections.
    codes = ["_xyz".index(axis) for axis in reversed(stored)]
    data = stack[0].transpose(["zyx".index(axis) for axis in stored])
    path = write_single(tmp_path / "v.mrc", np.ascontiguousarray(data))
    with mrcfile.open(path, "r+") as mrc:
        mrc.header.mapc, mrc.header.mapr, mrc.header.maps = codes
        # Samples and cell lengths are along x, y and z, whatever the order.
        mrc.header.mx, mrc.header.my, mrc.header.mz = 6, 5, 4
        mrc.header.cella = (60, 50, 40)
    volume, voxel_size = open_volume(path)
    np.testing.assert_array_equal(volume, stack[0])
    assert voxel_size == 10
    assert isinstance(volume, np.memmap)


@pytest.mark.parametrize("codes", [(1, 1, 3), (1, 2, 4), (-1, 2, 3)])
def test_axes_that_are_no_permutation(tmp_path, stack, codes):
    mapc, mapr, maps = codes
    path = write_single(tmp_path / "v.mrc", stack[0], mapc=mapc, mapr=mapr, maps=maps)
    with pytest.raises(ValueError, match=r"v\.mrc: stores the axes"):
        open_volume(path)


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress])
def test_compressed_volume_is_loaded(tmp_path, stack, compress):
    path = tmp_path / "v.mrc.z"
    contents = write_single(tmp_path / "v.mrc", stack[0]).read_bytes()
    path.write_bytes(compress(contents))
    volume, voxel_size = open_volume(path)
    np.testing.assert_array_equal(volume, stack[0])
    assert voxel_size == 10
    for broken in (compress(contents)[:-200], compress(contents[:-4])):
        path.write_bytes(broken)
        with pytest.raises(ValueError, match=r"v\.mrc\.z: cannot be read"):
            open_volume(path)


def test_given_voxel_size_overrides_the_header(tmp_path, stack):
    path = write_single(tmp_path / "v.mrc", stack[0])
    assert open_volume(path, voxel_size=12.5)[1] == 12.5
    with mrcfile.open(path, "r+") as mrc:
        mrc.voxel_size = (10, 10, 30)
    assert open_volume(path, voxel_size=12.5)[1] == 12.5
    with pytest.raises(ValueError, match="voxel_size=0; expected"):
        open_volume(path, voxel_size=0)


@pytest.mark.parametrize("length", [0, np.nan, np.inf, -40])
def test_cell_lengths_that_mean_nothing(tmp_path, stack, length):
    path = write_single(tmp_path / "v.mrc", stack[0], cella=(length, 50, 40))
    assert open_volume(path)[1] is None


def test_extended_header_is_skipped(tmp_path, stack):
    path = write_single(tmp_path / "v.mrc", stack[0])
    with mrcfile.open(path, "r+") as mrc:
        mrc.set_extended_header(np.frombuffer(b"x" * 333, "V1"))
    np.testing.assert_array_equal(open_volume(path)[0], stack[0])


def test_surplus_bytes(tmp_path, stack):
    path = write_single(tmp_path / "v.mrc", stack[0])
    contents = path.read_bytes()
    path.write_bytes(contents + b"end")
    with pytest.warns(UserWarning, match="3 bytes after its last section"):
        volume, _ = open_volume(path)
    np.testing.assert_array_equal(volume, stack[0])
    # A section more than the header says: the header is wrong.
    path.write_bytes(contents + bytes(5 * 6 * 4))
    with pytest.raises(ValueError, match=r"v\.mrc.*120 bytes more than"):
        open_volume(path)


@pytest.mark.parametrize(
    "header",
    [
        {"nx": 2**31 - 1, "ny": 2**31 - 1, "nz": 2**31 - 1},
        {"nx": 0},
        {"ny": -5},
        {"nsymbt": 2**31 - 1},
        {"nsymbt": -4},
        {"mode": 3},
        {"mode": 101},
        {"mode": 77},
        {"ispg": 401, "mz": 3},
        {"ispg": 401, "mz": 0},
    ],
)
def test_absurd_headers(tmp_path, stack, header):
    path = write_single(tmp_path / "v.mrc", stack[0])
    with mrcfile.open(path, "r+") as mrc:
        for name, value in header.items():
            mrc.header[name] = value
        # mrcfile would mend the header when it is closed.
        contents = mrc.header.tobytes() + stack[0].tobytes()
    path.write_bytes(contents)
    with pytest.raises(ValueError, match=r"v\.mrc: cannot be read as an MRC file"):
        open_volume(path)


def mutate(contents, rng):
    """Flip bytes of the header, cut or lengthen the file, or exchange its ends."""
    mutant = bytearray(contents)
    kind = rng.integers(5)
    if kind <= 2:
        for position in rng.integers(256 if kind else 1024, size=rng.integers(1, 5)):
            mutant[position] = rng.integers(256)
    elif kind == 3:
        del mutant[rng.integers(len(mutant)) :]
    else:
        mutant += rng.bytes(rng.integers(1, 5000))
    return bytes(mutant)


@pytest.mark.parametrize("compression", [None, "before mutation", "after mutation"])
def test_mutated_files_are_refused_or_read_right(tmp_path, compression):
    rng = np.random.default_rng(0)
    volume = rng.normal(size=(16, 16, 16)).astype(np.float32)
    path = tmp_path / "mutant.mrc"
    write_volume(path, volume, 10)
    contents = path.read_bytes()
    # From Python 3.12 on, gzip reads through a buffer.
    buffer = 2**17 if compression and sys.version_info >= (3, 12) else 0
    n_read = 0
    for _ in range(300):
        if compression == "before mutation":
            mutant = mutate(gzip.compress(contents, mtime=0), rng)
        else:
            mutant = mutate(contents, rng)
            if compression is not None:
                mutant = gzip.compress(mutant, mtime=0)
        path.write_bytes(mutant)
        tracemalloc.start()
        found, message = None, ""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            try:
                found, _ = open_volume(path)
            except ValueError as error:
                message = str(error)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 10 * len(contents) + buffer
        if found is None:
            assert "mutant.mrc: " in message
        else:
            assert found.shape == volume.shape
            # The header may tell another order of the axes, but not other values.
            np.testing.assert_array_equal(np.sort(found, None), np.sort(volume, None))
            n_read += 1
    assert 0 < n_read < 270


# Writing


def test_what_is_written_is_valid_and_reads_back(tmp_path, stack):
    write_volume_stack(tmp_path / "s.mrc", stack, 13.48)
    write_volume(tmp_path / "v.mrc", stack[1], 13.48)
    for name, data, ispg in (("s", stack, 401), ("v", stack[1], 1)):
        path = tmp_path / f"{name}.mrc"
        assert mrcfile.validate(path)
        with mrcfile.open(path) as mrc:
            np.testing.assert_array_equal(mrc.data, data)
            assert mrc.header.ispg == ispg
            assert mrc.header.mz == 4
            assert mrc.voxel_size.x == mrc.voxel_size.z == pytest.approx(13.48)
            assert mrc.header.dmin == data.min()
            assert mrc.header.dmax == data.max()
            assert mrc.header.dmean == pytest.approx(data.mean(dtype=float))
            assert mrc.header.rms == pytest.approx(data.std(dtype=float))
    assert read_volume_stack(tmp_path / "s.mrc")[1] == 13.48
    assert open_volume(tmp_path / "v.mrc")[1] == 13.48


@pytest.mark.parametrize("dtype", [np.float64, np.int32, np.int64, np.uint8, np.bool_])
def test_any_real_dtype_is_written_as_float32(tmp_path, stack, dtype):
    data = abs(10 * stack).astype(dtype)
    write_volume_stack(tmp_path / "s.mrc", data, None)
    volumes, voxel_size = read_volume_stack(tmp_path / "s.mrc")
    assert volumes.dtype == np.float32
    assert voxel_size is None
    np.testing.assert_array_equal(volumes, data.astype(np.float32))


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_values_that_are_not_finite_are_not_written(tmp_path, stack, value):
    broken = stack.astype(np.float64)
    broken[2, 1, 3, 4] = value
    with pytest.raises(ValueError, match=r"s\.mrc: volume 2 .*\(z=1, y=3, x=4\)"):
        write_volume_stack(tmp_path / "s.mrc", broken, 10)
    with pytest.raises(ValueError, match=r"v\.mrc: .*\(z=1, y=3, x=4\)"):
        write_volume(tmp_path / "v.mrc", broken[2], 10)
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_written(tmp_path, stack):
    path = tmp_path / "s.mrc"
    with pytest.raises(ValueError, match=r"shape \(4, 5, 6\); expected \(n,"):
        write_volume_stack(path, stack[0], 10)
    with pytest.raises(ValueError, match=r"expected \(depth, height, width\)"):
        write_volume(path, stack, 10)
    with pytest.raises(ValueError, match="complex64; expected real"):
        write_volume(path, stack[0].astype(np.complex64), 10)
    with pytest.raises(ValueError, match="n_volumes=0"):
        write_volume_stack(path, stack[:0], 10)
    with pytest.raises(ValueError, match="voxel_size=-1"):
        write_volume_stack(path, stack, -1)
    with pytest.raises(ValueError, match="at most 2147483647 along an axis"):
        VolumeStackWriter(path, 10**8, (32, 32, 32), 10)
    with pytest.raises(FileNotFoundError, match="no folder"):
        write_volume(tmp_path / "nowhere" / "v.mrc", stack[0], 10)
    assert not list(tmp_path.iterdir())


def test_writer_appends(tmp_path, stack):
    path = tmp_path / "s.mrc"
    with VolumeStackWriter(path, 3, (4, 5, 6), 10) as writer:
        writer.write(stack[:1])
        writer.write(stack[1:])
        assert not path.exists()
    write_volume_stack(tmp_path / "t.mrc", stack, 10)
    volumes, _ = read_volume_stack(path)
    np.testing.assert_array_equal(volumes, stack)
    with mrcfile.open(path, header_only=True) as mrc:
        assert mrc.header.rms == pytest.approx(stack.std(dtype=float))
    with pytest.raises(RuntimeError, match="with"):
        writer.write(stack)


@pytest.mark.parametrize("n_volumes", [2, 4])
def test_writer_holds_to_the_number_promised(tmp_path, stack, n_volumes):
    path = tmp_path / "s.mrc"
    path.write_text("older")
    with (
        pytest.raises(ValueError, match=rf"s\.mrc: got .*expected {n_volumes}"),
        VolumeStackWriter(path, n_volumes, (4, 5, 6), 10) as writer,
    ):
        writer.write(stack)
    assert path.read_text() == "older"
    assert list(tmp_path.iterdir()) == [path]


def test_writer_refuses_other_shapes_and_leaves_nothing(tmp_path, stack):
    with (
        pytest.raises(ValueError, match=r"expected \(k, 4, 5, 5\)"),
        VolumeStackWriter(tmp_path / "s.mrc", 3, (4, 5, 5), 10) as writer,
    ):
        writer.write(stack)
    assert not list(tmp_path.iterdir())


def test_writer_leaves_nothing_when_interrupted(tmp_path, stack):
    def interrupted():
        with VolumeStackWriter(tmp_path / "s.mrc", 3, (4, 5, 6), 10) as writer:
            writer.write(stack[:2])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not list(tmp_path.iterdir())


def test_writer_needs_constant_memory(tmp_path):
    volumes = np.ones((8, 16, 16, 16), np.float32)
    path = tmp_path / "s.mrc"
    tracemalloc.start()
    try:
        with VolumeStackWriter(path, 800, (16, 16, 16), 10) as writer:
            for _ in range(100):
                writer.write(volumes)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert path.stat().st_size > 13e6
    # A few temporary arrays of one batch, in double precision.
    assert peak < 1e6


def test_writer_follows_links_and_keeps_modes(tmp_path):
    target, link = tmp_path / "target.mrc", tmp_path / "link.mrc"
    write_volume_stack(target, np.zeros((1, 4, 4, 4)), 10)
    target.chmod(0o600)
    link.symlink_to(target)
    write_volume_stack(link, np.ones((2, 4, 4, 4)), 10)
    assert link.is_symlink()
    assert target.stat().st_mode & 0o777 == 0o600
    assert read_volume_stack(target)[0].shape == (2, 4, 4, 4)
    with pytest.raises(ValueError, match="is no regular file"):
        write_volume_stack(tmp_path, np.zeros((1, 4, 4, 4)), 10)
