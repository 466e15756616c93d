"""What slots stand for, as text."""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import Tokenizer

from memlm.bank.base import Bank


def entry_of(tokenizer: Tokenizer, bank: Bank, slot: int) -> str | None:
    """Returns what a slot stands for, empty if it has no tokens, None for a vector."""
    ids = bank.entry(slot)
    return None if ids is None else tokenizer.decode(ids, skip_special_tokens=True)


def entries_of(tokenizer: Tokenizer, bank: Bank, slots: Iterable[int]) -> dict[int, str]:
    """Returns what slots stand for, by slot; those that are vectors are missing."""
    found = ((slot, entry_of(tokenizer, bank, slot)) for slot in sorted(set(slots)))
    return {slot: entry for slot, entry in found if entry is not None}
