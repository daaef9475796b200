"""Published settings of the simulator, by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sksubtomo.datasets.fetching import cached_path, fetch_structure
from sksubtomo.datasets.imaging import Microscope
from sksubtomo.datasets.structures import (
    Structure,
    list_structure_files,
    load_structure,
)

_GUPTA2022_IDS = (
    *("1bxn", "1f1b", "1yg6", "2byu", "2h12"),
    *("2ldb", "3gl1", "3hhb", "4d4r", "6t3e"),
)

PRESETS = {"gupta2022": _GUPTA2022_IDS}
"""The presets, and the ids of the PDB entries that are their classes."""


def simulation_preset(
    name: str = "gupta2022",
    *,
    structures: str | Path | None = None,
    cache: str | Path | None = None,
) -> dict[str, Any]:
    """Return the parameters of a published simulated data set.

    Parameters
    ----------
    name : str, default="gupta2022"
        Name of the preset. "gupta2022" is the simulated data of Gupta et al. [1]_: ten
        PDB entries, 500 volumes each, 32^3 voxels of 10 A at 10 A resolution; the
        target off the centre by up to 8 voxels, among four neighbours; tilts from -60
        to 60 degrees; optics, a low-pass filter at 40 A (half Nyquist) and the
        definition of the signal-to-noise ratio of Liu et al. [2]_. Give `snr` yourself:
        the paper has inf, 0.05 and 0.03.
    structures : str or Path, default=None
        Folder with files of the entries, called by their ids, such as ``1bxn.cif.gz``
        or ``3HHB.pdb``. Entries that are not there are downloaded (`fetch_structure`);
        None downloads them all.
    cache : str or Path, default=None
        Where downloads are kept, as for `fetch_structure`.

    Returns
    -------
    dict
        Keyword arguments of `make_subtomograms`, `SubtomogramSimulator` and
        `write_subtomograms`.

    Raises
    ------
    ValueError
        If there is no such preset, if two files are called by the same id, or if a file
        cannot be read.
    FileNotFoundError
        If there is no folder `structures`.
    NotADirectoryError
        If `structures` is a file.
    OSError
        If an entry cannot be downloaded.

    See Also
    --------
    fetch_structure : What downloads an entry.

    Notes
    -----
    Two known mistakes in the original data are not repeated: its rotations are not
    uniform, and the radii of the neighbours are such that most volumes show none. A
    data set of this preset is therefore harder than the original.

    References
    ----------
    .. [1] Gupta, T. et al. (2022). Frontiers in Physiology 13, 957484.
    .. [2] Liu, S. et al. (2020). Efficient cryo-electron tomogram simulation of
       macromolecular crowding with application to SARS-CoV-2. IEEE International
       Conference on Bioinformatics and Biomedicine, 80-87.

    Examples
    --------
    >>> from sksubtomo.datasets import make_subtomograms, simulation_preset
    >>> preset = simulation_preset("gupta2022")  # doctest: +SKIP
    >>> make_subtomograms(**preset | {"n_per_class": 10}, snr=0.05)  # doctest: +SKIP
    """
    if name not in PRESETS:
        raise ValueError(f"name={name!r}; expected one of {', '.join(PRESETS)}.")
    ids = PRESETS[name]
    found = {} if structures is None else _files_by_id(structures, ids)
    paths = [found.get(i) or _fetch(i, ids, found, structures, cache) for i in ids]
    classes: list[Structure] = [
        load_structure(path, name=i) for i, path in zip(ids, paths, strict=True)
    ]
    size, voxel_size = 32, 10.0
    return {
        "n_per_class": 500,
        "structures": classes,
        "size": size,
        "voxel_size": voxel_size,
        "resolution": 10.0,
        "n_neighbors": 4,
        "max_shift": 8 / size,
        "tilt_range": (-60.0, 60.0),
        "tilt_step": None,
        "microscope": Microscope.liu2020(voxel_size),
        "structural_noise": 0.5,
        "convention": "liu2020",
        "low_pass": 4 * voxel_size,
    }


def _fetch(
    pdb_id: str,
    ids: tuple[str, ...],
    found: dict[str, Path],
    folder: str | Path | None,
    cache: str | Path | None,
) -> Path:
    """Download an entry; where that fails, say which other files are missing, too."""
    try:
        return fetch_structure(pdb_id, folder=cache)
    except OSError as error:
        missing = [
            i for i in ids if i not in found and not cached_path(i, cache).exists()
        ]
        place = "a folder given as structures" if folder is None else str(folder)
        raise OSError(
            f"{len(missing)} of {len(ids)} structures are missing: "
            f"{', '.join(missing)}. Files of these names in {place}, such as "
            f"{missing[0] if missing else pdb_id}.cif.gz or .pdb, would do. The "
            f"download failed: {error}"
        ) from error


def _files_by_id(folder: str | Path, ids: tuple[str, ...]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for name, path in list_structure_files(folder):
        pdb_id = name.lower()
        if pdb_id not in ids:
            continue
        if pdb_id in found:
            raise ValueError(
                f"{found[pdb_id]} and {path} are both called {pdb_id}; expected one "
                "file of each entry."
            )
        found[pdb_id] = path
    return found
