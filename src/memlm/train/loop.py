"""The training loop: batch, loss, backward, clip, finite check, step, log, evaluate, save."""

from __future__ import annotations

import math
import signal
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from memlm.config.train import TrainConfig, interval
from memlm.data.sampler import Sampler
from memlm.errors import DivergedError, Interrupted
from memlm.hf import MemlmForCausalLM
from memlm.train.accelerator import build_accelerator
from memlm.train.alarms import Alarm, Alarms
from memlm.train.gradient import add_up_gradient, joined
from memlm.train.interrupts import deferred_signals
from memlm.train.monitor import MetricLog, PeakMemory, Stopwatch, write_profile
from memlm.train.optimizer import (
    build_optimizer,
    compact_gradients,
    freeze_router,
    freeze_values,
    hold_on_host,
    set_learning_rates,
)
from memlm.train.ranks import Ranks, telling_lost_ranks
from memlm.train.revival import Revival
from memlm.train.schedule import Plan, lr_factor
from memlm.train.sharding import Shards
from memlm.train.state import History, TrainingState, capture, restore
from memlm.train.updater import Updater
from memlm.train.writers import WriterRecorder

AHEAD = {"cuda": 1}
"""Steps that a device is given before the results of the last are read, so that it never waits for Python."""
TOLD = 8
"""Steps over which the speed is taken that is told while training."""


@dataclass(frozen=True)
class Hooks:
    """What the loop calls; it knows nothing of evaluation, folders or screens.

    Attributes:
        evaluate: Returns metrics of the model as it is now; called between steps. Where a bank or the
            model is sharded, all ranks must read the same.
        save: Writes the model as it is now and the training state; called between steps. Only rank 0 has all of both.
        progress: Is told the step, its loss and tokens per second, every step.
        alarm: Is told every alarm that begins or ceases, as an entry of `Alarms.history`; after a resume all so far.
    """

    evaluate: Callable[[], Mapping[str, float]] = dict[str, float]
    save: Callable[[TrainingState], None] = lambda _state: None
    progress: Callable[[int, float, float], None] = lambda _step, _loss, _speed: None
    alarm: Callable[[dict[str, Any]], None] = lambda _entry: None


@dataclass(frozen=True)
class TrainResult:
    """What a finished training run measured.

    Attributes:
        train_loss: Mean loss of the last tenth of the steps, in train mode, nats per token.
        time_s: Seconds spent on steps, see `Stopwatch`.
        tokens_per_s: Tokens of a step over its median time.
        peak_memory_gib: Peak memory while training, see `PeakMemory`.
        steps: Optimizer steps taken.
        tokens: Tokens learned from.
        revival_time_s: Seconds spent on revival between the steps.
        compact_rows: Rows of a bank that a step can change, where it changes those alone that it reads; 0: all.
    """

    train_loss: float
    time_s: float
    tokens_per_s: float
    peak_memory_gib: float
    steps: int
    tokens: int
    compact_rows: int = 0
    revival_time_s: float = 0.0


def train(
    model: MemlmForCausalLM,
    sampler: Sampler,
    config: TrainConfig,
    log: MetricLog,
    hooks: Hooks,
    folder: Path,
    state: TrainingState | None = None,
) -> TrainResult:
    """Trains ``model`` in place.

    A run that goes on from a state gives, on a CPU, bit for bit what it gives without a break. SIGINT and SIGTERM are
    answered between two steps, after saving.

    Args:
        model: The model; it is moved to the configured device.
        sampler: Gives the batches.
        config: How to train.
        log: Takes the metrics.
        hooks: What to call on the way.
        folder: Where profiler traces go, and at the end who wrote the slots, if that is recorded.
        state: Go on from here; ``model`` has the weights that belong to it.

    Raises:
        DivergedError: a loss or gradient is not finite, more often than the config allows; such steps leave the model
            as it was, and on a GPU the step after may have been taken.
        Interrupted: a signal came, to this or another rank; the state was saved.
        RunError: another rank has ended.
    """
    training = _Training(model, sampler, config, log, hooks, folder, state)
    try:
        with telling_lost_ranks():
            return training.run()
    finally:
        training.release()


@dataclass(frozen=True)
class _Launched:
    """A step that the device may still be at.

    Attributes:
        step: The step.
        start: When it was begun, as `time.perf_counter` tells.
        revival: Seconds that were spent on a revival after it.
        results: Its loss, gradient norm and the signals that ranks had got before, [3], on the CPU; they are there when
            ``done`` is.
        profile: The trace of its first micro-step, if one was due.
        done: Recorded after it, on a GPU.
    """

    step: int
    start: float
    revival: float
    results: Tensor
    profile: torch.profiler.profile | None
    done: torch.Event | None


class _Training:
    """One training; the arguments are those of `train`."""

    def __init__(
        self,
        model: MemlmForCausalLM,
        sampler: Sampler,
        config: TrainConfig,
        log: MetricLog,
        hooks: Hooks,
        folder: Path,
        state: TrainingState | None,
    ) -> None:
        torch.compiler.reset()  # the compiler gives up, silently, after a few models in one process
        self.model, self.sampler, self.config = model, sampler, config
        self.log, self.hooks, self.folder = log, hooks, folder
        self.accelerator = build_accelerator(config)
        self.ranks = Ranks.of(self.accelerator)
        self.plan = Plan.of(config, sampler.seq_len, sampler.n_sequences)
        self.shards = Shards(model.decoder, self.ranks, config.shard, self.accelerator.device)
        if config.values_on == "host":
            hold_on_host(model.decoder, self.accelerator.device, self.ranks.number)
        model.to(self.accelerator.device)  # pyright: ignore[reportArgumentType]
        if config.router_lr == 0:
            freeze_router(model)
        self.optimizer = build_optimizer(model, config)
        self.updater = Updater(self.optimizer, model, config.clip, self.ranks)
        compact_gradients(model.decoder, self.plan.tokens_per_step, self.ranks.number, config.accumulation)
        self.module = joined(self.accelerator, model.decoder, self.plan)
        self.history, self.done = (History(), 0) if state is None else (state.history, state.step)
        self.revival = Revival(model.decoder, self.optimizer, sampler.seed, self.ranks) if config.revive_every else None
        self.writers = WriterRecorder(model.decoder, self.ranks) if config.record_writers else None
        self.companions = [each for each in (self.revival, self.writers) if each is not None]
        if state is not None:
            restore(self.shards.own_moments(state.tensors), model, self.optimizer)
            for companion in self.companions:
                companion.restore(state.tensors)
        self.alarms = Alarms(config.alarms, self.history.alarms)
        self.history.alarms = self.alarms.history
        self.every = {
            name: interval(getattr(config, f"{name}_every"), self.plan.steps)
            for name in ("log", "evaluate", "save", "profile", "memory", "revive")
        }
        self.watch = Stopwatch(self.history.times)
        self.memory = PeakMemory(self.accelerator.device, self.history.peak_memory_gib)
        self.ahead = AHEAD.get(self.accelerator.device.type, 0)
        self.launched: deque[_Launched] = deque()
        self.metrics: dict[str, Any] = {}
        self.signals: list[Interrupted] = []
        self.is_asked_to_end = False

    def run(self) -> TrainResult:
        """Takes the steps that are left to take."""
        for entry in self.alarms.history:
            self.hooks.alarm(entry)
        self.model.train()
        for step in range(self.done + 1, self.plan.steps + 1):
            with deferred_signals(self.signals):
                if self._is_due("profile", step):
                    self._settle_until(0)  # or the trace would show the end of another step
                try:
                    self._launch(step)
                except Exception:
                    self._settle_until(0)  # what was taken before is told, whatever became of this step
                    raise
                stops = step == self.plan.steps or any(self._is_due(n, step) for n in ("evaluate", "save", "profile"))
                self._settle_until(0 if stops else self.ahead)
                if step == self.plan.steps:  # no later one tells the signals that came since it was begun
                    self.is_asked_to_end |= self.ranks.any(bool(self.signals), self.accelerator.device)
                # The last step is saved by the caller, as the result, unless a signal keeps it from that.
                ends = self._must_end()
                if ends or (step < self.plan.steps and self._is_due("save", step)):
                    self._settle_until(0)  # a signal may have come while the host waited
                    self._save(step)
            if ends or self._must_end():
                raise next(iter(self.signals), Interrupted("SIGTERM", signal.SIGTERM))
        if self.writers is not None:
            self.writers.write(self.folder)
        self.shards.restore()
        return TrainResult(
            train_loss=self.history.mean_loss(max(1, self.plan.steps // 10)),
            time_s=self.watch.total,
            tokens_per_s=self.plan.tokens_per_step / self.watch.typical(),
            peak_memory_gib=self.memory.gib(),
            steps=self.plan.steps,
            tokens=self.plan.steps * self.plan.tokens_per_step,
            compact_rows=self.updater.compact_rows,
            revival_time_s=self.history.revival_time_s,
        )

    def release(self) -> None:
        """Leaves the model as any other."""
        self.updater.release()
        for companion in self.companions:
            companion.release()

    def _is_due(self, name: str, step: int) -> bool:
        every = self.every[name]
        return bool(every) and (step % every == 0 or step == self.plan.steps)

    def _must_end(self) -> bool:
        """Whether a signal ends the training: among ranks, as soon as all know that one of them has got one."""
        return bool(self.signals) if self.ranks.number == 1 else self.is_asked_to_end

    def _launch(self, step: int) -> None:
        """Takes one step, or has the device begin it; nothing here waits for the device."""
        if self.plan.freeze_values_at is not None and step > self.plan.freeze_values_at:
            freeze_values(self.model)
        profile = torch.profiler.profile() if self._is_due("profile", step) else None
        start = time.perf_counter()
        set_learning_rates(self.optimizer, self.config, step - 1, self.plan.steps)
        accumulation, tokens = self.config.accumulation, self.plan.tokens_per_step
        summed = add_up_gradient(self.accelerator, self.module, self.sampler, step - 1, accumulation, tokens, profile)
        told = torch.stack([summed, torch.full_like(summed, len(self.signals))])
        self.ranks.add(told)
        results = torch.stack([told[0] / self.plan.tokens_per_step, self.updater.clip(), told[1]])
        is_finite = results.isfinite().all()
        self.updater.step(is_finite)
        self.updater.clear()
        if self.writers is not None:
            self.writers.commit(step, is_finite)
        revival = self._revive(step)
        on_cuda = self.accelerator.device.type == "cuda"  # elsewhere nothing tells when a copy has arrived
        results = results.to("cpu", non_blocking=on_cuda)
        done = torch.cuda.current_stream().record_event() if on_cuda else None
        self.launched.append(_Launched(step, start, revival, results, profile, done))

    def _revive(self, step: int) -> float:
        """Revives what was not read, if that is due, and returns the seconds it took."""
        if self.revival is None or not self._is_due("revive", step) or step == self.plan.steps:
            return 0.0  # what the last step revived nobody would learn from
        self._settle_until(0)
        self._wait()
        start = time.perf_counter()
        self.revival.revive(step)
        self._wait()
        spent = time.perf_counter() - start
        self.history.revival_time_s += spent
        return spent

    def _wait(self) -> None:
        """Waits for all that the device was given."""
        if self.accelerator.device.type != "cpu":
            torch.accelerator.synchronize()

    def _settle_until(self, ahead: int) -> None:
        """Settles the steps that were launched, but for the last ``ahead``."""
        while len(self.launched) > ahead:
            self._settle(self.launched.popleft())

    def _settle(self, launched: _Launched) -> None:
        """Waits for a step, tells of it and writes what is due after it to the log."""
        if launched.done is not None:
            launched.done.synchronize()
        self.watch.stop(launched.start, launched.revival)
        step, (loss, norm, signals) = launched.step, launched.results.tolist()
        self.is_asked_to_end |= signals > 0
        is_finite = math.isfinite(loss) and math.isfinite(norm)
        self.history.losses.append(loss if is_finite else math.nan)
        begun = self._told(self.alarms.after_step(step, self.history.losses))
        if not is_finite and self.alarms.must_end(self.history.losses):
            raise DivergedError(
                f"diverged at step {step}: loss {loss:.4g}, gradient norm {norm:.4g}: not finite, so the step was not "
                "taken; lower train.lr, lengthen train.warmup or set train.clip"
            )
        self.hooks.progress(step, loss, self.plan.tokens_per_step / self.watch.recent(TOLD))
        if launched.profile is not None:
            write_profile(launched.profile, self.folder / "profile", step)
        self.metrics = self._measure(step, norm, begun)

    def _measure(self, step: int, norm: float, begun: list[Alarm]) -> dict[str, Any]:
        """Writes what is due after a step to the log, and returns it."""
        metrics: dict[str, Any] = {}
        if self._is_due("log", step):
            every = self.every["log"]
            metrics = {
                "train/loss": self.history.mean_loss(every),
                "train/lr": self.config.lr * lr_factor(step - 1, self.plan.steps, self.config),
                "train/grad_norm": norm,
                "train/tokens_per_s": self.plan.tokens_per_step / self.watch.recent(every),
            }
        if self._is_due("memory", step):
            metrics["train/peak_memory_gib"] = self.memory.gib()
        if self._is_due("evaluate", step):
            with self.accelerator.autocast(), self.shards.readable():
                metrics |= self.hooks.evaluate()
            begun = begun + self._told(self.alarms.after_evaluation(step, metrics, self.history.losses))
        if begun:
            metrics["alarms"] = sorted({alarm.name for alarm in begun})
        if metrics:
            spent = {"tokens": step * self.plan.tokens_per_step, "time_s": self.watch.total}
            self.log.write(step, spent | metrics)
        return metrics

    def _told(self, begun: list[Alarm]) -> list[Alarm]:
        for entry in self.alarms.changed:
            self.hooks.alarm(entry)
        return begun

    def _save(self, step: int) -> None:
        """Saves the model and the state after a step, which is settled."""
        self.log.sync()
        self.history.peak_memory_gib = self.memory.gib()
        tensors = self.shards.whole_moments(capture(self.model, self.optimizer))
        for companion in self.companions:
            tensors |= companion.tensors()
        validation_loss = self.metrics.get("evaluate/validation_loss")
        with self.shards.whole():
            self.hooks.save(TrainingState(step, tensors, self.history, validation_loss))
