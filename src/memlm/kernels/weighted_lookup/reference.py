"""The weighted sum of rows of a table in plain torch."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from memlm.kernels.compact import CompactRows


def weighted_lookup(values: Tensor, slots: Tensor, weights: Tensor, compact: CompactRows | None = None) -> Tensor:
    """Sums the chosen rows of ``values`` by weight, without building [tokens, reads, width].

    Args:
        values: The table, [S, D].
        slots: Rows to read, [..., R] int64.
        weights: Their weights, [..., R].
        compact: Takes the gradient of ``values``, which then get none.

    Returns:
        [..., D] in the dtype of ``values``.
    """
    if compact is None:
        return _sum(values, slots, weights)
    # The carrier's zeros add nothing but their gradient.
    return _sum(values.detach(), slots, weights) + _sum(compact.carrier, compact.positions.long(), weights)


def _sum(values: Tensor, slots: Tensor, weights: Tensor) -> Tensor:
    reads = slots.shape[-1]
    # embedding_bag needs weights of the table's dtype, and under autocast they need not have it.
    flat = F.embedding_bag(
        slots.reshape(-1, reads),
        values,
        per_sample_weights=weights.reshape(-1, reads).to(values.dtype),
        mode="sum",
    )
    return flat.view(*slots.shape[:-1], values.shape[-1])
