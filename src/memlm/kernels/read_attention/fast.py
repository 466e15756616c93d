"""Attention over a token's own reads in Triton: every query, value and result crosses the memory once.

A program takes a few tokens, all their heads (rows) and all their reads (columns), as one tile of logits of which only
a token's rows against its own columns count. That wastes products, of which there are few, and leaves the rest to
matrix units: a program has as few tokens as fill their smallest tile, 16 x 16. Backward makes the weights again.

Masked weights are zeros, and zero times a value that is no finite number is none either: the tokens of one program,
which stand next to each other, share such a fault.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _rows(start, tensor, stride_token, stride_row, N, COUNT, d, P: tl.constexpr, BT: tl.constexpr, DP: tl.constexpr):
    """Returns where the rows of a tile of tokens stand, [BT * P, DP], and which of them exist."""
    rows = tl.arange(0, BT * P)
    tokens, numbers = start + rows // P, rows % P
    columns = tl.arange(0, DP)
    place = tokens.to(tl.int64) * stride_token + numbers * stride_row
    mask = ((tokens < N) & (numbers < COUNT))[:, None] & (columns < d)[None, :]
    return tensor + place[:, None] + columns[None, :], mask


@triton.jit
def _weights(start, query, values, bias, scale, N, R, HP: tl.constexpr, RP: tl.constexpr, BT: tl.constexpr):
    """Returns the weights of a tile, [BT * HP, BT * RP], zero between tokens."""
    rows, columns = tl.arange(0, BT * HP), tl.arange(0, BT * RP)
    tokens, reads = start + columns // RP, columns % RP
    added = tl.load(bias + tokens.to(tl.int64) * R + reads, mask=(tokens < N) & (reads < R), other=0.0)
    logits = tl.dot(query, tl.trans(values), input_precision="ieee") * scale + added.to(tl.float32)[None, :]
    own = (rows // HP)[:, None] == (columns // RP)[None, :]
    logits = tl.where(own & (reads < R)[None, :], logits, -float("inf"))
    weights = tl.exp(logits - tl.max(logits, axis=1)[:, None])
    return weights / tl.sum(weights, axis=1)[:, None]


@triton.jit
def _attend(
    query,
    values,
    bias,
    mixed,
    scale,
    query_token,
    query_head,
    N,
    H,
    R,
    d,
    BT: tl.constexpr,
    HP: tl.constexpr,
    RP: tl.constexpr,
    DP: tl.constexpr,
):
    start = tl.program_id(0) * BT
    asked_at, asked_live = _rows(start, query, query_token, query_head, N, H, d, HP, BT, DP)
    reads_at, reads_live = _rows(start, values, R * d, d, N, R, d, RP, BT, DP)
    asked = tl.load(asked_at, mask=asked_live, other=0.0)
    reads = tl.load(reads_at, mask=reads_live, other=0.0)
    weights = _weights(start, asked, reads, bias, scale, N, R, HP, RP, BT)
    out = tl.dot(weights.to(reads.dtype), reads, input_precision="ieee")
    out_at, out_live = _rows(start, mixed, H * d, d, N, H, d, HP, BT, DP)
    tl.store(out_at, out.to(mixed.dtype.element_ty), mask=out_live)


@triton.jit
def _attend_backward(
    grad,
    query,
    values,
    bias,
    grad_query,
    grad_values,
    grad_bias,
    scale,
    grad_token,
    grad_head,
    query_token,
    query_head,
    N,
    H,
    R,
    d,
    BT: tl.constexpr,
    HP: tl.constexpr,
    RP: tl.constexpr,
    DP: tl.constexpr,
):
    start = tl.program_id(0) * BT
    grad_at, asked_live = _rows(start, grad, grad_token, grad_head, N, H, d, HP, BT, DP)
    asked_at, _ = _rows(start, query, query_token, query_head, N, H, d, HP, BT, DP)
    reads_at, reads_live = _rows(start, values, R * d, d, N, R, d, RP, BT, DP)
    asked = tl.load(asked_at, mask=asked_live, other=0.0)
    reads = tl.load(reads_at, mask=reads_live, other=0.0)
    above = tl.load(grad_at, mask=asked_live, other=0.0)
    weights = _weights(start, asked, reads, bias, scale, N, R, HP, RP, BT)

    grad_weights = tl.dot(above, tl.trans(reads), input_precision="ieee")
    grad_weights = tl.where(weights > 0, grad_weights, 0.0)  # what stands between tokens may be anything
    grad_logits = weights * (grad_weights - tl.sum(grad_weights * weights, axis=1)[:, None])
    steps = (grad_logits * scale).to(reads.dtype)

    out_at, _ = _rows(start, grad_query, H * d, d, N, H, d, HP, BT, DP)
    out = tl.dot(steps, reads, input_precision="ieee")
    tl.store(out_at, out.to(grad_query.dtype.element_ty), mask=asked_live)
    out_at, _ = _rows(start, grad_values, R * d, d, N, R, d, RP, BT, DP)
    out = tl.dot(tl.trans(weights.to(above.dtype)), above, input_precision="ieee")
    out += tl.dot(tl.trans(steps), asked, input_precision="ieee")
    tl.store(out_at, out.to(grad_values.dtype.element_ty), mask=reads_live)
    columns = tl.arange(0, BT * RP)
    tokens, numbers = start + columns // RP, columns % RP
    total = tl.sum(grad_logits, axis=0).to(grad_bias.dtype.element_ty)
    tl.store(grad_bias + tokens.to(tl.int64) * R + numbers, total, mask=(tokens < N) & (numbers < R))


def attend(
    query: Tensor, values: Tensor, bias: Tensor, scale: float, block: int | None = None, warps: int | None = None
) -> Tensor:
    """Returns the mixed values [N, h, d]; ``block`` tokens a program."""
    N, H, d = query.shape
    R = values.shape[1]
    mixed = values.new_empty(query.shape)
    BT, sizes, n_warps = _tile(query, R, block)
    _attend[(triton.cdiv(N, BT),)](
        query, values, bias, mixed, scale, *query.stride()[:2], N, H, R, d, **sizes, num_warps=warps or n_warps
    )
    return mixed


def backward(
    grad: Tensor,
    query: Tensor,
    values: Tensor,
    bias: Tensor,
    scale: float,
    block: int | None = None,
    warps: int | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the gradients of query, values and bias; ``block`` tokens a program."""
    N, H, d = query.shape
    R = values.shape[1]
    grads = query.new_empty(query.shape), torch.empty_like(values), torch.empty_like(bias)
    BT, sizes, n_warps = _tile(query, R, block)
    _attend_backward[(triton.cdiv(N, BT),)](
        grad, query, values, bias, *grads, scale, *grad.stride()[:2], *query.stride()[:2], N, H, R, d,
        **sizes, num_warps=warps or n_warps,
    )  # fmt: skip
    return grads


def _tile(query: Tensor, reads: int, block: int | None) -> tuple[int, dict[str, int], int]:
    """Returns tokens a program, the padded sizes of a tile and its warps.

    By default as few tokens as fill 16 rows and columns, but no more than make 64 of either.
    """
    up = triton.next_power_of_2
    HP, RP, DP = up(query.shape[1]), up(reads), max(16, up(query.shape[2]))
    BT = block or max(1, min(16 // min(HP, RP), 64 // max(HP, RP)))
    HP, RP = max(HP, 16 // BT), max(RP, 16 // BT)
    # 64 numbers of a tile's largest operand a thread; in float32, whose products take no matrix unit, 16.
    warps = BT * max(HP, RP) * DP // (2048 if query.element_size() == 2 else 512)
    return BT, {"BT": BT, "HP": HP, "RP": RP, "DP": DP}, min(8, max(1, warps))
