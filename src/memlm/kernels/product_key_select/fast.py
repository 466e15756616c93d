"""Product-key selection in Triton: half scores are used where they are computed and never stored.

Forward: a program takes a tile of tokens of one head, multiplies each half of the queries with all half keys, draws the
K best of each half by K rounds of a maximum, adds the pairs that can win and draws the K best of those. A half score
and its key travel as one integer (score bits above, key below), so a round is one maximum and one comparison.

Backward: a query's gradient is a weighted sum of the half keys that it chose. A key's gradient is a matrix product of
the scores' gradients, spread over the keys in registers, with the queries.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _order(bits):
    """Maps the bits of floats to integers in the same order, and back."""
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@triton.jit
def _half_best(query, keys, rows, live, C, M, BC: tl.constexpr, BM: tl.constexpr, K: tl.constexpr, KP: tl.constexpr):
    """Returns the K best scores of one half and their keys, both [BT, KP], in descending order."""
    columns = tl.arange(0, BC)
    numbers = tl.arange(0, BM)
    queries = tl.load(query + rows[:, None] + columns[None, :], mask=live[:, None] & (columns < C)[None, :], other=0.0)
    half_keys = tl.load(
        keys + numbers[:, None] * C + columns[None, :], mask=(numbers < M)[:, None] & (columns < C)[None, :], other=0.0
    )
    scores = tl.dot(queries, tl.trans(half_keys)) + 0.0  # adding zero turns -0.0 into 0.0, which must tie with it
    packed = _order(scores.to(tl.int32, bitcast=True)) & -BM | (BM - 1 - numbers)[None, :]
    packed = tl.where((numbers < M)[None, :], packed, -2147483648)
    ranks = tl.arange(0, KP)
    best = tl.zeros([scores.shape[0], KP], tl.int32)
    for rank in tl.static_range(K):
        top = tl.max(packed, axis=1)
        best = tl.where((ranks == rank)[None, :], top[:, None], best)
        packed = tl.where(packed == top[:, None], -2147483648, packed)
    which = BM - 1 - (best & (BM - 1))
    return _order(best & -BM).to(tl.float32, bitcast=True), which


@triton.jit
def _select(
    query,
    keys,
    first,
    second,
    slots,
    best,
    N,
    H,
    C,
    M,
    P,
    BT: tl.constexpr,
    BC: tl.constexpr,
    BM: tl.constexpr,
    K: tl.constexpr,
    KP: tl.constexpr,
    PP: tl.constexpr,
):
    head = tl.program_id(1)
    tokens = tl.program_id(0) * BT + tl.arange(0, BT)
    live = tokens < N
    place = tokens.to(tl.int64) * H + head
    table = keys + head.to(tl.int64) * 2 * M * C
    score_a, key_a = _half_best(query, table, place * 2 * C, live, C, M, BC, BM, K, KP)
    score_b, key_b = _half_best(query, table + M * C, place * 2 * C + C, live, C, M, BC, BM, K, KP)

    pairs = tl.arange(0, PP)
    i = tl.broadcast_to(tl.load(first + pairs, mask=pairs < P, other=0)[None, :], [BT, PP])
    j = tl.broadcast_to(tl.load(second + pairs, mask=pairs < P, other=0)[None, :], [BT, PP])
    sums = tl.gather(score_a, i, 1) + tl.gather(score_b, j, 1)
    sums = tl.where((pairs < P)[None, :], sums, -float("inf"))
    places = tl.gather(key_a, i, 1) * M + tl.gather(key_b, j, 1)
    ranks = tl.arange(0, KP)
    out_scores = tl.zeros([BT, KP], tl.float32)
    out_slots = tl.zeros([BT, KP], tl.int32)
    for rank in tl.static_range(K):
        top = tl.max(sums, axis=1)
        # Of the pairs that are equal the lowest slot; if no pair equals the maximum, it is not a number.
        slot = tl.min(tl.where(sums == top[:, None], places, M * M - 1), axis=1)
        out_scores = tl.where((ranks == rank)[None, :], top[:, None], out_scores)
        out_slots = tl.where((ranks == rank)[None, :], slot[:, None], out_slots)
        sums = tl.where(places == slot[:, None], -float("inf"), sums)
    mask = live[:, None] & (ranks < K)[None, :]
    out = place[:, None] * K + ranks[None, :]
    tl.store(slots + out, out_slots.to(tl.int64), mask=mask)
    tl.store(best + out, out_scores, mask=mask)


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


def select(
    query: Tensor, keys: Tensor, pairs: tuple[Tensor, Tensor], top_k: int, block: int = 64, warps: int = 8
) -> tuple[Tensor, Tensor]:
    """Returns slots and scores [N, H, K]; ``pairs`` are the pairs of ranks that can win, [P] int32 each."""
    N, H, _, C = query.shape
    M, P = keys.shape[2], len(pairs[0])
    slots = torch.empty(N, H, top_k, dtype=torch.int64, device=query.device)
    scores = torch.empty(N, H, top_k, dtype=torch.float32, device=query.device)
    up = triton.next_power_of_2
    _select[triton.cdiv(N, block), H](
        query, keys, *pairs, slots, scores, N, H, C, M, P,
        BT=block, BC=max(16, up(C)), BM=max(16, up(M)), K=top_k, KP=max(4, up(top_k)), PP=max(8, up(P)),
        num_warps=warps,
    )  # fmt: skip
    return slots, scores


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
