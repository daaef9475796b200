"""RB3D, the residual-block network of Che et al. (2018)."""

from __future__ import annotations

import math

import torch
from sklearn.base import BaseEstimator
from torch import Tensor, nn
from torch.nn import functional

from sksubtomo.networks._layers import (
    convolve_and_pool,
    dense_layers,
    draw_he_normal,
    n_taps,
    normalization,
)

_WIDTH = 32
_N_BLOCKS = 4
_POOLED_SIDE = 2
_DENSE_WIDTH = 1024


class RB3D(BaseEstimator):
    """RB3D encoder, as the code of Gupta et al. has it or as first published.

    A 3^3 convolution to 32 channels, max-pooling by two, and four residual blocks of
    two branches each. In the code of Gupta et al. adaptive average pooling to 2^3
    follows: 256 features for any volume, 115,904 parameters, and neither dropout nor,
    by default, normalisation.

    Parameters
    ----------
    norm : {None, "group"}, default=None
        Normalisation after each convolution of the blocks. None is the
        published network; "group" is group normalisation, which learns faster
        and gives the same output for a volume whatever else is in its batch.
    variant : {"gupta2022", "che2018"}, default="gupta2022"
        "che2018" is the network of Che et al.: dropout (0.7) at the end of each
        block's longer branch, and two dense layers of 1024 with dropout (0.5) in place
        of the average pooling. It has 1024 features and fits volumes of one shape;
        nearly all of its parameters, 135 million for volumes of 32^3, are in the first
        dense layer.

    See Also
    --------
    sksubtomo.RB3DClassifier : The classifier on this encoder.
    ResNet3D : A normalised network of about the same cost.

    References
    ----------
    C. Che, R. Lin, X. Zeng, K. Elmaaroufi, J. Galeotti and M. Xu, "Improved deep
    learning-based macromolecules structure classification from electron
    cryo-tomograms", Machine Vision and Applications 29, 1227-1236, 2018.

    T. Gupta et al., "Self-supervised learning for macromolecular structure
    classification based on cryo-electron tomograms", Frontiers in Physiology 13,
    2022.

    Examples
    --------
    >>> import torch
    >>> from sksubtomo.networks import RB3D
    >>> network = RB3D().build((16, 16, 16))
    >>> network(torch.zeros(2, 1, 16, 16, 16)).shape
    torch.Size([2, 256])
    """

    def __init__(self, norm: str | None = None, variant: str = "gupta2022") -> None:
        self.norm = norm
        self.variant = variant

    def build(self, volume_shape: tuple[int, int, int]) -> RB3DNetwork:
        """Build the network with freshly drawn weights.

        Parameters
        ----------
        volume_shape : tuple of int
            Depth, height and width of the volumes in voxels. The variant "gupta2022"
            takes volumes of other shapes, too.

        Returns
        -------
        RB3DNetwork
            The network, its weights drawn from torch's global generator.

        Raises
        ------
        ValueError
            If `norm` or `variant` is not known.
        """
        if self.norm not in (None, "group"):
            raise ValueError(f"norm={self.norm!r}; expected None or 'group'.")
        if self.variant not in ("gupta2022", "che2018"):
            raise ValueError(
                f"variant={self.variant!r}; expected 'gupta2022' or 'che2018'."
            )
        return RB3DNetwork(
            volume_shape, norm=self.norm, dense=self.variant == "che2018"
        )


class RB3DNetwork(nn.Module):
    """The torch side of :class:`RB3D`.

    Parameters
    ----------
    volume_shape : tuple of int
        Depth, height and width of the volumes in voxels.
    norm : {None, "group"}, default=None
        Normalisation in the blocks.
    dense : bool, default=False
        Whether there are dropout and dense layers, as in Che et al., rather than
        average pooling.

    Attributes
    ----------
    n_features : int
        Width of the output, 256 or 1024.
    """

    def __init__(
        self,
        volume_shape: tuple[int, int, int],
        norm: str | None = None,
        dense: bool = False,
    ) -> None:
        super().__init__()
        self.stem = nn.Conv3d(1, _WIDTH, 3, padding=1)
        self.blocks = nn.Sequential(*(_Block(norm, dense) for _ in range(_N_BLOCKS)))
        pooled = [max(1, side // 2) for side in volume_shape]
        # Che et al. say nothing about the weights: these are as in Gupta et al.
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                sides = volume_shape if module is self.stem else pooled
                draw_he_normal(module, module.out_channels * n_taps(module, sides))
        if dense:
            n_inputs = _WIDTH * math.prod(pooled)
            self.n_features = _DENSE_WIDTH
            self.readout = nn.Sequential(
                nn.Flatten(), dense_layers(n_inputs, _DENSE_WIDTH, dropout=0.5)
            )
        else:
            self.n_features = _WIDTH * _POOLED_SIDE**3
            self.readout = nn.Sequential(
                nn.AdaptiveAvgPool3d(_POOLED_SIDE), nn.Flatten()
            )

    def forward(self, volumes: Tensor) -> Tensor:
        """Encode a batch.

        Parameters
        ----------
        volumes : Tensor of shape (n, 1, depth, height, width)
            Normalised volumes.

        Returns
        -------
        Tensor of shape (n, n_features)
            Features.
        """
        # Pooling before the ReLU is an eighth of its work.
        hidden = functional.relu_(convolve_and_pool(self.stem, volumes))
        features: Tensor = self.readout(self.blocks(hidden))
        return features


class _Block(nn.Module):
    """Two branches of 16 channels each, concatenated to 32 and rectified."""

    def __init__(self, norm: str | None, with_dropout: bool) -> None:
        super().__init__()
        half = _WIDTH // 2
        self.right = nn.Sequential(
            nn.Conv3d(_WIDTH, half, 3, padding=1), normalization(norm, half)
        )
        self.left = nn.Sequential(
            nn.Conv3d(_WIDTH, half, 1),
            normalization(norm, half),
            nn.ReLU(inplace=True),
            nn.Conv3d(half, _WIDTH, 3, padding=1),
            normalization(norm, _WIDTH),
            nn.ReLU(inplace=True),
            nn.Conv3d(_WIDTH, half, 1),
            normalization(norm, half),
        )
        if with_dropout:
            self.left.append(nn.Dropout(0.7))

    def forward(self, hidden: Tensor) -> Tensor:
        # The right branch's own ReLU is the one after the concatenation: a ReLU
        # of a ReLU changes nothing.
        branches = torch.cat([self.right(hidden), self.left(hidden)], dim=1)
        return functional.relu_(branches)
