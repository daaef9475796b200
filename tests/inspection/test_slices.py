import sys

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.figure import Figure

from sksubtomo._stored import StoredVolumes
from sksubtomo.inspection.slices import MontageDisplay, SlicesDisplay


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


@pytest.fixture
def volumes():
    return np.random.default_rng(0).normal(size=(7, 6, 8, 10))


LABELS = np.array(["b", "a", "a", "b", "a", "c", "a"])


class Spy:
    """Volumes that tell which of their values were asked for."""

    ndim = 4

    def __init__(self, volumes):
        self.volumes = volumes
        self.shape = volumes.shape
        self.asked = []

    def __len__(self):
        return len(self.volumes)

    def __getitem__(self, index):
        self.asked.append(index)
        return self.volumes[index]


def drawn(display):
    return [np.asarray(image.get_array()) for image in display.images_]


def visible(figure):
    return [ax for ax in figure.axes if ax.axison]


def test_three_central_slices(volumes):
    display = SlicesDisplay.from_volumes(volumes[:2], voxel_size=10.0, names=["p", "q"])
    assert display.axes_.shape == (2, 3)
    rows = np.array(display.images_).reshape(2, 3)
    for row, images in zip(volumes[:2], rows, strict=True):
        np.testing.assert_array_equal(images[0].get_array(), row[3])
        np.testing.assert_array_equal(images[1].get_array(), row[:, 4])
        np.testing.assert_array_equal(images[2].get_array(), row[:, :, 5])
    # Angstroms around the voxel n // 2 of 10 along x, 8 along y and 6 along z.
    extents = [image.get_extent() for image in display.images_[:3]]
    assert extents[0] == pytest.approx((-55, 45, -45, 35))
    assert extents[1] == pytest.approx((-55, 45, -35, 25))
    assert extents[2] == pytest.approx((-45, 35, -35, 25))
    assert all(image.origin == "lower" for image in display.images_)
    assert [ax.get_ylabel() for ax in display.axes_[:, 0]] == ["p", "q"]
    titles = [ax.get_title() for ax in display.axes_[0]]
    assert titles == ["xy, z = 0 Å", "xz, y = 0 Å", "yz, x = 0 Å"]


def test_slices_at_given_positions_of_one_volume(volumes):
    display = SlicesDisplay.from_volumes(volumes[0], positions=(1, 7, 5))
    assert display.axes_.shape == (1, 3)
    images = drawn(display)
    np.testing.assert_array_equal(images[0], volumes[0, 1])
    np.testing.assert_array_equal(images[1], volumes[0][:, 7])
    np.testing.assert_array_equal(images[2], volumes[0][:, :, 5])
    titles = [ax.get_title() for ax in display.axes_[0]]
    assert titles == ["xy, z = −2 voxels", "xz, y = 3 voxels", "yz, x = 0 voxels"]


def test_panels_of_a_volume_have_one_scale(volumes):
    display = SlicesDisplay.from_volumes(volumes[:2], voxel_size=10.0)
    display.figure_.canvas.draw()
    scales = {
        round(ax.get_window_extent().width / np.ptp(ax.get_xlim()), 1)
        for ax in display.axes_.flat
    }
    assert len(scales) == 1
    width = display.figure_.get_size_inches()[0]
    assert width == pytest.approx(8.5 / 2.54)


@pytest.mark.parametrize("shared", [False, True])
def test_contrast_is_of_each_volume_or_shared(volumes, shared):
    bright = volumes[:2] * np.array([1, 10])[:, None, None, None]
    display = SlicesDisplay.from_volumes(bright, shared_contrast=shared)
    images = drawn(display)
    limits = [image.get_clim() for image in display.images_]
    for n, part in enumerate((images[:3], images[3:])):
        values = np.concatenate([i.ravel() for i in (images if shared else part)])
        assert limits[3 * n] == pytest.approx(np.percentile(values, [1, 99]))
        assert limits[3 * n] == limits[3 * n + 2]
    heading = display.figure_.get_suptitle()
    assert ("one grey scale for all" in heading) == shared
    assert ("its own grey scale" in heading) != shared


def test_stored_volumes_are_read_where_they_are_drawn(volumes, tmp_path):
    spy = Spy(volumes)
    SlicesDisplay.from_volumes(spy, positions=(0, 0, 0))
    assert {len(index) for index in spy.asked} <= {2, 3, 4}
    assert len(spy.asked) == 3 * len(volumes)
    spy = Spy(volumes)
    MontageDisplay.from_predictions(spy, LABELS, n_per_class=1)
    assert spy.asked == [(1, 3), (0, 3), (5, 3)]
    np.save(tmp_path / "volumes.npy", volumes)
    mapped = np.load(tmp_path / "volumes.npy", mmap_mode="r")
    for stored in (mapped, StoredVolumes(mapped, volumes.shape[1:])):
        images = drawn(MontageDisplay.from_volumes(stored))
        np.testing.assert_allclose(images, volumes[:, 3], rtol=1e-6)


def test_montage_is_class_by_class(volumes):
    display = MontageDisplay.from_predictions(volumes, LABELS, n_per_class=3)
    for image, row in zip(drawn(display), [1, 2, 4, 0, 3, 5], strict=True):
        np.testing.assert_array_equal(image, volumes[row, 3])
    assert [ax.get_ylabel() for ax in display.axes_[:, 0]] == ["a", "b", "c"]
    assert display.axes_.shape == (3, 3)
    assert len(visible(display.figure_)) == 6


def test_montage_of_chosen_classes(volumes):
    display = MontageDisplay.from_predictions(
        volumes, LABELS, n_per_class=1, classes=["c", "b"], titles=np.arange(7) / 7
    )
    np.testing.assert_array_equal(drawn(display), volumes[[5, 0], 3])
    titles = [ax.get_title() for ax in display.axes_[:, 0]]
    assert titles == ["0.71", "0.00"]


def test_montage_leaves_out_what_has_no_class(volumes):
    labels = [None, "b", "a", float("nan"), "b", "a", "c"]
    display = MontageDisplay.from_predictions(volumes, labels, n_per_class=1)
    np.testing.assert_array_equal(drawn(display), volumes[[2, 1, 6], 3])


def test_montage_without_labels(volumes):
    display = MontageDisplay.from_volumes(
        volumes, titles=list("tuvwxyz"), n_columns=4, shared_contrast=True
    )
    assert display.axes_.shape == (2, 4)
    np.testing.assert_array_equal(drawn(display), volumes[:, 3])
    shown = visible(display.figure_)
    assert [ax.get_title() for ax in shown] == list("tuvwxyz")
    assert len({image.get_clim() for image in display.images_}) == 1


def test_montage_of_what_a_classifier_is_surest_of(volumes):
    class Classifier:
        classes_ = np.array(["x", "y", "z"])

        def predict_proba(self, X):
            assert X is volumes
            sure = np.array([0.5, 0.9, 0.6, 0.8, 0.7, 0.95, 0.4])
            probabilities = np.repeat((1 - sure)[:, None] / 2, 3, axis=1)
            probabilities[np.arange(7), [0, 0, 0, 2, 2, 0, 2]] = sure
            return probabilities

    display = MontageDisplay.from_estimator(Classifier(), volumes, n_per_class=2)
    np.testing.assert_array_equal(drawn(display), volumes[[5, 1, 3, 4], 3])
    assert [ax.get_ylabel() for ax in display.axes_[:, 0]] == ["x", "z"]
    titles = [ax.get_title() for ax in display.axes_.flat]
    assert titles == ["0.95", "0.90", "0.80", "0.70"]
    with pytest.raises(TypeError, match="object, which has no predict_proba"):
        MontageDisplay.from_estimator(object(), volumes)


@pytest.mark.parametrize(
    ("voxel_size", "text", "length"), [(10.0, "50 Å", 50.0), (None, "5 voxels", 5.0)]
)
def test_scale_bar_is_as_long_as_it_says(volumes, voxel_size, text, length):
    display = MontageDisplay.from_predictions(
        volumes, LABELS, n_per_class=1, voxel_size=voxel_size
    )
    (ax,) = [ax for ax in display.figure_.axes if ax.lines]
    assert ax.get_xlabel() == text
    start, stop = ax.lines[0].get_xdata()
    assert stop - start == pytest.approx(length)
    # In the coordinates of the slice, which it leaves as they are.
    left, right, *_ = ax.images[0].get_extent()
    assert ax.get_xlim() == pytest.approx((left, right))


def test_displays_draw_where_they_are_told_to(volumes):
    figure = Figure()
    display = MontageDisplay.from_predictions(volumes, LABELS, ax=figure)
    assert display.figure_ is figure
    assert figure.get_suptitle() == "Central z slices, each with its own grey scale"
    ax = Figure(layout="constrained").subplots(1, 2)[1]
    display = SlicesDisplay.from_volumes(volumes[:2], ax=ax, title="Two")
    assert not ax.axison
    assert display.figure_.get_suptitle() == "Two"
    ax.figure.canvas.draw()
    assert all(
        ax.get_position().x0 > 0.5 or panel.get_window_extent().x0 > 300
        for panel in display.axes_.flat
    )
    axes = Figure().subplots(3, 2)
    display = SlicesDisplay.from_volumes(volumes[:2], ax=axes)
    assert list(display.axes_.flat) == list(axes.flat)
    assert plt.get_fignums() == []


def test_display_is_drawn_again(volumes):
    display = SlicesDisplay.from_volumes(volumes[:1], voxel_size=10.0)
    first = display.figure_
    assert display.plot(ax=Figure()) is display
    assert display.figure_ is not first
    assert len(display.images_) == 3


def test_constant_volumes_are_drawn():
    display = MontageDisplay.from_predictions(np.zeros((2, 4, 4, 4)), [0, 1])
    display.figure_.canvas.draw()
    assert len(display.images_) == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"volumes": np.zeros((7, 6))}, r"volumes have shape \(7, 6\)"),
        ({"volumes": np.zeros((0, 4, 4, 4))}, r"volumes have shape \(0, 4, 4, 4\)"),
        ({"labels": LABELS[:3]}, r"labels have shape \(3,\)"),
        ({"n_per_class": 0}, "n_per_class=0"),
        ({"n_per_class": 2.5}, "n_per_class=2.5; expected an integer"),
        ({"labels": [None] * 7}, "labels are all None or NaN"),
        ({"classes": ["d"]}, "'d'"),
        ({"voxel_size": 0.0}, "voxel_size=0.0"),
        ({"titles": ["one"]}, r"titles has shape \(1,\); expected \(7,\)"),
        ({"volumes": np.full((7, 4, 4, 4), np.nan)}, "volume 1 holds NaN"),
    ],
)
def test_montage_rejects(volumes, changes, message):
    arguments = {"volumes": volumes, "labels": LABELS, **changes}
    with pytest.raises(ValueError, match=message):
        MontageDisplay.from_predictions(**arguments)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"positions": (0, 0)}, r"positions=\(0, 0\)"),
        ({"positions": (6, 0, 0)}, r"positions=\(6, 0, 0\).*\(6, 8, 10\)"),
        ({"positions": (-1, 0, 0)}, r"positions=\(-1, 0, 0\)"),
        ({"positions": (1.5, 1, 1)}, r"positions=\(1.5, 1, 1\); expected integer"),
        ({"positions": 3}, "positions=3; expected integer"),
        ({"names": ["a"]}, r"names has shape \(1,\)"),
        ({"ax": np.array([])}, "ax has 0 axes; expected 7 x 3"),
        ({"ax": Figure().add_axes((0, 0, 1, 1))}, "ax has no place in a grid"),
    ],
)
def test_slices_reject(volumes, changes, message):
    with pytest.raises(ValueError, match=message):
        SlicesDisplay.from_volumes(volumes, **changes)


def test_other_mistakes(volumes):
    for n_columns in (0, 2.5, "3"):
        with pytest.raises(ValueError, match=f"n_columns={n_columns!r}; .* integer"):
            MontageDisplay.from_volumes(volumes, n_columns=n_columns)
    with pytest.raises(TypeError, match="ax is of type str"):
        MontageDisplay.from_volumes(volumes, ax="figure")


def test_missing_matplotlib_names_the_extra(monkeypatch, volumes):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match=r"sksubtomo\[study\]"):
        MontageDisplay.from_volumes(volumes)


def test_long_names_leave_room_for_the_slices():
    names = [f"00000{i}@Extract/job012/TS_001.mrc" for i in range(2)]
    volumes = np.zeros((2, 4, 4, 4))
    display = SlicesDisplay.from_volumes(volumes, names=names)
    labels = [ax.get_ylabel() for ax in display.axes_[:, 0]]
    assert labels == ["000000@Ex…TS_001.mrc", "000001@Ex…TS_001.mrc"]
    display = MontageDisplay.from_volumes(volumes[[0] * 5], titles=names[:1] * 5)
    title = display.axes_[0, 0].get_title()
    assert title.startswith("0000")
    assert len(title) <= 10
