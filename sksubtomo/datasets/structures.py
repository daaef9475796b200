"""Structures to simulate: coordinates and masses, and the files they come from."""

from __future__ import annotations

import gzip
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gemmi
import mrcfile
import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

PROTEIN_DENSITY = 0.81
"""Mass density of protein (1.35 g/cm^3), in daltons per cubic angstrom."""

POINTS_PER_VOXEL = 2
"""Points per voxel and axis that are enough to draw a structure."""

_MODEL_SUFFIXES = (".pdb", ".ent", ".cif", ".mmcif")
_MAP_SUFFIXES = (".mrc", ".map", ".ccp4")

# Pseudo-atoms of a map further apart than this show up as a comb of peaks when the
# structure is drawn on a finer grid than the map's own.
_MAP_SPACING = 5.0


@dataclass(frozen=True, eq=False)
class Structure:  # numpydoc ignore=PR02
    """A structure as a cloud of point masses around its centre of mass.

    Parameters
    ----------
    name : str
        Name of the structure; becomes the name of its class.
    coordinates : array-like of shape (n, 3)
        Positions in angstroms, columns in the order z, y, x. They are shifted so that
        the centre of mass lies at the origin.
    masses : array-like of shape (n,)
        Masses in daltons, all positive.
    description : str, default=""
        What the structure is and where it comes from, in a few words.

    Attributes
    ----------
    radius : float
        Radius in angstroms of the smallest sphere around the centre of mass that
        contains every point.
    mass : float
        Total mass in daltons.

    Raises
    ------
    ValueError
        If there is no point, if shapes do not fit, or if a value is not finite or a
        mass is not positive.

    Examples
    --------
    >>> from sksubtomo.datasets import Structure
    >>> dumbbell = Structure("dumbbell", [[0, 0, 0], [30, 0, 0]], [20e3, 10e3])
    >>> dumbbell.radius
    20.0
    >>> dumbbell.mass
    30000.0
    """

    name: str
    coordinates: NDArray[np.float64]
    masses: NDArray[np.float64]
    description: str = ""

    def __post_init__(self) -> None:
        coordinates = np.array(self.coordinates, dtype=np.float64)
        masses = np.array(self.masses, dtype=np.float64)
        if coordinates.ndim != 2 or coordinates.shape[1] != 3 or not len(coordinates):
            raise ValueError(
                f"Structure {self.name!r}: coordinates have shape {coordinates.shape}; "
                "expected (n, 3) with n of at least 1, columns z, y, x."
            )
        if masses.shape != (len(coordinates),):
            raise ValueError(
                f"Structure {self.name!r}: masses have shape {masses.shape}; expected "
                f"({len(coordinates)},), one for each row of coordinates."
            )
        if not np.isfinite(coordinates).all():
            raise ValueError(
                f"Structure {self.name!r}: a coordinate is NaN or infinite; expected "
                "finite angstroms."
            )
        if not (np.isfinite(masses).all() and (masses > 0).all()):
            raise ValueError(
                f"Structure {self.name!r}: a mass is not a positive finite number; "
                "expected daltons."
            )
        coordinates -= masses @ coordinates / masses.sum()
        object.__setattr__(self, "coordinates", coordinates)
        object.__setattr__(self, "masses", masses)

    @property
    def radius(self) -> float:  # numpydoc ignore=RT01,SS05
        """Radius of the bounding sphere around the centre of mass, in angstroms."""
        return float(np.sqrt(np.max(np.sum(self.coordinates**2, axis=1))))

    @property
    def mass(self) -> float:  # numpydoc ignore=RT01
        """Total mass, in daltons."""
        return float(self.masses.sum())

    def __repr__(self) -> str:
        return (
            f"Structure({self.name!r}, {self.mass / 1e3:.0f} kDa, "
            f"radius {self.radius:.0f} A, {len(self.masses)} points)"
        )


def coarse_grain(structure: Structure, cell: float) -> Structure:
    """Replace the points in each cubic cell by one at their centre of mass.

    Mass and centre of mass are kept exactly; no point moves further than the diagonal
    of a cell.

    Parameters
    ----------
    structure : Structure
        The structure.
    cell : float
        Side of the cells, in angstroms.

    Returns
    -------
    Structure
        The same structure with at most as many points.

    Raises
    ------
    ValueError
        If `cell` is not positive.

    Examples
    --------
    >>> from sksubtomo.datasets import coarse_grain, load_phantom
    >>> structure = load_phantom("groel")
    >>> coarse = coarse_grain(structure, cell=10.0)
    >>> len(coarse.masses) < len(structure.masses) / 5
    True
    """
    if not cell > 0:
        raise ValueError(f"cell={cell!r}; expected a positive length in angstroms.")
    index = np.floor(structure.coordinates / cell).astype(np.int64)
    index -= index.min(axis=0)
    flat = np.ravel_multi_index(tuple(index.T), tuple(index.max(axis=0) + 1))
    _, group = np.unique(flat, return_inverse=True)
    masses = np.bincount(group, weights=structure.masses).astype(np.float64)
    coordinates = np.stack(
        [
            np.bincount(group, weights=structure.masses * axis) / masses
            for axis in structure.coordinates.T
        ],
        axis=1,
    )
    return replace(structure, coordinates=coordinates, masses=masses)


def load_structure(
    path: str | Path,
    *,
    name: str | None = None,
    voxel_size: float | None = None,
    threshold: float | None = None,
) -> Structure:
    """Read a structure from a PDB, mmCIF or MRC file.

    Parameters
    ----------
    path : str or Path
        A PDB (``.pdb``, ``.ent``), mmCIF (``.cif``, ``.mmcif``) or MRC (``.mrc``,
        ``.map``, ``.ccp4``) file; each may be gzipped (``.gz``).
    name : str, default=None
        Name of the structure. None means the file's name without its suffixes.
    voxel_size : float, default=None
        Voxel size of a map in angstroms. None means the one in the header. Not
        allowed for a PDB or mmCIF file.
    threshold : float, default=None
        Density above which a map's voxels count as structure, in the map's own units;
        not negative. None means Otsu's threshold of the positive densities. Not
        allowed for a PDB or mmCIF file.

    Returns
    -------
    Structure
        The structure, centred on its centre of mass.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the suffix is unknown, if the file cannot be read or holds no atom or no
        density above the threshold, or if a map has no voxel size.

    Notes
    -----
    **Models.** The first biological assembly is built; a file that defines none is
    taken as it is. Only the first model and the first alternative conformation of each
    atom are used, waters are left out, and atoms weigh what their element does. Files
    without hydrogens (most) come out about 7 % too light.

    **Maps.** A voxel above the threshold becomes a point whose mass is proportional to
    the density. Densities have no absolute scale, so the mean density of these points
    is set to that of protein, 0.81 Da per cubic angstrom [1]_. Protein must be the
    bright side. Axes are brought into the order z, y, x whatever the header's column
    order.

    References
    ----------
    .. [1] Fischer, H., Polikarpov, I. and Craievich, A. F. (2004). Average protein
       density is a molecular-weight-dependent function. Protein Science 13, 2825-2828.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from sksubtomo.datasets import load_structure
    >>> line = "ATOM      1  C   UNK A   1       1.000   2.000   3.000  1.00  0.00"
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "carbon.pdb")
    ...     _ = path.write_text(line + "           C")
    ...     round(load_structure(path).mass)
    12
    """
    path = Path(path)
    kind = _kind(path)
    if kind is None:
        raise ValueError(
            f"{path}: suffix {path.suffix!r} is not a structure's; expected one of "
            f"{', '.join(_MODEL_SUFFIXES + _MAP_SUFFIXES)}, optionally followed by .gz."
        )
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file.")
    name = _stem(path) if name is None else name
    if kind == "map":
        return _load_map(path, name, voxel_size, threshold)
    for parameter, value in (("voxel_size", voxel_size), ("threshold", threshold)):
        if value is not None:
            raise ValueError(
                f"{path}: {parameter}={value!r} was given for an atomic model; it "
                "applies to MRC maps only."
            )
    return _load_model(path, name)


def load_structures(folder: str | Path) -> list[Structure]:
    """Read every structure file of a folder.

    Parameters
    ----------
    folder : str or Path
        A folder with PDB, mmCIF or MRC files, as `load_structure` takes them. Files
        with other suffixes, hidden files and subfolders are passed over.

    Returns
    -------
    list of Structure
        In the alphabetic order of their names.

    Raises
    ------
    FileNotFoundError
        If there is no such folder.
    NotADirectoryError
        If it is a file.
    ValueError
        If it has no structure file, if one cannot be read, or if two would have the
        same name.
    """
    files = list_structure_files(folder)
    if not files:
        raise ValueError(
            f"{folder} holds no structure file; expected files that end in "
            f"{', '.join(_MODEL_SUFFIXES + _MAP_SUFFIXES)}, optionally followed by .gz."
        )
    check_unique_names((name, str(path)) for name, path in files)
    return [load_structure(path, name=name) for name, path in files]


def list_structure_files(folder: str | Path) -> list[tuple[str, Path]]:
    """Find the structure files of a folder.

    Parameters
    ----------
    folder : str or Path
        The folder, as for `load_structures`.

    Returns
    -------
    list of (str, Path)
        The name of each structure, which is the file's without its suffixes, and the
        file, in alphabetic order.

    Raises
    ------
    FileNotFoundError
        If there is no such folder.
    NotADirectoryError
        If it is a file.
    """
    folder = Path(folder)
    if not folder.exists():
        raise FileNotFoundError(f"{folder}: there is no such folder.")
    if not folder.is_dir():
        raise NotADirectoryError(
            f"{folder} is a file; expected a folder of structure files. To name single "
            "files, put them into a list."
        )
    return sorted(
        (_stem(path), path)
        for path in folder.iterdir()
        if path.is_file() and not path.name.startswith(".") and _kind(path) is not None
    )


def check_unique_names(named_sources: Iterable[tuple[str, str]]) -> None:
    """Raise if two structures would become classes of the same name.

    Parameters
    ----------
    named_sources : iterable of (str, str)
        The name of each structure and where it comes from, for the message.

    Raises
    ------
    ValueError
        If a name occurs twice.
    """
    seen: dict[str, str] = {}
    for name, source in named_sources:
        if name in seen:
            raise ValueError(
                f"{seen[name]} and {source} would both be the class {name!r}; "
                "expected different names."
            )
        seen[name] = source


def _suffix(path: Path) -> str:
    """Return the suffix that tells the format, in lower case, without ``.gz``."""
    name = path.name.lower().removesuffix(".gz")
    return Path(name).suffix


def _stem(path: Path) -> str:
    name = path.name
    if name.lower().endswith(".gz"):
        name = name[:-3]
    return Path(name).stem


def _kind(path: Path) -> str | None:
    suffix = _suffix(path)
    if suffix in _MODEL_SUFFIXES:
        return "model"
    if suffix in _MAP_SUFFIXES:
        return "map"
    return None


def _load_model(path: Path, name: str) -> Structure:
    try:
        entry = gemmi.read_structure(str(path))
    # gemmi raises RuntimeError, ValueError or OSError, depending on what it trips over.
    except Exception as error:
        raise ValueError(
            f"{path}: cannot be read as a PDB or mmCIF file ({error})."
        ) from error
    if not len(entry):
        raise ValueError(f"{path}: holds no atoms; expected a PDB or mmCIF model.")
    entry.remove_alternative_conformations()
    entry.remove_waters()
    model = entry[0]
    if len(entry.assemblies):
        assembly = gemmi.make_assembly(
            entry.assemblies[0], model, gemmi.HowToNameCopiedChain.Short
        )
        # Some entries define an assembly of chains that the file does not hold.
        if assembly.count_atom_sites():
            model = assembly
    atoms = [
        (atom.pos.z, atom.pos.y, atom.pos.x, atom.element.weight)
        for chain in model
        for residue in chain
        for atom in residue
    ]
    if not atoms:
        raise ValueError(f"{path}: holds no atoms besides water.")
    table = np.array(atoms)
    # Atoms of unknown element ("X" in PDB files) have no weight.
    table = table[table[:, 3] > 0]
    if not len(table):
        raise ValueError(f"{path}: holds no atom of a known element.")
    return _named_errors(path, name, table[:, :3], table[:, 3])


def _load_map(
    path: Path, name: str, voxel_size: float | None, threshold: float | None
) -> Structure:
    if voxel_size is not None and not (np.isfinite(voxel_size) and voxel_size > 0):
        raise ValueError(
            f"{path}: voxel_size={voxel_size!r}; expected a positive number of "
            "angstroms, or None for the header's."
        )
    if threshold is not None and not (np.isfinite(threshold) and threshold >= 0):
        raise ValueError(
            f"{path}: threshold={threshold!r}; expected a density that is not "
            "negative, or None for Otsu's."
        )
    volume, spacing = _read_map(path, voxel_size)
    factors = np.ceil(spacing / _MAP_SPACING).astype(int)
    if (factors > 1).any():
        volume = ndimage.zoom(volume, factors, order=1, mode="nearest", grid_mode=True)
        spacing = spacing / factors
    if threshold is None:
        threshold = _otsu(volume[volume > 0]) if (volume > 0).any() else 0.0
    inside = volume > threshold
    if not inside.any():
        raise ValueError(
            f"{path}: no density above {threshold:g} (the maximum is "
            f"{volume.max():g}); expected protein brighter than its surroundings."
        )
    densities = volume[inside].astype(np.float64)
    masses = densities / densities.mean() * PROTEIN_DENSITY * float(np.prod(spacing))
    return _named_errors(path, name, np.argwhere(inside) * spacing, masses)


def _read_map(
    path: Path, voxel_size: float | None
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Read a map as (z, y, x) with the voxel size of each axis in angstroms."""
    try:
        # Permissive, because the machine stamps of IMOD and SerialEM are not standard;
        # what it would only warn of and matters here is checked below.
        with (
            warnings.catch_warnings(action="ignore"),
            mrcfile.open(path, mode="r", permissive=True) as mrc,
        ):
            if mrc.data is None:
                raise ValueError("the header is invalid or data are missing")
            volume = np.array(mrc.data)
            header = mrc.header
            image_stack = mrc.is_image_stack()
            spacing = np.array(
                [mrc.voxel_size.z, mrc.voxel_size.y, mrc.voxel_size.x], dtype=float
            )
            # mapc, mapr and maps say which of x, y, z (1, 2, 3) runs along the
            # columns, rows and sections of the array.
            axes = [int(header.maps), int(header.mapr), int(header.mapc)]
    except (ValueError, OSError, EOFError, gzip.BadGzipFile) as error:
        raise ValueError(f"{path}: cannot be read as an MRC map ({error}).") from error
    if volume.ndim != 3 or image_stack:
        raise ValueError(
            f"{path}: is an image or a stack of images of shape {volume.shape} "
            f"(ispg {int(header.ispg)}); expected one 3-D volume."
        )
    if np.iscomplexobj(volume):
        raise ValueError(f"{path}: holds complex values; expected real densities.")
    volume = volume.astype(np.float32)
    if not np.isfinite(volume).all():
        raise ValueError(f"{path}: holds NaN or infinite values.")
    if voxel_size is not None:
        spacing = np.full(3, float(voxel_size))
    elif not (np.isfinite(spacing).all() and (spacing > 0).all()):
        raise ValueError(
            f"{path}: the header's voxel size is {tuple(spacing.tolist())} (z, y, x); "
            "expected positive angstroms. Give it as load_structure(path, "
            "voxel_size=...)."
        )
    if sorted(axes) == [1, 2, 3]:
        volume = np.transpose(volume, [axes.index(axis) for axis in (3, 2, 1)])
    return volume, spacing


def _otsu(values: NDArray[Any]) -> float:
    """Return the threshold that maximises the variance between the two sides."""
    counts, edges = np.histogram(values, bins=256)
    centres = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)
    above = below[-1] - below
    moment = np.cumsum(counts * centres)
    with np.errstate(invalid="ignore", divide="ignore"):
        between = below * above * (moment / below - (moment[-1] - moment) / above) ** 2
    # With one value only there is nothing to separate: everything is inside.
    if not np.isfinite(between).any() or values.min() == values.max():
        return 0.0
    return float(edges[np.nanargmax(between) + 1])


def _named_errors(
    path: Path, name: str, coordinates: ArrayLike, masses: ArrayLike
) -> Structure:
    try:
        return Structure(name, np.asarray(coordinates), np.asarray(masses))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
