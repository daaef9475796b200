import inspect
import os

import numpy as np
import pytest
from joblib import parallel_config
from scipy import fft
from scipy.spatial.transform import Rotation
from sklearn.neighbors import KNeighborsClassifier

from sksubtomo.datasets import (
    Microscope,
    Structure,
    SubtomogramSimulator,
    apply_transfer,
    crop_center,
    draw_density,
    gaussian_transfer,
    list_phantoms,
    load_phantom,
    low_pass_transfer,
    make_subtomograms,
)

PAIR = ["groel", "rna_polymerase_ii"]
CLEAN = {
    "snr": np.inf,
    "n_neighbors": 0,
    "tilt_range": (-90.0, 90.0),
    "tilt_step": None,
    "microscope": None,
}


def equal(one, other):
    return all(
        np.array_equal(one[key], other[key])
        for key in ("data", "target", "rotations", "shifts")
    )


def test_signature():
    parameters = inspect.signature(make_subtomograms).parameters
    assert next(iter(parameters)) == "n_per_class"
    kinds = [parameter.kind for parameter in parameters.values()]
    assert set(kinds[1:]) == {inspect.Parameter.KEYWORD_ONLY}


def test_bunch():
    result = make_subtomograms(2, size=8, random_state=0)
    assert result.data.shape == (20, 8, 8, 8)
    assert result.data.dtype == np.float32
    assert np.isfinite(result.data).all()
    assert result.target.shape == (20,)
    assert result.target.dtype == np.int64
    assert (np.bincount(result.target) == 2).all()
    assert result.target_names.tolist() == list_phantoms()
    assert result.rotations.shape == (20, 3, 3)
    assert result.shifts.shape == (20, 3)
    assert [structure.name for structure in result.structures] == list_phantoms()
    assert result.voxel_size > 0
    assert result.resolution == 2 * result.voxel_size
    assert "apoferritin: 475 kDa" in result.DESCR
    assert "20 volumes of 8^3" in result.DESCR


def test_neighbors_and_clean_volumes():
    options = {"structures": PAIR, "size": 8, "random_state": 0}
    result = make_subtomograms(3, **options, return_clean=True)
    assert result.neighbors.shape == (6, 4)
    assert set(result.neighbors.ravel()) == {0, 1}
    clean = make_subtomograms(3, **options, snr=np.inf)
    np.testing.assert_array_equal(result.clean, clean.data)
    assert "clean" not in clean


def test_return_X_y():
    bunch = make_subtomograms(2, structures=PAIR, size=8, random_state=0)
    X, y = make_subtomograms(
        2, structures=PAIR, size=8, random_state=0, return_X_y=True
    )
    np.testing.assert_array_equal(X, bunch.data)
    np.testing.assert_array_equal(y, bunch.target)


def test_shuffle_only_changes_the_order():
    options = {"structures": PAIR, "size": 8, "random_state": 0}
    straight = make_subtomograms(6, shuffle=False, **options)
    shuffled = make_subtomograms(6, **options)
    assert straight.target.tolist() == [0] * 6 + [1] * 6
    assert shuffled.target.tolist() != straight.target.tolist()
    flat = shuffled.data.reshape(12, -1)
    for row, volume in enumerate(straight.data.reshape(12, -1)):
        (match,) = np.flatnonzero((flat == volume).all(axis=1))
        assert shuffled.target[match] == straight.target[row]
        np.testing.assert_array_equal(
            shuffled.rotations[match], straight.rotations[row]
        )
        np.testing.assert_array_equal(shuffled.shifts[match], straight.shifts[row])


class TestRandomState:
    def test_same_for_any_number_of_jobs(self):
        one, two, default = (
            make_subtomograms(
                20, structures=PAIR, size=8, random_state=3, n_jobs=n_jobs
            )
            for n_jobs in (1, 2, None)
        )
        assert equal(one, two)
        assert equal(one, default)

    def test_same_under_a_backend_of_processes(self):
        options = {"structures": PAIR, "size": 8, "random_state": 3}
        with parallel_config(backend="loky", n_jobs=2):
            other = make_subtomograms(20, **options)
        assert equal(make_subtomograms(20, **options), other)

    def test_seeds_differ(self):
        options = {"structures": PAIR, "size": 8}
        runs = [
            make_subtomograms(2, random_state=seed, **options).data
            for seed in (0, 1, None, None)
        ]
        assert len({run.tobytes() for run in runs}) == 4

    def test_global_generator_is_left_alone(self):
        before = np.random.get_state()
        for seed in (None, 0, np.random.RandomState(0), np.random.default_rng(0)):
            make_subtomograms(1, structures=PAIR, size=8, random_state=seed)
        after = np.random.get_state()
        assert before[0] == after[0]
        np.testing.assert_array_equal(before[1], after[1])
        assert before[2:] == after[2:]

    def test_global_seed_has_no_influence(self):
        runs = []
        for _ in range(2):
            np.random.seed(0)
            runs.append(make_subtomograms(1, structures=PAIR, size=8).data)
        assert not np.array_equal(*runs)

    @pytest.mark.parametrize(
        "make",
        [np.random.RandomState, np.random.default_rng],
    )
    def test_generators(self, make):
        options = {"structures": PAIR, "size": 8}
        generator = make(0)
        first = make_subtomograms(2, random_state=generator, **options)
        second = make_subtomograms(2, random_state=generator, **options)
        again = make_subtomograms(2, random_state=make(0), **options)
        assert not equal(first, second)
        assert equal(first, again)

    def test_every_volume_has_its_own_stream(self):
        result = make_subtomograms(5, structures=PAIR, size=8, random_state=0)
        assert len(np.unique(result.rotations[:, 0, 0])) == 10
        assert len(np.unique(result.shifts[:, 0])) == 10

    def test_a_volume_does_not_depend_on_how_many_there_are(self):
        options = {"structures": PAIR, "size": 8, "random_state": 0, "shuffle": False}
        few = make_subtomograms(2, **options)
        many = make_subtomograms(5, **options)
        np.testing.assert_array_equal(few.data[:2], many.data[:2])
        np.testing.assert_array_equal(few.data[2:], many.data[5:7])


class TestPhysics:
    @pytest.mark.parametrize("snr", [1.0, 0.1, 0.03])
    def test_signal_to_noise_ratio_is_exact(self, snr):
        options = {"structures": PAIR, "size": 16, "random_state": 0}
        noisy = make_subtomograms(4, snr=snr, **options).data
        clean = make_subtomograms(4, snr=np.inf, **options).data
        ratios = clean.var(axis=(1, 2, 3)) / (noisy - clean).var(axis=(1, 2, 3))
        np.testing.assert_allclose(ratios, snr, rtol=1e-4)

    def test_rotation_and_shift_are_those_of_the_volume(self):
        # No symmetry and three different arms, so that a transposed matrix, another
        # axis order or another sign gives another volume.
        arms = np.concatenate(
            [
                np.outer(np.linspace(0, 1, 40), arm)
                for arm in ([70, 0, 0], [0, 45, 0], [0, 0, 25], [-20, -20, 30])
            ]
        )
        structure = Structure("arms", arms, np.full(len(arms), 500.0))
        result = make_subtomograms(
            4, structures=[structure], size=24, random_state=0, **CLEAN
        )
        for volume, rotation, shift in zip(
            result.data, result.rotations, result.shifts, strict=True
        ):

            def expected(matrix, shift=shift):
                points = structure.coordinates @ matrix.T + shift
                density = draw_density(points, structure.masses, 48, result.voxel_size)
                transfer = gaussian_transfer(48, result.voxel_size, result.resolution)
                return crop_center(apply_transfer(density, transfer), 24)

            def correlation(matrix, shift=shift, volume=volume, expected=expected):
                other = expected(matrix, shift)
                return np.corrcoef(other.ravel(), volume.ravel())[0, 1]

            assert correlation(rotation) > 0.97
            assert correlation(rotation.T) < 0.9
            assert correlation(rotation[::-1, ::-1]) < 0.9
            assert correlation(rotation, -shift) < 0.9
            # The documented conversion to x, y, z.
            xyz = Rotation.from_matrix(rotation[::-1, ::-1])
            np.testing.assert_allclose(
                xyz.apply(structure.coordinates[:, ::-1])[:, ::-1],
                structure.coordinates @ rotation.T,
            )

    def test_centre_of_mass_is_at_the_shift(self):
        result = make_subtomograms(
            3, structures=PAIR, size=16, random_state=0, max_shift=0.2, **CLEAN
        )
        ticks = (np.arange(16) - 7.5) * result.voxel_size
        for volume, shift in zip(result.data.astype(float), result.shifts, strict=True):
            centre = [
                volume.sum(axis=axes) @ ticks / volume.sum()
                for axes in ((1, 2), (0, 2), (0, 1))
            ]
            np.testing.assert_allclose(centre, shift, atol=0.05 * result.voxel_size)
        limit = 0.2 * 16 * result.voxel_size
        assert 0.7 * limit < np.abs(result.shifts).max() <= limit

    @pytest.mark.parametrize("size", [8, 9, 16, 32])
    def test_default_voxel_size_makes_every_phantom_fit(self, size):
        result = make_subtomograms(2, size=size, random_state=0, **CLEAN)
        for volume, label in zip(result.data, result.target, strict=True):
            mass = volume.sum(dtype=float) * result.voxel_size**3
            # Wherever the target is shifted, all of it but a blurred rim is inside.
            assert mass == pytest.approx(result.structures[label].mass, rel=0.01)
        side = size * result.voxel_size
        largest = max(structure.radius for structure in result.structures)
        assert side == pytest.approx(2 * largest / 0.8)

    def test_neighbors_reach_into_the_volume(self):
        options = {"size": 16, "random_state": 0, "shuffle": False}
        alone = make_subtomograms(5, **options, **CLEAN)
        crowded = make_subtomograms(5, **options, **(CLEAN | {"n_neighbors": 4}))
        np.testing.assert_array_equal(alone.rotations, crowded.rotations)
        extra = (crowded.data - alone.data).sum(axis=(1, 2, 3), dtype=float)
        extra *= alone.voxel_size**3
        assert (extra > 20e3).mean() > 0.9

    def test_neighbors_keep_off_the_target_wherever_it_is(self):
        options = {"size": 24, "random_state": 0, "max_shift": 0.3}
        alone = make_subtomograms(3, **options, **CLEAN).data
        crowded = make_subtomograms(3, **options, **(CLEAN | {"n_neighbors": 6})).data
        others = crowded - alone
        assert (others > 0.3).any(axis=(1, 2, 3)).mean() > 0.9
        assert not ((alone > 0.3) & (others > 0.3)).any()

    def test_protein_is_positive(self):
        result = make_subtomograms(1, size=16, random_state=0, snr=np.inf)
        assert (
            result.data.max(axis=(1, 2, 3)) > -result.data.min(axis=(1, 2, 3))
        ).all()

    def test_tilt_range_and_resolution_matter(self):
        options = {"structures": PAIR, "size": 16, "random_state": 0, "snr": np.inf}
        base = make_subtomograms(1, **options).data
        for change in ({"tilt_range": (-40, 40)}, {"resolution": 80.0}):
            assert not np.allclose(make_subtomograms(1, **options, **change).data, base)

    @pytest.mark.parametrize(
        "change",
        [
            {"tilt_step": 10.0},
            {"tilt_axis": "x"},
            {"microscope": None},
            {"microscope": Microscope(defocus=3.0)},
            {"crowding": 1.0},
        ],
    )
    def test_imaging_matters(self, change):
        options = {"structures": PAIR, "size": 16, "random_state": 0, "snr": np.inf}
        base = make_subtomograms(1, **options)
        other = make_subtomograms(1, **options, **change)
        np.testing.assert_array_equal(base.rotations, other.rotations)
        assert not np.allclose(other.data, base.data)

    def test_structural_noise_passes_the_optics(self):
        # Near the origin phase contrast is weak, for what passes the optics only.
        power = {}
        for fraction in (0.0, 0.5, 1.0):
            result = make_subtomograms(
                4,
                structures=PAIR,
                size=16,
                snr=0.01,
                random_state=0,
                structural_noise=fraction,
                return_clean=True,
            )
            spectrum = np.abs(fft.fftn(result.data - result.clean, axes=(1, 2, 3))) ** 2
            low = spectrum[:, 0, 1, 0] + spectrum[:, 0, 0, 1]
            power[fraction] = low.mean() / spectrum.mean()
        assert power[1.0] < power[0.5] / 1.5 < power[0.0] / 2

    def test_low_pass_takes_signal_and_noise(self):
        # The microscope and the filter of the paper's data.
        options = {
            "structures": PAIR,
            "size": 32,
            "voxel_size": 10.0,
            "resolution": 10.0,
            "tilt_step": None,
            "microscope": Microscope.liu2020(10.0),
            "snr": 0.05,
            "random_state": 0,
            "return_clean": True,
        }
        usual = make_subtomograms(1, **options)
        filtered = make_subtomograms(1, **options, low_pass=40.0)
        noise = filtered.data - filtered.clean
        ratios = filtered.clean.var(axis=(1, 2, 3)) / noise.var(axis=(1, 2, 3))
        np.testing.assert_allclose(ratios, 0.05, rtol=1e-4)
        transfer = low_pass_transfer(32, 10.0, 40.0)
        for row in range(2):
            expected = apply_transfer(usual.clean[row], transfer)
            np.testing.assert_allclose(filtered.clean[row], expected, atol=1e-6)
            expected = apply_transfer(usual.data[row] - usual.clean[row], transfer)
            expected *= noise[row].std() / expected.std()
            np.testing.assert_allclose(noise[row], expected, atol=1e-4)

        # The power of the original's volumes falls by decades between these radii.
        radius = np.linalg.norm(np.meshgrid(*[fft.fftfreq(32, 1 / 32)] * 3), axis=0)
        passed, stopped = np.abs(radius - 6) < 0.5, np.abs(radius - 10) < 0.5

        def decades(volumes):
            power = np.abs(fft.fftn(volumes, axes=(1, 2, 3))) ** 2
            return np.log10(power[:, passed].mean() / power[:, stopped].mean())

        assert decades(filtered.clean) > 2.3 > 2 > decades(usual.clean)
        assert decades(noise) > 1.7 > 1.2 > decades(usual.data - usual.clean)
        assert "; low-pass filter at 40 A; noise" in filtered.DESCR
        assert "low-pass" not in usual.DESCR
        np.testing.assert_array_equal(filtered.rotations, usual.rotations)

    def test_volume_that_shows_nothing(self):
        options = {"structures": ["apoferritin"], "size": 8, "max_shift": 0.0}
        with (
            pytest.warns(UserWarning, match="does not fit"),
            pytest.raises(ValueError, match=r"voxel_size=0\.01 .*'apoferritin'"),
        ):
            make_subtomograms(1, voxel_size=0.01, **options)

    def test_voxel_size_is_used(self):
        result = make_subtomograms(
            1, structures=["apoferritin"], size=24, voxel_size=9.0, **CLEAN
        )
        assert result.voxel_size == 9.0
        inside = (result.data[0] > 0.2).sum() * 9.0**3
        # The shell of 475 kDa at protein density, give or take the blurring.
        assert inside == pytest.approx(475e3 / 0.81, rel=0.3)


class TestDifficulty:
    def test_mass_and_contrast_do_not_give_the_class_away(self):
        result = make_subtomograms(60, size=8, random_state=0, snr=np.inf)
        flat = result.data.reshape(len(result.data), -1)
        features = np.stack([flat.sum(axis=1), flat.var(axis=1)], axis=1)
        features /= features.std(axis=0)
        train = np.arange(len(flat)) % 2 == 0
        classifier = KNeighborsClassifier(9).fit(features[train], result.target[train])
        # Ten classes: chance is 0.1.
        assert classifier.score(features[~train], result.target[~train]) < 0.35


class TestSimulator:
    def test_attributes(self):
        simulator = SubtomogramSimulator(3, structures=PAIR, size=8, random_state=0)
        bunch = make_subtomograms(3, structures=PAIR, size=8, random_state=0)
        assert simulator.n_subtomograms == 6
        np.testing.assert_array_equal(simulator.target, bunch.target)
        np.testing.assert_array_equal(simulator.target_names, bunch.target_names)
        assert simulator.voxel_size == bunch.voxel_size
        assert simulator.resolution == bunch.resolution
        assert simulator.description == bunch.DESCR

    def test_rows(self):
        simulator = SubtomogramSimulator(3, structures=PAIR, size=8, random_state=0)
        whole = simulator.simulate()
        assert whole.clean is None
        for rows in (slice(1, 6, 2), [1, 3, 5], range(1, 6, 2), np.array([-5, 3, 5])):
            part = simulator.simulate(rows)
            np.testing.assert_array_equal(part.volumes, whole.volumes[1:6:2])
            np.testing.assert_array_equal(part.target, whole.target[1:6:2])
        mask = np.arange(6) == 2
        np.testing.assert_array_equal(
            simulator.simulate(mask).volumes, whole.volumes[2:3]
        )
        assert simulator.simulate([]).volumes.shape == (0, 8, 8, 8)
        for rows in ([6], [-7], [0, 9]):
            with pytest.raises(IndexError, match=f"no row {rows[-1]}; expected 0 to 5"):
                simulator.simulate(rows)
        with pytest.raises(IndexError, match="mask of 7 rows; expected 6"):
            simulator.simulate(np.ones(7, bool))
        for rows in (-1, [[0, 1]], [0.0], "all"):
            with pytest.raises(TypeError, match=r"rows.*expected a list of row num"):
                simulator.simulate(rows)

    def test_repr(self):
        simulator = SubtomogramSimulator(3, structures=PAIR, size=8, voxel_size=25.0)
        assert repr(simulator) == (
            "SubtomogramSimulator(2 classes x 3 volumes of 8^3 voxels of 25 A, "
            "snr=0.1, n_neighbors=4)"
        )

    def test_description_tells_the_realised_ratio(self):
        simulator = SubtomogramSimulator(
            1, size=8, snr=0.05, convention="liu2020", microscope=None, tilt_step=None
        )
        assert "variance ratio of 0.025" in simulator.description
        assert "Perfect optics; tilts from -60 to 60 degrees;" in simulator.description


class TestStructures:
    def test_list_of_all_kinds(self, tmp_path):
        path = tmp_path / "atom.pdb"
        line = "ATOM  {:5d}  C   UNK A{:4d}    {:8.3f}{:8.3f}{:8.3f}  1.00  0.00{:>12}"
        path.write_text(
            "\n".join(line.format(i, i, 2.0 * i, 0, 0, "C") for i in range(1, 30))
        )
        own = Structure("own", [[0, 0, 0], [50, 0, 0]], [1e5, 2e5])
        result = make_subtomograms(
            1, structures=["p97", str(path), own], size=8, shuffle=False
        )
        assert result.target_names.tolist() == ["p97", "atom", "own"]
        assert result.structures[2] is own
        folder = make_subtomograms(1, structures=tmp_path, size=8)
        assert folder.target_names.tolist() == ["atom"]

    def test_a_single_point(self):
        point = Structure("point", [[0, 0, 0]], [1e5])
        with pytest.raises(ValueError, match="voxel_size=None"):
            make_subtomograms(1, structures=[point])
        result = make_subtomograms(1, structures=[point], size=8, voxel_size=5.0)
        assert np.isfinite(result.data).all()

    def test_warns_once_if_the_largest_does_not_fit(self):
        radius = max(load_phantom(name).radius for name in PAIR)
        options = {"structures": PAIR, "size": 8, "random_state": 0}
        smallest = 2 * radius / 8
        make_subtomograms(1, voxel_size=smallest, **options)
        make_subtomograms(1, max_shift=0.0, **options)
        for make in (make_subtomograms, SubtomogramSimulator):
            with pytest.warns(UserWarning, match="does not fit") as caught:
                make(2, voxel_size=smallest - 0.5, **options)
            (warning,) = caught
            message = str(warning.message)
            assert "'rna_polymerase_ii', which is up to" in message
            assert f"{2 * radius:.4g} A across" in message
            assert f"{8 * (smallest - 0.5):.4g} A;" in message

    @pytest.mark.parametrize(
        ("structures", "error", "message"),
        [
            ([], ValueError, "empty"),
            (["grol"], ValueError, "'grol'.*neither a file nor a phantom.*groel"),
            (["none.pdb"], FileNotFoundError, r"none\.pdb"),
            (["a/none"], ValueError, "a/none"),
            (["groel", "groel"], ValueError, r"structures\[0\].*structures\[1\]"),
            ("groel", ValueError, r"\['groel', ...\]"),
            ("nowhere", FileNotFoundError, "nowhere"),
            ([3], TypeError, "holds 3 of type int"),
            (3, TypeError, "type int"),
        ],
    )
    def test_refuses(self, structures, error, message):
        with pytest.raises(error, match=message):
            make_subtomograms(1, structures=structures)


@pytest.mark.parametrize(
    ("parameter", "value", "error"),
    [
        ("n_per_class", 0, ValueError),
        ("n_per_class", 2.0, TypeError),
        ("n_per_class", True, TypeError),
        ("size", 7, ValueError),
        ("size", "32", TypeError),
        ("voxel_size", 0, ValueError),
        ("voxel_size", -1.0, ValueError),
        ("voxel_size", np.nan, ValueError),
        ("voxel_size", "10", TypeError),
        ("resolution", 0.0, ValueError),
        ("resolution", np.inf, ValueError),
        ("snr", 0, ValueError),
        ("snr", -0.1, ValueError),
        ("snr", np.nan, ValueError),
        ("snr", None, TypeError),
        ("n_neighbors", -1, ValueError),
        ("n_neighbors", 1.5, TypeError),
        ("max_shift", -0.1, ValueError),
        ("max_shift", 0.5, ValueError),
        ("max_shift", "0", TypeError),
        ("tilt_range", (60, -60), ValueError),
        ("tilt_range", (-60, 91), ValueError),
        ("tilt_range", (-60, np.nan), ValueError),
        ("tilt_range", 60, TypeError),
        ("tilt_range", (-60, 0, 60), TypeError),
        ("tilt_range", ("a", "b"), TypeError),
        ("crowding", 0.0, ValueError),
        ("crowding", 1.1, ValueError),
        ("crowding", None, TypeError),
        ("tilt_step", 0, ValueError),
        ("tilt_step", "3", TypeError),
        ("tilt_step", 121, ValueError),
        ("low_pass", 0, ValueError),
        ("low_pass", 1e5, ValueError),
        ("low_pass", "40", TypeError),
        ("tilt_axis", "z", ValueError),
        ("tilt_axis", None, TypeError),
        ("microscope", 300, TypeError),
        ("structural_noise", -0.1, ValueError),
        ("structural_noise", 1.1, ValueError),
        ("structural_noise", "half", TypeError),
        ("convention", "liu", ValueError),
        ("random_state", -1, ValueError),
        ("random_state", 0.5, TypeError),
        ("random_state", "0", TypeError),
    ],
)
def test_errors_name_the_parameter_and_the_value(parameter, value, error):
    arguments = {"n_per_class": 1, "structures": ["groel"], parameter: value}
    with pytest.raises(error, match=f"{parameter}=") as caught:
        make_subtomograms(**arguments)
    assert repr(value) in str(caught.value)
    assert "expected" in str(caught.value)


@pytest.mark.skipif(
    not os.environ.get("SKSUBTOMO_STRUCTURES"),
    reason="SKSUBTOMO_STRUCTURES does not name a folder of structures",
)
def test_real_structures():
    result = make_subtomograms(
        1, structures=os.environ["SKSUBTOMO_STRUCTURES"], size=16, random_state=0
    )
    assert len(result.target_names) == len(result.data)
    assert np.isfinite(result.data).all()
