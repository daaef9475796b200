import pytest

from sksubtomo._files import write_atomically, write_text


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
