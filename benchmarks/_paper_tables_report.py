"""The report of `paper_tables`: tables, goals, figure and page, all from its files."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from _paper_tables_settings import ABLATIONS, PAPER_ROWS, ROWS, Scale
from _paper_tables_store import convergence_path, read_lines, read_record

from sksubtomo._files import write_text
from sksubtomo.inspection._matplotlib import MARKERS, OKABE_ITO
from sksubtomo.model_selection import corrected_t_test, paired_t_test

PRETRAINED = ("simclr", "swav", "moco")

# Another group's, from scratch on 80 % of volumes of these classes; SNR inf, 0.05
# and 0.03, by another simulator.
PUBLISHED_BN_CNN = "90.6 / 88.2 / 87.1"

# Rows that the figure's first panels show.
SHOWN = ("random", *PRETRAINED, "bn_cnn", "recommended")


@dataclass(frozen=True)
class Column:
    """One data set at one signal-to-noise ratio."""

    dataset: str
    snr: float

    def __str__(self) -> str:
        return f"{self.dataset}, SNR {self.snr:g}"


class Table:
    """The accuracies in percent, by row, column, label and repeat.

    Parameters
    ----------
    path : Path
        The CSV file; none is an empty table.
    scale : Scale
        What the table is made of.
    """

    def __init__(self, path: Path, scale: Scale) -> None:
        self.path = path
        self.scale = scale
        self.record = read_record(path)
        self._found: dict[tuple[str, Column, int], dict[int, float]] = {}
        self.validation: dict[tuple[Column, int], int] = {}
        for line in read_lines(path):
            column = Column(line["dataset"], float(line["snr"]))
            count = int(line["labels_per_class"])
            repeats = self._found.setdefault((line["method"], column, count), {})
            repeats[int(line["repeat"])] = 100 * float(line["accuracy"])
            self.validation[column, count] = int(line["validation_labels"])
        there = {column for _, column, _ in self._found}
        self.columns = [
            column
            for name, data in scale.data.items()
            for snr in data.snrs
            if (column := Column(name, snr)) in there
        ]
        self.methods = [m for m in ROWS if any(m == key[0] for key in self._found)]

    def repeats(self, method: str, column: Column, label: str) -> dict[int, float]:
        """Return the accuracies of a cell by repeat; empty if there are none."""
        count = self.count(column, label)
        return self._found.get((method, column, count), {})

    def count(self, column: Column, label: str) -> int:
        """Return the labels of each class."""
        return self.scale.data[column.dataset].n_labels(label)

    def heads(self, column: Column) -> list[str]:
        """Name the numbers of labels, with those for validation."""
        names = []
        for label in self.scale.labels:
            count = self.count(column, label)
            name = f"{count} ({label[:-1]} %)" if label.endswith("%") else label
            extra = self.validation.get((column, count), 0)
            names.append(f"{name} + {extra}" if extra else name)
        return names

    def mean(self, method: str, column: Column, label: str) -> float | None:
        """Return the mean of a cell, if it has any repeat."""
        values = self.repeats(method, column, label).values()
        return statistics.mean(values) if values else None

    def cell(self, method: str, column: Column, label: str) -> str:
        """Return mean and standard deviation."""
        values = list(self.repeats(method, column, label).values())
        if not values:
            return "-"
        mean = f"{statistics.mean(values):.1f}"
        return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.1f}"

    def pvalues(
        self, method: str, other: str, column: Column, label: str
    ) -> tuple[float, float]:
        """Return the p-values of the paired and the corrected test; NaN if none."""
        one, two = (self.repeats(name, column, label) for name in (method, other))
        both = sorted(one.keys() & two.keys())
        if len(both) < 2:
            return float("nan"), float("nan")
        pairs = [one[i] for i in both], [two[i] for i in both]
        # The further test volumes are no part of what the repeats draw from.
        data = self.scale.data[column.dataset]
        ratio = data.n_held_out / data.n_train
        return paired_t_test(*pairs).pvalue, corrected_t_test(*pairs, ratio).pvalue

    def compared(self, method: str, other: str, column: Column, label: str) -> str:
        """Return the difference of two rows, and the p-values."""
        means = [self.mean(name, column, label) for name in (method, other)]
        if method == other or None in means:
            return "-"
        pvalues = self.pvalues(method, other, column, label)
        shown = ", ".join(f"{p:.2g}" if p == p else "-" for p in pvalues)
        return f"{means[0] - means[1]:+.1f} ({shown})"

    def paper_best(self, column: Column, label: str) -> tuple[str, float] | None:
        """Return the best of the paper's rows."""
        means = {name: self.mean(name, column, label) for name in PAPER_ROWS}
        known = {name: mean for name, mean in means.items() if mean is not None}
        if not known:
            return None
        best = max(known, key=known.__getitem__)
        return best, known[best]


@dataclass(frozen=True)
class Goal:
    """A goal, what was measured, and whether it is met; None if it is not known."""

    text: str
    measured: str
    met: bool | None

    @property
    def verdict(self) -> str:
        """The same in a word."""
        return {None: "not measured", True: "met", False: "missed"}[self.met]


def goals(table: Table) -> list[Goal]:
    """Compare the table with what it was to show."""
    found = [
        Goal(
            f"{method} against random, 25 % labels: better in every column, p < 0.05",
            *check_above(table, method, "random", "25%", significantly=True),
        )
        for method in PRETRAINED
    ]
    few = next(label for label in table.scale.labels if not label.endswith("%"))
    found += [
        Goal(
            f"recommended against the paper's best, {few} labels: + 30 points",
            *check_best(table, few, few, 30),
        ),
        Goal(
            f"recommended with {few} labels: at least the paper's best with 100 %",
            *check_best(table, few, "100%", 0),
        ),
        Goal(
            "recommended against the paper's best, 25 % labels: + 20 points",
            *check_best(table, "25%", "25%", 20),
        ),
    ]
    if len(table.scale.data) == 1:
        text = "recommended with 25 %: at least the BN-CNN from scratch with 100 %"
        return [*found, Goal(text, *check_bn(table, "25%", "100%"))]
    published = f" (published, on another simulator's data: {PUBLISHED_BN_CNN})"
    return [
        *found,
        Goal(
            f"recommended above the BN-CNN in every column, 100 %{published}",
            *check_bn(table, "100%", "100%"),
        ),
        Goal(
            "recommended above the BN-CNN in every column, 25 %",
            *check_bn(table, "25%", "25%"),
        ),
    ]


def check_above(
    table: Table, method: str, other: str, label: str, *, significantly: bool
) -> tuple[str, bool | None]:
    """Tell whether a row is above another one in every column, and by how much."""
    texts, met = [], []
    for column in table.columns:
        means = [table.mean(name, column, label) for name in (method, other)]
        if None not in means:
            pvalue, _ = table.pvalues(method, other, column, label)
            texts.append(table.compared(method, other, column, label))
            met.append(means[0] > means[1] and (pvalue < 0.05 or not significantly))
    return "; ".join(texts), all(met) if met else None


def check_best(
    table: Table, label: str, other_label: str, points: float
) -> tuple[str, bool | None]:
    """Tell whether the recipe is so many points above the paper's best everywhere."""
    texts, met = [], []
    for column in table.columns:
        mean = table.mean("recommended", column, label)
        best = table.paper_best(column, other_label)
        if mean is not None and best is not None:
            difference = mean - best[1]
            texts.append(f"{mean:.1f} to {best[1]:.1f} ({best[0]}): {difference:+.1f}")
            met.append(difference >= points)
    return "; ".join(texts), all(met) if met else None


def check_bn(table: Table, label: str, other_label: str) -> tuple[str, bool | None]:
    """Tell whether the recipe is at or above the batch-normalised network."""
    texts, met = [], []
    for column in table.columns:
        mean = table.mean("recommended", column, label)
        other = table.mean("bn_cnn", column, other_label)
        if mean is not None and other is not None:
            texts.append(f"{mean:.1f} to {other:.1f}: {mean - other:+.1f}")
            met.append(mean >= other)
    return "; ".join(texts), all(met) if met else None


Grid = list[list[str]]


def accuracy_grid(table: Table, column: Column) -> Grid:
    """Return a table of all rows, the first line being its head."""
    head = ["labels of each class", *table.heads(column)]
    labels = table.scale.labels
    return [head] + [
        [method, *(table.cell(method, column, label) for label in labels)]
        for method in table.methods
        if any(table.repeats(method, column, label) for label in labels)
    ]


def comparison_grid(
    table: Table, column: Column, methods: Iterable[str], other: str
) -> Grid:
    """Return the differences from one row, with p-values."""
    head = [f"less {other}", *table.heads(column)]
    labels = table.scale.labels
    grid = [head]
    for method in methods:
        line = [table.compared(method, other, column, label) for label in labels]
        if set(line) != {"-"}:
            grid.append([method, *line])
    return grid


def convergence_grid(table: Table, column: Column) -> Grid:
    """Return loss and probe accuracy against epochs, means over the repeats."""
    curves = read_curves(table.path, column)
    epochs = sorted({epoch for curve in curves.values() for epoch in curve})
    # As many as fit on a page, the first and the last included.
    step = max(1, len(epochs) // 6)
    chosen = sorted({*epochs[:1], *epochs[::-step]})
    head = ["after epochs", *map(str, chosen)]
    return [head] + [
        [method, *(shown_probe(curve.get(epoch)) for epoch in chosen)]
        for method, curve in curves.items()
    ]


def read_curves(
    path: Path, column: Column
) -> dict[str, dict[int, tuple[float, float]]]:
    """Return mean loss and probe accuracy (%) by row and epoch."""
    found: dict[str, dict[int, list[tuple[float, float]]]] = {}
    for line in read_lines(convergence_path(path)):
        if Column(line["dataset"], float(line["snr"])) == column:
            points = found.setdefault(line["method"], {})
            point = float(line["loss"]), 100 * float(line["probe_accuracy"])
            points.setdefault(int(line["epoch"]), []).append(point)
    return {
        method: {
            epoch: tuple(np.mean(points[epoch], axis=0)) for epoch in sorted(points)
        }
        for method, points in sorted(found.items(), key=lambda item: order(item[0]))
    }


def order(method: str) -> int:
    return list(ROWS).index(method) if method in ROWS else len(ROWS)


def shown_probe(point: tuple[float, float] | None) -> str:
    if point is None:
        return "-"
    loss, probe = point
    return f"{probe:.1f}" if np.isnan(loss) else f"{probe:.1f} (loss {loss:.3f})"


def sections(table: Table) -> list[tuple[str, Grid]]:
    """Return all tables with their titles."""
    found: list[tuple[str, Grid]] = []
    for column in table.columns:
        n_classes = len(table.scale.data[column.dataset].classes)
        found.append(
            (
                f"{column}: test accuracy (%), mean ± standard deviation over the "
                f"repeats; chance {100 / n_classes:.1f} %; + labels for validation",
                accuracy_grid(table, column),
            )
        )
        others = [method for method in table.methods if method != "random"]
        found.append(
            (
                f"{column}: points more than random initialisation (p of the paired "
                "two-tailed t-test, of the corrected resampled one)",
                comparison_grid(table, column, others, "random"),
            )
        )
        found.append(
            (
                f"{column}: points more than the recommended recipe (p as above)",
                comparison_grid(table, column, ABLATIONS, "recommended"),
            )
        )
        found.append(
            (
                f"{column}: linear probe on the validation part (%) and pretraining "
                "loss, means over the repeats",
                convergence_grid(table, column),
            )
        )
    return [(title, grid) for title, grid in found if len(grid) > 1]


def settings_lines(table: Table) -> list[str]:
    """Say what the table was made of and by what."""
    scale, lines = table.scale, []
    for name, data in scale.data.items():
        lines.append(
            f"{name}: {len(data.classes)} classes ({', '.join(data.classes)}), "
            f"{data.size}³ voxels; for each class {data.n_train} training, "
            f"{data.n_held_out} validation and {data.n_held_out + data.n_extra} test "
            "volumes."
        )
    lines.append(
        f"Every pretraining: {scale.pretrain_epochs} epochs. Fine-tuning: at least "
        f"{scale.fine_tune_epochs} epochs and {scale.fine_tune_steps} steps; rows "
        "..._sgd and recommended as their recipes say."
    )
    return lines


def text_report(table: Table) -> str:
    """Return everything as text."""
    sessions = table.record.get("sessions", [])
    lines = [f"Command: {session['command']}" for session in sessions[-1:]]
    for name in ("machine", "versions"):
        values = dict.fromkeys(session[name] for session in sessions)
        lines.append(f"{name.capitalize()}: " + " | ".join(values))
    if sessions:
        minutes = sum(session["minutes"] for session in sessions)
        lines.append(f"Took {minutes:.0f} minutes in {len(sessions)} sessions.")
    if table.path.stem.endswith("_cut"):
        lines.append("CUT DOWN: not the scale's own results.")
    lines += ["", *settings_lines(table)]
    for title, grid in sections(table):
        lines += ["", title, "", *aligned(grid)]
    lines += ["", "Goals", ""]
    head = ["goal", "", "measured"]
    lines += aligned(
        [head, *([goal.text, goal.verdict, goal.measured] for goal in goals(table))]
    )
    return "\n".join(line.rstrip() for line in lines) + "\n"


def aligned(grid: Grid) -> list[str]:
    """Return the lines of a table in columns."""
    widths = [max(map(len, column)) for column in zip(*grid, strict=True)]
    return [
        "  ".join(f"{text:<{width}}" for text, width in zip(line, widths, strict=True))
        for line in grid
    ]


def page_fragment(table: Table) -> str:
    """Return what the page of the documentation includes."""
    if not table.columns:
        return "This scale has not been run yet: there are no results.\n"
    lines = []
    for text in settings_lines(table):
        lines.append(f"- {text}".replace("..._sgd", "`..._sgd`"))
    for title, grid in sections(table):
        lines += ["", f"{title}.", "", *list_table(grid)]
    lines += ["", "Goals:", ""]
    head = ["goal", "", "measured"]
    lines += list_table(
        [head, *([goal.text, goal.verdict, goal.measured] for goal in goals(table))]
    )
    sessions = table.record.get("sessions", [])
    machines = " | ".join(dict.fromkeys(session["machine"] for session in sessions))
    versions = " | ".join(dict.fromkeys(session["versions"] for session in sessions))
    return "\n".join([*lines, "", f"{machines}; {versions}."]) + "\n"


def list_table(grid: Grid) -> list[str]:
    """Return a table in reStructuredText."""
    lines = [".. list-table::", "   :header-rows: 1", ""]
    for row in grid:
        for i, text in enumerate(row):
            # Names of rows are literal: an underscore at a word's end is a reference.
            shown = f"`{text}`" if i == 0 and text in ROWS else text
            lines.append(f"   {'*' if i == 0 else ' '} - {shown}".rstrip())
    return lines


def draw(table: Table, path: Path) -> None:
    """Draw accuracies, the ablation, and the convergence of the pretrainings."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    columns = table.columns
    n = max(3, len(columns))
    figure, axes = plt.subplots(
        2, n, figsize=(4.2 * n, 7.2), layout="constrained", squeeze=False
    )
    for ax, column in zip(axes[0], columns, strict=False):
        draw_accuracy(table, column, ax)
    rest = [*axes[0, len(columns) :], *axes[1, 3:]]
    if len(columns) == 1:
        # The first panel as wide as two, and its legend beside it.
        for ax in rest:
            ax.set_axis_off()
        rest[0].legend(
            *axes[0, 0].get_legend_handles_labels(), loc="upper left", frameon=False
        )
        axes[0, 0].get_legend().remove()
    else:
        for ax in rest:
            ax.set_axis_off()
    draw_ablation(table, columns[0], axes[1, 0])
    draw_curves(table, columns[0], axes[1, 1], axes[1, 2])
    for ax in axes.flat:
        ax.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150, metadata={"Software": None})
    plt.close(figure)


def style(method: str) -> dict[str, Any]:
    """Return a colour and a marker, the same in every panel."""
    fixed = {name: i for i, name in enumerate((*PRETRAINED, "bn_cnn", "recommended"))}
    if method in ("random", "random_sgd"):
        return {"color": "black", "marker": "o"}
    number = fixed.get(method, len(fixed) + order(method))
    return {
        "color": OKABE_ITO[number % (len(OKABE_ITO) - 1)],
        "marker": MARKERS[(number + 1) % len(MARKERS)],
    }


def draw_accuracy(table: Table, column: Column, ax: Any) -> None:
    """Draw accuracy against labels."""
    labels = sorted(table.scale.labels, key=lambda name: table.count(column, name))
    shown = [method for method in SHOWN if method in table.methods]
    for number, method in enumerate(shown):
        points = [
            (table.count(column, label), list(values.values()))
            for label in labels
            if (values := table.repeats(method, column, label))
        ]
        # Side by side, so that error bars do not hide each other.
        dodge = 1.02 ** (number - (len(shown) - 1) / 2)
        ax.errorbar(
            [count * dodge for count, _ in points],
            [np.mean(values) for _, values in points],
            yerr=[np.std(v, ddof=1) if len(v) > 1 else 0 for _, v in points],
            label=method,
            markersize=5,
            linewidth=1.2,
            capsize=2,
            **style(method),
        )
    n_classes = len(table.scale.data[column.dataset].classes)
    ax.axhline(100 / n_classes, color="0.5", linestyle=":", linewidth=1, label="chance")
    ax.set_xscale("log")
    ticks = sorted({table.count(column, label) for label in labels})
    ax.set_xticks(ticks, labels=list(map(str, ticks)))
    ax.minorticks_off()
    ax.set_ylim(0, 100)
    ax.set_xlabel("Training labels of each class")
    ax.set_ylabel("Test accuracy (%)")
    ax.set_title(str(column), fontsize="medium")
    ax.legend(frameon=False, fontsize="small")


def draw_ablation(table: Table, column: Column, ax: Any) -> None:
    """Draw what each component of the recipe is worth."""
    labels = [label for label in table.scale.labels if label in ("5", "25%")]
    methods = [name for name in ABLATIONS if name in table.methods]
    if not methods:
        ax.set_axis_off()
        return
    for number, label in enumerate(labels):
        full = table.mean("recommended", column, label)
        points = [
            (row, mean - full)
            for row, method in enumerate(methods)
            if full is not None
            and (mean := table.mean(method, column, label)) is not None
        ]
        ax.plot(
            [difference for _, difference in points],
            [row + 0.2 * (number - 0.5) for row, _ in points],
            color=OKABE_ITO[number],
            marker=MARKERS[number],
            linestyle="none",
            label=f"{label} labels",
        )
    ax.axvline(0, color="0.5", linewidth=1)
    names = [name.removeprefix("recommended_") for name in methods]
    ax.set_yticks(range(len(methods)), labels=names)
    ax.invert_yaxis()
    ax.set_xlabel("Accuracy less the recommended recipe's (points)")
    ax.legend(frameon=False, fontsize="small")


def draw_curves(table: Table, column: Column, losses: Any, probes: Any) -> None:
    """Draw the pretrainings of the paper and of the recipe against epochs."""
    curves = read_curves(table.path, column)
    for method in (*PRETRAINED, "recommended"):
        points = curves.get(method, {})
        trained = [(epoch, loss) for epoch, (loss, _) in points.items() if epoch]
        if not trained:
            continue
        # Each method has a loss of its own; what is seen is whether it still falls.
        first = trained[0][1]
        settings = {"label": method, "markersize": 4, "linewidth": 1.2, **style(method)}
        losses.plot(
            [epoch for epoch, _ in trained],
            [loss / first for _, loss in trained],
            **settings,
        )
        probes.plot(list(points), [probe for _, probe in points.values()], **settings)
    losses.set_ylabel("Pretraining loss, relative to the first")
    probes.set_ylabel("Linear probe, validation part (%)")
    for ax in (losses, probes):
        ax.set_xlabel("Epochs of pretraining")
    if curves:
        probes.legend(frameon=False, fontsize="small")


def write_text_report(path: Path, scale: Scale) -> str:
    """Write the report beside the table, and return it."""
    report = text_report(Table(path, scale))
    write_text(path.with_suffix(".txt"), report)
    return report


def write_pages(path: Path, scale: Scale, docs: Path) -> None:
    """Write the report, and into the documentation the tables and the figure."""
    table = Table(path, scale)
    docs.mkdir(parents=True, exist_ok=True)
    write_text(docs / f"{path.stem}.inc", page_fragment(table))
    if table.columns:
        print(write_text_report(path, scale))
        # The page's own figure is of the scale that anyone can run.
        name = path.stem.removesuffix("_small")
        draw(table, docs / "images" / f"{name}.png")
