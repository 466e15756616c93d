import math

import numpy as np
import pytest
from scipy import stats

from memlm.evaluate.statistics import (
    Claim,
    Difference,
    Interval,
    Verdict,
    interval,
    paired_difference,
    parse_claim,
    verdict,
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
    assert found.p == pytest.approx(expected.pvalue)
    assert (found.low, found.high) == pytest.approx(tuple(expected.confidence_interval(0.95)))
    assert found.sd == pytest.approx(np.std(a - b, ddof=1))
    assert found.mean == pytest.approx(np.mean(a - b))


def test_pairs_are_the_seeds_in_both():
    found = paired_difference({2: 5.0, 0: 1.0, 7: 9.0}, {0: 2.0, 2: 3.0, 5: 0.0})
    assert (found.mean, found.n) == (0.5, 2)
    with pytest.raises(ValueError, match="no seed is in both"):
        paired_difference({0: 1.0}, {1: 1.0})


def test_difference_of_a_single_seed_has_no_spread():
    assert paired_difference({0: 1.0}, {0: 3.0}) == Difference(-2.0, None, None, 1, sd=None, p=None)


@pytest.mark.parametrize(("shift", "p"), [(0.0, 1.0), (0.5, 0.0)])
def test_differences_without_spread_are_taken_at_their_word(shift, p):
    found = paired_difference({0: 1.0 + shift, 1: 2.0 + shift}, {0: 1.0, 1: 2.0})
    assert found == Difference(shift, shift, shift, 2, sd=0.0, p=p)


def difference(mean: float, sd: float, n: int) -> Difference:
    """Values with exactly this mean and standard deviation."""
    values = stats.zscore(np.arange(n, dtype=float), ddof=1) * sd + mean
    return paired_difference(seeds(values), seeds(np.zeros(n)))


# With 3 seeds and sd 0.1 the half-width is 0.2484.
@pytest.mark.parametrize(
    ("mean", "word"), [(-0.35, "supported"), (-0.25, "inconclusive"), (0.10, "inconclusive"), (0.25, "refuted")]
)
def test_verdict_looks_at_the_whole_interval(mean, word):
    assert verdict(difference(mean, 0.1, 3), margin=0.05).word == word


@pytest.mark.parametrize(("mean", "word"), [(-0.5, "supported"), (-0.05, "refuted"), (0.0, "refuted")])
def test_verdict_without_spread_is_never_inconclusive(mean, word):
    exact = Difference(mean, mean, mean, 2, sd=0.0, p=0.0)
    assert verdict(exact, margin=0.05) == Verdict(word)


def test_needed_seeds_are_the_smallest_that_would_do():
    found = verdict(difference(-0.15, 0.1, 3), margin=0.05)
    needed = found.needed_seeds
    assert needed is not None

    def half(n: int) -> float:
        return stats.t.ppf(0.975, n - 1) * 0.1 / math.sqrt(n)

    assert half(needed) < 0.1 <= half(needed - 1)
    assert needed == 7
    assert str(found) == "inconclusive (needs about 7 seeds)"
    assert verdict(difference(-0.15, 0.1, needed), margin=0.05).word == "supported"


def test_verdict_in_words():
    assert str(verdict(difference(-0.5, 0.01, 3), 0.05)) == "supported"
    assert str(verdict(paired_difference({0: 1.0}, {0: 9.0}), 0.05)) == "inconclusive (needs at least 2 seeds)"
    assert str(verdict(difference(-0.051, 1.0, 3), 0.05)) == "inconclusive (needs more than 1,000 seeds)"
    diverged = paired_difference({0: math.nan, 1: 2.0}, {0: 1.0, 1: 1.0})
    assert str(verdict(diverged, 0.05)) == "inconclusive (a value is not finite)"


def test_claims():
    assert parse_claim("gated_mlp < cross_attention") == Claim("gated_mlp", "cross_attention")
    assert parse_claim(" dense-2x>pkm.small ") == Claim("pkm.small", "dense-2x")


@pytest.mark.parametrize("text", ["", "a", "a <", "a <= b", "a = b", "a < b < c", "a b < c", "a << b"])
def test_a_claim_must_compare_two_variants(text):
    with pytest.raises(ValueError, match="a claim compares two variants"):
        parse_claim(text)


def test_a_claim_needs_different_variants():
    with pytest.raises(ValueError, match="with itself"):
        parse_claim("a < a")
