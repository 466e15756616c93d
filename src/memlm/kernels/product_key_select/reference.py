"""Product-key selection in plain torch (Lample et al. 2019, arXiv:1907.05242, section 3.1).

A slot is a pair of half keys and its score the sum of theirs, so the best K of M*M slots lie among the best K x K pairs
of half keys. Of those only pairs with (i + 1)(j + 1) <= K can win: every pair before (i, j) in both orders beats it.
"""

from __future__ import annotations

import torch
from torch import Tensor


def product_key_select(query: Tensor, keys: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    """Returns slots [N, H, K] and their scores; meaning and shapes as of the operation."""
    scores = torch.einsum("nhpc,hpmc->nhpm", query.float(), keys.float())
    if query.dtype != torch.float32:
        scores = scores - (scores - rounded(scores)).detach()  # rounded, with the gradient of what was rounded
    return best_slots(scores, top_k)


def backward(grad: Tensor, slots: Tensor, query: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the gradients of queries and keys for ``grad`` [N, H, K], that of the scores."""
    n_keys = keys.shape[2]
    chosen = torch.stack([slots // n_keys, slots % n_keys], dim=2)  # [N, H, 2, K]
    spread = query.new_zeros(*query.shape[:3], n_keys, dtype=torch.float32)
    spread.scatter_add_(-1, chosen, grad.float()[:, :, None].expand_as(chosen))
    grad_query = torch.einsum("nhpm,hpmc->nhpc", spread, keys.float())
    grad_keys = torch.einsum("nhpm,nhpc->hpmc", spread, query.float())
    return grad_query.to(query.dtype).contiguous(), grad_keys.to(keys.dtype).contiguous()


def rounded(scores: Tensor) -> Tensor:
    """Drops the bits of float32 half scores [..., M] that the fast version uses for the key's number.

    What is left, 15 to 20 bits of the significand, is far finer than queries and keys of 16 bits are.
    """
    n_bits = max(4, (scores.shape[-1] - 1).bit_length())
    bits = (scores.detach() + 0.0).view(torch.int32)
    ordered = (bits ^ ((bits >> 31) & 0x7FFFFFFF)) >> n_bits << n_bits
    return (ordered ^ ((ordered >> 31) & 0x7FFFFFFF)).view(torch.float32)


def best_slots(scores: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
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
