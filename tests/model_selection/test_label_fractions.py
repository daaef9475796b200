import math

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.figure import Figure
from scipy import stats

from sksubtomo.model_selection import (
    LabelFractionDisplay,
    LabelFractionRow,
    corrected_t_test,
    summarize_label_fractions,
)


def make_rows(accuracies, labels_per_class=5, validation_labels=0):
    return [
        LabelFractionRow(
            method,
            labels_per_class / 20,
            labels_per_class,
            validation_labels,
            repeat,
            accuracy,
            1.0,
        )
        for method, values in accuracies.items()
        for repeat, accuracy in enumerate(values)
    ]


def test_summary_by_hand():
    rows = [
        *make_rows({"random": [0.1, 0.3], "moco": [0.5, 0.9]}, 10),
        *make_rows({"random": [0.2, 0.4, 0.3], "moco": [0.5, 0.6, 0.7]}, 5),
    ]
    summaries = summarize_label_fractions(rows)
    assert [(row.labels_per_class, row.method) for row in summaries] == [
        (5, "random"),
        (5, "moco"),
        (10, "random"),
        (10, "moco"),
    ]
    few = summaries[1]
    assert few.mean == pytest.approx(0.6)
    assert few.std == pytest.approx(0.1)  # with n - 1
    assert few.n_repeats == 3
    expected = stats.ttest_rel([0.5, 0.6, 0.7], [0.2, 0.4, 0.3]).pvalue
    assert few.pvalue == pytest.approx(expected)
    assert math.isnan(summaries[0].pvalue)


def test_summary_pairs_by_repeat_whatever_the_order():
    rows = make_rows({"random": [0.0, 0.41, 0.79], "moco": [0.1, 0.5, 0.9]})
    forward = summarize_label_fractions(rows)[1].pvalue
    shuffled = [rows[0], rows[5], rows[2], rows[4], rows[1], rows[3]]
    assert summarize_label_fractions(shuffled)[1].pvalue == pytest.approx(forward)
    assert forward < 0.01


def test_summary_tests_common_repeats_only():
    rows = make_rows({"random": [0.1, 0.3], "moco": [0.5, 0.6, 0.9]})
    moco = summarize_label_fractions(rows)[1]
    assert moco.n_repeats == 3
    assert moco.pvalue == pytest.approx(stats.ttest_rel([0.5, 0.6], [0.1, 0.3]).pvalue)


def test_summary_pairs_within_a_split():
    rows = [
        LabelFractionRow(method, 1.0, 5, 0, repeat, accuracy, 1.0, split)
        for method, accuracies in {
            "random": [0.1, 0.3, 0.2, 0.6],
            "moco": [0.2, 0.5, 0.2, 0.9],
        }.items()
        for (split, repeat), accuracy in zip(np.ndindex(2, 2), accuracies, strict=True)
    ]
    moco = summarize_label_fractions(rows)[1]
    assert moco.n_repeats == 4
    expected = stats.ttest_rel([0.2, 0.5, 0.2, 0.9], [0.1, 0.3, 0.2, 0.6]).pvalue
    assert moco.pvalue == pytest.approx(expected)


def test_summary_corrects_for_what_repeats_share():
    a, b = [0.5, 0.6, 0.8], [0.2, 0.4, 0.3]
    rows = make_rows({"random": b, "moco": a})
    moco = summarize_label_fractions(rows, test_over_train=0.25)[1]
    assert moco.pvalue == corrected_t_test(a, b, 0.25).pvalue
    assert moco.pvalue > summarize_label_fractions(rows)[1].pvalue


def test_summary_of_one_repeat_and_without_baseline():
    (row,) = summarize_label_fractions(make_rows({"moco": [0.5]}))
    assert row.mean == 0.5
    assert math.isnan(row.std)
    assert math.isnan(row.pvalue)


def test_summary_takes_another_baseline():
    rows = make_rows({"a": [0.1, 0.2, 0.4], "b": [0.5, 0.6, 0.7]})
    a, b = summarize_label_fractions(rows, baseline="b")
    assert math.isnan(b.pvalue)
    assert 0 < a.pvalue < 0.1


def test_summary_refuses_a_repeat_twice():
    rows = make_rows({"moco": [0.5]})
    with pytest.raises(ValueError, match="repeat 0 of method 'moco'"):
        summarize_label_fractions(rows * 2)


def test_plot_shows_means_labels_and_chance():
    rows = [
        *make_rows({"random": [0.2, 0.4], "moco": [0.5, 0.7], "other": [0.1, 0.2]}, 5),
        *make_rows({"random": [0.4, 0.5], "moco": [0.6, 0.8]}, 20, 12),
    ]
    paper = summarize_label_fractions(make_rows({"moco": [0.3]}, 5))
    display = LabelFractionDisplay(
        summarize_label_fractions(rows), compared={"paper": paper}, chance=0.1
    )
    assert display.plot() is display
    ax = display.ax_
    _, names = ax.get_legend_handles_labels()
    assert names == ["chance", "random", "moco", "other", "moco, paper"]
    (legend,) = display.figure_.legends
    assert sorted(text.get_text() for text in legend.texts) == sorted(names)
    assert list(display.errorbars_) == names[1:]
    assert display.chance_line_.get_ydata() == [10, 10]
    assert display.figure_.get_size_inches()[0] == pytest.approx(8.5 / 2.54)
    lines = {name: bar.lines[0] for name, bar in display.errorbars_.items()}
    np.testing.assert_allclose(lines["moco"].get_ydata(orig=False), [60, 70])
    np.testing.assert_allclose(lines["moco, paper"].get_ydata(orig=False), [30])
    assert lines["moco"].get_color() == lines["moco, paper"].get_color()
    assert lines["moco"].get_color() != lines["random"].get_color()
    assert ax.get_xscale() == "log"
    ticks = [tick.get_text() for tick in ax.get_xticklabels()]
    assert ticks == ["5", "20\n(+12)"]
    assert "%" in ax.get_ylabel()


def test_plot_draws_on_given_axes():
    ax = Figure().add_subplot()
    summary = summarize_label_fractions(make_rows({"moco": [0.5]}))
    display = LabelFractionDisplay(summary).plot(ax=ax)
    assert display.ax_ is ax
    assert display.figure_ is ax.figure
    assert display.chance_line_ is None
    assert [text.get_text() for text in ax.get_legend().texts] == ["moco"]
    assert plt.get_fignums() == []


def test_plot_of_nothing():
    with pytest.raises(ValueError, match="empty"):
        LabelFractionDisplay([]).plot()


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")
