"""The weighted sum of rows of a table in plain torch."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def weighted_lookup(values: Tensor, slots: Tensor, weights: Tensor) -> Tensor:
    """Returns the weighted sums [..., d] of rows of ``values`` [S, d]; ``slots`` and ``weights`` are [..., R]."""
    reads = slots.shape[-1]
    flat = F.embedding_bag(
        slots.reshape(-1, reads),
        values,
        per_sample_weights=weights.reshape(-1, reads).to(values.dtype),
        mode="sum",
    )
    return flat.view(*slots.shape[:-1], values.shape[-1])
