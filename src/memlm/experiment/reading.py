"""Reads what an experiment left in its folder: typed, checked, and without torch."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, cast

from pydantic import Field, TypeAdapter, ValidationError

from memlm.config.load import read_file
from memlm.errors import RunError
from memlm.experiment.paths import FolderName, inside

T = TypeVar("T")
Status = Literal["running", "finished", "interrupted", "failed"]
Tree = dict[str, Any]
Number = Annotated[float, Field(allow_inf_nan=False)]
Whole = Annotated[int, Field(ge=0, le=10**18)]


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
    """The text of a run: what identifies it and what is known about it (entropy in nats per token)."""

    fingerprint: str
    tokenizer_fingerprint: str
    train_tokens: Whole
    validation_tokens: Whole
    bytes_per_token: Number
    unigram_entropy: Number
    judge_tokens: Whole = 0
    counts: Tree = field(default_factory=dict[str, Any])


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
        lines = _text(path).splitlines() if path.exists() else []
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
        return _checked(list[Sample], _json(path), path) if path.exists() else []


@dataclass(frozen=True)
class Hypothesis:
    """A claim ``left < right`` about a metric, written before the run."""

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
    config: Tree = field(default_factory=dict[str, Any])
    command: str = ""


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
    record = _checked(Record, _json(path), path)
    return Run(folder, record, _yaml(inside(folder, "config.yaml")))


def read_experiment(folder: Path) -> Experiment:
    """Reads an experiment's plan and all of its runs.

    A run without a readable record does not stop the reading: it is listed as absent, with the reason.

    Raises:
        RunError: the folder holds no experiment, or its plan is broken or leads out of the folder.
    """
    path = inside(folder, "experiment.json")
    if not path.exists():
        raise RunError(f"{folder}: no experiment here (there is no experiment.json)")
    plan = _checked(Plan, _json(path), path)
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


def parse_json(text: str) -> object:
    """Returns the value in a JSON text.

    Raises:
        ValueError: it is no JSON, nests too deep, or holds half a character, which nothing could print.
    """
    try:
        value = json.loads(text)
        json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise ValueError("it nests too deep") from None
    return value


@lru_cache
def _adapter(kind: type[T]) -> TypeAdapter[T]:
    return TypeAdapter(kind)


def _checked(kind: type[T], value: object, path: Path) -> T:
    try:
        return _adapter(kind).validate_python(value)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(key) for key in first["loc"]) or "the whole"
        raise RunError(f"{path}: {where}: {first['msg'].lower()}") from None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise RunError(f"{path}: there is no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(f"{path}: cannot be read: {error}") from None


def _json(path: Path) -> object:
    try:
        return parse_json(_text(path))
    except json.JSONDecodeError as error:
        raise RunError(f"{path}:{error.lineno}: is not valid JSON: {error.msg}") from None
    except ValueError as error:
        raise RunError(f"{path}: is JSON that cannot be read: {error}") from None


def _yaml(path: Path) -> Tree:
    tree = read_file(path)
    for problem in tree.problems:
        where = problem.where if problem.where and problem.where.line else path
        raise RunError(f"{where}: {problem.reason}")
    return tree.data


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
