"""DSRF3D-v2, the network of small receptive fields of Che et al. (2018)."""

from __future__ import annotations

import math

from sklearn.base import BaseEstimator
from torch import Tensor, nn

from sksubtomo.networks._layers import convolution, dense_layers, halved

_WIDTHS = (32, 64, 128)
_DENSE_WIDTH = 1024


class DSRF3D(BaseEstimator):
    """DSRF3D-v2 encoder (deep small receptive field) as published.

    Three stages of two 3^3 convolutions with ReLU, of 32, 64 and 128 channels, each
    followed by max-pooling by two; then two dense layers of 1024 with dropout (0.7).
    There is no normalisation. For volumes of 32^3, and of 28^3, it has 10.3 million
    parameters.

    See Also
    --------
    CB3D : The larger network of the same article.
    RB3D : The residual-block network, ``RB3D(variant="che2018")`` as in the article.

    Notes
    -----
    The dense layers belong to the encoder, which therefore fits volumes of one shape.
    Pooling keeps the last voxel of an odd side, so that any shape can be encoded; for
    sides that are multiples of eight, such as 32 and the article's 40, that is no
    difference. Weights are drawn by He's rule, as the article does not say how.

    References
    ----------
    C. Che, R. Lin, X. Zeng, K. Elmaaroufi, J. Galeotti and M. Xu, "Improved deep
    learning-based macromolecules structure classification from electron
    cryo-tomograms", Machine Vision and Applications 29, 1227-1236, 2018.

    Examples
    --------
    >>> import torch
    >>> from sksubtomo.networks import DSRF3D
    >>> network = DSRF3D().build((8, 8, 8))
    >>> network(torch.zeros(2, 1, 8, 8, 8)).shape
    torch.Size([2, 1024])
    """

    def build(self, volume_shape: tuple[int, int, int]) -> DSRF3DNetwork:
        """Build the network with freshly drawn weights.

        Parameters
        ----------
        volume_shape : tuple of int
            Depth, height and width of the volumes in voxels.

        Returns
        -------
        DSRF3DNetwork
            The network, its weights drawn from torch's global generator.
        """
        return DSRF3DNetwork(volume_shape)


class DSRF3DNetwork(nn.Module):
    """The torch side of :class:`DSRF3D`.

    Parameters
    ----------
    volume_shape : tuple of int
        Depth, height and width of the volumes in voxels.

    Attributes
    ----------
    n_features : int
        Width of the output, 1024.
    """

    n_features = _DENSE_WIDTH

    def __init__(self, volume_shape: tuple[int, int, int]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        sides, n_in = volume_shape, 1
        for width in _WIDTHS:
            layers += [
                convolution(n_in, width, sides),
                nn.ReLU(inplace=True),
                convolution(width, width, sides),
                # Before the ReLU, which then is an eighth of the work.
                nn.MaxPool3d(2, ceil_mode=True),
                nn.ReLU(inplace=True),
            ]
            sides, n_in = halved(sides), width
        self.convolutions = nn.Sequential(*layers)
        self.dense = dense_layers(n_in * math.prod(sides), _DENSE_WIDTH, dropout=0.7)

    def forward(self, volumes: Tensor) -> Tensor:
        """Encode a batch.

        Parameters
        ----------
        volumes : Tensor of shape (n, 1, depth, height, width)
            Normalised volumes.

        Returns
        -------
        Tensor of shape (n, 1024)
            Features.
        """
        features: Tensor = self.dense(self.convolutions(volumes).flatten(1))
        return features
