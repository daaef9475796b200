"""What all figures share: the optional import, and colours."""

from __future__ import annotations

from typing import Any

OKABE_ITO = (
    "#0072B2",
    "#009E73",
    "#D55E00",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#F0E442",
    "#000000",
)
"""Colours that the colour-blind can tell apart (Okabe and Ito 2008)."""

CLASS_COLORS = (*OKABE_ITO, "#999999", "#882255")
"""Two more, grey and wine, for sets of up to ten classes."""

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">")
"""Markers, for where there are more classes than colours, and for print in grey."""


def import_pyplot() -> Any:
    """Import ``matplotlib.pyplot``.

    Returns
    -------
    module
        The module.

    Raises
    ------
    ImportError
        If it is not installed; the message names the extra that brings it.
    """
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError(
            "Figures need matplotlib, which is not installed: "
            'pip install "sksubtomo[study]".'
        ) from error
    return plt
