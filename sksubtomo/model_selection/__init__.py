"""Comparison of methods that saw equal numbers of labels."""

from sksubtomo.model_selection.curve import LabelFractionCurve, label_fraction_curve
from sksubtomo.model_selection.label_fractions import (
    LabelFractionDisplay,
    LabelFractionRow,
    LabelFractionSummary,
    summarize_label_fractions,
)
from sksubtomo.model_selection.significance import (
    PairedTest,
    corrected_t_test,
    paired_t_test,
)
from sksubtomo.model_selection.splitting import LabelFractionSplit

__all__ = [
    "LabelFractionCurve",
    "LabelFractionDisplay",
    "LabelFractionRow",
    "LabelFractionSplit",
    "LabelFractionSummary",
    "PairedTest",
    "corrected_t_test",
    "label_fraction_curve",
    "paired_t_test",
    "summarize_label_fractions",
]
