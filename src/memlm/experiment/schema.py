"""What an experiment writes down: the types of its JSON files, checked as they are read. Free of torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import Field

from memlm.experiment.files import Tree
from memlm.experiment.paths import FolderName
from memlm.experiment.solution import Solution

Status = Literal["running", "finished", "interrupted", "failed"]
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
    database: str | None = None
    """The hash of the file that the bank was filled from; None: it was not."""


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
    added_after_test: list[str] = field(default_factory=list[str])
    """Names of runs that were added when the test split had been opened, by `memlm.experiment.opened`."""

    @property
    def runs(self) -> list[tuple[str, int]]:
        """Variant and seed of every run."""
        return [(variant, seed) for variant in self.variants for seed in self.seeds]


def run_name(variant: str, seed: int) -> str:
    """Returns the name of a run's folder."""
    return f"{variant}-s{seed}"
