"""Files to be made."""

from __future__ import annotations

from pathlib import Path


def already_there(path: Path) -> FileExistsError:
    """Return the error for an output that exists and was not to be replaced.

    Parameters
    ----------
    path : Path
        The file or folder.

    Returns
    -------
    FileExistsError
        The error to raise.
    """
    return FileExistsError(
        f"{path}: exists already; choose another name, or say that it may be replaced "
        "(overwrite=True, --overwrite)."
    )
