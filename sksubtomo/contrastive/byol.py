"""BYOL: predict what a slowly moving copy of the encoder makes of the other view."""

from __future__ import annotations

from copy import deepcopy
from numbers import Integral, Real
from typing import Any, ClassVar, cast

import torch
from sklearn.base import BaseEstimator
from sklearn.utils._param_validation import Interval
from torch import Tensor, nn
from torch.nn import functional as F

from sksubtomo.contrastive._base import (
    ContrastiveModule,
    follow,
    standardized_perceptron,
)

# Below this mean cosine distance, projections of different volumes are taken for equal.
_COLLAPSED = 0.05


def bootstrap_loss(
    prediction_1: Tensor, prediction_2: Tensor, target_1: Tensor, target_2: Tensor
) -> Tensor:
    r"""Return the distance of each view's predictions from the other's targets.

    With :math:`\bar{x} = x / \lVert x \rVert`,

    .. math::

        L = \frac{1}{2n} \sum_{i=1}^{n}
            \lVert \bar{p}^{(1)}_i - \bar{z}^{(2)}_i \rVert^2
            + \lVert \bar{p}^{(2)}_i - \bar{z}^{(1)}_i \rVert^2,

    which is half of the loss of Grill et al. (2020), and lies between 0 and 4.

    Parameters
    ----------
    prediction_1, prediction_2 : Tensor of shape (n, dim)
        What is predicted from the two views; need not be normalised.
    target_1, target_2 : Tensor of shape (n, dim)
        Projections of the two views; row i of all belong together.

    Returns
    -------
    Tensor of shape ()
        Mean over both directions and the n rows.

    References
    ----------
    Grill, J.-B., Strub, F., Altché, F., et al. (2020). Bootstrap your own latent: a
    new approach to self-supervised learning. NeurIPS. Equation 2.

    Examples
    --------
    >>> import torch
    >>> p, z = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 3.0]])
    >>> bootstrap_loss(p, p, z, z).item()  # 2 - 2 * cosine
    2.0
    """
    predictions = F.normalize(torch.cat([prediction_1, prediction_2]), dim=1)
    targets = F.normalize(torch.cat([target_2, target_1]), dim=1)
    return (predictions - targets).square().sum(dim=1).mean()


class BYOL(BaseEstimator):
    """BYOL: predict a slow copy's projection of one view from the other view.

    There are no negatives, so that volumes of one class are never pushed apart, and
    the batch may be small.

    Parameters
    ----------
    momentum : float, default=0.99
        Of the copy, in [0, 1]: 0 copies the encoder at every step, 1 never moves, so
        that the projections of random weights are predicted. The 0.996 of the
        original is made for hundreds of thousands of steps.
    projection_dim : int, default=128
        Width of the projections and predictions that the loss sees.
    hidden_dim : int, default=256
        Width of the hidden layers of the projection head and of the predictor.

    References
    ----------
    Grill, J.-B., Strub, F., Altché, F., et al. (2020). Bootstrap your own latent: a
    new approach to self-supervised learning. NeurIPS.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> from sksubtomo.contrastive import BYOL
    >>> encoder = nn.Sequential(nn.Flatten(), nn.Linear(64, 8))
    >>> encoder.n_features = 8
    >>> module = BYOL(momentum=0.95).build(encoder)
    >>> module(torch.randn(5, 1, 4, 4, 4), torch.randn(5, 1, 4, 4, 4)).shape
    torch.Size([])
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "momentum": [Interval(Real, 0, 1, closed="both")],
        "projection_dim": [Interval(Integral, 1, None, closed="left")],
        "hidden_dim": [Interval(Integral, 1, None, closed="left")],
    }

    def __init__(
        self,
        momentum: float = 0.99,
        projection_dim: int = 128,
        hidden_dim: int = 256,
    ) -> None:
        self.momentum = momentum
        self.projection_dim = projection_dim
        self.hidden_dim = hidden_dim

    def build(self, encoder: nn.Module) -> ContrastiveModule:
        """Build the module that training optimises.

        Parameters
        ----------
        encoder : torch.nn.Module
            Maps (n, 1, depth, height, width) to (n, encoder.n_features). It is
            trained in place; the target encoder is a copy.

        Returns
        -------
        ContrastiveModule
            Encoder, head, their moving averages, predictor and loss.

        Raises
        ------
        ValueError
            If a parameter is out of its range.
        """
        self._validate_params()
        n_features = cast(int, encoder.n_features)
        hidden, out = self.hidden_dim, self.projection_dim
        return BYOLModule(
            encoder,
            head=standardized_perceptron(n_features, hidden, out),
            predictor=standardized_perceptron(out, hidden, out),
            momentum=self.momentum,
        )


class BYOLModule(ContrastiveModule):
    """Encoder, head, predictor and target network of BYOL.

    Parameters
    ----------
    encoder : torch.nn.Module
        The network to train.
    head : torch.nn.Module
        Maps the encoder's features to projections.
    predictor : torch.nn.Module
        Maps projections to predictions of the target's projections.
    momentum : float
        Of the target encoder and its head.

    Attributes
    ----------
    spread : Tensor of shape ()
        Moving average of the mean cosine distance between the target's projections
        of different volumes: 0 if they are all the same. It starts at 1.
    """

    spread: Tensor

    def __init__(
        self,
        encoder: nn.Module,
        head: nn.Module,
        predictor: nn.Module,
        momentum: float,
    ) -> None:
        super().__init__(encoder)
        self.head = head
        self.predictor = predictor
        self.target_encoder = deepcopy(encoder).requires_grad_(False)
        self.target_head = deepcopy(head).requires_grad_(False)
        self.momentum = momentum
        self.register_buffer("spread", torch.ones(()))

    def forward(self, view_1: Tensor, view_2: Tensor) -> Tensor:
        """Return `bootstrap_loss` of the two views.

        In training mode and with gradients enabled the target moves before it is
        asked; otherwise nothing changes.

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
        prediction_1 = self.predictor(self.head(self.encode(self.encoder, view_1)))
        prediction_2 = self.predictor(self.head(self.encode(self.encoder, view_2)))
        with torch.no_grad():
            if learns:
                self._move_target()
            target_1 = self.target_head(self.encode(self.target_encoder, view_1))
            target_2 = self.target_head(self.encode(self.target_encoder, view_2))
            if learns and len(target_1) > 1:
                self.spread.lerp_(_mean_cosine_distance(target_1), 0.1)
        return bootstrap_loss(prediction_1, prediction_2, target_1, target_2)

    def encoders(self) -> list[nn.Module]:
        """Return the networks that see volumes.

        Returns
        -------
        list of torch.nn.Module
            The encoder and the target encoder.
        """
        return [self.encoder, self.target_encoder]

    def diagnose(self, mean_loss: float) -> str | None:
        """Recognise projections that are the same for all volumes.

        Parameters
        ----------
        mean_loss : float
            Mean training loss of the last epoch.

        Returns
        -------
        str or None
            A hint if different volumes have the same projections, else None.
        """
        spread = self.spread.item()
        if not spread < _COLLAPSED:
            return None
        return (
            f"BYOL has collapsed: projections of different volumes have a mean cosine "
            f"distance of {spread:.2g} (1 where they have nothing in common), so that "
            f"the loss, {mean_loss:.4g}, says nothing. A lower learning rate, a "
            f"momentum closer to 1 or a larger batch may help."
        )

    def _move_target(self) -> None:
        follow(self.target_encoder, self.encoder, self.momentum)
        follow(self.target_head, self.head, self.momentum)
        # The target's standardisation keeps no statistics, as it learns nothing. A
        # batch of one and evaluation need some.
        for kept, found in zip(
            self.target_head.buffers(), self.head.buffers(), strict=True
        ):
            kept.copy_(found)


def _mean_cosine_distance(rows: Tensor) -> Tensor:
    """Return the mean of 1 - cosine over all pairs of different rows."""
    n = len(rows)
    # Of unit vectors, all n ** 2 pairs together have the mean 1 - |mean vector|^2.
    mean = F.normalize(rows, dim=1).mean(dim=0)
    return (1 - mean.square().sum()) * n / (n - 1)
