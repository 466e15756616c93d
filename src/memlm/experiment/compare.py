"""Compares the variants of an experiment: results, ledger, verdicts, controls, and what stands in the way of trust.

Only finished runs are compared. A run that is missing and a value that is missing are said, never passed over.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from memlm.config.checks import LEFT_OUT
from memlm.evaluate.statistics import Difference, Interval, interval, paired_difference
from memlm.experiment.difference import flatten
from memlm.experiment.equality import Match, apart, noted
from memlm.experiment.files import Tree
from memlm.experiment.judge import Judgement, Noise, document_losses, judgements, noise, values_of
from memlm.experiment.opened import opened_before, tell_added
from memlm.experiment.reading import NOT_RUN, Experiment, Run, listed
from memlm.experiment.record import abbreviated
from memlm.experiment.schema import Continued, Hypothesis, Record, run_name
from memlm.experiment.settings import COMMON, as_now
from memlm.experiment.variants import QUANTITIES

LEDGER: dict[str, Callable[[Run], float | None]] = {
    "parameters": lambda run: run.record.cost and run.record.cost.parameters,
    "active_parameters": lambda run: run.record.cost and run.record.cost.active_parameters,
    "memory_parameters": lambda run: run.record.cost and run.record.cost.memory_parameters,
    "flops_per_token": lambda run: run.record.cost and run.record.cost.flops_per_token,
    "bytes_per_token": lambda run: run.record.cost and run.record.cost.bytes_per_token,
    "tokens": lambda run: run.record.tokens,
    "time_s": lambda run: run.result("time_s"),
}
"""What a comparison must account for, and where a run records it."""

CONTROLS = {"memory off": "memory_off_loss", "values shuffled": "memory_shuffled_loss"}
"""The controls of a memory, and the loss that each records."""

_SAME: dict[str, Callable[[Run], object]] = {
    "text": lambda run: run.record.data and run.record.data.fingerprint,
    "evaluated text": lambda run: run.record.evaluated and run.record.evaluated.fingerprint,
    "tokenizer": lambda run: run.record.data and run.record.data.tokenizer_fingerprint,
    "questions": lambda run: run.record.data and run.record.data.questions,
    "device": lambda run: str(run.record.device),
    "commit": lambda run: abbreviated(run.record.commit),
    "torch version": lambda run: run.record.versions.get("torch"),
}


UNKNOWN = "cannot be told"
"""How a quantity was held that a variant with a finished run has not recorded, or if only one has such a run."""


@dataclass(frozen=True)
class LedgerRow:
    """What one variant cost: the mean of each quantity over its finished runs, and where they ran."""

    variant: str
    values: dict[str, float | None]
    device: str


@dataclass(frozen=True)
class Ledger:
    """The cost of every variant; ``matches`` says what was solved.

    ``held`` says of each quantity how equal it was held among the variants that have a finished run.
    """

    rows: list[LedgerRow]
    held: dict[str, str]
    matches: list[Match]

    def equal(self) -> list[str]:
        """Returns the quantities that were held exactly equal."""
        return [name for name, how in self.held.items() if how == "equal"]

    def unequal(self) -> list[str]:
        """Returns the quantities that differ."""
        return [name for name, how in self.held.items() if how not in ("equal", UNKNOWN)]

    def unknown(self) -> list[str]:
        """Returns the quantities of which it cannot be told."""
        return [name for name, how in self.held.items() if how == UNKNOWN]


@dataclass(frozen=True)
class Control:
    """How much worse a variant's held-out loss becomes when its memory is taken away or mixed up."""

    variant: str
    name: str
    difference: Difference


@dataclass(frozen=True)
class Comparison:
    """An experiment compared.

    Args:
        experiment: What was compared.
        results: By variant and dotted path, the mean and interval over finished seeds of every number recorded.
        ledger: What each variant cost.
        judgements: One for each hypothesis, in the order they were written.
        noise: What the seeds alone make of each metric that is claimed.
        split: The split that the finished runs were evaluated on at their end.
        controls: Memory off and values shuffled, for every variant with a memory.
        above_unigram: By variant, mean validation loss minus the entropy of the text's token frequencies, in nats.
        missing: Runs and values that should be there and are not.
        warnings: Why the runs may not be comparable.
    """

    experiment: Experiment
    results: dict[str, dict[str, Interval]]
    ledger: Ledger
    judgements: list[Judgement]
    noise: list[Noise]
    split: str
    controls: list[Control]
    above_unigram: dict[str, float]
    missing: list[str]
    warnings: list[str]


def compare(experiment: Experiment) -> Comparison:
    """Compares the finished runs of an experiment."""
    variants = experiment.plan.variants
    results = {variant: _results(experiment.finished(variant)) for variant in variants}
    finished = experiment.finished()
    documents, broken = document_losses(experiment)
    ledger = _ledger(experiment)
    return Comparison(
        experiment=experiment,
        results=results,
        ledger=ledger,
        judgements=[noted(judgement, ledger.matches) for judgement in judgements(experiment, documents)],
        noise=noise(experiment),
        split=next((run.record.evaluated.split for run in finished if run.record.evaluated), "validation"),
        controls=list(_controls(experiment)),
        above_unigram=_above_unigram(experiment),
        missing=[*_missing_runs(experiment), *_missing_values(experiment, results), *broken],
        warnings=[
            *_rewritten(experiment),
            *opened_before(experiment),
            *tell_added(experiment),
            *_unchecked(finished),
            *_warnings(experiment),
        ],
    )


def _results(runs: Sequence[Run]) -> dict[str, Interval]:
    paths = dict.fromkeys(path for run in runs for path, _ in flatten(run.record.results))
    found = {path: [value for run in runs if (value := run.result(path)) is not None] for path in paths}
    return {path: interval(values) for path, values in found.items() if values}


def _ledger(experiment: Experiment) -> Ledger:
    rows: list[LedgerRow] = []
    for variant in experiment.plan.variants:
        runs = experiment.finished(variant)
        values = {name: _mean([read(run) for run in runs]) for name, read in LEDGER.items()}
        rows.append(LedgerRow(variant, values, " and ".join(dict.fromkeys(str(run.record.device) for run in runs))))
    finished = [row for row in rows if row.device]
    held = {name: _held([row.values[name] for row in finished]) for name in LEDGER}
    devices = {row.device for row in finished}
    held["device"] = UNKNOWN if len(finished) < 2 else "equal" if len(devices) == 1 else "differs"
    return Ledger(rows, held, list(_matches(experiment, rows)))


def _matches(experiment: Experiment, rows: Sequence[LedgerRow]) -> Iterator[Match]:
    costs = {row.variant: row.values for row in rows}
    for solution in experiment.plan.matches:
        quantity = QUANTITIES.get(solution.by, "")
        own, partner = (costs.get(variant, {}).get(quantity) for variant in (solution.variant, solution.to))
        yield Match(solution, quantity, own / partner - 1 if own is not None and partner else None)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _held(values: Sequence[float | None]) -> str:
    spread = apart(values)
    if spread is None or len(values) < 2:  # what one variant lacks cannot be called equal
        return UNKNOWN
    if spread == 0:
        return "equal"
    if math.isinf(spread):
        return "differs (none in some)"
    percent = 100 * spread
    if percent < 0.1:
        return "differs by less than 0.1 %"
    return f"differs by up to {percent:,.1f} %" if percent < 10 else f"differs by up to {percent:,.0f} %"


def _controls(experiment: Experiment) -> Iterator[Control]:
    intact = values_of(experiment, "validation_loss")
    without = {name: values_of(experiment, path) for name, path in CONTROLS.items()}
    for variant in experiment.plan.variants:
        for name, values in without.items():
            if values[variant].keys() & intact[variant].keys():
                yield Control(variant, name, paired_difference(values[variant], intact[variant]))


def _above_unigram(experiment: Experiment) -> dict[str, float]:
    gaps: dict[str, float] = {}
    for variant in experiment.plan.variants:
        runs = [run for run in experiment.finished(variant) if run.record.data]
        losses = [(run.result("validation_loss"), run.record.data) for run in runs]
        gap = _mean([loss - data.unigram_entropy for loss, data in losses if loss is not None and data])
        if gap is not None:
            gaps[variant] = gap
    return gaps


def _missing_runs(experiment: Experiment) -> Iterator[str]:
    for variant in experiment.plan.variants:
        absent = {seed: reason for (name, seed), reason in experiment.absent.items() if name == variant}
        not_run = [str(seed) for seed, reason in absent.items() if reason == NOT_RUN]
        if len(not_run) > 1:
            yield f"{variant} was not run with the seeds {', '.join(not_run)}"
        for seed, reason in absent.items():
            if len(not_run) <= 1 or reason != NOT_RUN:
                yield f"{run_name(variant, seed)} {reason}"
    for run in experiment.runs:
        record = run.record
        why = f": {record.error}" if record.error else ""
        if record.status == "running":
            yield f"{run.name} is still running"
        elif not run.is_finished:
            was = "failed" if record.status == "failed" else "was interrupted"
            yield f"{run.name} {was} at step {record.steps:,}{why}"
    for stray in experiment.strays:
        yield f"{stray} is in the folder but not in the experiment, and is left out"


def _missing_values(experiment: Experiment, results: dict[str, dict[str, Interval]]) -> Iterator[str]:
    """Tells of the validation loss, which every run must have, and of what other seeds of the variant recorded."""
    for variant in experiment.plan.variants:
        for run in experiment.finished(variant):
            expected = dict.fromkeys(["validation_loss", *results[variant]])
            lacking = [path for path in expected if run.result(path) is None]
            if lacking:
                yield f"{run.name} finished without a finite {listed(lacking)}"


def _warnings(experiment: Experiment) -> Iterator[str]:
    runs = experiment.finished()
    for name, read in _SAME.items():
        yield from _unequal(name, {run.name: read(run) for run in runs})
    settings = {run.name: as_now(run.config) for run in runs}
    flat = {name: dict(flatten({s: tree.get(s) for s in COMMON})) for name, tree in settings.items()}
    meant = {(run.name, path) for run in runs for path in _meant(experiment, run)}
    for path in dict.fromkeys(path for tree in flat.values() for path in tree):
        yield from _unequal(path, {name: tree.get(path) for name, tree in flat.items() if (name, path) not in meant})
    for variant in experiment.plan.variants:
        yield from _other_models(experiment.finished(variant))
        yield from _other_training(experiment.finished(variant), experiment.plan.own_training.get(variant, {}))
    yield from _gone_on("commit", runs, lambda part: abbreviated(part.commit))
    yield from _gone_on("device", runs, lambda part: part.device)
    dirty = [run.name for run in runs if run.record.dirty]
    if dirty:
        yield f"Uncommitted changes: the commit does not say what code ran in {listed(dirty)}."


def _gone_on(what: str, runs: Sequence[Run], read: Callable[[Continued | Record], object]) -> Iterator[str]:
    """Tells of runs that were broken off and gone on with another commit or device, and with which."""
    found = {run.name: [read(part) or "unknown" for part in (*run.record.continued, run.record)] for run in runs}
    parts = {name: [str(part) for part, _ in groupby(attempts)] for name, attempts in found.items()}
    mixed = [f"{name} ({', then '.join(each)})" for name, each in parts.items() if len(each) > 1]
    if mixed:
        yield f"Broken off and gone on with another {what}: {listed(mixed)}."


def _meant(experiment: Experiment, run: Run) -> Iterator[str]:
    """Yields the training settings in which a run differs from the others as the plan says of its variant."""
    found = _trained(run)
    for setting, value in experiment.plan.own_training.get(run.record.variant, {}).items():
        if found.get(setting) == value:
            yield f"train.{setting}"


def _other_models(runs: Sequence[Run]) -> Iterator[str]:
    """Tells where the models of a variant's runs differ."""
    models = {run.name: dict(flatten(run.config.get("model"), "model")) for run in runs}
    for part in ("model.memory", "model.fusion", "model.experts"):
        has = {name: any(path.startswith(f"{part}.") for path in model) for name, model in models.items()}
        yield from _unequal(part, {name: "given" if given else "none" for name, given in has.items()})
    for path in dict.fromkeys(path for model in models.values() for path in model):
        if all(path in model for model in models.values()):  # else an earlier version of memlm did not have it
            yield from _unequal(path, {name: model[path] for name, model in models.items()})


def _other_training(runs: Sequence[Run], own: Tree) -> Iterator[str]:
    """Tells of runs that were not trained as the plan says of their variant."""
    trained = {run.name: _trained(run) for run in runs if own}
    for setting, value in own.items():
        found = {name: settings.get(setting) for name, settings in trained.items()}
        astray = {name: had for name, had in found.items() if had != value}
        if astray:
            yield f"Not comparable: train.{setting} was to be {value}, and is {_grouped(astray)}."


def _trained(run: Run) -> dict[str, object]:
    """Returns the training settings of a run, those that were added since among them."""
    return dict(flatten(as_now(run.config, ("train",)).get("train")))


def _unchecked(runs: Sequence[Run]) -> Iterator[str]:
    """Tells of checks that were left out by name, and of what a memory or a fusion declared to be meant."""
    told: dict[str, list[str]] = {}
    for run in runs:
        for outcome in run.record.preflight.checks if run.record.preflight else []:
            if outcome.reason == LEFT_OUT:
                told.setdefault(f"Preflight: {outcome.check} was left out by name in", []).append(run.name)
            elif outcome.status == "declared":
                told.setdefault(f"Preflight: {outcome.check}: {outcome.reason}, in", []).append(run.name)
    for what, names in told.items():
        yield f"{what} {listed(names)}."


def _rewritten(experiment: Experiment) -> Iterator[str]:
    """Tells of hypotheses, or of a level, that are not those which a run was started with."""
    alpha = experiment.plan.alpha
    changes: dict[str, list[str]] = {}
    for run in experiment.finished():
        told = _changes(run.record.hypotheses, experiment.plan.hypotheses)
        if told:
            changes.setdefault(told, []).append(run.name)
    for told, names in changes.items():
        yield f"The hypotheses were changed after {listed(names)} had been run: {told}."
    other = [run.name for run in experiment.finished() if run.record.alpha not in (None, alpha)]
    if other:
        yield f"alpha was changed after {listed(other)} had been run."


def _changes(before: Sequence[Hypothesis] | None, now: Sequence[Hypothesis]) -> str:
    """Says which hypotheses were added, changed or left out; empty if none was, or it is not known."""
    if before is None:
        return ""
    old, new = ({hypothesis.name: hypothesis for hypothesis in group} for group in (before, now))
    parts = {
        "added": [name for name in new if name not in old],
        "changed": [name for name in new if name in old and old[name] != new[name]],
        "left out": [name for name in old if name not in new],
    }
    return "; ".join(f"{what}: {', '.join(map(repr, names))}" for what, names in parts.items() if names)


def _unequal(name: str, values: Mapping[str, object]) -> Iterator[str]:
    if len({str(value) for value in values.values()}) > 1:
        yield f"Not comparable: {name} differs between runs: {_grouped(values)}."


def _grouped(values: Mapping[str, object]) -> str:
    """Lists the runs that have each value."""
    groups: dict[str, list[str]] = {}
    for run, value in values.items():
        groups.setdefault("not recorded" if value is None else str(value), []).append(run)
    return "; ".join(f"{value} in {listed(names)}" for value, names in groups.items())
