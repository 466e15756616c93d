"""From the numbers of a few seeds to a statement: intervals, paired differences and verdicts on claims.

Everything rests on Student's t (W. S. Gosset, "The probable error of a mean", Biometrika 6(1), 1908): seeds are taken
as independent draws, and their values, or the differences of paired seeds, as roughly normal.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

MAX_SEEDS = 1000
"""A verdict names no larger number of needed seeds: nobody would train that many."""


@dataclass(frozen=True)
class Interval:
    """A mean over seeds and its t interval, in the unit of the values."""

    mean: float
    low: float | None
    """None for a single seed, which says nothing about the spread."""
    high: float | None
    n: int
    """Number of seeds."""


@dataclass(frozen=True)
class Difference(Interval):
    """The mean of a - b over paired seeds, with its interval and test."""

    sd: float | None
    """Standard deviation of the differences; None for a single seed."""
    p: float | None
    """Two-sided p of the paired t-test against no difference; None for a single seed."""


@dataclass(frozen=True)
class Verdict:
    """What the seeds say about a claim; as text, e.g. "inconclusive (needs about 7 seeds)"."""

    word: Literal["supported", "refuted", "inconclusive"]
    needed_seeds: int | None = None
    """For inconclusive: about how many seeds would settle it, ``MAX_SEEDS + 1`` if more than `MAX_SEEDS`. None if
    no number would, because a value is not finite."""

    def __str__(self) -> str:
        if self.word != "inconclusive":
            return self.word
        if self.needed_seeds is None:
            return "inconclusive (a value is not finite)"
        if self.needed_seeds > MAX_SEEDS:
            return f"inconclusive (needs more than {MAX_SEEDS:,} seeds)"
        return f"inconclusive (needs {'at least' if self.needed_seeds == 2 else 'about'} {self.needed_seeds:,} seeds)"


@dataclass(frozen=True)
class Claim:
    """A written hypothesis: the left variant's metric is below the right one's."""

    left: str
    right: str


def interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """Returns the mean of the values, one a seed, and its t interval.

    Raises:
        ValueError: there are no values.
    """
    n = len(values)
    if n == 0:
        raise ValueError("an interval needs at least one value")
    mean = float(np.mean(values))
    if n == 1:
        return Interval(mean, None, None, n)
    half = float(_half_width(float(np.std(values, ddof=1)), n, confidence))
    return Interval(mean, mean - half, mean + half, n)


def paired_difference(a: Mapping[int, float], b: Mapping[int, float], confidence: float = 0.95) -> Difference:
    """Returns a - b over the seeds that both have, with a t interval and the paired t-test.

    Pairing takes out what the seeds do to both variants alike (the order of the data, for one). Differences without
    any spread are taken at their word: the interval is a point, and p is 1 if that point is 0, else 0.

    Args:
        a: Value of each seed.
        b: Value of each seed.
        confidence: Share of such intervals that hold the true difference.

    Raises:
        ValueError: no seed is in both.
    """
    seeds = sorted(a.keys() & b.keys())
    if not seeds:
        raise ValueError(f"no seed is in both: {sorted(a)} and {sorted(b)}")
    differences = np.array([a[seed] - b[seed] for seed in seeds])
    found = interval(differences.tolist(), confidence)
    if found.n == 1:
        return Difference(found.mean, None, None, 1, sd=None, p=None)
    sd = float(np.std(differences, ddof=1))
    if sd == 0:
        p = float(found.mean == 0)
    else:
        p = float(2 * stats.t.sf(abs(found.mean) / (sd / found.n**0.5), found.n - 1))
    return Difference(found.mean, found.low, found.high, found.n, sd, p)


def verdict(difference: Difference, margin: float) -> Verdict:
    """Judges the claim "a < b by more than ``margin``" by the interval of a - b.

    It is *supported* if the whole interval lies below ``-margin``, *refuted* if none of it does, else *inconclusive*.
    The number of seeds needed is the smallest for which an interval as wide as the observed spread makes it, around
    the observed mean, would lie on one side. Mean and spread of few seeds are rough, and so is this number.

    Args:
        difference: a - b, as `paired_difference` returns it.
        margin: How much lower a must be, in the unit of the metric, at least 0.
    """
    if difference.low is None or difference.high is None or difference.sd is None:
        return Verdict("inconclusive", 2)
    if difference.high < -margin:
        return Verdict("supported")
    if difference.low >= -margin:
        return Verdict("refuted")
    if not np.isfinite(difference.mean):
        return Verdict("inconclusive")
    counts = np.arange(difference.n + 1, MAX_SEEDS + 1)
    enough = _half_width(difference.sd, counts) < abs(difference.mean + margin)
    return Verdict("inconclusive", int(counts[enough][0]) if enough.any() else MAX_SEEDS + 1)


def parse_claim(text: str) -> Claim:
    """Reads "gated_mlp < cross_attention"; "a > b" is read as "b < a".

    Raises:
        ValueError: the text is no comparison of two different variants.
    """
    match = re.fullmatch(r"\s*([^\s<>=]+)\s*([<>])\s*([^\s<>=]+)\s*", text)
    if match is None:
        raise ValueError(f"a claim compares two variants, such as 'gated_mlp < cross_attention', not {text!r}")
    left, sign, right = match.groups()
    if left == right:
        raise ValueError(f"the claim {text.strip()!r} compares {left} with itself")
    return Claim(left, right) if sign == "<" else Claim(right, left)


def _half_width(sd: float, n: int | np.ndarray, confidence: float = 0.95) -> np.ndarray:
    return stats.t.ppf((1 + confidence) / 2, np.subtract(n, 1)) * sd / np.sqrt(n)
