"""MoCo: negatives from a queue, keys from a slowly moving copy of the encoder."""

from __future__ import annotations

from copy import deepcopy
from numbers import Integral, Real
from typing import Any, ClassVar

import torch
from sklearn.base import BaseEstimator
from sklearn.utils._param_validation import Interval
from torch import Tensor, nn
from torch.nn import functional as F

from sksubtomo.contrastive._base import (
    ContrastiveModule,
    Queue,
    follow,
    projection_head,
)


def info_nce_loss(
    query: Tensor, key: Tensor, queue: Tensor, temperature: float
) -> Tensor:
    r"""Return the contrastive loss of queries against keys and a queue.

    Equation 1 of Gupta et al. (2022), averaged over the queries:

    .. math::

        L = -\frac{1}{n} \sum_j \log \frac{\exp(q_j \cdot k_j / \tau)}
            {\exp(q_j \cdot k_j / \tau) + \sum_i \exp(q_j \cdot k_i / \tau)},

    where :math:`k_j` is the key of the same volume and :math:`k_i` runs over the
    queue.

    Parameters
    ----------
    query : Tensor of shape (n, dim)
        Unit vectors.
    key : Tensor of shape (n, dim)
        Unit vectors; row j is the positive of query j.
    queue : Tensor of shape (m, dim)
        Unit vectors, the negatives of every query.
    temperature : float
        :math:`\tau > 0`.

    Returns
    -------
    Tensor of shape ()
        Mean over the n queries.

    References
    ----------
    Gupta, T., He, X., Uddin, M. R., Zeng, X., Zhou, A., Zhang, J., Freyberg, Z.,
    Xu, M. (2022). Self-supervised learning for macromolecular structure
    classification based on cryo-electron tomograms. Front. Physiol. 13, 957484.

    Examples
    --------
    >>> import torch
    >>> q = torch.tensor([[1.0, 0.0]])
    >>> queue = torch.tensor([[0.0, 1.0]])
    >>> round(info_nce_loss(q, q, queue, temperature=1.0).item(), 4)  # ln(1 + 1 / e)
    0.3133
    """
    positive = (query * key).sum(dim=1, keepdim=True)
    logits = torch.cat([positive, query @ queue.T], dim=1) / temperature
    targets = torch.zeros(len(query), dtype=torch.long, device=query.device)
    return F.cross_entropy(logits, targets)


class MoCo(BaseEstimator):
    """MoCo: find a view's partner among the keys of the volumes seen before.

    Parameters
    ----------
    temperature : float, default=0.2
        Divides the cosine similarities.
    queue_size : int, default=128
        Number of remembered keys, the negatives of every query. With c balanced
        classes, ``queue_size / c`` of them are of the query's own class.
    momentum : float, default=0.999
        Of the key encoder, in [0, 1]: 0 copies the encoder at every step, 1 never
        moves. Runs of less than a few thousand steps are often better with 0.99,
        as the key encoder otherwise stays close to its random start.
    projection_dim : int, default=128
        Width of the projection that the loss sees.
    hidden_dim : int, default=256
        Width of the projection head's hidden layer.

    References
    ----------
    He, K., Fan, H., Wu, Y., Xie, S., Girshick, R. (2020). Momentum contrast for
    unsupervised visual representation learning. CVPR.

    Chen, X., Fan, H., Girshick, R., He, K. (2020). Improved baselines with momentum
    contrastive learning. arXiv:2003.04297. (The head and the temperature.)

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> from sksubtomo.contrastive import MoCo
    >>> encoder = nn.Sequential(nn.Flatten(), nn.Linear(64, 8))
    >>> encoder.n_features = 8
    >>> module = MoCo(queue_size=16).build(encoder)
    >>> module(torch.randn(5, 1, 4, 4, 4), torch.randn(5, 1, 4, 4, 4)).shape
    torch.Size([])
    >>> module.queue.position.item()
    5
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "temperature": [Interval(Real, 0, None, closed="neither")],
        "queue_size": [Interval(Integral, 1, None, closed="left")],
        "momentum": [Interval(Real, 0, 1, closed="both")],
        "projection_dim": [Interval(Integral, 1, None, closed="left")],
        "hidden_dim": [Interval(Integral, 1, None, closed="left")],
    }

    def __init__(
        self,
        temperature: float = 0.2,
        queue_size: int = 128,
        momentum: float = 0.999,
        projection_dim: int = 128,
        hidden_dim: int = 256,
    ) -> None:
        self.temperature = temperature
        self.queue_size = queue_size
        self.momentum = momentum
        self.projection_dim = projection_dim
        self.hidden_dim = hidden_dim

    def build(self, encoder: nn.Module) -> ContrastiveModule:
        """Build the module that training optimises.

        The queue is drawn from torch's global generator, which the caller seeds.

        Parameters
        ----------
        encoder : torch.nn.Module
            Maps (n, 1, depth, height, width) to (n, encoder.n_features). It is
            trained in place; the key encoder is a copy.

        Returns
        -------
        ContrastiveModule
            Encoder, head, their moving averages, queue and loss.

        Raises
        ------
        ValueError
            If a parameter is out of its range.
        """
        self._validate_params()
        head = projection_head(encoder, self.hidden_dim, self.projection_dim)
        queue = Queue(self.queue_size, self.projection_dim)
        return MoCoModule(encoder, head, queue, self.temperature, self.momentum)


class MoCoModule(ContrastiveModule):
    """Encoder, head, key encoder and queue of MoCo.

    Parameters
    ----------
    encoder : torch.nn.Module
        The network to train.
    head : torch.nn.Module
        Maps the encoder's features to projections.
    queue : Queue
        The keys of earlier batches.
    temperature : float
        Of `info_nce_loss`.
    momentum : float
        Of the key encoder.
    """

    def __init__(
        self,
        encoder: nn.Module,
        head: nn.Module,
        queue: Queue,
        temperature: float,
        momentum: float,
    ) -> None:
        super().__init__(encoder)
        self.head = head
        self.key_encoder = deepcopy(encoder).requires_grad_(False)
        self.key_head = deepcopy(head).requires_grad_(False)
        self.queue = queue
        self.temperature = temperature
        self.momentum = momentum

    def forward(self, view_1: Tensor, view_2: Tensor) -> Tensor:
        """Return `info_nce_loss` of the first view's queries.

        In training mode and with gradients enabled the key encoder moves before the
        keys are computed, and the keys enter the queue after the loss; otherwise
        nothing changes.

        Parameters
        ----------
        view_1, view_2 : Tensor of shape (n, 1, depth, height, width)
            Two views of the same volumes.

        Returns
        -------
        Tensor of shape ()
            The loss.
        """
        learns = self.training and torch.is_grad_enabled()
        query = F.normalize(self.head(self.encode(self.encoder, view_1)), dim=1)
        with torch.no_grad():
            if learns:
                # Equation 2 of Gupta et al. (2022).
                follow(self.key_encoder, self.encoder, self.momentum)
                follow(self.key_head, self.head, self.momentum)
            key = self.key_head(self.encode(self.key_encoder, view_2))
            key = F.normalize(key, dim=1)
        # A copy, because the loss' gradient needs the rows that enqueue overwrites.
        loss = info_nce_loss(query, key, self.queue.rows.clone(), self.temperature)
        if learns:
            self.queue.enqueue(key)
        return loss

    def encoders(self) -> list[nn.Module]:
        """Return the networks that see volumes.

        Returns
        -------
        list of torch.nn.Module
            The encoder and the key encoder.
        """
        return [self.encoder, self.key_encoder]
