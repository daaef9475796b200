import numpy as np
import pytest
import torch
from torch import nn

from sksubtomo.inspection._layers import last_features, list_layers
from sksubtomo.networks import CB3D, DSRF3D, RB3D, BatchNormCNN, ResNet3D

CPU = torch.device("cpu")


def positions_along_depth(*modules, side):
    network = nn.Sequential(*modules).eval()
    name = str(len(modules) - 1)
    layers = list_layers(network, (side, 4, 4), CPU)
    (found,) = [layer for layer in layers if layer.name == name]
    return found.positions[0]


@pytest.mark.parametrize(
    ("module", "side", "expected"),
    [
        (nn.Conv3d(1, 1, 3, padding=1), 5, [0, 1, 2, 3, 4]),
        (nn.Conv3d(1, 1, 3, padding="same"), 5, [0, 1, 2, 3, 4]),
        (nn.Conv3d(1, 1, 3), 5, [1, 2, 3]),
        (nn.Conv3d(1, 1, 3, stride=2, padding=1), 7, [0, 2, 4, 6]),
        (nn.Conv3d(1, 1, 2, stride=2), 6, [0.5, 2.5, 4.5]),
        (nn.Conv3d(1, 1, (3, 1, 1), dilation=(2, 1, 1)), 7, [2, 3, 4]),
        (nn.MaxPool3d(2), 7, [0.5, 2.5, 4.5]),
        # The last window has a single voxel of the volume.
        (nn.MaxPool3d(2, ceil_mode=True), 7, [0.5, 2.5, 4.5, 6]),
        (nn.MaxPool3d(2, padding=1), 6, [0, 1.5, 3.5, 5]),
        (nn.AvgPool3d(3, 2), 7, [1, 3, 5]),
        (nn.AdaptiveAvgPool3d(2), 7, [1.5, 4.5]),
        # Its grid is not followed: voxels share the volume evenly.
        (nn.Upsample(scale_factor=2), 3, [-0.25, 0.25, 0.75, 1.25, 1.75, 2.25]),
        (nn.Identity(), 2, [0, 1]),
    ],
)
def test_positions_are_centres_of_windows(module, side, expected):
    np.testing.assert_allclose(positions_along_depth(module, side=side), expected)


def test_positions_are_followed_through_several_layers():
    found = positions_along_depth(
        nn.Conv3d(1, 8, 3, padding=1),
        nn.MaxPool3d(2),
        nn.GroupNorm(1, 8),
        nn.BatchNorm3d(8),
        nn.ReLU(inplace=True),
        nn.Conv3d(8, 4, 3, stride=2, padding=1),
        nn.Dropout(0.5),
        nn.GELU(),
        side=16,
    )
    np.testing.assert_allclose(found, [0.5, 4.5, 8.5, 12.5])


class Branches(nn.Module):
    """A strided convolution beside a pooling, gated by the mean of each channel."""

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv3d(1, 2, 3, stride=2, padding=1)

    def forward(self, volumes):
        beside = nn.functional.avg_pool3d(volumes, 2)
        features = self.convolution(volumes) + beside
        return features * features.mean((2, 3, 4), keepdim=True).sigmoid()


def test_positions_of_branches_are_averaged():
    found = positions_along_depth(Branches(), side=8)
    np.testing.assert_allclose(found, [0.25, 2.25, 4.25, 6.25])


@pytest.mark.parametrize(
    ("encoder", "side", "name", "n_voxels"),
    [
        (RB3D(), 16, "blocks", (8, 8, 8)),
        (RB3D("group"), 7, "blocks", (3, 3, 3)),
        (RB3D(variant="che2018"), 8, "blocks", (4, 4, 4)),
        (BatchNormCNN(), 16, "convolutions", (2, 2, 2)),
        # After the last pooling a single voxel would be left.
        (BatchNormCNN(), 8, "convolutions.7", (2, 2, 2)),
        (DSRF3D(), 16, "convolutions", (2, 2, 2)),
        (DSRF3D(), 8, "convolutions.11", (2, 2, 2)),
        (CB3D(), 8, "convolutions.7", (4, 2, 2)),
        (ResNet3D(), 16, "blocks", (2, 2, 2)),
        (ResNet3D(), 8, "blocks.1", (2, 2, 2)),
    ],
)
def test_last_features_of_the_encoders(encoder, side, name, n_voxels):
    shape = (side, side, side)
    network = encoder.build(shape).eval()
    found = last_features(list_layers(network, shape, CPU), shape)
    assert found.name == name
    assert tuple(map(len, found.positions)) == n_voxels


def test_convolutions_are_features_where_there_is_nothing_else():
    network = nn.Sequential(nn.Conv3d(1, 2, 3), nn.AdaptiveAvgPool3d(2), nn.Flatten())
    found = last_features(list_layers(network, (4, 4, 4), CPU), (4, 4, 4))
    assert found.name == "0"
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    assert last_features(list_layers(network, (4, 4, 4), CPU), (4, 4, 4)) is None


def test_a_module_that_runs_twice_is_counted():
    shared = nn.ReLU()
    network = nn.Sequential(shared, nn.Conv3d(1, 1, 1), shared)
    layers = {layer.name: layer for layer in list_layers(network, (2, 2, 2), CPU)}
    assert layers["0"].n_runs == 2
    assert layers["1"].n_runs == 1
    assert not shared._forward_hooks
