"""Values that lie elsewhere, with the rows that are read most on the device.

A call brings the rows that it misses to a place behind the hot ones, so that fusions and kernels read one table. Which
rows are hot follows what was read: every so many calls, or when `refresh` is called.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from memlm.bank.base import Rows
from memlm.errors import RunError
from memlm.kernels.fetch_rows import HotRows
from memlm.offload.base import ReadOnlyBank

HOT_SHARE = 1 / 16
"""Of the rows, how many are kept on the device."""
ROOM = 1 << 15
"""Rows that a call may miss; calls that read more are made in parts."""
FIRST, MOST = 16, 1024
"""Calls after which the hot rows are chosen the first time, and the most between two choices; from the one to the other
the distance doubles."""


class Traffic(NamedTuple):
    """What was read.

    Attributes:
        reads: Reads so far.
        misses: Those whose row was not hot; each moved a row to the device.
        row_bytes: Size of a row.
    """

    reads: int
    misses: int
    row_bytes: int

    @property
    def hit_rate(self) -> float:
        """Share of the reads that found their row on the device; 0 if there were none."""
        return 1 - self.misses / self.reads if self.reads else 0.0

    @property
    def bytes(self) -> int:
        """What the misses moved to the device."""
        return self.misses * self.row_bytes


class CachedBank(ReadOnlyBank):
    """Values that lie elsewhere.

    Args:
        source: The values, [S, d_value], where they lie.
        device: Where they are read.
        hot_share: Share of the rows that the device keeps.
        room: Rows that one call may miss.
    """

    def __init__(self, source: Tensor, device: torch.device, hot_share: float = HOT_SHARE, room: int = ROOM) -> None:
        super().__init__(*source.shape)
        self.source, self.room = source, room
        n_slots, n_hot = len(source), max(1, int(hot_share * len(source)))
        slot_at = torch.arange(n_hot, device=device)
        place_of = torch.full((n_slots,), -1, dtype=torch.int32, device=device)
        place_of[slot_at] = slot_at.int()
        table = source.new_empty(n_hot + room, self.d_value, device=device)
        table[:n_hot] = source[:n_hot].to(device)
        counts = torch.zeros_like(place_of)
        self.hot = HotRows(table, slot_at, place_of, counts, torch.zeros(2, dtype=torch.int64, device=device))
        self._calls, self._next = 0, FIRST

    @abstractmethod
    def fetch(self, slots: Tensor) -> Tensor:
        """Returns where in the cache's table the rows ``slots`` [N] are, after bringing there what was missing."""

    def rows(self, slots: Tensor) -> Rows:
        """Returns the table of the cache, and where in it the rows are until the next call.

        Raises:
            RunError: more rows are read at once than there is room for, if all of them are missed.
        """
        if self.shown is not None:
            return Rows(self.shown, slots)
        if slots.numel() > self.room:  # the device would write past the table
            raise RunError(f"{slots.numel():,} rows are read at once, and a bank that is elsewhere takes {self.room:,}")
        self._refresh_in_time()
        return Rows(self.hot.table, self.fetch(slots.reshape(-1)).view(slots.shape))

    def gather(self, slots: Tensor, scales: Tensor | None = None) -> Tensor:
        """Returns rows, as `Bank.gather` does."""
        return self._in_parts(super().gather, slots, *([] if scales is None else [scales]))

    def gather_joined(self, hidden: Tensor, slots: Tensor, scales: Tensor) -> Tensor:
        """Returns rows beside ``hidden``, as `Bank.gather_joined` does."""
        return self._in_parts(super().gather_joined, hidden, slots, scales)

    def weighted_sum(self, slots: Tensor, weights: Tensor) -> Tensor:
        """Returns sums of rows, as `Bank.weighted_sum` does."""
        return self._in_parts(super().weighted_sum, slots, weights)

    def table(self) -> Tensor:
        """Returns the values, [S, d_value], where they lie."""
        return self.source

    def refresh(self) -> None:
        """Keeps on the device those rows that were read most, the latest reads counting most."""
        table, slot_at, place_of, counts, _ = self.hot
        # Of rows that were read alike, those that are there stay.
        wanted = (2 * counts + (place_of >= 0)).topk(len(slot_at)).indices
        is_wanted = torch.zeros_like(place_of, dtype=torch.bool).index_fill_(0, wanted, True)
        free = (~is_wanted[slot_at]).nonzero()[:, 0]
        coming = wanted[place_of[wanted] < 0]
        place_of[slot_at[free]] = -1
        place_of[coming] = free.int()
        slot_at[free] = coming
        table[free] = self.source[coming.to(self.source.device)].to(table.device)
        counts.bitwise_right_shift_(1)

    def traffic(self) -> Traffic:
        """Returns what was read so far; waits for the device."""
        reads, misses = self.hot.tally.tolist()
        return Traffic(reads, misses, self.d_value * self.source.element_size())

    def _refresh_in_time(self) -> None:
        captured = self.hot.table.is_cuda and torch.cuda.is_current_stream_capturing()
        if captured or torch.compiler.is_compiling():
            return
        self._calls += 1
        if self._calls >= self._next:
            self.refresh()
            self._next += min(self._next, MOST)

    def _in_parts(self, read: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
        """Returns what ``read`` does of tensors [..., R], of no more tokens at a time than there is room for."""
        tokens = max(1, self.room // tensors[-1].shape[-1])
        flat = [tensor.reshape(-1, tensor.shape[-1]).split(tokens) for tensor in tensors]
        parts = [read(*part) for part in zip(*flat, strict=True)]
        whole = parts[0] if len(parts) == 1 else torch.cat(parts)
        return whole.unflatten(0, tensors[0].shape[:-1])
