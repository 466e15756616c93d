"""Attention of a token's heads over the token's own reads, which are keys and values in one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from memlm.kernels.choice import is_fast
from memlm.kernels.read_attention import reference

LIMITS = {"heads": 64, "reads": 64, "d_value": 256, "bytes of a token's queries or values": 1 << 14}
"""Up to here the fast version keeps a token's queries and values in registers, and in any card's shared memory."""


def read_attention(query: Tensor, values: Tensor, bias: Tensor, scale: float) -> Tensor:
    """Mixes the values read for each token, by how well they match each head's query.

    ``softmax_r(scale * <query_h, value_r> + bias_r)`` weighs the reads, the same values are mixed; softmax in float32.
    (Vaswani et al. 2017, arXiv:1706.03762, equation 1, with keys that are the values.)

    Args:
        query: What each head asks, [N, h, d]; the last axis must be dense, the others need not.
        values: The values read, [N, R, d], of the same dtype.
        bias: What is added to the logits of every head, [N, R].
        scale: What the products are multiplied by.

    Returns:
        [N, h, d] in the dtype of the values.
    """
    return torch.ops.memlm.read_attention(query, values, bias, scale)


@torch.library.custom_op("memlm::read_attention", mutates_args=())
def _attend(query: Tensor, values: Tensor, bias: Tensor, scale: float) -> Tensor:
    if _is_fast(query, values):
        from memlm.kernels.read_attention import fast

        with torch.cuda.device(query.device):
            return fast.attend(_dense_rows(query), values.contiguous(), bias.contiguous(), scale)
    with torch.autocast(query.device.type, enabled=False):  # both products have the inputs' dtype
        return reference.read_attention(query, values, bias, scale)


@_attend.register_fake
def _(query: Tensor, values: Tensor, bias: Tensor, scale: float) -> Tensor:
    return query.new_empty(query.shape)


@torch.library.custom_op("memlm::read_attention_backward", mutates_args=())
def _backward(grad: Tensor, query: Tensor, values: Tensor, bias: Tensor, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    if _is_fast(query, values):
        from memlm.kernels.read_attention import fast

        with torch.cuda.device(query.device):
            return fast.backward(_dense_rows(grad), _dense_rows(query), values.contiguous(), bias.contiguous(), scale)
    with torch.autocast(query.device.type, enabled=False):
        return reference.backward(grad, query, values, bias, scale)


@_backward.register_fake
def _(grad: Tensor, query: Tensor, values: Tensor, bias: Tensor, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    return query.new_empty(query.shape), values.new_empty(values.shape), bias.new_empty(bias.shape)


def _save(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, float], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:3])
    ctx.scale = inputs[3]


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
    return *torch.ops.memlm.read_attention_backward(grad, *ctx.saved_tensors, ctx.scale), None


_attend.register_autograd(_differentiate, setup_context=_save)


@register_flop_formula(torch.ops.memlm.read_attention)
def _flops(query: Any, values: Any, *_: Any, **__: Any) -> int:
    n, heads, width = query
    return 2 * 2 * n * heads * values[1] * width


@register_flop_formula(torch.ops.memlm.read_attention_backward)
def _backward_flops(_grad: Any, query: Any, values: Any, *_: Any, **__: Any) -> int:
    return 2 * _flops(query, values)


def _is_fast(query: Tensor, values: Tensor) -> bool:
    heads, reads, width = query.shape[1], *values.shape[1:]
    padded = _power_of_two(max(heads, reads)) * _power_of_two(width) * values.element_size()
    sizes = dict(zip(LIMITS, (heads, reads, width, padded), strict=True))
    obstacle = next((f"{name} {size} > {LIMITS[name]}" for name, size in sizes.items() if size > LIMITS[name]), None)
    if query.dtype not in (torch.bfloat16, torch.float32):
        obstacle = f"it is made for bfloat16 and float32, not {query.dtype}"
    return is_fast("read_attention", query, obstacle)


def _power_of_two(size: int) -> int:
    """Returns the next one, which a tile's side must be."""
    return 1 << (size - 1).bit_length()


def _dense_rows(tensor: Tensor) -> Tensor:
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()
