"""Causal self-attention with grouped key and value heads (Ainslie et al. 2023, arXiv:2305.13245)."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor, nn
from torch.nn import functional as F

from memlm.model.config import ModelConfig
from memlm.model.rope import rotate


class Cache(Protocol):
    """What attention asks of a cache of keys and values; transformers' caches have it."""

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int) -> tuple[Tensor, Tensor]:
        """Stores the new keys and values and returns all that the layer has, [B, heads, S, C]."""
        ...

    def get_seq_length(self) -> int | Tensor:
        """Returns how many tokens are stored; a static cache changes the tensor that it returns."""
        ...


class Attention(nn.Module):
    """Multi-head attention over the tokens so far.

    Args:
        config: The model's configuration.
        layer_idx: The layer's index in a cache.
    """

    def __init__(self, config: ModelConfig, layer_idx: int) -> None:
        super().__init__()
        self.layer_idx = layer_idx
        self.n_heads = config.n_heads
        self.n_kv_heads = config.n_kv_heads or config.n_heads
        self.d_head = config.d_model // config.n_heads
        self.query = nn.Linear(config.d_model, self.n_heads * self.d_head, bias=False)
        self.key = nn.Linear(config.d_model, self.n_kv_heads * self.d_head, bias=False)
        self.value = nn.Linear(config.d_model, self.n_kv_heads * self.d_head, bias=False)
        self.output = nn.Linear(self.n_heads * self.d_head, config.d_model, bias=False)

    def forward(
        self, hidden: Tensor, rope: tuple[Tensor, Tensor], mask: Tensor | None = None, cache: Cache | None = None
    ) -> Tensor:
        """Attends.

        Args:
            hidden: [B, T, D].
            rope: Cosine and sine of the tokens' angles, as `rotations` returns them.
            mask: What each token may see, [B, 1, T, S] (True or 0 = may); None: itself and every token before it.
            cache: Keys and values of earlier tokens; the new ones are added.

        Returns:
            [B, T, D].
        """
        B, T, _ = hidden.shape
        query = rotate(self._heads(self.query(hidden)), *rope)  # [B, H, T, C]
        key = rotate(self._heads(self.key(hidden)), *rope)
        value = self._heads(self.value(hidden))
        if cache is not None:
            key, value = cache.update(key, value, self.layer_idx)
        mixed = F.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=mask,
            is_causal=mask is None and T > 1,
            enable_gqa=self.n_kv_heads != self.n_heads,
        )
        return self.output(mixed.transpose(1, 2).reshape(B, T, -1))

    def _heads(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], -1, self.d_head).transpose(1, 2)
