"""Checks of the parameters that the simulator's functions share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np


def check_number(
    parameter: str, value: Any, valid: Callable[[float], bool], expected: str
) -> float:
    """Return a number as a float.

    Parameters
    ----------
    parameter : str
        Name of the parameter.
    value : object
        What was given for it.
    valid : callable
        Says whether a float is in range.
    expected : str
        What is in range, in words.

    Returns
    -------
    float
        The same number.

    Raises
    ------
    TypeError
        If it is no real number.
    ValueError
        If it is NaN or out of range.
    """
    if not isinstance(value, Real) or isinstance(value, bool):
        raise TypeError(
            f"{parameter}={value!r} of type {type(value).__name__}; expected "
            f"{expected}."
        )
    number = float(value)
    if np.isnan(number) or not valid(number):
        raise ValueError(f"{parameter}={value!r}; expected {expected}.")
    return number


def check_positive(
    parameter: str, value: Any, unit: str, *, alternative: str = ""
) -> float:
    """Return a positive finite number as a float.

    Parameters
    ----------
    parameter : str
        Name of the parameter.
    value : object
        What was given for it.
    unit : str
        Its unit in the plural.
    alternative : str, default=""
        What else could have been given, for the message.

    Returns
    -------
    float
        The same number.

    Raises
    ------
    TypeError
        If it is no real number.
    ValueError
        If it is out of range.
    """
    expected = f"a positive number of {unit}{alternative}"
    return check_number(parameter, value, lambda number: 0 < number < np.inf, expected)


def check_optional(parameter: str, value: Any, unit: str) -> float | None:
    """Return a positive finite number as a float, or None.

    Parameters
    ----------
    parameter : str
        Name of the parameter.
    value : object
        What was given for it.
    unit : str
        Its unit in the plural.

    Returns
    -------
    float or None
        The same.

    Raises
    ------
    TypeError
        If it is neither a real number nor None.
    ValueError
        If it is out of range.
    """
    if value is None:
        return None
    return check_positive(parameter, value, unit, alternative=", or None")


def check_fraction(parameter: str, value: Any) -> float:
    """Return a number in [0, 1] as a float.

    Parameters
    ----------
    parameter : str
        Name of the parameter.
    value : object
        What was given for it.

    Returns
    -------
    float
        The same number.

    Raises
    ------
    TypeError
        If it is no real number.
    ValueError
        If it is out of range.
    """
    return check_number(
        parameter, value, lambda number: 0 <= number <= 1, "a fraction in [0, 1]"
    )


def check_crowding(crowding: Any) -> float:
    """Return a relative density of packing as a float.

    Parameters
    ----------
    crowding : object
        The parameter of that name.

    Returns
    -------
    float
        The same number.

    Raises
    ------
    TypeError
        If it is no real number.
    ValueError
        If it is not in (0, 1].
    """
    return check_number(
        "crowding", crowding, lambda number: 0 < number <= 1, "a fraction in (0, 1]"
    )


def check_snr(snr: Any) -> float:
    """Return a signal-to-noise ratio as a float.

    Parameters
    ----------
    snr : object
        The parameter of that name.

    Returns
    -------
    float
        The same number.

    Raises
    ------
    TypeError
        If it is no real number.
    ValueError
        If it is not positive.
    """
    return check_number("snr", snr, lambda ratio: ratio > 0, "a positive number or inf")


def check_integer(parameter: str, value: Any, minimum: int) -> int:
    """Return an integer as an int.

    Parameters
    ----------
    parameter : str
        Name of the parameter.
    value : object
        What was given for it.
    minimum : int
        The smallest allowed.

    Returns
    -------
    int
        The same number.

    Raises
    ------
    TypeError
        If it is no integer.
    ValueError
        If it is too small.
    """
    expected = f"an integer of at least {minimum}"
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise TypeError(
            f"{parameter}={value!r} of type {type(value).__name__}; expected "
            f"{expected}."
        )
    if value < minimum:
        raise ValueError(f"{parameter}={value!r}; expected {expected}.")
    return int(value)


def seed_sequence(
    random_state: int | np.random.RandomState | np.random.Generator | None,
) -> np.random.SeedSequence:
    """Return the root of all seeds; never draws from the global generator.

    Parameters
    ----------
    random_state : int, RandomState, Generator or None
        The parameter of that name.

    Returns
    -------
    numpy.random.SeedSequence
        The root: the same for the same int, another one each time for None, and drawn
        from a generator.

    Raises
    ------
    TypeError
        If it is of another type.
    ValueError
        If it is a negative int.
    """
    if random_state is None:
        return np.random.SeedSequence()
    if isinstance(random_state, np.random.RandomState):
        words = random_state.randint(0, 2**32, size=4, dtype=np.uint32)
        return np.random.SeedSequence(words.tolist())
    if isinstance(random_state, np.random.Generator):
        words = random_state.integers(0, 2**32, size=4, dtype=np.uint32)
        return np.random.SeedSequence(words.tolist())
    if isinstance(random_state, Integral) and not isinstance(random_state, bool):
        return np.random.SeedSequence(check_integer("random_state", random_state, 0))
    raise TypeError(
        f"random_state={random_state!r} of type {type(random_state).__name__}; "
        "expected an int, a RandomState, a Generator or None."
    )


def as_seed(entropy: int | Sequence[int] | None) -> int:
    """Return the int that makes the same seeds as a root does.

    Parameters
    ----------
    entropy : int or sequence of int
        The entropy of a `seed_sequence`.

    Returns
    -------
    int
        What to give as `random_state`.
    """
    if isinstance(entropy, Sequence):
        # NumPy itself cuts an int into words of 32 bits, the lowest first.
        return sum(int(word) << (32 * index) for index, word in enumerate(entropy))
    assert entropy is not None
    return int(entropy)
