"""The gradient of reading rows of a table, shared by the operations that read them.

In Triton reads of one row are added up in a fixed order, so two runs agree bit by bit; in plain torch they are on a
CPU, and on a GPU under `train.deterministic`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import register_flop_formula

from memlm.kernels.choice import is_fast


class CompactRows(NamedTuple):
    """Where the gradient of a table goes when it is kept for the rows that were read, and not for all.

    Attributes:
        carrier: Takes the gradient in the table's place, [capacity, d]. What it holds is never read.
        positions: The row of the carrier for each read, [..., R] int32.
    """

    carrier: Tensor
    positions: Tensor


class Layout(NamedTuple):
    """Where the part of a read lies in a token's vector: ``d`` numbers from ``offset + read * stride``."""

    offset: int
    stride: int


def result_dtype(tensor: Tensor, dtype: torch.dtype | None = None) -> torch.dtype:
    """Returns the dtype of autocast where it is on, as a matrix product does, else ``dtype``, or that of ``tensor``."""
    device = tensor.device.type
    if not tensor.is_meta and torch.is_autocast_enabled(device):  # the meta device knows no autocast
        return torch.get_autocast_dtype(device)
    return dtype or tensor.dtype


def obstacle(*tensors: Tensor) -> str | None:
    """Returns why the fast versions cannot serve tensors of these dtypes, None if they can."""
    others = [t.dtype for t in tensors if t.dtype not in {torch.bfloat16, torch.float32, torch.int8}]
    return f"it is made for bfloat16, float32 and int8, not {others[0]}" if others else None


@torch.library.custom_op("memlm::read_gradients", mutates_args=())
def read_gradients(
    grad: Tensor,
    offset: int,
    stride: int,
    learns: bool,
    values: Tensor,
    slots: Tensor,
    weights: Tensor,
    compact: Sequence[Tensor],
) -> tuple[Tensor, Tensor]:
    """Returns the gradients of a table and of the weights of its reads.

    Args:
        grad: Upstream gradient of every token, [N, W].
        offset: Where the first read's part of it begins.
        stride: From one read's part to the next: ``d``, or 0 where a sum gave all reads the same.
        learns: Whether the gradient of the table is asked for.
        values: The table, [S, d].
        slots: Rows that were read, [N, R] int64.
        weights: Their weights, [N, R].
        compact: The fields of `CompactRows`, positions as [N, R]; empty for a gradient of the whole table.

    Returns:
        The gradient of the table, [S, d], or of the carrier, [capacity, d], and of the weights, [N, R]. If the table
        does not learn, the first is [0, d].
    """
    target = _target(values, compact, learns)
    rows = compact[1] if compact else slots
    if is_fast("read_gradients", grad, obstacle(grad, values, target)):
        from memlm.kernels import segments_fast

        reads = grad.contiguous(), (offset, stride), values.contiguous(), slots.contiguous(), weights.contiguous()
        with torch.cuda.device(grad.device):
            if learns:
                return segments_fast.read_gradients(*reads, rows.contiguous(), target)
            return target.new_empty(target.shape), segments_fast.weight_gradients(*reads)
    return reference(grad, Layout(offset, stride), values, slots, weights, rows, target)


def _target(values: Tensor, compact: Sequence[Tensor], learns: bool) -> Tensor:
    """Returns a tensor of the shape and dtype of the gradient of the table."""
    target = compact[0] if compact else values
    return target if learns else target[:0]


@read_gradients.register_fake
def _(
    grad: Tensor,
    offset: int,
    stride: int,
    learns: bool,
    values: Tensor,
    slots: Tensor,
    weights: Tensor,
    compact: Sequence[Tensor],
) -> tuple[Tensor, Tensor]:
    target = _target(values, compact, learns)
    return target.new_empty(target.shape), weights.new_empty(weights.shape)


@register_flop_formula(torch.ops.memlm.read_gradients)
def _flops(_grad: Any, _offset: int, stride: int, learns: bool, values: Any, slots: Any, *_: Any, **__: Any) -> int:
    """Counts what a weighted sum's gradients are products of; those of rows that were only scaled are elementwise."""
    return 0 if stride else (1 + learns) * 2 * slots[0] * slots[1] * values[1]


def reference(
    grad: Tensor, layout: Layout, values: Tensor, slots: Tensor, weights: Tensor, rows: Tensor, target: Tensor
) -> tuple[Tensor, Tensor]:
    """Returns what `read_gradients` does in plain torch, read by read: [tokens, reads, width] is never built.

    ``rows`` [N, R] are the rows of the gradient, which has the shape and dtype of ``target``; if that has none, only
    the weights get theirs.
    """
    dtype = torch.promote_types(values.dtype, torch.float32)  # sums are float32's at least
    width = values.shape[1]
    sums = torch.zeros(target.shape, dtype=dtype, device=target.device)
    products = torch.empty(weights.shape, dtype=dtype, device=weights.device)
    for read in range(slots.shape[1]):
        begin = layout.offset + read * layout.stride
        upstream = grad[:, begin : begin + width].to(dtype)
        products[:, read] = (F.embedding(slots[:, read], values).to(dtype) * upstream).sum(-1)
        if len(target):
            sums.index_add_(0, rows[:, read], weights[:, read : read + 1].to(dtype) * upstream)
    return sums.to(target.dtype), products.to(weights.dtype)


def flat(compact: CompactRows | None, reads: int) -> tuple[Tensor | None, Tensor | None]:
    """Returns the two tensors of ``compact`` with positions as [N, R], or twice None."""
    if compact is None:
        return None, None
    return compact.carrier, compact.positions.reshape(-1, reads)


def differentiate(ctx: Any, grad: Tensor, layout: Layout, learns: bool) -> tuple[Tensor | None, Tensor, Tensor | None]:
    """Returns the gradients of the table, the weights and the carrier.

    Args:
        ctx: Of an operation that saved table, slots, weights, carrier and positions.
        grad: Upstream gradient, [N, W].
        layout: Where the reads' parts of it lie.
        learns: Whether the gradient of table or carrier is asked for.
    """
    values, slots, weights, carrier, positions = ctx.saved_tensors
    compact = [] if carrier is None else [carrier, positions]
    sums, products = torch.ops.memlm.read_gradients(grad, *layout, learns, values, slots, weights, compact)
    if not learns:
        return None, products, None
    return (None, products, sums) if compact else (sums, products, None)
