"""The rows of a model's banks, and changes of them that can be taken back bit for bit.

Rows are numbered through all banks: bank * S + slot.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from memlm.bank.base import Bank
from memlm.bank.vectors import VectorBank
from memlm.errors import EditError
from memlm.memory.base import MemoryRead
from memlm.model.decoder import Decoder


@dataclass(frozen=True)
class Change:
    """What an edit did.

    Attributes:
        rows: The rows that it changed, ascending, [N] int64, on the CPU.
        before: Their values before it, [N, d_value].
        after: Their values after it, [N, d_value].
    """

    rows: Tensor
    before: Tensor
    after: Tensor


class Rows:
    """All rows of a model's banks.

    Args:
        decoder: The model.

    Raises:
        EditError: it has no bank of vectors.
    """

    def __init__(self, decoder: Decoder) -> None:
        self.banks = [bank for bank in decoder.banks if isinstance(bank, VectorBank)]
        if not self.banks:
            raise EditError(
                "the model has no memory to edit, or one of texts; give a run of a variant with a bank of vectors"
            )
        self._first: dict[Bank, int] = {bank: number * bank.n_slots for number, bank in enumerate(self.banks)}

    def __len__(self) -> int:
        """Returns how many there are."""
        return sum(bank.n_slots for bank in self.banks)

    @property
    def width(self) -> int:
        """Width of a row."""
        return self.banks[0].values.shape[1]

    def read(self, rows: Tensor) -> Tensor:
        """Returns a copy of the values of ``rows`` [N] on the CPU, [N, d_value]."""
        found = torch.empty(len(rows), self.width)
        for bank, here, slots in self._by_bank(rows):
            found[here] = bank.values.detach()[slots].cpu().float()
        return found

    @torch.no_grad()
    def write(self, rows: Tensor, values: Tensor) -> None:
        """Gives ``rows`` [N] the ``values`` [N, d_value]."""
        for bank, here, slots in self._by_bank(rows):
            bank.values[slots] = values[here].to(bank.values)

    def take_gradient(self, rows: Tensor) -> Tensor:
        """Returns the gradient of ``rows`` [N], [N, d_value] on the CPU, and clears that of all rows."""
        found = torch.zeros(len(rows), self.width)
        for bank, here, slots in self._by_bank(rows):
            if bank.values.grad is not None:
                found[here] = bank.values.grad[slots].cpu()
        for bank in self.banks:
            bank.values.grad = None
        return found

    def of(self, reads: dict[int, MemoryRead]) -> Tensor:
        """Returns the rows that each token reads in all layers, [B, T, R]."""
        return torch.cat([read.slots.flatten(2) + self._first[read.bank] for read in reads.values()], dim=-1)

    def _by_bank(self, rows: Tensor) -> list[tuple[VectorBank, Tensor, Tensor]]:
        """Returns each bank, where its rows stand in ``rows``, and their slots."""
        n_slots = self.banks[0].n_slots
        parts = [(bank, (rows // n_slots == number).nonzero()[:, 0]) for number, bank in enumerate(self.banks)]
        return [(bank, here, (rows[here] % n_slots).to(bank.values.device)) for bank, here in parts if len(here)]


def apply(change: Change, rows: Rows) -> None:
    """Makes a change: a row that is as it was before the edit becomes as it was after it, bit for bit.

    A row that is not, since an earlier edit of it was undone, has the edit's difference added.
    """
    now = rows.read(change.rows)
    is_known = (now == change.before).all(dim=1, keepdim=True)
    rows.write(change.rows, torch.where(is_known, change.after, now + (change.after - change.before)))


def chain(earlier: str, change: Change, rows: Rows) -> str:
    """Returns the hash of a state: of the state before its last change, and of that change's rows as they are now."""
    digest = hashlib.sha256(earlier.encode())
    for tensor in (change.rows, rows.read(change.rows)):
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


class Undoable:
    """Rows with a list of changes on top of a base; any of them can be taken out again.

    Args:
        rows: The rows, as the base has them.
        base: The hash of the base.

    Attributes:
        changes: What was done, in order.
        results: The hash of the state after each change.
    """

    def __init__(self, rows: Rows, base: str) -> None:
        self.rows, self.base = rows, base
        self.changes: list[Change] = []
        self.results: list[str] = []
        self._original: dict[int, Tensor] = {}

    def do(self, change: Change) -> None:
        """Makes a change, as the last one."""
        for row, values in zip(change.rows.tolist(), self.rows.read(change.rows), strict=True):
            self._original.setdefault(row, values)
        apply(change, self.rows)
        self.changes.append(change)
        self.results.append(chain(self.results[-1] if self.results else self.base, change, self.rows))

    def set(self, changes: Sequence[Change]) -> None:
        """Rebuilds every row that was ever touched from the base and ``changes``, in order."""
        if self._original:
            self.rows.write(torch.tensor(list(self._original)), torch.stack(list(self._original.values())))
        self.changes, self.results = [], []
        for change in changes:
            self.do(change)

    def shared_with(self, change: Change) -> dict[int, int]:
        """Returns which changes touch rows of ``change``, by their place, and how many."""
        shared = {i: int(torch.isin(each.rows, change.rows).sum()) for i, each in enumerate(self.changes)}
        return {place: n for place, n in shared.items() if n and self.changes[place] is not change}
