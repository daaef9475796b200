"""Compute the paper's whole table on simulated volumes with a GPU.

    python benchmarks/gpu_table.py --folder table [--at-once 4] [--limit-minutes 9]
        [--structures DIR]
    python benchmarks/gpu_table.py --folder table --device cpu --n-per-class 5 \
        --size 8 --pretrain-epochs 2 --fine-tune-epochs 2 --runs 1 --mode eager

The claim: 45 pretrainings (three methods, three signal-to-noise ratios, five runs) and
240 fine-tunings (four label fractions each, and from random weights), about 200 PFLOP,
in at most 90 minutes on an H200, at a precision whose accuracy is float32's.

Ten classes of 500 volumes of 32^3, 60:20:20 for training, validation and test; settings
of ``sksubtomo.recipes.gupta2022``. A unit of work is one pretraining with its
fine-tunings. ``--at-once`` units run side by side, each in a process, for a single one
leaves the device idle between its small kernels; processes share a GPU best under
NVIDIA's multi-process service, where that runs already.

Everything that is done stays in the folder: the same command goes on where an earlier
one was stopped, by the limit or by a crash. With a limit, pretrainings save every epoch
and go on from the last one. For the accuracy of several precisions, with fewer runs:

    python benchmarks/gpu_table.py --folder precision --precisions float32,tf32,bf16 \
        --snrs 0.05 --runs 2
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import os
import queue
import shlex
import shutil
import signal
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gpu_moco import MODES, chosen, machine, shown_arguments, simulation, versions
from scipy import stats
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import train_test_split
from torch.utils.flop_counter import FlopCounterMode

from sksubtomo import ContrastivePretrainer, LabelFractionClassifier
from sksubtomo.datasets import make_subtomograms
from sksubtomo.networks import RB3D
from sksubtomo.recipes import gupta2022

BASELINE = "random"
LIMIT_MINUTES = 90
SETTINGS = (
    "n_per_class",
    "size",
    "pretrain_epochs",
    "fine_tune_epochs",
    "fractions",
    "structures",
    "mode",
)

Unit = tuple[str, float, int, str]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--n-per-class", type=int, default=500)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--pretrain-epochs", type=int, default=200)
    parser.add_argument("--fine-tune-epochs", type=int, default=50)
    parser.add_argument("--snrs", type=numbers, default=numbers("inf,0.05,0.03"))
    parser.add_argument("--fractions", type=numbers, default=numbers("0.25,0.5,0.75,1"))
    parser.add_argument("--methods", default="random,simclr,swav,moco")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--precisions", default="tf32")
    parser.add_argument("--mode", choices=list(MODES), default="step")
    parser.add_argument("--at-once", type=int, default=1)
    parser.add_argument("--structures", type=Path, help="default: the phantoms")
    parser.add_argument("--limit-minutes", type=float, default=float("inf"))
    options = parser.parse_args()
    # Whoever ends the script ends its processes.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    start = time.monotonic()
    for name in ("cells", "data", "checkpoints", "pretrained"):
        (options.folder / name).mkdir(parents=True, exist_ok=True)
    claim(options)
    for snr in options.snrs:
        simulate(options, snr)
    units: list[Unit] = list(
        itertools.product(
            options.precisions.split(","),
            options.snrs,
            range(options.runs),
            options.methods.split(","),
        )
    )
    try:
        work_at_once(options, units, start + 60 * options.limit_minutes)
    finally:
        add_session(options.folder, time.monotonic() - start)
    report = write_report(options, units)
    (options.folder / "gpu_table.txt").write_text(report)
    print(report, end="")


def numbers(text: str) -> list[float]:
    return [float(word) for word in text.split(",")]


def claim(options: argparse.Namespace) -> None:
    """Refuse a folder of other settings."""
    settings = chosen(options, SETTINGS)
    path = options.folder / "settings.json"
    if path.exists() and json.loads(path.read_text()) != settings:
        raise SystemExit(
            f"{path} has other settings than {settings}. Give another --folder."
        )
    write_json(path, settings)


def simulate(options: argparse.Namespace, snr: float) -> None:
    """Simulate and split the volumes of one signal-to-noise ratio."""
    path = data_path(options, snr)
    if path.exists():
        return
    settings = simulation(options)
    X, y = make_subtomograms(
        options.n_per_class,
        snr=snr,
        random_state=0,
        n_jobs=os.cpu_count(),
        return_X_y=True,
        **settings,
    )
    split = {"test_size": 0.2, "stratify": y, "random_state": 0}
    X, X_test, y, y_test = train_test_split(X, y, **split)
    split = {"test_size": 0.25, "stratify": y, "random_state": 0}
    X, X_val, y, y_val = train_test_split(X, y, **split)
    beside = path.with_suffix(".tmp.npz")
    np.savez(beside, X=X, y=y, X_val=X_val, y_val=y_val, X_test=X_test, y_test=y_test)
    os.replace(beside, path)


def data_path(options: argparse.Namespace, snr: float) -> Path:
    return options.folder / "data" / f"{snr:g}.npz"


def work_at_once(options: argparse.Namespace, units: list[Unit], end: float) -> None:
    """Let processes do what is not done, until the time is up."""
    todo = [unit for unit in units if len(read_cell(options, unit)) < n_cells(options)]
    if not todo:
        return
    context = multiprocessing.get_context("spawn")
    jobs = context.Queue()
    for unit in todo:
        jobs.put(unit)
    workers = [
        context.Process(target=work, args=(options, jobs))
        for _ in range(min(options.at_once, len(todo)))
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
    if any(worker.exitcode not in (0, -signal.SIGKILL) for worker in workers):
        raise SystemExit("a process failed; its message is above")
    if any(len(read_cell(options, unit)) < n_cells(options) for unit in todo):
        print("no time left; run the command again", flush=True)


def work(options: argparse.Namespace, jobs: Any) -> None:
    """Do one unit after the other."""
    torch.set_num_threads(1)
    while multiprocessing.parent_process().is_alive():
        try:
            unit = jobs.get(timeout=1)
        except queue.Empty:
            return
        do_unit(options, unit)


def do_unit(options: argparse.Namespace, unit: Unit) -> None:
    """Pretrain, fine-tune on each fraction of the labels, and test."""
    precision, snr, run, method = unit
    with np.load(data_path(options, snr)) as file:
        data = dict(file)
    found = read_cell(options, unit)
    classifier = gupta2022(None if method == BASELINE else method).set_params(
        max_epochs=options.fine_tune_epochs,
        device=options.device,
        precision=precision,
        random_state=run,
    )
    pretrained = options.folder / "pretrained" / unit_name(unit)
    if method != BASELINE:
        pretrainer = pretrain(options, unit, classifier.pretrainer, data["X"], found)
        classifier.set_params(pretrainer=FrozenEstimator(pretrainer))
    for fraction in options.fractions:
        name = f"{fraction:g}"
        if name in found:
            continue
        start = time.perf_counter()
        model = LabelFractionClassifier(classifier, fraction, random_state=run)
        model.fit(data["X"], data["y"], validation_data=(data["X_val"], data["y_val"]))
        accuracy = float(model.score(data["X_test"], data["y_test"]))
        seconds = time.perf_counter() - start
        found[name] = {"accuracy": accuracy, "seconds": seconds}
        write_json(cell_path(options, unit), found)
        print(f"{unit_name(unit)} {name}: {accuracy:.3f} ({seconds:.1f} s)", flush=True)
    shutil.rmtree(pretrained, ignore_errors=True)


def pretrain(
    options: argparse.Namespace,
    unit: Unit,
    pretrainer: ContrastivePretrainer,
    X: np.ndarray,
    found: dict[str, Any],
) -> ContrastivePretrainer:
    """Pretrain, or go on, or take what an earlier process has finished."""
    precision, _, run, _ = unit
    finished = options.folder / "pretrained" / unit_name(unit)
    if "pretraining" in found:
        return ContrastivePretrainer.load(finished)
    checkpoints = options.folder / "checkpoints" / unit_name(unit)
    start = time.perf_counter()
    pretrainer = clone(pretrainer).set_params(
        max_epochs=options.pretrain_epochs,
        device=options.device,
        precision=precision,
        compile=MODES[options.mode],
        # Saving after every epoch takes time, too.
        checkpoint_dir=checkpoints if np.isfinite(options.limit_minutes) else None,
        random_state=run,
    )
    pretrainer.fit(X)
    seconds = time.perf_counter() - start
    pretrainer.save(finished)
    epochs = sum(not epoch.get("resumed", False) for epoch in pretrainer.history_)
    loss = float(pretrainer.history_[-1]["train_loss"])
    found["pretraining"] = {"seconds": seconds, "epochs": epochs, "loss": loss}
    write_json(cell_path(options, unit), found)
    shutil.rmtree(checkpoints, ignore_errors=True)
    print(f"{unit_name(unit)}: loss {loss:.3f} ({seconds:.1f} s)", flush=True)
    return pretrainer


def unit_name(unit: Unit) -> str:
    precision, snr, run, method = unit
    return f"{precision}_{snr:g}_{run}_{method}"


def cell_path(options: argparse.Namespace, unit: Unit) -> Path:
    return options.folder / "cells" / f"{unit_name(unit)}.json"


def read_cell(options: argparse.Namespace, unit: Unit) -> dict[str, Any]:
    """Return what is known of a unit; fine-tunings by their label fraction."""
    path = cell_path(options, unit)
    if not path.exists():
        return {} if unit[3] != BASELINE else {"pretraining": None}
    return json.loads(path.read_text())


def n_cells(options: argparse.Namespace) -> int:
    return 1 + len(options.fractions)


def write_json(path: Path, value: Any) -> None:
    beside = path.with_suffix(".tmp")
    beside.write_text(json.dumps(value, indent=1))
    os.replace(beside, path)


def add_session(folder: Path, seconds: float) -> None:
    path = folder / "sessions.json"
    sessions = json.loads(path.read_text()) if path.exists() else []
    write_json(path, [*sessions, round(seconds, 1)])


def write_report(options: argparse.Namespace, units: list[Unit]) -> str:
    cells = {unit: read_cell(options, unit) for unit in units}
    sessions = json.loads((options.folder / "sessions.json").read_text())
    n_done = [
        sum(cell.get("pretraining") is not None for cell in cells.values()),
        sum(len(cell) - ("pretraining" in cell) for cell in cells.values()),
    ]
    flops = sum(unit_flops(options, unit, cell) for unit, cell in cells.items())
    lines = [
        "Command: python benchmarks/gpu_table.py " + shlex.join(shown_arguments()),
        f"Machine: {machine(options.device)}",
        "Versions: " + versions(),
        f"Done: {n_done[0]} pretrainings and {n_done[1]} fine-tunings, "
        f"{flops / 1e15:.3g} PFLOP, in {sum(sessions) / 60:.1f} minutes of "
        f"{len(sessions)} sessions, simulation included (limit {LIMIT_MINUTES}): "
        f"{flops / sum(sessions) / 1e12:.3g} TFLOP/s",
    ]
    for precision in options.precisions.split(","):
        lines += ["", f"{precision}: test accuracy (%), mean ± standard deviation"]
        head = [f"{'SNR ' + format(snr, 'g'):>13}" for snr in options.snrs]
        lines.append(f"{'labels':>6} {'method':<7}" + "".join(head))
        for fraction, method in itertools.product(
            options.fractions, options.methods.split(",")
        ):
            row = [
                describe(accuracies(cells, options, precision, snr, method, fraction))
                for snr in options.snrs
            ]
            lines.append(f"{fraction:>6.0%} {method:<7}" + "".join(row))
    lines += compare_precisions(options, cells)
    return "\n".join(lines) + "\n"


def accuracies(
    cells: dict[Unit, dict[str, Any]],
    options: argparse.Namespace,
    precision: str,
    snr: float,
    method: str,
    fraction: float,
) -> list[float]:
    """Return the accuracies of all runs that are done."""
    found = (cells[precision, snr, run, method] for run in range(options.runs))
    name = f"{fraction:g}"
    return [cell[name]["accuracy"] for cell in found if name in cell]


def describe(values: list[float]) -> str:
    if not values:
        return f"{'-':>13}"
    mean = f"{100 * statistics.mean(values):>7.1f}"
    if len(values) == 1:
        return f"{mean:<13}"
    return f"{mean} ± {100 * statistics.stdev(values):<3.1f}"


def compare_precisions(
    options: argparse.Namespace, cells: dict[Unit, dict[str, Any]]
) -> list[str]:
    """Compare each precision with the first, over the units that both have done.

    Fine-tunings of one pretraining are not independent and are averaged. The interval
    says how large a difference may be: that none is significant would not mean that
    there is none.
    """
    reference, *others = options.precisions.split(",")
    lines = []
    for other in others:
        points = []
        for (precision, *rest), cell in cells.items():
            beside = cells[other, *rest]
            done = min(len(cell), len(beside)) == n_cells(options)
            if precision == reference and done:
                differences = [
                    beside[name]["accuracy"] - cell[name]["accuracy"]
                    for name in cell
                    if name != "pretraining"
                ]
                points.append(100 * statistics.mean(differences))
        if len(points) > 1:
            lines += [
                "",
                f"{other} against {reference}, {len(points)} units, label fractions "
                f"averaged: accuracy {statistics.mean(points):+.2f} points, 95 % "
                f"interval ± {half_width(points):.2f}",
            ]
    return lines


def half_width(values: list[float]) -> float:
    """Return half of the 95 % interval of a mean, by Student's t."""
    n = len(values)
    return float(stats.t.ppf(0.975, n - 1)) * statistics.stdev(values) / n**0.5


def unit_flops(options: argparse.Namespace, unit: Unit, cell: dict[str, Any]) -> float:
    """Return the FLOPs of what is done of a unit, without views and heads."""
    forward, training = encoder_flops(options.size)
    n = 10 * options.n_per_class
    n_train, n_val = 0.6 * n, 0.2 * n
    flops = 0.0
    if cell.get("pretraining") is not None:
        # The keys of MoCo are not trained.
        views = training + (forward if unit[3] == "moco" else training)
        flops += options.pretrain_epochs * n_train * views
    for name in cell:
        if name != "pretraining":
            per_epoch = float(name) * n_train * training + n_val * forward
            flops += options.fine_tune_epochs * per_epoch
    return flops


def encoder_flops(size: int) -> tuple[float, float]:
    """Return the FLOPs of a forward pass of a volume, and of both passes."""
    with torch.random.fork_rng():
        encoder = RB3D().build((size,) * 3)
    volumes = torch.zeros(1, 1, size, size, size)
    counts = []
    for backward in (False, True):
        with FlopCounterMode(display=False) as counter:
            features = encoder(volumes)
            if backward:
                features.sum().backward()
        counts.append(float(counter.get_total_flops()))
    return counts[0], counts[1]


if __name__ == "__main__":
    sys.exit(main())
