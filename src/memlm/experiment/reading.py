"""Reads what an experiment left in its folder: typed, checked, and without torch."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from pydantic import Field

from memlm.errors import RunError
from memlm.experiment.files import Tree, checked, parse_json, read_checked, read_json, read_text, read_yaml
from memlm.experiment.paths import FolderName, inside
from memlm.experiment.solution import Solution

Status = Literal["running", "finished", "interrupted", "failed"]
Number = Annotated[float, Field(allow_inf_nan=False)]
Whole = Annotated[int, Field(ge=0, le=10**18)]
ROUNDING = 1e-3
"""Nats per token by which the losses of documents, which are rounded, may be off from a result."""


@dataclass(frozen=True)
class Device:
    """Where a run computed; ``kind`` is cpu, cuda or mps."""

    kind: str
    name: str

    def __str__(self) -> str:
        """Reads ``name (kind)``."""
        return f"{self.name} ({self.kind})"


@dataclass(frozen=True)
class Data:
    """The text of a run: what identifies it and what is known about it.

    Bytes per token and the entropy, in nats per token, are those of the text of the evaluation at the end.
    """

    fingerprint: str
    tokenizer_fingerprint: str
    train_tokens: Whole
    validation_tokens: Whole
    bytes_per_token: Number
    unigram_entropy: Number
    judge_tokens: Whole = 0
    test_tokens: Whole = 0
    counts: Tree = field(default_factory=dict[str, Any])
    questions: str | None = None
    """What identifies the questions that were asked; None: none were."""


@dataclass(frozen=True)
class Cost:
    """What a model costs: parameters, and FLOPs and bytes read for each token."""

    parameters: Whole
    active_parameters: Whole
    memory_parameters: Whole
    flops_per_token: Number
    bytes_per_token: Number


@dataclass(frozen=True)
class Alarm:
    """An alarm of a run: what was found where, first and last at which step, how often, and whether it held to the end.

    ``value`` and ``message`` are those of the first time; see `memlm.train.alarms.Alarms.history`.
    """

    name: str
    where: str
    step: Whole
    last_step: Whole
    count: Whole
    active: bool
    value: Number
    threshold: Number
    message: str


@dataclass(frozen=True)
class CheckOutcome:
    """How a check of the preflight ended: passed, declared, skipped or failed, and the reason where it needs one."""

    check: str
    status: str
    reason: str = ""


@dataclass(frozen=True)
class Preflight:
    """The preflight that a run began with."""

    checks: list[CheckOutcome]


@dataclass(frozen=True)
class Continued:
    """A break of a run: the step after which it went on, and with what it had come there."""

    step: Whole
    commit: str | None = None
    dirty: bool | None = None
    device: Device | None = None
    versions: dict[str, str | None] | None = None


@dataclass(frozen=True)
class Evaluated:
    """The text of the evaluation at the end: its split, the hash of its documents, its tokens, and when it began."""

    split: str
    fingerprint: str
    tokens: Whole
    time: str


@dataclass(frozen=True)
class Record:
    """The content of ``record.json``; what a run has not reached yet is None or empty."""

    experiment: FolderName
    variant: FolderName
    seed: Whole
    status: Status
    started: str
    device: Device
    versions: dict[str, str | None]
    error: str | None = None
    finished: str | None = None
    host: str = ""
    commit: str | None = None
    dirty: bool = False
    config_hash: str = ""
    data: Data | None = None
    cost: Cost | None = None
    steps: Whole = 0
    tokens: Whole = 0
    hypotheses: list[Hypothesis] | None = None
    alpha: Number | None = None
    evaluated: Evaluated | None = None
    """None: it was not evaluated, or recorded before there was a test split."""
    results: Tree = field(default_factory=dict[str, Any])
    continued: list[Continued] = field(default_factory=list[Continued])
    alarms: list[Alarm] | None = None
    """None: the run was recorded before there were alarms."""
    preflight: Preflight | None = None
    """None: there was none."""


@dataclass(frozen=True)
class Sample:
    """One prompt, how the model continued it and how the held-out text does."""

    prompt: str
    model: str
    real: str


@dataclass(frozen=True)
class Documents:
    """The content of ``documents.json``: losses by document.

    Args:
        documents: A hash of each document's tokens.
        tokens: How many evaluated tokens lie in each.
        nats: By the result that they add up to, the summed loss of each document.
    """

    documents: list[str]
    tokens: list[Annotated[int, Field(ge=1, le=10**12)]]
    nats: dict[str, list[Annotated[float, Field(ge=0, le=1e15)]]]


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
class Hypothesis:
    """A claim about a metric, written before the run; `memlm.evaluate.claims` reads it."""

    name: str
    claim: str
    metric: str = "validation_loss"
    margin: Number = 0.0


@dataclass(frozen=True)
class Plan:
    """The content of ``experiment.json``: what was meant to run."""

    name: FolderName
    variants: list[FolderName]
    seeds: list[Whole]
    hypotheses: list[Hypothesis] = field(default_factory=list[Hypothesis])
    alpha: Annotated[float, Field(gt=0, le=0.5)] = 0.05
    config: Tree = field(default_factory=dict[str, Any])
    command: str = ""
    matches: list[Solution] = field(default_factory=list[Solution])
    own_training: dict[str, Tree] = field(default_factory=dict[str, Tree])
    """By variant, the training settings that are meant to differ from what the experiment shares, and their values."""


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


def run_name(variant: str, seed: int) -> str:
    """Returns the name of a run's folder."""
    return f"{variant}-s{seed}"


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
        RunError: there is no record, a file is broken, or one leads out of the folder.
    """
    path = inside(folder, "record.json")
    record = read_checked(Record, path)
    return Run(folder, record, read_yaml(inside(folder, "config.yaml")))


def read_plan(folder: Path) -> Plan:
    """Reads what was meant to run.

    Raises:
        RunError: the folder holds no experiment, or its plan is broken or leads out of the folder.
    """
    path = inside(folder, "experiment.json")
    if not path.exists():
        raise RunError(f"{folder}: no experiment here (there is no experiment.json)")
    return read_checked(Plan, path)


def read_experiment(folder: Path) -> Experiment:
    """Reads an experiment's plan and all of its runs.

    A run without a readable record does not stop the reading: it is listed as absent, with the reason.

    Raises:
        RunError: the folder holds no experiment, or its plan is broken or leads out of the folder.
    """
    plan = read_plan(folder)
    runs: list[Run] = []
    absent: dict[tuple[str, int], str] = {}
    planned = [(variant, seed) for variant in plan.variants for seed in plan.seeds]
    for variant, seed in planned:
        run_folder = folder / run_name(variant, seed)
        if not (run_folder / "record.json").exists():
            absent[variant, seed] = "was not run"
            continue
        try:
            runs.append(read_run(inside(folder, run_folder.name)))
        except RunError as error:
            absent[variant, seed] = f"cannot be read: {error}"
    names = {run_name(variant, seed) for variant, seed in planned}
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
