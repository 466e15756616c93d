"""Gated-MLP fusion: the hidden state and the values read beside it go through one SwiGLU layer.

The lineage's "serial" connection: ``c = [u, m_1 .. m_HK]``, ``down(silu(gate(c)) * up(c))``.
"""

from __future__ import annotations

from typing import Literal, Self

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from memlm.fusion.base import Fusion, FusionConfig, ReadLike, joined_values
from memlm.registry import FUSIONS


@FUSIONS.register
class GatedMlpConfig(FusionConfig):
    """Concatenates the hidden state with every value read, in order of score, and applies a SwiGLU layer."""

    type: Literal["gated_mlp"]
    d_hidden: int | None = Field(default=None, ge=1)
    """Hidden width of the SwiGLU layer; d_model if not given."""

    def shrunken(self) -> Self:
        """Returns the fusion with a narrow hidden layer."""
        return type(self).model_validate(self.model_dump() | {"d_hidden": self.d_hidden and min(self.d_hidden, 24)})

    def build(self, d_model: int, n_reads: int, d_value: int) -> GatedMlp:
        """Returns the module."""
        return GatedMlp(d_model, self.d_hidden or d_model, d_model + n_reads * d_value)


class GatedMlp(Fusion):
    """SwiGLU over [hidden, values].

    Args:
        d_model: Width of the hidden state and of the update, D.
        d_hidden: Hidden width.
        d_input: Width of the concatenation, D + H * K * d_value.
    """

    def __init__(self, d_model: int, d_hidden: int, d_input: int) -> None:
        super().__init__()
        self.gate = nn.Linear(d_input, d_hidden, bias=False)
        self.up = nn.Linear(d_input, d_hidden, bias=False)
        self.down = nn.Linear(d_hidden, d_model, bias=False)

    def forward(self, hidden: Tensor, read: ReadLike) -> Tensor:
        """Returns the update [B, T, D]."""
        joined = joined_values(hidden, read)
        if torch.is_grad_enabled():  # what is joined is large, and read once here and once in the backward pass
            gate, up = F.linear(joined, torch.cat([self.gate.weight, self.up.weight])).chunk(2, dim=-1)
        else:
            gate, up = self.gate(joined), self.up(joined)
        return self.down(F.silu(gate) * up)
