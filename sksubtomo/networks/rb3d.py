"""RB3D, the residual-block network of Che et al. (2018)."""

from __future__ import annotations

import math

import torch
from sklearn.base import BaseEstimator
from torch import Tensor, nn
from torch.nn import functional

_WIDTH = 32
_N_BLOCKS = 4
_POOLED_SIDE = 2
# Enough channels that a group still carries information where a volume is pooled
# to a single voxel: with two, normalised values are only ever plus and minus one.
_CHANNELS_PER_GROUP = 8
# Float32 values of the stem's output that are computed at once on the CPU: 8 MB.
_PART_VALUES = 1 << 21


class RB3D(BaseEstimator):
    """RB3D encoder as the code of Gupta et al. has it.

    A 3^3 convolution to 32 channels, max-pooling by two, four residual blocks
    of two branches each, and adaptive average pooling to 2^3: 256 features for
    any volume, 115,904 parameters. There is neither dropout nor, by default,
    normalisation.

    Parameters
    ----------
    norm : {None, "group"}, default=None
        Normalisation after each convolution of the blocks. None is the
        published network; "group" is group normalisation, which learns faster
        and gives the same output for a volume whatever else is in its batch.

    See Also
    --------
    sksubtomo.RB3DClassifier : The classifier on this encoder.

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

    def __init__(self, norm: str | None = None) -> None:
        self.norm = norm

    def build(self, volume_shape: tuple[int, int, int]) -> RB3DNetwork:
        """Build the network with freshly drawn weights.

        Parameters
        ----------
        volume_shape : tuple of int
            Depth, height and width of the volumes in voxels. RB3D takes any
            shape; the argument is there for encoders that do not.

        Returns
        -------
        RB3DNetwork
            The network, its weights drawn from torch's global generator.

        Raises
        ------
        ValueError
            If `norm` is not known.
        """
        if self.norm not in (None, "group"):
            raise ValueError(f"norm={self.norm!r}; expected None or 'group'.")
        network = RB3DNetwork(group_norm=self.norm == "group")
        network.initialize(volume_shape)
        return network


class RB3DNetwork(nn.Module):
    """The torch side of :class:`RB3D`.

    Parameters
    ----------
    group_norm : bool, default=False
        Whether the blocks are normalised.

    Attributes
    ----------
    n_features : int
        Width of the output, 256.
    """

    n_features = _WIDTH * _POOLED_SIDE**3

    def __init__(self, group_norm: bool = False) -> None:
        super().__init__()
        self.stem = nn.Conv3d(1, _WIDTH, 3, padding=1)
        self.blocks = nn.Sequential(*(_Block(group_norm) for _ in range(_N_BLOCKS)))

    @torch.no_grad()
    def initialize(self, volume_shape: tuple[int, int, int]) -> None:
        """Draw the weights: He normal by fan-out, zero biases.

        The fan counts the taps of a kernel that can lie inside the volume. For
        sides of four voxels and more those are all taps, as in the usual rule; in
        smaller volumes, most of a kernel only ever meets padding, and the usual
        rule would let the signal vanish from layer to layer.

        Parameters
        ----------
        volume_shape : tuple of int
            Depth, height and width of the volumes in voxels.
        """
        pooled = [max(1, side // 2) for side in volume_shape]
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                sides = volume_shape if module is self.stem else pooled
                taps = math.prod(
                    min(kernel, 2 * side - 1)
                    for kernel, side in zip(module.kernel_size, sides, strict=True)
                )
                module.weight.normal_(std=math.sqrt(2 / (module.out_channels * taps)))
                assert module.bias is not None
                module.bias.zero_()

    def forward(self, volumes: Tensor) -> Tensor:
        """Encode a batch.

        Parameters
        ----------
        volumes : Tensor of shape (n, 1, depth, height, width)
            Normalised volumes.

        Returns
        -------
        Tensor of shape (n, 256)
            Features.
        """
        # On the CPU in parts, so that the stem's output, the largest tensor by far,
        # stays in the cache and its memory is used again.
        n_parts = 1
        if volumes.device.type == "cpu":
            values = _WIDTH * math.prod(volumes.shape[2:])
            n_parts = max(1, len(volumes) // max(2, _PART_VALUES // values))
        parts = [self._pooled_stem(part) for part in volumes.tensor_split(n_parts)]
        hidden = functional.relu_(parts[0] if n_parts == 1 else torch.cat(parts))
        hidden = self.blocks(hidden)
        return functional.adaptive_avg_pool3d(hidden, _POOLED_SIDE).flatten(1)

    def _pooled_stem(self, volumes: Tensor) -> Tensor:
        """Convolve and pool; pooling before the ReLU is an eighth of its work."""
        # A side of one voxel cannot be halved.
        kernel = [min(2, side) for side in volumes.shape[2:]]
        return functional.max_pool3d(self.stem(volumes), kernel)


class _Block(nn.Module):
    """Two branches of 16 channels each, concatenated to 32 and rectified."""

    def __init__(self, group_norm: bool) -> None:
        super().__init__()
        half = _WIDTH // 2
        self.right = nn.Sequential(
            nn.Conv3d(_WIDTH, half, 3, padding=1), _norm(half, group_norm)
        )
        self.left = nn.Sequential(
            nn.Conv3d(_WIDTH, half, 1),
            _norm(half, group_norm),
            nn.ReLU(inplace=True),
            nn.Conv3d(half, _WIDTH, 3, padding=1),
            _norm(_WIDTH, group_norm),
            nn.ReLU(inplace=True),
            nn.Conv3d(_WIDTH, half, 1),
            _norm(half, group_norm),
        )

    def forward(self, hidden: Tensor) -> Tensor:
        # The right branch's own ReLU is the one after the concatenation: a ReLU
        # of a ReLU changes nothing.
        branches = torch.cat([self.right(hidden), self.left(hidden)], dim=1)
        return functional.relu_(branches)


def _norm(channels: int, group_norm: bool) -> nn.Module:
    if not group_norm:
        return nn.Identity()
    return nn.GroupNorm(channels // _CHANNELS_PER_GROUP, channels)
