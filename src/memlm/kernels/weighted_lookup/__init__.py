"""The weighted sum of rows of a bank."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from memlm.kernels import segments
from memlm.kernels.choice import is_fast
from memlm.kernels.segments import CompactRows
from memlm.kernels.weighted_lookup import reference


def weighted_lookup(
    values: Tensor,
    slots: Tensor,
    weights: Tensor,
    compact: CompactRows | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Sums the chosen rows of ``values`` by weight, without building [tokens, reads, width].

    Products are summed in float32 at least.

    Args:
        values: The table, [S, d]; of numbers, or of integers that weights make numbers of.
        slots: Rows to read, [..., R] int64.
        weights: Their weights, [..., R].
        compact: Where the gradient of ``values`` goes instead, if given.
        dtype: Of the sums, where autocast is off; if not given that of ``values``, for integers that of ``weights``.

    Returns:
        [..., d] in the dtype of autocast where it is on, and else in ``dtype``.
    """
    reads = slots.shape[-1]
    total = torch.ops.memlm.weighted_lookup(
        values,
        slots.reshape(-1, reads),
        weights.reshape(-1, reads),
        *segments.flat(compact, reads),
        segments.result_dtype(values if values.is_floating_point() else weights, dtype),
    )
    return total.view(*slots.shape[:-1], values.shape[1])


@torch.library.custom_op("memlm::weighted_lookup", mutates_args=())
def _lookup(
    values: Tensor,
    slots: Tensor,
    weights: Tensor,
    carrier: Tensor | None,
    positions: Tensor | None,
    dtype: torch.dtype,
) -> Tensor:
    if is_fast("weighted_lookup", values, segments.obstacle(values)):
        from memlm.kernels.weighted_lookup import fast

        with torch.cuda.device(values.device):
            return fast.weighted_lookup(values, slots.contiguous(), weights.contiguous(), dtype)
    return reference.weighted_lookup(values, slots, weights, dtype).to(dtype)


@_lookup.register_fake
def _(
    values: Tensor,
    slots: Tensor,
    weights: Tensor,
    carrier: Tensor | None,
    positions: Tensor | None,
    dtype: torch.dtype,
) -> Tensor:
    return values.new_empty(slots.shape[0], values.shape[1], dtype=dtype)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:-1])


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    learns = ctx.needs_input_grad[0] or ctx.needs_input_grad[3]
    values, weights, carrier = segments.differentiate(ctx, grad, segments.Layout(0, 0), learns)
    return values, None, weights, carrier, None, None


_lookup.register_autograd(_differentiate, setup_context=_save)


@register_flop_formula(torch.ops.memlm.weighted_lookup)
def _flops(values: Any, slots: Any, *_: Any, **__: Any) -> int:
    """Counts the product of each token's weights [1, R] with its rows [R, d]."""
    return 2 * slots[0] * slots[1] * values[1]
