"""Whole training steps, by memlm's own training loop on made-up tokens."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from memlm.bench.setting import Setting
from memlm.bench.shapes import Models
from memlm.config.train import TrainConfig
from memlm.data.sampler import Sampler
from memlm.hf import MemlmConfig, MemlmForCausalLM
from memlm.model.config import ModelConfig
from memlm.model.cost import cost
from memlm.train.loop import Hooks, train
from memlm.train.monitor import MetricLog

STEPS = {"cuda": 20, "cpu": 4}
BATCHES = 4
"""Batches of text; more would only be the same work again."""


def measure(variant: str, models: Models, setting: Setting) -> dict[str, Any]:
    """Returns the row of a model: tokens a second, peak memory, seconds of compilation, FLOPs of a token.

    A step is forward, backward, clipping and update; tokens a second are those of a step over its median time. What the
    steps took beyond that is the compiler's, and the warming up of the first step.
    """
    model = ModelConfig.model_validate({**models.model, **models.variants[variant]})
    config = TrainConfig(
        steps=STEPS["cuda" if setting.on_gpu else "cpu"],
        batch_size=models.batch_size,
        compile=setting.on_gpu,
        device="cuda" if setting.on_gpu else "cpu",
        log_every=0,
        evaluate_every=0,
        save_every=0,
        memory_every=0,
    )
    torch.manual_seed(0)
    causal = MemlmForCausalLM(
        MemlmConfig(
            model=model.model_dump(mode="json", exclude_unset=True),
            vocab_size=models.vocab_size,
            max_position_embeddings=models.seq_len,
        )
    )
    sampler = Sampler(_text(models), models.seq_len, models.batch_size, seed=0)
    with tempfile.TemporaryDirectory() as scratch, MetricLog(Path(scratch) / "metrics.jsonl", []) as log:
        trained = train(causal, sampler, config, log, Hooks(), Path(scratch))
    price = cost(model, models.vocab_size, models.seq_len)
    return {
        "status": "ok",
        "tokens_per_s": trained.tokens_per_s,
        "peak_gib": trained.peak_memory_gib,
        "start_up_s": max(0.0, trained.time_s - trained.tokens / trained.tokens_per_s),
        "flops_per_token": 3 * price.flops_per_token,
        "parameters": price.parameters,
    }


def _text(models: Models) -> np.ndarray:
    """Returns tokens whose frequency falls with one over their rank, as that of words does."""
    draw = np.random.default_rng(0)
    n_tokens = BATCHES * models.batch_size * models.seq_len + 1
    return (float(models.vocab_size) ** draw.random(n_tokens)).astype(np.uint16) - 1
