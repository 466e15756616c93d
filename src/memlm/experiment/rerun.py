"""Repeats a recorded run from its record, and says whether the numbers agree."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from memlm.data.asking import question_set
from memlm.data.prepare import prepare
from memlm.errors import RunError, counted
from memlm.experiment.config import ExperimentConfig
from memlm.experiment.difference import flatten
from memlm.experiment.models import database_fingerprint
from memlm.experiment.paths import inside
from memlm.experiment.reading import Run, read_finished
from memlm.experiment.record import abbreviated, code_state, config_hash, versions
from memlm.experiment.run import Watcher, device_record, run_experiment
from memlm.experiment.schema import Device, run_name
from memlm.storage import redacted
from memlm.train.accelerator import absent_device

SERIES = {"train/loss": "training loss", "evaluate/validation_loss": "evaluation loss"}
"""What is compared step by step, and what it is called."""
LOSSES = ("validation_loss", "train_loss", "train_subset_loss", "memory_off_loss", "memory_shuffled_loss")
QUALITY = "quality.score"
TIMES = {"time_s", "evaluate_time_s", "revival_time_s", "tokens_per_s", "peak_memory_gib"}
"""Results that no two runs share; never compared."""

LOSS_TOLERANCE = 0.01
"""Relative. Rounding that differs in the last bit grows with every step: with the other vector instructions of one CPU,
the demo's gated MLP was off by 0.004 in its worst training loss and by 0.0014 in its validation loss."""
QUALITY_TOLERANCE = 1.0
"""Points of 10. One sampled token that differs changes all that follow it, so the score is that of another draw."""


@dataclass(frozen=True)
class Comparison:
    """One number of the record and the same number of the rerun; of a series, the pair that is furthest apart.

    Attributes:
        what: The number's name.
        recorded: Its recorded value, None if there is none.
        rerun: Its value now, None if there is none.
        agrees: Whether it is as close as was expected; of a series, whether every pair is.
    """

    what: str
    recorded: float | None
    rerun: float | None
    agrees: bool

    @property
    def difference(self) -> float | None:
        """The rerun's value less the recorded one, None where one of them is missing."""
        return None if self.recorded is None or self.rerun is None else self.rerun - self.recorded


@dataclass(frozen=True)
class Rerun:
    """A run that is about to be repeated.

    Attributes:
        recorded: The run as it was recorded.
        config: An experiment of this one run; its trackers are switched off.
        root: The folder that takes the rerun.
        obstacles: Why the bits may differ, one sentence each; empty if they must be the same.
    """

    recorded: Run
    config: ExperimentConfig
    root: Path
    obstacles: list[str]

    @property
    def folder(self) -> Path:
        """The rerun's own folder."""
        (variant,), (seed,) = self.config.variants, self.config.seeds
        return self.root / self.config.name / run_name(variant, seed)

    @property
    def is_exact(self) -> bool:
        """Whether every number is expected bit for bit."""
        return not self.obstacles

    def execute(self, watcher: Watcher | None = None, progress: bool = True, command: str = "") -> list[Comparison]:
        """Trains and evaluates again, and compares; arguments as of `run_experiment`."""
        run_experiment(self.config, self.root, watcher, progress, command)
        return compare_runs(self.recorded, read_finished(self.folder), self.is_exact)


def plan_rerun(folder: Path, root: Path | None = None, progress: bool = True, keeps_finished: bool = False) -> Rerun:
    """Reads a run's record and says what is to be expected of repeating it; nothing is trained.

    Args:
        folder: The run's folder, which is only read.
        root: Takes the rerun as ``<experiment>/<run>``; ``.rerun`` in the experiment's folder if not given.
        progress: Show bars while the data are prepared.
        keeps_finished: A rerun that is there already is compared as it is, and not refused.

    Raises:
        RunError: the run is not finished, was made from other text, questions, database or settings that cannot be
            read, asks for a device that is not here, or was rerun there before, or the rerun's folder lies in the
            recorded one.
        MemlmError: of the data.
    """
    run = read_finished(folder)
    config = recorded_config(run)
    if absent := absent_device(config.train):
        raise RunError(
            f"{folder}: {absent.reason}; a rerun keeps every setting, so repeat it on a machine like the recorded "
            f"one, {run.record.device}"
        )
    rerun = Rerun(run, config, root or folder.resolve().parent / ".rerun", list(_obstacles(run, config)))
    if rerun.folder.resolve().is_relative_to(folder.resolve()):
        raise RunError(f"{rerun.folder} lies in the recorded run, which is only read; choose another --runs")
    if rerun.folder.parent.resolve() == folder.resolve().parent:
        raise RunError(f"{rerun.folder.parent} is the recorded experiment, which is only read; choose another --runs")
    if not keeps_finished and _is_finished(rerun.folder):  # one that was broken off goes on
        raise RunError(
            f"{rerun.folder} is there already, and a rerun replaces nothing; remove it, or choose another --runs"
        )
    _refuse_other_text(run, config, progress)
    return rerun


def _is_finished(folder: Path) -> bool:
    try:
        read_finished(folder)
    except RunError:
        return False
    return True


def recorded_config(run: Run) -> ExperimentConfig:
    """Returns the experiment of this one run, from its resolved configuration and without trackers.

    Raises:
        RunError: this version does not know a setting, or allows no such value.
    """
    sections = dict(run.config)
    name, variant, seed, model = (sections.pop(key, None) for key in ("experiment", "variant", "seed", "model"))
    tree = {"name": name, **sections, "variants": {variant: model}, "seeds": [seed]}
    try:
        config = ExperimentConfig.model_validate(tree)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(key) for key in first["loc"])
        raise RunError(
            f"{run.folder / 'config.yaml'}: {where}: {first['msg']}; the run was made by memlm "
            f"{run.record.versions.get('memlm')}, commit {run.record.commit}: repeat it with that"
        ) from None
    return config.model_copy(update={"train": config.train.model_copy(update={"trackers": []})})


def compare_runs(recorded: Run, rerun: Run, is_exact: bool) -> list[Comparison]:
    """Compares every logged loss and the final results; times and memory never.

    Where equal bits are expected, usage, recall and all other results count too, in one row: the furthest pair stands
    for them.

    Args:
        recorded: The run as it was recorded.
        rerun: The same run again.
        is_exact: Expect equal bits; otherwise the tolerances of this module.
    """
    rows = [
        _compare_series(name, _by_step(recorded, key), _by_step(rerun, key), is_exact) for key, name in SERIES.items()
    ]
    for path in (*LOSSES, QUALITY):
        pair = recorded.result(path), rerun.result(path)
        if pair != (None, None):
            agrees = _is_close(*pair, is_exact, absolute=QUALITY_TOLERANCE if path == QUALITY else None)
            rows.append(Comparison(path, *pair, agrees))
    if is_exact:
        rows.append(_compare_rest(recorded, rerun))
    return [row for row in rows if row is not None]


def _compare_rest(recorded: Run, rerun: Run) -> Comparison | None:
    """Compares all results that have no row of their own."""
    paths = dict.fromkeys(path for run in (recorded, rerun) for path, _ in flatten(run.record.results))
    rest = [path for path in paths if path not in TIMES and path not in (*LOSSES, QUALITY)]
    pairs = {path: (recorded.result(path), rerun.result(path)) for path in rest}
    if not pairs:
        return None
    path, furthest = max(pairs.items(), key=lambda item: _distance(*item[1]))
    agrees = all(a == b for a, b in pairs.values())
    return Comparison(f"{counted(len(pairs), 'other result')}, {path}", *furthest, agrees)


def _refuse_other_text(run: Run, config: ExperimentConfig, progress: bool) -> None:
    assert run.record.data is not None, "a finished run has recorded its data"
    data = prepare(config.data, progress=progress)
    if data.fingerprint != run.record.data.fingerprint:
        raise RunError(
            f"{run.folder}: data.corpus holds other text now (fingerprint {data.fingerprint[:16]}, recorded "
            f"{run.record.data.fingerprint[:16]}); bring the recorded text back"
        )
    if data.tokenizer_fingerprint != run.record.data.tokenizer_fingerprint:
        raise RunError(
            f"{run.folder}: the same text gives another tokenizer here, so losses cannot be compared; the run was made "
            f"with tokenizers {run.record.versions.get('tokenizers')}"
        )
    asked = question_set(config.data, config.evaluate)
    if (asked.fingerprint() if asked else None) != run.record.data.questions:
        raise RunError(
            f"{run.folder}: other questions are asked now than were recorded; bring the recorded "
            f"{config.evaluate.question_file or 'code that asks them'} back"
        )
    if database_fingerprint(config, run.record.variant) != run.record.data.database:
        raise RunError(f"{run.folder}: the file of bank.database has changed; bring the recorded one back")


def _obstacles(run: Run, config: ExperimentConfig) -> Iterator[str]:
    """Yields what may change the bits: the machine, the versions, the code, and settings that never promise them."""
    record, here, code = run.record, versions(), code_state()
    device = Device(**device_record(config.train))
    if device != record.device:
        yield f"the device is {device}, recorded {record.device}"
    for package in here:
        now, then = _without_patch(package, here[package]), _without_patch(package, record.versions.get(package))
        if now != then:
            yield f"{package} is {now}, recorded {then}"
    for part in record.continued:
        with_else = (part.commit, part.dirty, part.device, part.versions)
        if with_else != (record.commit, record.dirty, record.device, record.versions):
            yield f"its first {part.step} steps were taken with other code, versions or on another device"
    if abbreviated(code.commit) != abbreviated(record.commit):
        yield f"memlm's commit is {code.commit}, recorded {record.commit}"
    patch = inside(run.folder, "diff.patch")
    if redacted(code.difference) != (patch.read_text(encoding="utf-8") if patch.exists() else ""):
        yield "memlm's uncommitted difference is not the recorded one (diff.patch)"
    if config_hash(run.config) != record.config_hash:
        yield "config.yaml was changed after the run"
    if device.kind != "cpu" and not (device.kind == "cuda" and config.train.deterministic):
        yield f"sums on {device.kind} have no fixed order without train.deterministic: true"
    if config.train.compile:
        yield "train.compile is on, and the compiler promises no order of sums"


def _without_patch(package: str, version: str | None) -> str | None:
    """Returns a version; of Python's, major and minor alone, since its patches leave arithmetic as it is."""
    return ".".join(version.split(".")[:2]) if version and package == "python" else version


def _by_step(run: Run, key: str) -> dict[int, float | None]:
    """Returns a series of the metrics log; after a resume the later value counts."""
    lines: list[dict[str, Any]] = [*run.metrics()]
    return {line["step"]: line[key] for line in lines if key in line}


def _compare_series(
    name: str, recorded: dict[int, float | None], rerun: dict[int, float | None], is_exact: bool
) -> Comparison | None:
    """Compares two series by step; returns None if neither has a value."""
    pairs = {step: (recorded.get(step), rerun.get(step)) for step in sorted({*recorded, *rerun})}
    if not pairs:
        return None
    step, furthest = max(pairs.items(), key=lambda item: _distance(*item[1]))
    agrees = all(_is_close(*pair, is_exact) for pair in pairs.values())
    return Comparison(f"{name}, {counted(len(pairs), 'value')}, step {step}", *furthest, agrees)


def _distance(a: float | None, b: float | None) -> float:
    if a is None or b is None:
        return 0.0 if a is b else math.inf
    return abs(a - b)


def _is_close(a: float | None, b: float | None, is_exact: bool, absolute: float | None = None) -> bool:
    if is_exact or a is None or b is None:
        return a == b
    return abs(a - b) <= (LOSS_TOLERANCE * abs(a) if absolute is None else absolute)
