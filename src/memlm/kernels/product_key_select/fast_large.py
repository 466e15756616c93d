"""The selection's first half for many keys: the best groups of keys first, then halves of those, and so on to keys.

A group is `GROUP` keys side by side. A half key among the best K has a group whose largest score is among the K largest
of all groups: else K other groups would each hold a better one. Of those K groups either half is a group again, and so
on, and of the two halves one has the largest score that the whole had. So a token's best keys are found by looking at
all groups once and at K more scores for each halving, whatever its scores are.

The first kernel is a matrix product that stores all half scores, and the largest of each group. In the second a thread
has a token to itself and sorts in its registers. A half score and its key travel as one integer (score bits above, key
below). They are stored for as many tokens at a time as `STORED` allows.
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
    packed,
    maxima,
    n,
    H,
    M,
    GROUPS: tl.constexpr,
    C: tl.constexpr,
    BT: tl.constexpr,
    BN: tl.constexpr,
    BC: tl.constexpr,
    BM: tl.constexpr,
):
    """Stores a tile of packed half scores, and the largest of each group."""
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
    bits = order(total.to(tl.int32, bitcast=True)) & -BM | (BM - 1 - numbers)[None, :]
    bits = tl.where((numbers < M)[None, :], bits, NO_KEY)
    live = (tokens < n)[:, None]
    rows = (half * n + tokens).to(tl.int64)[:, None] * (GROUPS * GROUP)
    tl.store(packed + rows + numbers[None, :], bits, mask=live & (numbers < GROUPS * GROUP)[None, :])
    largest = tl.max(tl.reshape(bits, [BT, BN // GROUP, GROUP]), axis=2)
    groups = tl.program_id(0) * (BN // GROUP) + tl.arange(0, BN // GROUP)
    at = (half * GROUPS + groups).to(tl.int64)[None, :] * n + tokens[:, None]
    tl.store(maxima + at, largest, mask=live & (groups < GROUPS)[None, :])


@triton.jit
def _columns(x):
    """Returns all columns, a tuple of [R]."""
    R: tl.constexpr = x.shape[0]
    parts = (x,)
    for _ in tl.static_range(16):
        if len(parts) < x.shape[1]:
            halves = ()
            for i in tl.static_range(len(parts)):
                pairs = tl.permute(tl.reshape(parts[i], [R, 2, x.shape[1] // len(parts) // 2]), (0, 2, 1))
                halves = halves + tl.split(pairs)
            parts = halves
    columns = ()
    for i in tl.static_range(len(parts)):
        columns = columns + (tl.reshape(parts[i], [R]),)
    return columns


@triton.jit
def _table(columns, LEVELS: tl.constexpr):
    """Makes one tensor of 2**LEVELS columns, in any order."""
    parts = ()
    for i in tl.static_range(len(columns)):
        parts = parts + (tl.reshape(columns[i], [columns[i].shape[0], 1]),)
    for _ in tl.static_range(LEVELS):
        joined = ()
        for i in tl.static_range(len(parts) // 2):
            joined = joined + (concat(parts[2 * i], parts[2 * i + 1]),)
        parts = joined
    return parts[0]


@triton.jit
def _halved(best, scores, live, SIZE: tl.constexpr, PITCH: tl.constexpr, BM: tl.constexpr, LEVELS: tl.constexpr):
    """Returns the best groups of SIZE keys, [BT, KP], from the best of twice as many: those, and their other halves."""
    columns = _columns(best)
    others = ()
    for i in tl.static_range(len(columns)):
        key = BM - 1 - (columns[i] & (BM - 1))
        keys = (key // SIZE ^ 1)[:, None] * SIZE + tl.arange(0, SIZE)[None, :]  # at once, as they lie side by side
        found = tl.load(scores[:, None] + keys, mask=(live & (key < PITCH))[:, None], other=NO_KEY)
        others = others + (tl.max(found, axis=1),)
    return add_rising(best, best_rising(_table(others, LEVELS), LEVELS), LEVELS)


@triton.jit(do_not_specialize=["n", "N"])
def _best_keys(
    packed,
    maxima,
    lists,
    n,
    N,
    GROUPS: tl.constexpr,
    BT: tl.constexpr,
    BM: tl.constexpr,
    LEVELS: tl.constexpr,
):
    KP: tl.constexpr = 1 << LEVELS
    PITCH: tl.constexpr = GROUPS * GROUP
    half = tl.program_id(1)
    tokens = tl.program_id(0) * BT + tl.arange(0, BT)
    live = tokens < n
    maxima += half.to(tl.int64) * GROUPS * n
    best = tl.full([BT, KP], NO_KEY, tl.int32)
    for start in range(0, GROUPS, KP):
        groups = start + tl.arange(0, KP)[None, :]
        at = maxima + groups * tl.cast(n, tl.int64) + tokens[:, None]
        found = tl.load(at, mask=live[:, None] & (groups < GROUPS), other=NO_KEY)
        best = add_rising(best, best_rising(found, LEVELS), LEVELS)
    scores = packed + (half * n + tokens).to(tl.int64) * PITCH
    best = _halved(best, scores, live, 4, PITCH, BM, LEVELS)
    best = _halved(best, scores, live, 2, PITCH, BM, LEVELS)
    best = _halved(best, scores, live, 1, PITCH, BM, LEVELS)
    at = lists + (half * KP + tl.arange(0, KP)).to(tl.int64)[None, :] * N + tokens[:, None]
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
    KP = max(4, up(top_k))
    BM = max(16, up(M))
    BN = min(keys_block, BM)
    groups = triton.cdiv(M, GROUP.value)
    n = min(N, max(1, STORED // (2 * H * groups * GROUP.value)))
    packed = torch.empty(2 * H * n * groups * GROUP.value, dtype=torch.int32, device=query.device)
    maxima = torch.empty(2 * H * n * groups, dtype=torch.int32, device=query.device)
    lists = torch.empty(H, 2, 1, KP, N, dtype=torch.int32, device=query.device)
    for start in range(0, N, n):
        n_tokens = min(n, N - start)
        _score[triton.cdiv(M, BN), triton.cdiv(n_tokens, block), 2 * H](
            query[start:], keys, packed, maxima, n_tokens, H, M,
            GROUPS=groups, C=C, BT=block, BN=BN, BC=min(64, max(16, up(C))), BM=BM, num_warps=warps, num_stages=stages,
        )  # fmt: skip
        _best_keys[triton.cdiv(n_tokens, 32 * sort_warps), 2 * H](
            packed, maxima, lists[..., start:], n_tokens, N,
            GROUPS=groups, BT=32 * sort_warps, BM=BM, LEVELS=KP.bit_length() - 1, num_warps=sort_warps,
        )  # fmt: skip
    return combine(lists, M, top_k)
