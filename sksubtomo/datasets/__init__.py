"""Simulated subtomograms, and the stages that make them."""

from sksubtomo.datasets.fetching import fetch_structure
from sksubtomo.datasets.imaging import (
    Microscope,
    add_noise,
    add_white_noise,
    apply_transfer,
    contrast_transfer,
    crop_center,
    detector_mtf,
    draw_density,
    envelope,
    filtered_noise,
    gaussian_transfer,
    low_pass_transfer,
    missing_wedge_mask,
    noise_transfer,
    tilt_angles,
    tilt_weights,
    transfer_volume,
)
from sksubtomo.datasets.packing import (
    pack_spheres,
    place_neighbors,
    random_rotations,
    transform_points,
)
from sksubtomo.datasets.phantoms import (
    list_phantoms,
    load_phantom,
    point_group_rotations,
)
from sksubtomo.datasets.presets import simulation_preset
from sksubtomo.datasets.structures import (
    Structure,
    coarse_grain,
    load_structure,
    load_structures,
)
from sksubtomo.datasets.subtomograms import (
    SimulatedChunk,
    SubtomogramSimulator,
    make_subtomograms,
)
from sksubtomo.datasets.tomograms import make_tomogram
from sksubtomo.datasets.writing import write_subtomograms, write_tomogram

__all__ = [
    "Microscope",
    "SimulatedChunk",
    "Structure",
    "SubtomogramSimulator",
    "add_noise",
    "add_white_noise",
    "apply_transfer",
    "coarse_grain",
    "contrast_transfer",
    "crop_center",
    "detector_mtf",
    "draw_density",
    "envelope",
    "fetch_structure",
    "filtered_noise",
    "gaussian_transfer",
    "list_phantoms",
    "load_phantom",
    "load_structure",
    "load_structures",
    "low_pass_transfer",
    "make_subtomograms",
    "make_tomogram",
    "missing_wedge_mask",
    "noise_transfer",
    "pack_spheres",
    "place_neighbors",
    "point_group_rotations",
    "random_rotations",
    "simulation_preset",
    "tilt_angles",
    "tilt_weights",
    "transfer_volume",
    "transform_points",
    "write_subtomograms",
    "write_tomogram",
]
