"""Particles in tomograms: candidates, their ranking and their selection by eye."""

from sksubtomo.picking.candidates import cut_candidates, resample_template
from sksubtomo.picking.detection import (
    Picks,
    difference_of_gaussians,
    pick_particles,
    write_picks,
)
from sksubtomo.picking.evaluation import PickMatch, match_picks
from sksubtomo.picking.figures import plot_picks
from sksubtomo.picking.ranking import rank_by_correlation
from sksubtomo.picking.selection import read_selection, write_contact_sheets
from sksubtomo.picking.workflow import pick_tomogram

__all__ = [
    "PickMatch",
    "Picks",
    "cut_candidates",
    "difference_of_gaussians",
    "match_picks",
    "pick_particles",
    "pick_tomogram",
    "plot_picks",
    "rank_by_correlation",
    "read_selection",
    "resample_template",
    "write_contact_sheets",
    "write_picks",
]
