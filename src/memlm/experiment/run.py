"""Runs an experiment: every variant with every seed, each into its own folder; what is finished is not run again."""

# torch leaves parts of its interface untyped:
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers.utils.logging import disable_progress_bar

from memlm.config.train import TrainConfig
from memlm.data.cache import TokenData
from memlm.data.packing import unigram_entropy
from memlm.data.prepare import prepare
from memlm.data.sampler import Sampler
from memlm.errors import Interrupted, MemlmError, RunError
from memlm.evaluate.suite import Suite
from memlm.experiment.config import ExperimentConfig
from memlm.experiment.environment import processor
from memlm.experiment.models import new_model
from memlm.experiment.reading import run_name
from memlm.experiment.record import code_state, config_hash, environment, now
from memlm.model.cost import cost
from memlm.storage import write_json, write_text, write_yaml
from memlm.train.checkpoint import load_model, save_model
from memlm.train.loop import OUT_OF_MEMORY, Hooks, build_accelerator, train
from memlm.train.monitor import MetricLog, Tracker
from memlm.train.schedule import Plan
from memlm.train.trackers import BackgroundTracker, require


@dataclass(frozen=True)
class Watcher:
    """What is told of an experiment's course; the command line draws it, tests leave it alone.

    Attributes:
        started: A run's name and its steps.
        step: Step, loss, tokens per second.
        finished: A run's name and its results; an empty mapping for one that was finished before.
    """

    started: Callable[[str, int], None] = lambda _name, _steps: None
    step: Callable[[int, float, float], None] = lambda _step, _loss, _speed: None
    finished: Callable[[str, dict[str, Any]], None] = lambda _name, _results: None


@dataclass(frozen=True)
class Prepared:
    """What all runs of an experiment share."""

    config: ExperimentConfig
    folder: Path
    data: TokenData
    suite: Suite
    watcher: Watcher
    data_record: dict[str, Any]
    device: dict[str, str]


def run_experiment(
    config: ExperimentConfig, root: Path, watcher: Watcher | None = None, progress: bool = True, command: str = ""
) -> Path:
    """Trains and evaluates every variant with every seed that is not finished yet.

    Args:
        config: The experiment.
        root: The folder of all experiments; this one's is ``root / config.name``.
        watcher: Is told how it goes.
        progress: Show bars while the data are prepared.
        command: The command line, for the record.

    Returns:
        The experiment's folder.

    Raises:
        MemlmError: of the data, of a run (recorded there as failed), or of a folder that holds another experiment.
    """
    disable_progress_bar()  # transformers would draw bars of its own for every checkpoint
    folder = root / config.name
    build_accelerator(config.train)  # refuses a device or a launcher before anything else is done
    for tracker in config.train.trackers:
        require(tracker)
    _refuse_other_settings(config, folder)
    data = prepare(config.data, progress=progress)
    suite = Suite.of(config.evaluate, data, config.data.seq_len)
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder):
        write_json(folder / "experiment.json", _experiment_record(config, command))
        prepared = Prepared(
            config, folder, data, suite, watcher or Watcher(), _data_record(data, suite), device_record(config.train)
        )
        for seed in config.seeds:  # seeds outside, so that an experiment cut short compares all variants
            for variant in config.variants:
                _run_if_needed(prepared, variant, seed)
    return folder


@contextmanager
def _locked(folder: Path) -> Generator[None]:
    """Keeps a second process out of an experiment's folder; the system lets go of the lock when this one ends."""
    if sys.platform == "win32":
        yield
        return
    import fcntl

    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise RunError(
                f"{folder} is being run by another process; wait for it (memlm ps, memlm logs), or give this "
                "experiment another name (-o name=...)"
            ) from None
        yield


def _experiment_record(config: ExperimentConfig, command: str) -> dict[str, Any]:
    return {
        "format": 1,
        "name": config.name,
        "variants": list(config.variants),
        "seeds": config.seeds,
        "hypotheses": [hypothesis.model_dump(mode="json") for hypothesis in config.hypotheses],
        "config": config.model_dump(mode="json"),
        "command": command,
    }


def _finished_record(folder: Path) -> dict[str, Any] | None:
    try:
        record = json.loads((folder / "record.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record if record.get("status") == "finished" else None


def _refuse_other_settings(config: ExperimentConfig, folder: Path) -> None:
    """Refuses to mix runs of different settings in one folder, before anything is run."""
    for variant in config.variants:
        for seed in config.seeds:
            run = folder / run_name(variant, seed)
            record = _finished_record(run)
            if record and record.get("config_hash") != config_hash(config.run_config(variant, seed)):
                raise RunError(
                    f"{run} is a finished run with other settings; give this experiment another name "
                    "(-o name=...), or remove that folder"
                )


def _run_if_needed(prepared: Prepared, variant: str, seed: int) -> None:
    name = run_name(variant, seed)
    folder = prepared.folder / name
    record = _finished_record(folder)
    if record is not None:
        if record["data"]["fingerprint"] != prepared.data.fingerprint:
            raise RunError(
                f"{folder} was run on other text (the corpus has changed since); give this experiment another name "
                "(-o name=...), or remove that folder"
            )
        prepared.watcher.finished(name, {})
        return
    shutil.rmtree(folder, ignore_errors=True)  # what an unfinished run left behind belongs to other weights
    folder.mkdir(parents=True)
    run = _Run(prepared, variant, seed, folder)
    try:
        run.execute()
    except Interrupted as error:
        run.update(status="interrupted", finished=now(), error=str(error))
        raise
    except Exception as error:
        run.update(status="failed", finished=now(), error=f"{type(error).__name__}: {error}")
        if isinstance(error, torch.OutOfMemoryError):
            raise RunError(f"{folder}: {OUT_OF_MEMORY}") from error
        if isinstance(error, MemlmError):
            raise RunError(f"{folder}: {error}") from error
        raise


class _Run:
    """One run, and the record it keeps of itself."""

    def __init__(self, prepared: Prepared, variant: str, seed: int, folder: Path) -> None:
        self.prepared, self.variant, self.seed, self.folder = prepared, variant, seed, folder
        self.config = prepared.config.run_config(variant, seed)
        self.code = code_state()
        self.record: dict[str, Any] = {
            "format": 1,
            "experiment": prepared.config.name,
            "variant": variant,
            "seed": seed,
            "status": "running",
            "error": None,
            "started": now(),
            "finished": None,
            **environment(self.code),
            "device": prepared.device,
            "config_hash": config_hash(self.config),
            "hypotheses": [hypothesis.model_dump(mode="json") for hypothesis in prepared.config.hypotheses],
        }

    def update(self, **fields: Any) -> None:
        """Changes fields of the record and writes it."""
        self.record |= fields
        write_json(self.folder / "record.json", self.record)

    def execute(self) -> None:
        """Trains, saves, loads what was saved, evaluates that, and records it all."""
        prepared, config, folder = self.prepared, self.prepared.config, self.folder
        data = prepared.data
        sampler = Sampler(data.train.ids, config.data.seq_len, config.train.batch_size, self.seed)
        plan = Plan.of(config.train, config.data.seq_len, sampler.n_sequences)
        self._begin()
        prepared.watcher.started(folder.name, plan.steps)

        accelerator = build_accelerator(config.train)
        torch.manual_seed(self.seed)
        model = new_model(config, self.variant, prepared.suite.tokenizer)
        hooks = Hooks(
            evaluate=lambda: prepared.suite.evaluate_quick(model),
            save=lambda step: save_model(model, data.tokenizer, folder / f"checkpoint-{step}"),
            progress=prepared.watcher.step,
        )
        with MetricLog(folder / "metrics.jsonl", self._trackers(config.train)) as log:
            trained = train(model, sampler, config.train, log, hooks, folder)
        save_model(model, data.tokenizer, folder / "checkpoint")

        # What is evaluated is what others will load, so a part lost in saving shows here.
        device = next(model.parameters()).device
        loaded = load_model(folder / "checkpoint", device)
        with accelerator.autocast():
            results, samples = prepared.suite.evaluate(loaded, self.seed)
        write_json(folder / "samples.json", samples)
        results |= asdict(trained)
        self.update(
            status="finished",
            finished=now(),
            steps=results.pop("steps"),
            tokens=results.pop("tokens"),
            results=results,
        )
        prepared.watcher.finished(folder.name, results)

    def _begin(self) -> None:
        """Writes the settings and everything about the run that is known before its first step."""
        config = self.prepared.config
        write_yaml(self.folder / "config.yaml", self.config)
        if self.code.difference:
            write_text(self.folder / "diff.patch", self.code.difference)
        price = cost(config.variants[self.variant], config.data.vocab_size, config.data.seq_len)
        self.update(
            data=self.prepared.data_record,
            cost=price.as_dict(),
            steps=0,
            tokens=0,
            results={},
        )

    def _trackers(self, config: TrainConfig) -> list[Tracker]:
        name = f"{self.prepared.config.name}/{self.folder.name}"
        return [BackgroundTracker(kind, name, self.folder / "trackers", self.config) for kind in config.trackers]


def device_record(config: TrainConfig) -> dict[str, str]:
    """Returns the kind and the name of the device that training uses."""
    device = build_accelerator(config).device
    if device.type == "cuda":
        return {"kind": "cuda", "name": torch.cuda.get_device_name(device)}
    return {"kind": device.type, "name": f"{processor()}, {torch.get_num_threads()} threads"}


def _data_record(data: TokenData, suite: Suite) -> dict[str, Any]:
    return {
        "fingerprint": data.fingerprint,
        "tokenizer_fingerprint": data.tokenizer_fingerprint,
        "train_tokens": len(data.train.ids),
        "validation_tokens": len(data.validation.ids),
        "judge_tokens": len(data.judge.ids),
        "bytes_per_token": suite.bytes_per_token,
        "unigram_entropy": unigram_entropy(data.validation.ids),
        "counts": data.counts,
    }
