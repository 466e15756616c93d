"""A bank of which every process holds some columns, for tables that are too large to hold on each device.

Each process holds all slots, and of every value ``d_value / n`` numbers. Slots and weights of all processes' tokens are
gathered by all, each reads its columns for all tokens, and an exchange brings every token's columns together where the
token is: as Berges et al. 2024 (arXiv:2412.09764, section 3.2) shard theirs. All processes must read at the same time,
equally many tokens.
"""

# torch leaves parts of its interface untyped:
# pyright: reportUnknownMemberType=false

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist

from memlm.bank.vectors import VectorBank
from memlm.errors import RunError
from memlm.train.ranks import gathered


class ColumnBank(VectorBank):
    """The columns of a bank of vectors that one process holds.

    The gradient of its values adds up what the tokens of all processes give.

    Args:
        whole: The bank, of which the columns are copied.
        n_ranks: Processes that hold parts of it.
        rank: Which of them this is.

    Attributes:
        values: Its columns, [S, d_value / n_ranks].

    Raises:
        RunError: they cannot have equal parts, or values have 16 bits, whose rounding goes by whole rows.
    """

    def __init__(self, whole: VectorBank, n_ranks: int, rank: int) -> None:
        if whole.d_value % n_ranks:
            raise RunError(
                f"memory.d_value is {whole.d_value}, and {n_ranks} processes cannot have equal columns of it; make it "
                "a multiple, or set train.shard: none"
            )
        if whole.has_16_bits:
            raise RunError("values of 16 bits (bank.dtype) are not sharded; set train.shard: none")
        with torch.device("meta"):  # nothing is drawn
            super().__init__(whole.n_slots, whole.d_value)
        self.n_ranks, self.rank = n_ranks, rank
        self.values = nn.Parameter(self.columns_of(whole.values.detach()), whole.values.requires_grad)

    def columns_of(self, table: Tensor) -> Tensor:
        """Returns a copy of the own columns of ``table`` [S, d_value]."""
        return table.chunk(self.n_ranks, dim=1)[self.rank].clone()

    def gather(self, slots: Tensor, scales: Tensor | None = None) -> Tensor:
        """Returns the rows ``slots`` [..., R], each times its scale [..., R] if given, as [..., R, d_value]."""
        scales = self.values.new_ones(slots.shape) if scales is None else scales
        rows = super().gather(*self._of_all(slots, scales))  # [n * N, R, d]
        return self._brought_together(rows).unflatten(0, slots.shape[:-1])

    def gather_joined(self, hidden: Tensor, slots: Tensor, scales: Tensor) -> Tensor:
        """Returns ``hidden`` [..., D] and beside it the rows, as [..., D + R * d_value]."""
        rows = self.gather(slots, scales).flatten(-2)
        return torch.cat([hidden, rows.to(hidden.dtype)], dim=-1)

    def weighted_sum(self, slots: Tensor, weights: Tensor) -> Tensor:
        """Returns the sum of the rows ``slots`` [..., R] by ``weights`` [..., R] as [..., d_value]."""
        total = super().weighted_sum(*self._of_all(slots, weights))  # [n * N, d]
        return self._brought_together(total).unflatten(0, slots.shape[:-1])

    def _of_all(self, slots: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Returns slots and weights [..., R] of the tokens of all processes, [n * N, R]."""
        everyones = torch.cat(gathered(slots.flatten(0, -2).int(), self.n_ranks)).long()  # half the bytes on their way
        return everyones, _Gathered.apply(weights.flatten(0, -2), self.n_ranks)  # pyright: ignore[reportReturnType]

    def _brought_together(self, columns: Tensor) -> Tensor:
        """Returns from the own columns of all tokens [n * N, ..., d] all columns of the own ones [N, ..., d_value]."""
        parts: Tensor = _Exchanged.apply(columns.unflatten(0, (self.n_ranks, -1)))  # pyright: ignore[reportAssignmentType]
        return parts.movedim(0, -2).flatten(-2)


class _Gathered(torch.autograd.Function):
    """[N, R] of each process to [n * N, R] of all; gradients go back to where they belong, and are added there."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, n_ranks: int) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.n_ranks = n_ranks
        return torch.cat(gathered(tensor, n_ranks))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return _exchanged(grad.unflatten(0, (ctx.n_ranks, -1))).sum(0), None


class _Exchanged(torch.autograd.Function):
    """[n, ...] to [n, ...]: part i goes to process i, which has it in the place of the one that it comes from."""

    @staticmethod
    def forward(ctx: Any, parts: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return _exchanged(parts)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return _exchanged(grad)


def _exchanged(parts: Tensor) -> Tensor:
    parts = parts.contiguous()
    arrived = torch.empty_like(parts)
    dist.all_to_all_single(arrived, parts)
    return arrived
