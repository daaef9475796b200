"""Measure how well `propose_clusters` finds complexes in short pretrainings.

    python benchmarks/clusters.py [--output benchmarks/results/clusters.txt]

A repeat simulates volumes, and pretrains the recommended encoder twice: on five classes
of as many volumes each, and on eight of which the most frequent is eight times as
frequent as the rarest. The classes are held back; they only say how well the clusters
agree with them, by the adjusted Rand index (ARI). That of HDBSCAN is over the rows that
are no noise.

The time is that of many rows on the lines between two volumes of one class, on the
embedding of the first repeat's uneven classes.
"""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path

import numpy as np
import sklearn
import torch
from _measure import machine, write
from numpy.typing import NDArray
from sklearn.metrics import adjusted_rand_score

import sksubtomo
from sksubtomo.clustering import propose_clusters
from sksubtomo.datasets import make_subtomograms
from sksubtomo.recipes import recommended

METHODS = ("mixture", "bayesian", "hdbscan")
# Volumes of each class.
POOLS = {
    "5 alike": (40,) * 5,
    "8 uneven": (80, 59, 44, 33, 24, 18, 13, 10),
}
MAX_SAMPLES = (3_000, 10_000)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--repeats", type=int, default=3)
    add("--epochs", type=int, default=20, help="of each pretraining")
    add("--size", type=int, default=10, help="side of the volumes in voxels")
    add("--rows", type=int, default=100_000, help="between those of an embedding")
    add("--output", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    # A number that is the largest tried is in the table.
    warnings.simplefilter("ignore")
    lines = [
        f"Command: python benchmarks/clusters.py --repeats {options.repeats} "
        f"--epochs {options.epochs} --size {options.size} --rows {options.rows}",
        f"Machine: {machine()}",
        f"Versions: sksubtomo {sksubtomo.__version__}, torch {torch.__version__}, "
        f"scikit-learn {sklearn.__version__}, numpy {np.__version__}",
        "",
        "Number of clusters, adjusted Rand index (ARI) and share of noise.",
        "",
        f"{'classes':<9} {'seed':>4} {'volumes':>7} {'method':<9} {'clusters':>8} "
        f"{'ARI':>5} {'noise':>5}",
    ]
    many: list[str] = []
    for seed in range(options.repeats):
        X, y = make_subtomograms(
            80,
            size=options.size,
            snr=5,
            n_neighbors=1,
            random_state=seed,
            return_X_y=True,
        )
        for name, sizes in POOLS.items():
            rows = choose(y, sizes, seed)
            pretrainer = recommended().pretrainer.set_params(
                max_epochs=options.epochs, batch_size=32, random_state=seed
            )
            embedding = pretrainer.fit_transform(X[rows])
            for method in METHODS:
                n_clusters, index, noise = measure(embedding, y[rows], method, seed)
                lines.append(
                    f"{name:<9} {seed:>4} {len(rows):>7} {method:<9} {n_clusters:>8} "
                    f"{index:>5.2f} {noise:>5.0%}"
                )
                print(lines[-1], flush=True)
        if not many:
            many = time_many(embedding, y[rows], options.rows)
    write([*lines, *many], options.output)


def choose(
    y: NDArray[np.int64], sizes: tuple[int, ...], seed: int
) -> NDArray[np.int64]:
    """Draw classes, and as many rows of them, in random order."""
    generator = np.random.default_rng(seed)
    classes = generator.permutation(np.unique(y))[: len(sizes)]
    rows = [
        np.flatnonzero(y == name)[:n] for name, n in zip(classes, sizes, strict=True)
    ]
    return generator.permutation(np.concatenate(rows))


def measure(
    embedding: NDArray[np.float32],
    y: NDArray[np.int64],
    method: str,
    seed: int,
    max_samples: int = MAX_SAMPLES[0],
) -> tuple[int, float, float]:
    """Return the number of clusters, the ARI without noise, and the share of noise."""
    clusters = propose_clusters(
        embedding, method=method, max_samples=max_samples, random_state=seed
    )
    inside = clusters.labels_ >= 0
    index = adjusted_rand_score(y[inside], clusters.labels_[inside])
    return clusters.n_clusters_, index, float(1 - inside.mean())


def time_many(
    embedding: NDArray[np.float32], y: NDArray[np.int64], n: int
) -> list[str]:
    """Return lines of the seconds for many rows between those of an embedding."""
    generator = np.random.default_rng(0)
    order = np.argsort(y, kind="stable")
    first = generator.integers(len(y), size=n)
    counts = np.bincount(y)
    starts = np.r_[0, counts.cumsum()]
    of_class = y[first]
    second = order[starts[of_class] + generator.integers(counts[of_class])]
    share = generator.random((n, 1), dtype=np.float32)
    points = share * embedding[first] + (1 - share) * embedding[second]
    lines = [
        "",
        f"{n} rows between those of the uneven classes, seed 0; processor seconds.",
        "",
        f"{'method':<9} {'max_samples':>11} {'seconds':>7} {'clusters':>8} {'ARI':>5} "
        f"{'noise':>5}",
    ]
    for method in METHODS:
        for max_samples in MAX_SAMPLES:
            start = time.process_time()
            found = measure(points, of_class, method, 0, max_samples)
            seconds = time.process_time() - start
            n_clusters, index, noise = found
            lines.append(
                f"{method:<9} {max_samples:>11} {seconds:>7.1f} {n_clusters:>8} "
                f"{index:>5.2f} {noise:>5.0%}"
            )
            print(lines[-1], flush=True)
    return lines


if __name__ == "__main__":
    main()
