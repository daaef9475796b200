"""What a study shows: the printed table and the figures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path

import numpy as np

from sksubtomo._files import write_atomically, write_text
from sksubtomo.classification import SubtomogramClassifier
from sksubtomo.inspection import plot_embedding, plot_slices
from sksubtomo.model_selection import (
    LabelFractionRow,
    LabelFractionSummary,
    plot_label_fractions,
    summarize_label_fractions,
)
from sksubtomo.study._data import Parts
from sksubtomo.study._plan import MAIN_TABLE, VALIDATION_FROM, Pretraining
from sksubtomo.study._work import Pretrained, single_thread
from sksubtomo.study.settings import BASELINE, StudySettings

# Text is aligned to the left, numbers to the right.
_HEADER = {
    "labels/class": ">",
    "fraction": ">",
    "validation labels": ">",
    "views": "<",
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
        The fits from random weights and from pretraining with the main views, as in
        ``label_fractions.csv``.
    paper_rows : list of LabelFractionRow
        The fits from pretraining with the paper's views.
    summaries : list of LabelFractionSummary
        Of `rows`.
    paper_summaries : list of LabelFractionSummary
        Of `paper_rows`, tested against the same random initialisation.
    table : str
        The printed table.
    output : Path
        The folder of the files.
    """

    rows: list[LabelFractionRow]
    paper_rows: list[LabelFractionRow]
    summaries: list[LabelFractionSummary]
    paper_summaries: list[LabelFractionSummary]
    table: str
    output: Path


def report(
    settings: StudySettings,
    output: Path,
    parts: Parts,
    rows: list[LabelFractionRow],
    paper_rows: list[LabelFractionRow],
    pretrained: Sequence[tuple[Pretraining, Pretrained]],
) -> StudyResult:
    """Summarise the rows, and write the table and the figures."""
    main, *paper = settings.named_views
    baseline = [row for row in rows if row.method == BASELINE]
    summaries = {main: summarize_label_fractions(rows, BASELINE)}
    for name in paper:
        compared = summarize_label_fractions([*baseline, *paper_rows], BASELINE)
        summaries[name] = [row for row in compared if row.method != BASELINE]
    table = _format_table(settings, parts, summaries, pretrained)
    write_text(output / "table.txt", table)
    _draw_figures(output, parts, summaries, pretrained)
    return StudyResult(
        rows=rows,
        paper_rows=paper_rows,
        summaries=summaries[main],
        paper_summaries=[row for name in paper for row in summaries[name]],
        table=table,
        output=output,
    )


def _format_table(
    settings: StudySettings,
    parts: Parts,
    summaries: Mapping[str, Sequence[LabelFractionSummary]],
    pretrained: Sequence[tuple[Pretraining, Pretrained]],
) -> str:
    main, *paper = summaries
    encoder, views = (
        " ".join(str(value).split()) for value in (settings.encoder, settings.views)
    )
    classes = np.unique(parts.y_train)
    depth, height, width = parts.X_train.shape[1:]
    voxel = (
        "voxel size unknown"
        if parts.voxel_size is None
        else f"voxels of {parts.voxel_size:.3g} Å"
    )
    source = (
        f"simulated, SNR {settings.snr:g}"
        if settings.data is None
        else f"from {Path(settings.data).name}"
    )
    fine_tune_epochs = settings.fine_tune_epochs or SubtomogramClassifier().max_epochs
    chance = _chance(parts)
    lines = [
        f"{len(classes)} classes: {', '.join(classes)}",
        f"Volumes: {depth} x {height} x {width}, {voxel}, {source}; "
        f"{len(parts.y_train)} training, {len(parts.y_val)} validation, "
        f"{len(parts.y_test)} test",
        f"Encoder {encoder}; pretraining {settings.epochs} "
        f"epochs on the training part, views {views}"
        + "".join(f" and, beside, {name}" for name in paper),
        f"Fine-tuning {fine_tune_epochs} epochs in every row; test accuracy, mean "
        f"± standard deviation over {settings.repeats} repeats (labels and seed); "
        f"chance {100 * chance:.1f} %",
        "p: paired two-tailed t-test against random initialisation on the same labels",
        "",
    ]
    named = [(name, row) for name, rows in summaries.items() for row in rows]
    named.sort(key=lambda item: (item[1].labels_per_class, item[1].label_fraction))
    body = [
        [
            str(row.labels_per_class),
            f"{row.label_fraction:.3g}",
            str(row.validation_labels),
            "-" if row.method == BASELINE else name,
            row.method,
            _mean_and_std(row),
            str(row.n_repeats),
            _format_pvalue(row.pvalue),
        ]
        for name, row in named
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
        _difficulty(parts, summaries[main], chance),
    ]
    if any(row.validation_labels for _, row in named):
        lines.append(
            f"From {VALIDATION_FROM} labels per class up, the epoch is chosen by "
            f"{len(parts.y_val)} further validation labels; below, the last one stays."
        )
    durations = ", ".join(
        f"{task.method} ({task.views}) {loaded.seconds:.0f} s"
        for task, loaded in pretrained
    )
    return "\n".join([*lines, f"Pretraining took {durations}.", ""])


def _difficulty(
    parts: Parts, summaries: Sequence[LabelFractionSummary], chance: float
) -> str:
    everything = [
        row for row in summaries if row.method == BASELINE and row.label_fraction == 1
    ]
    if not everything:
        return "Random initialisation with all labels was not run."
    (row,) = everything
    # Two standard errors of guessing.
    spread = 2 * np.sqrt(chance * (1 - chance) / len(parts.y_test))
    if row.mean >= 0.99:
        verdict = "all but perfect: this study is too easy to compare methods"
    elif row.mean <= chance + spread:
        verdict = "no better than chance: this study is too hard to compare methods"
    else:
        verdict = "neither chance nor perfect"
    return (
        f"Random initialisation with all {len(parts.y_train)} training labels reaches "
        f"{100 * row.mean:.1f} % (chance {100 * chance:.1f} %): {verdict}."
    )


def _chance(parts: Parts) -> float:
    """Return the test accuracy of always naming the most frequent class."""
    _, counts = np.unique(parts.y_test, return_counts=True)
    return float(counts.max() / counts.sum())


def _mean_and_std(row: LabelFractionSummary) -> str:
    if np.isnan(row.std):
        return f"{100 * row.mean:.1f}"
    return f"{100 * row.mean:.1f} ± {100 * row.std:.1f}"


def _format_pvalue(pvalue: float) -> str:
    if np.isnan(pvalue):
        return "-"
    return "< 0.0001" if pvalue < 1e-4 else f"{pvalue:.4f}"


@single_thread()
def _draw_figures(
    output: Path,
    parts: Parts,
    summaries: Mapping[str, Sequence[LabelFractionSummary]],
    pretrained: Sequence[tuple[Pretraining, Pretrained]],
) -> None:
    # No pyplot: it would open windows where there is a display.
    from matplotlib.figure import Figure

    main, *paper = summaries
    accuracy = Figure(figsize=(6.4, 3.6), layout="constrained")
    plot_label_fractions(
        summaries[main],
        compared={name: summaries[name] for name in paper},
        chance=_chance(parts),
        ax=accuracy.add_subplot(),
    )
    slices = plot_slices(
        parts.X_train, parts.y_train, voxel_size=parts.voxel_size, figure=Figure()
    )
    pretrainers = {
        task.method: loaded.pretrainer
        for task, loaded in pretrained
        if task.table == MAIN_TABLE
    }
    n_rows = len(pretrainers) // 2 + 1
    embedding = Figure(figsize=(5.6, 2.7 * n_rows), layout="constrained")
    axes = embedding.subplots(n_rows, 2).ravel()
    for (method, pretrainer), ax in zip(pretrainers.items(), axes, strict=False):
        features = pretrainer.transform(parts.X_test)
        plot_embedding(features, parts.y_test, legend=False, marker_size=9, ax=ax)
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
