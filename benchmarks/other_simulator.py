"""Measure the recipes on volumes that no part of the package has simulated.

    python benchmarks/other_simulator.py --methods pca,profiles,gupta2022,recommended
        [--repeats 2] [--noise white] [--output benchmarks/results/other_simulator.txt]

The claim: the recommended recipe is not fitted to the package's own simulator. Here the
complexes are random groups of 6 to 13 Gaussian blobs; the beam goes along x and the
tilt axis along z; the noise is coloured and has the wedge, or it is white and fills
it; contrast is inverted. A repeat has complexes, volumes, labels and seed of its own.
Nothing in the package was chosen by these volumes.

`pca` and `profiles` have no encoder: a logistic regression on 20 principal components,
and on what rotations leave as it is, the mean of each shell of the volume and the mean
power of each shell of its Fourier transform. They see the labelled volumes, and once
all of the training volumes with their labels, which no other row has.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from _measure import machine, write
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation
from sklearn.base import BaseEstimator
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

import sksubtomo
from sksubtomo.recipes import gupta2022, recommended

SIDE = 12
N_CLASSES = 6
N_TRAIN, N_TEST, N_LABELED = 66, 100, 5
LARGEST_TILT = 60
WITHOUT_ENCODER = ("pca", "profiles")
METHODS = (*WITHOUT_ENCODER, "gupta2022", "recommended", "recommended_without_wedge")
UNLABELED = -1

Complexes = list[tuple[NDArray[np.float64], NDArray[np.float64]]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--methods", default=",".join(METHODS[:-1]))
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--snr", type=float, default=1.0)
    parser.add_argument("--noise", choices=["coloured", "white"], default="coloured")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    methods = options.methods.split(",")
    if unknown := set(methods) - set(METHODS):
        parser.error(f"--methods: {sorted(unknown)}; expected some of {METHODS}")
    torch.set_num_threads(1)
    results: dict[str, list[float]] = {}
    seconds: dict[str, float] = {}
    for repeat in range(options.repeats):
        measured = one_repeat(methods, repeat, options.snr, options.noise)
        for name, (accuracy, spent) in measured.items():
            print(
                f"repeat {repeat}, {name}: {accuracy:.3f} ({spent:.0f} s)", flush=True
            )
            results.setdefault(name, []).append(accuracy)
            seconds[name] = seconds.get(name, 0.0) + spent
    lines = [
        f"Command: python benchmarks/other_simulator.py --methods {options.methods} "
        f"--repeats {options.repeats} --snr {options.snr:g} --noise {options.noise}",
        f"Machine: {machine()}",
        f"Versions: sksubtomo {sksubtomo.__version__}, torch {torch.__version__}, "
        f"numpy {np.__version__}",
        "",
        f"{N_CLASSES} complexes, {N_TRAIN} training and {N_TEST} test volumes of each, "
        f"{SIDE}^3, {N_LABELED} labels a class.",
        "Test accuracy (%) of each repeat, their mean, and seconds of a repeat; chance "
        f"is {1 / N_CLASSES:.1%}.",
    ]
    for name, accuracies in results.items():
        each = " ".join(f"{accuracy:6.1%}" for accuracy in accuracies)
        mean = np.mean(accuracies)
        spent = seconds[name] / len(accuracies)
        lines.append(f"{name:<24} {each}   mean {mean:6.1%} {spent:7.0f} s")
    write(lines, options.output)


def one_repeat(
    methods: list[str], seed: int, snr: float, noise: str
) -> dict[str, tuple[float, float]]:
    """Return test accuracy and seconds of each method, and of what has all labels."""
    generator = np.random.default_rng([seed, 2022])
    complexes = make_complexes(generator)
    X, y = make_volumes(complexes, N_TRAIN, snr, noise, generator)
    X_test, y_test = make_volumes(complexes, N_TEST, snr, noise, generator)
    few = np.full(len(y), UNLABELED)
    for label in range(N_CLASSES):
        rows = np.flatnonzero(y == label)[:N_LABELED]
        few[rows] = label
    labeled = few != UNLABELED
    found = {}
    for method in methods:
        estimator = make_estimator(method, seed)
        if method in WITHOUT_ENCODER:
            parts = {
                method: (X[labeled], y[labeled]),
                f"{method}, all labels": (X, y),
            }
        else:
            parts = {method: (X, few)}
        for name, part in parts.items():
            start = time.perf_counter()
            accuracy = estimator.fit(*part).score(X_test, y_test)
            found[name] = float(accuracy), time.perf_counter() - start
    return found


def make_estimator(method: str, seed: int) -> BaseEstimator:
    """Return an unfitted classifier."""
    if method.startswith("recommended"):
        recipe = recommended(unlabeled=UNLABELED, random_state=seed)
        if method == "recommended":
            return recipe
        return recipe.set_params(
            augmentation__wedge=None, pretrainer__augmentation__wedge=None
        )
    if method == "gupta2022":
        return gupta2022("moco", unlabeled=UNLABELED, random_state=seed)
    is_pca = method == "pca"
    return make_pipeline(
        FunctionTransformer(flatten if is_pca else profiles),
        StandardScaler(),
        PCA(20, random_state=seed) if is_pca else "passthrough",
        LogisticRegression(max_iter=5000),
    )


def flatten(volumes: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return volumes as rows."""
    return volumes.reshape(len(volumes), -1)


def profiles(volumes: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return means over shells around the centre, and the power of Fourier shells."""
    centered = volumes - volumes.mean(axis=(1, 2, 3), keepdims=True)
    power = np.log(np.abs(np.fft.fftn(centered, axes=(1, 2, 3))) ** 2 + 1e-12)
    radii = np.linalg.norm(positions(), axis=-1)
    frequencies = SIDE * np.linalg.norm(wave_numbers(), axis=-1)
    columns = [
        values[:, shells.round() == shell].mean(axis=1)
        for values, shells in ((centered, radii), (power, frequencies))
        for shell in range(1, SIDE // 2 + 1)
    ]
    return np.stack(columns, axis=1)


def positions() -> NDArray[np.float64]:
    """Return the place of each voxel from the centre, in voxels."""
    axis = np.arange(SIDE) - (SIDE - 1) / 2
    return np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1)


def wave_numbers() -> NDArray[np.float64]:
    """Return the frequency of each Fourier coefficient, in cycles a voxel."""
    axis = np.fft.fftfreq(SIDE)
    return np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1)


def make_complexes(generator: np.random.Generator) -> Complexes:
    """Return places and weights of the blobs of each complex."""
    complexes = []
    for _ in range(N_CLASSES):
        n = int(generator.integers(6, 14))
        places = generator.normal(size=(n, 3))
        places /= np.linalg.norm(places, axis=1, keepdims=True)
        places *= generator.uniform(1.0, 3.6, size=(n, 1))
        weights = generator.uniform(0.5, 1.5, n)
        complexes.append((places - np.average(places, 0, weights), weights))
    return complexes


def make_volumes(
    complexes: Complexes,
    n_per_class: int,
    snr: float,
    noise: str,
    generator: np.random.Generator,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return volumes in any orientation, up to a voxel off the centre, and classes."""
    grid, frequencies = positions(), wave_numbers()
    # The beam is the last axis, and the tilt axis the first.
    tilts = np.degrees(
        np.arctan2(np.abs(frequencies[..., 2]), np.abs(frequencies[..., 1]))
    )
    is_measured = tilts <= LARGEST_TILT
    volumes, classes = [], []
    for label, (places, weights) in enumerate(complexes):
        for _ in range(n_per_class):
            turned = Rotation.random(random_state=generator).apply(places)
            turned += generator.uniform(-1, 1, 3)
            volume = sum(
                weight * np.exp(-((grid - place) ** 2).sum(axis=-1) / 2)
                for weight, place in zip(weights, turned, strict=True)
            )
            volume /= volume.std()
            added = generator.normal(size=volume.shape)
            if noise == "coloured":
                added = ndimage.gaussian_filter(added, 0.5)
            added /= added.std() * np.sqrt(snr)
            if noise == "coloured":
                volume = take_wedge(volume + added, is_measured)
            else:
                volume = take_wedge(volume, is_measured) + added
            volumes.append(-volume)
            classes.append(label)
    return np.array(volumes, np.float32), np.array(classes)


def take_wedge(
    volume: NDArray[np.float64], is_measured: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Return a volume without what the tilt series does not measure."""
    return np.fft.ifftn(np.fft.fftn(volume) * is_measured).real


if __name__ == "__main__":
    main()
