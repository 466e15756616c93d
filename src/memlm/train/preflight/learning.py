"""Checks of training itself: where it starts, and what the training loop does to gradients, values and one batch."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from memlm.bank.base import Bank
from memlm.bank.vectors import VectorBank
from memlm.hf import MemlmForCausalLM
from memlm.memory.base import Memory, MemoryRead
from memlm.model.loss import TokenLoss
from memlm.train.preflight.findings import Fault
from memlm.train.preflight.looping import Sequences, learning, run_loop
from memlm.train.preflight.subject import VOCABULARY, Subject, memories
from memlm.train.schedule import lr_factor

OVERFIT_STEPS = (25, 100)
"""Steps that a model is given; the many only to one that the few did not suffice."""
OVERFIT_LOSS = 1.5
"""Nats per token. Of 220 sound models one ended at 1.25 after the few steps (0.09 after the many), the rest below 0.88.
One that does not follow its gradient stays at ln V = 4.1 or climbs; one that knows no more than the tokens' frequencies
ends at ln 16 = 2.8."""


def initial_loss(subject: Subject) -> list[Fault]:
    """An untrained model knows nothing: its loss on random tokens is near ln V.

    Of 100 sound models the farthest, with an init_std of 0.05, is 0.12 nats off; an embedding from N(0, 1) is 27.
    """
    sequences = subject.tokens(16, 14)
    with torch.no_grad():
        summed, _ = TokenLoss(subject.fresh().decoder)(sequences)
    loss = summed.item() / sequences[:, 1:].numel()
    if abs(loss - math.log(VOCABULARY)) < 0.5:
        return []
    evidence = f"{loss:.3g} nats per token before training, and ln V is {math.log(VOCABULARY):.3g}"
    cause = "initial weights are too large or never drawn; look at reset_parameters and model.init_std"
    return [Fault("initial_loss", "decoder", evidence, cause)]


def untouched_rows(subject: Subject) -> list[Fault]:
    """One step of the training loop leaves the rows that no token read bit for bit as they were.

    Values that an encoder makes change with it, read or not, so this is asked of banks of vectors alone.
    """
    model = subject.fresh()
    banks = {name: module for name, module in model.named_modules() if isinstance(module, VectorBank)}
    before = {name: bank.values.detach().clone() for name, bank in banks.items()}
    touched = {id(bank): torch.zeros(bank.n_slots, dtype=torch.bool) for bank in banks.values()}

    def touch(_module: nn.Module, _args: object, read: MemoryRead) -> None:
        if id(read.bank) in touched:
            touched[id(read.bank)][read.slots.flatten()] = True

    for memory in memories(model).values():
        memory.register_forward_hook(touch)
    run_loop(model, Sequences(subject.tokens(1, 5), 1), learning(1, batch_size=1))
    faults = []
    for name, bank in banks.items():
        untouched = ~touched[id(bank)]
        moved = (bank.values.detach() != before[name]).any(1) & untouched
        if moved.any():
            evidence = f"{int(moved.sum())} of {int(untouched.sum())} rows that no token read changed in one step"
            cause = "decay or a dense update wears values away; keep the bank in a group without weight decay"
            faults.append(Fault("decay_on_values", name, evidence, cause))
    return faults


def learning_rates(subject: Subject) -> list[Fault]:
    """At every optimizer step of the loop each parameter has its own rate, times the schedule's factor."""
    model, n_steps, rate, value_rate, router_rate = subject.fresh(), 4, 1e-3, 4e-3, 2e-3
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    peaks = dict.fromkeys(names.values(), rate)
    for kind, own in ((Bank, value_rate), (Memory, router_rate)):
        modules = (module for module in model.modules() if isinstance(module, kind))
        peaks |= {
            names[id(parameter)]: own for module in modules for parameter in module.parameters(recurse=kind is Memory)
        }
    rates = {"lr": rate, "value_lr": value_rate, "router_lr": router_rate}
    settings = learning(n_steps, batch_size=2, accumulation=3, warmup=0.5, schedule="cosine", **rates)
    seen: list[dict[str, float]] = []

    def record(optimizer: torch.optim.Optimizer, _args: object, _kwargs: object) -> None:
        groups = optimizer.param_groups
        seen.append({names[id(p)]: group["lr"] for group in groups for p in group["params"] if id(p) in names})

    with register_optimizer_step_pre_hook(record):
        run_loop(model, Sequences(subject.tokens(6, 14), 2), settings)
    for step, rates in enumerate(seen):
        factor = lr_factor(step, n_steps, settings)
        for name, found in rates.items():
            expected = factor * peaks[name]
            if not math.isclose(found, expected, rel_tol=1e-6):
                evidence = (
                    f"{name} has the rate {found:.3g} at step {step + 1} of {n_steps}, and should have {expected:.3g}"
                )
                cause = "look at the groups in train/optimizer.py, and at who sets their rates, once for each step"
                return [Fault("wrong_learning_rate", "train.optimizer", evidence, cause)]
    return []


def accumulation(subject: Subject) -> list[Fault]:
    """The training loop's gradient is that of the mean over the step's tokens, in one micro-step or several."""
    config = subject.config
    if config.experts is not None:  # the balance loss belongs to a micro-step; the loss over tokens does not
        quiet = config.experts.model_copy(update={"balance_weight": 0.0})
        config = config.model_copy(update={"experts": quiet})
    sequences = subject.tokens(12, 14)
    expected = _mean_gradient(subject.fresh(config), sequences[:6])
    for batch_size, n_micro in ((6, 1), (2, 3)):
        model = subject.fresh(config)
        seen = _recorded_gradients(model)
        sampler = Sequences(sequences, batch_size)
        run_loop(model, sampler, learning(2, batch_size=batch_size, accumulation=n_micro))
        if sampler.asked != list(range(2 * n_micro)):
            evidence = f"two steps of {n_micro} micro-steps asked for the batches {sampler.asked}"
            return [Fault("duplicated_data_order", "train.loop", evidence, "every micro-step needs the next batch")]
        first = {name: grads[n_micro - 1] for name, grads in seen.items() if len(grads) >= n_micro}
        offs = {name: _relative(grad, expected[name], expected) for name, grad in first.items()}
        off = max(offs.values(), default=0.0)
        if not first or off > 1e-3:  # 100 sound models: below 1e-6; half of the tokens counted: 1
            banks = {f"{n}.values": n for n, module in model.named_modules() if isinstance(module, VectorBank)}
            wrong = [name for name, distance in offs.items() if distance > 1e-3]
            if wrong and all(name in banks for name in wrong):
                evidence = f"its values' gradient over {n_micro} micro-steps is off by {off:.2g} of its size"
                cause = "reads must add up their gradients, unscaled, whatever else is read in the same batch"
                return [Fault("wrong_gradient", banks[wrong[0]], evidence, cause)]
            evidence = (
                f"with {n_micro} micro-steps of {batch_size} sequences gradients are off by {off:.2g} of their size"
            )
            cause = "divide summed losses by the tokens of the whole step, once, and clear gradients between steps"
            return [Fault("loss_not_summed", "train.loop", evidence, cause)]
    return []


def _recorded_gradients(model: nn.Module) -> dict[str, list[Tensor]]:
    """Returns lists that fill, one item a micro-step, with each parameter's gradient as it has added up so far."""
    seen: dict[str, list[Tensor]] = {}

    def record(name: str, parameter: nn.Parameter) -> None:
        grads = seen.setdefault(name, [])
        parameter.register_post_accumulate_grad_hook(lambda p: grads.append(p.grad.clone()))  # pyright: ignore

    for name, parameter in model.named_parameters():
        record(name, parameter)
    return seen


def _mean_gradient(model: MemlmForCausalLM, sequences: Tensor) -> dict[str, Tensor]:
    summed, _ = TokenLoss(model.decoder)(sequences)
    (summed / sequences[:, 1:].numel()).backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def _relative(grad: Tensor, expected: Tensor, everything: dict[str, Tensor]) -> float:
    """Returns the distance of two gradients over their norm, or over a thousandth of the largest one's."""
    floor = 1e-3 * max(g.norm().item() for g in everything.values())
    found = (grad - expected).norm().item() / max(expected.norm().item(), floor)
    return found if math.isfinite(found) else math.inf


def overfit(subject: Subject) -> list[Fault]:
    """The training loop learns two random sequences by heart."""
    evidence = ""
    for steps in OVERFIT_STEPS:
        sequences = Sequences(subject.tokens(2, 9), 2)
        losses = run_loop(subject.fresh(), sequences, learning(steps, batch_size=2, lr=2e-2))
        last = sum(losses[-3:]) / 3
        if last < OVERFIT_LOSS:
            return []
        evidence = f"the loss of one batch went from {losses[0]:.3g} to {last:.3g} nats per token in {steps} steps"
    cause = "updates do not follow the gradient of this loss, or the logits do not depend on the tokens"
    return [Fault("cannot_overfit", "train.loop", evidence, cause)]
