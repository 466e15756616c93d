"""Check that everything learns: each parameter gets a gradient, and the optimizer moves it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from memlm.bank.base import Bank
from memlm.config.checks import FaultName
from memlm.hf import MemlmForCausalLM
from memlm.model.loss import TokenLoss
from memlm.train.optimizer import build_optimizer
from memlm.train.preflight.findings import Fault
from memlm.train.preflight.looping import learning
from memlm.train.preflight.subject import Subject, memories

STEPS = 8
"""Optimizer steps within which every parameter must have had a gradient; a sound one has it in the first or second."""

SAID: dict[FaultName, tuple[str, str]] = {
    "dead_router": (
        f"got no gradient in {STEPS} steps",
        "scores never reach the loss; multiply what is read by the weights, and detach nothing on their way",
    ),
    "keys_without_gradient": (
        f"got no gradient in {STEPS} steps, or not in each head and half",
        "keys are detached or unused where scores are computed",
    ),
    "queries_without_gradient": (
        f"got no gradient in {STEPS} steps, or not in each head and half",
        "queries are detached or unused where scores are computed",
    ),
    "frozen_values": (
        "did not learn",
        "the bank is detached, frozen or missing from the optimizer; train.train_values_epochs freezes it later",
    ),
    "frozen_parameters": (
        "have requires_grad off",
        "use a buffer for what never learns, or declare it in expected_to_break",
    ),
    "no_gradient": (f"got no gradient in {STEPS} steps", "it is unused, or detached on its way to the loss"),
    "not_optimized": (
        f"did not move in {STEPS} steps",
        "it has a gradient and the optimizer leaves it alone; look at the groups in train/optimizer.py",
    ),
}
"""For each fault: what was seen of the parameters, and the likely cause."""


class _Learned(NamedTuple):
    """The names of parameters that did not learn: never meant to, without a gradient, left alone."""

    frozen: set[str]
    silent: set[str]
    still: set[str]


def gradients(subject: Subject) -> list[Fault]:
    """Within a few steps every parameter, in each head and half, gets a gradient, and the optimizer moves it."""
    model = subject.fresh()
    learned = _learn(model, subject)
    values = {f"{n}.{p}" for n, m in model.named_modules() if isinstance(m, Bank) for p, _ in m.named_parameters()}
    groups: dict[tuple[FaultName, str], list[str]] = {}
    for name, _ in model.named_parameters():
        if name in values and any(name in names for names in learned):
            groups.setdefault(("frozen_values", _owner(name)), []).append(name)
        elif name in learned.silent and (fault := _router_fault(model, name, learned.silent)):
            groups.setdefault(fault, []).append(name)
        elif name in learned.frozen:
            groups.setdefault(("frozen_parameters", ""), []).append(name)
        elif name in learned.silent:
            groups.setdefault(("no_gradient", ""), []).append(name)
        elif name in learned.still:
            groups.setdefault(("not_optimized", ""), []).append(name)
    return [
        Fault(fault, module or _owner(names[0]), f"{_listed(names)} {SAID[fault][0]}", SAID[fault][1])
        for (fault, module), names in groups.items()
    ]


def _learn(model: MemlmForCausalLM, subject: Subject) -> _Learned:
    start = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    routing = {f"{path}.{name}" for path, memory in memories(model).items() for name, _ in memory.named_parameters()}
    heard = {name: _parts(torch.zeros_like(parameter), name in routing) for name, parameter in model.named_parameters()}
    optimizer, module = build_optimizer(model, learning(STEPS)), TokenLoss(model.decoder)
    for step in range(STEPS):
        optimizer.zero_grad(set_to_none=True)
        sequences = subject.tokens(4, 14, draw=step)
        summed, balance = module(sequences)
        (summed / sequences[:, 1:].numel() + balance).backward()
        optimizer.step()
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                heard[name] |= _parts(parameter.grad, name in routing)
        if all(parts.all() for parts in heard.values()):
            break
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    silent = {name for name, parts in heard.items() if not parts.all()} - frozen
    still = {name for name, parameter in model.named_parameters() if torch.equal(parameter, start[name])}
    return _Learned(frozen, silent, still - silent - frozen)


def _parts(gradient: Tensor, of_router: bool) -> Tensor:
    """Returns whether ``gradient`` is anywhere, or anywhere in each part that must learn by itself.

    These are the heads and halves of keys, and each component of a query.
    """
    if gradient.ndim > 2:
        return gradient.flatten(0, -3).flatten(1).any(1)
    return gradient.any(1) if of_router and gradient.ndim == 2 else gradient.any()[None]


def _router_fault(model: nn.Module, name: str, silent: set[str]) -> tuple[FaultName, str] | None:
    """Returns the fault and the memory of a silent parameter, None if it is no memory's or goes by no known name."""
    for path, memory in memories(model).items():
        if not name.startswith(f"{path}."):
            continue
        if all(f"{path}.{p}" in silent for p, parameter in memory.named_parameters() if parameter.ndim > 1):
            return "dead_router", path
        if "key" in name.removeprefix(path):
            return "keys_without_gradient", path
        if "query" in name.removeprefix(path):
            return "queries_without_gradient", path
    return None


def _owner(name: str) -> str:
    return name.rpartition(".")[0]


def _listed(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
