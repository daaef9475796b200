"""Labels of particles."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sksubtomo.io.particles import read_particles

# What STAR and RELION write where there is no value.
_NO_VALUE = ("", ".", "?", "None")


def read_labels(
    path: str | Path, names: Sequence[str], *, labels_column: str | None = None
) -> NDArray[np.object_]:
    r"""Read the labels of particles, from a CSV or a STAR file.

    Parameters
    ----------
    path : str or Path
        A CSV file with the columns ``particle`` and ``label`` (others are not read),
        the particle as the STAR file names it. Or a STAR file of particles.
    names : sequence of str
        Names of the particles, for example `Subtomograms.names`.
    labels_column : str, default=None
        Column of the STAR file, with or without the leading underscore. Its rows are
        found by ``rlnImageName``; without that, and if there are as many as names, by
        their order. None means that the file is a CSV.

    Returns
    -------
    ndarray of shape (n,) of object
        For each name its label, a str; None if it has none, because the label is empty
        (in a STAR file also ``.``, ``?`` or ``None``) or the particle is not there.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If a particle is unknown, has two labels or a name that several particles share,
        or the file is not as it should be. The message names the line.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from sksubtomo.io import read_labels
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "labels.csv")
    ...     _ = path.write_text(
    ...         "particle,label\n000002@a.mrc,ribosome\n000001@a.mrc,\n"
    ...     )
    ...     read_labels(path, ["000001@a.mrc", "000002@a.mrc", "000003@a.mrc"])
    array([None, 'ribosome', None], dtype=object)
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path}: is a folder; expected a CSV or STAR file.")
    names = [str(name) for name in names]
    labels = np.full(len(names), None, dtype=object)
    if labels_column is not None:
        rows, in_order = _star_rows(path, labels_column.removeprefix("_"))
        if in_order:
            if len(rows) != len(names):
                raise ValueError(
                    f"{path}: has {len(rows)} particles and no rlnImageName; expected "
                    f"{len(names)}, as many as there are, or their names."
                )
            labels[:] = [None if label in _NO_VALUE else label for *_, label in rows]
            return labels
    else:
        rows = list(_csv_rows(path))
    indices = {name: index for index, name in enumerate(names)}
    counts = Counter(names) if len(indices) < len(names) else {}
    given: dict[str, tuple[str, str]] = {}
    for place, name, label in rows:
        if name not in indices:
            raise ValueError(
                f"{path}, {place}: the particle {shorten(name)} is unknown; expected "
                f"one of the {len(names)} names, such as {names[:1]}."
            )
        if counts and counts[name] > 1:
            raise ValueError(
                f"{path}, {place}: the name {name!r} belongs to {counts[name]} "
                "particles, so its label is unclear; expected different names."
            )
        if name in given:
            before, other = given[name]
            what = "again"
            if label != other:
                what = f"{shorten(other)} and now {shorten(label)}"
            raise ValueError(
                f"{path}, {place}: the particle {name!r} has a label since {before}, "
                f"{what}; expected each particle once."
            )
        given[name] = (place, label)
        if label not in (_NO_VALUE if labels_column is not None else ("",)):
            labels[indices[name]] = label
    return labels


def shorten(label: str) -> str:
    """Return a label as a message shows it.

    Parameters
    ----------
    label : str
        The label, or a name.

    Returns
    -------
    str
        In quotes, and not longer than a line or so.
    """
    return repr(label if len(label) <= 80 else f"{label[:77]}...")


def _star_rows(path: Path, column: str) -> tuple[list[tuple[str, str, str]], bool]:
    """Return places, names and labels of a STAR file, and whether it has no names."""
    particles = read_particles(path)
    labels = particles.loop.column(column)
    names = particles.image_names
    rows = [
        (f"particle {row}", name, label)
        for row, (name, label) in enumerate(
            zip(names or [""] * len(labels), labels, strict=True), 1
        )
    ]
    return rows, names is None


def _csv_rows(path: Path) -> Iterator[tuple[str, str, str]]:
    """Yield places, names and labels of a CSV file."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file.")
    try:
        # With or without a byte order mark.
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}: the byte at {error.start} is not UTF-8; expected text."
        ) from None
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        if header.count("particle") != 1 or header.count("label") != 1:
            raise ValueError(
                f"{path}, line 1: has the columns [{', '.join(map(shorten, header))}]; "
                "expected 'particle' and 'label', each once, with commas between."
            )
        particle, label = header.index("particle"), header.index("label")
        for row in reader:
            if not any(value.strip() for value in row):
                continue
            place = f"line {reader.line_num}"
            if len(row) != len(header):
                raise ValueError(
                    f"{path}, {place}: has {len(row)} values; expected {len(header)}, "
                    "with quotes around one that holds a comma."
                )
            yield place, row[particle].strip(), row[label].strip()
    except csv.Error as error:
        raise ValueError(
            f"{path}, line {reader.line_num}: cannot be read as CSV ({error})."
        ) from None
