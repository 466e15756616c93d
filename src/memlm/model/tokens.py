"""The ids of the last tokens, for memories that select by them."""

from __future__ import annotations

import torch
from torch import Tensor

from memlm.memory.base import NO_TOKEN
from memlm.model.attention import Cache


def last_tokens(ids: Tensor, n_tokens: int, mask: Tensor | None, cache: Cache | None, layer_idx: int) -> Tensor:
    """Returns each token's id and those before it, [B, T, n_tokens], the nearest first.

    They reach no further than attention: a token that the mask hides, padding or another document, is `NO_TOKEN`, as
    are those before the first.

    Args:
        ids: The new tokens, [B, T].
        n_tokens: How many to return for each.
        mask: What each token may see, [B, 1, T, S] (True or 0 = may); None: itself and every token before it.
        cache: Keeps the ids as if they were keys [B, 1, S, 1], so that it reorders and crops them too.
        layer_idx: The layer of the cache in which they are kept.
    """
    B, T = ids.shape
    past = 0 if cache is None else cache.get_seq_length()
    places = torch.arange(T, device=ids.device)[:, None] - torch.arange(n_tokens, device=ids.device) + past
    if cache is not None:
        keys = ids[:, None, :, None]
        ids = cache.update(keys, keys[..., :0], layer_idx)[0][:, 0, :, 0]  # [B, S]
    is_there = places >= 0
    places = places.clamp_min(0).expand(B, T, n_tokens)
    if mask is not None:
        seen = mask[:, 0].expand(B, -1, -1).gather(-1, places)
        is_there = is_there & (seen if seen.dtype == torch.bool else seen == 0)
    tokens = ids.gather(1, places.flatten(1)).view(B, T, n_tokens)
    return tokens.where(is_there, NO_TOKEN)
