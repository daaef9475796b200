import sys

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.figure import Figure
from sklearn.decomposition import PCA

from sksubtomo.inspection import plot_embedding, plot_slices


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


@pytest.fixture
def volumes():
    return np.random.default_rng(0).normal(size=(7, 6, 8, 10))


LABELS = np.array(["b", "a", "a", "b", "a", "c", "a"])


def images(figure):
    return [image.get_array() for ax in figure.axes for image in ax.images]


def test_slices_are_the_central_ones_class_by_class(volumes):
    figure = plot_slices(volumes, LABELS, n_per_class=3)
    shown = images(figure)
    expected = [1, 2, 4, 0, 3, 5]
    assert len(shown) == len(expected)
    for image, row in zip(shown, expected, strict=True):
        np.testing.assert_array_equal(image, volumes[row, 3])
    names = [ax.get_ylabel() for ax in figure.axes if ax.get_ylabel()]
    assert names == ["a", "b", "c"]


def test_slices_of_chosen_classes(volumes):
    figure = plot_slices(volumes, LABELS, n_per_class=1, classes=["c", "b"])
    np.testing.assert_array_equal(images(figure)[0], volumes[5, 3])
    np.testing.assert_array_equal(images(figure)[1], volumes[0, 3])


@pytest.mark.parametrize(
    ("voxel_size", "text", "voxels"), [(10.0, "50 Å", 5.0), (None, "5 voxels", 5.0)]
)
def test_scale_bar_is_as_long_as_it_says(volumes, voxel_size, text, voxels):
    figure = plot_slices(volumes, LABELS, n_per_class=1, voxel_size=voxel_size)
    (ax,) = [ax for ax in figure.axes if ax.lines]
    assert ax.get_xlabel() == text
    start, stop = ax.lines[0].get_xdata()
    assert stop - start == pytest.approx(voxels)


def test_slices_take_a_figure(volumes):
    figure = Figure()
    assert plot_slices(volumes, LABELS, figure=figure) is figure
    assert plt.get_fignums() == []


def test_slices_of_constant_volumes_are_drawn():
    figure = plot_slices(np.zeros((2, 4, 4, 4)), [0, 1])
    figure.canvas.draw()
    assert len(images(figure)) == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"volumes": np.zeros((7, 6, 6))}, "volumes have shape"),
        ({"labels": LABELS[:3]}, r"labels have shape \(3,\)"),
        ({"n_per_class": 0}, "n_per_class=0"),
        ({"classes": ["d"]}, "'d'"),
        ({"voxel_size": 0.0}, "voxel_size=0.0"),
    ],
)
def test_slices_reject(volumes, changes, message):
    arguments = {"volumes": volumes, "labels": LABELS, **changes}
    with pytest.raises(ValueError, match=message):
        plot_slices(**arguments)


def test_embedding_is_projected_on_principal_components():
    rng = np.random.default_rng(0)
    embedding = rng.normal(size=(7, 5)) * [9, 4, 1, 1, 1]
    ax = plot_embedding(embedding, LABELS)
    expected = PCA(2, svd_solver="full").fit_transform(embedding)
    for collection, name in zip(ax.collections, "abc", strict=True):
        np.testing.assert_allclose(collection.get_offsets(), expected[name == LABELS])
        assert collection.get_label() == name
    assert "PC 1" in ax.get_xlabel()
    assert [text.get_text() for text in ax.get_legend().texts] == ["a", "b", "c"]


def test_two_features_are_drawn_as_they_are():
    embedding = np.random.default_rng(0).normal(size=(7, 2))
    ax = plot_embedding(embedding, np.zeros(7), legend=False)
    np.testing.assert_array_equal(ax.collections[0].get_offsets(), embedding)
    assert ax.get_legend() is None
    assert "PC" not in ax.get_xlabel()


def test_many_classes_have_different_looks():
    n = 40
    embedding = np.random.default_rng(0).normal(size=(n, 2))
    ax = plot_embedding(embedding, np.arange(n))
    looks = {
        (
            tuple(collection.get_facecolor()[0]),
            collection.get_paths()[0].vertices.tobytes(),
        )
        for collection in ax.collections
    }
    assert len(looks) == n


def test_embedding_of_equal_points_is_drawn():
    ax = plot_embedding(np.ones((7, 4)), LABELS)
    assert len(ax.collections) == 3


@pytest.mark.parametrize(
    ("embedding", "labels", "message"),
    [
        (np.zeros((7, 1)), LABELS, r"shape \(7, 1\)"),
        (np.zeros(7), LABELS, r"shape \(7,\)"),
        (np.zeros((7, 3)), LABELS[:2], r"labels have shape \(2,\)"),
        (np.full((7, 3), np.nan), LABELS, "NaN"),
    ],
)
def test_embedding_rejects(embedding, labels, message):
    with pytest.raises(ValueError, match=message):
        plot_embedding(embedding, labels)


def test_missing_matplotlib_names_the_extra(monkeypatch, volumes):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match=r"sksubtomo\[study\]"):
        plot_slices(volumes, LABELS)
    with pytest.raises(ImportError, match=r"sksubtomo\[study\]"):
        plot_embedding(np.eye(7), LABELS)
