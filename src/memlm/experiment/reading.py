"""Reads what an experiment left in its folder: typed, checked, and without torch."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from memlm.errors import RunError
from memlm.experiment.files import Tree, checked, parse_json, read_checked, read_json, read_text, read_yaml
from memlm.experiment.paths import FINAL_WEIGHTS, inside
from memlm.experiment.schema import Documents, Plan, Record, Sample, run_name
from memlm.train.manifest import require

NOT_RUN = "was not run"
"""Why a run that nobody began is absent."""
ROUNDING = 1e-3
"""Nats per token by which the losses of documents, which are rounded, may be off from a result."""


@dataclass(frozen=True)
class Run:
    """One variant trained with one seed; ``config`` is its resolved configuration."""

    folder: Path
    record: Record
    config: Tree

    @property
    def name(self) -> str:
        """The name of its folder, ``<variant>-s<seed>``."""
        return run_name(self.record.variant, self.record.seed)

    @property
    def is_finished(self) -> bool:
        """Whether it reached its end; only such runs are compared."""
        return self.record.status == "finished"

    def result(self, path: str) -> float | None:
        """Returns the finite number at a dotted path of the results (``quality.score``), None if there is none."""
        node: Any = self.record.results
        for key in path.split("."):
            node = cast(Tree, node).get(key) if isinstance(node, dict) else None
        return _finite(node)

    @property
    def layers(self) -> list[str]:
        """The layers whose memory use was measured, in order; none for a model without a memory."""
        usage = self.record.results.get("usage")
        layers = cast(Tree, usage) if isinstance(usage, dict) else {}
        return sorted(layers, key=lambda layer: (len(layer), layer))

    def metrics(self) -> list[Tree]:
        """Returns the lines of ``metrics.jsonl``, none if nothing was logged; each has ``step`` and ``tokens``.

        A last line that was cut off by a kill is left out.

        Raises:
            RunError: any other line is broken, or the file is a link out of the folder.
        """
        path = inside(self.folder, "metrics.jsonl")
        lines = read_text(path).splitlines() if path.exists() else []
        return list(_parsed(lines, path))

    def series(self, key: str) -> list[tuple[float, float]]:
        """Returns (tokens, value) over training for one key of the metrics; after a resume the later value counts.

        What is no finite number is left out.
        """
        points: dict[float, tuple[float, float]] = {}
        for line in self.metrics():
            value = _finite(line.get(key))
            if value is not None:
                points[line["step"]] = line["tokens"], value
        return [points[step] for step in sorted(points)]

    def samples(self) -> list[Sample]:
        """Returns the generated samples, none if nothing was generated."""
        path = inside(self.folder, "samples.json")
        return checked(list[Sample], read_json(path), path) if path.exists() else []

    def documents(self) -> Documents | None:
        """Returns the losses by document, None if none were recorded.

        Raises:
            RunError: they are broken, or do not add up to the results.
        """
        path = inside(self.folder, "documents.json")
        if not path.exists():
            return None
        found = checked(Documents, read_json(path), path)
        n = len(found.documents)
        if not n or {n} != {len(values) for values in (found.tokens, *found.nats.values())}:
            raise RunError(f"{path}: needs a name, tokens and losses for each document, and at least one")
        for metric, sums in found.nats.items():
            mean, result = math.fsum(sums) / sum(found.tokens), self.result(metric)
            if result is not None and abs(mean - result) > ROUNDING:
                raise RunError(f"{path}: {metric} adds up to {mean:.4f}, and the record has {result}")
        return found


@dataclass(frozen=True)
class Experiment:
    """An experiment and all that was recorded of it.

    Args:
        folder: ``runs/<experiment>``.
        plan: What was meant to run.
        runs: Every run whose record can be read, in the order of the plan.
        absent: Why a planned run has no readable record, by (variant, seed).
        strays: Names of run folders that the plan does not know.
    """

    folder: Path
    plan: Plan
    runs: list[Run]
    absent: dict[tuple[str, int], str]
    strays: list[str]

    def finished(self, variant: str | None = None) -> list[Run]:
        """Returns the finished runs, of one variant if it is given."""
        return [run for run in self.runs if run.is_finished and variant in (None, run.record.variant)]


def listed(names: Sequence[str]) -> str:
    """Returns names for a sentence: the first four, and how many more there are."""
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def refuse_experiment(folder: Path) -> None:
    """Refuses the folder of an experiment where that of a run is wanted.

    Raises:
        RunError: it names the experiment's runs.
    """
    if (folder / "experiment.json").exists():
        names = ", ".join(sorted(record.parent.name for record in folder.glob("*/record.json")))
        raise RunError(f"{folder} is an experiment; give the folder of one of its runs: {names}")


def read_run(folder: Path) -> Run:
    """Reads one run's record and configuration.

    Raises:
        RunError: the folder is that of an experiment or no run's, a file is broken, or one leads out of the folder.
    """
    refuse_experiment(folder)
    if not os.path.lexists(folder / "record.json"):  # a link that leads nowhere is told as a file
        absent = "is a file, and no run's folder" if folder.exists() else "there is no such folder"
        reason = "is no run's folder (there is no record.json)" if folder.is_dir() else absent
        run = folder.parent if (folder.parent / "record.json").exists() else "one, e.g. runs/demo/gated_mlp-s0"
        raise RunError(f"{folder}: {reason}; give {run}")
    path = inside(folder, "record.json")
    record = read_checked(Record, path)
    return Run(folder, record, read_yaml(inside(folder, "config.yaml")))


def read_finished(folder: Path) -> Run:
    """Reads a run that reached its end, so that it has results and knows its text.

    Raises:
        RunError: it has not, or cannot be read, or the folder is that of an experiment.
    """
    run = read_run(folder)
    if not run.is_finished or run.record.data is None:
        raise RunError(f"{folder}: is no finished run (status: {run.record.status}); memlm run goes on with it")
    return run


def no_memory(run: Run, purpose: str) -> RunError:
    """Returns the error that a run's model has no memory to do something with, such as ``edit``."""
    return RunError(
        f"{run.folder}: {run.record.variant} has no memory to {purpose}; give a run of a variant that has one"
    )


def read_trained(folder: Path) -> Run:
    """Reads a finished run whose checkpoint is there: a command tells the want of one before it imports torch.

    Raises:
        RunError: as of `read_finished`.
        CheckpointError: it holds no checkpoint, as a record that was kept alone.
    """
    run = read_finished(folder)
    require(inside(folder, FINAL_WEIGHTS).parent)
    return run


def read_remembering(folder: Path, purpose: str) -> Run:
    """Reads a finished run of a model with a memory, whose checkpoint is there; errors as of `read_trained`.

    Args:
        folder: The run's folder.
        purpose: What it is read to do, such as ``inspect``; the error that it has no memory says so.
    """
    run = read_finished(folder)
    model = run.config.get("model")
    if isinstance(model, dict) and cast(Tree, model).get("memory") is None:
        raise no_memory(run, purpose)
    return read_trained(folder)


def read_plan(folder: Path) -> Plan:
    """Reads what was meant to run.

    Raises:
        RunError: the folder holds no experiment, or its plan is broken or leads out of the folder.
    """
    path = inside(folder, "experiment.json")
    if not path.exists():
        above = folder.resolve().parent
        if (folder / "record.json").exists() and (above / "experiment.json").exists():
            raise RunError(f"{folder}: is a single run; give the folder of its experiment: {above}")
        raise RunError(f"{folder}: no experiment here (there is no experiment.json)")
    plan = read_checked(Plan, path)
    if len(set(plan.runs)) < len(plan.runs):
        raise RunError(f"{path}: names a variant or a seed twice")
    return plan


def read_experiment(folder: Path) -> Experiment:
    """Reads an experiment's plan and all of its runs.

    A run without a readable record does not stop the reading: it is listed as absent, with the reason.

    Raises:
        RunError: the folder holds no experiment, or its plan is broken or leads out of the folder.
    """
    plan = read_plan(folder)
    runs: list[Run] = []
    absent: dict[tuple[str, int], str] = {}
    for variant, seed in plan.runs:
        run_folder = folder / run_name(variant, seed)
        if not (run_folder / "record.json").exists():
            absent[variant, seed] = NOT_RUN
            continue
        try:
            run = read_run(inside(folder, run_folder.name))
        except RunError as error:
            absent[variant, seed] = f"cannot be read: {error}"
            continue
        if (run.record.experiment, run.name) == (plan.name, run_folder.name):
            runs.append(run)
        else:
            whose = f"{run.name} of the experiment {run.record.experiment}"
            absent[variant, seed] = f"is not there: its folder holds {whose}, and experiment.json is of {plan.name}"
    names = {run_name(variant, seed) for variant, seed in plan.runs}
    strays = sorted(record.parent.name for record in folder.glob("*/record.json") if record.parent.name not in names)
    return Experiment(folder, plan, runs, absent, strays)


def _parsed(lines: list[str], path: Path) -> Iterator[Tree]:
    for number, line in enumerate(lines, start=1):
        try:
            fields = parse_json(line)
        except ValueError as error:
            if number == len(lines):
                return
            reason = error.msg if isinstance(error, json.JSONDecodeError) else error
            raise RunError(f"{path}:{number}: is not valid JSON: {reason}") from None
        measured = cast(Tree, fields) if isinstance(fields, dict) else {}
        if None in (_finite(measured.get(name)) for name in ("step", "tokens")):
            raise RunError(f"{path}:{number}: is no line of metrics (it needs the numbers step and tokens)")
        yield measured


def _finite(value: object) -> float | None:
    """Returns a finite number as it is meant, None for anything else."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None
