import numpy as np
import pytest
from sklearn.base import clone

from sksubtomo import ContrastivePretrainer, RB3DClassifier
from sksubtomo.augmentation import CropAffine, RotateShiftNoise
from sksubtomo.recipes import gupta2022, recommended


def test_the_papers_settings():
    classifier = gupta2022()
    assert type(classifier) is RB3DClassifier
    expected = {
        "optimizer": "sgd",
        "lr": 5e-4,
        "weight_decay": 1e-4,
        "batch_size": 16,
        "max_epochs": 50,
        "augmentation": None,
        "freeze_encoder": False,
        "standardize_features": False,
        "pretrainer__max_epochs": 200,
        "pretrainer__lr": 1e-4,
        "pretrainer__weight_decay": 1e-4,
        "pretrainer__batch_size": 16,
        "pretrainer__method__queue_size": 128,
        "pretrainer__method__momentum": 0.999,
        "pretrainer__method__temperature": 0.2,
        "pretrainer__optimizer": "adam",
        "pretrainer__schedule": "constant",
        "pretrainer__mask": None,
        "pretrainer__normalize": "dataset",
        "schedule": "cosine",
        "encoder_lr": None,
        "label_smoothing": 0.0,
        "average_weights": None,
        "test_views": 1,
        "self_training": None,
    }
    parameters = classifier.get_params()
    assert {name: parameters[name] for name in expected} == expected
    network = {"norm": None, "variant": "gupta2022"}
    assert classifier.encoder.get_params() == network
    assert classifier.pretrainer.encoder.get_params() == network
    assert type(classifier.pretrainer.augmentation) is CropAffine
    assert classifier.pretrainer.augmentation.get_params() == {
        "p_crop": 0.5,
        "crop_scale": (0.5, 1.0),
        "p_affine": 0.5,
        "max_rotation": 45.0,
        "max_translation": 0.1,
        "max_scaling": 0.1,
    }


def test_the_inherited_settings():
    swav = gupta2022("swav").pretrainer.method.get_params()
    expected = {"n_prototypes": 30, "temperature": 0.1, "epsilon": 0.03}
    expected |= {"n_iterations": 3, "frozen_epochs": 1, "queue_size": 256}
    assert {name: swav[name] for name in expected} == expected
    assert gupta2022("simclr").pretrainer.method.temperature == 0.2


def test_without_a_method_there_is_no_pretrainer_to_set():
    with pytest.raises(ValueError, match=r"pretrainer__max_epochs is given, but meth"):
        gupta2022(None, pretrainer__max_epochs=3)


def test_experimental_protocol():
    few = gupta2022(data="experimental", label_fraction=0.5)
    many = gupta2022(data="experimental", label_fraction=0.75)
    assert (few.lr, many.lr) == (1e-4, 5e-4)
    assert few.pretrainer.method.queue_size == 64


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("method", [None, "moco", "simclr", "swav"])
def test_fits(method):
    X = np.random.default_rng(0).normal(size=(6, 8, 8, 8))
    y = np.arange(6) % 2
    classifier = gupta2022(method, random_state=0, max_epochs=1)
    if method is not None:
        classifier.set_params(pretrainer__max_epochs=1)
    model = clone(classifier).fit(X, y, validation_data=(X, y))
    assert model.predict(X).shape == (6,)


def test_errors():
    with pytest.raises(ValueError, match="method='byol'; expected None or one of"):
        gupta2022("byol")
    with pytest.raises(ValueError, match="data='noble'; expected one of"):
        gupta2022(data="noble")
    with pytest.raises(ValueError, match="Invalid parameter"):
        gupta2022(epochs=3)


def test_recommended_is_what_was_measured():
    parameters = recommended().get_params()
    expected = {
        "pretrainer__encoder__norm": "group",
        "pretrainer__augmentation__wedge": "estimate",
        "pretrainer__augmentation__flips": "mirrors",
        "pretrainer__mask": "sphere",
        "pretrainer__schedule": "warmup_cosine",
        "augmentation__wedge": "estimate",
        "max_epochs": "auto",
        "test_views": 4,
    }
    assert {name: parameters[name] for name in expected} == expected
    changed = recommended(max_epochs=3, pretrainer__max_epochs=4, random_state=5)
    found = (changed.max_epochs, changed.pretrainer.max_epochs, changed.random_state)
    assert found == (3, 4, 5)


def test_recommended_without_pretraining_is_the_same_network():
    classifier = recommended(pretrainer=None, max_epochs=1)
    parameters = classifier.get_params()
    whole = recommended().get_params()
    assert parameters["encoder_lr"] is None
    assert parameters["mask"] == whole["pretrainer__mask"] == "sphere"
    for name in ("augmentation__wedge", "augmentation__flips", "test_views", "lr"):
        assert parameters[name] == whole[name]
    expected = recommended().pretrainer.encoder
    assert repr(classifier._resolve_encoder()[0]) == repr(expected)
    assert recommended(pretrainer=None, mask=None).mask is None


def test_a_pretrainer_of_ones_own_brings_its_views():
    own = ContrastivePretrainer(augmentation="crop_affine")
    assert recommended(pretrainer=own).augmentation == "auto"
    assert recommended(pretrainer=own, augmentation=None).augmentation is None
    views = recommended(pretrainer=own, augmentation__wedge=None).augmentation
    assert repr(views) == repr(RotateShiftNoise(wedge=None))


def test_recommended_learns_from_few_labels():
    generator = np.random.default_rng(0)
    X = generator.normal(scale=0.3, size=(60, 8, 8, 8)).astype(np.float32)
    # A ball and a ring, centred, as many as fit into the sphere.
    z, y, x = np.mgrid[:8, :8, :8] - 3.5
    radius = np.sqrt(x**2 + y**2)
    X[::2] += 2 * (np.sqrt(radius**2 + z**2) < 2)
    X[1::2] += 2 * ((abs(radius - 2.5) < 0.8) & (abs(z) < 1))
    labels = np.full(60, -1)
    labels[:6] = [0, 1] * 3
    classifier = recommended(
        unlabeled=-1, max_epochs=15, pretrainer__max_epochs=5, random_state=0
    )
    assert classifier.fit(X, labels).score(X[6:], [0, 1] * 27) > 0.8
