import pytest
import torch
from torch import nn
from torch.nn import functional

from sksubtomo.networks import ResNet3D


def _norms(network):
    return [
        m for m in network.modules() if isinstance(m, (nn.BatchNorm3d, nn.GroupNorm))
    ]


def _learned(network):
    """Give normalisations scales as if they had learned: they start with zeros."""
    for norm in _norms(network):
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias)
    return network


def test_size():
    network = ResNet3D().build((16, 16, 16))
    convolutions = 27 * (1 * 32 + 2 * 32 * 32)
    convolutions += 27 * (32 * 64 + 64 * 64) + 32 * 64
    convolutions += 27 * (64 * 128 + 128 * 128) + 64 * 128
    norms = 2 * (32 + 2 * 32 + 3 * 64 + 3 * 128)
    n_parameters = sum(p.numel() for p in network.parameters())
    assert n_parameters == convolutions + norms == 897_184
    assert network.n_features == 128


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_equals_the_description(norm):
    torch.manual_seed(0)
    network = _learned(ResNet3D(widths=(8, 16), norm=norm).build((8, 8, 8))).double()
    x = torch.randn(3, 1, 8, 8, 8, dtype=torch.float64)

    def normalize(h, layer):
        if norm == "batch":
            return functional.batch_norm(
                h, None, None, layer.weight, layer.bias, training=True
            )
        return functional.group_norm(
            h, h.shape[1] // 8, layer.weight, layer.bias, layer.eps
        )

    def conv(h, layer, stride=1):
        padding = layer.kernel_size[0] // 2
        return functional.conv3d(h, layer.weight, stride=stride, padding=padding)

    h = functional.max_pool3d(conv(x, network.stem), 2)
    h = functional.relu(normalize(h, network.norm))
    for stage, block in enumerate(network.blocks):
        conv_1, norm_1, _, conv_2, norm_2 = block.residual
        residual = functional.relu(normalize(conv(h, conv_1, 1 + stage), norm_1))
        residual = normalize(conv(residual, conv_2), norm_2)
        if stage > 0:
            h = normalize(
                conv(functional.avg_pool3d(h, 2), block.shortcut[0]), block.shortcut[1]
            )
        h = functional.relu(residual + h)
    expected = h.mean((2, 3, 4))
    torch.testing.assert_close(network(x), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("side", "sides"),
    [(16, [8, 4, 2]), (28, [14, 7, 4]), (48, [24, 12, 6]), (64, [32, 16, 8])],
)
def test_resolutions(side, sides):
    found = []
    with torch.device("meta"):
        network = ResNet3D(n_blocks=2).build((side,) * 3)
        for block in network.blocks:
            block.register_forward_hook(lambda _, __, out: found.append(out.shape[1:]))
        network(torch.empty(1, 1, side, side, side))
    expected = [
        (width, side, side, side)
        for width, side in zip((32, 64, 128), sides, strict=True)
        for _ in range(2)
    ]
    assert found == expected


def test_blocks_start_as_their_shortcuts():
    torch.manual_seed(0)
    network = ResNet3D(widths=(8, 8), n_blocks=2).build((8, 8, 8))
    hidden = torch.rand(2, 8, 4, 4, 4)
    same, _, halving, _ = network.blocks
    assert torch.equal(same(hidden), hidden)
    torch.testing.assert_close(halving(hidden), functional.avg_pool3d(hidden, 2))


def test_norms():
    batch, group = [ResNet3D(norm=norm).build((8, 8, 8)) for norm in ("batch", "group")]
    kinds = [{type(norm).__name__ for norm in _norms(net)} for net in (batch, group)]
    assert kinds == [{"BatchNorm3d"}, {"GroupNorm"}]
    assert [norm.num_groups for norm in _norms(group)] == [4, 4, 4] + [8] * 3 + [16] * 3


def test_group_norm_does_not_mix_volumes():
    network = _learned(ResNet3D(norm="group").build((8, 8, 8))).double()
    x = torch.randn(4, 1, 8, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(network(x)[:1], network(x[:1]), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"norm": None}, "norm=None; expected 'batch' or 'group'"),
        ({"widths": ()}, r"widths=\(\); expected whole numbers above 0"),
        ({"widths": 32}, "widths=32; expected whole numbers above 0"),
        ({"widths": (32, 0)}, r"widths=\(32, 0\); expected whole numbers"),
        ({"widths": (8.0,)}, r"widths=\(8.0,\); expected whole numbers"),
        (
            {"widths": (8, 12), "norm": "group"},
            r"widths=\(8, 12\); expected multiples of 8",
        ),
        ({"n_blocks": 0}, "n_blocks=0; expected a whole number above 0"),
        ({"n_blocks": 1.5}, "n_blocks=1.5; expected a whole number above 0"),
    ],
)
def test_unknown_parameter_is_named(parameters, message):
    with pytest.raises(ValueError, match=message):
        ResNet3D(**parameters).build((8, 8, 8))
