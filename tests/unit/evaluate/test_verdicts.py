import math

import numpy as np
import pytest
from scipy import stats

from memlm.evaluate.statistics import Difference, difference
from memlm.evaluate.verdicts import Case, holm, judge, p_value


def exactly(mean: float, sd: float, n: int) -> Difference:
    """Values with exactly this mean and standard deviation."""
    return difference((stats.zscore(np.arange(n, dtype=float), ddof=1) * sd + mean).tolist())


def judged(mean: float, sd: float, n: int, margin: float, alpha: float = 0.05):
    (verdict,) = judge([Case(exactly(mean, sd, n), margin)], alpha)
    return verdict


def test_p_is_that_of_the_t_test_against_the_margin():
    values = np.random.default_rng(0).normal(-0.1, 0.2, size=6)
    for margin in (0.0, 0.05):
        expected = stats.ttest_1samp(values, -margin).pvalue
        assert p_value(Case(difference(values.tolist()), margin)) == pytest.approx(expected)


# With 3 seeds and sd 0.1 half of the 95 % interval is 0.2484.
@pytest.mark.parametrize(
    ("mean", "word"), [(-0.35, "supported"), (-0.25, "inconclusive"), (0.10, "inconclusive"), (0.25, "refuted")]
)
def test_a_verdict_looks_at_the_whole_interval(mean, word):
    assert judged(mean, 0.1, 3, margin=0.05).word == word


def test_a_stricter_alpha_decides_less():
    assert judged(-0.35, 0.1, 3, margin=0.05, alpha=0.05).word == "supported"
    assert judged(-0.35, 0.1, 3, margin=0.05, alpha=0.01).word == "inconclusive"


@pytest.mark.parametrize(
    ("mean", "word", "p"), [(-0.5, "supported", 0), (-0.05, "inconclusive", 1), (0.0, "refuted", 0)]
)
def test_differences_without_spread_are_taken_at_their_word(mean, word, p):
    (verdict,) = judge([Case(Difference(mean, mean, mean, 2, sd=0.0), 0.05)], 0.05)
    assert (verdict.word, verdict.p) == (word, p)


def test_a_claim_that_is_just_undecided_lends_no_level_to_another():
    other = Case(difference([-0.02, -0.05, -0.03, -0.045]))
    assert judge([other], 0.02)[0].word == "supported"
    for undecided in (Case(difference([0.0] * 4)), Case(difference([0.90 - 0.95] * 4), 0.05)):
        assert judge([other, undecided], 0.02)[0].word == "inconclusive"


def test_holm_by_hand():
    # Sorted: 0.01, 0.02, 0.03, 0.2, times 4, 3, 2, 1; none may be smaller than the one before it.
    adjusted, levels = holm([0.02, 0.2, 0.01, 0.03], alpha=0.05)
    assert adjusted == pytest.approx([0.06, 0.2, 0.04, 0.06])
    assert levels == pytest.approx([0.05 / 3, 0.05 / 3, 0.05 / 4, 0.05 / 3]), "the second fails, and with it the rest"
    assert holm([0.9, 0.8], alpha=0.05)[0] == pytest.approx([1.0, 1.0])
    assert holm([], alpha=0.05) == ([], [])


def test_every_verdict_agrees_with_the_interval_at_its_level():
    draw = np.random.default_rng(1)
    words = set()
    for _ in range(150):
        k, n = draw.integers(1, 6), int(draw.integers(2, 8))
        values = draw.normal(draw.normal(0, 0.1, size=(k, 1)), draw.uniform(0.01, 0.1, size=(k, 1)), size=(k, n))
        cases = [Case(difference(row.tolist()), 0.05, int(draw.integers(1, 3))) for row in values]
        for row, case, verdict in zip(values, cases, judge(cases, alpha=0.1), strict=True):
            shown = difference(row.tolist(), 1 - verdict.level)
            where = (
                "supported" if shown.high < -case.margin else "refuted" if shown.low > -case.margin else "inconclusive"
            )
            assert verdict.word == where
            assert (verdict.adjusted_p < 0.1) == (verdict.word != "inconclusive")
            words.add(where)
    assert len(words) == 3


def test_claims_that_wait_for_their_runs_count_in_the_family():
    ready = Case(exactly(-0.6, 0.1, 3), 0.05)
    alone, *_ = judge([ready], 0.05)
    among, *waiting = judge([ready, Case(None), Case(exactly(1.0, 0.1, 1))], 0.05)
    assert (alone.word, among.word) == ("supported", "supported")
    assert among.adjusted_p == pytest.approx(3 * alone.p)
    assert [str(verdict) for verdict in waiting] == [
        "inconclusive (no seed has both sides)",
        "inconclusive (needs at least 2 seeds)",
    ]


def test_luck_decides_no_more_often_than_alpha():
    draw = np.random.default_rng(2)
    values = draw.normal(-0.05, 0.1, size=(2000, 5, 4)) + draw.normal(0, 0.1, size=(2000, 1, 4))  # from one control
    p = stats.ttest_1samp(values, -0.05, axis=-1).pvalue
    lucky = sum(min(holm(row, alpha=0.1)[0]) < 0.1 for row in p.tolist())
    assert 0.05 < lucky / 2000 < 0.11


def test_needed_seeds_are_the_smallest_that_would_do():
    def half(n: int) -> float:
        return stats.t.ppf(0.975, n - 1) * 0.1 / math.sqrt(n)

    assert half(7) < 0.1 <= half(6)
    assert str(judged(-0.15, 0.1, 3, margin=0.05)) == "inconclusive (about 7 seeds would support it)"
    assert judged(-0.15, 0.1, 7, margin=0.05).word == "supported"
    assert str(judged(-0.051, 1.0, 3, margin=0.05)) == "inconclusive (not even 1,000 seeds would settle it)"
    (diverged,) = judge([Case(difference([math.nan, 1.0]))], 0.05)
    assert str(diverged) == "inconclusive (a value is not finite)"


def test_it_says_which_way_more_seeds_would_settle_a_claim():
    """A gain that is smaller than the margin asks is on its way to being refuted, however clear a gain it is."""
    assert str(judged(0.05, 0.1, 3, margin=0.05)) == "inconclusive (about 7 seeds would refute it)"
    assert str(judged(-0.027, 0.026, 8, margin=0.05, alpha=0.01)).endswith("seeds would refute it)")


def test_two_pairs_foretell_nothing():
    told = "inconclusive (2 pairs are too few to say how many seeds would settle it)"
    assert str(judged(-0.15, 0.1, 2, margin=0.05)) == told
