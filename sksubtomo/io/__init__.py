"""Files of volumes."""

from sksubtomo.io.extraction import Extraction, extract_subtomograms
from sksubtomo.io.labels import read_labels
from sksubtomo.io.mrc import (
    VolumeStackWriter,
    open_volume,
    read_volume_stack,
    write_volume,
    write_volume_stack,
)
from sksubtomo.io.particles import (
    ParticleTable,
    euler_angles,
    read_particles,
    rotation_matrices,
    write_particles,
)
from sksubtomo.io.reading import ReadVolumes
from sksubtomo.io.star import StarFile, read_star
from sksubtomo.io.volumes import (
    Subtomograms,
    contrast_sign,
    list_references,
    read_volumes,
)

__all__ = [
    "Extraction",
    "ParticleTable",
    "ReadVolumes",
    "StarFile",
    "Subtomograms",
    "VolumeStackWriter",
    "contrast_sign",
    "euler_angles",
    "extract_subtomograms",
    "list_references",
    "open_volume",
    "read_labels",
    "read_particles",
    "read_star",
    "read_volume_stack",
    "read_volumes",
    "rotation_matrices",
    "write_particles",
    "write_volume",
    "write_volume_stack",
]
