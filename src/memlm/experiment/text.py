"""What the runs of an experiment are evaluated on, of the text that was prepared for it."""

from __future__ import annotations

from memlm.data.asking import question_set
from memlm.data.cache import TokenData
from memlm.evaluate.suite import Suite
from memlm.experiment.config import ExperimentConfig


def suite_of(config: ExperimentConfig, data: TokenData) -> Suite:
    """Returns the evaluation that ``config`` asks for, with its questions; raises as `Suite.of` does."""
    return Suite.of(config.evaluate, data, config.data.seq_len, question_set(config.data, config.evaluate))
