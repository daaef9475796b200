"""The report of `paper_tables`: tables, goals, figure and page, all from its files."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from _paper_tables_settings import ABLATIONS, CANDIDATES, PAPER_ROWS, ROWS, Scale
from _paper_tables_store import convergence_path, read_lines, read_record

from sksubtomo._files import write_text
from sksubtomo.inspection._matplotlib import MARKERS, OKABE_ITO
from sksubtomo.model_selection import corrected_t_test, paired_t_test

PRETRAINED = ("simclr", "swav", "moco")

# Another group's, from scratch on 80 % of volumes of these classes; SNR inf, 0.05
# and 0.03, by another simulator.
PUBLISHED_BN_CNN = "90.6 / 88.2 / 87.1"

# Of accuracies in percent; the table has five digits.
ROUNDING = 1e-6

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
        self.all_columns = [
            Column(name, snr) for name, data in scale.data.items() for snr in data.snrs
        ]
        self.columns = [column for column in self.all_columns if column in there]
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
        """Return the difference of two rows over their common repeats, and p-values."""
        means = self.common_means({method: label, other: label}, column)
        if method == other or not means:
            return "-"
        pvalues = self.pvalues(method, other, column, label)
        shown = ", ".join(f"{p:.2g}" if p == p else "-" for p in pvalues)
        return f"{means[method] - means[other]:+.1f} ({shown})"

    def common_repeats(self, labels: Mapping[str, str], column: Column) -> list[int]:
        """Return the repeats that all of these rows have, each at its label."""
        found = [set(self.repeats(row, column, labels[row])) for row in labels]
        return sorted(set.intersection(*found))

    def common_means(
        self, labels: Mapping[str, str], column: Column
    ) -> dict[str, float]:
        """Return means over the common repeats; empty if there are none."""
        common = self.common_repeats(labels, column)
        if not common:
            return {}
        return {
            row: statistics.mean(self.repeats(row, column, label)[i] for i in common)
            for row, label in labels.items()
        }

    def incomplete(self) -> list[str]:
        """Name the rows that lack repeats of some cell, and what they have."""
        found = []
        for method in self.methods:
            labels = ROWS[method].labels or self.scale.labels
            counts = [
                len(self.repeats(method, column, label))
                for column in self.all_columns
                for label in self.scale.labels
                if label in labels
            ]
            wanted = self.scale.repeats_of(method)
            n = min(counts, default=wanted)
            if n < wanted:
                found.append(f"{method} ({n} of {wanted})")
        return found


@dataclass(frozen=True)
class Goal:
    """A goal, what was measured, and whether it is met; None if that is not known."""

    text: str
    measured: str
    met: bool | None

    @property
    def verdict(self) -> str:
        """The same in a word."""
        if self.met is None:
            return "incomplete" if self.measured else "not measured"
        return "met" if self.met else "missed"


def goals(table: Table) -> list[Goal]:
    """Compare the table with what it was to show, if it has all labels for that."""
    if not {"25%", "100%"} <= set(table.scale.labels):
        return []
    few = next(label for label in table.scale.labels if not label.endswith("%"))
    found = [
        Goal(
            f"{method}{suffix} against random{suffix}, 25 % labels: better in every "
            "column, p < 0.05",
            *check_above(table, method + suffix, "random" + suffix, "25%"),
        )
        # With a fine-tuning that learns, and with the paper's.
        for suffix in ("", "_sgd")
        for method in PRETRAINED
    ]
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
        return [*found, Goal(text, *check_bn(table, "25%", "100%", strictly=False))]
    published = f" (published, on another simulator's data: {PUBLISHED_BN_CNN})"
    return [
        *found,
        Goal(
            f"recommended above the BN-CNN in every column, 100 %{published}",
            *check_bn(table, "100%", "100%", strictly=True),
        ),
        Goal(
            "recommended above the BN-CNN in every column, 25 %",
            *check_bn(table, "25%", "25%", strictly=True),
        ),
    ]


Judge = Callable[[Column, dict[str, float]], tuple[str, bool]]


def check(
    table: Table, labels: Mapping[str, str], others: Mapping[str, str], judge: Judge
) -> tuple[str, bool | None]:
    """Show the numbers so far, and judge them if every column has every repeat.

    Parameters
    ----------
    table : Table
        The table.
    labels, others : dict of str to str
        By row, the label at which it is taken. Without a row of `labels`, or without
        any of `others`, there is nothing to show.
    judge : callable
        Maps a column and the means over its common repeats to a text and a verdict.

    Returns
    -------
    str
        The numbers, with the repeats that they are from where some are missing.
    bool or None
        The verdict; None if something is missing.
    """
    texts, met, shows = [], [], False
    n_all = min(table.scale.repeats_of(row) for row in (*labels, *others))
    for column in table.all_columns:
        missing = [row for row in others if not table.repeats(row, column, others[row])]
        there = {row: label for row, label in others.items() if row not in missing}
        taken = {**labels, **there}
        n = len(table.common_repeats(taken, column)) if there else 0
        text, verdict = "", None
        if n:
            shows = True
            text, verdict = judge(column, table.common_means(taken, column))
        if n < n_all or missing:
            verdict = None
            text = f"{text or column} [{n} of {n_all} repeats"
            text += f", without {', '.join(missing)}]" if n and missing else "]"
        texts.append(text)
        met.append(verdict)
    return "; ".join(texts) if shows else "", None if None in met else all(met)


def check_above(
    table: Table, method: str, other: str, label: str
) -> tuple[str, bool | None]:
    """Tell whether a row is significantly above another one in every column."""

    def judge(column: Column, means: dict[str, float]) -> tuple[str, bool]:
        pvalue, _ = table.pvalues(method, other, column, label)
        is_above = means[method] > means[other] and pvalue < 0.05
        return table.compared(method, other, column, label), is_above

    return check(table, {method: label}, {other: label}, judge)


def check_best(
    table: Table, label: str, other_label: str, points: float
) -> tuple[str, bool | None]:
    """Tell whether the recipe is so many points above the paper's best everywhere."""

    def judge(column: Column, means: dict[str, float]) -> tuple[str, bool]:
        mean = means.pop("recommended")
        best = max(means, key=means.__getitem__)
        text = f"{mean:.1f} to {means[best]:.1f} ({best}): {mean - means[best]:+.1f}"
        return text, mean - means[best] >= points - ROUNDING

    others = dict.fromkeys(PAPER_ROWS, other_label)
    return check(table, {"recommended": label}, others, judge)


def check_bn(
    table: Table, label: str, other_label: str, *, strictly: bool
) -> tuple[str, bool | None]:
    """Tell whether the recipe is above the batch-normalised network, or not below."""

    def judge(column: Column, means: dict[str, float]) -> tuple[str, bool]:
        mean, other = means["recommended"], means["bn_cnn"]
        is_met = mean > other + ROUNDING if strictly else mean >= other - ROUNDING
        return f"{mean:.1f} to {other:.1f}: {mean - other:+.1f}", is_met

    return check(table, {"recommended": label}, {"bn_cnn": other_label}, judge)


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
    head = ["after epochs", *(str(n) if n else "0 (untrained)" for n in chosen)]
    return [head] + [
        [method, *(shown_probe(curve.get(epoch)) for epoch in chosen)]
        for method, curve in curves.items()
    ]


def read_curves(
    path: Path, column: Column
) -> dict[str, dict[int, tuple[float, float]]]:
    """Return mean loss and probe accuracy (%) by row and epoch.

    Repeats that a row's longest has overtaken are under way and are left out.
    """
    found: dict[str, dict[int, dict[int, tuple[float, float]]]] = {}
    for line in read_lines(convergence_path(path)):
        if Column(line["dataset"], float(line["snr"])) == column:
            point = float(line["loss"]), 100 * float(line["probe_accuracy"])
            repeats = found.setdefault(line["method"], {})
            repeats.setdefault(int(line["repeat"]), {})[int(line["epoch"])] = point
    curves = {}
    for method in sorted(found, key=order):
        repeats = found[method].values()
        last = max(max(points) for points in repeats)
        whole = [points for points in repeats if max(points) == last]
        curves[method] = {
            epoch: tuple(np.mean([points[epoch] for points in whole], axis=0))
            for epoch in sorted(set.intersection(*map(set, whole)))
        }
    return curves


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
                comparison_grid(
                    table, column, [*ABLATIONS, *CANDIDATES], "recommended"
                ),
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
        shared = (
            f", {data.n_extra} of which are the same in every repeat"
            if data.n_extra
            else ""
        )
        lines.append(
            f"{name}: {len(data.classes)} classes ({', '.join(data.classes)}), "
            f"{data.size}³ voxels; for each class {data.n_train} training, "
            f"{data.n_held_out} validation and {data.n_held_out + data.n_extra} test "
            f"volumes{shared}."
        )
    of_paper = scale.paper_repeats
    more = f", {of_paper} of {', '.join(PAPER_ROWS)}" if of_paper is not None else ""
    lines.append(
        f"{scale.repeats} repeats{more}. Every pretraining: {scale.pretrain_epochs} "
        "epochs."
    )
    lines.append(
        f"Fine-tuning: at least {scale.fine_tune_epochs} epochs and "
        f"{scale.fine_tune_steps} steps; rows ..._sgd, recommended and its variants as "
        "their recipes say."
    )
    for method in table.methods:
        if steps := ROWS[method].steps:
            lines.append(f"{method}: at least {steps} steps.")
    if rows := table.incomplete():
        lines.append(f"Not all repeats are there yet: {', '.join(rows)}.")
    absent = [m for m in ROWS if m not in CANDIDATES and m not in table.methods]
    if absent and not is_variants_only(table):
        lines.append(f"Not computed yet: {', '.join(absent)}.")
    return lines


def text_report(table: Table) -> str:
    """Return everything as text."""
    sessions = table.record.get("sessions", [])
    lines = [f"Command: {session['command']}" for session in sessions[-1:]]
    for name in MADE_BY:
        if values := distinct(sessions, name):
            lines.append(f"{name.capitalize()}: {values}")
    if sessions:
        # One that was killed does not know how long it took.
        minutes = [session["minutes"] for session in sessions if "minutes" in session]
        lines.append(f"Took {sum(minutes):.0f} minutes in {len(minutes)} sessions.")
    if table.path.stem.endswith("_cut"):
        lines.append("CUT DOWN: not the scale's own results.")
    lines += ["", *settings_lines(table)]
    for title, grid in sections(table):
        lines += ["", title, "", *aligned(grid)]
    if len(grid := goal_grid(table)) > 1:
        lines += ["", "Goals", "", *aligned(grid)]
    return "\n".join(line.rstrip() for line in lines) + "\n"


# What a session wrote down of itself.
MADE_BY = ("machine", "versions", "code")


def distinct(sessions: Iterable[Mapping[str, Any]], name: str) -> str:
    """Return what the sessions wrote down, each once; older ones know less."""
    values = (session[name] for session in sessions if name in session)
    return " | ".join(dict.fromkeys(values))


def goal_grid(table: Table) -> Grid:
    """Return the goals as a table."""
    head = ["goal", "", "measured"]
    found = [] if is_variants_only(table) else goals(table)
    return [head, *([goal.text, goal.verdict, goal.measured] for goal in found)]


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
    alt = "Accuracies, and the pretrainings against epochs"
    if is_variants_only(table):
        alt = "Variants of the recommended recipe against it"
    lines = [f".. image:: images/{figure_name(table)}", f"   :alt: {alt}", ""]
    for text in settings_lines(table):
        lines.append(f"- {text}".replace("..._sgd", "`..._sgd`"))
    for title, grid in sections(table):
        lines += ["", f"{title}.", "", *list_table(grid)]
    if len(grid := goal_grid(table)) > 1:
        lines += ["", "Goals:", "", *list_table(grid)]
    sessions = table.record.get("sessions", [])
    made_by = [text for name in MADE_BY if (text := distinct(sessions, name))]
    if made_by:
        lines += ["", f"{'; '.join(made_by)}."]
    return "\n".join(lines) + "\n"


def list_table(grid: Grid) -> list[str]:
    """Return a table in reStructuredText."""
    lines = [".. list-table::", "   :header-rows: 1", ""]
    for row in grid:
        for i, text in enumerate(row):
            # Names of rows are literal: an underscore at a word's end is a reference.
            shown = f"`{text}`" if i == 0 and text in ROWS else text
            if text == "-":
                shown = r"\-"  # alone it is a bullet
            lines.append(f"   {'*' if i == 0 else ' '} - {shown}".rstrip())
    return lines


def figure_name(table: Table) -> str:
    """Return the name of a table's figure."""
    # The page's own figure is of the scale that anyone can run.
    return f"{table.path.stem.removesuffix('_small')}.png"


def variants(table: Table) -> list[str]:
    """Return the rows that are the recommended one with something changed."""
    return [
        name
        for name in (*ABLATIONS, *CANDIDATES)
        if name in table.methods and name.startswith("recommended_")
    ]


def is_variants_only(table: Table) -> bool:
    """Tell whether the table compares the recipe with its variants, not the paper's."""
    return bool(variants(table)) and not PAPER_ROWS.keys() & set(table.methods)


def draw(table: Table, path: Path) -> None:
    """Draw accuracies, variants of the recipe, and pretrainings against epochs."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    panels = layout(table)
    widest = max(map(len, panels))
    # As high as the names of the variants need.
    heights = [
        max(3.4, 1.2 + 0.26 * len(variants(table))) if draw_variants in line else 3.4
        for line in panels
    ]
    figure = plt.figure(
        figsize=(2.4 + (3.6 if widest < 3 else 3.1) * widest, sum(heights) + 0.5),
        layout="constrained",
    )
    parts = figure.subfigures(len(panels), 1, height_ratios=heights, squeeze=False)
    shared: dict[str, Any] = {}
    for part, line in zip(parts[:, 0], panels, strict=True):
        axes = part.subplots(1, len(line), squeeze=False)[0]
        columns = iter(table.columns)
        for ax, draw_panel in zip(axes, line, strict=True):
            is_accuracy = draw_panel is draw_accuracy
            draw_panel(table, next(columns) if is_accuracy else table.columns[0], ax)
            ax.spines[["top", "right"]].set_visible(False)
            if draw_panel is not draw_variants:
                handles, names = ax.get_legend_handles_labels()
                shared |= dict(zip(names, handles, strict=True)) | shared
    if shared:
        # One for all panels whose colours stand for rows.
        figure.legend(
            shared.values(),
            shared.keys(),
            loc="outside upper center",
            ncols=4 * widest,
            frameon=False,
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    # Tight, for nothing to be cut, such as a legend of many rows.
    figure.savefig(path, dpi=150, bbox_inches="tight", metadata={"Software": None})
    plt.close(figure)


def layout(table: Table) -> list[list[Callable[[Table, Column, Any], None]]]:
    """Return what draws the panels of each line of the figure."""
    compared = [draw_variants] if variants(table) else []
    if is_variants_only(table):
        return [compared]
    accuracies = [draw_accuracy] * len(table.columns)
    course = [draw_losses, draw_probes] if shown_curves(table, table.columns[0]) else []
    if len(accuracies) == 1 and not compared:
        return [[*accuracies, *course]]
    if len(accuracies) == 1:
        return [line for line in ([*accuracies, *compared], course) if line]
    return [line for line in (accuracies, [*compared, *course]) if line]


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


def draw_variants(table: Table, column: Column, ax: Any) -> None:
    """Draw what each component of the recipe is worth, and what others would be."""
    labels = [label for label in table.scale.labels if label in ("5", "25%")]
    methods = variants(table)
    for number, label in enumerate(labels):
        differences = [
            (row, means[method] - means["recommended"])
            for row, method in enumerate(methods)
            if (
                means := table.common_means(
                    {method: label, "recommended": label}, column
                )
            )
        ]
        ax.plot(
            [difference for _, difference in differences],
            [row + 0.2 * (number - 0.5) for row, _ in differences],
            color=OKABE_ITO[number],
            marker=MARKERS[number],
            linestyle="none",
            label=f"{table.count(column, label)} labels",
        )
    ax.axvline(0, color="0.5", linewidth=1)
    names = [name.removeprefix("recommended_").replace("_", " ") for name in methods]
    ax.set_yticks(range(len(methods)), labels=names, fontsize="small")
    ax.set_ylim(len(methods) - 0.4, -0.6)
    ax.set_xlabel("Points more than the recommended recipe")
    ax.set_title(str(column), fontsize="medium")
    ax.legend(
        frameon=False,
        fontsize="small",
        loc="lower center",
        bbox_to_anchor=(0.5, 1.05),
        ncols=2,
    )


def draw_losses(table: Table, column: Column, ax: Any) -> None:
    """Draw the losses of the pretrainings against epochs, relative to the first.

    Each method has a loss of its own; what is seen is whether it still falls.
    """
    for method, points in shown_curves(table, column).items():
        trained = [(epoch, loss) for epoch, (loss, _) in points.items() if epoch]
        losses = [loss / trained[0][1] for _, loss in trained]
        draw_curve(ax, method, [epoch for epoch, _ in trained], losses)
    ax.set_ylabel("Pretraining loss, relative to the first")
    ax.set_xlabel("Epochs of pretraining")


def draw_probes(table: Table, column: Column, ax: Any) -> None:
    """Draw the linear probe of the encoders against epochs of pretraining."""
    for method, points in shown_curves(table, column).items():
        draw_curve(ax, method, list(points), [probe for _, probe in points.values()])
    ax.set_ylabel("Linear probe, validation part (%)")
    ax.set_xlabel("Epochs of pretraining")


def shown_curves(
    table: Table, column: Column
) -> dict[str, dict[int, tuple[float, float]]]:
    """Return the pretrainings of the paper and of the recipe, by row and epoch."""
    curves = read_curves(table.path, column)
    return {
        method: curves[method]
        for method in (*PRETRAINED, "recommended")
        if max(curves.get(method, {0: ()})) > 0
    }


def draw_curve(ax: Any, method: str, x: list[int], y: list[float]) -> None:
    ax.plot(x, y, label=method, markersize=4, linewidth=1.2, **style(method))


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
        draw(table, docs / "images" / figure_name(table))
