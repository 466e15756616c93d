"""Judges the hypotheses of an experiment by its finished runs, and says how much the seeds alone move a metric."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from memlm.errors import RunError
from memlm.evaluate.bootstrap import two_level
from memlm.evaluate.claims import Claim, parse_claim
from memlm.evaluate.statistics import Difference, Interval, detectable, difference, pooled_sd
from memlm.evaluate.verdicts import Case, Verdict, judge
from memlm.experiment.reading import Experiment, listed
from memlm.experiment.schema import Documents, Hypothesis, run_name

Values = dict[str, dict[int, float]]
"""A result by variant and seed."""


@dataclass(frozen=True)
class Judgement:
    """What the runs say about a hypothesis.

    Args:
        hypothesis: The claim as text, with its metric and margin.
        claim: The claim as it is read.
        difference: left minus right, as the claim is written, over paired seeds, with its interval at the level of the
            verdict, which speaks for other seeds on this text; None if no seed has both.
        documents: The same with an interval that speaks for other seeds and other documents; None without losses of the
            same documents for all of these runs.
        n_documents: How many documents that rests on.
        verdict: The verdict on the difference.
        notes: What is missing from it.
        pairs: left − right of each seed that has both.
        counts: What each variant counts in the difference; empty if there is none.
        caveat: What a decided verdict must not be read without.
    """

    hypothesis: Hypothesis
    claim: Claim
    difference: Difference | None
    documents: Interval | None
    n_documents: int
    verdict: Verdict
    notes: list[str]
    pairs: dict[int, float]
    counts: dict[str, float]
    caveat: str = ""

    @property
    def outcome(self) -> str:
        """The verdict as it is told everywhere: with its caveat, if it has one."""
        return f"{self.verdict}, {self.caveat}" if self.caveat else str(self.verdict)

    @property
    def bound(self) -> float:
        """What the claim asks the difference to lie below, or above: the margin with the sign that supports it."""
        return self.claim.sign * self.hypothesis.margin

    @property
    def n_for(self) -> int:
        """How many pairs lie beyond that by themselves."""
        return sum(self.claim.sign * (found - self.bound) > 0 for found in self.pairs.values())


@dataclass(frozen=True)
class Noise:
    """How much the seeds alone move a metric.

    Args:
        metric: Which.
        sd: By variant, the standard deviation over its finished seeds.
        paired_sd: The same of paired differences between two variants, pooled over all pairs of variants.
        level: The level of the strictest test of the experiment's claims: alpha over their number, half of that if one
            of them is about effects of either sign.
        detectable: By the number of seeds that pairs of variants have, most first, the smallest difference that so many
            find in four of five cases at that level.
    """

    metric: str
    sd: dict[str, float]
    paired_sd: float
    level: float
    detectable: dict[int, float]


def judgements(experiment: Experiment, documents: Mapping[str, Documents]) -> list[Judgement]:
    """Judges all hypotheses together, in the order they were written.

    Args:
        experiment: The experiment.
        documents: The losses by document of its runs, as `document_losses` returns them.

    Raises:
        RunError: one of them cannot be read.
    """
    plan = experiment.plan
    claims = [_claim(experiment, hypothesis) for hypothesis in plan.hypotheses]
    by_seed = [differences(values_of(experiment, h.metric), c) for h, c in zip(plan.hypotheses, claims, strict=True)]
    cases = [
        Case(difference([-claim.sign * d for d in found.values()]) if found else None, hypothesis.margin, claim.looks)
        for found, hypothesis, claim in zip(by_seed, plan.hypotheses, claims, strict=True)
    ]
    verdicts = judge(cases, plan.alpha)
    judged: list[Judgement] = []
    for hypothesis, claim, found, verdict in zip(plan.hypotheses, claims, by_seed, verdicts, strict=True):
        confidence = 1 - verdict.level
        resampled, n = _resampled(experiment, hypothesis.metric, claim, list(found), documents, confidence)
        shown = difference(list(found.values()), confidence) if found else None
        notes = list(_gaps(experiment, claim.variants(plan.variants), hypothesis.metric))
        counts = _coefficients(values_of(experiment, hypothesis.metric), claim, list(found)) if found else {}
        judged.append(Judgement(hypothesis, claim, shown, resampled, n, verdict, notes, found, counts))
    return judged


def noise(experiment: Experiment) -> list[Noise]:
    """Returns the noise of every metric that is claimed, or of the validation loss; none without two paired seeds."""
    hypotheses = experiment.plan.hypotheses
    metrics = dict.fromkeys(hypothesis.metric for hypothesis in hypotheses) or ["validation_loss"]
    looks = max((_claim(experiment, hypothesis).looks for hypothesis in hypotheses), default=1)
    level = experiment.plan.alpha / max(1, len(hypotheses)) / looks
    return [found for metric in metrics if (found := _noise(values_of(experiment, metric), metric, level))]


def values_of(experiment: Experiment, path: str) -> Values:
    """Returns a result by variant and seed, finished runs that have it alone."""
    values: Values = {}
    for variant in experiment.plan.variants:
        found = {run.record.seed: run.result(path) for run in experiment.finished(variant)}
        values[variant] = {seed: value for seed, value in found.items() if value is not None}
    return values


def document_losses(experiment: Experiment) -> tuple[dict[str, Documents], list[str]]:
    """Returns the losses by document of every finished run that has them, by its name, and why any are not used."""
    found: dict[str, Documents] = {}
    broken: list[str] = []
    for run in experiment.finished():
        try:
            documents = run.documents()
        except RunError as error:
            broken.append(f"{error} (the losses of its documents are left out)")
            continue
        if documents is not None:
            found[run.name] = documents
    return found, broken


def _claim(experiment: Experiment, hypothesis: Hypothesis) -> Claim:
    try:
        return parse_claim(hypothesis.claim)
    except ValueError as error:
        raise RunError(f"{experiment.folder}: hypothesis {hypothesis.name!r}: {error}") from None


def _paired(values: Values, variants: Sequence[str]) -> list[int]:
    """Returns the seeds that all of the variants have."""
    seeds = [values.get(variant, {}).keys() for variant in variants]
    return sorted(set(seeds[0]).intersection(*seeds[1:]))


def _coefficients(values: Values, claim: Claim, seeds: Sequence[int]) -> dict[str, float]:
    return claim.coefficients({v: float(np.mean([values[v][seed] for seed in seeds])) for v in claim.variants(values)})


def differences(values: Values, claim: Claim) -> dict[int, float]:
    """Returns left − right of every seed that all variants of the claim have."""
    seeds = _paired(values, claim.variants(values))
    if not seeds:
        return {}
    counts = _coefficients(values, claim, seeds)
    return {seed: sum(count * values[variant][seed] for variant, count in counts.items()) for seed in seeds}


def _resampled(
    experiment: Experiment,
    metric: str,
    claim: Claim,
    seeds: Sequence[int],
    documents: Mapping[str, Documents],
    confidence: float,
) -> tuple[Interval | None, int]:
    """Returns the two-level interval of left − right, and on how many documents it rests."""
    variants = claim.variants(experiment.plan.variants)
    by_run = [documents.get(run_name(variant, seed)) for variant in variants for seed in seeds]
    known = [losses for losses in by_run if losses is not None and metric in losses.nats]
    if not known or len(known) < len(by_run):
        return None, 0
    if any((losses.documents, losses.tokens) != (known[0].documents, known[0].tokens) for losses in known):
        return None, 0
    counts = _coefficients(values_of(experiment, metric), claim, seeds)
    nats = np.array([losses.nats[metric] for losses in known]).reshape(len(variants), len(seeds), -1)
    sums = np.tensordot([counts[variant] for variant in variants], nats, axes=1)  # [seeds, documents]
    return two_level(sums, np.array(known[0].tokens), confidence), sums.shape[1]


def _noise(values: Values, metric: str, level: float) -> Noise | None:
    spreads: list[tuple[float, int]] = []
    for a, b in combinations(values, 2):
        seeds = _paired(values, (a, b))
        if len(seeds) > 1:
            spreads.append((float(np.std([values[a][s] - values[b][s] for s in seeds], ddof=1)), len(seeds)))
    if not spreads:
        return None
    sd = {variant: float(np.std(list(v.values()), ddof=1)) for variant, v in values.items() if len(v) > 1}
    paired, sizes = pooled_sd(spreads), sorted({n for _, n in spreads}, reverse=True)
    return Noise(metric, sd, paired, level, {n: detectable(paired, n, level) for n in sizes})


def _gaps(experiment: Experiment, variants: Sequence[str], metric: str) -> Iterator[str]:
    """Yields what a claim about these variants lacks."""
    planned = experiment.plan.variants
    yield from (f"the experiment has no variant {variant!r}" for variant in variants if variant not in planned)
    known = [variant for variant in variants if variant in planned]
    runs = {(variant, run.record.seed): run for variant in known for run in experiment.finished(variant)}
    lacks = {
        "not finished: ": [run_name(v, seed) for v in known for seed in experiment.plan.seeds if (v, seed) not in runs],
        f"no {metric} in ": [run.name for run in runs.values() if run.result(metric) is None],
        "added after the test split had been opened: ": [
            run.name for run in runs.values() if run.name in experiment.plan.added_after_test
        ],
    }
    yield from (f"{what}{listed(names)}" for what, names in lacks.items() if names)
