"""Filling the banks of a model: tokens into slots, keys into memories."""

from __future__ import annotations

import logging

import torch
from tokenizers import Tokenizer
from torch import Tensor

from memlm.bank.tokens import Entries, TokenBank
from memlm.encoder.base import NO_TOKEN
from memlm.fill.cells import Grid
from memlm.fill.database import read_database
from memlm.fill.filling import filled
from memlm.memory.product_key import ProductKeyConfig, ProductKeyMemory
from memlm.model.decoder import Decoder

logger = logging.getLogger(__name__)

BLOCK = 8192
"""Sentences that are tokenised at a time."""


def fill_model(decoder: Decoder, tokenizer: Tokenizer) -> None:
    """Fills a new model's banks from the database that its config names, if it does; slots without an entry are empty.

    Raises:
        DataError: the database cannot be read, or has more sentences than the bank has slots for entries.
        MissingDependencyError: scikit-learn is not installed.
    """
    memory = decoder.config.memory
    banks = [bank for bank in decoder.banks if isinstance(bank, TokenBank)]
    if not banks or memory.bank.database is None:
        return
    assert isinstance(memory, ProductKeyConfig), "the config refuses a database for other memories"
    database = read_database(memory.bank.database)
    filling = filled(database, Grid(banks[0].n_entries, memory.n_keys), memory.d_key)
    tokens, n_cut = _tokens(database.texts, tokenizer, memory.bank.entry_length)
    for bank in banks:
        bank.tokens.fill_(NO_TOKEN)
        bank.restore(Entries(filling.slots.to(bank.tokens.device), tokens.to(bank.tokens.device)))
    for module in decoder.modules():
        if isinstance(module, ProductKeyMemory):
            module.set_keys(filling.row_keys, filling.column_keys)
    logger.warning(
        "%s: %s entries in %s slots, %s cut to %d tokens; %s duplicates and %s empty ones left out",
        memory.bank.database,
        *(f"{count:,}" for count in (len(database.texts), banks[0].n_entries, n_cut)),
        memory.bank.entry_length,
        *(f"{count:,}" for count in (database.duplicates, database.empty)),
    )


def _tokens(texts: list[str], tokenizer: Tokenizer, length: int) -> tuple[Tensor, int]:
    """Returns the ids of sentences, [N, length] int32, and how many were cut."""
    tokens = torch.full((len(texts), length), NO_TOKEN, dtype=torch.int32)
    n_cut = 0
    for start in range(0, len(texts), BLOCK):
        encoded = tokenizer.encode_batch_fast(texts[start : start + BLOCK], add_special_tokens=False)
        for row, encoding in enumerate(encoded, start):
            ids = encoding.ids[:length]
            n_cut += len(encoding.ids) > length
            tokens[row, : len(ids)] = torch.tensor(ids, dtype=torch.int32)
    return tokens, n_cut
