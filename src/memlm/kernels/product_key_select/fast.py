"""Product-key selection in Triton: half scores are used where they are computed and never stored.

Forward: a program takes a tile of tokens of half a head, multiplies it with the half keys chunk by chunk, and sorts the
scores in the registers they come in: four threads share a token, and each keeps the K best of its own. A half score and
its key travel as one integer (score bits above, key below), so a comparison is one maximum and one minimum. The second
kernel (``fast_combine.py``) makes slots of the lists.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from memlm.kernels.choice import shared_memory
from memlm.kernels.product_key_select.fast_combine import combine
from memlm.kernels.product_key_select.fast_network import NO_KEY, add_rising, best_rising, order


@triton.jit
def load_tile(table, rows, live, stride, C: tl.constexpr, BC: tl.constexpr):
    """Loads rows of C elements, [R, BC], zero beyond."""
    columns = tl.arange(0, BC)
    at = table + rows[:, None] * stride + columns[None, :]
    return tl.load(at, mask=live[:, None] & (columns < C)[None, :], other=0.0)


@triton.jit
def by_thread(x):
    """Shares the scores of a tile, [BT, n], out among the four threads that hold a token's, [4 * BT, n / 4].

    Of eight columns the first two are of the first thread, and so on: so the product leaves them, and nothing moves.
    """
    BT: tl.constexpr = x.shape[0]
    n: tl.constexpr = x.shape[1]
    return tl.reshape(tl.permute(tl.reshape(x, [BT, n // 8, 4, 2]), (2, 0, 1, 3)), [4 * BT, n // 4])


@triton.jit(do_not_specialize=["N"])
def _best_keys(
    query,
    keys,
    lists,
    N,
    H,
    M,
    C: tl.constexpr,
    CHUNKS: tl.constexpr,
    IS_WHOLE: tl.constexpr,
    BT: tl.constexpr,
    BC: tl.constexpr,
    BN: tl.constexpr,
    BM: tl.constexpr,
    LEVELS: tl.constexpr,
):
    KP: tl.constexpr = 1 << LEVELS
    half = tl.program_id(1)  # of a head: head * 2 + half
    tokens = tl.program_id(0) * BT + tl.arange(0, BT)
    queries = load_tile(query + half * C, tokens.to(tl.int64), tokens < N, 2 * H * C, C, BC)
    table = keys + half.to(tl.int64) * M * C
    best = tl.full([4 * BT, KP], NO_KEY, tl.int32)
    for chunk in range(CHUNKS):
        numbers = chunk * BN + tl.arange(0, BN)
        scores = tl.dot(queries, tl.trans(load_tile(table, numbers, (numbers < M) | IS_WHOLE, C, C, BC)))
        scores += 0.0  # which turns -0.0 into 0.0, which must tie with it
        packed = order(scores.to(tl.int32, bitcast=True)) & -BM | (BM - 1 - numbers)[None, :]
        if not IS_WHOLE:
            packed = tl.where((numbers < M)[None, :], packed, NO_KEY)
        best = add_rising(best, best_rising(by_thread(packed), LEVELS), LEVELS)
    # [4, KP, BT]: of the lists of a half the tokens are contiguous.
    best = tl.permute(tl.reshape(best, [4, BT, KP]), (0, 2, 1))
    place = (half * 4 + tl.arange(0, 4)[:, None]) * KP + tl.arange(0, KP)[None, :]
    at = lists + place.to(tl.int64)[:, :, None] * N + tokens[None, None, :]
    tl.store(at, best, mask=tl.broadcast_to((tokens < N)[None, None, :], [4, KP, BT]))


def stages_for(tile_bytes: int, device: torch.device) -> int:
    """Returns for how many tiles of half keys there is shared memory beside one of queries, 1 or 2."""
    if device.type != "cuda":
        return 1
    return 2 if 3 * tile_bytes <= shared_memory(device) else 1


def select(
    query: Tensor, keys: Tensor, top_k: int, block: int = 128, keys_block: int = 128, warps: int = 8
) -> tuple[Tensor, Tensor]:
    """Returns slots and scores [N, H, K]."""
    N, H, _, C = query.shape
    M = keys.shape[2]
    up = triton.next_power_of_2
    KP = max(4, up(top_k))
    BM = max(16, up(M))
    BN = max(min(keys_block, BM), 4 * KP)
    BC = max(16, up(C))
    chunks = triton.cdiv(M, BN)
    lists = torch.empty(H, 2, 4, KP, N, dtype=torch.int32, device=query.device)
    _best_keys[triton.cdiv(N, block), H * 2](
        query, keys, lists, N, H, M,
        C=C, CHUNKS=chunks, IS_WHOLE=chunks * BN == M, BT=block, BC=BC, BN=BN, BM=BM, LEVELS=KP.bit_length() - 1,
        num_warps=warps, num_stages=stages_for(2 * BC * max(block, BN), query.device),
    )  # fmt: skip
    return combine(lists, M, top_k)
