import math

import numpy as np
import pytest
from scipy import stats

from sksubtomo.model_selection import corrected_t_test, paired_t_test


def test_paired_t_test_agrees_with_its_definition():
    rng = np.random.default_rng(0)
    a, b = rng.normal(1, 1, 7), rng.normal(0, 1, 7)
    difference = a - b
    t = difference.mean() / (difference.std(ddof=1) / math.sqrt(7))
    result = paired_t_test(a, b)
    assert result.statistic == pytest.approx(t)
    assert result.pvalue == pytest.approx(2 * stats.t.sf(abs(t), df=6))


def test_paired_t_test_is_antisymmetric_and_two_tailed():
    a, b = [0.6, 0.7, 0.5], [0.4, 0.6, 0.2]
    forward, backward = paired_t_test(a, b), paired_t_test(b, a)
    assert forward.statistic == -backward.statistic > 0
    assert forward.pvalue == backward.pvalue


def test_paired_t_test_uses_the_pairs():
    a, b = [0.1, 0.5, 0.9], [0.0, 0.41, 0.79]
    assert paired_t_test(a, b).pvalue < 0.01
    assert paired_t_test(a, b[::-1]).pvalue > 0.5


def test_paired_t_test_without_spread():
    assert paired_t_test([0.3, 0.5], [0.3, 0.5]) == (0.0, 1.0)
    # 0.1 + 0.2 != 0.3: equal differences that differ by rounding.
    better = paired_t_test([0.3, 0.4, 1.0], [0.1, 0.2, 0.8])
    assert better.statistic == math.inf
    assert math.isnan(better.pvalue)
    assert paired_t_test([0.1, 0.2], [0.2, 0.3]).statistic == -math.inf


def test_paired_t_test_of_one_pair_is_undefined():
    assert all(map(math.isnan, paired_t_test([0.5], [0.1])))


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        ([1.0, 2.0], [1.0], r"shape \(2,\) and b has shape \(1,\)"),
        ([], [], "at least 1"),
        ([[1.0]], [[1.0]], "one-dimensional"),
        ([1.0, np.nan], [1.0, 2.0], "NaN"),
    ],
)
def test_paired_t_test_rejects(a, b, message):
    with pytest.raises(ValueError, match=message):
        paired_t_test(a, b)


def test_corrected_t_test_by_hand():
    # Differences 0.2, 0.14, 0.15: mean 0.49 / 3, variance 0.001033333.
    a, b = [0.61, 0.66, 0.58], [0.41, 0.52, 0.43]
    result = corrected_t_test(a, b, 0.5)
    assert result.statistic == pytest.approx(0.163333333 / math.sqrt(8.6111111e-4))
    assert result.statistic == pytest.approx(5.566026, rel=1e-6)
    # Of Student's distribution with two degrees of freedom, in closed form.
    t = result.statistic
    assert result.pvalue == pytest.approx(1 - t / math.sqrt(2 + t * t))


def test_corrected_t_test_without_overlap_is_the_paired_test():
    rng = np.random.default_rng(0)
    a, b = rng.normal(1, 1, 7), rng.normal(0, 1, 7)
    expected = stats.ttest_rel(a, b)
    result = corrected_t_test(a, b, 0)
    assert result == pytest.approx((expected.statistic, expected.pvalue))
    assert result == paired_t_test(a, b)


def test_corrected_t_test_does_not_become_certain_with_more_repeats():
    rng = np.random.default_rng(0)
    a, b = rng.normal(0.1, 0.1, 10_000), np.zeros(10_000)
    assert paired_t_test(a, b).pvalue < 1e-300
    assert corrected_t_test(a, b, 1 / 3).pvalue > 0.05


def test_corrected_t_test_rarely_finds_a_difference_where_there_is_none():
    """Scores with the correlation that the test assumes: 5 % are below 0.05."""
    rng = np.random.default_rng(0)
    ratio, n = 1 / 3, 10
    correlation = ratio / (1 + ratio)
    found = {0.0: 0, ratio: 0}
    for _ in range(1000):
        shared = np.sqrt(correlation) * rng.normal()
        scores = shared + np.sqrt(1 - correlation) * rng.normal(size=n)
        for assumed in found:
            found[assumed] += (
                corrected_t_test(scores, np.zeros(n), assumed).pvalue < 0.05
            )
    assert found[ratio] / 1000 == pytest.approx(0.05, abs=0.02)
    assert found[0.0] / 1000 > 0.2


@pytest.mark.parametrize("ratio", [-0.1, float("nan"), float("inf")])
def test_corrected_t_test_rejects_a_ratio(ratio):
    with pytest.raises(ValueError, match="test_over_train"):
        corrected_t_test([0.1, 0.2], [0.3, 0.1], ratio)
