"""Measure what each strategy of `next_to_label` gains over labelling at random.

    python benchmarks/next_to_label.py
        [--output benchmarks/results/next_to_label.txt]
        [--table benchmarks/results/next_to_label.csv]
        [--figure docs/images/next_to_label.png]

The claim: with the strategy "mixed", the same number of labels gives a higher accuracy
than with labels drawn at random, from the first ten labels on.

A repeat simulates volumes of eight complexes, of which the most frequent is eight times
as frequent as the rarest, and others for the test, as many of each class; pretrains the
recommended encoder on the former, once; and then labels 10, 20, 40 and 80 of them, each
time those that a strategy names after a logistic regression on the embedding was fitted
to the labels so far. The first ten are chosen with no label. Everything but the choice
is equal for all strategies of a repeat, so that differences are paired. "uncertainty"
cannot choose the first ten; they are random, the same as of "random".

The strategies were chosen on other volumes and other seeds than these.
"""

from __future__ import annotations

import argparse
import csv
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import sklearn
import torch
from _measure import machine, write
from numpy.typing import NDArray
from scipy.stats import ttest_rel
from sklearn.linear_model import LogisticRegression

import sksubtomo
from sksubtomo.active_learning import next_to_label
from sksubtomo.datasets import make_subtomograms
from sksubtomo.inspection._matplotlib import COLUMN_WIDTH, OKABE_ITO, import_pyplot
from sksubtomo.recipes import recommended

STRATEGIES = ("random", "uncertainty", "diversity", "mixed")
N_LABELS = (10, 20, 40, 80)
N_CLASSES = 8
N_LARGEST, N_SMALLEST, N_TEST = 80, 10, 40
# Label sequences in each repeat, of those that have chance in them; their mean is the
# repeat's accuracy.
N_DRAWS = {"random": 5, "uncertainty": 5, "diversity": 1, "mixed": 1}
STYLES = {
    "random": ("#000000", "o"),
    "uncertainty": (OKABE_ITO[2], "s"),
    "diversity": (OKABE_ITO[1], "^"),
    "mixed": (OKABE_ITO[0], "D"),
}


class Data(NamedTuple):
    """Embeddings and classes of one repeat."""

    pool: NDArray[np.float32]
    y_pool: NDArray[np.int64]
    test: NDArray[np.float32]
    y_test: NDArray[np.int64]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--repeats", type=int, default=6)
    add("--epochs", type=int, default=60, help="of each pretraining")
    add("--size", type=int, default=10, help="side of the volumes in voxels")
    add("--first-seed", type=int, default=0)
    add("--output", type=Path)
    add("--table", type=Path)
    add("--figure", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for repeat in range(options.repeats):
        seed = options.first_seed + repeat
        start = time.perf_counter()
        data = embed(seed, options.size, options.epochs)
        seconds = time.perf_counter() - start
        for strategy in STRATEGIES:
            draws = [
                label_step_by_step(data, strategy, [seed, draw])
                for draw in range(N_DRAWS[strategy])
            ]
            accuracies = np.mean(draws, axis=0)
            for n_labels, (accuracy, n_found) in zip(N_LABELS, accuracies, strict=True):
                rows.append((seed, strategy, n_labels, accuracy, n_found))
        print(f"repeat {repeat}: embedded in {seconds:.0f} s", flush=True)
        if options.table is not None:
            write_table(options.table, rows)
    write(report(rows, options), options.output)
    if options.figure is not None:
        draw(rows, options.figure)


def embed(seed: int, size: int, epochs: int) -> Data:
    """Simulate the volumes of a repeat, pretrain on those to label, and embed all."""
    X, y = make_subtomograms(
        N_LARGEST + N_TEST,
        size=size,
        snr=5,
        n_neighbors=1,
        random_state=seed,
        return_X_y=True,
    )
    generator = np.random.default_rng(seed)
    classes = generator.permutation(np.unique(y))[:N_CLASSES]
    sizes = np.geomspace(N_LARGEST, N_SMALLEST, N_CLASSES).round().astype(int)
    pool: list[int] = []
    test: list[int] = []
    for name, n_of_class in zip(classes, sizes, strict=True):
        of_class = np.flatnonzero(y == name)
        pool.extend(of_class[:n_of_class])
        test.extend(of_class[-N_TEST:])
    pool = generator.permutation(pool).tolist()
    pretrainer = recommended().pretrainer.set_params(
        max_epochs=epochs, batch_size=32, random_state=seed
    )
    embedding = pretrainer.fit_transform(X[pool])
    return Data(embedding, y[pool], pretrainer.transform(X[test]), y[test])


def label_step_by_step(
    data: Data, strategy: str, seed: list[int]
) -> list[tuple[float, float]]:
    """Return accuracy and number of classes found at each number of labels."""
    random_state = np.random.RandomState(seed)
    first = "random" if strategy == "uncertainty" else strategy
    labeled = np.zeros(len(data.pool), bool)
    classifier: Any = None
    results = []
    for n_labels in N_LABELS:
        rows = next_to_label(
            classifier,
            data.pool,
            n_labels - int(labeled.sum()),
            first if classifier is None else strategy,
            labeled=labeled,
            random_state=random_state,
        )
        labeled[rows] = True
        classifier = LogisticRegression(max_iter=5000)
        classifier.fit(data.pool[labeled], data.y_pool[labeled])
        accuracy = classifier.score(data.test, data.y_test)
        results.append((accuracy, len(classifier.classes_)))
    return results


def write_table(path: Path, rows: list[tuple[Any, ...]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["seed", "strategy", "n_labels", "accuracy", "classes_found"])
        for seed, strategy, n_labels, accuracy, n_found in rows:
            table.writerow([seed, strategy, n_labels, f"{accuracy:.5f}", n_found])


def select(rows: list[tuple[Any, ...]], strategy: str) -> NDArray[np.float64]:
    """Return accuracies and classes found, by repeat and number of labels."""
    chosen = [row[3:] for row in rows if row[1] == strategy]
    return np.array(chosen, dtype=float).reshape(-1, len(N_LABELS), 2)


def report(rows: list[tuple[Any, ...]], options: argparse.Namespace) -> list[str]:
    """Return the lines of the result."""
    base = select(rows, "random")[..., 0]
    lines = [
        f"Command: python benchmarks/next_to_label.py --repeats {options.repeats} "
        f"--epochs {options.epochs} --size {options.size} "
        f"--first-seed {options.first_seed}",
        f"Machine: {machine()}",
        f"Versions: sksubtomo {sksubtomo.__version__}, torch {torch.__version__}, "
        f"scikit-learn {sklearn.__version__}, numpy {np.__version__}",
        "",
        f"{N_CLASSES} classes of {N_LARGEST} down to {N_SMALLEST} volumes, "
        f"{len(base)} repeats, each with its own volumes and pretraining; test on "
        f"{N_TEST} of each class.",
        "Test accuracy in per cent, mean +- standard deviation over the repeats; the "
        "paired",
        "difference from random with its two-tailed p-value; classes among the labels.",
        "",
        f"{'strategy':<12} {'labels':>6} {'accuracy':>13} {'difference':>10} {'p':>7} "
        f"{'classes':>7}",
    ]
    for strategy in STRATEGIES:
        values = select(rows, strategy)
        for place, n_labels in enumerate(N_LABELS):
            accuracy, n_found = values[:, place, 0], values[:, place, 1]
            line = (
                f"{strategy:<12} {n_labels:>6} {100 * accuracy.mean():>6.1f} +- "
                f"{100 * spread(accuracy):.1f}"
            )
            difference = accuracy - base[:, place]
            if np.any(difference) and len(difference) > 1:
                p = ttest_rel(accuracy, base[:, place]).pvalue
                line += f" {100 * difference.mean():>+10.1f} {p:>7.2g}"
            else:
                line += f" {'':>10} {'':>7}"
            lines.append(f"{line} {n_found.mean():>7.1f}")
    return lines


def spread(values: NDArray[np.float64]) -> float:
    return float(values.std(ddof=1)) if len(values) > 1 else float("nan")


def draw(rows: list[tuple[Any, ...]], path: Path) -> None:
    """Draw accuracy, and its gain over random, with standard errors of the mean."""
    plt = import_pyplot()
    base = select(rows, "random")[..., 0]
    figure, axes = plt.subplots(
        1, 2, figsize=(2 * COLUMN_WIDTH, 0.8 * COLUMN_WIDTH), layout="constrained"
    )
    for number, strategy in enumerate(STRATEGIES):
        color, marker = STYLES[strategy]
        accuracy = 100 * select(rows, strategy)[..., 0]
        # Side by side, so that error bars do not hide each other.
        places = np.array(N_LABELS) * 1.03 ** (number - 1.5)
        pairs = [(axes[0], accuracy)]
        if strategy != "random":
            pairs.append((axes[1], accuracy - 100 * base))
        for ax, values in pairs:
            ax.errorbar(
                places,
                values.mean(axis=0),
                [spread(column) / len(values) ** 0.5 for column in values.T],
                color=color,
                marker=marker,
                markersize=4,
                capsize=2,
                label=strategy,
            )
    axes[1].axhline(0, color="#000000", linewidth=0.8)
    axes[0].set_ylabel("Test accuracy (%)")
    axes[1].set_ylabel("Gain over random (points)")
    axes[0].legend(frameon=False)
    for ax in axes:
        ax.set_xscale("log")
        ax.set_xticks(N_LABELS, [str(n) for n in N_LABELS])
        ax.minorticks_off()
        ax.set_xlabel("Labels, of all classes together")
    figure.savefig(path, dpi=200)
    plt.close(figure)


if __name__ == "__main__":
    main()
