import numpy as np
import pytest
from scipy import fft
from scipy.spatial.distance import pdist

from sksubtomo.datasets import (
    Structure,
    draw_density,
    load_phantom,
    make_tomogram,
    tomograms,
    transform_points,
)

PERFECT = {
    "microscope": None,
    "tilt_range": (-90.0, 90.0),
    "snr": np.inf,
}
PAIR = ["groel", "rna_polymerase_ii"]
SMALL = {"shape": (24, 40, 48), "voxel_size": 15.0, "structures": PAIR}


class TestGroundTruth:
    def test_spheres_are_inside_and_apart(self):
        scene = make_tomogram(random_state=0, crowding=0.4, **SMALL, **PERFECT)
        radii, centres = scene.radii, scene.coordinates * 15.0
        needed = np.add.outer(radii, radii)[np.triu_indices(len(radii), 1)]
        assert (pdist(centres) >= needed - 1e-6).all()
        # The first voxel begins half a voxel before its centre.
        low, high = scene.coordinates - 1 / 15 * radii[:, None], radii[:, None] / 15
        assert low.min() >= -0.5 - 1e-9
        assert (scene.coordinates + high <= np.array(SMALL["shape"]) - 0.5 + 1e-9).all()
        filled = (4 / 3 * np.pi * radii**3).sum() / np.prod(SMALL["shape"]) / 15.0**3
        assert 0.2 < filled <= 0.4 * 0.64
        assert scene.coordinates.shape == (len(radii), 3)
        np.testing.assert_array_equal(
            radii, np.array([load_phantom(name).radius for name in PAIR])[scene.target]
        )

    def test_each_complex_is_where_it_is_said_to_be(self):
        scene = make_tomogram(6, random_state=1, **SMALL, **PERFECT)
        assert scene.tomogram.shape == SMALL["shape"]
        assert scene.tomogram.dtype == np.float32
        expected = np.zeros(SMALL["shape"])
        middle = (np.array(SMALL["shape"]) - 1) / 2
        for label, rotation, place in zip(
            scene.target, scene.rotations, scene.coordinates, strict=True
        ):
            structure = scene.structures[label]
            shift = (place - middle) * 15.0
            points = transform_points(structure.coordinates, rotation, shift)
            expected += draw_density(points, structure.masses, SMALL["shape"], 15.0)

        def likeness(volume):
            return np.corrcoef(volume.ravel(), scene.tomogram.ravel())[0, 1]

        assert likeness(expected) > 0.97
        assert likeness(np.roll(expected, 1, axis=2)) < 0.9
        assert likeness(expected[:, ::-1]) < 0.5
        mass = sum(scene.structures[label].mass for label in scene.target)
        found = scene.tomogram.sum(dtype=float) * 15.0**3
        assert found == pytest.approx(mass, rel=0.01)

    def test_coordinates_count_from_the_centre_of_the_first_voxel(self):
        point = Structure("point", [[0, 0, 0]], [1e5])
        scene = make_tomogram(
            1,
            structures=[point],
            shape=(16, 18, 21),
            resolution=40.0,
            random_state=0,
            **PERFECT,
        )
        weights = scene.tomogram.clip(min=0).astype(float)
        for axis, expected in enumerate(scene.coordinates[0]):
            others = tuple({0, 1, 2} - {axis})
            ticks = np.arange(scene.tomogram.shape[axis])
            centre = weights.sum(axis=others) @ ticks / weights.sum()
            assert centre == pytest.approx(expected, abs=0.02)


class TestPhysics:
    @pytest.mark.parametrize("structural_noise", [0.0, 0.5, 1.0])
    def test_ratio_of_variances_is_exact(self, structural_noise):
        scene = make_tomogram(
            6,
            snr=0.2,
            structural_noise=structural_noise,
            random_state=0,
            return_clean=True,
            **SMALL,
        )
        noise = scene.tomogram.astype(float) - scene.clean
        assert scene.clean.var() / noise.var() == pytest.approx(0.2, rel=1e-4)

    def test_wedge_is_missing_in_signal_and_noise(self):
        options = SMALL | {"random_state": 0, "tilt_range": (-60.0, 60.0)}
        scene = make_tomogram(6, snr=1.0, return_clean=True, **options)
        window = np.ones(SMALL["shape"])
        for axis, side in enumerate(SMALL["shape"]):
            taper = np.hanning(side)
            window *= np.expand_dims(taper, tuple({0, 1, 2} - {axis}))
        kz = fft.fftfreq(24)[:, None, None]
        kx = fft.rfftfreq(48)[None, None, :]
        # Well inside the wedge, because of the taper.
        inside = np.abs(kz) > 3 * np.abs(kx) + 0.08
        inside = np.broadcast_to(inside, (24, 40, 25))
        full = make_tomogram(6, snr=1.0, **options | {"tilt_range": (-90.0, 90.0)})
        for volume in (scene.clean, scene.tomogram - scene.clean):
            share, whole = (
                np.mean(np.abs(fft.rfftn(each * window)[inside]) ** 2)
                for each in (volume, full.tomogram)
            )
            assert share < 0.05 * whole

    def test_margin_is_wide_enough(self, monkeypatch):
        options = SMALL | {"random_state": 0, "snr": np.inf}
        usual = make_tomogram(6, **options).tomogram
        monkeypatch.setattr(tomograms, "_MARGIN", 64)
        wider = make_tomogram(6, **options).tomogram
        assert (usual - wider).std() < 0.05 * usual.std()

    def test_structural_noise_passes_the_optics(self):
        options = SMALL | {"random_state": 0, "snr": 1.0, "return_clean": True}
        kz, ky, kx = fft.fftfreq(24), fft.fftfreq(40), fft.rfftfreq(48)
        radius = np.sqrt(kz[:, None, None] ** 2 + ky[:, None] ** 2 + kx**2)
        # Near zero frequency there is hardly any phase contrast.
        low = radius < 0.06
        share = []
        for fraction in (0.0, 0.5, 1.0):
            scene = make_tomogram(4, structural_noise=fraction, **options)
            power = np.abs(fft.rfftn(scene.tomogram - scene.clean)) ** 2
            share.append(power[low].sum() / power.sum())
        assert share[2] < 0.3 * share[0]
        assert share[1] == pytest.approx((share[0] + share[2]) / 2, rel=0.2)

    def test_low_pass_takes_signal_and_noise(self):
        options = SMALL | {"random_state": 0, "snr": 0.2, "return_clean": True}
        scene = make_tomogram(4, low_pass=100.0, **options)
        usual = make_tomogram(4, **options)
        noise = scene.tomogram - scene.clean
        assert scene.clean.var() / noise.var() == pytest.approx(0.2, rel=1e-4)
        kz, ky, kx = fft.fftfreq(24), fft.fftfreq(40), fft.rfftfreq(48)
        radius = np.sqrt(kz[:, None, None] ** 2 + ky[:, None] ** 2 + kx**2) / 15
        low, high = radius < 1 / 110, (radius > 1.5 / 100) & (radius < 2 / 100)

        def share(volume):
            power = np.abs(fft.rfftn(volume)) ** 2
            return power[high].mean() / power[low].mean()

        for filtered, plain in (
            (scene.clean, usual.clean),
            (noise, usual.tomogram - usual.clean),
        ):
            assert share(filtered) < 0.1 * share(plain)

    def test_without_noise_it_is_the_clean_one(self):
        noisy = make_tomogram(4, random_state=3, return_clean=True, **SMALL)
        clean = make_tomogram(4, random_state=3, snr=np.inf, **SMALL)
        np.testing.assert_array_equal(noisy.clean, clean.tomogram)
        np.testing.assert_array_equal(noisy.coordinates, clean.coordinates)
        assert "clean" not in clean

    def test_options_matter(self):
        options = SMALL | {"random_state": 0, "snr": np.inf}
        base = make_tomogram(4, **options).tomogram
        changes = (
            {"microscope": None},
            {"tilt_axis": "x"},
            {"resolution": 90.0},
        )
        for change in changes:
            other = make_tomogram(4, **options | change).tomogram
            assert not np.allclose(other, base, atol=0.01 * base.std())


def test_depends_on_the_seed_alone():
    state = np.random.get_state()[1].copy()
    first, again, other = (
        make_tomogram(4, random_state=seed, **SMALL).tomogram for seed in (0, 0, 1)
    )
    make_tomogram(4, random_state=None, **SMALL)
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)
    np.testing.assert_array_equal(np.random.get_state()[1], state)


def test_description_counts_the_classes():
    scene = make_tomogram(9, random_state=0, **SMALL)
    counts = np.bincount(scene.target, minlength=2)
    assert counts.sum() == 9
    assert f"- groel: {counts[0]}" in scene.DESCR
    assert scene.target_names.tolist() == PAIR


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"n_particles": 0}, ValueError, "n_particles=0"),
        ({"n_particles": 1000}, ValueError, r"n_particles=1000 .*first \d+ of them"),
        ({"crowding": 1.0}, ValueError, r"crowding=1\.0 .*first \d+ of them fit"),
        ({"crowding": 1.1}, ValueError, r"crowding=1\.1"),
        (
            {"shape": (8, 40, 48)},
            ValueError,
            r"shape=.*'rna_polymerase_ii'.*at least 13 vox",
        ),
        ({"shape": (24, 40)}, TypeError, "shape="),
        ({"shape": (24, 40, 7)}, ValueError, r"shape\[2\]=7"),
        ({"voxel_size": 0.0}, ValueError, r"voxel_size=0\.0; .* of angstroms\.$"),
        ({"voxel_size": None}, TypeError, "voxel_size=None"),
        ({"resolution": -1.0}, ValueError, r"resolution=-1\.0"),
        ({"snr": 0.0}, ValueError, r"snr=0\.0"),
        ({"low_pass": -40.0}, ValueError, r"low_pass=-40\.0"),
        ({"microscope": 300}, TypeError, "microscope=300"),
        ({"tilt_range": (60, -60)}, ValueError, "tilt_range="),
        ({"structural_noise": 2.0}, ValueError, "structural_noise"),
        ({"random_state": "0"}, TypeError, "random_state="),
        ({"structures": []}, ValueError, "structures"),
    ],
)
def test_refuses(options, error, message):
    with pytest.raises(error, match=message):
        make_tomogram(**SMALL | options)
