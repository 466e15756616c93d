"""The weighted sum of rows in Triton: a program adds up a block of columns for one token, a tile of reads at a time.

The rows are the only traffic that counts: they are loaded once, many at a time, and nothing else is written but sums.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _sum(
    values,
    slots,
    weights,
    out,
    row_stride,
    column_stride,
    D,
    R: tl.constexpr,
    BR: tl.constexpr,
    BD: tl.constexpr,
):
    blocks = tl.cdiv(D, BD)
    token = (tl.program_id(0) // blocks).to(tl.int64)
    columns = tl.program_id(0) % blocks * BD + tl.arange(0, BD)  # the columns of a row follow each other in time
    total = tl.zeros([BD], tl.float32)
    for first in range(0, R, BR):
        reads = first + tl.arange(0, BR)
        slot = tl.load(slots + token * R + reads, mask=reads < R, other=0)
        weight = tl.load(weights + token * R + reads, mask=reads < R, other=0.0).to(tl.float32)
        rows = tl.load(
            values + slot[:, None] * row_stride + columns[None, :] * column_stride,
            mask=(reads < R)[:, None] & (columns < D)[None, :],
            other=0.0,
        )
        total += tl.sum(rows.to(tl.float32) * weight[:, None], axis=0)
    tl.store(out + token * D + columns, total.to(out.dtype.element_ty), mask=columns < D)


def weighted_lookup(
    values: Tensor,
    slots: Tensor,
    weights: Tensor,
    dtype: torch.dtype,
    reads: int = 32,
    row_bytes: int = 512,
    warps: int = 1,
) -> Tensor:
    """Returns the weighted sums [N, d] of ``dtype`` for ``slots`` and ``weights`` [N, R].

    Args:
        values: The table, [S, d], of any strides: with the memory off they are zero.
        slots: Rows to read.
        weights: Their weights.
        dtype: Of the sums.
        reads: At most so many reads at a time.
        row_bytes: At most so much of a row a program.
        warps: Of a program; with one, it is the many programs that keep the memory busy.
    """
    (N, R), D = slots.shape, values.shape[1]
    up = triton.next_power_of_2
    BR, BD = min(reads, up(R)), min(row_bytes // values.element_size(), up(D))
    out = torch.empty(N, D, dtype=dtype, device=values.device)
    _sum[N * triton.cdiv(D, BD),](
        values, slots, weights, out, *values.stride(), D,
        R=R, BR=BR, BD=BD, num_warps=warps,
    )  # fmt: skip
    return out
