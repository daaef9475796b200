"""The output folder: whose it is, and the finished rows in it."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, fields
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any

import numpy as np

from sksubtomo._files import write_text
from sksubtomo._version import __version__
from sksubtomo.model_selection import LabelFractionRow
from sksubtomo.study._plan import Cell, CellKey
from sksubtomo.study.settings import StudySettings

_COLUMNS = [column.name for column in fields(LabelFractionRow)]
_TYPES: tuple[Callable[[str], Any], ...] = (str, float, int, int, int, float, float)
_ADVICE = "Choose another output folder, or delete this one."


def claim_folder(output: Path, settings: StudySettings, contents: Any) -> None:
    """Make the folder that of this study, or refuse."""
    if output.exists() and not output.is_dir():
        raise NotADirectoryError(f"{output} is a file; expected a folder.")
    identity = _identity(settings, contents)
    path = output / "settings.json"
    if not path.exists():
        for found in (*output.glob("label_fractions*.csv"), *output.glob("cache")):
            raise ValueError(
                f"{found} exists, but {path}, which says what made it, does not. "
                f"{_ADVICE}"
            )
        output.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(identity, indent=2, ensure_ascii=False) + "\n")
        return
    try:
        there = json.loads(path.read_text("utf-8"))
        differences = [
            f"the contents of {name}"
            if group == "files"
            else f"{name} ({there[group].get(name)!r} there, {now.get(name)!r} now)"
            for group, now in identity.items()
            for name in sorted(there[group].keys() | now.keys())
            if there[group].get(name) != now.get(name)
        ]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(
            f"{path}: cannot be read as the settings of a study ({error!r}). {_ADVICE}"
        ) from error
    if differences:
        raise ValueError(
            f"{output} holds a study that differs in {', '.join(differences)}. "
            f"{_ADVICE}"
        )


def _identity(settings: StudySettings, contents: Any) -> Any:
    """Return all that results depend on, as JSON has it."""
    described = {item.name: getattr(settings, item.name) for item in fields(settings)}
    # Where the files lie is no matter, what is in them is.
    for name in ("data", "labels", "structures"):
        if isinstance(described[name], str | Path):
            described[name] = Path(described[name]).name
    packages = ("torch", "numpy", "scipy", "scikit-learn", "skorch")
    versions = {name: installed_version(name) for name in packages}
    identity = {
        "settings": described,
        "files": contents,
        "versions": {"sksubtomo": __version__, **versions},
    }
    # JSON has no infinity.
    return json.loads(
        json.dumps(identity, default=_describe),
        parse_constant=lambda constant: str(float(constant)),
    )


def _describe(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "get_params"):
        return {"class": type(value).__name__, **value.get_params(deep=False)}
    return repr(value)


def read_rows(output: Path, cells: Sequence[Cell]) -> dict[CellKey, LabelFractionRow]:
    """Read the tables of an interrupted study, and trust nothing in them."""
    planned = {cell.key for cell in cells}
    rows: dict[CellKey, LabelFractionRow] = {}
    for table in sorted({cell.table for cell in cells}):
        path = output / table
        if not path.exists():
            continue
        text = path.read_text("utf-8")
        lines = list(csv.reader(io.StringIO(text)))
        if lines[:1] != [_COLUMNS]:
            raise ValueError(
                f"{path}, line 1: expected the columns {','.join(_COLUMNS)}. Delete "
                "the file to compute it again."
            )
        for number, line in enumerate(lines[1:], start=2):
            try:
                if number == len(lines) and not text.endswith("\n"):
                    raise ValueError("has no end, the file was cut short")
                if len(line) != len(_COLUMNS):
                    raise ValueError(f"has {len(line)} fields, not {len(_COLUMNS)}")
                row = LabelFractionRow(
                    *(parse(cell) for parse, cell in zip(_TYPES, line, strict=True))
                )
                key: CellKey = (table, *astuple(row)[:5])
                if key not in planned:
                    raise ValueError("is not a cell of this study")
                if key in rows:
                    raise ValueError("repeats an earlier line")
                if not 0 <= row.accuracy <= 1:
                    raise ValueError(f"accuracy {row.accuracy:g}; expected 0 to 1")
            except ValueError as error:
                raise ValueError(
                    f"{path}, line {number}: {error}. Delete the line (or the file) to "
                    "compute it again."
                ) from error
            rows[key] = row
    return rows


def write_rows(
    output: Path,
    table: str,
    cells: Sequence[Cell],
    rows: Mapping[CellKey, LabelFractionRow],
) -> None:
    """Write the rows of a table in the order of the cells, whenever they were done."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for cell in cells:
        if cell.table == table and cell.key in rows:
            writer.writerow(astuple(rows[cell.key]))
    write_text(output / table, text.getvalue())
