"""A trained module over many volumes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import softmax
from torch import Tensor, nn

from sksubtomo._stored import (
    MappedPages,
    StoredVolumes,
    Volumes,
    block_bounds,
    check_finite,
    take_rows,
)
from sksubtomo._training.batches import Normalizer, read_ahead
from sksubtomo.augmentation.functional import oriented_views

# Convolutions round differently at different batch sizes. Always the same size for a
# shape of volumes, the last batch filled up with zeros, makes the output for a volume
# the same to the last bit whatever else is in X.
_ACCELERATOR_BATCH = 256

# 16 a side. On the CPU, up to here a larger batch is faster.
_SMALL_VOXELS = 4096

# The host waits for an accelerator once in so many batches.
_BATCHES_A_WAIT = 4

# Enough volumes to know the scale of the features to a few per cent.
_SCALE_VOLUMES = 256


def apply_in_batches(
    module: nn.Module,
    volumes: Volumes,
    normalizer: Normalizer,
    device: torch.device,
    *,
    centre: npt.ArrayLike = 0.0,
    scale: npt.ArrayLike = 1.0,
    out: Any = None,
    n_views: int = 1,
    activation: Callable[[Tensor], Tensor] | None = None,
) -> Any:
    """Return the module's output for every volume.

    Parameters
    ----------
    module : torch.nn.Module
        Maps (n, 1, depth, height, width) to (n, n_outputs).
    volumes : ndarray or StoredVolumes of shape (n, depth, height, width)
        Volumes as they came. Those that are on disk are checked for being finite.
    normalizer : Normalizer
        The one the module was trained with.
    device : torch.device
        Where to compute; the module is moved there.
    centre, scale : array-like of shape (n_outputs,) or float, default=0.0, 1.0
        What is subtracted from the outputs, and what they are then divided by.
    out : array of shape (n, n_outputs), default=None
        Where to write the outputs, block by block: an array, a memory map, or a dataset
        of h5py or Zarr.
    n_views : int, default=1
        Number of orientations of each volume over which the outputs are averaged.
    activation : callable, default=None
        Applied to the outputs for each orientation, before they are averaged.

    Returns
    -------
    ndarray of shape (n, n_outputs), float32, or `out`
        Outputs.

    Raises
    ------
    ValueError
        If a voxel is not finite, or `out` is not acceptable.
    """
    n = len(volumes)
    if out is not None:
        _check_out(out, n)
    pages = MappedPages(out)
    centre, scale = np.asarray(centre, np.float32), np.asarray(scale, np.float32)
    result, stop = out, 0
    apply = partial(
        _average_over_views, module, normalizer, n_views=n_views, activation=activation
    )
    module.to(device).eval()
    for features in _apply_to_blocks(apply, volumes, device):
        outputs = (features - centre) / scale
        if result is None:
            result = np.empty((n, outputs.shape[1]), np.float32)
        elif stop == 0 and result.shape[1] != outputs.shape[1]:
            raise ValueError(
                f"out has shape {tuple(out.shape)}; expected {(n, outputs.shape[1])}."
            )
        start, stop = stop, stop + len(outputs)
        result[start:stop] = outputs
        pages.touch(outputs.nbytes)
    return result


def _cpu_batch(volume_shape: tuple[int, ...]) -> int:
    """Return a batch size that is fastest, or nearly so, on a CPU.

    Small volumes go through faster by the many, until a layer's output no longer fits
    into the cache.
    """
    return 64 if math.prod(volume_shape) <= _SMALL_VOXELS else 16


def _check_out(out: Any, n: int) -> None:
    expected = f"an array of {n} rows, a memory map, or a dataset of h5py or Zarr"
    try:
        shape, dtype = tuple(out.shape), np.dtype(out.dtype)
        writes = callable(out.__setitem__)
    except (AttributeError, TypeError, ValueError) as error:
        raise TypeError(
            f"out is a {type(out).__name__} ({error}); expected {expected}."
        ) from error
    file = getattr(out, "file", None)
    if not writes or getattr(file, "mode", None) == "r":
        raise ValueError(f"out can only be read; expected {expected}.")
    if len(shape) != 2 or shape[0] != n:
        raise ValueError(f"out has shape {shape}; expected {n} rows of outputs.")
    if dtype.kind != "f":
        raise ValueError(f"out has dtype {dtype}; expected floating-point numbers.")
    if isinstance(out, np.ndarray) and not out.flags.writeable:
        raise ValueError("out is read-only; expected an array that can be written.")


def _apply_to_blocks(
    apply: Callable[[Tensor], Tensor], volumes: Volumes, device: torch.device
) -> Iterator[npt.NDArray[np.float32]]:
    """Yield the outputs for block after block."""
    on_cpu = device.type == "cpu"
    stored = isinstance(volumes, StoredVolumes)
    size = _cpu_batch(volumes.shape[1:]) if on_cpu else _ACCELERATOR_BATCH

    def read(bounds: tuple[int, int]) -> tuple[int, Tensor]:
        """Read a block, filled up to whole batches."""
        start, stop = bounds
        block = take_rows(volumes, np.arange(start, stop))
        if stored:
            check_finite(block, start)
        whole = torch.zeros(
            -(-len(block) // size) * size,
            1,
            *block.shape[1:],
            pin_memory=device.type == "cuda",
        )
        whole.numpy()[: len(block), 0] = block
        return len(block), whole

    bounds = block_bounds(volumes, size if on_cpu else _BATCHES_A_WAIT * size)
    blocks = read_ahead(read, bounds) if stored or not on_cpu else map(read, bounds)
    for n, block in blocks:
        batches = block.to(device, non_blocking=True).split(size)
        yield _apply(apply, batches)[:n]


@torch.inference_mode()
def _apply(
    apply: Callable[[Tensor], Tensor], batches: Sequence[Tensor]
) -> npt.NDArray[np.float32]:
    """Return the outputs for whole batches."""
    outputs: npt.NDArray[np.float32] = (
        torch.cat(list(map(apply, batches))).cpu().numpy()
    )
    return outputs


def _average_over_views(
    module: nn.Module,
    normalizer: Normalizer,
    batch: Tensor,
    *,
    n_views: int,
    activation: Callable[[Tensor], Tensor] | None,
) -> Tensor:
    """Return mean outputs; one view at a time is in memory."""
    total = torch.zeros((), device=batch.device)
    # As in training, volumes are turned inside of the mask. Sums of single terms round
    # the same wherever in the batch a volume is.
    for view in oriented_views(normalizer.scale_intensities(batch), n_views):
        outputs = module(normalizer.apply_mask(view)).float()
        total = total + (outputs if activation is None else activation(outputs))
    return total / n_views


def class_probabilities(
    module: nn.Module,
    volumes: Volumes,
    normalizer: Normalizer,
    device: torch.device,
    *,
    n_views: int = 1,
) -> npt.NDArray[np.float64]:
    """Return the probability of each class for each volume.

    Parameters
    ----------
    module : torch.nn.Module
        Maps (n, 1, depth, height, width) to logits of shape (n, n_classes).
    volumes, normalizer, device
        As for `apply_in_batches`.
    n_views : int, default=1
        The number of orientations over which probabilities are averaged.

    Returns
    -------
    ndarray of shape (n, n_classes)
        Probabilities; rows sum to one.
    """
    # Of a single view they are taken in double precision: more of the small ones stay.
    outputs = apply_in_batches(
        module,
        volumes,
        normalizer,
        device,
        n_views=n_views,
        activation=None if n_views == 1 else partial(torch.softmax, dim=1),
    ).astype(np.float64)
    if n_views == 1:
        return softmax(outputs, axis=1)
    return outputs / outputs.sum(axis=1, keepdims=True)


def feature_statistics(
    encoder: nn.Module,
    volumes: Volumes,
    normalizer: Normalizer,
    device: torch.device,
) -> tuple[npt.NDArray[np.float32], np.float32]:
    """Return centre and spread of an encoder's features over volumes.

    Contrastive losses compare directions only, so pretraining leaves both to chance:
    they differ by orders of magnitude between methods and learning rates, while a
    classifier's learning rate or penalty suits one scale.

    Parameters
    ----------
    encoder : torch.nn.Module
        Maps (n, 1, depth, height, width) to (n, n_features).
    volumes : ndarray or StoredVolumes of shape (n, depth, height, width)
        Training volumes; of many, an evenly spaced part is looked at.
    normalizer : Normalizer
        The encoder's.
    device : torch.device
        Where to compute.

    Returns
    -------
    mean : ndarray of shape (n_features,)
        Mean of each feature.
    scale : float
        The root mean square, over the features, of each one's standard deviation;
        1 if the features are constant.
    """
    step = -(-len(volumes) // _SCALE_VOLUMES)
    features = apply_in_batches(encoder, volumes[::step], normalizer, device)
    features = features.astype(np.float64)
    variance = float(features.var(axis=0).mean())
    # Below what float32 resolves, the spread is rounding.
    floor = np.finfo(np.float32).eps * float(np.square(features).mean())
    scale = variance**0.5 if variance > floor else 1.0
    return features.mean(axis=0).astype(np.float32), np.float32(scale)
