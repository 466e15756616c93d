"""The gradients of the selection in Triton where there are many half keys, deterministic.

The best slots of a token share half keys, so the first kernel adds up the gradients of each half key that a query chose
and spreads the sums over a row of all half keys, mostly zeros. The gradients of queries and of half keys are then two
matrix products. Such rows are stored for as many tokens at a time as `STORED` allows.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from memlm.kernels.choice import SHARED_MEMORY, shared_memory
from memlm.kernels.product_key_select.fast_gradient import merged

STORED = 1 << 26
"""Most numbers of such rows stored at a time, 128 MiB of them."""


@triton.jit(do_not_specialize=["n"])
def _spread(
    grad,
    slots,
    spread,
    n,
    H,
    M: tl.constexpr,
    PITCH: tl.constexpr,
    BR: tl.constexpr,
    BM: tl.constexpr,
    K: tl.constexpr,
    KP: tl.constexpr,
):
    """Writes a row of each of BR queries: at the half keys that it chose the sums of their gradients."""
    row = tl.program_id(0) * BR + tl.arange(0, BR)
    ranks = tl.arange(0, KP)
    live = row < n * 2 * H
    mask = live[:, None] & (ranks < K)[None, :]
    out = spread + (row % (2 * H) * n + row // (2 * H)).to(tl.int64)[:, None] * PITCH
    numbers = tl.arange(0, BM)[None, :]
    tl.store(out + numbers, tl.zeros([BR, BM], spread.dtype.element_ty), mask=live[:, None] & (numbers < PITCH))
    key, total, _ = merged(grad, slots, row, live, M, BR, K, KP)
    tl.debug_barrier()
    tl.store(out + key, total.to(spread.dtype.element_ty), mask=mask)  # where a key comes again, the same sum


@triton.jit(do_not_specialize=["n"])
def _grad_query(
    spread,
    keys,
    out,
    n,
    H,
    M: tl.constexpr,
    PITCH: tl.constexpr,
    C: tl.constexpr,
    BT: tl.constexpr,
    BM: tl.constexpr,
    BC: tl.constexpr,
):
    """Multiplies the rows of a tile of tokens with the half keys."""
    half = tl.program_id(1)  # of a head: head * 2 + half
    tokens = tl.program_id(0) * BT + tl.arange(0, BT)
    columns = tl.arange(0, BC)
    rows = spread + (half * n + tokens).to(tl.int64)[:, None] * PITCH
    total = tl.zeros([BT, BC], tl.float32)
    for start in range(0, M, BM):
        numbers = start + tl.arange(0, BM)
        there = (numbers < M) | (M % BM == 0)
        left = tl.load(rows + numbers[None, :], mask=(tokens < n)[:, None] & there[None, :], other=0.0)
        table = keys + (half * M + numbers).to(tl.int64)[:, None] * C
        right = tl.load(table + columns[None, :], mask=there[:, None] & (columns < C)[None, :], other=0.0)
        total = tl.dot(left, right, total)
    at = out + (tokens.to(tl.int64) * (2 * H) + half)[:, None] * C + columns[None, :]
    tl.store(at, total.to(out.dtype.element_ty), mask=(tokens < n)[:, None] & (columns < C)[None, :])


@triton.jit(do_not_specialize=["n"])
def _grad_keys(
    spread,
    query,
    partial,
    n,
    H,
    M: tl.constexpr,
    PITCH: tl.constexpr,
    C: tl.constexpr,
    TILES: tl.constexpr,
    BM: tl.constexpr,
    BC: tl.constexpr,
    BT: tl.constexpr,
):
    """Multiplies a block of half keys' columns with the queries of a share of the tokens.

    The shares are added afterwards in a fixed order, so every run agrees.
    """
    half, number = tl.program_id(1), tl.program_id(0)
    numbers = tl.program_id(2) * BM + tl.arange(0, BM)
    columns = tl.arange(0, BC)
    total = tl.zeros([BM, BC], tl.float32)
    for tile in range(TILES):
        tokens = (number * TILES + tile) * BT + tl.arange(0, BT)
        live = (tokens < n)[:, None]
        rows = spread + (half * n + tokens).to(tl.int64)[:, None] * PITCH
        left = tl.load(rows + numbers[None, :], mask=live & ((numbers < M) | (M % BM == 0))[None, :], other=0.0)
        queries = query + (tokens.to(tl.int64) * (2 * H) + half)[:, None] * C
        right = tl.load(queries + columns[None, :], mask=live & (columns < C)[None, :], other=0.0)
        total = tl.dot(tl.trans(left), right, total)
    at = partial + ((number * 2 * H + half).to(tl.int64) * M + numbers)[:, None] * C + columns[None, :]
    tl.store(at, total, mask=(numbers < M)[:, None] & (columns < C)[None, :])


def backward(
    grad: Tensor,
    slots: Tensor,
    query: Tensor,
    keys: Tensor,
    block: int = 128,
    keys_block: int = 128,
    depth: int = 64,
    programs: int = 132,
    warps: int = 8,
    rows: int = 128,
) -> tuple[Tensor, Tensor]:
    """Returns the gradients of queries and keys."""
    N, H, _, C = query.shape
    M, K = keys.shape[2], slots.shape[-1]
    up = triton.next_power_of_2
    BC, BM, KP = max(16, up(C)), min(keys_block, max(16, up(M))), up(K)
    pitch = triton.cdiv(M, 8) * 8  # whole loads of 16 bytes
    blocks = triton.cdiv(M, BM)
    n = min(N, max(1, STORED // (2 * H * pitch)))
    tiles = triton.cdiv(n, depth * max(1, programs // (2 * H * blocks)))
    shares = triton.cdiv(n, depth * tiles)
    sizes = {"M": M, "PITCH": pitch}
    spread = torch.empty(2 * H * n * pitch, dtype=query.dtype, device=query.device)
    partial = torch.empty(triton.cdiv(N, n), shares, H, 2, M, C, dtype=torch.float32, device=query.device)
    grad_query = torch.empty_like(query)
    BR = max(1, rows // KP)
    stages = [_stages(2 * depth * (size + BC), query.device) for size in (block, BM)]
    for part, start in enumerate(range(0, N, n)):
        n_tokens = min(n, N - start)
        _spread[(triton.cdiv(2 * H * n_tokens, BR),)](
            grad[start:], slots[start:], spread, n_tokens, H, **sizes, BR=BR, BM=up(pitch), K=K, KP=KP
        )
        _grad_query[triton.cdiv(n_tokens, block), 2 * H](
            spread, keys, grad_query[start:], n_tokens, H, **sizes,
            C=C, BT=block, BM=depth, BC=BC, num_warps=warps, num_stages=stages[0],
        )  # fmt: skip
        _grad_keys[shares, 2 * H, blocks](
            spread, query[start:], partial[part], n_tokens, H, **sizes,
            C=C, TILES=tiles, BM=BM, BC=BC, BT=depth, num_warps=warps, num_stages=stages[1],
        )  # fmt: skip
    return grad_query, partial.flatten(0, 1).sum(0).to(keys.dtype)


def _stages(tile_bytes: int, device: torch.device) -> int:
    """Returns how many pairs of tiles are fetched ahead: up to 3, as there is shared memory for them."""
    room = shared_memory(device) if device.type == "cuda" else SHARED_MEMORY
    return max(1, min(3, room // tile_bytes))
