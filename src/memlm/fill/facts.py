"""Filling a bank with the answers of a generated world, for a memory that the last tokens alone lead to a slot.

Where a text is about to give an answer, the memory reads some slots: these hold the answer. It is done for every
wording of the world, so that a model which has learned to read finds answers also in wordings that no text uses.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from tokenizers import Tokenizer

from memlm.bank.tokens import TokenBank
from memlm.data.tokenizer import END
from memlm.data.world import World
from memlm.encoder.base import NO_TOKEN
from memlm.errors import DataError
from memlm.model.decoder import Decoder

logger = logging.getLogger(__name__)


def fill_with_facts(decoder: Decoder, tokenizer: Tokenizer, world: World) -> None:
    """Fills a new model's banks with the world's told facts; slots that no fact reads are empty.

    Raises:
        DataError: an answer has more tokens than an entry.
    """
    banks = [bank for bank in decoder.banks if isinstance(bank, TokenBank)]
    for bank in banks:
        bank.tokens.fill_(NO_TOKEN)
    n_slots = n_other = 0
    end = tokenizer.token_to_id(END)
    for prompts, value in _facts(world):
        answer = tokenizer.encode(f" {value}", add_special_tokens=False).ids
        if len(answer) > decoder.config.memory.bank.entry_length:
            raise DataError(f"memory.bank.entry_length: {value!r} has {len(answer)} tokens; raise it")
        asked = (tokenizer.encode(prompt, add_special_tokens=False).ids for prompt in prompts)
        texts = [([end, *ids, *answer], len(answer)) for ids in asked]
        for bank, slots in answer_slots(decoder, texts):
            before = bank.replace(slots, [answer] * len(slots))
            n_slots += len(slots)
            n_other += sum(_differs(entry, answer) for entry in before.tokens.tolist())
    logger.warning(
        "facts: %s slots hold an answer; %s of them had that of another fact", f"{n_slots:,}", f"{n_other:,}"
    )


@torch.no_grad()
def answer_slots(decoder: Decoder, texts: Sequence[tuple[Sequence[int], int]]) -> list[tuple[TokenBank, list[int]]]:
    """Returns the slots for entries, by bank, that are read where texts are about to give a token of their answer.

    Args:
        decoder: The model; its mode is restored.
        texts: Token ids of each, and how many of them, the last, are the answer.
    """
    found: dict[TokenBank, set[int]] = {}
    was_training = decoder.training
    decoder.eval()
    for ids, n_answer in texts:
        inputs = torch.tensor([ids[:-1]], device=decoder.embedding.weight.device)
        for read in decoder(inputs).reads.values():
            if isinstance(read.bank, TokenBank):
                found.setdefault(read.bank, set()).update(read.slots[0, -n_answer:].flatten().tolist())
    decoder.train(was_training)
    return [(bank, sorted(slot for slot in slots if slot < bank.n_entries)) for bank, slots in found.items()]


def _facts(world: World) -> Iterator[tuple[list[str], str]]:
    """Yields the prompts for each told fact, in every wording, and its value."""
    for entity, column in np.argwhere(world.told).tolist():
        wordings, name = world.templates[column], world.name(entity)
        prompts = [world.prompt(each, name, column) for each in (*wordings.train, *wordings.held_out)]
        yield prompts, world.value(entity, column)


def _differs(entry: list[int], answer: list[int]) -> bool:
    there = [token for token in entry if token != NO_TOKEN]
    return bool(there) and there != answer
