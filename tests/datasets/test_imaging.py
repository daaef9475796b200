import numpy as np
import pytest
from scipy import fft

from sksubtomo.datasets import (
    add_white_noise,
    apply_transfer,
    crop_center,
    draw_density,
    gaussian_transfer,
    load_phantom,
    missing_wedge_mask,
)


def scene(size=32, voxel_size=12.0):
    structure = load_phantom("rna_polymerase_ii")
    return draw_density(structure.coordinates, structure.masses, size, voxel_size)


class TestDrawDensity:
    def test_mass_and_centre_of_mass_are_kept(self):
        rng = np.random.default_rng(0)
        points = rng.uniform(-60, 60, (500, 3))
        masses = rng.uniform(1, 5, 500)
        volume = draw_density(points, masses, 17, 8.0).astype(float)
        assert volume.sum() * 8.0**3 == pytest.approx(masses.sum(), rel=1e-5)
        ticks = (np.arange(17) - 8) * 8.0
        for axis, points_axis in enumerate(points.T):
            others = tuple({0, 1, 2} - {axis})
            centre = volume.sum(axis=others) @ ticks / volume.sum()
            expected = masses @ points_axis / masses.sum()
            assert centre == pytest.approx(expected, abs=1e-3)

    def test_axes_are_z_y_x(self):
        volume = draw_density(np.array([[-1.0, 0.0, 1.0]]), np.array([1.0]), 3, 1.0)
        assert volume[0, 1, 2] == 1
        assert volume.sum() == 1

    def test_the_centre_of_an_even_cube_lies_between_voxels(self):
        volume = draw_density(np.zeros((1, 3)), np.array([8.0]), 4, 1.0)
        np.testing.assert_array_equal(volume[1:3, 1:3, 1:3], 1)

    def test_points_outside_are_left_out(self):
        edge = np.array([[1.0, 1.0, 1.0], [-1.0, -1.0, -1.0]])
        outside = np.array([[1.01, 0.0, 0.0], [0.0, -900.0, 0.0]])
        masses = np.ones(2)
        assert draw_density(edge, masses, 3, 1.0).sum() == 2
        assert draw_density(outside, masses, 3, 1.0).sum() == 0


class TestGaussianTransfer:
    @pytest.mark.parametrize("voxels", [2.5, 4.0, 6.0])
    def test_a_point_becomes_a_gaussian_of_the_stated_width(self, voxels):
        size, voxel_size = 33, 5.0
        # The linear kernel's variance depends on where in a voxel a point lies;
        # averaged over a voxel it is 1/6.
        rng = np.random.default_rng(0)
        points = rng.uniform(-2.5, 2.5, (2000, 3))
        volume = draw_density(points, np.full(2000, 1 / 2000), size, voxel_size)
        transfer = gaussian_transfer(size, voxel_size, voxels * voxel_size)
        profile = apply_transfer(volume, transfer).astype(float).sum(axis=(0, 1))
        ticks = (np.arange(size) - size // 2) * voxel_size
        variance = profile @ ticks**2 / profile.sum() - points[:, 2].var()
        sigma = voxels * voxel_size / (np.sqrt(2) * np.pi)
        assert np.sqrt(variance) == pytest.approx(sigma, rel=0.02)

    def test_keeps_mass_and_leaves_the_linear_kernel_alone(self):
        assert gaussian_transfer(8, 5.0, 20.0)[0, 0, 0] == 1
        assert (gaussian_transfer(8, 5.0, 5.0) == 1).all()


class TestMissingWedge:
    @pytest.mark.parametrize("size", [15, 16, 32])
    @pytest.mark.parametrize("tilts", [(-60.0, 60.0), (-40.0, 65.0), (-10.0, 0.0)])
    def test_agrees_with_a_loop_over_coefficients(self, size, tilts):
        mask = missing_wedge_mask(size, tilts)
        assert mask.shape == (size, size, size // 2 + 1)
        nyquist = size // 2 if size % 2 == 0 else None
        low, high = np.tan(np.deg2rad(tilts))
        for z in range(size):
            for x in range(1, size // 2 + 1):
                kz = z if z <= size // 2 else z - size
                if nyquist in (x, abs(kz)):
                    continue
                expected = low * x - 1e-6 <= kz <= high * x + 1e-6
                assert (mask[z, :, x] == expected).all()
        assert (mask[0, :, 0]).all()
        assert not mask[1 : size // 2, :, 0].any()

    def test_is_empty_of_energy_in_the_scene(self):
        # White noise as well, because a scene has little energy at Nyquist.
        noise = np.random.default_rng(0).standard_normal((32,) * 3, dtype=np.float32)
        for tilts in [(-60.0, 60.0), (-30.0, 70.0)]:
            mask = missing_wedge_mask(32, tilts)
            for volume in (scene(), noise):
                filtered = apply_transfer(volume, mask)
                power = np.abs(fft.rfftn(filtered.astype(float))) ** 2
                assert power[~mask].sum() < 1e-10 * power.sum()
                before = np.abs(fft.rfftn(volume.astype(float))) ** 2
                assert before[~mask].sum() > 0.01 * before.sum()

    def test_full_range_changes_nothing(self):
        mask = missing_wedge_mask(32, (-90.0, 90.0))
        np.testing.assert_allclose(apply_transfer(scene(), mask), scene(), atol=1e-5)

    def test_beam_axis_is_z_and_tilt_axis_is_y(self):
        # Layers stacked along z are what a wedge hides; along x or y they are seen.
        layers = np.tile(np.array([0.0, 1.0], np.float32), 8)
        mask = missing_wedge_mask(16, (-60.0, 60.0))
        spread = []
        for axis in range(3):
            volume = np.ones((16, 16, 16), np.float32)
            volume *= np.expand_dims(layers, tuple({0, 1, 2} - {axis}))
            spread.append(apply_transfer(volume, mask).std())
        np.testing.assert_allclose(spread, [0, 0.5, 0.5], atol=1e-6)

    def test_sign_of_the_tilt(self):
        # Only the plane spanned by y and x cos 45 + z sin 45 is measured.
        mask = missing_wedge_mask(15, (44.0, 46.0))
        assert mask[3, 0, 3]
        assert not mask[-3, 0, 3]


def test_apply_transfer_checks_the_shape():
    with pytest.raises(ValueError, match=r"expected \(8, 8, 5\)"):
        apply_transfer(np.zeros((8, 8, 8), np.float32), np.ones((8, 8, 8), np.float32))


def test_crop_is_central():
    volume = np.zeros((9, 9, 9), np.float32)
    volume[4, 4, 4] = 1
    assert crop_center(volume, 3)[1, 1, 1] == 1
    for size in (4, 11, 0):
        with pytest.raises(ValueError, match=f"size={size}"):
            crop_center(volume, size)


class TestNoise:
    @pytest.mark.parametrize("snr", [10.0, 1.0, 0.1, 0.01])
    def test_ratio_of_variances_is_exact(self, snr):
        clean = scene(16, 14.0)
        noise = add_white_noise(clean, snr, np.random.default_rng(0)) - clean
        assert clean.var() / noise.var() == pytest.approx(snr, rel=1e-4)

    def test_is_white(self):
        noise = add_white_noise(scene(), 1e-6, np.random.default_rng(0)) - scene()
        power = np.abs(fft.fftn(noise)) ** 2
        radius = np.linalg.norm(np.meshgrid(*[fft.fftfreq(32)] * 3), axis=0)
        inner = power[(radius > 0) & (radius < 0.25)].mean()
        outer = power[radius >= 0.25].mean()
        assert inner == pytest.approx(outer, rel=0.1)

    def test_infinite_ratio_adds_none(self):
        clean = scene()
        result = add_white_noise(clean, np.inf, np.random.default_rng(0))
        np.testing.assert_array_equal(result, clean)
        assert not np.shares_memory(result, clean)

    def test_refuses(self):
        flat = np.ones((8, 8, 8), np.float32)
        with pytest.raises(ValueError, match="constant"):
            add_white_noise(flat, 1.0, np.random.default_rng(0))
        for snr in (0.0, -1.0, np.nan):
            with pytest.raises(ValueError, match="snr"):
                add_white_noise(scene(), snr, np.random.default_rng(0))
