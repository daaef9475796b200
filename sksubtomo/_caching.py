"""Pretraining inside another estimator: once for equal parameters and volumes."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from os import PathLike
from pathlib import Path
from pickle import PicklingError
from types import FunctionType
from typing import Any

import joblib
from filelock import FileLock
from sklearn.utils.validation import check_memory

from sksubtomo._stored import Volumes, digest
from sksubtomo._training.distribution import join_processes
from sksubtomo._training.precision import resolve_precision
from sksubtomo._training.runtime import resolve_device
from sksubtomo._version import __version__

# What a pretrainer is told that does not change what it learns.
_WITHOUT_EFFECT = ("verbose", "checkpoint_dir")

# Of which only counts what they stand for.
_RESOLVED = ("device", "precision")

# Seconds between two looks at a lock that another process holds.
_POLL = 0.02


def fit_once(pretrainer: Any, volumes: Volumes, memory: Any) -> Any:
    """Fit a pretrainer, or take from a cache what the same fit gave before.

    Where several processes ask for one fit at a time, one does it and the others wait.
    The operating system releases the lock of a process that is killed. A cache that
    cannot be used is warned of, and never an error. Processes that train together,
    under ``torchrun``, use none: each would wait for the one that has the lock, which
    waits for them.

    Parameters
    ----------
    pretrainer : ContrastivePretrainer
        An unfitted one, which may be the one that is fitted and returned.
    volumes : ndarray or StoredVolumes of shape (n, depth, height, width)
        Checked training volumes.
    memory : str, path, object with the joblib.Memory interface, or None
        The cache; None for none.

    Returns
    -------
    ContrastivePretrainer
        The fitted pretrainer. Checkpoints are in a folder of their own inside of its
        `checkpoint_dir`, named by the key. Without a `random_state` it goes on from
        what is there, as any fit does.
    """
    given = {name: getattr(pretrainer, name) for name in _WITHOUT_EFFECT + _RESOLVED}
    together = join_processes(resolve_device(pretrainer.device)).size > 1
    key = None
    if pretrainer.checkpoint_dir is not None or (memory is not None and not together):
        try:
            key = fit_key(pretrainer, volumes)
        except (PicklingError, AttributeError, TypeError) as error:
            if memory is not None:
                _warn(
                    f"a parameter of the pretrainer cannot be pickled "
                    f"({error.args[0]}). A class of one's own has to be in a module "
                    f"that can be imported."
                )
    if key is not None and pretrainer.checkpoint_dir is not None:
        pretrainer.set_params(checkpoint_dir=Path(pretrainer.checkpoint_dir, key))
    if key is None or together:
        fitted = pretrainer.fit(volumes)
    elif memory is None:
        fitted = _fit_alone(key, pretrainer, volumes)
    else:
        fitted = _fit_cached(pretrainer, volumes, memory, key)
    return fitted.set_params(**given)


def fit_key(pretrainer: Any, volumes: Volumes) -> str:
    """Return what tells a fit from all others that may give another result.

    Parameters
    ----------
    pretrainer : ContrastivePretrainer
        The pretrainer, whose `random_state` is an int or None.
    volumes : ndarray or StoredVolumes of shape (n, depth, height, width)
        Checked training volumes. Their values count, and not how they are stored.

    Returns
    -------
    str
        Hexadecimal digits, the same in every process.

    Raises
    ------
    PicklingError, AttributeError, TypeError
        If a parameter cannot be pickled.
    ValueError
        If there is no such device or precision.
    """
    parameters = pretrainer.get_params(deep=False)
    for name in _WITHOUT_EFFECT:
        del parameters[name]
    # "auto" means one thing on one machine and another on the next.
    device = resolve_device(parameters["device"])
    parameters["device"] = device.type
    parameters["precision"] = resolve_precision(parameters["precision"], device)
    key: str = joblib.hash((type(pretrainer), parameters, digest(volumes), __version__))
    return key


def _fit_cached(pretrainer: Any, volumes: Volumes, memory: Any, key: str) -> Any:
    """Fit by way of the cache, and without it where it cannot be used."""
    begun = False

    with ExitStack() as source_lock, ExitStack() as locks:

        def begin() -> None:
            nonlocal begun
            begun = True
            source_lock.close()

        try:
            if isinstance(memory, PathLike):
                memory = os.fspath(memory)
            memory = check_memory(memory)
            # A new function object each time, because joblib notes the source once for
            # an object and not for a cache, and takes a cache without a note for
            # outdated.
            function = FunctionType(_fit.__code__, _fit.__globals__, _fit.__name__)
            cached = memory.cache(function, ignore=["pretrainer", "volumes", "begin"])
            arguments = (key, pretrainer, volumes, begin)
            folder = _lock_folder(memory)
            if not _is_stored(cached, arguments, folder):
                locks.callback(_acquire(folder, key))
                if _is_stored(cached, arguments, folder):
                    # Those who only read do not wait for each other.
                    locks.close()
                else:
                    source_lock.callback(_acquire(folder, "source"))
            return cached(*arguments)
        except OSError as error:
            # What goes wrong in the fit itself is not the cache's fault.
            if begun:
                raise
            _warn(f"memory={memory!r} cannot be written or read ({error}).")
        return _fit_alone(key, pretrainer, volumes)


def _fit(key: str, pretrainer: Any, volumes: Volumes, begin: Callable[[], None]) -> Any:
    """Fit a pretrainer; what joblib caches, under the key alone."""
    begin()
    return _fit_alone(key, pretrainer, volumes)


def _fit_alone(key: str, pretrainer: Any, volumes: Volumes) -> Any:
    """Fit a pretrainer while no other process writes the same checkpoints."""
    folder = pretrainer.checkpoint_dir
    # Who has waited finds a finished run. A folder that cannot be used is the fit's
    # to report.
    release = _acquire(None if folder is None else folder.parent, key)
    try:
        return pretrainer.fit(volumes)
    finally:
        release()


def _is_stored(cached: Any, arguments: tuple[Any, ...], folder: Path | None) -> bool:
    """Tell whether a result is in the cache, if the cache can tell."""
    look = getattr(cached, "check_call_in_cache", None)
    if look is None:
        return False
    # joblib compares the function's source with what it noted in the cache, and where
    # they differ it empties the cache and writes the note, which before joblib 1.6
    # another process could meet half-written: one process at a time gets as far as the
    # fit, or as reading the result.
    release = _acquire(folder, "source")
    try:
        return bool(look(*arguments))
    finally:
        release()


def _lock_folder(memory: Any) -> Path | None:
    """Return where the locks of a cache are, or None if it is not in a folder."""
    location = getattr(memory, "location", None)
    if location is None or getattr(memory, "backend", None) != "local":
        return None
    return Path(location, "locks")


def _acquire(folder: Path | None, name: str) -> Callable[[], None]:
    """Wait for a lock, and return the function that releases it."""
    if folder is None:
        return lambda: None
    lock = FileLock(folder / f"{name}.lock")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(poll_interval=_POLL)
    except (OSError, NotImplementedError, ValueError):
        # A cache that can only be read is of use as well, and without locks the worst
        # is that two processes do the same.
        pass
    return lock.release


def _warn(reason: str) -> None:
    warnings.warn(f"the pretraining is not cached: {reason}", UserWarning, stacklevel=6)
