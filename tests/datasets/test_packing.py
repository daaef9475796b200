import numpy as np
import pytest
from scipy import stats

from sksubtomo.datasets import place_neighbors, random_rotations, transform_points


def test_rotations_are_uniform():
    rotations = random_rotations(4000, np.random.default_rng(0))
    np.testing.assert_allclose(np.linalg.det(rotations), 1)
    angles = np.arccos(np.clip((np.trace(rotations, axis1=1, axis2=2) - 1) / 2, -1, 1))
    # Under the Haar measure the rotation angle has density (1 - cos t) / pi, and each
    # matrix element, a cosine between two axes, is uniform in [-1, 1].
    haar = stats.kstest(angles, lambda t: (t - np.sin(t)) / np.pi)
    assert haar.pvalue > 0.001
    for row in range(3):
        for column in range(3):
            cosine = stats.kstest(rotations[:, row, column], stats.uniform(-1, 2).cdf)
            assert cosine.pvalue > 0.001
    # A distribution that is nearly right has to be noticed: uniform Euler angles.
    wrong = np.cos(np.random.default_rng(0).uniform(0, np.pi, 4000))
    assert stats.kstest(wrong, stats.uniform(-1, 2).cdf).pvalue < 1e-9


@pytest.mark.parametrize("n", [0, 1, 2, 6, 30])
def test_bounding_spheres_do_not_overlap(n):
    rng = np.random.default_rng(n)
    for _ in range(10):
        radii = rng.uniform(20, 110, n)
        centres = place_neighbors(80.0, radii, rng)
        centres = np.concatenate([[[0.0, 0.0, 0.0]], centres])
        radii = np.concatenate([[80.0], radii])
        distances = np.linalg.norm(centres[:, None] - centres, axis=2)
        gaps = distances - radii[:, None] - radii
        gaps[np.diag_indices_from(gaps)] = np.inf
        assert gaps.min() > -1e-9


def test_neighbors_are_close_and_in_all_directions():
    rng = np.random.default_rng(0)
    centres = np.array([place_neighbors(70.0, [50.0, 60.0], rng) for _ in range(2000)])
    gaps = np.linalg.norm(centres, axis=2) - [120.0, 130.0]
    assert stats.kstest(gaps[:, 0], stats.uniform(0, 20).cdf).pvalue > 0.001
    assert gaps.max() <= 20
    directions = centres[:, 0] / np.linalg.norm(centres[:, 0], axis=1, keepdims=True)
    for axis in directions.T:
        assert stats.kstest(axis, stats.uniform(-1, 2).cdf).pvalue > 0.001


def test_touching_neighbors():
    centres = place_neighbors(70.0, [50.0], np.random.default_rng(0), max_gap=0.0)
    assert np.linalg.norm(centres) == pytest.approx(120.0)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((0.0, [1.0]), {}, "radius=0.0"),
        ((1.0, [1.0, -1.0]), {}, "neighbor_radii"),
        ((1.0, [1.0]), {"max_gap": -1.0}, "max_gap=-1.0"),
    ],
)
def test_refuses(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        place_neighbors(*arguments, np.random.default_rng(0), **options)


def test_transform_is_rotation_then_shift():
    rng = np.random.default_rng(0)
    points, rotation = rng.normal(size=(5, 3)), random_rotations(1, rng)[0]
    moved = transform_points(points, rotation, [1.0, 2.0, 3.0])
    for before, after in zip(points, moved, strict=True):
        np.testing.assert_allclose(after, rotation @ before + [1.0, 2.0, 3.0])
