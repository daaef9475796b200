import pytest
import torch
from torch import nn
from torch.nn import functional

from sksubtomo.networks import DSRF3D


@pytest.mark.parametrize("side", [28, 32])
def test_published_size(side):
    with torch.device("meta"):
        network = DSRF3D().build((side,) * 3)
        features = network(torch.empty(1, 1, side, side, side))
    channels = [(1, 32), (32, 32), (32, 64), (64, 64), (64, 128), (128, 128)]
    convolutions = sum(27 * n_in * n_out + n_out for n_in, n_out in channels)
    # 32 -> 16 -> 8 -> 4 and 28 -> 14 -> 7 -> 4.
    dense = (128 * 4**3 * 1024 + 1024) + (1024 * 1024 + 1024)
    assert sum(p.numel() for p in network.parameters()) == convolutions + dense
    assert features.shape == (1, 1024)


@pytest.mark.parametrize("shape", [(8, 8, 8), (8, 8, 16)])
def test_equals_the_description(shape):
    torch.manual_seed(0)
    network = DSRF3D().build(shape).double()
    x = torch.randn(2, 1, *shape, dtype=torch.float64)
    modules = list(network.modules())
    convs = [m for m in modules if isinstance(m, nn.Conv3d)]
    h = x
    for first, second in (convs[:2], convs[2:4], convs[4:]):
        for layer in (first, second):
            h = functional.conv3d(h, layer.weight, layer.bias, padding=1)
            h = functional.relu(h)
        h = functional.max_pool3d(h, 2)
    h = h.flatten(1)
    for layer in [m for m in modules if isinstance(m, nn.Linear)]:
        h = functional.relu(functional.linear(h, layer.weight, layer.bias))
    torch.testing.assert_close(network.eval()(x), h, rtol=1e-10, atol=1e-12)
    assert [m.p for m in modules if isinstance(m, nn.Dropout)] == [0.7, 0.7]
