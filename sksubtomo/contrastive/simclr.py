"""SimCLR: every other view in the batch is a negative."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any, ClassVar

import torch
from sklearn.base import BaseEstimator
from sklearn.utils._param_validation import Interval
from torch import Tensor, nn
from torch.nn import functional as F

from sksubtomo.contrastive._base import ContrastiveModule, projection_head


def nt_xent_loss(
    z_1: Tensor, z_2: Tensor, temperature: float, decoupled: bool = False
) -> Tensor:
    r"""Return the normalised, temperature-scaled cross entropy (NT-Xent).

    With :math:`z` the 2n projections of both views, :math:`j(i)` the other view of
    :math:`i` and :math:`s` the cosine similarity,

    .. math::

        L = -\frac{1}{2n} \sum_{i=1}^{2n} \log
            \frac{\exp(s(z_i, z_{j(i)}) / \tau)}
            {\sum_{k \ne i} \exp(s(z_i, z_k) / \tau)}.

    The positive, :math:`k = j(i)`, stays in the denominator, unless the loss is
    decoupled.

    Parameters
    ----------
    z_1, z_2 : Tensor of shape (n, dim)
        Projections of the two views; row i of both belong together. Need not be
        normalised.
    temperature : float
        :math:`\tau > 0`.
    decoupled : bool, default=False
        Whether the positive is left out of the denominator. The loss may then be
        negative.

    Returns
    -------
    Tensor of shape ()
        Mean over the 2n anchors; 0 for n = 1, where there are no negatives.

    References
    ----------
    Chen, T., Kornblith, S., Norouzi, M., Hinton, G. (2020). A simple framework for
    contrastive learning of visual representations. ICML. Equation 1.

    Yeh, C.-H., Hong, C.-Y., Hsu, Y.-C., Liu, T.-L., Chen, Y., LeCun, Y. (2022).
    Decoupled contrastive learning. ECCV. (The decoupled loss.)

    Examples
    --------
    >>> import torch
    >>> z = torch.eye(2)
    >>> round(nt_xent_loss(z, z, temperature=1.0).item(), 4)  # ln(1 + 2 / e)
    0.5514
    >>> loss = nt_xent_loss(z, z, temperature=1.0, decoupled=True)
    >>> round(loss.item(), 4)  # ln(2 / e)
    -0.3069
    """
    n = len(z_1)
    z = F.normalize(torch.cat([z_1, z_2]), dim=1)
    logits = (z @ z.T / temperature).fill_diagonal_(-torch.inf)
    positives = torch.arange(2 * n, device=z.device).roll(n)
    if not decoupled:
        return F.cross_entropy(logits, positives)
    if n == 1:
        return 0 * z.sum()
    where = positives[:, None]
    negatives = logits.scatter(1, where, -torch.inf)
    return (negatives.logsumexp(dim=1) - logits.gather(1, where)[:, 0]).mean()


class SimCLR(BaseEstimator):
    """SimCLR: tell the two views of a volume from all other views in the batch.

    Parameters
    ----------
    temperature : float, default=0.2
        Divides the cosine similarities; a low one weighs the hardest negatives,
        which in a set of few classes are often of the same class, a high one stays
        at the loss of chance for longer.
    projection_dim : int, default=128
        Width of the projection that the loss sees.
    hidden_dim : int, default=256
        Width of the projection head's hidden layer.
    decoupled : bool, default=False
        Whether the positive is left out of the loss' denominator, as in decoupled
        contrastive learning. Pairs that are already alike then go on learning, which
        counts where a batch has few negatives.

    References
    ----------
    Chen, T., Kornblith, S., Norouzi, M., Hinton, G. (2020). A simple framework for
    contrastive learning of visual representations. ICML.

    Yeh, C.-H., Hong, C.-Y., Hsu, Y.-C., Liu, T.-L., Chen, Y., LeCun, Y. (2022).
    Decoupled contrastive learning. ECCV.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> from sksubtomo.contrastive import SimCLR
    >>> encoder = nn.Sequential(nn.Flatten(), nn.Linear(64, 8))
    >>> encoder.n_features = 8
    >>> module = SimCLR(temperature=0.1).build(encoder)
    >>> module(torch.randn(5, 1, 4, 4, 4), torch.randn(5, 1, 4, 4, 4)).shape
    torch.Size([])
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "temperature": [Interval(Real, 0, None, closed="neither")],
        "projection_dim": [Interval(Integral, 1, None, closed="left")],
        "hidden_dim": [Interval(Integral, 1, None, closed="left")],
        "decoupled": ["boolean"],
    }

    def __init__(
        self,
        temperature: float = 0.2,
        projection_dim: int = 128,
        hidden_dim: int = 256,
        decoupled: bool = False,
    ) -> None:
        self.temperature = temperature
        self.projection_dim = projection_dim
        self.hidden_dim = hidden_dim
        self.decoupled = decoupled

    def build(self, encoder: nn.Module) -> ContrastiveModule:
        """Build the module that training optimises.

        Parameters
        ----------
        encoder : torch.nn.Module
            Maps (n, 1, depth, height, width) to (n, encoder.n_features). It is
            trained in place.

        Returns
        -------
        ContrastiveModule
            Encoder, head and loss.

        Raises
        ------
        ValueError
            If a parameter is out of its range.
        """
        self._validate_params()
        head = projection_head(encoder, self.hidden_dim, self.projection_dim)
        return SimCLRModule(encoder, head, self.temperature, self.decoupled)


class SimCLRModule(ContrastiveModule):
    """Encoder and head of SimCLR.

    Parameters
    ----------
    encoder : torch.nn.Module
        The network to train.
    head : torch.nn.Module
        Maps the encoder's features to projections.
    temperature : float
        Of `nt_xent_loss`.
    decoupled : bool
        Of `nt_xent_loss`.
    """

    def __init__(
        self, encoder: nn.Module, head: nn.Module, temperature: float, decoupled: bool
    ) -> None:
        super().__init__(encoder)
        self.head = head
        self.temperature = temperature
        self.decoupled = decoupled

    def forward(self, view_1: Tensor, view_2: Tensor) -> Tensor:
        """Return `nt_xent_loss` of the two views' projections.

        Parameters
        ----------
        view_1, view_2 : Tensor of shape (n, 1, depth, height, width)
            Two views of the same volumes.

        Returns
        -------
        Tensor of shape ()
            The loss.
        """
        z_1 = self.head(self.encode(self.encoder, view_1))
        z_2 = self.head(self.encode(self.encoder, view_2))
        return nt_xent_loss(z_1, z_2, self.temperature, self.decoupled)
