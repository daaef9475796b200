"""Measure the paper's tables, what beats them, and an ablation, on equal terms.

    python benchmarks/paper_tables.py --scale small --folder WORK --jobs 2
        [--structures DIR]
    python benchmarks/paper_tables.py --scale paper --folder WORK --device cuda \
        --jobs 4 --compile step --limit-minutes 9 [--structures DIR]
    python benchmarks/paper_tables.py --scale small --report

The claim: the recommended recipe is far above everything in the paper with the same
labels, and with a quarter of them at or above a plain batch-normalised network with
all of them. The goals, with their numbers, are in the report.

Equal terms: all rows of a repeat have the same volumes, split, labels and seed. Every
pretraining has the same number of epochs, and its loss and a linear probe on the
validation part are written down on the way. The paper's rows are fine-tuned with Adam
for at least a fixed number of steps, however few the labels, and a second time as in
the paper (rows ``..._sgd``). From 20 labels a class on, the validation part chooses the
epoch, in every row; below, the last epoch stays. The test part is only scored; at the
small scale it is enlarged by further volumes of the same simulation. Data, rows and
epochs are in ``_paper_tables_settings.py``.

The table is its own memory: what is in the CSV is not computed again, so the same
command goes on where an earlier one was stopped, by ``--limit-minutes`` or by a crash.
Simulated volumes, checkpoints and pretrained encoders stay in ``--folder``. Options
that cut a scale down (``--n-per-class`` and so on) need another ``--output``, and the
results are called so. Several processes of the script, with columns or repeats of their
own, may share ``--folder`` and ``--output`` on one machine. ``--estimate`` only
measures how long it would take. ``--output`` with another folder measures all anew.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import multiprocessing
import os
import platform
import queue
import shlex
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import _measure
import numpy as np
import torch
from _paper_tables_report import write_pages, write_text_report
from _paper_tables_settings import (
    CANDIDATES,
    ROWS,
    SCALES,
    VALIDATION_FROM,
    DataSet,
    Row,
    Scale,
)
from _paper_tables_store import (
    COLUMNS,
    CONVERGENCE_COLUMNS,
    Cell,
    append,
    convergence_path,
    lock,
    read_cells,
    read_lines,
    read_record,
    record_path,
    write_lines,
    write_record,
)
from numpy.typing import NDArray
from sklearn import config_context
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from skorch.callbacks import Callback
from threadpoolctl import threadpool_limits

import sksubtomo
from sksubtomo import (
    ContrastivePretrainer,
    LabelFractionClassifier,
    SubtomogramClassifier,
)
from sksubtomo._training.batches import batch_borders
from sksubtomo._training.fitting import enough_epochs
from sksubtomo._training.inference import apply_in_batches
from sksubtomo._training.runtime import resolve_device
from sksubtomo.datasets import (
    fetch_structure,
    list_phantoms,
    load_phantom,
    load_structure,
    make_subtomograms,
    simulation_preset,
)
from sksubtomo.datasets.structures import list_structure_files

RESULTS = Path(__file__).parent / "results"
REPOSITORY = Path(__file__).resolve().parents[1]
DOCS = REPOSITORY / "docs"

# Parts of a pretraining after which its encoder is probed.
PROBED = (1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 3 / 8, 1 / 2, 5 / 8, 3 / 4, 7 / 8, 1)


class Unit(NamedTuple):
    """Rows of one repeat and column that share a pretraining, or have none."""

    repeat: int
    dataset: str
    snr: float
    methods: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """What to compute, where and how; everything a process has to know.

    `simplified` data are simulated without what fits the whole size, and no
    fine-tuning is longer than `most_epochs`. Both are for scales that are cut down.
    """

    scale: Scale
    table: Path
    folder: Path
    methods: tuple[str, ...]
    labels: tuple[str, ...]
    columns: tuple[tuple[str, float], ...]
    device: str
    precision: str
    compile: str | None
    simplified: bool = False
    most_epochs: int | None = None


def main() -> int:
    parser = make_parser()
    options = parser.parse_args()
    scale, cuts = cut_down(SCALES[options.scale], options)
    if cuts and options.output.resolve() == RESULTS.resolve():
        parser.error(
            f"{', '.join(cuts)} cut the scale down; expected another --output than "
            "that of whole scales."
        )
    stem = f"paper_tables_{options.scale}" + ("_cut" if cuts else "")
    table = options.output / f"{stem}.csv"
    if options.report:
        is_official = options.output.resolve() == RESULTS.resolve()
        write_pages(table, scale, DOCS if is_official else options.output)
        return 0
    if options.folder is None:
        parser.error("--folder is missing: where volumes and encoders are kept.")
    try:
        device = resolve_device(options.device)
    except ValueError as error:
        parser.error(f"--device: {error}")
    columns = {
        f"{name}:{snr:g}": (name, snr)
        for name, data in scale.data.items()
        for snr in data.snrs
    }
    plan = Plan(
        scale=scale,
        table=table,
        folder=options.folder,
        methods=select(
            parser,
            "--methods",
            options.methods or ",".join(default_methods(options.scale)),
            ROWS,
        ),
        labels=select(parser, "--labels", options.labels, scale.labels),
        columns=tuple(
            columns[name]
            for name in select(parser, "--columns", options.columns, columns)
        ),
        device=str(device),
        precision=options.precision,
        compile=options.compile,
        simplified=options.size is not None or options.phantoms,
        most_epochs=options.most_epochs,
    )
    # Whoever ends the script ends its processes.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    torch.set_num_threads(1)
    # Somebody may edit it while this runs.
    code = code_state()
    start = time.monotonic()
    end = start + 60 * options.limit_minutes
    for name in ("data", "checkpoints", "pretrained"):
        (plan.folder / name).mkdir(parents=True, exist_ok=True)
    table.parent.mkdir(parents=True, exist_ok=True)
    try:
        for name, snr in plan.columns:
            simulate(plan, name, snr, options)
    except OSError as error:
        # Of structures that are neither there nor to be had.
        parser.error(f"--structures: {error}")
    if options.estimate:
        estimate(plan)
        return 0
    claim(plan, drops_others=options.replace)
    units = plan_units(plan, range(*options.repeats))
    # Before anything is computed: one that is killed has made cells, too.
    session = add_session(plan, code)
    try:
        work_at_once(plan, units, options.jobs, end)
    finally:
        end_session(plan, session, time.monotonic() - start)
    print(write_text_report(table, scale))
    n_missing = sum(len(missing_cells(plan, unit)) for unit in units)
    if n_missing:
        print(f"{n_missing} cells are not done; the same command goes on", flush=True)
    return 1 if n_missing and time.monotonic() < end else 0


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--scale", choices=list(SCALES), default="small")
    add("--folder", type=Path, help="volumes, checkpoints and encoders are kept here")
    add("--output", type=Path, default=RESULTS, help="where the CSV is")
    add("--structures", type=Path, default=os.environ.get("SKSUBTOMO_STRUCTURES"))
    add("--methods", help="some of the rows: random,simclr")
    add("--labels", help="some of the scale's: 5,25%%")
    add("--columns", help="some of the scale's: gupta2022:0.05,gupta2022:inf")
    add("--repeats", type=span, default="0:9", help="FIRST:LAST, last one excluded")
    add("--jobs", type=int, default=1, help="processes, each of one thread")
    add("--device", default="cpu")
    add("--precision", default="auto")
    add("--compile", choices=["encoder", "step"])
    add("--limit-minutes", type=float, default=float("inf"))
    add("--estimate", action="store_true", help="only say how long it takes")
    add("--report", action="store_true", help="only write tables, figure and page")
    add("--replace", action="store_true", help="drop cells of other settings")
    cut = parser.add_argument_group("options that cut the scale down").add_argument
    for name in (*CUTS_OF_DATA, *CUTS_OF_SCALE):
        cut(f"--{name.replace('_', '-')}", type=int)
    cut("--most-epochs", type=int, help="of any fine-tuning, whatever its recipe says")
    cut("--phantoms", action="store_true", help="embedded phantoms as the classes")
    return parser


CUTS_OF_DATA = ("n_per_class", "n_extra", "size")
CUTS_OF_SCALE = ("pretrain_epochs", "fine_tune_epochs", "fine_tune_steps")


def default_methods(scale: str) -> list[str]:
    """Return the rows of a scale: the candidates are those of the development data."""
    if scale == "development":
        return ["recommended", *CANDIDATES]
    return [method for method in ROWS if method not in CANDIDATES]


def span(text: str) -> tuple[int, int]:
    first, _, last = text.partition(":")
    return int(first), int(last) if last else int(first) + 1


def cut_down(scale: Scale, options: argparse.Namespace) -> tuple[Scale, list[str]]:
    """Return the scale as the options change it, and the options that do."""

    def given(names: Iterable[str]) -> dict[str, int]:
        values = {name: getattr(options, name) for name in names}
        return {name: value for name, value in values.items() if value is not None}

    of_data, of_scale = given(CUTS_OF_DATA), given(CUTS_OF_SCALE)
    cuts = [f"--{name.replace('_', '-')}" for name in (*of_data, *of_scale)]
    data = {name: replace(item, **of_data) for name, item in scale.data.items()}
    if options.phantoms:
        cuts.append("--phantoms")
        classes = tuple(list_phantoms())
        data = {n: replace(d, classes=classes, preset=None) for n, d in data.items()}
    if options.most_epochs is not None:
        cuts.append("--most-epochs")
    return replace(scale, data=data, **of_scale), cuts


def select(
    parser: argparse.ArgumentParser, name: str, text: str | None, known: Iterable[Any]
) -> tuple[Any, ...]:
    """Return what an option names, in the order of all that there are."""
    known = tuple(known)
    chosen = known if text is None else text.split(",")
    if unknown := [item for item in chosen if item not in known]:
        parser.error(f"{name} has {unknown}; expected some of {', '.join(known)}.")
    return tuple(item for item in known if item in chosen)


def simulate(plan: Plan, name: str, snr: float, options: argparse.Namespace) -> None:
    """Simulate the volumes of one column, class by class, unless they are there."""
    path = data_path(plan, name, snr)
    # Another process may be at the same: then this one waits, and finds them.
    with lock(path):
        if path.exists():
            return
        print(f"simulating {name}, SNR {snr:g}", flush=True)
        X, _ = make_subtomograms(
            **simulation_parameters(plan, name, options.structures),
            snr=snr,
            # The further volumes of a class have the last ranks in it.
            shuffle=False,
            random_state=plan.scale.data_seed,
            n_jobs=options.jobs,
            return_X_y=True,
        )
        beside = path.with_suffix(".tmp.npy")
        np.save(beside, X)
        os.replace(beside, path)


def simulation_parameters(plan: Plan, name: str, folder: Path | None) -> dict[str, Any]:
    """Return what the simulator gets, the classes' structures included."""
    data = plan.scale.data[name]
    if data.preset is not None:
        parameters = simulation_preset(data.preset, structures=folder)
    else:
        structures = load_classes(data.classes, folder)
        parameters = {"structures": structures, **data.simulation}
    if plan.simplified:
        # These would show a small part of the scene, or nothing that is sharp.
        fitting = ("voxel_size", "resolution", "low_pass", "microscope")
        parameters = {k: v for k, v in parameters.items() if k not in fitting}
    parameters["n_per_class"] = data.n_per_class + data.n_extra
    parameters["size"] = data.size
    return parameters


def load_classes(names: Iterable[str], folder: Path | None) -> list[Any]:
    """Load phantoms, and entries from a folder or, where they are not, by download."""
    found = {}
    if folder is not None:
        found = {name.lower(): path for name, path in list_structure_files(folder)}
    structures = []
    for name in names:
        if name in list_phantoms():
            structures.append(load_phantom(name))
            continue
        if name not in found:
            print(f"{name} is not in --structures: from the wwPDB", flush=True)
        path = found.get(name) or fetch_structure(name)
        structures.append(load_structure(path, name=name))
    return structures


def data_path(plan: Plan, name: str, snr: float) -> Path:
    settings: list[Any] = [asdict(plan.scale.data[name]), plan.scale.data_seed]
    del settings[0]["snrs"]
    if plan.simplified:
        settings.append("simplified")
    return plan.folder / "data" / f"{name}_{snr:g}_{digest(settings)}.npy"


class Parts(NamedTuple):
    """The volumes of one repeat and their classes."""

    X: NDArray[np.float32]
    y: NDArray[np.int64]
    X_val: NDArray[np.float32]
    y_val: NDArray[np.int64]
    X_test: NDArray[np.float32]
    y_test: NDArray[np.int64]


def load_parts(path: Path, data: DataSet, repeat: int) -> Parts:
    """Split the volumes of a column as this repeat does, the same in every row."""
    volumes = np.load(path, mmap_mode="r")
    n_of_class = data.n_per_class + data.n_extra
    generator = np.random.default_rng([2022, repeat])
    rows: list[list[int]] = [[], [], []]
    for start in range(0, len(volumes), n_of_class):
        order = start + generator.permutation(data.n_per_class)
        bounds = (data.n_train, data.n_train + data.n_held_out)
        for part, chosen in zip(rows, np.split(order, bounds), strict=True):
            part.extend(chosen.tolist())
        rows[2].extend(range(start + data.n_per_class, start + n_of_class))
    # Shuffled, because batches of a validation part would otherwise be of one class.
    taken = [generator.permutation(part) for part in rows]
    parts = [(np.ascontiguousarray(volumes[i]), i // n_of_class) for i in taken]
    return Parts(*(array for part in parts for array in part))


def plan_units(plan: Plan, repeats: Iterable[int]) -> list[Unit]:
    """Return what is not done: whole repeats first, and in each the long units first.

    A pretraining is longer than any fine-tuning, but for those of ``late`` rows.
    """
    done = read_cells(plan.table)
    units = []
    for repeat in repeats:
        of_repeat = []
        for name, snr in plan.columns:
            groups: dict[str, list[str]] = {}
            for method in plan.methods:
                if repeat >= plan.scale.repeats_of(method):
                    continue
                pretrainer = build(plan, method, name).pretrainer
                key = method if pretrainer is None else describe(pretrainer)
                groups.setdefault(key, []).append(method)
            of_repeat += [
                (any(ROWS[method].late for method in group), key in ROWS, unit)
                for key, group in groups.items()
                if missing_cells(
                    plan, unit := Unit(repeat, name, snr, tuple(group)), done
                )
            ]
        of_repeat.sort(key=lambda item: item[:2])
        units += [unit for _, _, unit in of_repeat]
    return units


def build(
    plan: Plan, method: str, dataset: str, fraction: float = 1.0
) -> SubtomogramClassifier:
    """Return the unfitted classifier of a row."""
    return ROWS[method].build(plan.scale.data[dataset].protocol, fraction)


def missing_cells(plan: Plan, unit: Unit, done: set[Cell] | None = None) -> list[Cell]:
    """Return the cells of a unit that are not in the table."""
    done = read_cells(plan.table) if done is None else done
    data = plan.scale.data[unit.dataset]
    cells = [
        Cell(method, unit.dataset, unit.snr, data.n_labels(label), unit.repeat)
        for method in unit.methods
        for label in labels_of(plan, method)
    ]
    return [cell for cell in dict.fromkeys(cells) if cell not in done]


def labels_of(plan: Plan, method: str) -> list[str]:
    """Return the labels that a row is computed at."""
    return [
        label for label in plan.labels if label in (ROWS[method].labels or plan.labels)
    ]


def work_at_once(plan: Plan, units: list[Unit], n_jobs: int, end: float) -> None:
    """Let processes do the units, until they are done or the time is up."""
    if n_jobs == 1 and end == float("inf"):
        for unit in units:
            do_unit(plan, unit)
        return
    context = multiprocessing.get_context("spawn")
    jobs = context.Queue()
    for unit in units:
        jobs.put(unit)
    workers = [
        context.Process(target=work, args=(plan, jobs))
        for _ in range(min(n_jobs, len(units)))
    ]
    for worker in workers:
        worker.start()
    try:
        for worker in workers:
            left = end - time.monotonic()
            worker.join(None if left == float("inf") else max(0.0, left))
    finally:
        for worker in workers:
            # Nothing is lost but the epoch or the fine-tuning that is under way.
            worker.kill()
            worker.join()
        # What nobody has taken must not keep this process waiting.
        jobs.cancel_join_thread()


def work(plan: Plan, jobs: Any) -> None:
    """Do one unit after the other."""
    torch.set_num_threads(1)
    parent = multiprocessing.parent_process()
    while parent is not None and parent.is_alive():
        try:
            unit = jobs.get(timeout=1)
        except queue.Empty:
            return
        do_unit(plan, unit)


def do_unit(plan: Plan, unit: Unit) -> None:
    """Compute the missing cells of a unit; what fails is reported and left out."""
    data = plan.scale.data[unit.dataset]
    cells = missing_cells(plan, unit)
    parts = load_parts(data_path(plan, unit.dataset, unit.snr), data, unit.repeat)
    for cell in cells:
        try:
            with threadpool_limits(1):
                compute_cell(plan, unit, cell, parts)
        except Exception:
            # The others are computed all the same, and this one in the next run.
            print(f"{tuple(cell)}: failed\n{traceback.format_exc()}", flush=True)


def compute_cell(plan: Plan, unit: Unit, cell: Cell, parts: Parts) -> None:
    """Pretrain unless it is done, fine-tune, test, and add a line to the table."""
    data = plan.scale.data[cell.dataset]
    fraction = cell.labels_per_class / data.n_train
    classifier = build(plan, cell.method, cell.dataset, fraction)
    n_labeled = len(data.classes) * cell.labels_per_class
    epochs = fine_tune_epochs(plan.scale, ROWS[cell.method], classifier, n_labeled)
    if plan.most_epochs is not None:
        epochs = min(plan.most_epochs, count_epochs(epochs, classifier, n_labeled))
    classifier.set_params(
        max_epochs=epochs,
        device=plan.device,
        precision=plan.precision,
        random_state=cell.repeat,
    )
    if classifier.pretrainer is not None:
        fitted = pretrain(plan, unit, classifier.pretrainer, parts)
        classifier.set_params(pretrainer=FrozenEstimator(fitted))
    model = LabelFractionClassifier(
        classifier, labels_per_class=cell.labels_per_class, random_state=cell.repeat
    )
    validation = None
    if cell.labels_per_class >= VALIDATION_FROM:
        validation = (parts.X_val, parts.y_val)
    start = time.perf_counter()
    model.fit(parts.X, parts.y, validation_data=validation)
    accuracy = float(model.score(parts.X_test, parts.y_test))
    seconds = time.perf_counter() - start
    append(
        plan.table,
        COLUMNS,
        {
            **cell._asdict(),
            "snr": f"{cell.snr:g}",
            "label_fraction": f"{fraction:.4g}",
            "validation_labels": 0 if validation is None else len(parts.y_val),
            "accuracy": f"{accuracy:.5f}",
            "seconds": f"{seconds:.1f}",
        },
    )
    print(
        f"{cell.dataset} SNR {cell.snr:g}, repeat {cell.repeat}, {cell.method}, "
        f"{cell.labels_per_class} labels: {accuracy:.3f} ({seconds:.0f} s)",
        flush=True,
    )


def fine_tune_epochs(
    scale: Scale, row: Row, classifier: SubtomogramClassifier, n_labeled: int
) -> int | str:
    """Return the epochs of a fine-tuning: enough steps, however few the labels."""
    if row.own_epochs:
        return classifier.max_epochs
    steps = len(batch_borders(n_labeled, classifier.batch_size)) - 1
    wanted = row.steps or scale.fine_tune_steps
    return max(scale.fine_tune_epochs, math.ceil(wanted / steps))


def count_epochs(
    epochs: int | str, classifier: SubtomogramClassifier, n_labeled: int
) -> int:
    """Return the number that "auto" stands for."""
    if epochs == "auto":
        return enough_epochs(n_labeled, classifier.batch_size)
    return int(epochs)


def pretrain(
    plan: Plan, unit: Unit, pretrainer: ContrastivePretrainer, parts: Parts
) -> ContrastivePretrainer:
    """Pretrain on the training part, or go on, or take what is done already."""
    method, finished, checkpoints = pretraining_of(plan, unit)
    # Another process may be at the same: then this one waits, and loads what it made.
    with lock(finished):
        if not finished.exists():
            pretrainer.set_params(
                max_epochs=plan.scale.pretrain_epochs,
                random_state=unit.repeat,
                checkpoint_dir=checkpoints,
                callbacks=[Probe(convergence_path(plan.table), method, unit, parts)],
                device=plan.device,
                precision=plan.precision,
                compile=plan.compile,
            )
            pretrainer.fit(parts.X)
            pretrainer.save(finished)
            shutil.rmtree(checkpoints, ignore_errors=True)
    return ContrastivePretrainer.load(finished)


class Pretraining(NamedTuple):
    """The row that a pretraining is called after, and where it is kept."""

    method: str | None
    finished: Path
    checkpoints: Path


def pretraining_of(plan: Plan, unit: Unit) -> Pretraining:
    """Return the name and the places of a unit's pretraining."""
    method = pretraining_row(plan, unit.methods[0], unit.dataset)
    pretrainer = build(plan, unit.methods[0], unit.dataset).pretrainer.set_params(
        max_epochs=plan.scale.pretrain_epochs, random_state=unit.repeat
    )
    path = data_path(plan, unit.dataset, unit.snr)
    key = digest([path.name, describe(pretrainer), unit.repeat, plan.precision])
    name = f"{method}_{unit.dataset}_{unit.snr:g}_{unit.repeat}_{key}"
    return Pretraining(
        method, plan.folder / "pretrained" / name, plan.folder / "checkpoints" / name
    )


def pretraining_row(plan: Plan, method: str, dataset: str) -> str | None:
    """Return the first row with the same pretraining, whichever are asked for."""
    pretrainer = build(plan, method, dataset).pretrainer
    rows = first_rows(plan.scale.data[dataset].protocol)
    return None if pretrainer is None else rows[describe(pretrainer)]


@cache
def first_rows(protocol: str) -> dict[str, str]:
    """Return the first row of each pretraining."""
    found: dict[str, str] = {}
    for method, row in ROWS.items():
        pretrainer = row.build(protocol, 1.0).pretrainer
        if pretrainer is not None:
            found.setdefault(describe(pretrainer), method)
    return found


class Probe(Callback):
    """Write down the loss and a linear probe of the encoder, some times.

    The probe is a logistic regression on the features of the whole training part with
    its labels, scored on the validation part. It decides nothing.

    Parameters
    ----------
    path : Path
        The CSV file.
    method : str
        The row that the pretraining is called after.
    unit : Unit
        What is pretrained.
    parts : Parts
        Its volumes.
    """

    def __init__(self, path: Path, method: str, unit: Unit, parts: Parts) -> None:
        self.path = path
        self.method = method
        self.unit = unit
        self.parts = parts

    def on_train_begin(self, net: Any, **kwargs: Any) -> None:
        """Probe the untrained encoder."""
        if not net.history:
            self._probe(net, float("nan"))

    def on_epoch_end(self, net: Any, **kwargs: Any) -> None:
        """Probe after some of the epochs."""
        if len(net.history) in {math.ceil(net.max_epochs * part) for part in PROBED}:
            self._probe(net, net.history[-1]["train_loss"])

    def _probe(self, net: Any, loss: float) -> None:
        parts, encoder = self.parts, net.module_.encoder
        device, training = torch.device(net.device), encoder.training
        features, held_out = (
            apply_in_batches(encoder, volumes, net.normalizer, device)
            for volumes in (parts.X, parts.X_val)
        )
        encoder.train(training)
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=5000))
        accuracy = model.fit(features, parts.y).score(held_out, parts.y_val)
        seconds = sum(epoch.get("dur", 0.0) for epoch in net.history)
        append(
            self.path,
            CONVERGENCE_COLUMNS,
            {
                "method": self.method,
                "dataset": self.unit.dataset,
                "snr": f"{self.unit.snr:g}",
                "repeat": self.unit.repeat,
                "epoch": len(net.history),
                "loss": f"{loss:.5f}",
                "probe_accuracy": f"{accuracy:.5f}",
                "seconds": f"{seconds:.1f}",
            },
        )


def describe(estimator: Any) -> str:
    """Return an estimator with all its parameters, defaults included."""
    with config_context(print_changed_only=False):
        return " ".join(estimator.__repr__(N_CHAR_MAX=10**6).split())


def describe_row(plan: Plan, method: str, dataset: str) -> str:
    """Return the classifier of a row, or those that it has by the number of labels."""
    data = plan.scale.data[dataset]
    numbers = sorted({data.n_labels(label) for label in plan.scale.labels})
    texts = [
        describe(build(plan, method, dataset, number / data.n_train))
        for number in reversed(numbers)
    ]
    steps = ROWS[method].steps
    least = f", for at least {steps} steps" if steps else ""
    return " or ".join(dict.fromkeys(texts)) + least


def digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def claim(plan: Plan, *, drops_others: bool) -> None:
    """Refuse a table that has cells of other settings, or drop them."""
    settings = {
        **asdict(plan.scale),
        "precision": plan.precision,
        "validation_from": VALIDATION_FROM,
    }
    if plan.most_epochs is not None:
        settings["most_epochs"] = plan.most_epochs
    # More of these are further cells.
    for name in ("labels", "repeats", "paper_repeats"):
        del settings[name]
    for data in settings["data"].values():
        del data["snrs"]
    # What a file gives back.
    settings = json.loads(json.dumps(settings))
    rows = {
        method: {name: describe_row(plan, method, name) for name in plan.scale.data}
        for method in plan.methods
    }
    with lock(plan.table):
        record = read_record(plan.table)
        methods = {cell.method for cell in read_cells(plan.table)}
        old, old_rows = record.get("settings", settings), record.get("rows", {})
        problem, dropped = "", set()
        if methods and "settings" not in record:
            problem = (
                f"cells, but {record_path(plan.table).name} does not say of which "
                "settings they are"
            )
            dropped = methods
        elif old != settings:
            problem = f"cells of other settings: {differences(old, settings)}"
            dropped = methods
        elif dropped := {
            method
            for method in methods & rows.keys()
            if old_rows.get(method) != rows[method]
        }:
            changes = differences(
                {method: old_rows.get(method) for method in dropped},
                {method: rows[method] for method in dropped},
            )
            problem = f"rows of classifiers with other parameters: {changes}"
        if dropped and not drops_others:
            raise SystemExit(
                f"{plan.table} has {problem}. Give another --output, or --replace to "
                "drop them."
            )
        drop_cells(plan, dropped)
        if old != settings:
            drop_curves(plan, None)
        elif dropped:
            drop_curves(plan, dropped)
        kept = {} if old != settings else old_rows
        write_record(
            plan.table, {**record, "settings": settings, "rows": {**kept, **rows}}
        )


def drop_cells(plan: Plan, methods: set[str]) -> None:
    """Remove the cells of some rows; whoever calls holds the lock."""
    lines = read_lines(plan.table)
    kept = [line for line in lines if line["method"] not in methods]
    if len(kept) < len(lines):
        write_lines(plan.table, COLUMNS, kept)


def drop_curves(plan: Plan, methods: set[str] | None) -> None:
    """Remove losses and probes of pretrainings that have to be done again.

    A pretraining that is in the folder, finished or begun, is not done again.

    Parameters
    ----------
    plan : Plan
        What is computed.
    methods : set of str, default=None
        The rows whose pretrainings are looked at; None is all of them.
    """
    path = convergence_path(plan.table)
    with lock(path):
        lines = read_lines(path)
        kept = [line for line in lines if not is_outdated(plan, line, methods)]
        if len(kept) < len(lines):
            write_lines(path, CONVERGENCE_COLUMNS, kept)


def is_outdated(plan: Plan, line: dict[str, str], methods: set[str] | None) -> bool:
    """Tell whether a line is of a pretraining that has to be done again."""
    method, dataset = line["method"], line["dataset"]
    if method not in ROWS or dataset not in plan.scale.data:
        return methods is None or method in methods
    if methods is not None and method not in {
        pretraining_row(plan, name, dataset) for name in methods
    }:
        return False
    unit = Unit(int(line["repeat"]), dataset, float(line["snr"]), (method,))
    _, finished, checkpoints = pretraining_of(plan, unit)
    return not (finished.exists() or checkpoints.exists())


def differences(old: Any, new: Any, name: str = "") -> str:
    """Say in which entries two settings differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        found = (
            differences(old.get(key), new.get(key), f"{name}.{key}".strip("."))
            for key in sorted(old.keys() | new.keys())
        )
        return "; ".join(filter(None, found))
    return "" if old == new else f"{name} {old!r}, expected {new!r}"


def code_state() -> str:
    """Return the commit of script and package, and whether they differ from it."""
    packaged = f"sksubtomo {version('sksubtomo')}"
    if not Path(sksubtomo.__file__).resolve().is_relative_to(REPOSITORY):
        return packaged

    def ask(*arguments: str) -> str:
        # Without locks: a commit that is made meanwhile must not fail.
        command = ["git", "--no-optional-locks", "-C", str(REPOSITORY), *arguments]
        return subprocess.run(
            command, capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        commit = ask("rev-parse", "--short=12", "HEAD")
        # The results change while the table is made.
        changed = ask("status", "--porcelain", "--", "sksubtomo", "benchmarks/*.py")
    except (OSError, subprocess.CalledProcessError):
        return packaged
    return f"commit {commit}" + (" with uncommitted changes" if changed else "")


def add_session(plan: Plan, code: str) -> int:
    """Write down what makes a part of the table, and return which session it is."""
    packages = ("sksubtomo", "numpy", "scipy", "scikit-learn", "skorch", "torch")
    versions = {"Python": platform.python_version()}
    versions |= {name: version(name) for name in packages}
    device = torch.device(plan.device)
    accelerator = [] if device.type == "cpu" else [device.type]
    if device.type == "cuda":
        accelerator = [torch.cuda.get_device_name(device)]
    session = {
        "command": "python benchmarks/paper_tables.py " + shlex.join(shown_arguments()),
        "machine": ", ".join([*accelerator, _measure.machine()]),
        "code": code,
        "versions": ", ".join(f"{name} {number}" for name, number in versions.items()),
    }
    with lock(plan.table):
        record = read_record(plan.table)
        sessions = [*record.get("sessions", []), session]
        write_record(plan.table, {**record, "sessions": sessions})
    return len(sessions) - 1


def end_session(plan: Plan, number: int, seconds: float) -> None:
    """Write down how long a session took."""
    with lock(plan.table):
        record = read_record(plan.table)
        record["sessions"][number]["minutes"] = round(seconds / 60, 1)
        write_record(plan.table, record)


def shown_arguments() -> list[str]:
    """Return the arguments, folders without their place."""
    hidden = {"--structures": "DIR", "--folder": "WORK", "--output": "OUT"}
    arguments = sys.argv[1:]
    return [
        hidden.get(before, argument)
        for before, argument in zip([None, *arguments], arguments, strict=False)
    ]


def estimate(plan: Plan) -> None:
    """Say how long each row takes on one thread, from a few steps of it."""
    total, pretrained = 0.0, set()
    print(f"{'minutes of all repeats':<40} {'pretraining':>12} {'cells':>8}")
    for dataset in dict.fromkeys(name for name, _ in plan.columns):
        data = plan.scale.data[dataset]
        snrs = [snr for name, snr in plan.columns if name == dataset]
        parts = load_parts(data_path(plan, dataset, snrs[0]), data, 0)
        X = parts.X[:64]
        y = np.arange(len(X)) % len(data.classes)
        for method in plan.methods:
            classifier = build(plan, method, dataset).set_params(
                device=plan.device, precision=plan.precision, random_state=0
            )
            whole = of_cells = 0.0
            if classifier.pretrainer is not None:
                pretrainer = classifier.pretrainer.set_params(
                    device=plan.device, precision=plan.precision, random_state=0
                )
                key = dataset + describe(pretrainer)
                seconds = time_epoch(pretrainer, X) / len(X)
                if key not in pretrained:
                    whole = seconds * plan.scale.pretrain_epochs * len(parts.X)
                pretrained.add(key)
                classifier.set_params(pretrainer=FrozenEstimator(pretrainer))
            seconds = time_epoch(classifier, X, y) / len(X)
            start = time.process_time()
            classifier.predict(X)
            test_seconds = (time.process_time() - start) / len(X) * len(parts.X_test)
            # Two labels may be the same number.
            for per_class in {data.n_labels(x) for x in labels_of(plan, method)}:
                fresh = build(plan, method, dataset, per_class / data.n_train)
                n_labeled = per_class * len(data.classes)
                epochs = count_epochs(
                    fine_tune_epochs(plan.scale, ROWS[method], fresh, n_labeled),
                    fresh,
                    n_labeled,
                )
                of_cells += seconds * epochs * n_labeled + test_seconds
            n = len(snrs) * plan.scale.repeats_of(method)
            total += n * (whole + of_cells)
            print(
                f"{dataset + ', ' + method:<40} {n * whole / 60:>12.1f} "
                f"{n * of_cells / 60:>8.1f}",
                flush=True,
            )
    print(f"{total / 3600:.1f} hours of one thread, without validation and probes")


def time_epoch(estimator: Any, *arguments: Any) -> float:
    """Return the seconds of an epoch, from fits of one and of three."""
    # Others on the machine distort the processor's time less; a GPU's is not in it.
    clock = time.process_time if estimator.device == "cpu" else time.perf_counter
    times = []
    # What is done once in a process is done in the first.
    for max_epochs in (1, 1, 3):
        start = clock()
        estimator.set_params(max_epochs=max_epochs).fit(*arguments)
        times.append(clock() - start)
    return max(0.0, times[2] - times[1]) / 2


if __name__ == "__main__":
    sys.exit(main())
