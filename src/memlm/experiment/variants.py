"""A variant: a model, what its training does otherwise than the others', and what it is matched to."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict

from memlm.config.base import Config
from memlm.config.train import TrainConfig
from memlm.model.config import ModelConfig

By = Literal["flops", "active_parameters", "total_parameters", "wall_clock"]

QUANTITIES: dict[str, str] = {
    "flops": "flops_per_token",
    "active_parameters": "active_parameters",
    "total_parameters": "parameters",
    "wall_clock": "time_s",
}
"""What a variant can be matched by, and what the ledger calls it."""


class MatchConfig(Config):
    """Makes the variant cost what another one costs: a setting of it is solved, not written by hand."""

    to: str
    """The variant whose cost is met; it is not matched itself."""
    by: By = "flops"
    """What is made equal: by `wall_clock` the steps are solved, otherwise the feed-forward layer's width `d_ff`."""


class VariantConfig(ModelConfig):
    """A model configuration, merged over `model`, and how this variant differs otherwise."""

    model_config = ConfigDict(title="ModelConfig")  # so what `model` shares is wrong in the same words, and told once

    train: TrainConfig | None = None
    """Training settings of its own, merged over `train`: budget, learning rates, optimizer and schedule."""
    match: MatchConfig | None = None
    """What it is made equal to."""

    @property
    def model(self) -> ModelConfig:
        """The model alone."""
        return ModelConfig.model_validate(self.model_dump(exclude={"train", "match"}, exclude_unset=True))
