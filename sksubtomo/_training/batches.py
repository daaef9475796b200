"""From an array of volumes to normalised batches on the device."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from sksubtomo._stored import StoredVolumes, Volumes, iterate_blocks, take_rows

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

# How many results are waiting, at most, while another one is being read.
_AHEAD = 2

# Volumes of several batches are read together, as many as this: a chunk of a file is
# then decoded once for all of them.
_WINDOW_BYTES = 1 << 23

# The part of a CUDA device's free memory that training volumes may take.
_RESIDENT_PART = 0.5

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
        volumes: Volumes,
        kind: str | None,
        mask: str | None = None,
    ) -> Normalizer:
        """Learn the statistics that `kind` needs.

        Parameters
        ----------
        volumes : ndarray or StoredVolumes of shape (n, depth, height, width)
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
        # In blocks, for the volumes may be on disk, and in double precision: a float32
        # sum over a thousand volumes loses digits. The first volume's mean is taken
        # off first, or a large offset would swamp a small spread.
        weights = np.ones(volumes.shape[1:])
        if masked:
            weights = soft_sphere(*volumes.shape[1:]).double().numpy()
        shift = float(take_rows(volumes, np.arange(1)).mean(dtype=np.float64))
        total = squares = 0.0
        for _, block in iterate_blocks(volumes):
            values = block.astype(np.float64)
            values -= shift
            total += float(np.tensordot(values, weights, 3).sum())
            np.square(values, out=values)
            squares += float(np.tensordot(values, weights, 3).sum())
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
            weights = batch.new_ones(())
            if self.mask:
                weights = soft_sphere(*batch.shape[2:], device=batch.device)
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
        return batch * soft_sphere(*batch.shape[2:], device=batch.device)


@lru_cache(maxsize=8)
@torch.inference_mode(False)
def soft_sphere(
    depth: int, height: int, width: int, *, device: torch.device | None = None
) -> Tensor:
    """Return a mask that is 1 inside the largest centred sphere and 0 outside.

    Parameters
    ----------
    depth, height, width : int
        Sides in voxels; where they differ it is an ellipsoid.
    device : torch.device, default=None
        Where it is kept, for the host would wait for every copy of it; None is the CPU.

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
    return mask.to(device)


class VolumeDataset(Dataset[tuple[Tensor, Tensor]]):
    """Volumes, and their labels if there are any.

    Parameters
    ----------
    volumes : ndarray or StoredVolumes of shape (n, depth, height, width), float32
        The volumes; may be on disk or read-only.
    labels : ndarray of shape (n,), default=None
        Encoded classes.
    """

    def __init__(
        self, volumes: Volumes, labels: npt.NDArray[np.int64] | None = None
    ) -> None:
        self.volumes = volumes
        if labels is None:
            labels = np.broadcast_to(np.int64(0), len(volumes))
        self.labels = labels

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
            torch.from_numpy(take_rows(self.volumes, rows))[:, None],
            torch.from_numpy(self.labels[rows]),
        )


class Part(NamedTuple):
    """What one of several processes takes of a batch: all of it, if there is one.

    Attributes
    ----------
    volumes : Tensor of shape (k, 1, depth, height, width)
        Normalised volumes on the device, not masked; there may be none.
    start : int
        Place of the first one in the batch.
    n : int
        Number of volumes in the whole batch.
    """

    volumes: Tensor
    start: int
    n: int


class BatchLoader:
    """Iterate over a dataset in normalised batches, one epoch an iteration.

    Whole batches are taken by index: there is no collation of single items. Volumes
    that are on disk are read ahead by a thread. On a CUDA device they are moved there
    once if they fit into half of what is free, and are otherwise read ahead as well.
    The host never waits for the device.

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
        Shuffles the rows anew every epoch; None keeps their order. It is drawn from
        once, when an epoch begins.
    shard : tuple of int, default=(0, 1)
        Which of how many nearly equal parts of each batch is taken. The generators of
        all have to be in the same state.
    """

    def __init__(
        self,
        dataset: VolumeDataset,
        *,
        batch_size: int,
        normalizer: Normalizer,
        device: torch.device,
        generator: np.random.Generator | None = None,
        shard: tuple[int, int] = (0, 1),
    ) -> None:
        self.dataset = dataset
        self.batch_size = batch_size
        self.normalizer = normalizer
        self.device = device
        self.generator = generator
        self.shard = shard
        self._resident: tuple[Tensor, Tensor] | None = None

    def __len__(self) -> int:
        return len(batch_borders(len(self.dataset), self.batch_size)) - 1

    def __iter__(self) -> Iterator[tuple[Part, Tensor]]:
        n = len(self.dataset)
        order = (
            np.arange(n) if self.generator is None else self.generator.permutation(n)
        )
        spans = self._spans()
        if self._is_resident():
            batches = self._take_resident(order, spans)
        elif self.device.type == "cuda" or isinstance(
            self.dataset.volumes, StoredVolumes
        ):
            batches = self._take_ahead(order, spans)
        else:
            batches = (self.dataset.take(order[span.rows]) for span in spans)
        for span, (volumes, labels) in zip(spans, batches, strict=True):
            volumes = volumes.to(self.device, non_blocking=True)
            yield (
                Part(self.normalizer.scale_intensities(volumes), span.start, span.n),
                labels.to(self.device, non_blocking=True),
            )

    def _spans(self) -> list[_Span]:
        """Return the parts of all batches that are this process's."""
        rank, size = self.shard
        spans = []
        for first, last in pairwise(batch_borders(len(self.dataset), self.batch_size)):
            n = last - first
            start, stop = part_bounds(n, rank, size)
            spans.append(_Span(slice(first + start, first + stop), start, n))
        return spans

    def _is_resident(self) -> bool:
        """Move the volumes to a CUDA device that has room for them, once."""
        if self._resident is None and self.device.type == "cuda":
            volumes, labels = self.dataset.volumes, self.dataset.labels
            free, _ = torch.cuda.mem_get_info(self.device)
            if volumes.nbytes <= _RESIDENT_PART * free:
                n, *sides = volumes.shape
                resident = torch.empty((n, 1, *sides), device=self.device)
                for start, block in iterate_blocks(volumes):
                    resident[start : start + len(block), 0] = send(
                        torch.from_numpy(block.copy()), self.device
                    )
                self._resident = (
                    resident,
                    send(torch.from_numpy(labels.copy()), self.device),
                )
        return self._resident is not None

    def _take_resident(
        self, order: npt.NDArray[np.intp], spans: list[_Span]
    ) -> Iterator[tuple[Tensor, Tensor]]:
        assert self._resident is not None
        volumes, labels = self._resident
        rows = send(torch.from_numpy(order), self.device)
        for span in spans:
            yield volumes[rows[span.rows]], labels[rows[span.rows]]

    def _take_ahead(
        self, order: npt.NDArray[np.intp], spans: list[_Span]
    ) -> Iterator[tuple[Tensor, Tensor]]:
        def read(window: list[_Span]) -> list[tuple[Tensor, Tensor]]:
            rows = np.concatenate([order[span.rows] for span in window])
            volumes, labels = self.dataset.take(rows)
            if self.device.type == "cuda":
                volumes, labels = volumes.pin_memory(), labels.pin_memory()
            sizes = [span.rows.stop - span.rows.start for span in window]
            return list(zip(volumes.split(sizes), labels.split(sizes), strict=True))

        n_bytes = self.batch_size * 4 * math.prod(self.dataset.volumes.shape[1:])
        size = max(1, _WINDOW_BYTES // n_bytes)
        windows = (spans[i : i + size] for i in range(0, len(spans), size))
        for batches in read_ahead(read, windows):
            yield from batches


def batch_borders(n: int, batch_size: int) -> list[int]:
    """Return where the batches of an epoch begin, and where the last one ends.

    Parameters
    ----------
    n : int
        Volumes in the epoch.
    batch_size : int
        Volumes a batch. The last one may be smaller; a single volume left over goes
        into the batch before it.

    Returns
    -------
    list of int
        One number more than there are batches.
    """
    starts = list(range(0, n, batch_size))
    if len(starts) > 1 and n - starts[-1] == 1:
        starts.pop()
    return [*starts, n]


def part_bounds(n: int, rank: int, size: int) -> tuple[int, int]:
    """Return which rows of a batch one of several processes takes.

    Parameters
    ----------
    n : int
        Rows in the batch.
    rank : int
        Number of the process, from 0.
    size : int
        Number of processes.

    Returns
    -------
    tuple of int
        The first row, and the one after the last. All parts are nearly equal.
    """
    return n * rank // size, n * (rank + 1) // size


class _Span(NamedTuple):
    """The part of a batch that one process takes."""

    rows: slice  # where its rows are in the order of the epoch
    start: int
    n: int


def read_ahead(
    read: Callable[[_Item], _Result], items: Iterable[_Item]
) -> Iterator[_Result]:
    """Apply a function to items in a thread, a few of them ahead.

    Parameters
    ----------
    read : callable
        Called with one item after the other. An error reaches the caller in its turn.
    items : iterable
        What to call it with; iterated over in the caller's thread.

    Yields
    ------
    object
        Results, in the order of the items. The thread ends with the iteration, or when
        it is abandoned.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="sksubtomo-read-ahead") as thread:
        waiting: deque[Future[_Result]] = deque()
        try:
            for item in items:
                waiting.append(thread.submit(read, item))
                if len(waiting) > _AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def send(values: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor from the host to a device without waiting for it.

    Parameters
    ----------
    values : Tensor
        On the host.
    device : torch.device
        Where to.

    Returns
    -------
    Tensor
        The values on the device.
    """
    if device.type == "cuda" and not values.is_pinned():
        values = values.pin_memory()
    return values.to(device, non_blocking=True)
