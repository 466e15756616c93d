"""The gradient of a table, kept for the rows that a step reads and not for the whole table.

The forward pass gives every row that is read a position in a list, and the row keeps it for the whole step, whichever
layer and micro-step reads it again. The gradient goes to a leaf of the list's length instead of to the table, so that
autograd itself adds up what layers and micro-steps give.
"""

from __future__ import annotations

import torch
from torch import Tensor

from memlm.kernels.rowwise_adamw import RowGradient
from memlm.kernels.segments import CompactRows


class CompactGradient:
    """A list of the rows that a step has read so far, with their gradient.

    It belongs to training and is no part of the model: nothing of it is saved.

    Args:
        values: The table, [S, d_value].
        capacity: Most rows that a step can read.
        dtype: What the gradient adds up in; that of ``values`` if not given.

    Attributes:
        carrier: Leaf [capacity, d_value] that takes no memory; its gradient is that of the rows, zero where the list
            is not used.
        rows: The row at each position, [capacity] int64; meant are the first `n_rows`.
    """

    def __init__(self, values: Tensor, capacity: int, dtype: torch.dtype | None = None) -> None:
        n_slots, width = values.shape
        whole = {"dtype": torch.int32, "device": values.device}
        self.carrier = values.new_zeros((), dtype=dtype).expand(capacity, width).requires_grad_()
        self._position_of = torch.full((n_slots,), -1, **whole)  # -1: the row was not read
        self.rows = torch.zeros(capacity, dtype=torch.int64, device=values.device)
        self._count = torch.zeros(1, **whole)

    def assign(self, slots: Tensor) -> CompactRows:
        """Returns where the gradient of ``slots`` [...] goes; rows that were not read before are added to the list."""
        positions = torch.ops.memlm.assign_positions(slots, self._position_of, self.rows, self._count)
        return CompactRows(self.carrier, positions)

    @property
    def n_rows(self) -> int:
        """How many rows were read so far; waits for the device."""
        return int(self._count)

    def gradient(self) -> RowGradient | None:
        """Returns the gradient that has added up, None if there is none."""
        if self.carrier.grad is None:
            return None
        return RowGradient(self.rows, self.carrier.grad, self._count)

    def clear(self) -> None:
        """Forgets rows and gradient."""
        self.carrier.grad = None
        self._position_of.fill_(-1)
        self._count.zero_()


@torch.library.custom_op("memlm::assign_positions", mutates_args=("position_of", "rows", "count"))
def _assign(slots: Tensor, position_of: Tensor, rows: Tensor, count: Tensor) -> Tensor:
    """Returns the positions of ``slots`` [...] int32; new rows come behind those that have one, in ascending order.

    Args:
        slots: Rows that are read, [...] int64.
        position_of: Position of each row, -1 for none, [S] int32.
        rows: The row at each position, [capacity] int64.
        count: Positions in use, [1] int32.
    """
    flat = slots.reshape(-1)
    is_new = torch.zeros_like(position_of, dtype=torch.bool).index_fill_(0, flat, True).logical_and_(position_of < 0)
    rank = is_new.cumsum(0, dtype=torch.int32)
    position_of.copy_(torch.where(is_new, rank + (count - 1), position_of))
    count.add_(rank[-1])
    positions = position_of[flat]
    rows.scatter_(0, positions.long(), flat)
    return positions.view(slots.shape)


@_assign.register_fake
def _(slots: Tensor, position_of: Tensor, rows: Tensor, count: Tensor) -> Tensor:
    return slots.new_empty(slots.shape, dtype=torch.int32)
