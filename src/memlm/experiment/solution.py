"""What a match was solved to, as a record keeps it. Free of torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Solution:
    """A setting of a variant, solved so that it costs what its partner costs.

    Attributes:
        variant: The variant that was matched.
        to: Its partner.
        by: What was made equal, a key of `memlm.experiment.variants.QUANTITIES`.
        setting: What was solved: ``d_ff``, or ``steps`` by wall clock.
        value: Its value.
        target: What the partner costs; seconds of training steps by wall clock.
        reached: What the variant costs with this value.
        device: By wall clock, where it was measured.
        step_times_s: By wall clock, measured seconds of a step of the variant and of its partner.
        spread: By wall clock, how far the slowest measurement lay from the fastest, as a share of the median.
        data: By wall clock, what identifies the text that was trained on; None: an earlier version of memlm kept none.
    """

    variant: str
    to: str
    by: str
    setting: str
    value: int
    target: float
    reached: float
    device: str | None = None
    step_times_s: tuple[float, float] | None = None
    spread: float | None = None
    data: str | None = None

    @property
    def off(self) -> float:
        """How far it is from the target, as a share of the target."""
        return abs(self.reached / self.target - 1)
