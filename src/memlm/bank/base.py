"""What every bank is: a config, and a module that memories and fusions read rows of."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn

from memlm.config.base import Config
from memlm.kernels.gather_joined import gather_joined
from memlm.kernels.segments import CompactRows
from memlm.kernels.weighted_lookup import weighted_lookup


class BankConfig(Config):
    """Base of a bank's configuration; a subclass adds ``type: Literal["its_name"]``."""

    def shrunken(self) -> Self:
        """Returns the smallest configuration that is still made alike; the preflight runs on it."""
        return self

    def build(self, n_slots: int, d_value: int, embedding: nn.Embedding) -> Bank:
        """Returns a bank of ``n_slots`` rows of width ``d_value`` for a model with this token embedding."""
        raise NotImplementedError(f"{type(self).__name__} builds nothing")


class Rows(NamedTuple):
    """Where reads find their rows.

    Attributes:
        values: A table that holds every row that is read, [N, d_value].
        places: The row of each read in it, [..., R] int64.
        compact: Where the gradient of ``values`` goes instead, if it does.
    """

    values: Tensor
    places: Tensor
    compact: CompactRows | None = None


class Bank(nn.Module, ABC):
    """The values that memories read. Layers that share a bank are handed the same object.

    Args:
        n_slots: Rows, S.
        d_value: Width of a row.

    Attributes:
        read_dtype: What reads come in where autocast does not say, for values in fewer bits than the rest of the model;
            None: as the values. It follows the model, as in ``model.to(torch.bfloat16)``.
    """

    read_dtype: torch.dtype | None = None

    def __init__(self, n_slots: int, d_value: int) -> None:
        super().__init__()
        self.n_slots, self.d_value = n_slots, d_value

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        if self.read_dtype is not None:
            self.read_dtype = fn(torch.empty(0, dtype=self.read_dtype)).dtype
        return super()._apply(fn, recurse)

    @abstractmethod
    def reset_parameters(self) -> None:
        """Initialises every parameter with `torch.nn.init`."""

    @abstractmethod
    def rows(self, slots: Tensor) -> Rows:
        """Returns where ``slots`` [..., R] are to be read; the gradient of what is read there reaches the bank."""

    @abstractmethod
    def table(self) -> Tensor:
        """Returns the values of all slots as they are now, [S, d_value], without a gradient; not to be written to."""

    @abstractmethod
    def showing(self, values: Tensor) -> AbstractContextManager[None]:
        """Reads find ``values`` [S, d_value] inside, in the place of the bank's own."""

    @property
    @abstractmethod
    def learns(self) -> bool:
        """Whether a read sends a gradient to anything."""

    def attach(self, embedding: nn.Embedding) -> None:
        """Takes another token embedding of the model, where a bank needs it."""

    def entry(self, slot: int) -> list[int] | None:
        """Returns the token ids that a slot stands for, None where a slot is a vector and nothing else."""
        return None

    def gather(self, slots: Tensor, scales: Tensor | None = None) -> Tensor:
        """Returns the rows ``slots`` [..., R], each times its scale [..., R] if given, as [..., R, d_value]."""
        values, places, compact = self.rows(slots)
        nothing = values.new_empty(*slots.shape[:-1], 0, dtype=self.read_dtype)
        if scales is None:
            scales = values.new_ones(slots.shape)
        return gather_joined(nothing, values, places, scales, compact).unflatten(-1, (slots.shape[-1], -1))

    def gather_joined(self, hidden: Tensor, slots: Tensor, scales: Tensor) -> Tensor:
        """Returns ``hidden`` [..., D] and beside it the rows ``slots`` [..., R] times their ``scales`` [..., R].

        They come as [..., D + R * d_value], as what a matrix product takes.
        """
        values, places, compact = self.rows(slots)
        return gather_joined(hidden, values, places, scales, compact)

    def weighted_sum(self, slots: Tensor, weights: Tensor) -> Tensor:
        """Returns the sum of the rows ``slots`` [..., R] by ``weights`` [..., R] as [..., d_value]."""
        values, places, compact = self.rows(slots)
        return weighted_lookup(values, places, weights, compact, self.read_dtype)
