"""The paper's experiment in small: what pretraining is worth when labels are few."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import time
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from functools import partial
from importlib.metadata import version as installed_version
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from tqdm import tqdm

from sksubtomo._labels import draw_by_class
from sksubtomo._parameters import resolve
from sksubtomo._training.runtime import resolve_device
from sksubtomo._version import __version__
from sksubtomo.augmentation import AUGMENTATIONS
from sksubtomo.classification import SubtomogramClassifier
from sksubtomo.contrastive import METHODS, MoCo, SimCLR, SwAV
from sksubtomo.datasets import make_subtomograms
from sksubtomo.inspection import plot_embedding, plot_slices
from sksubtomo.inspection._matplotlib import import_pyplot
from sksubtomo.io import read_volume_stack
from sksubtomo.model_selection import (
    LabelFractionRow,
    LabelFractionSummary,
    plot_label_fractions,
    summarize_label_fractions,
)
from sksubtomo.networks import ENCODERS, RB3D
from sksubtomo.pretraining import ContrastivePretrainer
from sksubtomo.semi_supervised import LabelFractionClassifier

BASELINE = "random"
"""The method that starts from random weights."""

VALIDATION_FROM = 20
"""Fewest labels of a class at which further labels are spent on choosing the epoch."""

_COLUMNS = tuple(column.name for column in fields(LabelFractionRow))
_CSV = "label_fractions.csv"
_SETTINGS = "settings.json"

# What identifies a row: method, label fraction, labels per class and repeat.
_CellKey = tuple[str, float, int, int]

# Three for training, one each for validation and test.
_MIN_VOLUMES = 5

# Volumes looked through for NaN at a time, so that a memory map is never read whole.
_BLOCK = 256


@dataclass(frozen=True, kw_only=True)
class StudySettings:
    """What a study does; all defaults of ``python -m sksubtomo study``.

    Attributes
    ----------
    data : str, Path or None, default=None
        MRC stack of the user's volumes. None means that volumes are simulated.
    labels : str, Path or None, default=None
        CSV file with a column ``label`` in the order of the stack.
    structures : str, Path, sequence or None, default=None
        The classes to simulate, as for `make_subtomograms`; None means all phantoms.
    size : int, default=16
        Side of the simulated volumes in voxels.
    voxel_size : float, default=None
        In angstroms; None means the smallest that fits.
    resolution : float, default=None
        In angstroms; None means two voxels.
    snr : float, default=1.0
        Signal-to-noise variance ratio.
    n_neighbors : int, default=2
        Complexes around the target.
    max_shift : float, default=0.1
        Largest shift off the centre, as a fraction of the side.
    n_per_class : int, default=100
        Simulated volumes of each class, of which 60 % are for training.
    fractions : tuple of float, default=(0.25, 1.0)
        Parts of the training labels to fine-tune on.
    labels_per_class : tuple of int, default=(5,)
        Numbers of labels of each class to fine-tune on.
    repeats : int, default=5
        Number of label subsets and seeds of fine-tuning.
    methods : dict of str to method, default SimCLR, SwAV and MoCo
        The contrastive methods, by the name that the tables have.
    encoder : str or object, default=RB3D(norm="group")
        The network of every row.
    views : str or object, default="rotate_shift_noise"
        The augmentation of pretraining.
    paper_views : str, object or None, default="crop_affine"
        The augmentation shown beside it, at few labels only; None leaves it out.
    epochs : int, default=30
        Of pretraining.
    batch_size : int, default=64
        Of pretraining.
    lr : float, default=1e-3
        Learning rate of pretraining.
    weight_decay : float, default=1e-4
        Of pretraining.
    fine_tune_epochs : int, default=None
        Of fine-tuning; None means the classifier's default. Everything else of
        fine-tuning is the classifier's default.
    device : str, default="cpu"
        Where to compute. On small volumes an accelerator gains little, and the CPU
        gives the same numbers on most machines.
    seed : int, default=0
        Determines data, split, weights, views and label subsets.
    """

    data: str | Path | None = None
    labels: str | Path | None = None
    structures: str | Path | Sequence[Any] | None = None
    size: int = 16
    voxel_size: float | None = None
    resolution: float | None = None
    snr: float = 1.0
    n_neighbors: int = 2
    max_shift: float = 0.1
    n_per_class: int = 100
    fractions: Sequence[float] = (0.25, 1.0)
    labels_per_class: Sequence[int] = (5,)
    repeats: int = 5
    methods: Mapping[str, Any] = field(
        default_factory=lambda: {"simclr": SimCLR(), "swav": SwAV(), "moco": MoCo()}
    )
    encoder: Any = field(default_factory=lambda: RB3D(norm="group"))
    views: Any = "rotate_shift_noise"
    paper_views: Any = "crop_affine"
    epochs: int = 30
    batch_size: int = 64
    lr: float = 1e-3
    weight_decay: float = 1e-4
    fine_tune_epochs: int | None = None
    device: str = "cpu"
    seed: int = 0

    def __post_init__(self) -> None:
        for name, minimum in (
            ("n_per_class", 1),
            ("repeats", 1),
            ("epochs", 1),
            ("batch_size", 1),
            ("fine_tune_epochs", 1),
            ("seed", 0),
        ):
            value = getattr(self, name)
            if name == "fine_tune_epochs" and value is None:
                continue
            if not _is_integer(value) or value < minimum:
                raise ValueError(
                    f"{name}={value!r}; expected an integer of at least {minimum}."
                )
        for fraction in self.fractions:
            if not isinstance(fraction, Real) or not 0 < float(fraction) <= 1:
                raise ValueError(
                    f"fractions holds {fraction!r}; expected numbers above 0 and up to "
                    "1."
                )
        for count in self.labels_per_class:
            if not _is_integer(count) or count < 1:
                raise ValueError(
                    f"labels_per_class holds {count!r}; expected integers of at least "
                    "1."
                )
        if not (self.fractions or self.labels_per_class):
            raise ValueError(
                "fractions and labels_per_class are both empty; expected at least one "
                "number of labels."
            )
        if not self.methods or BASELINE in self.methods:
            raise ValueError(
                f"methods has the names {sorted(self.methods)}; expected at least one, "
                f"and none that is called {BASELINE!r}."
            )
        if (self.data is None) != (self.labels is None):
            given, missing = (
                ("data", "labels") if self.labels is None else ("labels", "data")
            )
            raise ValueError(
                f"{given} was given without {missing}; expected both, a stack of "
                "volumes and a CSV file with their labels, or neither."
            )
        if self.data is not None and self.structures is not None:
            raise ValueError(
                "data and structures were both given; expected volumes of your own or "
                "structures to simulate."
            )
        for name, method in self.methods.items():
            resolve(method, METHODS, f"methods[{name!r}]")
        resolve(self.encoder, ENCODERS, "encoder")
        resolve(self.views, AUGMENTATIONS, "views")
        if self.paper_views is not None:
            resolve(self.paper_views, AUGMENTATIONS, "paper_views")
            name = _name_of_views(self.paper_views)
            if name == _name_of_views(self.views):
                raise ValueError(
                    f"views and paper_views are both {name}; expected different ones, "
                    "or paper_views=None."
                )


@dataclass(frozen=True)
class LabelSetting:
    """A number of labels to fine-tune on.

    Attributes
    ----------
    label_fraction : float
        The fraction that was asked for, or the part of the training labels that a
        number of each class makes.
    labels_per_class : int
        Labels of the class with the fewest.
    n_labels : int
        Labels of all classes.
    per_class : int or None
        The number of each class that was asked for; None if it was a fraction.
    validated : bool
        Whether labels of the validation part choose the epoch.
    few : bool
        Whether the paper's views are shown at it.
    """

    label_fraction: float
    labels_per_class: int
    n_labels: int
    per_class: int | None
    validated: bool
    few: bool


@dataclass(frozen=True)
class StudyResult:
    """What a study found.

    Attributes
    ----------
    rows : list of LabelFractionRow
        The fits from random weights and from pretraining with the main views, as in
        ``label_fractions.csv``.
    paper_rows : list of LabelFractionRow
        The fits from pretraining with the paper's views.
    summaries : list of LabelFractionSummary
        Of `rows`.
    paper_summaries : list of LabelFractionSummary
        Of `paper_rows`, tested against the same random initialisation.
    table : str
        The printed table.
    output : Path
        The folder of the files.
    """

    rows: list[LabelFractionRow]
    paper_rows: list[LabelFractionRow]
    summaries: list[LabelFractionSummary]
    paper_summaries: list[LabelFractionSummary]
    table: str
    output: Path


@dataclass(frozen=True)
class _Data:
    """Volumes and their classes, from wherever."""

    volumes: NDArray[Any]
    labels: NDArray[np.str_]
    voxel_size: float | None
    identity: dict[str, Any]


@dataclass(frozen=True)
class _Parts:
    """The one split."""

    X_train: NDArray[np.float32]
    y_train: NDArray[np.str_]
    X_val: NDArray[np.float32]
    y_val: NDArray[np.str_]
    X_test: NDArray[np.float32]
    y_test: NDArray[np.str_]


@dataclass(frozen=True)
class _Pretraining:
    """What a worker needs to pretrain once."""

    views: str
    method: str
    path: Path
    key: str
    pretrainer: ContrastivePretrainer


@dataclass(frozen=True)
class _Cell:
    """What a worker needs for one row."""

    views: str | None
    method: str
    setting: LabelSetting
    repeat: int
    classifier: LabelFractionClassifier
    pretrained: Path | None


@dataclass(frozen=True)
class _Pretrained:
    """What pretraining leaves on disk."""

    key: str
    pretrainer: ContrastivePretrainer
    seconds: float
    messages: list[tuple[str, type[Warning]]]


def run_study(
    settings: StudySettings | None = None,
    output: str | Path = "study",
    *,
    n_jobs: int | None = None,
    progress: bool = False,
) -> StudyResult:
    """Compare random initialisation with contrastive pretraining at few labels.

    Volumes are simulated or read, and split once, 60:20:20 in each class. Each method
    pretrains on the training part without labels. A classifier is then fine-tuned from
    each and from random weights, on the same labels within a repeat, and tested.

    Parameters
    ----------
    settings : StudySettings, default=None
        What to do; None means all defaults.
    output : str or Path, default="study"
        Folder for tables and figures. If it holds an interrupted study of the same
        settings, that is continued.
    n_jobs : int, default=None
        Number of processes, as for joblib, each with one thread; None means one a core.
        Results do not depend on it.
    progress : bool, default=False
        Whether to show a progress bar on standard error.

    Returns
    -------
    StudyResult
        Rows, summaries and the table.

    Raises
    ------
    ValueError
        If the data do not allow the study, or if `output` holds one of other settings
        or a table that was changed.
    FileNotFoundError
        If a file of the settings does not exist.
    ImportError
        If matplotlib is not installed.
    FloatingPointError
        If a training diverges. Finished fits are kept, as in every interruption.

    Notes
    -----
    Split and pretraining are the same in all repeats: the standard deviation and the
    p-value speak of the choice of labels and the seed of fine-tuning only.

    Examples
    --------
    >>> from sksubtomo.study import StudySettings, run_study
    >>> settings = StudySettings(structures=["groel", "apoferritin"], snr=0.5)
    >>> result = run_study(settings, "groel_study")  # doctest: +SKIP
    >>> print(result.table)  # doctest: +SKIP
    """
    return prepare_study(settings, output).run(n_jobs=n_jobs, progress=progress)


def prepare_study(
    settings: StudySettings | None = None, output: str | Path = "study"
) -> PreparedStudy:
    """Do everything that can fail on bad input, and compute nothing.

    Parameters
    ----------
    settings : StudySettings, default=None
        What to do; None means all defaults.
    output : str or Path, default="study"
        Folder for tables and figures.

    Returns
    -------
    PreparedStudy
        The study, ready to run.

    Raises
    ------
    ValueError
        If the data do not allow the study, or if `output` holds one of other settings
        or a table that was changed.
    FileNotFoundError
        If a file of the settings does not exist.
    ImportError
        If matplotlib is not installed.
    """
    settings = StudySettings() if settings is None else settings
    import_pyplot()
    resolve_device(settings.device)
    data = _simulate(settings) if settings.data is None else _read_data(settings)
    train, validation, test = split_by_class(
        data.labels, np.random.default_rng(_seed(settings, "split"))
    )
    y_train = data.labels[train]
    label_settings = plan_label_settings(
        y_train, settings.fractions, settings.labels_per_class
    )
    output = Path(output)
    if output.exists() and not output.is_dir():
        raise NotADirectoryError(f"{output} is a file; expected a folder.")
    identity = _identity(settings, data)
    _claim_folder(output, identity)

    def volumes(rows: NDArray[np.intp]) -> NDArray[np.float32]:
        return np.ascontiguousarray(data.volumes[rows], dtype=np.float32)

    study = PreparedStudy(
        settings=settings,
        output=output,
        parts=_Parts(
            volumes(train),
            y_train,
            volumes(validation),
            data.labels[validation],
            volumes(test),
            data.labels[test],
        ),
        voxel_size=data.voxel_size,
        label_settings=label_settings,
        key=str(joblib.hash(json.dumps(identity, sort_keys=True))),
    )
    study.read_finished()
    return study


@dataclass
class PreparedStudy:
    """A study whose input has been checked, as `prepare_study` returns it.

    Attributes
    ----------
    settings : StudySettings
        What to do.
    output : Path
        The folder of the files.
    parts : object
        The split.
    voxel_size : float or None
        In angstroms.
    label_settings : list of LabelSetting
        The numbers of labels.
    key : str
        Identifies settings and data in the cache.
    """

    settings: StudySettings
    output: Path
    parts: _Parts
    voxel_size: float | None
    label_settings: list[LabelSetting]
    key: str
    _rows: dict[str, dict[_CellKey, LabelFractionRow]] = field(
        default_factory=dict, init=False, repr=False
    )

    def run(self, *, n_jobs: int | None = None, progress: bool = False) -> StudyResult:
        """Compute what is not yet there, and write tables and figures.

        Parameters
        ----------
        n_jobs : int, default=None
            Number of processes; None means one a core.
        progress : bool, default=False
            Whether to show a progress bar on standard error.

        Returns
        -------
        StudyResult
            Rows, summaries and the table.
        """
        n_jobs = joblib.cpu_count() if n_jobs is None else n_jobs
        self.read_finished()
        pretrainings = self._pretrainings()
        missing = [
            task for task in pretrainings if _load_pretrained(task, self.key) is None
        ]
        cells = [
            cell
            for cell in self._cells()
            if _key(cell) not in self._rows[self._file(cell.views)]
        ]
        # Cells from random weights wait for nothing, and fill the cores that the last
        # pretrainings leave idle.
        first: list[_Pretraining | _Cell] = [
            *missing,
            *(cell for cell in cells if cell.pretrained is None),
        ]
        second: list[_Pretraining | _Cell] = [
            cell for cell in cells if cell.pretrained is not None
        ]
        n_finished = sum(map(len, self._rows.values()))
        with tqdm(
            total=n_finished + len(cells) + len(pretrainings),
            initial=n_finished + len(pretrainings) - len(missing),
            desc="study",
            unit="fit",
            disable=not progress,
        ) as bar:
            for tasks in (first, second):
                for row, cell in _run_tasks(tasks, self.parts, n_jobs):
                    if row is not None:
                        file = self._file(cell.views)
                        self._rows[file][_key(cell)] = row
                        self._write_rows(file)
                    bar.update()
        return self._report(pretrainings)

    def read_finished(self) -> None:
        """Read the cells that an interrupted study left.

        Raises
        ------
        ValueError
            If a table is not what a study of these settings writes.
        """
        planned: dict[str, set[_CellKey]] = {_CSV: set()}
        for cell in self._cells():
            planned.setdefault(self._file(cell.views), set()).add(_key(cell))
        validation = {
            (setting.label_fraction, setting.labels_per_class): (
                self._n_validation(setting)
            )
            for setting in self.label_settings
        }
        self._rows = {}
        for file, keys in planned.items():
            path = self.output / file
            rows = _read_rows(path, keys, validation) if path.exists() else {}
            self._rows[file] = rows

    def _file(self, views: str | None) -> str:
        if views is None or views == _name_of_views(self.settings.views):
            return _CSV
        return f"label_fractions_{views}.csv"

    def _write_rows(self, file: str) -> None:
        """Write all rows of a file, in an order that does not depend on timing."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(_COLUMNS)
        for row in self._sorted_rows(file):
            writer.writerow([getattr(row, column) for column in _COLUMNS])
        _write_atomically(
            self.output / file, lambda path: path.write_text(text.getvalue(), "utf-8")
        )

    def _sorted_rows(self, file: str) -> list[LabelFractionRow]:
        methods = [BASELINE, *self.settings.methods]
        return sorted(
            self._rows[file].values(),
            key=lambda row: (
                row.labels_per_class,
                row.label_fraction,
                methods.index(row.method),
                row.repeat,
            ),
        )

    def _n_validation(self, setting: LabelSetting) -> int:
        return len(self.parts.y_val) if setting.validated else 0

    def _view_groups(self) -> dict[str, Any]:
        groups = {_name_of_views(self.settings.views): self.settings.views}
        if self.settings.paper_views is not None:
            name = _name_of_views(self.settings.paper_views)
            groups[name] = self.settings.paper_views
        return groups

    def _cache_path(self, views: str, method: str) -> Path:
        return self.output / "cache" / f"{views}-{method}.joblib"

    def _pretrainings(self) -> list[_Pretraining]:
        settings = self.settings
        # One seed: all start from the same encoder and take volumes in one order.
        seed = _seed(settings, "pretraining")
        return [
            _Pretraining(
                views=name,
                method=method,
                path=self._cache_path(name, method),
                key=self.key,
                pretrainer=ContrastivePretrainer(
                    method=method_object,
                    encoder=settings.encoder,
                    augmentation=views,
                    max_epochs=settings.epochs,
                    batch_size=settings.batch_size,
                    lr=settings.lr,
                    weight_decay=settings.weight_decay,
                    device=settings.device,
                    random_state=seed,
                ),
            )
            for name, views in self._view_groups().items()
            for method, method_object in settings.methods.items()
        ]

    def _cells(self) -> list[_Cell]:
        """List the cells, those that take longest first."""
        main, *others = self._view_groups()
        cells = []
        for setting in sorted(self.label_settings, key=lambda item: -item.n_labels):
            for repeat in range(self.settings.repeats):
                classifier = self._classifier(setting, repeat)
                cells.append(_Cell(None, BASELINE, setting, repeat, classifier, None))
                for views in [main, *(others if setting.few else [])]:
                    for method in self.settings.methods:
                        path = self._cache_path(views, method)
                        cells.append(
                            _Cell(views, method, setting, repeat, classifier, path)
                        )
        return cells

    def _classifier(
        self, setting: LabelSetting, repeat: int
    ) -> LabelFractionClassifier:
        """Build what all methods share within a repeat: settings, labels and seed."""
        settings = self.settings
        name = (
            f"fraction {setting.label_fraction!r}"
            if setting.per_class is None
            else f"{setting.per_class} per class"
        )
        classifier = SubtomogramClassifier(
            encoder=settings.encoder,
            device=settings.device,
            random_state=_seed(settings, "fine-tuning", name, str(repeat)),
        )
        if settings.fine_tune_epochs is not None:
            classifier.set_params(max_epochs=settings.fine_tune_epochs)
        return LabelFractionClassifier(
            classifier,
            label_fraction=setting.label_fraction,
            labels_per_class=setting.per_class,
            random_state=_seed(settings, "labels", name, str(repeat)),
        )

    def _report(self, pretrainings: Sequence[_Pretraining]) -> StudyResult:
        pretrained = {}
        for task in pretrainings:
            loaded = _load_pretrained(task, self.key)
            if loaded is None:
                raise OSError(f"{task.path}: cannot be read back.")
            pretrained[task.views, task.method] = loaded
            for message, category in loaded.messages:
                warnings.warn(
                    f"pretraining {task.method} with {task.views} views: {message}",
                    category,
                    stacklevel=3,
                )
        main, *others = self._view_groups()
        rows = self._sorted_rows(_CSV)
        paper_rows = [
            row for name in others for row in self._sorted_rows(self._file(name))
        ]
        summaries = summarize_label_fractions(rows, BASELINE)
        baseline = [row for row in rows if row.method == BASELINE]
        paper_summaries = [
            summary
            for summary in summarize_label_fractions([*baseline, *paper_rows], BASELINE)
            if summary.method != BASELINE
        ]
        table = self._table(
            summaries,
            paper_summaries,
            {key: value.seconds for key, value in pretrained.items()},
        )
        _write_atomically(
            self.output / "table.txt", lambda path: path.write_text(table, "utf-8")
        )
        self._draw(
            summaries,
            dict.fromkeys(others, paper_summaries) if paper_summaries else {},
            {
                method: pretrained[main, method].pretrainer
                for method in self.settings.methods
            },
        )
        return StudyResult(
            rows=rows,
            paper_rows=paper_rows,
            summaries=summaries,
            paper_summaries=paper_summaries,
            table=table,
            output=self.output,
        )

    def _table(
        self,
        summaries: Sequence[LabelFractionSummary],
        paper_summaries: Sequence[LabelFractionSummary],
        pretraining_seconds: Mapping[tuple[str, str], float],
    ) -> str:
        settings, parts = self.settings, self.parts
        main, *others = self._view_groups()
        classes = np.unique(parts.y_train)
        depth, height, width = parts.X_train.shape[1:]
        voxel = (
            "voxel size unknown"
            if self.voxel_size is None
            else f"voxels of {self.voxel_size:.3g} Å"
        )
        source = (
            f"simulated, SNR {settings.snr:g}"
            if settings.data is None
            else f"from {Path(settings.data).name}"
        )
        fine_tune_epochs = self._classifier(
            self.label_settings[0], 0
        ).estimator.max_epochs
        chance = self._chance()
        lines = [
            f"{len(classes)} classes: {', '.join(classes)}",
            f"Volumes: {depth} x {height} x {width}, {voxel}, {source}; "
            f"{len(parts.y_train)} training, {len(parts.y_val)} validation, "
            f"{len(parts.y_test)} test",
            f"Encoder {_describe(settings.encoder)}; pretraining {settings.epochs} "
            f"epochs on the training part, views {_describe(settings.views)}"
            + "".join(f" and, beside, {name}" for name in others),
            f"Fine-tuning {fine_tune_epochs} epochs in every row; test accuracy, mean "
            f"± standard deviation over {settings.repeats} repeats (labels and seed); "
            f"chance {100 * chance:.1f} %",
            "p: paired two-tailed t-test against random initialisation on the same "
            "labels",
            "",
        ]
        header = [
            "labels/class",
            "fraction",
            "validation labels",
            "views",
            "method",
            "accuracy (%)",
            "n",
            "p",
        ]
        body = [
            [
                str(row.labels_per_class),
                f"{row.label_fraction:.3g}",
                str(row.validation_labels),
                "-" if row.method == BASELINE else name,
                row.method,
                _mean_and_std(row),
                str(row.n_repeats),
                _format_pvalue(row.pvalue),
            ]
            for name, row in _interleave(main, summaries, others, paper_summaries)
        ]
        widths = [max(map(len, column)) for column in zip(header, *body, strict=True)]
        rule = "  ".join("-" * width for width in widths)
        previous = None
        lines += [_join(header, widths), rule]
        for cells in body:
            if previous is not None and cells[:3] != previous:
                lines.append("")
            previous = cells[:3]
            lines.append(_join(cells, widths))
        lines += [rule, "", self._difficulty(summaries, chance)]
        if any(setting.validated for setting in self.label_settings):
            lines.append(
                f"From {VALIDATION_FROM} labels per class up, the epoch is chosen by "
                f"{len(parts.y_val)} further validation labels; below, the last one "
                "stays."
            )
        lines.append(
            "Pretraining took "
            + ", ".join(
                f"{method} ({views}) {seconds:.0f} s"
                for (views, method), seconds in pretraining_seconds.items()
            )
            + "."
        )
        return "\n".join(lines) + "\n"

    def _chance(self) -> float:
        """Return the test accuracy of always naming the most frequent class."""
        _, counts = np.unique(self.parts.y_test, return_counts=True)
        return float(counts.max() / counts.sum())

    def _difficulty(
        self, summaries: Sequence[LabelFractionSummary], chance: float
    ) -> str:
        everything = [
            row
            for row in summaries
            if row.method == BASELINE and row.label_fraction == 1
        ]
        if not everything:
            return "Random initialisation with all labels was not run."
        (row,) = everything
        # Two standard errors of guessing.
        spread = 2 * np.sqrt(chance * (1 - chance) / len(self.parts.y_test))
        if row.mean >= 0.99:
            verdict = "all but perfect: this study is too easy to compare methods"
        elif row.mean <= chance + spread:
            verdict = "no better than chance: this study is too hard to compare methods"
        else:
            verdict = "neither chance nor perfect"
        return (
            f"Random initialisation with all {len(self.parts.y_train)} training labels "
            f"reaches {100 * row.mean:.1f} % (chance {100 * chance:.1f} %): {verdict}."
        )

    def _draw(
        self,
        summaries: Sequence[LabelFractionSummary],
        compared: Mapping[str, Sequence[LabelFractionSummary]],
        pretrainers: Mapping[str, ContrastivePretrainer],
    ) -> None:
        # No pyplot: it would open windows in a session that has them.
        from matplotlib.figure import Figure

        parts = self.parts
        accuracy = Figure(figsize=(6.4, 3.6), layout="constrained")
        plot_label_fractions(
            summaries,
            compared=compared,
            chance=self._chance(),
            ax=accuracy.add_subplot(),
        )
        slices = plot_slices(
            parts.X_train,
            parts.y_train,
            voxel_size=self.voxel_size,
            figure=Figure(),
        )
        n_rows = len(pretrainers) // 2 + 1
        embedding = Figure(figsize=(5.6, 2.7 * n_rows), layout="constrained")
        axes = embedding.subplots(n_rows, 2).ravel()
        for (method, pretrainer), ax in zip(pretrainers.items(), axes, strict=False):
            with _single_thread():
                features = pretrainer.transform(parts.X_test)
            plot_embedding(features, parts.y_test, legend=False, marker_size=9, ax=ax)
            ax.set_title(method, fontsize="medium")
        for ax in axes[len(pretrainers) :]:
            ax.set_axis_off()
        # The first axes that are left over hold the legend.
        axes[len(pretrainers)].legend(
            *axes[0].get_legend_handles_labels(),
            loc="center",
            frameon=False,
            fontsize="small",
            markerscale=1.8,
            title="Test volumes of",
        )
        figures = {"accuracy": accuracy, "slices": slices, "embedding": embedding}
        for name, figure in figures.items():
            _write_atomically(
                self.output / f"{name}.png",
                partial(figure.savefig, format="png", dpi=200),
            )


def split_by_class(
    labels: NDArray[Any], generator: np.random.Generator
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]:
    """Split 60:20:20 in each class.

    Parameters
    ----------
    labels : ndarray of shape (n,)
        The class of each volume.
    generator : numpy Generator
        Source of randomness.

    Returns
    -------
    train, validation, test : ndarray
        Rows, in ascending order. Validation and test have a fifth of each class,
        rounded, and at least one.

    Raises
    ------
    ValueError
        If there is one class only, or one with fewer than five volumes.
    """
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
    train, validation, test = (np.flatnonzero(part == number) for number in range(3))
    return train, validation, test


def plan_label_settings(
    y_train: NDArray[Any], fractions: Sequence[float], labels_per_class: Sequence[int]
) -> list[LabelSetting]:
    """Work out how many labels each setting uses.

    Parameters
    ----------
    y_train : ndarray of shape (n,)
        Labels of the training part.
    fractions : sequence of float
        Fractions of the labels.
    labels_per_class : sequence of int
        Numbers of labels of each class; a smaller class is taken whole.

    Returns
    -------
    list of LabelSetting
        By number of labels. Settings that use the same labels are one, the fraction.
    """
    _, codes = np.unique(y_train, return_inverse=True)
    planned: dict[tuple[int, ...], LabelSetting] = {}
    asked: list[tuple[float | None, int | None]] = [
        *((float(fraction), None) for fraction in fractions),
        *((None, int(number)) for number in labels_per_class),
    ]
    for fraction, number in asked:
        # How many are drawn does not depend on the seed, and only here is the rule.
        kept = draw_by_class(
            codes,
            float(number) if fraction is None else fraction,  # type: ignore[arg-type]
            np.random.default_rng(0),
            absolute=fraction is None,
        )
        counts = tuple(int(count) for count in np.bincount(codes[kept]))
        few = number is not None
        if counts in planned:
            if few:
                planned[counts] = replace(planned[counts], few=True)
            continue
        planned[counts] = LabelSetting(
            label_fraction=(
                round(sum(counts) / len(codes), 6) if fraction is None else fraction
            ),
            labels_per_class=min(counts),
            n_labels=sum(counts),
            per_class=number,
            validated=min(counts) >= VALIDATION_FROM,
            few=few,
        )
    settings = sorted(planned.values(), key=lambda setting: setting.n_labels)
    if not labels_per_class:
        settings[0] = replace(settings[0], few=True)
    return settings


# --- work, in processes of their own ------------------------------------------------


def _run_tasks(
    tasks: Sequence[_Pretraining | _Cell], parts: _Parts, n_jobs: int
) -> Iterator[tuple[LabelFractionRow | None, Any]]:
    """Yield what is finished, as it is: the row, if it is a cell, and the task."""
    with joblib.parallel_config(backend="loky", n_jobs=n_jobs, inner_max_num_threads=1):
        # Batches would hold finished cells back.
        parallel = joblib.Parallel(return_as="generator_unordered", batch_size=1)
        results = parallel(joblib.delayed(_run_task)(task, parts) for task in tasks)
    try:
        yield from results
    finally:
        # Ends the workers if the consumer was interrupted.
        results.close()


def _run_task(
    task: _Pretraining | _Cell, parts: _Parts
) -> tuple[LabelFractionRow | None, _Pretraining | _Cell]:
    with _single_thread():
        if isinstance(task, _Pretraining):
            _pretrain(task, parts.X_train)
            return None, task
        return _fine_tune(task, parts), task


def _pretrain(task: _Pretraining, volumes: NDArray[np.float32]) -> None:
    """Pretrain, and leave the result on disk, whatever becomes of the parent."""
    start = time.perf_counter()
    # Warnings of other processes would be lost; they are kept for the report.
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            pretrainer = clone(task.pretrainer).fit(volumes)
        except FloatingPointError as error:
            raise FloatingPointError(
                f"pretraining {task.method} with {task.views} views: {error}"
            ) from error
    messages = {str(warning.message): warning.category for warning in caught}
    result = _Pretrained(
        key=task.key,
        pretrainer=pretrainer,
        seconds=round(time.perf_counter() - start, 1),
        messages=list(messages.items()),
    )
    task.path.parent.mkdir(parents=True, exist_ok=True)
    _write_atomically(task.path, lambda path: joblib.dump(result, path))


def _load_pretrained(task: _Pretraining, key: str) -> _Pretrained | None:
    if not task.path.exists():
        return None
    try:
        loaded = joblib.load(task.path)
    # A damaged pickle raises anything. What was lost is computed again.
    except Exception:
        return None
    if not isinstance(loaded, _Pretrained) or loaded.key != key:
        return None
    return loaded


def _fine_tune(cell: _Cell, parts: _Parts) -> LabelFractionRow:
    # Cells of one repeat share theirs where they share a process.
    classifier = clone(cell.classifier)
    if cell.pretrained is not None:
        pretrainer = joblib.load(cell.pretrained).pretrainer
        classifier.set_params(estimator__pretrainer=FrozenEstimator(pretrainer))
    validation = (parts.X_val, parts.y_val) if cell.setting.validated else None
    start = time.perf_counter()
    try:
        classifier.fit(parts.X_train, parts.y_train, validation_data=validation)
    except FloatingPointError as error:
        raise FloatingPointError(
            f"fine-tuning from {cell.method} on {cell.setting.n_labels} labels, repeat "
            f"{cell.repeat}: {error}"
        ) from error
    predicted = classifier.predict(parts.X_test)
    seconds = time.perf_counter() - start
    return LabelFractionRow(
        method=cell.method,
        label_fraction=cell.setting.label_fraction,
        labels_per_class=cell.setting.labels_per_class,
        validation_labels=0 if validation is None else len(parts.y_val),
        repeat=cell.repeat,
        accuracy=round(float(np.mean(predicted == parts.y_test)), 6),
        seconds=round(seconds, 2),
    )


@contextmanager
def _single_thread() -> Iterator[None]:
    """Let torch use one thread: sums then have one order, whatever `n_jobs`."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


# --- data ---------------------------------------------------------------------------


def _simulate(settings: StudySettings) -> _Data:
    bunch = make_subtomograms(
        settings.n_per_class,
        structures=settings.structures,
        size=settings.size,
        voxel_size=settings.voxel_size,
        resolution=settings.resolution,
        snr=settings.snr,
        n_neighbors=settings.n_neighbors,
        max_shift=settings.max_shift,
        random_state=settings.seed,
    )
    return _Data(
        volumes=bunch.data,
        labels=bunch.target_names.astype(str)[bunch.target],
        voxel_size=bunch.voxel_size,
        identity={
            structure.name: joblib.hash((structure.coordinates, structure.masses))
            for structure in bunch.structures
        },
    )


def _read_data(settings: StudySettings) -> _Data:
    assert settings.data is not None
    assert settings.labels is not None
    path, labels_path = Path(settings.data), Path(settings.labels)
    volumes, voxel_size = read_volume_stack(path)
    labels = read_labels(labels_path)
    if len(labels) != len(volumes):
        raise ValueError(
            f"{labels_path} has {len(labels)} labels, but {path} holds {len(volumes)} "
            "volumes; expected one for each, in the order of the stack."
        )
    for start in range(0, len(volumes), _BLOCK):
        block = np.asarray(volumes[start : start + _BLOCK])
        bad = ~np.isfinite(block).all(axis=(1, 2, 3))
        if bad.any():
            raise ValueError(
                f"{path}: volume {start + int(bad.argmax())} (counted from 0) holds "
                "NaN or infinity; expected finite densities."
            )
    return _Data(
        volumes=volumes,
        labels=labels,
        voxel_size=voxel_size,
        identity={"data": _digest(path), "labels": _digest(labels_path)},
    )


def read_labels(path: str | Path) -> NDArray[np.str_]:
    """Read the column ``label`` of a CSV file.

    Parameters
    ----------
    path : str or Path
        A comma-separated file with a line of column names, in UTF-8.

    Returns
    -------
    ndarray of str
        The labels, without blanks around them.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is not such a file, has no column ``label`` or more than one, or if a
        label is empty.
    """
    path = Path(path)
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


# --- the output folder --------------------------------------------------------------


def _identity(settings: StudySettings, data: _Data) -> dict[str, Any]:
    """Return all that results depend on, as JSON has it."""
    described = {
        item.name: _to_json(getattr(settings, item.name)) for item in fields(settings)
    }
    # Where the files lie is no matter, what is in them is.
    for name in ("data", "labels", "structures"):
        if isinstance(described[name], str):
            described[name] = Path(described[name]).name
    packages = ("torch", "numpy", "scipy", "scikit-learn", "skorch")
    return {
        "settings": described,
        "files": data.identity,
        "versions": {
            "sksubtomo": __version__,
            **{package: installed_version(package) for package in packages},
        },
    }


def _claim_folder(output: Path, identity: dict[str, Any]) -> None:
    """Make the folder that of this study, or refuse."""
    path = output / _SETTINGS
    advice = "Choose another output folder, or delete this one."
    if not path.exists():
        if (output / _CSV).exists():
            raise ValueError(
                f"{output / _CSV} exists, but {path}, which says what made it, does "
                f"not. {advice}"
            )
        output.mkdir(parents=True, exist_ok=True)
        text = json.dumps(identity, indent=2, ensure_ascii=False) + "\n"
        _write_atomically(path, lambda new: new.write_text(text, "utf-8"))
        return
    try:
        found = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(
            f"{path}: cannot be read as the settings of a study ({error}). {advice}"
        ) from error
    if found == identity:
        return
    differences = []
    for group, wanted in identity.items():
        present = found.get(group) if isinstance(found, dict) else None
        if not isinstance(present, dict):
            raise ValueError(
                f"{path}: has no {group!r}; expected the settings of a study. {advice}"
            )
        for name in sorted(wanted.keys() | present.keys()):
            if present.get(name) != wanted.get(name):
                differences.append(
                    f"the contents of {name}"
                    if group == "files"
                    else f"{name} ({present.get(name)!r} there, {wanted.get(name)!r} "
                    "now)"
                )
    raise ValueError(
        f"{output} holds a study that differs in {', '.join(differences)}. {advice}"
    )


def _read_rows(
    path: Path,
    planned: set[_CellKey],
    validation: Mapping[tuple[float, int], int],
) -> dict[_CellKey, LabelFractionRow]:
    """Read the table of an interrupted study, and trust nothing in it."""
    advice = "Delete the line (or the file) to compute it again."
    text = path.read_text("utf-8")
    lines = list(csv.reader(io.StringIO(text)))
    if not lines or tuple(lines[0]) != _COLUMNS:
        raise ValueError(
            f"{path}, line 1: expected the columns {','.join(_COLUMNS)}. Delete the "
            "file to compute it again."
        )
    if not text.endswith("\n"):
        raise ValueError(
            f"{path}, line {len(lines)}: has no end, the file was cut short. {advice}"
        )
    rows: dict[_CellKey, LabelFractionRow] = {}
    for number, cells in enumerate(lines[1:], start=2):
        where = f"{path}, line {number}"
        if len(cells) != len(_COLUMNS):
            raise ValueError(
                f"{where}: has {len(cells)} fields; expected {len(_COLUMNS)}. {advice}"
            )
        try:
            row = LabelFractionRow(
                cells[0],
                float(cells[1]),
                int(cells[2]),
                int(cells[3]),
                int(cells[4]),
                float(cells[5]),
                float(cells[6]),
            )
        except ValueError as error:
            raise ValueError(f"{where}: {error}. {advice}") from error
        key = (row.method, row.label_fraction, row.labels_per_class, row.repeat)
        setting = (row.label_fraction, row.labels_per_class)
        if key not in planned or row.validation_labels != validation[setting]:
            raise ValueError(f"{where}: is not a cell of this study. {advice}")
        if key in rows:
            raise ValueError(f"{where}: repeats an earlier line. {advice}")
        if not (0 <= row.accuracy <= 1 and 0 <= row.seconds < np.inf):
            raise ValueError(
                f"{where}: accuracy {row.accuracy:g} and seconds {row.seconds:g}; "
                f"expected 0 to 1, and a duration. {advice}"
            )
        rows[key] = row
    return rows


def _write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Write beside, then rename: whatever happens, the old file or the new is there."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write(beside)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


# --- small things -------------------------------------------------------------------


def _key(cell: _Cell) -> _CellKey:
    setting = cell.setting
    return cell.method, setting.label_fraction, setting.labels_per_class, cell.repeat


def _seed(settings: StudySettings, *purpose: str) -> int:
    """Derive a seed; another purpose does not change it."""
    words = [settings.seed, *(zlib.crc32(word.encode()) for word in purpose)]
    return int(np.random.SeedSequence(words).generate_state(1)[0])


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return f"{path.stat().st_size} bytes, sha256 {digest}"


def _is_integer(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _name_of_views(views: Any) -> str:
    if isinstance(views, str):
        return views
    for name, augmentation in AUGMENTATIONS.items():
        if type(views) is augmentation:
            return name
    return type(views).__name__


def _describe(value: Any) -> str:
    """Return a parameter object on one line."""
    return value if isinstance(value, str) else " ".join(repr(value).split())


def _to_json(value: Any) -> Any:
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        # JSON has no infinity.
        return float(value) if np.isfinite(float(value)) else str(float(value))
    if isinstance(value, Mapping):
        return {str(name): _to_json(item) for name, item in value.items()}
    if isinstance(value, Sequence):
        return [_to_json(item) for item in value]
    if hasattr(value, "get_params"):
        parameters = _to_json(value.get_params(deep=False))
        return {"class": type(value).__name__, **parameters}
    return repr(value)


def _interleave(
    main: str,
    summaries: Sequence[LabelFractionSummary],
    others: Sequence[str],
    paper_summaries: Sequence[LabelFractionSummary],
) -> list[tuple[str, LabelFractionSummary]]:
    """Put the paper's views below the main ones at the same number of labels."""
    named = [
        *((main, row) for row in summaries),
        *((name, row) for name in others for row in paper_summaries),
    ]
    return sorted(
        named, key=lambda item: (item[1].labels_per_class, item[1].label_fraction)
    )


def _mean_and_std(row: LabelFractionSummary) -> str:
    if np.isnan(row.std):
        return f"{100 * row.mean:.1f}"
    return f"{100 * row.mean:.1f} ± {100 * row.std:.1f}"


def _format_pvalue(pvalue: float) -> str:
    if np.isnan(pvalue):
        return "-"
    return "< 0.0001" if pvalue < 1e-4 else f"{pvalue:.4f}"


def _join(cells: Sequence[str], widths: Sequence[int]) -> str:
    """Align a line: text to the left, numbers to the right."""
    text = {3, 4}
    return "  ".join(
        cell.ljust(width) if column in text else cell.rjust(width)
        for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ).rstrip()
