"""What the contrastive methods share: the module's contract, the head, the queue."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ContrastiveModule(nn.Module):
    """A network with everything its contrastive loss needs.

    The training loop moves the module to its device, calls `start_epoch` before
    every epoch and minimises what ``module(view_1, view_2)`` returns over
    ``module.parameters()``. Everything needed to resume is in the state dict.
    After training only `encoder` is kept.

    Several processes may share a batch: each then gets some rows of the views, and
    `encode` returns the features of all rows. So a method encodes by `encode` and takes
    the number of volumes from the features.

    Parameters
    ----------
    encoder : torch.nn.Module
        Maps (n, 1, depth, height, width) to (n, encoder.n_features).

    Attributes
    ----------
    encoder : torch.nn.Module
        The trained network, without projection head.
    gather : callable
        Maps the features of this process's rows to those of the whole batch; the
        identity, unless the training loop sets another.
    """

    gather: Callable[[Tensor], Tensor]

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.gather = _identity

    def encoders(self) -> list[nn.Module]:
        """Return the networks that see volumes.

        Returns
        -------
        list of torch.nn.Module
            The encoder, and others that the method has beside it.
        """
        return [self.encoder]

    def encode(self, encoder: nn.Module, volumes: Tensor) -> Tensor:
        """Return the features of the whole batch.

        Parameters
        ----------
        encoder : torch.nn.Module
            One of `encoders`.
        volumes : Tensor of shape (n_own, 1, depth, height, width)
            The rows of the batch that this process has: all, if it is alone.

        Returns
        -------
        Tensor of shape (n, n_features)
            Features of all rows, with gradient.
        """
        features: Tensor = encoder(volumes)
        return self.gather(features)

    def start_epoch(self, epoch: int) -> None:
        """Prepare for an epoch; does nothing unless the method has a schedule.

        Parameters that are not trained in this epoch must not require a gradient.

        Parameters
        ----------
        epoch : int
            Number of the epoch, from 0; also after resuming.
        """

    def forward(self, view_1: Tensor, view_2: Tensor) -> Tensor:
        """Return the loss of two views of the same volumes.

        Parameters
        ----------
        view_1, view_2 : Tensor of shape (n, 1, depth, height, width)
            Row i of both are views of the same volume.

        Returns
        -------
        Tensor of shape ()
            Mean loss.
        """
        raise NotImplementedError

    def diagnose(self, mean_loss: float) -> str | None:
        """Say what the final loss gives away about a failed training.

        Parameters
        ----------
        mean_loss : float
            Mean training loss of the last epoch.

        Returns
        -------
        str or None
            What went wrong and what to change; None if nothing is suspicious.
        """
        return None


def _identity(features: Tensor) -> Tensor:
    return features


class Queue(nn.Module):
    """First-in-first-out memory of unit vectors, of any length.

    Starts with normalised Gaussian vectors drawn from torch's global generator.
    Rows and position are buffers, so that they move and are saved with the module.

    Parameters
    ----------
    size : int
        Number of rows, at least 1.
    dim : int
        Length of a row.

    Attributes
    ----------
    rows : Tensor of shape (size, dim)
        What is remembered.
    position : Tensor of shape ()
        The oldest row, which is overwritten next.
    """

    rows: Tensor
    position: Tensor

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("rows", F.normalize(torch.randn(size, dim), dim=1))
        self.register_buffer("position", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def enqueue(self, rows: Tensor) -> None:
        """Overwrite the oldest rows, wrapping around at the end.

        Parameters
        ----------
        rows : Tensor of shape (n, dim)
            Oldest first. If there are more than fit, the last ones are kept.
        """
        size, n = len(self.rows), len(rows)
        kept = min(n, size)
        # The position stays a tensor: reading it would stall an accelerator.
        offsets = torch.arange(n - kept, n, device=self.rows.device)
        where = (self.position + offsets) % size
        self.rows.index_copy_(0, where, rows[n - kept :].to(self.rows.dtype))
        self.position.add_(n).remainder_(size)


class BatchStandardization(nn.BatchNorm1d):
    """Batch normalisation without learned parameters, also of a batch of one.

    Parameters
    ----------
    n_features : int
        Width of the input.
    """

    def __init__(self, n_features: int) -> None:
        super().__init__(n_features, affine=False)

    def forward(self, features: Tensor) -> Tensor:
        """Standardise each feature over the batch, or by running statistics.

        Running statistics serve in evaluation mode, and for a single row, which has
        no spread. They change only where something is learned.

        Parameters
        ----------
        features : Tensor of shape (n, n_features)
            Features of a batch.

        Returns
        -------
        Tensor of shape (n, n_features)
            Standardised features.
        """
        if not self.training or len(features) == 1:
            return F.batch_norm(features, self.running_mean, self.running_var)
        if not torch.is_grad_enabled():
            return F.batch_norm(features, None, None, training=True)
        return super().forward(features)


def projection_head(encoder: nn.Module, hidden_dim: int, out_dim: int) -> nn.Sequential:
    """Build the perceptron between the encoder's features and the loss.

    Its input is standardised over the batch. Features of an encoder without
    normalisation share a large mean, so that all projections are nearly parallel at
    first, and methods that contrast them with a slow queue or with prototypes take
    long to leave chance.

    Parameters
    ----------
    encoder : torch.nn.Module
        Its ``n_features`` is the width of the input.
    hidden_dim, out_dim : int
        Widths of the hidden layer and of the output.

    Returns
    -------
    torch.nn.Sequential
        Maps (n, encoder.n_features) to (n, out_dim).
    """
    n_features = cast(int, encoder.n_features)
    return nn.Sequential(
        BatchStandardization(n_features),
        nn.Linear(n_features, hidden_dim),
        nn.ReLU(),
        nn.Linear(hidden_dim, out_dim),
    )


def standardized_perceptron(
    in_dim: int, hidden_dim: int, out_dim: int
) -> nn.Sequential:
    """Build a perceptron whose hidden layer is standardised over the batch.

    Methods without negatives need it: a hidden unit that is on for one half of the
    batch and off for the other keeps equal outputs for all rows from being a stable
    solution.

    Parameters
    ----------
    in_dim, hidden_dim, out_dim : int
        Widths of the input, of the hidden layer and of the output.

    Returns
    -------
    torch.nn.Sequential
        Maps (n, in_dim) to (n, out_dim).
    """
    return nn.Sequential(
        nn.Linear(in_dim, hidden_dim, bias=False),
        BatchStandardization(hidden_dim),
        nn.ReLU(),
        nn.Linear(hidden_dim, out_dim),
    )


def follow(target: nn.Module, source: nn.Module, momentum: float) -> None:
    """Move a network's parameters towards another's, without gradient.

    Buffers are left alone: running statistics of a normalisation are those of what
    the network itself has seen.

    Parameters
    ----------
    target : torch.nn.Module
        What moves: its parameters become ``momentum`` times themselves plus
        ``1 - momentum`` times those of `source`.
    source : torch.nn.Module
        A network of the same architecture.
    momentum : float
        In [0, 1]: 0 copies `source`, 1 does not move.
    """
    with torch.no_grad():
        moved: list[Tensor] = list(target.parameters())
        torch._foreach_mul_(moved, momentum)
        torch._foreach_add_(moved, list(source.parameters()), alpha=1 - momentum)
