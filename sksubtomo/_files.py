"""Files that are either whole or not there."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Write beside, then rename: whatever happens, the old file or the new is there.

    A file that is replaced keeps its mode, and a symbolic link stays one: what it
    points to is replaced.

    Parameters
    ----------
    path : Path
        The file to make or replace. Its folder has to exist.
    write : callable
        Called with the path of a file beside it, which it has to write and close.

    Raises
    ------
    ValueError
        If there is something else than a regular file of that name.
    OSError
        If it cannot be written, for example because the disk is full.
    """
    with _naming(path):
        target, beside = places(path)
        try:
            write(beside)
            put_in_place(beside, target)
        finally:
            beside.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically, as UTF-8 and with its line ends as they are.

    Parameters
    ----------
    path : Path
        The file to make or replace. Its folder has to exist.
    text : str
        The contents.
    """
    write_atomically(path, lambda beside: beside.write_bytes(text.encode("utf-8")))


def check_writable(path: Path) -> None:
    """Find out whether `write_atomically` could write a file, by trying.

    Parameters
    ----------
    path : Path
        The file that is to be made or replaced. It is not touched.

    Raises
    ------
    ValueError
        If no file can have that name, or something else than a regular file has it.
    OSError
        If nothing can be written beside it, or under so long a name.
    """
    with _naming(path):
        _, beside = places(path)
        try:
            beside.write_bytes(b"")
        finally:
            beside.unlink(missing_ok=True)


def check_folder_writable(folder: Path, name: str) -> None:
    """Find out whether a file could be written into a folder that may have to be made.

    Parameters
    ----------
    folder : Path
        The folder. It, and those above it, are made and removed again if they do not
        exist.
    name : str
        Name of the file.

    Raises
    ------
    ValueError
        If no folder can have that name.
    OSError
        If the folder cannot be made or written into.
    """
    with _naming(folder), ExitStack() as made:
        _check_name(folder)
        missing = [place for place in (folder, *folder.parents) if not place.exists()]
        for place in reversed(missing):
            place.mkdir()
            made.callback(place.rmdir)
        check_writable(folder / name)


def places(path: Path) -> tuple[Path, Path]:
    """Return where an atomic write ends and where it begins.

    Parameters
    ----------
    path : Path
        The file to make or replace.

    Returns
    -------
    target, beside : Path
        The file that is meant, symbolic links followed, and the one to write first.

    Raises
    ------
    ValueError
        If no file can have that name, or something else than a regular file has it.
    """
    _check_name(path)
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file():
        raise ValueError(f"{path}: is no regular file; expected another name.")
    return target, target.with_name(f".{target.name}.{os.getpid()}")


def put_in_place(beside: Path, target: Path) -> None:
    """End an atomic write: the new file takes the old one's place and mode.

    Parameters
    ----------
    beside, target : Path
        What `places` returned; `beside` is written and closed.
    """
    if target.exists():
        # Some file systems have no modes.
        with suppress(OSError):
            os.chmod(beside, stat.S_IMODE(target.stat().st_mode))
    os.replace(beside, target)


def _check_name(path: Path) -> None:
    if "\0" in str(path):
        raise ValueError(f"{str(path)!r}: is no name of a file, for it has a NUL.")


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Let errors of the system name the file that was asked for."""
    try:
        yield
    except OSError as error:
        # Without a number it is not the system's, and says itself what is wrong.
        if error.errno is None:
            raise
        message = f"{path}: cannot be written: {error.strerror}."
        raise type(error)(message) from error
