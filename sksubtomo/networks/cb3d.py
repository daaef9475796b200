"""CB3D, the network of Che et al. (2018) after C3D."""

from __future__ import annotations

import math

from sklearn.base import BaseEstimator
from torch import Tensor, nn

from sksubtomo.networks._layers import convolution, dense_layers, halved

_WIDTHS = ((64,), (128,), (256, 256), (512, 512), (512, 512))
_DENSE_WIDTH = 4096


class CB3D(BaseEstimator):
    """CB3D encoder as published.

    Eight 3^3 convolutions with ReLU in five groups, of 64, 128, 256, 512 and 512
    channels, each group followed by max-pooling by two, of which the first leaves the
    depth as it is; then two dense layers of 4096 with dropout (0.5). There is no
    normalisation. For volumes of 32^3, and of 28^3, it has 61.2 million parameters.

    See Also
    --------
    DSRF3D : The smaller network of the same article.
    RB3D : The residual-block network, ``RB3D(variant="che2018")`` as in the article.

    Notes
    -----
    As in C3D and in the authors' code, the input of the last pooling is padded in
    height and width. The dense layers belong to the encoder, which therefore fits
    volumes of one shape. Pooling keeps the last voxel of an odd side, so that any shape
    can be encoded; for volumes of 32^3 that is no difference. Weights are drawn by He's
    rule, as the article does not say how.

    References
    ----------
    C. Che, R. Lin, X. Zeng, K. Elmaaroufi, J. Galeotti and M. Xu, "Improved deep
    learning-based macromolecules structure classification from electron
    cryo-tomograms", Machine Vision and Applications 29, 1227-1236, 2018.

    D. Tran, L. Bourdev, R. Fergus, L. Torresani and M. Paluri, "Learning
    spatiotemporal features with 3D convolutional networks", ICCV 2015. (C3D.)

    Examples
    --------
    >>> import torch
    >>> from sksubtomo.networks import CB3D
    >>> network = CB3D().build((8, 8, 8))
    >>> network(torch.zeros(2, 1, 8, 8, 8)).shape
    torch.Size([2, 4096])
    """

    def build(self, volume_shape: tuple[int, int, int]) -> CB3DNetwork:
        """Build the network with freshly drawn weights.

        Parameters
        ----------
        volume_shape : tuple of int
            Depth, height and width of the volumes in voxels.

        Returns
        -------
        CB3DNetwork
            The network, its weights drawn from torch's global generator.
        """
        return CB3DNetwork(volume_shape)


class CB3DNetwork(nn.Module):
    """The torch side of :class:`CB3D`.

    Parameters
    ----------
    volume_shape : tuple of int
        Depth, height and width of the volumes in voxels.

    Attributes
    ----------
    n_features : int
        Width of the output, 4096.
    """

    n_features = _DENSE_WIDTH

    def __init__(self, volume_shape: tuple[int, int, int]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        sides, n_in = volume_shape, 1
        last = len(_WIDTHS) - 1
        for group, widths in enumerate(_WIDTHS):
            for width in widths:
                layers += [convolution(n_in, width, sides), nn.ReLU(inplace=True)]
                n_in = width
            # Pooling before the last ReLU is the same with less work.
            pooling = nn.MaxPool3d(
                (1, 2, 2) if group == 0 else 2,
                padding=(0, 1, 1) if group == last else 0,
                ceil_mode=True,
            )
            layers.insert(-1, pooling)
            depth, height, width = halved(sides)
            if group == 0:
                depth = sides[0]
            elif group == last:
                # One voxel more than half of a side.
                height, width = sides[1] // 2 + 1, sides[2] // 2 + 1
            sides = depth, height, width
        self.convolutions = nn.Sequential(*layers)
        self.dense = dense_layers(n_in * math.prod(sides), _DENSE_WIDTH, dropout=0.5)

    def forward(self, volumes: Tensor) -> Tensor:
        """Encode a batch.

        Parameters
        ----------
        volumes : Tensor of shape (n, 1, depth, height, width)
            Normalised volumes.

        Returns
        -------
        Tensor of shape (n, 4096)
            Features.
        """
        features: Tensor = self.dense(self.convolutions(volumes).flatten(1))
        return features
