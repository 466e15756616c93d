"""The `train.alarms` section: from where on a number of a running training is told as an alarm."""

from __future__ import annotations

from pydantic import Field

from memlm.config.base import Config


class AlarmsConfig(Config):
    """Thresholds, fixed before the run; null switches an alarm off. What they rest on stands in docs/alarms.md."""

    usage_collapse: float | None = Field(default=0.01, gt=0, lt=1)
    """Smallest effective slots of a layer, as a share of the slots that this many even reads would reach."""
    dead_slots: float | None = Field(default=0.9, gt=0, lt=1)
    """Largest share of the slots that this many even reads would reach, but that a layer never read."""
    gate_shut: float | None = Field(default=1e-3, gt=0)
    """Smallest `update_share` of a layer: what its reads change, over the residual stream it is added to."""
    loss_spike: float | None = Field(default=6.0, gt=0)
    """Largest rise of the training loss above its recent median, in robust standard deviations."""
    non_finite: int = Field(default=0, ge=0)
    """Steps that may be left out because loss or gradient is not finite; one more ends the run. Cannot be off."""
    train_eval_gap: float | None = Field(default=1.0, gt=0)
    """Largest distance between validation loss and recent training loss, either way, in nats per token."""
