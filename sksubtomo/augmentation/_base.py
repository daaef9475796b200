"""What the augmentations share: a sampler with a generator of its own."""

from __future__ import annotations

from collections.abc import Callable

import torch
from sklearn.base import BaseEstimator, clone
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
        return torch.Generator(device).manual_seed(self._seed())

    def _seed(self) -> int:
        """Draw a seed for another generator."""
        return int(torch.randint(2**63 - 1, (), generator=self._generator))


class OccasionalAugmentation(BaseEstimator):
    """An augmentation that changes a part of the volumes and leaves the others.

    A subclass has its probability as the parameter `p`, and says what is drawn for a
    volume and what that does to it.
    """

    p: float

    def build(self, seed: int) -> OccasionalSampler:
        """Build a sampler of views.

        Parameters
        ----------
        seed : int
            Of the sampler's own generator.

        Returns
        -------
        OccasionalSampler
            Maps (n, 1, depth, height, width) to views of that shape.

        Raises
        ------
        ValueError
            If a parameter is out of its range.
        """
        self._validate_params()
        return OccasionalSampler(seed, clone(self))

    def _draw(self, uniform: Callable[..., Tensor], n: int) -> Tensor:
        """Draw what decides the changes of one call.

        Parameters
        ----------
        uniform : callable
            Maps a shape to float64 numbers, uniform in [-1, 1) unless given another
            `low` or `high`.
        n : int
            Number of volumes.

        Returns
        -------
        Tensor of shape (n, ...)
            Float64.
        """
        raise NotImplementedError

    def _change(self, volumes: Tensor, drawn: Tensor) -> Tensor:
        """Change all volumes.

        Parameters
        ----------
        volumes : Tensor of shape (n_volumes, 1, depth, height, width)
            Floating point.
        drawn : Tensor of shape (n_volumes, ...)
            Their part of what `_draw` returned.

        Returns
        -------
        Tensor of shape (n_volumes, 1, depth, height, width)
            Of the same dtype, on the same device.
        """
        raise NotImplementedError


class OccasionalSampler(ViewSampler):
    """Sampler of the views of an `OccasionalAugmentation`.

    Parameters
    ----------
    seed : int
        Of the sampler's own generator.
    augmentation : OccasionalAugmentation
        What to do.
    """

    def __init__(self, seed: int, augmentation: OccasionalAugmentation) -> None:
        super().__init__(seed)
        self.augmentation = augmentation

    def __call__(self, volumes: Tensor, start: int = 0, n: int | None = None) -> Tensor:
        """Draw one view of every volume."""
        rows = slice(start, start + len(volumes))
        n = n or rows.stop
        is_changed = self._uniform(n, low=0.0)[rows] < self.augmentation.p
        drawn = self._draw(n)[rows].to(volumes, non_blocking=True)
        changed = self.augmentation._change(volumes, drawn)
        return torch.where(per_volume(is_changed, volumes), changed, volumes)

    def _draw(self, n: int) -> Tensor:
        """Draw what decides the changes of one call."""
        return self.augmentation._draw(self._uniform, n)


def per_volume(values: Tensor, volumes: Tensor) -> Tensor:
    """Give numbers or truths, one a volume, a shape that broadcasts to volumes.

    Parameters
    ----------
    values : Tensor of shape (n_volumes,)
        On any device.
    volumes : Tensor of shape (n_volumes, 1, depth, height, width)
        Floating point.

    Returns
    -------
    Tensor of shape (n_volumes, 1, 1, 1, 1)
        On the device of `volumes`, and of its dtype if these are numbers.
    """
    dtype = volumes.dtype if values.is_floating_point() else values.dtype
    values = values.to(volumes.device, dtype, non_blocking=True)
    return values[:, None, None, None, None]
