"""Hidden state and scaled values side by side in Triton: each number is read once and written once."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _join(
    hidden,
    values,
    slots,
    scales,
    out,
    row_stride,
    column_stride,
    W: tl.constexpr,
    D: tl.constexpr,
    R: tl.constexpr,
    BW: tl.constexpr,
    BR: tl.constexpr,
    BD: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    to = out + token * (W + R * D)
    for first in range(0, W, BW):
        columns = first + tl.arange(0, BW)
        state = tl.load(hidden + token * W + columns, mask=columns < W, other=0.0)
        tl.store(to + columns, state.to(out.dtype.element_ty), mask=columns < W)
    for first in range(0, R, BR):
        reads = first + tl.arange(0, BR)
        slot = tl.load(slots + token * R + reads, mask=reads < R, other=0)
        scale = tl.load(scales + token * R + reads, mask=reads < R, other=0.0).to(tl.float32)
        for begin in range(0, D, BD):
            columns = begin + tl.arange(0, BD)
            mask = (reads < R)[:, None] & (columns < D)[None, :]
            rows = tl.load(values + slot[:, None] * row_stride + columns[None, :] * column_stride, mask=mask, other=0.0)
            scaled = (rows.to(tl.float32) * scale[:, None]).to(out.dtype.element_ty)
            tl.store(to + W + reads[:, None] * D + columns[None, :], scaled, mask=mask)


def gather_joined(
    hidden: Tensor,
    values: Tensor,
    slots: Tensor,
    scales: Tensor,
    dtype: torch.dtype,
    reads: int = 8,
    columns: int = 256,
    warps: int = 2,
) -> Tensor:
    """Returns [N, W + R * d] of ``dtype`` for ``hidden`` [N, W] and ``slots`` and ``scales`` [N, R].

    Args:
        hidden: Hidden states.
        values: The table, [S, d], of any strides: with the memory off they are zero.
        slots: Rows to read.
        scales: What each is multiplied by.
        dtype: Of the result.
        reads: At most so many reads at a time.
        columns: At most so many columns of a row at a time.
        warps: Of a program, which serves one token.
    """
    (N, W), R, D = hidden.shape, slots.shape[1], values.shape[1]
    up = triton.next_power_of_2
    out = torch.empty(N, W + R * D, dtype=dtype, device=values.device)
    _join[N,](
        hidden, values, slots, scales, out, *values.stride(),
        W=W, D=D, R=R, BW=min(1024, up(max(W, 1))), BR=min(reads, up(R)), BD=min(columns, up(D)), num_warps=warps,
    )  # fmt: skip
    return out
