"""What every memory is: a config, and a module that selects slots of a bank."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple, Self

import torch
from pydantic import SerializerFunctionWrapHandler, model_serializer
from torch import Tensor, nn

from memlm.bank.base import Bank
from memlm.bank.vectors import VectorsConfig
from memlm.config.base import Config, choice
from memlm.config.checks import FaultName
from memlm.registry import BANKS

NO_TOKEN = -1
"""Stands for a token before the first one, and for padding."""


@dataclass(frozen=True)
class MemoryRead:
    """What a memory selected for each token; no value has been read yet.

    Attributes:
        slots: Rows of the bank, [B, T, H, K] int64, each head's best first.
        weights: Their weights, [B, T, H, K]; they carry the gradient to the memory's router.
        bank: The table that the slots belong to.
    """

    slots: Tensor
    weights: Tensor
    bank: Bank


class Revived(NamedTuple):
    """What a memory has put in the place of what was never chosen.

    Attributes:
        parameter: The parameter that was changed.
        entries: Which of its entries, a boolean tensor over its leading axes.
        copies: Rows of the bank and the rows whose values they should take, in this order, each a pair of [N] int64.
    """

    parameter: nn.Parameter
    entries: Tensor
    copies: list[tuple[Tensor, Tensor]]


class MemoryConfig(Config):
    """Base of a memory's configuration; a subclass adds ``type: Literal["its_name"]``."""

    bank: Annotated[Any, choice(BANKS)] = VectorsConfig(type="vectors")
    """What the slots hold, by type (`memlm list banks`)."""

    @model_serializer(mode="wrap")
    def _without_vectors(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leaves a plain bank of vectors out, which settings from before there were others do not name."""
        fields = handler(self)
        if isinstance(self.bank, VectorsConfig) and not self.bank.changes("dtype"):
            fields.pop("bank", None)
        return fields

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields what the fields cannot see alone; a subclass adds its own."""
        if getattr(self.bank, "database", None) is not None and not self.has_product_keys:
            yield "bank.database", "needs a memory with product keys, which lead to the entries; leave it out"
        if getattr(self.bank, "facts", False) and not self.n_tokens:
            yield "bank.facts", "needs a memory that reads by the tokens alone (ngram_hash); leave it out"

    @property
    def has_product_keys(self) -> bool:
        """Whether slots are addressed by two half keys, so that they can be filled from a database."""
        return False

    @property
    def n_slots(self) -> int:
        """Rows of the bank, S."""
        raise NotImplementedError(f"{type(self).__name__} does not say how many slots it has")

    @property
    def n_reads(self) -> int:
        """Slots that one token reads in one layer, H * K."""
        raise NotImplementedError(f"{type(self).__name__} does not say how many slots it reads")

    @property
    def value_width(self) -> int:
        """Width of a value."""
        raise NotImplementedError(f"{type(self).__name__} does not say how wide its values are")

    @property
    def n_tokens(self) -> int:
        """Tokens by whose ids a token's slots are selected: its own and those before it; 0: the ids are not asked for.

        Where it is more, `Memory.forward` is given a third argument.
        """
        return 0

    @property
    def is_normalised(self) -> bool:
        """Whether the weights of a head sum to one; the preflight checks it."""
        return True

    @property
    def expected_to_break(self) -> Mapping[FaultName, str]:
        """Faults of the preflight that are meant, each with its reason; it still measures them, and says so."""
        return {}

    def shrunken(self) -> Self:
        """Returns the smallest configuration that is still wired alike; the preflight runs on it."""
        return self

    def build(self, d_model: int) -> Memory:
        """Returns the module that selects slots from hidden states of width ``d_model``."""
        raise NotImplementedError(f"{type(self).__name__} builds nothing")

    def build_bank(self, embedding: nn.Embedding) -> Bank:
        """Returns the bank, for a model with this token embedding."""
        return self.bank.build(self.n_slots, self.value_width, embedding)


class Memory(nn.Module, ABC):
    """Selects slots of a bank for every token; the selection of a token sees that token's hidden state alone.

    A memory whose config has ``n_tokens`` above 0 also sees the ids of as many tokens, as a third argument of
    `forward`: [B, T, n_tokens] int64, the token's own first, then the one before it; `NO_TOKEN` where there is none.
    """

    @abstractmethod
    def forward(self, hidden: Tensor, bank: Bank) -> MemoryRead:
        """Returns the slots and weights for ``hidden`` [B, T, D]."""

    @abstractmethod
    def reset_parameters(self) -> None:
        """Initialises every parameter with `torch.nn.init`."""

    def revive(self, counts: Tensor, generator: torch.Generator) -> Revived | None:
        """Gives what tokens never chose another chance; nothing, unless a memory says otherwise.

        Args:
            counts: How often each head read each slot, [H, S] int32.
            generator: Where noise is drawn from, on the CPU.
        """
        return None

    def key_similarity(self, slot: int) -> Tensor | None:
        """Returns how alike the key of each slot is to that of ``slot``, [S]: the mean of the heads' cosines.

        None: the memory's slots have no keys, or it does not say.
        """
        return None
