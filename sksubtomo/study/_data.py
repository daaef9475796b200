"""What a study is about: volumes with their classes, and the one split."""

from __future__ import annotations

import csv
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import joblib
import numpy as np
from numpy.typing import NDArray

from sksubtomo.datasets import list_phantoms, make_subtomograms
from sksubtomo.io import read_volume_stack
from sksubtomo.study.settings import StudySettings

# Three for training, one each for validation and test.
_MIN_VOLUMES = 5

# Of the embedded phantoms, so that the default study takes minutes.
_N_PHANTOMS = 6


@dataclass(frozen=True)
class Parts:
    """Volumes and classes, split; `contents` tells what is in the input files."""

    X_train: NDArray[np.float32]
    y_train: NDArray[np.str_]
    X_val: NDArray[np.float32]
    y_val: NDArray[np.str_]
    X_test: NDArray[np.float32]
    y_test: NDArray[np.str_]
    voxel_size: float | None
    contents: dict[str, str]


def load_parts(settings: StudySettings, generator: np.random.Generator) -> Parts:
    """Simulate or read the volumes, and split them."""
    volumes, labels, voxel_size, contents = (
        _simulate(settings)
        if settings.data is None or settings.labels is None
        else _read(Path(settings.data), Path(settings.labels))
    )
    train, validation, test = (
        (np.ascontiguousarray(volumes[rows], np.float32), labels[rows])
        for rows in split_by_class(labels, generator)
    )
    return Parts(*train, *validation, *test, voxel_size, contents)


_Loaded = tuple[NDArray[Any], NDArray[np.str_], float | None, dict[str, str]]


def _simulate(settings: StudySettings) -> _Loaded:
    bunch = make_subtomograms(
        settings.n_per_class,
        structures=(
            list_phantoms()[:_N_PHANTOMS]
            if settings.structures is None
            else settings.structures
        ),
        size=settings.size,
        voxel_size=settings.voxel_size,
        resolution=settings.resolution,
        snr=settings.snr,
        n_neighbors=settings.n_neighbors,
        max_shift=settings.max_shift,
        random_state=settings.seed,
        microscope=None,
        tilt_step=None,
    )
    labels = bunch.target_names.astype(str)[bunch.target]
    contents = {
        structure.name: joblib.hash((structure.coordinates, structure.masses))
        for structure in bunch.structures
    }
    return bunch.data, labels, bunch.voxel_size, contents


def _read(path: Path, labels_path: Path) -> _Loaded:
    volumes, voxel_size = read_volume_stack(path)
    labels = read_labels(labels_path)
    if len(labels) != len(volumes):
        raise ValueError(
            f"{labels_path} has {len(labels)} labels, but {path} holds {len(volumes)} "
            "volumes; expected one for each, in the order of the stack."
        )
    # One at a time, so that a memory map is never held as a whole.
    for row, volume in enumerate(volumes):
        if not np.isfinite(volume).all():
            raise ValueError(
                f"{path}: volume {row} (counted from 0) holds NaN or infinity; "
                "expected finite densities."
            )
    contents = {"data": _digest(path), "labels": _digest(labels_path)}
    return volumes, labels, voxel_size, contents


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return f"{path.stat().st_size} bytes, sha256 {digest}"


def read_labels(path: Path) -> NDArray[np.str_]:
    """Read the column ``label`` of a CSV file."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file.")
    try:
        # Excel marks UTF-8 by a byte-order mark.
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            lines = [(reader.line_num, cells) for cells in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(
            f"{path}: cannot be read as a CSV file in UTF-8 ({error})."
        ) from error
    while lines and not any(cell.strip() for cell in lines[-1][1]):
        lines.pop()
    if not lines:
        raise ValueError(f"{path}: is empty; expected a line of column names.")
    header = [cell.strip() for cell in lines[0][1]]
    if header.count("label") != 1:
        raise ValueError(
            f"{path}: has the columns {header}; expected exactly one that is called "
            "'label'."
        )
    column = header.index("label")
    labels = []
    for number, cells in lines[1:]:
        label = cells[column].strip() if column < len(cells) else ""
        if not label:
            raise ValueError(
                f"{path}, line {number}: the label is empty; expected a class. The "
                "study needs the labels of all volumes, to hide some and to test on "
                "others."
            )
        labels.append(label)
    return np.array(labels, dtype=str)


def split_by_class(
    labels: NDArray[Any], generator: np.random.Generator
) -> list[NDArray[np.intp]]:
    """Split 60:20:20 in each class; return the rows of each part, ascending."""
    classes, counts = np.unique(labels, return_counts=True)
    if len(classes) < 2:
        raise ValueError(
            f"all {len(labels)} volumes are of class {str(classes[0])!r}; expected at "
            "least two classes."
        )
    if counts.min() < _MIN_VOLUMES:
        scarce = classes[counts.argmin()]
        raise ValueError(
            f"class {str(scarce)!r} has {counts.min()} volumes; the split 60:20:20 "
            f"needs at least {_MIN_VOLUMES} of each class."
        )
    part = np.zeros(len(labels), dtype=int)
    for name in classes:
        rows = generator.permutation(np.flatnonzero(labels == name))
        fifth = round(len(rows) / 5)
        part[rows[:fifth]] = 2
        part[rows[fifth : 2 * fifth]] = 1
    return [np.flatnonzero(part == number) for number in range(3)]
