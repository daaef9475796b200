"""A trained module over many volumes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from sksubtomo._training.batches import Normalizer, VolumeDataset

# Convolutions round differently at different batch sizes. Always the same size,
# the last batch filled up with zeros, makes the output for a volume the same to
# the last bit whatever else is in X.
_CPU_BATCH = 16
_ACCELERATOR_BATCH = 256

# Enough volumes to know the scale of the features to a per cent or so.
_SCALE_VOLUMES = 1024


def apply_in_batches(
    module: nn.Module,
    volumes: npt.NDArray[np.float32],
    normalizer: Normalizer,
    device: torch.device,
) -> npt.NDArray[np.float32]:
    """Return the module's output for every volume.

    Parameters
    ----------
    module : torch.nn.Module
        Maps (n, 1, depth, height, width) to (n, n_outputs).
    volumes : ndarray of shape (n, depth, height, width)
        Volumes as they came.
    normalizer : Normalizer
        The one the module was trained with.
    device : torch.device
        Where to compute; the module is moved there.

    Returns
    -------
    ndarray of shape (n, n_outputs), float32
        Outputs.
    """
    module.to(device).eval()
    size = _CPU_BATCH if device.type == "cpu" else _ACCELERATOR_BATCH
    dataset = VolumeDataset(volumes)
    outputs = []
    with torch.inference_mode():
        for start in range(0, len(volumes), size):
            rows = np.arange(start, min(start + size, len(volumes)))
            batch, _ = dataset.take(rows)
            batch = normalizer(batch.to(device))
            if len(rows) < size:
                padded = batch.new_zeros(size, *batch.shape[1:])
                padded[: len(rows)] = batch
                batch = padded
            outputs.append(module(batch)[: len(rows)].float().cpu().numpy())
    return np.concatenate(outputs)


def feature_statistics(
    encoder: nn.Module,
    volumes: npt.NDArray[np.float32],
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
    volumes : ndarray of shape (n, depth, height, width)
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
