import numpy as np
import pytest
from scipy import fft

from sksubtomo.datasets import (
    Microscope,
    add_noise,
    add_white_noise,
    apply_transfer,
    contrast_transfer,
    crop_center,
    detector_mtf,
    draw_density,
    envelope,
    filtered_noise,
    gaussian_transfer,
    load_phantom,
    low_pass_transfer,
    missing_wedge_mask,
    noise_transfer,
    tilt_angles,
    tilt_weights,
    transfer_volume,
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

    def test_of_any_shape(self):
        points, masses = np.array([[1.0, -1.0, 2.0]]), np.array([8.0])
        volume = draw_density(points, masses, (3, 5, 7), 1.0)
        assert volume.shape == (3, 5, 7)
        assert volume[2, 1, 5] == 8
        assert volume.sum() == 8


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

    def test_of_any_shape_is_that_of_the_frequencies(self):
        # Along y a side of 16 has every other frequency of a side of 32.
        whole = gaussian_transfer(32, 5.0, 20.0)
        part = gaussian_transfer((32, 16, 32), 5.0, 20.0)
        np.testing.assert_array_equal(part, whole[:, ::2])


class TestMicroscope:
    @pytest.mark.parametrize(
        ("parameter", "value"),
        [
            ("voltage", 0),
            ("voltage", np.inf),
            ("spherical_aberration", -1.0),
            ("amplitude_contrast", 1.1),
            ("defocus", np.nan),
            ("b_factor", -1.0),
            ("pixel_size", -1.0),
        ],
    )
    def test_refuses_values(self, parameter, value):
        with pytest.raises(ValueError, match=f"{parameter}={value!r}; expected"):
            Microscope(**{parameter: value})

    @pytest.mark.parametrize("value", ["300", None, True])
    def test_refuses_types(self, value):
        with pytest.raises(TypeError, match=f"voltage={value!r} of type .*; expected"):
            Microscope(voltage=value)

    def test_of_the_paper(self):
        microscope = Microscope.liu2020(voxel_size=10.0)
        assert microscope.voltage == 300.0
        assert microscope.spherical_aberration == 2.0
        assert microscope.defocus == 5.0
        assert microscope.amplitude_contrast == 0.0
        # The envelope falls to 1/e at 0.4 of Nyquist, which is 0.05 / angstrom.
        assert envelope(0.4 * 0.05, microscope.b_factor) == pytest.approx(np.exp(-1))
        with pytest.raises(ValueError, match="voxel_size=0"):
            Microscope.liu2020(voxel_size=0)

    def test_contrast_is_positive_for_underfocus(self):
        low = np.linspace(0, 0.02, 20)
        assert (contrast_transfer(low, Microscope(defocus=2.0)) > 0).all()
        none = Microscope(defocus=-2.0, amplitude_contrast=0.0)
        assert (contrast_transfer(low[1:], none) < 0).all()
        assert contrast_transfer(0.0, Microscope(amplitude_contrast=0.1)) == (
            pytest.approx(0.1)
        )

    def test_detector(self):
        # At Nyquist of the pixel; a quarter of it after binning by four.
        assert detector_mtf(1 / 20, 10.0) == pytest.approx(2 / np.pi)
        assert detector_mtf(1 / 20, 2.5) == pytest.approx(np.sinc(1 / 8))
        assert detector_mtf(1 / 20, 0.0) == 1


class TestTilts:
    def test_angles(self):
        np.testing.assert_allclose(tilt_angles((-60, 60), 3.0), np.arange(-60, 61, 3))
        np.testing.assert_allclose(tilt_angles((-60, 60), 0.1)[[0, -1]], [-60, 60])
        np.testing.assert_allclose(
            tilt_angles((-50, 60), 20), [-50, -30, -10, 10, 30, 50]
        )
        for step in (0, -3.0, np.nan):
            with pytest.raises(ValueError, match="tilt_step"):
                tilt_angles((-60, 60), step)
        np.testing.assert_allclose(tilt_angles((-60, 60), 120), [-60, 60])
        np.testing.assert_allclose(tilt_angles((-60, 60), 120.5), [-60])

    @pytest.mark.parametrize("axis", ["y", "x", 30.0, -77.0])
    @pytest.mark.parametrize("shape", [15, 16, (16, 18, 21)])
    def test_weights_are_those_of_a_real_volume(self, shape, axis):
        # Only point-symmetric factors survive the way to real space and back.
        for weights in (
            tilt_weights(shape, (-50.0, 60.0), 4.0, axis),
            missing_wedge_mask(shape, (-50.0, 60.0), axis),
        ):
            sides = (shape,) * 3 if isinstance(shape, int) else shape
            kernel = fft.irfftn(weights.astype(complex), s=sides)
            np.testing.assert_allclose(fft.rfftn(kernel), weights, atol=1e-12)

    def test_axis_as_a_name_and_as_an_angle(self):
        for function in (missing_wedge_mask, tilt_weights):
            for name, angle in (("y", 0), ("x", 90.0)):
                options = {"shape": (12, 14, 16), "tilt_range": (-40.0, 65.0)}
                np.testing.assert_array_equal(
                    function(**options, tilt_axis=name),
                    function(**options, tilt_axis=angle),
                )

    def test_turned_axis_turns_the_wedge(self):
        # At 45 degrees the wedge is the same along x and along -y, that is, y.
        mask = missing_wedge_mask(15, (-60.0, 60.0), 45.0)
        for kz in range(1, 8):
            for k in range(8):
                assert mask[kz, 0, k] == mask[kz, k, 0]
        # Frequencies along the tilt axis lie in every slice.
        assert mask[0, -3, 3]
        assert not mask[5, -3, 3]
        assert mask[5, 3, 3]

    @pytest.mark.parametrize(
        ("value", "error"), [("z", ValueError), (np.nan, ValueError), (None, TypeError)]
    )
    def test_refuses_an_axis(self, value, error):
        with pytest.raises(error, match=f"tilt_axis={value!r}; expected"):
            tilt_weights(8, (-60, 60), tilt_axis=value)

    def test_a_single_slice(self):
        # Tilts at 0 and nowhere near: the plane kz = 0, smoothed by half a coefficient.
        weights = tilt_weights(32, (0.0, 1e-3), 1.0)
        np.testing.assert_allclose(weights[0], 0.5)
        np.testing.assert_array_equal(weights[2:-1], 0)

    def test_slices_thin_out(self):
        # With 6 degrees between them they are one coefficient apart at radius 10 and
        # do not meet any more at 20; the continuum has no gaps.
        weights = tilt_weights(64, (-60.0, 60.0), 6.0)[:, 0]
        radius = np.hypot(*np.meshgrid(fft.fftfreq(64, 1 / 64), np.arange(33.0)))
        angle = np.arctan2(*np.meshgrid(fft.fftfreq(64, 1 / 64), np.arange(33.0)))
        inside = (np.abs(angle) < np.deg2rad(55)).T
        radius = radius.T
        inner = weights[inside & (radius < 4)].mean()
        outer = weights[inside & (radius > 20)].mean()
        assert inner == pytest.approx(1, abs=0.02)
        assert outer < 0.4
        full = tilt_weights(64, (-60.0, 60.0), None)
        np.testing.assert_array_equal(full, missing_wedge_mask(64, (-60.0, 60.0)))

    def test_are_a_mean_over_the_tilts_everywhere(self):
        weights = tilt_weights((10, 12, 14), (-60.0, 60.0), 3.0)
        assert weights.min() >= 0
        assert weights.max() == 1
        assert weights[0, :, 0].min() == 1


class TestTransferVolume:
    def test_is_the_product_of_its_parts(self):
        microscope = Microscope(defocus=3.0, pixel_size=4.0)
        shape, voxel_size = (12, 16, 20), 8.0
        axes = [fft.fftfreq(n, voxel_size) for n in shape[:2]]
        axes.append(fft.rfftfreq(shape[2], voxel_size))
        frequency = np.linalg.norm(np.meshgrid(*axes, indexing="ij"), axis=0)
        weights = tilt_weights(shape, (-50.0, 60.0), 2.0, "x")
        tilts = {"tilt_range": (-50.0, 60.0), "tilt_step": 2.0, "tilt_axis": "x"}
        detector = weights * detector_mtf(frequency, 4.0)
        optics = contrast_transfer(frequency, microscope) * envelope(frequency, 240.0)
        for found, expected in (
            (
                transfer_volume(shape, voxel_size, microscope, **tilts),
                detector * optics,
            ),
            (
                transfer_volume(shape, voxel_size, microscope, **tilts, optics=False),
                detector,
            ),
            (transfer_volume(shape, voxel_size, None, **tilts), weights),
        ):
            assert found.dtype == np.float32
            np.testing.assert_allclose(found, expected, atol=1e-6)

    def test_default_pixel_size_is_the_voxel_size(self):
        one, other = (
            transfer_volume(8, 10.0, Microscope(pixel_size=pixel_size))
            for pixel_size in (None, 10.0)
        )
        np.testing.assert_array_equal(one, other)

    @pytest.mark.parametrize("shape", [1, (8, 8), (8, 8, 0), 8.0])
    def test_refuses_a_shape(self, shape):
        with pytest.raises((ValueError, TypeError), match="shape"):
            transfer_volume(shape, 10.0)


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


class TestLowPass:
    def test_falls_behind_the_stated_resolution(self):
        shape, voxel_size, low_pass = (24, 32, 31), 5.0, 25.0
        transfer = low_pass_transfer(shape, voxel_size, low_pass)
        along = fft.fftfreq(24), fft.fftfreq(32), fft.rfftfreq(31)
        radius = np.linalg.norm(np.meshgrid(*along, indexing="ij"), axis=0)
        # In units of the stated frequency.
        radius *= low_pass / voxel_size
        assert transfer.shape == radius.shape == (24, 32, 16)
        assert transfer.dtype == np.float32
        assert (transfer[radius <= 1] == 1).all()
        order = np.argsort(radius.ravel())
        assert (np.diff(transfer.ravel()[order]) <= 0).all()
        one_over_e = np.interp(1.25, radius.ravel()[order], transfer.ravel()[order])
        assert one_over_e == pytest.approx(np.exp(-1), abs=0.01)
        assert transfer[radius > 1.76].max() < 1.1e-4

    def test_is_that_of_the_papers_data(self):
        # Radius 8 of Nyquist 16, and an edge of 2.
        transfer = low_pass_transfer(32, 10.0, 40.0)
        expected = np.exp(-((np.maximum(np.arange(17) - 8, 0) / 2) ** 2))
        np.testing.assert_allclose(transfer[0, 0], expected, rtol=1e-5)

    def test_is_a_real_filter(self):
        volume = scene(17)
        passed = apply_transfer(volume, low_pass_transfer(17, 12.0, 60.0))
        assert passed.mean() == pytest.approx(volume.mean(), rel=1e-4)
        assert passed.var() < volume.var()

    @pytest.mark.parametrize(
        ("options", "error", "message"),
        [
            ({"low_pass": 0.0}, ValueError, r"low_pass=0\.0; expected a positive"),
            ({"low_pass": "40"}, TypeError, "low_pass='40'"),
            ({"low_pass": 161.0}, ValueError, "longest side of the volume, 160 ang"),
            ({"voxel_size": None}, TypeError, "voxel_size=None"),
            ({"shape": 1}, ValueError, "shape=1"),
        ],
    )
    def test_refuses(self, options, error, message):
        usual = {"shape": (8, 8, 16), "voxel_size": 10.0, "low_pass": 40.0}
        with pytest.raises(error, match=message):
            low_pass_transfer(**usual | options)


def test_apply_transfer_checks_the_shape():
    with pytest.raises(ValueError, match=r"expected \(8, 8, 5\)"):
        apply_transfer(np.zeros((8, 8, 8), np.float32), np.ones((8, 8, 8), np.float32))


def test_crop_is_central():
    volume = np.zeros((9, 9, 9), np.float32)
    volume[4, 4, 4] = 1
    assert crop_center(volume, 3)[1, 1, 1] == 1
    for size in (4, 11, 0):
        with pytest.raises(ValueError, match=f"shape={size}"):
            crop_center(volume, size)


def test_crop_of_any_shape():
    volume = np.arange(6 * 8 * 9, dtype=np.float32).reshape(6, 8, 9)
    np.testing.assert_array_equal(crop_center(volume, (2, 4, 3)), volume[2:4, 2:6, 3:6])


class TestNoise:
    def test_is_filtered(self):
        # Of white noise with unit variance only what passes is left.
        mask = missing_wedge_mask(32, (-60.0, 60.0))
        noise = filtered_noise(32, mask, np.random.default_rng(0))
        assert noise.dtype == np.float32
        power = np.abs(fft.rfftn(noise)) ** 2
        assert power[~mask].max() < 1e-6 * power.mean()
        assert noise.var() == pytest.approx(mask.mean(), rel=0.02)

    @pytest.mark.parametrize("fraction", [0.0, 0.3, 1.0])
    def test_of_specimen_and_detector(self, fraction):
        # The power of one draw is the mean of those of the two kinds.
        microscope = Microscope(defocus=2.0)
        structural = transfer_volume(32, 8.0, microscope)
        detector = transfer_volume(32, 8.0, microscope, optics=False)
        rng = np.random.default_rng(0)
        power = []
        for transfer in (
            structural,
            detector,
            noise_transfer(structural, detector, fraction),
        ):
            noise = filtered_noise(32, transfer, rng)
            spectrum = np.abs(fft.rfftn(noise)) ** 2 / noise.var()
            # The signal's passband and what is left of it at a low frequency.
            power.append([spectrum[:3, :3, :3].mean(), spectrum[:, :, 6:9].mean()])
        expected = fraction * np.array(power[0]) + (1 - fraction) * np.array(power[1])
        np.testing.assert_allclose(power[2], expected, rtol=0.5)
        np.testing.assert_allclose(power[2][1], expected[1], rtol=0.1)
        assert noise.var() == pytest.approx(1, rel=0.05)

    def test_transfer_that_passes_nothing(self):
        nothing = np.zeros((8, 8, 5), np.float32)
        with pytest.raises(ValueError, match="zero"):
            noise_transfer(nothing, nothing, 0.5)

    def test_given_noise_is_scaled(self):
        clean, noise = np.float32([0, 2, 0, 2]), np.float32([9, 9, -9, -9])
        np.testing.assert_allclose(add_noise(clean, noise, 4.0), [0.5, 2.5, -0.5, 1.5])
        with pytest.raises(ValueError, match="noise is constant"):
            add_noise(clean, np.ones_like(clean), 1.0)

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


POINTS, MASSES = np.zeros((2, 3)), np.ones(2)
FULL = np.ones((8, 8, 5), np.float32)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: gaussian_transfer(16, 0, 20), ValueError, "voxel_size=0;"),
        (lambda: gaussian_transfer(16, 10, 0), ValueError, "resolution=0;"),
        (lambda: gaussian_transfer(16, 10, "20"), TypeError, "resolution='20'"),
        (lambda: envelope([0.1], -5), ValueError, "b_factor=-5;"),
        (lambda: envelope([0.1], None), TypeError, "b_factor=None"),
        (lambda: detector_mtf([0.1], -1.0), ValueError, "pixel_size=-1.0;"),
        (lambda: contrast_transfer([0.1], None), TypeError, "a Microscope"),
        (
            lambda: draw_density(POINTS, np.ones(3), 8, 10.0),
            ValueError,
            r"masses have shape \(3,\); expected \(2,\)",
        ),
        (
            lambda: draw_density(POINTS[:, :2], MASSES, 8, 10.0),
            ValueError,
            r"coordinates have shape \(2, 2\); expected \(n, 3\)",
        ),
        (
            lambda: draw_density(POINTS + np.nan, MASSES, 8, 10.0),
            ValueError,
            "coordinates hold NaN",
        ),
        (
            lambda: draw_density(POINTS, MASSES, 8, 0.0),
            ValueError,
            "voxel_size=0.0;",
        ),
        (
            lambda: noise_transfer(FULL, FULL, 1.5),
            ValueError,
            "structural_noise=1.5;",
        ),
        (
            lambda: noise_transfer(FULL, FULL[:4], 0.5),
            ValueError,
            "detector has shape",
        ),
        (
            lambda: apply_transfer(FULL[0], FULL[0]),
            ValueError,
            "volume has shape",
        ),
        (
            lambda: crop_center(FULL, (8, 8)),
            ValueError,
            r"shape=\(8, 8\) does not fit",
        ),
    ],
)
def test_stages_say_what_is_wrong(call, error, message):
    with pytest.raises(error, match=message):
        call()
