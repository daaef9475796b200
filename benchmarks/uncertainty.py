"""Measure calibration, abstention and the score of novelty.

    python benchmarks/uncertainty.py
        [--runs 5] [--output benchmarks/results/uncertainty.txt]
        [--figure docs/images/reliability.png]

The claims: one temperature, learned from few volumes, mends the confidences of the
recommended classifier; the confidences tell which answers to trust; and the distance to
the labelled volumes in the embedding tells what is of no known class, where the
confidence does not.

The package simulates the volumes from its phantoms, at 12^3 voxels and an SNR of 2, and
all are brought to mean 0 and standard deviation 1, so that nothing is told by its
contrast alone. Each run has a seed of its own and leaves out two of the ten classes;
five runs leave out each class once. The recommended recipe, much shortened, is trained
on 60 volumes of each of the other eight, of which 20 are labelled; of each, 20 further
volumes are for validation and 60 for the test. None of the foreign volumes is trained
on: 60 of each class that was left out; noise with the transfer and the wedge of the
others; gold beads of 10 nm at an SNR of 20; edges of a carbon film along the beam, at
the SNR of the particles.

What was chosen (the kind of distance, the number of neighbours, half a count in the
temperature's loss, the average over orientations) was chosen on seeds 101 to 103. They
left out the same pairs of classes as the first three runs do: other volumes, of no
other phantoms.
"""

from __future__ import annotations

import argparse
import time
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import sklearn
import torch
from _measure import machine, write
from numpy.typing import NDArray
from scipy.special import log_softmax
from sklearn.covariance import LedoitWolf
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import log_loss, roc_auc_score
from sklearn.neighbors import LocalOutlierFactor

import sksubtomo
from sksubtomo.datasets import (
    Microscope,
    add_noise,
    apply_transfer,
    crop_center,
    filtered_noise,
    gaussian_transfer,
    make_subtomograms,
    noise_transfer,
    transfer_volume,
)
from sksubtomo.inspection._matplotlib import OKABE_ITO
from sksubtomo.recipes import recommended
from sksubtomo.uncertainty import (
    NoveltyDetector,
    TemperatureScaledClassifier,
    expected_calibration_error,
    reliability_display,
    threshold_for_accuracy,
)

SNR, GOLD_SNR, GOLD_RADIUS = 2.0, 20.0, 50.0
N_TRAIN, N_LABELED, N_VALIDATION, N_TEST = 60, 20, 20, 60
FEW = 5
KINDS = ("unseen complexes", "noise", "gold beads", "carbon edges")
COVERAGES = (1.0, 0.8, 0.6, 0.4, 0.2)
WANTED = 0.9


@dataclass
class Run:
    """What one classifier says of volumes that it was not trained on.

    Parameters
    ----------
    codes, probabilities : ndarray
        Encoded labels of the test volumes, and what the classifier says.
    calibration : list of tuple
        Temperature, log loss and expected calibration error: before, after a
        temperature from few, and from all validation volumes.
    accuracies : list of float
        At each of COVERAGES.
    threshold : tuple of float
        Coverage and accuracy on the test volumes, at the threshold for WANTED.
    areas : dict of str to list of float
        Area under the ROC curve for each of KINDS, by score.
    rejected : list of float
        The part that the detector rejects: of the test volumes, and of each of KINDS.
    """

    codes: NDArray[np.int64]
    probabilities: NDArray[np.float64]
    calibration: list[tuple[float, float, float]]
    accuracies: list[float]
    threshold: tuple[float, float]
    areas: dict[str, list[float]]
    rejected: list[float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--size", type=int, default=12)
    parser.add_argument("--pretrain-epochs", type=int, default=10)
    parser.add_argument("--max-epochs", type=int, default=25)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--figure", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    start = time.process_time()
    runs = []
    for number in range(options.runs):
        runs.append(measure(number, options))
        print(f"run {number}: accuracy {runs[-1].accuracies[0]:.3f}", flush=True)
        # A run that is broken off leaves the means of what is done.
        minutes = (time.process_time() - start) / 60
        write(report(runs, options, minutes), options.output)
        if options.figure:
            draw(runs, options.figure)


def measure(number: int, options: argparse.Namespace) -> Run:
    """Train a classifier without two of the classes, and ask it."""
    seed = options.first_seed + number
    n_each = N_TRAIN + N_VALIDATION + N_TEST
    data = make_subtomograms(
        n_each, size=options.size, snr=SNR, n_neighbors=1, random_state=seed
    )
    X, y = standardize(data.data), data.target
    # The phantoms are in alphabetic order, which is none of size or symmetry.
    left_out = (2 * number % 10, 2 * number % 10 + 1)
    rank = np.array([np.sum(y[:row] == label) for row, label in enumerate(y)])
    known = ~np.isin(y, left_out)
    train = known & (rank < N_TRAIN)
    labeled = known & (rank < N_LABELED)
    validation = known & (rank >= N_TRAIN) & (rank < N_TRAIN + N_VALIDATION)
    few = validation & (rank < N_TRAIN + FEW)
    is_test = rank >= N_TRAIN + N_VALIDATION
    test = known & is_test
    classifier = recommended(
        unlabeled=-1,
        random_state=seed,
        pretrainer__max_epochs=options.pretrain_epochs,
        max_epochs=options.max_epochs,
    ).fit(X[train], np.where(labeled, y, -1)[train])

    foreign = [X[~known & is_test]]
    for kind in KINDS[1:]:
        volumes = draw_foreign(kind, options.size, data.voxel_size, seed)
        foreign.append(standardize(volumes))
    probabilities = classifier.predict_proba(X[test])
    codes = np.searchsorted(classifier.classes_, y[test])
    n_classes = np.arange(len(classifier.classes_))

    temperatures = [1.0]
    for rows in (few, validation):
        scaled = TemperatureScaledClassifier(FrozenEstimator(classifier))
        temperatures.append(scaled.fit(X[rows], y[rows]).temperature_)
    calibration = []
    for temperature in temperatures:
        softer = soften(probabilities, temperature)
        error = expected_calibration_error(codes, softer, n_classes)
        calibration.append((temperature, log_loss(codes, softer), error))

    right = probabilities.argmax(axis=1) == codes
    confidence = probabilities.max(axis=1)
    by_confidence = right[np.argsort(-confidence)]
    accuracies = [by_confidence[: round(c * len(right))].mean() for c in COVERAGES]
    found = threshold_for_accuracy(
        y[validation],
        classifier.predict_proba(X[validation]),
        classifier.classes_,
        WANTED,
    )
    answered = confidence >= found.threshold
    answers = right[answered].mean() if answered.any() else np.nan

    sure = [classifier.predict_proba(volumes).max(axis=1) for volumes in foreign]
    embedded = [classifier.transform(volumes) for volumes in (X[test], *foreign)]
    reference = classifier.transform(X[labeled])
    detector = NoveltyDetector().fit(reference)
    factor = LocalOutlierFactor(n_neighbors=5, novelty=True).fit(reference)
    tied = Mahalanobis(reference, y[labeled])
    single = copy(classifier).set_params(test_views=1)
    alone = NoveltyDetector().fit(single.transform(X[labeled]))
    scores = {
        "confidence": [confidence, *sure],
        "mean distance to 5 neighbours": list(map(detector.score_samples, embedded)),
        "the same, of one orientation": [
            alone.score_samples(single.transform(volumes))
            for volumes in (X[test], *foreign)
        ],
        "Mahalanobis distance": list(map(tied.score_samples, embedded)),
        "local outlier factor": list(map(factor.score_samples, embedded)),
    }
    return Run(
        codes,
        probabilities,
        calibration,
        accuracies,
        (answered.mean(), answers),
        {name: areas_of(*values) for name, values in scores.items()},
        [np.mean(detector.predict(volumes) == -1) for volumes in embedded],
    )


def standardize(volumes: NDArray[np.float32]) -> NDArray[np.float32]:
    """Bring each volume to mean 0 and standard deviation 1, as extraction does."""
    axes = (1, 2, 3)
    centred = volumes - volumes.mean(axis=axes, keepdims=True)
    return centred / centred.std(axis=axes, keepdims=True)


def draw_foreign(
    kind: str, size: int, voxel_size: float, seed: int
) -> NDArray[np.float32]:
    """Simulate what is no complex, imaged as the complexes are."""
    rng = np.random.default_rng((seed, KINDS.index(kind)))
    side = 2 * size
    transfer = transfer_volume(side, voxel_size, Microscope())
    detector = transfer_volume(side, voxel_size, Microscope(), optics=False)
    noisy = noise_transfer(transfer, detector, 0.5)
    transfer = transfer * gaussian_transfer(side, voxel_size, 2 * voxel_size)
    ticks = (np.arange(side) - (side - 1) / 2) * voxel_size
    places = np.stack(np.meshgrid(ticks, ticks, ticks, indexing="ij"))
    volumes = []
    for _ in range(N_TEST):
        noise = crop_center(filtered_noise(side, noisy, rng), size)
        if kind == "noise":
            volumes.append(noise)
            continue
        shift = rng.uniform(-0.1, 0.1, size=(3, 1, 1, 1)) * size * voxel_size
        if kind == "gold beads":
            inside = GOLD_RADIUS - np.linalg.norm(places - shift, axis=0)
            texture, snr = 1.0, GOLD_SNR
        else:
            angle = rng.uniform(0, 2 * np.pi)
            _, across, along = places - 2 * shift
            inside = across * np.cos(angle) + along * np.sin(angle)
            texture, snr = 1 + 0.2 * rng.standard_normal((side,) * 3), SNR
        # The border takes up one voxel.
        scene = texture * np.clip(inside / voxel_size + 0.5, 0, 1)
        signal = apply_transfer(scene.astype(np.float32), transfer)
        volumes.append(add_noise(crop_center(signal, size), noise, snr))
    return np.stack(volumes)


def soften(probabilities: NDArray[np.float64], temperature: float) -> NDArray[Any]:
    """Return probabilities at a temperature."""
    return np.exp(log_softmax(np.log(probabilities + 1e-38) / temperature, axis=1))


class Mahalanobis:
    """The distance to the nearest class mean, by one covariance (Lee et al. 2018)."""

    def __init__(self, X: NDArray[Any], y: NDArray[Any]) -> None:
        labels, codes = np.unique(y, return_inverse=True)
        self.means = np.stack([X[y == label].mean(axis=0) for label in labels])
        within = LedoitWolf(assume_centered=True).fit(X - self.means[codes])
        self.precision = within.precision_

    def score_samples(self, X: NDArray[Any]) -> NDArray[Any]:
        """Return the negative squared distance."""
        offsets = X[:, None] - self.means
        squares = np.sum((offsets @ self.precision) * offsets, axis=2)
        return -squares.min(axis=1)


def areas_of(known: NDArray[Any], *foreign: NDArray[Any]) -> list[float]:
    """Return the area under the ROC curve for each kind of foreign volumes."""
    return [
        roc_auc_score(
            np.repeat([1, 0], [len(known), len(scores)]), np.append(known, scores)
        )
        for scores in foreign
    ]


def report(runs: list[Run], options: argparse.Namespace, minutes: float) -> list[str]:
    """Return the lines of the report."""
    temperatures = np.array([run.calibration for run in runs])
    lines = [
        f"Command: python benchmarks/uncertainty.py --runs {options.runs} --first-seed "
        f"{options.first_seed} --size {options.size} --pretrain-epochs "
        f"{options.pretrain_epochs} --max-epochs {options.max_epochs}",
        f"Machine: {machine()}",
        f"Versions: sksubtomo {sksubtomo.__version__}, torch {torch.__version__}, "
        f"numpy {np.__version__}, scikit-learn {sklearn.__version__}",
        f"Processor time: {minutes:.0f} minutes, one thread",
        "",
        f"Means of {len(runs)} classifiers of eight classes, in brackets the standard",
        f"deviation. {len(runs[0].codes)} test volumes each.",
        "",
        "Calibration of the probabilities",
        f"{'':<32} {'temperature':>14} {'log loss':>14} {'ECE':>14}",
    ]
    names = (
        "as they are",
        f"temperature from {FEW} a class",
        f"temperature from {N_VALIDATION} a class",
    )
    for number, name in enumerate(names):
        lines.append(row_of(name, temperatures[:, number].T, digits=2))
    lines += [
        "",
        "Accuracy of the most confident part",
        f"{'coverage':<32} " + " ".join(f"{c:>14.0%}" for c in COVERAGES),
        row_of("accuracy", np.array([run.accuracies for run in runs]).T),
        "",
        f"Threshold for an accuracy of {WANTED:.0%}, at a level of 95 %, from "
        f"{N_VALIDATION} validation volumes a class",
    ]
    reached = [run.threshold for run in runs if run.threshold[0] > 0]
    lines.append(
        f"found for {len(reached)} of {len(runs)} classifiers; accuracy reached on the "
        f"test volumes by {sum(right >= WANTED for _, right in reached)}"
    )
    if reached:
        coverages, rights = np.array(reached).T
        lines.append(
            f"coverage {spread_of(coverages)}, accuracy {spread_of(rights)} (lowest "
            f"{rights.min():.3f})"
        )
    lines += [
        "",
        "Known or not: area under the ROC curve",
        f"{'':<32} " + " ".join(f"{kind:>16}" for kind in KINDS),
    ]
    for name in runs[0].areas:
        areas = np.array([run.areas[name] for run in runs]).T
        lines.append(row_of(name, areas, width=16))
    kinds = ("known classes", *KINDS)
    rejected = np.array([run.rejected for run in runs]).T
    lines += [
        "",
        "Part rejected by NoveltyDetector at its false_rejection_rate of 5 %",
        f"{'':<32} " + " ".join(f"{kind:>16}" for kind in kinds),
        row_of("rejected", rejected, width=16),
    ]
    for name, values in (
        ("lowest", rejected.min(axis=1)),
        ("highest", rejected.max(1)),
    ):
        lines.append(f"{name:<32} " + " ".join(f"{value:>16.3f}" for value in values))
    return lines


def row_of(
    name: str, columns: NDArray[np.float64], *, digits: int = 3, width: int = 14
) -> str:
    """Return a line of the report; each column has a value for each run."""
    cells = (f"{spread_of(values, digits):>{width}}" for values in columns)
    return f"{name:<32} " + " ".join(cells)


def spread_of(values: NDArray[np.float64], digits: int = 3) -> str:
    """Return the mean and, in brackets, the standard deviation."""
    return f"{np.mean(values):.{digits}f} ({np.std(values):.{digits}f})"


def draw(runs: list[Run], path: Path) -> None:
    """Draw confidence and accuracy of all runs together, before and after."""
    codes = np.concatenate([run.codes for run in runs])
    classes = np.arange(runs[0].probabilities.shape[1])
    small = {"font.size": 8, "lines.markersize": 4, "lines.linewidth": 1.2}
    with plt.rc_context(small):
        figure, ax = plt.subplots(figsize=(3.35, 3.2), layout="constrained")
        for number, name, color, marker in (
            (0, "as they are", OKABE_ITO[2], "o"),
            (2, "after temperature scaling", OKABE_ITO[0], "s"),
        ):
            probabilities = np.concatenate(
                [soften(run.probabilities, run.calibration[number][0]) for run in runs]
            )
            reliability_display(
                codes,
                probabilities,
                classes,
                name=name,
                ax=ax,
                color=color,
                marker=marker,
            )
        ax.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
        figure.savefig(path, dpi=200)
        plt.close(figure)


if __name__ == "__main__":
    main()
