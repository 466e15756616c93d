import math
import time
from collections import Counter

import numpy as np
import pytest

from memlm.evaluate.ngram import NgramModel

VOCAB = 7


@pytest.fixture
def text() -> np.ndarray:
    return np.random.default_rng(0).zipf(1.7, size=400) % (VOCAB - 1)  # token 6 never occurs


def slow_probability(text: list[int], history: list[int], token: int, order: int) -> float:
    """The formula in the module's docstring, counted anew for each call."""
    if order == 0:
        return 1 / VOCAB
    grams = Counter(tuple(text[s : s + order]) for s in range(len(text) - order + 1))
    once, twice = (sum(count == n for count in grams.values()) + 1 for n in (1, 2))
    discount = once / (once + 2 * twice)
    context = tuple(history[len(history) - order + 1 :]) if order > 1 else ()
    following = {gram[-1]: count for gram, count in grams.items() if gram[:-1] == context}
    shorter = slow_probability(text, history, token, order - 1)
    if len(history) < order - 1 or not following:
        return shorter
    kept = max(following.get(token, 0) - discount, 0)
    return (kept + discount * len(following) * shorter) / sum(following.values())


@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_equals_the_formula(text, order):
    ids = np.random.default_rng(1).integers(VOCAB, size=40)
    found = NgramModel.fit(text, VOCAB, order).log_prob(ids)
    expected = [slow_probability(text.tolist(), ids[:i].tolist(), int(ids[i]), order) for i in range(len(ids))]
    assert np.exp(found) == pytest.approx(expected)


def test_discounting_by_hand():
    # Text a b a a: a 3, b 1; one token occurs once, none twice, so d = (1+1) / (1+1 + 2*(0+1)) = 1/2.
    model = NgramModel.fit(np.array([0, 1, 0, 0]), vocab_size=4, order=1)
    handed_out = 0.5 * 2 / 4
    expected = [2.5 / 4 + handed_out / 4, 0.5 / 4 + handed_out / 4, handed_out / 4, handed_out / 4]
    assert np.exp([model.log_prob(np.array([token]))[0] for token in range(4)]) == pytest.approx(expected)


@pytest.mark.parametrize("history", [[], [0], [6], [1, 2, 0, 1], [6, 6, 6, 6], [0, 6, 0, 1, 1, 0]])
def test_probabilities_sum_to_one(text, history):
    model = NgramModel.fit(text, VOCAB)
    probabilities = [np.exp(model.log_prob(np.array([*history, token]))[-1]) for token in range(VOCAB)]
    assert math.fsum(probabilities) == pytest.approx(1)
    assert min(probabilities) > 0


def test_only_the_tokens_within_the_order_matter(text):
    model = NgramModel.fit(text, VOCAB, order=3)
    tail = text[100:120]
    near, far = (model.log_prob(np.concatenate([[first], tail])) for first in (0, 1))
    assert near[3:] == pytest.approx(far[3:])


def test_an_unseen_context_backs_off(text):
    model = NgramModel.fit(text, VOCAB)
    assert model.log_prob(np.array([6, 0]))[1] == pytest.approx(model.log_prob(np.array([0]))[0])


def test_short_and_empty_texts(text):
    assert NgramModel.fit(text, VOCAB).log_prob(np.array([], dtype=int)).shape == (0,)
    assert np.isfinite(NgramModel.fit(np.array([3, 3]), VOCAB).log_prob(text)).all()
    with pytest.raises(ValueError, match="needs text"):
        NgramModel.fit(np.array([], dtype=int), VOCAB)
    with pytest.raises(ValueError, match="order above 0"):
        NgramModel.fit(text, VOCAB, order=0)


@pytest.mark.parametrize("token", [-1, VOCAB])
def test_tokens_outside_the_vocabulary_are_refused(text, token):
    with pytest.raises(ValueError, match="do not fit a vocabulary of 7"):
        NgramModel.fit(np.array([0, token]), VOCAB)
    with pytest.raises(ValueError, match="do not fit a vocabulary of 7"):
        NgramModel.fit(text, VOCAB).log_prob(np.array([0, token]))


def test_a_large_text_and_vocabulary():
    ids = (np.random.default_rng(2).zipf(1.2, size=300_000) % 50_000).astype(np.uint16)
    start = time.perf_counter()
    model = NgramModel.fit(ids, 50_000)
    assert time.perf_counter() - start < 5
    assert model.log_prob(ids[:5000]).mean() > model.log_prob(np.arange(5000)).mean()
