"""Rows of a table that lies elsewhere, brought to a cache on the device where they are not there already."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from memlm.kernels.choice import is_fast
from memlm.kernels.fetch_rows import reference


class HotRows(NamedTuple):
    """A cache of a table's rows, with room behind them for the rows that a call misses.

    Attributes:
        table: The hot rows, and behind them the room, [hot + room, d].
        slot_at: Which row each hot row is, [hot] int64.
        place_of: Where each row of the whole table is hot, -1: it is not, [S] int32.
        counts: How often each row was read, [S] int32.
        tally: Reads so far, and those of them that missed, [2] int64.
    """

    table: Tensor
    slot_at: Tensor
    place_of: Tensor
    counts: Tensor
    tally: Tensor


def fetch_rows(hot: HotRows, source: Tensor, slots: Tensor) -> Tensor:
    """Returns where in ``hot.table`` the rows ``slots`` [N] lie, [N] int64; read i that misses is copied to place i.

    Counts and tally go up. On a GPU one kernel does it all and nothing waits for the host, so it can be captured.

    Args:
        hot: The cache.
        source: The whole table, [S, d]; on a GPU in memory that the GPU can address.
        slots: Rows to read, at most as many as there is room for, int64.
    """
    return torch.ops.memlm.fetch_rows(*hot, source, slots)


@torch.library.custom_op("memlm::fetch_rows", mutates_args=("table", "counts", "tally"))
def _fetch(
    table: Tensor, slot_at: Tensor, place_of: Tensor, counts: Tensor, tally: Tensor, source: Tensor, slots: Tensor
) -> Tensor:
    hot = HotRows(table, slot_at, place_of, counts, tally)
    if is_fast("fetch_rows", source):
        from memlm.kernels.fetch_rows import fast

        with torch.cuda.device(table.device):
            return fast.fetch_rows(hot, source, slots.contiguous())
    return reference.fetch_rows(hot, source, slots)


@_fetch.register_fake
def _(
    table: Tensor, slot_at: Tensor, place_of: Tensor, counts: Tensor, tally: Tensor, source: Tensor, slots: Tensor
) -> Tensor:
    return torch.empty_like(slots)
