"""Cross-attention fusion: the hidden state asks, the values read are keys and values.

The lineage's "skip" connection. ``log w_k`` is added to the logits, so that the router's order weighs in beside the
match of content.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, Self

import torch
from pydantic import Field
from torch import Tensor, nn

from memlm.fusion.base import Fusion, FusionConfig, ReadLike, scaled_values
from memlm.registry import FUSIONS


@FUSIONS.register
class CrossAttentionConfig(FusionConfig):
    """Multi-head attention of each token over its own reads."""

    type: Literal["cross_attention"]
    n_heads: int = Field(default=8, ge=1)
    """Attention heads; d_model must be a multiple."""

    def problems_in(self, d_model: int) -> Iterator[tuple[str, str]]:
        """Yields what does not fit a model of width ``d_model``."""
        if d_model % self.n_heads:
            yield "n_heads", f"must divide d_model, which is {d_model}"

    def shrunken(self) -> Self:
        """Returns the fusion with few heads."""
        return type(self).model_validate(self.model_dump() | {"n_heads": min(self.n_heads, 4)})

    def build(self, d_model: int, n_reads: int, d_value: int) -> CrossAttention:
        """Returns the module."""
        return CrossAttention(d_model, self.n_heads, d_value)


class CrossAttention(Fusion):
    """Attends from each token to the values read for it.

    Args:
        d_model: Width of the hidden state and of the update, D.
        n_heads: Attention heads.
        d_value: Width of a value.
    """

    def __init__(self, d_model: int, n_heads: int, d_value: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.query = nn.Linear(d_model, d_model, bias=False)
        self.key = nn.Linear(d_value, d_model, bias=False)
        self.value = nn.Linear(d_value, d_model, bias=False)
        self.output = nn.Linear(d_model, d_model, bias=False)

    def forward(self, hidden: Tensor, read: ReadLike) -> Tensor:
        """Returns the update [B, T, D]."""
        B, T, D = hidden.shape
        values = scaled_values(read)  # [B, T, R, d_value]
        R, heads = values.shape[2], self.n_heads
        query = self.query(hidden).view(B, T, 1, heads, -1)
        key = self.key(values).view(B, T, R, heads, -1)
        value = self.value(values).view(B, T, R, heads, -1)
        # A weight that underflows to zero would give a logit of -inf and a gradient of NaN.
        bias = read.weights.clamp_min(torch.finfo(read.weights.dtype).tiny).log().reshape(B, T, R, 1)
        # R is small: products and sums beat B * T matrix products of one row each, and compile into one kernel.
        logits = (query * key).sum(-1) * (D // heads) ** -0.5 + bias  # [B, T, R, heads]
        mixed = (logits.softmax(dim=2).to(value.dtype)[..., None] * value).sum(2)  # [B, T, heads, C]
        return self.output(mixed.reshape(B, T, D))
