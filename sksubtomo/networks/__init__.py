"""Encoders: what is trained, one network a file.

An encoder is a parameter object (cheap, without weights) whose ``build``
returns a :class:`torch.nn.Module` that maps volumes of shape
``(n, 1, depth, height, width)`` to features of shape ``(n, n_features)``.
A new one is one new file here and one entry in ``ENCODERS``.
"""

from sksubtomo.networks.bn_cnn import BatchNormCNN
from sksubtomo.networks.cb3d import CB3D
from sksubtomo.networks.dsrf3d import DSRF3D
from sksubtomo.networks.rb3d import RB3D, RB3DNetwork
from sksubtomo.networks.resnet3d import ResNet3D

ENCODERS = {
    "rb3d": RB3D,
    "dsrf3d": DSRF3D,
    "cb3d": CB3D,
    "bn_cnn": BatchNormCNN,
    "resnet3d": ResNet3D,
}

__all__ = [
    "CB3D",
    "DSRF3D",
    "ENCODERS",
    "RB3D",
    "BatchNormCNN",
    "RB3DNetwork",
    "ResNet3D",
]
