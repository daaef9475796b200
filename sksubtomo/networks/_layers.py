"""What several networks are made of: convolutions, normalisation, dense layers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

Sides = tuple[int, int, int]

# Enough channels that a group still carries information where a volume is pooled
# to a single voxel: with two, normalised values are only ever plus and minus one.
CHANNELS_PER_GROUP = 8

# Float32 values of a convolution's output that are computed at once on the CPU: 8 MB.
_PART_VALUES = 1 << 21


class BatchNorm3d(nn.BatchNorm3d):
    """Batch normalisation, also where a channel has a single value.

    Parameters
    ----------
    channels : int
        Channels of the input.

    Attributes
    ----------
    normalizes_as_torch : bool
        True: where several processes train together, which has the same exception,
        their common batch normalisation stands in for `forward`.
    """

    normalizes_as_torch = True

    def __init__(self, channels: int) -> None:
        super().__init__(channels)

    def forward(self, hidden: Tensor) -> Tensor:
        """Normalise each channel over the batch, or by running statistics.

        Running statistics serve in evaluation mode, and where a batch of one volume
        is pooled to one voxel, which has no spread. They do not change there.

        Parameters
        ----------
        hidden : Tensor of shape (n, channels, depth, height, width)
            Output of a convolution.

        Returns
        -------
        Tensor of shape (n, channels, depth, height, width)
            Normalised output.
        """
        if self.training and hidden.numel() == hidden.shape[1]:
            return functional.batch_norm(
                hidden,
                self.running_mean,
                self.running_var,
                self.weight,
                self.bias,
                eps=self.eps,
            )
        return super().forward(hidden)


def normalization(norm: str | None, channels: int) -> nn.Module:
    """Make the layer that a ``norm`` parameter stands for.

    Parameters
    ----------
    norm : {"batch", "group", None}
        What the parameter says.
    channels : int
        Channels of the input; a multiple of eight for "group".

    Returns
    -------
    torch.nn.Module
        The layer; None is the identity.
    """
    if norm == "batch":
        return BatchNorm3d(channels)
    if norm == "group":
        return nn.GroupNorm(channels // CHANNELS_PER_GROUP, channels)
    return nn.Identity()


def convolution(
    n_in: int,
    n_out: int,
    sides: Sides,
    *,
    kernel: int = 3,
    stride: int = 1,
    bias: bool = True,
) -> nn.Conv3d:
    """Make a convolution with weights that keep the scale of what they see.

    Parameters
    ----------
    n_in, n_out : int
        Channels of input and output.
    sides : tuple of int
        Depth, height and width of the input.
    kernel : int, default=3
        Side of the kernel, an odd number.
    stride : int, default=1
        Distance between outputs; their sides are those of the input divided by it and
        rounded up.
    bias : bool, default=True
        Whether a bias is added.

    Returns
    -------
    torch.nn.Conv3d
        The layer, with He's normal weights by fan-in.
    """
    layer = nn.Conv3d(n_in, n_out, kernel, stride, kernel // 2, bias=bias)
    draw_he_normal(layer, n_in * n_taps(layer, sides))
    return layer


def dense_layers(n_in: int, width: int, *, dropout: float) -> nn.Sequential:
    """Make two dense layers, each with ReLU and dropout.

    Parameters
    ----------
    n_in : int
        Width of the input.
    width : int
        Width of both layers.
    dropout : float
        Part of the outputs that is set to zero in training.

    Returns
    -------
    torch.nn.Sequential
        The layers, with He's normal weights by fan-in.
    """
    layers: list[nn.Module] = []
    for n_inputs in (n_in, width):
        layer = nn.Linear(n_inputs, width)
        draw_he_normal(layer, n_inputs)
        layers += [layer, nn.ReLU(inplace=True), nn.Dropout(dropout)]
    return nn.Sequential(*layers)


def n_taps(layer: nn.Conv3d, sides: Sequence[int]) -> int:
    """Count the taps of a kernel that can lie inside a volume.

    With sides of two voxels and more, those are all of a kernel of three, and He's rule
    is the usual one. In flatter volumes most of a kernel only ever meets padding, and
    the usual rule would let the signal vanish from layer to layer.

    Parameters
    ----------
    layer : torch.nn.Conv3d
        A convolution.
    sides : sequence of int
        Depth, height and width of its input.

    Returns
    -------
    int
        The number of taps.
    """
    return math.prod(
        min(kernel, 2 * side - 1)
        for kernel, side in zip(layer.kernel_size, sides, strict=True)
    )


@torch.no_grad()
def draw_he_normal(layer: nn.Conv3d | nn.Linear, fan: int) -> None:
    """Draw normal weights of variance 2 / fan, and set biases to zero.

    Parameters
    ----------
    layer : torch.nn.Conv3d or torch.nn.Linear
        Changed in place.
    fan : int
        How many inputs an output has (fan-in), or the other way round (fan-out).
    """
    layer.weight.normal_(std=math.sqrt(2 / fan))
    if layer.bias is not None:
        layer.bias.zero_()


def halved(sides: Sides) -> Sides:
    """Return the sides that pooling by two, or a stride of two, leaves.

    Parameters
    ----------
    sides : tuple of int
        Depth, height and width before.

    Returns
    -------
    tuple of int
        Half of each, rounded up, so that any volume can be halved any number of times.
    """
    depth, height, width = (-(-side // 2) for side in sides)
    return depth, height, width


def convolve_and_pool(
    layer: nn.Conv3d, volumes: Tensor, *, ceil_mode: bool = False
) -> Tensor:
    """Convolve volumes and pool the result by two, by maxima.

    On the CPU it is done in parts, so that the convolution's output, the largest tensor
    of a network by far, stays in the cache and its memory is used again.

    Parameters
    ----------
    layer : torch.nn.Conv3d
        A convolution without stride.
    volumes : Tensor of shape (n, channels, depth, height, width)
        Its input.
    ceil_mode : bool, default=False
        Whether the last voxel of an odd side is kept. A side of one voxel always is.

    Returns
    -------
    Tensor of shape (n, layer.out_channels, depth / 2, height / 2, width / 2)
        Maxima.
    """
    n_parts = 1
    if volumes.device.type == "cpu":
        values = layer.out_channels * math.prod(volumes.shape[2:])
        n_parts = max(1, len(volumes) // max(2, _PART_VALUES // values))
    kernel = [min(2, side) for side in volumes.shape[2:]]
    parts = [
        functional.max_pool3d(layer(part), kernel, ceil_mode=ceil_mode)
        for part in volumes.tensor_split(n_parts)
    ]
    return parts[0] if n_parts == 1 else torch.cat(parts)
