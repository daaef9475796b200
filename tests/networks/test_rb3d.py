import pytest
import torch
from sklearn.base import clone
from torch import nn
from torch.nn import functional

from sksubtomo.networks import RB3D, rb3d


def _n_parameters(module):
    return sum(p.numel() for p in module.parameters())


def _literal_rb3d(network, x):
    """RB3D written out from its description, with the network's own weights."""

    def conv(layer, h):
        return functional.conv3d(h, layer.weight, layer.bias, padding=layer.padding)

    h = functional.max_pool3d(functional.relu(conv(network.stem, x)), 2)
    for block in network.blocks:
        convs = [m for m in block.left if isinstance(m, nn.Conv3d)]
        right = functional.relu(conv(block.right[0], h))
        left = functional.relu(conv(convs[0], h))
        left = functional.relu(conv(convs[1], left))
        left = conv(convs[2], left)
        h = functional.relu(torch.cat([right, left], 1))
    return functional.adaptive_avg_pool3d(h, 2).flatten(1)


def test_published_size():
    network = RB3D().build((32, 32, 32))
    assert _n_parameters(network) == 115_904
    assert network.n_features == 256


@pytest.mark.parametrize("side", [8, 9, 12, 15, 28, 32])
def test_equals_the_description(side):
    torch.manual_seed(0)
    network = RB3D().build((side,) * 3).double()
    x = torch.randn(2, 1, side, side, side, dtype=torch.float64)
    torch.testing.assert_close(
        network(x), _literal_rb3d(network, x), rtol=1e-10, atol=1e-12
    )


@pytest.mark.parametrize("n", [1, 2, 3, 5, 8])
def test_parts_of_a_batch_make_the_whole(n, monkeypatch):
    """On the CPU the stem runs on a few volumes at a time, but never on one of many."""
    torch.manual_seed(0)
    network = RB3D().build((8, 8, 8)).double()
    x = torch.randn(n, 1, 8, 8, 8, dtype=torch.float64)
    sizes = []
    network.stem.register_forward_hook(lambda _, given, __: sizes.append(len(given[0])))

    def features_and_gradients():
        network.zero_grad()
        features = network(x)
        features.square().sum().backward()
        return [features, *(p.grad.clone() for p in network.parameters())]

    whole = features_and_gradients()
    assert sizes == [n]
    sizes.clear()
    monkeypatch.setattr(rb3d, "_PART_VALUES", 1)
    torch.testing.assert_close(features_and_gradients(), whole, rtol=1e-10, atol=1e-12)
    assert sizes == {1: [1], 2: [2], 3: [3], 5: [3, 2], 8: [2] * 4}[n]


@pytest.mark.parametrize("norm", [None, "group"])
@pytest.mark.parametrize(
    "shape", [(1, 1, 1), (1, 1, 2), (1, 1, 7), (2, 2, 2), (3, 3, 3), (8, 10, 12)]
)
def test_any_shape(norm, shape):
    network = RB3D(norm=norm).build(shape)
    features = network(torch.randn(3, 1, *shape))
    assert features.shape == (3, 256)
    assert torch.isfinite(features).all()
    features.sum().backward()
    assert all(p.grad is not None for p in network.parameters())


def test_initialisation():
    network = RB3D().build((8, 8, 8))
    for module in network.modules():
        if isinstance(module, nn.Conv3d):
            assert (module.bias == 0).all()
            fan_out = module.out_channels * module.kernel_size[0] ** 3
            expected = (2 / fan_out) ** 0.5
            assert module.weight.std().item() == pytest.approx(expected, rel=0.15)


def test_group_norm_is_in_every_block_and_only_there():
    network = RB3D(norm="group").build((8, 8, 8))
    per_block = [
        sum(isinstance(m, nn.GroupNorm) for m in block.modules())
        for block in network.blocks
    ]
    assert per_block == [4, 4, 4, 4]
    assert sum(isinstance(m, nn.GroupNorm) for m in network.modules()) == 16
    assert not any(
        isinstance(m, nn.GroupNorm) for m in RB3D().build((8, 8, 8)).modules()
    )


def test_group_norm_does_not_mix_volumes():
    network = RB3D(norm="group").build((8, 8, 8)).double()
    x = torch.randn(4, 1, 8, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(network(x)[:1], network(x[:1]), rtol=1e-9, atol=1e-12)


def test_unknown_norm_is_named():
    with pytest.raises(ValueError, match=r"norm='batch'; expected None or 'group'"):
        RB3D(norm="batch").build((8, 8, 8))


def test_is_a_parameter_object():
    assert clone(RB3D(norm="group")).get_params() == {"norm": "group"}
