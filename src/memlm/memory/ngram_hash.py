"""Memory addressed by hashed n-grams: Engram (arXiv:2601.07372), simplified.

The last n token ids name a row in each of several tables; how much of it counts is for the hidden state to say. What
differs from the paper stands in docs/memories.md.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from memlm.bank.base import Bank
from memlm.memory.base import MemoryRead
from memlm.memory.ngram_embedding import NgramEmbedding, NgramEmbeddingConfig
from memlm.registry import MEMORIES


@MEMORIES.register
class NgramHashConfig(NgramEmbeddingConfig):
    """Reads the rows that the last n tokens hash to, for several n, from tables of their own, through a gate."""

    type: Literal["ngram_hash"]

    @property
    def is_normalised(self) -> bool:
        """The weights of a head sum to its gate."""
        return False

    def build(self, d_model: int) -> NgramHash:
        """Returns the module that selects rows."""
        return NgramHash(self, d_model)


class NgramHash(NgramEmbedding):
    """Selects one row of each table by the last tokens, and gates all of them by the hidden state.

    ``gate = sigmoid(<rms(u), rms(W e)> / sqrt(D))`` with the rows read side by side as ``e`` (the paper's equation for
    its gate). Each of the K weights of an n is gate / K.

    Args:
        config: The memory's configuration.
        d_model: Width of the hidden states, D.
    """

    def __init__(self, config: NgramHashConfig, d_model: int) -> None:
        super().__init__(config)
        self.key = nn.Linear(config.n_reads * config.d_value, d_model, bias=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws the gate's key matrix from N(0, 1 / (R * d_value))."""
        nn.init.normal_(self.key.weight, std=self.key.in_features**-0.5)

    def forward(self, hidden: Tensor, bank: Bank, tokens: Tensor) -> MemoryRead:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Selects rows.

        Shapes:
            hidden [B, T, D], tokens [B, T, n_tokens] -> slots and weights [B, T, n-grams, K].
        """
        slots = self.slots(tokens)
        rows = bank.gather(slots.flatten(2)).flatten(2)  # [B, T, R * d_value]
        query, key = (F.rms_norm(x.float(), x.shape[-1:]) for x in (hidden, self.key(rows)))
        gate = ((query * key).sum(-1) * hidden.shape[-1] ** -0.5).sigmoid()
        weights = (gate / self.config.n_heads)[..., None, None].expand(slots.shape)
        return MemoryRead(slots, weights, bank)
