"""What a study shows: the printed table and the figures."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from sksubtomo._files import write_atomically, write_text
from sksubtomo.inspection.embedding import EmbeddingDisplay
from sksubtomo.inspection.slices import MontageDisplay
from sksubtomo.model_selection import (
    LabelFractionCurve,
    LabelFractionDisplay,
    LabelFractionRow,
    LabelFractionSummary,
    summarize_label_fractions,
)
from sksubtomo.model_selection._comparison import Comparison
from sksubtomo.model_selection._plan import VALIDATION_FROM
from sksubtomo.model_selection._pretraining import freeze_pretrainers
from sksubtomo.pretraining import ContrastivePretrainer
from sksubtomo.study._data import StudyData
from sksubtomo.study.settings import BASELINE, StudySettings

# There is one split, so that its number is left out.
_COLUMNS = [column.name for column in fields(LabelFractionRow)][:-1]

# Text is aligned to the left, numbers to the right.
_HEADER = {
    "labels/class": ">",
    "fraction": ">",
    "validation labels": ">",
    "method": "<",
    "accuracy (%)": ">",
    "n": ">",
    "p": ">",
}


@dataclass(frozen=True)
class StudyResult:
    """What a study found.

    Attributes
    ----------
    rows : list of LabelFractionRow
        The fits, as in ``label_fractions.csv``.
    summaries : list of LabelFractionSummary
        Of `rows`, tested against random initialisation.
    curve : LabelFractionCurve
        The same, with the split, further tests and data frames.
    table : str
        The printed table.
    output : Path
        The folder of the files.
    """

    rows: list[LabelFractionRow]
    summaries: list[LabelFractionSummary]
    curve: LabelFractionCurve
    table: str
    output: Path


def report(
    settings: StudySettings,
    output: Path,
    data: StudyData,
    comparison: Comparison,
    curve: LabelFractionCurve,
) -> StudyResult:
    """Summarise the rows, and write the tables and the figures."""
    _write_rows(output / "label_fractions.csv", curve.rows_)
    summaries = summarize_label_fractions(curve.rows_, BASELINE)
    table = _format_table(settings, data, comparison.estimators, summaries, curve)
    write_text(output / "table.txt", table)
    pretrainers = _load_pretrainers(comparison, output / "cache")
    _draw_figures(output, data, summaries, curve, pretrainers)
    return StudyResult(
        rows=curve.rows_,
        summaries=summaries,
        curve=curve,
        table=table,
        output=output,
    )


def _write_rows(path: Path, rows: Sequence[LabelFractionRow]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    writer.writerows(astuple(row)[: len(_COLUMNS)] for row in rows)
    write_text(path, text.getvalue())


def _load_pretrainers(
    comparison: Comparison, cache: Path
) -> dict[str, ContrastivePretrainer]:
    """Take from the cache what the curve has left there."""
    pretrainers = {}
    for task in comparison.pretrainings():
        X_train = comparison.X[task.split.train]
        frozen = freeze_pretrainers(task.estimator, X_train, str(cache), task.seed)
        pretrainers[task.method] = frozen.pretrainer.estimator
    return pretrainers


def _format_table(
    settings: StudySettings,
    data: StudyData,
    classifiers: Mapping[str, Any],
    summaries: Sequence[LabelFractionSummary],
    curve: LabelFractionCurve,
) -> str:
    classes = np.unique(data.y)
    depth, height, width = data.X.shape[1:]
    (split,) = curve.splits_
    voxel = (
        "voxel size unknown"
        if data.voxel_size is None
        else f"voxels of {data.voxel_size:.3g} Å"
    )
    source = (
        f"simulated, SNR {settings.snr:g}"
        if settings.data is None
        else f"from {Path(settings.data).name}"
    )
    lines = [
        f"{len(classes)} classes: {', '.join(classes)}",
        f"Volumes: {depth} x {height} x {width}, {voxel}, {source}; "
        f"{len(split.train)} training, {len(split.validation)} validation, "
        f"{len(split.test)} test",
        *_describe_rows(settings, classifiers),
        "Test accuracy, mean ± standard deviation over "
        f"{settings.repeats} repeats (labels and seed); chance "
        f"{100 * curve.chance_:.1f} %",
        "p: paired two-tailed t-test against random initialisation on the same labels",
        "",
    ]
    body = [
        [
            str(row.labels_per_class),
            f"{row.label_fraction:.3g}",
            str(row.validation_labels),
            row.method,
            _mean_and_std(row),
            str(row.n_repeats),
            _format_pvalue(row.pvalue),
        ]
        for row in summaries
    ]
    widths = [max(map(len, column)) for column in zip(_HEADER, *body, strict=True)]

    def join(cells: Iterable[str]) -> str:
        aligned = zip(cells, _HEADER.values(), widths, strict=True)
        return "  ".join(f"{cell:{side}{width}}" for cell, side, width in aligned)

    rule = join("-" * width for width in widths)
    blocks = groupby(body, key=lambda cells: cells[:3])
    lines += [
        join(_HEADER),
        rule,
        "\n\n".join("\n".join(map(join, block)) for _, block in blocks),
        rule,
        "",
        _difficulty(summaries, len(split.train), len(split.test), curve.chance_),
    ]
    if any(row.validation_labels for row in summaries):
        lines.append(
            f"From {VALIDATION_FROM} labels per class up, the epoch is chosen by "
            f"{len(split.validation)} further validation labels; below, the last one "
            "stays."
        )
    durations = ", ".join(
        f"{method} {seconds:.0f} s"
        for method, (seconds,) in curve.pretraining_seconds_.items()
        if np.isfinite(seconds)
    )
    return "\n".join([*lines, f"Pretraining took {durations}.", ""])


def _describe_rows(
    settings: StudySettings, classifiers: Mapping[str, Any]
) -> list[str]:
    """Say how the rows were trained, a line for each kind of row."""
    encoder, views = (
        " ".join(str(value).split()) for value in (settings.encoder, settings.views)
    )
    lengths = {
        name: "at least 2,000 steps"
        if classifier.max_epochs == "auto"
        else f"{classifier.max_epochs} epochs"
        for name, classifier in classifiers.items()
    }
    lines = [
        f"Pretraining, where there is one: {settings.epochs} epochs on the training "
        "part",
        f"{', '.join((BASELINE, *settings.methods))}: encoder {encoder}, views of "
        f"pretraining {views}, fine-tuning {lengths[BASELINE]}",
    ]
    return lines + [
        f"{name}: the recipe's own settings, fine-tuning {lengths[name]}"
        for name in settings.recipes
    ]


def _difficulty(
    summaries: Sequence[LabelFractionSummary],
    n_train: int,
    n_test: int,
    chance: float,
) -> str:
    everything = [
        row for row in summaries if row.method == BASELINE and row.label_fraction == 1
    ]
    if not everything:
        return "Random initialisation with all labels was not run."
    (row,) = everything
    # Two standard errors of guessing.
    spread = 2 * np.sqrt(chance * (1 - chance) / n_test)
    if row.mean >= 0.99:
        verdict = "all but perfect: this study is too easy to compare methods"
    elif row.mean <= chance + spread:
        verdict = "no better than chance: this study is too hard to compare methods"
    else:
        verdict = "neither chance nor perfect"
    return (
        f"Random initialisation with all {n_train} training labels reaches "
        f"{100 * row.mean:.1f} % (chance {100 * chance:.1f} %): {verdict}."
    )


def _mean_and_std(row: LabelFractionSummary) -> str:
    if np.isnan(row.std):
        return f"{100 * row.mean:.1f}"
    return f"{100 * row.mean:.1f} ± {100 * row.std:.1f}"


def _format_pvalue(pvalue: float) -> str:
    if np.isnan(pvalue):
        return "-"
    return "< 0.0001" if pvalue < 1e-4 else f"{pvalue:.4f}"


def _draw_figures(
    output: Path,
    data: StudyData,
    summaries: Sequence[LabelFractionSummary],
    curve: LabelFractionCurve,
    pretrainers: Mapping[str, ContrastivePretrainer],
) -> None:
    # No pyplot: it would open windows where there is a display.
    from matplotlib.figure import Figure

    (split,) = curve.splits_
    accuracy = Figure(figsize=(6.4, 3.6), layout="constrained")
    LabelFractionDisplay(summaries, chance=curve.chance_).plot(
        ax=accuracy.add_subplot()
    )
    slices = Figure()
    MontageDisplay.from_predictions(
        data.X[split.train],
        data.y[split.train],
        voxel_size=data.voxel_size,
        ax=slices,
    )
    n_rows = len(pretrainers) // 2 + 1
    embedding = Figure(figsize=(5.6, 2.7 * n_rows), layout="constrained")
    axes = embedding.subplots(n_rows, 2).ravel()
    for (method, pretrainer), ax in zip(pretrainers.items(), axes, strict=False):
        features = pretrainer.transform(data.X[split.test])
        EmbeddingDisplay.from_embedding(
            features, labels=data.y[split.test], legend=False, marker_size=9, ax=ax
        )
        ax.set_title(method, fontsize="medium")
    # The first axes that are left over hold the legend.
    spare = axes[len(pretrainers) :]
    for ax in spare:
        ax.set_axis_off()
    spare[0].legend(
        *axes[0].get_legend_handles_labels(),
        loc="center",
        frameon=False,
        fontsize="small",
        markerscale=1.8,
        title="Test volumes of",
    )
    figures = {"accuracy": accuracy, "slices": slices, "embedding": embedding}
    for name, figure in figures.items():
        write_atomically(
            output / f"{name}.png", partial(figure.savefig, format="png", dpi=200)
        )
