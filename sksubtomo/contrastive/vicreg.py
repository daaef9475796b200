"""VICReg: equal embeddings of both views, of unit variance and uncorrelated."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any, ClassVar, cast

import torch
from sklearn.base import BaseEstimator
from sklearn.utils._param_validation import Interval
from torch import Tensor, nn
from torch.nn import functional as F

from sksubtomo.contrastive._base import ContrastiveModule, standardized_perceptron

# Added to variances, whose root would have no gradient at zero.
_EPSILON = 1e-4
# Below this mean standard deviation, embeddings of all volumes are taken for equal.
_COLLAPSED = 0.1


def vicreg_loss(
    z_1: Tensor,
    z_2: Tensor,
    invariance_weight: float = 25.0,
    variance_weight: float = 25.0,
    covariance_weight: float = 1.0,
) -> Tensor:
    r"""Return the invariance, variance and covariance terms, weighted and summed.

    With :math:`Z` and :math:`Z'` the embeddings of the two views, :math:`d` their
    width and :math:`C` the covariance matrix of a view's columns, divided by n - 1,

    .. math::

        L &= \lambda\, s(Z, Z') + \mu\, \tfrac{1}{2} [v(Z) + v(Z')]
             + \nu\, [c(Z) + c(Z')], \\
        s(Z, Z') &= \frac{1}{n d} \sum_{i=1}^{n} \lVert z_i - z'_i \rVert^2, \\
        v(Z) &= \frac{1}{d} \sum_{j=1}^{d} \max(0, 1 - \sqrt{C_{jj} + 10^{-4}}), \\
        c(Z) &= \frac{1}{d} \sum_{j \ne k} C_{jk}^2.

    These are the terms of the authors' code, for which the usual weights are made; in
    the article :math:`s` is not divided by d, and v not halved.

    Parameters
    ----------
    z_1, z_2 : Tensor of shape (n, d)
        Embeddings of the two views; row i of both belong together. Not normalised.
    invariance_weight, variance_weight, covariance_weight : float
        :math:`\lambda`, :math:`\mu` and :math:`\nu`.

    Returns
    -------
    Tensor of shape ()
        The loss; only its invariance term for n = 1, where there is no variance.

    References
    ----------
    Bardes, A., Ponce, J., LeCun, Y. (2022). VICReg: variance-invariance-covariance
    regularization for self-supervised learning. ICLR. Equations 1 to 6.

    Examples
    --------
    >>> import torch
    >>> z = torch.tensor([[1.0, 1.0], [-1.0, -1.0]])
    >>> round(vicreg_loss(z, z).item(), 4)  # two equal columns, of variance 2
    8.0
    """
    loss = invariance_weight * F.mse_loss(z_1, z_2)
    if len(z_1) == 1:
        return loss
    variance = (_variance_term(z_1) + _variance_term(z_2)) / 2
    covariance = _covariance_term(z_1) + _covariance_term(z_2)
    return loss + variance_weight * variance + covariance_weight * covariance


class VICReg(BaseEstimator):
    """VICReg: equal embeddings of both views, kept from collapsing by their statistics.

    Each column of the embedding is to vary by at least 1 over the batch, and no two
    are to be correlated. There are no negatives and no second encoder.

    Parameters
    ----------
    invariance_weight : float, default=25.0
        Of the distance between the embeddings of both views.
    variance_weight : float, default=25.0
        Of the standard deviations that a column lacks from 1. At least about as large
        as `invariance_weight`, or all embeddings become the same.
    covariance_weight : float, default=1.0
        Of the correlations between columns.
    projection_dim : int, default=256
        Width of the embedding that the loss sees. A batch of n volumes shows at most
        n - 1 uncorrelated columns, so little is gained by more than a few times that.
    hidden_dim : int, default=256
        Width of the expander's hidden layer.

    References
    ----------
    Bardes, A., Ponce, J., LeCun, Y. (2022). VICReg: variance-invariance-covariance
    regularization for self-supervised learning. ICLR.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> from sksubtomo.contrastive import VICReg
    >>> encoder = nn.Sequential(nn.Flatten(), nn.Linear(64, 8))
    >>> encoder.n_features = 8
    >>> module = VICReg(covariance_weight=0.1).build(encoder)
    >>> module(torch.randn(5, 1, 4, 4, 4), torch.randn(5, 1, 4, 4, 4)).shape
    torch.Size([])
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "invariance_weight": [Interval(Real, 0, None, closed="left")],
        "variance_weight": [Interval(Real, 0, None, closed="left")],
        "covariance_weight": [Interval(Real, 0, None, closed="left")],
        "projection_dim": [Interval(Integral, 1, None, closed="left")],
        "hidden_dim": [Interval(Integral, 1, None, closed="left")],
    }

    def __init__(
        self,
        invariance_weight: float = 25.0,
        variance_weight: float = 25.0,
        covariance_weight: float = 1.0,
        projection_dim: int = 256,
        hidden_dim: int = 256,
    ) -> None:
        self.invariance_weight = invariance_weight
        self.variance_weight = variance_weight
        self.covariance_weight = covariance_weight
        self.projection_dim = projection_dim
        self.hidden_dim = hidden_dim

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
            Encoder, expander and loss.

        Raises
        ------
        ValueError
            If a parameter is out of its range.
        """
        self._validate_params()
        n_features = cast(int, encoder.n_features)
        return VICRegModule(
            encoder,
            standardized_perceptron(n_features, self.hidden_dim, self.projection_dim),
            weights=(
                self.invariance_weight,
                self.variance_weight,
                self.covariance_weight,
            ),
        )


class VICRegModule(ContrastiveModule):
    """Encoder and expander of VICReg.

    Parameters
    ----------
    encoder : torch.nn.Module
        The network to train.
    head : torch.nn.Module
        Maps the encoder's features to the embedding that the loss sees.
    weights : tuple of float
        Weights of the invariance, variance and covariance terms.

    Attributes
    ----------
    spread : Tensor of shape ()
        Moving average of the embedding's standard deviation over the batch, mean over
        the columns: 0 if all volumes are embedded alike. It starts at 1.
    """

    spread: Tensor

    def __init__(
        self,
        encoder: nn.Module,
        head: nn.Module,
        weights: tuple[float, float, float],
    ) -> None:
        super().__init__(encoder)
        self.head = head
        self.weights = weights
        self.register_buffer("spread", torch.ones(()))

    def forward(self, view_1: Tensor, view_2: Tensor) -> Tensor:
        """Return `vicreg_loss` of the two views' embeddings.

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
        if self.training and torch.is_grad_enabled() and len(z_1) > 1:
            self.spread.lerp_(z_1.detach().std(dim=0).mean(), 0.1)
        return vicreg_loss(z_1, z_2, *self.weights)

    def diagnose(self, mean_loss: float) -> str | None:
        """Recognise embeddings that are the same for all volumes.

        Parameters
        ----------
        mean_loss : float
            Mean training loss of the last epoch.

        Returns
        -------
        str or None
            A hint if all volumes are embedded alike, else None.
        """
        spread = self.spread.item()
        if not spread < _COLLAPSED:
            return None
        return (
            f"VICReg has collapsed: its embeddings have a standard deviation of "
            f"{spread:.2g} in place of 1, so that the loss, {mean_loss:.4g}, says "
            f"nothing. A larger variance_weight, a lower learning rate or a larger "
            f"batch may help."
        )


def _variance_term(z: Tensor) -> Tensor:
    return F.relu(1 - (z.var(dim=0) + _EPSILON).sqrt()).mean()


def _covariance_term(z: Tensor) -> Tensor:
    n, width = z.shape
    centred = z - z.mean(dim=0)
    covariance = centred.T @ centred / (n - 1)
    off_diagonal = covariance.square().sum() - covariance.diagonal().square().sum()
    return off_diagonal / width
