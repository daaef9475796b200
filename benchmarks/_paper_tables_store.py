"""The table of `paper_tables` on disk, which several processes add to."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock

from sksubtomo._files import write_text

COLUMNS = (
    *("method", "dataset", "snr", "label_fraction", "labels_per_class"),
    *("validation_labels", "repeat", "accuracy", "seconds"),
)
CONVERGENCE_COLUMNS = (
    *("method", "dataset", "snr", "repeat", "epoch"),
    *("loss", "probe_accuracy", "seconds"),
)


class Cell(NamedTuple):
    """What tells one number of the table from all others."""

    method: str
    dataset: str
    snr: float
    labels_per_class: int
    repeat: int


def read_lines(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def read_cells(path: Path) -> set[Cell]:
    """Return the cells that are in the table."""
    return {
        Cell(
            line["method"],
            line["dataset"],
            float(line["snr"]),
            int(line["labels_per_class"]),
            int(line["repeat"]),
        )
        for line in read_lines(path)
    }


def append(path: Path, columns: Sequence[str], line: Mapping[str, Any]) -> None:
    """Add a line to a CSV file, or replace that of the same measurement."""
    measured = ("accuracy", "seconds", "loss", "probe_accuracy")
    keys = [name for name in columns if name not in measured]
    line = {name: str(line[name]) for name in columns}
    with lock(path):
        lines = [
            other
            for other in read_lines(path)
            if any(other[name] != line[name] for name in keys)
        ]
        write_lines(path, columns, [*lines, line])


def write_lines(
    path: Path, columns: Sequence[str], lines: Iterable[Mapping[str, str]]
) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    write_text(path, text.getvalue())


def lock(path: Path) -> FileLock:
    """Return the lock of a file, which is not left beside it."""
    name = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:16]
    return FileLock(Path(tempfile.gettempdir(), f"paper_tables_{name}.lock"))


def convergence_path(table: Path) -> Path:
    """Return the file of the losses and probes of a table's pretrainings."""
    return table.with_name(f"{table.stem}_convergence.csv")


def record_path(table: Path) -> Path:
    """Return the file of a table's settings, and of what made it."""
    return table.with_suffix(".json")


def read_record(table: Path) -> dict[str, Any]:
    path = record_path(table)
    return json.loads(path.read_text("utf-8")) if path.exists() else {}


def write_record(table: Path, record: Mapping[str, Any]) -> None:
    write_text(record_path(table), json.dumps(record, indent=1) + "\n")
