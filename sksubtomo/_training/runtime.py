"""Devices and seeds."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from sksubtomo._random import as_generator

Device = torch.device
"""Beside strings, what a ``device`` parameter may be."""


def resolve_device(device: str | torch.device) -> torch.device:
    """Return the torch device that a ``device`` parameter stands for.

    Parameters
    ----------
    device : str or torch.device
        "auto" is the first accelerator there is, else the CPU. Each process of
        ``torchrun`` gets a CUDA device of its own, unless one is named by its number,
        and "auto" is never an Apple GPU there: their processes cannot communicate.

    Returns
    -------
    torch.device
        The device.

    Raises
    ------
    ValueError
        If the name is not a device's, or this machine has no such device.
    """
    if str(device) == "auto":
        if torch.cuda.is_available():
            return _parse_device("cuda")
        if torch.backends.mps.is_available() and not _is_launched():
            return torch.device("mps")
        return torch.device("cpu")
    resolved = _parse_device(device)
    if not _is_available(resolved):
        raise ValueError(
            f"device={str(device)!r} is not available on this machine; use "
            f"device='auto' for what there is."
        )
    return resolved


def inference_device(device: str | torch.device) -> torch.device:
    """Return the device to predict on, the CPU if the wanted one is not there.

    A model that was fitted on one machine must predict on another.

    Parameters
    ----------
    device : str or torch.device
        The estimator's ``device`` parameter.

    Returns
    -------
    torch.device
        The device.
    """
    if str(device) == "auto":
        return resolve_device(device)
    wanted = _parse_device(device)
    return wanted if _is_available(wanted) else torch.device("cpu")


def _parse_device(device: str | torch.device) -> torch.device:
    try:
        parsed = torch.device(device)
    except RuntimeError as error:
        raise ValueError(
            f"device={device!r} is not a device; expected 'auto', 'cpu', 'cuda', "
            f"'cuda:1' or the like."
        ) from error
    if str(parsed) == "cuda" and _is_launched() and torch.cuda.is_available():
        # Batch systems may show each process its own device only.
        index = int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count()
        return torch.device("cuda", index)
    return parsed


def _is_launched() -> bool:
    """Tell whether ``torchrun`` started this process, or what started it."""
    return dist.is_available() and dist.is_torchelastic_launched()


def _is_available(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_available() and (
            (device.index or 0) < torch.cuda.device_count()
        )
    if device.type == "mps":
        return torch.backends.mps.is_available()
    return device.type == "cpu"


def draw_seed(random_state: Any) -> int:
    """Draw the seed of one fit.

    Parameters
    ----------
    random_state : int, RandomState instance or None
        None is fresh entropy from the operating system: NumPy's global generator
        is left as it was.

    Returns
    -------
    int
        A seed in [0, 2^31 - 1).
    """
    return int(as_generator(random_state).randint(2**31 - 1))


def spawn_seeds(seed: int, n: int) -> list[int]:
    """Derive independent seeds for the separate uses of randomness in one fit.

    Parameters
    ----------
    seed : int
        The fit's seed.
    n : int
        How many are needed.

    Returns
    -------
    list of int
        The first `n` of a sequence that does not depend on `n`.
    """
    return [int(value) for value in np.random.SeedSequence(seed).generate_state(n)]


# There is one global generator for all threads of a process.
_GLOBAL_GENERATORS = threading.RLock()


@contextmanager
def seeded_torch(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's global generators inside, and restore them on leaving.

    Other threads that want to do the same wait meanwhile: what one of them draws would
    depend on the others.

    Parameters
    ----------
    seed : int
        Seed of the CPU's and the device's generator.
    device : torch.device
        The device that is trained on.

    Yields
    ------
    None
        Nothing.
    """
    cuda_devices = []
    if device.type == "cuda":
        index = device.index
        cuda_devices.append(torch.cuda.current_device() if index is None else index)
    with _GLOBAL_GENERATORS, torch.random.fork_rng(devices=cuda_devices):
        torch.default_generator.manual_seed(seed)
        for index in cuda_devices:
            torch.cuda.default_generators[index].manual_seed(seed)
        yield
