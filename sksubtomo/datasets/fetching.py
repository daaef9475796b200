"""Structures from the archive of the wwPDB, kept in a cache."""

from __future__ import annotations

import gzip
import hashlib
import http.client
import os
import re
import sys
import urllib.error
import urllib.request
import zlib
from pathlib import Path

import gemmi

from sksubtomo._files import write_atomically, write_text

# The file server of the wwPDB; entries are grouped by the middle of their ids.
_URL = (
    "https://files.wwpdb.org/pub/pdb/data/structures/divided/mmCIF/{group}/{id}.cif.gz"
)

# The largest entry has about 100 MB.
_MAX_BYTES = 500_000_000

_BLOCK = 1 << 20


def fetch_structure(
    pdb_id: str,
    *,
    folder: str | Path | None = None,
    sha256: str | None = None,
    timeout: float = 60.0,
) -> Path:
    """Download a structure from the wwPDB, unless it is in the cache.

    Parameters
    ----------
    pdb_id : str
        Id of the entry, such as ``"1bxn"``, in upper or lower case.
    folder : str, Path or None, default=None
        Where downloads are kept. None means the folder that the environment variable
        ``SKSUBTOMO_CACHE`` names, or else ``sksubtomo`` in the user's cache folder.
    sha256 : str, default=None
        SHA-256 of the compressed file in hexadecimal, where the very same file is
        wanted. None takes what the wwPDB has, and records its hash beside it.
    timeout : float, default=60.0
        Seconds without an answer after which a download is given up.

    Returns
    -------
    Path
        The file, a gzipped mmCIF named after the lower-case id, as `load_structure`
        takes it.

    Raises
    ------
    ValueError
        If the id is not one, if the entry does not exist, or if the file has another
        hash than expected or is no mmCIF file with atoms.
    OSError
        If the server cannot be reached, or the cache not be written.

    See Also
    --------
    load_structure : Read the file.

    Notes
    -----
    Nothing else in this package uses the network, but for a preset that is asked for
    without files. A download enters the cache only when it is whole and can be read.
    Its SHA-256 is kept in a file beside it, in the format of ``sha256sum``, and
    verified whenever the file is used again. Entries are revised by the wwPDB now and
    then: two caches may hold different files of the same id, which `sha256` detects.

    A file put there by hand, as ``<id>.cif.gz``, is used as well.

    Examples
    --------
    >>> from sksubtomo.datasets import fetch_structure, load_structure
    >>> structure = load_structure(fetch_structure("1bxn"))  # doctest: +SKIP
    """
    name = pdb_id.lower() if isinstance(pdb_id, str) else ""
    if not re.fullmatch(r"[1-9][a-z0-9]{3}", name):
        raise ValueError(
            f"pdb_id={pdb_id!r}; expected the id of a PDB entry, a digit followed by "
            "three letters or digits."
        )
    if sha256 is not None and not re.fullmatch(r"[0-9a-fA-F]{64}", sha256):
        raise ValueError(f"sha256={sha256!r}; expected 64 hexadecimal digits.")
    path = cached_path(name, folder)
    if not path.exists():
        url = _URL.format(group=name[1:3], id=name)
        path.parent.mkdir(parents=True, exist_ok=True)
        by_hand = f"download it by hand as {path}"
        write_atomically(
            path, lambda beside: _download(url, beside, sha256, timeout, by_hand)
        )
        write_text(_sidecar(path), f"{_hash(path)}  {path.name}\n")
        return path
    found = _hash(path)
    if not _sidecar(path).exists():
        _check_readable(path, str(path))
        write_text(_sidecar(path), f"{found}  {path.name}\n")
    recorded = _sidecar(path).read_text("utf-8").split()[:1]
    if recorded != [found]:
        raise ValueError(
            f"{path}: has changed since it was downloaded (SHA-256 {found}, expected "
            f"that of {_sidecar(path).name}); delete both to download it again."
        )
    if sha256 is not None and found != sha256.lower():
        raise ValueError(
            f"{path}: has SHA-256 {found}; expected {sha256}. The wwPDB may have "
            "revised the entry; delete the file to download it again."
        )
    return path


def cached_path(pdb_id: str, folder: str | Path | None = None) -> Path:
    """Return where the download of an entry is kept, be it there or not.

    Parameters
    ----------
    pdb_id : str
        Id of the entry.
    folder : str, Path or None, default=None
        The cache, as for `fetch_structure`.

    Returns
    -------
    Path
        The file.
    """
    cache = _cache_folder() if folder is None else Path(folder)
    return cache / f"{pdb_id.lower()}.cif.gz"


def _cache_folder() -> Path:
    chosen = os.environ.get("SKSUBTOMO_CACHE")
    if chosen:
        return Path(chosen)
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA")
        return Path(base or Path.home() / "AppData" / "Local") / "sksubtomo"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "sksubtomo"
    base = os.environ.get("XDG_CACHE_HOME")
    return Path(base or Path.home() / ".cache") / "sksubtomo"


def _sidecar(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _download(
    url: str, path: Path, sha256: str | None, timeout: float, by_hand: str
) -> None:
    """Write what the server has to a file, and check it."""
    try:
        with (
            urllib.request.urlopen(url, timeout=timeout) as answer,
            path.open("wb") as file,
        ):
            announced = answer.headers.get("Content-Length")
            while block := answer.read(_BLOCK):
                file.write(block)
                if file.tell() > _MAX_BYTES:
                    raise ValueError(
                        f"{url}: sends more than {_MAX_BYTES} bytes; expected a "
                        "structure."
                    )
            size = file.tell()
    except urllib.error.HTTPError as error:
        with error:
            if error.code == 404:
                raise ValueError(
                    f"{url}: there is no such entry in the PDB (HTTP 404); expected "
                    "the id of a released entry."
                ) from None
            raise OSError(
                f"{url}: the server answers HTTP {error.code} ({error.reason}); try "
                f"again later, or {by_hand}."
            ) from error
    # An HTTPException is no OSError; the others are, but do not say what to do.
    except (
        urllib.error.URLError,
        http.client.HTTPException,
        ConnectionError,
        TimeoutError,
    ) as error:
        reason = getattr(error, "reason", None) or error or type(error).__name__
        raise OSError(
            f"{url}: cannot be reached ({reason}). Without a network connection, "
            f"{by_hand}."
        ) from error
    if announced is not None and size != int(announced):
        raise OSError(
            f"{url}: the download broke off after {size} of {announced} bytes; try "
            f"again, or {by_hand}."
        )
    found = _hash(path)
    if sha256 is not None and found != sha256.lower():
        raise ValueError(
            f"{url}: has SHA-256 {found}; expected {sha256}. The wwPDB may have "
            "revised the entry, or the download was tampered with."
        )
    _check_readable(path, url)


def _check_readable(path: Path, source: str) -> None:
    """Raise if the file is no gzipped mmCIF file with atoms."""
    try:
        # From memory, because gemmi would tell the format by the file's name.
        text = gzip.decompress(path.read_bytes())
        block = gemmi.cif.read_string(text).sole_block()
        n_atoms = len(block.find_values("_atom_site.id"))
    # gemmi raises various things, depending on what it trips over.
    except (
        OSError,
        EOFError,
        zlib.error,
        RuntimeError,
        ValueError,
        IndexError,
    ) as error:
        raise ValueError(
            f"{source}: is no gzipped mmCIF file ({error}); expected the coordinates "
            "of a PDB entry."
        ) from error
    if not n_atoms:
        raise ValueError(f"{source}: holds no atoms; expected those of a PDB entry.")
