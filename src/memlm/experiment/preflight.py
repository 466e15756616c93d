"""The preflight of a variant, with the data and the evaluation that its run will have."""

from __future__ import annotations

import numpy as np

from memlm.data.cache import TokenData
from memlm.evaluate.loss import mean_loss
from memlm.experiment.config import ExperimentConfig
from memlm.experiment.text import sampler_of
from memlm.hf import MemlmForCausalLM
from memlm.train.accelerator import build_accelerator
from memlm.train.preflight import Report, preflight


def preflight_variant(config: ExperimentConfig, variant: str, data: TokenData, seed: int | None = None) -> Report:
    """Returns what the preflight finds of a variant.

    Args:
        config: The experiment.
        variant: Which of its variants.
        data: Its prepared data.
        seed: The run's seed; the experiment's first if not given.
    """

    def evaluate_loss(model: MemlmForCausalLM, sequences: np.ndarray) -> float:
        return mean_loss(model.decoder, sequences, config.evaluate.batch_size)

    seed = config.seeds[0] if seed is None else seed
    return preflight(
        config.variants[variant].model,
        config.train_of(variant),
        evaluate_loss=evaluate_loss,
        sampler=sampler_of(config, data, seed),
        device=build_accelerator(config.train).device,
    )
