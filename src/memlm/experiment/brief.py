"""Short trainings that leave nothing behind: measurements of speed, trials of learning rates."""

# torch leaves parts of its interface untyped:
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from memlm.config.train import BUDGETS
from memlm.data.sampler import Sampler
from memlm.experiment.config import ExperimentConfig
from memlm.experiment.models import new_model
from memlm.hf import MemlmForCausalLM
from memlm.train.loop import Hooks, TrainResult, train
from memlm.train.monitor import MetricLog

EVERY = ("log_every", "evaluate_every", "save_every", "profile_every", "memory_every")


def train_briefly(
    config: ExperimentConfig,
    variant: str,
    sampler: Sampler,
    tokenizer: Tokenizer,
    changes: dict[str, Any],
    progress: Callable[[int, float, float], None] = lambda _step, _loss, _speed: None,
) -> tuple[MemlmForCausalLM, TrainResult]:
    """Trains a new model of a variant, with nothing but steps in it; the sampler's seed decides its weights.

    Args:
        config: The experiment.
        variant: Which of its variants.
        sampler: Gives the batches.
        tokenizer: That of the data.
        changes: The budget, and other training settings in place of the variant's.
        progress: Is told the step, its loss and tokens per second.

    Raises:
        DivergedError: the training is not finite.
    """
    brief: dict[str, Any] = {**dict.fromkeys(EVERY, 0), **dict.fromkeys(BUDGETS), **changes}
    torch.manual_seed(sampler.seed)
    model = new_model(config, variant, tokenizer)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        with MetricLog(folder / "metrics.jsonl", []) as log:
            settings = config.train_of(variant).model_copy(update=brief)
            return model, train(model, sampler, settings, log, Hooks(progress=progress), folder)
