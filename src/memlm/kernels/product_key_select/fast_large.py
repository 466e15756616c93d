"""The selection's first half for many keys: the best groups of keys first, and then the best keys of those groups.

A group is `GROUP` keys side by side. A half score among the best K has a group whose largest half score is among the
best K of those: else K other groups would each hold a better one. So a token's best keys come from exactly K groups,
whatever its scores are, and no list has to be searched that could be longer.

The first kernel is a matrix product that stores all half scores, and the largest of each group. In the second a thread
has a token to itself and sorts in its registers: the largest scores of all groups, then the scores of the best groups.
Scores are stored for as many tokens at a time as `STORED` allows.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from memlm.kernels.product_key_select.fast_combine import combine
from memlm.kernels.product_key_select.fast_network import NO_KEY, add_rising, best_rising, concat, order

GROUP = tl.constexpr(8)
"""Keys of a group: their scores are the 32 bytes that memory is read by."""
STORED = 1 << 26
"""Most half scores stored at a time, 256 MiB of them."""


@triton.jit(do_not_specialize=["n"])
def _score(
    query,
    keys,
    scores,
    maxima,
    n,
    H,
    M,
    GROUPS: tl.constexpr,
    C: tl.constexpr,
    BT: tl.constexpr,
    BN: tl.constexpr,
    BC: tl.constexpr,
):
    """Stores a tile of half scores, minus infinity beyond the last key, and the largest of each group."""
    half = tl.program_id(2)  # of a head: head * 2 + half
    tokens = tl.program_id(1) * BT + tl.arange(0, BT)
    numbers = tl.program_id(0) * BN + tl.arange(0, BN)
    queries = query + tokens.to(tl.int64)[:, None] * (2 * H * C) + half * C
    table = keys + (half * M + numbers).to(tl.int64)[:, None] * C
    total = tl.zeros([BT, BN], tl.float32)
    for start in range(0, C, BC):
        columns = start + tl.arange(0, BC)[None, :]
        inside = (columns < C) | (C % BC == 0)
        left = tl.load(queries + columns, mask=(tokens < n)[:, None] & inside, other=0.0)
        right = tl.load(table + columns, mask=(numbers < M)[:, None] & inside, other=0.0)
        total = tl.dot(left, tl.trans(right), total)
    total += 0.0  # which turns -0.0 into 0.0, which must tie with it
    total = tl.where((numbers < M)[None, :], total, -float("inf"))
    live = (tokens < n)[:, None]
    rows = (half * n + tokens).to(tl.int64)[:, None] * (GROUPS * GROUP)
    tl.store(scores + rows + numbers[None, :], total, mask=live & (numbers < GROUPS * GROUP)[None, :])
    largest = tl.max(tl.reshape(total, [BT, BN // GROUP, GROUP]), axis=2)
    groups = tl.program_id(0) * (BN // GROUP) + tl.arange(0, BN // GROUP)
    at = (half * GROUPS + groups).to(tl.int64)[None, :] * n + tokens[:, None]
    tl.store(maxima + at, largest, mask=live & (groups < GROUPS)[None, :])


@triton.jit
def _packed(scores, numbers, BM: tl.constexpr):
    """Makes integers of scores and their numbers, which are below BM: the best is largest, ties go to the lowest."""
    return order(scores.to(tl.int32, bitcast=True)) & -BM | (BM - 1 - numbers)


@triton.jit
def _best_groups(maxima, tokens, live, n, GROUPS: tl.constexpr, BM: tl.constexpr, LEVELS: tl.constexpr):
    """Returns the groups with the largest scores, packed, [BT, KP] in falling order."""
    KP: tl.constexpr = 1 << LEVELS
    best = tl.full([tokens.shape[0], KP], NO_KEY, tl.int32)
    for start in range(0, GROUPS, KP):
        groups = start + tl.arange(0, KP)[None, :]
        there = live[:, None] & (groups < GROUPS)
        found = tl.load(maxima + groups.to(tl.int64) * n + tokens[:, None], mask=there, other=0.0)
        best = add_rising(best, best_rising(tl.where(there, _packed(found, groups, BM), NO_KEY), LEVELS), LEVELS)
    return best


@triton.jit
def _keys_of(scores, group, GROUPS: tl.constexpr, START: tl.constexpr, BM: tl.constexpr):
    """Returns half of a group's keys of each token, packed, [BT, 4], by one load a thread."""
    numbers = group[:, None] * GROUP + START + tl.arange(0, 4)[None, :]
    there = (group < GROUPS)[:, None]
    found = tl.load(scores[:, None] + numbers, mask=there, other=0.0)
    return tl.where(there, _packed(found, numbers, BM), NO_KEY)


@triton.jit(do_not_specialize=["n", "N"])
def _best_keys(
    scores,
    maxima,
    chosen,
    lists,
    n,
    N,
    GROUPS: tl.constexpr,
    BT: tl.constexpr,
    BM: tl.constexpr,
    LEVELS: tl.constexpr,
):
    KP: tl.constexpr = 1 << LEVELS
    half = tl.program_id(1)
    tokens = tl.program_id(0) * BT + tl.arange(0, BT)
    live = tokens < n
    ranks = tl.arange(0, KP)
    groups = _best_groups(maxima + half.to(tl.int64) * GROUPS * n, tokens, live, n, GROUPS, BM, LEVELS)
    # Written, and read again one by one: registers cannot be numbered at run time.
    chosen += half.to(tl.int64) * KP * n
    tl.store(chosen + ranks.to(tl.int64)[None, :] * n + tokens[:, None], BM - 1 - (groups & (BM - 1)), live[:, None])
    tl.debug_barrier()
    scores += (half * n + tokens).to(tl.int64) * (GROUPS * GROUP)
    best = tl.full([BT, KP], NO_KEY, tl.int32)
    for start in range(0, KP, KP // GROUP):
        parts = ()
        for i in tl.static_range(KP // GROUP):
            group = tl.load(chosen + (start + i) * tl.cast(n, tl.int64) + tokens, mask=live, other=GROUPS)
            parts = parts + (_keys_of(scores, group, GROUPS, 0, BM), _keys_of(scores, group, GROUPS, 4, BM))
        for _ in tl.static_range(LEVELS - 2):
            joined = ()
            for i in tl.static_range(len(parts) // 2):
                joined = joined + (concat(parts[2 * i], parts[2 * i + 1]),)
            parts = joined
        best = add_rising(best, best_rising(parts[0], LEVELS), LEVELS)
    at = lists + (half * KP + ranks).to(tl.int64)[None, :] * N + tokens[:, None]
    tl.store(at, best, mask=live[:, None])


def select(
    query: Tensor,
    keys: Tensor,
    top_k: int,
    block: int = 128,
    keys_block: int = 128,
    warps: int = 8,
    stages: int = 3,
    sort_warps: int = 2,
) -> tuple[Tensor, Tensor]:
    """Returns slots and scores [N, H, K]."""
    N, H, _, C = query.shape
    M = keys.shape[2]
    up = triton.next_power_of_2
    KP = max(GROUP.value, up(top_k))
    BM = max(16, up(M))
    BN = min(keys_block, BM)
    groups = triton.cdiv(M, GROUP.value)
    n = min(N, max(1, STORED // (2 * H * groups * GROUP.value)))
    scores = torch.empty(2 * H * n * groups * GROUP.value, dtype=torch.float32, device=query.device)
    maxima = torch.empty(2 * H * n * groups, dtype=torch.float32, device=query.device)
    chosen = torch.empty(2 * H * n * KP, dtype=torch.int32, device=query.device)
    lists = torch.empty(H, 2, 1, KP, N, dtype=torch.int32, device=query.device)
    for part in range(0, N, n):
        n_tokens = min(n, N - part)
        _score[triton.cdiv(M, BN), triton.cdiv(n_tokens, block), 2 * H](
            query[part:], keys, scores, maxima, n_tokens, H, M,
            GROUPS=groups, C=C, BT=block, BN=BN, BC=min(64, max(16, up(C))), num_warps=warps, num_stages=stages,
        )  # fmt: skip
        _best_keys[triton.cdiv(n_tokens, 32 * sort_warps), 2 * H](
            scores, maxima, chosen, lists[..., part:], n_tokens, N,
            GROUPS=groups, BT=32 * sort_warps, BM=BM, LEVELS=KP.bit_length() - 1, num_warps=sort_warps,
        )  # fmt: skip
    return combine(lists, M, top_k)
