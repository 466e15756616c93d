"""The gradient of reading rows, in Triton: reads sorted by row, and summed chunk by chunk in a fixed order.

A program takes a chunk of the sorted reads, loads each one's upstream gradient, and sums those of the same row by a
product with the matrix of "same row" times weight. A row whose reads all lie in the chunk is written at once. Of the
others a chunk has two at most, the one that goes on from the chunk before and the one that goes on in the next: their
sums are set aside, and are in turn a sorted list of entries to be summed, 2 for each chunk, many times shorter than the
list of reads; and so on until one chunk is left. A row that takes half of all reads costs no more than others.

Rows that no read has are cleared at the end, so that a row is written once: of the whole table, or below the count.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

INT16_ROWS = 1 << 16
"""Up to so many rows are sorted as 16 bits, in half of the passes over them that 32 bits take."""


@triton.jit
def _outline(row, before, after, used, lanes):
    """Returns for each entry of a chunk if it writes its row's sum at once, and if it sets it aside.

    It is the first entry of its row in the chunk that does, if any entry of that row is in use.
    """
    leads = used & ((lanes == 0) | (row != before))
    whole = (row != before) & (row != after)
    return leads & whole, leads & (row == before) | leads & (row == after)


@triton.jit
def _added(same, parts):
    """Returns the sums over the entries of each row, ``same`` [BN, BN] times ``parts`` [BN, BD] float32.

    Three parts of 8 bits each are all of a float32, and a product with zeros and ones loses none of them.
    """
    ones = tl.where(same, 1.0, 0.0).to(tl.bfloat16)
    high = parts.to(tl.bfloat16)
    rest = parts - high.to(tl.float32)
    middle = rest.to(tl.bfloat16)
    low = (rest - middle.to(tl.float32)).to(tl.bfloat16)
    return tl.dot(ones, low, tl.dot(ones, middle, tl.dot(ones, high)))


@triton.jit
def _weighted(same, weight, upstream):
    """Returns the sums of the upstream gradients of each row by weight; of bfloat16, by 16 bits of the weight."""
    if upstream.dtype == tl.float32:
        return _added(same, upstream * weight[:, None])
    mix = tl.where(same, weight[None, :], 0.0)
    high = mix.to(upstream.dtype)
    low = (mix - high.to(tl.float32)).to(upstream.dtype)
    return tl.dot(low, upstream, tl.dot(high, upstream))


@triton.jit
def _note(row, aside, lanes, last, rows, used, chunk):
    """Tells the next level which rows the two entries of a chunk belong to, and which of them are in use."""
    tl.store(rows + 2 * chunk, tl.sum(tl.where(lanes == 0, row, 0), axis=0))
    tl.store(rows + 2 * chunk + 1, tl.sum(tl.where(lanes == last, row, 0), axis=0))
    tl.store(used + 2 * chunk, tl.max((aside & (lanes == 0)).to(tl.int8), axis=0))
    tl.store(used + 2 * chunk + 1, tl.max((aside & (lanes != 0)).to(tl.int8), axis=0))


@triton.jit
def _sum_reads(
    grad,
    values,
    slots,
    weights,
    order,
    rows,
    out,
    products,
    touched,
    next_parts,
    next_rows,
    next_used,
    n,
    R,
    grad_stride,
    offset,
    stride,
    D: tl.constexpr,
    BN: tl.constexpr,
    BD: tl.constexpr,
):
    """Sums a chunk of reads by row, all columns of them, which gives the gradient of their weights as well."""
    chunk = tl.program_id(0)
    lanes = tl.arange(0, BN)
    places = chunk * BN + lanes
    live = places < n
    row = tl.where(live, tl.load(rows + places, mask=live, other=0).to(tl.int32), -1)
    before = tl.load(rows + places - 1, mask=live & (places > 0), other=0).to(tl.int32)
    before = tl.where(places > 0, before, -1)
    end = chunk * BN + BN
    after = tl.where(end < n, tl.load(rows + end, mask=end < n, other=0).to(tl.int32), -1)
    direct, aside = _outline(row, before, after, live, lanes)
    _note(row, aside, lanes, tl.minimum(BN, n - chunk * BN) - 1, next_rows, next_used, chunk)
    tl.store(touched + row, 1, mask=direct | aside)

    read = tl.load(order + places, mask=live, other=0).to(tl.int32)
    slot = tl.load(slots + read, mask=live, other=0)
    weight = tl.load(weights + read, mask=live, other=0.0).to(tl.float32)
    same = row[:, None] == row[None, :]
    source = grad + (read // R).to(tl.int64) * grad_stride + offset + read % R * stride
    to = out + row.to(tl.int64) * D
    part = next_parts + (2 * chunk + (lanes != 0)).to(tl.int64) * D
    product = tl.zeros([BN], tl.float32)
    for first in range(0, D, BD):
        columns = first + tl.arange(0, BD)
        inside = (columns < D)[None, :]
        upstream = tl.load(source[:, None] + columns[None, :], mask=live[:, None] & inside, other=0.0)
        value = tl.load(values + slot[:, None] * D + columns[None, :], mask=live[:, None] & inside, other=0.0)
        product += tl.sum(upstream.to(tl.float32) * value.to(tl.float32), axis=1)
        total = _weighted(same, weight, upstream)
        tl.store(to[:, None] + columns[None, :], total.to(out.dtype.element_ty), mask=direct[:, None] & inside)
        tl.store(part[:, None] + columns[None, :], total, mask=aside[:, None] & inside)
    tl.store(products + read, product.to(products.dtype.element_ty), mask=live)


@triton.jit
def _weigh_reads(
    grad,
    values,
    slots,
    products,
    grad_stride,
    offset,
    stride,
    D: tl.constexpr,
    R: tl.constexpr,
    BR: tl.constexpr,
    BD: tl.constexpr,
):
    """Gives the gradient of a token's weights alone."""
    token = tl.program_id(0).to(tl.int64)
    for first in range(0, R, BR):
        reads = first + tl.arange(0, BR)
        slot = tl.load(slots + token * R + reads, mask=reads < R, other=0)
        source = grad + token * grad_stride + offset + reads * stride
        product = tl.zeros([BR], tl.float32)
        for begin in range(0, D, BD):
            columns = begin + tl.arange(0, BD)
            mask = (reads < R)[:, None] & (columns < D)[None, :]
            upstream = tl.load(source[:, None] + columns[None, :], mask=mask, other=0.0)
            value = tl.load(values + slot[:, None] * D + columns[None, :], mask=mask, other=0.0)
            product += tl.sum(upstream.to(tl.float32) * value.to(tl.float32), axis=1)
        tl.store(products + token * R + reads, product.to(products.dtype.element_ty), mask=reads < R)


@triton.jit
def _sum_parts(
    parts,
    rows,
    used,
    out,
    next_parts,
    next_rows,
    next_used,
    n,
    D,
    BN: tl.constexpr,
    BD: tl.constexpr,
):
    """Sums a chunk of what was set aside by row, one block of columns of it."""
    chunk = tl.program_id(0)
    lanes = tl.arange(0, BN)
    places = chunk * BN + lanes
    live = places < n
    row = tl.load(rows + places, mask=live, other=-1)
    before = tl.load(rows + places - 1, mask=live & (places > 0), other=-1)
    end = chunk * BN + BN
    after = tl.load(rows + end, mask=end < n, other=-1)
    filled = tl.load(used + places, mask=live, other=0) != 0
    same = (row[:, None] == row[None, :]) & filled[None, :]
    direct, aside = _outline(row, before, after, tl.max(same.to(tl.int32), axis=1) > 0, lanes)
    if tl.program_id(1) == 0:
        _note(row, aside, lanes, tl.minimum(BN, n - chunk * BN) - 1, next_rows, next_used, chunk)

    columns = tl.program_id(1) * BD + tl.arange(0, BD)
    inside = (columns < D)[None, :]
    part = tl.load(
        parts + places.to(tl.int64)[:, None] * D + columns[None, :], mask=filled[:, None] & inside, other=0.0
    )
    total = _added(same, part)
    to = out + row.to(tl.int64) * D
    following = next_parts + (2 * chunk + (lanes != 0)).to(tl.int64) * D
    tl.store(to[:, None] + columns[None, :], total.to(out.dtype.element_ty), mask=direct[:, None] & inside)
    tl.store(following[:, None] + columns[None, :], total, mask=aside[:, None] & inside)


@triton.jit
def _clear(out, touched, count, n_rows, D: tl.constexpr, COUNTED: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr):
    """Clears the rows that no read has."""
    rows = tl.program_id(0) * BN + tl.arange(0, BN)
    if COUNTED:
        n_rows = tl.minimum(tl.load(count), n_rows)
    idle = (rows < n_rows) & (tl.load(touched + rows, mask=rows < n_rows, other=1) == 0)
    if tl.max(idle.to(tl.int32), axis=0) > 0:
        for first in range(0, D, BD):
            columns = first + tl.arange(0, BD)
            zeros = tl.zeros([BN, BD], out.dtype.element_ty)
            to = out + rows.to(tl.int64)[:, None] * D + columns[None, :]
            tl.store(to, zeros, mask=idle[:, None] & (columns < D)[None, :])


def read_gradients(
    grad: Tensor,
    layout: tuple[int, int],
    values: Tensor,
    slots: Tensor,
    weights: Tensor,
    rows: Tensor,
    count: Tensor | None,
    target: Tensor,
    chunk: int = 32,
    columns: int = 128,
    warps: int | None = None,
    stages: int = 2,
    clear_rows: int = 64,
) -> tuple[Tensor, Tensor]:
    """Returns the gradients of a table and of ``weights``; see `memlm.kernels.segments.read_gradients`.

    Args:
        grad: Upstream gradient, [N, W].
        layout: Where the first read's part of it begins, and how far it is from one to the next.
        values: The table, [S, d].
        slots: Rows that were read, [N, R].
        weights: Their weights, [N, R].
        rows: Rows of the gradient, [N, R].
        count: Clear the rows below it that no read has, [1] int32; all such rows, if None.
        target: Gives the gradient its shape and dtype.
        chunk: Reads a program, or entries of what was set aside; 16 at least.
        columns: At most so many columns at a time; 16 at least.
        warps: Of a program; as many as give each thread 16 numbers of a tile, if not given.
        stages: Blocks of columns in flight.
        clear_rows: Rows a program of the last pass.
    """
    n, R, D = slots.numel(), slots.shape[1], values.shape[1]
    BD = min(columns, max(16, triton.next_power_of_2(D)))
    warps = warps or max(1, chunk * BD // 512)
    n_rows = target.shape[0]
    products = torch.empty_like(weights)
    out = torch.empty(target.shape, dtype=target.dtype, device=grad.device)
    keys, order = _sorted(rows, n_rows)
    touched = torch.zeros(n_rows, dtype=torch.int8, device=grad.device)
    chunks = triton.cdiv(n, chunk)
    entries = _entries(chunks, D, grad.device)
    _sum_reads[chunks,](
        grad, values, slots, weights, order, keys, out, products, touched, *entries, n, R, grad.shape[1], *layout,
        D=D, BN=chunk, BD=BD, num_warps=warps, num_stages=stages,
    )  # fmt: skip
    while chunks > 1:
        n, chunks = 2 * chunks, triton.cdiv(2 * chunks, chunk)
        following = _entries(chunks, D, grad.device)
        _sum_parts[chunks, triton.cdiv(D, BD)](*entries, out, *following, n, D, BN=chunk, BD=BD, num_warps=warps)
        entries = following
    _clear[triton.cdiv(n_rows, clear_rows),](
        out, touched, count, n_rows, D=D, COUNTED=count is not None, BN=clear_rows, BD=BD, num_warps=warps
    )
    return out, products


def weight_gradients(
    grad: Tensor,
    layout: tuple[int, int],
    values: Tensor,
    slots: Tensor,
    weights: Tensor,
    reads: int = 32,
    columns: int = 128,
    warps: int = 4,
) -> Tensor:
    """Returns the gradient of ``weights`` alone; arguments as of `read_gradients`, tiles as of a forward."""
    (N, R), D = slots.shape, values.shape[1]
    up = triton.next_power_of_2
    products = torch.empty_like(weights)
    _weigh_reads[N,](
        grad, values, slots, products, grad.shape[1], *layout,
        D=D, R=R, BR=min(reads, up(R)), BD=min(columns, up(D)), num_warps=warps,
    )  # fmt: skip
    return products


def _sorted(rows: Tensor, n_rows: int) -> tuple[Tensor, Tensor]:
    """Returns the rows of all reads, equal ones side by side, and which read each is."""
    if n_rows > INT16_ROWS:
        return torch.sort(rows.flatten().int(), stable=True)
    keys, order = torch.sort(rows.flatten().to(torch.int16), stable=True)
    return keys.view(torch.uint16), order  # the upper half was negative, and stands first, which is no matter


def _entries(chunks: int, width: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Returns room for the sums that chunks set aside, their rows, and whether they are in use."""
    return (
        torch.empty(2 * chunks, width, dtype=torch.float32, device=device),
        torch.empty(2 * chunks, dtype=torch.int32, device=device),
        torch.empty(2 * chunks, dtype=torch.int8, device=device),
    )
