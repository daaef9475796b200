"""Random generators that leave NumPy's global one alone."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.utils import check_random_state


def as_generator(random_state: Any) -> np.random.RandomState:
    """Return the generator that a ``random_state`` parameter stands for.

    Parameters
    ----------
    random_state : int, RandomState instance or None
        None is fresh entropy from the operating system, where scikit-learn would take
        NumPy's global generator.

    Returns
    -------
    RandomState
        The generator.
    """
    if random_state is None:
        return np.random.RandomState(np.random.default_rng().integers(2**32))
    return check_random_state(random_state)
