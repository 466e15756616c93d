"""The selection's first half for many keys: of most scores it takes one comparison to know that they do not matter.

A program takes tiles of tokens of half a head and multiplies each with the half keys chunk by chunk. The best scores of
2 K groups of keys give a bound that at least K scores reach. What reaches it is written, unsorted, to a list of the
thread's own (four threads share a token), about 4 K of a token's scores. The lists are then sorted in registers.

No list can overflow: it has room for every key of its thread, though mostly only its first places are touched.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from memlm.kernels.product_key_select.fast import load_tile, stages_for
from memlm.kernels.product_key_select.fast_combine import combine
from memlm.kernels.product_key_select.fast_network import NO_KEY, add_rising, best_rising, cut, flip, order

LEAST = tl.constexpr(-0x7F800001)
"""Minus infinity as an integer in the order of the floats."""


@triton.jit
def _by_thread(x, WARPS: tl.constexpr):
    """Shares the scores of a tile, [16 * WARPS, n], out among threads: [64 * WARPS, n / 4], two rows each.

    Of each 16 tokens a warp has, the first 8 come first, so that the rows lie as those of a plain tensor of that many
    elements do, and neither scores nor what follows from them move between threads.
    """
    n: tl.constexpr = x.shape[1]
    x = tl.reshape(x, [WARPS, 2, 8, n // 8, 4, 2])
    return tl.reshape(tl.permute(x, (1, 0, 2, 4, 3, 5)), [64 * WARPS, n // 4])


@triton.jit
def _first_column(x):
    """Returns column 0, [R]."""
    for _ in tl.static_range(16):
        if x.shape[1] > 1:
            x = tl.reshape(cut(x, x.shape[1] // 2)[0], [x.shape[0], x.shape[1] // 2])
    return tl.reshape(x, [x.shape[0]])


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
def _widest(x, GROUPS: tl.constexpr):
    """Returns the largest of the columns i, i + GROUPS, ..., [R, GROUPS]."""
    for _ in tl.static_range(16):
        if x.shape[1] > GROUPS:
            low, high = cut(x, x.shape[1] // 2)
            x = tl.reshape(tl.maximum(low, high), [x.shape[0], x.shape[1] // 2])
    return x


@triton.jit
def _reached(groups, LEVELS: tl.constexpr):
    """Returns a bound that 2**LEVELS scores of each token reach, [R / 4].

    It is the K/4-th best of each thread's group maxima, of the four threads the least.
    """
    R: tl.constexpr = groups.shape[0]
    own = _first_column(best_rising(groups, LEVELS - 2))
    least = tl.min(tl.reshape(own, [R // 4, 4]), axis=1)
    return tl.reshape(tl.permute(tl.reshape(least, [2, R // 64, 8]), (1, 0, 2)), [R // 4])


@triton.jit
def _append(scratch, at, scores, excess, number, BM: tl.constexpr):
    """Writes the scores [R, n] whose excess is not negative to the threads' lists; returns where the lists now end."""
    columns = _columns(scores)
    excesses = _columns(excess)
    for i in tl.static_range(len(columns)):
        taken = excesses[i] >= 0.0
        bits = columns[i].to(tl.int32, bitcast=True) & -BM
        tl.store(scratch + at, bits | (number + (i // 2 * 8 + i % 2)), mask=taken)
        at = tl.where(taken, at + scores.shape[0], at)
    return at


@triton.jit
def _rising(scratch, rows, count, start, stride, BM: tl.constexpr, LEVELS: tl.constexpr):
    """Returns KP elements of each thread's list from ``start`` on, packed, [R, KP] in rising order."""
    places = start + tl.arange(0, 1 << LEVELS)
    live = places[None, :] < count[:, None]
    # One element a load, as the stride is unknown: loads of several would spread a list over threads.
    found = tl.load(scratch + (places * stride)[None, :] + rows[:, None], mask=live, other=0)
    packed = order(found) & -BM | (~found & (BM - 1))
    return best_rising(tl.where(live, packed, NO_KEY), LEVELS)


@triton.jit
def _falling(scratch, rows, count, stride, BM: tl.constexpr, LEVELS: tl.constexpr):
    """Returns the best of each thread's list, packed, [R, KP] in falling order."""
    best = flip(_rising(scratch, rows, count, 0, stride, BM, LEVELS))
    longest = tl.max(count, axis=0)
    start = 1 << LEVELS
    while start < longest:
        best = add_rising(best, _rising(scratch, rows, count, start, stride, BM, LEVELS), LEVELS)
        start += 1 << LEVELS
    return best


@triton.jit(do_not_specialize=["N", "stride", "tiles"])
def _best_keys(
    query,
    keys,
    scratch,
    lists,
    N,
    H,
    M,
    tiles,
    stride,
    C: tl.constexpr,
    CHUNKS: tl.constexpr,
    IS_WHOLE: tl.constexpr,
    WARPS: tl.constexpr,
    BC: tl.constexpr,
    BN: tl.constexpr,
    BM: tl.constexpr,
    LEVELS: tl.constexpr,
):
    R: tl.constexpr = 64 * WARPS
    KP: tl.constexpr = 1 << LEVELS
    rows = tl.arange(0, R)
    scratch += tl.program_id(0).to(tl.int64) * (CHUNKS * BN // 4 * R)
    tile = tl.program_id(0)
    while tile < tiles:
        half = tile % (2 * H)  # of a head: head * 2 + half
        start = tile // (2 * H) * (16 * WARPS)
        tokens = start + tl.arange(0, 16 * WARPS)
        queries = load_tile(query + half * C, tokens.to(tl.int64), tokens < N, 2 * H * C, C, BC)
        table = keys + half.to(tl.int64) * M * C
        groups = tl.full([R, KP // 2], -float("inf"), tl.float32)
        bound = tl.full([16 * WARPS], -float("inf"), tl.float32)
        at = rows
        for chunk in range(CHUNKS):
            numbers = chunk * BN + tl.arange(0, BN)
            scores = tl.dot(queries, tl.trans(load_tile(table, numbers, (numbers < M) | IS_WHOLE, C, C, BC)))
            scores += 0.0  # which turns -0.0 into 0.0, which must tie with it
            if not IS_WHOLE:
                scores = tl.where((numbers < M)[None, :], scores, -float("inf"))
            own = _by_thread(scores, WARPS)
            groups = tl.maximum(groups, _widest(own, KP // 2))
            if chunk < 2 or chunk % 2 == 0:  # later every other chunk will do
                # To be compared with scores that lose their lower bits only when they are written.
                reached = order(_reached(groups, LEVELS).to(tl.int32, bitcast=True)) & -BM
                bound = order(tl.maximum(reached, LEAST)).to(tl.float32, bitcast=True)
            # A difference of the whole tile, as the compiler would compare each column with a bound twice.
            excess = _by_thread(scores - bound[:, None], WARPS)
            at = _append(scratch, at, own, excess, chunk * BN + rows % 4 * 2, BM)
        tl.debug_barrier()
        best = _falling(scratch, rows, (at - rows) // R, stride, BM, LEVELS)
        token = start + rows % (R // 2) // 32 * 16 + rows // (R // 2) * 8 + rows % 32 // 4
        place = (half * 4 + rows % 4) * KP + tl.arange(0, KP)[:, None]
        tl.store(lists + place.to(tl.int64) * N + token[None, :], tl.trans(best), mask=(token < N)[None, :])
        tl.debug_barrier()
        tile += tl.num_programs(0)


def select(
    query: Tensor, keys: Tensor, top_k: int, programs: int = 132, keys_block: int = 128, warps: int = 8, stages: int = 2
) -> tuple[Tensor, Tensor]:
    """Returns slots and scores [N, H, K]."""
    N, H, _, C = query.shape
    M = keys.shape[2]
    up = triton.next_power_of_2
    KP = max(4, up(top_k))
    BM = max(16, up(M))
    BN = max(keys_block, 2 * KP)
    BC = max(16, up(C))
    tiles = triton.cdiv(N, 16 * warps) * 2 * H
    programs = min(programs, tiles)
    chunks = triton.cdiv(M, BN)
    scratch = torch.empty(programs, chunks * BN // 4, 64 * warps, dtype=torch.int32, device=query.device)
    lists = torch.empty(H, 2, 4, KP, N, dtype=torch.int32, device=query.device)
    _best_keys[(programs,)](
        query, keys, scratch, lists, N, H, M, tiles, 64 * warps,
        C=C, CHUNKS=chunks, IS_WHOLE=chunks * BN == M, WARPS=warps, BC=BC, BN=BN, BM=BM, LEVELS=KP.bit_length() - 1,
        num_warps=warps, num_stages=min(stages, stages_for(2 * BC * max(16 * warps, BN), query.device)),
    )  # fmt: skip
    return combine(lists, M, top_k)
