"""Measure fit and transform on volumes that stay on disk.

    python benchmarks/bench_storage.py [--parts memory stack throughput growth]
        [--folder DIR] [--gigabytes 6] [--output benchmarks/results/bench_storage.txt]

- memory: peak resident memory, memory-mapped files included, of a process that runs
  one epoch of fit, or transform into an array on disk, on n and on 10 n volumes.
- stack: the same of transform on an MRC stack of so many gigabytes.
- throughput: fit and transform with RB3D, from files that the system has in its cache
  against an array in memory, in turns in one process.
- growth: seconds of fit and transform a volume, for 1,000 to 100,000 volumes.

Memory is measured with an encoder that does hardly any arithmetic, which takes no part
in it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import sklearn
import torch
import zarr
from sklearn.base import BaseEstimator
from torch import nn

import sksubtomo
from sksubtomo import ContrastivePretrainer
from sksubtomo.io import read_volumes, write_volume_stack

PARTS = ("memory", "stack", "throughput", "growth")
# The storage, and how many volumes are in a chunk.
STORAGES = {
    "MRC stack": ("mrc", 0),
    "HDF5, chunks of 1": ("h5", 1),
    "HDF5, chunks of 16": ("h5", 16),
    "Zarr, chunks of 1": ("zarr", 1),
    "Zarr, chunks of 16": ("zarr", 16),
}
N_FEATURES = 256


class Averages(BaseEstimator):
    """An encoder of almost no arithmetic: averages of the volume's octants."""

    def build(self, volume_shape: tuple[int, int, int]) -> nn.Module:
        """Build the network, of whatever volumes."""
        network = nn.Sequential(
            nn.AdaptiveAvgPool3d(2), nn.Flatten(), nn.Linear(8, N_FEATURES)
        )
        network.n_features = N_FEATURES
        return network


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--n", type=int, default=1000, help="of memory (default: 1000)")
    parser.add_argument("--gigabytes", type=float, default=0.5, help="default: 0.5")
    parser.add_argument(
        "--sizes", type=int, nargs="+", default=[16, 32], help="of throughput"
    )
    parser.add_argument("--repeats", type=int, default=5, help="of throughput")
    parser.add_argument(
        "--counts", type=int, nargs="+", default=[1000, 10_000, 100_000]
    )
    parser.add_argument("--folder", type=Path, help="where the files are made")
    parser.add_argument("--output", type=Path, help="also write the report there")
    parser.add_argument("--work", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        print(json.dumps(work(**options.work)))
        return

    report = Report(options.output)
    command = [word for word in sys.argv[1:] if word != str(options.folder)]
    command = ["..." if word == "--folder" else word for word in command]
    report.add(f"Command: python benchmarks/bench_storage.py {shlex.join(command)}")
    report.add(
        f"Machine: {os.cpu_count()} cores, {platform.machine()}, {platform.system()}; "
        f"{torch.get_num_threads()} torch threads"
    )
    modules = (np, torch, sklearn, h5py, zarr, sksubtomo)
    versions = (f"{module.__name__} {module.__version__}" for module in modules)
    report.add(f"Versions: {', '.join(versions)}")
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        run = {
            "memory": lambda: measure_memory(Path(folder), options.n, report),
            "stack": lambda: measure_stack(Path(folder), options.gigabytes, report),
            "throughput": lambda: measure_throughput(
                Path(folder), options.sizes, options.repeats, report
            ),
            "growth": lambda: measure_growth(Path(folder), options.counts, report),
        }
        for part in options.parts:
            run[part]()


class Report:
    """Lines for the terminal and a file."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.lines: list[str] = []

    def add(self, line: str = "") -> None:
        """Print a line, and write the file again."""
        print(line, flush=True)
        self.lines.append(line)
        if self.path:
            self.path.write_text("\n".join(self.lines) + "\n")


def store(path: Path, n: int, size: int, chunk: int) -> None:
    """Write n volumes of noise, a thousand at a time."""
    shape = (n, size, size, size)
    file = None
    if path.suffix == ".mrc":
        write_volume_stack(path, np.zeros((1, size, size, size), np.float32), 10)
        header = bytearray(path.read_bytes()[:1024])
        # The stack has n volumes of `size` sections.
        header[8:12] = (n * size).to_bytes(4, "little")
        header[48:52] = np.float32(10 * size).tobytes()
        path.write_bytes(header)
        array = np.memmap(path, np.float32, "r+", 1024, shape)
    elif path.suffix == ".h5":
        file = h5py.File(path, "w")
        array = file.create_dataset(
            "volumes", shape, "f4", chunks=(chunk, size, size, size)
        )
    else:
        array = zarr.create_array(
            path, shape=shape, dtype="f4", chunks=(chunk, size, size, size)
        )
    generator = np.random.default_rng(0)
    for start in range(0, n, 1000):
        block = (min(1000, n - start), size, size, size)
        array[start : start + 1000] = generator.standard_normal(block, np.float32)
    if file is not None:
        file.close()


def load(path: Path) -> Any:
    """Return volumes that stay on disk."""
    if path.suffix == ".mrc":
        return read_volumes(path, invert_contrast=False).volumes
    if path.suffix == ".h5":
        return h5py.File(path, "r")["volumes"]
    return zarr.open_array(path, mode="r")


def create(path: Path, n: int) -> Any:
    """Return an array on disk for the embeddings."""
    shape = (n, N_FEATURES)
    chunks = (min(1000, n), N_FEATURES)
    if path.suffix == ".mrc":
        return np.lib.format.open_memmap(path.with_suffix(".npy"), "w+", "f4", shape)
    if path.suffix == ".h5":
        file = h5py.File(path.with_suffix(".out.h5"), "w")
        return file.create_dataset("embeddings", shape, "f4", chunks=chunks)
    return zarr.create_array(
        path.with_suffix(".out.zarr"),
        shape=shape,
        dtype="f4",
        chunks=chunks,
        overwrite=True,
    )


def pretrainer(**parameters: Any) -> ContrastivePretrainer:
    return ContrastivePretrainer(
        "simclr",
        augmentation="crop_affine",
        schedule="constant",
        batch_size=16,
        max_epochs=1,
        device="cpu",
        random_state=0,
        **parameters,
    )


def work(task: str, path: str, cheap: bool) -> dict[str, float]:
    """Run one task in this process, and say what it took."""
    torch.set_num_threads(1)
    X = load(Path(path))
    estimator = pretrainer(encoder=Averages() if cheap else "rb3d")
    before = peak()
    start = time.perf_counter()
    if task == "fit":
        estimator.fit(X)
    else:
        few = np.asarray(X[:32])
        estimator.fit(few)
        out = create(Path(path), X.shape[0])
        start = time.perf_counter()
        estimator.transform(X, out=out)
        last = estimator.transform(np.asarray(X[-1:]))
        np.testing.assert_array_equal(np.asarray(out[-1:]), last)
    seconds = time.perf_counter() - start
    return {"before": before, "peak": peak(), "seconds": seconds}


def peak() -> float:
    """Return the most memory that this process had, in megabytes, files included."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024 / 1e6


def run_apart(**task: Any) -> dict[str, float]:
    """Run a task in a process of its own."""
    command = [sys.executable, __file__, "--work", json.dumps(task)]
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(result.stdout.splitlines()[-1])


def measure_memory(folder: Path, n: int, report: Report) -> None:
    report.add()
    report.add(
        f"Peak resident memory in MB, of which the interpreter and the libraries take "
        f"the first number. Volumes of 32^3: {n} are {n * 32**3 * 4 / 1e6:.0f} MB."
    )
    report.add(
        f"{'':20} {'':10} {'libraries':>9} {f'n = {n}':>10} {f'n = {10 * n}':>10} "
        f"{'growth':>8}"
    )
    for name, (suffix, chunk) in STORAGES.items():
        peaks: dict[str, list[dict[str, float]]] = {"fit": [], "transform": []}
        for factor in (1, 10):
            path = folder / f"volumes.{suffix}"
            store(path, factor * n, 32, chunk)
            for task, found in peaks.items():
                found.append(run_apart(task=task, path=str(path), cheap=True))
            remove(folder)
        for task, (small, large) in peaks.items():
            report.add(
                f"{name:20} {task:10} {small['before']:9.0f} {small['peak']:10.0f} "
                f"{large['peak']:10.0f} {large['peak'] - small['peak']:+8.0f}"
            )


def measure_stack(folder: Path, gigabytes: float, report: Report) -> None:
    n = int(gigabytes * 1e9 / (32**3 * 4))
    path = folder / "volumes.mrc"
    store(path, n, 32, 0)
    found = run_apart(task="transform", path=str(path), cheap=True)
    remove(folder)
    report.add()
    report.add(
        f"transform on an MRC stack of {n} volumes of 32^3, {gigabytes:g} GB, into a "
        f".npy file: peak resident memory {found['peak']:.0f} MB, of which "
        f"{found['before']:.0f} MB libraries; {found['seconds']:.0f} s with an encoder "
        f"of no arithmetic"
    )


def measure_throughput(
    folder: Path, sizes: list[int], repeats: int, report: Report
) -> None:
    torch.set_num_threads(1)
    report.add()
    report.add(
        "Throughput from a warm cache as a part of that from an array in memory, RB3D; "
        f"median of {repeats} turns (smallest to largest)"
    )
    report.add(f"{'':6} {'':20} {'fit':>22} {'transform':>22}")
    for size in sizes:
        n = {8: 4096, 16: 512, 32: 128}.get(size, 128)
        sources = {}
        for i, (name, (suffix, chunk)) in enumerate(STORAGES.items()):
            path = folder / f"volumes_{i}.{suffix}"
            store(path, n, size, chunk)
            sources[name] = load(path)
        X = np.array(sources["MRC stack"])
        estimator = pretrainer(encoder="rb3d").fit(X[:32])
        seconds: dict[str, dict[str, list[float]]] = {
            task: {name: [] for name in ("memory", *sources)}
            for task in ("fit", "transform")
        }
        for _ in range(repeats):
            for name, source in {"memory": X, **sources}.items():
                start = time.perf_counter()
                pretrainer(encoder="rb3d").fit(source)
                middle = time.perf_counter()
                estimator.transform(source)
                end = time.perf_counter()
                seconds["fit"][name].append(middle - start)
                seconds["transform"][name].append(end - middle)
        for name in sources:
            columns = []
            for found in seconds.values():
                pairs = zip(found["memory"], found[name], strict=True)
                ratios = [memory / stored for memory, stored in pairs]
                columns.append(
                    f"{statistics.median(ratios):8.2f} "
                    f"({min(ratios):.2f} to {max(ratios):.2f})"
                )
            report.add(f"{size:>3}^3  {name:20} {columns[0]:>22} {columns[1]:>22}")
        in_memory = [statistics.median(found["memory"]) for found in seconds.values()]
        report.add(
            f"{size:>3}^3  in memory, volumes/s  {n / in_memory[0]:21.0f} "
            f"{n / in_memory[1]:22.0f}"
        )
        del sources, source
        remove(folder)


def measure_growth(folder: Path, counts: list[int], report: Report) -> None:
    report.add()
    report.add("Milliseconds a volume of 8^3 from an MRC stack, RB3D, and peak MB")
    report.add(f"{'n':>8} {'fit':>10} {'transform':>10} {'MB of fit':>10}")
    path = folder / "volumes.mrc"
    for n in counts:
        store(path, n, 8, 0)
        found = [
            run_apart(task=task, path=str(path), cheap=False)
            for task in ("fit", "transform")
        ]
        fit, transform = (1e3 * result["seconds"] / n for result in found)
        report.add(f"{n:>8} {fit:10.3f} {transform:10.3f} {found[0]['peak']:10.0f}")
        remove(folder)


def remove(folder: Path) -> None:
    """Remove what was stored."""
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()


if __name__ == "__main__":
    main()
