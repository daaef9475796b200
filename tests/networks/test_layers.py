import pytest
import torch
from torch import nn
from torch.nn import functional

from sksubtomo.networks import _layers
from sksubtomo.networks._layers import (
    BatchNorm3d,
    convolution,
    convolve_and_pool,
    dense_layers,
    halved,
    normalization,
)


@pytest.mark.parametrize("shape", [(1, 3, 1, 1, 2), (2, 3, 1, 1, 1), (4, 3, 2, 3, 2)])
def test_batch_norm_is_that_of_torch(shape):
    layers = [BatchNorm3d(3), nn.BatchNorm3d(3)]
    inputs = torch.randn(shape)
    for mode in (True, True, False):
        ours, theirs = [layer.train(mode)(inputs) for layer in layers]
        assert torch.equal(ours, theirs)
    ours, theirs = [layer.state_dict() for layer in layers]
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_batch_norm_of_a_single_value_uses_running_statistics():
    layer = BatchNorm3d(2)
    layer(torch.randn(8, 2, 2, 2, 2) + 3)
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    assert before["running_mean"].abs().min() > 0.1
    inputs = torch.randn(1, 2, 1, 1, 1, requires_grad=True)
    outputs = layer(inputs)
    outputs.sum().backward()
    assert (inputs.grad != 0).all()
    for name, value in layer.state_dict().items():
        assert torch.equal(value, before[name])
    assert torch.equal(outputs, layer.eval()(inputs))


def test_normalization_by_name():
    assert type(normalization("batch", 16)) is BatchNorm3d
    group = normalization("group", 16)
    assert (group.num_groups, group.num_channels) == (2, 16)
    assert isinstance(normalization(None, 16), nn.Identity)


@pytest.mark.parametrize("side", [1, 2, 5])
@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (3, 1), (3, 2)])
def test_convolution_keeps_position_and_rounds_up(side, kernel, stride):
    layer = convolution(1, 2, (side,) * 3, kernel=kernel, stride=stride)
    outputs = layer(torch.zeros(1, 1, side, side, side))
    expected = halved((side,) * 3) if stride == 2 else (side,) * 3
    assert outputs.shape == (1, 2, *expected)
    assert (layer.bias == 0).all()
    assert convolution(1, 2, (side,) * 3, bias=False).bias is None


@pytest.mark.parametrize(
    ("sides", "fan"), [((1, 1, 1), 8), ((1, 1, 9), 24), ((2, 2, 2), 216)]
)
def test_weights_suit_the_taps_inside_the_volume(sides, fan):
    torch.manual_seed(0)
    deviation = convolution(8, 500, sides).weight.std().item()
    assert deviation == pytest.approx((2 / fan) ** 0.5, rel=0.02)


def test_dense_layers():
    torch.manual_seed(0)
    layers = dense_layers(50, 400, dropout=0.7)
    linear = [layer for layer in layers if isinstance(layer, nn.Linear)]
    for layer, n_in in zip(linear, (50, 400), strict=True):
        deviation = layer.weight.std().item()
        assert deviation == pytest.approx((2 / n_in) ** 0.5, rel=0.02)
        assert (layer.bias == 0).all()
    inputs = torch.randn(20, 50)
    dropped = (layers(inputs) == 0).float().mean()
    assert dropped == pytest.approx(0.7 + 0.3 * 0.5, abs=0.03)
    hidden = functional.relu(linear[0](inputs))
    expected = functional.relu(linear[1](hidden))
    torch.testing.assert_close(layers.eval()(inputs), expected)


def test_any_volume_can_be_halved():
    assert halved((1, 2, 3)) == (1, 1, 2)
    for _ in range(3):
        assert halved((1, 1, 1)) == (1, 1, 1)


@pytest.mark.parametrize(
    ("ceil_mode", "pooled"), [(False, (1, 1, 2)), (True, (1, 2, 2))]
)
def test_convolve_and_pool(ceil_mode, pooled):
    layer = nn.Conv3d(1, 2, 3, padding=1)
    volumes = torch.randn(3, 1, 1, 3, 4)
    found = convolve_and_pool(layer, volumes, ceil_mode=ceil_mode)
    assert found.shape == (3, 2, *pooled)
    convolved = layer(volumes)
    assert torch.equal(found[:, :, 0, 0, 1], convolved[:, :, 0, :2, 2:].amax((2, 3)))
    if ceil_mode:
        last = convolved[:, :, 0, 2, :2].amax(2)
        assert torch.equal(found[:, :, 0, 1, 0], last)


@pytest.mark.parametrize("n", [1, 2, 3, 5, 8])
def test_parts_of_a_batch_make_the_whole(n, monkeypatch):
    """On the CPU it runs on a few volumes at a time, but never on one of many."""
    torch.manual_seed(0)
    layer = nn.Conv3d(1, 4, 3, padding=1).double()
    volumes = torch.randn(n, 1, 4, 4, 4, dtype=torch.float64)
    sizes = []
    layer.register_forward_hook(lambda _, given, __: sizes.append(len(given[0])))

    def output_and_gradients():
        layer.zero_grad()
        output = convolve_and_pool(layer, volumes)
        output.square().sum().backward()
        return [output, *(p.grad.clone() for p in layer.parameters())]

    whole = output_and_gradients()
    assert sizes == [n]
    sizes.clear()
    monkeypatch.setattr(_layers, "_PART_VALUES", 1)
    torch.testing.assert_close(output_and_gradients(), whole, rtol=1e-10, atol=1e-12)
    assert sizes == {1: [1], 2: [2], 3: [3], 5: [3, 2], 8: [2] * 4}[n]
