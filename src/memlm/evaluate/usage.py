"""How a bank is used: which share of it is read, how evenly, and how much what is read changes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from memlm.bank.base import Bank
from memlm.fusion.base import Fusion
from memlm.memory.base import MemoryRead
from memlm.model.block import Block
from memlm.model.decoder import Decoder


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
        update_share: Mean over tokens of the norm of what the reads change in the fusion's update, over the norm of
            the residual stream that the update is added to. The change is against reads of zero, as in `memory_off`,
            so a fusion that also transforms the hidden state is not credited for that.
    """

    share_read: float
    kl_uniform: float
    effective_slots: float
    dead_slots: int
    n_slots: int
    reads: int
    read_norm: float
    update_share: float

    def as_dict(self) -> dict[str, float]:
        """Returns the fields by name."""
        return asdict(self)


@dataclass
class _Layer:
    weight: Tensor
    was_read: Tensor
    reads: int = 0
    norm: float = 0.0
    norms: int = 0
    update_share: float = 0.0
    tokens: int = 0


@dataclass(frozen=True)
class _ZeroBank:
    """Reads of zero in place of a bank, for one call of a fusion."""

    bank: Bank

    def gather(self, slots: Tensor, scales: Tensor | None = None) -> Tensor:
        shape = (*slots.shape, self.bank.d_value)
        return self.bank.table().new_zeros(shape, dtype=self.bank.read_dtype, device=slots.device)

    def gather_joined(self, hidden: Tensor, slots: Tensor, scales: Tensor) -> Tensor:
        return torch.cat([hidden, self.gather(slots).flatten(-2).to(hidden.dtype)], dim=-1)

    def weighted_sum(self, slots: Tensor, weights: Tensor) -> Tensor:
        return self.gather(slots[..., 0])


@dataclass(frozen=True)
class _ZeroRead:
    slots: Tensor
    weights: Tensor
    bank: _ZeroBank


@dataclass
class UsageCounter:
    """Adds up how the memory layers read, batch by batch."""

    _layers: dict[int, _Layer] = field(default_factory=dict)

    @contextmanager
    def watching(self, decoder: Decoder) -> Iterator[None]:
        """Counts every forward pass of ``decoder`` inside.

        Hooks do it, so that a model which is not watched does no work for it.
        """
        handles = [
            handle
            for layer, block in enumerate(decoder.blocks)
            if isinstance(block, Block) and block.fusion is not None
            for handle in self._hooks(layer, block, block.fusion)
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def add(self, layer: int, read: MemoryRead, update_share: Tensor) -> None:
        """Counts one batch of a layer: what it read, and its `Usage.update_share` for each token [B, T]."""
        slots = read.slots.flatten()
        if layer not in self._layers:
            # On the device in float32 where it has no float64; counts are far below its 2**24.
            zeros = torch.zeros(read.bank.n_slots, device=slots.device)
            self._layers[layer] = _Layer(zeros, zeros.bool())
        counted = self._layers[layer]
        counted.weight.index_add_(0, slots, read.weights.flatten().to(counted.weight.dtype))
        counted.was_read[slots] = True
        counted.reads += slots.numel()
        norms = read.bank.weighted_sum(read.slots, read.weights).float().norm(dim=-1)
        counted.norm += norms.sum().item()
        counted.norms += norms.numel()
        counted.update_share += update_share.sum().item()
        counted.tokens += update_share.numel()

    def result(self) -> dict[int, Usage]:
        """Returns the usage by layer."""
        return {layer: _usage(counted) for layer, counted in self._layers.items()}

    def _hooks(self, layer: int, block: Block, fusion: Fusion) -> Iterator[RemovableHandle]:
        residual = Tensor()

        def before_norm(_: object, inputs: tuple[Tensor]) -> None:
            nonlocal residual
            (residual,) = inputs

        def after_fusion(_: object, inputs: tuple[Tensor, MemoryRead], update: Tensor) -> None:
            hidden, read = inputs
            without = fusion.forward(hidden, _ZeroRead(read.slots, read.weights, _ZeroBank(read.bank)))
            change = (update.float() - without.float()).norm(dim=-1)
            size = residual.float().norm(dim=-1)
            self.add(layer, read, change / size.clamp_min(torch.finfo(size.dtype).tiny))

        yield block.update_norm.register_forward_pre_hook(before_norm)
        yield fusion.register_forward_hook(after_fusion)


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
        read_norm=counted.norm / counted.norms,
        update_share=counted.update_share / counted.tokens,
    )
