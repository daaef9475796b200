import errno
import os
import stat

import pytest

from sksubtomo._files import (
    check_folder_writable,
    check_writable,
    write_atomically,
    write_text,
)


def test_failed_write_keeps_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")

    def write(beside):
        beside.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, write)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_text_is_written_as_it_is(tmp_path):
    path = tmp_path / "file"
    write_text(path, "Å\r\nb\n")
    assert path.read_bytes() == "Å\r\nb\n".encode()
    assert list(tmp_path.iterdir()) == [path]


def test_errors_of_the_system_name_the_file(tmp_path):
    def write(beside):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OSError, match=r"file: cannot be written: No space left"):
        write_atomically(tmp_path / "file", write)
    with pytest.raises(FileNotFoundError, match=r"nowhere/file: cannot be written"):
        write_text(tmp_path / "nowhere" / "file", "")


def test_links_and_modes_are_kept(tmp_path):
    path, link = tmp_path / "file", tmp_path / "link"
    path.write_text("old")
    path.chmod(0o640)
    link.symlink_to("file")
    write_text(link, "new")
    assert link.is_symlink()
    assert path.read_text() == "new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_special_files_are_never_replaced(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for write in (check_writable, lambda path: write_text(path, "")):
        with pytest.raises(ValueError, match="pipe: is no regular file"):
            write(pipe)
        with pytest.raises(ValueError, match="is no regular file"):
            write(tmp_path)
    assert pipe.is_fifo()


def test_probes_leave_nothing(tmp_path):
    path = tmp_path / "file"
    check_writable(path)
    check_folder_writable(tmp_path / "a" / "b", "file")
    assert list(tmp_path.iterdir()) == []
    path.write_text("old")
    check_writable(path)
    check_folder_writable(tmp_path, "file")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
    # The temporary name counts, not the name.
    with pytest.raises(OSError, match="xxx: cannot be written: File name too long"):
        check_writable(tmp_path / ("x" * 254))
    with pytest.raises(OSError, match="file/a: cannot be written: Not a directory"):
        check_folder_writable(path / "a", "file")
    with pytest.raises(ValueError, match="has a NUL"):
        check_folder_writable(tmp_path / "a\0", "file")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_is_read_only(tmp_path):
    tmp_path.chmod(0o555)
    with pytest.raises(PermissionError, match="file: cannot be written"):
        check_writable(tmp_path / "file")
    with pytest.raises(PermissionError, match="model: cannot be written"):
        check_folder_writable(tmp_path / "model", "file")
