"""The gradient of reading rows, in Triton: reads sorted by row, and summed chunk by chunk in a fixed order.

A program takes a chunk of the sorted reads one after another, adds up their upstream gradients by weight while the row
stays the same, and writes the sum where it changes. Most rows have few reads, so that hardly more moves than each
read's upstream gradient and row and each row's sum. A row that begins in a chunk and ends in the next is added up
whole. Of one that goes on longer each chunk sets its sum aside: these are in turn a sorted list of entries to be
summed, 2 for each chunk, many times shorter than the list of reads; and so on until one chunk is left. A row that takes
half of all reads costs no more than others.

Rows that no read has are cleared at the end, so that a row is written once.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

INT16_ROWS = 1 << 16
"""Up to so many rows are sorted as 16 bits, in half of the passes over them that 32 bits take."""


@triton.jit
def _row(rows, place, live):
    """Returns the row of an entry, -1 where there is none."""
    return tl.where(live, tl.load(rows + place, mask=live, other=0).to(tl.int32), -1)


@triton.jit
def _follow(rows, begin, lane, n, opens, BN: tl.constexpr):
    """Says where an entry stands in the run of its row within a chunk that starts at ``begin``.

    Returns its row, if it begins a run there, if its run is the chunk's first (``opens`` says so of the entry before),
    if it ends the run, and if the run goes on in the chunk before or in the next: then its sum is set aside.
    """
    place = begin + lane
    row = _row(rows, place, place < n)
    previous = _row(rows, place - 1, (place < n) & (lane > 0))
    starts = (lane == 0) | (row != previous)
    opens = (lane == 0) | (opens & (row == previous))
    next_row = _row(rows, place + 1, place + 1 < n)
    last = (lane == BN - 1) | (place + 1 >= n)
    ends = (place < n) & (last | (row != next_row))
    aside = (opens & (row == _row(rows, begin - 1, begin > 0))) | (last & (row == next_row))
    return row, starts, opens, ends, aside


@triton.jit
def _write(total, row, ends, opens, aside, first, second, out, parts, chunk, columns, D):
    """Writes a row's sum where its run ends: to the row, or aside, as the chunk's first entry or its second.

    Returns which of the two are in use by then; ``first`` and ``second`` say so of before.
    """
    to = out + row.to(tl.int64) * D + columns
    tl.store(to, total.to(out.dtype.element_ty), mask=columns < tl.where(ends & (aside == 0), D, 0))
    part = parts + (2 * chunk + (opens == 0)).to(tl.int64) * D + columns
    tl.store(part, total, mask=columns < tl.where(ends & aside, D, 0))
    return first | (ends & aside & opens), second | (ends & aside & (opens == 0))


@triton.jit
def _note(rows, next_rows, next_used, first, second, chunk, n, BN: tl.constexpr):
    """Tells the next level which rows the two entries of a chunk belong to, and which of them are in use."""
    end = tl.minimum(chunk * BN + BN, n)
    tl.store(next_rows + 2 * chunk, tl.load(rows + chunk * BN).to(tl.int32))
    tl.store(next_rows + 2 * chunk + 1, tl.load(rows + end - 1).to(tl.int32))
    tl.store(next_used + 2 * chunk, first.to(tl.int8))
    tl.store(next_used + 2 * chunk + 1, second.to(tl.int8))


@triton.jit
def _line_up(slots, weights, order, lined_slots, lined_weights, n, BN: tl.constexpr):
    """Puts the slots and weights of all reads in the order of their rows, so that a chunk's lie side by side."""
    places = tl.program_id(0) * BN + tl.arange(0, BN)
    live = places < n
    read = tl.load(order + places, mask=live, other=0)
    tl.store(lined_slots + places, tl.load(slots + read, mask=live, other=0).to(tl.int32), mask=live)
    tl.store(lined_weights + places, tl.load(weights + read, mask=live, other=0.0).to(tl.float32), mask=live)


@triton.jit
def _share(rows, begin, n, BN: tl.constexpr):
    """Says which of the sorted reads a chunk adds up: all of the rows that begin in it and end there or in the next.

    A row that goes on longer is added up chunk by chunk, and each chunk's sum of it is set aside.

    Returns where they begin and end, the chunk's first row and its last, and whether these are set aside.
    """
    end = tl.minimum(begin + BN, n)
    head = _row(rows, begin, begin < n)
    tail = _row(rows, end - 1, begin < n)
    after = _row(rows, end, end < n)
    goes_on = head == _row(rows, begin - 1, begin > 0)
    head_aside = goes_on & ((head == after) | (head == _row(rows, begin - BN - 1, begin > BN)))
    tail_aside = (tail == after) & ((tail == _row(rows, end + BN, end + BN < n)) | (goes_on & (head == tail)))
    places = begin + tl.arange(0, BN)
    begun_before = tl.sum((_row(rows, places, places < end) == head).to(tl.int32), axis=0)
    places = end + tl.arange(0, BN)
    more = tl.sum((_row(rows, places, places < n) == tail).to(tl.int32), axis=0)
    begin += tl.where(goes_on & (head_aside == 0), begun_before, 0)
    end += tl.where((tail == after) & (tail_aside == 0), more, 0)
    return begin, end, head, tail, head_aside, tail_aside


@triton.jit
def _fetch(grad, values, lists, place, row, end, columns, R, layout, D: tl.constexpr):
    """Loads all that is added up of a read in ``row``, if it comes before ``end``.

    Returns whether it does, its number, its row and the next one's, its weight, and a block of columns of its upstream
    gradient and of its row of the table.
    """
    order, slots, weights, rows = lists
    grad_stride, offset, stride = layout
    live = place < end
    read = tl.load(order + place, mask=live, other=0).to(tl.int32)
    slot = tl.load(slots + place, mask=live, other=0).to(tl.int64)
    weight = tl.load(weights + place, mask=live, other=0.0)
    next_row = _row(rows, place + 1, place + 1 < end)
    source = grad + (read // R).to(tl.int64) * grad_stride + offset + read % R * stride
    mask = columns < tl.where(live, D, 0)  # the interpreter widens no booleans
    upstream = tl.load(source + columns, mask=mask, other=0.0)
    value = tl.load(values + slot * D + columns, mask=mask, other=0.0)
    return live, read, row, next_row, weight, upstream, value


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
    AHEAD: tl.constexpr,
):
    """Sums a block of columns of a chunk of reads by row, which gives that block's part of their weights' gradient too.

    Several reads are fetched before the first of them is added: what a read is added to depends on the one before it,
    but where it lies does not.
    """
    chunk = tl.program_id(0)
    columns = tl.program_id(1) * BD + tl.arange(0, BD)
    products += tl.program_id(1).to(tl.int64) * n
    first, end, head, tail, head_aside, tail_aside = _share(rows, chunk * BN, n, BN)
    lists, layout = (order, slots, weights, rows), (grad_stride, offset, stride)
    total = tl.zeros([BD], tl.float32)
    for place in range(first, end, AHEAD):
        fetched = ()
        row = _row(rows, place, place < end)
        for i in tl.static_range(AHEAD):
            fetched = fetched + (_fetch(grad, values, lists, place + i, row, end, columns, R, layout, D),)
            row = fetched[i][3]
        for i in tl.static_range(AHEAD):
            live, read, row, next_row, weight, upstream, value = fetched[i]
            upstream = upstream.to(tl.float32)
            product = tl.sum(upstream * value.to(tl.float32), axis=0)
            tl.store(products + read, product.to(products.dtype.element_ty), mask=live)
            total += weight * upstream
            if live & (row != next_row):
                if (head_aside & (row == head)) | (tail_aside & (row == tail)):
                    part = next_parts + (2 * chunk + (row != head)).to(tl.int64) * D + columns
                    tl.store(part, total, mask=columns < D)
                else:
                    tl.store(out + row.to(tl.int64) * D + columns, total.to(out.dtype.element_ty), mask=columns < D)
                tl.store(touched + row, 1)
                total = tl.zeros([BD], tl.float32)
    if tl.program_id(1) == 0:
        opens = head_aside | (tail_aside & (head == tail))
        _note(rows, next_rows, next_used, opens, tail_aside & (head != tail), chunk, n, BN)


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
    begin = chunk * BN
    columns = tl.program_id(1) * BD + tl.arange(0, BD)
    total = tl.zeros([BD], tl.float32)
    opens = begin >= 0
    filled = begin < 0
    first = begin < 0
    second = begin < 0
    for lane in range(BN):
        row, starts, opens, ends, aside = _follow(rows, begin, lane, n, opens, BN)
        place = begin + lane
        here = tl.load(used + place, mask=place < n, other=0) != 0
        part = tl.load(parts + place.to(tl.int64) * D + columns, mask=columns < tl.where(here, D, 0), other=0.0)
        total = tl.where(starts, 0.0, total) + part
        filled = here | (filled & (starts == 0))
        ends = ends & filled  # nothing is written of a row whose entries are not in use
        first, second = _write(total, row, ends, opens, aside, first, second, out, next_parts, chunk, columns, D)
    if tl.program_id(1) == 0:
        _note(rows, next_rows, next_used, first, second, chunk, n, BN)


@triton.jit
def _clear(out, touched, n_rows, D: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr):
    """Clears the rows that no read has."""
    rows = tl.program_id(0) * BN + tl.arange(0, BN)
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
    target: Tensor,
    chunk: int = 32,
    columns: int = 512,
    ahead: int = 2,
    registers: int = 80,
    warps: int = 1,
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
        target: Gives the gradient its shape and dtype.
        chunk: Reads a program, or entries of what was set aside.
        columns: At most so many columns at a time.
        ahead: Reads fetched at a time.
        registers: At most so many a thread: more programs at work hide more of the time that a fetch takes.
        warps: Of a program; one needs no other to add up a read's products.
        clear_rows: Rows a program of the last pass.
    """
    n, R, D = slots.numel(), slots.shape[1], values.shape[1]
    BD = min(columns, triton.next_power_of_2(D))
    blocks = triton.cdiv(D, BD)
    n_rows = target.shape[0]
    dtype = weights.dtype if blocks == 1 else torch.float32
    products = torch.empty(blocks, *weights.shape, dtype=dtype, device=grad.device)
    out = torch.empty(target.shape, dtype=target.dtype, device=grad.device)
    keys, order = _sorted(rows, n_rows)
    touched = torch.zeros(n_rows, dtype=torch.int8, device=grad.device)
    chunks = triton.cdiv(n, chunk)
    entries = _entries(chunks, D, grad.device)
    lined = [torch.empty(n, dtype=dtype, device=grad.device) for dtype in (torch.int32, torch.float32)]
    _line_up[triton.cdiv(n, 1024),](slots, weights, order, *lined, n, BN=1024)
    _sum_reads[chunks, blocks](
        grad, values, *lined, order, keys, out, products, touched, *entries, n, R, grad.shape[1], *layout,
        D=D, BN=chunk, BD=BD, AHEAD=ahead, num_warps=warps, maxnreg=registers,
    )  # fmt: skip
    while chunks > 1:
        n, chunks = 2 * chunks, triton.cdiv(2 * chunks, chunk)
        following = _entries(chunks, D, grad.device)
        _sum_parts[chunks, blocks](*entries, out, *following, n, D, BN=chunk, BD=BD, num_warps=warps)
        entries = following
    _clear[triton.cdiv(n_rows, clear_rows),](out, touched, n_rows, D=D, BN=clear_rows, BD=min(BD, 128), num_warps=4)
    return out, products[0] if blocks == 1 else products.sum(0).to(weights.dtype)


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
