"""How the differences that claims are about came about while their runs were trained."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import mean

import numpy as np

from memlm.experiment.compare import Comparison
from memlm.experiment.judge import Judgement, differences
from memlm.report.tables import Cell, Table, compact, signed

METRIC = "validation_loss"
POINTS = 8
"""Most columns: a run may be evaluated far more often."""


def table(comparison: Comparison) -> Table:
    """Paired differences in validation loss, by tokens; of claims whose runs were all evaluated at the same ones."""
    lines: dict[str, dict[int, list[tuple[float, float]]]] = {}
    for run in comparison.experiment.finished():
        lines.setdefault(run.record.variant, {})[run.record.seed] = run.series(f"evaluate/{METRIC}")
    courses: dict[str, list[tuple[float, float]]] = {}
    for judgement in comparison.judgements:
        if judgement.hypothesis.metric == METRIC and (course := _course(judgement, lines)):
            courses[judgement.hypothesis.name] = course
    places = [tokens for tokens, _ in next(iter(courses.values()), [])]
    shown = np.unique(np.linspace(0, len(places) - 1, POINTS).round().astype(int)) if places else []
    rows = [
        [Cell(name), *(Cell(signed(course[place][1])) for place in shown)]
        for name, course in courses.items()
        if [tokens for tokens, _ in course] == places
    ]
    return Table(["Claim", *(f"{compact(places[place])} tokens" for place in shown)], rows)


def _course(
    judgement: Judgement, lines: Mapping[str, Mapping[int, list[tuple[float, float]]]]
) -> list[tuple[float, float]]:
    """Returns tokens and left − right, the mean over paired seeds; nothing if the runs do not share their tokens."""
    own = {variant: {seed: lines[variant][seed] for seed in judgement.pairs} for variant in judgement.counts}
    tokens = [[place for place, _ in line] for by_seed in own.values() for line in by_seed.values()]
    if not tokens or any(line != tokens[0] for line in tokens):
        return []
    course: list[tuple[float, float]] = []
    for at, place in enumerate(tokens[0]):
        values = {variant: {seed: line[at][1] for seed, line in by_seed.items()} for variant, by_seed in own.items()}
        course.append((place, mean(differences(values, judgement.claim).values())))
    return course
