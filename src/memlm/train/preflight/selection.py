"""Checks of the memory itself: what it reads, that it reads the best, and that what it reads matters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from memlm.fusion.base import Fusion
from memlm.memory.base import Memory, MemoryRead
from memlm.train.preflight.findings import Fault
from memlm.train.preflight.subject import Subject, memories
from memlm.train.preflight.trace import differ, distance


def reads(subject: Subject) -> list[Fault]:
    """Every memory layer of the config reads, from the bank it should; slots and weights are what fusions rely on."""
    model = subject.moved()
    faults: list[Fault] = []

    def look(name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _args: object, read: MemoryRead) -> None:
            found = _wrong(read, subject.config.memory.is_normalised)
            faults.extend(Fault("wrong_reads", name, evidence, _READS) for evidence in found)

        return hook

    for name, memory in memories(model).items():
        memory.register_forward_hook(look(name))
    try:
        found = model.decoder(subject.tokens()).reads
    except Exception:
        if faults:  # a slot outside of the bank stops the pass where it is read
            return faults
        raise
    return [*faults, *_misplaced(subject, found)]


_READS = (
    "a memory returns int64 slots of its bank, none twice in a head, and weights, none negative, that sum to one "
    "unless its config says otherwise (is_normalised)"
)


def _misplaced(subject: Subject, found: dict[int, MemoryRead]) -> list[Fault]:
    expected = subject.config.memory_layers
    if sorted(found) != expected:
        evidence = f"blocks {sorted(found)} read a memory, and the config says {expected}"
        cause = "build the memory in the blocks that model.layers names"
        return [Fault("wrong_wiring", "decoder.blocks", evidence, cause)]
    n_banks = len({id(read.bank) for read in found.values()})
    if n_banks != (1 if subject.config.shared_bank else len(expected)):
        evidence = f"{len(expected)} layers read {n_banks} banks, and shared_bank is {subject.config.shared_bank}"
        cause = "hand each block the bank that the decoder owns"
        return [Fault("wrong_wiring", "decoder.banks", evidence, cause)]
    return []


def _wrong(read: MemoryRead, is_normalised: bool) -> list[str]:
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
    if not weights.min() >= 0 or (is_normalised and differ(sums, torch.ones_like(sums))):
        found.append(f"weights from {weights.min():.2g} whose sums go up to {sums.max():.3g}")
    return found


class HalfScores(Protocol):
    """A memory whose slots are pairs of half keys."""

    def half_scores(self, hidden: Tensor) -> Tensor:
        """Returns the score of every half key, [B, T, H, 2, M]."""
        ...

    def weigh(self, scores: Tensor) -> Tensor:
        """Returns the weights of the slots chosen by ``scores``, both [..., K]."""
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
        weights = scored.weigh(scores)
        off = distance(weights, read.weights)
        if missed or differ(weights, read.weights):
            evidence = f"{missed:.0%} of the slots are not those of a full search, weights differ by up to {off:.2g}"
            return [
                Fault("wrong_top_k", name, evidence, "slots are first * M + second, best sum first, ties to the lowest")
            ]
    return []


def every_slot(half_scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Returns the best ``k`` slots and their scores [..., k], by sorting all sums of ``half_scores`` [..., 2, M]."""
    sums = (half_scores[..., 0, :, None] + half_scores[..., 1, None, :]).flatten(-2)
    scores, slots = sums.sort(dim=-1, descending=True, stable=True)
    return slots[..., :k], scores[..., :k]


def _call_of(model: nn.Module, memory: Memory, subject: Subject) -> tuple[Tensor, MemoryRead]:
    """Returns what ``memory`` was given and what it returned in one pass."""
    calls: list[tuple[Any, Any]] = []
    handle = memory.register_forward_hook(lambda _module, args, read: calls.append((args[0], read)))
    with torch.no_grad(), handle:
        model(subject.tokens())
    return calls[0]


def memory_effect(subject: Subject) -> list[Fault]:
    """In every memory layer the update depends on each read, and the logits depend on the update."""
    model, ids = subject.moved(), subject.tokens()
    faults = []
    for name, fusion in [(n, m) for n, m in model.named_modules() if isinstance(m, Fusion)]:
        with torch.no_grad():
            calls: list[Any] = []
            with fusion.register_forward_hook(lambda _m, args, update, to=calls: to.append((*args, update))):
                logits = model(ids).logits
            with fusion.register_forward_hook(_nothing):
                without = model(ids).logits
            ignored, n_reads = _ignored_reads(fusion, *calls[0])
        if ignored:
            evidence = f"{ignored} of a token's {n_reads} reads leave the update as it is, whatever slot they lead to"
            cause = "what is read there cannot be learned; let the fusion's update depend on all values"
            faults.append(Fault("memory_ignored", name, evidence, cause))
        elif not differ(without, logits):
            evidence = "an update of zero leaves the logits as they are"
            cause = "the block drops what its fusion returns; add it to the residual stream"
            faults.append(Fault("memory_ignored", name.rpartition(".")[0], evidence, cause))
    return faults


def _nothing(_module: nn.Module, _args: object, update: Any) -> Tensor:
    """Stands in for a fusion's update."""
    return torch.zeros_like(update)


def _ignored_reads(fusion: Fusion, hidden: Tensor, read: MemoryRead, update: Tensor) -> tuple[int, int]:
    """Returns how many of a token's reads the update [B, T, D] does not depend on, and how many there are."""
    H, K = read.slots.shape[2:]
    ignored = 0
    for head in range(H):
        for rank in range(K):
            slots = read.slots.clone()
            slots[..., head, rank] = (slots[..., head, rank] + 1) % read.bank.n_slots
            ignored += not differ(fusion(hidden, replace(read, slots=slots)), update)
    return ignored, H * K
