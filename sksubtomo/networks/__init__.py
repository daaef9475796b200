"""Encoders: what is trained, one network a file.

An encoder is a parameter object (cheap, without weights) whose ``build``
returns a :class:`torch.nn.Module` that maps volumes of shape
``(n, 1, depth, height, width)`` to features of shape ``(n, n_features)``.
A new one is one new file here and one entry in ``ENCODERS``.
"""

from sksubtomo.networks.rb3d import RB3D, RB3DNetwork

ENCODERS = {"rb3d": RB3D}

__all__ = ["ENCODERS", "RB3D", "RB3DNetwork"]
