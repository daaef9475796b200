"""Measure how well the missing wedge of single volumes is estimated.

    python benchmarks/wedge_estimate.py
        [--output benchmarks/results/wedge_estimate.txt]

The claim: `estimate_wedges`, which the default views rely on, finds beam and tilt axis
in nearly all volumes, the range of tilts within a few degrees, and seldom a wedge in
volumes that have none. The package simulates the volumes, from its phantoms; their axes
are put in another order, a random one of the six for each volume, as other programs
write them. What is "missed" has a wedge and was given none.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _measure import machine, write
from numpy.typing import NDArray

import sksubtomo
from sksubtomo.augmentation.missing_wedge import FRAMES, estimate_wedges
from sksubtomo.datasets import make_subtomograms

SIZES = (8, 12, 16, 24)
SNRS = (0.1, 1.0, float("inf"))
TILT_RANGES = ((-70, 70), (-60, 60), (-50, 50), (-40, 60), (-60, 90))
COMPLETE = (-90, 90)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n-per-class", type=int, default=24)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    lines = [
        f"Command: python benchmarks/wedge_estimate.py --n-per-class "
        f"{options.n_per_class}",
        f"Machine: {machine()}",
        f"Versions: sksubtomo {sksubtomo.__version__}, torch {torch.__version__}, "
        f"numpy {np.__version__}",
        "",
        "With a wedge: how many were missed; of the others, how many have beam or tilt",
        "axis on a wrong axis, and the error of both ends of the tilts (root mean",
        "square). SNR inf: without noise.",
        f"{'side':>4} {'SNR':>4} {'tilts':>9}  {'volumes':>7} {'missed':>6} "
        f"{'axes wrong':>10} {'error':>6}",
    ]
    false = [
        "",
        "Without a wedge: given one",
        f"{'side':>4} {'SNR':>4} {'volumes':>17} {'given one':>17}",
    ]
    for size in SIZES:
        for snr in SNRS:
            for tilts in TILT_RANGES:
                lines.append(line_of(size, snr, tilts, options.n_per_class))
            _, found = estimate(size, snr, COMPLETE, options.n_per_class)
            n_false = np.any(found != COMPLETE, axis=1).sum()
            false.append(f"{size:>4} {snr:>4g} {len(found):>17} {n_false:>17}")
    write([*lines, *false], options.output)


def line_of(size: int, snr: float, tilts: tuple[int, int], n_per_class: int) -> str:
    """Return the line of one kind of volumes."""
    is_right, found = estimate(size, snr, tilts, n_per_class)
    missed = np.all(found == COMPLETE, axis=1)
    errors = (found - tilts)[~missed]
    error = f"{np.sqrt(np.mean(errors**2)):.1f}°" if len(errors) else "-"
    wrong = (~is_right & ~missed).sum()
    return (
        f"{size:>4} {snr:>4g} {f'{tilts[0]}..{tilts[1]}':>9}  {len(found):>7} "
        f"{missed.sum():>6} {wrong:>10} {error:>6}"
    )


def estimate(
    size: int, snr: float, tilts: tuple[int, int], n_per_class: int
) -> tuple[NDArray[np.bool_], NDArray[Any]]:
    """Return whether the axes were found, and the ranges of tilts."""
    X, _ = make_subtomograms(
        n_per_class,
        size=size,
        snr=snr,
        tilt_range=tilts,
        random_state=1,
        return_X_y=True,
    )
    generator = np.random.default_rng(0)
    truth = generator.integers(len(FRAMES), size=len(X))
    for row, number in enumerate(truth):
        frame = FRAMES[number]
        # The simulator's axes are beam, tilt axis, and across.
        order = np.argsort([frame.beam, frame.tilt_axis, frame.across])
        X[row] = X[row].transpose(order).copy()
    frames, found = estimate_wedges(torch.from_numpy(X)[:, None])
    return frames.numpy() == truth, found.numpy()


if __name__ == "__main__":
    main()
