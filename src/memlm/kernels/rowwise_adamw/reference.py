"""AdamW over rows of a table in plain torch, in the order of torch.optim.AdamW's operations, bit for bit."""

from __future__ import annotations

from torch import Tensor

from memlm.kernels.rowwise_adamw.rows import RowGradient, Settings


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
    count = int(gradient.n_rows)
    rows, sums = gradient.rows[:count], gradient.sums[:count].float() * factor
    first = exp_avg[rows].lerp_(sums, 1 - beta1)
    second = exp_avg_sq[rows].mul_(beta2).addcmul_(sums, sums, value=1 - beta2)
    step_size = lr / (1 - beta1 ** step.item())
    root = (1 - beta2 ** step.item()) ** 0.5
    exp_avg.index_copy_(0, rows, first)
    exp_avg_sq.index_copy_(0, rows, second)
    updated = values[rows].addcdiv_(first, (second.sqrt() / root).add_(eps), value=-step_size)
    values.index_copy_(0, rows, updated)
