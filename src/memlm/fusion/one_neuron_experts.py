"""One-neuron experts of PEER (He 2024, arXiv:2407.04153, equations 6 and 7, algorithm 1).

A slot is an expert with one hidden neuron, its value the two vectors of it: ``v = [down, up]``. The update is
``sum_k w_k gelu(<u, down_k>) up_k`` over the reads of all heads: a feed-forward layer put together for each token.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from memlm.fusion.base import Fusion, FusionConfig, ReadLike
from memlm.registry import FUSIONS


@FUSIONS.register
class OneNeuronExpertsConfig(FusionConfig):
    """Takes each value for the two vectors of an expert with one hidden neuron; values are 2 * d_model wide."""

    type: Literal["one_neuron_experts"]

    def width_of_values(self, d_model: int) -> int:
        """Returns the width of two vectors."""
        return 2 * d_model

    def build(self, d_model: int, n_reads: int, d_value: int) -> OneNeuronExperts:
        """Returns the module."""
        return OneNeuronExperts()


class OneNeuronExperts(Fusion):
    """Sums one-neuron experts by weight; all parameters are the bank's.

    The bank's own start suits: ``u`` is normed, so ``<u, down>`` begins near N(0, 1/2), and the update with a norm of
    0.1 (1 head, 8 reads) to 0.24 (8 heads, 16 reads) at any width. A feed-forward layer's starts at 0.13 where d_model
    is 256 and at 0.46 where it is 512. The values of all reads are held at once, [B, T, R, 2D].
    """

    def forward(self, hidden: Tensor, read: ReadLike) -> Tensor:
        """Returns the update [B, T, D]."""
        down, up = read.bank.gather(read.slots.flatten(2)).chunk(2, dim=-1)  # [B, T, R, D]
        neurons = F.gelu(torch.einsum("btd,btrd->btr", hidden.to(down.dtype), down))
        return torch.einsum("btr,btrd->btd", neurons * read.weights.flatten(2).to(down.dtype), up)
