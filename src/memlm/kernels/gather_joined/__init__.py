"""The hidden state and the values read beside it, as the input of a matrix product."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from memlm.kernels import segments
from memlm.kernels.choice import is_fast
from memlm.kernels.gather_joined import reference
from memlm.kernels.segments import CompactRows


def gather_joined(
    hidden: Tensor, values: Tensor, slots: Tensor, scales: Tensor, compact: CompactRows | None = None
) -> Tensor:
    """Writes the hidden state, and beside it every row that was read times its scale, in one pass.

    Args:
        hidden: Hidden states, [..., D]; D may be 0.
        values: The table, [S, d].
        slots: Rows to read, [..., R] int64.
        scales: What each row is multiplied by, [..., R].
        compact: Where the gradient of ``values`` goes instead, if given.

    Returns:
        [..., D + R * d] in the dtype of ``hidden``, or that of autocast where it is on.
    """
    reads, width = slots.shape[-1], hidden.shape[-1]
    joined = torch.ops.memlm.gather_joined(
        hidden.reshape(slots.numel() // reads, width),
        values,
        slots.reshape(-1, reads),
        scales.reshape(-1, reads),
        *segments.flat(compact, reads),
        segments.result_dtype(hidden),
    )
    return joined.view(*slots.shape[:-1], width + reads * values.shape[1])


@torch.library.custom_op("memlm::gather_joined", mutates_args=())
def _gather(
    hidden: Tensor,
    values: Tensor,
    slots: Tensor,
    scales: Tensor,
    carrier: Tensor | None,
    positions: Tensor | None,
    dtype: torch.dtype,
) -> Tensor:
    if is_fast("gather_joined", values, segments.obstacle(hidden, values)):
        from memlm.kernels.gather_joined import fast

        with torch.cuda.device(values.device):
            return fast.gather_joined(hidden.contiguous(), values, slots.contiguous(), scales.contiguous(), dtype)
    return reference.gather_joined(hidden.to(dtype), values, slots, scales)


@_gather.register_fake
def _(
    hidden: Tensor,
    values: Tensor,
    slots: Tensor,
    scales: Tensor,
    carrier: Tensor | None,
    positions: Tensor | None,
    dtype: torch.dtype,
) -> Tensor:
    return hidden.new_empty(slots.shape[0], hidden.shape[1] + slots.shape[1] * values.shape[1], dtype=dtype)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    hidden, values = inputs[:2]
    ctx.dtype, ctx.layout = hidden.dtype, segments.Layout(hidden.shape[1], values.shape[1])
    ctx.save_for_backward(*inputs[1:-1])


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    learns = ctx.needs_input_grad[1] or ctx.needs_input_grad[4]
    values, scales, carrier = segments.differentiate(ctx, grad, ctx.layout, learns)
    return grad[:, : ctx.layout.offset].to(ctx.dtype), values, None, scales, carrier, None, None


_gather.register_autograd(_differentiate, setup_context=_save)
