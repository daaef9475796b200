import numpy as np
import pytest
from sklearn.calibration import CalibratedClassifierCV
from sklearn.cluster import KMeans
from sklearn.datasets import make_blobs
from sklearn.ensemble import BaggingClassifier
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression, Perceptron
from sklearn.metrics import pairwise_distances
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from sksubtomo import (
    ContrastivePretrainer,
    LabelFractionClassifier,
    RB3DClassifier,
    active_learning,
)
from sksubtomo.active_learning import next_to_label
from sksubtomo.datasets import make_subtomograms

SIZES = [80, 40, 20, 10]


class Given:
    """A classifier of given probabilities, and an embedding that is X."""

    def __init__(self, probabilities):
        self.probabilities = np.asarray(probabilities)

    def predict_proba(self, X):
        return self.probabilities

    def transform(self, X):
        return X


@pytest.fixture(scope="module")
def blobs():
    return make_blobs(SIZES, 6, cluster_std=0.5, random_state=0)


@pytest.fixture(scope="module")
def volumes():
    return make_subtomograms(n_per_class=2, size=8, random_state=0, return_X_y=True)


@pytest.fixture(scope="module")
def pretrainer(volumes):
    return ContrastivePretrainer(max_epochs=1, random_state=0).fit(volumes[0])


def distance_to_chosen(X, rows):
    return pairwise_distances(X, X[rows]).min(axis=1).sum()


@pytest.mark.parametrize("strategy", ["mixed", "diversity"])
def test_first_labels_are_of_all_clusters(blobs, strategy):
    X, y = blobs
    rows = next_to_label(None, X, 4, strategy)
    assert sorted(y[rows]) == [0, 1, 2, 3]
    # The largest cluster has most to gain.
    assert y[rows[0]] == 0


def test_chosen_rows_are_near_to_all(blobs):
    X, _ = blobs
    rows = next_to_label(None, X, 8, "diversity")
    best = KMeans(8, n_init=5, random_state=0).fit(X)
    centres = np.linalg.norm(X - best.cluster_centers_[best.labels_], axis=1).sum()
    assert distance_to_chosen(X, rows) < 1.5 * centres
    drawn = [
        distance_to_chosen(X, next_to_label(None, X, 8, "random", random_state=seed))
        for seed in range(5)
    ]
    assert distance_to_chosen(X, rows) < 0.8 * min(drawn)


def test_choice_is_the_plain_greedy_one(blobs):
    X = blobs[0][::4].astype(np.float32)
    distances = pairwise_distances(X)
    nearest = np.full(len(X), distances.max())
    for row in next_to_label(None, X, 6, "diversity"):
        gains = np.maximum(nearest - distances, 0).sum(axis=1)
        assert gains[row] == pytest.approx(gains.max(), rel=1e-5)
        nearest = np.minimum(nearest, distances[row])


def test_clusters_with_labels_are_left_to_the_others(blobs):
    X, y = blobs
    labeled = np.flatnonzero(y < 2)[::10]
    rows = next_to_label(None, X, 2, "diversity", labeled=labeled)
    assert sorted(y[rows]) == [2, 3]


def test_uncertainty_takes_the_smallest_margins():
    sure = [0.9, 0.1, 0.0]
    probabilities = [sure, [0.5, 0.4, 0.1], sure, [0.4, 0.4, 0.2], [0.6, 0.3, 0.1]]
    X = np.zeros((5, 2))
    model = Given(probabilities)
    assert next_to_label(model, X, 3, "uncertainty").tolist() == [3, 1, 4]
    rows = next_to_label(model, X, 2, "uncertainty", labeled=[3])
    assert rows.tolist() == [1, 4]
    # Equal margins are in random order.
    firsts = {
        next_to_label(Given([sure] * 5), X, 1, "uncertainty", random_state=seed)[0]
        for seed in range(10)
    }
    assert len(firsts) > 1


def test_mixed_goes_where_the_classifier_is_unsure(blobs):
    X, y = blobs
    doubtful = y == 2
    probabilities = np.where(doubtful[:, None], [[0.5, 0.5]], [[1 - 1e-6, 1e-6]])
    model = Given(probabilities)
    assert set(y[next_to_label(model, X, 3)]) == {2}
    # Diversity does not look at probabilities.
    assert set(y[next_to_label(model, X, 4, "diversity")]) == {0, 1, 2, 3}
    # With one label for each of two classes it does not, either; with two it does.
    few = {"labeled": np.flatnonzero(y == 2)[:3]}
    np.testing.assert_array_equal(
        next_to_label(model, X, 4, **few), next_to_label(None, X, 4, **few)
    )
    enough = {"labeled": np.flatnonzero(y == 2)[:4]}
    assert set(y[next_to_label(model, X, 4, **enough)]) == {2}
    # One class has no margin.
    one_class = Given(np.ones((len(X), 1)))
    np.testing.assert_array_equal(
        next_to_label(one_class, X, 4), next_to_label(model, X, 4, "diversity")
    )


def test_sure_classifiers_leave_the_choice_to_diversity(blobs):
    X, y = blobs
    sure = np.eye(4)[y]
    np.testing.assert_array_equal(
        next_to_label(Given(sure), X, 8), next_to_label(None, X, 8, "diversity")
    )
    # One doubt is settled first, and what is left counts the same.
    sure[y == 3] = 0.25
    rows = next_to_label(Given(sure), X, 20)
    assert set(y[rows[:10]]) == {3}
    assert set(y[rows[10:]]) == {0, 1, 2}


def test_equal_rows_are_in_random_order(blobs):
    X = np.repeat(blobs[0][:5], 20, axis=0)

    def choose(seed):
        return next_to_label(None, X, 50, "diversity", random_state=seed)

    rows = choose(0)
    # The distinct points come first, then their doubles as they are drawn.
    assert sorted(rows[:5] // 20) == [0, 1, 2, 3, 4]
    assert len(set(rows[5:] // 20)) == 5
    assert (np.diff(rows[5:]) < 0).any()
    np.testing.assert_array_equal(rows, choose(0))
    assert (rows != choose(1)).any()


@pytest.mark.parametrize("strategy", ["mixed", "diversity", "uncertainty", "random"])
def test_rows_are_distinct_unlabelled_and_repeatable(blobs, strategy):
    X, y = blobs
    labeled = np.arange(len(X)) % 3 == 0
    model = LogisticRegression().fit(X[labeled], y[labeled])
    n = int((~labeled).sum())
    rows = next_to_label(model, X, n, strategy, labeled=labeled, random_state=0)
    assert sorted(rows) == np.flatnonzero(~labeled).tolist()
    again = next_to_label(
        model, X, n, strategy, labeled=np.flatnonzero(labeled), random_state=0
    )
    np.testing.assert_array_equal(rows, again)
    fewer = next_to_label(model, X, 5, strategy, labeled=labeled, random_state=0)
    np.testing.assert_array_equal(fewer, rows[:5])


def test_global_generator_is_left_alone(blobs):
    before = np.random.get_state()[1].copy()
    next_to_label(None, blobs[0], 3, "random")
    next_to_label(None, blobs[0], 3, "random", random_state=0)
    np.testing.assert_array_equal(np.random.get_state()[1], before)


def test_many_rows_are_sampled(blobs, monkeypatch):
    X, y = blobs
    monkeypatch.setattr(active_learning, "_MOST_CANDIDATES", 60)
    monkeypatch.setattr(active_learning, "_MOST_REFERENCES", 40)
    rows = next_to_label(None, X, 4, "diversity", random_state=0)
    assert sorted(y[rows]) == [0, 1, 2, 3]
    # More rows than candidates would leave.
    rows = next_to_label(None, X, 100, "diversity", random_state=0)
    assert len(set(rows)) == 100


def test_pretrainer_alone_chooses_by_its_embedding(pretrainer, volumes):
    X, _ = volumes
    rows = next_to_label(pretrainer, X, 5)
    np.testing.assert_array_equal(rows, next_to_label(None, pretrainer.transform(X), 5))
    with pytest.raises(ValueError, match="ContrastivePretrainer, which has no predict"):
        next_to_label(pretrainer, X, 5, "uncertainty")
    assert len(next_to_label(pretrainer, X, 5, strategy="random")) == 5


def test_embedding_of_a_classifier_is_its_pretrainers(pretrainer, volumes):
    X, y = volumes
    frozen = FrozenEstimator(pretrainer)
    options = {"max_epochs": 1, "random_state": 0}
    classifier = RB3DClassifier(frozen, **options).fit(X, y)
    Z = pretrainer.transform(X)
    expected = next_to_label(None, Z, 5)
    chosen = next_to_label(classifier, X, 5, "diversity")
    np.testing.assert_array_equal(chosen, expected)
    given = next_to_label(classifier, X, 5, "diversity", embedding=Z[:, :3])
    np.testing.assert_array_equal(given, next_to_label(None, Z[:, :3], 5))
    # Without a pretrainer it is the classifier's own.
    plain = RB3DClassifier(**options).fit(X, y)
    np.testing.assert_array_equal(
        next_to_label(plain, X, 5, "diversity"),
        next_to_label(None, plain.transform(X), 5),
    )


def test_embedding_is_found_inside_of_meta_estimators(blobs):
    X, y = blobs
    scaled = StandardScaler().fit_transform(X)
    expected = next_to_label(None, scaled, 5)
    pipeline = make_pipeline(StandardScaler(), LogisticRegression())
    search = GridSearchCV(pipeline, {"logisticregression__C": [1.0]}, cv=2)
    thinned = LabelFractionClassifier(pipeline, 0.5, random_state=0)
    halved = make_pipeline(FunctionTransformer(lambda X: X / 2), StandardScaler())
    for model in (pipeline, search, halved):
        chosen = next_to_label(model.fit(X, y), X, 5, "diversity")
        np.testing.assert_array_equal(chosen, expected)
    inner = thinned.fit(X, y).estimator_[:-1]
    np.testing.assert_array_equal(
        next_to_label(thinned, X, 5, "diversity"),
        next_to_label(None, inner.transform(X), 5),
    )


@pytest.mark.parametrize(
    "wrap",
    [
        lambda model: CalibratedClassifierCV(model, cv=2),
        lambda model: BaggingClassifier(model, 2, random_state=0),
    ],
)
def test_templates_have_no_embedding(blobs, wrap):
    X, y = blobs
    scaled = wrap(make_pipeline(StandardScaler(), LogisticRegression())).fit(X, y)
    with pytest.raises(ValueError, match="embedding: .* Pipeline is a template"):
        next_to_label(scaled, X, 5)
    Z = StandardScaler().fit_transform(X)
    chosen = next_to_label(scaled, X, 5, "diversity", embedding=Z)
    np.testing.assert_array_equal(chosen, next_to_label(None, Z, 5))
    # Where nothing inside transforms, X is the embedding.
    plain = wrap(LogisticRegression()).fit(X, y)
    np.testing.assert_array_equal(
        next_to_label(plain, X, 5, "diversity"), next_to_label(None, X, 5)
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strategy": "best"}, "strategy='best'; expected one of"),
        ({"n": 0}, "n=0; expected an integer from 1 to 150"),
        ({"n": 151}, "n=151; expected an integer from 1 to 150"),
        ({"n": 2.0}, "n=2.0; expected an integer"),
        ({"n": 149, "labeled": [0, 1]}, "from 1 to 148, the number of rows without"),
        ({"labeled": [True, False]}, "labeled: has dtype bool and shape"),
        ({"labeled": [150]}, "labeled: has row numbers from 150 to 150"),
        (
            {"labeled": [0] * 100 + [1] * 50},
            "labeled: has 150 row numbers, of which 2 are distinct; expected each "
            "once. A mask, .* dtype bool",
        ),
        ({"labeled": ["a"] * 150}, "labeled: has dtype <U1"),
        ({"embedding": np.zeros((3, 2))}, "embedding: has shape \\(3, 2\\); expected"),
        ({"embedding": np.full((150, 2), np.nan)}, "embedding: holds NaN"),
        ({"X": np.zeros((150, 2, 2, 2))}, "X does not have the two dimensions"),
    ],
)
def test_bad_arguments_are_named(blobs, options, message):
    arguments = {"estimator": None, "X": blobs[0], "n": 3} | options
    with pytest.raises(ValueError, match=message):
        next_to_label(**arguments)


def test_classifiers_without_probabilities_are_named(blobs):
    X, y = blobs
    with pytest.raises(ValueError, match="Perceptron, which has no predict_proba"):
        next_to_label(Perceptron().fit(X, y), X, 2, "uncertainty")
    with pytest.raises(ValueError, match="shape \\(3, 2\\); expected \\(150, n_class"):
        next_to_label(Given(np.ones((3, 2))), X, 2, "uncertainty")
