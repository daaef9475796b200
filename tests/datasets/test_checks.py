import re

import numpy as np
import pytest

from sksubtomo.datasets._checks import (
    as_seed,
    check_crowding,
    check_fraction,
    check_integer,
    check_optional,
    check_positive,
    check_snr,
    seed_sequence,
)


@pytest.mark.parametrize("value", [3, 3.0, np.float32(3), np.int64(3)])
def test_numbers_become_floats(value):
    for number in (
        check_positive("side", value, "angstroms"),
        check_optional("side", value, "angstroms"),
        check_snr(value),
        check_fraction("part", value / 4) * 4,
        check_crowding(value / 4) * 4,
    ):
        assert type(number) is float
        assert number == 3
    assert check_optional("side", None, "angstroms") is None
    assert check_snr(np.inf) == np.inf
    assert check_fraction("part", 0) == 0


@pytest.mark.parametrize("value", [True, "3", None, [3], 3j])
def test_wrong_types(value):
    for check in (
        lambda: check_positive("side", value, "angstroms"),
        lambda: check_fraction("side", value),
        lambda: check_integer("side", value, 0),
    ):
        with pytest.raises(TypeError, match=f"side=.* of type {type(value).__name__};"):
            check()


@pytest.mark.parametrize("value", [0, -1.0, np.nan, np.inf])
def test_says_what_is_expected(value):
    with pytest.raises(ValueError, match="=.*; expected a positive number of mm.$"):
        check_positive("side", value, "mm")
    with pytest.raises(ValueError, match="expected a positive number of mm, or None.$"):
        check_optional("side", value, "mm")


@pytest.mark.parametrize(
    ("check", "values"),
    [
        (check_snr, (0, -1, np.nan)),
        (check_crowding, (0, 1.01, np.nan)),
        (lambda value: check_fraction("part", value), (-0.01, 1.01, np.nan)),
        (lambda value: check_integer("count", value, 2), (1, np.int64(-5))),
    ],
)
def test_out_of_range(check, values):
    for value in values:
        with pytest.raises(ValueError, match=re.escape(f"={value!r}; expected")):
            check(value)


def test_integers():
    number = check_integer("count", np.int64(2), 2)
    assert type(number) is int
    with pytest.raises(TypeError, match="count=2.0 of type float; expected an integer"):
        check_integer("count", 2.0, 2)


class TestSeedSequence:
    def test_same_for_the_same_int(self):
        states = [seed_sequence(seed).generate_state(2) for seed in (1, np.int64(1), 2)]
        np.testing.assert_array_equal(states[0], states[1])
        assert (states[0] != states[2]).all()

    def test_none_is_always_another(self):
        before = np.random.get_state()[1].copy()
        assert seed_sequence(None).entropy != seed_sequence(None).entropy
        np.testing.assert_array_equal(np.random.get_state()[1], before)

    @pytest.mark.parametrize("make", [np.random.default_rng, np.random.RandomState])
    def test_generators_are_drawn_from(self, make):
        generator = make(0)
        first, second = seed_sequence(generator), seed_sequence(generator)
        assert first.entropy != second.entropy
        assert first.entropy == seed_sequence(make(0)).entropy
        again = seed_sequence(as_seed(first.entropy))
        assert isinstance(as_seed(first.entropy), int)
        for one, other in zip(first.spawn(2), again.spawn(2), strict=True):
            np.testing.assert_array_equal(
                one.generate_state(4), other.generate_state(4)
            )

    @pytest.mark.parametrize("value", [True, "0", 1.0])
    def test_refuses(self, value):
        with pytest.raises(TypeError, match="random_state="):
            seed_sequence(value)
        with pytest.raises(ValueError, match="random_state=-1"):
            seed_sequence(-1)
