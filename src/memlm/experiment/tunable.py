"""What a tune is made of, and what is refused of it: before anything is trained, and without what training imports."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from memlm.errors import RunError
from memlm.experiment.config import ExperimentConfig
from memlm.experiment.files import read_checked
from memlm.experiment.reading import listed
from memlm.experiment.record import config_hash
from memlm.experiment.settings import differing
from memlm.experiment.trials import PLAN, TunePlan
from memlm.extras import optional
from memlm.registry import unknown

ANOTHER_WORLD = 0x74756E65
"""Turns the seed of a generated world into that of the world that rates are tuned on."""


def tune_folder(config: ExperimentConfig, root: Path) -> Path:
    """Returns the folder of an experiment's tune."""
    return root / f"{config.name}-tune"


def makes_its_own_text(config: ExperimentConfig) -> bool:
    """Whether rates are tuned on another generated world than that of the runs."""
    return config.data.is_generated and config.data.tune is None


def tunable(
    config: ExperimentConfig, root: Path, variants: Sequence[str] | None = None
) -> tuple[ExperimentConfig, list[str]]:
    """Returns the experiment as it is tuned, and the variants to tune in its order.

    A generated world is a text to the last document, so its rates are tuned on another world of the same settings,
    unless `data.tune` names a text.

    Args:
        config: The experiment.
        root: The folder of all experiments.
        variants: Those that are tuned; all if not given.

    Raises:
        MissingDependencyError: Optuna is not installed.
        MemlmError: there is no tune split or no such variant, rates lie outside of their range, or the folder holds
            another tune.
    """
    for name in variants or []:
        if name not in config.variants:
            raise RunError(unknown("variant", name, config.variants))
    optional("optuna", "tune", "memlm tune")
    if makes_its_own_text(config):
        facts = config.data.facts.model_copy(update={"seed": config.data.facts.seed ^ ANOTHER_WORLD})
        config = config.model_copy(update={"data": config.data.model_copy(update={"facts": facts})})
    elif not config.data.tune_share and config.data.tune is None:
        raise RunError(
            "data.tune_share is 0, so there is no text to tune on that runs are not judged by; set it, such as "
            "-o data.tune_share=0.05 (runs then leave that text alone), or name such text in data.tune"
        )
    chosen = [name for name in config.variants if not variants or name in variants]
    _refuse_rates(config, chosen)
    refuse_another(tune_folder(config, root), plan_of(config, chosen))
    return config, chosen


def _refuse_rates(config: ExperimentConfig, variants: Sequence[str]) -> None:
    for variant in variants:
        for name, rate in own_rates(config, variant).items():
            low, high = getattr(config.tune, name)
            if not low <= rate <= high:
                raise RunError(
                    f"{variant}'s train.{name} is {rate:g}, outside of tune.{name} [{low:g}, {high:g}]; widen that"
                )


def own_rates(config: ExperimentConfig, variant: str) -> dict[str, float]:
    """Returns the rates that the config gives a variant: those of its first trial."""
    train = config.train_of(variant)
    if config.variants[variant].memory is None:
        return {"lr": train.lr}
    return {"lr": train.lr, "value_lr": train.value_lr or train.lr}


def plan_of(config: ExperimentConfig, variants: Sequence[str], data: str = "") -> TunePlan:
    """Returns the plan of a tune.

    Args:
        config: The experiment as it is tuned.
        variants: Those that are tuned.
        data: The fingerprint of its text; empty while text and matched widths are not known.
    """
    plan = TunePlan(
        name=config.name,
        variants=list(variants),
        trials=config.tune.trials,
        steps=config.tune.steps,
        tokens=config.tune.steps * config.train.batch_size * config.train.accumulation * config.data.seq_len,
        seed=config.tune.seed,
        ranges={name: getattr(config.tune, name) for name in ("lr", "value_lr")},
        settings_hash="",
        data=data,
        config=config.model_dump(mode="json"),
        settings={variant: config.run_config(variant, config.tune.seed) for variant in variants},
    )
    return replace(plan, settings_hash=_hash(plan))


def _hash(plan: TunePlan) -> str:
    return config_hash({"variants": plan.settings, "steps": plan.steps, "ranges": plan.ranges, "data": plan.data})


def refuse_another(folder: Path, plan: TunePlan) -> None:
    """Refuses a folder whose trials are not those of ``plan``; it may be one whose text and widths are not known yet.

    Raises:
        RunError: it names what differs.
    """
    path = folder / PLAN
    if not path.exists():
        return
    if differences := dict.fromkeys(_differences(read_checked(TunePlan, path), plan)):
        raise RunError(
            f"{folder} is a tune with other settings ({listed(list(differences))}); give this one another name "
            "(-o name=...), or remove that folder"
        )


def _differences(before: TunePlan, plan: TunePlan) -> Iterator[str]:
    """Yields what differs; a tune with no settings recorded is known by its hash alone."""
    if not before.settings:
        if plan.data and before.settings_hash != plan.settings_hash:
            yield "which, an earlier version did not record"
        return
    if before.settings_hash != _hash(before):
        yield f"its {PLAN} was changed since"
        return
    if before.steps != plan.steps:
        yield "tune.steps"
    yield from (f"tune.{name}" for name in plan.ranges if before.ranges.get(name) != plan.ranges[name])
    if before.settings.keys() != plan.settings.keys():
        yield "its variants"
    for variant, settings in before.settings.items():
        for path in differing(settings, plan.settings.get(variant, settings)):
            if plan.data or path != "model.d_ff":
                yield "tune.seed" if path == "seed" else path
    if plan.data and before.data != plan.data:
        yield "the text of data"
