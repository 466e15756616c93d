"""A bank of entries that people can read: a slot holds the tokens of a text, and its value is their encoding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import Field
from torch import Tensor, nn

from memlm.bank.base import Bank, BankConfig, Rows
from memlm.config.base import choice
from memlm.encoder.base import NO_TOKEN, Encoder
from memlm.encoder.embedding_mean import EmbeddingMeanConfig
from memlm.errors import RunError
from memlm.registry import BANKS, ENCODERS

BLOCK = 8192
"""Slots that are encoded at a time where all are; it bounds what an encoder holds."""


@BANKS.register
class TokensConfig(BankConfig):
    """Slots hold entries, texts of a few tokens whose values are their encodings; a share hold vectors that learn."""

    type: Literal["tokens"]
    entry_length: int = Field(default=32, ge=1)
    """Tokens of the longest entry."""
    learned_share: float = Field(default=0.25, ge=0, lt=1)
    """Share of the slots, the last ones, that hold no entry but a vector that learns; the entries themselves do not."""
    encoder: Annotated[Any, choice(ENCODERS)] = EmbeddingMeanConfig(type="embedding_mean")
    """What makes a value of an entry, by type (`memlm list encoders`)."""
    database: str | None = Field(default=None, min_length=1)
    """JSON or JSON Lines of sentences that a new model's entries are filled with; random tokens if not given."""
    facts: bool = False
    """Fill a new model with the answers of the generated world (`corpus: facts`), where the memory looks for them."""

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields what the fields cannot see alone."""
        if self.facts and self.database is not None:
            yield "facts", "there is a database already; leave one of the two out"

    def n_vectors(self, n_slots: int) -> int:
        """Returns how many of ``n_slots`` slots hold a vector: rounded, but one at least if there is a share."""
        return max(1, round(self.learned_share * n_slots)) if self.learned_share else 0

    def shrunken(self) -> Self:
        """Returns the bank with short entries, and with so many vectors that a few steps read some."""
        share = self.learned_share and 0.25
        smaller = {"entry_length": min(self.entry_length, 5), "learned_share": share}
        return type(self).model_validate(self.model_dump() | smaller)

    def build(self, n_slots: int, d_value: int, embedding: nn.Embedding) -> TokenBank:
        """Returns the bank, with random entries."""
        return TokenBank(self, n_slots, d_value, embedding)


@dataclass(frozen=True)
class Entries:
    """What some slots hold.

    Attributes:
        slots: The slots, [N] int64.
        tokens: Their token ids, [N, entry_length] int32; `NO_TOKEN` behind an entry's end.
    """

    slots: Tensor
    tokens: Tensor


class TokenBank(Bank):
    """Entries, and behind them vectors.

    Where gradients are asked for, the rows that are read are encoded, each once; they reach the encoder, the model's
    token embedding and the vectors. Elsewhere all values are kept, and made anew when anything that they come from may
    have changed: after a pass with gradients, a change of mode, or a write to a tensor.

    Args:
        config: The bank's configuration.
        n_slots: Rows, S.
        d_value: Width of a row.
        embedding: The model's token embedding; it stays the model's.

    Attributes:
        tokens: The entries' token ids, [entries, entry_length] int32; a buffer, saved with the model.
        vectors: The values of the other slots, [S - entries, d_value]; None if there are none.
        encoder: Makes values of entries.
    """

    tokens: Tensor

    def __init__(self, config: TokensConfig, n_slots: int, d_value: int, embedding: nn.Embedding) -> None:
        super().__init__(n_slots, d_value)
        n_vectors = config.n_vectors(n_slots)
        self.encoder: Encoder = config.encoder.build(embedding.embedding_dim, d_value)
        self.vectors = nn.Parameter(torch.empty(n_vectors, d_value)) if n_vectors else None
        self.attach(embedding)
        # Entries are data and not parameters: they are drawn once, and no reset draws them again.
        shape = (n_slots - n_vectors, config.entry_length)
        self.register_buffer("tokens", torch.randint(embedding.num_embeddings, shape, dtype=torch.int32))
        self._shown: Tensor | None = None
        self._kept: tuple[object, Tensor] | None = None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws vectors from N(0, 1/d_value), as long as the values of entries; the entries stay as they are."""
        self.encoder.reset_parameters()
        if self.vectors is not None:
            nn.init.normal_(self.vectors, std=self.d_value**-0.5)

    def attach(self, embedding: nn.Embedding) -> None:
        """Takes the model's token embedding."""
        self._embedding = (embedding,)  # in a tuple, so that it is no part of this module

    @property
    def embedding(self) -> Tensor:
        """The model's token embedding, [V, D]."""
        return self._embedding[0].weight

    @property
    def n_entries(self) -> int:
        """Slots that hold entries: the first ones."""
        return self.tokens.shape[0]

    @property
    def learns(self) -> bool:
        """Whether the encoder, the vectors or the token embedding do."""
        return any(tensor.requires_grad for tensor in self._sources())

    def rows(self, slots: Tensor) -> Rows:
        """Returns the values of the slots that are read, or of all."""
        if self._shown is not None:
            return Rows(self._shown, slots)
        if slots.is_meta:  # costs are counted: at most so many different rows are encoded
            return Rows(self._encode(torch.arange(min(slots.numel(), self.n_slots), device=slots.device)), slots)
        if not (torch.is_grad_enabled() and self.learns):
            return Rows(self.table(), slots)
        self._kept = None  # a step may follow, and a fused optimizer's leaves no trace in the tensors' versions
        if torch.compiler.is_compiling():  # how many rows are read is not known before they are
            return Rows(self._encode(torch.arange(self.n_slots, device=slots.device)), slots)
        read, places = slots.unique(return_inverse=True)
        return Rows(self._encode(read), places)

    def table(self) -> Tensor:
        """Returns the values of all slots, [S, d_value], as kept since the last change."""
        sources = [*self._sources(), self.tokens]
        state = [(tensor.data_ptr(), tensor._version, tensor.dtype) for tensor in sources]
        if self._kept is None or self._kept[0] != state:
            with torch.inference_mode(False), torch.no_grad():
                blocks = torch.arange(self.n_slots, device=self.tokens.device).split(BLOCK)
                self._kept = (state, torch.cat([self._encode(block) for block in blocks]))
        return self._kept[1]

    def train(self, mode: bool = True) -> Self:
        """Sets the mode, and forgets the values that were kept: what happened since is not known."""
        self._kept = None
        return super().train(mode)

    @contextmanager
    def showing(self, values: Tensor) -> Iterator[None]:
        """Reads find ``values`` [S, d_value] inside."""
        try:
            self._shown = values
            yield
        finally:
            self._shown = None

    def entry(self, slot: int) -> list[int] | None:
        """Returns an entry's token ids, None for a slot that is a vector."""
        if slot >= self.n_entries:
            return None
        return [token for token in self.tokens[slot].tolist() if token != NO_TOKEN]

    def entries(self, slots: Sequence[int]) -> Entries:
        """Returns what slots hold, to be given to `restore`.

        Raises:
            RunError: a slot is named twice, does not exist, or is a vector.
        """
        wrong = [slot for slot in slots if not 0 <= slot < self.n_entries]
        if wrong:
            raise RunError(f"slot {wrong[0]} holds no entry; the slots 0 to {self.n_entries - 1} do")
        if len(set(slots)) < len(slots):
            twice = next(slot for slot in slots if list(slots).count(slot) > 1)
            raise RunError(f"slot {twice} is named twice; name each slot once")
        index = torch.tensor(slots, dtype=torch.int64, device=self.tokens.device)
        return Entries(index, self.tokens[index])

    def replace(self, slots: Sequence[int], token_ids: Sequence[Sequence[int]]) -> Entries:
        """Puts other entries into slots, of which one without tokens is empty; returns what was there before.

        Args:
            slots: The slots, each named once.
            token_ids: The token ids of each.

        Raises:
            RunError: as of `entries`, or an entry is too long or has a token that the model has not; nothing changed.
        """
        before = self.entries(slots)
        tokens = torch.full_like(before.tokens, NO_TOKEN)
        length, size = tokens.shape[1], self.embedding.shape[0]
        for row, (slot, ids) in enumerate(zip(slots, token_ids, strict=True)):
            if len(ids) > length:
                raise RunError(f"slot {slot}: an entry of {len(ids)} tokens does not fit; give at most {length}")
            if any(not 0 <= token < size for token in ids):
                raise RunError(f"slot {slot}: a token lies outside of the vocabulary, 0 to {size - 1}")
            tokens[row, : len(ids)] = torch.tensor(ids, dtype=tokens.dtype)
        self.restore(Entries(before.slots, tokens))
        return before

    def restore(self, entries: Entries) -> None:
        """Puts back what `entries` or `replace` returned."""
        self.tokens[entries.slots] = entries.tokens

    def _sources(self) -> list[Tensor]:
        vectors = [] if self.vectors is None else [self.vectors]
        return [self.embedding, *vectors, *self.encoder.parameters()]

    def _encode(self, slots: Tensor) -> Tensor:
        """Returns the values of ``slots`` [N] as [N, d_value], in float32 under autocast too, as vectors are kept."""
        device = "cpu" if slots.is_meta else slots.device.type  # the meta device knows no autocast
        with torch.autocast(device, enabled=False):
            encoded = self.encoder(self.tokens[slots.clamp_max(self.n_entries - 1)], self.embedding)
        if self.vectors is None:
            return encoded
        vectors = self.vectors[(slots - self.n_entries).clamp_min(0)]
        return torch.where((slots < self.n_entries)[:, None], encoded, vectors)
