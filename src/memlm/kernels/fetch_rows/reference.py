"""Rows of a table that lies elsewhere, in plain torch; the table may lie on another device than the cache."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from memlm.kernels.fetch_rows import HotRows


def fetch_rows(hot: HotRows, source: Tensor, slots: Tensor) -> Tensor:
    """Does what `memlm.kernels.fetch_rows.fetch_rows` tells, waiting for the device where there is one."""
    table, slot_at, place_of, counts, tally = hot
    places = place_of[slots].long()
    missed = (places < 0).nonzero()[:, 0]
    places[missed] = len(slot_at) + missed
    table[places[missed]] = source[slots[missed].to(source.device)].to(table.device)
    counts.index_add_(0, slots, torch.ones_like(slots, dtype=counts.dtype))
    tally += torch.tensor([len(slots), len(missed)], device=tally.device)
    return places
