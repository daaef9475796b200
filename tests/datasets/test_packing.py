import re

import numpy as np
import pytest
from scipy import stats
from scipy.spatial.distance import pdist

from sksubtomo.datasets import (
    pack_spheres,
    packing,
    place_neighbors,
    random_rotations,
    transform_points,
)


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


def gaps_between(centres, radii):
    """Gaps between the spheres of all pairs."""
    return pdist(centres) - np.add.outer(radii, radii)[np.triu_indices(len(radii), 1)]


class TestPlaceNeighbors:
    @pytest.mark.parametrize("crowding", [1.0, 0.5, 0.05])
    @pytest.mark.parametrize("n", [0, 1, 4, 6, 40])
    def test_bounding_spheres_never_overlap(self, n, crowding):
        rng = np.random.default_rng(n)
        for _ in range(20):
            # Neighbours ten times as large as the target, and the other way round.
            radii = rng.uniform(10, 110, n + 1)
            centres = place_neighbors(radii[0], radii[1:], rng, crowding=crowding)
            assert centres.shape == (n, 3)
            gaps = gaps_between(np.vstack([np.zeros(3), centres]), radii)
            assert gaps.min(initial=0) >= -1e-9

    def test_pressed_spheres_touch(self):
        rng = np.random.default_rng(0)
        to_target = []
        for _ in range(100):
            radii = rng.uniform(40, 118, 7)
            centres = place_neighbors(radii[0], radii[1:], rng, crowding=1.0)
            centres = np.vstack([np.zeros(3), centres])
            distances = np.linalg.norm(centres[:, None] - centres, axis=2)
            gaps = distances - radii[:, None] - radii + np.diag(np.full(7, np.inf))
            assert gaps.min(axis=1).max() < 1e-6
            to_target += list(gaps[0, 1:] < 1e-6)
        # Six spheres nearly always have room around one of about their own size.
        assert np.mean(to_target) > 0.9

    def test_crowding_is_the_density_relative_to_contact(self):
        arguments = (50.0, [60.0, 70.0, 40.0, 55.0])
        pressed, loose = (
            place_neighbors(*arguments, np.random.default_rng(0), crowding=crowding)
            for crowding in (1.0, 0.125)
        )
        np.testing.assert_allclose(loose, 2 * pressed)

    def test_neighbors_come_from_all_directions(self):
        rng = np.random.default_rng(0)
        centres = [place_neighbors(70.0, [50.0, 60.0], rng) for _ in range(2000)]
        for neighbor in range(2):
            directions = np.array(centres)[:, neighbor]
            directions /= np.linalg.norm(directions, axis=1, keepdims=True)
            for axis in directions.T:
                assert stats.kstest(axis, stats.uniform(-1, 2).cdf).pvalue > 0.001

    @pytest.mark.parametrize(
        ("arguments", "options", "message"),
        [
            ((0.0, [1.0]), {}, "radius=0.0"),
            ((np.nan, [1.0]), {}, "radius=nan"),
            ((1.0, [1.0, -1.0]), {}, "neighbor_radii"),
            ((1.0, [1.0, np.inf]), {}, "neighbor_radii"),
            ((1.0, [1.0]), {"crowding": 0.0}, "crowding=0.0"),
            ((1.0, [1.0]), {"crowding": 1.1}, "crowding=1.1"),
            ((1.0, [1.0]), {"crowding": np.nan}, "crowding=nan"),
        ],
    )
    def test_refuses(self, arguments, options, message):
        with pytest.raises(ValueError, match=message):
            place_neighbors(*arguments, np.random.default_rng(0), **options)


class TestPackSpheres:
    @pytest.mark.parametrize("sides", [(640, 2000, 2000), (250, 3000, 2500)])
    @pytest.mark.parametrize("inside", [True, False])
    def test_hundreds_without_overlap_in_the_box(self, sides, inside):
        rng = np.random.default_rng(0)
        radii = rng.uniform(40, 118, 1000)
        filled = np.cumsum(4 / 3 * np.pi * radii**3) / np.prod(sides)
        radii = radii[filled < 0.4]
        centres = pack_spheres(radii, sides, rng, inside=inside)
        assert gaps_between(centres, radii).min() >= -1e-9
        margin = radii[:, None] - 1e-9 if inside else 0
        assert (centres - margin >= 0).all()
        assert (centres + margin <= sides).all()
        if not inside:
            assert (centres < radii[:, None]).any()

    def test_fills_the_box_evenly(self):
        centres = pack_spheres(
            np.full(1000, 1.0), (40, 40, 40), np.random.default_rng(0), inside=False
        )
        octants = (centres > 20) @ [4, 2, 1]
        assert np.bincount(octants, minlength=8).min() > 80

    def test_depends_on_the_generator_alone(self):
        radii = np.linspace(20, 60, 50)
        first, again, other = (
            pack_spheres(radii, (300, 500, 500), np.random.default_rng(seed))
            for seed in (0, 0, 1)
        )
        np.testing.assert_array_equal(first, again)
        assert not np.allclose(first, other)

    @pytest.mark.parametrize("n", [0, 1])
    def test_few(self, n):
        centres = pack_spheres([1.0] * n, (2.0, 2.0, 2.0), np.random.default_rng(0))
        np.testing.assert_array_equal(centres, np.ones((n, 3)))

    def test_spheres_in_one_corner_come_apart(self):
        low, high = np.ones((2, 3)), np.array([[1.0, 1.0, 3.1]] * 2)
        centres = packing._push_apart(low.copy(), np.ones(2), low, high, 50)
        assert pdist(centres) >= 2

    @pytest.mark.parametrize(
        ("n", "fraction"), [(295, "0.73"), (2000, "5"), (10**5, r"2.5e\+02")]
    )
    def test_says_what_would_fit(self, n, fraction):
        message = rf"{n} spheres of {fraction} times.*\(12\.0, 12\.0, 12\.0\)"
        radii = np.full(n, 1.007)
        with pytest.raises(ValueError, match=message) as caught:
            pack_spheres(radii, (12, 12, 12), np.random.default_rng(0))
        fits = int(re.search(r"first (\d+) of them fit", str(caught.value))[1])
        assert 100 <= fits < 300
        pack_spheres(radii[:fits], (12, 12, 12), np.random.default_rng(0))

    @pytest.mark.parametrize(
        ("radii", "sides", "message"),
        [
            ([1.0, 0.0], (9, 9, 9), "radii="),
            ([[1.0]], (9, 9, 9), "radii="),
            ([1.0], (9, 9), "sides="),
            ([1.0], (9, 9, -9), "sides="),
            ([5.0], (9, 20, 20), "radius 5 A does not fit.*at least 10 A"),
            ([1.0, 1.0], (2, 2, 2), "cannot be packed"),
        ],
    )
    def test_refuses(self, radii, sides, message):
        with pytest.raises(ValueError, match=message):
            pack_spheres(radii, sides, np.random.default_rng(0))


def test_transform_is_rotation_then_shift():
    rng = np.random.default_rng(0)
    points, rotation = rng.normal(size=(5, 3)), random_rotations(1, rng)[0]
    moved = transform_points(points, rotation, [1.0, 2.0, 3.0])
    for before, after in zip(points, moved, strict=True):
        np.testing.assert_allclose(after, rotation @ before + [1.0, 2.0, 3.0])
