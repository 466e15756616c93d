"""The rows of a model's banks, and changes of them that can be taken back bit for bit.

Rows are numbered through all banks: bank * S + slot.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor

from memlm.bank.base import Bank
from memlm.bank.tokens import TokenBank
from memlm.bank.vectors import VectorBank
from memlm.encoder.base import NO_TOKEN
from memlm.errors import EditError
from memlm.evaluate.recall import Encoded
from memlm.fill.facts import answer_slots
from memlm.memory.base import MemoryRead
from memlm.model.decoder import Decoder

B = TypeVar("B", bound=Bank)


@dataclass(frozen=True)
class Change:
    """What an edit did.

    Attributes:
        rows: The rows that it changed, ascending, [N] int64, on the CPU.
        before: What they held before it, [N, width], as `Rows.read` gives it.
        after: What they hold after it, [N, width].
    """

    rows: Tensor
    before: Tensor
    after: Tensor


class Rows(ABC, Generic[B]):
    """All rows of a model's banks of one kind.

    Args:
        banks: The banks, all of one shape.

    Attributes:
        kind: What such a bank is called.
        dtype: What rows are read as.

    Raises:
        EditError: there is none.
    """

    kind: str
    dtype: torch.dtype

    def __init__(self, banks: Sequence[B]) -> None:
        if not banks:
            raise EditError(f"the model has no {self.kind} to edit; give a run of a variant that has one")
        self.banks = banks
        self._first: dict[Bank, int] = {bank: number * bank.n_slots for number, bank in enumerate(banks)}

    @abstractmethod
    def table(self, bank: B) -> Tensor:
        """Returns the bank's own tensor of what can be edited, [up to S, width]."""

    @abstractmethod
    def carried(self, change: Change, now: Tensor) -> Tensor:
        """Returns what a change makes of its rows where they are ``now`` [N, width], and not as they were before it."""

    @abstractmethod
    def are_sound(self, values: Tensor) -> bool:
        """Tells whether rows can hold ``values`` [N, width]."""

    def __len__(self) -> int:
        """Returns how many there are, those between that cannot be edited among them."""
        return sum(bank.n_slots for bank in self.banks)

    @property
    def width(self) -> int:
        """Width of a row."""
        return self.table(self.banks[0]).shape[1]

    def has(self, row: int) -> bool:
        """Tells whether there is such a row to edit."""
        return 0 <= row < len(self) and row % self.banks[0].n_slots < len(self.table(self.banks[0]))

    def read(self, rows: Tensor) -> Tensor:
        """Returns a copy of what ``rows`` [N] hold on the CPU, [N, width]."""
        found = torch.empty(len(rows), self.width, dtype=self.dtype)
        for bank, here, slots in self._by_bank(rows):
            found[here.cpu()] = self.table(bank)[slots].to(found)
        return found

    @torch.no_grad()
    def write(self, rows: Tensor, values: Tensor) -> None:
        """Gives ``rows`` [N] the ``values`` [N, width]."""
        for bank, here, slots in self._by_bank(rows):
            table = self.table(bank)
            table[slots] = values[here.to(values.device)].to(table)

    def of(self, reads: dict[int, MemoryRead]) -> Tensor:
        """Returns the rows that each token reads in all layers, [B, T, R]."""
        return torch.cat([read.slots.flatten(2) + self._first[read.bank] for read in reads.values()], dim=-1)

    def _by_bank(self, rows: Tensor) -> list[tuple[B, Tensor, Tensor]]:
        """Returns each bank, where its rows stand in ``rows``, and their slots."""
        n_slots = self.banks[0].n_slots
        parts = [(bank, (rows // n_slots == number).nonzero()[:, 0]) for number, bank in enumerate(self.banks)]
        return [(bank, here, (rows[here] % n_slots).to(self.table(bank).device)) for bank, here in parts if len(here)]


class VectorRows(Rows[VectorBank]):
    """Vectors that learn, [d_value] each.

    Args:
        decoder: The model.

    Raises:
        EditError: it has no bank of vectors.
    """

    kind, dtype = "bank of vectors", torch.float32

    def __init__(self, decoder: Decoder) -> None:
        super().__init__([bank for bank in decoder.banks if isinstance(bank, VectorBank)])

    def require_exact(self) -> None:
        """Refuses to change values of 16 bits.

        Raises:
            EditError: the values have so few that an edit would be rounded.
        """
        if any(bank.has_16_bits for bank in self.banks):
            raise EditError("the values are bfloat16, which rounds edits; edit a run that leaves bank.dtype out")

    def table(self, bank: VectorBank) -> Tensor:
        """Returns the bank's values, [S, d_value]."""
        return bank.values.detach()

    def carried(self, change: Change, now: Tensor) -> Tensor:
        """Returns the rows with the change's difference added."""
        return now + (change.after - change.before)

    def are_sound(self, values: Tensor) -> bool:
        """Tells whether all are numbers."""
        return bool(values.isfinite().all())

    def take_gradient(self, rows: Tensor) -> Tensor:
        """Returns the gradient of ``rows`` [N], [N, d_value] float32 on the model's device, and clears that of all."""
        found = torch.zeros(len(rows), self.width, device=self.table(self.banks[0]).device)
        for bank, here, slots in self._by_bank(rows):
            if bank.values.grad is not None:
                found[here] = bank.values.grad[slots].to(found)
        for bank in self.banks:
            bank.values.grad = None
        return found


class EntryRows(Rows[TokenBank]):
    """Entries, [entry_length] token ids each with `NO_TOKEN` behind their end. Slots that hold a vector are no rows.

    Args:
        decoder: The model.

    Raises:
        EditError: it has no bank of texts.
    """

    kind, dtype = "bank of texts", torch.int32

    def __init__(self, decoder: Decoder) -> None:
        super().__init__([bank for bank in decoder.banks if isinstance(bank, TokenBank)])
        memory = decoder.config.memory
        self.are_found_by_text = memory is not None and memory.n_tokens > 0
        """Whether the last tokens of a text decide, by themselves, what is read."""

    def table(self, bank: TokenBank) -> Tensor:
        """Returns the bank's entries, [entries, entry_length]."""
        return bank.tokens

    def carried(self, change: Change, now: Tensor) -> Tensor:
        """Returns the change's own entries; a text has no difference to add."""
        return change.after

    def are_sound(self, values: Tensor) -> bool:
        """Tells whether all are tokens of the model's, with nothing behind an entry's end."""
        is_end, size = values == NO_TOKEN, self.banks[0].embedding.shape[0]
        has_no_gap = bool((is_end[:, 1:] >= is_end[:, :-1]).all())
        return has_no_gap and bool((is_end | ((values >= 0) & (values < size))).all())

    def entry(self, row: int) -> list[int]:
        """Returns an entry's token ids."""
        return [token for token in self.read(torch.tensor([row]))[0].tolist() if token != NO_TOKEN]

    def replacement(self, rows: Sequence[int], token_ids: Sequence[int]) -> Change:
        """Returns the change that puts one entry in the place of some; the model is as before afterwards.

        Raises:
            EditError: there is no such row.
            RunError: a slot holds no entry, or the entry does not fit, as of `TokenBank.replace`.
        """
        found = torch.tensor(sorted(rows))
        missing = [row for row in rows if row >= len(self)]
        if missing:
            raise EditError(f"slot {missing[0]}: there is none; the last is {len(self) - 1}")
        before = [
            (bank, bank.replace(slots.tolist(), [token_ids] * len(slots))) for bank, _, slots in self._by_bank(found)
        ]
        after = self.read(found)
        for bank, entries in before:
            bank.restore(entries)
        return Change(found, self.read(found), after)

    def answering(self, decoder: Decoder, texts: Sequence[Encoded]) -> list[int]:
        """Returns the rows that are read where texts are about to give a token of their answer, ascending."""
        slots = answer_slots(decoder, [(text.ids, text.n_answer) for text in texts])
        return sorted(self._first[bank] + slot for bank, read in slots for slot in read)


AnyRows = VectorRows | EntryRows
"""What edits of a model change."""


def rows_to_edit(decoder: Decoder) -> AnyRows:
    """Returns what edits of a model change: vectors, or entries.

    Raises:
        EditError: it has no memory.
    """
    has_texts = any(isinstance(bank, TokenBank) for bank in decoder.banks)
    return EntryRows(decoder) if has_texts else VectorRows(decoder)


def apply(change: Change, rows: AnyRows) -> None:
    """Makes a change: a row that is as it was before the edit becomes as it was after it, bit for bit.

    A row that is not, since an earlier edit of it was undone, becomes what `Rows.carried` says.
    """
    now = rows.read(change.rows)
    is_known = (now == change.before).all(dim=1, keepdim=True)
    rows.write(change.rows, torch.where(is_known, change.after, rows.carried(change, now)))


def fingerprint(change: Change) -> str:
    """Returns the hash of a change: of its rows, before and after."""
    digest = hashlib.sha256()
    for tensor in (change.rows, change.before, change.after):
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def chain(earlier: str, change: Change, rows: AnyRows) -> str:
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

    def __init__(self, rows: AnyRows, base: str) -> None:
        self.rows, self.base = rows, base
        self.changes: list[Change] = []
        self.results: list[str] = []
        self._original: dict[int, Tensor] = {}

    @contextmanager
    def lent(self) -> Generator[None]:
        """Lends the rows as the base has them; in between, no change may be made."""
        touched = torch.tensor(list(self._original), dtype=torch.int64)
        now = self.rows.read(touched)
        self._restore()
        try:
            yield
        finally:
            self.rows.write(touched, now)

    def do(self, change: Change) -> None:
        """Makes a change, as the last one."""
        for row, values in zip(change.rows.tolist(), self.rows.read(change.rows), strict=True):
            self._original.setdefault(row, values)
        apply(change, self.rows)
        self.changes.append(change)
        self.results.append(chain(self.results[-1] if self.results else self.base, change, self.rows))

    def set(self, changes: Sequence[Change]) -> None:
        """Rebuilds every row that was ever touched from the base and ``changes``, in order."""
        self._restore()
        self.changes, self.results = [], []
        for change in changes:
            self.do(change)

    def _restore(self) -> None:
        if self._original:
            self.rows.write(torch.tensor(list(self._original)), torch.stack(list(self._original.values())))

    def shared_with(self, change: Change) -> dict[int, int]:
        """Returns which changes touch rows of ``change``, by their place, and how many."""
        shared = {i: int(torch.isin(each.rows, change.rows).sum()) for i, each in enumerate(self.changes)}
        return {place: n for place, n in shared.items() if n and self.changes[place] is not change}
