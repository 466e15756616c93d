"""The gradients of the selection in Triton where there are few half keys, deterministic.

The best slots of a token share half keys, so the first kernel adds up the gradients of each half key that it chose. A
query's gradient is then a weighted sum of the chosen half keys. A key's gradient is a matrix product: for a tile of
tokens and a block of half keys, the weights are written into a matrix of the program's own, mostly zeros, which stays
in the cache and is read back as an operand.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from memlm.kernels.product_key_select.fast import load_tile


@triton.jit
def half_key(slots, row, M: tl.constexpr):
    """Returns what a query ``(token * H + head) * 2 + half`` chose of its half keys."""
    return tl.where(row % 2 == 0, slots // M, slots % M).to(tl.int32)


@triton.jit
def merged(grad, slots, row, live, M: tl.constexpr, BR: tl.constexpr, K: tl.constexpr, KP: tl.constexpr):
    """Returns what BR queries ``row`` chose, by rank, [BR, KP]: half keys, the sums of their gradients, whether again.

    A half key that comes again has the same sum each time.
    """
    ranks = tl.arange(0, KP)
    mask = live[:, None] & (ranks < K)[None, :]
    reads = (row // 2).to(tl.int64) * K
    key = half_key(tl.load(slots + reads[:, None] + ranks[None, :], mask=mask, other=0), row[:, None], M)
    total = tl.zeros([BR, KP], tl.float32)
    again = tl.zeros([BR, KP], tl.int1)
    for other in tl.static_range(K):
        other_key = half_key(tl.load(slots + reads + other, mask=live, other=0), row, M)
        gradient = tl.load(grad + reads + other, mask=live, other=0.0)
        same = key == other_key[:, None]
        total += tl.where(same, gradient[:, None], 0.0)
        again |= same & (ranks > other)[None, :]
    return key, total, again


@triton.jit
def _merge_reads(
    grad, slots, chosen, weights, rows, M: tl.constexpr, BR: tl.constexpr, K: tl.constexpr, KP: tl.constexpr
):
    """Writes the half keys that each query chose, -1 where one comes again, and the sums of their gradients."""
    row = tl.program_id(0) * BR + tl.arange(0, BR)
    ranks = tl.arange(0, KP)
    live = row < rows
    mask = live[:, None] & (ranks < K)[None, :]
    key, total, again = merged(grad, slots, row, live, M, BR, K, KP)
    out = row.to(tl.int64)[:, None] * K + ranks[None, :]
    tl.store(chosen + out, tl.where(again, -1, key), mask=mask)
    tl.store(weights + out, total, mask=mask)


@triton.jit
def _grad_query(
    chosen, weights, keys, grad_query, N, H, M, C: tl.constexpr, BT: tl.constexpr, BC: tl.constexpr, K: tl.constexpr
):
    half = tl.program_id(1)  # of a head: head * 2 + half
    tokens = tl.program_id(0) * BT + tl.arange(0, BT)
    live = tokens < N
    columns = tl.arange(0, BC)
    place = tokens.to(tl.int64) * (2 * H) + half
    table = keys + half.to(tl.int64) * M * C
    total = tl.zeros([BT, BC], tl.float32)
    for rank in tl.static_range(K):
        key = tl.load(chosen + place * K + rank, mask=live, other=-1)
        weight = tl.load(weights + place * K + rank, mask=live, other=0.0)
        # A sum may be infinite where the key comes again, and its row is then zeros: no product must come of it.
        weight = tl.where(key >= 0, weight, 0.0)
        total += weight[:, None] * load_tile(table, key, key >= 0, C, C, BC)
    mask = live[:, None] & (columns < C)[None, :]
    tl.store(grad_query + place[:, None] * C + columns[None, :], total.to(grad_query.dtype.element_ty), mask=mask)


@triton.jit
def _grad_keys(
    chosen,
    weights,
    query,
    scratch,
    partial,
    N,
    H,
    M,
    C: tl.constexpr,
    TILES: tl.constexpr,
    BT: tl.constexpr,
    BC: tl.constexpr,
    BM: tl.constexpr,
    K: tl.constexpr,
    KP: tl.constexpr,
):
    """Sums over one share of the tokens; the shares are added afterwards in a fixed order, so every run agrees."""
    share, half, block = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    numbers = tl.arange(0, BM)
    columns = tl.arange(0, BC)
    ranks = tl.arange(0, KP)
    spread = scratch + ((share * 2 * H + half) * tl.num_programs(2) + block).to(tl.int64) * (BT * BM)
    spread += (tl.arange(0, BT) * BM)[:, None]
    total = tl.zeros([BM, BC], tl.float32)
    for tile in range(TILES):
        tokens = (share * TILES + tile) * BT + tl.arange(0, BT)
        live = tokens < N
        place = tokens.to(tl.int64) * (2 * H) + half
        mask = live[:, None] & (ranks < K)[None, :]
        reads = place[:, None] * K + ranks[None, :]
        key = tl.load(chosen + reads, mask=mask, other=-1) - block * BM
        weight = tl.load(weights + reads, mask=mask, other=0.0)
        queries = load_tile(query, place, live, C, C, BC)  # asked for early, to come while the operand is made
        tl.store(spread + numbers[None, :], tl.zeros([BT, BM], query.dtype.element_ty))
        tl.debug_barrier()
        tl.store(spread + key, weight.to(query.dtype.element_ty), mask=(key >= 0) & (key < BM))
        tl.debug_barrier()
        operand = tl.load(spread + numbers[None, :])
        total += tl.dot(tl.trans(operand), queries)
        tl.debug_barrier()
    numbers += block * BM
    out = partial + ((share * 2 * H + half).to(tl.int64) * M + numbers)[:, None] * C + columns[None, :]
    tl.store(out, total, mask=(numbers < M)[:, None] & (columns < C)[None, :])


def backward(
    grad: Tensor,
    slots: Tensor,
    query: Tensor,
    keys: Tensor,
    block: int = 128,
    keys_block: int = 128,
    warps: int = 8,
    programs: int = 264,
    q_warps: int = 4,
) -> tuple[Tensor, Tensor]:
    """Returns the gradients of queries and keys."""
    N, H, _, C = query.shape
    M, K = keys.shape[2], slots.shape[-1]
    up = triton.next_power_of_2
    BC, KP = max(16, up(C)), max(4, up(K))
    chosen = torch.empty(N, H, 2, K, dtype=torch.int32, device=query.device)
    weights = torch.empty(N, H, 2, K, dtype=torch.float32, device=query.device)
    BR = max(1, 256 // KP)
    _merge_reads[(triton.cdiv(2 * N * H, BR),)](grad, slots, chosen, weights, 2 * N * H, M=M, BR=BR, K=K, KP=KP)
    grad_query = query.new_empty(query.shape)
    q_block = max(1, 256 * q_warps // BC)  # a thread loads 8 elements of a row
    _grad_query[triton.cdiv(N, q_block), H * 2](
        chosen, weights, keys, grad_query, N, H, M, C=C, BT=q_block, BC=BC, K=K, num_warps=q_warps
    )
    BM = min(keys_block, max(16, up(M)))
    blocks, tiles = triton.cdiv(M, BM), triton.cdiv(N, block)
    shares = max(1, min(tiles, programs // (2 * H * blocks)))
    scratch = torch.empty(shares * 2 * H * blocks, block, BM, dtype=query.dtype, device=query.device)
    partial = torch.empty(shares, H, 2, M, C, dtype=torch.float32, device=query.device)
    # One stage: what is read back must not be read ahead.
    _grad_keys[shares, H * 2, blocks](
        chosen, weights, query, scratch, partial, N, H, M,
        C=C, TILES=triton.cdiv(tiles, shares), BT=block, BC=BC, BM=BM, K=K, KP=KP, num_warps=warps, num_stages=1,
    )  # fmt: skip
    return grad_query, partial.sum(0).to(keys.dtype)
