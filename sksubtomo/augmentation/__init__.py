"""How one volume becomes two views, batched, on the volumes' device.

An augmentation is a cheap parameter object; its ``build(seed)`` makes a sampler with a
generator of its own, which maps a batch of volumes to one view of each.
"""

from collections.abc import Mapping

from sksubtomo.augmentation.crop_affine import CropAffine
from sksubtomo.augmentation.rotate_shift_noise import RotateShiftNoise

AUGMENTATIONS: Mapping[str, type] = {
    "crop_affine": CropAffine,
    "rotate_shift_noise": RotateShiftNoise,
}

__all__ = ["AUGMENTATIONS", "CropAffine", "RotateShiftNoise"]
