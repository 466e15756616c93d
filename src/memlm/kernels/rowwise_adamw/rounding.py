"""Stochastic rounding of float32 to bfloat16, by bits that depend on the row, the column and the step alone.

A number goes up to the next one of 16 bits, or down to the last, with the chances that make the mean of both itself
(Gupta et al. 2015, arXiv:1502.02551, section 3): 16 random bits are added below those that stay, and what is below is
cut off. So updates far smaller than the last digit arrive, on average; to the nearest they would all be lost.

The bits are a hash of integers, which a kernel computes alike, so that the same run gives the same bits after a resume
too. Banks of one model round alike where row, column and step are the same, which biases none of them.
"""

from __future__ import annotations

import torch
from torch import Tensor

LOW = 0xFFFFFFFF
"""Numbers are int64 here and unsigned 32-bit in a kernel: of products only these bits count."""
KEPT = -1 << 16
"""The bits of float32 that bfloat16 has."""


def mix(number: Tensor) -> Tensor:
    """Returns the finaliser of MurmurHash3 of each ``number`` below 2**32, int64: each bit depends on all."""
    number = ((number ^ (number >> 16)) * 0x85EBCA6B) & LOW
    number = ((number ^ (number >> 13)) * 0xC2B2AE35) & LOW
    return number ^ (number >> 16)


def random_bits(rows: Tensor, width: int, step: Tensor) -> Tensor:
    """Returns 16 random bits for each number of ``rows`` [N] at ``step`` [], [N, width] int64."""
    of_rows = mix((mix(step.long() & LOW) + rows) & LOW)
    columns = torch.arange(width, device=rows.device)
    return mix((of_rows[:, None] + mix(columns)) & LOW) >> 16


def rounded(numbers: Tensor, rows: Tensor, step: Tensor) -> Tensor:
    """Returns ``numbers`` [N, D] float32 as bfloat16, rounded by the bits of their ``rows`` [N] at ``step`` [].

    What bfloat16 holds, infinities among it, stays as it is, and NaN stays NaN.
    """
    bits = numbers.view(torch.int32) + random_bits(rows, numbers.shape[1], step).int()
    return (bits & KEPT).view(torch.float32).masked_fill_(numbers.isnan(), torch.nan).bfloat16()
