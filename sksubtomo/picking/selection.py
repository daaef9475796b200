"""Candidates to choose from by eye, and what was chosen."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sksubtomo._files import write_atomically, write_text
from sksubtomo.inspection._matplotlib import import_pyplot
from sksubtomo.io._outputs import already_there
from sksubtomo.io.extraction import particle_names
from sksubtomo.io.particles import read_particles

SELECTION_NAME = "selection.csv"

_COLUMNS = ("number", "particle", "score", "selected")
_YES = ("1", "x", "y", "yes", "true")
_NO = ("", "0", "n", "no", "false")
# Width of a cell, height of its slices' label, and of a page's title, in inches.
_CELL, _LABEL, _TITLE = 0.95, 0.2, 0.45


def write_contact_sheets(
    volumes: NDArray[Any],
    folder: str | Path,
    *,
    names: Sequence[str] | None = None,
    scores: NDArray[Any] | None = None,
    voxel_size: float | None = None,
    thickness: int | None = None,
    n_columns: int = 10,
    n_rows: int = 10,
    overwrite: bool = False,
) -> list[Path]:
    """Write pages of pictures of candidates, and a table to mark the chosen ones in.

    Parameters
    ----------
    volumes : ndarray of shape (n, depth, height, width)
        The candidates, the best first. A memory map is read page by page.
    folder : str or Path
        Where to write; made if it is missing.
    names : sequence of str, default=None
        Names of the candidates, as the STAR file has them. None means their numbers.
    scores : ndarray of shape (n,), default=None
        Their scores, which go into the table.
    voxel_size : float, default=None
        Voxel size in angstroms, for the title.
    thickness : int, default=None
        Number of z slices around the middle whose mean is shown. None means a quarter
        of the depth.
    n_columns, n_rows : int, default=10
        Candidates across and down a page.
    overwrite : bool, default=False
        Replace a table that is there already, in which work may have gone.

    Returns
    -------
    list of Path
        The pages, ``sheet_001.png`` and so on. The table is ``selection.csv``, with the
        columns ``number`` (on the pages, from 1), ``particle``, ``score`` and
        ``selected``, which is empty: 1 marks a chosen candidate.

    Raises
    ------
    FileExistsError
        If the table is there already.
    ImportError
        If matplotlib is not installed.
    ValueError
        If shapes do not fit.

    See Also
    --------
    read_selection : Read the table back.
    """
    if volumes.ndim != 4 or not len(volumes):
        raise ValueError(
            f"volumes have shape {volumes.shape}; expected (n, depth, height, width), "
            "at least one."
        )
    n = len(volumes)
    names = [str(number) for number in range(1, n + 1)] if names is None else names
    for parameter, values in (("names", names), ("scores", scores)):
        if values is not None and len(values) != n:
            raise ValueError(
                f"{parameter} has {len(values)} values; expected {n}, one a volume."
            )
    for parameter, number in (("n_columns", n_columns), ("n_rows", n_rows)):
        if number < 1:
            raise ValueError(f"{parameter}={number!r}; expected at least 1.")
    thickness = max(1, volumes.shape[1] // 4) if thickness is None else thickness
    if not 1 <= thickness <= volumes.shape[1]:
        raise ValueError(
            f"thickness={thickness!r}; expected 1 to {volumes.shape[1]} slices."
        )
    folder = Path(folder)
    table = folder / SELECTION_NAME
    if table.exists() and not overwrite:
        raise already_there(table)
    import_pyplot()
    folder.mkdir(parents=True, exist_ok=True)
    per_page = n_columns * n_rows
    n_pages = -(-n // per_page)
    pages = []
    for page in range(n_pages):
        first = page * per_page
        figure = _draw_page(
            volumes[first : first + per_page],
            first,
            n_columns,
            thickness,
            f"Page {page + 1} of {n_pages}; mean of {thickness} z slices"
            + ("" if voxel_size is None else f" of {voxel_size:.3g} Å")
            + f"; box {volumes.shape[3]} voxels"
            + (
                ""
                if voxel_size is None
                else f" = {volumes.shape[3] * voxel_size / 10:.3g} nm"
            ),
        )
        path = folder / f"sheet_{page + 1:03d}.png"
        # The name of the file beside has no suffix that would tell the format.
        write_atomically(path, partial(figure.savefig, dpi=110, format="png"))
        pages.append(path)
    # What an earlier, longer run left would not belong to the table any more.
    for old in folder.glob("sheet_[0-9][0-9][0-9].png"):
        if old not in pages:
            old.unlink()
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for index, name in enumerate(names):
        score = "" if scores is None else f"{scores[index]:.6g}"
        writer.writerow([index + 1, name, score, ""])
    write_text(table, text.getvalue())
    return pages


def read_selection(path: str | Path) -> list[str]:
    r"""Read which candidates were chosen.

    Parameters
    ----------
    path : str or Path
        Either a CSV file with the columns ``particle`` and ``selected``, such as
        `write_contact_sheets` makes, in which 1, x, y, yes and true mean chosen, and
        0, n, no, false and nothing mean not. Or a STAR file whose particles are all
        chosen, such as one that another program left of the candidates.

    Returns
    -------
    list of str
        Names of the chosen particles, in the file's order: for a STAR file their
        ``rlnTomoParticleName``, else their ``rlnImageName``.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is not as it should be, or nothing is chosen.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from sksubtomo.picking import read_selection
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "selection.csv")
    ...     _ = path.write_text("particle,selected\nTS_01/1,1\nTS_01/2,\nTS_01/3,x\n")
    ...     read_selection(path)
    ['TS_01/1', 'TS_01/3']
    """
    path = Path(path)
    if path.suffix.lower() == ".star":
        table = read_particles(path)
        if "rlnTomoParticleName" not in table.loop and table.image_names is None:
            raise ValueError(
                f"{path}: has neither rlnTomoParticleName nor rlnImageName, by which "
                "its particles could be found again; expected one of them."
            )
        selected = particle_names(table)
    else:
        selected = _read_csv(path)
    if not selected:
        raise ValueError(
            f"{path}: no particle is selected; expected a 1 in the column selected for "
            "each that is."
        )
    return selected


def _read_csv(path: Path) -> list[str]:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file.")
    try:
        # Spreadsheets write a byte order mark.
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: is not text in UTF-8 ({error}).") from None
    # Spreadsheets of some languages write semicolons.
    header = text.partition("\n")[0]
    delimiter = max(",;\t", key=header.count)
    selected = []
    try:
        reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
        columns = [str(name).strip() for name in reader.fieldnames or ()]
        reader.fieldnames = columns
        for column in ("particle", "selected"):
            if columns.count(column) != 1:
                raise ValueError(
                    f"{path}: has {columns.count(column)} columns called {column}; "
                    f"expected one. Its columns are {', '.join(columns) or 'none'}."
                )
        for row in reader:
            answer = (row["selected"] or "").strip().lower()
            if answer in _YES:
                selected.append((row["particle"] or "").strip())
            elif answer not in _NO:
                raise ValueError(
                    f"{path}, line {reader.line_num}: selected is {answer!r}; expected "
                    f"one of {', '.join(_YES)}, or nothing, {', '.join(_NO[1:])}."
                )
    except csv.Error as error:
        raise ValueError(f"{path}: cannot be read as CSV ({error}).") from None
    return selected


def _draw_page(
    volumes: NDArray[Any], first: int, n_columns: int, thickness: int, title: str
) -> Any:
    """Draw a page; the figure is not pyplot's, so that none stay open."""
    from matplotlib.figure import Figure

    n_rows = -(-len(volumes) // n_columns)
    width = max(n_columns * _CELL, 4.5)
    height = n_rows * (_CELL + _LABEL) + _TITLE
    figure = Figure(figsize=(width, height))
    grid = figure.subplots(
        n_rows,
        n_columns,
        squeeze=False,
        gridspec_kw={
            "left": 0.01,
            "right": 0.99,
            "bottom": 0.01,
            "top": 1 - (_TITLE + _LABEL) / height,
            "wspace": 0.05,
            "hspace": _LABEL / _CELL + 0.05,
        },
    )
    start = (volumes.shape[1] - thickness + 1) // 2
    for ax in grid.flat:
        ax.set_axis_off()
    for index, (ax, volume) in enumerate(zip(grid.flat, volumes, strict=False)):
        image = np.asarray(volume[start : start + thickness]).mean(0, dtype=np.float64)
        low, high = np.percentile(image, [1, 99])
        ax.imshow(image, cmap="gray", vmin=low, vmax=high, origin="lower")
        ax.set_title(str(first + index + 1), fontsize=8, pad=2)
    figure.suptitle(title, fontsize=9, y=1 - 0.1 / height, va="top")
    return figure
