"""The `tune` section: the short trials of `memlm tune`, and between which rates they look."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from pydantic import Field

from memlm.config.base import Config, Count

Rate = Annotated[float, Field(gt=0)]


class TuneConfig(Config):
    """Trials of learning rates, as many for every variant; ranges are searched on a logarithmic scale."""

    trials: int = Field(default=12, ge=2)
    """Trials for each variant; the first has the rates of the config."""
    steps: Count = Field(default=200, gt=0)
    """Optimizer steps of a trial, with the whole schedule in them."""
    lr: tuple[Rate, Rate] = (2e-4, 2e-2)
    """Lowest and highest `train.lr`."""
    value_lr: tuple[Rate, Rate] = (2e-4, 1e-1)
    """Lowest and highest `train.value_lr`, of variants with a memory."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Decides the trials' rates, and their initial weights and data order, which are the same for all."""

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields what the fields cannot see alone."""
        for name in ("lr", "value_lr"):
            low, high = getattr(self, name)
            if not low < high:
                yield name, "must be the lowest and the highest rate, in this order"
