"""Tunes learning rates: as many short trials for every variant, on text that no run learns from or is judged by."""

# scipy brings no stubs:
# pyright: reportMissingTypeStubs=false

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import qmc
from transformers.utils.logging import disable_progress_bar

from memlm.config.load import assignments, merge, read, read_file
from memlm.data.cache import TokenData
from memlm.data.prepare import prepare
from memlm.errors import DivergedError, RunError
from memlm.evaluate.loss import mean_loss
from memlm.evaluate.suite import Suite
from memlm.experiment.brief import train_briefly
from memlm.experiment.config import ExperimentConfig
from memlm.experiment.locks import locked
from memlm.experiment.match import solve_widths
from memlm.experiment.record import code_state, environment
from memlm.experiment.run import device_record
from memlm.experiment.text import sampler_of
from memlm.experiment.trials import PLAN, Trial, Tune, read_trial, read_tune, trial_path
from memlm.experiment.tunable import (
    makes_its_own_text,
    own_rates,
    plan_of,
    refuse_another,
    tunable,
    tune_folder,
)
from memlm.extras import optional
from memlm.storage import write_json, write_yaml
from memlm.train.accelerator import OUT_OF_MEMORY, build_accelerator

SPREAD = 6
"""Trials after the first whose rates are spread evenly; the others go by what was found before."""


@dataclass(frozen=True)
class TuneWatcher:
    """What is told of a tune's course.

    Attributes:
        step: Called after every step of a trial with the trial's variant and number, and the step.
        finished: A trial that is done, and whether it was done before.
    """

    step: Callable[[str, int, int], None] = lambda _variant, _number, _step: None
    finished: Callable[[Trial, bool], None] = lambda _trial, _before: None


def tune(
    config: ExperimentConfig,
    root: Path,
    watcher: TuneWatcher | None = None,
    progress: bool = True,
    command: str = "",
    variants: Sequence[str] | None = None,
) -> Tune:
    """Runs every trial that is not finished yet; one that diverges counts as worst.

    The rates of a trial are a function of the seed and of the variant's trials before it, so a tune that was killed
    goes on as if nothing had happened.

    Args:
        config: The experiment; its `tune` section says how.
        root: The folder of all experiments; this tune's is ``root / <name>-tune``.
        watcher: Is told how it goes.
        progress: Show bars while the data are prepared.
        command: The command line, for the record.
        variants: Those that are tuned; all if not given.

    Raises:
        MemlmError: as `tunable`, or of the data.
    """
    config, chosen = tunable(config, root, variants)
    optional("optuna", "tune", "memlm tune").logging.set_verbosity(30)  # warnings
    disable_progress_bar()
    build_accelerator(config.train)
    config, _ = solve_widths(config)
    data = prepare(config.data, progress=progress)
    suite = _suite(config, data)
    folder = tune_folder(config, root)
    plan = plan_of(config, chosen, data.fingerprint)
    folder.mkdir(parents=True, exist_ok=True)
    watcher = watcher or TuneWatcher()
    with locked(folder):
        refuse_another(folder, plan)
        record = environment(code_state()) | {"device": device_record(config.train), "command": command}
        write_json(folder / PLAN, asdict(plan) | record)
        (folder / "trials").mkdir(exist_ok=True)
        done: dict[str, list[Trial]] = {variant: [] for variant in plan.variants}
        for number in range(plan.trials):  # variants inside, so that a tune cut short has tried all alike
            for variant, before in done.items():
                path = trial_path(folder, variant, number)
                is_old = path.exists()
                if is_old:
                    trial = read_trial(path, plan)
                else:
                    rates = _propose(config, variant, before)
                    trial = _try(config, variant, number, rates, data, suite, watcher)
                    write_json(path, asdict(trial))
                before.append(trial)
                watcher.finished(trial, is_old)
    return read_tune(folder)


def write_tuned(tune: Tune, path: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Writes ``tuned.yaml``, the config with the best rates, and returns what these are as ``variants``.

    It stands on the config as its base; on a config that has a base itself, which none may stand on, it is whole.

    Args:
        tune: The tune, finished.
        path: The config that was tuned.
        overrides: Those that it was tuned with; they are part of the file, but for the name.
    """
    found = {variant: tune.best(variant) for variant in tune.plan.variants}
    best: dict[str, Any] = {"variants": {name: {"train": trial.rates} for name, trial in found.items() if trial}}
    if "base" in read_file(path).data:
        content = read(path, overrides).data
    else:
        base = Path(os.path.relpath(path, tune.folder)).as_posix()
        content = {"base": base} | assignments(overrides)
    content.pop("tune", None)
    content["name"] = f"{tune.plan.name[:54]}-tuned"
    write_yaml(tune.folder / "tuned.yaml", merge(content, best))
    return best


def _suite(config: ExperimentConfig, data: TokenData) -> Suite:
    """Returns the evaluation of a trial: the loss on the tune split, which takes the place of the held-out text.

    Of a generated world, which is another one than that of the runs (`tunable`), it is the held-out text itself.
    """
    text = data.validation if makes_its_own_text(config) else data.tune
    if len(text.ids) <= config.data.seq_len:
        raise RunError(
            f"the tune split has {len(text.ids)} tokens, fewer than one sequence of {config.data.seq_len + 1}; "
            "raise data.tune_share, or give more text in data.tune"
        )
    # The held-out text of `evaluate.split: test` is not for tuning, so here it is never the test split.
    evaluate = config.evaluate.model_copy(update={"samples": 0, "split": "validation"})
    return Suite.of(evaluate, replace(data, validation=text), config.data.seq_len)


def _propose(config: ExperimentConfig, variant: str, before: Sequence[Trial]) -> dict[str, float]:
    """Returns the rates of a variant's next trial, to three digits, from those before it and the seed alone.

    First the config's own; then points of a scrambled Halton sequence, the same for all variants; then what a
    tree-structured Parzen estimator proposes (Bergstra et al. 2011, "Algorithms for Hyper-Parameter Optimization",
    section 4).
    """
    own = own_rates(config, variant)
    if not before:
        return own
    ranges = {name: getattr(config.tune, name) for name in own}
    if len(before) <= SPREAD:
        point = qmc.Halton(2, rng=config.tune.seed).random(SPREAD)[len(before) - 1]
        drawn = {name: low * (high / low) ** u for (name, (low, high)), u in zip(ranges.items(), point, strict=False)}
    else:
        drawn = _estimated(ranges, before, config.tune.seed)
    return {name: min(max(float(f"{drawn[name]:.3g}"), low), high) for name, (low, high) in ranges.items()}


def _estimated(ranges: Mapping[str, tuple[float, float]], before: Sequence[Trial], seed: int) -> dict[str, float]:
    """Returns what Optuna proposes; its sampler is made anew for every trial, so nothing of it has to be kept."""
    import optuna

    spread: dict[str, Any] = {name: optuna.distributions.FloatDistribution(*r, log=True) for name, r in ranges.items()}
    own_seed = int(np.random.SeedSequence([seed, len(before)]).generate_state(1)[0])
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=own_seed, n_startup_trials=0))
    for trial in before:
        value = math.inf if trial.loss is None else trial.loss
        study.add_trial(optuna.trial.create_trial(params=dict(trial.rates), distributions=spread, value=value))
    return study.ask(spread).params


def _try(
    config: ExperimentConfig,
    variant: str,
    number: int,
    rates: Mapping[str, float],
    data: TokenData,
    suite: Suite,
    watcher: TuneWatcher,
) -> Trial:
    start, loss, reason = time.perf_counter(), None, None
    sampler = sampler_of(config, data, config.tune.seed)
    try:
        model, _ = train_briefly(
            config,
            variant,
            sampler,
            suite.tokenizer,
            {"steps": config.tune.steps, **rates},
            lambda step, _loss, _speed: watcher.step(variant, number, step),
        )
        with build_accelerator(config.train).autocast():
            loss = mean_loss(model.decoder, suite.sequences, config.evaluate.batch_size)
    except torch.OutOfMemoryError:
        raise RunError(f"{variant}: {OUT_OF_MEMORY}") from None
    except DivergedError as error:
        reason = str(error)
    if loss is not None and not math.isfinite(loss):
        loss, reason = None, "the loss on the tune split is not finite"
    return Trial(variant, number, dict(rates), loss, time.perf_counter() - start, reason)
