"""Files of volumes."""

from sksubtomo.io.mrc import read_volume_stack

__all__ = ["read_volume_stack"]
