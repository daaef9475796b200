"""The classes of a simulated data set, from what a user says about them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sksubtomo.datasets.phantoms import PHANTOMS, list_phantoms, load_phantom
from sksubtomo.datasets.structures import (
    Structure,
    check_unique_names,
    load_structure,
    load_structures,
)


def resolve_structures(
    structures: str | Path | Sequence[str | Path | Structure] | None,
) -> list[Structure]:
    """Return the structures that the parameter `structures` stands for.

    Parameters
    ----------
    structures : str, Path, list or None
        A folder of structure files; a list of files, names of phantoms and structures;
        or None for all phantoms.

    Returns
    -------
    list of Structure
        The structures, with different names.

    Raises
    ------
    ValueError
        If there is none, if a name is no phantom, if two would have the same name or if
        a file cannot be read.
    TypeError
        If it or one of its items is of another type.
    FileNotFoundError
        If a file or folder does not exist.
    """
    if structures is None:
        return [load_phantom(name) for name in list_phantoms()]
    if isinstance(structures, str | Path):
        if structures in PHANTOMS and not Path(structures).exists():
            raise ValueError(
                f"structures={structures!r} is a single phantom; expected a list, such "
                f"as [{structures!r}, ...], a folder, or None for all phantoms."
            )
        return load_structures(structures)
    if not isinstance(structures, Sequence):
        raise TypeError(
            f"structures is of type {type(structures).__name__}; expected a folder, a "
            "list of files, phantom names and Structure objects, or None."
        )
    if not structures:
        raise ValueError("structures is empty; expected at least one, or None for all.")
    resolved = [_resolve(item) for item in structures]
    check_unique_names(
        (structure.name, f"structures[{index}] ({item!r})")
        for index, (structure, item) in enumerate(
            zip(resolved, structures, strict=True)
        )
    )
    return resolved


def _resolve(item: str | Path | Structure) -> Structure:
    if isinstance(item, Structure):
        return item
    if not isinstance(item, str | Path):
        raise TypeError(
            f"structures holds {item!r} of type {type(item).__name__}; expected the "
            "path of a structure file, the name of a phantom, or a Structure."
        )
    if item in PHANTOMS:
        return load_phantom(str(item))
    # Without a suffix or a folder it is more likely a misspelt name than a file.
    if Path(item).suffix or Path(item).exists() or Path(item).name != str(item):
        return load_structure(item)
    raise ValueError(
        f"structures holds {str(item)!r}, which is neither a file nor a phantom; "
        f"expected a file or one of {', '.join(list_phantoms())}."
    )
