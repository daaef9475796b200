"""Measure whether pretrained classifiers look at wider regions than random ones.

    python benchmarks/attention_width.py --folder WORK
        [--output benchmarks/results/attention_width.txt]
        [--figure docs/images/attention_width.png]
    python benchmarks/attention_width.py --folder WORK --scale 0.02 --repeats 2

The claim is of Gupta et al. (2022), by one example in their figure 8: classifiers that
were pretrained by contrast "consider wider regions" in Grad-CAM than those from random
initialisation. Here it is tested on many volumes, with few labels: in each repeat,
phantoms are simulated anew, a classifier is fine-tuned from pretrained and from random
weights on the same labels with the same settings and seed, and the width of both maps
of each test volume is measured. What is compared is the mean over the test volumes, and
a repeat counts once: the volumes of one classifier are no independent samples.

Two recipes: the paper's network, views and MoCo, fine-tuned with Adam (with the paper's
own optimiser nothing is learned from so few labels), and the recommended one. Both are
much shortened, and only the start differs within each.

Each repeat stays in the folder: the same command goes on where an earlier one was
stopped. About ten minutes of processor time.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _measure import machine, write
from numpy.typing import NDArray

import sksubtomo
from sksubtomo import RB3DClassifier
from sksubtomo.datasets import list_phantoms, load_phantom, make_subtomograms
from sksubtomo.inspection.grad_cam import attention_width, grad_cam
from sksubtomo.model_selection import paired_t_test
from sksubtomo.networks import RB3D
from sksubtomo.recipes import gupta2022, recommended

N_CLASSES = 4
SIZE = 12
SNR = 1.0
N_LABELED, N_UNLABELED, N_TEST = 5, 25, 25
PRETRAIN_EPOCHS = {"gupta2022": 50, "recommended": 60}
FINE_TUNE_EPOCHS = 100
STARTS = ("pretrained", "random")
MEASURES = {"rms": "rms width", "half_maximum": "half-maximum radius"}
TARGETS = {"predicted": "predicted class", "known": "known class"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True, help="repeats are kept")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--scale", type=float, default=1.0, help="of all epochs")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--figure", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.folder.mkdir(parents=True, exist_ok=True)
    claim(options.folder, options.scale)
    repeats = []
    for number in range(options.repeats):
        path = options.folder / f"repeat_{number}.npz"
        if not path.exists():
            beside = path.with_suffix(".tmp.npz")
            np.savez(beside, **measure(number, options.scale))
            os.replace(beside, path)
        with np.load(path) as values:
            repeats.append(dict(values))
    write(report(repeats, options), options.output)
    if options.figure is not None:
        draw(repeats, options.figure)


def claim(folder: Path, scale: float) -> None:
    """Refuse a folder of another scale."""
    path = folder / "settings.json"
    settings = {"scale": scale}
    if path.exists() and json.loads(path.read_text()) != settings:
        raise SystemExit(f"{path} is not of --scale {scale}. Give another --folder.")
    path.write_text(json.dumps(settings))


def classifiers(scale: float, seed: int) -> dict[str, Callable[[bool], RB3DClassifier]]:
    """Return what builds a recipe's classifier, with its pretrainer or without."""

    def epochs(number: int) -> int:
        return max(1, round(scale * number))

    common = {"unlabeled": -1, "max_epochs": epochs(FINE_TUNE_EPOCHS)}
    of_paper = {"optimizer": "adam", "lr": 1e-3, "standardize_features": True}

    def paper(pretrained: bool) -> RB3DClassifier:
        classifier = gupta2022("moco" if pretrained else None, **of_paper)
        if pretrained:
            n_epochs = epochs(PRETRAIN_EPOCHS["gupta2022"])
            classifier.set_params(pretrainer__max_epochs=n_epochs)
        return classifier.set_params(random_state=seed, **common)

    def best(pretrained: bool) -> RB3DClassifier:
        classifier = recommended(random_state=seed, **common)
        if pretrained:
            n_epochs = epochs(PRETRAIN_EPOCHS["recommended"])
            return classifier.set_params(pretrainer__max_epochs=n_epochs)
        return classifier.set_params(
            pretrainer=None, encoder=RB3D(norm="group"), mask="sphere"
        )

    return {"gupta2022": paper, "recommended": best}


def measure(number: int, scale: float) -> dict[str, NDArray[Any]]:
    """Return widths and accuracies of one repeat."""
    n_per_class = N_LABELED + N_UNLABELED + N_TEST
    structures = [load_phantom(name) for name in list_phantoms()[:N_CLASSES]]
    data = make_subtomograms(
        n_per_class,
        structures=structures,
        size=SIZE,
        snr=SNR,
        shuffle=False,
        random_state=number,
    )
    X, y = data.data, data.target
    rank = np.arange(len(X)) % n_per_class
    is_test = rank >= N_LABELED + N_UNLABELED
    labels = np.where(rank < N_LABELED, y, -1)
    values: dict[str, NDArray[Any]] = {"voxel_size": np.array(data.voxel_size)}
    for recipe, build in classifiers(scale, number).items():
        for start in STARTS:
            begin = time.process_time()
            classifier = build(start == "pretrained")
            classifier.fit(X[~is_test], labels[~is_test])
            predicted = classifier.predict(X[is_test])
            key = f"{recipe}/{start}"
            values[f"{key}/correct"] = predicted == y[is_test]
            for name, target in zip(TARGETS, (predicted, y[is_test]), strict=True):
                maps = grad_cam(classifier, X[is_test], target)
                for kind in MEASURES:
                    values[f"{key}/{name}/{kind}"] = attention_width(
                        maps, voxel_size=data.voxel_size, measure=kind
                    )
            seconds = time.process_time() - begin
            print(
                f"repeat {number}, {recipe}, {start}: "
                f"{np.nanmean(values[f'{key}/predicted/rms']):.2f} A, "
                f"{np.mean(predicted == y[is_test]):.3f} correct, {seconds:.0f} s",
                flush=True,
            )
    return values


def report(
    repeats: list[dict[str, NDArray[Any]]], options: argparse.Namespace
) -> list[str]:
    voxel_size = float(repeats[0]["voxel_size"])
    even = attention_width(np.ones((1, SIZE, SIZE, SIZE)), voxel_size)[0]
    n_train = N_LABELED + N_UNLABELED
    lines = [
        "Command: python benchmarks/attention_width.py --folder WORK --repeats "
        f"{options.repeats} --scale {options.scale:g}",
        f"Machine: {machine()}",
        f"Versions: sksubtomo {sksubtomo.__version__}, torch {torch.__version__}, "
        f"numpy {np.__version__}",
        "",
        f"{N_CLASSES} phantoms, {SIZE}^3 voxels of {voxel_size:.3g} A, SNR {SNR:g}; "
        f"{n_train} training volumes a class,",
        f"{N_LABELED} of them labelled, {N_TEST} test volumes a class. Epochs: "
        f"fine-tuning {max(1, round(options.scale * FINE_TUNE_EPOCHS))},",
        f"pretraining {epoch_text(options.scale)}. Widths in A:",
        "mean over the test volumes, then mean and standard deviation over the "
        f"{len(repeats)}",
        "repeats. p: two-tailed paired t-test over repeats. larger: repeats where the",
        "pretrained classifier has the larger number. Empty maps have no width; an",
        f"even map has an rms width of {even:.0f} A.",
        "",
        "Test accuracy",
    ]
    for recipe in PRETRAIN_EPOCHS:
        means = [mean_of(repeats, f"{recipe}/{start}/correct") for start in STARTS]
        lines.append(line_of(recipe, means, 100.0))
    for name, target in TARGETS.items():
        for kind, title in MEASURES.items():
            lines += ["", f"{title.capitalize()} of the maps of the {target}"]
            for recipe in PRETRAIN_EPOCHS:
                keys = [f"{recipe}/{start}/{name}/{kind}" for start in STARTS]
                means = [mean_of(repeats, key) for key in keys]
                lines.append(line_of(recipe, means))
    lines += [
        "",
        "Rms width where both classifiers are right (known = predicted class)",
    ]
    for recipe in PRETRAIN_EPOCHS:
        lines.append(line_of(recipe, where_both_are_right(repeats, recipe)))
    lines += ["", "Empty maps of the predicted class, of all"]
    for recipe in PRETRAIN_EPOCHS:
        shares = [
            np.mean([np.isnan(r[f"{recipe}/{start}/predicted/rms"]) for r in repeats])
            for start in STARTS
        ]
        lines.append(
            f"  {recipe:<12} pretrained {shares[0]:.1%}, random {shares[1]:.1%}"
        )
    return lines


def epoch_text(scale: float) -> str:
    return ", ".join(
        f"{max(1, round(scale * number))} ({recipe})"
        for recipe, number in PRETRAIN_EPOCHS.items()
    )


def mean_of(repeats: list[dict[str, NDArray[Any]]], key: str) -> NDArray[Any]:
    """Return the mean over the volumes, of each repeat."""
    return np.array([np.nanmean(values[key]) for values in repeats])


def where_both_are_right(
    repeats: list[dict[str, NDArray[Any]]], recipe: str
) -> list[NDArray[Any]]:
    """Return the mean rms width of both starts, of each repeat."""
    means = []
    for values in repeats:
        keep = np.logical_and(*(values[f"{recipe}/{s}/correct"] for s in STARTS))
        widths = [values[f"{recipe}/{s}/predicted/rms"] for s in STARTS]
        keep &= ~np.isnan(widths).any(axis=0)
        means.append([np.mean(of_one[keep]) for of_one in widths])
    return list(np.transpose(means))


def line_of(recipe: str, means: list[NDArray[Any]], factor: float = 1.0) -> str:
    pretrained, random = (factor * of_one for of_one in means)
    known = np.isfinite(pretrained) & np.isfinite(random)
    pretrained, random = pretrained[known], random[known]
    if len(pretrained) < 2:
        return f"  {recipe:<12} too few repeats"
    test = paired_t_test(pretrained, random)
    return (
        f"  {recipe:<12} pretrained {pretrained.mean():5.1f} ± "
        f"{pretrained.std(ddof=1):4.1f}, random {random.mean():5.1f} ± "
        f"{random.std(ddof=1):4.1f}, difference {np.mean(pretrained - random):+5.1f}, "
        f"p = {test.pvalue:.3f}, larger {(pretrained > random).sum()} of {len(random)}"
    )


def draw(repeats: list[dict[str, NDArray[Any]]], path: Path) -> None:
    """Draw the distribution over the volumes, and the means of the repeats."""
    import matplotlib.pyplot as plt

    from sksubtomo.inspection._matplotlib import COLUMN_WIDTH, OKABE_ITO

    figure, axes = plt.subplots(
        1, 2, figsize=(COLUMN_WIDTH, 2.5), sharey=True, layout="constrained"
    )
    for ax, recipe in zip(axes, PRETRAIN_EPOCHS, strict=True):
        widths = []
        for start in STARTS:
            key = f"{recipe}/{start}/predicted/rms"
            of_all = np.concatenate([values[key] for values in repeats])
            widths.append(of_all[~np.isnan(of_all)])
        violins = ax.violinplot(widths, positions=[0, 1], widths=0.8, showextrema=False)
        for body, color in zip(violins["bodies"], OKABE_ITO, strict=False):
            body.set(facecolor=color, alpha=0.45)
        means = [mean_of(repeats, f"{recipe}/{s}/predicted/rms") for s in STARTS]
        ax.plot([0, 1], means, color="black", marker="o", markersize=3, linewidth=0.8)
        ax.set_xticks([0, 1], STARTS, fontsize="x-small")
        even = attention_width(np.ones((1, SIZE, SIZE, SIZE)), repeats[0]["voxel_size"])
        label = "even map" if recipe == "recommended" else None
        ax.axhline(even[0], color="0.4", linestyle=":", linewidth=0.8, label=label)
        ax.set_title(recipe, fontsize="small")
        ax.tick_params(axis="y", labelsize="x-small")
    axes[0].set_ylabel("rms width of Grad-CAM (Å)", fontsize="small")
    axes[1].lines[0].set_label("mean of a repeat")
    figure.legend(
        fontsize="x-small", frameon=False, loc="outside lower center", ncols=2
    )
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
