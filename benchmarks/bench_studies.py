"""Count and time the pretrainings of a study, with and without a cache and workers.

    python benchmarks/bench_studies.py [--n 90] [--size 12] [--epochs 4] [--rounds 3]
        [--output benchmarks/results/bench_studies.txt]

The study is one `GridSearchCV` over methods of pretraining, label fractions and a
learning rate of fine-tuning, three folds, no final fit. It runs without `memory`, then
with it, then again in another process, which finds everything in the cache. Then, in
turns and each time with an empty cache, in one process with one torch thread and with
as many as there are cores, in two worker processes of joblib, and in two of a dask
cluster. The workers are warm: they have imported torch. Wherever one thread
computes, the scores have to be the same.
"""

from __future__ import annotations

import argparse
import os
import platform
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dask
import distributed
import joblib
import numpy as np
import sklearn
import torch
from _measure import machine, spread, write
from dask.distributed import Client, LocalCluster
from sklearn.model_selection import GridSearchCV
from skorch.callbacks import Callback

import sksubtomo
from sksubtomo import ContrastivePretrainer, LabelFractionClassifier, RB3DClassifier

GRID = {
    "estimator__pretrainer__method": ["simclr", "moco", "swav"],
    "label_fraction": [0.25, 0.5, 1.0],
    "estimator__lr": [1e-4, 1e-3],
}
N_FOLDS = 3
N_WORKERS = 2
SINGLE = "one process, one thread"


class Log(Callback):
    """Write a line for each training: its process and its number of threads."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def on_train_begin(self, net: Any, **kwargs: Any) -> None:
        """Write the line."""
        with open(self.path, "a") as file:
            file.write(f"{os.getpid()} {torch.get_num_threads()}\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=90, help="volumes")
    parser.add_argument("--size", type=int, default=12, help="voxels a side")
    parser.add_argument("--epochs", type=int, default=4, help="of each training")
    parser.add_argument("--rounds", type=int, default=3, help="turns of the workers")
    parser.add_argument(
        "--output", type=Path, help="write the report there as well as to the terminal"
    )
    parser.add_argument("--again", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.again:
        torch.set_num_threads(1)
        print(run(options, options.again)["seconds"])
        return

    candidates = int(np.prod([len(values) for values in GRID.values()]))
    n_fits = candidates * N_FOLDS
    with tempfile.TemporaryDirectory() as folder:
        cached = measure_cache(options, Path(folder))
    with tempfile.TemporaryDirectory() as folder:
        workers = measure_workers(options, Path(folder))

    modules = (np, sklearn, torch, joblib, dask, distributed, sksubtomo)
    arguments = [
        word
        for name in ("n", "size", "epochs", "rounds")
        for word in (f"--{name}", str(getattr(options, name)))
    ]
    single = [turn["seconds"] for turn in workers[SINGLE]]
    lines = [
        f"Command: {shlex.join(['python', 'benchmarks/bench_studies.py', *arguments])}",
        f"Machine: {machine()}",
        f"Versions: Python {platform.python_version()}, "
        + ", ".join(f"{module.__name__} {module.__version__}" for module in modules),
        "",
        f"{options.n} volumes of {options.size}^3; 3 methods x 3 label fractions x 2 "
        f"learning rates x {N_FOLDS} folds = {n_fits} fits of {options.epochs} epochs "
        f"of pretraining and of fine-tuning; one process, one thread",
        "",
        f"{'':<28}  {'pretrainings':>12}  {'seconds':>8}",
        *(
            f"{name:<28}  {turn['pretrainings']:>12}  {turn['seconds']:>8.1f}"
            for name, turn in cached.items()
        ),
        "",
        f"{'empty cache':<28}  {'pretrainings':>12}  {'processes':>9}  "
        f"{'threads each':>12}  {'seconds':>20}  {'times faster':>18}",
        *(
            f"{name:<28}  {turns[0]['pretrainings']:>12}  {turns[0]['processes']:>9}  "
            f"{turns[0]['threads']:>12}  "
            f"{spread([turn['seconds'] for turn in turns], 1):>20}  "
            + format_speed(single, [turn["seconds"] for turn in turns])
            for name, turns in workers.items()
        ),
        "",
        "Same scores wherever one thread computes: yes",
    ]
    write(lines, options.output)


def format_speed(single: list[float], seconds: list[float]) -> str:
    """Return how many times faster than one process with one thread."""
    speeds = [one / other for one, other in zip(single, seconds, strict=True)]
    return f"{spread(speeds):>18}"


def measure_cache(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Run the study without a cache, with one, and once more in another process."""
    torch.set_num_threads(1)
    without = run(options, folder / "none", memory=False)
    with_memory = run(options, folder / "cached")
    check_same_scores([without, with_memory])
    (folder / "cached" / "pretrainings").write_text("")
    script = [sys.executable, "-W", "ignore", __file__, *sys.argv[1:]]
    again = subprocess.run(
        [*script, "--again", str(folder / "cached")],
        check=True,
        capture_output=True,
        text=True,
    )
    n_again = len((folder / "cached" / "pretrainings").read_text().splitlines())
    return {
        "without memory": without,
        "with memory": with_memory,
        "again, in another process": {
            "pretrainings": n_again,
            "seconds": float(again.stdout),
        },
    }


def measure_workers(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Run the study with an empty cache in one and in several processes, in turns."""
    # By default dask makes its workers, and whatever is started after them, return
    # memory to the system at once, which training then asks for again.
    kept = dict.fromkeys(("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"), 1 << 32)
    with (
        dask.config.set(
            {f"distributed.nanny.pre-spawn-environ.{k}": v for k, v in kept.items()}
        ),
        LocalCluster(
            n_workers=N_WORKERS, threads_per_worker=1, dashboard_address=":0"
        ) as cluster,
        Client(cluster) as client,
    ):
        client.run(warm_up)
        n_cores = os.cpu_count() or 1
        sides = {
            SINGLE: in_process(1),
            f"one process, {n_cores} threads": in_process(n_cores),
            f"{N_WORKERS} processes of joblib": in_loky,
            f"{N_WORKERS} workers of dask": in_dask,
        }
        turns: dict[str, list[Any]] = {name: [] for name in sides}
        for number in range(options.rounds):
            for name, place in sides.items():
                with place():
                    turns[name].append(run(options, folder / f"{name} {number}"))
    # Sums are rounded otherwise by another number of threads.
    check_same_scores(
        [turn for side in turns.values() for turn in side if turn["threads"] == "1"]
    )
    return turns


def in_process(n_threads: int) -> Any:
    """Return what makes the study run in this process."""

    @contextmanager
    def place() -> Iterator[None]:
        torch.set_num_threads(n_threads)
        yield

    return place


@contextmanager
def in_loky() -> Iterator[None]:
    """Make the study run in joblib's own workers."""
    with joblib.parallel_config("loky", n_jobs=N_WORKERS):
        joblib.Parallel()(joblib.delayed(warm_up)() for _ in range(4 * N_WORKERS))
        yield


@contextmanager
def in_dask() -> Iterator[None]:
    """Make the study run in the workers of the client's cluster."""
    with joblib.parallel_config("dask"):
        yield


def warm_up() -> None:
    """Import what a worker needs, and start its threads."""
    volumes = np.zeros((4, 8, 8, 8), np.float32)
    ContrastivePretrainer(max_epochs=1).fit(volumes)
    time.sleep(0.2)


def run(
    options: argparse.Namespace, folder: Path, *, memory: bool = True
) -> dict[str, Any]:
    """Run the study, and return its scores, its seconds and what it did."""
    # A class of the script itself could not be imported by the workers.
    from bench_studies import Log

    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(0)
    shape = (options.n, options.size, options.size, options.size)
    X = generator.normal(size=shape).astype(np.float32)
    y = np.arange(options.n) % 3
    pretrainer = ContrastivePretrainer(
        encoder="rb3d",
        augmentation="crop_affine",
        schedule="constant",
        batch_size=16,
        lr=1e-4,
        max_epochs=options.epochs,
        callbacks=[Log(folder / "pretrainings")],
        random_state=0,
    )
    classifier = RB3DClassifier(
        pretrainer,
        memory=str(folder / "cache") if memory else None,
        augmentation=None,
        max_epochs=options.epochs,
        callbacks=[Log(folder / "fine-tunings")],
        random_state=0,
    )
    study = GridSearchCV(
        LabelFractionClassifier(classifier, random_state=0),
        GRID,
        cv=N_FOLDS,
        refit=False,
        error_score="raise",
    )
    start = time.perf_counter()
    study.fit(X, y)
    seconds = time.perf_counter() - start
    log = np.loadtxt(folder / "fine-tunings", dtype=int, ndmin=2)
    pretrainings = (folder / "pretrainings").read_text().splitlines()
    return {
        "scores": study.cv_results_["mean_test_score"],
        "seconds": seconds,
        "pretrainings": len(pretrainings),
        "processes": len(set(log[:, 0])),
        "threads": ", ".join(map(str, sorted(set(log[:, 1])))),
    }


def check_same_scores(turns: list[dict[str, Any]]) -> None:
    """Stop if it matters where the study runs."""
    for turn in turns[1:]:
        if not np.array_equal(turn["scores"], turns[0]["scores"]):
            raise SystemExit(f"scores differ: {turns[0]['scores']}, {turn['scores']}")


if __name__ == "__main__":
    main()
