"""Particles in STAR files."""

from __future__ import annotations

import contextlib
import re
import warnings
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.transform import Rotation

from sksubtomo._files import write_text
from sksubtomo.io.star import Block, Loop, StarFile, check_tag, format_values, read_star

_XYZ = ("X", "Y", "Z")
_PIXELS = tuple(f"rlnCoordinate{axis}" for axis in _XYZ)
_CENTERED = tuple(f"rlnCenteredCoordinate{axis}Angst" for axis in _XYZ)
_ORIGINS_ANGSTROMS = tuple(f"rlnOrigin{axis}Angst" for axis in _XYZ)
_ORIGINS_PIXELS = tuple(f"rlnOrigin{axis}" for axis in _XYZ)
_SUBTOMOGRAM_ANGLES = (
    "rlnTomoSubtomogramRot",
    "rlnTomoSubtomogramTilt",
    "rlnTomoSubtomogramPsi",
)
# Columns that only a table of particles has.
_OF_PARTICLES = (
    "rlnImageName",
    "rlnTomoParticleName",
    *_CENTERED,
    *_PIXELS,
    "wrpCoordinateX1",
)
_DETECTOR = ("rlnDetectorPixelSize", "rlnMagnification")
_PREVIOUS = "sksubtomoPreviousClassNumber"
_EMBEDDING = "sksubtomoEmbedding"


def read_particles(path: str | Path) -> ParticleTable:
    """Read a STAR file of particles.

    Parameters
    ----------
    path : str or Path
        A file of RELION 3.1, 4 or 5, of Warp or M, or any STAR file with a table of
        particles.

    Returns
    -------
    ParticleTable
        The particles.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is no STAR file or has not one table of particles.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from sksubtomo.io import read_particles
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "particles.star")
    ...     _ = path.write_text('''
    ... data_optics
    ...
    ... loop_
    ... _rlnOpticsGroup #1
    ... _rlnTomoTiltSeriesPixelSize #2
    ... 1 2.5
    ...
    ... data_particles
    ...
    ... loop_
    ... _rlnTomoName #1
    ... _rlnCenteredCoordinateXAngst #2
    ... _rlnCenteredCoordinateYAngst #3
    ... _rlnCenteredCoordinateZAngst #4
    ... _rlnOpticsGroup #5
    ... 001 -100.0 50.0 0.0 1
    ... ''')
    ...     particles = read_particles(path)
    >>> particles.dialect, particles.tomogram_names
    ('relion5', ['001'])
    >>> particles.coordinates(10.0, tomogram_shape=(32, 64, 64))
    array([[16., 37., 22.]])
    """
    star = read_star(path)
    named = [
        block for block in star.blocks if block.name == "particles" and block.loops
    ]
    loops = [
        (block, loop)
        for block in named or star.blocks
        if block.name not in ("optics", "general")
        for loop in block.loops
    ]
    found = [
        (block, loop)
        for block, loop in loops
        if any(tag in loop for tag in _OF_PARTICLES)
    ] or loops
    if len(found) != 1:
        names = ", ".join(f"data_{block.name}" for block in star.blocks)
        raise ValueError(
            f"{star.path}: has {len(found)} tables that may be of particles; expected "
            f"one loop, best in a block data_particles. Its blocks are {names}."
        )
    return ParticleTable(star, *found[0])


class ParticleTable:
    """The particles of a STAR file.

    Made by `read_particles`. What a property needs is read from the table when it is
    first asked for, and then kept.

    Parameters
    ----------
    star : StarFile
        The whole file, which stays as it is.
    block : Block
        The block of the particles.
    loop : Loop
        The table of the particles.
    """

    def __init__(self, star: StarFile, block: Block, loop: Loop) -> None:
        self.star = star
        self.block = block
        self.loop = loop
        self._found: dict[str, Path] = {}

    def __len__(self) -> int:
        return len(self.loop)

    @property
    def path(self) -> Path:  # numpydoc ignore=RT01,SS05
        """The file."""
        return self.star.path

    @cached_property
    def optics(self) -> Loop | None:  # numpydoc ignore=RT01,SS05
        """The table of optics groups, ``data_optics``; None if there is none."""
        block = self.star.block("optics")
        return block.loops[0] if block is not None and block.loops else None

    @cached_property
    def dialect(self) -> str:  # numpydoc ignore=RT01,SS05
        """Who wrote the file: "relion5", "relion4", "relion3.1", "warp" or "plain".

        RELION 5 has centred coordinates or ``rlnTomoSubTomosAre2DStacks``, RELION 4 the
        names of tomograms or particles (``rlnTomoName``, ``rlnTomoParticleName``), and
        RELION 3.1 optics groups. Warp and M have none of these, but ``wrp`` columns,
        micrographs that end in ``.tomostar``, or pixel sizes in the particles' table.
        """
        loop, optics = self.loop, self.optics
        if _has(loop, _CENTERED) or "rlnTomoSubTomosAre2DStacks" in self._general:
            return "relion5"
        if any(tag.startswith("wrp") for tag in loop.tags):
            return "warp"
        if any("tomostar" in name for name in (self.tomogram_names or ())[:1]):
            return "warp"
        if "rlnTomoName" in loop or "rlnTomoParticleName" in loop:
            return "relion4"
        if optics is not None:
            return "relion3.1"
        if "rlnPixelSize" in loop or _has(loop, _DETECTOR):
            return "warp"
        return "plain"

    @property
    def _general(self) -> dict[str, str]:
        """Single values of ``data_general``, which RELION 5 writes."""
        block = self.star.block("general")
        return {} if block is None else block.pairs

    @cached_property
    def image_names(self) -> list[str] | None:  # numpydoc ignore=RT01,SS05
        """What ``rlnImageName`` calls the particles' volumes; None without it."""
        return self._strings("rlnImageName")

    @cached_property
    def tomogram_names(self) -> list[str] | None:  # numpydoc ignore=RT01,SS05
        """Tomograms of the particles; None if no column names them.

        That is ``rlnTomoName``, else ``rlnMicrographName`` or Warp's
        ``wrpSourceName``. Names such as "001" stay as they are.
        """
        for tag in ("rlnTomoName", "rlnMicrographName", "wrpSourceName"):
            if tag in self.loop:
                return self._strings(tag)
        return None

    @cached_property
    def is_image_stack(self) -> bool:  # numpydoc ignore=RT01,SS05
        """Whether the particles are stacks of 2-D tilt images, not volumes.

        By ``rlnTomoSubTomosAre2DStacks`` 1 in ``data_general``, or
        ``rlnImageDimensionality`` 2 in the optics groups of the particles, or in their
        own table.
        """
        if self._general.get("rlnTomoSubTomosAre2DStacks") in ("1", "true", "True"):
            return True
        dimensions = self._optics_values("rlnImageDimensionality")
        if dimensions is None and "rlnImageDimensionality" in self.loop:
            dimensions = self._floats(["rlnImageDimensionality"])
        return dimensions is not None and bool((dimensions == 2).any())

    @cached_property
    def voxel_size(self) -> float | None:  # numpydoc ignore=RT01,SS05
        """Voxel size of the particles' volumes in angstroms; None if it is not there.

        From ``rlnImagePixelSize`` of the optics groups, else ``rlnImagePixelSize`` or
        ``rlnPixelSize`` of the particles, else ``rlnDetectorPixelSize`` and
        ``rlnMagnification``. An error if the particles have different ones.
        """
        return self._one_size(self._image_sizes, "voxel size")

    @cached_property
    def tilt_series_voxel_size(self) -> float | None:  # numpydoc ignore=RT01,SS05
        """Unbinned pixel size of the tilt series in angstroms; None if not there.

        From ``rlnTomoTiltSeriesPixelSize``. An error if the particles have different
        ones.
        """
        sizes = self._sizes("rlnTomoTiltSeriesPixelSize")
        return self._one_size(sizes, "rlnTomoTiltSeriesPixelSize")

    @cached_property
    def coordinate_voxel_sizes(
        self,
    ) -> NDArray[np.float64] | None:  # numpydoc ignore=RT01,SS05
        """Angstroms a pixel of each particle's ``rlnCoordinateX``; None if not there.

        From ``rlnTomoTiltSeriesPixelSize`` (RELION 4), else ``rlnPixelSize`` of the
        particles or ``rlnDetectorPixelSize`` with ``rlnMagnification`` (Warp), else
        ``rlnMicrographPixelSize`` of the optics.
        """
        sizes = self._sizes("rlnTomoTiltSeriesPixelSize")
        if sizes is None and "rlnPixelSize" in self.loop:
            sizes = self._sizes("rlnPixelSize")
        if sizes is None:
            sizes = self._detector_sizes
        if sizes is None:
            sizes = self._sizes("rlnMicrographPixelSize")
        return sizes

    def coordinates(
        self,
        voxel_size: float | NDArray[np.float64] | None = None,
        tomogram_shape: Sequence[int] | NDArray[np.intp] | None = None,
        *,
        units: str | None = None,
        coordinate_voxel_size: float | None = None,
        apply_shifts: bool = True,
    ) -> NDArray[np.float64]:
        """Return the centres of the particles in voxels of a tomogram.

        Parameters
        ----------
        voxel_size : float or ndarray of shape (n,), default=None
            Voxel size of the tomogram in angstroms, or that of each particle's
            tomogram. None means that of the coordinates.
        tomogram_shape : sequence of int or ndarray of shape (n, 3), default=None
            Depth, height and width of the tomogram, or of each particle's tomogram, in
            voxels, which centred coordinates need.
        units : {"pixels", "angstroms_centered"}, default=None
            Which columns: ``rlnCoordinateX`` and so on, or
            ``rlnCenteredCoordinateXAngst`` and so on. None takes the centred ones if
            they are there, as RELION 5 does.
        coordinate_voxel_size : float, default=None
            Angstroms a pixel of ``rlnCoordinateX``. None takes `coordinate_voxel_sizes`
            of the file. If that does not say, as in RELION 3.1, coordinates are taken
            to be in the tomogram's own voxels.
        apply_shifts : bool, default=True
            Whether to subtract the shifts that refinement found (``rlnOriginXAngst``,
            or in pixels of the particles' images ``rlnOriginX``), turned by
            ``rlnTomoSubtomogramRot`` and so on if they are there, as RELION does [1]_.

        Returns
        -------
        ndarray of shape (n, 3)
            Centres (z, y, x), in voxels from 0 at the centre of the first voxel.

        Raises
        ------
        ValueError
            If the columns are not there or not finite, or what is needed is unknown.

        Notes
        -----
        RELION 5 counts centred coordinates from size / 2 of the tomogram, without
        rounding, and a binned pixel is an unbinned one divided by the binning [1]_. So
        a centred coordinate c is voxel c / voxel_size + size / 2.

        References
        ----------
        .. [1] RELION 5, ``ParticleSet::getPosition`` and ``TomogramSet::loadTomogram``.
        """
        if units not in (None, "pixels", "angstroms_centered"):
            raise ValueError(
                f"units: is {units!r}; expected 'pixels', 'angstroms_centered' or None."
            )
        for name, size in (
            ("voxel_size", voxel_size),
            ("coordinate_voxel_size", coordinate_voxel_size),
        ):
            if size is not None and not np.all(
                np.isfinite(size) & (np.asarray(size) > 0)
            ):
                raise ValueError(f"{name}: is {size}; expected angstroms, above 0.")
        if isinstance(voxel_size, np.ndarray) and voxel_size.shape != (len(self),):
            raise ValueError(
                f"voxel_size: has shape {voxel_size.shape}; expected one number, or "
                f"one for each of {len(self)} particles."
            )
        if units is None:
            is_centered = _has(self.loop, _CENTERED)
        else:
            is_centered = units == "angstroms_centered"
        columns = _CENTERED if is_centered else _PIXELS
        if not _has(self.loop, columns):
            raise ValueError(
                f"{self.path}: has no coordinates {', '.join(columns)} in "
                f"data_{self.block.name}; its columns are {', '.join(self.loop.tags)}."
            )
        found = self._floats(columns)
        # Angstroms a unit of `found`, and a voxel of the tomogram.
        unit: float | NDArray[np.float64] | None = 1.0
        if not is_centered:
            unit = coordinate_voxel_size or self.coordinate_voxel_sizes
        target: float | NDArray[np.float64] | None = voxel_size
        if target is None:
            target = self._sizes("rlnTomoTiltSeriesPixelSize") if is_centered else unit
        if is_centered and (target is None or tomogram_shape is None):
            missing = "voxel_size" if target is None else "tomogram_shape"
            raise ValueError(
                f"{missing}: is needed, because the coordinates in {self.path} are in "
                "angstroms from the centre of the tomogram."
            )
        if unit is None:
            unit = target
        centers = found if unit is None else found * _column(unit) / _column(target)
        if is_centered:
            shape = np.asarray(tomogram_shape, dtype=float)
            if shape.shape not in ((3,), (len(self), 3)) or not (shape > 0).all():
                raise ValueError(
                    f"tomogram_shape: is {tomogram_shape!r}; expected depth, height "
                    "and width in voxels."
                )
            centers = centers + shape[..., ::-1] / 2
        if apply_shifts:
            centers = centers - self._shifts(target)
        return np.ascontiguousarray(centers[:, ::-1])

    def _shifts(
        self, target: float | NDArray[np.float64] | None
    ) -> NDArray[np.float64] | float:
        """Return the shifts (x, y, z) to subtract, in voxels of the tomogram."""
        for tags in (_ORIGINS_ANGSTROMS, _ORIGINS_PIXELS):
            there = [tag for tag in tags if tag in self.loop]
            if there:
                break
        else:
            return 0.0
        shifts = np.zeros((len(self), 3))
        shifts[:, [tags.index(tag) for tag in there]] = self._floats(there)
        if tags == _ORIGINS_ANGSTROMS:
            if target is not None:
                shifts /= _column(target)
            elif shifts.any():
                raise ValueError(
                    f"voxel_size: is needed, because {self.path} has shifts in "
                    f"angstroms ({there[0]}) but no pixel size of the coordinates."
                )
        elif self._image_sizes is not None and target is not None:
            shifts *= _column(self._image_sizes) / _column(target)
        if _has(self.loop, _SUBTOMOGRAM_ANGLES):
            # From the axes of the particle's box to those of the tomogram.
            turns = rotation_matrices(self._floats(_SUBTOMOGRAM_ANGLES))
            shifts = np.einsum("nij,nj->ni", turns[:, ::-1, ::-1], shifts)
        return shifts

    def resolve_image(self, i: int) -> tuple[Path, int | None]:
        """Find the volume of a particle on disk.

        Parameters
        ----------
        i : int
            Position of the particle in the table, from 0.

        Returns
        -------
        path : Path
            The file: as its name stands if that is absolute, else below the STAR file's
            folder, one of the folders above it (the first is the RELION project), or
            the working directory, wherever it is first found.
        index : int or None
            Position in the stack, from 0, for a name such as ``000001@stack.mrc``,
            whose numbers count from 1. None for a file of its own.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        ValueError
            If the particle has no usable name.
        """
        names = self.image_names
        if names is None:
            raise ValueError(
                f"{self.path}: has no column rlnImageName in data_{self.block.name}, "
                "so the particles' volumes are unknown; expected one, as extraction "
                "writes it."
            )
        number, at, file = names[i].partition("@")
        if not at:
            number, file = "", names[i]
        if not file or (at and not (number.isascii() and number.isdigit())):
            raise ValueError(
                f"{self.path}: particle {i + 1} is called {names[i]!r}; expected a "
                "path or NUMBER@PATH."
            )
        if at and int(number) < 1:
            raise ValueError(
                f"{self.path}: particle {i + 1} is called {names[i]!r}; the numbers of "
                "a stack count from 1."
            )
        if file not in self._found:
            self._found[file] = self._find(file, i)
        return self._found[file], int(number) - 1 if at else None

    def _find(self, file: str, i: int) -> Path:
        found = find_image(file, self.path.parent)
        if found is None:
            where = ""
            if not Path(file).is_absolute():
                folder = self.path.absolute().parent
                where = f" below {folder}, the folders above it or {Path.cwd()}"
            raise FileNotFoundError(
                f"{self.path}: {file}, the volume of particle {i + 1}, was not "
                f"found{where}."
            )
        return found

    def select(self, rows: ArrayLike) -> ParticleTable:
        """Return some of the particles, in their order, with the whole file around.

        Parameters
        ----------
        rows : array-like of int or of bool
            Positions from 0 of the particles, or for each whether it is chosen.

        Returns
        -------
        ParticleTable
            The chosen particles. Their rows, and all of the file that are no
            particles, are the same to the byte when they are written.

        Raises
        ------
        ValueError
            If a position is out of range or stands twice, or a mask has another length.

        Examples
        --------
        >>> import tempfile
        >>> from pathlib import Path
        >>> from sksubtomo.io import read_particles, write_particles
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "particles.star")
        ...     write_particles(path, {"rlnTomoName": ["001", "002", "001"]})
        ...     particles = read_particles(path)
        ...     particles.select([0, 2]).tomogram_names
        ['001', '001']
        """
        star, block, loop = self._copy()
        loop.select_rows(rows)
        return ParticleTable(star, block, loop)

    def with_columns(self, columns: Mapping[str, Sequence[Any]]) -> StarFile:
        """Return the file with columns of the particles replaced or appended.

        Parameters
        ----------
        columns : mapping of str to sequence
            Columns by their tags without the leading underscore, one value a particle.

        Returns
        -------
        StarFile
            A copy. All other values, and the order of everything, are kept.

        Raises
        ------
        ValueError
            If a column has another length, or cannot be written.
        """
        star, _, loop = self._copy()
        for tag, values in columns.items():
            loop.set_column(tag, values)
        return star

    def with_classes(
        self,
        class_numbers: ArrayLike,
        class_names: ArrayLike,
        probabilities: ArrayLike,
        embeddings: ArrayLike | None = None,
    ) -> StarFile:
        """Return the file with a classification of the particles.

        Parameters
        ----------
        class_numbers : array-like of shape (n,)
            ``rlnClassNumber``, from 1.
        class_names : array-like of shape (n,)
            ``sksubtomoClass``.
        probabilities : array-like of shape (n,)
            ``sksubtomoProbability`` of that class.
        embeddings : array-like of shape (n, k), default=None
            ``sksubtomoEmbedding1`` to ``sksubtomoEmbeddingk``.

        Returns
        -------
        StarFile
            A copy. An ``rlnClassNumber`` that was there before is kept as
            ``sksubtomoPreviousClassNumber`` (with a 2 at its end if that is taken, and
            so on). On a file that this method made, the classification is replaced and
            what was kept stays, as long as its class numbers and names still belong
            together. Embeddings of an earlier run are left out.

        Raises
        ------
        ValueError
            If a length or a value is not as it should be.
        """
        numbers = np.asarray(class_numbers)
        names = np.asarray(class_names)
        chances = np.asarray(probabilities, dtype=float)
        features = None if embeddings is None else np.asarray(embeddings)
        for parameter, array in (
            ("class_numbers", numbers),
            ("class_names", names),
            ("probabilities", chances),
        ):
            if array.shape != (len(self),):
                raise ValueError(
                    f"{parameter}: has shape {array.shape}; expected ({len(self)},), "
                    "one value a particle."
                )
        if features is not None and (features.ndim != 2 or len(features) != len(self)):
            raise ValueError(
                f"embeddings: has shape {features.shape}; expected ({len(self)}, k)."
            )
        if len(self) and not (
            np.issubdtype(numbers.dtype, np.integer) and numbers.min() >= 1
        ):
            raise ValueError("class_numbers: expected whole numbers from 1.")
        if not ((chances >= 0) & (chances <= 1)).all():
            raise ValueError("probabilities: expected numbers from 0 to 1.")
        star, _, loop = self._copy()
        if "rlnClassNumber" in loop and not self._is_classified():
            tag, count = _PREVIOUS, 1
            while tag in loop:
                count += 1
                tag = f"{_PREVIOUS}{count}"
            loop.set_column(tag, loop.column("rlnClassNumber"))
        for tag in list(loop.tags):
            if re.fullmatch(rf"{_EMBEDDING}\d+", tag):
                loop.remove_column(tag)
        loop.set_column("rlnClassNumber", list(numbers))
        loop.set_column("sksubtomoClass", list(names))
        loop.set_column("sksubtomoProbability", [f"{chance:.6f}" for chance in chances])
        if features is not None:
            for k, values in enumerate(features.T, 1):
                loop.set_column(f"{_EMBEDDING}{k}", values)
        return star

    def _is_classified(self) -> bool:
        """Tell whether the class numbers are those of `with_classes`."""
        if "sksubtomoClass" not in self.loop:
            return False
        columns = self.loop.columns(["rlnClassNumber", "sksubtomoClass"])
        pairs = set(zip(*columns.values(), strict=True))
        return all(len({pair[k] for pair in pairs}) == len(pairs) for k in (0, 1))

    def _copy(self) -> tuple[StarFile, Block, Loop]:
        """Return a copy of the file, and the particles' block and table in it."""
        star = self.star.copy()
        block = star.blocks[self.star.blocks.index(self.block)]
        return star, block, block.loops[self.block.loops.index(self.loop)]

    def _strings(self, tag: str) -> list[str] | None:
        return self.loop.column(tag) if tag in self.loop else None

    def _floats(self, tags: Sequence[str]) -> NDArray[np.float64]:
        """Return columns of finite numbers, as an array (n, columns)."""
        found = self.loop.columns(tags)
        return np.stack(
            [_as_floats(found[tag], f"{self.path}: {tag} of particle") for tag in tags],
            axis=1,
        )

    @cached_property
    def _groups(self) -> NDArray[np.intp] | None:
        """Row of each particle's optics group in the optics table."""
        optics = self.optics
        if optics is None:
            return None
        if "rlnOpticsGroup" not in self.loop or "rlnOpticsGroup" not in optics:
            if len(optics) != 1:
                raise ValueError(
                    f"{self.path}: has {len(optics)} optics groups, but the particles "
                    "or the groups have no rlnOpticsGroup, which tells whose they are."
                )
            return np.zeros(len(self), dtype=np.intp)
        numbers = optics.column("rlnOpticsGroup")
        rows = {number: row for row, number in enumerate(numbers)}
        if len(rows) < len(numbers):
            raise ValueError(
                f"{self.path}: an rlnOpticsGroup stands twice in data_optics "
                f"({', '.join(numbers)}); expected each once."
            )
        groups = self.loop.column("rlnOpticsGroup")
        missing = sorted(set(groups) - set(rows))
        if missing:
            raise ValueError(
                f"{self.path}: particle {groups.index(missing[0]) + 1} is of optics "
                f"group {missing[0]}, which data_optics does not have; it has "
                f"{', '.join(numbers) or 'none'}."
            )
        return np.array([rows[group] for group in groups], dtype=np.intp)

    def _optics_values(self, tag: str) -> NDArray[np.float64] | None:
        """Return a column of the optics table, for each particle."""
        if self.optics is None or tag not in self.optics or self._groups is None:
            return None
        values = self.optics.column(tag)
        return _as_floats(values, f"{self.path}: {tag} of optics group")[self._groups]

    def _sizes(self, tag: str) -> NDArray[np.float64] | None:
        """Return a pixel size of each particle: of its optics, or its own."""
        sizes = self._optics_values(tag)
        if sizes is None and tag in self.loop:
            sizes = self._floats([tag])[:, 0]
        return None if sizes is None else self._checked(sizes, tag)

    def _checked(self, sizes: NDArray[np.float64], tag: str) -> NDArray[np.float64]:
        if (sizes <= 0).any():
            i = int(np.argmin(sizes))
            raise ValueError(
                f"{self.path}: {tag} of particle {i + 1} is {sizes[i]:g}; expected "
                "angstroms, above 0."
            )
        return sizes

    @cached_property
    def _image_sizes(self) -> NDArray[np.float64] | None:
        for tag in ("rlnImagePixelSize", "rlnPixelSize"):
            sizes = self._sizes(tag)
            if sizes is not None:
                return sizes
        return self._detector_sizes

    @cached_property
    def _detector_sizes(self) -> NDArray[np.float64] | None:
        """Pixel sizes in angstroms from those of the detector in micrometres."""
        if not _has(self.loop, _DETECTOR):
            return None
        micrometres, magnification = self._floats(_DETECTOR).T
        self._checked(magnification, "rlnMagnification")
        return self._checked(1e4 * micrometres / magnification, "rlnDetectorPixelSize")

    def _one_size(self, sizes: NDArray[np.float64] | None, what: str) -> float | None:
        if sizes is None or not len(sizes):
            return None
        low, high = int(np.argmin(sizes)), int(np.argmax(sizes))
        if sizes[high] - sizes[low] > 1e-3 * sizes[high]:
            raise ValueError(
                f"{self.path}: the {what} is {sizes[low]:g} A for particle {low + 1} "
                f"and {sizes[high]:g} A for particle {high + 1}; expected one for all "
                "particles. Split the file by optics group, or rescale."
            )
        return float(sizes[0])


def find_image(file: str, folder: Path) -> Path | None:
    """Find a file that a STAR file in some folder names.

    Parameters
    ----------
    file : str
        The name.
    folder : Path
        Where the STAR file is.

    Returns
    -------
    Path or None
        The file below that folder, one of the folders above it, or the working
        directory; None if it is not there.
    """
    folder = folder.absolute()
    bases = [folder, *folder.parents, Path.cwd()]
    if Path(file).is_absolute():
        bases = bases[:1]
    for base in bases:
        # OSError: a name that is too long, or a folder that cannot be entered.
        with contextlib.suppress(OSError):
            if (base / file).is_file():
                return base / file
    return None


def _has(loop: Loop, tags: Sequence[str]) -> bool:
    return all(tag in loop for tag in tags)


def _column(sizes: float | NDArray[np.float64] | None) -> Any:
    """Make sizes of particles broadcast against their coordinates."""
    return sizes[:, None] if isinstance(sizes, np.ndarray) else sizes


def _as_floats(values: list[str], what: str) -> NDArray[np.float64]:
    """Convert the values of a column, naming the row of one that is no number."""
    numbers = np.empty(len(values))
    for row, value in enumerate(values):
        try:
            # Python's own float takes "1_000".
            number = float(value) if "_" not in value else np.nan
        except ValueError:
            number = np.nan
        if not np.isfinite(number):
            raise ValueError(
                f"{what} {row + 1} is {value!r}; expected a finite number."
            )
        numbers[row] = number
    return numbers


def euler_angles(rotations: ArrayLike) -> NDArray[np.float64]:
    """Return RELION's angles of rotations.

    Parameters
    ----------
    rotations : array-like of shape (n, 3, 3)
        Rotation matrices that act on vectors (z, y, x) and take the structure to the
        volume.

    Returns
    -------
    ndarray of shape (n, 3)
        ``rlnAngleRot``, ``rlnAngleTilt`` and ``rlnAnglePsi`` in degrees. RELION's
        angles turn about z, y and z and are those of the way back, from the volume to
        the reference [1]_.

    Raises
    ------
    ValueError
        If the matrices are no rotations.

    References
    ----------
    .. [1] Heymann, Chagoyen and Belnap, "Common conventions for interchange and
       archiving of three-dimensional electron microscopy information in structural
       biology", Journal of Structural Biology 151, 2005.

    Examples
    --------
    >>> from sksubtomo.io import euler_angles
    >>> euler_angles([[[1, 0, 0], [0, 0, -1], [0, 1, 0]]]).round() + 0.0
    array([[90.,  0.,  0.]])
    """
    matrices = np.asarray(rotations, dtype=float)
    if matrices.ndim != 3 or matrices.shape[1:] != (3, 3):
        raise ValueError(f"rotations: has shape {matrices.shape}; expected (n, 3, 3).")
    is_rotation = np.isfinite(matrices).all(axis=(1, 2))
    finite = matrices[is_rotation]
    is_rotation[is_rotation] = np.linalg.det(finite) > 0
    products = matrices @ matrices.transpose(0, 2, 1)
    is_rotation &= (abs(products - np.eye(3)) < 1e-3).all(axis=(1, 2))
    if not is_rotation.all():
        worst = int(np.argmin(is_rotation))
        raise ValueError(
            f"rotations: matrix {worst} is no rotation; expected an orthogonal matrix "
            "of determinant 1."
        )
    if not len(matrices):
        return np.empty((0, 3))
    with warnings.catch_warnings():
        # Without tilt, rot and psi turn about one axis and only their sum matters.
        warnings.filterwarnings("ignore", "Gimbal lock")
        backward = Rotation.from_matrix(matrices[:, ::-1, ::-1]).inv()
        return np.asarray(backward.as_euler("ZYZ", degrees=True), dtype=float)


def rotation_matrices(angles: ArrayLike) -> NDArray[np.float64]:
    """Return the rotations of RELION's angles, the inverse of `euler_angles`.

    Parameters
    ----------
    angles : array-like of shape (n, 3)
        ``rlnAngleRot``, ``rlnAngleTilt`` and ``rlnAnglePsi`` in degrees.

    Returns
    -------
    ndarray of shape (n, 3, 3)
        Rotation matrices that act on vectors (z, y, x) and take the structure to the
        volume.

    Raises
    ------
    ValueError
        If the shape is another one, or an angle is not finite.

    Examples
    --------
    >>> from sksubtomo.io import rotation_matrices
    >>> rotation_matrices([[90, 0, 0]]).round() + 0.0
    array([[[ 1.,  0.,  0.],
            [ 0.,  0., -1.],
            [ 0.,  1.,  0.]]])
    """
    degrees = np.asarray(angles, dtype=float)
    if degrees.ndim != 2 or degrees.shape[1] != 3 or not np.isfinite(degrees).all():
        raise ValueError(
            f"angles: has shape {degrees.shape}; expected (n, 3) finite angles in "
            "degrees."
        )
    if not len(degrees):
        return np.empty((0, 3, 3))
    forward = Rotation.from_euler("ZYZ", degrees, degrees=True).inv().as_matrix()
    return np.ascontiguousarray(forward[:, ::-1, ::-1])


def write_particles(
    path: str | Path,
    columns: Mapping[str, Sequence[Any] | NDArray[Any]],
    *,
    optics: Mapping[str, Any] | None = None,
    block: str = "particles",
) -> None:
    """Write a new STAR file of particles, as RELION 5 has it.

    Parameters
    ----------
    path : str or Path
        The file to make or replace, atomically. Its folder has to exist.
    columns : mapping of str to sequence
        Columns by their tags without the leading underscore, one value a particle.
    optics : mapping of str to object, default=None
        What to write as ``data_optics``, such as ``rlnImagePixelSize`` (angstroms),
        ``rlnImageSize`` (voxels), ``rlnVoltage`` (kV): one value for the only optics
        group, or a sequence with one a group. Added where missing: ``rlnOpticsGroup``
        (from 1), ``rlnOpticsGroupName`` and ``rlnImageDimensionality`` 3; and, with
        one group, the particles' ``rlnOpticsGroup``. None writes no such block.
    block : str, default="particles"
        Name of the particles' block, without ``data_``.

    Raises
    ------
    ValueError
        If columns differ in length, or a tag or value cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from sksubtomo.io import read_particles, write_particles
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "particles.star")
    ...     write_particles(
    ...         path,
    ...         {"rlnImageName": ["000001@a.mrc", "000002@a.mrc"]},
    ...         optics={"rlnImagePixelSize": 10.0},
    ...     )
    ...     particles = read_particles(path)
    ...     particles.image_names, particles.voxel_size
    (['000001@a.mrc', '000002@a.mrc'], 10.0)
    """
    if not columns:
        raise ValueError("columns: is empty; expected at least one column.")
    if not re.fullmatch(r"[!-~]*", block):
        raise ValueError(
            f"block: is {block!r}; expected printable ASCII without white space."
        )
    columns = dict(columns)
    text = "\n# version 50001\n"
    if optics is not None:
        table: dict[str, list[Any]] = {
            tag: [values]
            if isinstance(values, str) or np.ndim(values) == 0
            else list(values)
            for tag, values in optics.items()
        }
        n_groups = len(next(iter(table.values()))) if table else 1
        numbers = list(range(1, n_groups + 1))
        added: dict[str, list[Any]] = {
            "rlnOpticsGroup": numbers,
            "rlnOpticsGroupName": [f"opticsGroup{number}" for number in numbers],
            "rlnImageDimensionality": [3] * n_groups,
        }
        table = added | table
        text += _table("optics", table) + "\n# version 50001\n"
        if "rlnOpticsGroup" not in columns and n_groups == 1:
            n_particles = len(next(iter(columns.values())))
            columns["rlnOpticsGroup"] = table["rlnOpticsGroup"] * n_particles
    write_text(Path(path), text + _table(block, columns))


def _table(block: str, columns: Mapping[str, Sequence[Any] | NDArray[Any]]) -> str:
    """Return the text of a block with one loop."""
    for tag in columns:
        check_tag(tag)
    tokens = {tag: format_values(tag, values) for tag, values in columns.items()}
    lengths = {tag: len(values) for tag, values in tokens.items()}
    if len(set(lengths.values())) > 1:
        found = ", ".join(f"{tag} {length}" for tag, length in lengths.items())
        raise ValueError(f"columns of data_{block}: differ in length ({found}).")
    lines = ["", f"data_{block}", "", "loop_"]
    lines += [f"_{tag} #{number}" for number, tag in enumerate(tokens, 1)]
    lines += ["  ".join(row) for row in zip(*tokens.values(), strict=True)]
    return "\n".join(lines) + "\n\n"
