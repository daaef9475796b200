"""Modules in and out of NumPy arrays, in the layout they train fastest in."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

Weights = dict[str, npt.NDArray[np.generic]]


def lay_out(module: nn.Module, device: torch.device) -> nn.Module:
    """Move a module to a device, its convolutions in channels-last order.

    Parameters
    ----------
    module : torch.nn.Module
        Changed in place.
    device : torch.device
        Where to.

    Returns
    -------
    torch.nn.Module
        The same module.
    """
    module.to(device)
    for part in module.modules():
        if isinstance(part, nn.Conv3d):
            weight = part.weight
            weight.data = weight.data.to(memory_format=torch.channels_last_3d)
    return module


def to_arrays(module: nn.Module) -> Weights:
    """Copy parameters and buffers to NumPy arrays.

    They pickle without torch, hash the same in every process and load on any
    device.

    Parameters
    ----------
    module : torch.nn.Module
        On any device.

    Returns
    -------
    dict of str to ndarray
        The module's state.
    """
    return {
        name: value.detach().cpu().contiguous().numpy().copy()
        for name, value in module.state_dict().items()
    }


def load_arrays(module: nn.Module, weights: Weights) -> nn.Module:
    """Put weights from :func:`to_arrays` into a module, on the CPU.

    Parameters
    ----------
    module : torch.nn.Module
        A module of the same architecture; changed in place.
    weights : dict of str to ndarray
        The state.

    Returns
    -------
    torch.nn.Module
        The same module, in evaluation mode.

    Raises
    ------
    ValueError
        If names, shapes or types of the weights are not the module's.
    """
    expected = {name: _looks(value) for name, value in to_arrays(module).items()}
    found = {name: _looks(value) for name, value in weights.items()}
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise ValueError(
                f"the weights have {found.get(name, 'nothing')} for the tensor "
                f"{name!r}; the network expects {expected.get(name, 'no such tensor')}."
            )
    lay_out(module, torch.device("cpu"))
    module.load_state_dict(
        {name: torch.from_numpy(value.copy()) for name, value in weights.items()}
    )
    return module.eval()


def _looks(array: npt.NDArray[np.generic]) -> str:
    return f"{array.dtype} of shape {array.shape}"
