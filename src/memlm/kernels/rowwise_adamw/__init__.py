"""AdamW over the rows of a table that a step has read."""

from __future__ import annotations

import torch
from torch import Tensor

from memlm.kernels.choice import is_fast
from memlm.kernels.rowwise_adamw import reference
from memlm.kernels.rowwise_adamw.rows import RowGradient, Settings

__all__ = ["RowGradient", "Settings", "rowwise_adamw"]


def rowwise_adamw(
    values: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    gradient: RowGradient,
    step: Tensor,
    factor: Tensor,
    settings: Settings,
) -> None:
    """Takes a step of AdamW without weight decay, in place, in the rows that have a gradient.

    Where every row has one at every step, this is torch.optim.AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101). A
    row without one is left alone, as by torch.optim.SparseAdam: its moments do not decay, and no momentum moves it. The
    correction of the moments' bias goes by ``step``, and not by how often a row was read.

    Values of 16 bits are updated in float32 and rounded at random, on average right: see `rounding`.

    Args:
        values: The table, [S, D] float32 or bfloat16.
        exp_avg: First moments, [S, D] float32.
        exp_avg_sq: Second moments, likewise.
        gradient: The rows and their gradient.
        step: The number of the step, from 1; [] float32. The random bits of rounding depend on it.
        factor: What the gradient is multiplied by, [] float32; if it is not finite, nothing changes.
        settings: The numbers of the formula.
    """
    torch.ops.memlm.rowwise_adamw(values, exp_avg, exp_avg_sq, *gradient, step, factor, list(settings))


@torch.library.custom_op("memlm::rowwise_adamw", mutates_args=("values", "exp_avg", "exp_avg_sq"))
def _update(  # noqa: PLR0913, PLR0917 (an operation of torch takes its tensors one by one)
    values: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    rows: Tensor,
    sums: Tensor,
    n_rows: Tensor,
    step: Tensor,
    factor: Tensor,
    settings: list[float],
) -> None:
    gradient, numbers = RowGradient(rows, sums, n_rows), Settings(*settings)
    if is_fast("rowwise_adamw", values):
        from memlm.kernels.rowwise_adamw import fast

        with torch.cuda.device(values.device):
            return fast.update(values, exp_avg, exp_avg_sq, gradient, step, factor, numbers)
    return reference.rowwise_adamw(values, exp_avg, exp_avg_sq, gradient, step, factor, numbers)
