import numpy as np
import pytest

from sksubtomo.datasets import (
    apply_transfer,
    draw_density,
    gaussian_transfer,
    list_phantoms,
    load_phantom,
    point_group_rotations,
    random_rotations,
    transform_points,
)
from sksubtomo.datasets.phantoms import PHANTOMS


def test_there_are_ten_of_comparable_mass():
    names = list_phantoms()
    assert len(names) >= 10
    assert names == sorted(names)
    masses = np.array([load_phantom(name).mass for name in names])
    assert masses.min() >= 350e3
    assert masses.max() <= 900e3
    assert masses.max() / masses.min() < 2


@pytest.mark.parametrize("name", list_phantoms())
def test_outer_dimensions_are_the_published_ones(name):
    extent = np.ptp(load_phantom(name).coordinates, axis=0)[::-1]
    # Within a tenth of the published dimensions, which are rounded themselves.
    np.testing.assert_allclose(extent, PHANTOMS[name].dimensions, rtol=0.1)


@pytest.mark.parametrize("name", list_phantoms())
def test_point_group_maps_the_phantom_onto_itself(name):
    structure = load_phantom(name)
    xyz = structure.coordinates[:, ::-1]
    rotations = point_group_rotations(PHANTOMS[name].point_group)
    points = np.sort(np.round(np.linalg.norm(xyz, axis=1), 6))
    # Every point has as many images at its distance from the centre as the group has
    # elements, and each rotation leaves all second moments about the axes unchanged.
    assert (np.unique(points, return_counts=True)[1] % len(rotations) == 0).all()
    moments = xyz.T @ (structure.masses[:, None] * xyz)
    for rotation in rotations:
        turned = rotation @ moments @ rotation.T
        np.testing.assert_allclose(turned, moments, atol=1e-6 * moments.max())


@pytest.mark.parametrize("name", list_phantoms())
def test_lobes_are_not_piled_up(name):
    structure = load_phantom(name)
    volume = draw_density(structure.coordinates, structure.masses, 24, 10.0)
    assert volume.max() < 2.5 * 0.81


def test_group_rotations_form_a_group():
    for symbol, order in [("C1", 1), ("C6", 6), ("D2", 4), ("D7", 14), ("T", 12)]:
        rotations = point_group_rotations(symbol)
        assert rotations.shape == (order, 3, 3)
        np.testing.assert_allclose(np.linalg.det(rotations), 1)
        products = (rotations[:, None] @ rotations).reshape(-1, 9)
        distances = np.abs(products[:, None] - rotations.reshape(-1, 9)).max(axis=2)
        assert (distances.min(axis=1) < 1e-9).all()
        assert len(np.unique(np.round(rotations.reshape(-1, 9), 6), axis=0)) == order


@pytest.mark.parametrize("symbol", ["", "C", "C0", "D-1", "I2", "X3"])
def test_unknown_point_group(symbol):
    with pytest.raises(ValueError, match="point_group"):
        point_group_rotations(symbol)


def test_a_changed_phantom_does_not_come_back():
    load_phantom("groel").coordinates[:] = 0
    assert load_phantom("groel").radius > 80


def test_unknown_phantom_names_the_known_ones():
    with pytest.raises(ValueError, match=r"'grol' is not a phantom.*groel"):
        load_phantom("grol")


def radial_profiles(name, size, side, rng):
    """Density in shells around the centre, scaled to unit norm, in ten orientations."""
    structure = load_phantom(name)
    voxel_size = side / size
    transfer = gaussian_transfer(size, voxel_size, 2 * voxel_size)
    ticks = np.arange(size) - (size - 1) / 2
    radius = np.linalg.norm(np.meshgrid(ticks, ticks, ticks), axis=0)
    shell = np.round(radius - radius.min()).astype(int).ravel()
    profiles = []
    for rotation in random_rotations(10, rng):
        points = transform_points(structure.coordinates, rotation, [0, 0, 0])
        volume = draw_density(points, structure.masses, size, voxel_size)
        volume = apply_transfer(volume, transfer)
        # Divided by the root of the number of voxels, so that distances between
        # profiles are distances between spherically averaged volumes.
        profile = np.bincount(shell, volume.ravel()) / np.sqrt(np.bincount(shell))
        profiles.append(profile / np.linalg.norm(profile))
    return np.array(profiles)


@pytest.mark.parametrize("size", [8, 16, 32])
def test_classes_differ_whatever_the_box_size(size):
    rng = np.random.default_rng(0)
    profiles = [radial_profiles(name, size, 230.0, rng) for name in list_phantoms()]
    means = np.array([profile.mean(axis=0) for profile in profiles])
    within = np.array(
        [
            np.mean(np.sum((profile - mean) ** 2, axis=1))
            for profile, mean in zip(profiles, means, strict=True)
        ]
    )
    between = np.linalg.norm(means[:, None] - means, axis=2)
    spread = np.sqrt((within[:, None] + within) / 2)
    pairs = ~np.eye(len(means), dtype=bool)
    # Neither mass nor orientation makes the difference: the first is scaled away, and
    # the second, which on a coarse grid leaves a trace, moves a profile far less.
    assert between[pairs].min() > 0.07
    assert (between / spread)[pairs].min() > 3
