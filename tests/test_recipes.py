import numpy as np
import pytest
from sklearn.base import clone

from sksubtomo import RB3DClassifier
from sksubtomo.augmentation import CropAffine
from sksubtomo.networks import RB3D
from sksubtomo.recipes import gupta2022


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
        "pretrainer__encoder": "rb3d",
        "pretrainer__augmentation": "crop_affine",
    }
    parameters = classifier.get_params()
    assert {name: parameters[name] for name in expected} == expected
    # What the two names stand for.
    assert RB3D().get_params() == {"norm": None}
    assert CropAffine().get_params() == {
        "p_crop": 0.5,
        "crop_scale": (0.5, 1.0),
        "p_affine": 0.5,
        "max_rotation": 45.0,
        "max_translation": 0.1,
        "max_scaling": 0.1,
    }


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
