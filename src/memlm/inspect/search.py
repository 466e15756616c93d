"""Finding slots: by text in what they stand for or where they are read, and by likeness to another slot."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional as F

from memlm.bank.base import Bank
from memlm.inspect.contexts import Contexts
from memlm.inspect.passage import Passage, passages

BLOCK = 1024
"""Slots whose places are decoded in one call."""


@dataclass(frozen=True)
class Hit:
    """A slot that was found.

    Attributes:
        slot: The slot.
        reads: How often it is read.
        passage: The place whose text has the words; None where they stand in the slot's entry.
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

    def entry(self, bank: Bank, slot: int) -> str | None:
        """Returns what a slot stands for, None for a vector."""
        ids = bank.entry(slot)
        return None if ids is None else self.tokenizer.decode(ids, skip_special_tokens=True)


def find_text(text: Text, bank: Bank, contexts: Contexts, words: str, most: int) -> list[Hit]:
    """Returns slots whose entry or places hold ``words``, in any case of letters, the most read first.

    Rare words take as long as it takes to decode every place that is kept: about a minute for a million slots.
    """
    hits: list[Hit] = []
    for hit in _every(text, bank, contexts, words.casefold()):
        if len(hits) == most:
            break
        hits.append(hit)
    return hits


def _every(text: Text, bank: Bank, contexts: Contexts, words: str) -> Iterator[Hit]:
    reads = contexts.reads.sum(0)
    order = reads.argsort(descending=True, stable=True)
    has_entries = text.entry(bank, 0) is not None
    if not has_entries:
        order = order[reads[order] > 0]
    for block in order.split(BLOCK):
        slots, positions = block.tolist(), contexts.top_position[block]
        places = text.passages(positions[positions >= 0].tolist())
        counts = (positions >= 0).sum(1).tolist()
        begin = 0
        for slot, count in zip(slots, counts, strict=True):
            entry = text.entry(bank, slot) if has_entries else None
            found = next((p for p in places[begin : begin + count] if words in p.text.casefold()), None)
            begin += count
            if found is not None or (entry is not None and words in entry.casefold()):
                yield Hit(slot, int(reads[slot]), found, entry)


def value_similarity(bank: Bank, slot: int) -> Tensor:
    """Returns the cosine of each slot's value with that of ``slot``, [S]."""
    with torch.inference_mode():
        values = bank.table().float()
        return F.cosine_similarity(values, values[slot][None], dim=-1)


def nearest(similarity: Tensor, slot: int, most: int) -> list[tuple[int, float]]:
    """Returns the slots of highest similarity [S], but for ``slot`` itself, and how similar they are."""
    best = similarity.topk(min(most + 1, len(similarity)))
    pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return [(other, cosine) for other, cosine in pairs if other != slot][:most]
