"""A bank of vectors that learn: what most memories read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, Self

import torch
from torch import Tensor, nn

from memlm.bank.base import Bank, BankConfig, Rows
from memlm.kernels.compact import CompactGradient
from memlm.registry import BANKS


@BANKS.register
class VectorsConfig(BankConfig):
    """Every value is a vector that learns."""

    type: Literal["vectors"]
    dtype: Literal["float32", "bfloat16"] = "float32"
    """What values are kept in; bfloat16 halves what reads move, and every update is rounded at random, on average
    right."""

    def shrunken(self) -> Self:
        """Returns the bank in float32, as all else of what the preflight runs on."""
        return type(self).model_validate(self.model_dump(exclude={"dtype"}))

    def build(self, n_slots: int, d_value: int, embedding: nn.Embedding) -> VectorBank:
        """Returns the bank; it needs no embedding."""
        # Where float32 is not the default, a model is made in other bits as a whole, and its values with it.
        return VectorBank(n_slots, d_value, torch.bfloat16 if self.dtype == "bfloat16" else None)


class VectorBank(Bank):
    """A table of values.

    Args:
        n_slots: Rows, S.
        d_value: Width of a row.
        dtype: What values are kept in, if not in what the rest of the model is.

    Attributes:
        values: The table, [S, d_value].
        compact: Takes the gradient of the values while they are trained by rows; None: ``values.grad`` does.
    """

    def __init__(self, n_slots: int, d_value: int, dtype: torch.dtype | None = None) -> None:
        super().__init__(n_slots, d_value)
        self.compact: CompactGradient | None = None
        self.values = nn.Parameter(torch.empty(n_slots, d_value, dtype=dtype))
        if dtype is not None:
            self.read_dtype = torch.get_default_dtype()
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws values from N(0, 1/d_value), so that a row's norm is about 1 (as in arXiv:1907.05242's code)."""
        nn.init.normal_(self.values, std=self.d_value**-0.5)

    def rows(self, slots: Tensor) -> Rows:
        """Returns the whole table, and where its gradient goes."""
        if self.compact is None or not (torch.is_grad_enabled() and self.learns):
            return Rows(self.values, slots)
        return Rows(self.values, slots, self.compact.assign(slots))

    def table(self) -> Tensor:
        """Returns the values, [S, d_value]."""
        return self.values.detach()

    @contextmanager
    def showing(self, values: Tensor) -> Iterator[None]:
        """Reads find ``values`` [S, d_value] inside."""
        original = self.values.data
        try:
            self.values.data = values
            yield
        finally:
            self.values.data = original

    @property
    def learns(self) -> bool:
        """Whether the values do."""
        return self.values.requires_grad

    @property
    def has_16_bits(self) -> bool:
        """Whether values are kept in 16 bits, so that only updates that round at random may change them."""
        return self.values.dtype.itemsize == 2
