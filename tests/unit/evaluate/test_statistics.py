import math

import numpy as np
import pytest
from scipy import stats

from memlm.evaluate.statistics import (
    POWER,
    Difference,
    Interval,
    detectable,
    interval,
    paired_difference,
    pooled_sd,
)


def seeds(values) -> dict[int, float]:
    return dict(enumerate(values))


def test_interval_by_hand():
    # mean 2, sd 1, t(0.975, 2 degrees of freedom) = 4.302653: half = 4.302653 / sqrt(3)
    found = interval([1.0, 2.0, 3.0])
    assert (found.mean, found.n) == (2.0, 3)
    assert found.low == pytest.approx(2 - 2.484138)
    assert found.high == pytest.approx(2 + 2.484138)


def test_interval_of_few_values():
    assert interval([1.5]) == Interval(1.5, None, None, 1)
    assert interval([2.0, 2.0]) == Interval(2.0, 2.0, 2.0, 2)
    with pytest.raises(ValueError, match="at least one value"):
        interval([])


@pytest.mark.parametrize("confidence", [0.5, 0.95])
def test_intervals_hold_the_truth_as_often_as_they_say(confidence):
    draws = np.random.default_rng(0).normal(3.0, 0.2, size=(2000, 4))
    hits = sum(found.low <= 3.0 <= found.high for found in (interval(row, confidence) for row in draws))
    assert hits / 2000 == pytest.approx(confidence, abs=0.03)


def test_paired_difference_equals_scipy():
    a, b = np.random.default_rng(1).normal(size=(2, 6))
    found = paired_difference(seeds(a), seeds(b))
    expected = stats.ttest_rel(a, b)
    assert (found.low, found.high) == pytest.approx(tuple(expected.confidence_interval(0.95)))
    assert found.sd == pytest.approx(np.std(a - b, ddof=1))
    assert found.mean == pytest.approx(np.mean(a - b))


def test_pairs_are_the_seeds_in_both():
    found = paired_difference({2: 5.0, 0: 1.0, 7: 9.0}, {0: 2.0, 2: 3.0, 5: 0.0})
    assert (found.mean, found.n) == (0.5, 2)
    with pytest.raises(ValueError, match="no seed is in both"):
        paired_difference({0: 1.0}, {1: 1.0})


def test_difference_of_a_single_seed_has_no_spread():
    assert paired_difference({0: 1.0}, {0: 3.0}) == Difference(-2.0, None, None, 1, sd=None)


def test_differences_without_spread_are_a_point():
    found = paired_difference({0: 1.5, 1: 2.5}, {0: 1.0, 1: 2.0})
    assert found == Difference(0.5, 0.5, 0.5, 2, sd=0.0)


def test_pooling_weighs_by_degrees_of_freedom():
    first, second = np.random.default_rng(2).normal(size=5), np.random.default_rng(3).normal(7.0, 2.0, size=9)
    residuals = np.concatenate([first - first.mean(), second - second.mean()])
    expected = math.sqrt((residuals**2).sum() / (14 - 2))
    assert pooled_sd([(np.std(first, ddof=1), 5), (np.std(second, ddof=1), 9)]) == pytest.approx(expected)


@pytest.mark.parametrize(("n", "level"), [(3, 0.05), (5, 0.01), (30, 0.05)])
def test_a_detectable_difference_is_found_four_times_in_five(n, level):
    shift = detectable(0.3, n, level)
    draws = np.random.default_rng(4).normal(shift, 0.3, size=(20_000, n))
    found = stats.ttest_1samp(draws, 0, axis=1)
    assert ((found.pvalue < level) & (found.statistic > 0)).mean() == pytest.approx(POWER, abs=0.01)


@pytest.mark.parametrize("n", [2, 3, 1000])
@pytest.mark.parametrize("level", [0.5, 0.05, 1e-4])
def test_there_is_always_a_detectable_difference(n, level):
    assert 0 < detectable(1.0, n, level) < math.inf
