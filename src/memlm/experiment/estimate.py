"""What an experiment will cost, before it is run: counted where that is enough, measured on the device where not."""

# torch leaves parts of its interface untyped:
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer

from memlm.config.train import interval
from memlm.data.cache import TokenData
from memlm.data.sampler import Sampler
from memlm.errors import RunError
from memlm.evaluate.loss import mean_loss
from memlm.evaluate.suite import Suite
from memlm.experiment.brief import train_briefly
from memlm.experiment.config import ExperimentConfig
from memlm.experiment.text import sampler_of
from memlm.hf import MemlmForCausalLM
from memlm.model.cost import Cost, cost
from memlm.train.accelerator import OUT_OF_MEMORY, build_accelerator
from memlm.train.loop import TrainResult
from memlm.train.schedule import Plan

TRIAL_STEPS = 6
TIMED_STEPS = 24
"""Steps where nothing but their time is asked for: a run's length may be solved from it."""


@dataclass(frozen=True)
class Estimate:
    """What one run of a variant will cost.

    Attributes:
        cost: Counted on the meta device.
        plan: Steps and tokens.
        time_s: Seconds on training steps: a few steps measured, times their number; None if nothing was measured.
        evaluate_s: Seconds on evaluation while training and at the end, without generation.
        peak_memory_gib: Peak memory of the measured steps, GiB.
    """

    cost: Cost
    plan: Plan
    time_s: float | None = None
    evaluate_s: float | None = None
    peak_memory_gib: float | None = None


def estimate(config: ExperimentConfig, variant: str, data: TokenData, suite: Suite, measure: bool) -> Estimate:
    """Returns the price of one run.

    Args:
        config: The experiment.
        variant: Which of its variants.
        data: Its prepared data.
        suite: Its evaluation.
        measure: Take a few training steps on the device; without it, time and memory are left open.
    """
    sampler = sampler_of(config, data, seed=0)
    settings = config.train_of(variant)
    plan = Plan.of(settings, config.data.seq_len, sampler.n_sequences)
    price = cost(config.variants[variant], config.data.vocab_size, config.data.seq_len)
    if not measure:
        return Estimate(price, plan)
    if settings.compile:  # fills the compiler's cache, which the run to come will find full as well
        _try(config, variant, sampler, suite.tokenizer)
    model, trained = _try(config, variant, sampler, suite.tokenizer)
    start_up = max(0.0, trained.time_s - TRIAL_STEPS * plan.tokens_per_step / trained.tokens_per_s)
    with build_accelerator(settings).autocast():
        mean_loss(model.decoder, suite.quick[: config.evaluate.batch_size], config.evaluate.batch_size)  # warms up
        quick_s = _timed(lambda: mean_loss(model.decoder, suite.quick, config.evaluate.batch_size))
    passes = 3 if config.variants[variant].memory is not None else 1
    full_s = quick_s * (passes * len(suite.sequences) + len(suite.train_subset)) / len(suite.quick)
    every = interval(settings.evaluate_every, plan.steps)
    evaluations = -(-plan.steps // every) if every else 0
    return Estimate(
        cost=price,
        plan=plan,
        time_s=start_up + plan.steps * plan.tokens_per_step / trained.tokens_per_s,
        evaluate_s=quick_s * evaluations + full_s,
        peak_memory_gib=trained.peak_memory_gib,
    )


def step_time(config: ExperimentConfig, variant: str, data: TokenData, tokenizer: Tokenizer) -> float:
    """Returns the seconds of a training step of a variant, measured on the device."""
    sampler = sampler_of(config, data, seed=0)
    _, trained = _try(config, variant, sampler, tokenizer, TIMED_STEPS)
    return trained.tokens / trained.steps / trained.tokens_per_s


def _try(
    config: ExperimentConfig, variant: str, sampler: Sampler, tokenizer: Tokenizer, steps: int = TRIAL_STEPS
) -> tuple[MemlmForCausalLM, TrainResult]:
    """Trains a new model for a few steps.

    Raises:
        RunError: the device's memory is too small.
    """
    try:
        return train_briefly(config, variant, sampler, tokenizer, {"steps": steps})
    except torch.OutOfMemoryError:
        raise RunError(f"{variant}: {OUT_OF_MEMORY}") from None


def _timed(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start
