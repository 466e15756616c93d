"""An interval that speaks for other seeds and other documents, by a bootstrap over both.

Every seed is evaluated on the same documents, so seeds and documents are crossed, not nested, and each is drawn anew
independently of the other (A. B. Owen, "The pigeonhole bootstrap", Annals of Applied Statistics 1(2), 2007). Seeds are
drawn with replacement; documents, of which there are many, get exponential weights, which is as good and ten times as
fast (A. B. Owen and D. Eckles, arXiv:1106.2125). No bootstrap of crossed draws is exact (P. McCullagh, Bernoulli 6,
2000). That of a few seeds alone is too narrow, so their deviations are first expanded to what Student's t makes of them
(after T. Hesterberg, "What teachers should know about the bootstrap", The American Statistician 69(4), 2015).
"""

from __future__ import annotations

import numpy as np
from scipy import stats

from memlm.evaluate.statistics import Interval

RESAMPLES = 10_000
_AT_ONCE = 2_000_000
"""Numbers that are held at a time."""


def two_level(sums: np.ndarray, tokens: np.ndarray, confidence: float = 0.95, resamples: int = RESAMPLES) -> Interval:
    """Returns the mean over seeds and documents per token, and its percentile interval.

    A mean is the sum over its tokens: a document counts as its length. The same input gives the same interval.

    Shapes:
        sums: [seeds, documents], of each document the sum over its tokens, of a loss or of a difference of losses.
        tokens: [documents], at least 1 each.
    """
    n_seeds, n_documents = sums.shape
    mean = float(sums.sum() / (n_seeds * tokens.sum()))
    if n_seeds == 1 or n_documents == 1:
        return Interval(mean, None, None, n_seeds, confidence)
    generator = np.random.default_rng(0)
    centre = sums.mean(axis=0)
    sums = centre + _expansion(n_seeds, confidence) * (sums - centre)
    block = max(1, _AT_ONCE // n_documents)
    means = np.concatenate(
        [_means(sums, tokens, min(block, resamples - start), generator) for start in range(0, resamples, block)]
    )
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(mean, float(low), float(high), n_seeds, confidence)


def _expansion(n: int, confidence: float) -> float:
    """Returns how much wider the t interval of ``n`` values is than the percentile interval of their bootstrap."""
    tail = (1 - confidence) / 2
    return float(stats.t.isf(tail, n - 1) / stats.norm.isf(tail) * (n / (n - 1)) ** 0.5)


def _means(sums: np.ndarray, tokens: np.ndarray, resamples: int, generator: np.random.Generator) -> np.ndarray:
    """Returns the mean of each resample, [resamples]."""
    n_seeds, n_documents = sums.shape
    seeds = generator.multinomial(n_seeds, np.full(n_seeds, 1 / n_seeds), size=resamples)
    documents = generator.standard_exponential((resamples, n_documents))
    totals = ((seeds @ sums) * documents).sum(axis=1)
    return totals / (n_seeds * (documents @ tokens))
