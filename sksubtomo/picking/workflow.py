"""From the file of a tomogram to a STAR file of picks."""

from __future__ import annotations

import inspect
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sksubtomo._files import write_atomically
from sksubtomo.datasets.imaging import TiltAxis
from sksubtomo.inspection._matplotlib import import_pyplot
from sksubtomo.io._outputs import already_there
from sksubtomo.io.extraction import check_folder, tomogram_stem
from sksubtomo.io.mrc import open_tomogram, open_volume
from sksubtomo.picking.candidates import cut_candidates, resample_template
from sksubtomo.picking.detection import Picks, check_count, pick_particles, write_picks
from sksubtomo.picking.figures import plot_picks
from sksubtomo.picking.ranking import rank_by_correlation
from sksubtomo.picking.selection import SELECTION_NAME, write_contact_sheets

_FORMATS = (".png", ".pdf", ".svg")


def pick_tomogram(
    tomogram: str | Path,
    diameter: float,
    output: str | Path,
    *,
    n_picks: int = 1000,
    contrast: str = "dark",
    voxel_size: float | None = None,
    min_distance: float | None = None,
    border: float | None = None,
    score_range: tuple[float, float] = (-np.inf, np.inf),
    rank: bool = False,
    template: str | Path | None = None,
    n_candidates: int | None = None,
    n_rotations: int = 0,
    tilt_range: tuple[float, float] = (-60.0, 60.0),
    tilt_axis: TiltAxis = "y",
    figure: str | Path | None = None,
    contact_sheets: str | Path | None = None,
    tomogram_name: str | None = None,
    allow_image_stacks: bool = False,
    overwrite: bool = False,
) -> Picks:
    """Pick particles in a tomogram and write them as a STAR file.

    Parameters
    ----------
    tomogram : str or Path
        An MRC file of one tomogram, which is memory-mapped.
    diameter : float
        Diameter of the particles in angstroms.
    output : str or Path
        The STAR file to make, see `write_picks`.
    n_picks : int, default=1000
        Number of particles, if there are as many.
    contrast : {"dark", "light"}, default="dark"
        Whether particles are darker than their surroundings, as in raw tomograms, or
        lighter, as in most simulations.
    voxel_size : float, default=None
        Voxel size in angstroms, which overrides that of the header.
    min_distance : float, default=None
        Smallest distance of two picks in angstroms, see `pick_particles`.
    border : float, default=None
        How far picks stay from the faces of the tomogram, see `pick_particles`.
    score_range : (float, float), default=(-inf, inf)
        Lowest and highest score before ranking, see `pick_particles`.
    rank : bool, default=False
        Rank candidates by their correlation with their own average.
    template : str or Path, default=None
        An MRC file of the particle, light on dark, with its voxel size, by the
        correlation with which candidates are ranked.
    n_candidates : int, default=None
        Number of picks that are ranked, at least `n_picks`. None means twice as many.
    n_rotations : int, default=0
        Orientations of the template; 0 averages over all of them.
    tilt_range : (float, float), default=(-60, 60)
        Smallest and largest tilt in degrees, for ranking.
    tilt_axis : "x", "y" or float, default="y"
        The tilt axis, or its angle from the y axis in degrees, for ranking.
    figure : str or Path, default=None
        Where to draw the picks over slices, as PNG, PDF or SVG by its suffix.
    contact_sheets : str or Path, default=None
        Folder for contact sheets of the picks, see `write_contact_sheets`.
    tomogram_name : str, default=None
        Name of the tomogram in the STAR file. None means its file's without suffix.
    allow_image_stacks : bool, default=False
        Take a file whose header says that it is a stack of images for a tomogram, see
        `open_volume`.
    overwrite : bool, default=False
        Replace files that are there already.

    Returns
    -------
    Picks
        The picks, the best first. Scores are correlation coefficients if they were
        ranked.

    Raises
    ------
    FileExistsError
        If a file to be written is there already.
    FileNotFoundError
        If a file, or the folder of one to be made, does not exist.
    IsADirectoryError, NotADirectoryError
        If a file to be written is a folder, or the folder for contact sheets a file.
    ImportError
        If a figure is asked for and matplotlib is not installed.
    ValueError
        If a file cannot be read, the voxel size is unknown, nothing was found, or a
        parameter is out of range, or is for ranking without `rank` or `template`.

    Warns
    -----
    UserWarning
        If the tomogram looks as if its particles had the other contrast, see
        `pick_particles`.
    """
    tomogram, output = Path(tomogram), Path(output)
    n_picks = check_count("n_picks", n_picks)
    is_ranked = rank or template is not None
    if not is_ranked:
        _check_no_ranking(
            n_candidates=n_candidates,
            n_rotations=n_rotations,
            tilt_range=tuple(tilt_range),
            tilt_axis=tilt_axis,
        )
    n_candidates = 2 * n_picks if n_candidates is None else n_candidates
    n_candidates = check_count("n_candidates", n_candidates)
    if n_candidates < n_picks:
        raise ValueError(
            f"n_candidates={n_candidates} (--candidates) for n_picks={n_picks} "
            "(--number); expected at least as many candidates as picks."
        )
    inputs = [Path(item) for item in (tomogram, template) if item is not None]
    _check_outputs(output, figure, contact_sheets, overwrite, inputs)
    volume, voxel_size = open_tomogram(
        tomogram, voxel_size=voxel_size, allow_image_stacks=allow_image_stacks
    )
    reference = None
    if template is not None:
        reference = open_volume(template)
        if reference[1] is None:
            raise ValueError(
                f"{template}: the header has no voxel size, which a template needs."
            )
    picks = pick_particles(
        volume,
        diameter,
        voxel_size=voxel_size,
        n_picks=n_candidates if is_ranked else n_picks,
        contrast=contrast,
        min_distance=min_distance,
        border=border,
        score_range=score_range,
    )
    if not len(picks):
        raise ValueError(
            f"{tomogram}: no particle of {diameter:g} A was found with "
            f"score_range={score_range!r}; expected at least one."
        )
    if is_ranked:
        boxes, box_voxel_size = cut_candidates(volume, picks, contrast=contrast)
        matched = None
        if reference is not None and reference[1] is not None:
            matched = resample_template(
                reference[0],
                reference[1],
                size=boxes.shape[1],
                new_voxel_size=box_voxel_size,
            )
        scores = rank_by_correlation(
            boxes,
            matched,
            tilt_range=tilt_range,
            tilt_axis=tilt_axis,
            n_rotations=n_rotations,
        )
        picks = picks.sorted_by(scores).first(n_picks)
    name = tomogram_stem(tomogram) if tomogram_name is None else tomogram_name
    if contact_sheets is not None:
        boxes, box_voxel_size = cut_candidates(volume, picks, contrast=contrast)
        write_contact_sheets(
            boxes,
            contact_sheets,
            names=[f"{name}/{number}" for number in range(1, len(picks) + 1)],
            scores=picks.scores,
            voxel_size=box_voxel_size,
            overwrite=overwrite,
        )
    if figure is not None:
        _save_figure(volume, picks, Path(figure))
    write_picks(output, picks, tomogram_name=name, tomogram_shape=volume.shape)
    return picks


def _check_no_ranking(**options: Any) -> None:
    """Refuse options of the ranking, which would do nothing without it."""
    parameters = inspect.signature(pick_tomogram).parameters
    for name, value in options.items():
        if value != parameters[name].default:
            option = name.removeprefix("n_").replace("_", "-")
            raise ValueError(
                f"{name}={value!r} (--{option}) is for ranking; expected it with "
                "rank=True or a template (--rank, --template)."
            )


def _check_outputs(
    output: Path,
    figure: str | Path | None,
    contact_sheets: str | Path | None,
    overwrite: bool,
    inputs: list[Path],
) -> None:
    """Fail before the work, not after it."""
    table = None if contact_sheets is None else Path(contact_sheets, SELECTION_NAME)
    if contact_sheets is not None:
        check_folder(Path(contact_sheets))
    for path in (output, figure, table):
        if path is not None and Path(path).exists() and not overwrite:
            raise already_there(Path(path))
    for path in (output, figure):
        if path is None:
            continue
        if Path(path).is_dir():
            raise IsADirectoryError(f"{path}: is a folder; expected a file to write.")
        folder = Path(path).absolute().parent
        if not folder.is_dir():
            raise FileNotFoundError(f"{path}: there is no folder {folder}.")
        if Path(path).absolute() in [item.absolute() for item in inputs]:
            raise ValueError(f"{path}: is the input; choose another name.")
    if figure is not None:
        suffix = Path(figure).suffix.lower()
        if suffix not in _FORMATS:
            raise ValueError(
                f"{figure}: has the suffix {suffix!r}; expected {', '.join(_FORMATS)}."
            )
    if figure is not None or contact_sheets is not None:
        import_pyplot()


def _save_figure(volume: NDArray[Any], picks: Picks, path: Path) -> None:
    from matplotlib.figure import Figure

    figure = plot_picks(volume, picks, figure=Figure())
    kind = path.suffix[1:].lower()
    write_atomically(path, partial(figure.savefig, dpi=150, format=kind))
