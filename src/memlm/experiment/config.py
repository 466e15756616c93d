"""The whole YAML of an experiment."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, cast

from pydantic import AfterValidator, Field

from memlm.config.base import Config, problem
from memlm.config.data import DataConfig
from memlm.config.evaluate import EvaluateConfig
from memlm.config.load import Tree, read, validate
from memlm.config.train import BUDGETS, OWN, TrainConfig
from memlm.config.tune import TuneConfig
from memlm.data.questions import KINDS
from memlm.evaluate.claims import parse_claim
from memlm.experiment.variants import VariantConfig
from memlm.model.config import ModelConfig
from memlm.registry import unknown

METRICS = (
    "validation_loss",
    "validation_perplexity",
    "bits_per_byte",
    "train_loss",
    "train_subset_loss",
    "memory_off_loss",
    "memory_shuffled_loss",
    "quality.score",
    "time_s",
    "tokens_per_s",
    "peak_memory_gib",
)
"""Results that a hypothesis may compare, besides those of `PARTS`."""
PARTS = {
    "recall.<kind>.": ("nll", "exact_match"),
    "learned_bits.": ("total", "share"),
    "usage.<layer>.": ("share_read", "kl_uniform", "effective_slots", "dead_slots", "read_norm", "update_share"),
    "quality.metrics.model.": ("repetition", "distinct_1", "distinct_2", "judge_nats"),
}
"""Dotted results: what they begin with and how they go on. Of questions, a layer with a memory, and generated text."""


def _check_name(name: str) -> str:
    if not re.fullmatch(r"\w[\w.+-]{0,59}", name):
        raise problem("names a folder: use at most 60 letters, digits, '_', '-', '+' and '.', and no '.' first")
    return name


Name = Annotated[str, AfterValidator(_check_name)]
Seed = Annotated[int, Field(strict=True, ge=0, lt=2**32)]


class Hypothesis(Config):
    """A claim written down before the run."""

    name: str
    """What the claim is called in the report."""
    claim: str
    """`a < b`: variant a's metric lies below variant b's by more than the margin. Also of differences: `a - b < c - d`,
    `|a - b| > |c - d|`. A name with `*` stands for the mean of the variants that it fits."""
    metric: str = "validation_loss"
    """The result that is compared."""
    margin: float = Field(default=0.0, ge=0)
    """Smallest difference that counts, in units of the metric."""

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields what the fields cannot see alone."""
        try:
            parse_claim(self.claim)
        except ValueError as error:
            yield "claim", str(error)
        general = re.sub(r"^usage\.\d+\.", "usage.<layer>.", self.metric)
        general = re.sub(rf"^recall\.({'|'.join(KINDS)})\.", "recall.<kind>.", general)
        known = [*METRICS, *(f"{start}{end}" for start, ends in PARTS.items() for end in ends)]
        if general not in known or "<" in self.metric:
            yield "metric", unknown("metric", self.metric, known)


class ExperimentConfig(Config):
    """Variants x seeds + hypotheses."""

    name: Name
    """Names the folder of its runs; the file's name if not given."""
    data: DataConfig
    """Text and tokens."""
    model: ModelConfig = ModelConfig()
    """What all variants share."""
    train: TrainConfig
    """How each is trained."""
    evaluate: EvaluateConfig = EvaluateConfig()
    """How each is evaluated."""
    tune: TuneConfig = TuneConfig()
    """How `memlm tune` looks for learning rates."""
    variants: dict[Name, VariantConfig] = Field(min_length=1)
    """Named model configurations; each is merged over `model`."""
    seeds: list[Seed] = Field(default=[0], min_length=1)
    """Each variant runs once with each; a seed gives all variants the same data order."""
    hypotheses: list[Hypothesis] = Field(default_factory=list[Hypothesis])
    """Claims to be judged."""
    alpha: float = Field(default=0.05, gt=0, le=0.5)
    """The chance, over all hypotheses together, that a verdict is none but luck; see docs/statistics.md."""

    def problems(self) -> Iterator[tuple[str | tuple[str, ...], str]]:
        """Yields what the fields cannot see alone."""
        if len(set(self.seeds)) < len(self.seeds):
            yield "seeds", "names a seed twice"
        for name in self.variants:
            for path, reason in (*self._training_problems(name), *self._match_problems(name)):
                yield ("variants", name, *path), reason
        if self.evaluate.split == "test" and self.data.test is None and not self.data.test_share:
            yield "evaluate.split", "there is no test split; name its text in data.test, or set data.test_share"
        for index, hypothesis in enumerate(self.hypotheses):
            if hypothesis.metric.startswith("quality.") and not self.evaluate.samples:
                yield f"hypotheses.{index}.metric", "needs generated text, and evaluate.samples is 0"
            if hypothesis.metric.startswith(("recall.", "learned_bits.")) and not self.has_questions:
                yield f"hypotheses.{index}.metric", "needs questions, of corpus: facts or of evaluate.question_file"
            claim = parse_claim(hypothesis.claim)
            if claim.is_void(self.variants):
                yield f"hypotheses.{index}.claim", "both sides fit the same variants; compare different ones"
            for variant in claim.variants(self.variants):
                if variant not in self.variants:
                    yield f"hypotheses.{index}.claim", unknown("variant", variant, self.variants)
                elif self.variants[variant].memory is None and hypothesis.metric.startswith(("usage.", "memory_")):
                    yield f"hypotheses.{index}.metric", f"{variant} has no memory, and nothing of the kind to compare"

    @property
    def has_questions(self) -> bool:
        """Whether trained models are asked anything."""
        return self.evaluate.questions > 0 and (self.data.has_facts or self.evaluate.question_file is not None)

    def _training_problems(self, name: str) -> Iterator[tuple[tuple[str, ...], str]]:
        own = self.variants[name].train
        for field in () if own is None else TrainConfig.model_fields:
            if field not in OWN and getattr(own, field) != getattr(self.train, field):
                yield ("train", field), "is the same for all variants; set it under train"
        memory = self.variants[name].memory
        if getattr(getattr(memory, "bank", None), "dtype", "float32") != "float32":
            for field, other in (("shard", self.train.shard != "none"), ("device", self.train.device == "mps")):
                if other:
                    reason = f"does not go with train.{field}: {getattr(self.train, field)}; leave one of the two out"
                    yield ("memory", "bank", "dtype"), reason

    def _match_problems(self, name: str) -> Iterator[tuple[tuple[str, ...], str]]:
        variant = self.variants[name]
        match = variant.match
        if match is None:
            return
        partner = self.variants.get(match.to)
        if partner is None:
            yield ("match", "to"), unknown("variant", match.to, self.variants)
        elif match.to == name:
            yield ("match", "to"), "is this variant itself"
        elif partner.match is not None:
            yield ("match", "to"), f"{match.to} is matched itself; match to a variant that is not"
        if match.by == "wall_clock":
            for budget in BUDGETS:
                if getattr(self.train_of(name), budget) not in (None, getattr(self.train, budget)):
                    yield ("train", budget), "has no effect, because the match by wall_clock solves the steps"
        elif not variant.has_feed_forward:
            reason = "solves d_ff, and the memory replaces every feed-forward layer; match the other to this"
            yield ("match", "by"), reason
        elif variant.d_ff is not None:
            yield ("d_ff",), f"has no effect, because the match by {match.by} solves it"

    def train_of(self, variant: str) -> TrainConfig:
        """Returns how a variant is trained."""
        return self.variants[variant].train or self.train

    def run_config(self, variant: str, seed: int) -> dict[str, Any]:
        """Returns everything that one run depends on, as plain data."""
        sections = {
            "model": self.variants[variant].model,
            "data": self.data,
            "train": self.train_of(variant),
            "evaluate": self.evaluate,
        }
        settings = {name: section.model_dump(mode="json") for name, section in sections.items()}
        return {"experiment": self.name, "variant": variant, "seed": seed, **settings}


def load_experiment(path: str | Path, overrides: Sequence[str] = ()) -> ExperimentConfig:
    """Reads an experiment.

    Args:
        path: Its YAML file.
        overrides: Assignments ``dotted.path=value``.

    Raises:
        ConfigError: it lists every problem; nothing was run.
    """
    tree = read(path, overrides)
    tree.data.setdefault("name", Path(path).stem)
    tree.data.setdefault("model", {})
    variants = tree.get(("variants",))
    if isinstance(variants, dict):
        for name in cast("dict[str, Any]", variants):
            variants[name] = {} if variants[name] is None else variants[name]
            tree.overlay(("model",), ("variants", name))
            _share_training(tree, ("variants", name, "train"))
    return validate(tree, ExperimentConfig)


def _share_training(tree: Tree, own: tuple[str, ...]) -> None:
    """Merges a variant's training settings over the experiment's; a budget of its own takes the place of the shared."""
    settings = tree.get(own)
    if not isinstance(settings, dict):
        return
    given = [budget for budget in BUDGETS if budget in settings]
    tree.overlay(("train",), own)
    merged: dict[str, Any] = tree.get(own)
    for budget in BUDGETS:
        if given and budget not in given:
            merged.pop(budget, None)
