"""Time the simulation of the paper's three sets: ten classes, 32^3, three SNRs.

    python benchmarks/bench_simulator.py [--structures DIR] [--n-per-class 500]
        [--n-jobs 2] [--output benchmarks/results/simulator.txt]

The sets are held in memory one after the other and not written. The paper's ten
structures have to be downloaded; any folder of structures, or the ten phantoms, do as
much work.
"""

from __future__ import annotations

import argparse
import os
import platform
import shlex
import sys
import time
from pathlib import Path

import joblib
import numpy as np
import scipy

import sksubtomo
from sksubtomo.datasets import Microscope, SubtomogramSimulator, make_subtomograms

SNRS = (np.inf, 0.05, 0.03)
VOXEL_SIZE = 10.0
SIZE = 32
LIMIT_MINUTES = 15


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--structures", type=Path, help="default: the phantoms")
    parser.add_argument("--n-per-class", type=int, default=500)
    parser.add_argument("--n-jobs", type=int, default=2)
    parser.add_argument(
        "--output", type=Path, help="write the report there as well as to the terminal"
    )
    options = parser.parse_args()
    settings = {
        "structures": options.structures,
        "size": SIZE,
        "voxel_size": VOXEL_SIZE,
        "resolution": VOXEL_SIZE,
        "max_shift": 0.25,
        "tilt_step": None,
        "microscope": Microscope.liu2020(VOXEL_SIZE),
        "convention": "liu2020",
        "low_pass": 4 * VOXEL_SIZE,
        "random_state": 0,
    }

    start = time.perf_counter()
    simulator = SubtomogramSimulator(1, snr=SNRS[-1], **settings)
    setup = time.perf_counter() - start
    n_single = min(50, len(simulator.structures) * options.n_per_class)
    single = SubtomogramSimulator(options.n_per_class, snr=SNRS[-1], **settings)
    start = time.perf_counter()
    single.simulate(range(n_single))
    per_volume = (time.perf_counter() - start) / n_single

    rows = []
    for snr in SNRS:
        start = time.perf_counter()
        result = make_subtomograms(
            options.n_per_class, snr=snr, n_jobs=options.n_jobs, **settings
        )
        rows.append((snr, len(result.data), time.perf_counter() - start))
        del result
    total = sum(row[2] for row in rows)

    modules = (np, scipy, joblib, sksubtomo)
    command = shlex.join(
        ["python", "benchmarks/bench_simulator.py"]
        + (["--structures", "DIR"] if options.structures else [])
        + ["--n-per-class", str(options.n_per_class)]
        + ["--n-jobs", str(options.n_jobs)]
    )
    lines = [
        f"Command: {command}",
        f"Machine: {machine()}",
        "Versions: "
        + ", ".join(f"{module.__name__} {module.__version__}" for module in modules),
        "",
        f"{len(simulator.structures)} classes: "
        + ", ".join(str(name) for name in simulator.target_names),
        f"Volumes of {SIZE}^3 voxels of {VOXEL_SIZE:g} angstroms, "
        f"{simulator.n_neighbors} neighbours, optics and noise of Liu et al. 2020",
        f"Set-up, reading the structures included: {setup:.1f} s; one volume at SNR "
        f"{SNRS[-1]:g}, one thread: {per_volume * 1e3:.0f} ms",
        "",
        f"{'SNR':>5}  {'volumes':>7}  {'seconds':>7}  {'ms a volume':>11}",
        *(
            f"{snr:>5g}  {count:>7}  {seconds:>7.1f}  {seconds / count * 1e3:>11.1f}"
            for snr, count, seconds in rows
        ),
        "",
        f"Together {total / 60:.1f} minutes with n_jobs={options.n_jobs}; the limit is "
        f"{LIMIT_MINUTES} minutes for 15,000 volumes.",
    ]
    report = "\n".join(lines) + "\n"
    sys.stdout.write(report)
    if options.output:
        options.output.write_text(report)


def machine() -> str:
    """Return the processor and its number of cores, without the machine's name."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    return f"{model}, {os.cpu_count()} cores, {platform.system()}"


if __name__ == "__main__":
    main()
