"""Alarms: what goes wrong without stopping a training, told while it runs.

Everything here follows from the losses, the metrics and the history so far, so a resumed run raises what an
uninterrupted one does. Why the thresholds are what they are: docs/alarms.md.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, median
from typing import Any

from memlm.config.alarms import AlarmsConfig

WINDOW = 64
"""Steps that the recent level of the training loss is taken from."""
MIN_STEPS = 20
"""Losses before which a recent level means nothing."""
SPIKE_FLOOR = 0.25
"""Nats; a smaller rise is no spike, however quiet the loss was before."""
TRAINING, VALIDATION = "training loss", "validation loss"
"""Where an alarm that is about no single layer comes from."""
_MAD_TO_STD = 1.4826
"""Of a normal distribution, the standard deviation over the median absolute deviation."""


@dataclass(frozen=True)
class Alarm:
    """One alarm, as it begins.

    Attributes:
        step: The step after which it began.
        name: The field of `AlarmsConfig` that it belongs to.
        where: ``layer 3``, ``training loss`` or ``validation loss``.
        value: What was measured, in the threshold's unit.
        threshold: What it was held against.
        message: One line: the numbers, the likely cause, what to try.
    """

    step: int
    name: str
    where: str
    value: float
    threshold: float
    message: str

    def as_dict(self) -> dict[str, Any]:
        """Returns the fields by name."""
        return asdict(self)


class Alarms:
    """Watches one run.

    Args:
        config: The thresholds.
        history: The `history` of the run that is resumed.

    Attributes:
        history: Every alarm, in the order they began: the fields of its `Alarm`, ``last_step`` and ``count`` (when it
            was last found, how often) and ``active`` (whether it still holds). One that begins again after it had
            ceased keeps its entry. It can be written as JSON.
        changed: The entries of the history that began or ceased in the last call.
    """

    def __init__(self, config: AlarmsConfig, history: Sequence[Mapping[str, Any]] = ()) -> None:
        self.config = config
        self.history = [dict(entry) for entry in history]
        self.changed: list[dict[str, Any]] = []

    def after_step(self, step: int, losses: Sequence[float]) -> list[Alarm]:
        """Returns the alarms that begin with a step.

        They cease when the next `WINDOW` steps are without them.

        Args:
            step: The step, from 1.
            losses: Training losses of all steps so far, nats per token; NaN for a step that was left out because its
                loss or gradient was not finite.
        """
        recent = losses[-WINDOW - 2 :]
        found = [*_left_out(step, losses, self.config.non_finite), *_spike(step, recent, self.config.loss_spike)]
        ceased = [e for e in self.history if e["where"] == TRAINING and step - e["last_step"] >= WINDOW]
        return self._keep(step, found, ceased)

    def after_evaluation(self, step: int, metrics: Mapping[str, float], losses: Sequence[float]) -> list[Alarm]:
        """Returns the alarms that begin with an evaluation; they cease with the first one that is without them.

        Args:
            step: The step that it followed.
            metrics: What was measured, under the names of the metrics log.
            losses: As for `after_step`.
        """
        layers = sorted({int(match[1]) for key in metrics if (match := re.match(r"memory/(\d+)/", key))})
        found = list(_gap(step, metrics.get("evaluate/validation_loss"), losses, self.config.train_eval_gap))
        for layer in layers:
            prefix = f"memory/{layer}/"
            usage = {key.removeprefix(prefix): value for key, value in metrics.items() if key.startswith(prefix)}
            found += _usage(step, f"layer {layer}", usage, self.config)
        return self._keep(step, found, [entry for entry in self.history if entry["where"] != TRAINING])

    def must_end(self, losses: Sequence[float]) -> bool:
        """Returns whether more steps were left out than the config allows."""
        return _count_left_out(losses) > self.config.non_finite

    def _keep(self, step: int, found: Sequence[Alarm], ceased: Sequence[dict[str, Any]]) -> list[Alarm]:
        """Writes the history on: what was found holds, what is in ``ceased`` and was not found does no longer."""
        by_key = {(entry["name"], entry["where"]): entry for entry in self.history}
        begun: list[Alarm] = []
        self.changed = []
        for alarm in found:
            key = (alarm.name, alarm.where)
            if key not in by_key:
                by_key[key] = alarm.as_dict() | {"last_step": step, "count": 0, "active": False}
                self.history.append(by_key[key])
            entry = by_key[key]
            if not entry["active"]:
                begun.append(alarm)
                self.changed.append(entry)
            entry |= {"last_step": step, "count": entry["count"] + 1, "active": True}
        for entry in ceased:
            if entry["active"] and entry["last_step"] != step:
                entry["active"] = False
                self.changed.append(entry)
        return begun


def reachable_slots(n_slots: float, reads: float) -> float:
    """Returns how many of ``n_slots`` slots ``reads`` even, independent reads are expected to reach."""
    return -n_slots * math.expm1(reads * math.log1p(-1 / n_slots)) if n_slots > 1 else n_slots


def _count_left_out(losses: Sequence[float]) -> int:
    return sum(not math.isfinite(loss) for loss in losses)


def _left_out(step: int, losses: Sequence[float], allowed: int) -> Iterator[Alarm]:
    if losses and not math.isfinite(losses[-1]):
        count = _count_left_out(losses)
        yield Alarm(
            step,
            "non_finite",
            TRAINING,
            count,
            allowed,
            f"loss or gradient is not finite, so the step was not taken ({count} so far, {allowed} allowed); "
            "lower train.lr, lengthen train.warmup or set train.clip",
        )


def _spike(step: int, recent: Sequence[float], threshold: float | None) -> Iterator[Alarm]:
    """Compares the lower of the two newest losses with those before, so that one odd batch is no spike."""
    level = [loss for loss in recent[:-2] if math.isfinite(loss)]
    newest = recent[-2:]
    if threshold is None or len(level) < MIN_STEPS or not all(map(math.isfinite, newest)):
        return
    usual = median(level)
    spread = _MAD_TO_STD * median(abs(loss - usual) for loss in level)
    rise = min(newest) - usual
    if rise > max(threshold * spread, SPIKE_FLOOR):
        value = rise / spread if spread else math.inf
        yield Alarm(
            step,
            "loss_spike",
            TRAINING,
            min(value, 1e6),  # JSON has no infinity
            threshold,
            f"{min(newest):.3f} is {rise:.2f} nats above the recent median {usual:.3f}, {value:.1f} robust standard "
            f"deviations (threshold {threshold:g}); the steps are too large, or the text changed: lower train.lr, "
            "lengthen train.warmup or tighten train.clip",
        )


def _gap(step: int, validation: float | None, losses: Sequence[float], threshold: float | None) -> Iterator[Alarm]:
    if validation is not None and not math.isfinite(validation):
        yield Alarm(
            step,
            "non_finite",
            VALIDATION,
            1,
            0,
            "the held-out loss is not finite while training goes on; look for an overflow in evaluation alone "
            "(precision, a longer sequence), and lower train.lr",
        )
        return
    recent = [loss for loss in losses[-max(MIN_STEPS // 2, len(losses) // 10) :] if math.isfinite(loss)]
    if validation is None or threshold is None or len(losses) < MIN_STEPS or not recent:
        return
    training = fmean(recent)
    gap = validation - training
    if abs(gap) > threshold:
        cause = (
            "the model learns its text by heart, the two texts differ, or evaluation takes another path (noise, mask, "
            "a part missing): compare train_subset_loss, training text in eval mode"
            if gap > 0
            else "the held-out text is easier or was trained on, or training takes another path (noise, labels)"
        )
        yield Alarm(
            step,
            "train_eval_gap",
            VALIDATION,
            gap,
            threshold,
            f"{validation:.3f} is {abs(gap):.2f} nats {'above' if gap > 0 else 'below'} the recent training loss "
            f"{training:.3f} (threshold {threshold:g}); {cause}",
        )


def _usage(step: int, where: str, usage: Mapping[str, float], config: AlarmsConfig) -> Iterator[Alarm]:
    reachable = reachable_slots(usage["n_slots"], usage["reads"])
    even = usage["effective_slots"] / reachable
    if config.usage_collapse is not None and even < config.usage_collapse:
        yield Alarm(
            step,
            "usage_collapse",
            where,
            even,
            config.usage_collapse,
            f"the weight lies on {usage['effective_slots']:,.0f} effective slots of the {reachable:,.0f} that even "
            f"reading would reach ({even:.2%}, threshold {config.usage_collapse:.2%}); all tokens ask for the same "
            "slots: read with more heads, lower train.lr, or normalise queries and keys where they are not",
        )
    dead = 1 - usage["share_read"] * usage["n_slots"] / reachable
    if config.dead_slots is not None and dead > config.dead_slots:
        yield Alarm(
            step,
            "dead_slots",
            where,
            dead,
            config.dead_slots,
            f"{usage['share_read'] * usage['n_slots']:,.0f} slots were read of the {reachable:,.0f} that even reading "
            f"would reach ({dead:.1%} dead, threshold {config.dead_slots:.1%}); values that are never read never "
            "learn: use fewer slots (n_keys), or more reads (top_k, n_heads)",
        )
    if config.gate_shut is not None and usage["update_share"] < config.gate_shut:
        yield Alarm(
            step,
            "gate_shut",
            where,
            usage["update_share"],
            config.gate_shut,
            f"what is read changes the residual stream by {usage['update_share']:.2g} of its norm (threshold "
            f"{config.gate_shut:g}); the fusion shuts the memory out: raise train.value_lr, or look at the fusion's "
            "gate and its initialisation",
        )
