"""Row-wise AdamW in Triton: one pass, 28 bytes for each number of a row in float32, 24 where values have 16 bits.

Read are the value, its two moments and its gradient; written are the first three. A program takes a tile of whole rows,
or of a part of their columns; beyond the end of the list, which only the device knows, it has nothing to do.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from memlm.kernels.rowwise_adamw.rows import RowGradient, Settings


@triton.jit
def _mix(number):
    """Returns what `rounding.mix` does of unsigned 32-bit numbers."""
    number = (number ^ (number >> 16)) * 0x85EBCA6B
    number = (number ^ (number >> 13)) * 0xC2B2AE35
    return number ^ (number >> 16)


@triton.jit
def _rounded(numbers, row, columns, step):
    """Returns ``numbers`` [rows, columns] float32 as bfloat16; bit for bit what `rounding.rounded` does."""
    of_rows = _mix(_mix(step.to(tl.uint32)) + row.to(tl.uint32))
    noise = _mix(of_rows[:, None] + _mix(columns.to(tl.uint32))[None, :]) >> 16
    bits = (numbers.to(tl.int32, bitcast=True) + noise.to(tl.int32)) & -65536
    bits = tl.where(numbers != numbers, 0x7FC00000, bits)  # NaN stays  # noqa: PLR0124
    return bits.to(tl.float32, bitcast=True).to(tl.bfloat16)


@triton.jit
def _update(
    values,
    exp_avg,
    exp_avg_sq,
    rows,
    sums,
    count,
    scalars,
    keep_first,
    take_first,
    keep_second,
    take_second,
    eps,
    D,
    BR: tl.constexpr,
    BD: tl.constexpr,
):
    factor = tl.load(scalars)
    step_size = tl.load(scalars + 1)
    root = tl.load(scalars + 2)
    is_finite = tl.abs(factor) < float("inf")  # false for NaN as well
    end = tl.where(is_finite, tl.load(count), 0)
    columns = tl.program_id(1) * BD + tl.arange(0, BD)
    listed = tl.program_id(0) * BR + tl.arange(0, BR)
    live = listed < end
    mask = live[:, None] & (columns < D)[None, :]
    row = tl.load(rows + listed, mask=live, other=0)
    there = row[:, None] * D + columns[None, :]
    here = listed.to(tl.int64)[:, None] * D + columns[None, :]
    gradient = tl.load(sums + here, mask=mask, other=0.0).to(tl.float32) * factor
    first = tl.load(exp_avg + there, mask=mask, other=0.0)
    second = tl.load(exp_avg_sq + there, mask=mask, other=0.0)
    value = tl.load(values + there, mask=mask, other=0.0).to(tl.float32)
    first = first * keep_first + gradient * take_first
    second = second * keep_second + gradient * gradient * take_second
    value -= step_size * first / (tl.sqrt_rn(second) / root + eps)
    tl.store(exp_avg + there, first, mask=mask)
    tl.store(exp_avg_sq + there, second, mask=mask)
    if values.dtype.element_ty == tl.bfloat16:
        value = _rounded(value, row, columns, tl.load(scalars + 3).to(tl.int32))
    tl.store(values + there, value, mask=mask)


def update(
    values: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    gradient: RowGradient,
    step: Tensor,
    factor: Tensor,
    settings: Settings,
    tile: int = 1024,
    warps: int = 4,
) -> None:
    """Updates the rows in place.

    A program has ``tile`` numbers and ``warps`` warps.
    """
    lr, beta1, beta2, eps = settings
    capacity, D = gradient.sums.shape
    number = step.double()  # a small 1 - beta ** step would lose its digits in float32
    step_size, root = lr / (1 - beta1**number), (1 - beta2**number).sqrt()
    scalars = torch.stack([factor.double(), step_size, root, number]).float()
    BD = min(tile, triton.next_power_of_2(D))
    BR = tile // BD
    _update[triton.cdiv(capacity, BR), triton.cdiv(D, BD)](
        values, exp_avg, exp_avg_sq, gradient.rows, gradient.sums.contiguous(), gradient.n_rows, scalars,
        beta1, 1 - beta1, beta2, 1 - beta2, eps, D, BR=BR, BD=BD, num_warps=warps,
    )  # fmt: skip
