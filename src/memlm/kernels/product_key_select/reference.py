"""Product-key selection in plain torch, from queries and keys to slots, with its gradient."""

from __future__ import annotations

import torch
from torch import Tensor

from memlm.kernels.product_key_topk import product_key_topk


def select(query: Tensor, keys: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    """Returns slots [N, H, K] and their scores; shapes and meaning as in `product_key_select`."""
    scores = torch.einsum("nhpc,hpmc->nhpm", query.float(), keys.float())
    if query.dtype != torch.float32:
        scores = rounded(scores)
    return product_key_topk(scores, top_k)


def backward(grad: Tensor, slots: Tensor, query: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the gradients of queries and keys for ``grad`` [N, H, K], that of the scores."""
    n_keys = keys.shape[2]
    chosen = torch.stack([slots // n_keys, slots % n_keys], dim=2)  # [N, H, 2, K]
    spread = query.new_zeros(*query.shape[:3], n_keys, dtype=torch.float32)
    spread.scatter_add_(-1, chosen, grad.float()[:, :, None].expand_as(chosen))
    grad_query = torch.einsum("nhpm,hpmc->nhpc", spread, keys.float())
    grad_keys = torch.einsum("nhpm,nhpc->hpmc", spread, query.float())
    return grad_query.to(query.dtype), grad_keys.to(keys.dtype)


def rounded(scores: Tensor) -> Tensor:
    """Drops the bits of float32 half scores [..., M] that the fast version uses for the key's number.

    What is left, 15 to 20 bits of the significand, is far finer than queries and keys of 16 bits are.
    """
    n_bits = max(4, (scores.shape[-1] - 1).bit_length())
    bits = (scores + 0.0).view(torch.int32)
    ordered = (bits ^ ((bits >> 31) & 0x7FFFFFFF)) >> n_bits << n_bits
    return (ordered ^ ((ordered >> 31) & 0x7FFFFFFF)).view(torch.float32)
