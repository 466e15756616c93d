"""How the differences that claims are about came about while their runs were trained."""

from __future__ import annotations

import numpy as np

from memlm.evaluate.claims import Claim
from memlm.experiment.compare import Comparison
from memlm.experiment.reading import Experiment
from memlm.report.tables import Cell, Table, compact, signed

METRIC = "validation_loss"
POINTS = 8
"""Most columns: a run may be evaluated far more often."""


def table(comparison: Comparison) -> Table:
    """Paired differences in validation loss, by tokens; of claims whose runs were all evaluated at the same ones."""
    courses: dict[str, list[tuple[float, float]]] = {}
    for judgement in comparison.judgements:
        if judgement.hypothesis.metric == METRIC and (course := _course(comparison.experiment, judgement.claim)):
            courses[judgement.hypothesis.name] = course
    places = [tokens for tokens, _ in next(iter(courses.values()), [])]
    shown = np.unique(np.linspace(0, len(places) - 1, POINTS).round().astype(int)) if places else []
    rows = [
        [Cell(name), *(Cell(signed(course[place][1])) for place in shown)]
        for name, course in courses.items()
        if [tokens for tokens, _ in course] == places
    ]
    return Table(["Claim", *(f"{compact(places[place])} tokens" for place in shown)], rows)


def _course(experiment: Experiment, claim: Claim) -> list[tuple[float, float]]:
    """Returns tokens and left − right, the mean over paired seeds; nothing if the runs do not share their tokens."""
    variants = claim.variants(experiment.plan.variants)
    by_variant = {
        v: {run.record.seed: run.series(f"evaluate/{METRIC}") for run in experiment.finished(v)} for v in variants
    }
    seeds = sorted(set.intersection(*(set(by_seed) for by_seed in by_variant.values())))
    lines = [by_variant[variant][seed] for variant in variants for seed in seeds]
    tokens = [[place for place, _ in line] for line in lines]
    if not lines or any(line != tokens[0] for line in tokens):
        return []
    losses = np.array([[loss for _, loss in line] for line in lines]).reshape(len(variants), len(seeds), -1).mean(1)
    differences: list[float] = []
    for at in losses.T:
        counts = claim.coefficients(dict(zip(variants, at.tolist(), strict=True)))
        differences.append(sum(counts[variant] * loss for variant, loss in zip(variants, at.tolist(), strict=True)))
    return list(zip(tokens[0], differences, strict=True))
