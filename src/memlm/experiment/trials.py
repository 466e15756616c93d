"""What a tune left in its folder: trials of learning rates, and which came out best. Free of torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import log
from pathlib import Path
from typing import Any

from memlm.errors import RunError
from memlm.experiment.files import Tree, read_checked
from memlm.experiment.paths import FolderName, inside
from memlm.experiment.schema import Number, Whole

EDGE = 0.05
"""Share of a range, on its logarithmic scale, that counts as its edge."""


PLAN = "tune.json"
"""The file in a tune's folder that says what was tuned."""


@dataclass(frozen=True)
class Trial:
    """One short training.

    Attributes:
        variant: Which variant.
        number: The how-manieth of the variant, from 0, which has the rates of the config.
        rates: ``lr``, and ``value_lr`` for a variant with a memory.
        loss: On the tune split after the last step, nats per token; None if the training was not finite.
        time_s: Seconds, evaluation included.
        error: Why there is no loss.
    """

    variant: FolderName
    number: Whole
    rates: dict[str, Number]
    loss: Number | None
    time_s: Number
    error: str | None = None


@dataclass(frozen=True)
class TunePlan:
    """What was tuned: the content of ``tune.json``.

    Attributes:
        name: The experiment.
        variants: Its variants.
        trials: Trials for each of them.
        steps: Optimizer steps of a trial.
        seed: Decides rates, initial weights and data order.
        ranges: Lowest and highest value of each rate.
        settings_hash: Of all that decides a trial's loss: `settings`, steps, ranges and data.
        data: The fingerprint of the text; empty in a tune of before it was recorded.
        config: The experiment as it was tuned, its widths solved.
        settings: Those of each variant, as a run's; none in a tune of before they were recorded.
    """

    name: FolderName
    variants: list[FolderName]
    trials: Whole
    steps: Whole
    tokens: Whole
    seed: Whole
    ranges: dict[str, tuple[Number, Number]]
    settings_hash: str
    data: str = ""
    config: Tree = field(default_factory=dict[str, Any])
    settings: dict[str, Tree] = field(default_factory=dict[str, Tree])


@dataclass(frozen=True)
class Tune:
    """A tune, and all of its finished trials in the order of variants and numbers."""

    folder: Path
    plan: TunePlan
    trials: list[Trial]

    def of(self, variant: str) -> list[Trial]:
        """Returns the trials of a variant."""
        return [trial for trial in self.trials if trial.variant == variant]

    def best(self, variant: str) -> Trial | None:
        """Returns the trial of lowest loss; None if none has one."""
        finite = [trial for trial in self.of(variant) if trial.loss is not None]
        return min(finite, key=lambda trial: (trial.loss, trial.number), default=None)

    def at_edge(self, trial: Trial) -> list[str]:
        """Returns the rates of a trial that lie at an edge of their range, so that better ones may lie beyond."""
        found: list[str] = []
        for name, rate in trial.rates.items():
            low, high = map(log, self.plan.ranges[name])
            margin = EDGE * (high - low)
            if not low + margin < log(rate) < high - margin:
                found.append(name)
        return found


def trial_path(folder: Path, variant: str, number: int) -> Path:
    """Returns the file of a trial."""
    return folder / "trials" / f"{variant}-{number}.json"


def is_tune(folder: Path) -> bool:
    """Whether a folder is that of `memlm tune`."""
    return (folder / PLAN).is_file()


def read_tune(folder: Path) -> Tune:
    """Reads a tune; a trial that was not finished is not there.

    Raises:
        RunError: the folder holds no tune, or a file in it is broken or leads out of it.
    """
    path = inside(folder, PLAN)
    plan = read_checked(TunePlan, path)
    for name, (low, high) in plan.ranges.items():
        if not 0 < low < high:
            raise RunError(f"{path}: ranges.{name}: must be the lowest and the highest rate, above 0 and in this order")
    return Tune(folder, plan, list(_trials(folder, plan)))


def _trials(folder: Path, plan: TunePlan) -> Sequence[Trial]:
    numbered = [(variant, number) for variant in plan.variants for number in range(plan.trials)]
    paths = [inside(folder, str(trial_path(Path(), variant, number))) for variant, number in numbered]
    return [read_trial(path, plan) for path in paths if path.exists()]


def read_trial(path: Path, plan: TunePlan) -> Trial:
    """Reads a trial of a tune.

    Raises:
        RunError: it is broken, or has a rate that is not above 0 or not of the tune.
    """
    trial = read_checked(Trial, path)
    for name, rate in trial.rates.items():
        if name not in plan.ranges:
            raise RunError(f"{path}: rates.{name}: is no rate of this tune ({PLAN} has no range of it)")
        if rate <= 0:
            raise RunError(f"{path}: rates.{name}: must be above 0")
    return trial
