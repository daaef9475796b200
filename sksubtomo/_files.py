"""Files that are either whole or not there."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Write beside, then rename: whatever happens, the old file or the new is there.

    Parameters
    ----------
    path : Path
        The file to make or replace. Its folder has to exist.
    write : callable
        Called with the path of a file beside it, which it has to write and close.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write(beside)
        os.replace(beside, path)
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
