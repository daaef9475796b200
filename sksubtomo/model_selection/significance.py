"""Tests of whether one method is better than another."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import stats


class PairedTest(NamedTuple):
    """Result of `paired_t_test` and `corrected_t_test`.

    Attributes
    ----------
    statistic : float
        Student's t; positive if the first sample is larger.
    pvalue : float
        Two-tailed p-value.
    """

    statistic: float
    pvalue: float


def paired_t_test(a: npt.ArrayLike, b: npt.ArrayLike) -> PairedTest:
    """Test whether paired samples have equal means.

    Student's t-test of the differences, two-tailed.

    Parameters
    ----------
    a : array-like of shape (n,)
        Scores of one method.
    b : array-like of shape (n,)
        Scores of the other; ``a[i]`` and ``b[i]`` belong together.

    Returns
    -------
    PairedTest
        ``statistic`` and ``pvalue``. For a single pair both are NaN. Where all
        differences are zero they are 0 and 1. Where all are equal and not zero, the
        statistic is plus or minus infinity and the p-value NaN: accuracies on a small
        test set are so coarse that this happens by chance, and says nothing of their
        spread.

    Raises
    ------
    ValueError
        If the samples are empty, of different lengths, not one-dimensional or not
        finite.

    See Also
    --------
    corrected_t_test : For samples that are not independent of each other.

    Examples
    --------
    >>> from sksubtomo.model_selection import paired_t_test
    >>> test = paired_t_test([0.61, 0.66, 0.58], [0.41, 0.52, 0.43])
    >>> round(test.pvalue, 3)
    0.013
    """
    return corrected_t_test(a, b, 0.0)


def corrected_t_test(
    a: npt.ArrayLike, b: npt.ArrayLike, test_over_train: float
) -> PairedTest:
    """Test paired samples that share their training and test volumes.

    The corrected resampled t-test of Nadeau and Bengio. The scores of repeats that draw
    from one set of volumes are correlated, so that their spread is smaller than that of
    independent experiments, and the ordinary paired test finds too much significant.
    Here the variance of the mean is ``(1 / n + test_over_train)`` times that of the
    differences, in place of ``1 / n``: with more repeats it does not fall to zero.

    Parameters
    ----------
    a : array-like of shape (n,)
        Scores of one method.
    b : array-like of shape (n,)
        Scores of the other; ``a[i]`` and ``b[i]`` belong together.
    test_over_train : float
        Number of test volumes divided by the number of training volumes, such as 1/3
        for a split 60:20 (beside 20 for validation) and 1/9 for ten folds. At 0 it is
        the ordinary paired test.

    Returns
    -------
    PairedTest
        ``statistic`` and ``pvalue``, with the exceptions of `paired_t_test`.

    Raises
    ------
    ValueError
        If the samples are empty, of different lengths, not one-dimensional or not
        finite, or `test_over_train` is negative or not finite.

    See Also
    --------
    paired_t_test : For independent pairs.

    References
    ----------
    C. Nadeau and Y. Bengio, "Inference for the generalization error", Machine Learning
    52, 239-281, 2003.

    Examples
    --------
    >>> from sksubtomo.model_selection import corrected_t_test
    >>> test = corrected_t_test([0.61, 0.66, 0.58], [0.41, 0.52, 0.43], 1 / 3)
    >>> round(test.pvalue, 3)
    0.025
    """
    first = np.asarray(a, dtype=np.float64)
    second = np.asarray(b, dtype=np.float64)
    if first.ndim != 1 or first.shape != second.shape or not len(first):
        raise ValueError(
            f"a has shape {first.shape} and b has shape {second.shape}; expected two "
            "one-dimensional samples of equal length, at least 1."
        )
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise ValueError("a or b holds NaN or infinity; expected finite scores.")
    if not 0 <= test_over_train < np.inf:
        raise ValueError(
            f"test_over_train={test_over_train!r}; expected a number of at least 0."
        )
    n = len(first)
    if n == 1:
        return PairedTest(float("nan"), float("nan"))
    differences = first - second
    mean = differences.mean()
    # Equal differences differ by rounding, which the test would take for a spread.
    rounding = 1e-12 * max(np.abs(first).max(), np.abs(second).max())
    if np.ptp(differences) <= rounding:
        if abs(mean) <= rounding:
            return PairedTest(0.0, 1.0)
        return PairedTest(float(np.copysign(np.inf, mean)), float("nan"))
    statistic = mean / np.sqrt((1 / n + test_over_train) * differences.var(ddof=1))
    pvalue = 2 * stats.t.sf(abs(statistic), n - 1)
    return PairedTest(float(statistic), float(pvalue))
