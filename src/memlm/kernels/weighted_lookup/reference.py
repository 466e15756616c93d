"""The weighted sum of rows of a table in plain torch."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def weighted_lookup(values: Tensor, slots: Tensor, weights: Tensor) -> Tensor:
    """Returns the weighted sums [..., d] of rows of ``values`` [S, d]; ``slots`` and ``weights`` are [..., R]."""
    reads = slots.shape[-1]
    if not values.is_floating_point():  # embedding_bag takes no integers
        return _of_integers(values, slots, weights)
    flat = F.embedding_bag(
        slots.reshape(-1, reads),
        values,
        per_sample_weights=weights.reshape(-1, reads).to(values.dtype),
        mode="sum",
    )
    return flat.view(*slots.shape[:-1], values.shape[-1])


def _of_integers(values: Tensor, slots: Tensor, weights: Tensor) -> Tensor:
    """Returns the same read by read, so that [tokens, reads, width] is never built."""
    total = weights.new_zeros(*slots.shape[:-1], values.shape[1])
    for read in range(slots.shape[-1]):
        total += weights[..., read, None] * F.embedding(slots[..., read], values)
    return total
