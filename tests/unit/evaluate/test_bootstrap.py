import numpy as np
import pytest
from scipy import stats

from memlm.evaluate.bootstrap import two_level
from memlm.evaluate.statistics import Interval, interval


def crossed(draw, n_seeds: int, n_documents: int, seed_sd: float, document_sd: float, noise: float = 0.05):
    """Losses per token with an effect of every seed and of every document, times the tokens."""
    tokens = draw.integers(20, 400, size=n_documents)
    effects = draw.normal(0, seed_sd, size=(n_seeds, 1)) + draw.normal(0, document_sd, size=n_documents)
    return (effects + draw.normal(0, noise, size=(n_seeds, n_documents))) * tokens, tokens


def test_a_mean_is_a_ratio_of_sums():
    sums, tokens = np.array([[10.0, 900.0], [30.0, 500.0]]), np.array([10, 1000])
    found = two_level(sums, tokens, resamples=100)
    assert found.mean == pytest.approx((910 + 530) / 2 / 1010)
    assert found.n == 2


def test_the_same_input_gives_the_same_interval_and_order_does_not_matter_much():
    sums, tokens = crossed(np.random.default_rng(0), 4, 50, 0.1, 0.2)
    assert two_level(sums, tokens) == two_level(sums, tokens)
    turned = two_level(sums[::-1, ::-1], tokens[::-1])
    assert turned.low == pytest.approx(two_level(sums, tokens).low, abs=0.01)


def test_more_documents_than_fit_at_once(monkeypatch):
    sums, tokens = crossed(np.random.default_rng(0), 4, 50, 0.1, 0.2)
    whole = two_level(sums, tokens)
    monkeypatch.setattr("memlm.evaluate.bootstrap._AT_ONCE", 1000)
    assert two_level(sums, tokens).low == pytest.approx(whole.low, abs=0.01)


def test_without_two_seeds_or_two_documents_there_is_no_interval():
    sums, tokens = crossed(np.random.default_rng(0), 3, 5, 0.1, 0.1)
    for part, of in ((sums[:1], tokens), (sums[:, :1], tokens[:1])):
        found = two_level(part, of)
        assert found == Interval(found.mean, None, None, len(part))


def width(found):
    return found.high - found.low


def test_both_levels_widen_the_interval():
    """Nested draws would make documents that all seeds share look like more documents with every seed."""
    draw = np.random.default_rng(1)
    seeds_alone = width(two_level(*crossed(draw, 8, 60, 0.2, 0.0, noise=0.0)))
    documents_alone = width(two_level(*crossed(draw, 8, 60, 0.0, 0.5, noise=0.0)))
    many_seeds = width(two_level(*crossed(draw, 80, 60, 0.0, 0.5, noise=0.0)))
    assert seeds_alone == pytest.approx(2 * stats.t.isf(0.025, 7) * 0.2 / 8**0.5, rel=0.4)
    assert documents_alone == pytest.approx(2 * 1.96 * 0.5 / 50**0.5, rel=0.4)
    assert many_seeds == pytest.approx(documents_alone, rel=0.3)


def test_few_seeds_are_no_narrower_than_their_t_interval_makes_them():
    sums, tokens = crossed(np.random.default_rng(3), 3, 40, 0.2, 0.0, noise=0.0)
    found, expected = two_level(sums, tokens), interval((sums.sum(axis=1) / tokens.sum()).tolist())
    assert width(found) > 0.8 * width(expected)


def coverage(n_seeds: int) -> float:
    draw = np.random.default_rng(2)
    found = [two_level(*crossed(draw, n_seeds, 80, 0.1, 0.1), resamples=500) for _ in range(300)]
    return sum(interval.low <= 0 <= interval.high for interval in found) / 300


def test_it_holds_the_truth_as_often_as_the_document_says():
    assert coverage(10) == pytest.approx(0.945, abs=0.03)
    assert coverage(3) == pytest.approx(0.95, abs=0.03)
