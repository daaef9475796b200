import matplotlib.pyplot as plt
import numpy as np
import pytest
import sklearn
from scipy.special import softmax
from scipy.stats import beta
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import make_blobs
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score
from sklearn.model_selection import GridSearchCV, GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from skorch.callbacks import Callback

from sksubtomo import ContrastivePretrainer, LabelFractionClassifier, RB3DClassifier
from sksubtomo.uncertainty import (
    NoveltyDetector,
    TemperatureScaledClassifier,
    abstain,
    expected_calibration_error,
    reliability_display,
    threshold_for_accuracy,
)

NAMES = np.array(["proteasome", "groel", "rubisco"])


class Teller(ClassifierMixin, BaseEstimator):
    """Say what the rows say: logits, of which the labels were drawn.

    What was fitted on is shared by all clones.
    """

    seen = []

    def __init__(self, unlabeled=None, sharpness=1.0):
        self.unlabeled = unlabeled
        self.sharpness = sharpness

    def fit(self, X, y):
        Teller.seen.append((np.asarray(X), np.asarray(y)))
        labels = y if self.unlabeled is None else y[y != self.unlabeled]
        self.classes_ = np.unique(labels)
        return self

    def predict(self, X):
        return self.classes_[self.predict_proba(X).argmax(axis=1)]

    def predict_proba(self, X):
        return softmax(self.sharpness * np.asarray(X), axis=1)


@pytest.fixture(autouse=True)
def _forget():
    Teller.seen.clear()


def draw(n, seed=0, n_classes=3):
    """Logits, and labels of just these probabilities."""
    generator = np.random.default_rng(seed)
    X = generator.normal(scale=2, size=(n, n_classes))
    y = [generator.choice(n_classes, p=row) for row in softmax(X, axis=1)]
    return X, np.array(y)


@pytest.mark.parametrize("sharpness", [0.25, 1.0, 5.0])
@pytest.mark.parametrize("cv", [None, 3])
def test_the_temperature_undoes_what_sharpens(sharpness, cv):
    X, y = draw(3000)
    model = TemperatureScaledClassifier(
        Teller(sharpness=sharpness), cv=cv, random_state=0
    ).fit(X, y)
    assert model.temperature_ == pytest.approx(sharpness, rel=0.1)
    assert model.n_calibration_ == (750 if cv is None else 3000)
    np.testing.assert_allclose(
        model.predict_proba(X),
        softmax(sharpness / model.temperature_ * X, axis=1),
        atol=1e-10,
    )
    np.testing.assert_array_equal(model.predict(X), X.argmax(axis=1))


@pytest.mark.skipif(
    tuple(map(int, sklearn.__version__.split(".")[:2])) < (1, 8),
    reason='method="temperature" came with scikit-learn 1.8',
)
def test_agrees_with_scikit_learn():
    X, y = draw(2000)
    frozen = FrozenEstimator(Teller(sharpness=3.0).fit(X, y))
    other = CalibratedClassifierCV(frozen, method="temperature").fit(X, y)
    model = TemperatureScaledClassifier(frozen).fit(X, y)
    inverse = other.calibrated_classifiers_[0].calibrators[0].beta_
    assert model.temperature_ == pytest.approx(1 / inverse, rel=5e-3)


def test_a_frozen_classifier_is_not_fitted_again():
    X, y = draw(300)
    frozen = FrozenEstimator(Teller(unlabeled=-1).fit(X, y))
    model = TemperatureScaledClassifier(frozen).fit(X, np.where(y == 2, -1, y))
    assert len(Teller.seen) == 1
    assert model.estimator_ is frozen
    np.testing.assert_array_equal(model.classes_, [0, 1, 2])
    assert model.n_calibration_ == np.sum(y != 2)
    with pytest.raises(ValueError, match="label 7, which is not one of the classes"):
        model.fit(X, np.where(y == 2, 7, y))
    with pytest.raises(NotFittedError):
        TemperatureScaledClassifier(FrozenEstimator(LogisticRegression())).fit(X, y)


def test_rows_are_held_out_class_by_class():
    X, y = draw(400)
    model = TemperatureScaledClassifier(Teller(), validation_fraction=0.5)
    model.set_params(random_state=0).fit(X, y)
    ((trained, labels),) = Teller.seen
    assert np.isin(trained, X).all()
    np.testing.assert_allclose(np.bincount(labels), np.bincount(y) / 2, atol=1)
    assert model.n_calibration_ == 400 - len(labels)
    again = clone(model).fit(X, y)
    assert again.temperature_ == model.temperature_
    assert clone(model).set_params(random_state=1).fit(X, y).temperature_ != (
        model.temperature_
    )


def test_folds_cover_all_labels_and_all_are_trained_on_in_the_end():
    X, y = draw(90)
    TemperatureScaledClassifier(Teller(), cv=3).fit(X, y)
    *folds, last = Teller.seen
    np.testing.assert_array_equal(last[0], X)
    held_out = [np.setdiff1d(X[:, 0], fold[0][:, 0]) for fold in folds]
    np.testing.assert_array_equal(np.sort(np.concatenate(held_out)), np.sort(X[:, 0]))


def test_splits_of_ones_own():
    X, y = draw(90)
    tomograms = np.arange(90) // 30
    splits = list(GroupKFold(3).split(X, y, tomograms))
    TemperatureScaledClassifier(Teller(), cv=splits).fit(X, y)
    for fold, _ in Teller.seen[:3]:
        assert len(np.unique(tomograms[np.isin(X[:, 0], fold[:, 0])])) == 2


@pytest.mark.parametrize("mark", [-1, "", "a mark that is longer than the names"])
@pytest.mark.parametrize("cv", [None, 2])
@pytest.mark.parametrize("own", [True, False])
def test_unlabelled_rows_are_trained_on_and_never_calibrated_on(mark, cv, own):
    X, y = draw(120)
    y = y if mark == -1 else NAMES[y]
    y = np.where(np.arange(120) % 2, y, mark)
    estimator = Teller(unlabeled=mark if own else None)
    model = TemperatureScaledClassifier(
        estimator, cv=cv, unlabeled=None if own else mark, random_state=0
    ).fit(X, y)
    assert model.n_calibration_ == (15 if cv is None else 60)
    np.testing.assert_array_equal(model.classes_, np.unique(y[1::2]))
    for rows, labels in Teller.seen:
        np.testing.assert_array_equal(rows, X)
        shown = labels != mark
        assert not shown[::2].any()
        np.testing.assert_array_equal(labels[shown], y[shown])
    assert shown.sum() == (45 if cv is None else 60)
    assert estimator.unlabeled == (mark if own else None)


@pytest.mark.parametrize("cv", [None, 2])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda teller: LabelFractionClassifier(teller, random_state=0),
        lambda teller: make_pipeline(StandardScaler(), teller),
        lambda teller: make_pipeline(
            StandardScaler(), LabelFractionClassifier(teller, random_state=0)
        ),
    ],
)
def test_the_mark_may_sit_deeper(wrap, cv):
    X, y = draw(120)
    y = np.where(np.arange(120) % 2, NAMES[y], "")
    model = TemperatureScaledClassifier(
        wrap(Teller(unlabeled="")), cv=cv, random_state=0
    ).fit(X, y)
    np.testing.assert_array_equal(model.classes_, np.sort(NAMES))
    for rows, labels in Teller.seen:
        assert len(rows) == 120
        assert set(labels[::2].tolist()) in ({""}, {-1})
    assert model.n_calibration_ == (15 if cv is None else 60)
    frozen = TemperatureScaledClassifier(FrozenEstimator(model.estimator_)).fit(X, y)
    assert frozen.n_calibration_ == 60


def test_the_outermost_mark_counts():
    X, y = draw(120)
    y = np.where(np.arange(120) % 2, y, -1)
    inner = TemperatureScaledClassifier(Teller(unlabeled=7), unlabeled=-1)
    model = TemperatureScaledClassifier(inner, random_state=0).fit(X, y)
    np.testing.assert_array_equal(model.classes_, [0, 1, 2])
    assert all((labels[::2] == -1).all() for _, labels in Teller.seen)


def test_a_mark_that_was_taken_for_a_class():
    X, y = draw(120)
    y = np.where(np.arange(120) % 2, y, -1)
    hidden = make_pipeline(StandardScaler(), Teller(unlabeled=-1))
    model = TemperatureScaledClassifier(LabelFractionClassifier(hidden))
    message = (
        r"LabelFractionClassifier learned the classes \[-1, 0, 1, 2\]; expected "
        r"\[0, 1, 2\], .*unlabeled=-1"
    )
    with pytest.raises(ValueError, match=message):
        model.fit(X, y)


@pytest.mark.parametrize("cv", [None, 3])
def test_the_rows_that_were_calibrated_on(cv):
    X, y = draw(300)
    y = np.where(np.arange(300) % 3, y, -1)
    model = TemperatureScaledClassifier(
        Teller(unlabeled=-1, sharpness=3.0), cv=cv, random_state=0
    ).fit(X, y)
    rows = model.calibration_indices_
    assert len(np.unique(rows)) == len(rows) == model.n_calibration_
    assert (y[rows] != -1).all()
    if cv is None:
        ((_, labels),) = Teller.seen
        np.testing.assert_array_equal(
            np.sort(rows), np.flatnonzero((labels == -1) & (y != -1))
        )
    np.testing.assert_allclose(
        model.calibration_probabilities_, model.predict_proba(X[rows])
    )
    frozen = TemperatureScaledClassifier(FrozenEstimator(model.estimator_)).fit(X, y)
    np.testing.assert_array_equal(frozen.calibration_indices_, np.flatnonzero(y != -1))
    found = threshold_for_accuracy(
        y[rows], model.calibration_probabilities_, model.classes_, 0.5
    )
    assert found.coverage > 0


def test_a_classifier_that_knows_no_unlabelled_rows_gets_none():
    X, y = draw(120)
    y = np.where(np.arange(120) % 2, y, -1)
    model = TemperatureScaledClassifier(LogisticRegression(), cv=2, unlabeled=-1)
    model.fit(X, y)
    np.testing.assert_array_equal(model.estimator_.classes_, [0, 1, 2])
    expected = LogisticRegression().fit(X[1::2], y[1::2])
    np.testing.assert_array_equal(model.estimator_.coef_, expected.coef_)


def test_few_rows_that_are_all_right_are_no_certainty():
    X = 3 * np.eye(3)[[0, 1, 2, 0, 1, 2]]
    frozen = FrozenEstimator(Teller().fit(X, np.arange(3)))
    model = TemperatureScaledClassifier(frozen).fit(X, [0, 1, 2, 0, 1, 2])
    confidence = model.predict_proba(X).max()
    assert confidence == pytest.approx(6.5 / 7, abs=1e-3)


def test_probabilities_of_zero():
    X = np.array([[800.0, 0.0], [0.0, 800.0], [800.0, 0.0], [0.0, 800.0]])
    frozen = FrozenEstimator(Teller().fit(X, np.arange(2)))
    model = TemperatureScaledClassifier(frozen).fit(X, [0, 1, 0, 0])
    assert log_loss([0, 1, 0, 0], model.predict_proba(X)) < 1


def test_probabilities_that_are_all_equal():
    X = np.zeros((6, 2))
    model = TemperatureScaledClassifier(Teller(), random_state=0)
    assert model.fit(X, [0, 1] * 3).temperature_ == 1


@pytest.mark.parametrize(
    ("parameters", "y", "message"),
    [
        ({}, [0, 1, 2], "each class has only one sample with a label"),
        ({"cv": 2}, [0, 0, 1], "class 1 would have no labelled row to train on"),
        ({"unlabeled": -1}, [-1, -1, -1], "no labelled row"),
        ({"validation_fraction": 1.0}, [0, 0, 1], "The 'validation_fraction' param"),
        ({"cv": "three"}, [0, 0, 1], "The 'cv' parameter"),
    ],
)
@pytest.mark.filterwarnings("ignore:The least populated class:UserWarning")
def test_what_cannot_be_calibrated_on(parameters, y, message):
    model = TemperatureScaledClassifier(Teller(), **parameters)
    with pytest.raises(ValueError, match=message):
        model.fit(np.zeros((3, 3)), y)


def test_in_pipelines_and_searches():
    X, y = draw(120)
    model = make_pipeline(
        StandardScaler(),
        TemperatureScaledClassifier(LogisticRegression(), random_state=0),
    )
    name = "temperaturescaledclassifier__estimator__C"
    search = GridSearchCV(model, {name: [1e-4, 1.0]}, cv=3, scoring="neg_log_loss")
    search.fit(X, NAMES[y])
    assert search.best_params_ == {name: 1.0}
    assert search.predict_proba(X).shape == (120, 3)


def test_around_a_classifier_of_volumes():
    generator = np.random.default_rng(0)
    X = generator.normal(size=(24, 4, 4, 4)).astype(np.float32)
    y = np.where(np.arange(24) < 16, NAMES[np.arange(24) % 3], "")
    inner = RB3DClassifier(unlabeled="", max_epochs=1, random_state=0)
    model = TemperatureScaledClassifier(inner, random_state=0).fit(X, y)
    assert model.n_features_in_ == 64
    np.testing.assert_array_equal(model.classes_, np.sort(NAMES))
    flat = model.predict_proba(X.reshape(24, 64))
    np.testing.assert_array_equal(flat, model.predict_proba(X))
    embedding = model.estimator_.transform(X)
    assert NoveltyDetector().fit(embedding).predict(embedding).shape == (24,)


class CountFits(Callback):
    def __init__(self, path):
        self.path = str(path)

    def on_train_begin(self, net, **kwargs):
        with open(self.path, "a") as file:
            file.write("fit\n")


def test_the_folds_share_one_pretraining(tmp_path):
    X = np.random.default_rng(0).normal(size=(12, 4, 4, 4))
    pretrainer = ContrastivePretrainer(
        "simclr",
        augmentation="crop_affine",
        max_epochs=1,
        callbacks=[CountFits(tmp_path / "fits")],
    )
    classifier = RB3DClassifier(
        pretrainer,
        unlabeled=-1,
        memory=str(tmp_path / "cache"),
        max_epochs=1,
        random_state=0,
    )
    TemperatureScaledClassifier(classifier, cv=2).fit(X, np.arange(12) % 3 - 1)
    assert (tmp_path / "fits").read_text() == "fit\n"


def test_within_a_label_study():
    X, y = draw(120)
    study = LabelFractionClassifier(
        TemperatureScaledClassifier(Teller()), label_fraction=0.5, random_state=0
    ).fit(X, NAMES[y])
    ((rows, labels),) = Teller.seen
    # Hidden labels and those for the temperature are unlabelled rows to the classifier.
    np.testing.assert_array_equal(rows, X)
    kept = len(study.labeled_indices_)
    assert np.sum(labels != -1) == kept - study.estimator_.n_calibration_ < kept
    np.testing.assert_array_equal(study.classes_, np.sort(NAMES))


PROBABILITIES = np.array([[0.5, 0.3, 0.2], [0.0, 0.1, 0.9], [0.3, 0.4, 0.3]])


def test_abstain():
    np.testing.assert_array_equal(abstain(PROBABILITIES, [3, 5, 8], 0.5), [3, 8, -1])
    names = abstain(PROBABILITIES, NAMES, 0.6)
    np.testing.assert_array_equal(names, ["", "rubisco", ""])
    assert names.dtype.kind == "U"
    mixed = abstain(PROBABILITIES, [3, 5, 8], 0.6, label="unsure")
    assert mixed.tolist() == ["unsure", 8, "unsure"]
    longer = abstain(PROBABILITIES, NAMES, 0.6, label="no answer at all")
    assert longer[0] == "no answer at all"
    assert (abstain(PROBABILITIES, [3, 5, 8], np.inf) == -1).all()
    with pytest.raises(ValueError, match="label=-1 is one of the classes"):
        abstain(PROBABILITIES, [-1, 0, 1], 0.5)


@pytest.mark.parametrize(
    ("probabilities", "classes", "message"),
    [
        (PROBABILITIES, [0, 1], r"shape \(3, 3\) and classes \(2,\); expected"),
        (PROBABILITIES[0], [0, 1, 2], r"shape \(3,\) and classes \(3,\)"),
        (np.log(PROBABILITIES + 1), [0, 1, 2], "row 0 of probabilities is"),
        (PROBABILITIES - np.eye(3), [0, 1, 2], "row 0 .* expected numbers from 0 to 1"),
        (PROBABILITIES * [[1], [1], [np.nan]], [0, 1, 2], "row 2 of probabilities"),
        (np.zeros((0, 3)), [0, 1, 2], "no row"),
    ],
)
def test_probabilities_that_are_none(probabilities, classes, message):
    with pytest.raises(ValueError, match=message):
        abstain(probabilities, classes, 0.5)


@pytest.mark.parametrize("threshold", [np.nan, 95, -0.1, -np.inf, "0.9", True, None])
def test_thresholds_that_are_none(threshold):
    with pytest.raises(ValueError, match="threshold=.*expected a number from 0 to 1"):
        abstain(PROBABILITIES, [0, 1, 2], threshold)


@pytest.mark.parametrize(
    "measure",
    [
        expected_calibration_error,
        reliability_display,
        lambda *arguments: threshold_for_accuracy(*arguments, 0.9),
    ],
)
@pytest.mark.parametrize(
    ("y", "classes"),
    [([0, 1, 2], NAMES), (NAMES, [0, 1, 2]), ([0, 1, 2], ["0", "1", "2"])],
)
def test_labels_that_are_no_classes(measure, y, classes):
    message = f"y has the label {np.asarray(y).tolist()[0]!r}, .* classes "
    with pytest.raises(ValueError, match=message) as error:
        measure(y, PROBABILITIES, classes)
    assert str(np.asarray(classes).tolist()) in str(error.value)


@pytest.mark.parametrize("measure", [expected_calibration_error, reliability_display])
@pytest.mark.parametrize("n_bins", [True, 0, 2.0])
def test_numbers_of_bins_that_are_none(measure, n_bins):
    with pytest.raises(ValueError, match=f"n_bins={n_bins}; expected"):
        measure([0, 1, 2], PROBABILITIES, [0, 1, 2], n_bins=n_bins)


def two_classes(confidence, correct):
    probabilities = np.stack([confidence, 1 - confidence], axis=1)
    return np.where(correct, 0, 1), probabilities


def test_promises_are_kept_in_the_worst_case():
    # Confidence says nothing, and the accuracy is just below the wanted one: any
    # threshold breaks the promise. Searched from full coverage down, 11 % would.
    generator = np.random.default_rng(0)
    n_draws, n_broken = 400, 0
    for _ in range(n_draws):
        y, probabilities = two_classes(
            generator.uniform(0.5, 1, 200), generator.random(200) < 0.895
        )
        found = threshold_for_accuracy(y, probabilities, [0, 1], 0.9)
        n_broken += found.coverage > 0
    # The rate is at most 5 %, with a standard deviation of 1.1 %.
    assert n_broken / n_draws < 0.075


def test_the_search_ends_at_the_first_failure():
    confidence = np.linspace(0.51, 1, 1000)
    wrong_at_the_top = confidence < 0.97
    y, probabilities = two_classes(confidence, wrong_at_the_top)
    # With all rows the bound is 0.92.
    assert threshold_for_accuracy(y, probabilities, [0, 1], 0.9).coverage == 0


def test_the_threshold_is_the_lowest_that_promises_the_accuracy():
    confidence = np.linspace(0.51, 1, 200)
    y, probabilities = two_classes(confidence, confidence > 0.75)
    found = threshold_for_accuracy(y, probabilities, [0, 1], 0.9)
    answered = confidence >= found.threshold
    right = int(np.sum(y[answered] == 0))
    assert found.coverage == pytest.approx(answered.mean())
    assert found.accuracy == pytest.approx(right / answered.sum())
    # Clopper and Pearson's bound is a quantile of a beta distribution.
    bound = beta.ppf(0.05, right, answered.sum() - right + 1)
    assert found.lower_bound == pytest.approx(bound)
    assert bound >= 0.9
    # One step of 5 % further down, it is too low.
    n_more = answered.sum() + 10
    assert beta.ppf(0.05, right, n_more - right + 1) < 0.9
    surer = threshold_for_accuracy(y, probabilities, [0, 1], 0.9, confidence_level=0.99)
    assert surer.threshold >= found.threshold
    assert surer.lower_bound < found.lower_bound


def test_few_rows_promise_little():
    confidence = np.linspace(0.6, 1, 28)
    y, probabilities = two_classes(confidence, np.ones(28, bool))
    found = threshold_for_accuracy(y, probabilities, [0, 1], 0.9)
    assert found.threshold == np.inf
    assert found.coverage == 0
    assert (abstain(probabilities, [0, 1], found.threshold) == -1).all()
    found = threshold_for_accuracy(y, probabilities, [0, 1], 0.89)
    # All get an answer: so does what is less sure than any of these.
    assert found[:3] == (0.0, 1.0, 1.0)
    y = np.where(np.arange(28) < 14, 7, y)
    found = threshold_for_accuracy(y, probabilities, [0, 1], 0.7, junk=7)
    assert 0 < found.coverage < 0.6
    with pytest.raises(ValueError, match=r"label 7, .* \[0, 1\] nor junk=8"):
        threshold_for_accuracy(y, probabilities, [0, 1], 0.7, junk=8)


def test_equal_confidences_share_an_answer():
    y, probabilities = two_classes(np.full(100, 0.8), np.arange(100) < 80)
    found = threshold_for_accuracy(y, probabilities, [0, 1], 0.7)
    assert found.coverage == 1
    assert threshold_for_accuracy(y, probabilities, [0, 1], 0.8).coverage == 0


def test_threshold_errors():
    with pytest.raises(ValueError, match="accuracy=95"):
        threshold_for_accuracy([0], [[1.0, 0.0]], [0, 1], 95)
    with pytest.raises(ValueError, match="accuracy='high'"):
        threshold_for_accuracy([0], [[1.0, 0.0]], [0, 1], "high")
    with pytest.raises(ValueError, match="confidence_level=1"):
        threshold_for_accuracy([0], [[1.0, 0.0]], [0, 1], 0.5, confidence_level=1)
    with pytest.raises(ValueError, match=r"y has shape \(2,\); expected \(1,\)"):
        threshold_for_accuracy([0, 1], [[1.0, 0.0]], [0, 1], 0.5)


def test_calibration_error():
    X, y = draw(20000)
    p = softmax(X, axis=1)
    assert expected_calibration_error(y, p, [0, 1, 2]) < 0.02
    sharp = softmax(4 * X, axis=1)
    confidence, right = sharp.max(axis=1), sharp.argmax(axis=1) == y
    error = expected_calibration_error(y, sharp, [0, 1, 2])
    assert error == pytest.approx(confidence.mean() - right.mean(), abs=0.01)
    # By hand, in two bins of (0.3, 0.4) and (0.9, 1.0).
    y, probabilities = two_classes(np.array([0.6, 0.6, 0.9, 1.0]), [1, 0, 1, 1])
    error = expected_calibration_error(y, probabilities, [0, 1], n_bins=4)
    assert error == pytest.approx((abs(1 - 1.2) + abs(2 - 1.9)) / 4)
    with pytest.raises(ValueError, match="n_bins=0"):
        expected_calibration_error(y, probabilities, [0, 1], n_bins=0)


def test_reliability_display():
    X, y = draw(1000)
    p = softmax(X, axis=1)
    display = reliability_display(NAMES[y], p, NAMES, n_bins=5, name="before")
    np.testing.assert_allclose(display.prob_true, display.prob_pred, atol=0.1)
    assert len(display.prob_true) == 5
    again = reliability_display(
        NAMES[y], p, NAMES, ax=display.ax_, color="k", name="after"
    )
    assert again.ax_ is display.ax_
    assert display.ax_.get_xlabel() == "Confidence"
    texts = [text.get_text() for text in display.ax_.get_legend().get_texts()]
    assert texts[1:] == ["before", "after"]
    right = np.argmax(p, axis=1)
    assert reliability_display(right, p, [0, 1, 2]).prob_true.min() == 1
    plt.close("all")


def test_novelty_is_the_distance_to_the_known():
    known = np.array([[0.0], [1.0], [10.0]])
    detector = NoveltyDetector(n_neighbors=2).fit(known)
    np.testing.assert_allclose(detector.score_samples([[0.5], [12.0]]), [-0.5, -6.5])
    # Nobody is a neighbour of oneself.
    np.testing.assert_allclose(detector.score_samples(known), [-5.5, -5.0, -9.5])
    assert detector.offset_ == -9.5
    np.testing.assert_allclose(detector.decision_function([[12.0]]), [3.0])
    np.testing.assert_array_equal(detector.predict([[15.0], [15.1]]), [1, -1])
    # One row less than there are.
    assert NoveltyDetector().fit(known).neighbors_.n_neighbors == 2


@pytest.mark.parametrize("rate", [0.05, 0.2])
def test_the_rate_of_false_rejections(rate):
    X, y = make_blobs(4000, n_features=20, centers=5, random_state=0)
    detector = NoveltyDetector(false_rejection_rate=rate).fit(X[:1000], y[:1000])
    rejected = np.mean(detector.predict(X[1000:]) == -1)
    assert rejected == pytest.approx(rate, rel=0.5)
    far = np.random.default_rng(0).uniform(-10, 10, size=(1000, 20))
    scores = np.append(detector.score_samples(X[1000:]), detector.score_samples(far))
    assert roc_auc_score(np.repeat([1, 0], [3000, 1000]), scores) > 0.99


@pytest.mark.parametrize("n_features", [2, 40])
@pytest.mark.parametrize("rate", [0.05, 0.2])
def test_the_known_ones_are_rejected_at_the_rate(n_features, rate):
    generator = np.random.default_rng(0)
    X = generator.normal(size=(400, n_features)).astype(np.float32)
    detector = NoveltyDetector(false_rejection_rate=rate)
    # All but the one at the threshold itself.
    assert np.sum(detector.fit_predict(X) == -1) == 400 * rate - 1


def test_novelty_errors():
    with pytest.raises(ValueError, match="minimum of 2 is required"):
        NoveltyDetector().fit([[1.0]])
    with pytest.raises(ValueError, match="'false_rejection_rate' parameter"):
        NoveltyDetector(false_rejection_rate=1.0).fit([[1.0], [2.0]])
    with pytest.raises(NotFittedError):
        NoveltyDetector().predict([[1.0]])
