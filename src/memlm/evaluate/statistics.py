"""From the numbers of a few seeds to intervals: of means, of paired differences, and what so many seeds can tell.

Everything rests on Student's t (W. S. Gosset, "The probable error of a mean", Biometrika 6(1), 1908): seeds are taken
as independent draws, and their values, or the differences of paired seeds, as roughly normal. docs/statistics.md says
what each number means.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from scipy import optimize, stats

POWER = 0.8
"""How often a test finds the smallest difference that is called detectable."""


@dataclass(frozen=True)
class Interval:
    """A mean over seeds and an interval around it, in the unit of the values."""

    mean: float
    low: float | None
    """None for a single seed, which says nothing about the spread."""
    high: float | None
    n: int
    """Number of seeds."""
    confidence: float = 0.95
    """Share of such intervals that hold the truth."""


@dataclass(frozen=True)
class Difference(Interval):
    """A mean over paired seeds of a difference between variants."""

    sd: float | None = None
    """Standard deviation of the differences; None for a single seed."""


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
        return Interval(mean, None, None, n, confidence)
    half = float(half_width(float(np.std(values, ddof=1)), n, confidence))
    return Interval(mean, mean - half, mean + half, n, confidence)


def difference(values: Sequence[float], confidence: float = 0.95) -> Difference:
    """Returns the mean of differences, one a seed, with its t interval and their standard deviation.

    Raises:
        ValueError: there are no values.
    """
    found = interval(values, confidence)
    sd = None if found.n == 1 else float(np.std(values, ddof=1))
    return Difference(found.mean, found.low, found.high, found.n, confidence, sd)


def paired_difference(a: Mapping[int, float], b: Mapping[int, float], confidence: float = 0.95) -> Difference:
    """Returns a - b over the seeds that both have, with a t interval.

    Pairing takes out what the seeds do to both variants alike (the order of the data, for one).

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
    return difference([a[seed] - b[seed] for seed in seeds], confidence)


def pooled_sd(spreads: Sequence[tuple[float, int]]) -> float:
    """Returns one standard deviation for several samples, each given by its own and its size of at least 2."""
    freedom = sum(n - 1 for _, n in spreads)
    return (sum((n - 1) * sd**2 for sd, n in spreads) / freedom) ** 0.5


def detectable(sd: float, n: int, level: float) -> float:
    """Returns the smallest true difference that the paired t-test finds with a chance of `POWER`.

    Without that difference the test's statistic follows t, with it noncentral t (J. Cohen, "Statistical Power Analysis
    for the Behavioral Sciences", 2nd ed. 1988, chapter 2). The chance of a find in the wrong direction is left out.

    Args:
        sd: Standard deviation of the differences.
        n: Seeds, at least 2.
        level: Chance of a find where there is no difference, both directions together.
    """
    bound = float(stats.t.isf(level / 2, n - 1))

    def surplus(shift: float) -> float:
        return float(stats.nct.sf(bound, n - 1, shift)) - POWER

    # Twice the bound and 3 more is found with more than that chance for every n and level.
    shift = cast(float, optimize.brentq(surplus, 0.0, 2 * bound + 3))
    return shift * sd / n**0.5


def half_width(sd: float, n: int | np.ndarray, confidence: float) -> np.ndarray:
    """Returns half of the t interval around a mean of ``n`` values."""
    return stats.t.ppf((1 + confidence) / 2, np.subtract(n, 1)) * sd / np.sqrt(n)
