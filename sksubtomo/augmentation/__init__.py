"""How one volume becomes two views, batched, on the volumes' device.

An augmentation is a cheap parameter object; its ``build(seed)`` makes a sampler with a
generator of its own, which maps a batch of volumes to one view of each.
"""

from sksubtomo.augmentation.bias_field import BiasField
from sksubtomo.augmentation.blur import Blur
from sksubtomo.augmentation.compose import AUGMENTATIONS, Compose
from sksubtomo.augmentation.crop_affine import CropAffine
from sksubtomo.augmentation.elastic import Elastic
from sksubtomo.augmentation.gamma import Gamma
from sksubtomo.augmentation.rotate_shift_noise import RotateShiftNoise

__all__ = [
    "AUGMENTATIONS",
    "BiasField",
    "Blur",
    "Compose",
    "CropAffine",
    "Elastic",
    "Gamma",
    "RotateShiftNoise",
]
