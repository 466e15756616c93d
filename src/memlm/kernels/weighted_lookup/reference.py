"""The weighted sum of rows of a table in plain torch."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def weighted_lookup(values: Tensor, slots: Tensor, weights: Tensor) -> Tensor:
    """Sums the chosen rows of ``values`` by weight, without building [tokens, reads, width].

    Args:
        values: The table, [S, D].
        slots: Rows to read, [..., R] int64.
        weights: Their weights, [..., R].

    Returns:
        [..., D] in the dtype of ``values``.
    """
    reads = slots.shape[-1]
    # embedding_bag needs weights of the table's dtype, and under autocast they need not have it.
    flat = F.embedding_bag(
        slots.reshape(-1, reads),
        values,
        per_sample_weights=weights.reshape(-1, reads).to(values.dtype),
        mode="sum",
    )
    return flat.view(*slots.shape[:-1], values.shape[-1])
