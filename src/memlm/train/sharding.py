"""The banks of a model while every rank holds some of their columns, and the whole ones for checkpoints."""

# torch leaves parts of its interface untyped:
# pyright: reportUnknownMemberType=false

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch import distributed as dist

from memlm.bank.vectors import VectorBank
from memlm.model.decoder import Decoder
from memlm.train.columns import ColumnBank
from memlm.train.ranks import Ranks
from memlm.train.state import OPTIMIZER

CHUNK = 1 << 24
"""Numbers that are sent to rank 0 at a time, by each rank."""


class ShardedBanks:
    """Replaces the banks of vectors of a decoder by the columns that this rank holds; with one rank, nothing.

    Checkpoints hold whole banks and their whole moments, so they know nothing of ranks: any number goes on from them.
    Whole ones are put together in rank 0's host memory; the other ranks are left with placeholders of no size.

    Args:
        decoder: The model's decoder, the same on every rank.
        ranks: The processes that train together.

    Raises:
        RunError: the ranks cannot have equal shares of a bank.
    """

    def __init__(self, decoder: Decoder, ranks: Ranks) -> None:
        self._decoder, self._ranks = decoder, ranks
        self._banks: dict[int, ColumnBank] = {}
        for index, bank in enumerate(decoder.banks):
            if ranks.number > 1 and isinstance(bank, VectorBank):
                self._banks[index] = ColumnBank(bank, ranks.number, ranks.index)
                decoder.banks[index] = self._banks[index]

    @contextmanager
    def whole(self) -> Generator[None]:
        """Puts whole banks into rank 0's model inside; all ranks must ask for it together."""
        self.restore()
        try:
            yield
        finally:
            for index, bank in self._banks.items():
                self._decoder.banks[index] = bank

    def restore(self) -> None:
        """Puts whole banks into rank 0's model for good."""
        for index, bank in self._banks.items():
            with torch.device("meta"):  # nothing is drawn
                whole = VectorBank(bank.n_slots, bank.d_value)
            whole.values = nn.Parameter(self._whole(bank.values.detach()), bank.values.requires_grad)
            self._decoder.banks[index] = whole

    def whole_moments(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Returns a training state's tensors, with whole moments on rank 0."""
        return {name: self._whole(t) if self._is_moment(name, t) else t for name, t in tensors.items()}

    def own_moments(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Returns a training state's tensors, with the own columns of the moments."""
        banks = list(self._banks.values())
        return {name: banks[0].columns_of(t) if self._is_moment(name, t) else t for name, t in tensors.items()}

    def _is_moment(self, name: str, tensor: Tensor) -> bool:
        prefixes = [f"{OPTIMIZER}decoder.banks.{index}.values/" for index in self._banks]
        return tensor.ndim > 1 and name.startswith(tuple(prefixes))

    def _whole(self, columns: Tensor) -> Tensor:
        """Returns all columns on rank 0's CPU, [S, d_value]; elsewhere nothing."""
        n, is_first = self._ranks.number, self._ranks.index == 0
        width = columns.shape[1] * n
        whole = torch.empty(len(columns) if is_first else 0, width, dtype=columns.dtype)
        begin = 0
        for rows in columns.split(max(1, CHUNK // columns.shape[1])):
            parts = [torch.empty_like(rows) for _ in range(n)] if is_first else None
            dist.gather(rows.contiguous(), parts)
            if parts is not None:
                whole[begin : begin + len(rows)] = torch.cat(parts, dim=1).cpu()
            begin += len(rows)
        return whole
