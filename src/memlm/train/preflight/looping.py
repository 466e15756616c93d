"""The real training loop on a few sequences, out of sight of the run that is about to start."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from memlm.config.train import TrainConfig
from memlm.data.sampler import Sampler
from memlm.hf import MemlmForCausalLM
from memlm.train.loop import Hooks, train
from memlm.train.monitor import MetricLog
from memlm.train.ranks import alone


class Sequences(Sampler):
    """Gives the rows of a table in order, over and over.

    Args:
        sequences: [N, T + 1].
        batch_size: Rows in a batch.

    Attributes:
        asked: The indices of the batches that were asked for.
    """

    def __init__(self, sequences: Tensor, batch_size: int) -> None:
        super().__init__(sequences.flatten().numpy(), sequences.shape[1] - 1, batch_size, seed=0)
        self.sequences = sequences.numpy()
        self.n_sequences = len(sequences)
        self.asked: list[int] = []

    def batch(self, index: int) -> np.ndarray:
        """Returns batch ``index``, [B, T + 1]."""
        self.asked.append(index)
        rows = (index * self.batch_size + np.arange(self.batch_size)) % self.n_sequences
        return self.sequences[rows]


def learning(steps: int, **changed: Any) -> TrainConfig:
    """Returns settings under which a sound model learns quickly: its wiring is judged, not the run's settings."""
    quiet = dict.fromkeys(("log_every", "evaluate_every", "save_every", "profile_every", "memory_every"), 0)
    settled = {
        "lr": 1e-2,
        "warmup": 0.0,
        "schedule": "constant",
        "weight_decay": 0.1,
        "device": "cpu",
        "precision": "fp32",
    }
    return TrainConfig.model_validate({"steps": steps, **settled, **quiet, **changed})


def run_loop(model: MemlmForCausalLM, sampler: Sampler, config: TrainConfig) -> list[float]:
    """Trains ``model`` in place and returns the loss of each step, nats per token."""
    losses: list[float] = []
    hooks = Hooks(progress=lambda _step, loss, _speed: losses.append(loss))
    with (
        alone(),
        tempfile.TemporaryDirectory() as scratch,
        MetricLog(Path(scratch) / "metrics.jsonl", []) as log,
    ):
        train(model, sampler, config, log, hooks, Path(scratch))
    return losses
