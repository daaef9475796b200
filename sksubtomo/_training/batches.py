"""From an array of volumes to normalised batches on the device."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

_BLOCK_VALUES = 1 << 22

# Where the edge of the mask begins, as a part of the radius.
_MASK_INNER = 0.65


@dataclass(frozen=True)
class Normalizer:
    """How intensities are brought to a common scale.

    Parameters
    ----------
    per_volume : bool
        Whether each volume is brought to mean 0 and standard deviation 1 by
        itself.
    mean, scale : float
        What is subtracted from every volume, and what it is then divided by, if
        not `per_volume`.
    mask : bool
        Whether what lies outside `soft_sphere` does not count: the statistics are
        weighted by it, and volumes are multiplied by it at last.
    """

    per_volume: bool = False
    mean: float = 0.0
    scale: float = 1.0
    mask: bool = False

    @classmethod
    def fit(
        cls,
        volumes: npt.NDArray[np.float32],
        kind: str | None,
        mask: str | None = None,
    ) -> Normalizer:
        """Learn the statistics that `kind` needs.

        Parameters
        ----------
        volumes : ndarray of shape (n, depth, height, width)
            Training volumes.
        kind : {"dataset", "volume", None}
            Statistics of all voxels of all volumes, of each volume by itself, or
            none.
        mask : {"sphere", None}
            Whether to mask.

        Returns
        -------
        Normalizer
            The fitted normaliser. Constant data are only centred.
        """
        masked = mask is not None
        if kind is None:
            return cls(mask=masked)
        if kind == "volume":
            return cls(per_volume=True, mask=masked)
        # In blocks and double precision: the array may be memory-mapped, and a
        # float32 sum over a thousand volumes loses digits. The first volume's mean
        # is taken off first, or a large offset would swamp a small spread.
        weights = np.ones(volumes.shape[1:])
        if masked:
            weights = soft_sphere(*volumes.shape[1:]).numpy().astype(np.float64)
        shift = float(volumes[0].mean(dtype=np.float64))
        block = max(1, _BLOCK_VALUES // weights.size)
        total = squares = 0.0
        for start in range(0, len(volumes), block):
            values = volumes[start : start + block].astype(np.float64) - shift
            total += float((values * weights).sum())
            squares += float((np.square(values) * weights).sum())
        n = len(volumes) * float(weights.sum())
        mean = total / n
        variance = max(0.0, squares / n - mean**2)
        # Below what float32 resolves at this offset, the spread is rounding.
        floor = np.finfo(np.float32).eps * abs(shift + mean)
        scale = variance**0.5
        return cls(
            mean=shift + mean, scale=scale if scale > floor else 1.0, mask=masked
        )

    def __call__(self, batch: Tensor) -> Tensor:
        """Normalise a batch.

        Parameters
        ----------
        batch : Tensor of shape (n, 1, depth, height, width)
            Volumes as they came.

        Returns
        -------
        Tensor of the same shape
            Normalised volumes.
        """
        return self.apply_mask(self.scale_intensities(batch))

    def scale_intensities(self, batch: Tensor) -> Tensor:
        """Normalise a batch that is yet to be augmented, without the mask.

        Parameters
        ----------
        batch : Tensor of shape (n, 1, depth, height, width)
            Volumes as they came.

        Returns
        -------
        Tensor of the same shape
            Normalised volumes.
        """
        if self.per_volume:
            axes = (1, 2, 3, 4)
            weights = torch.ones(()).to(batch)
            if self.mask:
                weights = soft_sphere(*batch.shape[2:]).to(batch)
                weights = weights / weights.mean()
            # Squares of very small or large intensities leave float32's range.
            peak = batch.abs().amax(axes, keepdim=True)
            batch = batch / peak.masked_fill(peak == 0, 1.0)
            mean = (batch * weights).mean(axes, keepdim=True)
            centred = batch - mean
            variance = (centred.square() * weights).mean(axes, keepdim=True)
            deviation = variance.sqrt()
            # A constant volume has only rounding left; it becomes zero.
            constant = deviation <= torch.finfo(batch.dtype).eps * mean.abs()
            return centred / deviation.masked_fill(constant, torch.inf)
        if self.mean == 0.0 and self.scale == 1.0:
            return batch
        return (batch - self.mean) / self.scale

    def apply_mask(self, batch: Tensor) -> Tensor:
        """Set to zero what lies outside the mask, if there is one.

        Parameters
        ----------
        batch : Tensor of shape (n, 1, depth, height, width)
            Normalised volumes or views of them.

        Returns
        -------
        Tensor of the same shape
            What the network sees.
        """
        if not self.mask:
            return batch
        return batch * soft_sphere(*batch.shape[2:]).to(batch)


@lru_cache(maxsize=8)
def soft_sphere(depth: int, height: int, width: int) -> Tensor:
    """Return a mask that is 1 inside the largest centred sphere and 0 outside.

    Parameters
    ----------
    depth, height, width : int
        Sides in voxels; where they differ it is an ellipsoid.

    Returns
    -------
    Tensor of shape (depth, height, width)
        Factors. They fall along half a cosine between 0.65 and 1 times the radius. A
        side of one voxel does not count.
    """
    squared = torch.zeros(())
    for axis, side in enumerate((depth, height, width)):
        distance = (torch.arange(side) - (side - 1) / 2) / (side / 2)
        shape = [1, 1, 1]
        shape[axis] = side
        squared = squared + distance.reshape(shape).square()
    edge = ((squared.sqrt() - _MASK_INNER) / (1 - _MASK_INNER)).clamp(0, 1)
    mask: Tensor = (1 + torch.cos(torch.pi * edge)) / 2
    return mask


class VolumeDataset(Dataset[tuple[Tensor, Tensor]]):
    """Volumes, and their labels if there are any.

    Parameters
    ----------
    volumes : ndarray of shape (n, depth, height, width), float32
        The volumes; may be memory-mapped or read-only.
    labels : ndarray of shape (n,), default=None
        Encoded classes.
    """

    def __init__(
        self,
        volumes: npt.NDArray[np.float32],
        labels: npt.NDArray[np.int64] | None = None,
    ) -> None:
        self.volumes = volumes
        self.labels = np.zeros(len(volumes), np.int64) if labels is None else labels

    def __len__(self) -> int:
        return len(self.volumes)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        volumes, labels = self.take(np.array([index]))
        return volumes[0], labels[0]

    def take(self, rows: npt.NDArray[np.intp]) -> tuple[Tensor, Tensor]:
        """Return several items at once.

        Parameters
        ----------
        rows : ndarray of shape (n,)
            Indices.

        Returns
        -------
        tuple of Tensor
            Volumes of shape (n, 1, depth, height, width) and labels of shape (n,),
            both copies.
        """
        return (
            torch.from_numpy(np.asarray(self.volumes[rows]))[:, None],
            torch.from_numpy(self.labels[rows]),
        )


class BatchLoader:
    """Iterate over a dataset in normalised batches, one epoch an iteration.

    Whole batches are taken by index: there is no collation of single items.

    Parameters
    ----------
    dataset : VolumeDataset
        What to iterate over.
    batch_size : int
        Volumes a batch. The last one may be smaller; a single volume left over
        joins the batch before it, for it would have nothing to be contrasted with.
    normalizer : Normalizer
        Applied to each batch on the device.
    device : torch.device
        Where the batches go.
    generator : numpy Generator, default=None
        Shuffles the rows anew every epoch; None keeps their order.
    """

    def __init__(
        self,
        dataset: VolumeDataset,
        *,
        batch_size: int,
        normalizer: Normalizer,
        device: torch.device,
        generator: np.random.Generator | None = None,
    ) -> None:
        self.dataset = dataset
        self.batch_size = batch_size
        self.normalizer = normalizer
        self.device = device
        self.generator = generator

    def __len__(self) -> int:
        return len(self._starts()) - 1

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        n = len(self.dataset)
        rows = np.arange(n) if self.generator is None else self.generator.permutation(n)
        for start, stop in pairwise(self._starts()):
            volumes, labels = self.dataset.take(rows[start:stop])
            volumes = volumes.to(self.device, non_blocking=True)
            yield (
                self.normalizer.scale_intensities(volumes),
                labels.to(self.device, non_blocking=True),
            )

    def _starts(self) -> list[int]:
        n = len(self.dataset)
        starts = list(range(0, n, self.batch_size))
        if len(starts) > 1 and n - starts[-1] == 1:
            starts.pop()
        return [*starts, n]
