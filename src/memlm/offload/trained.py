"""Values that stay in the host's memory while they are trained; a step brings the rows that it reads to the device."""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import Tensor

from memlm.bank.base import Bank, Rows
from memlm.bank.vectors import VectorBank
from memlm.kernels.compact import CompactGradient
from memlm.model.decoder import Decoder


def keep_on_host(decoder: Decoder, device: torch.device) -> None:
    """Has the values of every bank of vectors be on the host, whatever ``device`` the rest is moved to."""
    for i, bank in enumerate(decoder.banks):
        if isinstance(bank, VectorBank):
            decoder.banks[i] = TrainedOnHost(bank, device)


class TrainedOnHost(VectorBank):
    """A bank of vectors whose values, and with them their moments, are on the host and learn row by row.

    A row that a step reads gets a place in the list of the compact gradient, and its value lies at the same place of a
    table on the device: what is computed there is what a bank on the device gives, bit for bit.

    Args:
        bank: The bank that it takes the place of; its parameter becomes this one's.
        device: Where values are read.
    """

    def __init__(self, bank: VectorBank, device: torch.device) -> None:
        Bank.__init__(self, bank.n_slots, bank.d_value)
        self.compact: CompactGradient | None = None
        self.values, self.read_dtype = bank.values, bank.read_dtype
        self.values.data = self.values.data.cpu()
        self._device, self._near = device, torch.empty(0)

    def make_room(self, capacity: int, dtype: torch.dtype | None = None) -> None:
        """Makes room on the device for ``capacity`` rows of a step, and for their gradient in ``dtype``."""
        far = torch.zeros((), dtype=self.values.dtype, device=self._device).expand(self.values.shape)
        self.compact = CompactGradient(far, capacity, dtype)
        self._near = torch.empty(capacity, self.d_value, dtype=self.values.dtype, device=self._device)

    def rows(self, slots: Tensor) -> Rows:
        """Returns a table of the rows of this step so far, or where nothing learns of those that are read."""
        if self.compact is None or not (torch.is_grad_enabled() and self.learns):
            read, places = slots.unique(return_inverse=True)
            return Rows(self.values[read.to(self.values.device)].to(slots.device), places)
        before = self.compact.n_rows
        compact = self.compact.assign(slots)
        new = self.compact.rows[before : self.compact.n_rows].to(self.values.device)
        # Past autograd, which would take it for a change of what earlier reads of this step have saved: it adds to it.
        self._near.data[before : before + len(new)] = self.values.detach()[new].to(self._device)
        return Rows(self._near, compact.positions.long(), compact)

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        return self  # the values stay where they are when the model is moved
