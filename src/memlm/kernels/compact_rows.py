"""Where reads of a table send their gradient when it is kept for the rows that are read, and not for the table."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class CompactRows(NamedTuple):
    """A list of rows that takes the gradient in the table's place; a row has one position for a whole step.

    Attributes:
        carrier: Leaf [capacity, D] whose content is never read; its gradient holds the sums of the rows.
        positions: Position in the list of each read's row, [..., R] int32.
        count: Positions from here on may keep any gradient; those below, where nothing was read, get zero. [1] int32.
    """

    carrier: Tensor
    positions: Tensor
    count: Tensor
