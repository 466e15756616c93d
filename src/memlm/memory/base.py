"""What every memory is: a config, a bank of values, and a module that selects slots of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, Self

import torch
from torch import Tensor, nn

from memlm.config.base import Config
from memlm.config.checks import FaultName
from memlm.kernels.compact import CompactGradient
from memlm.kernels.gather_joined import gather_joined
from memlm.kernels.segments import CompactRows
from memlm.kernels.weighted_lookup import weighted_lookup

NO_TOKEN = -1
"""Stands for a token before the first one, and for padding."""


class Bank(nn.Module):
    """A table of values that memories read. Layers that share a bank are handed the same object.

    Args:
        n_slots: Rows, S.
        d_value: Width of a row.

    Attributes:
        compact: Takes the gradient of the values while they are trained by rows; None: ``values.grad`` does.
    """

    def __init__(self, n_slots: int, d_value: int) -> None:
        super().__init__()
        self.compact: CompactGradient | None = None
        self.values = nn.Parameter(torch.empty(n_slots, d_value))
        self.reset_parameters()

    @property
    def n_slots(self) -> int:
        """Number of rows."""
        return self.values.shape[0]

    def reset_parameters(self) -> None:
        """Draws values from N(0, 1/d_value), so that a row's norm is about 1 (as in arXiv:1907.05242's code)."""
        nn.init.normal_(self.values, std=self.values.shape[1] ** -0.5)

    def entry(self, slot: int) -> list[int] | None:
        """Returns the token ids that a slot stands for, None where a slot is a vector and nothing else."""
        return None

    def gather(self, slots: Tensor, scales: Tensor | None = None) -> Tensor:
        """Returns the rows ``slots`` [..., R], each times its scale [..., R] if given, as [..., R, d_value]."""
        nothing = self.values.new_empty(*slots.shape[:-1], 0)
        if scales is None:
            scales = self.values.new_ones(slots.shape)
        return self.gather_joined(nothing, slots, scales).unflatten(-1, (slots.shape[-1], -1))

    def gather_joined(self, hidden: Tensor, slots: Tensor, scales: Tensor) -> Tensor:
        """Returns ``hidden`` [..., D] and beside it the rows ``slots`` [..., R] times their ``scales`` [..., R].

        They come as [..., D + R * d_value], as what a matrix product takes.
        """
        return gather_joined(hidden, self.values, slots, scales, self._compact_rows(slots))

    def weighted_sum(self, slots: Tensor, weights: Tensor) -> Tensor:
        """Returns the sum of the rows ``slots`` [..., R] by ``weights`` [..., R] as [..., d_value]."""
        return weighted_lookup(self.values, slots, weights, self._compact_rows(slots))

    def _compact_rows(self, slots: Tensor) -> CompactRows | None:
        if self.compact is None or not (torch.is_grad_enabled() and self.values.requires_grad):
            return None
        return self.compact.assign(slots)


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

    def build_bank(self) -> Bank:
        """Returns the table of values."""
        return Bank(self.n_slots, self.value_width)


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
