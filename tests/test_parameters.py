import pytest

from sksubtomo._parameters import resolve
from sksubtomo.contrastive import METHODS, MoCo


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
