import torch
from torch import nn
from torch.nn import functional

from sksubtomo.networks import BatchNormCNN


def test_size():
    network = BatchNormCNN().build((32, 32, 32))
    convolutions = 27 * (1 * 32 + 32 * 64 + 64 * 128)
    norms = 2 * (32 + 64 + 128)
    n_parameters = sum(p.numel() for p in network.parameters())
    assert n_parameters == convolutions + norms == 277_792
    assert network.n_features == 128


def test_equals_the_description():
    torch.manual_seed(0)
    network = BatchNormCNN().build((8, 8, 16)).double()
    x = torch.randn(3, 1, 8, 8, 16, dtype=torch.float64)
    modules = list(network.modules())
    convs = [m for m in modules if isinstance(m, nn.Conv3d)]
    norms = [m for m in modules if isinstance(m, nn.BatchNorm3d)]
    for norm in norms:
        # Where a scale is negative, normalisation and pooling do not commute.
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    h = x
    for conv, norm in zip(convs, norms, strict=True):
        h = functional.conv3d(h, conv.weight, padding=1)
        h = functional.batch_norm(h, None, None, norm.weight, norm.bias, training=True)
        h = functional.max_pool3d(functional.relu(h), 2)
    expected = h.mean((2, 3, 4))
    torch.testing.assert_close(network(x), expected, rtol=1e-9, atol=1e-12)
