"""The second half of the selection: a half's lists of best keys become one, and two halves become slots.

A thread has a token to itself and sorts in its registers. The sum and the slot of a pair travel as one integer of 64
bits, the sum's bits above and the slot's complement below, so that ties fall to the lowest slot in the same comparison.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from memlm.kernels.product_key_select.fast_network import NO_KEY, add_rising, concat, cut, flip, merge, order

NO_PAIR = tl.constexpr(-(2**63))
"""Below every pair."""


@triton.jit
def _half(lists, tokens, N, LISTS: tl.constexpr, LEVELS: tl.constexpr):
    """Returns the best keys of one half, [BT, KP] in falling order."""
    KP: tl.constexpr = 1 << LEVELS
    live = (tokens < N)[:, None]
    stride = tl.cast(N, tl.int64)
    # Elements of a token are one load each: if N were known to be even, a load would take several tokens at once.
    falls = lists + tokens[:, None] + tl.arange(0, KP)[None, :] * stride
    if LISTS == 1:
        return tl.load(falls, live, NO_KEY)
    rises = lists + tokens[:, None] + (KP - 1 - tl.arange(0, KP))[None, :] * stride
    first = tl.maximum(tl.load(falls, live, NO_KEY), tl.load(rises + KP * stride, live, NO_KEY))
    second = tl.maximum(tl.load(falls + 2 * KP * stride, live, NO_KEY), tl.load(rises + 3 * KP * stride, live, NO_KEY))
    return add_rising(merge(first, LEVELS, True), merge(second, LEVELS, False), LEVELS)


@triton.jit
def _sums(a, b, VALID: tl.constexpr, FALLING: tl.constexpr, M, BM: tl.constexpr):
    """Returns the pairs of packed half keys, one of [R, 1] and one of [R, n], of which the best ``VALID`` count."""
    total = order(a & -BM).to(tl.float32, bitcast=True) + order(b & -BM).to(tl.float32, bitcast=True)
    # Where scores are no numbers a key may be missing.
    first = tl.minimum(BM - 1 - (a & (BM - 1)), M - 1)
    second = tl.minimum(BM - 1 - (b & (BM - 1)), M - 1)
    above = order(total.to(tl.int32, bitcast=True)).to(tl.int64) << 32
    pairs = above | (0x7FFFFFFF - (first * M + second)).to(tl.int64)
    n: tl.constexpr = pairs.shape[1]
    index = tl.arange(0, n)
    rank = index if FALLING else n - 1 - index
    return tl.where((rank < VALID)[None, :], pairs, NO_PAIR)


@triton.jit
def _pick(x, INDEX: tl.constexpr):
    """Returns one column of packed keys, [R, 1]."""
    return tl.max(tl.where((tl.arange(0, x.shape[1]) == INDEX)[None, :], x, NO_KEY), axis=1)[:, None]


@triton.jit
def _range(x, START: tl.constexpr, n: tl.constexpr, FALLING: tl.constexpr):
    """Returns the columns from START, either 0 or n, to START + n, reversed if not ``FALLING``."""
    for _ in tl.static_range(16):
        if x.shape[1] > START + n:
            x = tl.reshape(cut(x, x.shape[1] // 2)[0], [x.shape[0], x.shape[1] // 2])
    if START > 0:
        x = tl.reshape(cut(x, n)[1], [x.shape[0], n])
    return x if FALLING else flip(x)


@triton.jit
def _pairs_of(lists, a, b, M, BM: tl.constexpr, K: tl.constexpr, KP: tl.constexpr, n: tl.constexpr, ROWS: tl.constexpr):
    """Appends the lists of pairs (i, j), (i + 1)(j + 1) <= K, that take n places; every other one rises.

    For 0 < i < ROWS a list has one i and all its j; above, one j and the i from n to 2 n. That of i = 0 is left out.
    """
    if n >= ROWS and n < KP:
        for j in tl.static_range(K // (n + 1)):
            block = _range(a, n, n, len(lists) % 2 == 0)
            lists = lists + (_sums(block, _pick(b, j), K // (j + 1) - n, len(lists) % 2 == 0, M, BM),)
    for i in tl.static_range(1, ROWS):
        if K // (i + 1) <= n and K // (i + 1) > n // 2:
            row = _range(b, 0, n, len(lists) % 2 == 0)
            lists = lists + (_sums(_pick(a, i), row, K // (i + 1), len(lists) % 2 == 0, M, BM),)
    return lists


@triton.jit
def _joined(lists, LEVELS: tl.constexpr, IS_LAST: tl.constexpr):
    """Merges each falling list with the rising one after it. The new ones take turns too, but the last all rise."""
    if len(lists) % 2 == 1:
        lists = lists + (tl.full(lists[0].shape, NO_PAIR, tl.int64),)
    joined = ()
    for i in tl.static_range(len(lists) // 2):
        joined = joined + (merge(concat(lists[2 * i], lists[2 * i + 1]), LEVELS, i % 2 == 0 and not IS_LAST),)
    return joined


@triton.jit(do_not_specialize=["N"])
def _combine(
    lists,
    slots,
    scores,
    N,
    H,
    M,
    BT: tl.constexpr,
    BM: tl.constexpr,
    K: tl.constexpr,
    LISTS: tl.constexpr,
    LEVELS: tl.constexpr,
):
    KP: tl.constexpr = 1 << LEVELS
    head = tl.program_id(1)
    tokens = tl.program_id(0) * BT + tl.arange(0, BT)
    lists += head.to(tl.int64) * (2 * LISTS * KP) * N
    a = _half(lists, tokens, N, LISTS, LEVELS)
    b = _half(lists + tl.cast(N, tl.int64) * (LISTS * KP), tokens, N, LISTS, LEVELS)
    pairs = ()
    for level in tl.static_range(LEVELS):
        pairs = _pairs_of(pairs, a, b, M, BM, K, KP, 1 << level, 1 << (LEVELS // 2))
        pairs = _joined(pairs, level + 1, level + 1 == LEVELS)
    best = _sums(_pick(a, 0), b, K, True, M, BM)
    for i in tl.static_range(len(pairs)):
        best = add_rising(best, pairs[i], LEVELS)
    ranks = tl.arange(0, KP)
    mask = (tokens < N)[:, None] & (ranks < K)[None, :]
    out = (tokens.to(tl.int64) * H + head)[:, None] * K + ranks[None, :]
    tl.store(slots + out, 0x7FFFFFFF - (best & 0x7FFFFFFF), mask=mask)
    tl.store(scores + out, order((best >> 32).to(tl.int32)).to(tl.float32, bitcast=True), mask=mask)


def combine(lists: Tensor, n_keys: int, top_k: int, warps: int = 2) -> tuple[Tensor, Tensor]:
    """Returns slots and scores [N, H, K] of the best half keys.

    Args:
        lists: Packed scores and keys, [H, 2, L, KP, N] int32: of each half one or four lists of distinct keys, falling.
        n_keys: M.
        top_k: K, at most KP.
        warps: Warps of a program; each thread has one token.
    """
    H, _, n_lists, KP, N = lists.shape
    slots = torch.empty(N, H, top_k, dtype=torch.int64, device=lists.device)
    scores = torch.empty(N, H, top_k, dtype=torch.float32, device=lists.device)
    _combine[triton.cdiv(N, 32 * warps), H](
        lists, slots, scores, N, H, n_keys,
        BT=32 * warps, BM=max(16, triton.next_power_of_2(n_keys)), K=top_k,
        LISTS=n_lists, LEVELS=KP.bit_length() - 1, num_warps=warps,
    )  # fmt: skip
    return slots, scores
