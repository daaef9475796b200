"""Pickling of estimators that hold a network."""

from __future__ import annotations

from typing import Any

from torch import nn

from sksubtomo._training.weights import load_arrays, to_arrays


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
            network = load_arrays(self._build_network(), weights)
            setattr(self, self._network_attribute, network)
