"""All that is known of one run's memory, and the questions that it answers; terminal and page ask the same ones."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from memlm.bank.base import Bank
from memlm.data.sampler import Sampler
from memlm.errors import RunError
from memlm.hf import MemlmForCausalLM
from memlm.inspect.contexts import Contexts
from memlm.inspect.entries import entries_of, entry_of
from memlm.inspect.passage import Passage
from memlm.inspect.reads import TextReads, read_text
from memlm.inspect.search import Hit, Text, find_text, nearest, value_similarity
from memlm.model.block import Block
from memlm.train.writers import Writers

NEAREST = 6
"""Slots told as most like another one."""

EXAMPLE = 32
"""Tokens of the training text's beginning that the page starts with, or half of what the model sees if that is less."""


@dataclass(frozen=True)
class Place:
    """A place where a slot is read: the layer, the weight that the slot gets there, and the text."""

    layer: int
    weight: float
    passage: Passage


@dataclass(frozen=True)
class Writer:
    """Who wrote a slot: see `memlm.train.writers`.

    Attributes:
        step: The step of the read that pulled hardest.
        pull: How hard.
        passage: Where it stands in the training text.
        first_read: The first training step that read the slot.
        last_read: The last one.
    """

    step: int
    pull: float
    passage: Passage
    first_read: int
    last_read: int


@dataclass(frozen=True)
class Card:
    """What is known of one slot.

    Attributes:
        bank: The slot's bank, counted from 0.
        slot: The slot.
        row: Its row in the usage map, of `BankSummary.side` rows; for product keys, the key of the first half.
        column: Its column there; for product keys, the key of the second half.
        entry: What it stands for, empty if it has no tokens, None for a vector.
        edits: The numbers of the edits in force that changed it.
        reads: How often each layer read it in the text that was gone through.
        share: Its share of all reads of the bank.
        rank: How many slots are read more often, plus one; None if it was never read.
        mean_weight: Mean weight of its reads, None without any.
        value_norm: Norm of its value.
        places: Where it got the most weight.
        writer: Who wrote it; None if that was not recorded, or nobody did.
        nearest_values: Slots with the most similar values, but for those of an empty entry, and the cosine.
        nearest_keys: By layer that read it (by every layer, if none did), likewise slots with the most similar keys,
            and the mean cosine over heads.
        entries: What these slots stand for, by slot; those that are vectors are missing.
    """

    bank: int
    slot: int
    row: int
    column: int
    entry: str | None
    edits: list[int]
    reads: dict[int, int]
    share: float
    rank: int | None
    mean_weight: float | None
    value_norm: float
    places: list[Place]
    writer: Writer | None
    nearest_values: list[tuple[int, float]]
    nearest_keys: dict[int, list[tuple[int, float]]]
    entries: dict[int, str]


@dataclass(frozen=True)
class BankSummary:
    """A bank as a whole.

    Attributes:
        bank: Counted from 0.
        n_slots: Its slots.
        side: Rows and columns of the usage map; n_keys for product keys.
        layers: The layers that read it.
        reads: All reads that were counted.
        slots_read: By layer, slots that were read at all.
        most_read: The slots that are read most, but for those of an empty entry, and how often.
        empty: How many slots of an empty entry were left out there.
        entries: What these slots stand for, by slot; those that are vectors are missing.
    """

    bank: int
    n_slots: int
    side: int
    layers: list[int]
    reads: int
    slots_read: dict[int, int]
    most_read: list[tuple[int, int]]
    empty: int
    entries: dict[int, str]


@dataclass(frozen=True)
class Inspection:
    """A trained model, the text that it learned from, and what was found out by reading that text again.

    Attributes:
        name: What the run is called.
        model: The model, in eval mode, with its edits in force.
        edits: The rows that each edit in force changed, numbered through all banks: bank * S + slot.
        tokenizer: Its tokenizer.
        sampler: The training sequences in their order.
        sequences_per_step: Sequences of an optimizer step.
        contexts: What reads the slots of each bank, in the model without its edits.
        writers: Who wrote the slots of each bank; None if that was not recorded.
        tokens: How many training tokens were gone through for ``contexts``.
    """

    name: str
    model: MemlmForCausalLM
    edits: Mapping[int, Sequence[int]]
    tokenizer: Tokenizer
    sampler: Sampler
    sequences_per_step: int
    contexts: list[Contexts]
    writers: list[Writers] | None
    tokens: int

    @property
    def text(self) -> Text:
        """The training text."""
        return Text(self.tokenizer, self.sampler.tokens, self.sampler.seq_len)

    def read(self, text: str) -> TextReads:
        """Returns what a text reads; raises as `read_text`."""
        return read_text(self.model, self.tokenizer, text)

    def bank(self, bank: int) -> Bank:
        """Returns a bank.

        Raises:
            RunError: there is no such bank.
        """
        banks = [each for each in self.model.decoder.banks if isinstance(each, Bank)]
        if not 0 <= bank < len(banks):
            raise RunError(f"bank {bank}: there is none; {self.name} has the banks 0 to {len(banks) - 1}")
        return banks[bank]

    def usage(self, bank: int, layer: int | None = None) -> np.ndarray:
        """Returns how often each slot was read, by one layer or by all, uint32 [S].

        Raises:
            RunError: there is no such bank, or the layer does not read it.
        """
        self.bank(bank)
        contexts = self.contexts[bank]
        layers = contexts.layers.tolist()
        if layer is None:
            return contexts.reads.sum(0).numpy().astype(np.uint32)
        if layer not in layers:
            raise RunError(f"layer {layer} does not read bank {bank}; these do: {', '.join(map(str, layers))}")
        return contexts.reads[layers.index(layer)].numpy().astype(np.uint32)

    def summaries(self, most: int = 10) -> list[BankSummary]:
        """Returns each bank as a whole, with the ``most`` slots that are read most and hold something."""
        found: list[BankSummary] = []
        for bank, contexts in enumerate(self.contexts):
            reads, layers = contexts.reads.sum(0), contexts.layers.tolist()
            best, empty = self._most_read(self.bank(bank), reads, most)
            found.append(
                BankSummary(
                    bank=bank,
                    n_slots=contexts.n_slots,
                    side=_side(contexts.n_slots),
                    layers=layers,
                    reads=int(reads.sum()),
                    slots_read=dict(zip(layers, (contexts.reads > 0).sum(1).tolist(), strict=True)),
                    most_read=[(slot, int(reads[slot])) for slot in best],
                    empty=empty,
                    entries=entries_of(self.tokenizer, self.bank(bank), best),
                )
            )
        return found

    def _most_read(self, bank: Bank, reads: Tensor, most: int) -> tuple[list[int], int]:
        """Returns the slots that are read most and hold something, and how many empty ones are read as often."""
        order = reads.argsort(descending=True, stable=True)
        found: list[int] = []
        empty = 0
        for slot in order[reads[order] > 0].tolist():
            if len(found) == most:
                break
            if self._is_empty(bank, slot):
                empty += 1
            else:
                found.append(slot)
        return found, empty

    def _is_empty(self, bank: Bank, slot: int) -> bool:
        return entry_of(self.tokenizer, bank, slot) == ""

    def overview(self) -> dict[str, Any]:
        """Returns what is worth knowing first, as plain data."""
        n_shown = min(EXAMPLE, self.sampler.seq_len // 2)
        banks = self.summaries()
        return {
            "run": self.name,
            "tokens": self.tokens,
            "training_tokens": len(self.sampler.tokens),
            "example": self.tokenizer.decode(self.sampler.tokens[:n_shown].tolist()),
            "writers_recorded": self.writers is not None,
            "edits": len(self.edits),
            "slot": next((slot for slot, _ in banks[0].most_read), None),
            "banks": [asdict(summary) for summary in banks],
        }

    def search(self, bank: int, words: str, most: int = 20) -> list[Hit]:
        """Returns slots with ``words`` in their entry, then those with them in their places, the most read first.

        Raises:
            RunError: there is no such bank, or nothing to look for.
        """
        if not words.strip():
            raise RunError("nothing to look for; give a word")
        return find_text(self.text, self.bank(bank), self.contexts[bank], words, most)

    def card(self, bank: int, slot: int) -> Card:
        """Returns what is known of a slot.

        Raises:
            RunError: there is no such bank or slot.
        """
        table, contexts = self.bank(bank), self.contexts[bank]
        if not 0 <= slot < table.n_slots:
            raise RunError(f"slot {slot}: there is none; bank {bank} has the slots 0 to {table.n_slots - 1}")
        by_slot = contexts.reads.sum(0)
        reads, all_reads = int(by_slot[slot]), int(by_slot.sum())
        side = _side(table.n_slots)
        values, keys = self._nearest(table, value_similarity(table, slot), slot), self._nearest_keys(bank, slot)
        named = (other for pairs in (values, *keys.values()) for other, _ in pairs)
        return Card(
            bank=bank,
            slot=slot,
            row=slot // side,
            column=slot % side,
            entry=entry_of(self.tokenizer, table, slot),
            edits=[number for number, rows in self.edits.items() if bank * table.n_slots + slot in rows],
            reads=dict(zip(contexts.layers.tolist(), contexts.reads[:, slot].tolist(), strict=True)),
            share=reads / all_reads if all_reads else 0.0,
            rank=1 + int((by_slot > reads).sum()) if reads else None,
            mean_weight=float(contexts.weight[:, slot].sum()) / reads if reads else None,
            value_norm=float(table.table()[slot].float().norm()),
            places=self._places(contexts, slot),
            writer=self._writer(bank, slot),
            nearest_values=values,
            nearest_keys=keys,
            entries=entries_of(self.tokenizer, table, named),
        )

    def _places(self, contexts: Contexts, slot: int) -> list[Place]:
        known = contexts.top_position[slot] >= 0
        positions = contexts.top_position[slot][known].tolist()
        layers, weights = contexts.top_layer[slot][known].tolist(), contexts.top_weight[slot][known].tolist()
        return [Place(*each) for each in zip(layers, weights, self.text.passages(positions), strict=True)]

    def _writer(self, bank: int, slot: int) -> Writer | None:
        if self.writers is None:
            return None
        known: dict[str, Any] = {name: tensor[slot].item() for name, tensor in vars(self.writers[bank]).items()}
        if not known["step"]:
            return None
        sequence, token = divmod(known.pop("index"), self.sampler.seq_len)
        row = (known["step"] - 1) * self.sequences_per_step + sequence
        (passage,) = self.text.passages([self.sampler.sequence(row) * self.sampler.seq_len + token])
        return Writer(passage=passage, **known)

    @torch.inference_mode()
    def _nearest_keys(self, bank: int, slot: int) -> dict[int, list[tuple[int, float]]]:
        contexts = self.contexts[bank]
        found: dict[int, list[tuple[int, float]]] = {}
        reads = contexts.reads[:, slot]
        for layer in contexts.layers[(reads > 0) | ~reads.any()].tolist():
            block = self.model.decoder.blocks[layer]
            assert isinstance(block, Block) and block.memory is not None, "the layers of a bank have a memory"
            similarity = block.memory.key_similarity(slot)
            if similarity is not None:
                found[layer] = self._nearest(self.bank(bank), similarity, slot)
        return found

    def _nearest(self, bank: Bank, similarity: Tensor, slot: int) -> list[tuple[int, float]]:
        return nearest(similarity, slot, NEAREST, lambda other: not self._is_empty(bank, other))


def _side(n_slots: int) -> int:
    """Returns the side of the smallest square that holds all slots; product keys fill theirs."""
    return math.isqrt(n_slots - 1) + 1
