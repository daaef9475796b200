"""What the augmentations share: a sampler with a generator of its own."""

from __future__ import annotations

import torch
from torch import Tensor


class ViewSampler:
    """Turns a batch of volumes into one random view of each.

    Calling it twice on the same batch gives the two views of a contrastive loss.

    Parameters
    ----------
    seed : int
        Of the sampler's own generator; torch's global one is never used.
    """

    def __init__(self, seed: int) -> None:
        # On the CPU, so that the same views are drawn whatever the volumes' device.
        self._generator = torch.Generator().manual_seed(seed)

    def __call__(self, volumes: Tensor, start: int = 0, n: int | None = None) -> Tensor:
        """Draw one view of every volume.

        Parameters
        ----------
        volumes : Tensor of shape (n_volumes, 1, depth, height, width)
            Floating point.
        start : int, default=0
            Which row of a batch the first volume is, where only some rows are here.
        n : int, default=None
            Number of rows in that batch. None is ``start + n_volumes``.

        Returns
        -------
        Tensor of shape (n_volumes, 1, depth, height, width)
            New tensor of the same dtype, on the same device: the views that these
            volumes have in a call with the whole batch.
        """
        raise NotImplementedError

    def get_state(self) -> Tensor:
        """Return the generator's state, to be saved with a checkpoint."""
        return self._generator.get_state()

    def set_state(self, state: Tensor) -> None:
        """Go on drawing from where `get_state` was called.

        Parameters
        ----------
        state : Tensor
            What `get_state` returned.
        """
        self._generator.set_state(state)

    def _uniform(self, *shape: int, low: float = -1.0, high: float = 1.0) -> Tensor:
        """Draw float64 numbers uniformly from [low, high)."""
        draws = torch.rand(shape, dtype=torch.float64, generator=self._generator)
        return low + (high - low) * draws

    def _fork(self, device: torch.device) -> torch.Generator:
        """Return a generator for the voxels on a device, seeded from the own one."""
        seed = torch.randint(2**63 - 1, (), generator=self._generator)
        return torch.Generator(device).manual_seed(int(seed))
