"""How verdicts are told: a sentence and a row for each claim, and how much the seeds alone make of a difference."""

from __future__ import annotations

import math

from memlm.evaluate.statistics import Interval
from memlm.experiment.compare import LEDGER, Comparison
from memlm.experiment.equality import EQUAL, apart
from memlm.experiment.judge import Judgement, Noise
from memlm.report.tables import NOTHING, Cell, Table, fixed, name, plain, signed

LOSSES = ("validation_loss", "memory_off_loss", "memory_shuffled_loss")
"""What is recorded by document."""


def sentence(judgement: Judgement) -> str:
    """Says what a verdict rests on: the difference, its intervals, the test, the seeds and the margin."""
    found, verdict = judgement.difference, judgement.verdict
    subject = f"{judgement.claim} in {name(judgement.hypothesis.metric, False)}"
    sign, extent = ("negative", "less") if judgement.claim.sign < 0 else ("positive", "more")
    asked = f"A {sign} difference supports the claim, which asks for {extent} than {plain(judgement.bound)}"
    notes = "".join(f" {note[:1].upper()}{note[1:]}." for note in judgement.notes)
    if found is None:
        return f"{subject} cannot be told: no seed has both sides. {asked}.{notes}"
    if found.low is None:
        return f"{subject} is {signed(found.mean)} with one paired seed, which has no interval. {asked}.{notes}"
    test = f"{_percent(found)} interval {_range(found)} over {found.n} paired seeds, "
    test += f"p {'' if verdict.adjusted_p < 0.001 else '= '}{_p(verdict.adjusted_p)}"
    if verdict.adjusted_p != verdict.p:
        test += f" after Holm's adjustment, {exact_p(verdict.p)} by itself"
    other = ""
    if judgement.documents is not None and judgement.documents.low is not None:
        documents = f"{judgement.n_documents:,} documents"
        other = f" For other documents too: {_range(judgement.documents)} (bootstrap over seeds and {documents})."
    side = "below" if judgement.claim.sign < 0 else "above"
    pairs = f"; {judgement.n_for} of {found.n} pairs lie {side} that, and they reach from {_extent(judgement)}."
    return f"{subject} is {signed(found.mean)}, {test}. {asked}{pairs}{other}{notes}"


def mark(judgement: Judgement) -> str:
    """Returns what a verdict is coloured by: its word, or that it has a caveat."""
    return "caveat" if judgement.caveat else judgement.verdict.word


def table(comparison: Comparison) -> Table:
    """One row for each claim, in the order they were written."""
    columns = ["Claim", "Verdict", "Tested", "Difference", "Other seeds, this text", "Other seeds and documents"]
    columns += ["Pairs that support it", "p, Holm (by itself)"]
    rows = [
        [
            Cell(judgement.hypothesis.name),
            Cell(judgement.outcome, kind=mark(judgement)),
            Cell(str(judgement.claim), f"in {name(judgement.hypothesis.metric, False)}"),
            Cell(signed(judgement.difference.mean), _asked(judgement)),
            _cell(judgement.difference),
            _cell(judgement.documents),
            Cell(f"{judgement.n_for} of {judgement.difference.n}", _extent(judgement)),
            Cell(_p(judgement.verdict.adjusted_p), f"({exact_p(judgement.verdict.p)})"),
        ]
        for judgement in comparison.judgements
        if judgement.difference is not None
    ]
    return Table(columns, rows, labels=3)


def shared(comparison: Comparison) -> Table:
    """What the variants of each claim cost alike, and what not; by how much the dearest lies above the cheapest."""
    rows = [
        [Cell(judgement.hypothesis.name), *map(Cell, _shared(comparison, judgement))]
        for judgement in comparison.judgements
        if judgement.counts
    ]
    return Table(["Claim", f"Equal to {100 * EQUAL:g} %", "Not equal"], rows, labels=3)


def shared_sentence(comparison: Comparison, judgement: Judgement) -> str:
    """Says the same of one claim."""
    equal, unequal = _shared(comparison, judgement)
    return f"Equal to {100 * EQUAL:g} %: {equal}. Not equal: {unequal}."


def explanation(comparison: Comparison) -> str:
    """Says what the intervals of the claims are, and what they cannot speak for."""
    alpha = comparison.experiment.plan.alpha
    told = [
        "A dot is the mean difference, left minus right as the claim is written: left of the upright mark (the margin) "
        "supports a claim with <, right of it one with >. A bar is its interval over paired seeds, which speaks for "
        "other seeds on this text; the paired t-test against the margin is the test of record. Verdicts hold together "
        f"at alpha {alpha:g}: p is adjusted by Holm's method, and each interval has the level of its test.",
    ]
    if any(judgement.documents for judgement in comparison.judgements):
        told.append("The thin line, a bootstrap over seeds and documents, speaks for other documents of this kind too.")
    if missing_documents(comparison):
        told.append(missing_documents(comparison))
    return " ".join(told)


def missing_documents(comparison: Comparison) -> str:
    """Says that an interval for other documents is missing; empty if none is."""
    lacking = [j for j in comparison.judgements if j.hypothesis.metric in LOSSES and j.difference and not j.documents]
    if not lacking:
        return ""
    which = "" if len(lacking) == len(comparison.judgements) else f" of {', '.join(j.hypothesis.name for j in lacking)}"
    told = "Not all runs have losses by document that are sound and of the same documents"
    return f"{told}, so no interval{which} speaks for other text."


def noise_sentence(found: Noise) -> str:
    """Says how much the seeds alone move a metric, and which difference a pair's seeds could find."""
    form = fixed(3)
    spreads = ", ".join(f"{variant} {form(sd)}" for variant, sd in found.sd.items())
    finds = " and ".join(f"{n} paired seeds find a difference of {form(d)}" for n, d in found.detectable.items())
    return (
        f"Seed noise in {name(found.metric, False)} (standard deviations): {spreads}; of paired differences, pooled "
        f"over all pairs of variants, {form(found.paired_sd)}. With that, {finds} in four of five cases at level "
        f"{found.level:.3g}."
    )


def _asked(judgement: Judgement) -> str:
    return f"asked {'<' if judgement.claim.sign < 0 else '>'} {plain(judgement.bound)}"


def _percent(found: Interval) -> str:
    return f"{100 * found.confidence:.4g} %"


def _range(found: Interval) -> str:
    return NOTHING if found.low is None or found.high is None else f"{signed(found.low)} to {signed(found.high)}"


def _cell(found: Interval | None) -> Cell:
    return Cell(NOTHING) if found is None or found.low is None else Cell(_range(found), f"({_percent(found)})")


def _shared(comparison: Comparison, judgement: Judgement) -> tuple[str, str]:
    """Returns which costs the variants of a claim have alike, and which not; what one has not recorded is neither."""
    costs = [row.values for row in comparison.ledger.rows if row.variant in judgement.counts]
    spreads = {key: found for key in LEDGER if (found := apart([cost[key] for cost in costs])) is not None}
    equal = [_spread(key, found) for key, found in spreads.items() if found <= EQUAL]
    unequal = [_spread(key, found) for key, found in spreads.items() if found > EQUAL]
    return ", ".join(equal) or "nothing", ", ".join(unequal) or "nothing"


def _spread(key: str, found: float) -> str:
    if found == 0:
        return name(key, False)
    if math.isinf(found):
        return f"{name(key, False)} (none in some)"
    much = "< 0.01 %" if found < 1e-4 else f"{100 * found:.2g} %" if found < 0.1 else f"{100 * found:,.0f} %"
    return f"{name(key, False)} ({much})"


def _extent(judgement: Judgement) -> str:
    """Tells the smallest and the largest difference of a pair."""
    return f"{signed(min(judgement.pairs.values()))} to {signed(max(judgement.pairs.values()))}"


def exact_p(p: float) -> str:
    """Formats a p-value by itself, to two digits."""
    return "< 0.0001" if p < 0.0001 else f"{p:.2g}"


def _p(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"
