import numpy as np
import pytest

from sksubtomo.model_selection._plan import (
    derive_seed,
    plan_label_settings,
    plan_splits,
)


def split(y, **changes):
    classes, codes = np.unique(y, return_inverse=True)
    parameters = {"cv": None, "n_splits": 1, "test_size": 0.2, "validation_size": 0.2}
    parameters |= {"groups": None, "seed": 0, **changes}
    groups = parameters.pop("groups")
    X = np.zeros((len(y), 1))
    return plan_splits(X, codes, classes, groups, **parameters)


@pytest.mark.parametrize("n", [5, 7, 10, 13, 100])
def test_split_is_60_20_20_in_each_class(n):
    labels = np.array(["a"] * n + ["b"] * 2 * n)
    (parts,) = split(labels)
    parts = [parts.train, parts.validation, parts.test]
    assert sorted(np.concatenate(parts)) == list(range(3 * n))
    for rows, share in zip(parts, (0.6, 0.2, 0.2), strict=True):
        assert list(rows) == sorted(rows)
        for name, count in (("a", n), ("b", 2 * n)):
            assert abs(np.sum(labels[rows] == name) - share * count) <= 1
            assert np.sum(labels[rows] == name) >= 1


def test_groups_come_near_to_60_20_20():
    labels = np.repeat(["a", "b"], 100)
    groups = np.tile(np.arange(10), 20)
    (parts,) = split(labels, groups=groups)
    assert [len(p) for p in (parts.train, parts.validation, parts.test)] == [
        120,
        40,
        40,
    ]


def test_seeds_are_of_their_purpose():
    seeds = [
        derive_seed(0),
        derive_seed(1),
        derive_seed(0, "labels", 0, 1),
        derive_seed(0, "labels", 1, 0),
        derive_seed(0, "fine-tuning", 0, 1),
    ]
    assert len(set(seeds)) == 5
    assert derive_seed(0, "labels", 0, 1) == seeds[2]
    assert all(0 <= seed < 2**32 for seed in seeds)


def test_label_settings_count_what_is_used():
    y = np.array([0] * 40 + [1] * 80)
    five, quarter, everything = plan_label_settings([y], [1.0, 0.25], [5])
    assert (five.per_class, quarter.per_class, everything.per_class) == (5, None, None)
    assert (quarter.label_fraction, everything.label_fraction) == (0.25, 1.0)
    assert quarter.counts == ((10, 20),)
    assert quarter.labels_per_class == 10
    assert five.counts == ((5, 5),)
    assert five.label_fraction == pytest.approx(10 / 120, abs=1e-6)
    assert everything.counts == ((40, 80),)


def test_settings_of_the_same_labels_are_one():
    y = np.repeat([0, 1], 20)
    few, everything = plan_label_settings([y], [0.25, 0.99, 1.0], [5, 20, 30])
    assert (few.label_fraction, few.per_class) == (0.25, None)
    assert (everything.label_fraction, everything.per_class) == (1.0, None)
    # Not if it is so in one split only.
    other = np.repeat([0, 1], 24)
    settings = plan_label_settings([y, other], [0.25], [5])
    assert [setting.counts for setting in settings] == [
        ((5, 5), (5, 5)),
        ((5, 5), (6, 6)),
    ]
