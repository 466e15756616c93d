"""Finding slots: by text in what they stand for or where they are read, and by likeness to another slot."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain, islice

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional as F

from memlm.bank.base import Bank
from memlm.inspect.contexts import Contexts
from memlm.inspect.entries import entry_of
from memlm.inspect.passage import Passage, passages

BLOCK = 1024
"""Slots whose places are decoded in one call."""


@dataclass(frozen=True)
class Hit:
    """A slot that was found.

    Attributes:
        slot: The slot.
        reads: How often it is read.
        passage: The place whose text has the words. Where they stand in the slot's entry: its place of most weight, if
            it has any.
        entry: The slot's entry, None if it has none.
    """

    slot: int
    reads: int
    passage: Passage | None
    entry: str | None


@dataclass(frozen=True)
class Text:
    """The text that positions belong to: training tokens [n_tokens], cut into sequences of ``seq_len``."""

    tokenizer: Tokenizer
    ids: np.ndarray
    seq_len: int

    def passages(self, positions: list[int]) -> list[Passage]:
        """Returns the places at ``positions``."""
        return passages(self.tokenizer, self.ids, positions, self.seq_len)


def find_text(text: Text, bank: Bank, contexts: Contexts, words: str, most: int) -> list[Hit]:
    """Returns slots whose entry holds ``words``, in any case of letters, and then those whose places do.

    Of each kind the most read come first. Rare words take as long as it takes to decode every entry and every place
    that is kept: about a minute for a million slots.
    """
    reads, words = contexts.reads.sum(0), words.casefold()
    order = reads.argsort(descending=True, stable=True)
    by_place = _by_place(text, bank, contexts, words, reads, order[reads[order] > 0])
    if bank.entry(0) is None:
        return list(islice(by_place, most))
    return list(islice(chain(_by_entry(text, bank, contexts, words, reads, order), by_place), most))


def _by_entry(text: Text, bank: Bank, contexts: Contexts, words: str, reads: Tensor, order: Tensor) -> Iterator[Hit]:
    for slot in order.tolist():
        entry = entry_of(text.tokenizer, bank, slot)
        if _has(entry, words):
            best = [place for place in contexts.top_position[slot, :1].tolist() if place >= 0]
            yield Hit(slot, int(reads[slot]), next(iter(text.passages(best)), None), entry)


def _by_place(text: Text, bank: Bank, contexts: Contexts, words: str, reads: Tensor, order: Tensor) -> Iterator[Hit]:
    for block in order.split(BLOCK):
        slots, positions = block.tolist(), contexts.top_position[block]
        places = text.passages(positions[positions >= 0].tolist())
        counts = (positions >= 0).sum(1).tolist()
        begin = 0
        for slot, count in zip(slots, counts, strict=True):
            found = next((p for p in places[begin : begin + count] if words in p.text.casefold()), None)
            begin += count
            if found is None:
                continue
            entry = entry_of(text.tokenizer, bank, slot)
            if not _has(entry, words):
                yield Hit(slot, int(reads[slot]), found, entry)


def _has(entry: str | None, words: str) -> bool:
    return entry is not None and words in entry.casefold()


def value_similarity(bank: Bank, slot: int) -> Tensor:
    """Returns the cosine of each slot's value with that of ``slot``, [S]."""
    with torch.inference_mode():
        values = bank.table().float()
        return F.cosine_similarity(values, values[slot][None], dim=-1)


def nearest(similarity: Tensor, slot: int, most: int, counts: Callable[[int], bool]) -> list[tuple[int, float]]:
    """Returns slots of highest similarity, and how similar they are.

    Args:
        similarity: Of each slot, [S].
        slot: The slot that they are similar to, which is left out.
        most: How many at most.
        counts: Tells whether a slot counts; the others are left out.
    """
    n = most + 1
    while True:  # few slots are enough where all count, and a sort of a million takes its time
        best = similarity.topk(min(n, len(similarity)))
        pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        found = [(other, cosine) for other, cosine in pairs if other != slot and counts(other)][:most]
        if len(found) == most or n >= len(similarity):
            return found
        n *= 8
