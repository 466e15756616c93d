"""Rows of a table in the host's memory in Triton: a program serves one read, and copies its row if it is not hot."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl
from torch import Tensor

if TYPE_CHECKING:
    from memlm.kernels.fetch_rows import HotRows


@triton.jit
def _fetch(
    source,
    slots,
    table,
    place_of,
    counts,
    tally,
    places,
    N,
    n_hot,
    D: tl.constexpr,
    BD: tl.constexpr,
):
    read = tl.program_id(0).to(tl.int64)
    slot = tl.load(slots + read)
    place = tl.load(place_of + slot).to(tl.int64)
    tl.atomic_add(counts + slot, 1)
    if read == 0:
        tl.atomic_add(tally, N)
    if place < 0:
        place = read + n_hot
        tl.atomic_add(tally + 1, 1)
        for first in range(0, D, BD):
            columns = first + tl.arange(0, BD)
            row = tl.load(source + slot * D + columns, mask=columns < D)
            tl.store(table + place * D + columns, row, mask=columns < D)
    tl.store(places + read, place)


def fetch_rows(hot: HotRows, source: Tensor, slots: Tensor, columns: int = 1024, warps: int = 2) -> Tensor:
    """Returns the places of ``slots``, as the reference does.

    Args:
        hot: The cache, dense.
        source: The whole table, dense.
        slots: Rows to read.
        columns: At most so many columns of a row at a time.
        warps: Of a program.
    """
    places = torch.empty_like(slots)
    D = source.shape[1]
    _fetch[len(slots),](
        source, slots, hot.table, hot.place_of, hot.counts, hot.tally, places, len(slots), len(hot.slot_at), D,
        BD=min(columns, triton.next_power_of_2(D)), num_warps=warps,
    )  # fmt: skip
    return places
