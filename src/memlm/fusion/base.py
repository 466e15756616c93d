"""What every fusion is: a config, and a module that turns a hidden state and a read into the block's update."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Protocol, Self

from torch import Tensor, nn

from memlm.config.base import Config
from memlm.config.checks import FaultName


class BankLike(Protocol):
    """What a fusion asks of a bank: the slots of its read, and no others.

    Training may have made room for the gradients of just the ``n_reads`` rows that a token reads in a layer.
    """

    def gather(self, slots: Tensor, scales: Tensor | None = None) -> Tensor:
        """Returns the rows ``slots`` [..., R], each times its scale [..., R] if given, as [..., R, d_value]."""
        ...

    def gather_joined(self, hidden: Tensor, slots: Tensor, scales: Tensor) -> Tensor:
        """Returns ``hidden`` [..., D] and beside it the rows times their scales, [..., D + R * d_value]."""
        ...

    def weighted_sum(self, slots: Tensor, weights: Tensor) -> Tensor:
        """Returns the sum of the rows ``slots`` [..., R] by ``weights`` [..., R] as [..., d_value]."""
        ...


class ReadLike(Protocol):
    """What a fusion is given: see `memlm.memory.base.MemoryRead`."""

    @property
    def slots(self) -> Tensor:
        """Rows of the bank, [B, T, H, K]."""
        ...

    @property
    def weights(self) -> Tensor:
        """Their weights, [B, T, H, K]."""
        ...

    @property
    def bank(self) -> BankLike:
        """The table that the slots belong to."""
        ...


class FusionConfig(Config):
    """Base of a fusion's configuration; a subclass adds ``type: Literal["its_name"]``."""

    def problems_in(self, d_model: int) -> Iterator[tuple[str, str]]:
        """Yields (field, reason) for what does not fit a model of width ``d_model``."""
        return iter(())

    def width_of_values(self, d_model: int) -> int | None:
        """Returns the width that values must have in a model of width ``d_model``; None: any."""
        return None

    @property
    def expected_to_break(self) -> Mapping[FaultName, str]:
        """Faults of the preflight that are meant, each with its reason; it still measures them, and says so."""
        return {}

    def shrunken(self) -> Self:
        """Returns the smallest configuration that is still wired alike; the preflight runs on it."""
        return self

    def build(self, d_model: int, n_reads: int, d_value: int) -> Fusion:
        """Returns the module for a memory that reads ``n_reads`` values of width ``d_value`` for each token."""
        raise NotImplementedError(f"{type(self).__name__} builds nothing")


class Fusion(nn.Module, ABC):
    """Turns a hidden state and what was read for it into the update that the block adds to the residual stream."""

    def reset_parameters(self) -> None:
        """Initialises what the decoder's rule for matrices does not suit; nothing, unless a fusion says otherwise."""

    @abstractmethod
    def forward(self, hidden: Tensor, read: ReadLike) -> Tensor:
        """Returns the update [B, T, D] for ``hidden`` [B, T, D]."""


def scaled_values(read: ReadLike) -> Tensor:
    """Reads the chosen values, each times its weight and K, as [B, T, H * K, d_value].

    The weights carry the gradient to the router; times K, equal weights leave the values as they are.
    """
    return read.bank.gather(read.slots.flatten(2), _scales(read))


def joined_values(hidden: Tensor, read: ReadLike) -> Tensor:
    """Returns ``hidden`` [B, T, D] and beside it what `scaled_values` reads, as [B, T, D + H * K * d_value]."""
    return read.bank.gather_joined(hidden, read.slots.flatten(2), _scales(read))


def _scales(read: ReadLike) -> Tensor:
    return (read.weights * read.weights.shape[-1]).flatten(2)
