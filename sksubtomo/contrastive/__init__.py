"""What contrastive pretraining optimises, one method a file.

A method is a cheap parameter object; its ``build(encoder)`` makes the
`ContrastiveModule` that training optimises.
"""

from collections.abc import Mapping

from sksubtomo.contrastive._base import ContrastiveModule
from sksubtomo.contrastive.byol import BYOL, bootstrap_loss
from sksubtomo.contrastive.moco import MoCo, info_nce_loss
from sksubtomo.contrastive.simclr import SimCLR, nt_xent_loss
from sksubtomo.contrastive.swav import SwAV, sinkhorn, swapped_prediction_loss
from sksubtomo.contrastive.vicreg import VICReg, vicreg_loss

METHODS: Mapping[str, type] = {
    "simclr": SimCLR,
    "moco": MoCo,
    "swav": SwAV,
    "byol": BYOL,
    "vicreg": VICReg,
}

__all__ = [
    "BYOL",
    "METHODS",
    "ContrastiveModule",
    "MoCo",
    "SimCLR",
    "SwAV",
    "VICReg",
    "bootstrap_loss",
    "info_nce_loss",
    "nt_xent_loss",
    "sinkhorn",
    "swapped_prediction_loss",
    "vicreg_loss",
]
