"""The preflight of a variant, with the data and the evaluation that its run will have."""

from __future__ import annotations

import numpy as np

from memlm.data.sampler import Sampler
from memlm.evaluate.loss import mean_loss
from memlm.experiment.config import ExperimentConfig
from memlm.hf import MemlmForCausalLM
from memlm.train.accelerator import build_accelerator
from memlm.train.preflight import Report, preflight


def preflight_variant(config: ExperimentConfig, variant: str, ids: np.ndarray, seed: int | None = None) -> Report:
    """Returns what the preflight finds of a variant.

    Args:
        config: The experiment.
        variant: Which of its variants.
        ids: All training tokens.
        seed: The run's seed; the experiment's first if not given.
    """

    def evaluate_loss(model: MemlmForCausalLM, sequences: np.ndarray) -> float:
        return mean_loss(model.decoder, sequences, config.evaluate.batch_size)

    seed = config.seeds[0] if seed is None else seed
    return preflight(
        config.variants[variant].model,
        config.train_of(variant),
        evaluate_loss=evaluate_loss,
        sampler=Sampler(ids, config.data.seq_len, config.train.batch_size, seed),
        device=build_accelerator(config.train).device,
    )
