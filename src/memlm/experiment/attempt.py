"""One attempt at a run: it goes on from where the last one got to, trains, evaluates and keeps the run's record."""

# torch leaves parts of its interface untyped:
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from memlm.config.train import TrainConfig
from memlm.data.cache import TokenData
from memlm.errors import CheckpointError
from memlm.evaluate.recall import per_parameter
from memlm.evaluate.suite import Suite
from memlm.experiment.config import ExperimentConfig
from memlm.experiment.evaluated import load_evaluated
from memlm.experiment.followers import Followers, Order
from memlm.experiment.models import database_fingerprint, new_model, starting_device
from memlm.experiment.preflight import preflight_variant
from memlm.experiment.record import code_state, config_hash, environment, now
from memlm.experiment.settings import begun_with
from memlm.experiment.solution import Solution
from memlm.experiment.text import sampler_of
from memlm.hf import MemlmForCausalLM
from memlm.model.cost import cost
from memlm.storage import write_compact_json, write_json, write_text, write_yaml
from memlm.train.accelerator import build_accelerator
from memlm.train.checkpoint import FINAL, finish, newest_sound, prune, remove_after, save_model
from memlm.train.interrupts import deferred_signals
from memlm.train.loop import Hooks, TrainResult, train
from memlm.train.manifest import verify
from memlm.train.monitor import MetricLog, Tracker
from memlm.train.preflight import require
from memlm.train.schedule import Plan
from memlm.train.state import TrainingState
from memlm.train.trackers import BackgroundTracker

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Watcher:
    """What is told of an experiment's course; the command line draws it, tests leave it alone.

    Attributes:
        matched: What a match was solved to, before the first run.
        checked: A run's name, and how its preflight ended in one line.
        started: A run's name and its steps.
        continued: A run's name and the step that it goes on from.
        step: Step, loss, tokens per second.
        alarm: A run's name, and an alarm of it that began or ceased.
        finished: A run's name and its results; an empty mapping for one that was finished before.
        failed: A run's name, and why it has no results.
    """

    matched: Callable[[Solution], None] = lambda _solution: None
    checked: Callable[[str, str], None] = lambda _name, _line: None
    started: Callable[[str, int], None] = lambda _name, _steps: None
    continued: Callable[[str, int], None] = lambda _name, _step: None
    step: Callable[[int, float, float], None] = lambda _step, _loss, _speed: None
    alarm: Callable[[str, dict[str, Any]], None] = lambda _name, _entry: None
    finished: Callable[[str, dict[str, Any]], None] = lambda _name, _results: None
    failed: Callable[[str, str], None] = lambda _name, _reason: None


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
    followers: Followers


class Attempt:
    """One attempt at a run.

    Args:
        prepared: What all runs of the experiment share.
        variant: Which variant.
        seed: Which seed.
        folder: The run's folder.
        before: The record of the last attempt; empty if this is the first.
    """

    def __init__(self, prepared: Prepared, variant: str, seed: int, folder: Path, before: dict[str, Any]) -> None:
        self.prepared, self.variant, self.seed, self.folder, self.before = prepared, variant, seed, folder, before
        self.settings = begun_with(folder, prepared.config.run_config(variant, seed))
        self.owner = {"config_hash": config_hash(self.settings), "data": prepared.data.fingerprint}
        config, data = prepared.config, prepared.data
        self.sampler = sampler_of(config, data, seed)
        self.train = config.train_of(variant)
        self.plan = Plan.of(self.train, config.data.seq_len, self.sampler.n_sequences)
        self.record: dict[str, Any] = {}
        told: list[dict[str, Any]] = before.get("alarms") or []
        self.alarms = {(entry["name"], entry["where"]): entry for entry in told}
        self.step = 0

    def execute(self) -> None:
        """Trains, saves, loads what was saved, evaluates that, and records it all."""
        prepared = self.prepared
        self._begin()
        prepared.watcher.started(self.folder.name, self.plan.steps)
        trained = self._trained_before()
        if trained is None:
            self._refuse_faults()
            trained = self._train()

        # What is evaluated is what others will load, so a part lost in saving shows here.
        accelerator = build_accelerator(self.train)
        model = load_evaluated(self.folder / FINAL, self.train, accelerator.device)
        held_out = prepared.suite.held_out
        text = {
            "split": prepared.config.evaluate.split,
            "fingerprint": held_out.fingerprint,
            "tokens": len(held_out.ids),
        }
        # Before it is looked at, for a test split is opened by that; who evaluates again has opened it then.
        self._update(evaluated=self.record["evaluated"] or text | {"time": now()})
        with accelerator.autocast():
            evaluation = prepared.suite.evaluate(model, self.seed)
        write_json(self.folder / "samples.json", evaluation.samples)
        write_compact_json(self.folder / "documents.json", evaluation.documents)
        finish(self.folder, self.train.keep_best)
        results = evaluation.results | asdict(trained)
        if "learned_bits" in results:
            results["learned_bits"] |= per_parameter(results["learned_bits"], self.record["cost"])
        self._update(
            status="finished",
            finished=now(),
            steps=results.pop("steps"),
            tokens=results.pop("tokens"),
            results=results,
        )
        prepared.watcher.finished(self.folder.name, results)

    def end(self, status: str, error: str) -> None:
        """Records that the attempt came to nothing; if even that fails, the reason that is told counts more."""
        with suppress(OSError):
            self._update(
                status=status,
                finished=now(),
                error=error,
                steps=self.step,
                tokens=self.step * self.plan.tokens_per_step,
                alarms=list(self.alarms.values()),
            )

    def _update(self, **fields: Any) -> None:
        self.record |= fields
        write_json(self.folder / "record.json", self.record)

    def _begin(self) -> None:
        """Writes the settings and everything about the run that is known before its first step."""
        prepared, before = self.prepared, self.before
        write_yaml(self.folder / "config.yaml", self.settings)
        code = code_state()
        if code.difference:
            write_text(self.folder / "diff.patch", code.difference)
        model = prepared.config.variants[self.variant].model
        self._update(
            format=1,
            experiment=prepared.config.name,
            variant=self.variant,
            seed=self.seed,
            status="running",
            error=None,
            started=before.get("started") or now(),
            finished=None,
            **environment(code),
            device=prepared.device,
            config_hash=self.owner["config_hash"],
            hypotheses=[hypothesis.model_dump(mode="json") for hypothesis in prepared.config.hypotheses],
            alpha=prepared.config.alpha,
            evaluated=before.get("evaluated"),
            data=prepared.data_record | {"database": database_fingerprint(prepared.config, self.variant)},
            cost=cost(model, prepared.config.data.vocab_size, prepared.config.data.seq_len).as_dict(),
            steps=0,
            tokens=0,
            results={},
            continued=before.get("continued", []),
            preflight=before.get("preflight"),
            trained=before.get("trained"),
            alarms=before.get("alarms", []),
        )

    def _refuse_faults(self) -> None:
        """Runs the preflight, which is remembered for the next seed, and records it."""
        prepared = self.prepared
        report = preflight_variant(prepared.config, self.variant, prepared.data, self.seed)
        self._update(preflight=report.as_dict())
        require({self.variant: report})
        prepared.watcher.checked(self.folder.name, report.summary())

    def _trained_before(self) -> TrainResult | None:
        """Returns what an earlier attempt trained, if only the evaluation is left to do."""
        trained = self.record["trained"]
        if trained is None:
            return None
        try:
            verify(self.folder / FINAL)
            result = TrainResult(**trained)
        except (CheckpointError, TypeError) as error:
            logger.warning("%s; it is trained again from the last checkpoint", error)
            return None
        self._continue(result.steps)
        return result

    def _train(self) -> TrainResult:
        """Trains from the newest sound checkpoint, or from the beginning, and saves the model."""
        config, folder = self.train, self.folder
        found = newest_sound(folder, starting_device(config))
        if found is None:
            state = None
            torch.manual_seed(self.seed)
            model = new_model(self.prepared.config, self.variant, self.prepared.suite.tokenizer)
        else:
            model, state = found
            self._continue(state.step)
        remove_after(folder, self.step)
        hooks = Hooks(
            evaluate=lambda: self.prepared.suite.evaluate_quick(model),
            save=lambda state: self._save(model, state),
            progress=self._progress,
            alarm=self._alarm,
        )
        with (
            MetricLog(folder / "metrics.jsonl", self._trackers(config), after=self.step) as log,
            self.prepared.followers.training(self._order(state)),
        ):
            trained = train(model, self.sampler, config, log, hooks, folder, state)
        with deferred_signals() as pending:
            save_model(model, self.prepared.data.tokenizer, folder / FINAL)
            self._update(trained=asdict(trained), alarms=list(self.alarms.values()))
        if pending:
            raise pending[0]
        return trained

    def _order(self, state: TrainingState | None) -> Order:
        """Returns what other ranks have to train with this one."""
        prepared = self.prepared
        checkpoint = None if state is None else self.folder / f"{FINAL}-{state.step}"
        return Order(prepared.config, self.variant, self.seed, prepared.data.fingerprint, checkpoint)

    def _continue(self, step: int) -> None:
        """Notes from which step the run goes on, and with which code it came there."""
        self.step = step
        earlier = {name: self.before.get(name) for name in ("commit", "dirty", "device", "versions")}
        self._update(continued=[*self.record["continued"], {"step": step, "time": now(), **earlier}])
        self.prepared.watcher.continued(self.folder.name, step)

    def _progress(self, step: int, loss: float, tokens_per_s: float) -> None:
        self.step = step
        self.prepared.watcher.step(step, loss, tokens_per_s)

    def _alarm(self, entry: dict[str, Any]) -> None:
        self.alarms[entry["name"], entry["where"]] = entry
        self._update(alarms=list(self.alarms.values()))
        self.prepared.watcher.alarm(self.folder.name, entry)

    def _save(self, model: MemlmForCausalLM, state: TrainingState) -> None:
        folder = self.folder / f"{FINAL}-{state.step}"
        save_model(model, self.prepared.data.tokenizer, folder, state, self.owner)
        prune(self.folder, self.train.keep_last, self.train.keep_best)

    def _trackers(self, config: TrainConfig) -> list[Tracker]:
        project, folder = self.prepared.config.name, self.folder / "trackers"
        return [BackgroundTracker(kind, project, self.folder.name, folder, self.settings) for kind in config.trackers]
