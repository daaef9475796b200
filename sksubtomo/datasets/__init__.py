"""Simulated subtomograms, and the stages that make them."""

from sksubtomo.datasets.imaging import (
    add_white_noise,
    apply_transfer,
    crop_center,
    draw_density,
    gaussian_transfer,
    missing_wedge_mask,
)
from sksubtomo.datasets.packing import (
    place_neighbors,
    random_rotations,
    transform_points,
)
from sksubtomo.datasets.phantoms import (
    list_phantoms,
    load_phantom,
    point_group_rotations,
)
from sksubtomo.datasets.structures import (
    Structure,
    coarse_grain,
    load_structure,
    load_structures,
)
from sksubtomo.datasets.subtomograms import make_subtomograms

__all__ = [
    "Structure",
    "add_white_noise",
    "apply_transfer",
    "coarse_grain",
    "crop_center",
    "draw_density",
    "gaussian_transfer",
    "list_phantoms",
    "load_phantom",
    "load_structure",
    "load_structures",
    "make_subtomograms",
    "missing_wedge_mask",
    "place_neighbors",
    "point_group_rotations",
    "random_rotations",
    "transform_points",
]
