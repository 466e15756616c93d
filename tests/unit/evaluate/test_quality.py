import subprocess
import sys

import numpy as np
import pytest

from memlm.evaluate.ngram import NgramModel
from memlm.evaluate.quality import JUDGE_TOKENS, fit_judge, quality, text_metrics

VOCAB = 40


def draw(seed: int, n: int, length: int) -> list[np.ndarray]:
    """Text with structure: a Markov chain in which each token has a few likely followers."""
    followers = np.random.default_rng(99).integers(VOCAB, size=(VOCAB, 3))
    rng = np.random.default_rng(seed)
    chain = [0]
    for choice in rng.choice(3, p=[0.6, 0.3, 0.1], size=n * length):
        chain.append(int(followers[chain[-1], choice]) if rng.random() < 0.8 else int(rng.integers(VOCAB)))
    return list(np.array(chain[1:]).reshape(n, length))


@pytest.fixture(scope="module")
def judge() -> NgramModel:
    return fit_judge(np.concatenate(draw(1, 100, 200)), VOCAB)


@pytest.fixture(scope="module")
def real() -> list[np.ndarray]:
    return draw(2, 48, 48)


@pytest.fixture(scope="module")
def unigram(real) -> list[np.ndarray]:
    return list(np.random.default_rng(3).permutation(np.concatenate(real)).reshape(48, 48))


def test_metrics_by_hand(judge):
    sample = np.array([1, 2, 3, 4, 1, 2, 3, 4])
    found = text_metrics([sample, np.arange(8)], judge)
    assert found["repetition"] == pytest.approx([1 / 5, 0])  # of 1234 2341 3412 4123 1234 the last occurred before
    assert found["distinct_1"] == pytest.approx([4 / 8, 1])
    assert found["distinct_2"] == pytest.approx([4 / 7, 1])
    assert found["judge_nats"][0] == pytest.approx(-judge.log_prob(sample).mean())


def test_anchors_are_exact(judge, real, unigram):
    assert quality(real, real, unigram, judge).score == 10
    assert quality(unigram, real, unigram, judge).score == 0


def test_other_real_text_scores_high(judge, real, unigram):
    assert quality(draw(4, 48, 48), real, unigram, judge).score > 8


def test_too_repetitive_and_too_random_both_lose(judge, real, unigram):
    rng = np.random.default_rng(5)
    half_repeated = [np.tile(sample[:24], 2) for sample in real]
    half_random = [np.concatenate([sample[:24], rng.integers(VOCAB, size=24)]) for sample in real]
    constant = [np.zeros(48, dtype=int)] * 48
    uniform = list(rng.integers(VOCAB, size=(48, 48)))
    for worse, worst in ((half_repeated, constant), (half_random, uniform)):
        assert quality(worst, real, unigram, judge).score < 1.5
        assert quality(worse, real, unigram, judge).score < 8
    assert quality(half_repeated, real, unigram, judge).metrics["repetition"]["distance"] > 0
    assert quality(half_random, real, unigram, judge).metrics["judge_nats"]["distance"] > 0


def test_text_that_is_too_likely_loses(judge, real, unigram):
    likely = sorted(draw(6, 400, 48), key=lambda sample: -judge.log_prob(sample).mean())[:48]
    found = quality(likely, real, unigram, judge)
    assert found.metrics["judge_nats"]["distance"] < 0
    assert found.score < 9


def test_score_is_made_of_the_metrics(judge, real, unigram):
    found = quality(draw(4, 48, 48), real, unigram, judge)
    distances = {
        group: [(metric[group] - metric["real"]) / metric["spread"] for metric in found.metrics.values()]
        for group in ("model", "unigram")
    }
    assert distances["model"] == pytest.approx([metric["distance"] for metric in found.metrics.values()])
    lengths = {group: np.linalg.norm(values) for group, values in distances.items()}
    assert found.score == pytest.approx(10 * (1 - lengths["model"] / lengths["unigram"]))


def test_what_cannot_be_scored_is_refused(judge, real, unigram):
    with pytest.raises(ValueError, match="at least one sample"):
        quality([], real, unigram, judge)
    with pytest.raises(ValueError, match="no scale"):
        quality(unigram, real, real, judge)
    with pytest.raises(ValueError, match="at least 4 tokens"):
        text_metrics([np.arange(3)], judge)


def test_the_judge_reads_a_bounded_text():
    ids = np.zeros(JUDGE_TOKENS + 1, dtype=np.uint16)
    ids[-1] = 1
    same = NgramModel.fit(ids[:-1], 2).log_prob(np.array([1]))
    assert fit_judge(ids, 2).log_prob(np.array([1])) == pytest.approx(same)


def test_statistics_and_quality_need_no_torch():
    code = "import sys, memlm.evaluate.quality, memlm.evaluate.statistics; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
