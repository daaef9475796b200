import gc
import pickle
import weakref
from contextlib import contextmanager

import joblib
import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import BaggingClassifier, StackingClassifier
from sklearn.exceptions import NotFittedError
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import (
    GridSearchCV,
    HalvingGridSearchCV,
    StratifiedKFold,
    cross_val_score,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from skorch.callbacks import Callback, EarlyStopping, EpochScoring

from sksubtomo import (
    CB3DClassifier,
    ContrastivePretrainer,
    DSRF3DClassifier,
    RB3DClassifier,
    SelfDistillation,
    SubtomogramClassifier,
    classification,
)
from sksubtomo._training import fitting
from sksubtomo._training.inference import class_probabilities
from sksubtomo.augmentation import CropAffine, RotateShiftNoise
from sksubtomo.augmentation.functional import oriented_views
from sksubtomo.networks import CB3D, DSRF3D, RB3D


def make_bars(n_per_class=8, side=8, seed=0):
    """Bars along one of three axes: easy, and no class is brighter than another."""
    generator = np.random.default_rng(seed)
    X = generator.normal(scale=0.3, size=(3 * n_per_class, side, side, side))
    y = np.arange(3 * n_per_class) % 3
    for volume, axis in zip(X, y, strict=True):
        place = [int(i) for i in generator.integers(2, side - 2, size=3)]
        place[axis] = slice(None)
        volume[tuple(place)] += 3
    return X.astype(np.float32), y


@pytest.fixture(scope="module")
def data():
    return make_bars()


@pytest.fixture(scope="module")
def pretrainer(data):
    return ContrastivePretrainer(max_epochs=2, random_state=0).fit(data[0])


def _state(module):
    return {k: v.numpy().copy() for k, v in module.state_dict().items()}


def _assert_same_state(one, other):
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name])


class Spy(Callback):
    """Keep what is trained on, and the encoder before the first step.

    What was seen is shared by all clones of one name: scikit-learn clones callbacks.
    """

    seen = {}

    def __init__(self, name="spy"):
        self.name = name
        Spy.seen[name] = ([], [])

    @property
    def rows(self):
        return Spy.seen[self.name][0]

    @property
    def first_encoder(self):
        return Spy.seen[self.name][1][0]

    def on_batch_begin(self, net, batch, training, **kwargs):
        Spy.seen[self.name][1].append(_state(net.module_.encoder))
        if training:
            self.rows.append(batch[0].numpy().copy())


@pytest.mark.parametrize("encoder", [None, "rb3d", RB3D(norm="group")])
def test_learns(data, encoder):
    X, y = make_bars(n_per_class=30)
    classifier = RB3DClassifier(encoder=encoder, max_epochs=30, random_state=0)
    assert classifier.fit(X, y).score(*make_bars(20, seed=1)) > 0.8
    losses = [epoch["train_loss"] for epoch in classifier.history_]
    assert losses[-1] < 0.3 < 1.0 < losses[0]


@pytest.mark.parametrize(
    "names",
    [np.array(["b", "c", "a"]), np.array([-1, 7, 2]), np.array([2.0, 1.0, 3.0])],
)
def test_labels_of_any_kind(data, names):
    X, y = data
    coded = RB3DClassifier(max_epochs=3, random_state=0).fit(X, y)
    order = np.argsort(names)
    ranks = np.argsort(order)
    named = clone(coded).fit(X, names[y])
    np.testing.assert_array_equal(named.classes_, np.sort(names))
    recoded = clone(coded).fit(X, ranks[y])
    np.testing.assert_array_equal(named.predict(X), np.sort(names)[recoded.predict(X)])


def test_probabilities(data):
    X, y = data
    classifier = RB3DClassifier(max_epochs=5, random_state=0).fit(X, y)
    probabilities = classifier.predict_proba(X)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-12)
    np.testing.assert_array_equal(
        classifier.classes_[probabilities.argmax(axis=1)], classifier.predict(X)
    )
    np.testing.assert_array_equal(classifier.predict_proba(X[5:6])[0], probabilities[5])
    np.testing.assert_array_equal(
        classifier.predict_proba(X.reshape(len(X), -1)), probabilities
    )


def test_nested_pretrainer_sees_all_rows_fine_tuning_the_labelled(data):
    X, y = data
    y = np.where(np.arange(len(y)) < 9, y, -5)
    pretraining, fine_tuning = Spy("pretraining"), Spy("fine-tuning")
    classifier = RB3DClassifier(
        ContrastivePretrainer(
            max_epochs=1, normalize=None, callbacks=[pretraining], random_state=0
        ),
        unlabeled=-5,
        max_epochs=1,
        callbacks=[fine_tuning],
        random_state=0,
    ).fit(X, y)
    np.testing.assert_array_equal(classifier.classes_, [0, 1, 2])
    seen = np.concatenate(pretraining.rows)[:, 0]
    np.testing.assert_array_equal(_sorted_rows(seen), _sorted_rows(X))
    seen = np.concatenate(fine_tuning.rows)[:, 0]
    np.testing.assert_array_equal(_sorted_rows(seen), _sorted_rows(X[:9]))
    _assert_same_state(
        fine_tuning.first_encoder, _state(classifier.pretrainer_.encoder_)
    )


def _sorted_rows(volumes):
    rows = np.asarray(volumes).reshape(len(volumes), -1)
    return rows[np.lexsort(rows.T[:3])]


def test_frozen_pretrainer_is_a_start_and_never_changes(data, pretrainer):
    X, y = data
    before = _state(pretrainer.encoder_)
    digest = joblib.hash(pretrainer)
    spy = Spy()
    classifier = RB3DClassifier(
        FrozenEstimator(pretrainer), max_epochs=3, callbacks=[spy], random_state=0
    ).fit(X, y)
    _assert_same_state(spy.first_encoder, before)
    _assert_same_state(_state(pretrainer.encoder_), before)
    assert joblib.hash(pretrainer) == digest
    after = _state(classifier.network_.encoder)
    assert all(not np.array_equal(after[name], before[name]) for name in before)
    assert all(p.requires_grad for p in pretrainer.encoder_.parameters())
    assert classifier.normalizer_ == pretrainer.normalizer_


def test_freeze_encoder_trains_the_head_only(data, pretrainer):
    X, y = data
    classifier = RB3DClassifier(
        FrozenEstimator(pretrainer), freeze_encoder=True, max_epochs=3, random_state=0
    ).fit(X, y)
    _assert_same_state(_state(classifier.network_.encoder), _state(pretrainer.encoder_))
    assert classifier.network_.head.weight.abs().max() > 0.01
    assert all(p.requires_grad for p in pretrainer.encoder_.parameters())


class CountFits(Callback):
    """Write a line for each fit."""

    def __init__(self, path):
        self.path = str(path)

    def on_train_begin(self, net, **kwargs):
        with open(self.path, "a") as file:
            file.write("fit\n")


@pytest.mark.parametrize("own_seed", [True, False])
def test_memory_pretrains_once_a_fold(data, tmp_path, own_seed):
    X, y = data
    log = tmp_path / "fits"
    log.touch()
    classifier = RB3DClassifier(
        ContrastivePretrainer(
            max_epochs=1,
            callbacks=[CountFits(log)],
            random_state=3 if own_seed else None,
        ),
        memory=str(tmp_path / "cache"),
        max_epochs=1,
        random_state=0,
    )
    grid = {"lr": [1e-3, 1e-2], "freeze_encoder": [False, True]}
    GridSearchCV(classifier, grid, cv=3).fit(X, y)
    # Three folds and the refit on all rows.
    assert len(log.read_text().splitlines()) == 4


def test_memory_is_keyed_by_parameters_seed_and_data(data, tmp_path):
    X, y = data
    log = tmp_path / "fits"

    def n_fits():
        return len(log.read_text().splitlines())

    def fit(X=X, pretrainer_seed=0, seed=0, **parameters):
        pretrainer = ContrastivePretrainer(
            max_epochs=1, callbacks=[CountFits(log)], random_state=pretrainer_seed
        ).set_params(**parameters)
        return RB3DClassifier(
            pretrainer, memory=str(tmp_path / "cache"), max_epochs=1, random_state=seed
        ).fit(X, y)

    first = fit()
    again = fit()
    assert n_fits() == 1
    _assert_same_state(_state(first.network_), _state(again.network_))
    fit(verbose=1)
    assert n_fits() == 1
    fit(lr=1e-2)
    assert n_fits() == 2
    fit(X=X + 1)
    assert n_fits() == 3
    fit(pretrainer_seed=None)
    fit(pretrainer_seed=None)
    assert n_fits() == 4
    fit(pretrainer_seed=None, seed=1)
    assert n_fits() == 5
    fit(pretrainer_seed=None, seed=None)
    fit(pretrainer_seed=None, seed=None)
    assert n_fits() == 7


def test_volumes_on_disk(data, pretrainer, tmp_path):
    X, y = data
    np.save(tmp_path / "X.npy", X.astype(np.float64))
    stored = np.load(tmp_path / "X.npy", mmap_mode="r")
    marked = np.where(np.arange(len(y)) % 4, y, -1)
    classifier = RB3DClassifier(
        FrozenEstimator(pretrainer),
        unlabeled=-1,
        validation_fraction=0.3,
        max_epochs=2,
        random_state=0,
    )
    in_memory = clone(classifier).fit(X, marked)
    on_disk = clone(classifier).fit(stored, marked)
    _assert_same_state(_state(in_memory.network_), _state(on_disk.network_))
    np.testing.assert_array_equal(
        on_disk.predict_proba(stored), in_memory.predict_proba(X)
    )
    given = clone(classifier).set_params(validation_fraction=None)
    given.fit(stored, marked, validation_data=(stored[:9], y[:9]))
    expected = clone(given).fit(X, marked, validation_data=(X[:9], y[:9]))
    assert given.history_ == expected.history_


def test_the_training_volumes_are_not_kept(data, tmp_path):
    X = data[0].copy()
    reference = weakref.ref(X)
    classifier = RB3DClassifier(
        ContrastivePretrainer(max_epochs=1),
        memory=str(tmp_path),
        max_epochs=1,
        random_state=0,
    ).fit(X, data[1])
    del X
    gc.collect()
    assert reference() is None
    assert classifier.n_iter_ == 1


def test_precision_is_that_of_fine_tuning_and_prediction(data, monkeypatch):
    seen = []

    @contextmanager
    def computing(encoders, *, precision, **kwargs):
        seen.append(precision)
        yield

    monkeypatch.setattr(fitting, "computing", computing)
    monkeypatch.setattr(classification, "computing", computing)
    RB3DClassifier(precision="float32", max_epochs=1).fit(*data).predict(data[0])
    assert seen == ["float32", "float32"]
    with pytest.raises(ValueError, match="'precision' parameter"):
        RB3DClassifier(precision="float16").fit(*data)


def test_validation_data_chooses_the_epoch(data):
    X, y = data
    X_val, y_val = make_bars(6, seed=2)
    classifier = RB3DClassifier(max_epochs=12, lr=5e-3, random_state=0)
    classifier.fit(X, y, validation_data=(X_val, y_val))
    accuracies = [epoch["valid_acc"] for epoch in classifier.history_]
    assert classifier.score(X_val, y_val) == pytest.approx(max(accuracies), abs=1e-6)
    last = clone(classifier).fit(X, y)
    assert "valid_acc" not in last.history_[0]


def test_validation_restores_an_early_epoch(data):
    X, y = data
    # Validation labels that no later epoch can agree with.
    X_val, y_val = X, (y + 1) % 3
    classifier = RB3DClassifier(max_epochs=15, random_state=0)
    classifier.fit(X, y, validation_data=(X_val, y_val))
    accuracies = [epoch["valid_acc"] for epoch in classifier.history_]
    assert accuracies[-1] < max(accuracies)
    assert classifier.score(X_val, y_val) == pytest.approx(max(accuracies), abs=1e-6)


def test_validation_fraction_holds_rows_of_every_class_out(data):
    X, y = data
    spy = Spy()
    classifier = RB3DClassifier(
        validation_fraction=0.25,
        normalize=None,
        max_epochs=1,
        callbacks=[spy],
        random_state=0,
    ).fit(X, y)
    seen = np.concatenate(spy.rows)[:, 0]
    assert len(seen) == 18
    trained = [
        label
        for volume, label in zip(X, y, strict=True)
        if any(np.array_equal(volume, other) for other in seen)
    ]
    np.testing.assert_array_equal(np.bincount(trained), [6, 6, 6])
    assert 0 <= classifier.history_[0]["valid_acc"] <= 1


def test_validation_errors(data):
    X, y = data
    classifier = RB3DClassifier(max_epochs=1)
    with pytest.raises(ValueError, match="both given"):
        clone(classifier).set_params(validation_fraction=0.2).fit(
            X, y, validation_data=(X, y)
        )
    with pytest.raises(ValueError, match="label 7, which is not one of the classes"):
        classifier.fit(X, y, validation_data=(X, y + 7))
    with pytest.raises(ValueError, match=r"labels of validation_data have shape \(5,"):
        classifier.fit(X, y, validation_data=(X, y[:5]))
    with pytest.raises(ValueError, match=r"expected a tuple \(X_val, y_val\)"):
        classifier.fit(X, y, validation_data=X)
    with pytest.raises(ValueError, match=r"expecting volumes of shape \(8, 8, 8\)"):
        classifier.fit(X, y, validation_data=(X[:, 1:], y))
    with pytest.raises(ValueError, match="every class has a single labelled one"):
        clone(classifier).set_params(validation_fraction=0.5).fit(X[:3], y[:3])


def test_class_weight(data):
    X, y = data
    heavy = RB3DClassifier(class_weight={0: 1e6, 1: 1, 2: 1}, max_epochs=5)
    predictions = heavy.set_params(random_state=0).fit(X, y).predict(X)
    assert (predictions == 0).all()
    with_balance = RB3DClassifier(class_weight="balanced", max_epochs=2, random_state=0)
    # Classes of equal size: balancing changes nothing.
    without = clone(with_balance).set_params(class_weight=None)
    np.testing.assert_allclose(
        with_balance.fit(X, y).predict_proba(X),
        without.fit(X, y).predict_proba(X),
        atol=1e-5,
    )


def test_augmentation_is_for_training_only(data):
    X, y = data
    classifier = RB3DClassifier(
        augmentation="rotate_shift_noise", max_epochs=2, random_state=0
    ).fit(X, y)
    plain = clone(classifier).set_params(augmentation=None).fit(X, y)
    assert not np.array_equal(classifier.predict_proba(X), plain.predict_proba(X))
    np.testing.assert_array_equal(
        classifier.predict_proba(X), classifier.predict_proba(X)
    )


def _fitted_views(monkeypatch, classifier, X, y):
    """Return the augmentation that a fit hands to the fine-tuning."""
    seen = []

    def fine_tune(*args, augmentation, **kwargs):
        seen.append(augmentation)
        return fitting.fine_tune(*args, augmentation=augmentation, **kwargs)

    monkeypatch.setattr(classification, "fine_tune", fine_tune)
    clone(classifier).set_params(max_epochs=1).fit(X, y)
    return seen[0]


def test_views_by_default(data, monkeypatch):
    X, y = data
    own = RotateShiftNoise(rotate=False, flips=None)
    pretrainer = ContrastivePretrainer(augmentation=own, max_epochs=1)
    frozen = FrozenEstimator(pretrainer.fit(X))
    # repr has the parameters, in which the objects may differ.
    views = {
        name: repr(_fitted_views(monkeypatch, classifier, rows, y))
        for name, (classifier, rows) in {
            "volumes": (RB3DClassifier(), X),
            "flat": (RB3DClassifier(), X.reshape(len(X), -1)),
            "shape": (RB3DClassifier(volume_shape=(8, 16, 4)), X.reshape(len(X), -1)),
            "nested": (RB3DClassifier(clone(pretrainer)), X),
            "frozen": (RB3DClassifier(frozen), X),
            "probe": (RB3DClassifier(frozen, freeze_encoder=True), X),
            "off": (RB3DClassifier(frozen, augmentation=None), X),
            "given": (RB3DClassifier(frozen, augmentation="crop_affine"), X),
            "table": (RB3DClassifier(), X.reshape(len(X), -1)[:, :20]),
            "digits": (RB3DClassifier(), X.reshape(len(X), -1)[:, :64]),
            "slab": (RB3DClassifier(), X[:, :1]),
        }.items()
    }
    assert views == {
        "volumes": repr(RotateShiftNoise()),
        "flat": repr(RotateShiftNoise()),
        "shape": "None",
        "nested": repr(own),
        "frozen": repr(own),
        "probe": "None",
        "off": "None",
        "given": repr(CropAffine()),
        "table": "None",
        "digits": "None",
        "slab": "None",
    }


def test_a_pretrainers_bad_views_are_its_own(data):
    classifier = RB3DClassifier(ContrastivePretrainer(augmentation=RB3D))
    with pytest.raises(TypeError, match="pretrainer__augmentation is the class RB3D"):
        classifier.fit(*data)


def test_one_seed_one_result(data):
    X, y = data
    classifier = RB3DClassifier(
        ContrastivePretrainer(max_epochs=1),
        max_epochs=2,
        random_state=0,
        validation_fraction=0.25,
    )
    one, two = clone(classifier).fit(X, y), clone(classifier).fit(X, y)
    _assert_same_state(_state(one.network_), _state(two.network_))
    assert one.history_ == two.history_
    other = clone(classifier).set_params(random_state=1).fit(X, y)
    assert other.history_ != one.history_


def test_global_generators_are_left(data):
    X, y = data
    numpy_state, torch_state = np.random.get_state()[1].copy(), torch.get_rng_state()
    RB3DClassifier(ContrastivePretrainer(max_epochs=1), max_epochs=1).fit(X, y)
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_state)
    assert torch.equal(torch.get_rng_state(), torch_state)


def test_pickle(data, pretrainer, tmp_path):
    X, y = data
    classifier = RB3DClassifier(
        FrozenEstimator(pretrainer), max_epochs=2, random_state=0
    ).fit(X, y)
    assert b"torch" not in pickle.dumps(classifier)
    joblib.dump(classifier, tmp_path / "classifier.joblib")
    loaded = joblib.load(tmp_path / "classifier.joblib")
    np.testing.assert_array_equal(loaded.predict_proba(X), classifier.predict_proba(X))
    elsewhere = pickle.loads(pickle.dumps(classifier.set_params(device="cuda")))
    np.testing.assert_array_equal(elsewhere.predict(X), loaded.predict(X))


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_cross_val_score(data, n_jobs):
    X, y = data
    classifier = RB3DClassifier(max_epochs=2, random_state=0)
    scores = cross_val_score(classifier, X, y, cv=2, n_jobs=n_jobs)
    expected = [
        clone(classifier).fit(X[train], y[train]).score(X[test], y[test])
        for train, test in StratifiedKFold(2).split(X, y)
    ]
    np.testing.assert_array_equal(scores, expected)


@pytest.mark.parametrize("flat", [True, False])
def test_inside_other_estimators(data, flat):
    X, y = data
    X = X.reshape(len(X), -1) if flat else X
    base = RB3DClassifier(max_epochs=1, random_state=0)
    models = [
        CalibratedClassifierCV(base, cv=2),
        HalvingGridSearchCV(base, {"lr": [1e-3, 1e-2]}, cv=2, min_resources=12),
        make_pipeline(FunctionTransformer(), base),
    ]
    if flat:
        models += [
            StackingClassifier(
                [("a", base), ("b", clone(base))], LogisticRegression(), cv=2
            ),
            BaggingClassifier(base, n_estimators=2, max_features=0.5, random_state=0),
        ]
    else:
        models.append(StackingClassifier([("a", base), ("b", clone(base))], cv=2))
    for model in models:
        assert model.fit(X, y).predict(X).shape == y.shape


def test_frozen_classifier_in_calibration(data):
    X, y = data
    classifier = RB3DClassifier(max_epochs=2, random_state=0).fit(X, y)
    calibrated = CalibratedClassifierCV(FrozenEstimator(classifier)).fit(X, y)
    assert calibrated.predict_proba(X).shape == (len(X), 3)


class Flatten(RB3D.__mro__[1]):
    """An encoder of a user's own."""

    def build(self, volume_shape):
        module = torch.nn.Sequential(
            torch.nn.Flatten(), torch.nn.Linear(int(np.prod(volume_shape)), 10)
        )
        module.n_features = 10
        return module


def test_encoder_of_ones_own(data):
    X, y = data
    pretrainer = ContrastivePretrainer("simclr", encoder=Flatten(), max_epochs=1)
    classifier = SubtomogramClassifier(pretrainer, max_epochs=2, random_state=0)
    loaded = pickle.loads(pickle.dumps(classifier.fit(X, y)))
    np.testing.assert_array_equal(loaded.predict_proba(X), classifier.predict_proba(X))
    assert SubtomogramClassifier(encoder=Flatten(), max_epochs=1).fit(X, y)


def test_families(data, pretrainer):
    X, y = data
    foreign = ContrastivePretrainer(encoder=Flatten(), max_epochs=1)
    message = "RB3DClassifier has an encoder of the family RB3D, but"
    with pytest.raises(ValueError, match=f"{message} its pretrainer has encoder=Fl"):
        RB3DClassifier(foreign).fit(X, y)
    with pytest.raises(ValueError, match=f"{message} encoder=Flatten"):
        RB3DClassifier(encoder=Flatten()).fit(X, y)
    with pytest.raises(ValueError, match="must be of one family"):
        SubtomogramClassifier(foreign, encoder="rb3d").fit(X, y)
    normalised = ContrastivePretrainer(encoder=RB3D(norm="group"), max_epochs=1)
    classifier = RB3DClassifier(normalised, max_epochs=1).fit(X, y)
    assert any(isinstance(m, torch.nn.GroupNorm) for m in classifier.network_.modules())


def test_pretrainer_errors(data, pretrainer):
    X, y = data
    with pytest.warns(UserWarning, match=r"pass FrozenEstimator\(pretrainer\)"):
        RB3DClassifier(pretrainer, max_epochs=1).fit(X, y)
    with pytest.raises(NotFittedError):
        RB3DClassifier(FrozenEstimator(ContrastivePretrainer())).fit(X, y)
    with pytest.raises(TypeError, match="FrozenEstimator of LogisticRegression"):
        RB3DClassifier(FrozenEstimator(LogisticRegression())).fit(X, y)
    with pytest.raises(ValueError, match="'pretrainer' parameter"):
        RB3DClassifier(LogisticRegression()).fit(X, y)
    with pytest.raises(ValueError, match=r"\(7, 8, 8\), but volume_shape=\(8, 8, 8\)"):
        RB3DClassifier(FrozenEstimator(pretrainer)).fit(X[:, 1:], y)


def test_label_errors(data):
    X, y = data
    classifier = RB3DClassifier(max_epochs=1, unlabeled=-1)
    with pytest.raises(ValueError, match=r"no labelled row: all 24 are unlabeled=-1"):
        classifier.fit(X, np.full(24, -1))
    with pytest.raises(ValueError, match="24 volumes, y has 23 labels"):
        classifier.fit(X, y[1:])
    with pytest.raises(ValueError, match="requires y to be passed"):
        classifier.fit(X, None)


def test_unlabelled_strings(data):
    X, y = data
    names = np.array(["ribosome", "proteasome", "groel"])[y].astype(object)
    names[::4] = ""
    classifier = RB3DClassifier(unlabeled="", max_epochs=1, random_state=0)
    classifier.fit(X, names)
    np.testing.assert_array_equal(
        classifier.classes_, ["groel", "proteasome", "ribosome"]
    )


def test_docstring_has_the_parameters_of_the_base():
    for name in SubtomogramClassifier().get_params():
        assert f"\n{name} : " in RB3DClassifier.__doc__


def test_the_scale_of_pretrained_features_does_not_matter(data, pretrainer):
    X, y = data
    pretrainer = clone(pretrainer).set_params(encoder=RB3D()).fit(X)
    louder = pickle.loads(pickle.dumps(pretrainer))
    last = louder.encoder_.blocks[-1]
    for conv in (last.right[0], last.left[-2]):
        conv.weight.data *= 1000
        conv.bias.data *= 1000
    classifier = RB3DClassifier(
        FrozenEstimator(pretrainer), freeze_encoder=True, max_epochs=3, random_state=0
    ).fit(X, y)
    other = clone(classifier).set_params(pretrainer=FrozenEstimator(louder)).fit(X, y)
    ratio = other.network_.feature_scale / classifier.network_.feature_scale
    assert ratio.item() == pytest.approx(1000, rel=1e-4)
    np.testing.assert_allclose(
        other.predict_proba(X), classifier.predict_proba(X), atol=1e-4
    )
    unscaled = clone(classifier).set_params(standardize_features=False).fit(X, y)
    assert unscaled.network_.feature_scale == 1
    features = pretrainer.transform(X)
    assert np.sqrt(features.var(axis=0).mean()) == pytest.approx(1, rel=1e-4)


def test_marks_of_another_type(data):
    X, y = data
    names = np.array(["a", "b", "c"])[y]
    with pytest.raises(ValueError, match="unlabeled=-1 is of type int, but y has"):
        RB3DClassifier(unlabeled=-1).fit(X, names)
    with pytest.raises(ValueError, match="unlabeled='' is of type str, but y has"):
        RB3DClassifier(unlabeled="").fit(X, y)
    mixed = names.astype(object)
    mixed[:3] = -1
    classifier = RB3DClassifier(unlabeled=-1, max_epochs=1).fit(X, mixed)
    np.testing.assert_array_equal(classifier.classes_, ["a", "b", "c"])


def test_skorch_scoring_callbacks(data):
    X, y = data
    classifier = RB3DClassifier(
        max_epochs=3,
        validation_fraction=0.25,
        random_state=0,
        callbacks=[
            ("valid", EpochScoring("accuracy", name="scored")),
            ("train", EpochScoring("accuracy", name="train_acc", on_train=True)),
            ("stop", EarlyStopping(patience=10, sink=len)),
        ],
    ).fit(X, y)
    for epoch in classifier.history_:
        assert epoch["scored"] == pytest.approx(epoch["valid_acc"])
        assert 0 <= epoch["train_acc"] <= 1


def test_device_objects(data):
    X, y = data
    device = torch.device("cpu")
    pretrainer = ContrastivePretrainer(max_epochs=1, device=device)
    assert RB3DClassifier(pretrainer, max_epochs=1, device=device).fit(X, y)
    with pytest.raises(ValueError, match="device='gpu' is not a device"):
        pretrainer.fit(X).set_params(device="gpu").transform(X)


class WrongViews:
    def build(self, seed):
        raise ValueError("no such view")


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"augmentation": WrongViews()}, "no such view"),
        ({"augmentation": RB3D}, "augmentation is the class RB3D"),
        ({"class_weight": {7: 1.0}}, "classes, .*are not in class_weight|not in"),
        ({"device": "cuda:99"}, "device='cuda:99' is not available"),
    ],
)
def test_bad_parameters_are_found_before_the_pretraining(
    data, monkeypatch, parameters, message
):
    def fit(self, X, y=None):
        pytest.fail("something was trained")

    monkeypatch.setattr(ContrastivePretrainer, "fit", fit)
    classifier = RB3DClassifier(ContrastivePretrainer(), **parameters)
    with pytest.raises((ValueError, TypeError), match=message):
        classifier.fit(*data)


def test_how_is_trained_is_passed_on(data, monkeypatch):
    X, y = data
    seen = {}

    def fine_tune(*args, **kwargs):
        seen.update(kwargs)
        return fitting.fine_tune(*args, **kwargs)

    monkeypatch.setattr(classification, "fine_tune", fine_tune)
    RB3DClassifier(max_epochs=1).fit(X, y)
    assert seen["options"].schedule == "cosine"
    names = ("encoder_lr", "label_smoothing", "average_weights")
    assert [seen[name] for name in names] == [None, 0.0, None]
    options = {"encoder_lr": 1e-5, "label_smoothing": 0.1, "average_weights": 0.9}
    RB3DClassifier(max_epochs=1, schedule="warmup_cosine", **options).fit(X, y)
    assert seen["options"].schedule == "warmup_cosine"
    assert {name: seen[name] for name in names} == options


@pytest.mark.parametrize(
    "parameters",
    [
        {"schedule": "linear"},
        {"encoder_lr": 0.0},
        {"label_smoothing": 1.0},
        {"average_weights": 1.0},
        {"test_views": 0},
        {"self_training": "self_distillation"},
    ],
)
def test_bad_parameters_are_named(data, parameters):
    (name,) = parameters
    with pytest.raises(ValueError, match=f"The '{name}' parameter"):
        RB3DClassifier(**parameters).fit(*data)


def test_predictions_over_several_orientations(data):
    X, y = data
    classifier = RB3DClassifier(max_epochs=5, random_state=0).fit(X, y)
    single = classifier.predict_proba(X)
    averaged = classifier.set_params(test_views=4).predict_proba(X)
    expected = class_probabilities(
        classifier.network_, X, classifier.normalizer_, torch.device("cpu"), n_views=4
    )
    np.testing.assert_array_equal(averaged, expected)
    assert not np.allclose(averaged, single, atol=1e-3)
    np.testing.assert_array_equal(classifier.predict(X), averaged.argmax(axis=1))
    np.testing.assert_array_equal(classifier.predict_proba(X[5:6])[0], averaged[5])


@pytest.mark.parametrize("test_views", [1, 4])
def test_transform_gives_what_the_head_sees(data, pretrainer, test_views):
    X, y = data
    classifier = RB3DClassifier(
        FrozenEstimator(pretrainer), max_epochs=2, test_views=test_views, random_state=0
    ).fit(X, y)
    features = classifier.transform(X)
    assert features.dtype == np.float32
    head = classifier.network_.head
    with torch.no_grad():
        logits = head(torch.from_numpy(features)).numpy()
        volumes = classifier.normalizer_.scale_intensities(torch.from_numpy(X[:, None]))
        views = oriented_views(volumes, test_views)
        expected = sum(classifier.network_(view) for view in views) / test_views
    np.testing.assert_allclose(logits, expected.numpy(), atol=1e-4)
    # Not those of before the fine-tuning.
    assert not np.allclose(features, pretrainer.transform(X), atol=0.01)
    np.testing.assert_array_equal(classifier.transform(X[5:6])[0], features[5])
    np.testing.assert_array_equal(classifier.transform(X.reshape(len(X), -1)), features)
    names = classifier.get_feature_names_out()
    assert len(names) == features.shape[1]
    assert names[0] == "rb3dclassifier0"


def test_transform_of_volumes_on_disk(data, tmp_path):
    X, y = data
    classifier = RB3DClassifier(max_epochs=1, random_state=0).fit(X, y)
    np.save(tmp_path / "X.npy", X)
    stored = np.load(tmp_path / "X.npy", mmap_mode="r")
    np.testing.assert_array_equal(classifier.transform(stored), classifier.transform(X))


def test_a_step_of_a_pipeline_that_transforms(data):
    X, y = data
    classifier = RB3DClassifier(max_epochs=3, random_state=0)
    model = make_pipeline(classifier, LogisticRegression(max_iter=1000)).fit(X, y)
    alone = LogisticRegression(max_iter=1000).fit(
        clone(classifier).fit(X, y).transform(X), y
    )
    np.testing.assert_allclose(model[-1].coef_, alone.coef_, rtol=1e-5)
    assert model.set_output(transform="pandas")[:-1].transform(X).shape == (24, 256)


def _hidden(y, hidden=-1):
    return np.where(np.arange(len(y)) % 4, hidden, y)


def test_students_learn_from_all_rows(data, monkeypatch):
    X, y = data
    taught = []

    def fine_tune(volumes, labels, **kwargs):
        taught.append((volumes, labels, kwargs.get("start"), kwargs["options"]))
        return fitting.fine_tune(volumes, labels, **kwargs)

    monkeypatch.setattr(classification, "fine_tune", fine_tune)
    settings = SelfDistillation(
        n_rounds=2, weight=0.5, temperature=0.7, n_views=3, max_epochs=2
    )
    teacher = RB3DClassifier(
        unlabeled=-1,
        normalize=None,
        max_epochs=3,
        label_smoothing=0.3,
        random_state=0,
        test_views=3,
    ).fit(X, _hidden(y))
    classifier = clone(teacher).set_params(self_training=settings).fit(X, _hidden(y))
    _, first, student, second = taught
    np.testing.assert_array_equal(first[1], y[::4])
    for volumes, labels, start, options in (student, second):
        assert start is None
        assert options.max_epochs == 2
        labelled = len(first[1])
        np.testing.assert_array_equal(volumes[:labelled], X[::4])
        smoothed = 0.7 * np.eye(3)[y[::4]] + 0.1
        np.testing.assert_allclose(labels[:labelled], smoothed, rtol=1e-6)
        np.testing.assert_array_equal(
            _sorted_rows(volumes[labelled:]), _sorted_rows(np.delete(X, np.s_[::4], 0))
        )
    probabilities = teacher.predict_proba(student[0])[labelled:]
    np.testing.assert_allclose(
        student[1][labelled:], settings.soft_labels(probabilities), atol=1e-6
    )
    assert student[3].seed != second[3].seed
    rounds = [(epoch["round"], epoch["epoch"]) for epoch in classifier.history_]
    assert rounds == [(0, 1), (0, 2), (0, 3), (1, 1), (1, 2), (2, 1), (2, 2)]
    assert classifier.n_iter_ == 7
    assert [epoch["train_loss"] for epoch in classifier.history_[:3]] == [
        epoch["train_loss"] for epoch in teacher.history_
    ]


def test_a_student_can_start_from_its_teacher(data):
    X, y = data
    classifier = RB3DClassifier(
        self_training=SelfDistillation(n_views=1, from_teacher=True),
        unlabeled=-1,
        max_epochs=1,
        lr=1e-30,
        random_state=0,
    ).fit(X, _hidden(y))
    teacher = clone(classifier).set_params(self_training=None).fit(X, _hidden(y))
    expected = _state(teacher.network_)
    for name, values in _state(classifier.network_).items():
        np.testing.assert_allclose(values, expected[name], atol=1e-20)


def test_without_unlabelled_rows_there_is_no_student(data):
    X, y = data
    classifier = RB3DClassifier(
        self_training=SelfDistillation(), unlabeled=-1, max_epochs=1, random_state=0
    ).fit(X, y)
    plain = clone(classifier).set_params(self_training=None).fit(X, y)
    assert classifier.history_ == plain.history_
    _assert_same_state(_state(classifier.network_), _state(plain.network_))


def test_students_never_see_the_validation_rows(data):
    X, y = data
    spy = Spy("students")
    RB3DClassifier(
        self_training=SelfDistillation(n_views=1),
        unlabeled=-1,
        validation_fraction=0.5,
        normalize=None,
        max_epochs=1,
        callbacks=[spy],
        random_state=0,
    ).fit(X, np.where(np.arange(24) < 6, y, -1))
    seen = np.concatenate(spy.rows)
    # Three labelled rows twice, and those without a label.
    assert len(seen) == 3 + 3 + 18
    assert len(np.unique(seen.reshape(len(seen), -1), axis=0)) == 21


def test_bad_self_training_is_found_before_the_pretraining(data, monkeypatch):
    def fit(self, X, y=None):
        pytest.fail("something was trained")

    monkeypatch.setattr(ContrastivePretrainer, "fit", fit)
    classifier = RB3DClassifier(
        ContrastivePretrainer(), self_training=SelfDistillation(temperature=0)
    )
    with pytest.raises(ValueError, match="The 'temperature' parameter of SelfDist"):
        classifier.fit(*data)


@pytest.mark.parametrize(
    ("classifier_class", "family"),
    [(DSRF3DClassifier, DSRF3D), (CB3DClassifier, CB3D)],
)
def test_other_families(classifier_class, family):
    X, y = np.random.default_rng(0).normal(size=(4, 4, 4, 4)), [0, 1] * 2
    classifier = classifier_class(max_epochs=1, random_state=0).fit(X, y)
    assert isinstance(classifier._fitted_encoder, family)
    # Dropout is for training only.
    np.testing.assert_array_equal(
        classifier.predict_proba(X), classifier.predict_proba(X)
    )
    with pytest.raises(ValueError, match=f"of the family {family.__name__}, but"):
        classifier_class(encoder="rb3d").fit(X, y)


def test_auto_epochs_make_enough_steps_of_few_volumes(monkeypatch):
    monkeypatch.setattr(fitting, "_ENOUGH_EPOCHS", 2)
    monkeypatch.setattr(fitting, "_ENOUGH_STEPS", 6)
    X, y = make_bars()
    classifier = RB3DClassifier(max_epochs="auto", batch_size=4, random_state=0)
    assert classifier.fit(X[:8], y[:8]).n_iter_ == 3
    assert classifier.fit(X, y).n_iter_ == 2
    y[8:] = -1
    classifier.set_params(self_training=SelfDistillation(n_views=1), unlabeled=-1)
    rounds = [epoch["round"] for epoch in classifier.fit(X, y).history_]
    assert rounds == [0, 0, 0, 1, 1]
