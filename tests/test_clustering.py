import re
import warnings
from html.parser import HTMLParser

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
from sklearn.datasets import make_blobs
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import adjusted_rand_score
from sklearn.mixture import GaussianMixture

from sksubtomo import clustering
from sksubtomo.clustering import Clusters, propose_clusters, write_cluster_report
from sksubtomo.inspection import class_averages

METHODS = ["mixture", "bayesian", "hdbscan"]
SIZES = [80, 50, 30, 20]


@pytest.fixture(scope="module")
def blobs():
    return make_blobs(SIZES, 40, random_state=0)


@pytest.fixture(scope="module")
def proposed(blobs):
    return propose_clusters(blobs[0], random_state=0)


@pytest.fixture
def volumes():
    return np.random.default_rng(0).normal(size=(sum(SIZES), 6, 6, 6))


class Page(HTMLParser):
    """The tags and the text of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


@pytest.mark.parametrize("method", METHODS)
def test_clusters_that_are_far_apart_are_found(blobs, method):
    embedding, y = blobs
    clusters = propose_clusters(embedding, method=method, random_state=0)
    assert clusters.n_clusters_ == 4
    assert adjusted_rand_score(y, clusters.labels_) > 0.95
    assert clusters.probabilities_.shape == y.shape
    assert clusters.probabilities_.min() >= 0
    assert clusters.probabilities_.max() <= 1
    # Large ones first.
    sizes = np.bincount(clusters.labels_[clusters.labels_ >= 0])
    assert (np.diff(sizes) <= 0).all()


def test_number_of_a_mixture_has_the_least_bic(blobs, proposed):
    numbers = [score.n_clusters for score in proposed.scores_]
    assert numbers == list(range(1, 11))
    assert proposed.criterion == "least BIC of 1 to 10 components"
    assert min(proposed.scores_, key=lambda score: score.score).n_clusters == 4
    points = clustering._reduce(blobs[0], np.arange(180), 8)
    assert points.shape == (180, 8)
    assert points.var() == pytest.approx(1)
    mixture = GaussianMixture(1, reg_covar=1e-3).fit(points)
    assert proposed.scores_[0].score == pytest.approx(mixture.bic(points))


def test_number_may_be_given(blobs):
    embedding, _ = blobs
    two = propose_clusters(embedding, n_clusters=2, random_state=0)
    assert (two.n_clusters_, len(two.scores_)) == (2, 1)
    assert two.criterion == "the caller's choice"
    chosen = propose_clusters(embedding, n_clusters=[2, 6, 4], random_state=0)
    assert chosen.n_clusters_ == 4
    assert [score.n_clusters for score in chosen.scores_] == [2, 4, 6]
    assert chosen.criterion == "least BIC of 2, 4, 6 components"


def test_bayesian_drops_small_components(blobs):
    embedding, _ = blobs
    options = {"method": "bayesian", "random_state": 0}
    found = propose_clusters(embedding, min_cluster_size=25, **options)
    assert found.n_clusters_ == 3
    assert (found.labels_ >= 0).all()
    assert found.criterion == "components of at least 25 rows, of 10"
    # One is left, whatever is asked for.
    assert propose_clusters(embedding, min_cluster_size=180, **options).n_clusters_ == 1


def test_hdbscan_leaves_what_lies_alone_as_noise(blobs):
    embedding = np.r_[blobs[0], 100 * np.eye(40)[:3]]
    clusters = propose_clusters(embedding, method="hdbscan", min_cluster_size=10)
    assert clusters.n_clusters_ == 4
    assert (clusters.labels_[-3:] == -1).all()
    assert (clusters.probabilities_[-3:] == 0).all()
    share = np.mean(clusters.labels_ >= 0)
    assert clusters.scores_ == [(4, pytest.approx(share))]
    assert re.search(r"(?m)^  noise +\d+ .* 0\.00$", clusters.summary())


def test_no_cluster_at_all_is_noise():
    embedding = np.random.default_rng(0).uniform(size=(12, 3))
    clusters = propose_clusters(embedding, method="hdbscan", min_cluster_size=12)
    assert clusters.n_clusters_ == 0
    assert (clusters.labels_ == -1).all()


@pytest.mark.parametrize("method", METHODS)
def test_rows_that_were_not_drawn_have_clusters_too(blobs, method):
    embedding, y = blobs
    options = {"method": method, "max_samples": 120, "random_state": 0}
    clusters = propose_clusters(embedding, **options)
    assert len(clusters.labels_) == len(y)
    assert adjusted_rand_score(y, clusters.labels_) > 0.9
    again = propose_clusters(embedding, **options)
    np.testing.assert_array_equal(clusters.labels_, again.labels_)
    assert clusters.scores_ == again.scores_


def test_one_component_where_there_is_no_cluster():
    embedding = np.random.default_rng(0).normal(size=(200, 12))
    assert propose_clusters(embedding, random_state=0).n_clusters_ == 1


@pytest.mark.parametrize("shape", [(2, 1), (5, 40), (30, 2)])
def test_few_rows_or_features(shape):
    embedding = np.random.default_rng(0).normal(size=shape)
    for method in ("mixture", "bayesian"):
        clusters = propose_clusters(embedding, method=method, random_state=0)
        assert len(clusters.labels_) == shape[0]


def test_rows_far_from_all_are_of_the_nearest_cluster():
    generator = np.random.default_rng(0)
    blobs = [generator.normal(place, 1, (100, 2)) for place in (0, 12)]
    embedding = np.concatenate([*blobs, generator.normal(-60, 1, (3, 2))])
    clusters = propose_clusters(
        embedding,
        method="bayesian",
        n_clusters=6,
        min_cluster_size=10,
        random_state=0,
    )
    assert clusters.n_clusters_ == 2
    np.testing.assert_array_equal(clusters.labels_[-3:], clusters.labels_[0])
    assert (clusters.probabilities_[-3:] > 0.5).all()


def test_only_the_chosen_mixture_has_to_converge(blobs, monkeypatch):
    monkeypatch.setattr(clustering, "_MOST_ITERATIONS", 1)
    message = "8 components that was chosen did not converge in 1 it"
    with pytest.warns(ConvergenceWarning, match=message):
        propose_clusters(blobs[0], n_clusters=8, random_state=0)
    with pytest.warns(ConvergenceWarning, match=message):
        propose_clusters(
            blobs[0],
            method="bayesian",
            n_clusters=8,
            min_cluster_size=40,
            random_state=0,
        )
    # One component converges at once; ten that have not are not chosen.
    monkeypatch.setattr(clustering, "_MOST_ITERATIONS", 2)
    noise = np.random.default_rng(0).normal(size=(200, 12))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        propose_clusters(noise, n_clusters=[1, 10], random_state=0)


def test_the_largest_number_tried_is_a_warning(blobs):
    embedding, _ = blobs
    with pytest.warns(UserWarning, match="least BIC is that of the most .*, 3: there"):
        propose_clusters(embedding, n_clusters=[1, 2, 3], random_state=0)
    with pytest.warns(UserWarning, match="all 2 components have the 5 rows"):
        propose_clusters(embedding, method="bayesian", n_clusters=2, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        propose_clusters(embedding, n_clusters=3, random_state=0)
        propose_clusters(embedding, n_clusters=[2, 4, 6], random_state=0)


def test_global_generator_is_left_alone(blobs):
    before = np.random.get_state()[1].copy()
    propose_clusters(blobs[0], n_clusters=2)
    propose_clusters(blobs[0], n_clusters=2, random_state=0)
    np.testing.assert_array_equal(np.random.get_state()[1], before)


def test_summary_has_a_line_for_each_cluster(proposed):
    first, _, *lines = proposed.summary().splitlines()
    assert first.startswith("4 clusters of 180 rows (mixture), number by least BIC")
    assert [line.split()[:2] for line in lines] == [
        ["0", "80"],
        ["1", "50"],
        ["2", "30"],
        ["3", "20"],
    ]
    assert repr(proposed) == "Clusters: 4 of 180 rows (mixture)"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"embedding": np.zeros(3)}, "embedding: has shape \\(3,\\); expected"),
        ({"embedding": np.zeros((3, 2))}, "embedding: all rows are equal"),
        ({"embedding": np.full((3, 2), np.inf)}, "embedding: holds NaN or infinity"),
        ({"method": "kmeans"}, "method='kmeans'; expected one of"),
        ({"n_clusters": 0}, "n_clusters=0; expected an integer from 1 up"),
        ({"n_clusters": []}, "n_clusters is empty"),
        ({"n_clusters": 181}, "n_clusters=181; expected at most the 180 rows"),
        ({"n_clusters": 2, "method": "hdbscan"}, "method='hdbscan' takes none"),
        ({"min_cluster_size": 5}, "min_cluster_size=5, but method='mixture'"),
        (
            {"min_cluster_size": 1, "method": "hdbscan"},
            "min_cluster_size=1; expected an integer from 2 up",
        ),
        (
            {"min_cluster_size": 181, "method": "hdbscan"},
            "min_cluster_size=181; expected at most the 180",
        ),
        ({"n_components": 0.5}, "n_components=0.5; expected an integer"),
        ({"max_samples": 1}, "max_samples=1; expected an integer from 2 up"),
    ],
)
def test_bad_arguments_are_named(blobs, options, message):
    with pytest.raises(ValueError, match=message):
        propose_clusters(**({"embedding": blobs[0]} | options))


def test_report_shows_every_cluster(tmp_path, blobs, proposed, volumes):
    embedding, y = blobs
    path = tmp_path / "clusters.html"
    settings = dict(mpl.rcParams)
    labels = np.array(["<a>", "b", "c", "d"])[y]
    names = [f"particle {n}" for n in range(len(y))]
    write_cluster_report(
        path, proposed, embedding, volumes, names=names, labels=labels, voxel_size=10.0
    )
    assert dict(mpl.rcParams) == settings
    assert not plt.get_fignums()
    text = path.read_text("utf-8")
    page = Page(text)
    for cluster, size in enumerate(SIZES):
        assert f"Cluster {cluster}: {size} volumes" in page.text
    assert (
        "Adjusted Rand index of clusters and classes: 1.00, over the 180" in page.text
    )
    assert "<a> 80" in page.text
    # The curve, the map, and two of each cluster; nothing from elsewhere.
    images = [attrs["src"] for tag, attrs in page.tags if tag == "img"]
    assert len(images) == 2 + 2 * 4
    assert all(source.startswith("data:image/png;base64,") for source in images)
    assert "http" not in text
    # The nearest member to the centre of the first cluster.
    rows = np.flatnonzero(proposed.labels_ == 0)
    distances = np.linalg.norm(embedding[rows] - embedding[rows].mean(0), axis=1)
    assert f"nearest to its centre: particle {rows[distances.argmin()]}," in page.text


def test_report_of_averages(tmp_path, blobs, proposed, volumes, monkeypatch):
    drawn = []
    original = clustering.SlicesDisplay.from_volumes

    def record(volumes, **options):
        drawn.append(np.asarray(volumes))
        return original(volumes, **options)

    monkeypatch.setattr(clustering.SlicesDisplay, "from_volumes", record)
    labels = proposed.labels_.copy()
    labels[::7] = -1
    noisy = Clusters(labels, proposed.probabilities_, 4, "none", [], "hdbscan")
    write_cluster_report(tmp_path / "a.html", noisy, blobs[0], volumes)
    _, averages = class_averages(volumes, labels, unlabeled=-1)
    np.testing.assert_array_equal(drawn, averages)
    page = Page((tmp_path / "a.html").read_text("utf-8"))
    assert "noise" in page.text
    assert "Adjusted Rand" not in page.text
    assert "BIC" not in page.text


def test_report_counts_known_classes_only(tmp_path, blobs, proposed, volumes):
    embedding, y = blobs
    labels = np.where(np.arange(len(y)) % 2, y, -1)
    noisy = proposed.labels_.copy()
    noisy[1:4] = -1
    clusters = Clusters(noisy, proposed.probabilities_, 4, "none", [], "hdbscan")
    path = tmp_path / "a.html"
    write_cluster_report(
        path, clusters, embedding, volumes, labels=labels, unlabeled=-1
    )
    text = path.read_text("utf-8")
    assert (
        "1.00, over the 88 rows that have a class and are in a cluster. 2 fur" in text
    )
    # No label is known at all.
    nothing = np.full(len(y), -1)
    write_cluster_report(
        path, clusters, embedding, volumes, labels=nothing, unlabeled=-1, overwrite=True
    )
    assert "Adjusted Rand" not in path.read_text("utf-8")


@pytest.mark.parametrize("missing", [None, float("nan")])
def test_missing_labels_are_no_class(tmp_path, blobs, proposed, volumes, missing):
    embedding, y = blobs
    labels = [missing if row % 2 else "abcd"[code] for row, code in enumerate(y)]
    path = tmp_path / "a.html"
    write_cluster_report(path, proposed, embedding, volumes, labels=labels)
    text = path.read_text("utf-8")
    assert "classes: 1.00, over the 90 rows" in text
    assert "None" not in text
    assert "nan " not in text


def test_report_is_written_once(tmp_path, blobs, proposed, volumes):
    path = tmp_path / "clusters.html"
    path.write_text("mine")
    with pytest.raises(FileExistsError, match="exists already"):
        write_cluster_report(path, proposed, blobs[0], volumes)
    assert path.read_text() == "mine"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"embedding": np.ones((3, 2))}, "embedding: has 3 rows; expected 180"),
        ({"volumes": np.ones((3, 2, 2, 2))}, "volumes: has 3; expected 180"),
        ({"names": ["a"]}, "names: has shape \\(1,\\); expected \\(180,\\)"),
        ({"labels": ["a"]}, "labels have shape \\(1,\\); expected \\(180,\\)"),
        ({"voxel_size": -1.0}, "voxel_size=-1.0; expected a positive"),
    ],
)
def test_bad_arguments_of_the_report(
    tmp_path, blobs, proposed, volumes, change, message
):
    arguments = {"embedding": blobs[0], "volumes": volumes} | change
    with pytest.raises(ValueError, match=message):
        write_cluster_report(tmp_path / "clusters.html", proposed, **arguments)
    assert not list(tmp_path.iterdir())
