"""A residual network with normalisation, for volumes of 16^3 to 64^3."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral

from sklearn.base import BaseEstimator
from torch import Tensor, nn
from torch.nn import functional

from sksubtomo.networks._layers import (
    CHANNELS_PER_GROUP,
    Sides,
    convolution,
    convolve_and_pool,
    halved,
    normalization,
)


class ResNet3D(BaseEstimator):
    """Residual encoder with normalisation.

    A 3^3 convolution, max-pooling by two, normalisation and ReLU; stages of basic
    residual blocks, from the second stage on at half the resolution of the one before;
    and the mean over what is left of the volume. It takes volumes of any shape, and is
    meant for 16^3 to 64^3. With the defaults it has 128 features and 897,184
    parameters, and costs about as much as RB3D.

    Parameters
    ----------
    widths : tuple of int, default=(32, 64, 128)
        Channels of each stage. The last one is the number of features.
    n_blocks : int, default=1
        Residual blocks in a stage, each of two 3^3 convolutions.
    norm : {"batch", "group"}, default="batch"
        Normalisation after each convolution. "batch" is batch normalisation; in
        prediction a volume's features do not depend on its batch. "group" is
        group normalisation with eight channels a group, which treats every volume by
        itself in training, too, and needs widths that are multiples of eight.

    See Also
    --------
    RB3D : The network of the paper.
    BatchNormCNN : The plain network to compare with.

    Notes
    -----
    Shortcuts that change the resolution average before they convolve ("ResNet-D" of He
    et al., 2019): with a stride, a 1^3 convolution would see one voxel of eight. The
    last normalisation of every block starts with a scale of zero, so that each block
    starts as its shortcut.

    References
    ----------
    K. He, X. Zhang, S. Ren and J. Sun, "Deep residual learning for image
    recognition", CVPR 2016.

    T. He, Z. Zhang, H. Zhang, Z. Zhang, J. Xie and M. Li, "Bag of tricks for image
    classification with convolutional neural networks", CVPR 2019.

    Y. Wu and K. He, "Group normalization", ECCV 2018.

    Examples
    --------
    >>> import torch
    >>> from sksubtomo.networks import ResNet3D
    >>> network = ResNet3D(widths=(16, 32)).build((16, 16, 16))
    >>> network(torch.zeros(2, 1, 16, 16, 16)).shape
    torch.Size([2, 32])
    """

    def __init__(
        self,
        widths: Sequence[int] = (32, 64, 128),
        n_blocks: int = 1,
        norm: str = "batch",
    ) -> None:
        self.widths = widths
        self.n_blocks = n_blocks
        self.norm = norm

    def build(self, volume_shape: tuple[int, int, int]) -> ResNet3DNetwork:
        """Build the network with freshly drawn weights.

        Parameters
        ----------
        volume_shape : tuple of int
            Depth, height and width of the volumes in voxels; other volumes can be
            encoded, too.

        Returns
        -------
        ResNet3DNetwork
            The network, its weights drawn from torch's global generator.

        Raises
        ------
        ValueError
            If a parameter is not acceptable.
        """
        if self.norm not in ("batch", "group"):
            raise ValueError(f"norm={self.norm!r}; expected 'batch' or 'group'.")
        multiple = CHANNELS_PER_GROUP if self.norm == "group" else 1
        if not (
            isinstance(self.widths, Sequence)
            and len(self.widths) > 0
            and all(
                isinstance(width, Integral) and width > 0 and width % multiple == 0
                for width in self.widths
            )
        ):
            kind = f"multiples of {multiple}" if multiple > 1 else "whole numbers"
            raise ValueError(
                f"widths={self.widths!r}; expected {kind} above 0, one for each stage."
            )
        if not (isinstance(self.n_blocks, Integral) and self.n_blocks > 0):
            raise ValueError(
                f"n_blocks={self.n_blocks!r}; expected a whole number above 0."
            )
        return ResNet3DNetwork(volume_shape, self.widths, self.n_blocks, self.norm)


class ResNet3DNetwork(nn.Module):
    """The torch side of :class:`ResNet3D`.

    Parameters
    ----------
    volume_shape : tuple of int
        Depth, height and width of the volumes in voxels.
    widths : sequence of int
        Channels of each stage.
    n_blocks : int
        Blocks in a stage.
    norm : {"batch", "group"}
        Normalisation.

    Attributes
    ----------
    n_features : int
        Width of the output.
    """

    def __init__(
        self,
        volume_shape: tuple[int, int, int],
        widths: Sequence[int],
        n_blocks: int,
        norm: str,
    ) -> None:
        super().__init__()
        self.n_features = int(widths[-1])
        self.stem = convolution(1, widths[0], volume_shape, bias=False)
        self.norm = normalization(norm, widths[0])
        blocks = []
        sides, n_in = halved(volume_shape), widths[0]
        for stage, width in enumerate(widths):
            for block in range(n_blocks):
                halves = stage > 0 and block == 0
                blocks.append(_Block(n_in, width, sides, halves, norm))
                n_in = width
                if halves:
                    sides = halved(sides)
        self.blocks = nn.Sequential(*blocks)

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
        # Pooling first is an eighth of the work for normalisation and ReLU.
        hidden = convolve_and_pool(self.stem, volumes, ceil_mode=True)
        features: Tensor = self.blocks(functional.relu_(self.norm(hidden)))
        return features.mean((2, 3, 4))


class _Block(nn.Module):
    """Two 3^3 convolutions beside a shortcut, at half the resolution if asked to."""

    def __init__(
        self, n_in: int, width: int, sides: Sides, halves: bool, norm: str
    ) -> None:
        super().__init__()
        after = halved(sides) if halves else sides
        scaled_last = normalization(norm, width)
        assert isinstance(scaled_last.weight, Tensor)
        nn.init.zeros_(scaled_last.weight)
        self.residual = nn.Sequential(
            convolution(n_in, width, sides, stride=2 if halves else 1, bias=False),
            normalization(norm, width),
            nn.ReLU(inplace=True),
            convolution(width, width, after, bias=False),
            scaled_last,
        )
        self.halves = halves
        self.shortcut = nn.Sequential()
        if n_in != width:
            self.shortcut.append(convolution(n_in, width, after, kernel=1, bias=False))
            self.shortcut.append(normalization(norm, width))

    def forward(self, hidden: Tensor) -> Tensor:
        beside = hidden
        if self.halves:
            # Means, unlike maxima, are not taken over more voxels than a side has.
            kernel = [min(2, side) for side in hidden.shape[2:]]
            beside = functional.avg_pool3d(hidden, kernel, ceil_mode=True)
        return functional.relu_(self.residual(hidden) + self.shortcut(beside))
