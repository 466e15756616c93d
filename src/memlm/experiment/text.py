"""What the runs of an experiment learn from and are evaluated on, of the text that was prepared for it."""

from __future__ import annotations

from memlm.data.asking import question_set
from memlm.data.cache import TokenData
from memlm.data.sampler import Sampler
from memlm.evaluate.suite import Suite
from memlm.experiment.config import ExperimentConfig


def sampler_of(config: ExperimentConfig, data: TokenData, seed: int) -> Sampler:
    """Returns what a run with this seed learns from: the training text, in an order that all variants share."""
    return Sampler(data.train.ids, config.data.seq_len, config.train.batch_size, seed)


def suite_of(config: ExperimentConfig, data: TokenData) -> Suite:
    """Returns the evaluation that ``config`` asks for, with its questions; raises as `Suite.of` does."""
    return Suite.of(config.evaluate, data, config.data.seq_len, question_set(config.data, config.evaluate))
