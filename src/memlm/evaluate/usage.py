"""How a bank is used: which share of it is read, and how evenly."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field

import torch
from torch import Tensor

from memlm.memory.base import MemoryRead


@dataclass(frozen=True)
class Usage:
    """How one layer used its bank. With fewer reads than slots no memory can read them all, so look at `reads` too.

    Attributes:
        share_read: Share of the slots that were read at all.
        kl_uniform: KL divergence from the uniform distribution of the weight that slots received, nats.
        effective_slots: exp of that weight's entropy: the number of slots that even use would spread over.
        dead_slots: Slots that were never read.
        n_slots: Slots in the bank.
        reads: Reads that were counted.
        read_norm: Mean norm of a head's weighted sum of values.
    """

    share_read: float
    kl_uniform: float
    effective_slots: float
    dead_slots: int
    n_slots: int
    reads: int
    read_norm: float

    def as_dict(self) -> dict[str, float]:
        """Returns the fields by name."""
        return asdict(self)


@dataclass
class _Layer:
    weight: Tensor
    was_read: Tensor
    reads: int = 0
    norm: float = 0.0
    batches: int = 0


@dataclass
class UsageCounter:
    """Adds up what the memory layers read, batch by batch."""

    _layers: dict[int, _Layer] = field(default_factory=dict)

    def add(self, reads: dict[int, MemoryRead]) -> None:
        """Counts the reads of one batch, by layer."""
        for layer, read in reads.items():
            slots = read.slots.flatten()
            if layer not in self._layers:
                n_slots, device = read.bank.n_slots, slots.device
                # On the device in float32 where it has no float64; counts are far below its 2**24.
                zeros = torch.zeros(n_slots, device=device)
                self._layers[layer] = _Layer(zeros, zeros.bool())
            counted = self._layers[layer]
            counted.weight.index_add_(0, slots, read.weights.flatten().to(counted.weight.dtype))
            counted.was_read[slots] = True
            counted.reads += slots.numel()
            counted.norm += read.bank.weighted_sum(read.slots, read.weights).float().norm(dim=-1).mean().item()
            counted.batches += 1

    def result(self) -> dict[int, Usage]:
        """Returns the usage by layer."""
        return {layer: _usage(counted) for layer, counted in self._layers.items()}


def _usage(counted: _Layer) -> Usage:
    n_slots = counted.weight.numel()
    share = counted.weight.double().cpu()
    share = share / share.sum()
    entropy = -torch.special.xlogy(share, share).sum().item()
    read = int(counted.was_read.sum().item())
    return Usage(
        share_read=read / n_slots,
        kl_uniform=math.log(n_slots) - entropy,
        effective_slots=math.exp(entropy),
        dead_slots=n_slots - read,
        n_slots=n_slots,
        reads=counted.reads,
        read_norm=counted.norm / counted.batches,
    )
