"""Embeddings of hashed n-grams: the over-encoding of Huang et al. 2025 (arXiv:2501.16975), read beside a layer.

The last n token ids name a row in each of several tables, for several n; nothing is chosen by the hidden state, and so
nothing is multiplied with more than one row's width. What differs from the paper stands in docs/memories.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from math import isqrt
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import Field
from torch import Tensor

from memlm.bank.base import Bank
from memlm.config.base import either
from memlm.memory.base import Memory, MemoryConfig, MemoryRead
from memlm.registry import MEMORIES

Rows = Annotated[int, Field(ge=2, le=10**9)]
RowsOfTables = Annotated[Rows | list[Rows], either("must be a whole number from 2 to 10**9, or one for each of orders")]

MULTIPLIER = 0x9E3779B1
"""2**32 over the golden ratio, made odd; its powers scatter the bits of ids (Knuth 1973, section 6.4)."""


@MEMORIES.register
class NgramEmbeddingConfig(MemoryConfig):
    """Reads the rows that the last n tokens hash to, for several n, from tables of their own."""

    type: Literal["ngram_embedding"]
    orders: list[Annotated[int, Field(ge=1, le=8)]] = Field(default=[2, 3])
    """Lengths n of the n-grams."""
    n_heads: int = Field(default=8, ge=1)
    """Tables for each n; two n-grams that meet in one of them are apart in the others."""
    n_rows: RowsOfTables = 8192
    """Rows of a table, at least: each has a prime number of rows, and no two the same. A list has one for each n: more
    than the vocabulary are never read where n is 1."""
    d_value: int = Field(default=64, ge=1)
    """Width of a row."""

    @property
    def table_sizes(self) -> tuple[int, ...]:
        """Rows of each table, those of the first n-gram first."""
        found: tuple[int, ...] = ()
        for least in self._rows_of_orders:
            found += primes(self.n_heads, least, found)
        return found

    @property
    def _rows_of_orders(self) -> list[int]:
        return self.n_rows if isinstance(self.n_rows, list) else [self.n_rows] * len(self.orders)

    @property
    def n_slots(self) -> int:
        """Rows of all tables."""
        return sum(self.table_sizes)

    @property
    def n_reads(self) -> int:
        """Rows that one token reads in one layer, one of each table."""
        return len(self.orders) * self.n_heads

    @property
    def value_width(self) -> int:
        """Width of a row."""
        return self.d_value

    @property
    def n_tokens(self) -> int:
        """The longest n."""
        return max(self.orders)

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields what the fields cannot see alone."""
        yield from super().problems()
        if not self.orders or len(set(self.orders)) < len(self.orders):
            yield "orders", "must name at least one length, and none twice"
        elif len(self._rows_of_orders) != len(self.orders):
            yield "n_rows", f"has {len(self._rows_of_orders)} numbers, orders has {len(self.orders)}"

    def shrunken(self) -> Self:
        """Returns the memory with few small tables."""
        smaller: dict[str, Any] = {"n_heads": min(2, self.n_heads), "d_value": min(12, self.d_value)}
        smaller |= {"n_rows": [min(23, n) for n in self._rows_of_orders], "bank": self.bank.shrunken()}
        return type(self).model_validate(self.model_dump() | smaller)

    def build(self, d_model: int) -> NgramEmbedding:
        """Returns the module that selects rows."""
        return NgramEmbedding(self)


class NgramEmbedding(Memory):
    """Selects one row of each table by the last tokens; the K rows of an n weigh 1/K each.

    Args:
        config: The memory's configuration.
    """

    def __init__(self, config: NgramEmbeddingConfig) -> None:
        super().__init__()
        self.config = config
        self.sizes = config.table_sizes

    def reset_parameters(self) -> None:
        """Does nothing: there are none."""

    def forward(self, hidden: Tensor, bank: Bank, tokens: Tensor) -> MemoryRead:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Selects rows.

        Shapes:
            hidden [B, T, D], tokens [B, T, n_tokens] -> slots and weights [B, T, n-grams, K].
        """
        slots = self.slots(tokens)
        return MemoryRead(slots, hidden.new_full((), 1 / self.config.n_heads).expand(slots.shape), bank)

    def slots(self, tokens: Tensor) -> Tensor:
        """Returns the rows [B, T, n-grams, K] that ``tokens`` [B, T, n_tokens], the nearest first, hash to."""
        K = self.config.n_heads
        found: list[Tensor] = []
        first = 0
        for index, order in enumerate(self.config.orders):
            mixed = mix(tokens[..., :order])
            for size in self.sizes[index * K : (index + 1) * K]:
                found.append(mixed % size + first)
                first += size
        return torch.stack(found, dim=-1).unflatten(-1, (-1, K))


def mix(tokens: Tensor) -> Tensor:
    """Returns one number for the ids ``tokens`` [..., n]: each times a factor of its place, joined by exclusive or."""
    mixed = torch.zeros_like(tokens[..., 0])
    for place in range(tokens.shape[-1]):
        mixed = mixed ^ ((tokens[..., place] + 1) * pow(MULTIPLIER, place + 1, 1 << 32))  # 0 for NO_TOKEN; below 2**63
    return mixed


@cache
def primes(count: int, least: int, taken: tuple[int, ...] = ()) -> tuple[int, ...]:
    """Returns the ``count`` smallest prime numbers from ``least`` on that are not ``taken``."""
    found: list[int] = []
    number = max(2, least)
    while len(found) < count:
        if number not in taken and all(number % divisor for divisor in range(2, isqrt(number) + 1)):
            found.append(number)
        number += 1
    return tuple(found)
