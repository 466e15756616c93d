"""Runs the checks, one after the other, on two draws of weights and tokens where one finds something."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import nn

from memlm.config.checks import LEFT_OUT, Check
from memlm.config.train import TrainConfig
from memlm.data.sampler import Sampler
from memlm.model.config import ModelConfig
from memlm.train.preflight import gradients, learning, loss, operations, order, paths, reload, remembered, selection
from memlm.train.preflight.findings import Fault, Outcome, Report
from memlm.train.preflight.shrink import shrunken
from memlm.train.preflight.subject import EvaluateLoss, Subject


@dataclass(frozen=True)
class Entry:
    """A check.

    Attributes:
        run: The check; it returns what it finds.
        after: Checks without which this one's findings would only repeat theirs: where they found something, it is
            skipped.
        of_memory: It says something about models with a memory only.
    """

    run: Callable[[Subject], list[Fault]]
    after: tuple[Check, ...] = ()
    of_memory: bool = False


CHECKS: dict[Check, Entry] = {
    "determinism": Entry(paths.determinism),
    "train_eval_parity": Entry(paths.train_eval_parity, ("determinism",)),
    "causality": Entry(paths.causality, ("determinism",)),
    "causality_in_training": Entry(paths.causality_in_training, ("determinism", "causality")),
    "context": Entry(paths.context, ("determinism",)),
    "positions": Entry(paths.positions, ("determinism", "causality")),
    "batch_invariance": Entry(paths.batch_invariance, ("determinism",)),
    "batch_invariance_in_training": Entry(paths.batch_invariance_in_training, ("determinism", "batch_invariance")),
    "padding": Entry(paths.padding, ("determinism", "causality")),
    "cached_generation": Entry(paths.cached_generation, ("determinism", "causality")),
    "reads": Entry(selection.reads, of_memory=True),
    "top_k": Entry(selection.top_k, ("determinism", "causality", "reads"), of_memory=True),
    "kernels": Entry(operations.kernels),
    "loss": Entry(loss.loss, ("determinism",)),
    "evaluation": Entry(loss.evaluation, ("determinism", "loss")),
    "initial_loss": Entry(learning.initial_loss, ("loss",)),
    "memory_effect": Entry(selection.memory_effect, ("determinism", "reads"), of_memory=True),
    "gradients": Entry(gradients.gradients, ("loss", "context", "memory_effect")),
    "untouched_rows": Entry(learning.untouched_rows, ("loss", "reads"), of_memory=True),
    "accumulation": Entry(
        learning.accumulation,
        ("determinism", "loss", "train_eval_parity", "batch_invariance", "batch_invariance_in_training"),
    ),
    "learning_rates": Entry(learning.learning_rates),
    "overfit": Entry(learning.overfit, ("loss", "gradients")),
    "reload": Entry(reload.reload, ("determinism",)),
}
"""Every check of the model; `data_order` looks at the sampler instead."""


def preflight(
    model: ModelConfig,
    train: TrainConfig,
    *,
    evaluate_loss: EvaluateLoss | None = None,
    sampler: Sampler | None = None,
    device: torch.device | None = None,
    use_cache: bool = True,
) -> Report:
    """Tries a small float32 copy of a model on the CPU; neither torch's random state nor accelerate's is touched.

    Args:
        model: The model's configuration.
        train: Names the checks that are left out.
        evaluate_loss: Returns the run's evaluation loss for a model and sequences [N, T + 1], nats per token.
        sampler: The run's sampler; without it the order of data is not looked at.
        device: Where the run's kernels are tried; the CPU if not given.
        use_cache: Remember a model that passed, and skip what is remembered.
    """
    device = device or torch.device("cpu")
    key = remembered.key(model, train, device, evaluate_loss is not None)
    report = remembered.recall(key) if use_cache else None
    if report is None:
        with torch.random.fork_rng(devices=[]), _one_thread():
            report = _run_all(model, train, device, evaluate_loss)
        if use_cache and not report.faults:
            remembered.keep(key, report)
    return replace(report, outcomes=(*report.outcomes, _order_outcome(sampler, train)))


@contextmanager
def _one_thread() -> Iterator[None]:
    """The copy's tensors are so small that threads do nothing but wait for each other, seconds on a busy machine."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(n_threads)


def _run_all(
    model: ModelConfig, train: TrainConfig, device: torch.device, evaluate_loss: EvaluateLoss | None
) -> Report:
    subject = Subject(shrunken(model), 0, device, evaluate_loss)
    outcomes: dict[Check, Outcome] = {}
    for check, entry in CHECKS.items():
        reason = _reason_to_skip(check, entry, subject, train, outcomes)
        outcomes[check] = Outcome(check, "skipped", reason=reason) if reason else _outcome(check, entry, subject)
    return Report(tuple(outcomes.values()))


def _reason_to_skip(
    check: Check, entry: Entry, subject: Subject, train: TrainConfig, outcomes: dict[Check, Outcome]
) -> str:
    if check in train.skip_checks:
        return LEFT_OUT
    if entry.of_memory and subject.config.memory is None:
        return "the model has no memory"
    if check == "evaluation" and subject.evaluate_loss is None:
        return "no evaluation was given"
    broken = [other for other in entry.after if outcomes[other].faults]
    return f"says nothing after what {', '.join(broken)} found" if broken else ""


def _outcome(check: Check, entry: Entry, subject: Subject) -> Outcome:
    start = time.perf_counter()
    faults = guarded(entry.run, subject)
    if faults:
        # Where two slots nearly tie, rounding may decide between them; a fault shows whatever is drawn.
        again = {fault.fault for fault in guarded(entry.run, replace(subject, seed=subject.seed + 1))}
        faults = [fault for fault in faults if fault.fault in again]
    declared: dict[str, str] = {}
    for part in (subject.config.memory, subject.config.fusion):
        declared |= part.expected_to_break if part is not None else {}
    meant = [f"{fault.fault}: {declared[fault.fault]}" for fault in faults if fault.fault in declared]
    status = "passed" if not faults else "declared" if len(meant) == len(faults) else "failed"
    return Outcome(check, status, time.perf_counter() - start, "; ".join(dict.fromkeys(meant)), tuple(faults))


def guarded(check: Callable[[Subject], list[Fault]], subject: Subject) -> list[Fault]:
    """Runs a check; a model that raises an error in it is at fault too."""
    try:
        return check(subject)
    except (OSError, MemoryError, torch.OutOfMemoryError):  # the machine's trouble, not the model's
        raise
    except Exception as error:
        evidence = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        return [Fault("broken", _where(error), evidence, "the model must run on any batch, length and mode")]


def _where(error: Exception) -> str:
    """Returns the class of the innermost module that an error came through."""
    frames = [frame.f_locals.get("self") for frame, _ in traceback.walk_tb(error.__traceback__)]
    modules = [owner for owner in frames if isinstance(owner, nn.Module)]
    return type(modules[-1]).__name__ if modules else "train"


def _order_outcome(sampler: Sampler | None, train: TrainConfig) -> Outcome:
    if "data_order" in train.skip_checks:
        return Outcome("data_order", "skipped", reason=LEFT_OUT)
    if sampler is None:
        return Outcome("data_order", "skipped", reason="no sampler was given")
    start = time.perf_counter()
    faults = order.data_order(sampler)
    return Outcome("data_order", "failed" if faults else "passed", time.perf_counter() - start, "", tuple(faults))
