"""AdamW over rows of a table in plain torch, in the order of torch.optim.AdamW's operations, bit for bit.

Values of 16 bits are updated in float32, and rounded at random.
"""

from __future__ import annotations

import torch
from torch import Tensor

from memlm.kernels.rowwise_adamw.rounding import rounded
from memlm.kernels.rowwise_adamw.rows import RowGradient, Settings

CHUNK = 1 << 16
"""Numbers of a table that are worked on at a time, so that what is between stays in a processor's cache."""


def rowwise_adamw(
    values: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    gradient: RowGradient,
    step: Tensor,
    factor: Tensor,
    settings: Settings,
) -> None:
    """Updates the rows in place; meaning and shapes as of the operation."""
    if not factor.isfinite():
        return
    lr, beta1, beta2, eps = settings
    step_size = lr / (1 - beta1 ** step.item())
    root = (1 - beta2 ** step.item()) ** 0.5
    count = int(gradient.n_rows)
    size = max(1, CHUNK // values.shape[1])
    for rows, chunk in zip(gradient.rows[:count].split(size), gradient.sums[:count].split(size), strict=True):
        sums = chunk.float() * factor
        first = exp_avg.index_select(0, rows).lerp_(sums, 1 - beta1)
        second = exp_avg_sq.index_select(0, rows).mul_(beta2).addcmul_(sums, sums, value=1 - beta2)
        exp_avg.index_copy_(0, rows, first)
        exp_avg_sq.index_copy_(0, rows, second)
        denominator = second.sqrt_().div_(root).add_(eps)
        updated = values.index_select(0, rows).to(first.dtype).addcdiv_(first, denominator, value=-step_size)
        if values.dtype == torch.bfloat16:
            updated = rounded(updated, rows, step)
        values.index_copy_(0, rows, updated)
