import matplotlib.pyplot as plt
import numpy as np
import pytest

from sksubtomo import _stored
from sksubtomo.inspection.averages import ClassAveragesDisplay, class_averages


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


@pytest.fixture
def volumes():
    rng = np.random.default_rng(0)
    return rng.normal(size=(9, 4, 6, 8)).astype(np.float32)


LABELS = np.array(["b", "a", "a", "b", "a", "c", "a", "?", "?"])


def test_averages_are_the_means_of_classes(volumes):
    classes, averages = class_averages(volumes, LABELS)
    assert classes.tolist() == ["?", "a", "b", "c"]
    assert averages.dtype == np.float32
    for name, average in zip(classes, averages, strict=True):
        expected = volumes[name == LABELS].mean(axis=0, dtype=np.float64)
        np.testing.assert_array_equal(average, expected.astype(np.float32))


@pytest.mark.parametrize("unlabeled", ["?", -1, "none"])
def test_unlabelled_volumes_are_left_out(volumes, unlabeled):
    labels = LABELS if unlabeled == "?" else np.where(LABELS == "?", -1, 2)
    classes, averages = class_averages(volumes, labels, unlabeled=unlabeled)
    expected = {"?": ["a", "b", "c"], -1: [2], "none": [-1, 2]}[unlabeled]
    assert classes.tolist() == expected
    rows = labels == expected[0]
    np.testing.assert_allclose(averages[0], volumes[rows].mean(axis=0), atol=1e-6)


@pytest.mark.parametrize("mark", [None, np.nan])
def test_missing_labels_are_left_out(volumes, mark):
    labels = [mark if label == "?" else label for label in LABELS.tolist()]
    classes, averages = class_averages(volumes, labels)
    expected = class_averages(volumes, LABELS, unlabeled="?")
    assert classes.tolist() == expected[0].tolist()
    np.testing.assert_array_equal(averages, expected[1])
    display = ClassAveragesDisplay.from_predictions(volumes, labels, unlabeled="a")
    assert display.classes.tolist() == ["b", "c"]
    assert display.counts.tolist() == [2, 1]


def test_mean_does_not_lose_small_values_beside_large_ones():
    volumes = np.full((4096, 1, 1, 2), 1.0, np.float32)
    volumes[0] = 2.0**30
    _, averages = class_averages(volumes, np.zeros(4096))
    np.testing.assert_array_equal(averages.ravel(), np.float32((2.0**30 + 4095) / 4096))


def test_memory_maps_are_read_in_blocks(volumes, tmp_path, monkeypatch):
    monkeypatch.setattr(_stored, "_BLOCK_BYTES", 2 * volumes[0].nbytes)
    np.save(tmp_path / "volumes.npy", volumes)
    mapped = np.load(tmp_path / "volumes.npy", mmap_mode="r")
    sizes = []
    read = _stored.StoredVolumes.take
    monkeypatch.setattr(
        _stored.StoredVolumes,
        "take",
        lambda self, rows: sizes.append(len(rows)) or read(self, rows),
    )
    _, averages = class_averages(mapped, LABELS)
    assert sizes == [2, 2, 2, 2, 1]
    np.testing.assert_array_equal(averages, class_averages(volumes, LABELS)[1])


def test_display_shows_slices_and_counts(volumes):
    display = ClassAveragesDisplay.from_predictions(
        volumes, LABELS, unlabeled="?", voxel_size=12.0
    )
    assert display.counts.tolist() == [4, 2, 1]
    assert display.axes_.shape == (3, 3)
    for average, images in zip(
        display.averages, np.array(display.images_).reshape(3, 3), strict=True
    ):
        np.testing.assert_array_equal(images[0].get_array(), average[2])
        np.testing.assert_array_equal(images[1].get_array(), average[:, 3])
        np.testing.assert_array_equal(images[2].get_array(), average[:, :, 4])
    names = [ax.get_ylabel() for ax in display.axes_[:, 0]]
    assert names == ["a\nn = 4", "b\nn = 2", "c\nn = 1"]
    assert "without alignment" in display.figure_.get_suptitle()
    assert display.axes_[-1, 0].get_xlabel() == "50 Å"


def test_display_of_predictions(volumes):
    class Classifier:
        def predict(self, X):
            assert X is volumes
            return LABELS

    display = ClassAveragesDisplay.from_estimator(Classifier(), volumes, title="Mine")
    assert display.classes.tolist() == ["?", "a", "b", "c"]
    assert display.figure_.get_suptitle() == "Mine"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"volumes": np.zeros((9, 6))}, "volumes have shape"),
        ({"labels": LABELS[:3]}, r"labels have shape \(3,\)"),
        ({"labels": ["?"] * 9, "unlabeled": "?"}, "all unlabeled='\\?'"),
        ({"labels": [None] * 9}, "all unlabeled=None, None or NaN"),
        ({"volumes": np.full((9, 2, 2, 2), np.inf)}, "inf"),
        ({"voxel_size": -1.0}, "voxel_size=-1.0"),
    ],
)
def test_averages_reject(volumes, changes, message):
    arguments = {"volumes": volumes, "labels": LABELS, **changes}
    with pytest.raises(ValueError, match=message):
        ClassAveragesDisplay.from_predictions(**arguments)
