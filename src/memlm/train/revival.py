"""Revival: what no token chose for a while gets the address, and the values, of what is used."""

from __future__ import annotations

import logging
from functools import partial

import torch
from torch import Tensor, nn

from memlm.bank.base import Bank
from memlm.bank.vectors import VectorBank
from memlm.memory.base import Memory, MemoryRead, Revived
from memlm.model.decoder import Decoder
from memlm.train.ranks import Ranks

logger = logging.getLogger(__name__)

COUNTS = "reads/"


class Revival:
    """Counts what training reads, without waiting for the device, and lets memories revive what it leaves unread.

    Args:
        decoder: The model.
        optimizer: Holds the moments that begin anew with what is revived.
        seed: Decides the noise, together with the step.
        ranks: The processes that train together; what one of them reads counts for all.
    """

    def __init__(
        self, decoder: Decoder, optimizer: torch.optim.Optimizer, seed: int, ranks: Ranks | None = None
    ) -> None:
        self._ranks = ranks or Ranks()
        self._decoder, self._optimizer, self._seed = decoder, optimizer, seed
        memories = {layer: block.memory for layer, block in enumerate(decoder.blocks)}
        self._memories: dict[int, Memory] = {
            layer: memory
            for layer, memory in memories.items()
            if isinstance(memory, Memory) and type(memory).revive is not Memory.revive
        }
        self._counts: dict[int, Tensor] = {}  # [H, S] int32, by layer
        self._handles = [m.register_forward_hook(partial(self._count, layer)) for layer, m in self._memories.items()]

    def _count(self, layer: int, memory: nn.Module, _args: object, read: MemoryRead) -> None:
        if not memory.training:
            return
        H, S = read.slots.shape[2], read.bank.n_slots
        if layer not in self._counts:
            self._counts[layer] = torch.zeros(H, S, dtype=torch.int32, device=read.slots.device)
        flat = (read.slots + S * torch.arange(H, device=read.slots.device)[:, None]).flatten()
        self._counts[layer].view(-1).scatter_add_(0, flat, torch.ones_like(flat, dtype=torch.int32))

    @torch.no_grad()
    def revive(self, step: int) -> None:
        """Revives in every memory what was not read since the last call; values that are frozen are left alone."""
        banks = self._banks()
        for counts in self._counts.values():
            self._ranks.add(counts)
        reads: dict[Bank, Tensor] = {}
        for layer, bank in banks.items():
            reads[bank] = reads.get(bank, 0) + self._counts[layer].sum(0)
        generator = torch.Generator().manual_seed(self._seed + (step << 32))
        for layer, bank in banks.items():
            revived = self._memories[layer].revive(self._counts[layer], generator)
            if revived is not None:
                self._carry_out(revived, bank, reads[bank] == 0)
                logger.info("step %d, layer %d: %d keys revived", step, layer, int(revived.entries.sum()))
        for counts in self._counts.values():
            counts.zero_()

    def _banks(self) -> dict[int, Bank]:
        banks = {layer: self._decoder.bank_of(layer) for layer in self._counts}
        return {layer: bank for layer, bank in banks.items() if bank is not None and bank.learns}

    def _carry_out(self, revived: Revived, bank: Bank, unread: Tensor) -> None:
        """Copies values to rows that no head of any layer read, and clears the moments of all that is new."""
        self._forget(revived.parameter, revived.entries)
        if not isinstance(bank, VectorBank):
            return  # an entry stays in its slot, whatever key leads there
        for rows, originals in revived.copies:
            is_free = unread[rows]
            bank.values[rows[is_free]] = bank.values[originals[is_free]]
            self._forget(bank.values, rows[is_free])

    def _forget(self, parameter: nn.Parameter, entries: Tensor) -> None:
        for name, moment in self._optimizer.state.get(parameter, {}).items():
            if name != "step":
                moment[entries] = 0

    def tensors(self) -> dict[str, Tensor]:
        """Returns the counts for the training state: rank 0 takes over those of the others, which begin anew."""
        for counts in self._counts.values():
            self._ranks.add(counts)
            if self._ranks.index:
                counts.zero_()
        return {f"{COUNTS}{layer}": counts for layer, counts in self._counts.items()}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Puts back what `tensors` returned."""
        for layer, memory in self._memories.items():
            if f"{COUNTS}{layer}" in tensors:
                device = next(memory.parameters()).device
                counts = tensors[f"{COUNTS}{layer}"].to(device)
                self._counts[layer] = torch.zeros_like(counts) if self._ranks.index else counts

    def release(self) -> None:
        """Ceases to count."""
        for handle in self._handles:
            handle.remove()
