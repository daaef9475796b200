"""Phantom complexes, built from published facts about quaternary structure.

A phantom is no atomic model. It has the point group, the number and the mass of the
protomers and, within about a tenth, the outer dimensions of the complex it is named
after; each protomer is a few ellipsoidal lobes of protein density, about one for each
domain. That is what a subtomogram at 15 to 60 angstroms shows, and it needs no file.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from sksubtomo.datasets.structures import PROTEIN_DENSITY, Structure

# Edge of the cubes that fill a lobe, one point each.
_SPACING = 4.0


@dataclass(frozen=True)
class Lobe:  # numpydoc ignore=PR02
    """An ellipsoid of protein density in the asymmetric unit of a phantom.

    Parameters
    ----------
    mass : float
        Mass in kilodaltons; with the density of protein it sets the volume.
    position : (float, float, float)
        Centre x, y, z in angstroms; z is the main symmetry axis.
    axes : (float, float, float), default=(1, 1, 1)
        Relative lengths of the semi-axes: along the radius from the main axis (from
        the centre for the cubic groups T and O), along the tangent, and along the third
        direction.
    """

    mass: float
    position: tuple[float, float, float]
    axes: tuple[float, float, float] = (1.0, 1.0, 1.0)


@dataclass(frozen=True)
class Phantom:  # numpydoc ignore=PR02
    """The quaternary facts of a complex, and the lobes that stand for a protomer.

    Parameters
    ----------
    title : str
        What the complex is.
    source : str
        The PDB entry and the publication of the facts.
    point_group : str
        Schoenflies symbol: ``"C1"``, ``"C7"``, ``"D4"``, ``"T"``, ``"O"``, ...
    dimensions : (float, float, float)
        Published outer dimensions along x, y and z in angstroms, approximately.
    lobes : tuple of Lobe
        The asymmetric unit.
    """

    title: str
    source: str
    point_group: str
    dimensions: tuple[float, float, float]
    lobes: tuple[Lobe, ...]


def _polar(radius: float, azimuth: float, z: float) -> tuple[float, float, float]:
    angle = np.deg2rad(azimuth)
    return (float(radius * np.cos(angle)), float(radius * np.sin(angle)), z)


PHANTOMS: dict[str, Phantom] = {
    # 4 x 116.4 kDa (1023 residues each); the tetramer measures about 175 x 135 x 90 A
    # along its two-fold axes.
    "beta_galactosidase": Phantom(
        "beta-galactosidase of Escherichia coli",
        "PDB 1dp0; Jacobson et al. 1994, Nature 369, 761",
        "D2",
        (175.0, 135.0, 90.0),
        (
            Lobe(36.0, (28.0, 20.0, 14.0)),
            Lobe(36.0, (50.0, 43.0, -8.0)),
            Lobe(25.0, (66.0, 12.0, 22.0)),
            Lobe(19.4, (22.0, 48.0, 27.0)),
        ),
    ),
    # 24 x 19.8 kDa (horse spleen, light chain); a shell of outer diameter about 125 A
    # around a cavity of about 80 A.
    "apoferritin": Phantom(
        "apoferritin of horse spleen",
        "PDB 1ier; Granier et al. 1997, Acta Cryst. D53, 580",
        "O",
        (125.0, 125.0, 125.0),
        (Lobe(19.8, (20.0, 6.0, 46.5), (0.55, 1.15, 1.15)),),
    ),
    # 12 x 51.8 kDa; two hexagonal rings face to face, diameter about 140 A, height
    # about 100 A, with a channel along the six-fold axis.
    "glutamine_synthetase": Phantom(
        "glutamine synthetase of Salmonella typhimurium",
        "PDB 2gls; Yamashita et al. 1989, J. Biol. Chem. 264, 17681",
        "D6",
        (140.0, 140.0, 100.0),
        (
            Lobe(36.0, _polar(52.0, 0.0, 22.0), (0.9, 1.1, 1.0)),
            Lobe(15.8, _polar(34.0, 22.0, 34.0)),
        ),
    ),
    # 14 x 57.2 kDa; two rings back to back, height 146 A, diameter 137 A, a cavity of
    # about 45 A in each ring; equatorial, intermediate and apical domains.
    "groel": Phantom(
        "chaperonin GroEL of Escherichia coli",
        "PDB 1oel; Braig et al. 1994, Nature 371, 578",
        "D7",
        (137.0, 137.0, 146.0),
        (
            Lobe(26.6, _polar(42.0, 0.0, 18.0), (1.25, 0.95, 0.9)),
            Lobe(9.5, _polar(53.0, 8.0, 36.0)),
            Lobe(21.1, _polar(46.0, 20.0, 54.0), (1.2, 0.9, 1.0)),
        ),
    ),
    # 6 x 89.3 kDa; two stacked hexagonal rings (D1 and D2) and N domains around D1;
    # diameter about 160 A, height about 80 A.
    "p97": Phantom(
        "AAA ATPase p97 (VCP) of mouse",
        "PDB 3cf3; Davies et al. 2008, Structure 16, 715",
        "C6",
        (160.0, 160.0, 80.0),
        (
            Lobe(21.5, _polar(66.0, 10.0, 24.0)),
            Lobe(33.0, _polar(36.0, 0.0, 16.0), (1.1, 1.0, 0.95)),
            Lobe(34.8, _polar(40.0, 22.0, -20.0), (1.25, 0.9, 0.95)),
        ),
    ),
    # 7 x 63 kDa; a flat ring of diameter 160 A and height 85 A around an open lumen.
    "pa63_prepore": Phantom(
        "prepore of the anthrax protective antigen, PA63",
        "PDB 1tzo; Lacy et al. 2004, PNAS 101, 13147",
        "C7",
        (160.0, 160.0, 85.0),
        (
            Lobe(12.0, _polar(50.0, 0.0, 30.0), (1.2, 1.0, 1.0)),
            Lobe(24.0, _polar(44.0, 12.0, 2.0), (0.95, 0.95, 1.3)),
            Lobe(12.0, _polar(40.0, 26.0, -26.0)),
            Lobe(15.0, _polar(63.0, 24.0, -10.0)),
        ),
    ),
    # 24 x 26.5 kDa (catalytic domains, residues 395-637); a hollow truncated cube with
    # an edge of about 125 A, trimers at its eight corners and windows in its six faces.
    "pdh_e2_core": Phantom(
        "cubic core of dihydrolipoyl transacetylase (E2) of Azotobacter vinelandii",
        "PDB 1eab; Mattevi et al. 1992, Science 255, 1544",
        "O",
        (125.0, 125.0, 125.0),
        (Lobe(26.5, (17.5, 41.0, 44.0)),),
    ),
    # 14 x 25.8 kDa (alpha) and 14 x 22.3 kDa (beta); four rings of seven, length 148 A,
    # diameter 113 A.
    "proteasome_20s": Phantom(
        "20S proteasome of Thermoplasma acidophilum",
        "PDB 1pma; Lowe et al. 1995, Science 268, 533",
        "D7",
        (113.0, 113.0, 148.0),
        (
            Lobe(22.3, _polar(38.0, 0.0, 19.0), (1.0, 0.95, 1.05)),
            Lobe(25.8, _polar(36.0, 16.0, 55.0), (1.1, 0.95, 1.0)),
        ),
    ),
    # Twelve subunits, 514 kDa in all, no symmetry; about 150 x 140 x 110 A, the two
    # largest subunits (192 and 139 kDa) on the sides of a cleft about 25 A wide.
    "rna_polymerase_ii": Phantom(
        "RNA polymerase II of Saccharomyces cerevisiae",
        "PDB 1wcm; Armache et al. 2005, J. Biol. Chem. 280, 7131",
        "C1",
        (150.0, 140.0, 110.0),
        (
            Lobe(82.0, (-30.0, -10.0, 0.0), (1.1, 1.0, 0.9)),
            Lobe(58.0, (28.0, -42.0, 10.0)),
            Lobe(52.0, (2.0, -28.0, -32.0)),
            Lobe(80.0, (10.0, 42.0, 0.0), (0.9, 1.1, 1.0)),
            Lobe(59.0, (48.0, 26.0, 18.0)),
            Lobe(50.0, (-38.0, 34.0, 16.0)),
            Lobe(35.0, (-20.0, 26.0, -34.0)),
            Lobe(25.0, (46.0, -10.0, -34.0)),
            Lobe(44.0, (-46.0, -38.0, 26.0)),
            Lobe(29.0, (56.0, 40.0, -14.0)),
        ),
    ),
    # 8 x 53 kDa (large) and 8 x 15 kDa (small); the small subunits cap both ends of the
    # core; about 105 A along the four-fold axis and 130 A across at most.
    "rubisco": Phantom(
        "ribulose-1,5-bisphosphate carboxylase of spinach",
        "PDB 8ruc; Andersson 1996, J. Mol. Biol. 259, 160",
        "D4",
        (130.0, 130.0, 105.0),
        (
            Lobe(53.0, _polar(36.0, 0.0, 19.0), (0.95, 0.95, 1.05)),
            Lobe(15.0, _polar(32.0, 42.0, 38.0), (1.2, 1.2, 0.8)),
        ),
    ),
}
"""The table of phantoms, by name."""


def list_phantoms() -> list[str]:
    """List the names of the phantom complexes.

    Returns
    -------
    list of str
        The names, in alphabetic order.

    Examples
    --------
    >>> from sksubtomo.datasets import list_phantoms
    >>> len(list_phantoms())
    10
    """
    return sorted(PHANTOMS)


def load_phantom(name: str) -> Structure:
    """Build a phantom complex.

    Parameters
    ----------
    name : str
        One of `list_phantoms`.

    Returns
    -------
    Structure
        The complex as points on a cubic lattice of 4 angstroms within each lobe.

    Raises
    ------
    ValueError
        If there is no phantom of that name.

    Notes
    -----
    Where lobes touch they may overlap by a few angstroms; the total mass is kept.

    Examples
    --------
    >>> from sksubtomo.datasets import load_phantom
    >>> round(load_phantom("proteasome_20s").mass / 1e3)
    673
    """
    if name not in PHANTOMS:
        raise ValueError(
            f"{name!r} is not a phantom; expected one of {', '.join(list_phantoms())}."
        )
    # A copy of the arrays, so that what a caller changes stays with the caller.
    return replace(_build(name))


@cache
def _build(name: str) -> Structure:
    phantom = PHANTOMS[name]
    spherical = phantom.point_group in ("T", "O")
    parts = [_fill(lobe, spherical) for lobe in phantom.lobes]
    protomer = np.concatenate([points for points, _ in parts])
    protomer_masses = np.concatenate([masses for _, masses in parts])
    operations = point_group_rotations(phantom.point_group)
    xyz = (protomer @ operations.transpose(0, 2, 1)).reshape(-1, 3)
    return Structure(
        name,
        xyz[:, ::-1],
        np.tile(protomer_masses, len(operations)),
        f"phantom of {phantom.title} ({phantom.source})",
    )


def _fill(
    lobe: Lobe, spherical: bool
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Fill a lobe with points of equal mass; x, y, z and daltons."""
    position = np.array(lobe.position)
    ratios = np.array(lobe.axes) / np.cbrt(np.prod(lobe.axes))
    volume = lobe.mass * 1e3 / PROTEIN_DENSITY
    semi_axes = np.cbrt(3 * volume / (4 * np.pi)) * ratios
    count = np.ceil(semi_axes.max() / _SPACING)
    ticks = _SPACING * np.arange(-count, count + 1)
    grid = np.stack(np.meshgrid(ticks, ticks, ticks, indexing="ij"), axis=-1)
    grid = grid.reshape(-1, 3)
    points = grid[np.sum((grid / semi_axes) ** 2, axis=1) <= 1]
    masses = np.full(len(points), lobe.mass * 1e3 / len(points))
    return points @ _lobe_frame(position, spherical) + position, masses


def _lobe_frame(position: NDArray[np.float64], spherical: bool) -> NDArray[np.float64]:
    """Return the radial, tangential and third unit vectors at a position, as rows."""
    main_axis = np.array([0.0, 0.0, 1.0])
    outward = position if spherical else position * (1.0, 1.0, 0.0)
    radial = outward / np.linalg.norm(outward)
    tangential = np.cross(main_axis, radial)
    tangential /= np.linalg.norm(tangential)
    return np.stack([radial, tangential, np.cross(radial, tangential)])


def point_group_rotations(point_group: str) -> NDArray[np.float64]:
    """Return the rotations of a point group.

    Parameters
    ----------
    point_group : str
        Schoenflies symbol of a group of proper rotations: ``"Cn"``, ``"Dn"`` (main axis
        z, a two-fold axis along x), ``"T"`` or ``"O"`` (two- or four-fold axes along
        x, y and z).

    Returns
    -------
    ndarray of shape (order, 3, 3)
        Matrices that act on columns x, y, z.

    Raises
    ------
    ValueError
        If the symbol is not known.

    Examples
    --------
    >>> from sksubtomo.datasets import point_group_rotations
    >>> [len(point_group_rotations(group)) for group in ("C7", "D2", "T", "O")]
    [7, 4, 12, 24]
    """
    if point_group in ("T", "O"):
        matrices: NDArray[np.float64] = Rotation.create_group(point_group).as_matrix()
        return matrices
    family, fold = point_group[:1], point_group[1:]
    if family not in ("C", "D") or not fold.isdecimal() or int(fold) < 1:
        raise ValueError(
            f"point_group={point_group!r}; expected 'Cn' or 'Dn' with n of at least 1, "
            "'T' or 'O'."
        )
    vectors = np.zeros((int(fold), 3))
    vectors[:, 2] = 2 * np.pi * np.arange(int(fold)) / int(fold)
    rotations: NDArray[np.float64] = Rotation.from_rotvec(vectors).as_matrix()
    if family == "D":
        flip = np.diag([1.0, -1.0, -1.0])
        rotations = np.concatenate([rotations, rotations @ flip])
    return rotations
