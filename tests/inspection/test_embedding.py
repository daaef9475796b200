import sys
import types

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

from sksubtomo.inspection._matplotlib import CLASS_COLORS, MARKERS, class_style
from sksubtomo.inspection.embedding import EmbeddingDisplay

LABELS = np.array(["b", "a", "a", "b", "a", "c", "a"])
GREY = to_rgba("0.75")[:3]


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


@pytest.fixture
def embedding():
    return np.random.default_rng(0).normal(size=(7, 5)) * [9, 4, 1, 1, 1]


def test_embedding_is_projected_on_principal_components(embedding):
    display = EmbeddingDisplay.from_embedding(embedding, labels=LABELS, name="Class")
    expected = PCA(2, svd_solver="full").fit_transform(embedding)
    assert list(display.scatters_) == ["a", "b", "c"]
    for name, points in display.scatters_.items():
        np.testing.assert_allclose(points.get_offsets(), expected[name == LABELS])
    assert display.ax_.get_xlabel().startswith("PC 1 (")
    assert "% of variance" in display.ax_.get_ylabel()
    assert [text.get_text() for text in display.legend_.texts] == ["a", "b", "c"]
    assert display.legend_.get_title().get_text() == "Class"


def test_two_features_are_drawn_as_they_are(embedding):
    points = embedding[:, :2]
    display = EmbeddingDisplay.from_embedding(points, labels=np.zeros(7), legend=False)
    np.testing.assert_array_equal(display.scatters_[0.0].get_offsets(), points)
    assert display.legend_ is None
    assert display.ax_.get_xlabel() == "Dimension 1"


def test_without_labels(embedding):
    display = EmbeddingDisplay.from_embedding(embedding)
    assert len(display.scatters_[None].get_offsets()) == 7
    assert display.legend_ is display.colorbar_ is None


def test_unlabelled_rows_are_grey_and_underneath(embedding):
    display = EmbeddingDisplay.from_embedding(embedding, labels=LABELS, unlabeled="b")
    assert list(display.scatters_) == ["a", "c", None]
    unknown = display.scatters_[None]
    np.testing.assert_allclose(unknown.get_offsets(), display.points[LABELS == "b"])
    assert tuple(unknown.get_facecolor()[0, :3]) == GREY
    assert unknown.zorder < display.scatters_["a"].zorder
    texts = [text.get_text() for text in display.legend_.texts]
    assert texts == ["a", "c", "unlabelled"]


@pytest.mark.parametrize("mark", [None, np.nan, np.float32("nan"), "NA", "NaT"])
@pytest.mark.parametrize("unlabeled", [None, "c"])
def test_missing_labels_are_unlabelled(embedding, mark, unlabeled):
    if isinstance(mark, str):
        mark = getattr(pytest.importorskip("pandas"), mark)
    labels = [mark, "a", "b", "a", mark, "c", "b"]
    display = EmbeddingDisplay.from_embedding(
        embedding, labels=labels, unlabeled=unlabeled
    )
    known = ["a", "b"] if unlabeled else ["a", "b", "c"]
    assert list(display.scatters_) == [*known, None]
    rows = [0, 4, 5] if unlabeled else [0, 4]
    np.testing.assert_array_equal(
        display.scatters_[None].get_offsets(), display.points[rows]
    )


def test_missing_numbers_among_labels(embedding):
    pd = pytest.importorskip("pandas")
    numbers = pd.Series([1, 2, None, 1, 2, 1, None], dtype="Int64")
    for labels in (numbers, numbers.to_numpy(np.float64, na_value=np.nan)):
        display = EmbeddingDisplay.from_embedding(embedding, labels=labels)
        assert list(display.scatters_) == [1, 2, None]
        assert len(display.scatters_[None].get_offsets()) == 2


def test_values_have_a_colour_bar(embedding):
    values = np.array([0.1, np.nan, 0.5, 0.9, np.nan, 0.2, 0.3])
    display = EmbeddingDisplay.from_embedding(
        embedding, values=values, name="Probability", scatter_kw={"vmin": 0, "vmax": 1}
    )
    shown = display.scatters_["values"]
    np.testing.assert_array_equal(shown.get_array(), values[~np.isnan(values)])
    assert shown.get_clim() == (0, 1)
    assert shown.get_cmap().name == "viridis"
    assert tuple(display.scatters_[None].get_facecolor()[0, :3]) == GREY
    assert len(display.scatters_[None].get_offsets()) == 2
    assert display.colorbar_.ax.get_ylabel() == "Probability"


# How linear red, green and blue are seen, after Machado, Oliveira and Fernandes (2009).
SIGHT = {
    "normal": np.eye(3),
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
}


@pytest.mark.parametrize("sight", SIGHT)
def test_colours_of_classes_can_be_told_apart(sight):
    color = pytest.importorskip("skimage.color")
    encoded = np.array([to_rgba(text)[:3] for text in CLASS_COLORS])
    linear = np.where(
        encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4
    )
    seen = np.clip(linear @ np.transpose(SIGHT[sight]), 0, 1)
    lab = color.xyz2lab(seen @ color.colorconv.xyz_from_rgb.T)
    distances = np.linalg.norm(lab[:, None] - lab, axis=2)
    # 2.3 can just be noticed.
    assert distances[np.triu_indices(len(lab), 1)].min() > 15


def test_looks_repeat_after_all_pairs():
    styles = [tuple(class_style(number).values()) for number in range(81)]
    assert len(set(styles)) == len(CLASS_COLORS) * len(MARKERS) == 80
    assert styles[80] == styles[0]
    assert {marker for _, marker in styles[:8]} == {"o"}
    assert {marker for _, marker in styles[8:16]} == {"s"}


def test_many_classes_have_different_looks():
    n = 80
    points = np.random.default_rng(0).normal(size=(n, 2))
    display = EmbeddingDisplay.from_embedding(points, labels=np.arange(n))
    looks = {
        (tuple(drawn.get_facecolor()[0]), drawn.get_paths()[0].vertices.tobytes())
        for drawn in display.scatters_.values()
    }
    assert len(looks) == n


def test_many_points_are_small_shuffled_and_rasterized():
    n = 50_000
    points = np.random.default_rng(0).normal(size=(n, 2))
    labels = np.repeat(["a", "b", "?", "c"], n // 4)
    display = EmbeddingDisplay.from_embedding(points, labels=labels, unlabeled="?")
    assert set(display.scatters_) == {"o", None}
    shown = display.scatters_["o"]
    assert shown.get_rasterized()
    assert shown.get_sizes().max() < 2
    assert shown.get_linewidths().max() == 0
    # Each point has the colour of its class, and no class lies on top of the others.
    colors = [tuple(c) for c in np.round(shown.get_facecolor()[:, :3], 3)]
    classes = {
        text.get_text(): tuple(np.round(handle.get_facecolor()[0, :3], 3))
        for text, handle in zip(
            display.legend_.texts, display.legend_.legend_handles, strict=True
        )
    }
    place = {tuple(point): n for n, point in enumerate(points)}
    expected = [
        classes[labels[place[tuple(offset)]]] for offset in shown.get_offsets().data
    ]
    assert colors == expected
    assert len(set(colors[-50:])) == 3
    assert list(classes) == ["a", "b", "c", "unlabelled"]
    assert len(display.scatters_[None].get_offsets()) == n // 4
    # The legend's markers can be seen all the same.
    sizes = [handle.get_sizes()[0] for handle in display.legend_.legend_handles]
    assert min(sizes) == pytest.approx(25)


def test_many_points_keep_the_markers_of_their_classes():
    labels = np.arange(3000) % 20
    points = np.random.default_rng(0).normal(size=(3000, 2))
    display = EmbeddingDisplay.from_embedding(points, labels=labels)
    assert list(display.scatters_) == ["o", "s", "^"]
    place = {tuple(point): n for n, point in enumerate(points)}
    for number, drawn in enumerate(display.scatters_.values()):
        rows = [place[tuple(offset)] for offset in drawn.get_offsets().data]
        expected = np.flatnonzero(labels // len(CLASS_COLORS) == number)
        assert sorted(rows) == expected.tolist() != rows
        colors = [to_rgba(class_style(label)["color"])[:3] for label in labels[rows]]
        np.testing.assert_allclose(drawn.get_facecolor()[:, :3], colors)
    paths = [drawn.get_paths()[0].vertices for drawn in display.scatters_.values()]
    for label, handle in enumerate(display.legend_.legend_handles):
        expected = paths[label // len(CLASS_COLORS)]
        np.testing.assert_array_equal(handle.get_paths()[0].vertices, expected)


@pytest.mark.parametrize("n", [7, 3000])
def test_nothing_but_unlabelled_rows(n):
    points = np.random.default_rng(0).normal(size=(n, 2))
    labels = np.full(n, -1)
    display = EmbeddingDisplay.from_embedding(points, labels=labels, unlabeled=-1)
    assert list(display.scatters_) == [None]
    assert len(display.scatters_[None].get_offsets()) == n


def test_few_points_have_edges(embedding):
    display = EmbeddingDisplay.from_embedding(embedding, labels=LABELS, marker_size=9)
    shown = display.scatters_["a"]
    assert not shown.get_rasterized()
    assert shown.get_linewidths().min() > 0
    assert shown.get_sizes().tolist() == [9]


def test_embedding_of_equal_points_is_drawn():
    display = EmbeddingDisplay.from_embedding(np.ones((7, 4)), labels=LABELS)
    assert len(display.scatters_) == 3


def test_transformer_makes_the_embedding(embedding):
    scaler = StandardScaler().fit(embedding)
    ax = Figure().add_subplot()
    display = EmbeddingDisplay.from_estimator(scaler, embedding, LABELS, ax=ax)
    expected = PCA(2, svd_solver="full").fit_transform(scaler.transform(embedding))
    np.testing.assert_allclose(display.points, expected)
    assert display.ax_ is ax
    assert display.figure_ is ax.figure
    assert plt.get_fignums() == []
    with pytest.raises(TypeError, match="object, which has no transform"):
        EmbeddingDisplay.from_estimator(object(), embedding)


def test_umap_is_asked_for_by_name(embedding, monkeypatch):
    asked = []

    class UMAP:
        def __init__(self, **parameters):
            asked.append(parameters)

        def fit_transform(self, features):
            return features[:, 2:4].astype(np.float32)

    monkeypatch.setitem(sys.modules, "umap", types.SimpleNamespace(UMAP=UMAP))
    before = np.random.get_state()[1].copy()
    displays = [
        EmbeddingDisplay.from_embedding(embedding, method="umap", random_state=seed)
        for seed in (0, 0, 1, None)
    ]
    np.testing.assert_array_equal(np.random.get_state()[1], before)
    np.testing.assert_allclose(displays[0].points, embedding[:, 2:4], rtol=1e-6)
    assert displays[0].ax_.get_ylabel() == "UMAP 2"
    # Of seven points none has more than six neighbours.
    assert asked[0]["n_neighbors"] == 6
    seeds = [parameters["random_state"] for parameters in asked]
    assert seeds[0] == seeds[1]
    assert len(set(seeds)) == 3


def test_missing_umap_names_the_extra(embedding, monkeypatch):
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(ImportError, match=r"umap-learn.*sksubtomo\[umap\]"):
        EmbeddingDisplay.from_embedding(embedding, method="umap")


@pytest.mark.parametrize(
    ("embedding", "changes", "message"),
    [
        (np.zeros((7, 1)), {}, r"shape \(7, 1\)"),
        (np.zeros(7), {}, r"shape \(7,\)"),
        (np.zeros((7, 3)), {"labels": LABELS[:2]}, r"labels have shape \(2,\)"),
        (np.zeros((7, 3)), {"values": np.ones(2)}, r"values have shape \(2,\)"),
        (np.zeros((7, 3)), {"values": np.ones(7), "labels": LABELS}, "both given"),
        (np.zeros((7, 3)), {"values": [0, 1, -np.inf] * 2 + [2]}, "values.*row 2"),
        (np.full((7, 3), np.nan), {}, "NaN"),
        (np.zeros((7, 3)), {"method": "tsne"}, "method='tsne'"),
    ],
)
def test_embedding_rejects(embedding, changes, message):
    with pytest.raises(ValueError, match=message):
        EmbeddingDisplay.from_embedding(embedding, **changes)


def test_missing_matplotlib_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match=r"sksubtomo\[study\]"):
        EmbeddingDisplay.from_embedding(np.eye(7))
