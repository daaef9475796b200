"""SwAV: predict the cluster of one view from the other."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any, ClassVar

import torch
from sklearn.base import BaseEstimator
from sklearn.utils._param_validation import Interval
from torch import Tensor, nn
from torch.nn import functional as F

from sksubtomo.contrastive._base import ContrastiveModule, Queue, projection_head


def sinkhorn(scores: Tensor, epsilon: float, n_iterations: int) -> Tensor:
    r"""Return soft assignments that use all prototypes about equally.

    Sinkhorn-Knopp iterations on :math:`\exp(S / \epsilon)`: columns, then rows, are
    divided by their sums. They run on logarithms, because the exponential overflows
    for a small :math:`\epsilon`. No gradient flows through them.

    Parameters
    ----------
    scores : Tensor of shape (n, n_prototypes)
        Similarities of rows and prototypes.
    epsilon : float
        :math:`\epsilon > 0`, smoothness: a small one gives hard assignments.
    n_iterations : int
        At least 1.

    Returns
    -------
    Tensor of shape (n, n_prototypes)
        Rows sum to 1; columns to n / n_prototypes, the closer the more iterations.

    References
    ----------
    Cuturi, M. (2013). Sinkhorn distances: lightspeed computation of optimal
    transport. NeurIPS.

    Examples
    --------
    >>> import torch
    >>> scores = torch.tensor([[0.9, 0.5], [0.8, 0.1]])
    >>> sinkhorn(scores, epsilon=0.05, n_iterations=50).round(decimals=2)
    tensor([[0.0500, 0.9500],
            [0.9500, 0.0500]])
    """
    log_codes = scores.detach() / epsilon
    for _ in range(n_iterations):
        log_codes = log_codes.log_softmax(dim=0)
        log_codes = log_codes.log_softmax(dim=1)
    return log_codes.exp()


def swapped_prediction_loss(
    scores_1: Tensor,
    scores_2: Tensor,
    codes_1: Tensor,
    codes_2: Tensor,
    temperature: float,
) -> Tensor:
    r"""Return the cross entropy of each view's clusters against the other's codes.

    With :math:`p = \mathrm{softmax}(S / \tau)` over the prototypes,

    .. math::

        L = -\frac{1}{2n} \sum_{i=1}^{n} \sum_k
            q^{(2)}_{ik} \log p^{(1)}_{ik} + q^{(1)}_{ik} \log p^{(2)}_{ik}.

    Parameters
    ----------
    scores_1, scores_2 : Tensor of shape (n, n_prototypes)
        Cosine similarities of the two views' projections and the prototypes.
    codes_1, codes_2 : Tensor of shape (n, n_prototypes)
        Soft assignments of the two views; rows sum to 1.
    temperature : float
        :math:`\tau > 0`.

    Returns
    -------
    Tensor of shape ()
        Mean over both directions and the n rows.

    References
    ----------
    Caron, M., Misra, I., Mairal, J., Goyal, P., Bojanowski, P., Joulin, A. (2020).
    Unsupervised learning of visual features by contrasting cluster assignments.
    NeurIPS. Equations 1 and 2.

    Examples
    --------
    >>> import torch
    >>> scores, codes = torch.zeros(3, 4), torch.full((3, 4), 0.25)
    >>> loss = swapped_prediction_loss(scores, scores, codes, codes, temperature=0.1)
    >>> round(loss.item(), 4)  # ln(4)
    1.3863
    """
    log_p_1 = F.log_softmax(scores_1 / temperature, dim=1)
    log_p_2 = F.log_softmax(scores_2 / temperature, dim=1)
    return -(codes_2 * log_p_1 + codes_1 * log_p_2).sum(dim=1).mean() / 2


class SwAV(BaseEstimator):
    """SwAV: cluster online, and predict the cluster of one view from the other.

    Parameters
    ----------
    n_prototypes : int, default=30
        Number of clusters, several times the number of classes. The 3000 of the
        original, made for a million images, stay diffuse on thousands of volumes.
    temperature : float, default=0.1
        Divides the scores from which clusters are predicted.
    epsilon : float, default=0.03
        Smoothness of the Sinkhorn assignments that are to be predicted.
    n_iterations : int, default=3
        Sinkhorn iterations.
    frozen_epochs : int, default=1
        Number of epochs at the start in which the prototypes stay as they are.
    queue_size : int, default=256
        Number of earlier projections that are assigned along with each batch: of a
        batch that is not much larger than `n_prototypes`, an equal use of all
        prototypes puts volumes apart that belong together. They are those of both
        views, starting with random ones. 0 for none.
    projection_dim : int, default=128
        Width of the projections and of the prototypes.
    hidden_dim : int, default=256
        Width of the projection head's hidden layer.

    References
    ----------
    Caron, M., Misra, I., Mairal, J., Goyal, P., Bojanowski, P., Joulin, A. (2020).
    Unsupervised learning of visual features by contrasting cluster assignments.
    NeurIPS.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> from sksubtomo.contrastive import SwAV
    >>> encoder = nn.Sequential(nn.Flatten(), nn.Linear(64, 8))
    >>> encoder.n_features = 8
    >>> module = SwAV(n_prototypes=30).build(encoder)
    >>> module(torch.randn(5, 1, 4, 4, 4), torch.randn(5, 1, 4, 4, 4)).shape
    torch.Size([])
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "n_prototypes": [Interval(Integral, 2, None, closed="left")],
        "temperature": [Interval(Real, 0, None, closed="neither")],
        "epsilon": [Interval(Real, 0, None, closed="neither")],
        "n_iterations": [Interval(Integral, 1, None, closed="left")],
        "frozen_epochs": [Interval(Integral, 0, None, closed="left")],
        "queue_size": [Interval(Integral, 0, None, closed="left")],
        "projection_dim": [Interval(Integral, 1, None, closed="left")],
        "hidden_dim": [Interval(Integral, 1, None, closed="left")],
    }

    def __init__(
        self,
        n_prototypes: int = 30,
        temperature: float = 0.1,
        epsilon: float = 0.03,
        n_iterations: int = 3,
        frozen_epochs: int = 1,
        queue_size: int = 256,
        projection_dim: int = 128,
        hidden_dim: int = 256,
    ) -> None:
        self.n_prototypes = n_prototypes
        self.temperature = temperature
        self.epsilon = epsilon
        self.n_iterations = n_iterations
        self.frozen_epochs = frozen_epochs
        self.queue_size = queue_size
        self.projection_dim = projection_dim
        self.hidden_dim = hidden_dim

    def build(self, encoder: nn.Module) -> ContrastiveModule:
        """Build the module that training optimises.

        Prototypes are drawn from torch's global generator, which the caller seeds.

        Parameters
        ----------
        encoder : torch.nn.Module
            Maps (n, 1, depth, height, width) to (n, encoder.n_features). It is
            trained in place.

        Returns
        -------
        ContrastiveModule
            Encoder, head, prototypes and loss.

        Raises
        ------
        ValueError
            If a parameter is out of its range.
        """
        self._validate_params()
        return SwAVModule(
            encoder,
            projection_head(encoder, self.hidden_dim, self.projection_dim),
            prototypes=torch.randn(self.n_prototypes, self.projection_dim),
            temperature=self.temperature,
            epsilon=self.epsilon,
            n_iterations=self.n_iterations,
            frozen_epochs=self.frozen_epochs,
            queue=(
                Queue(self.queue_size, self.projection_dim) if self.queue_size else None
            ),
        )


class SwAVModule(ContrastiveModule):
    """Encoder, head and prototypes of SwAV.

    Parameters
    ----------
    encoder : torch.nn.Module
        The network to train.
    head : torch.nn.Module
        Maps the encoder's features to projections.
    prototypes : Tensor of shape (n_prototypes, projection_dim)
        Where the clusters start; normalised here.
    temperature : float
        Of `swapped_prediction_loss`.
    epsilon, n_iterations : float, int
        Of `sinkhorn`.
    frozen_epochs : int
        Epochs before the prototypes learn.
    queue : Queue, default=None
        Projections of earlier batches.
    """

    def __init__(
        self,
        encoder: nn.Module,
        head: nn.Module,
        prototypes: Tensor,
        *,
        temperature: float,
        epsilon: float,
        n_iterations: int,
        frozen_epochs: int,
        queue: Queue | None = None,
    ) -> None:
        super().__init__(encoder)
        self.head = head
        self.prototypes = nn.Parameter(F.normalize(prototypes, dim=1))
        self.temperature = temperature
        self.epsilon = epsilon
        self.n_iterations = n_iterations
        self.frozen_epochs = frozen_epochs
        self.queue = queue
        self.start_epoch(0)

    def start_epoch(self, epoch: int) -> None:
        """Freeze the prototypes in the first epochs.

        Parameters
        ----------
        epoch : int
            Number of the epoch, from 0; also after resuming.
        """
        # Without a gradient, the optimiser's weight decay leaves them alone, too.
        self.prototypes.requires_grad_(epoch >= self.frozen_epochs)

    def forward(self, view_1: Tensor, view_2: Tensor) -> Tensor:
        """Return `swapped_prediction_loss` of the two views.

        In training mode and with gradients enabled the projections of both views enter
        the queue after the loss; otherwise it does not change.

        Parameters
        ----------
        view_1, view_2 : Tensor of shape (n, 1, depth, height, width)
            Two views of the same volumes.

        Returns
        -------
        Tensor of shape ()
            The loss.
        """
        with torch.no_grad():
            self.prototypes.copy_(F.normalize(self.prototypes, dim=1))
        z_1 = F.normalize(self.head(self.encode(self.encoder, view_1)), dim=1)
        z_2 = F.normalize(self.head(self.encode(self.encoder, view_2)), dim=1)
        scores_1, scores_2 = z_1 @ self.prototypes.T, z_2 @ self.prototypes.T
        loss = swapped_prediction_loss(
            scores_1,
            scores_2,
            self._assign(scores_1),
            self._assign(scores_2),
            self.temperature,
        )
        if self.queue is not None and self.training and torch.is_grad_enabled():
            self.queue.enqueue(torch.cat([z_1.detach(), z_2.detach()]))
        return loss

    def _assign(self, scores: Tensor) -> Tensor:
        """Return the codes of a view, balanced over it and the queue."""
        n = len(scores)
        if self.queue is not None:
            earlier = self.queue.rows.to(scores.dtype) @ self.prototypes.T
            scores = torch.cat([earlier, scores])
        codes = sinkhorn(scores, self.epsilon, self.n_iterations)
        return codes[len(codes) - n :]

    def diagnose(self, mean_loss: float) -> str | None:
        """Recognise prototypes that all volumes share alike.

        Parameters
        ----------
        mean_loss : float
            Mean training loss of the last epoch.

        Returns
        -------
        str or None
            A hint if the loss is within 1 % of ln(n_prototypes), else None.
        """
        uniform = math.log(len(self.prototypes))
        if not math.isclose(mean_loss, uniform, rel_tol=0, abs_tol=0.01 * uniform):
            return None
        return (
            f"SwAV's loss is {mean_loss:.4g}, that of chance "
            f"(ln(n_prototypes) = {uniform:.4g}): the volumes were not told apart. "
            "Fewer prototypes, a smaller epsilon, more epochs or a higher learning "
            "rate may help."
        )
