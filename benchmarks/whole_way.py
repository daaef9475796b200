"""From a tomogram to classes in a STAR file, by the commands alone.

The claim: on a simulated tomogram at the easiest setting (no noise, complexes well
apart) a user who picks, extracts, labels 20 particles of each class and classifies
gets the right class for at least 80 % of the true positives that were not labelled.

Run ``python benchmarks/whole_way.py``; ``--snr 0.5`` and others show harder settings.
What a user would do by eye, giving 20 particles of each class their label, is done from
the simulation's ground truth here; everything else are the commands `simulate`, `pick`,
`extract` and `classify` as they would be typed.
"""

from __future__ import annotations

import argparse
import platform
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from sksubtomo.cli import main
from sksubtomo.datasets import list_phantoms, make_tomogram, write_tomogram
from sksubtomo.io import read_particles
from sksubtomo.picking import match_picks

SHAPE = (64, 400, 400)
TOLERANCE = 60.0  # angstroms, somewhat less than the complexes' radii


def command(*arguments: object) -> None:
    """Run a command as typed and show it."""
    words = [str(argument) for argument in arguments]
    print("$ python -m sksubtomo " + " ".join(words), flush=True)
    begin = time.perf_counter()
    status = main(words)
    print(f"  ({time.perf_counter() - begin:.0f} s)", flush=True)
    if status:
        sys.exit(status)


def positions(path: Path, voxel_size: float) -> np.ndarray:
    """Return the coordinates z, y, x in voxels that a STAR file states."""
    return read_particles(path).coordinates(voxel_size, SHAPE)


def run(options: argparse.Namespace, folder: Path) -> None:
    """Go the whole way in a folder."""
    classes = list_phantoms()[: options.classes]
    scene = make_tomogram(
        options.particles,
        structures=classes,
        shape=SHAPE,
        snr=options.snr,
        random_state=options.seed,
    )
    write_tomogram(folder / "scene", scene)
    tomogram = folder / "scene" / "tomogram.mrc"
    diameter = 2 * float(np.median(scene.radii)) * 0.75
    command(
        *("pick", tomogram, "--diameter", round(diameter), "--contrast", "light"),
        *("--number", options.particles, "--output", folder / "picks.star"),
    )
    picks = positions(folder / "picks.star", scene.voxel_size)
    match = match_picks(picks, scene.coordinates, TOLERANCE / scene.voxel_size)
    print(f"picking: precision {match.precision:.3f}, recall {match.recall:.3f}")

    command(
        *("extract", tomogram, folder / "picks.star", "--size", options.size),
        *("--binning", options.bin, "--output", folder / "particles"),
    )
    star = folder / "particles" / "particles.star"
    table = read_particles(star)
    boxes = match_picks(
        positions(star, scene.voxel_size),
        scene.coordinates,
        TOLERANCE / scene.voxel_size,
    )
    true = boxes.matched_truth >= 0
    target = np.where(true, scene.target[boxes.matched_truth], -1)

    rng = np.random.default_rng(options.seed)
    labels = np.full(len(target), "", dtype=object)
    for label, name in enumerate(classes):
        rows = np.flatnonzero(target == label)
        labels[rng.permutation(rows)[: options.labels]] = name
    lines = [
        f"{name},{label}" for name, label in zip(table.image_names, labels, strict=True)
    ]
    (folder / "labels.csv").write_text("particle,label\n" + "\n".join(lines) + "\n")
    command(
        *("classify", star, "--labels", folder / "labels.csv"),
        *("--output", folder / "particles" / "classes.star", "--seed", options.seed),
        *(("--epochs", options.epochs) if options.epochs else ()),
    )

    result = read_particles(folder / "particles" / "classes.star").loop.column(
        "sksubtomoClass"
    )
    predicted = np.array(result)
    judged = true & (labels == "")
    right = predicted[judged] == np.array(classes)[target[judged]]
    print(
        f"classes right for {right.mean():.1%} of {judged.sum()} unlabelled true "
        f"positives ({(labels != '').sum()} labelled, {(~true).sum()} false positives)"
    )


def main_way() -> None:
    """Parse the options and print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--snr", type=float, default=float("inf"))
    parser.add_argument("--classes", type=int, default=4)
    parser.add_argument("--particles", type=int, default=400)
    parser.add_argument("--labels", type=int, default=20)
    parser.add_argument("--size", type=int, default=14)
    parser.add_argument("--bin", type=int, default=2)
    parser.add_argument("--epochs", type=int, help="default: the command's own")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"Command: python benchmarks/whole_way.py {' '.join(sys.argv[1:])}".rstrip())
    packages = ("sksubtomo", "torch", "scikit-learn", "numpy", "scipy")
    print("Versions:", ", ".join(f"{name} {version(name)}" for name in packages))
    print(f"Machine: one thread, {platform.processor() or platform.machine()}")
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        run(options, Path(folder))
    print(f"Time: {time.perf_counter() - begin:.0f} s")


if __name__ == "__main__":
    main_way()
