"""Whole training steps, by memlm's own training loop on made-up tokens."""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch

from memlm.bench.setting import Setting
from memlm.bench.shapes import PLAIN, Models
from memlm.config.train import TrainConfig
from memlm.data.sampler import Sampler
from memlm.hf import MemlmConfig, MemlmForCausalLM
from memlm.kernels.choice import references
from memlm.model.config import ModelConfig
from memlm.model.cost import cost
from memlm.train.loop import Hooks, train
from memlm.train.monitor import MetricLog

STEPS = 20
BATCHES = 4
"""Batches of text; more would only be the same work again."""
KERNELS = 12
"""Kernels that the profile of a step names."""


def measure(variant: str, models: Models, setting: Setting) -> dict[str, Any]:
    """Returns the row of a model: tokens a second, peak memory, seconds of compilation, FLOPs of a token, a profile.

    A step is forward, backward, clipping and update; tokens a second are those of a step over its median time. What the
    steps took beyond that is the compiler's, and the warming up of the first step.
    """
    model = ModelConfig.model_validate({**models.model, **models.variants[variant]})
    before = setting.start_peak()
    torch.manual_seed(0)
    causal = MemlmForCausalLM(
        MemlmConfig(
            model=model.model_dump(mode="json", exclude_unset=True),
            vocab_size=models.vocab_size,
            max_position_embeddings=models.seq_len,
        )
    )
    sampler = Sampler(_text(models), models.seq_len, models.batch_size, seed=0)
    kernels = references() if variant.endswith(PLAIN) else nullcontext()
    with kernels, tempfile.TemporaryDirectory() as scratch, MetricLog(Path(scratch) / "metrics.jsonl", []) as log:
        trained = train(causal, sampler, settings(setting, models.batch_size), log, Hooks(), Path(scratch))
        profile = _profile(Path(scratch) / "profile" / "trace.json")
    price = cost(model, models.vocab_size, models.seq_len)
    return {
        "status": "ok",
        "tokens_per_s": trained.tokens_per_s,
        "peak_gib": trained.peak_memory_gib - before / 2**30,
        "start_up_s": max(0.0, trained.time_s - trained.tokens / trained.tokens_per_s),
        "flops_per_token": 3 * price.flops_per_token,
        "parameters": price.parameters,
        "profile": profile,
    }


def settings(setting: Setting, batch_size: int = 1) -> TrainConfig:
    """Returns how models are trained.

    Accelerate keeps the device, the precision and the compiler that a process names first, so whoever asks it for
    anything must name these.
    """
    quiet = dict.fromkeys(("log_every", "evaluate_every", "save_every", "memory_every"), 0)
    kind = "cuda" if setting.on_gpu else "cpu"
    return TrainConfig(
        steps=STEPS,
        batch_size=batch_size,
        compile=setting.on_gpu,
        device=kind,
        precision="bf16" if setting.dtype == torch.bfloat16 else "fp32",
        profile_every=STEPS if setting.on_gpu else 0,  # the last step's
        **quiet,
    )


def _profile(trace: Path) -> dict[str, float]:
    """Returns the milliseconds that the longest kernels took in a traced step, and all others together."""
    if not trace.exists():
        return {}
    events = json.loads(trace.read_text(encoding="utf-8"))["traceEvents"]
    times: defaultdict[str, float] = defaultdict(float)
    for event in events:
        if event.get("cat") == "kernel":
            times[event["name"]] += event["dur"] / 1e3
    longest = sorted(times, key=times.__getitem__, reverse=True)[:KERNELS]
    profile = {name: times[name] for name in longest}
    return profile | {"others": sum(times.values()) - sum(profile.values())}


def _text(models: Models) -> np.ndarray:
    """Returns tokens whose frequency falls with one over their rank, as that of words does."""
    draw = np.random.default_rng(0)
    n_tokens = BATCHES * models.batch_size * models.seq_len + 1
    return (float(models.vocab_size) ** draw.random(n_tokens)).astype(np.uint16) - 1
