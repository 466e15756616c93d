"""Verdicts on all claims of an experiment together, so that many claims do not make one of them come true by chance.

A claim "left < right by more than ``margin``" is tested by the paired t-test of the mean of left − right against
``−margin``, half of the level in each direction; "left > right" is tested as "right < left". The p-values
are adjusted by Holm's method (S. Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal
of Statistics 6, 1979), whatever the claims share.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isclose
from typing import Literal

import numpy as np
from scipy import stats

from memlm.evaluate.statistics import Difference, half_width

MAX_SEEDS = 1000
"""A verdict names no larger number of needed seeds: nobody would train that many."""
ROUNDING = 1e-12
"""How far differences that are just the margin may lie from it."""
MIN_SEEDS = 3
"""From fewer paired seeds no number of needed ones is foretold."""


@dataclass(frozen=True)
class Case:
    """What a claim is judged by: a difference over paired seeds (None if no seed has both), and what it asks for.

    ``difference`` is left − right, of a claim with ``>`` right − left, so that below ``-margin`` supports it.
    ``looks`` is how many ways the claim can come true, `memlm.evaluate.claims.Claim.looks`.
    """

    difference: Difference | None
    margin: float = 0.0
    looks: int = 1


@dataclass(frozen=True)
class Verdict:
    """What the seeds say about a claim; as text, e.g. "inconclusive (about 7 seeds would support it)"."""

    word: Literal["supported", "refuted", "inconclusive"]
    p: float
    """Of the paired t-test against the margin, both directions; 1 if there is nothing to test."""
    adjusted_p: float
    """The same after Holm's adjustment over all claims; the verdict is open unless it is below alpha."""
    level: float
    """The level at which this claim was tested: its interval of confidence 1 − level agrees with the verdict."""
    needed: str = ""
    """What an inconclusive verdict lacks, and which way it leans."""

    def __str__(self) -> str:
        """Reads as the word, and what an inconclusive verdict needs."""
        return f"{self.word} ({self.needed})" if self.needed else self.word


def judge(cases: Sequence[Case], alpha: float) -> list[Verdict]:
    """Judges claims together: the chance that any is decided where its difference is just ``−margin`` is at most alpha.

    A claim is *supported* if its adjusted p is below alpha and the mean lies below ``−margin``, *refuted* if it is and
    the mean does not, else *inconclusive*. Claims that cannot be tested yet count in the family all the same.
    """
    p = [min(1.0, case.looks * p_value(case)) for case in cases]
    return [
        _verdict(case, *numbers, alpha)
        for case, numbers in zip(cases, zip(p, *holm(p, alpha), strict=True), strict=True)
    ]


def p_value(case: Case) -> float:
    """Returns the two-sided p of the paired t-test of the mean against ``−margin``; 1 without two finite values.

    Differences without any spread are taken at their word: p is 0, and 1 if they are ``−margin``.
    """
    found = case.difference
    if found is None or found.sd is None or not np.isfinite(found.mean):
        return 1.0
    if found.sd == 0:
        return float(isclose(found.mean, -case.margin, abs_tol=ROUNDING))
    return float(2 * stats.t.sf(abs(found.mean + case.margin) / (found.sd / found.n**0.5), found.n - 1))


def holm(p: Sequence[float], alpha: float) -> tuple[list[float], list[float]]:
    """Returns adjusted p-values, and the level at which each p was tested.

    The smallest of k is tested at alpha / k, the next at alpha / (k − 1), and so on; the first that fails stops the
    procedure, and those after it fail at the same level.
    """
    order = np.argsort(p, kind="stable")
    tests = np.arange(len(p), 0, -1)
    adjusted, levels = np.empty(len(p)), np.empty(len(p))
    adjusted[order] = np.minimum(1, np.maximum.accumulate(tests * np.array(p)[order]))
    left = max(1, len(p) - int((adjusted < alpha).sum()))
    levels[order] = alpha / np.maximum(tests, left)
    return adjusted.tolist(), levels.tolist()


def _verdict(case: Case, p: float, adjusted: float, level: float, alpha: float) -> Verdict:
    level /= case.looks
    if case.difference is not None and adjusted < alpha:
        word = "supported" if case.difference.mean < -case.margin else "refuted"
        return Verdict(word, p, adjusted, level)
    return Verdict("inconclusive", p, adjusted, level, _needed(case, level))


def _needed(case: Case, level: float) -> str:
    """Says for how many seeds an interval as wide as the observed spread makes it would lie on one side, and on which.

    Mean and spread of few seeds are rough, and so is this number; of two seeds nothing is foretold.
    """
    found = case.difference
    if found is None:
        return "no seed has both sides"
    if found.sd is None:
        return "needs at least 2 seeds"
    if not np.isfinite(found.mean):
        return "a value is not finite"
    if found.n < MIN_SEEDS:
        return f"{found.n} pairs are too few to say how many seeds would settle it"
    counts = np.arange(found.n + 1, MAX_SEEDS + 1)
    enough = counts[half_width(found.sd, counts, 1 - level) < abs(found.mean + case.margin)]
    if not len(enough):
        return f"not even {MAX_SEEDS:,} seeds would settle it"
    return f"about {enough[0]:,} seeds would {'support' if found.mean < -case.margin else 'refute'} it"
