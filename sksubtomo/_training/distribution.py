"""Pretraining by several processes, one a GPU or a group of cores.

Every process encodes a part of each batch. The features, a few hundred numbers a
volume, are gathered, and head, loss, queue and cluster assignments are computed for the
whole batch in every process. So the loss is that of one process with the same batch,
whatever the method. Layers inside an encoder that look at the whole batch do so here,
too: batch normalisation takes the statistics of all processes, and dropout draws the
masks of all rows in every process. The global generators of all processes then go on
alike, and the first one's, which a checkpoint has, is that of each.
"""

from __future__ import annotations

import atexit
import inspect
import multiprocessing
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.parallel import DistributedDataParallel

from sksubtomo._training.batches import part_bounds
from sksubtomo.contrastive import ContrastiveModule

_Value = TypeVar("_Value")


class Processes(NamedTuple):
    """The processes that train together.

    Parameters
    ----------
    rank : int
        Number of this one, from 0.
    size : int
        How many there are.
    """

    rank: int
    size: int


def join_processes(device: torch.device) -> Processes:
    """Find the processes that train together with this one.

    They are those of ``torchrun``, or of a process group that the caller has
    initialised. All of them have to call this. Workers that a process starts, such as
    those of joblib, are on their own.

    Parameters
    ----------
    device : torch.device
        Where this process trains.

    Returns
    -------
    Processes
        Rank and number; a process that was started alone is 0 of 1.

    Raises
    ------
    ValueError
        If there are several, on a device whose processes cannot communicate.
    """
    if not dist.is_available():
        return Processes(0, 1)
    if not dist.is_initialized():
        # The environment of torchrun is inherited by what its processes start.
        alone = multiprocessing.current_process().name != "MainProcess"
        if alone or not dist.is_torchelastic_launched() or _environ("WORLD_SIZE") == 1:
            return Processes(0, 1)
        with_gpus = torch.cuda.is_available() and dist.is_nccl_available()
        dist.init_process_group("cpu:gloo,cuda:nccl" if with_gpus else "gloo")
        atexit.register(_leave)
    processes = Processes(dist.get_rank(), dist.get_world_size())
    if processes.size > 1 and device.type not in ("cpu", "cuda"):
        raise ValueError(
            f"device={str(device)!r} with {processes.size} processes; expected 'cpu' "
            f"or 'cuda', whose processes can train together."
        )
    return processes


def is_main() -> bool:
    """Tell whether this is the process that writes, without joining the others.

    Returns
    -------
    bool
        Whether it is the first one, or alone.
    """
    if not dist.is_available():
        return True
    if dist.is_initialized():
        return dist.get_rank() == 0
    return not dist.is_torchelastic_launched() or _environ("RANK") == 0


def agree(value: _Value) -> _Value:
    """Return the first process's value in all of them.

    Parameters
    ----------
    value : object
        Anything that can be pickled.

    Returns
    -------
    object
        What the first process gave.
    """
    if not dist.is_available() or not dist.is_initialized():
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]


def check_same(found: dict[str, Any]) -> None:
    """Refuse processes that were told different things.

    Parameters
    ----------
    found : dict
        Plain values by name; dicts of them are compared value by value.

    Raises
    ------
    ValueError
        In every process, if one has another value than the first.
    """
    if not dist.is_available() or not dist.is_initialized():
        return
    found = _flatten(found)
    everywhere: list[dict[str, Any]] = [{} for _ in range(dist.get_world_size())]
    dist.all_gather_object(everywhere, found)
    first = everywhere[0]
    for rank, other in enumerate(everywhere):
        names = sorted(
            name
            for name in first.keys() | other.keys()
            if first.get(name) != other.get(name)
        )
        if names:
            differences = ", ".join(
                f"{name} is {other.get(name)} and not {first.get(name)}"
                for name in names
            )
            raise ValueError(
                f"processes 0 and {rank} were given different data or parameters: in "
                f"process {rank}, {differences}; expected the same in all of them."
            )


@contextmanager
def parallelize(
    module: ContrastiveModule, device: torch.device, processes: Processes
) -> Iterator[Callable[[Tensor, Tensor, int], Tensor]]:
    """Let processes train a module together.

    Weights and buffers are the first process's to begin with. Batch normalisations
    inside the encoders see the whole batch, and dropout layers draw the masks that one
    process would, if torch's global generators are equal in all processes. On leaving,
    the module is an ordinary one.

    Parameters
    ----------
    module : ContrastiveModule
        On `device`, of the same architecture in all processes.
    device : torch.device
        Where this process trains.
    processes : Processes
        Those that train together.

    Yields
    ------
    callable
        Maps this process's rows of two views and the number of rows in the whole batch
        to the loss of the whole batch. After ``backward`` the gradients are those of
        the whole batch, in every process.

    Raises
    ------
    TypeError
        When called, if the module does not encode by `ContrastiveModule.encode`.
    """
    if processes.size == 1:
        yield lambda view_1, view_2, n: module(view_1, view_2)
        return
    gather = _Gather(processes)
    norms = [layer for part in module.encoders() for layer in _batch_norms(part)]
    dropouts = [layer for part in module.encoders() for layer in _dropouts(part)]
    wrapped: DistributedDataParallel | None = None
    trained: list[bool] = []

    def loss(view_1: Tensor, view_2: Tensor, n: int) -> Tensor:
        nonlocal wrapped, trained
        requires_grad = [parameter.requires_grad for parameter in module.parameters()]
        if requires_grad != trained:
            # A wrapper waits for the gradients of what is trained when it is made.
            wrapped, trained = _wrap(module, device), requires_grad
        assert wrapped is not None
        gather.sizes, gather.called = part_sizes(n, processes.size), False
        value: Tensor = wrapped(view_1, view_2)
        if not gather.called:
            raise TypeError(
                f"{type(module).__name__} calls its encoder itself, so that "
                f"{processes.size} processes would each contrast their own part of the "
                f"batch; expected self.encode(self.encoder, volumes)."
            )
        return value

    gather_alone = module.gather
    try:
        module.gather = gather
        for layer in norms:
            layer.forward = partial(  # type: ignore[method-assign]
                _normalize_together, layer
            )
        for dropout in dropouts:
            dropout.forward = partial(_drop_together, dropout, gather)
        with warnings.catch_warnings():
            # The strides of sides of length one are arbitrary, and those of a gradient
            # depend on the size of the batch.
            warnings.filterwarnings("ignore", "Grad strides do not match bucket view")
            yield loss
    finally:
        module.gather = gather_alone
        for changed in (*norms, *dropouts):
            del changed.forward


def _wrap(module: nn.Module, device: torch.device) -> DistributedDataParallel:
    """Let processes start from the first one's state and average their gradients."""
    for buffer in module.buffers():
        dist.broadcast(buffer, src=0)
    # Every process computes the buffers for itself. The option has two names, of which
    # torch 2.6 does not know the second and torch 2.13 deprecates the first.
    names = ("forward_sync_buffers", "broadcast_buffers")
    known = inspect.signature(DistributedDataParallel).parameters
    option: dict[str, Any] = {next(name for name in names if name in known): False}
    return DistributedDataParallel(
        module,
        device_ids=None if device.type == "cpu" else [device],
        **option,
    )


def part_sizes(n: int, size: int) -> list[int]:
    """Return how many rows of a batch each process takes.

    Parameters
    ----------
    n : int
        Rows in the batch.
    size : int
        Number of processes.

    Returns
    -------
    list of int
        Nearly equal numbers, as `BatchLoader` deals them out; they sum to `n`.
    """
    bounds = (part_bounds(n, rank, size) for rank in range(size))
    return [stop - start for start, stop in bounds]


class _Gather:
    """Gathers the rows of all processes; `sizes` says how many each one has."""

    def __init__(self, processes: Processes) -> None:
        self.rank = processes.rank
        self.sizes: list[int] = []
        self.called = False

    def __call__(self, rows: Tensor) -> Tensor:
        self.called = True
        return gather_rows(rows, self.sizes, self.rank)


def gather_rows(rows: Tensor, sizes: list[int], rank: int) -> Tensor:
    """Return the rows of all processes, in the order of the processes.

    The gradient is right where every process computes the same loss from the rows, and
    the gradients of what the rows were computed with are averaged over the processes,
    as `DistributedDataParallel` does.

    Parameters
    ----------
    rows : Tensor of shape (sizes[rank], n_features)
        This process's rows.
    sizes : list of int
        How many rows each process has.
    rank : int
        Number of this process.

    Returns
    -------
    Tensor of shape (sum(sizes), n_features)
        All rows.
    """
    gathered: Tensor = _GatherRows.apply(rows, sizes, rank)
    return gathered


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, sizes: list[int], rank: int) -> Tensor:
        ctx.sizes, ctx.rank = sizes, rank
        # Collectives exchange tensors of one size.
        padded = rows.new_zeros(max(sizes), *rows.shape[1:])
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(parts, padded)
        return torch.cat([part[:n] for part, n in zip(parts, sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        # The same gradient in every process. The average over the processes divides by
        # their number, though each adds the part that goes through its own rows only.
        own = gradients[0].split(ctx.sizes)[ctx.rank]
        return len(ctx.sizes) * own, None, None


def _normalize_together(layer: _BatchNorm, inputs: Tensor) -> Tensor:
    """Do what a batch normalisation does, with the statistics of all processes."""
    if not layer.training and layer.running_mean is not None:
        return type(layer).forward(layer, inputs)
    layer._check_input_dim(inputs)
    dims = [dim for dim in range(inputs.ndim) if dim != 1]
    shape = [1, -1] + [1] * (inputs.ndim - 2)
    values = inputs.float() if inputs.dtype != torch.float64 else inputs

    count = values.new_full((1,), inputs.numel() // inputs.shape[1])
    sums = _sum_over_processes(torch.cat([values.sum(dims), count]))
    count = sums[-1].detach()
    mean = sums[:-1] / count
    centred = values - mean.reshape(shape)
    variance = _sum_over_processes(centred.square().sum(dims)) / count

    if layer.training and layer.running_mean is not None:
        assert layer.running_var is not None
        # A single value a channel has no spread: running statistics stand in for its
        # own and stay as they are. To branch here would be to wait for the device.
        alone = count == 1
        unbiased = variance.detach() * count / (count - 1).clamp(min=1)
        unbiased = torch.where(alone, layer.running_var, unbiased)
        variance = torch.where(alone, layer.running_var, variance)
        mean = torch.where(alone, layer.running_mean, mean)
        centred = values - mean.reshape(shape)
        _update_running(layer, mean.detach(), unbiased, alone)
    outputs = centred * (variance + layer.eps).rsqrt().reshape(shape)
    if layer.affine:
        outputs = outputs * layer.weight.reshape(shape) + layer.bias.reshape(shape)
    return outputs.to(inputs.dtype)


def _update_running(
    layer: _BatchNorm, mean: Tensor, variance: Tensor, unchanged: Tensor
) -> None:
    assert layer.running_mean is not None
    assert layer.running_var is not None
    assert layer.num_batches_tracked is not None
    layer.num_batches_tracked.add_(~unchanged.squeeze())
    weight = layer.momentum
    if weight is None:
        weight = 1 / float(layer.num_batches_tracked)
    layer.running_mean.lerp_(mean.to(layer.running_mean), weight)
    layer.running_var.lerp_(variance.to(layer.running_var), weight)


def _sum_over_processes(values: Tensor) -> Tensor:
    total: Tensor = _SumOverProcesses.apply(values)
    return total


class _SumOverProcesses(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return _sum_over_processes(gradients[0])


def _drop_together(layer: _DropoutNd, gather: _Gather, inputs: Tensor) -> Tensor:
    """Do what a dropout layer does in one process, to this process's rows."""
    sizes, rank = gather.sizes, gather.rank
    # Rows need not be volumes, as in an encoder that cuts them up.
    if not layer.training or len(inputs) != sizes[rank]:
        dropped: Tensor = type(layer).forward(layer, inputs)
        return dropped
    # Which mask is whose depends on the order in memory.
    channels_last = inputs.ndim == 5 and inputs.is_contiguous(
        memory_format=torch.channels_last_3d
    )
    whole = torch.empty(
        (sum(sizes), *inputs.shape[1:]),
        dtype=inputs.dtype,
        device=inputs.device,
        memory_format=(
            torch.channels_last_3d if channels_last else torch.contiguous_format
        ),
    ).fill_(1)
    masks: Tensor = type(layer).forward(layer, whole)
    # The backward pass would keep those of all rows.
    return inputs * masks.split(sizes)[rank].clone()


def _batch_norms(encoder: nn.Module) -> Iterator[_BatchNorm]:
    """Find the layers that do what `_normalize_together` does."""
    for layer in encoder.modules():
        if isinstance(layer, _BatchNorm) and (
            type(layer).forward is _BatchNorm.forward
            or getattr(layer, "normalizes_as_torch", False)
        ):
            yield layer


def _dropouts(encoder: nn.Module) -> Iterator[_DropoutNd]:
    """Find the layers that multiply by a mask that they draw."""
    for layer in encoder.modules():
        if type(layer) in (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d):
            assert isinstance(layer, _DropoutNd)
            yield layer


def _flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def _environ(name: str) -> int:
    return int(os.environ[name])


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()
