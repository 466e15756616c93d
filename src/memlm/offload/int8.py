"""Values as 8-bit integers with a scale for each row, on the device: about a quarter of float32's memory."""

from __future__ import annotations

import torch
from torch import Tensor

from memlm.bank.base import Rows
from memlm.kernels.gather_joined import gather_joined
from memlm.kernels.weighted_lookup import weighted_lookup
from memlm.offload.base import ReadOnlyBank

BLOCK = 1 << 16
"""Rows that are rounded at a time."""
LEVELS = 127


class Int8Bank(ReadOnlyBank):
    """Values rounded to integers from -127 to 127, times the row's largest magnitude over 127.

    A number is off by at most half of that step. Kernels read the integers and take the scale with a read's weight.

    Args:
        values: The values, [S, d_value].
        device: Where they are kept and read.
    """

    def __init__(self, values: Tensor, device: torch.device) -> None:
        super().__init__(*values.shape)
        self.dtype = values.dtype
        self.integers = torch.empty(values.shape, dtype=torch.int8, device=device)
        self.scales = torch.empty(len(values), device=device)
        for first in range(0, len(values), BLOCK):
            block = values[first : first + BLOCK].to(device).float()
            scales = block.abs().amax(1).clamp_min(torch.finfo(torch.float32).tiny) / LEVELS
            self.scales[first : first + BLOCK] = scales
            self.integers[first : first + BLOCK] = (block / scales[:, None]).round().to(torch.int8)

    def rows(self, slots: Tensor) -> Rows:
        """Returns the values as numbers: for what is shown; the methods below read the integers."""
        return Rows(self.table() if self.shown is None else self.shown, slots)

    def table(self) -> Tensor:
        """Returns the values as they are read, [S, d_value]."""
        return (self.integers * self.scales[:, None]).to(self.dtype)

    def gather(self, slots: Tensor, scales: Tensor | None = None) -> Tensor:
        """Returns rows, as `Bank.gather` does."""
        nothing = self.scales.new_empty(*slots.shape[:-1], 0, dtype=self.read_dtype or self.dtype)
        joined = self.gather_joined(nothing, slots, torch.ones_like(slots) if scales is None else scales)
        return joined.unflatten(-1, (slots.shape[-1], -1))

    def gather_joined(self, hidden: Tensor, slots: Tensor, scales: Tensor) -> Tensor:
        """Returns rows beside ``hidden``, as `Bank.gather_joined` does."""
        if self.shown is not None:
            return super().gather_joined(hidden, slots, scales)
        return gather_joined(hidden, self.integers, slots, scales * self.scales[slots])

    def weighted_sum(self, slots: Tensor, weights: Tensor) -> Tensor:
        """Returns sums of rows, as `Bank.weighted_sum` does."""
        if self.shown is not None:
            return super().weighted_sum(slots, weights)
        total = weighted_lookup(self.integers, slots, weights * self.scales[slots])
        return total.to(self.read_dtype or self.dtype)
