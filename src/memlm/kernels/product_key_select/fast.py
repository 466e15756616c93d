"""Product-key selection in Triton: the half scores are used where they are computed and never stored.

One program takes a tile of tokens of one head. It multiplies each half of the queries with all half keys, draws the K
best of each half by K rounds of a maximum, adds the pairs that can win, and draws the K best of those. Ties go to the
lowest slot, as in the reference. The work is O(M) for each token and round, so K and M are bounded; see `fits`.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

MAX_KEYS = 512
MAX_TOP_K = 16
MAX_HALF = 256
LOWEST = float("-inf")


def fits(n_keys: int, top_k: int, half: int) -> bool:
    """Returns whether the kernel is made for these sizes."""
    return n_keys <= MAX_KEYS and top_k <= MAX_TOP_K and half <= MAX_HALF


@triton.jit
def _half_best(query, keys, rows, live, C, M, BC: tl.constexpr, BM: tl.constexpr, K: tl.constexpr, KP: tl.constexpr,
               PRECISION: tl.constexpr):
    """Returns the K best scores of one half and their keys, both [BT, KP], in descending order."""
    columns = tl.arange(0, BC)
    queries = tl.load(query + rows[:, None] + columns[None, :], mask=live[:, None] & (columns < C)[None, :], other=0.0)
    numbers = tl.arange(0, BM)
    half_keys = tl.load(
        keys + numbers[:, None] * C + columns[None, :], mask=(numbers < M)[:, None] & (columns < C)[None, :], other=0.0
    )
    scores = tl.dot(queries, tl.trans(half_keys), input_precision=PRECISION)  # [BT, BM]
    scores = tl.where((numbers < M)[None, :], scores, -float("inf"))
    ranks = tl.arange(0, KP)
    best = tl.full([scores.shape[0], KP], -float("inf"), tl.float32)
    which = tl.zeros([scores.shape[0], KP], tl.int32)
    for rank in tl.static_range(K):
        top, key = tl.max(scores, axis=1, return_indices=True, return_indices_tie_break_left=True)
        best = tl.where((ranks == rank)[None, :], top[:, None], best)
        which = tl.where((ranks == rank)[None, :], key[:, None], which)
        scores = tl.where(numbers[None, :] == key[:, None], -float("inf"), scores)
    return best, tl.minimum(which, M - 1)  # scores that are not numbers must not lead out of the table


@triton.jit
def _select(query, keys, first, second, slots, best, N, H, C, M, P, BT: tl.constexpr, BC: tl.constexpr,
            BM: tl.constexpr, K: tl.constexpr, KP: tl.constexpr, PP: tl.constexpr, PRECISION: tl.constexpr):
    head = tl.program_id(1)
    tokens = tl.program_id(0) * BT + tl.arange(0, BT)
    live = tokens < N
    rows = (tokens.to(tl.int64) * H + head) * 2 * C
    table = keys + head.to(tl.int64) * 2 * M * C
    score_a, key_a = _half_best(query, table, rows, live, C, M, BC, BM, K, KP, PRECISION)
    score_b, key_b = _half_best(query + C, table + M * C, rows, live, C, M, BC, BM, K, KP, PRECISION)

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
        slot = tl.min(tl.where(sums == top[:, None], places, 2147483647), axis=1)
        out_scores = tl.where((ranks == rank)[None, :], top[:, None], out_scores)
        out_slots = tl.where((ranks == rank)[None, :], slot[:, None], out_slots)
        sums = tl.where(places == slot[:, None], -float("inf"), sums)
    out_slots = tl.minimum(out_slots, M * M - 1)
    place = (tokens.to(tl.int64) * H + head)[:, None] * K + ranks[None, :]
    mask = live[:, None] & (ranks < K)[None, :]
    tl.store(slots + place, out_slots.to(tl.int64), mask=mask)
    tl.store(best + place, out_scores, mask=mask)


@triton.jit
def _grad_query(grad, slots, keys, grad_query, N, H, C, M, BT: tl.constexpr, BC: tl.constexpr,
                K: tl.constexpr):
    """A query's gradient is the sum of the half keys that it chose, each times its score's gradient."""
    head, part = tl.program_id(1) // 2, tl.program_id(1) % 2
    tokens = tl.program_id(0) * BT + tl.arange(0, BT)
    live = tokens < N
    columns = tl.arange(0, BC)
    place = tokens.to(tl.int64) * H + head
    table = keys + (head * 2 + part).to(tl.int64) * M * C
    total = tl.zeros([BT, BC], tl.float32)
    for rank in tl.static_range(K):
        slot = tl.load(slots + place * K + rank, mask=live, other=0)
        key = tl.where(part == 0, slot // M, slot % M)
        weight = tl.load(grad + place * K + rank, mask=live, other=0.0)
        mask = live[:, None] & (columns < C)[None, :]
        total += weight[:, None] * tl.load(table + key[:, None] * C + columns[None, :], mask=mask, other=0.0)
    out = grad_query + (place * 2 + part)[:, None] * C + columns[None, :]
    tl.store(out, total.to(grad_query.dtype.element_ty), mask=live[:, None] & (columns < C)[None, :])


@triton.jit
def _grad_keys(grad, slots, query, partial, N, H, C, M, TILES: tl.constexpr, BT: tl.constexpr, BC: tl.constexpr, BM: tl.constexpr,
               K: tl.constexpr, PRECISION: tl.constexpr):
    """Sums over one share of the tokens; the shares are added afterwards in a fixed order, so every run agrees."""
    share, head, part = tl.program_id(0), tl.program_id(1) // 2, tl.program_id(1) % 2
    numbers = tl.program_id(2) * BM + tl.arange(0, BM)
    columns = tl.arange(0, BC)
    total = tl.zeros([BM, BC], tl.float32)
    for tile in range(TILES):
        tokens = (share * TILES + tile) * BT + tl.arange(0, BT)
        live = tokens < N
        place = tokens.to(tl.int64) * H + head
        spread = tl.zeros([BT, BM], tl.float32)
        for rank in tl.static_range(K):
            slot = tl.load(slots + place * K + rank, mask=live, other=0)
            key = tl.where(part == 0, slot // M, slot % M)
            weight = tl.load(grad + place * K + rank, mask=live, other=0.0)
            spread += tl.where(numbers[None, :] == key[:, None], weight[:, None], 0.0)
        mask = live[:, None] & (columns < C)[None, :]
        rows = tl.load(query + (place * 2 + part)[:, None] * C + columns[None, :], mask=mask, other=0.0)
        total += tl.dot(tl.trans(spread).to(rows.dtype), rows, input_precision=PRECISION)
    out = partial + (((share * H + head) * 2 + part).to(tl.int64) * M + numbers)[:, None] * C + columns[None, :]
    tl.store(out, total, mask=(numbers < M)[:, None] & (columns < C)[None, :])


def _precision(dtype: torch.dtype) -> str:
    # tf32 alone would let rounding choose among slots; three products of it are as good as float32.
    return "tf32x3" if dtype == torch.float32 else "ieee"


def select(query: Tensor, keys: Tensor, pairs: tuple[Tensor, Tensor], top_k: int, block: int = 32,
           warps: int = 4) -> tuple[Tensor, Tensor]:
    """Selects the best slots; see the reference. ``pairs`` are the pairs of ranks that can win, int32."""
    N, H, _, C = query.shape
    M = keys.shape[2]
    slots = torch.empty(N, H, top_k, dtype=torch.int64, device=query.device)
    scores = torch.empty(N, H, top_k, dtype=torch.float32, device=query.device)
    up = triton.next_power_of_2
    _select[(triton.cdiv(N, block), H)](
        query, keys, *pairs, slots, scores, N, H, C, M, len(pairs[0]),
        BT=block, BC=max(16, up(C)), BM=max(16, up(M)), K=top_k, KP=up(top_k), PP=up(len(pairs[0])),
        PRECISION=_precision(query.dtype), num_warps=warps,
    )
    return slots, scores


def backward(grad: Tensor, slots: Tensor, query: Tensor, keys: Tensor, block: int = 64, keys_block: int = 128,
             warps: int = 4, shares: int = 64) -> tuple[Tensor, Tensor]:
    """Returns the gradients of queries and keys."""
    N, H, _, C = query.shape
    M, K = keys.shape[2], slots.shape[-1]
    up = triton.next_power_of_2
    BC = max(16, up(C))
    grad_query = torch.empty_like(query)
    _grad_query[(triton.cdiv(N, 32), H * 2)](grad, slots, keys, grad_query, N, H, C, M, BT=32, BC=BC, K=K)
    tiles = triton.cdiv(N, block)
    shares = min(shares, tiles)
    per_share = triton.cdiv(tiles, shares)
    BM = min(keys_block, max(16, up(M)))
    partial = torch.empty(shares, H, 2, M, C, dtype=torch.float32, device=query.device)
    _grad_keys[(shares, H * 2, triton.cdiv(M, BM))](
        grad, slots, query, partial, N, H, C, M, per_share,
        BT=block, BC=BC, BM=BM, K=K, PRECISION=_precision(query.dtype), num_warps=warps,
    )
    return grad_query, partial.sum(0).to(keys.dtype)
