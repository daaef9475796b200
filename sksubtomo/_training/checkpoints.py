"""The state of a training on disk: written whole, verified when read, never code."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import filelock
import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as tensors_of_bytes
from safetensors.torch import save as bytes_of_tensors
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler

from sksubtomo._files import check_writable, write_atomically
from sksubtomo._version import __version__

_FORMAT = "sksubtomo checkpoint"
_FORMAT_VERSION = 1
_KEPT = 2
_NAME = re.compile(r"epoch-(\d{6,})\.safetensors")
_LEFTOVER = re.compile(rf"\.{_NAME.pattern}\.\d+")

# The checksum is of the whole file as it is with zeros in the checksum's place. A JSON
# string has its quotes escaped, so no other metadata can look like this.
_SEAL = re.compile(rb'"sha256":"([0-9a-f]{64})"')
_BLANK = "0" * 64

# How an optimiser computes, which may change from one run to the next.
_IMPLEMENTATION = ("capturable", "differentiable", "foreach", "fused")

# What reading a file of something else may end in.
_TRIPPED_OVER = (
    AttributeError,
    LookupError,
    RecursionError,
    SafetensorError,
    TypeError,
    UnicodeDecodeError,
    json.JSONDecodeError,
)


@dataclass
class TrainingState:
    """Everything that a training needs to go on.

    Parameters
    ----------
    tensors : dict of str to Tensor
        Weights, moments, states of generators; on the CPU.
    values : dict of str to object
        The rest, of what JSON knows.
    """

    tensors: dict[str, Tensor] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)


class Checkpoints:
    """The checkpoints of one run, in a folder that no other process writes into.

    Used as a context manager. A checkpoint is one safetensors file; the newest two
    are kept.

    Parameters
    ----------
    folder : Path
        Made if it does not exist.
    identity : dict
        Everything that determines the run, of what JSON knows; may be nested.
    writes : bool, default=True
        False only reads: the folder is not made and not locked, and `save` does
        nothing. For all but one of several processes that train together.
    """

    def __init__(
        self, folder: Path, identity: dict[str, Any], *, writes: bool = True
    ) -> None:
        self.folder = folder
        self.identity: dict[str, Any] = json.loads(_to_json(identity))
        self.writes = writes

    def __enter__(self) -> Self:
        """Make and lock the folder, and find out whether it can be written into.

        Returns
        -------
        Checkpoints
            This object.

        Raises
        ------
        BlockingIOError
            If another process trains with the folder.
        OSError
            If it cannot be made, locked or written into.
        ValueError
            If no folder can have that name.
        """
        if not self.writes:
            return self
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = filelock.FileLock(self.folder / ".lock")
            self._lock.acquire(timeout=0)
        except filelock.Timeout as error:
            raise BlockingIOError(
                f"{self.folder}: another process is training with these checkpoints; "
                f"wait until it ends, or choose another checkpoint_dir."
            ) from error
        except OSError as error:
            raise type(error)(
                f"{self.folder}: cannot hold checkpoints: {error.strerror or error}; "
                f"expected a folder that can be written into."
            ) from error
        except (NotImplementedError, ValueError) as error:
            raise ValueError(
                f"{str(self.folder)!r}: cannot hold checkpoints: {error}."
            ) from error
        try:
            for path in self.folder.iterdir():
                if _LEFTOVER.fullmatch(path.name):
                    path.unlink(missing_ok=True)
            check_writable(self._path(0))
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Let other processes have the folder."""
        if self.writes:
            self._lock.release()

    def load(self) -> TrainingState | None:
        """Read the newest checkpoint.

        Nothing in it is unpickled, and no file is changed or removed.

        Returns
        -------
        TrainingState or None
            None if there is no checkpoint.

        Raises
        ------
        ValueError
            If it cannot be read, is damaged, or is of another run. The message says
            how to go on.
        """
        paths = self._paths()
        if not paths:
            return None
        newest = paths.pop()
        try:
            identity, state = _read(newest)
        except ValueError as error:
            raise ValueError(f"{error} {_way_out(newest, paths)}") from error
        differences = _differences(identity, self.identity)
        if differences:
            raise ValueError(
                f"{newest}: belongs to another run: {'; '.join(differences)}. Fit "
                f"with what was found to continue that run, or choose another "
                f"checkpoint_dir."
            )
        return state

    def save(self, state: TrainingState, epoch: int) -> None:
        """Write a checkpoint, then remove all but the newest two.

        When it returns, the checkpoint survives a crash of the machine; a crash
        meanwhile leaves those before it.

        Parameters
        ----------
        state : TrainingState
            What to save.
        epoch : int
            How many epochs it has behind it.

        Raises
        ------
        OSError
            If it cannot be written, for example because the disk is full.
        TypeError
            If a value is not of what JSON knows.
        """
        if not self.writes:
            return
        head, body = _sealed(
            state.tensors,
            {
                "format": _FORMAT,
                "format_version": str(_FORMAT_VERSION),
                "sksubtomo": __version__,
                "torch": torch.__version__,
                "epoch": str(epoch),
                "identity": _to_json(self.identity),
                "values": _to_json(state.values),
            },
        )

        def write(beside: Path) -> None:
            with beside.open("wb") as file:
                file.write(head)
                file.write(body)
                file.flush()
                os.fsync(file.fileno())

        try:
            write_atomically(self._path(epoch), write)
        except OSError as error:
            paths = self._paths()
            good = f"{paths[-1].name} is" if paths else "there is no checkpoint"
            raise type(error)(
                f"{error} Training stopped after epoch {epoch}; {good} left to "
                f"continue from."
            ) from error
        _sync_folder(self.folder)
        for path in self._paths()[:-_KEPT]:
            path.unlink(missing_ok=True)

    def _path(self, epoch: int) -> Path:
        return self.folder / f"epoch-{epoch:06d}.safetensors"

    def _paths(self) -> list[Path]:
        """Return the checkpoints, oldest first."""
        found = []
        with suppress(FileNotFoundError):
            for path in self.folder.iterdir():
                if match := _NAME.fullmatch(path.name):
                    found.append((int(match[1]), path))
        return [path for _, path in sorted(found)]


def capture(net: Any) -> TrainingState:
    """Copy everything that the rest of a training depends on.

    Parameters
    ----------
    net : ContrastiveNet
        Between two epochs.

    Returns
    -------
    TrainingState
        Module, optimiser, history without single batches, what callbacks have
        counted, and the generators: of the order, of the views, and torch's global
        ones of the CPU and the net's device.
    """
    state = optimizer_state(net.optimizer_)
    for name, value in net.module_.state_dict().items():
        state.tensors[f"module.{name}"] = _copy(value)
    state.values["trained"] = [
        name for name, value in net.module_.named_parameters() if value.requires_grad
    ]
    state.tensors["generators.cpu"] = torch.get_rng_state()
    device = torch.device(net.device)
    if device.type == "cuda":
        state.tensors["generators.cuda"] = torch.cuda.get_rng_state(device)
    if net.view is not None:
        state.tensors["generators.view"] = _copy(net.view.get_state())
    state.values["order"] = net.order.bit_generator.state
    state.values["history"] = [
        {name: value for name, value in epoch.items() if name != "batches"}
        for epoch in net.history
    ]
    state.values["callbacks"] = {}
    for name, part in _counting(net):
        state.values["callbacks"][name] = {
            attribute: value
            for attribute, value in _fitted(part).items()
            if _is_plain(value)
        }
        for attribute, value in _fitted(part).items():
            if isinstance(value, dict):
                for key, tensor in value.items():
                    if isinstance(tensor, Tensor):
                        state.tensors[f"{name}.{attribute}.{key}"] = _copy(tensor)
    return state


def restore(net: Any, state: TrainingState) -> None:
    """Undo `capture`, but for callbacks and generators.

    The epochs in the history are marked as resumed.

    Parameters
    ----------
    net : ContrastiveNet
        Initialised and not yet trained; changed in place.
    state : TrainingState
        What `capture` returned.

    Raises
    ------
    ValueError
        If the state is of another network.
    """
    prefix = "module."
    weights = {
        name.removeprefix(prefix): value
        for name, value in state.tensors.items()
        if name.startswith(prefix)
    }
    try:
        net.module_.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(
            f"the checkpoint in checkpoint_dir does not fit the network, though the "
            f"parameters are the same: {error}"
        ) from error
    # Callbacks may have frozen some.
    for name, value in net.module_.named_parameters():
        value.requires_grad_(name in state.values["trained"])
    load_optimizer_state(net.optimizer_, state)
    net.history.clear()
    for epoch in state.values["history"]:
        net.history.append({**epoch, "batches": [], "resumed": True})


def restore_generators(net: Any, state: TrainingState) -> None:
    """Let all that is random go on from where it was.

    Parameters
    ----------
    net : ContrastiveNet
        Its callbacks, which may draw, have been told that training begins; its
        generators and torch's global ones are changed in place.
    state : TrainingState
        What `capture` returned.
    """
    net.order.bit_generator.state = state.values["order"]
    if net.view is not None:
        net.view.set_state(state.tensors["generators.view"])
    torch.set_rng_state(state.tensors["generators.cpu"])
    device = torch.device(net.device)
    # A run may go on on another device.
    if device.type == "cuda" and "generators.cuda" in state.tensors:
        torch.cuda.set_rng_state(state.tensors["generators.cuda"], device)


def restore_callbacks(net: Any, state: TrainingState) -> None:
    """Let callbacks go on counting from where they were.

    Parameters
    ----------
    net : ContrastiveNet
        Its callbacks have been told that training begins, which resets them; those
        that were there when the state was captured are changed in place.
    state : TrainingState
        What `capture` returned.
    """
    for name, part in _counting(net):
        vars(part).update(state.values["callbacks"].get(name, {}))
        weights: dict[str, dict[str, Tensor]] = {}
        for key, tensor in state.tensors.items():
            if key.startswith(f"{name}."):
                attribute, entry = key.removeprefix(f"{name}.").split(".", 1)
                weights.setdefault(attribute, {})[entry] = tensor.clone()
        vars(part).update(weights)


def optimizer_state(optimizer: torch.optim.Optimizer) -> TrainingState:
    """Copy the state of an optimiser.

    Parameters
    ----------
    optimizer : torch Adam, AdamW or SGD
        The optimiser.

    Returns
    -------
    TrainingState
        Moments and steps of the parameters, and the groups' learning rates and other
        settings.
    """
    described = optimizer.state_dict()
    return TrainingState(
        {
            f"optimizer.{index}.{name}": _copy(value)
            for index, moments in described["state"].items()
            for name, value in moments.items()
        },
        {
            "optimizer": [
                {
                    name: value.item() if isinstance(value, Tensor) else value
                    for name, value in group.items()
                    if name not in ("params", *_IMPLEMENTATION)
                }
                for group in described["param_groups"]
            ]
        },
    )


def load_optimizer_state(
    optimizer: torch.optim.Optimizer, state: TrainingState
) -> None:
    """Undo `optimizer_state`.

    Moments get the layout of their parameters, whatever they were saved in. A
    learning rate that is a tensor stays the same tensor.

    Parameters
    ----------
    optimizer : torch Adam, AdamW or SGD
        Of the same parameters in the same order; changed in place.
    state : TrainingState
        What `optimizer_state` returned, or `capture`; its tensors are copied.

    Raises
    ------
    ValueError
        If the groups of the parameters are others.
    """
    moments: dict[int, dict[str, Tensor]] = {}
    for key, value in state.tensors.items():
        if key.startswith("optimizer."):
            _, index, name = key.split(".", 2)
            moments.setdefault(int(index), {})[name] = value
    groups = []
    current_groups = optimizer.state_dict()["param_groups"]
    for current, saved in zip(current_groups, state.values["optimizer"], strict=True):
        settings = {
            # JSON has no word for tuples.
            name: tuple(value) if isinstance(current.get(name), tuple) else value
            for name, value in saved.items()
        }
        groups.append({**current, **settings})
    optimizer.load_state_dict({"state": moments, "param_groups": groups})
    for group, current in zip(optimizer.param_groups, current_groups, strict=True):
        for name, value in current.items():
            if isinstance(value, Tensor):
                group[name] = value.fill_(group[name])
    for parameter, loaded in optimizer.state.items():
        for name, value in loaded.items():
            if name != "step" and value.shape == parameter.shape:
                loaded[name] = torch.empty_like(parameter).copy_(value)
            else:
                loaded[name] = value.clone()


def _counting(net: Any) -> Iterator[tuple[str, Any]]:
    """Yield the callbacks and their schedulers of learning rates, by unique names."""
    for name, callback in net.callbacks_:
        yield f"callback {name}", callback
        for attribute, value in vars(callback).items():
            yield from _schedulers(f"scheduler {name} {attribute}", value)


def _schedulers(name: str, value: Any) -> Iterator[tuple[str, LRScheduler]]:
    """Yield a scheduler of learning rates and those that it or a list consists of."""
    if isinstance(value, LRScheduler):
        yield name, value
        value = getattr(value, "_schedulers", None)
    if isinstance(value, list | tuple):
        for index, part in enumerate(value):
            yield from _schedulers(f"{name} {index}", part)


def _fitted(part: Any) -> dict[str, Any]:
    """Return the attributes of a callback or scheduler that are no parameters."""
    return {
        name: value
        for name, value in vars(part).items()
        if isinstance(part, LRScheduler) or name.endswith("_")
    }


def _is_plain(value: Any) -> bool:
    if isinstance(value, list):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str | np.generic)


def _copy(tensor: Tensor) -> Tensor:
    """Copy to the CPU, in the order that safetensors knows, sharing no memory."""
    return tensor.detach().to("cpu", copy=True).contiguous()


def _to_json(values: Any) -> str:
    return json.dumps(values, default=_plain, sort_keys=True)


def _plain(value: Any) -> Any:
    """Turn what callbacks record of NumPy's and torch's into what JSON knows."""
    if isinstance(value, np.generic | np.ndarray | Tensor):
        return value.tolist()
    raise TypeError(
        f"a checkpoint cannot hold {value!r} of type {type(value).__name__}; expected "
        f"callbacks to record numbers and text."
    )


def _sealed(
    tensors: dict[str, Tensor], metadata: dict[str, str]
) -> tuple[bytes, memoryview]:
    """Return the two parts of a safetensors file whose metadata has its checksum."""
    content = bytes_of_tensors(tensors, {**metadata, "sha256": _BLANK})
    head, body = _parts(content)
    seal = _digest(head, body)
    return head.replace(
        f'"sha256":"{_BLANK}"'.encode(), f'"sha256":"{seal}"'.encode()
    ), body


def _parts(content: bytes) -> tuple[bytes, memoryview]:
    """Divide a safetensors file after its header."""
    end = 8 + int.from_bytes(content[:8], "little")
    return content[:end], memoryview(content)[end:]


def _digest(head: bytes, body: memoryview) -> str:
    digest = hashlib.sha256(head)
    digest.update(body)
    return digest.hexdigest()


def _read(path: Path) -> tuple[dict[str, Any], TrainingState]:
    """Read and verify a checkpoint; every error is a ValueError that names it."""
    try:
        content = path.read_bytes()
        head, body = _parts(content)
        metadata = json.loads(head[8:])["__metadata__"]
        if metadata["format"] != _FORMAT:
            raise ValueError("it is no checkpoint of sksubtomo.")
        if metadata["format_version"] != str(_FORMAT_VERSION):
            raise ValueError(
                f"it has format {metadata['format_version']}, written by sksubtomo "
                f"{metadata['sksubtomo']}; sksubtomo {__version__} reads format "
                f"{_FORMAT_VERSION}."
            )
        blank = _SEAL.sub(f'"sha256":"{_BLANK}"'.encode(), head, count=1)
        if _digest(blank, body) != metadata["sha256"]:
            raise ValueError("it is truncated, or was changed after it was written.")
        return json.loads(metadata["identity"]), TrainingState(
            tensors_of_bytes(content), json.loads(metadata["values"])
        )
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}.") from error
    except _TRIPPED_OVER as error:
        raise ValueError(
            f"{path}: cannot be continued from: it is truncated, damaged or no "
            f"checkpoint of sksubtomo."
        ) from error
    except ValueError as error:
        raise ValueError(f"{path}: cannot be continued from: {error}") from error


def _way_out(bad: Path, older: list[Path]) -> str:
    """Say what to do about a newest checkpoint that cannot be read."""
    for path in reversed(older):
        with suppress(ValueError):
            _read(path)
            return f"Remove it to continue from {path.name}, which is whole."
    others = f"{', '.join(path.name for path in older)} is no better. " if older else ""
    return f"{others}Choose another checkpoint_dir, or remove it to begin anew."


def _differences(found: dict[str, Any], expected: dict[str, Any]) -> list[str]:
    """Describe where two nested identities differ, leaf by leaf."""
    leaves, wanted = _leaves(found), _leaves(expected)
    return [
        f"{name}: found {leaves.get(name, 'nothing')}, "
        f"expected {wanted.get(name, 'nothing')}"
        for name in sorted(leaves.keys() | wanted.keys())
        if leaves.get(name) != wanted.get(name)
    ]


def _leaves(nested: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    leaves: dict[str, Any] = {}
    for name, value in nested.items():
        if isinstance(value, dict):
            leaves.update(_leaves(value, f"{prefix}{name}."))
        else:
            leaves[f"{prefix}{name}"] = value
    return leaves


def _sync_folder(folder: Path) -> None:
    """Make a rename survive a crash of the machine, where folders can be synced."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        # Some network file systems refuse it.
        with suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
