"""How far generated text is from real text, on a scale of 0 to 10; docs/generation_quality.md explains it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from memlm.evaluate.ngram import NgramModel

JUDGE_TOKENS = 500_000
"""The judge is fitted on at most this many tokens: a fraction of a second and about 70 MiB."""

SPREAD_FLOOR = 0.05
"""A spread below this counts as this, in shares and in nats: where real text never varies (no repeated 4-gram in any
sample), a single repetition must not decide the score."""


@dataclass(frozen=True)
class Quality:
    """A score from 0 (unigram draws) to 10 (real text), and what it is made of."""

    score: float
    metrics: dict[str, dict[str, float]]
    """For each metric the means ``model``, ``real`` and ``unigram``, the ``spread`` of real text and the model's
    ``distance`` in spreads, negative below real text."""


def fit_judge(ids: np.ndarray, vocab_size: int) -> NgramModel:
    """Fits the judge of an experiment, once for all its runs, on text that no run trains on or is evaluated on.

    Args:
        ids: Token ids, of shape [T]; the first `JUDGE_TOKENS` are used.
        vocab_size: Number of tokens in the vocabulary.

    Raises:
        ValueError: the text is empty or has a token outside the vocabulary.
    """
    return NgramModel.fit(ids[:JUDGE_TOKENS], vocab_size)


def text_metrics(samples: Sequence[np.ndarray], judge: NgramModel) -> dict[str, np.ndarray]:
    """Measures each sample of text.

    Args:
        samples: Token ids of each sample, of shape [T], T at least 4. Compare samples of one length only: the longer
            a text, the more it repeats.
        judge: The n-gram model that says how likely a token is.

    Returns:
        Arrays with one value a sample: ``repetition``, the share of 4-grams that occurred before in the sample;
        ``distinct_1`` and ``distinct_2``, the different uni- and bigrams per uni- and bigram (Li et al. 2016,
        arXiv:1510.03055, section 5); ``judge_nats``, the mean of -ln p of a token under the judge.

    Raises:
        ValueError: a sample is shorter than 4 tokens or has a token outside the judge's vocabulary.
    """
    if any(len(sample) < 4 for sample in samples):
        raise ValueError("a sample of text needs at least 4 tokens")
    return {
        "repetition": np.array([1 - _distinct(sample, 4) for sample in samples]),
        "distinct_1": np.array([_distinct(sample, 1) for sample in samples]),
        "distinct_2": np.array([_distinct(sample, 2) for sample in samples]),
        "judge_nats": np.array([-judge.log_prob(sample).mean() for sample in samples]),
    }


def quality(
    model: Sequence[np.ndarray], real: Sequence[np.ndarray], unigram: Sequence[np.ndarray], judge: NgramModel
) -> Quality:
    """Scores the text of a model between two anchors: 0 for unigram draws, 10 for real text.

    A metric's distance is the difference of its means, in standard deviations of real text (at least `SPREAD_FLOOR`).
    Both sides count, so text that is too repetitive loses as does text that is too random. With D, the root mean
    square of the distances, the score is ``10 * max(0, 1 - D(model) / D(unigram))``.

    Args:
        model: Generated continuations.
        real: Held-out continuations of the same prompts.
        unigram: Tokens drawn independently of each other from the unigram distribution of real text.
        judge: The n-gram model that says how likely a token is.

    Raises:
        ValueError: a group has no sample, a sample is shorter than 4 tokens or has a token outside the judge's
            vocabulary, or the unigram draws measure exactly as real text does, so that there is no scale.
    """
    groups = {"model": model, "real": real, "unigram": unigram}
    if any(len(samples) == 0 for samples in groups.values()):
        raise ValueError("quality needs at least one sample of the model, of real text and of unigram draws")
    measured = {name: text_metrics(samples, judge) for name, samples in groups.items()}
    metrics: dict[str, dict[str, float]] = {}
    for metric, values in measured["real"].items():
        means = {name: float(group[metric].mean()) for name, group in measured.items()}
        spread = max(float(values.std()), SPREAD_FLOOR)
        metrics[metric] = {**means, "spread": spread, "distance": (means["model"] - means["real"]) / spread}
    scale = _distance(metrics, "unigram")
    if scale == 0:
        raise ValueError("the unigram draws measure exactly as real text does: there is no scale between them")
    return Quality(10 * max(0.0, 1 - _distance(metrics, "model") / scale), metrics)


def _distinct(sample: np.ndarray, n: int) -> float:
    tokens = sample.tolist()
    grams = list(zip(*(tokens[start:] for start in range(n)), strict=False))
    return len(set(grams)) / len(grams)


def _distance(metrics: dict[str, dict[str, float]], group: str) -> float:
    distances = [(found[group] - found["real"]) / found["spread"] for found in metrics.values()]
    return float(np.sqrt(np.mean(np.square(distances))))
