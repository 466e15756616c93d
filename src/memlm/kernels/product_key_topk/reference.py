"""Product-key selection in plain torch (Lample et al. 2019, arXiv:1907.05242, section 3.1).

A slot is a pair of half keys and its score the sum of theirs, so the best K of M*M slots lie among the best K x K pairs
of half keys. Of those only pairs with (i + 1)(j + 1) <= K can win: every pair before (i, j) in both orders beats it.
"""

from __future__ import annotations

import torch
from torch import Tensor


def product_key_topk(scores: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    """Selects the ``top_k`` best slots by the sum of their half-key scores.

    Ties go to the lowest slot, so the result does not depend on device, batch or order. Gradients flow to the half-key
    scores that were selected.

    Args:
        scores: Scores of the half keys, [..., 2, M] float32.
        top_k: K, at most M.

    Returns:
        Slots [..., K] int64 (``first * M + second``) and their scores [..., K], both in descending order.
    """
    n_keys = scores.shape[-1]
    halves = _best(scores.detach(), torch.arange(n_keys, device=scores.device), top_k)  # [..., 2, K]
    half_scores = scores.gather(-1, halves)
    i, j = staircase(top_k, scores.device)
    pair_scores = half_scores[..., 0, i] + half_scores[..., 1, j]  # [..., P]
    pair_slots = halves[..., 0, i] * n_keys + halves[..., 1, j]
    chosen = _best(pair_scores.detach(), pair_slots, top_k)
    return pair_slots.gather(-1, chosen), pair_scores.gather(-1, chosen)


def _best(scores: Tensor, rank: Tensor, top_k: int) -> Tensor:
    """Returns the positions of the ``top_k`` highest scores, equal scores by ascending ``rank``; both [..., N]."""
    bits = (scores.float() + 0.0).view(torch.int32)  # adding zero turns -0.0 into 0.0, which must tie with it
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)  # integers in the order of the floats
    return ((ordered.long() << 32) - rank).topk(top_k, dim=-1).indices


def staircase(top_k: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Returns the pairs (i, j) with (i + 1)(j + 1) <= K, each [P]."""
    steps = torch.arange(1, top_k + 1, device=device)
    # Built from sizes known on the host: nonzero() would make the host wait for the device.
    counts = [top_k // i for i in range(1, top_k + 1)]
    rows = torch.cat([steps[i : i + 1].expand(n) for i, n in enumerate(counts)]) - 1
    columns = torch.cat([steps[:n] for n in counts]) - 1
    return rows, columns
