"""Reading rows of a table in Triton, with a deterministic backward.

Backward: reads are sorted by row. A program takes a chunk of them, and one small matrix product with the matrix of
"same row" sums the reads of each row. A row that lies in one chunk is written at once; what a chunk has of a row that
goes on in the next is set aside and added by a second kernel, so a hot row is summed by many programs and the order of
additions is always the same. The gradient of a read's weight needs the same two rows and is taken in the same pass.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

CHUNK = 32
COLUMNS = 128


@triton.jit
def _weighted_sum(values, slots, weights, out, D: tl.constexpr, R: tl.constexpr, BR: tl.constexpr, BD: tl.constexpr):
    token = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BD + tl.arange(0, BD)
    total = tl.zeros([BD], tl.float32)
    for begin in range(0, R, BR):
        reads = begin + tl.arange(0, BR)
        live = reads < R
        rows = tl.load(slots + token * R + reads, mask=live, other=0)
        weight = tl.load(weights + token * R + reads, mask=live, other=0.0).to(tl.float32)
        mask = live[:, None] & (columns < D)[None, :]
        read = tl.load(values + rows[:, None] * D + columns[None, :], mask=mask, other=0.0).to(tl.float32)
        total += tl.sum(read * weight[:, None], axis=0)
    tl.store(out + token * D + columns, total.to(out.dtype.element_ty), mask=columns < D)


@triton.jit
def _sum_chunks(slots, order, weights, grad, values, grad_values, grad_weights, heads, tails, E, D: tl.constexpr,
                GROUP: tl.constexpr,
                CHUNK: tl.constexpr, BD: tl.constexpr):
    chunk = tl.program_id(0).to(tl.int64)
    begin = chunk * CHUNK
    places = begin + tl.arange(0, CHUNK)
    live = places < E
    rows = tl.load(slots + places, mask=live, other=-1)
    after = tl.load(slots + places + 1, mask=places + 1 < E, other=-1)
    before = tl.load(slots + begin - 1, mask=begin > 0, other=-1)
    reads = tl.load(order + places, mask=live, other=0)
    weight = tl.load(weights + reads, mask=live, other=0.0).to(tl.float32)
    same = ((rows[:, None] == rows[None, :]) & live[None, :]).to(tl.float32)
    is_last = live & ((after != rows) | (places == begin + CHUNK - 1))
    is_head = is_last & (rows == before)
    is_tail = is_last & (rows != before) & (after == rows)
    is_whole = is_last & (rows != before) & (after != rows)
    product = tl.zeros([CHUNK], tl.float32)
    for first in range(0, D, BD):
        columns = first + tl.arange(0, BD)
        inside = (columns < D)[None, :]
        upstream = tl.load(
            grad + (reads // GROUP)[:, None] * D + columns[None, :], mask=live[:, None] & inside, other=0.0
        ).to(tl.float32)
        read = tl.load(values + rows[:, None] * D + columns[None, :], mask=live[:, None] & inside, other=0.0)
        product += tl.sum(upstream * read.to(tl.float32), axis=1)
        total = tl.dot(same, upstream * weight[:, None], input_precision="tf32x3")
        here = chunk * D + columns[None, :] + tl.zeros([CHUNK, 1], tl.int64)
        tl.store(heads + here, total, mask=is_head[:, None] & inside)
        tl.store(tails + here, total, mask=is_tail[:, None] & inside)
        tl.store(grad_values + rows[:, None] * D + columns[None, :], total, mask=is_whole[:, None] & inside)
    tl.store(grad_weights + reads, product, mask=live)


@triton.jit
def _join_chunks(slots, grad_values, heads, tails, E, D: tl.constexpr, CHUNK: tl.constexpr, BD: tl.constexpr):
    """Adds up a row that begins in this chunk and goes on in later ones."""
    chunk = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BD + tl.arange(0, BD)
    inside = columns < D
    border = (chunk + 1) * CHUNK
    row = tl.load(slots + border - 1, mask=border < E, other=-1)
    after = tl.load(slots + border, mask=border < E, other=-2)
    before = tl.load(slots + border - CHUNK - 1, mask=chunk > 0, other=-3)
    if (row == after) & (row != before):
        total = tl.load(tails + chunk * D + columns, mask=inside, other=0.0)
        later = chunk + 1
        while tl.load(slots + later * CHUNK, mask=later * CHUNK < E, other=-1) == row:
            total += tl.load(heads + later * D + columns, mask=inside, other=0.0)
            later += 1
        tl.store(grad_values + row * D + columns, total, mask=inside)


def weighted_sum(values: Tensor, slots: Tensor, weights: Tensor, block: int = 16, warps: int = 4) -> Tensor:
    """Sums the rows ``slots`` [N, R] of ``values`` [S, D] by ``weights`` [N, R]: [N, D]."""
    N, R = slots.shape
    D = values.shape[1]
    out = torch.empty(N, D, dtype=values.dtype, device=values.device)
    BD = min(1024, max(16, triton.next_power_of_2(D)))
    _weighted_sum[(N, triton.cdiv(D, BD))](
        values, slots, weights, out, D, R, BR=min(block, triton.next_power_of_2(R)), BD=BD, num_warps=warps
    )
    return out


def backward(grad: Tensor, values: Tensor, slots: Tensor, weights: Tensor, group: int, warps: int = 4,
             chunk: int = CHUNK) -> tuple[Tensor, Tensor]:
    """Returns the gradients of values [S, D] and weights (float32).

    Args:
        grad: Upstream gradient, a row of D for each ``group`` reads.
        values: The table, [S, D].
        slots: Rows that were read, [E] in the order of the reads.
        weights: Their weights, [E].
        group: Reads that share a row of ``grad``: R where they were summed, 1 where they were not.
        warps: Warps of a program.
        chunk: Reads of a program.
    """
    E, D = slots.numel(), values.shape[1]
    ordered, order = slots.sort(stable=True)
    n_chunks = triton.cdiv(E, chunk)
    grad_values = torch.zeros(values.shape, dtype=torch.float32, device=values.device)
    grad_weights = torch.empty(E, dtype=torch.float32, device=values.device)
    heads = torch.empty(n_chunks, D, dtype=torch.float32, device=values.device)
    tails = torch.empty_like(heads)
    BD = min(COLUMNS, max(16, triton.next_power_of_2(D)))
    _sum_chunks[(n_chunks,)](
        ordered, order, weights, grad, values, grad_values, grad_weights, heads, tails, E, D, group,
        CHUNK=chunk, BD=BD, num_warps=warps,
    )
    _join_chunks[(n_chunks, triton.cdiv(D, BD))](ordered, grad_values, heads, tails, E, D, CHUNK=chunk, BD=BD, num_warps=1)
    return grad_values, grad_weights
