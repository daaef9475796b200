"""What a study is about: volumes with their classes."""

from __future__ import annotations

import csv
import hashlib
from dataclasses import dataclass
from pathlib import Path

import joblib
import numpy as np
from numpy.typing import NDArray

from sksubtomo.datasets import list_phantoms, make_subtomograms
from sksubtomo.io import read_volume_stack
from sksubtomo.study.settings import StudySettings

# Of the embedded phantoms, so that the default study takes minutes.
_N_PHANTOMS = 6


@dataclass(frozen=True)
class StudyData:
    """Volumes and classes; `contents` tells what is in the input files."""

    X: NDArray[np.float32]
    y: NDArray[np.str_]
    voxel_size: float | None
    contents: dict[str, str]


def load_data(settings: StudySettings) -> StudyData:
    """Simulate or read the volumes."""
    if settings.data is None or settings.labels is None:
        return _simulate(settings)
    return _read(Path(settings.data), Path(settings.labels))


def _simulate(settings: StudySettings) -> StudyData:
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
    return StudyData(bunch.data, labels, bunch.voxel_size, contents)


def _read(path: Path, labels_path: Path) -> StudyData:
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
    X = np.ascontiguousarray(volumes, np.float32)
    return StudyData(X, labels, voxel_size, contents)


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
