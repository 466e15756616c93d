"""Selection of the best slots of a product-key memory, from queries and keys."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from memlm.kernels.choice import is_fast, shared_memory
from memlm.kernels.product_key_select import reference

LIMITS = {"n_keys": 4096, "top_k": 64, "width of a half key": 256}
"""What the fast versions serve; a card with little shared memory takes narrower half keys."""
IN_REGISTERS = {"n_keys": 512, "top_k": 16}
"""Up to here all scores are sorted; beyond, only those of the best groups of keys."""


def product_key_select(query: Tensor, keys: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    """Selects the ``top_k`` slots whose half keys have the largest summed products with the query's halves.

    Ties go to the lowest slot. Products are summed in float32. With queries and keys of 16 bits, half scores are cut
    to 23 - log2(M) bits of their significand first, which makes them fit for the fast version and ties a little less
    rare. (Lample et al. 2019, arXiv:1907.05242, section 3.1.)

    Args:
        query: Queries in halves, [N, H, 2, C].
        keys: Half keys, [H, 2, M, C], of the same dtype.
        top_k: K, at most M.

    Returns:
        Slots [N, H, K] int64 (``first * M + second``) and their scores [N, H, K] float32, both in descending order.
    """
    return torch.ops.memlm.product_key_select(query, keys, top_k)


@torch.library.custom_op("memlm::product_key_select", mutates_args=())
def _select(query: Tensor, keys: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    if _is_fast(query, keys, top_k):
        from memlm.kernels.product_key_select import fast, fast_large

        with torch.cuda.device(query.device):
            return (fast if _is_small(keys, top_k) else fast_large).select(query.contiguous(), keys.contiguous(), top_k)
    with torch.autocast(query.device.type, enabled=False):  # the sums are float32's
        return reference.product_key_select(query, keys, top_k)


@_select.register_fake
def _(query: Tensor, keys: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    shape = (*query.shape[:2], top_k)
    return query.new_empty(shape, dtype=torch.int64), query.new_empty(shape, dtype=torch.float32)


@torch.library.custom_op("memlm::product_key_select_backward", mutates_args=())
def _backward(grad: Tensor, slots: Tensor, query: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
    if _is_fast(query, keys, slots.shape[-1]):
        from memlm.kernels.product_key_select import fast_gradient, fast_gradient_large

        version = fast_gradient if _is_small(keys, slots.shape[-1]) else fast_gradient_large
        with torch.cuda.device(query.device):
            return version.backward(grad.contiguous(), slots, query.contiguous(), keys.contiguous())
    with torch.autocast(query.device.type, enabled=False):
        return reference.backward(grad, slots, query, keys)


@_backward.register_fake
def _(grad: Tensor, slots: Tensor, query: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
    return query.new_empty(query.shape), keys.new_empty(keys.shape)


def _save(ctx: Any, inputs: tuple[Tensor, Tensor, int], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(output[0], *inputs[:2])


def _differentiate(ctx: Any, _slots: None, grad: Tensor) -> tuple[Tensor, Tensor, None]:
    return *torch.ops.memlm.product_key_select_backward(grad, *ctx.saved_tensors), None


_select.register_autograd(_differentiate, setup_context=_save)


@register_flop_formula(torch.ops.memlm.product_key_select)
def _flops(query: Any, keys: Any, top_k: int, *_: Any, **__: Any) -> int:
    n, heads, halves, width = query
    return 2 * n * heads * halves * width * keys[2]


@register_flop_formula(torch.ops.memlm.product_key_select_backward)
def _backward_flops(_grad: Any, _slots: Any, query: Any, keys: Any, *_: Any, **__: Any) -> int:
    return 2 * _flops(query, keys, 0)


def _is_small(keys: Tensor, top_k: int) -> bool:
    return keys.shape[2] <= IN_REGISTERS["n_keys"] and top_k <= IN_REGISTERS["top_k"]


def _is_fast(query: Tensor, keys: Tensor, top_k: int) -> bool:
    sizes = {"n_keys": keys.shape[2], "top_k": top_k, "width of a half key": keys.shape[3]}
    limits = dict(LIMITS)
    if query.is_cuda:
        # A tile of 128 queries and one of 128 half keys, of a width that is a power of two.
        limits["width of a half key"] = min(256, 1 << (shared_memory(query.device) >> 9).bit_length() - 1)
    obstacle = next((f"{name} {size} > {limits[name]}" for name, size in sizes.items() if size > limits[name]), None)
    if query.dtype != torch.bfloat16:
        obstacle = f"it is made for bfloat16, not {query.dtype}"
    return is_fast("product_key_select", query, obstacle)
