"""Pickling of estimators that hold a network."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from sksubtomo._training.runtime import seeded_torch
from sksubtomo._training.weights import Weights, load_arrays, to_arrays


class PortableNetworkMixin:
    """Pickle the fitted network as NumPy arrays.

    The pickle then holds no torch object and no device: it loads on a machine
    without the accelerator it was made on, and two equal estimators have the same
    hash in every process, which :class:`joblib.Memory` relies on.

    A class that uses it names the attribute that holds the network in
    ``_network_attribute`` and implements ``_build_network``.
    """

    _network_attribute: str

    def _build_network(self) -> nn.Module:
        """Return a network of the fitted architecture, with any weights."""
        raise NotImplementedError

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = super().__getstate__().copy()  # type: ignore[attr-defined]
        if self._network_attribute in state:
            state[self._network_attribute] = to_arrays(state[self._network_attribute])
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[misc]
        weights = self.__dict__.get(self._network_attribute)
        if weights is not None:
            self._load_network(weights)

    def _load_network(self, weights: Weights) -> None:
        """Set the network of the fitted architecture, with these weights."""
        # On this device nothing is drawn, which would move the global generator. The
        # generator is not to be locked here: a thread that unpickles must not wait for
        # one that trains.
        with torch.device("meta"):
            network = self._build_network()
        if _is_all_saved(network):
            network.to_empty(device="cpu")
        else:
            with seeded_torch(0, torch.device("cpu")):
                network = self._build_network()
        setattr(self, self._network_attribute, load_arrays(network, weights))


def _is_all_saved(network: nn.Module) -> bool:
    """Tell whether the state dict has every tensor that the network computes with."""
    saved = network.state_dict(keep_vars=True)
    tensors = [*network.named_parameters(), *network.named_buffers()]
    return all(name in saved for name, _ in tensors)
