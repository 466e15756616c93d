"""The weighted sum of rows of a table in plain torch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def weighted_lookup(values: Tensor, slots: Tensor, weights: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Returns the weighted sums [..., d] of rows of ``values`` [S, d]; ``slots`` and ``weights`` are [..., R].

    They come in the dtype of ``values``; of integers, and where ``dtype`` has more bits than those, in that of
    ``weights``.
    """
    reads = slots.shape[-1]
    if not values.is_floating_point() or (dtype or values.dtype).itemsize > values.dtype.itemsize:
        return _read_by_read(values, slots, weights)  # embedding_bag takes no integers, and rounds weights as values
    flat = F.embedding_bag(
        slots.reshape(-1, reads),
        values,
        per_sample_weights=weights.reshape(-1, reads).to(values.dtype),
        mode="sum",
    )
    return flat.view(*slots.shape[:-1], values.shape[-1])


def _read_by_read(values: Tensor, slots: Tensor, weights: Tensor) -> Tensor:
    """Returns the sums in the dtype of ``weights``, read by read, so that [tokens, reads, width] is never built."""
    total = weights.new_zeros(*slots.shape[:-1], values.shape[1])
    for read in range(slots.shape[-1]):
        total += weights[..., read, None] * F.embedding(slots[..., read], values)
    return total
