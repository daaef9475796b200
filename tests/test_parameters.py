import numpy as np
import pytest

from sksubtomo._parameters import describe, resolve
from sksubtomo.contrastive import METHODS, MoCo, SimCLR


def test_a_name_stands_for_the_defaults():
    assert resolve("moco", METHODS, "method").get_params() == MoCo().get_params()


def test_an_object_is_copied():
    method = MoCo(queue_size=5)
    resolved = resolve(method, METHODS, "method")
    assert resolved is not method
    assert resolved.queue_size == 5


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        ("byol", ValueError, r"method='byol' is not known; expected one of \['moco'"),
        (MoCo, TypeError, r"method is the class MoCo.*such as MoCo\(\)"),
        (3, TypeError, "method is 3 of type int"),
    ],
)
def test_errors(value, error, message):
    with pytest.raises(error, match=message):
        resolve(value, METHODS, "method")


def test_description_of_equal_parameters_is_equal():
    class Sampler:
        pass

    first = describe({"method": MoCo(), "lr": 1e-4, "decay": 0, "x": Sampler()})
    second = describe(
        {
            "method": MoCo(queue_size=np.int64(128)),
            "lr": np.float64(1e-4),
            "decay": 0.0,
            "x": Sampler(),
        }
    )
    assert first == second
    assert first["method__queue_size"] == "128"


@pytest.mark.parametrize(
    "other",
    [{"method": MoCo(momentum=0.99)}, {"method": SimCLR()}, {"method": None}],
)
def test_description_of_other_parameters_is_another(other):
    assert describe({"method": MoCo()}) != describe(other)
