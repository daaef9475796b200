"""A plain convolutional network with batch normalisation."""

from __future__ import annotations

from sklearn.base import BaseEstimator
from torch import Tensor, nn

from sksubtomo.networks._layers import BatchNorm3d, convolution, halved

_WIDTHS = (32, 64, 128)


class BatchNormCNN(BaseEstimator):
    """Plain CNN encoder with batch normalisation, a baseline.

    Three stages of a 3^3 convolution, batch normalisation, ReLU and max-pooling by
    two, of 32, 64 and 128 channels, and the mean over what is left of the volume: 128
    features for any volume, 277,792 parameters.

    It is no one's network in particular, but what is meant by a CNN with batch
    normalisation: convolutions and pooling as in VGG, normalised as by Ioffe and
    Szegedy, with the global average pooling of Lin et al. for dense layers. It shows
    what normalisation alone is worth against the networks of Che et al.

    See Also
    --------
    ResNet3D : Learns more from as many volumes.

    References
    ----------
    K. Simonyan and A. Zisserman, "Very deep convolutional networks for large-scale
    image recognition", ICLR 2015.

    S. Ioffe and C. Szegedy, "Batch normalization: accelerating deep network training
    by reducing internal covariate shift", ICML 2015.

    M. Lin, Q. Chen and S. Yan, "Network in network", ICLR 2014.

    Examples
    --------
    >>> import torch
    >>> from sksubtomo.networks import BatchNormCNN
    >>> network = BatchNormCNN().build((16, 16, 16))
    >>> network(torch.zeros(2, 1, 16, 16, 16)).shape
    torch.Size([2, 128])
    """

    def build(self, volume_shape: tuple[int, int, int]) -> BatchNormCNNNetwork:
        """Build the network with freshly drawn weights.

        Parameters
        ----------
        volume_shape : tuple of int
            Depth, height and width of the volumes in voxels; other volumes can be
            encoded, too.

        Returns
        -------
        BatchNormCNNNetwork
            The network, its weights drawn from torch's global generator.
        """
        return BatchNormCNNNetwork(volume_shape)


class BatchNormCNNNetwork(nn.Module):
    """The torch side of :class:`BatchNormCNN`.

    Parameters
    ----------
    volume_shape : tuple of int
        Depth, height and width of the volumes in voxels.

    Attributes
    ----------
    n_features : int
        Width of the output, 128.
    """

    n_features = _WIDTHS[-1]

    def __init__(self, volume_shape: tuple[int, int, int]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        sides, n_in = volume_shape, 1
        for width in _WIDTHS:
            layers += [
                convolution(n_in, width, sides, bias=False),
                BatchNorm3d(width),
                # Before the ReLU, which then is an eighth of the work.
                nn.MaxPool3d(2, ceil_mode=True),
                nn.ReLU(inplace=True),
            ]
            sides, n_in = halved(sides), width
        self.convolutions = nn.Sequential(*layers)

    def forward(self, volumes: Tensor) -> Tensor:
        """Encode a batch.

        Parameters
        ----------
        volumes : Tensor of shape (n, 1, depth, height, width)
            Normalised volumes.

        Returns
        -------
        Tensor of shape (n, 128)
            Features.
        """
        features: Tensor = self.convolutions(volumes).mean((2, 3, 4))
        return features
