"""The gradients of the selection in Triton.

A query's gradient is a weighted sum of the half keys that it chose. A key's gradient is a matrix product of the scores'
gradients, spread over the keys in registers, with the queries.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _grad_query(grad, slots, keys, grad_query, N, H, C, M, BT: tl.constexpr, BC: tl.constexpr, K: tl.constexpr):
    half = tl.program_id(1)  # of a head: head * 2 + half
    tokens = tl.program_id(0) * BT + tl.arange(0, BT)
    live = tokens < N
    columns = tl.arange(0, BC)
    mask = live[:, None] & (columns < C)[None, :]
    place = tokens.to(tl.int64) * (2 * H) + half
    table = keys + half.to(tl.int64) * M * C
    reads = (tokens.to(tl.int64) * H + half // 2) * K
    total = tl.zeros([BT, BC], tl.float32)
    for rank in tl.static_range(K):
        slot = tl.load(slots + reads + rank, mask=live, other=0).to(tl.int32)
        key = tl.where(half % 2 == 0, slot // M, slot % M)
        weight = tl.load(grad + reads + rank, mask=live, other=0.0)
        row = tl.load(table + key[:, None] * C + columns[None, :], mask=mask, other=0.0)
        total += weight[:, None] * row
    tl.store(grad_query + place[:, None] * C + columns[None, :], total.to(grad_query.dtype.element_ty), mask=mask)


@triton.jit
def _grad_keys(
    grad,
    slots,
    query,
    partial,
    N,
    H,
    C,
    M,
    TILES: tl.constexpr,
    BT: tl.constexpr,
    BC: tl.constexpr,
    BM: tl.constexpr,
    K: tl.constexpr,
):
    """Sums over one share of the tokens; the shares are added afterwards in a fixed order, so every run agrees."""
    share, half = tl.program_id(0), tl.program_id(1)
    numbers = tl.program_id(2) * BM + tl.arange(0, BM)
    columns = tl.arange(0, BC)
    total = tl.zeros([BM, BC], tl.float32)
    for tile in range(TILES):
        tokens = (share * TILES + tile) * BT + tl.arange(0, BT)
        live = tokens < N
        place = tokens.to(tl.int64) * (2 * H) + half
        reads = (tokens.to(tl.int64) * H + half // 2) * K
        spread = tl.zeros([BM, BT], tl.float32)
        for rank in tl.static_range(K):
            slot = tl.load(slots + reads + rank, mask=live, other=0).to(tl.int32)
            key = tl.where(half % 2 == 0, slot // M, slot % M)
            weight = tl.load(grad + reads + rank, mask=live, other=0.0)
            # One slot's halves are chosen by several slots of a token, so the weights add up.
            spread += tl.where(numbers[:, None] == key[None, :], weight[None, :], 0.0)
        mask = live[:, None] & (columns < C)[None, :]
        rows = tl.load(query + place[:, None] * C + columns[None, :], mask=mask, other=0.0)
        total += tl.dot(spread.to(rows.dtype), rows)
    out = partial + ((share * 2 * H + half).to(tl.int64) * M + numbers)[:, None] * C + columns[None, :]
    tl.store(out, total, mask=(numbers < M)[:, None] & (columns < C)[None, :])


def backward(
    grad: Tensor,
    slots: Tensor,
    query: Tensor,
    keys: Tensor,
    block: int = 64,
    keys_block: int = 128,
    warps: int = 4,
    shares: int = 64,
    q_block: int = 32,
    q_warps: int = 4,
) -> tuple[Tensor, Tensor]:
    """Returns the gradients of queries and keys."""
    N, H, _, C = query.shape
    M, K = keys.shape[2], slots.shape[-1]
    up = triton.next_power_of_2
    BC = max(16, up(C))
    grad_query = query.new_empty(query.shape)
    _grad_query[triton.cdiv(N, q_block), H * 2](
        grad, slots, keys, grad_query, N, H, C, M, BT=q_block, BC=BC, K=K, num_warps=q_warps
    )
    tiles = triton.cdiv(N, block)
    shares = min(shares, tiles)
    BM = min(keys_block, max(16, up(M)))
    partial = torch.empty(shares, H, 2, M, C, dtype=torch.float32, device=query.device)
    _grad_keys[shares, H * 2, triton.cdiv(M, BM)](
        grad, slots, query, partial, N, H, C, M,
        TILES=triton.cdiv(tiles, shares), BT=block, BC=BC, BM=BM, K=K, num_warps=warps,
    )  # fmt: skip
    return grad_query, partial.sum(0).to(keys.dtype)
