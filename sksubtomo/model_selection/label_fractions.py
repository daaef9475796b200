"""Fits at several numbers of labels: rows, their summary and their figure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from sksubtomo.inspection._matplotlib import OKABE_ITO, make_axes
from sksubtomo.model_selection.significance import corrected_t_test

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from sksubtomo.model_selection.curve import LabelFractionCurve

# One colour and marker a method in every figure, whichever methods it shows.
_STYLES = {
    "random": ("#000000", "o"),
    "simclr": (OKABE_ITO[0], "s"),
    "swav": (OKABE_ITO[1], "^"),
    "moco": (OKABE_ITO[2], "D"),
    "gupta2022": (OKABE_ITO[3], "v"),
    "recommended": (OKABE_ITO[4], "P"),
}
_FURTHER_STYLES = [
    (OKABE_ITO[5], "X"),
    (OKABE_ITO[0], "*"),
    (OKABE_ITO[1], "<"),
    (OKABE_ITO[6], ">"),
]

# Lines are drawn side by side, so that error bars at one number of labels do not hide
# each other: a step of 2 % on the logarithmic axis.
_DODGE = 1.02

# Of the legend below a figure of a column's width.
_LEGEND_COLUMNS = 3


@dataclass(frozen=True)
class LabelFractionRow:
    """One fit and test of a label study.

    Attributes
    ----------
    method : str
        Name of what was fitted.
    label_fraction : float
        Part of the training labels that was asked for.
    labels_per_class : int
        Number of labels of the class with the fewest.
    validation_labels : int
        Further labels that chose the epoch; 0 if there were none.
    repeat : int
        Number of the repeat. Rows of one split, one repeat and one number of labels
        saw the same labels.
    accuracy : float
        Accuracy on the test part, 0 to 1.
    seconds : float
        Duration of fit and prediction, without pretraining.
    split : int, default=0
        Number of the split into training and test part.
    """

    method: str
    label_fraction: float
    labels_per_class: int
    validation_labels: int
    repeat: int
    accuracy: float
    seconds: float
    split: int = 0


@dataclass(frozen=True)
class LabelFractionSummary:
    """The repeats of one method at one number of labels.

    Attributes
    ----------
    method : str
        Name of what was fitted.
    label_fraction : float
        Part of the training labels that was asked for.
    labels_per_class : int
        Number of labels of the class with the fewest.
    validation_labels : int
        Further labels that chose the epoch.
    n_repeats : int
        Number of fits, of all splits.
    mean : float
        Mean accuracy.
    std : float
        Sample standard deviation (n - 1) of the accuracy; NaN for one repeat.
    pvalue : float
        Of the two-tailed t-test against the baseline; NaN for the baseline itself and
        where the test gives none.
    """

    method: str
    label_fraction: float
    labels_per_class: int
    validation_labels: int
    n_repeats: int
    mean: float
    std: float
    pvalue: float


def summarize_label_fractions(
    rows: Iterable[LabelFractionRow],
    baseline: str = "random",
    *,
    test_over_train: float = 0.0,
) -> list[LabelFractionSummary]:
    """Average the repeats, and test each method against a baseline.

    Parameters
    ----------
    rows : iterable of LabelFractionRow
        Single fits; anything with these attributes (`split` may be missing), such as
        the named tuples of a data frame's ``itertuples()``.
    baseline : str, default="random"
        The method that the others are tested against. Repeats are paired: only those
        that both have count.
    test_over_train : float, default=0.0
        Number of test volumes divided by that of training volumes, as for
        `corrected_t_test`; 0 is `paired_t_test`.

    Returns
    -------
    list of LabelFractionSummary
        One for each method and number of labels, by number of labels and then in the
        order in which the methods first occur.

    Raises
    ------
    ValueError
        If a repeat occurs twice.

    Examples
    --------
    >>> from sksubtomo.model_selection import (
    ...     LabelFractionRow, summarize_label_fractions)
    >>> rows = [
    ...     LabelFractionRow(method, 0.25, 5, 0, repeat, accuracy, 1.0)
    ...     for method, accuracies in {"random": [0.4, 0.5], "moco": [0.6, 0.8]}.items()
    ...     for repeat, accuracy in enumerate(accuracies)
    ... ]
    >>> [(row.method, round(row.mean, 2)) for row in summarize_label_fractions(rows)]
    [('random', 0.45), ('moco', 0.7)]
    """
    groups: dict[tuple[str, float, int], dict[tuple[int, int], LabelFractionRow]] = {}
    methods: list[str] = []
    for row in rows:
        if row.method not in methods:
            methods.append(row.method)
        repeats = groups.setdefault(
            (row.method, row.label_fraction, row.labels_per_class), {}
        )
        run = (getattr(row, "split", 0), row.repeat)
        if run in repeats:
            raise ValueError(
                f"rows hold repeat {row.repeat} of method {row.method!r} at "
                f"label_fraction={row.label_fraction:g} twice (split {run[0]}); "
                "expected it once."
            )
        repeats[run] = row
    summaries = []
    for (method, fraction, per_class), repeats in groups.items():
        accuracies = [row.accuracy for row in repeats.values()]
        reference = groups.get((baseline, fraction, per_class), {})
        paired = [] if method == baseline else sorted(repeats.keys() & reference.keys())
        pvalue = float("nan")
        if paired:
            pvalue = corrected_t_test(
                [repeats[run].accuracy for run in paired],
                [reference[run].accuracy for run in paired],
                test_over_train,
            ).pvalue
        summaries.append(
            LabelFractionSummary(
                method=method,
                label_fraction=fraction,
                labels_per_class=per_class,
                validation_labels=max(
                    row.validation_labels for row in repeats.values()
                ),
                n_repeats=len(accuracies),
                mean=float(np.mean(accuracies)),
                std=(
                    float(np.std(accuracies, ddof=1))
                    if len(accuracies) > 1
                    else float("nan")
                ),
                pvalue=pvalue,
            )
        )
    summaries.sort(
        key=lambda row: (
            row.labels_per_class,
            row.label_fraction,
            methods.index(row.method),
        )
    )
    return summaries


class LabelFractionDisplay:
    """Accuracy against the number of labels, for several methods.

    Make it with :meth:`from_curve`, or from summaries. All parameters are stored as
    attributes.

    Parameters
    ----------
    summaries : list of LabelFractionSummary
        What `summarize_label_fractions` returns.
    compared : dict of lists of LabelFractionSummary, default=None
        Further summaries, such as of the same methods with other views, by a name for
        the legend. They have dashed lines and open markers.
    chance : float, default=None
        Accuracy of guessing, drawn as a horizontal line.

    Attributes
    ----------
    figure_ : matplotlib Figure
        The figure.
    ax_ : matplotlib Axes
        The axes, with means and standard deviations in percent.
    errorbars_ : dict of ErrorbarContainer
        What was drawn, by its name in the legend.
    chance_line_ : Line2D or None
        The line of `chance`.

    See Also
    --------
    label_fraction_curve : Computes the accuracies.

    Examples
    --------
    >>> from sksubtomo.model_selection import (
    ...     LabelFractionDisplay, LabelFractionRow, summarize_label_fractions)
    >>> rows = [
    ...     LabelFractionRow(method, 0.25, 5, 0, repeat, accuracy, 1.0)
    ...     for method, accuracies in {"random": [0.4, 0.5], "moco": [0.6, 0.8]}.items()
    ...     for repeat, accuracy in enumerate(accuracies)
    ... ]
    >>> display = LabelFractionDisplay(summarize_label_fractions(rows), chance=0.1)
    >>> sorted(display.plot().errorbars_)
    ['moco', 'random']
    """

    def __init__(
        self,
        summaries: Sequence[LabelFractionSummary],
        *,
        compared: Mapping[str, Sequence[LabelFractionSummary]] | None = None,
        chance: float | None = None,
    ) -> None:
        self.summaries = summaries
        self.compared = compared
        self.chance = chance

    @classmethod
    def from_curve(
        cls,
        curve: LabelFractionCurve,
        *,
        compared: Mapping[str, LabelFractionCurve] | None = None,
        ax: Axes | None = None,
    ) -> Self:
        """Draw what `label_fraction_curve` found.

        Parameters
        ----------
        curve : LabelFractionCurve
            The curve.
        compared : dict of LabelFractionCurve, default=None
            Further curves, by a name for the legend. They have dashed lines and open
            markers.
        ax : matplotlib Axes, default=None
            Where to draw. None makes a figure of a journal's column width.

        Returns
        -------
        LabelFractionDisplay
            The display.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        """
        display = cls(
            curve.summaries_,
            compared={
                name: other.summaries_ for name, other in (compared or {}).items()
            },
            chance=curve.chance_,
        )
        return display.plot(ax=ax)

    def plot(self, *, ax: Axes | None = None) -> Self:
        """Draw the methods.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw. None makes a figure of a journal's column width.

        Returns
        -------
        LabelFractionDisplay
            The display itself.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        ValueError
            If there is nothing to draw.
        """
        if not self.summaries:
            raise ValueError("summaries is empty; expected at least one.")
        groups = {"": self.summaries, **(self.compared or {})}
        lines = list(
            dict.fromkeys(
                (group, row.method) for group, rows in groups.items() for row in rows
            )
        )
        self.figure_, self.ax_ = make_axes(
            ax, height=2.5 + 0.15 * -(-(len(lines) + 1) // _LEGEND_COLUMNS)
        )
        self.errorbars_ = {}
        for number, (group, method) in enumerate(lines):
            name = f"{method}, {group}" if group else method
            points = [row for row in groups[group] if row.method == method]
            color, marker = _style(method, [name for _, name in lines])
            self.errorbars_[name] = _draw_line(
                self.ax_,
                sorted(points, key=lambda row: row.labels_per_class),
                shift=_DODGE ** (number - (len(lines) - 1) / 2),
                color=color,
                marker=marker,
                markerfacecolor="white" if group else color,
                linestyle="--" if group else "-",
                label=name,
            )
        self.chance_line_ = None
        if self.chance is not None:
            self.chance_line_ = self.ax_.axhline(
                100 * self.chance,
                color="0.5",
                linestyle=":",
                linewidth=1,
                label="chance",
            )
        _name_axes(
            self.ax_,
            [row for rows in groups.values() for row in rows],
            fontsize="small" if ax is None else "medium",
        )
        if ax is None:
            # A column has no room for a legend beside the axes.
            self.figure_.legend(
                loc="outside lower center",
                ncols=_LEGEND_COLUMNS,
                frameon=False,
                fontsize="x-small",
            )
        else:
            self.ax_.legend(
                loc="center left",
                bbox_to_anchor=(1.0, 0.5),
                frameon=False,
                fontsize="small",
            )
        return self


def _draw_line(
    ax: Any, points: Sequence[LabelFractionSummary], shift: float, **style: str
) -> Any:
    return ax.errorbar(
        [row.labels_per_class * shift for row in points],
        [100 * row.mean for row in points],
        # One repeat has no spread; NaN would leave out the marker as well.
        yerr=[100 * np.nan_to_num(row.std) for row in points],
        markersize=5,
        linewidth=1.2,
        capsize=2,
        **style,
    )


def _name_axes(ax: Any, rows: Sequence[LabelFractionSummary], fontsize: str) -> None:
    validation = {row.labels_per_class: row.validation_labels for row in rows}
    ax.set_xscale("log")
    ax.set_xticks(
        sorted(validation),
        labels=[
            f"{count}\n(+{validation[count]})" if validation[count] else str(count)
            for count in sorted(validation)
        ],
    )
    ax.minorticks_off()
    ax.set_xlabel(
        "Training labels per class"
        + (
            "\n(+ validation labels of all classes)" if any(validation.values()) else ""
        ),
        fontsize=fontsize,
    )
    ax.set_ylabel("Test accuracy (%)", fontsize=fontsize)
    ax.tick_params(labelsize=fontsize)
    ax.set_ylim(bottom=0)
    ax.spines[["top", "right"]].set_visible(False)


def _style(method: str, methods: Sequence[str]) -> tuple[str, str]:
    if method in _STYLES:
        return _STYLES[method]
    others = [name for name in dict.fromkeys(methods) if name not in _STYLES]
    return _FURTHER_STYLES[others.index(method) % len(_FURTHER_STYLES)]
