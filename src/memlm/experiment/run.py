"""Runs an experiment: every variant with every seed, each into its own folder; what is finished is not run again."""

# torch leaves parts of its interface untyped:
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers.utils.logging import disable_progress_bar

from memlm.config.train import TrainConfig
from memlm.data.cache import TokenData
from memlm.data.packing import unigram_entropy
from memlm.data.prepare import prepare
from memlm.errors import CheckpointError, DivergedError, Interrupted, MemlmError, PreflightError, RunError
from memlm.evaluate.suite import Suite
from memlm.experiment.attempt import Attempt, Prepared, Watcher
from memlm.experiment.begun import (
    last_record,
    owners_of,
    refuse_other_database,
    refuse_other_settings,
    refuse_other_text,
    refuse_strangers,
)
from memlm.experiment.config import ExperimentConfig
from memlm.experiment.environment import processor
from memlm.experiment.followers import Followers
from memlm.experiment.locks import locked
from memlm.experiment.match import recall_steps, solve_steps, solve_widths, standing
from memlm.experiment.opened import added_after_test
from memlm.experiment.reading import read_plan
from memlm.experiment.schema import run_name
from memlm.experiment.settings import recorded_experiment
from memlm.experiment.solution import Solution
from memlm.experiment.spread import claimed, spread
from memlm.experiment.text import suite_of
from memlm.storage import write_json
from memlm.train.accelerator import OUT_OF_MEMORY, build_accelerator
from memlm.train.checkpoint import FINAL
from memlm.train.manifest import verify
from memlm.train.ranks import Ranks
from memlm.train.trackers import require

logger = logging.getLogger(__name__)

AGAIN = "mend that and give the same command again: it goes on from what was saved"


def run_experiment(
    config: ExperimentConfig,
    root: Path,
    watcher: Watcher | None = None,
    progress: bool = True,
    command: str = "",
    workers: int = 0,
) -> Path:
    """Trains and evaluates every variant with every seed that is not finished yet.

    Args:
        config: The experiment; what its matches ask for is solved first, or taken from the record of an earlier call.
        root: The folder of all experiments; this one's is ``root / config.name``.
        watcher: Is told how it goes.
        progress: Show bars while the data are prepared.
        command: The command line, for the record.
        workers: Make so many runs at a time, each in a process of its own (`memlm.experiment.spread`); 0: one after
            the other, here.

    Returns:
        The experiment's folder.

    Raises:
        MemlmError: of the data, or of a folder that holds another experiment; nothing was run. Of a run (recorded
            there as failed): all others have been made, unless the other ranks are lost with it.

    Under a launcher this is rank 0's part; the other ranks call `memlm.experiment.followers.follow`.
    """
    disable_progress_bar()  # transformers would draw bars of its own for every checkpoint
    folder = root / config.name
    ranks = Ranks.of(build_accelerator(config.train))  # refuses a device before anything else is done
    followers = Followers(ranks)
    with followers.dismissed():
        _make(config, folder, watcher or Watcher(), progress, command, followers, workers)
    return folder


def _make(
    config: ExperimentConfig,
    folder: Path,
    watcher: Watcher,
    progress: bool,
    command: str,
    followers: Followers,
    workers: int,
) -> None:
    """Does the work of `run_experiment`."""
    for tracker in config.train.trackers:
        require(tracker)
    stated = config
    config, widths = solve_widths(config)
    recorded = _solutions(folder, config)
    refuse_other_settings(recall_steps(config, recorded)[0], folder)
    data = prepare(config.data, progress=progress)
    suite = suite_of(config, data)
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        # Seeds outside, so that an experiment cut short compares all variants.
        planned = [(variant, seed) for seed in config.seeds for variant in config.variants]
        for run in (folder / run_name(*names) for names in planned):  # before times are measured on this text instead
            refuse_other_text(run, owners_of(run), data.fingerprint)
        device = device_record(config.train)
        config, steps = solve_steps(config, data, suite.tokenizer, device["name"], recorded)
        refuse_strangers(config, folder)
        plan = _experiment_record(stated, config, [*widths, *steps], command)
        added = added_after_test(folder, [run_name(*run) for run in planned])
        write_json(folder / "experiment.json", plan | {"added_after_test": added})
        for solution in (*widths, *steps):
            watcher.matched(solution)
        prepared = Prepared(config, folder, data, suite, watcher, _data_record(data, suite), device, followers)
        if workers:
            _run_apart(prepared, planned, workers)
        else:
            _run_all(prepared, planned)


def _run_all(prepared: Prepared, planned: Sequence[tuple[str, int]]) -> None:
    """Makes every run that is not finished; one that fails keeps no other from it, and is told at the end."""
    failed: dict[str, MemlmError] = {}
    for variant, seed in planned:
        try:
            _run_if_needed(prepared, variant, seed)
        except MemlmError as error:
            name = run_name(variant, seed)
            prepared.watcher.failed(name, str(error))
            failed[name] = _bare(error)
            if not prepared.followers.are_waiting:
                break
    _refuse_failed(failed, planned)


def _run_apart(prepared: Prepared, planned: Sequence[tuple[str, int]], workers: int) -> None:
    """Does what `_run_all` does, in other processes."""
    failed: dict[str, MemlmError] = {}
    make = partial(_run_here, prepared.config, prepared.folder)
    for name, outcome in spread(make, planned, workers, on_gpu=prepared.device["kind"] == "cuda"):
        if isinstance(outcome, MemlmError):
            prepared.watcher.failed(name, str(outcome))
            failed[name] = outcome
        else:
            prepared.watcher.finished(name, outcome)
    _refuse_failed(failed, planned)


def _run_here(config: ExperimentConfig, folder: Path, variant: str, seed: int) -> dict[str, Any]:
    """Makes a run in a worker's process; returns its results, or nothing if it was finished before."""
    disable_progress_bar()
    followers = Followers(Ranks.of(build_accelerator(config.train)))
    data = prepare(config.data, progress=False)
    suite = suite_of(config, data)
    results: dict[str, Any] = {}
    watcher = Watcher(finished=lambda _name, found: results.update(found))
    record, device = _data_record(data, suite), device_record(config.train)
    with claimed(folder / run_name(variant, seed)):
        _run_if_needed(Prepared(config, folder, data, suite, watcher, record, device, followers), variant, seed)
    return results


def _bare(error: MemlmError) -> MemlmError:
    """Returns an error without where it comes from, which would keep a run's model alive."""
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)


def _refuse_failed(failed: Mapping[str, MemlmError], planned: Sequence[tuple[str, int]]) -> None:
    """Tells which runs failed, if any did; the exit code is theirs where they have the same one."""
    if not failed:
        return
    first, *others = failed.values()
    if not others:
        raise first
    reason = " ".join(str(first).split())
    names = ", ".join(failed)
    together = RunError(f"{len(failed)} of {len(planned)} runs failed: {names}; the first: {reason}")
    if all(error.exit_code == first.exit_code for error in others):
        together.exit_code = first.exit_code
    raise together


def _experiment_record(
    stated: ExperimentConfig, config: ExperimentConfig, solutions: list[Solution], command: str
) -> dict[str, Any]:
    return {
        "format": 1,
        "name": config.name,
        "variants": list(config.variants),
        "seeds": config.seeds,
        "hypotheses": [hypothesis.model_dump(mode="json") for hypothesis in config.hypotheses],
        "alpha": config.alpha,
        "matches": [asdict(solution) for solution in solutions],
        "own_training": {variant: own for variant in config.variants if (own := _own_training(config, variant))},
        "config": stated.model_dump(mode="json"),
        "command": command,
    }


def _own_training(config: ExperimentConfig, variant: str) -> dict[str, Any]:
    """Returns the training settings in which a variant is meant to differ from what the experiment shares."""
    shared, own = (settings.model_dump(mode="json") for settings in (config.train, config.train_of(variant)))
    return {name: value for name, value in own.items() if value != shared[name]}


def _solutions(folder: Path, config: ExperimentConfig) -> list[Solution]:
    """Returns what an earlier call measured and still stands; nothing if there was none, or none that can be read."""
    try:
        plan = read_plan(folder)
    except RunError:
        return []
    return standing(config, recorded_experiment(plan.config), plan.matches)


def _tell_damage(folder: Path) -> None:
    """Tells of a finished run whose model is there and is no longer the one that was written."""
    if (folder / FINAL).exists():
        try:
            verify(folder / FINAL)
        except CheckpointError as error:
            logger.warning("%s; the results stand, to have the model again remove %s", error, folder)


def _run_if_needed(prepared: Prepared, variant: str, seed: int) -> None:
    name = run_name(variant, seed)
    folder = prepared.folder / name
    owners = owners_of(folder)
    refuse_other_text(folder, owners, prepared.data.fingerprint)
    before = last_record(folder)
    if owners and before:
        refuse_other_database(prepared.config, variant, folder, before)
    if before.get("status") == "finished":
        if before["data"].get("questions") != prepared.data_record["questions"]:
            raise RunError(
                f"{folder} was asked other questions (evaluate.question_file has changed since); bring them back, or "
                "give this experiment another name (-o name=...)"
            )
        _tell_damage(folder)
        prepared.watcher.finished(name, {})
        return
    if not owners and not any(folder.glob(f"{FINAL}*")):
        shutil.rmtree(folder, ignore_errors=True)  # nothing there to go on from
        before = {}
    folder.mkdir(parents=True, exist_ok=True)
    for leftover in folder.glob(".*"):  # what a kill left half written
        shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
    attempt = Attempt(prepared, variant, seed, folder, before)
    try:
        attempt.execute()
    except Interrupted as error:
        attempt.end("interrupted", str(error))
        raise
    except Exception as error:
        attempt.end("failed", f"{type(error).__name__}: {error}")
        if isinstance(error, torch.OutOfMemoryError):
            raise RunError(f"{folder}: {OUT_OF_MEMORY}") from error
        if isinstance(error, OSError):
            raise RunError(f"{error.filename or folder}: {error.strerror or error}; {AGAIN}") from error
        # A checkpoint's error names its own folder, and a preflight's has its own exit code.
        if isinstance(error, MemlmError) and not isinstance(error, (CheckpointError, PreflightError)):
            kind = DivergedError if isinstance(error, DivergedError) else RunError
            raise kind(f"{folder}: {error}") from error
        raise


def device_record(config: TrainConfig) -> dict[str, str]:
    """Returns the kind and the name of the device that training uses; of several ranks, how many there are."""
    accelerator = build_accelerator(config)
    device, ranks = accelerator.device, accelerator.num_processes
    together = f", {ranks} ranks" if ranks > 1 else ""
    if device.type == "cuda":
        return {"kind": "cuda", "name": torch.cuda.get_device_name(device) + together}
    vectors = torch.backends.cpu.get_cpu_capability()  # they decide the order of sums, and with it the last bits
    return {"kind": device.type, "name": f"{processor()}, {vectors}, {torch.get_num_threads()} threads{together}"}


def _data_record(data: TokenData, suite: Suite) -> dict[str, Any]:
    return {
        "fingerprint": data.fingerprint,
        "tokenizer_fingerprint": data.tokenizer_fingerprint,
        "train_tokens": len(data.train.ids),
        "validation_tokens": len(data.validation.ids),
        "judge_tokens": len(data.judge.ids),
        "test_tokens": len(data.test.ids),
        "bytes_per_token": suite.bytes_per_token,
        "unigram_entropy": unigram_entropy(suite.held_out.ids),
        "counts": data.counts,
        "questions": suite.asked.fingerprint() if suite.asked else None,
    }
