import csv
import sys

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.figure import Figure
from scipy import fft
from scipy.ndimage import affine_transform
from scipy.spatial.transform import Rotation
from scipy.stats import skew

from sksubtomo.datasets import make_tomogram, missing_wedge_mask
from sksubtomo.io import open_volume, read_particles, write_particles, write_volume
from sksubtomo.picking import (
    Picks,
    cut_candidates,
    detection,
    difference_of_gaussians,
    match_picks,
    pick_particles,
    pick_tomogram,
    plot_picks,
    rank_by_correlation,
    ranking,
    read_selection,
    resample_template,
    write_contact_sheets,
    write_picks,
)

VOXEL = 10.0


def balls(shape, centres, radius, values=1.0):
    """Draw solid balls, with an edge that is soft over a voxel."""
    grid = np.stack(np.indices(shape), axis=-1)
    volume = np.zeros(shape)
    for centre, value in zip(
        centres, np.broadcast_to(values, len(centres)), strict=True
    ):
        distance = np.linalg.norm(grid - centre, axis=-1)
        volume += value * np.clip(radius + 0.5 - distance, 0, 1)
    return volume.astype(np.float32)


CENTRES = np.array([[10.0, 12.0, 14.0], [22.3, 13.6, 30.2], [11.5, 30.4, 16.8]])
SHAPE = (32, 40, 44)


@pytest.fixture(scope="module")
def tomogram():
    return balls(SHAPE, CENTRES, 4.0, [3.0, 2.0, 1.0])


def test_maxima_are_at_the_balls_between_voxels(tomogram):
    picks = pick_particles(
        tomogram, 80.0, voxel_size=VOXEL, n_picks=3, contrast="light"
    )
    np.testing.assert_allclose(picks.coordinates, CENTRES, atol=0.1)
    # Twice the ball, twice the response; the mean of the filter is nearly zero.
    np.testing.assert_allclose(picks.scores / picks.scores[2], [3, 2, 1], rtol=0.05)
    assert (picks.voxel_size, picks.diameter) == (VOXEL, 80.0)


def test_contrast(tomogram):
    dark = pick_particles(-tomogram, 80.0, voxel_size=VOXEL, n_picks=3)
    light = pick_particles(
        tomogram, 80.0, voxel_size=VOXEL, n_picks=3, contrast="light"
    )
    np.testing.assert_array_equal(dark.coordinates, light.coordinates)
    with pytest.warns(UserWarning, match="contrast='light', --contrast light"):
        wrong = pick_particles(tomogram, 80.0, voxel_size=VOXEL, n_picks=3)
    assert match_picks(wrong, CENTRES, 3.0).n_matched == 0


@pytest.mark.parametrize("snr", [np.inf, 1.0, 0.1])
def test_wrong_contrast_is_warned_of_and_the_right_one_is_not(snr):
    scene = make_tomogram(
        shape=(48, 96, 96), structures=["rubisco"], crowding=0.3, snr=snr,
        random_state=0,
    )  # fmt: skip
    other = {"light": "dark", "dark": "light"}
    for contrast, volume in (("light", scene.tomogram), ("dark", -scene.tomogram)):
        # Values that are offset and scaled, as those of raw tomograms are.
        volume = 500 + 20 * volume
        pick_particles(volume, 130.0, voxel_size=VOXEL, contrast=contrast)
        with pytest.warns(
            UserWarning, match=f"--contrast {contrast}.*the gaps between"
        ) as found:
            pick_particles(volume, 130.0, voxel_size=VOXEL, contrast=other[contrast])
        assert found[0].filename == __file__


@pytest.mark.parametrize("diameter", [60.0, 150.0])
def test_noise_has_no_wrong_contrast(diameter):
    rng = np.random.default_rng(0)
    for _ in range(10):
        volume = rng.normal(size=(24, 40, 40))
        for contrast in ("dark", "light"):
            pick_particles(volume, diameter, voxel_size=VOXEL, contrast=contrast)


def test_skewness_is_that_of_the_response(tomogram, monkeypatch):
    monkeypatch.setattr(detection, "_BLOCK", 13)
    dog = detection._Filter.of(80.0, VOXEL, "light", 1.1)
    moments = detection._maxima(tomogram, dog)[2]
    response = difference_of_gaussians(
        tomogram, 80.0, voxel_size=VOXEL, contrast="light"
    )
    assert moments.skewness == pytest.approx(skew(response, axis=None), rel=1e-4)
    assert moments.deviation == pytest.approx(response.std(), rel=1e-4)


@pytest.mark.parametrize("ratio", [1.1, 1.6])
def test_response_is_largest_for_the_ball_of_the_diameter(ratio):
    shape, centre = (41, 41, 41), [[20.0, 20.0, 20.0]]
    responses = [
        difference_of_gaussians(
            balls(shape, centre, radius),
            120.0,
            voxel_size=VOXEL,
            contrast="light",
            sigma_ratio=ratio,
        )[20, 20, 20]
        for radius in (5.0, 5.5, 6.0, 6.5, 7.0)
    ]
    assert np.argmax(responses) == 2


def test_blocks_do_not_show(tomogram, monkeypatch):
    noisy = tomogram + np.random.default_rng(0).normal(size=SHAPE)
    options = {"voxel_size": VOXEL, "contrast": "light"}
    whole = difference_of_gaussians(noisy, 80.0, **options)
    picks = pick_particles(noisy, 80.0, n_picks=50, **options)
    monkeypatch.setattr(detection, "_BLOCK", 13)
    np.testing.assert_array_equal(
        difference_of_gaussians(noisy, 80.0, **options), whole
    )
    again = pick_particles(noisy, 80.0, n_picks=50, **options)
    np.testing.assert_allclose(again.coordinates, picks.coordinates, atol=1e-9)
    np.testing.assert_allclose(again.scores, picks.scores, rtol=1e-9)


def test_only_blocks_are_read(tomogram, monkeypatch):
    read = []

    class Watched(np.ndarray):
        def __getitem__(self, index):
            part = super().__getitem__(index)
            read.append(np.size(part))
            return part

    monkeypatch.setattr(detection, "_BLOCK", 4)
    pick_particles(
        tomogram.view(Watched), 30.0, voxel_size=VOXEL, n_picks=3, contrast="light"
    )
    assert max(read) < tomogram.size / 4


def test_fine_voxels_are_averaged_and_positions_stay():
    fine = balls((96, 96, 96), [[40.2, 50.7, 60.0]], 16.0)
    picks = pick_particles(
        fine, 32.0, voxel_size=1.0, n_picks=1, contrast="light", border=0
    )
    np.testing.assert_allclose(picks.coordinates, [[40.2, 50.7, 60.0]], atol=0.2)


def test_close_maxima_are_suppressed(tomogram):
    noisy = tomogram + np.random.default_rng(0).normal(size=SHAPE)
    picks = pick_particles(
        noisy, 40.0, voxel_size=VOXEL, min_distance=75.0, contrast="light"
    )
    assert len(picks) > 10
    assert (np.diff(picks.scores) <= 0).all()
    distances = np.linalg.norm(
        picks.coordinates[:, None] - picks.coordinates[None], axis=-1
    )
    np.fill_diagonal(distances, np.inf)
    assert distances.min() >= 7.5
    # Every maximum that is left out is close to a better pick.
    everything = pick_particles(
        noisy, 40.0, voxel_size=VOXEL, n_picks=10**6, min_distance=0, contrast="light"
    )
    for point, score in zip(everything.coordinates, everything.scores, strict=True):
        near = np.linalg.norm(picks.coordinates - point, axis=1) < 7.5
        assert picks.scores[near].max(initial=-np.inf) >= score


def test_border_mask_and_scores_limit_the_picks(tomogram):
    options = {"voxel_size": VOXEL, "contrast": "light"}
    picks = pick_particles(tomogram, 80.0, n_picks=3, **options)
    away = pick_particles(tomogram, 80.0, n_picks=3, border=95.0, **options)
    assert match_picks(away, CENTRES, 1.0).found.tolist() == [True, False, False]
    mask = np.zeros(SHAPE, dtype=bool)
    mask[:, :20] = True
    masked = pick_particles(tomogram, 80.0, n_picks=3, mask=mask, **options)
    assert match_picks(masked, CENTRES, 1.0).found.tolist() == [True, True, False]
    limits = (picks.scores[2] - 0.1, picks.scores[0] - 0.1)
    limited = pick_particles(tomogram, 80.0, score_range=limits, **options)
    np.testing.assert_array_equal(limited.coordinates, picks.coordinates[1:])


def test_simulated_tomogram():
    scene = make_tomogram(
        shape=(48, 128, 128), crowding=0.15, snr=1.0, structures=["rubisco"],
        random_state=0,
    )  # fmt: skip
    picks = pick_particles(
        scene.tomogram,
        120.0,
        voxel_size=scene.voxel_size,
        n_picks=len(scene.coordinates),
        contrast="light",
    )
    match = match_picks(picks, scene.coordinates, 6.0)
    assert match.precision > 0.9
    assert match.recall > 0.9


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tomogram": np.zeros((2, 8, 8, 8))}, r"shape \(2, 8, 8, 8\)"),
        ({"tomogram": np.zeros((8, 8, 8), complex)}, "complex128"),
        ({"tomogram": np.full((16, 16, 16), 5.3)}, "constant"),
        ({"tomogram": np.full((16, 16, 16), np.nan)}, "NaN"),
        ({"diameter": 20.0}, "2 voxels"),
        ({"diameter": 2000.0}, "200 voxels"),
        ({"diameter": -1.0}, "diameter=-1.0"),
        ({"voxel_size": 0.0}, "voxel_size=0.0"),
        ({"voxel_size": np.inf}, "voxel_size=inf"),
        ({"n_picks": 0}, "n_picks=0"),
        ({"contrast": "black"}, "contrast='black'"),
        ({"min_distance": -1.0}, "min_distance=-1.0"),
        ({"border": np.nan}, "border=nan"),
        ({"score_range": (2, 1)}, r"score_range=\(2, 1\)"),
        ({"mask": np.ones((2, 2, 2), bool)}, r"mask has shape \(2, 2, 2\)"),
    ],
)
def test_picking_rejects(tomogram, changes, message):
    arguments = {"tomogram": tomogram, "diameter": 80.0, "voxel_size": VOXEL, **changes}
    with pytest.raises(ValueError, match=message):
        pick_particles(**arguments)


def test_types_are_checked(tomogram):
    with pytest.raises(TypeError, match="n_picks=2.0"):
        pick_particles(tomogram, 80.0, voxel_size=VOXEL, n_picks=2.0)
    with pytest.raises(TypeError, match="diameter='80'"):
        difference_of_gaussians(tomogram, "80", voxel_size=VOXEL)
    with pytest.raises(ValueError, match="sigma_ratio=1"):
        difference_of_gaussians(tomogram, 80.0, voxel_size=VOXEL, sigma_ratio=1)


def test_matching_is_one_to_one_and_as_large_as_possible():
    truth = np.array([[0.0, 0, 0], [0, 0, 2.0], [50.0, 0, 0]])
    # The first pick is nearest to the second position, which the second pick needs.
    picks = np.array([[0.0, 0, 1.2], [0, 0, 3.0], [0, 0, 2.5], [30, 0, 0]])
    match = match_picks(picks, truth, 1.5)
    assert match.n_matched == 2
    assert match.matched_truth[0] == 0
    assert sorted(match.matched_truth[1:3]) == [-1, 1]
    assert match.found.tolist() == [True, True, False]
    assert match.precision == 2 / 4
    assert match.recall == 2 / 3
    assert match.f1 == pytest.approx(2 * 0.5 * (2 / 3) / (0.5 + 2 / 3))


def test_matching_of_nothing():
    match = match_picks(np.empty((0, 3)), np.zeros((2, 3)), 1.0)
    assert match.recall == 0
    assert np.isnan(match.precision)
    assert np.isnan(match_picks(np.zeros((1, 3)), np.empty((0, 3)), 1.0).recall)
    with pytest.raises(ValueError, match="tolerance=0"):
        match_picks(np.zeros((1, 3)), np.zeros((1, 3)), 0)
    with pytest.raises(ValueError, match="truth have shape"):
        match_picks(np.zeros((1, 3)), np.zeros(3), 1.0)


def particle(size, centre=None):
    """Draw a body without any symmetry."""
    middle = np.full(3, size // 2) if centre is None else np.asarray(centre)
    parts = np.array([[0, 0, 0], [1, 2, 0], [-2, 0, -1]])
    return balls((size,) * 3, middle + parts, 1.6)


def wedged(volume):
    mask = missing_wedge_mask(volume.shape[-1], (-60.0, 60.0))
    return fft.irfftn(fft.rfftn(volume) * mask, s=volume.shape)


def test_score_of_the_template_itself_is_one_wherever_it_is_shifted(monkeypatch):
    # Without the average over orientations, which no body but a ball survives.
    monkeypatch.setattr(ranking, "spherical_average", lambda volume: volume)
    template = particle(16)
    volumes = np.stack(
        [
            7 + 3 * template,
            particle(16, [9, 7, 8]),
            wedged(particle(16, [9, 7, 8])),
            -template,
        ]
    )
    scores = rank_by_correlation(volumes, template, max_shift=1, radius=5)
    np.testing.assert_allclose(scores[0], 1, atol=1e-6)
    np.testing.assert_allclose(scores[1:3], 1, atol=0.02)
    assert scores[3] < 0.5
    assert rank_by_correlation(volumes, template, max_shift=0, radius=5)[1] < 0.9


def test_what_was_not_measured_does_not_count(monkeypatch):
    monkeypatch.setattr(ranking, "spherical_average", lambda volume: volume)
    template = particle(16)
    noise = np.random.default_rng(0).normal(size=template.shape)
    clean = wedged(template)
    disturbed = clean + 5 * (noise - wedged(noise))
    scores = rank_by_correlation(np.stack([clean, disturbed]), template)
    np.testing.assert_allclose(scores, 1, atol=1e-6)
    ignorant = rank_by_correlation(disturbed[None], template, tilt_range=(-90, 90))
    assert ignorant[0] < 0.5


def test_score_is_the_local_correlation_coefficient():
    rng = np.random.default_rng(0)
    volumes, template = rng.normal(size=(3, 12, 12, 12)), rng.normal(size=(12,) * 3)
    scores = rank_by_correlation(
        volumes, template, tilt_range=(-90, 90), max_shift=2, radius=3
    )
    mask = ranking._soft_sphere(12, 3)
    average = ranking.spherical_average(template)

    def coefficient(volume):
        a, b = (v - np.average(v, weights=mask) for v in (volume, average))
        return (mask * a * b).sum() / np.sqrt((mask * a**2).sum() * (mask * b**2).sum())

    shifts = np.argwhere(np.ones((5, 5, 5))) - 2
    for volume, score in zip(volumes, scores, strict=True):
        best = max(coefficient(np.roll(volume, -s, (0, 1, 2))) for s in shifts)
        assert score == pytest.approx(best, abs=1e-6)


def test_rotations_are_searched():
    template = particle(16)
    turned = [
        affine_transform(template, r.T, 8 - r.T @ np.full(3, 8), order=1)
        for r in Rotation.random(4, random_state=0).as_matrix()
    ]
    volumes = np.stack([wedged(volume) for volume in turned])
    averaged = rank_by_correlation(volumes, template, max_shift=1)
    searched = rank_by_correlation(volumes, template, max_shift=1, n_rotations=300)
    assert (searched > averaged + 0.03).all()
    assert (searched > 0.9).all()


def test_rotations_are_even():
    rotations = Rotation.from_matrix(ranking.spread_rotations(500))
    assert np.allclose(rotations.as_matrix().mean(axis=0), 0, atol=0.01)
    angles = [
        np.sort((turn.inv() * rotations).magnitude())[1] for turn in rotations[::25]
    ]
    assert np.rad2deg(np.min(angles)) > 15
    assert np.rad2deg(np.max(angles)) < 40


def test_spherical_average():
    volume = np.random.default_rng(0).normal(size=(9, 9, 9))
    average = ranking.spherical_average(volume)
    assert average[4, 4, 4] == pytest.approx(volume[4, 4, 4])
    for turned in (average[::-1], average.transpose(2, 0, 1)):
        np.testing.assert_allclose(average, turned)
    once = balls((9, 9, 9), [[4, 4, 4]], 2.0)
    again = ranking.spherical_average(once)
    assert np.corrcoef(again.ravel(), once.ravel())[0, 1] > 0.95


def test_own_average_tells_particles_from_noise():
    rng = np.random.default_rng(0)
    shifts = rng.integers(-1, 2, size=(30, 3))
    true = np.stack([wedged(particle(16, 8 + shift)) for shift in shifts])
    volumes = np.concatenate([true, np.zeros((30, 16, 16, 16))])
    volumes += rng.normal(size=volumes.shape) * true.std()
    order = rng.permutation(60)
    scores = rank_by_correlation(volumes[order])
    is_true = order[np.argsort(-scores)][:30] < 30
    assert is_true.mean() > 0.9
    # Grey values of one volume do not count for more than those of another.
    volumes[order[0]] *= 1000
    np.testing.assert_allclose(
        rank_by_correlation(volumes[order]), scores, rtol=1e-6, atol=1e-9
    )


def test_constant_volumes_score_zero():
    volumes = np.stack([particle(12), np.full((12, 12, 12), 3.3)])
    scores = rank_by_correlation(volumes)
    assert scores[0] > 0.5
    assert scores[1] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"volumes": np.ones((3, 8, 8, 9))}, r"shape \(3, 8, 8, 9\)"),
        ({"template": np.ones((4, 4, 4))}, r"template has shape \(4, 4, 4\)"),
        ({"template": np.ones((8, 8, 8))}, "template is constant"),
        ({"template": np.full((8, 8, 8), np.nan)}, "template holds NaN"),
        ({"max_shift": 2}, "max_shift=2"),
        ({"radius": 4}, "radius=4"),
        ({"n_rotations": 5}, "n_rotations=5"),
        ({"tilt_range": (60, -60)}, "tilt_range"),
    ],
)
def test_ranking_rejects(arguments, message):
    volumes = np.random.default_rng(0).normal(size=(3, 8, 8, 8))
    with pytest.raises(ValueError, match=message):
        rank_by_correlation(**{"volumes": volumes, **arguments})


def test_nan_in_a_volume_is_named():
    volumes = np.random.default_rng(0).normal(size=(3, 8, 8, 8))
    volumes[2, 1, 1, 1] = np.nan
    with pytest.raises(ValueError, match="volume 2 holds NaN"):
        rank_by_correlation(volumes)


def test_candidates_are_light_and_centred(tomogram):
    picks = Picks(CENTRES[:1], np.ones(1), VOXEL, 80.0)
    boxes, voxel_size = cut_candidates(-tomogram, picks)
    assert boxes.shape == (1, 16, 16, 16)
    assert voxel_size == VOXEL
    np.testing.assert_array_equal(boxes[0], tomogram[2:18, 4:20, 6:22])
    boxes, voxel_size = cut_candidates(
        tomogram, Picks(CENTRES, np.ones(3), 2.0, 48.0), contrast="light"
    )
    assert boxes.shape == (3, 24, 24, 24)
    assert voxel_size == 4.0
    with pytest.raises(ValueError, match="1 picks"):
        cut_candidates(tomogram, Picks(CENTRES[:1] + 99, np.ones(1), VOXEL, 80.0))


@pytest.mark.parametrize("scale", [0.5, 1.0, 2.0])
def test_template_is_resampled_about_its_centre(scale):
    template = 5 + balls((24, 24, 24), [[12, 12, 12]], 4.0)
    resampled = resample_template(template, 10.0, size=16, new_voxel_size=10.0 * scale)
    expected = 5 + balls((16, 16, 16), [[8, 8, 8]], 4.0 / scale)
    inside = (slice(2, 15),) * 3
    assert np.corrcoef(resampled[inside].ravel(), expected[inside].ravel())[0, 1] > 0.95
    np.testing.assert_allclose(
        resampled[inside], resampled[inside][::-1, ::-1, ::-1], atol=1e-3
    )


def test_picks_are_written_for_every_dialect(tmp_path):
    picks = Picks(CENTRES, np.array([3.0, 2.0, 1.0]), VOXEL, 80.0)
    path = tmp_path / "picks.star"
    write_picks(path, picks, tomogram_name="001", tomogram_shape=SHAPE)
    particles = read_particles(path)
    for units in ("pixels", "angstroms_centered"):
        np.testing.assert_allclose(
            particles.coordinates(VOXEL, SHAPE, units=units), CENTRES, atol=1e-3
        )
        # In a tomogram binned by two.
        np.testing.assert_allclose(
            particles.coordinates(2 * VOXEL, np.divide(SHAPE, 2), units=units),
            CENTRES / 2,
            atol=1e-3,
        )
    assert set(particles.tomogram_names) == {"001"}
    assert particles.loop.column("rlnTomoParticleName") == ["001/1", "001/2", "001/3"]
    assert float(particles.loop.column("rlnAutopickFigureOfMerit")[1]) == 2.0


def test_picks_can_be_resorted_and_cut():
    picks = Picks(CENTRES, np.array([3.0, 2.0, 1.0]), VOXEL, 80.0)
    best = picks.sorted_by(np.array([0.1, 0.9, 0.5])).first(2)
    np.testing.assert_array_equal(best.coordinates, CENTRES[[1, 2]])
    np.testing.assert_array_equal(best.scores, [0.9, 0.5])
    with pytest.raises(ValueError, match=r"shape \(2,\)"):
        picks.sorted_by(np.ones(2))


def test_figure_shows_cuts_through_the_spheres(tomogram):
    picks = Picks(CENTRES, np.ones(3), VOXEL, 80.0)
    figure = plot_picks(tomogram, picks, n_slices=1, figure=Figure())
    (ax,) = figure.axes
    # Halfway between the lowest and the highest pick; voxels of 1 nm.
    assert "voxel 16" in ax.get_title()
    (circles,) = ax.collections
    # The first pick is six voxels away, more than the radius of four.
    np.testing.assert_allclose(circles.get_offsets(), np.empty((0, 2)))
    figure = plot_picks(tomogram, picks, n_slices=3)
    shown = [ax.collections[0] for ax in figure.axes]
    np.testing.assert_allclose(shown[0].get_offsets(), CENTRES[[0, 2]][:, :0:-1])
    plane = int(figure.axes[0].get_title().split("voxel ")[1].rstrip(")"))
    expected = 2 * np.sqrt(16 - (CENTRES[[0, 2], 0] - plane) ** 2)
    np.testing.assert_allclose(shown[0].get_widths(), expected)
    plt.close(figure)


def test_figure_with_truth_tells_true_from_false(tomogram):
    picks = Picks(CENTRES[:2], np.ones(2), VOXEL, 80.0)
    figure = plot_picks(tomogram, picks, truth=CENTRES[1:], figure=Figure())
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.texts] == [
        "true pick (1)",
        "false pick (1)",
        "missed (1)",
    ]
    figure.canvas.draw()


def test_contact_sheets_and_selection(tmp_path):
    volumes = np.random.default_rng(0).normal(size=(7, 8, 8, 8))
    names = [f"TS_01/{i}" for i in range(7)]
    pages = write_contact_sheets(
        volumes,
        tmp_path / "sheets",
        names=names,
        scores=np.arange(7.0),
        voxel_size=VOXEL,
        n_columns=3,
        n_rows=2,
    )
    assert [page.name for page in pages] == ["sheet_001.png", "sheet_002.png"]
    assert plt.imread(pages[0]).std() > 0
    table = tmp_path / "sheets" / "selection.csv"
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["particle"] for row in rows] == names
    assert [row["number"] for row in rows] == list("1234567")
    with pytest.raises(ValueError, match="no particle is selected"):
        read_selection(table)
    table.write_text(
        "\n".join(
            line + "1" if i in (2, 5) else line
            for i, line in enumerate(table.read_text().splitlines())
        )
    )
    assert read_selection(table) == ["TS_01/1", "TS_01/4"]
    with pytest.raises(FileExistsError, match=r"selection\.csv"):
        write_contact_sheets(volumes, tmp_path / "sheets")
    write_contact_sheets(volumes[:2], tmp_path / "sheets", overwrite=True)
    assert len(list((tmp_path / "sheets").glob("sheet_*.png"))) == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\ufeffparticle;selected\r\na;1\r\nb;0\r\n", ["a"]),
        (" selected ,note,particle\nYes,'x',a\nX,,b\nno,,c\n,,d\n", ["a", "b"]),
    ],
)
def test_selection_as_spreadsheets_write_it(tmp_path, text, expected):
    path = tmp_path / "s.csv"
    path.write_text(text, encoding="utf-8", newline="")
    assert read_selection(path) == expected


def test_selection_from_star(tmp_path):
    path = tmp_path / "chosen.star"
    write_particles(path, {"rlnImageName": ["000002@a.mrc", "000005@a.mrc"]})
    assert read_selection(path) == ["000002@a.mrc", "000005@a.mrc"]
    write_particles(
        path, {"rlnImageName": ["1@a.mrc"], "rlnTomoParticleName": ["TS_01/7"]}
    )
    assert read_selection(path) == ["TS_01/7"]
    write_particles(path, {"rlnCoordinateX": [1.0]})
    with pytest.raises(ValueError, match="rlnTomoParticleName"):
        read_selection(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "0 columns called particle"),
        (b"particle,label\na,1\n", "0 columns called selected"),
        (b"particle,particle,selected\na,a,1\n", "2 columns called particle"),
        (b"particle,selected\na,maybe\n", "line 2: selected is 'maybe'"),
        (b"particle,selected\n\xff\xfe,1\n", "UTF-8"),
        (b"particle,selected\na\n", "no particle is selected"),
    ],
)
def test_bad_selections(tmp_path, content, message):
    path = tmp_path / "s.csv"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_selection(path)
    with pytest.raises(FileNotFoundError):
        read_selection(tmp_path / "nothing.csv")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"volumes": np.zeros((2, 8, 8))}, "volumes have shape"),
        ({"names": ["a"]}, "names has 1"),
        ({"scores": np.ones(3)}, "scores has 3"),
        ({"n_columns": 0}, "n_columns=0"),
        ({"thickness": 9}, "thickness=9"),
    ],
)
def test_contact_sheets_reject(tmp_path, changes, message):
    arguments = {"volumes": np.zeros((2, 8, 8, 8)), "folder": tmp_path / "s", **changes}
    with pytest.raises(ValueError, match=message):
        write_contact_sheets(**arguments)
    assert not (tmp_path / "s").exists()


@pytest.fixture
def file(tmp_path, tomogram):
    noise = np.random.default_rng(0).normal(size=SHAPE, scale=0.3)
    write_volume(tmp_path / "TS_01.mrc", -tomogram + noise, VOXEL)
    return tmp_path / "TS_01.mrc"


def test_workflow(file, tmp_path):
    template = tmp_path / "template.mrc"
    write_volume(template, balls((24, 24, 24), [[12, 12, 12]], 8.0), 5.0)
    for number, options in enumerate(({}, {"rank": True}, {"template": template})):
        picks = pick_tomogram(
            file,
            80.0,
            tmp_path / "picks.star",
            n_picks=3,
            n_candidates=8 if options else None,
            figure=tmp_path / "picks.png",
            contact_sheets=tmp_path / f"sheets{number}",
            overwrite=number > 0,
            **options,
        )
        assert match_picks(picks, CENTRES, 1.0).f1 == 1
        assert (picks.scores.max() <= 1) == bool(options)
        particles = read_particles(tmp_path / "picks.star")
        volume, voxel_size = open_volume(file)
        np.testing.assert_allclose(
            particles.coordinates(voxel_size, volume.shape),
            picks.coordinates,
            atol=1e-3,
        )
        assert (tmp_path / f"sheets{number}" / "sheet_001.png").exists()
    assert plt.get_fignums() == []


def test_workflow_fails_before_the_work(file, tmp_path, monkeypatch):
    def work(*args, **options):
        raise AssertionError("too early")

    monkeypatch.setattr("sksubtomo.picking.workflow.pick_particles", work)
    output = tmp_path / "picks.star"
    with pytest.raises(FileNotFoundError, match="no folder"):
        pick_tomogram(file, 80.0, tmp_path / "nowhere" / "picks.star")
    with pytest.raises(ValueError, match=r"suffix '\.doc'"):
        pick_tomogram(file, 80.0, output, figure=tmp_path / "picks.doc")
    with pytest.raises(ValueError, match="is the input"):
        pick_tomogram(file, 80.0, file, overwrite=True)
    (tmp_path / "selection.csv").touch()
    with pytest.raises(FileExistsError):
        pick_tomogram(file, 80.0, output, contact_sheets=tmp_path)
    (tmp_path / "folder").mkdir()
    for path in ({"output": tmp_path / "folder"}, {"figure": tmp_path / "folder"}):
        options = {"output": output, "overwrite": True, **path}
        with pytest.raises(IsADirectoryError, match=r"folder: is a folder"):
            pick_tomogram(file, 80.0, **options)
    with pytest.raises(NotADirectoryError, match=r"TS_01\.mrc is a file"):
        pick_tomogram(file, 80.0, output, contact_sheets=file)
    with pytest.raises(ValueError, match=r"n_candidates=2 .*n_picks=3 \(--number\)"):
        pick_tomogram(file, 80.0, output, n_picks=3, n_candidates=2, rank=True)
    write_volume(tmp_path / "unknown.mrc", np.zeros((4, 4, 4)), None)
    with pytest.raises(ValueError, match="voxel size"):
        pick_tomogram(tmp_path / "unknown.mrc", 80.0, output)
    with pytest.raises(ValueError, match="a template needs"):
        pick_tomogram(file, 80.0, output, template=tmp_path / "unknown.mrc")
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match=r"sksubtomo\[study\]"):
        pick_tomogram(file, 80.0, output, figure=tmp_path / "picks.png")


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"n_candidates": 2000}, r"n_candidates=2000 \(--candidates\)"),
        ({"n_rotations": 300}, r"n_rotations=300 \(--rotations\)"),
        ({"tilt_range": (-50, 50)}, r"tilt_range=\(-50, 50\) \(--tilt-range\)"),
        ({"tilt_axis": "x"}, r"tilt_axis='x' \(--tilt-axis\)"),
    ],
)
def test_options_of_ranking_need_ranking(file, tmp_path, option, message):
    with pytest.raises(ValueError, match=f"{message} is for ranking; .*--rank"):
        pick_tomogram(file, 80.0, tmp_path / "picks.star", **option)
    assert not (tmp_path / "picks.star").exists()
