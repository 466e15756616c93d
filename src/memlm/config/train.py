"""The `train` section: budget, optimizer, precision and what is written down while training."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from memlm.config.alarms import AlarmsConfig
from memlm.config.base import Config, Count, either
from memlm.config.checks import Check

Tracker = Literal["tensorboard", "swanlab", "wandb"]

Beta = Annotated[float, Field(ge=0, lt=1)]

Every = Annotated[int | float, either("must be a whole number of steps, or a share of the run below 1")]
"""An interval: a whole number of steps, or a share of the run between 0 and 1 (0.1 = ten times). 0 = never."""


BUDGETS = ("tokens", "epochs", "steps")
"""The fields that say how long a run is; exactly one is given."""

OWN = {
    *BUDGETS,
    "lr",
    "value_lr",
    "betas",
    "weight_decay",
    "warmup",
    "schedule",
    "min_lr_share",
    "min_value_lr_share",
    "clip",
    "train_values_epochs",
    "router_lr",
}
"""What a variant may set for itself. Batches are not among it: variants of a seed see the same ones."""


class TrainConfig(Config):
    """How a model is trained. A step is an optimizer step of ``batch_size * accumulation`` sequences."""

    tokens: Count | None = Field(default=None, gt=0)
    """Budget in tokens; give exactly one of tokens, epochs, steps."""
    epochs: float | None = Field(default=None, gt=0)
    """Budget in passes over the training tokens."""
    steps: Count | None = Field(default=None, gt=0)
    """Budget in optimizer steps."""
    batch_size: int = Field(default=32, ge=1)
    """Sequences in a micro-step."""
    accumulation: int = Field(default=1, ge=1)
    """Micro-steps in an optimizer step."""
    lr: float = Field(default=1e-3, gt=0)
    """Peak learning rate of AdamW."""
    value_lr: float | None = Field(default=None, gt=0)
    """Learning rate of the bank's values; `lr` if not given. Values never get weight decay."""
    betas: tuple[Beta, Beta] = (0.9, 0.95)
    """AdamW's decay rates of the two moments."""
    weight_decay: float = Field(default=0.1, ge=0)
    """AdamW's decay of matrices; none on norms, biases, scales, keys, embeddings and values."""
    warmup: float = Field(default=0.02, ge=0, lt=1)
    """Share of the run in which the learning rate rises linearly to `lr`."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """The course of the learning rate after warm-up."""
    min_lr_share: float = Field(default=0.1, ge=0, le=1)
    """The cosine ends at this share of `lr`."""
    min_value_lr_share: float | None = Field(default=None, ge=0, le=1)
    """The cosine of the values ends at this share of `value_lr`; `min_lr_share` if not given."""
    clip: float = Field(default=1.0, ge=0)
    """Largest norm of the whole gradient; 0 turns clipping off."""
    train_values_epochs: int | None = Field(default=None, ge=1)
    """The bank's values learn during the first N epochs and are frozen after; None: they always learn."""
    router_lr: float | None = Field(default=None, ge=0)
    """Learning rate of queries, keys and all else that chooses slots; `lr` if not given. 0 leaves them as drawn."""
    revive_every: Every = Field(default=0, ge=0)
    """Interval at which keys that no token chose become copies of well-used ones, if the memory can; as the others."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Arithmetic of the forward pass; auto is bf16 on a GPU that has it and fp32 elsewhere. Parameters are fp32, but
    for a bank's values if its `dtype` says so."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to train."""
    compile: bool = False
    """Run the model through torch.compile (30-40 s at the start of a run, faster steps on a GPU)."""
    values_on: Literal["device", "host"] = "device"
    """Where the bank's values and their moments are; of those on the host, a step brings the rows that it reads."""
    deterministic: bool = False
    """Ask torch for deterministic algorithms on a GPU (slower); a CPU run always repeats bit for bit."""
    log_every: Every = Field(default=10, ge=0)
    """Interval of the metrics log, in steps or as a share of the run."""
    evaluate_every: Every = Field(default=0.1, ge=0)
    """Interval of held-out evaluation, in steps or as a share of the run."""
    save_every: Every = Field(default=0.1, ge=0)
    """Interval of checkpoints to go on from, in steps or as a share of the run."""
    keep_last: int = Field(default=2, ge=1)
    """Newest checkpoints to keep while the run goes on; two, so that a damaged one has a predecessor."""
    keep_best: int = Field(default=0, ge=0)
    """Checkpoints of lowest held-out loss to keep for good, of those that were evaluated after the same step."""
    profile_every: Every = Field(default=0, ge=0)
    """Interval of torch profiler traces, in steps or as a share of the run."""
    memory_every: Every = Field(default=10, ge=0)
    """Interval of memory readings, in steps or as a share of the run."""
    record_writers: bool = False
    """Record which training position pulled hardest at each slot's value, and when a slot was read first and last;
    `memlm inspect` shows it (docs/inspect.md has what it costs)."""
    shard: Literal["none", "bank", "model"] = "none"
    """Of what each of several processes holds a part: bank is of every bank of vectors, model of all parameters
    (docs/scaling.md)."""
    skip_checks: list[Check] = Field(default_factory=list[Check])
    """Checks of the preflight to leave out; the record says so."""
    trackers: list[Tracker] = Field(default_factory=list[Tracker])
    """Trackers fed beside metrics.jsonl; a tracker that fails or blocks never stops or slows a run."""
    alarms: AlarmsConfig = AlarmsConfig()
    """Thresholds of the alarms while training."""

    @property
    def bank_is_apart(self) -> bool:
        """Whether no device is to hold a whole bank: it is sharded, or on the host."""
        return self.shard != "none" or self.values_on == "host"

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields what the fields cannot see alone."""
        given = [name for name in BUDGETS if getattr(self, name) is not None]
        if len(given) != 1:
            yield given[1] if given else "tokens", "give exactly one of tokens, epochs, steps"
        if self.schedule == "constant" and self.changes("min_lr_share"):
            yield "min_lr_share", "has no effect with a constant schedule"
        if self.schedule == "constant" and self.min_value_lr_share is not None:
            yield "min_value_lr_share", "has no effect with a constant schedule"
        if self.precision == "bf16" and self.device == "cpu":
            yield "precision", "bf16 on a CPU is some 20 times slower than fp32; use fp32 or auto"
        if self.record_writers and self.compile:
            yield "record_writers", "cannot look into a compiled model; set compile: false"
        for name in ("compile", "revive_every", "record_writers"):
            if self.values_on == "host" and getattr(self, name):
                yield "values_on", f"values on the host do not go with {name}; leave one of them out"
        if self.shard == "model" and self.revive_every:
            yield "shard", "model does not go with revive_every; leave that out, or shard the bank alone: shard: bank"
        for name in ("save_every", "evaluate_every"):
            if self.keep_best and not getattr(self, name):
                yield "keep_best", f"has no effect, because {name} is 0"
        for name in ("log_every", "evaluate_every", "save_every", "profile_every", "memory_every", "revive_every"):
            value = getattr(self, name)
            if value > 1 and value != int(value):
                yield name, "must be a whole number of steps, or a share of the run below 1"


def interval(every: Every, total_steps: int) -> int:
    """Returns an interval in steps, 0 for never; a share of the run gives at least one step."""
    if every == 0:
        return 0
    return max(1, round(every * total_steps)) if every < 1 else int(every)
