"""Checks of learning: the loss, gradients, the optimizer, and the training loop itself on one batch."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from memlm.config.checks import FaultName
from memlm.hf import MemlmForCausalLM
from memlm.memory.base import Bank, MemoryRead
from memlm.model.loss import TokenLoss
from memlm.train.optimizer import build_optimizer
from memlm.train.preflight.findings import Fault
from memlm.train.preflight.looping import Sequences, learning, run_loop
from memlm.train.preflight.subject import VOCABULARY, Subject, memories

STEPS = 8
"""Optimizer steps within which every parameter must have had a gradient; a sound one has it in the first or second."""

OVERFIT_STEPS = 40
OVERFIT_LOSS = 1.0
"""Nats per token. Sound models end below 0.5, even 8 wide; one that does not follow its gradient stays above ln V = 4.1,
and one that knows the frequencies of the tokens alone above 2.5."""


def initial_loss(subject: Subject) -> list[Fault]:
    """An untrained model knows nothing: its loss on random tokens is near ln V.

    Sound initialisations are within 0.05 nats; an embedding drawn from N(0, 1) is several nats off.
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


def gradients(subject: Subject) -> list[Fault]:
    """Within a few steps every parameter gets a gradient, in each of its heads and halves, and the optimizer moves it."""
    model = subject.fresh()
    start = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    silent = {name: _parts(torch.zeros_like(parameter)) for name, parameter in model.named_parameters()}
    optimizer, module = build_optimizer(model, learning(STEPS)), TokenLoss(model.decoder)
    for step in range(STEPS):
        optimizer.zero_grad(set_to_none=True)
        summed, balance = module(subject.tokens(4, 14, draw=step))
        (summed / (4 * 13) + balance).backward()
        optimizer.step()
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                silent[name] |= _parts(parameter.grad)
        if all(parts.all() for parts in silent.values()):
            break
    frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    without = [name for name, parts in silent.items() if not parts.all()]
    still = [n for n, parameter in model.named_parameters() if n not in without and torch.equal(parameter, start[n])]
    return _gradient_faults(model, frozen, without, still)


def _parts(gradient: Tensor) -> Tensor:
    """Returns where ``gradient`` is not zero: for each leading index (a head, a half) of three axes or more, or at all."""
    return gradient.flatten(0, -3).flatten(1).any(1) if gradient.ndim > 2 else gradient.any()[None]


def _gradient_faults(model: nn.Module, frozen: list[str], without: list[str], still: list[str]) -> list[Fault]:
    values = {f"{n}.{p}" for n, m in model.named_modules() if isinstance(m, Bank) for p, _ in m.named_parameters()}
    faults: list[Fault] = []

    def tell(fault: FaultName, names: list[str], what: str, cause: str, module: str = "") -> None:
        if names:
            shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
            faults.append(Fault(fault, module or names[0].rpartition(".")[0], f"{shown} {what}", cause))

    dead = "got no gradient in " + f"{STEPS} steps"
    told: set[str] = set()
    for name, memory in memories(model).items():
        matrices = [f"{name}.{p}" for p, parameter in memory.named_parameters() if parameter.ndim > 1]
        lost = [p for p in matrices if p in without and p not in frozen]
        if lost and len(lost) == len(matrices):
            cause = "scores never reach the loss; multiply what is read by the weights, and detach nothing on their way"
            tell("dead_router", lost, dead, cause, name)
            told |= {p for p in without if p.startswith(f"{name}.")}
        else:
            for fault, word in (("keys_without_gradient", "key"), ("queries_without_gradient", "query")):
                part = [p for p in lost if word in p.removeprefix(name)]
                tell(fault, part, dead, f"the {word} is detached or unused where scores are computed", name)
                told |= set(part)
    frozen_values = [n for n in (*frozen, *without, *still) if n in values]
    tell("frozen_values", list(dict.fromkeys(frozen_values)), "do not learn", _VALUES)
    told |= values
    tell("frozen_parameters", [n for n in frozen if n not in told], "have requires_grad off", _FROZEN)
    tell("no_gradient", [n for n in without if n not in told and n not in frozen], dead, _SILENT)
    tell("not_optimized", [n for n in still if n not in told], f"did not move in {STEPS} steps", _STILL)
    return faults


_VALUES = (
    "the bank is detached, frozen or missing from the optimizer; train.train_values_epochs is how to freeze it later"
)
_FROZEN = "use a buffer for what never learns, or declare it in expected_to_break"
_SILENT = "it is unused, or detached on its way to the loss"
_STILL = "it has a gradient and the optimizer leaves it alone; look at train/optimizer.py's groups"


def untouched_rows(subject: Subject) -> list[Fault]:
    """One step of the training loop leaves the rows that no token read bit for bit as they were."""
    model = subject.fresh()
    banks = {name: module for name, module in model.named_modules() if isinstance(module, Bank)}
    before = {name: bank.values.detach().clone() for name, bank in banks.items()}
    touched = {id(bank): torch.zeros(bank.n_slots, dtype=torch.bool) for bank in banks.values()}

    def touch(_module: nn.Module, _args: object, read: MemoryRead) -> None:
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


def accumulation(subject: Subject) -> list[Fault]:
    """The training loop's gradient is that of the mean over the step's tokens, in one micro-step or several."""
    config = subject.config
    if config.experts is not None:  # the balance loss belongs to a micro-step; the loss over tokens does not
        quiet = config.experts.model_copy(update={"balance_weight": 0.0})
        config = config.model_copy(update={"experts": quiet})
    sequences = subject.tokens(12, 14)
    for batch_size, n_micro in ((6, 1), (2, 3)):
        model = subject.fresh(config)
        expected = _mean_gradient(subject.fresh(config), sequences[:6])
        seen: dict[str, list[Tensor]] = {name: [] for name, _ in model.named_parameters()}
        for name, parameter in model.named_parameters():
            parameter.register_post_accumulate_grad_hook(lambda p, name=name: seen[name].append(p.grad.clone()))
        sampler = Sequences(sequences, batch_size)
        run_loop(model, sampler, learning(2, batch_size=batch_size, accumulation=n_micro))
        if sampler.asked != list(range(2 * n_micro)):
            evidence = f"two steps of {n_micro} micro-steps asked for the batches {sampler.asked}"
            return [Fault("duplicated_data_order", "train.loop", evidence, "every micro-step needs the next batch")]
        first = {name: grads[n_micro - 1] for name, grads in seen.items() if len(grads) >= n_micro}
        off = max((_relative(grad, expected[name], expected) for name, grad in first.items()), default=0.0)
        if not first or off > 1e-3:  # sound: 2e-6; a mean of means over unequal parts: above 1e-2
            evidence = (
                f"with {n_micro} micro-steps of {batch_size} sequences gradients are off by {off:.2g} of their size"
            )
            cause = "divide summed losses by the tokens of the whole step, once, and clear gradients between steps"
            return [Fault("loss_not_summed", "train.loop", evidence, cause)]
    return []


def _mean_gradient(model: MemlmForCausalLM, sequences: Tensor) -> dict[str, Tensor]:
    summed, _ = TokenLoss(model.decoder)(sequences)
    (summed / sequences[:, 1:].numel()).backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def _relative(grad: Tensor, expected: Tensor, everything: dict[str, Tensor]) -> float:
    """Returns the distance of two gradients relative to their norm, or a thousandth of the largest where they are tiny."""
    floor = 1e-3 * max(g.norm().item() for g in everything.values())
    return (grad - expected).norm().item() / max(expected.norm().item(), floor)


def overfit(subject: Subject) -> list[Fault]:
    """The training loop learns two random sequences by heart."""
    losses = run_loop(
        subject.fresh(), Sequences(subject.tokens(2, 9), 2), learning(OVERFIT_STEPS, batch_size=2, lr=2e-2)
    )
    last = sum(losses[-3:]) / 3
    if last < OVERFIT_LOSS:
        return []
    evidence = f"the loss of one batch went from {losses[0]:.3g} to {last:.3g} nats per token in {OVERFIT_STEPS} steps"
    cause = "updates do not follow the gradient of this loss, or the logits do not depend on the tokens"
    return [Fault("cannot_overfit", "train.loop", evidence, cause)]
