"""The pre-norm block. It is given its memory and fusion; it does not choose them."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from memlm.bank.base import Bank
from memlm.fusion.base import Fusion
from memlm.memory.base import Memory, MemoryRead
from memlm.model.attention import Attention, Cache
from memlm.model.config import ModelConfig
from memlm.model.feed_forward import FeedForward, MixtureOfExperts
from memlm.model.norm import RMSNorm


class BlockOutput(NamedTuple):
    """What a block returns: the residual stream [B, T, D], its share of the balance loss, and what it read."""

    hidden: Tensor
    balance_loss: Tensor
    read: MemoryRead | None


class Block(nn.Module):
    """``h = x + attention(norm(x))``, then ``h + update(norm(h))``, the update of a memory, a feed-forward or both.

    Args:
        config: The model's configuration.
        layer_idx: Index of the block.
        feed_forward: The feed-forward layer; None if the memory takes its place.
        memory: Selects slots; None in a dense block.
        fusion: Joins what is read; given exactly when ``memory`` is.
    """

    def __init__(
        self,
        config: ModelConfig,
        layer_idx: int,
        feed_forward: FeedForward | MixtureOfExperts | None,
        memory: Memory | None = None,
        fusion: Fusion | None = None,
    ) -> None:
        super().__init__()
        assert (memory is None) == (fusion is None), "a memory needs a fusion"
        self.attention_norm = RMSNorm(config.d_model, config.norm_eps)
        self.attention = Attention(config, layer_idx)
        self.update_norm = RMSNorm(config.d_model, config.norm_eps)
        self.feed_forward = feed_forward
        self.memory = memory
        self.fusion = fusion

    def forward(
        self,
        hidden: Tensor,
        rope: tuple[Tensor, Tensor],
        mask: Tensor | None = None,
        cache: Cache | None = None,
        bank: Bank | None = None,
        tokens: Tensor | None = None,
    ) -> BlockOutput:
        """Returns the residual stream after the block.

        Args:
            hidden: As those that follow, in `Attention.forward`.
            rope: See there.
            mask: See there.
            cache: See there.
            bank: What the memory reads.
            tokens: As of `last_tokens`, for a memory that asks for them.
        """
        hidden = hidden + self.attention(self.attention_norm(hidden), rope, mask, cache)
        normed = self.update_norm(hidden)
        update, balance_loss, read = hidden.new_zeros(()), hidden.new_zeros(()), None
        if self.feed_forward is not None:
            update, balance_loss = self.feed_forward(normed)
        if self.memory is not None and self.fusion is not None:
            assert bank is not None, "the decoder hands the bank to the block"
            read = self.memory(normed, bank) if tokens is None else self.memory(normed, bank, tokens)
            update = update + self.fusion(normed, read)
        return BlockOutput(hidden + update, balance_loss, read)
