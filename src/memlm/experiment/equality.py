"""Whether what a claim compares cost the same: how far its variants lie apart, and for whom a missed match speaks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from memlm.experiment.judge import Judgement
from memlm.experiment.solution import Solution

MISSED = 0.05
"""Share of its partner's cost by which a match may be off; beyond it a claim about the two is not at equal cost."""
EQUAL = 0.01
"""Share by which the costs of a claim's variants may lie apart and be called equal."""
LOWERED = ("loss", "perplexity", "bits_per_byte", "nll")
"""How the metrics end that a model with more to spend lowers, the controls' apart."""
RAISED = ("exact_match", "learned_bits.total", "learned_bits.unclipped", "learned_bits.share")
"""How those end that it raises; which way another one goes is not known."""


@dataclass(frozen=True)
class Match:
    """A match as the runs' own ledger has it.

    Args:
        solution: What was solved before the runs.
        quantity: The key of the ledger that was to be made equal.
        off: How far the runs were from it, as a share of the partner's, below it if negative; None if one has none.
    """

    solution: Solution
    quantity: str
    off: float | None


def noted(judgement: Judgement, matches: Sequence[Match]) -> Judgement:
    """Adds to a verdict that the runs it compares missed the match between them.

    It becomes a caveat of the verdict unless the miss is known to speak against what was found.
    """
    notes, caveat = list(judgement.notes), ""
    for match in matches:
        own, to = match.solution.variant, match.solution.to
        if not {own, to} <= set(judgement.counts) or match.off is None or abs(match.off) <= MISSED:
            continue
        helps = _helps(judgement, match, match.off)
        side = {True: ", which speaks for the claim", False: ", which speaks against the claim", None: ""}[helps]
        much = f"{100 * abs(match.off):.2g} % {'less' if match.off < 0 else 'more'}"
        by = match.solution.by.replace("_", " ")
        notes.insert(0, f"not at equal cost: {own} was to equal {to} by {by} and had {much}{side}")
        if helps in (None, judgement.verdict.word == "supported") and judgement.verdict.word != "inconclusive":
            caveat = "but not at equal cost"
    return replace(judgement, notes=notes, caveat=caveat)


def apart(values: Sequence[float | None]) -> float | None:
    """Returns by what share the highest cost lies above the lowest; infinity above none, None if one is unknown."""
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return None
    low, high = min(known), max(known)
    return 0.0 if low == high else high / low - 1 if low > 0 else math.inf


def _helps(judgement: Judgement, match: Match, off: float) -> bool | None:
    """Whether a miss makes the claim come true more easily; None where that is not known."""
    metric = judgement.hypothesis.metric
    if "memory_off" in metric or "memory_shuffled" in metric or not metric.endswith((*LOWERED, *RAISED)):
        return None
    direction = -1 if metric.endswith(LOWERED) else 1
    # What the variant has more than its partner raises left − right by as much as it counts more there.
    shift = direction * off * (judgement.counts[match.solution.variant] - judgement.counts[match.solution.to])
    return None if shift == 0 else shift * judgement.claim.sign > 0
