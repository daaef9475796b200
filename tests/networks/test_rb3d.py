import pytest
import torch
from torch import nn
from torch.nn import functional

from sksubtomo.networks import RB3D


def _n_parameters(module):
    return sum(p.numel() for p in module.parameters())


def _literal_blocks(network, x):
    """RB3D's convolutions from its description, with the network's own weights."""

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
    return h


def test_published_size():
    network = RB3D().build((32, 32, 32))
    assert _n_parameters(network) == 115_904
    assert network.n_features == 256


@pytest.mark.parametrize("side", [28, 32])
def test_published_size_of_che(side):
    # Without memory: 542 MB at 32^3.
    with torch.device("meta"):
        network = RB3D(variant="che2018").build((side,) * 3)
        features = network(torch.empty(1, 1, side, side, side))
    first = 32 * (side // 2) ** 3 * 1024 + 1024
    second = 1024 * 1024 + 1024
    assert _n_parameters(network) == 115_904 + first + second
    assert features.shape == (1, 1024)
    assert network.n_features == 1024


@pytest.mark.parametrize("side", [8, 9, 12, 15])
def test_equals_the_description(side):
    torch.manual_seed(0)
    network = RB3D().build((side,) * 3).double()
    x = torch.randn(2, 1, side, side, side, dtype=torch.float64)
    expected = functional.adaptive_avg_pool3d(_literal_blocks(network, x), 2).flatten(1)
    torch.testing.assert_close(network(x), expected, rtol=1e-10, atol=1e-12)


def test_equals_the_description_of_che():
    torch.manual_seed(0)
    network = RB3D(variant="che2018").build((8, 8, 8)).double().eval()
    x = torch.randn(2, 1, 8, 8, 8, dtype=torch.float64)
    expected = _literal_blocks(network, x).flatten(1)
    linear = [m for m in network.readout.modules() if isinstance(m, nn.Linear)]
    for layer in linear:
        expected = functional.relu(layer(expected))
    assert len(linear) == 2
    torch.testing.assert_close(network(x), expected, rtol=1e-10, atol=1e-12)


def test_dropout_is_where_che_has_it():
    network = RB3D(variant="che2018").build((8, 8, 8))
    assert [block.left[-1].p for block in network.blocks] == [0.7] * 4
    found = [m.p for m in network.modules() if isinstance(m, nn.Dropout)]
    assert found == [0.7] * 4 + [0.5] * 2
    modules = RB3D().build((8, 8, 8)).modules()
    assert not any(isinstance(m, nn.Dropout) for m in modules)


def test_names_of_the_weights():
    """Models that are saved have these."""
    network = RB3D(norm="group").build((8, 8, 8))
    names = {name.removesuffix(".bias") for name, _ in network.named_parameters()}
    assert {"stem", "blocks.0.right.0", "blocks.3.left.6", "blocks.3.left.7"} < names


def test_initialisation():
    network = RB3D().build((8, 8, 8))
    for module in network.modules():
        if isinstance(module, nn.Conv3d):
            assert (module.bias == 0).all()
            fan_out = module.out_channels * module.kernel_size[0] ** 3
            expected = (2 / fan_out) ** 0.5
            assert module.weight.std().item() == pytest.approx(expected, rel=0.15)


@pytest.mark.parametrize("variant", ["gupta2022", "che2018"])
def test_group_norm_is_in_every_block_and_only_there(variant):
    network = RB3D(norm="group", variant=variant).build((8, 8, 8))
    per_block = [
        sum(isinstance(m, nn.GroupNorm) for m in block.modules())
        for block in network.blocks
    ]
    assert per_block == [4, 4, 4, 4]
    assert sum(isinstance(m, nn.GroupNorm) for m in network.modules()) == 16
    network = RB3D(variant=variant).build((8, 8, 8))
    assert not any(isinstance(m, nn.GroupNorm) for m in network.modules())


def test_group_norm_does_not_mix_volumes():
    network = RB3D(norm="group").build((8, 8, 8)).double()
    x = torch.randn(4, 1, 8, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(network(x)[:1], network(x[:1]), rtol=1e-9, atol=1e-12)


def test_unknown_parameter_is_named():
    with pytest.raises(ValueError, match=r"norm='batch'; expected None or 'group'"):
        RB3D(norm="batch").build((8, 8, 8))
    with pytest.raises(ValueError, match=r"variant='che'; expected 'gupta2022' or"):
        RB3D(variant="che").build((8, 8, 8))
