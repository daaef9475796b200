"""What the simulator claims, against independent code and closed forms."""

import pickle

import numpy as np
import pytest
from scipy import fft, stats

from sksubtomo.datasets import (
    Microscope,
    SubtomogramSimulator,
    apply_transfer,
    contrast_transfer,
    crop_center,
    draw_density,
    gaussian_transfer,
    load_phantom,
    make_subtomograms,
    missing_wedge_mask,
    place_neighbors,
    random_rotations,
    subtomograms,
    tilt_angles,
    transfer_volume,
)

CLASSES = ["groel", "p97", "rna_polymerase_ii"]


def correlation(one, other):
    return np.corrcoef(one.ravel(), other.ravel())[0, 1]


def crowd(seed, size, voxel_size):
    """Draw a complex among four others, by the stages alone."""
    rng = np.random.default_rng(seed)
    structures = [load_phantom(name) for name in rng.choice(CLASSES, 5)]
    radii = [structure.radius for structure in structures]
    centres = np.concatenate(
        [np.zeros((1, 3)), place_neighbors(radii[0], radii[1:], rng)]
    )
    points = [
        structure.coordinates @ rotation.T + centre
        for structure, rotation, centre in zip(
            structures, random_rotations(5, rng), centres, strict=True
        )
    ]
    masses = np.concatenate([structure.masses for structure in structures])
    density = draw_density(np.concatenate(points), masses, size, voxel_size)
    return apply_transfer(density, gaussian_transfer(size, voxel_size, 2 * voxel_size))


def wedge_energy(volume):
    """Return the energy inside the missing wedge, and all of it but the mean's."""
    power = np.abs(fft.rfftn(volume.astype(float))) ** 2
    power[0, 0, 0] = 0
    # All planes but the first, and the last of an even side, stand for two.
    power[..., 1 : (volume.shape[-1] + 1) // 2] *= 2
    missing = ~missing_wedge_mask(volume.shape, (-60.0, 60.0))
    return power[missing].sum(), power.sum()


class TestTiltSeries:
    """A volume against its tilt series, imaged and back-projected by other code."""

    def back_project(self, volume, voxel_size, microscope, tilts, tilt_axis):
        torch = pytest.importorskip("torch")
        slices = pytest.importorskip("torch_fourier_slice")
        ctf = pytest.importorskip("torch_ctf")
        sine, cosine = np.sin(np.deg2rad(tilts)), np.cos(np.deg2rad(tilts))
        # Columns are the axes z, y, x of the image in the volume's z, y, x.
        rotations = np.tile(np.eye(3), (len(tilts), 1, 1))
        across = {"y": 2, "x": 1}[tilt_axis]
        rotations[:, 0, 0] = rotations[:, across, across] = cosine
        rotations[:, 0, across], rotations[:, across, 0] = sine, -sine
        rotations = torch.as_tensor(rotations, dtype=torch.float32)
        images = slices.project_3d_to_2d(
            torch.as_tensor(volume), rotations, zyx_matrices=True
        )
        side = len(volume)
        transfer = ctf.calculate_ctf_2d(
            defocus=torch.tensor(microscope.defocus),
            astigmatism=0.0,
            astigmatism_angle=0.0,
            voltage=microscope.voltage,
            spherical_aberration=microscope.spherical_aberration,
            amplitude_contrast=microscope.amplitude_contrast,
            phase_shift=0.0,
            pixel_size=voxel_size,
            image_shape=(side, side),
            rfft=True,
            fftshift=False,
        )
        squared = np.add.outer(
            np.fft.fftfreq(side, voxel_size) ** 2,
            np.fft.rfftfreq(side, voxel_size) ** 2,
        )
        x = np.pi * np.sqrt(squared) * voxel_size + 1e-9
        damping = np.exp(-microscope.b_factor / 4 * squared) * np.sin(x) / x
        transfer = transfer * torch.as_tensor(damping, dtype=torch.float32)
        images = torch.fft.irfftn(
            torch.fft.rfftn(images, dim=(-2, -1)) * transfer,
            dim=(-2, -1),
            s=(side, side),
        )
        return slices.backproject_2d_to_3d(images, rotations, zyx_matrices=True).numpy()

    @pytest.mark.parametrize(
        ("microscope", "tilt_range", "tilt_axis"),
        [
            (Microscope(), (-60.0, 60.0), "y"),
            (Microscope.liu2020(10.0), (-60.0, 60.0), "y"),
            (Microscope(defocus=2.5), (-39.0, 60.0), "y"),
            (Microscope(), (-60.0, 39.0), "x"),
        ],
    )
    def test_correlation(self, microscope, tilt_range, tilt_axis):
        simulator = SubtomogramSimulator(
            1,
            structures=CLASSES,
            size=24,
            voxel_size=10.0,
            snr=np.inf,
            n_neighbors=0,
            random_state=0,
            microscope=microscope,
            tilt_range=tilt_range,
            tilt_axis=tilt_axis,
        )
        chunk = simulator.simulate()
        tilts = tilt_angles(tilt_range, 3.0)
        for row, volume in enumerate(chunk.volumes):
            structure = simulator.structures[chunk.target[row]]
            points = structure.coordinates @ chunk.rotations[row].T + chunk.shifts[row]
            scene = draw_density(points, structure.masses, 48, 10.0)
            scene = apply_transfer(scene, gaussian_transfer(48, 10.0, 20.0))
            reference = self.back_project(scene, 10.0, microscope, tilts, tilt_axis)
            assert correlation(volume, crop_center(reference, 24)) > 0.99
        # The same tilts the other way round, to see that the measure notices.
        wrong = self.back_project(scene, 10.0, microscope, -tilts, tilt_axis)
        other = {"y": "x", "x": "y"}[tilt_axis]
        turned = self.back_project(scene, 10.0, microscope, tilts, other)
        assert correlation(volume, crop_center(turned, 24)) < 0.9
        if tilt_range[0] != -tilt_range[1]:
            assert correlation(volume, crop_center(wrong, 24)) < 0.9


class TestContrastTransfer:
    @pytest.mark.parametrize(
        "microscope",
        [
            Microscope(),
            Microscope.liu2020(10.0),
            Microscope(voltage=200.0, defocus=1.0, amplitude_contrast=0.1),
            Microscope(defocus=-2.0),
        ],
    )
    def test_agrees_with_torch_ctf(self, microscope):
        torch = pytest.importorskip("torch")
        ctf = pytest.importorskip("torch_ctf")
        expected = ctf.calculate_ctf_1d(
            defocus=torch.tensor(microscope.defocus, dtype=torch.float64),
            voltage=torch.tensor(microscope.voltage, dtype=torch.float64),
            spherical_aberration=torch.tensor(
                microscope.spherical_aberration, dtype=torch.float64
            ),
            amplitude_contrast=torch.tensor(
                microscope.amplitude_contrast, dtype=torch.float64
            ),
            phase_shift=torch.tensor(0.0, dtype=torch.float64),
            pixel_size=4.0,
            n_samples=65,
            oversampling_factor=1,
        ).numpy()
        # torch-ctf holds its frequencies in single precision.
        frequency = np.arange(65) / 128 / 4.0
        np.testing.assert_allclose(
            contrast_transfer(frequency, microscope), expected, atol=2e-5
        )

    def test_zeros(self):
        # Without amplitude contrast and aberration at f = sqrt(n / (wavelength z)).
        microscope = Microscope(
            amplitude_contrast=0.0, spherical_aberration=0.0, defocus=3.0
        )
        order = np.arange(6)
        zeros = np.sqrt(order / (microscope.wavelength * 3e4))
        between = np.sqrt((order + 0.5) / (microscope.wavelength * 3e4))
        np.testing.assert_allclose(contrast_transfer(zeros, microscope), 0, atol=1e-12)
        np.testing.assert_allclose(
            contrast_transfer(between, microscope), [1, -1, 1, -1, 1, -1]
        )

    @pytest.mark.parametrize(
        ("voltage", "wavelength"),
        [(120.0, 0.03349), (200.0, 0.02508), (300.0, 0.01969)],
    )
    def test_wavelength(self, voltage, wavelength):
        assert Microscope(voltage=voltage).wavelength == pytest.approx(
            wavelength, abs=5e-6
        )


@pytest.fixture(scope="module")
def thousand():
    simulator = SubtomogramSimulator(
        100, size=8, snr=0.05, random_state=0, n_neighbors=2
    )
    return simulator.simulate(clean=True)


def variance_ratios(chunk):
    noise = chunk.volumes - chunk.clean
    return chunk.clean.var(axis=(1, 2, 3)) / noise.var(axis=(1, 2, 3))


class TestThousandVolumes:
    def test_signal_to_noise_ratio(self, thousand):
        ratios = variance_ratios(thousand)
        assert len(ratios) == 1000
        np.testing.assert_allclose(ratios, 0.05, rtol=0.02)

    def test_orientations_are_uniform(self, thousand):
        # Acting on x, y, z; the cosine of the Euler angle "tilt" is the last element.
        matrices = thousand.rotations[:, ::-1, ::-1]
        np.testing.assert_allclose(np.linalg.det(matrices), 1)
        cosine = stats.kstest(matrices[:, 2, 2], stats.uniform(-1, 2).cdf)
        assert cosine.pvalue > 0.01
        trace = np.trace(matrices, axis1=1, axis2=2)
        angles = np.arccos(np.clip((trace - 1) / 2, -1, 1))
        haar = stats.kstest(angles, lambda angle: (angle - np.sin(angle)) / np.pi)
        assert haar.pvalue > 0.01
        # Uniform angles are not uniform rotations, and a thousand are enough to see it.
        naive = np.cos(np.random.default_rng(0).uniform(0, np.pi, 1000))
        assert stats.kstest(naive, stats.uniform(-1, 2).cdf).pvalue < 1e-6

    def test_shifts_are_uniform(self, thousand):
        limit = np.abs(thousand.shifts).max()
        for axis in thousand.shifts.T:
            uniform = stats.uniform(-limit, 2 * limit)
            assert stats.kstest(axis, uniform.cdf).pvalue > 0.01

    def test_neighbors_are_drawn_from_all_classes(self, thousand):
        counts = np.bincount(thousand.neighbors.ravel(), minlength=10)
        assert stats.chisquare(counts).pvalue > 0.01


def test_liu2020_halves_the_ratio():
    simulator = SubtomogramSimulator(
        20, size=8, snr=0.05, random_state=0, convention="liu2020"
    )
    ratios = variance_ratios(simulator.simulate(clean=True))
    np.testing.assert_allclose(ratios, 0.025, rtol=0.02)


class TestMissingWedge:
    @pytest.mark.parametrize("microscope", [None, Microscope(), Microscope.liu2020(10)])
    def test_is_nearly_empty_in_the_padded_scene(self, microscope):
        transfer = transfer_volume(48, 10.0, microscope)
        full = transfer_volume(
            48, 10.0, microscope, tilt_range=(-90.0, 90.0), tilt_step=None
        )
        for seed in range(3):
            scene = crowd(seed, 48, 10.0)
            missing, total = wedge_energy(apply_transfer(scene, transfer))
            assert missing < 0.01 * total
            missing, total = wedge_energy(apply_transfer(scene, full))
            assert missing > 0.2 * total

    @pytest.mark.parametrize("microscope", [None, Microscope()])
    def test_is_refilled_by_a_quarter_at_most_in_the_crop(self, microscope):
        options = {
            "structures": CLASSES,
            "size": 16,
            "snr": np.inf,
            "random_state": 0,
            "microscope": microscope,
        }
        volumes = make_subtomograms(3, **options).data
        full = make_subtomograms(
            3, **options, tilt_range=(-90.0, 90.0), tilt_step=None
        ).data
        for volume, whole in zip(volumes, full, strict=True):
            assert wedge_energy(volume)[0] < wedge_energy(whole)[0] / 4

    def test_holds_for_the_noise(self):
        simulator = SubtomogramSimulator(
            2, structures=CLASSES, size=32, snr=1e-4, random_state=0, n_neighbors=0
        )
        # White noise would have 37 % of its energy there.
        for volume in simulator.simulate().volumes:
            missing, total = wedge_energy(volume)
            assert missing < 0.1 * total


class TestMass:
    def test_of_the_drawn_and_the_filtered_scene(self):
        structure = load_phantom("groel")
        density = draw_density(structure.coordinates, structure.masses, 48, 8.0)
        for transfer in (
            gaussian_transfer(48, 8.0, 16.0),
            transfer_volume(48, 8.0, None),
        ):
            assert transfer[0, 0, 0] == 1
            density = apply_transfer(density, transfer)
            mass = density.sum(dtype=float) * 8.0**3
            assert mass == pytest.approx(structure.mass, rel=1e-5)

    def test_of_the_volume(self):
        # The whole target and nothing else, seen from all sides.
        result = make_subtomograms(
            1,
            size=16,
            snr=np.inf,
            n_neighbors=0,
            tilt_range=(-90.0, 90.0),
            tilt_step=None,
            microscope=None,
            random_state=0,
        )
        for volume, label in zip(result.data, result.target, strict=True):
            mass = volume.sum(dtype=float) * result.voxel_size**3
            assert mass == pytest.approx(result.structures[label].mass, rel=0.01)


def test_neighbors_do_not_interpenetrate(monkeypatch):
    placed = []

    def spy(radius, neighbor_radii, rng, **options):
        centres = place_neighbors(radius, neighbor_radii, rng, **options)
        placed.append((radius, neighbor_radii, centres))
        return centres

    monkeypatch.setattr(subtomograms, "place_neighbors", spy)
    simulator = SubtomogramSimulator(
        40, structures=CLASSES, size=8, n_neighbors=5, crowding=1.0, random_state=0
    )
    chunk = simulator.simulate()
    true = np.array([structure.radius for structure in simulator.structures])
    assert len(placed) == 120
    for row, (radius, neighbor_radii, centres) in enumerate(placed):
        assert radius == true[chunk.target[row]]
        np.testing.assert_array_equal(neighbor_radii, true[chunk.neighbors[row]])
        centres = np.concatenate([np.zeros((1, 3)), centres])
        radii = np.array([radius, *neighbor_radii])
        gaps = np.linalg.norm(centres[:, None] - centres, axis=2)
        gaps -= radii[:, None] + radii
        assert gaps[~np.eye(6, dtype=bool)].min() > -1e-6


def test_the_way_of_cutting_into_chunks_does_not_matter():
    options = {"structures": CLASSES, "size": 8, "random_state": 7}
    simulator = SubtomogramSimulator(7, **options)
    whole = simulator.simulate(clean=True)
    bunch = make_subtomograms(7, **options, n_jobs=2, return_clean=True)
    np.testing.assert_array_equal(bunch.data, whole.volumes)
    np.testing.assert_array_equal(bunch.clean, whole.clean)
    np.testing.assert_array_equal(bunch.neighbors, whole.neighbors)
    copy = pickle.loads(pickle.dumps(simulator))
    for row in reversed(range(21)):
        single = copy.simulate([row], clean=True)
        np.testing.assert_array_equal(single.volumes[0], whole.volumes[row])
        np.testing.assert_array_equal(single.clean[0], whole.clean[row])
        np.testing.assert_array_equal(single.rotations[0], whole.rotations[row])
        np.testing.assert_array_equal(single.shifts[0], whole.shifts[row])
        np.testing.assert_array_equal(single.neighbors[0], whole.neighbors[row])
