import pytest
import torch
from torch import nn
from torch.nn import functional

from sksubtomo.networks import CB3D

CHANNELS = [(1, 64), (64, 128), (128, 256), (256, 256), (256, 512)] + 3 * [(512, 512)]


@pytest.mark.parametrize("side", [28, 32])
def test_published_size(side):
    with torch.device("meta"):
        network = CB3D().build((side,) * 3)
        features = network(torch.empty(1, 1, side, side, side))
    convolutions = sum(27 * n_in * n_out + n_out for n_in, n_out in CHANNELS)
    # Height and width 32 -> 16 -> 8 -> 4 -> 2, padded to 4 -> 2; the depth 32 is left
    # out at first and not padded: 32 -> 16 -> 8 -> 4 -> 2. The same from 28 on.
    dense = (512 * 2**3 * 4096 + 4096) + (4096 * 4096 + 4096)
    assert sum(p.numel() for p in network.parameters()) == convolutions + dense
    assert features.shape == (1, 4096)


def test_equals_the_description():
    torch.manual_seed(0)
    with torch.device("meta"):
        # In double precision its dense layers would take half a gigabyte.
        network = CB3D().build((16, 16, 32)).convolutions
    network.to_empty(device="cpu")
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.02)
    x = torch.randn(1, 1, 16, 16, 32)
    convs = [m for m in network if isinstance(m, nn.Conv3d)]
    assert [(m.in_channels, m.out_channels) for m in convs] == CHANNELS
    h = x
    for index, layer in enumerate(convs):
        h = functional.conv3d(h, layer.weight, layer.bias, padding=1)
        h = functional.relu(h)
        if index == 0:
            h = functional.max_pool3d(h, (1, 2, 2))
        elif index in (1, 3, 5):
            h = functional.max_pool3d(h, 2)
    # The padding is of zeros, which are no more than what a ReLU lets through.
    h = functional.max_pool3d(functional.pad(h, (1, 1, 1, 1)), 2)
    found = network(x)
    assert found.shape == (1, 512, 1, 1, 2)
    torch.testing.assert_close(found, h, rtol=1e-4, atol=1e-6)


def test_dropout():
    with torch.device("meta"):
        network = CB3D().build((8, 8, 8))
    dropouts = [m.p for m in network.modules() if isinstance(m, nn.Dropout)]
    assert dropouts == [0.5, 0.5]
