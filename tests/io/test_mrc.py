import gzip

import mrcfile
import numpy as np
import pytest

from sksubtomo.io import read_volume_stack


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


def test_unusual_axes(tmp_path, stack):
    path = write(tmp_path / "s.mrc", stack, mapc=3, maps=1)
    with pytest.raises(ValueError, match=r"\(3, 2, 1\)"):
        read_volume_stack(path)


def test_complex_values(tmp_path, stack):
    path = write(tmp_path / "s.mrc", stack.astype(np.complex64))
    with pytest.raises(ValueError, match="complex"):
        read_volume_stack(path)


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing"):
        read_volume_stack(tmp_path / "nothing.mrc")
