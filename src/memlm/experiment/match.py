"""Solves what a variant is to be matched by: the width of its feed-forward layer, or how many steps it takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from tokenizers import Tokenizer

from memlm.config.train import BUDGETS
from memlm.data.cache import TokenData
from memlm.errors import ConfigError
from memlm.experiment.config import ExperimentConfig
from memlm.experiment.estimate import step_time
from memlm.experiment.solution import Solution
from memlm.experiment.text import sampler_of
from memlm.experiment.variants import QUANTITIES, VariantConfig
from memlm.model.cost import cost
from memlm.train.ranks import alone
from memlm.train.schedule import Plan

MULTIPLES = (8, 4, 2, 1)
"""What a width is a multiple of, the widest first: hardware likes multiples."""
CLOSE = 2e-3
"""Share of the target that a coarser multiple may be off: an odd width costs a GPU some 6 % of its speed."""
ROUNDS = 3
"""Each variant is measured so often, in turns, so that what else the device does meets both."""


def solve_widths(config: ExperimentConfig) -> tuple[ExperimentConfig, list[Solution]]:
    """Returns the experiment with every ``d_ff`` that a match asks for, and what was solved.

    Raises:
        ConfigError: a partner is cheaper than its variant with the narrowest feed-forward layer.
    """
    solutions: list[Solution] = []
    for name, variant in config.variants.items():
        if variant.match is None or variant.match.by == "wall_clock":
            continue
        solutions.append(_solve_width(config, name, variant.match.to, variant.match.by))
        config = _resolved(config, solutions[-1])
    return config, solutions


def solve_steps(
    config: ExperimentConfig,
    data: TokenData,
    tokenizer: Tokenizer,
    device: str,
    recorded: Sequence[Solution] = (),
) -> tuple[ExperimentConfig, list[Solution]]:
    """Returns the experiment with every budget that a match by wall clock asks for, and what was solved.

    Args:
        config: The experiment, its widths solved.
        data: Its prepared data.
        tokenizer: That of the data.
        device: Names the device that is measured.
        recorded: What an earlier attempt at this experiment measured and still stands (`standing`); it is taken, and
            not measured again, unless it was measured on other text.
    """
    config, solutions = recall_steps(config, [known for known in recorded if known.data in (None, data.fingerprint)])
    for name, variant in config.variants.items():
        if variant.match is None or variant.match.by != "wall_clock":
            continue
        with alone():  # the time of one process: what matters is the ratio
            solutions.append(_solve_steps(config, name, variant.match.to, data, tokenizer, device))
        config = _resolved(config, solutions[-1])
    return config, solutions


def standing(
    config: ExperimentConfig, before: ExperimentConfig | None, solutions: Sequence[Solution]
) -> list[Solution]:
    """Returns those of an earlier attempt's measurements that stand: both variants have the settings that they had.

    The device may be another one: a run that goes on elsewhere keeps its budget.

    Args:
        config: The experiment.
        before: The experiment of that attempt, as it was stated; None: it is not known.
        solutions: What that attempt solved.
    """
    if before is None:
        return []
    known = before.variants.keys() & config.variants.keys()
    return [
        solution
        for solution in solutions
        if solution.by == "wall_clock"
        and {solution.variant, solution.to} <= known
        and all(before.run_config(v, 0) == config.run_config(v, 0) for v in (solution.variant, solution.to))
    ]


def recall_steps(config: ExperimentConfig, recorded: Sequence[Solution]) -> tuple[ExperimentConfig, list[Solution]]:
    """Returns the experiment with those budgets that were measured before (`standing`), and what these are."""
    by_variant = {solution.variant: solution for solution in recorded}
    recalled: list[Solution] = []
    for name, variant in config.variants.items():
        match, solution = variant.match, by_variant.get(name)
        if match is None or match.by != "wall_clock" or solution is None:
            continue
        if solution.to == match.to:
            recalled.append(solution)
            config = _resolved(config, solution)
    return config, recalled


def _resolved(config: ExperimentConfig, solution: Solution) -> ExperimentConfig:
    variant = config.variants[solution.variant]
    update: dict[str, Any] = {"match": None}
    if solution.setting == "steps":
        budget = dict.fromkeys(BUDGETS) | {"steps": solution.value}
        update["train"] = config.train_of(solution.variant).model_copy(update=budget)
    else:
        update[solution.setting] = solution.value
    variants = config.variants | {solution.variant: variant.model_copy(update=update)}
    return config.model_copy(update={"variants": variants})


def _solve_width(config: ExperimentConfig, name: str, to: str, by: str) -> Solution:
    """Solves on the line through the costs of two widths: all that a wider layer adds is as much more of the same."""
    variant, quantity = config.variants[name], QUANTITIES[by]

    def costs(model: VariantConfig) -> float:
        return getattr(cost(model, config.data.vocab_size, config.data.seq_len), quantity)

    def widened(width: int) -> VariantConfig:
        return variant.model_copy(update={"d_ff": width})

    target, narrowest = costs(config.variants[to]), costs(widened(1))
    each = costs(widened(2)) - narrowest
    exact = 1 + (target - narrowest) / each
    if exact < 1:
        raise ConfigError(
            f"variants.{name}.match: {to} has {target:,.0f} {quantity}, and {name} has {narrowest:,.0f} even with a "
            f"feed-forward layer of width 1; make {name} smaller otherwise (n_layers, memory), or match {to} to it"
        )
    width = _nearest(exact, CLOSE * target / each)
    return Solution(name, to, by, "d_ff", width, target, costs(widened(width)))


def _nearest(exact: float, tolerance: float) -> int:
    """Returns a whole width near ``exact``: a multiple if one is within the tolerance, or else the nearest of all."""
    widths = [max(multiple, round(exact / multiple) * multiple) for multiple in MULTIPLES]
    return next((width for width in widths if abs(width - exact) <= tolerance), widths[-1])


def _solve_steps(
    config: ExperimentConfig, name: str, to: str, data: TokenData, tokenizer: Tokenizer, device: str
) -> Solution:
    """Gives a variant as many steps as take the time of its partner's; times are medians over rounds."""
    times: Mapping[str, list[float]] = {name: [], to: []}
    for _ in range(ROUNDS):
        for variant, found in times.items():
            found.append(step_time(config, variant, data, tokenizer))
    own, partner = (median(found) for found in times.values())
    sampler = sampler_of(config, data, seed=0)
    steps = Plan.of(config.train_of(to), config.data.seq_len, sampler.n_sequences).steps
    value = max(1, round(steps * partner / own))
    return Solution(
        name,
        to,
        "wall_clock",
        "steps",
        value,
        target=steps * partner,
        reached=value * own,
        device=device,
        step_times_s=(own, partner),
        spread=max((max(found) - min(found)) / median(found) for found in times.values()),
        data=data.fingerprint,
    )
