"""Checks of the memory itself: what it reads, that it reads the best, and that what it reads matters."""

from __future__ import annotations

import copy
import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn

import memlm.kernels
from memlm.fusion.base import Fusion
from memlm.memory.base import Memory, MemoryRead
from memlm.train.preflight.findings import Fault
from memlm.train.preflight.subject import Subject, memories
from memlm.train.preflight.trace import differ, distance


def reads(subject: Subject) -> list[Fault]:
    """Every memory layer of the config reads, from the bank it should; slots and weights are what fusions rely on."""
    model = subject.moved()
    found = model.decoder(subject.tokens()).reads
    expected = subject.config.memory_layers
    if sorted(found) != expected:
        evidence = f"blocks {sorted(found)} read a memory, and the config says {expected}"
        return [
            Fault("wrong_wiring", "decoder.blocks", evidence, "build the memory in the blocks that model.layers names")
        ]
    n_banks, wanted = (
        len({id(read.bank) for read in found.values()}),
        1 if subject.config.shared_bank else len(expected),
    )
    if n_banks != wanted:
        evidence = f"{len(expected)} layers read {n_banks} banks, and model.shared_bank asks for {wanted}"
        return [Fault("wrong_wiring", "decoder.banks", evidence, "hand each block the bank that the decoder owns")]
    faults = []
    for layer, read in found.items():
        for evidence in _wrong(read):
            cause = "a memory returns int64 slots of its bank, none twice in a head, and weights that sum to one"
            faults.append(Fault("wrong_reads", f"decoder.blocks.{layer}.memory", evidence, cause))
    return faults


def _wrong(read: MemoryRead) -> list[str]:
    slots, weights = read.slots, read.weights
    if slots.shape != weights.shape or slots.ndim != 4 or slots.dtype != torch.int64:
        return [f"slots {list(slots.shape)} {slots.dtype}, weights {list(weights.shape)}"]
    found = []
    if slots.min() < 0 or slots.max() >= read.bank.n_slots:
        found.append(f"slots {int(slots.min())} to {int(slots.max())} of a bank of {read.bank.n_slots}")
    twice = (slots.sort(-1).values.diff(dim=-1) == 0).any(-1).float().mean().item()
    if twice:
        found.append(f"{twice:.0%} of the heads read a slot twice")
    sums = weights.sum(-1)
    if weights.min() < 0 or differ(sums, torch.ones_like(sums)):
        found.append(f"weights from {weights.min():.2g} whose sums go up to {sums.max():.3g}")
    return found


class HalfScores(Protocol):
    """A memory whose slots are pairs of half keys."""

    def half_scores(self, hidden: Tensor) -> Tensor:
        """Returns the score of every half key, [B, T, H, 2, M]."""
        ...


def top_k(subject: Subject) -> list[Fault]:
    """The slots and weights of a product-key memory are those of a search through all of its slots."""
    model = subject.moved()
    for name, memory in memories(model).items():
        scored: Any = memory
        if not hasattr(memory, "half_scores"):
            continue
        hidden, read = _call_of(model, memory, subject)
        best, scores = every_slot(scored.half_scores(hidden), read.slots.shape[-1])
        missed = (best != read.slots).float().mean().item()
        off = distance(scores.softmax(-1), read.weights)
        if missed or differ(scores.softmax(-1), read.weights):
            evidence = f"{missed:.0%} of the slots are not those of a full search, weights differ by up to {off:.2g}"
            return [
                Fault("wrong_top_k", name, evidence, "slots are first * M + second, best sum first, ties to the lowest")
            ]
    return []


def every_slot(half_scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Returns the best ``k`` slots and their scores [..., k] by sorting all M * M sums of ``half_scores`` [..., 2, M]."""
    sums = (half_scores[..., 0, :, None] + half_scores[..., 1, None, :]).flatten(-2)
    scores, slots = sums.sort(dim=-1, descending=True, stable=True)
    return slots[..., :k], scores[..., :k]


def _call_of(model: nn.Module, memory: Memory, subject: Subject) -> tuple[Tensor, MemoryRead]:
    """Returns what ``memory`` was given and what it returned in one pass."""
    calls: list[tuple[Tensor, MemoryRead]] = []
    handle = memory.register_forward_hook(lambda _module, args, read: calls.append((args[0], read)))
    with torch.no_grad(), handle:
        model(subject.tokens())
    return calls[0]


def _topk_case(device: torch.device, draw: int) -> tuple[tuple[Any, ...], Callable[..., tuple[Tensor, ...]]]:
    scores = torch.randn(3, 5, 2, 2, 17, generator=torch.Generator().manual_seed(draw))
    if draw % 2:
        scores = (scores * 2).round()  # small integers tie often, and their sums are exact
    return (scores.to(device), 6), every_slot


def _lookup_case(device: torch.device, draw: int) -> tuple[tuple[Any, ...], Callable[..., tuple[Tensor, ...]]]:
    generator = torch.Generator().manual_seed(draw)
    values, weights = torch.randn(11, 4, generator=generator), torch.randn(3, 5, 7, generator=generator)
    slots = torch.randint(11, (3, 5, 7), generator=generator)  # rows repeat

    def plain(values: Tensor, slots: Tensor, weights: Tensor) -> tuple[Tensor, ...]:
        return ((values[slots] * weights[..., None]).sum(-2),)

    return (values.to(device), slots.to(device), weights.to(device)), plain


CASES = {"product_key_topk": _topk_case, "weighted_lookup": _lookup_case}
"""For each operation: its arguments, and a formula written without it."""


def kernels(subject: Subject) -> list[Fault]:
    """On the run's device, every kernel and its reference give what the plain formula gives, gradients included."""
    faults = []
    for operation in (module.name for module in pkgutil.iter_modules(memlm.kernels.__path__) if module.ispkg):
        package = importlib.import_module(f"memlm.kernels.{operation}")
        reference = importlib.import_module(f"memlm.kernels.{operation}.reference")
        for where, room in ((package.__name__, package), (reference.__name__, reference)):
            off = max(_off(getattr(room, operation), *CASES[operation](subject.device, draw)) for draw in range(4))
            if off > 1e-4:  # float32 sums of a few terms: correct ones stay below 1e-5
                evidence = f"results or gradients on {subject.device} are off by up to {off:.2g}"
                faults.append(Fault("wrong_kernel", where, evidence, "compare it with the formula in its reference.py"))
    return faults


def _off(
    operation: Callable[..., Any], arguments: tuple[Any, ...], formula: Callable[..., tuple[Tensor, ...]]
) -> float:
    """Returns the largest difference of results and gradients between an operation and its formula."""
    sides = []
    for function in (operation, formula):
        given = [
            a.clone().requires_grad_() if isinstance(a, Tensor) and a.is_floating_point() else a for a in arguments
        ]
        result = function(*given)
        results = result if isinstance(result, tuple) else (result,)
        total = sum(
            (r * torch.linspace(-1, 2, r.numel(), device=r.device).view_as(r)).sum()
            for r in results
            if r.is_floating_point()
        )
        learning = [a for a in given if isinstance(a, Tensor) and a.requires_grad]
        sides.append([*results, *torch.autograd.grad(total, learning)])  # pyright: ignore[reportArgumentType]
    return max(distance(left.detach(), right.detach()) for left, right in zip(*sides, strict=True))


def memory_effect(subject: Subject) -> list[Fault]:
    """In every memory layer the update depends on the values that are read, and the logits depend on the update."""
    model, ids = subject.moved(), subject.tokens()
    faults = []
    for name, fusion in [(n, m) for n, m in model.named_modules() if isinstance(m, Fusion)]:
        calls: list[tuple[Tensor, Any, Tensor]] = []
        with (
            fusion.register_forward_hook(lambda _m, args, out, calls=calls: calls.append((*args, out))),
            torch.no_grad(),
        ):
            logits = model(ids).logits
        hidden, read, update = calls[0]
        other = copy.deepcopy(read.bank)
        with torch.no_grad():
            for parameter in other.parameters():
                parameter.copy_(parameter.roll(1, 0))
            moved = fusion(hidden, replace(read, bank=other))
        with fusion.register_forward_hook(lambda _m, _args, out: torch.zeros_like(out)), torch.no_grad():
            without = model(ids).logits
        cause = "nothing can be learned from the bank there; add the values that are read to what the fusion returns"
        if not differ(moved, update):
            faults.append(Fault("memory_ignored", name, "other values leave the fusion's update as it is", cause))
        elif not differ(without, logits):
            cause = "the block drops what its fusion returns; add it to the residual stream"
            block = name.rpartition(".")[0]
            faults.append(Fault("memory_ignored", block, "an update of zero leaves the logits as they are", cause))
    return faults
