from itertools import pairwise

import numpy as np
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from skorch.callbacks import Callback

from sksubtomo import (
    ContrastivePretrainer,
    LabelFractionClassifier,
    RB3DClassifier,
    SelfDistillation,
)


class Recorder(ClassifierMixin, BaseEstimator):
    """Keep what fit was given; predict the first class."""

    def __init__(self, random_state=None):
        self.random_state = random_state

    def fit(self, X, y):
        self.X_, self.y_ = X, y
        self.classes_ = np.unique(y)
        return self

    def predict(self, X):
        return np.full(len(X), self.classes_[0])


class SemiRecorder(Recorder):
    """A recorder that takes unlabelled rows."""

    def __init__(self, unlabeled=None, random_state=None):
        self.unlabeled = unlabeled
        super().__init__(random_state=random_state)

    def fit(self, X, y, validation_data=None):
        self.validation_data_ = validation_data
        return super().fit(X, y)


@pytest.fixture
def data():
    y = np.array(["a"] * 12 + ["b"] * 8 + ["c"] * 4)
    return np.arange(24.0).reshape(24, 1, 1, 1) * np.ones((1, 2, 2, 2)), y


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({"label_fraction": 1.0}, [12, 8, 4]),
        ({"label_fraction": 0.25}, [3, 2, 1]),
        ({"label_fraction": 0.01}, [1, 1, 1]),
        ({"labels_per_class": 5}, [5, 5, 4]),
        ({"label_fraction": 1.0, "labels_per_class": 1}, [1, 1, 1]),
    ],
)
def test_keeps_a_part_of_every_class(data, parameters, expected):
    X, y = data
    model = LabelFractionClassifier(Recorder(), random_state=0, **parameters).fit(X, y)
    assert [int((model.estimator_.y_ == k).sum()) for k in range(3)] == expected
    rows = model.labeled_indices_
    np.testing.assert_array_equal(model.estimator_.X_, X[rows])
    np.testing.assert_array_equal(model.classes_[model.estimator_.y_], y[rows])
    assert (np.diff(rows) > 0).all()


def test_unlabelled_rows_go_to_estimators_that_take_them(data):
    X, y = data
    model = LabelFractionClassifier(SemiRecorder(), labels_per_class=2, random_state=0)
    inner = model.fit(X, y).estimator_
    assert inner.unlabeled == -1
    np.testing.assert_array_equal(inner.X_, X)
    hidden = np.ones(24, bool)
    hidden[model.labeled_indices_] = False
    assert (inner.y_[hidden] == -1).all()
    np.testing.assert_array_equal(model.classes_[inner.y_[~hidden]], y[~hidden])
    assert model.estimator.unlabeled is None


def test_rows_that_are_unlabelled_already_are_not_counted(data):
    X, y = data
    y = y.copy()
    y[:8] = "?"
    model = LabelFractionClassifier(
        SemiRecorder(unlabeled="?"), label_fraction=0.5, random_state=0
    ).fit(X, y)
    np.testing.assert_array_equal(model.classes_, ["a", "b", "c"])
    np.testing.assert_array_equal(np.bincount(model.estimator_.y_ + 1), [16, 2, 4, 2])
    assert (model.labeled_indices_ >= 8).all()
    assert (model.estimator_.y_[:8] == -1).all()


def test_minus_one_can_be_a_label(data):
    X, y = data
    coded = np.where(y == "a", -1, np.where(y == "b", 1, 5))
    model = LabelFractionClassifier(SemiRecorder(), 0.25, random_state=0).fit(X, coded)
    np.testing.assert_array_equal(model.classes_, [-1, 1, 5])
    np.testing.assert_array_equal(np.bincount(model.estimator_.y_ + 1), [18, 3, 2, 1])


def test_fractions_are_nested(data):
    X, y = data
    kept = [
        set(
            LabelFractionClassifier(Recorder(), fraction, random_state=3)
            .fit(X, y)
            .labeled_indices_
        )
        for fraction in (0.1, 0.3, 0.6, 1.0)
    ]
    assert all(small <= large for small, large in pairwise(kept))
    few = LabelFractionClassifier(Recorder(), labels_per_class=2, random_state=3)
    assert set(few.fit(X, y).labeled_indices_) <= kept[-2]


def test_seeds(data):
    X, y = data

    def fit(seed, inner=None):
        model = LabelFractionClassifier(
            Recorder(random_state=inner), 0.3, random_state=seed
        )
        return model.fit(X, y)

    assert set(fit(0).labeled_indices_) == set(fit(0).labeled_indices_)
    draws = {tuple(fit(seed).labeled_indices_) for seed in range(5)}
    assert len(draws) > 1
    assert fit(0).estimator_.random_state == fit(0).estimator_.random_state is not None
    assert fit(0).estimator_.random_state != fit(1).estimator_.random_state
    assert fit(0, inner=7).estimator_.random_state == 7
    assert fit(None).estimator_.random_state is None
    state = np.random.get_state()[1].copy()
    fit(None)
    np.testing.assert_array_equal(np.random.get_state()[1], state)


def test_the_inner_seed_does_not_depend_on_the_fraction(data):
    X, y = data
    seeds = {
        LabelFractionClassifier(Recorder(), fraction, random_state=0)
        .fit(X, y)
        .estimator_.random_state
        for fraction in (0.1, 0.5, 1.0)
    }
    assert len(seeds) == 1


def test_validation_data_is_encoded_and_passed_on(data):
    X, y = data
    model = LabelFractionClassifier(SemiRecorder(), labels_per_class=1, random_state=0)
    model.fit(X, y, validation_data=(X[:2], np.array(["c", "a"])))
    X_val, y_val = model.estimator_.validation_data_
    assert X_val is not None
    np.testing.assert_array_equal(y_val, [2, 0])
    with pytest.raises(ValueError, match="validation_data has the label 'd'"):
        model.fit(X, y, validation_data=(X[:1], np.array(["d"])))


def test_predictions_are_mapped_back():
    generator = np.random.default_rng(0)
    X = np.concatenate([generator.normal(m, 0.1, size=(20, 2)) for m in (-1, 0, 1)])
    y = np.repeat(["z", "m", "a"], 20)
    model = LabelFractionClassifier(LogisticRegression(C=100), 0.3, random_state=0)
    model.fit(X, y)
    assert model.score(X, y) == 1
    np.testing.assert_array_equal(model.classes_, ["a", "m", "z"])
    np.testing.assert_array_equal(
        model.classes_[model.predict_proba(X).argmax(1)], model.predict(X)
    )
    np.testing.assert_array_equal(
        model.classes_[model.decision_function(X).argmax(1)], model.predict(X)
    )
    assert model.n_features_in_ == 2


def test_methods_are_those_of_the_estimator():
    model = LabelFractionClassifier(RidgeClassifier())
    assert not hasattr(model, "predict_proba")
    assert hasattr(model, "decision_function")
    assert not hasattr(LabelFractionClassifier(RB3DClassifier()), "decision_function")


class CountFits(Callback):
    def __init__(self, path):
        self.path = str(path)

    def on_train_begin(self, net, **kwargs):
        with open(self.path, "a") as file:
            file.write("fit\n")


@pytest.fixture(scope="module")
def volumes():
    generator = np.random.default_rng(0)
    return generator.normal(size=(18, 8, 8, 8)), np.arange(18) % 3


def test_fractions_share_one_cached_pretraining(volumes, tmp_path):
    X, y = volumes
    log = tmp_path / "fits"
    classifier = RB3DClassifier(
        ContrastivePretrainer(max_epochs=1, callbacks=[CountFits(log)]),
        memory=str(tmp_path / "cache"),
        max_epochs=1,
    )
    study = GridSearchCV(
        LabelFractionClassifier(classifier, random_state=0),
        {"label_fraction": [0.25, 0.5, 1.0], "estimator__lr": [1e-3, 1e-2]},
        cv=3,
    ).fit(X, y)
    assert len(log.read_text().splitlines()) == 4
    assert len(study.cv_results_["params"]) == 6


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("kind", ["memory map", "hdf5", "zarr"])
def test_volumes_on_disk(volumes, tmp_path, kind):
    X, y = volumes
    if kind == "memory map":
        np.save(tmp_path / "X.npy", X)
        stored = np.load(tmp_path / "X.npy", mmap_mode="r")
    elif kind == "hdf5":
        file = pytest.importorskip("h5py").File(tmp_path / "X.h5", "w")
        stored = file.create_dataset("X", data=X)
    else:
        zarr = pytest.importorskip("zarr")
        stored = zarr.create_array(tmp_path / "X.zarr", data=X)
    classifier = LabelFractionClassifier(
        RB3DClassifier(
            ContrastivePretrainer(max_epochs=1), max_epochs=1, random_state=0
        ),
        label_fraction=0.5,
        random_state=0,
    )
    expected = clone(classifier).fit(X, y, validation_data=(X, y))
    classifier.fit(stored, y, validation_data=(stored, y))
    np.testing.assert_array_equal(
        classifier.predict_proba(stored), expected.predict_proba(X)
    )
    if kind == "hdf5":
        file.close()


def test_methods_as_a_grid(volumes, tmp_path):
    X, y = volumes
    classifier = RB3DClassifier(
        ContrastivePretrainer(max_epochs=1, random_state=0),
        memory=str(tmp_path / "cache"),
        max_epochs=1,
    )
    grid = {
        "label_fraction": [0.5, 1.0],
        "estimator__pretrainer__method": ["simclr", "moco", "swav"],
    }
    model = LabelFractionClassifier(classifier, random_state=0)
    results = [
        GridSearchCV(clone(model), grid, cv=2, n_jobs=n_jobs).fit(X, y).cv_results_
        for n_jobs in (1, 2)
    ]
    np.testing.assert_array_equal(
        results[0]["mean_test_score"], results[1]["mean_test_score"]
    )


def test_behind_a_pretrainer_in_a_pipeline(volumes):
    X, y = volumes
    seen = []

    class Rows(Callback):
        def on_batch_end(self, net, batch, **kwargs):
            seen.append(len(batch[0]))

    model = make_pipeline(
        ContrastivePretrainer(max_epochs=1, callbacks=[Rows()], random_state=0),
        LabelFractionClassifier(
            LogisticRegression(), labels_per_class=2, random_state=0
        ),
    ).fit(X, y)
    assert sum(seen) == 18
    assert len(model[-1].labeled_indices_) == 6
    assert model.predict(X).shape == (18,)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"label_fraction": 0.0}, "'label_fraction' parameter"),
        ({"label_fraction": 1.5}, "'label_fraction' parameter"),
        ({"labels_per_class": 0}, "'labels_per_class' parameter"),
        ({"estimator": 3}, "'estimator' parameter"),
    ],
)
def test_bad_parameters(data, parameters, message):
    model = LabelFractionClassifier(Recorder()).set_params(**parameters)
    with pytest.raises(ValueError, match=message):
        model.fit(*data)


def test_class_weights_follow_the_labels(data):
    X, _ = data
    y = np.array([1, 2] * 12)
    weighted = LogisticRegression(class_weight={1: 1000.0, 2: 1e-3})
    model = LabelFractionClassifier(weighted, random_state=0)
    assert (model.fit(X.reshape(24, -1), y).predict(X.reshape(24, -1)) == 1).all()
    names = np.array(["x", "y"])[y - 1]
    model = LabelFractionClassifier(
        make_pipeline(LogisticRegression(class_weight={"y": 1000.0, "x": 1e-3}))
    ).fit(X.reshape(24, -1), names)
    assert (model.predict(X.reshape(24, -1)) == "y").all()
    model = LabelFractionClassifier(LogisticRegression(class_weight={"z": 1.0}))
    with pytest.raises(ValueError, match="class_weight has the label 'z'"):
        model.fit(X.reshape(24, -1), names)


def test_validation_data_errors(data):
    X, y = data
    with pytest.raises(ValueError, match="the fit of Recorder does not take it"):
        LabelFractionClassifier(Recorder()).fit(X, y, validation_data=(X, y))
    with pytest.raises(ValueError, match=r"expected a tuple \(X_val, y_val\)"):
        LabelFractionClassifier(SemiRecorder()).fit(X, y, validation_data=X)


def test_soft_labels():
    probabilities = np.array([[0.6, 0.3, 0.1], [1.0, 0.0, 0.0], [0.5, 0.5, 0.0]])
    np.testing.assert_allclose(
        SelfDistillation().soft_labels(probabilities), probabilities
    )
    sharp = SelfDistillation(temperature=0.5, weight=2).soft_labels(probabilities)
    np.testing.assert_allclose(sharp.sum(axis=1), 2)
    np.testing.assert_allclose(sharp[0, 0] / sharp[0, 1], 4)
    hard = SelfDistillation(temperature=1e-300).soft_labels(probabilities)
    np.testing.assert_array_equal(hard, [[1, 0, 0], [1, 0, 0], [0.5, 0.5, 0]])


def test_hidden_rows_are_what_students_learn_from():
    X = np.random.default_rng(0).normal(size=(12, 4, 4, 4))
    classifier = RB3DClassifier(
        self_training=SelfDistillation(n_views=1, max_epochs=1), max_epochs=1
    )
    few = LabelFractionClassifier(classifier, labels_per_class=2, random_state=0)
    all_ = LabelFractionClassifier(classifier, random_state=0)
    rounds = [
        [epoch.get("round") for epoch in model.fit(X, [0, 1] * 6).estimator_.history_]
        for model in (few, all_)
    ]
    assert rounds == [[0, 1], [None]]
