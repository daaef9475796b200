import os
import subprocess
import sys
import threading
from collections import OrderedDict
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.preprocessing import StandardScaler, normalize

from sksubtomo._parameters import describe, resolve
from sksubtomo.contrastive import METHODS, MoCo, SimCLR


class Filter:
    """Has no repr of its own."""

    def __init__(self, window, inner=None):
        self.window = window
        self.inner = inner

    def apply(self, volumes):
        return volumes


class Slotted:
    __slots__ = ("width",)

    def __init__(self, width):
        self.width = width


LARGE = np.zeros(2000, np.float32)
CHANGED = LARGE.copy()
CHANGED[1000] = 1


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
        ("dino", ValueError, r"method='dino' is not known; expected one of \['byol'"),
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


# Pairs that look the same if only the types, the repr or the state are looked at.
DIFFERENT = [
    (Filter(1), Filter(2)),
    (Filter(1, Filter(1)), Filter(1, Filter(2))),
    (Filter(LARGE), Filter(CHANGED)),
    (Filter(1).apply, Filter(2).apply),
    (Slotted(1), Slotted(2)),
    (LARGE, CHANGED),
    (LARGE, LARGE.reshape(2, -1)),
    (LARGE, LARGE.astype(np.int32)),
    (np.array([Filter(1)]), np.array([Filter(2)])),
    (torch.from_numpy(LARGE), torch.from_numpy(CHANGED)),
    (torch.nn.Linear(2, 1), torch.nn.Linear(2, 1)),
    ([Filter(1), normalize], [Filter(2), normalize]),
    ({"a": (Filter(1),)}, {"a": (Filter(2),)}),
    (partial(normalize, norm="l1"), partial(normalize, norm="l2")),
    ([StandardScaler()], [StandardScaler(with_std=False)]),
    (normalize, np.linalg.norm),
    (np.add, np.multiply),
    ([1].append, [2].append),
    (OrderedDict(a=1), OrderedDict(a=2)),
    (Filter, Slotted),
    (StandardScaler, StandardScaler()),
    ([1, 2], [2, 1]),
    ([1], (1,)),
    ("1", 1),
    (2**60, 2**60 + 1),
    (torch.float32, torch.float64),
    (np.random.RandomState(0), np.random.RandomState(1)),
]


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_whatever_is_different_is_described_differently(one, other):
    assert describe({"x": one}) != describe({"x": other})


def test_what_is_equal_is_described_equally():
    assert describe({"x": {"a": 1, "b": 2}}) == describe({"x": {"b": 2, "a": 1.0}})
    assert describe({"x": {"a", "b"}}) == describe({"x": {"b", "a"}})
    assert describe({"x": LARGE[::-1]}) == describe({"x": LARGE.copy()})
    assert describe({"x": np.True_}) == describe({"x": True})


def test_a_description_of_what_cannot_be_pickled_is_its_type():
    assert describe({"x": Filter(threading.Lock())})["x"].endswith("_thread.lock})")


def test_a_description_ends():
    loop = Filter(1)
    loop.inner = [loop]
    assert "..." in describe({"x": loop})["x"]


def test_a_description_is_the_same_in_another_process():
    # The objects have other addresses there, and sets another order.
    script = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import test_parameters as tests\n"
        "for one, _ in tests.DIFFERENT:\n"
        "    if not isinstance(one, tests.torch.nn.Module):\n"
        "        print(tests.describe({'x': [one, {'a', 'b', 'c'}]}))\n"
    )
    described = [
        subprocess.run(
            [sys.executable, "-c", script, str(Path(__file__).parent)],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in "12"
    ]
    assert "Filter" in described[0]
    assert described[0] == described[1]
    assert " at 0x" not in described[0]
