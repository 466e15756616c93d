"""The training loop: batch, loss, backward, clip, finite check, step, log, evaluate, save."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from memlm.config.train import TrainConfig, interval
from memlm.data.sampler import Sampler
from memlm.errors import RunError
from memlm.hf import MemlmForCausalLM
from memlm.model.loss import TokenLoss
from memlm.train.interrupts import deferred_signals
from memlm.train.monitor import MetricLog, PeakMemory, Stopwatch, write_profile
from memlm.train.optimizer import build_optimizer, freeze_values, set_learning_rates
from memlm.train.schedule import Plan, lr_factor
from memlm.train.state import History, TrainingState, capture, restore

OUT_OF_MEMORY = "out of memory; halve train.batch_size and double train.accumulation"
"""What to tell a user whose device was too small."""


@dataclass(frozen=True)
class Hooks:
    """What the loop calls; it knows nothing of evaluation, folders or screens.

    Attributes:
        evaluate: Returns metrics of the model as it is now; called between steps.
        save: Writes the model as it is now and the training state; called between steps.
        progress: Is told the step, its loss and tokens per second, every step.
    """

    evaluate: Callable[[], Mapping[str, float]]
    save: Callable[[TrainingState], None]
    progress: Callable[[int, float, float], None]


@dataclass(frozen=True)
class TrainResult:
    """What a finished training run measured.

    Attributes:
        train_loss: Mean loss of the last tenth of the steps, in train mode, nats per token.
        time_s: Seconds spent on steps.
        tokens_per_s: Tokens of a step over its median time.
        peak_memory_gib: Peak memory while training, see `PeakMemory`.
        steps: Optimizer steps taken.
        tokens: Tokens learned from.
    """

    train_loss: float
    time_s: float
    tokens_per_s: float
    peak_memory_gib: float
    steps: int
    tokens: int


def build_accelerator(config: TrainConfig) -> Accelerator:
    """Returns the accelerator for the configured device and precision.

    Raises:
        RunError: the device is not there.
    """
    if config.device == "cuda" and not torch.cuda.is_available():
        raise RunError("train.device is cuda, and torch sees no GPU; use train.device=auto, or run: memlm doctor")
    if config.device == "mps" and not torch.backends.mps.is_available():
        raise RunError("train.device is mps, and torch sees no Apple GPU; use train.device=auto")
    on_gpu = config.device != "cpu" and torch.cuda.is_available()
    # Older cards only emulate bf16, slowly.
    has_bf16 = on_gpu and torch.cuda.is_bf16_supported(including_emulation=False)
    bf16 = config.precision == "bf16" or (config.precision == "auto" and has_bf16)
    if bf16 and not on_gpu:
        raise RunError("train.precision is bf16, some 20 times slower on this CPU; use -o train.precision=auto")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise RunError("several processes for one run are not supported yet; start memlm run without a launcher")
    if config.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS refuses to be deterministic without it
        torch.use_deterministic_algorithms(True)
    return Accelerator(
        mixed_precision="bf16" if bf16 else "no",
        cpu=config.device == "cpu",
        dynamo_backend="inductor" if config.compile else "no",
    )


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
        folder: Where profiler traces go.
        state: Go on from here; ``model`` has the weights that belong to it.

    Raises:
        RunError: a loss or gradient is not finite; the model is left as it was before that step.
        Interrupted: a signal came; the state was saved.
    """
    torch.compiler.reset()  # the compiler gives up, silently, after a few models in one process
    accelerator = build_accelerator(config)
    plan = Plan.of(config, sampler.seq_len, sampler.n_sequences, accelerator.num_processes)
    model.to(accelerator.device)  # pyright: ignore[reportArgumentType]
    optimizer = build_optimizer(model, config)
    module, prepared = accelerator.prepare(TokenLoss(model.decoder), optimizer)
    history, done = (History(), 0) if state is None else (state.history, state.step)
    if state is not None:
        restore(state.tensors, model, optimizer)
    every = {
        name: interval(getattr(config, f"{name}_every"), plan.steps)
        for name in ("log", "evaluate", "save", "profile", "memory")
    }
    watch = Stopwatch(accelerator.device, history.times)
    memory = PeakMemory(accelerator.device, history.peak_memory_gib)

    model.train()
    for step in range(done + 1, plan.steps + 1):
        due = {name: bool(n) and (step % n == 0 or step == plan.steps) for name, n in every.items()}
        if plan.freeze_values_at is not None and step > plan.freeze_values_at:
            freeze_values(model)
        profile = torch.profiler.profile() if due["profile"] else None
        factor = lr_factor(step - 1, plan.steps, config)
        with deferred_signals() as pending:
            with watch.lap():
                set_learning_rates(optimizer, config, factor)
                loss = _backward(accelerator, module, sampler, step - 1, plan, config, profile)
                norm = _finite_norm(accelerator, module, config, loss, step)
                prepared.step()
                prepared.zero_grad(set_to_none=True)
            history.losses.append(loss)
            hooks.progress(step, loss, plan.tokens_per_step / watch.times[-1])
            if profile is not None:
                write_profile(profile, folder / "profile", step)

            metrics: dict[str, Any] = {}
            if due["log"]:
                recent = history.losses[-every["log"] :]
                metrics = {
                    "train/loss": sum(recent) / len(recent),
                    "train/lr": config.lr * factor,
                    "train/grad_norm": norm,
                    "train/tokens_per_s": plan.tokens_per_step * len(recent) / sum(watch.times[-len(recent) :]),
                }
            if due["memory"]:
                metrics["train/peak_memory_gib"] = memory.gib()
            if due["evaluate"]:
                with accelerator.autocast():
                    metrics |= hooks.evaluate()
            if metrics:
                log.write(step, {"tokens": step * plan.tokens_per_step, "time_s": watch.total, **metrics})
            if step < plan.steps and (due["save"] or pending):  # the last step is saved by the caller, as the result
                log.sync()
                history.peak_memory_gib = memory.gib()
                loss_now = metrics.get("evaluate/validation_loss")
                hooks.save(TrainingState(step, capture(model, optimizer), history, loss_now))
        if pending:
            raise pending[0]

    tail = history.losses[-max(1, plan.steps // 10) :]
    return TrainResult(
        train_loss=sum(tail) / len(tail),
        time_s=watch.total,
        tokens_per_s=plan.tokens_per_step / watch.typical(),
        peak_memory_gib=memory.gib(),
        steps=plan.steps,
        tokens=plan.steps * plan.tokens_per_step,
    )


def _backward(
    accelerator: Accelerator,
    module: nn.Module,
    sampler: Sampler,
    step: int,
    plan: Plan,
    config: TrainConfig,
    profile: torch.profiler.profile | None,
) -> float:
    """Adds up the gradient of one step's mean loss over tokens; returns that loss, in nats per token.

    A profile covers the first micro-step: the others are the same, and a trace of all would take seconds to write.
    """
    ranks = accelerator.num_processes
    total = torch.zeros((), device=accelerator.device)
    for micro_step in range(config.accumulation):
        index = (step * config.accumulation + micro_step) * ranks + accelerator.process_index
        sequences = torch.from_numpy(sampler.batch(index)).to(accelerator.device, non_blocking=True)
        last = micro_step == config.accumulation - 1
        watched = profile if profile is not None and micro_step == 0 else nullcontext()
        with watched, nullcontext() if last else accelerator.no_sync(module):
            summed, balance = module(sequences)
            # Gradients are averaged over ranks, and the sum is over all of them.
            loss = summed * ranks / plan.tokens_per_step + balance / config.accumulation
            accelerator.backward(loss)
        total += summed.detach()
    reduced: Tensor = accelerator.reduce(total, reduction="sum")  # pyright: ignore[reportAssignmentType]
    return reduced.item() / plan.tokens_per_step


def _finite_norm(accelerator: Accelerator, module: nn.Module, config: TrainConfig, loss: float, step: int) -> float:
    """Clips the gradient and returns its norm before clipping; nothing has been updated if it is not finite."""
    limit = config.clip or math.inf
    total = accelerator.clip_grad_norm_(module.parameters(), limit)
    norm = float(total) if total is not None else 0.0
    if not (math.isfinite(loss) and math.isfinite(norm)):
        raise RunError(
            f"step {step}: loss {loss:.4g}, gradient norm {norm:.4g}: not finite, so the step was not taken; "
            "lower train.lr, lengthen train.warmup or set train.clip"
        )
    return norm
