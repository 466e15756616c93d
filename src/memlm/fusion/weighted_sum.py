"""Weighted-sum fusion of Memory+ (Berges et al. 2024, arXiv:2412.09764).

One weighted sum of values, gated by the input: ``out(silu(gate(u)) * sum_k w_k v_k)``. The sum runs over the reads of
all heads.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from memlm.fusion.base import Fusion, FusionConfig, ReadLike
from memlm.registry import FUSIONS


@FUSIONS.register
class WeightedSumConfig(FusionConfig):
    """Sums the values by weight, multiplies them by a SiLU gate of the hidden state and projects to d_model."""

    type: Literal["weighted_sum"]

    def build(self, d_model: int, n_reads: int, d_value: int) -> WeightedSum:
        """Returns the module."""
        return WeightedSum(d_model, d_value)


class WeightedSum(Fusion):
    """Gated weighted sum.

    Args:
        d_model: Width of the hidden state and of the update, D.
        d_value: Width of a value.
    """

    def __init__(self, d_model: int, d_value: int) -> None:
        super().__init__()
        self.gate = nn.Linear(d_model, d_value, bias=False)
        self.output = nn.Linear(d_value, d_model, bias=False)

    def forward(self, hidden: Tensor, read: ReadLike) -> Tensor:
        """Returns the update [B, T, D]."""
        total = read.bank.weighted_sum(read.slots.flatten(2), read.weights.flatten(2))  # [B, T, d_value]
        return self.output(F.silu(self.gate(hidden)) * total)
