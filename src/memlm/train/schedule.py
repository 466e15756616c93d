"""How long a run is, and the learning rate at each of its steps."""

from __future__ import annotations

import math
from dataclasses import dataclass

from memlm.config.train import TrainConfig


@dataclass(frozen=True)
class Plan:
    """The length of a run.

    Attributes:
        steps: Optimizer steps.
        tokens_per_step: Tokens that one of them learns from, over all ranks and micro-steps.
        freeze_values_at: Step before which the bank's values are frozen; None: never.
    """

    steps: int
    tokens_per_step: int
    freeze_values_at: int | None

    @classmethod
    def of(cls, config: TrainConfig, seq_len: int, n_sequences: int) -> Plan:
        """Returns the plan for ``n_sequences`` training sequences of ``seq_len`` tokens; budgets round up to a step."""
        sequences_per_step = config.batch_size * config.accumulation
        tokens_per_step = sequences_per_step * seq_len
        if config.steps is not None:
            steps = config.steps
        elif config.tokens is not None:
            steps = math.ceil(config.tokens / tokens_per_step)
        else:
            assert config.epochs is not None, "the config has exactly one budget"
            steps = math.ceil(config.epochs * n_sequences / sequences_per_step)
        freeze = None
        if config.train_values_epochs is not None:
            freeze = math.ceil(config.train_values_epochs * n_sequences / sequences_per_step)
        return cls(steps, tokens_per_step, freeze)


def lr_factor(step: int, steps: int, config: TrainConfig, low: float | None = None) -> float:
    """Returns what the peak learning rate is multiplied by at ``step`` (from 0) of ``steps``.

    Linear warm-up, then constant or a cosine from 1 to ``low`` (Loshchilov and Hutter 2017, arXiv:1608.03983), which is
    ``min_lr_share`` if not given.
    """
    warmup = math.ceil(config.warmup * steps)
    if step < warmup:
        return (step + 1) / warmup
    if config.schedule == "constant":
        return 1.0
    progress = (step - warmup) / max(1, steps - 1 - warmup)
    low = config.min_lr_share if low is None else low
    return low + (1 - low) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
