"""Cross-attention fusion: the hidden state asks, the values read are keys and values.

The lineage's "skip" connection. ``log w_k`` is added to the logits, so that the router's order weighs in beside the
match of content.

Keys and values of the reads are never built: ``<q_h, K_h v> = <K_h^T q_h, v>``, so each head's query is carried to the
width of the values, attends to them as they are, and the mixed value is projected (the absorption of DeepSeek-V2,
arXiv:2405.04434, section 2.1.2). That takes h products for each token where keys and values would take R.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, Self

import torch
from pydantic import Field
from torch import Tensor, nn

from memlm.fusion.base import Fusion, FusionConfig, ReadLike, scaled_values
from memlm.kernels.read_attention import read_attention
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
        heads, C = self.n_heads, D // self.n_heads
        values = scaled_values(read).flatten(0, 1)  # [N, R, d_value], N tokens
        # A weight that underflows to zero would give a logit of -inf and a gradient of NaN.
        bias = read.weights.clamp_min(torch.finfo(read.weights.dtype).tiny).log().reshape(B * T, -1)
        query = self.query(hidden).reshape(B * T, heads, C)
        query = torch.einsum("nhc,hcv->nhv", query, self.key.weight.view(heads, C, -1))
        mixed = read_attention(query, values.to(query.dtype), bias, C**-0.5)  # [N, heads, d_value]
        mixed = torch.einsum("nhv,hcv->nhc", mixed, self.value.weight.view(heads, C, -1))
        return self.output(mixed.reshape(B, T, D))
